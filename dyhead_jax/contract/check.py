"""Checks properties, and says what became of each."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dyhead_jax.config import import_path
from dyhead_jax.contract import PROPERTIES
from dyhead_jax.contract.subject import NotRun, Subject


@dataclass(frozen=True)
class Outcome:
    """holds: None where it could not be checked; text: what was found, or what the contract wants and what it saw."""

    name: str
    holds: bool | None
    text: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "FAILED", None: "not run"}[self.holds]
        return f"{self.name:<11}{mark}: {self.text}"


def check(subject: Subject, names: Iterable[str] = tuple(PROPERTIES), debug: bool = False) -> Iterator[Outcome]:
    """The outcome of each named property. debug: errors of the modules that are checked are raised."""
    seen: dict[str, str] = {}  # message -> the property that said it first
    for name in names:
        try:
            path, _ = PROPERTIES[name]
            yield Outcome(name, True, import_path.load(f"{__package__}.{path}")(subject))
        except NotRun as reason:
            yield Outcome(name, None, str(reason))
        except Exception as error:  # whatever a module raises
            if debug:
                raise
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            text = f"{kind}{' '.join(str(error).split())}"
            first = seen.setdefault(text, name)
            yield Outcome(name, False, text if first == name else f"as {first}")
