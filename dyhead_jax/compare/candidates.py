"""What is compared: configs as a person types them, each with options of its own, and their names in the table."""

import copy
import dataclasses
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from dyhead_jax import command
from dyhead_jax.command import UsageError
from dyhead_jax.config import Config, ConfigError, ShapesConfig, flags

SEPARATOR = "/"  # between groups
LONGEST_NAME = 100  # characters: it becomes the name of a folder


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A row of the table.

    name: what it is called; file: as `--config` takes it; overrides: arguments `--config.NAME=VALUE` in the order in
    which they count; config: with these, of the first seed; folder: the name of the folder of its runs; baseline: the
    name of the first candidate of its group, which may be itself.
    """

    name: str
    file: str
    overrides: tuple[str, ...]
    config: Config
    folder: str
    baseline: str

    def arguments(self, seed: int) -> list[str]:
        """For `python -m dyhead_jax.train`."""
        return [f"--config={self.file}", *self.overrides, f"--config.seed={seed}"]

    def seeded(self, seed: int) -> Config:
        config = copy.deepcopy(self.config)
        config.seed = seed
        return config


def read(texts: Sequence[str], common: Sequence[str], workdir: Path, evaluations: int) -> list[Candidate]:
    """The candidates of a command line, checked.

    texts: each a config as `--config` takes it, with options of its own behind it (`A.py --config.run.steps=9`), and a
    name before it (`mine=A.py`) if it is not to be called by its file and options; or `SEPARATOR`, behind which another
    group begins. common: options of all, which come before their own. workdir: of the comparison; drawn pictures and
    compiled programs are shared in it. evaluations: in a run, evenly spaced, unless an option says it.
    Raises UsageError and ConfigError, which name the candidate.
    """
    candidates: list[Candidate] = []
    for group in _groups(texts):
        found = [_read(text, common, workdir, evaluations) for text in group]
        candidates += [dataclasses.replace(one, baseline=found[0].name) for one in found]
    texts = [text for text in texts if text != SEPARATOR]
    for what in ("name", "folder"):
        seen: dict[str, str] = {}
        for text, candidate in zip(texts, candidates, strict=True):
            value = getattr(candidate, what)
            if value in seen:
                raise UsageError(f"{seen[value]!r} and {text!r} have the same {what}, {value}; give one by NAME=CONFIG")
            seen[value] = text
    return candidates


def _groups(texts: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    for text in texts:
        if text == SEPARATOR:
            groups.append([])
        else:
            groups[-1].append(text)
    if [] in groups:
        raise UsageError(f"{' '.join(texts)}: {SEPARATOR} stands between two groups of configs")
    return groups


def _read(text: str, common: Sequence[str], workdir: Path, evaluations: int) -> Candidate:
    head, _, rest = text.strip().partition(" --")
    name = re.match(r"(\w[\w.+-]*)=(?=.)", head)
    file = head[name.end() if name else 0 :].strip()
    try:
        plain, own = command.split_overrides(shlex.split(f"--{rest}" if rest else ""))
    except ValueError as error:
        raise UsageError(f"{text!r}: {error}") from error
    if plain or not file or file.startswith("-"):
        wrong = plain[0] if plain else text
        raise UsageError(f"{text!r}: {wrong!r} is not of the form CONFIG --config.NAME=VALUE ...")
    given = [*common, *own]
    for argument in given:
        if argument.partition("=")[0] == "--config.seed":
            raise UsageError(f"{argument}: --seeds gives the seeds")
    try:
        loaded = flags.load_file(file)
        config = flags.override(copy.deepcopy(loaded), given)
        ours = _shared(config, given, command.real(workdir), evaluations)
        config = flags.override(loaded, [*given, *ours])
    except (UsageError, ConfigError) as error:
        raise type(error)(f"{text}: {error}") from error
    called = name[1] if name else _name(file, own)
    folder = re.sub(r"[^\w.,=+-]+", "_", called).strip("._")
    if not folder or len(folder) > LONGEST_NAME:
        raise UsageError(f"{text!r}: its name {called!r} cannot be that of a folder; give one by NAME=CONFIG")
    return Candidate(called, file, (*given, *ours), config, folder, called)


def _shared(config: Config, given: Sequence[str], workdir: Path, evaluations: int) -> list[str]:
    """Options by which runs share what does not change their result, and are evaluated often enough for a curve."""

    def says(name: str) -> bool:
        return any(re.match(rf"--(no)?config\.{re.escape(name)}(=|$)", argument) for argument in given)

    ours = []
    source = config.data.source
    if isinstance(source, ShapesConfig) and not source.root and not config.data.root:
        ours.append(f"--config.data.source.root={workdir / 'data'}")
    if not says("run.compilation_cache"):
        ours.append(f"--config.run.compilation_cache={workdir / 'cache'}")
    if not says("run.eval_every"):
        ours.append(f"--config.run.eval_every={-(-config.run.steps // evaluations)}")
    return ours


def _name(file: str, own: Sequence[str]) -> str:
    """`shapes_grid:atss num_points=8` for configs/shapes_grid.py:atss with one option of its own."""
    path, colon, text = file.partition(":")
    words = [Path(path).name.removesuffix(".py") + colon + text]
    for argument in own:
        off, field, value = re.fullmatch(r"--(no)?config\.([^=]*)(.*)", argument, re.DOTALL).groups()  # type: ignore
        words.append(("no " if off else "") + field.removesuffix(".module").rpartition(".")[2] + value)
    return " ".join(words)
