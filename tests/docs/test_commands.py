"""Every command in the pages is one that its program takes: its options, and the configs and fields that it names."""

import importlib
import re
import shlex
import sys

import pytest

from dyhead_jax import command
from dyhead_jax.compare.candidates import SEPARATOR
from dyhead_jax.config import Config, DataConfig, PhotosConfig, flags
from tests.docs import pages

PROGRAMS = {page: found for page in [*pages.PAGES, *pages.READMES] if (found := pages.commands(page))}


class Parsed(Exception):
    """Carries the options of a command line that was accepted."""


def program(words):
    """The main function of a command, and its arguments."""
    if words[0] == "train.py":
        return importlib.import_module("dyhead_jax.train").main, words[1:]
    module = importlib.import_module(words[1])
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{words[1]}.__main__")
    return (module.main if hasattr(module, "main") else module._main), words[2:]


def config_of(name):
    """The config of that name, or for one that reads a folder its schema."""
    if name.startswith("photos:"):
        return Config(data=DataConfig(source=PhotosConfig()))
    return flags.load_file("demo_shapes" if name in ("FILE", "A.py", "B.py") else name)


@pytest.mark.parametrize("page", list(PROGRAMS), ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_the_commands_of_a_page_are_accepted(page, folder, monkeypatch):
    for name, text in pages.files(page).items():
        (folder / name).write_text(text)
    importlib.invalidate_caches()
    monkeypatch.chdir(page.parent if (page.parent / "configs").is_dir() else pages.ROOT)
    monkeypatch.syspath_prepend(page.parent)  # the package of a fork
    parse = command.parse

    def parse_only(*arguments):
        raise Parsed(parse(*arguments))

    monkeypatch.setattr(command, "parse", parse_only)
    for words in PROGRAMS[page]:
        main, arguments = program(words)
        monkeypatch.setattr(sys, "argv", [words[0], *arguments])
        try:
            main()
        except Parsed as parsed:
            (options,) = parsed.args
        except (SystemExit, command.UsageError) as error:
            pytest.fail(f"{' '.join(words)}: {error}")
        check(options)


def check(options):
    """Configs with --config.NAME=VALUE, those of a comparison too, and the settings of --attention."""
    given = getattr(options, "config", None) or getattr(options, "configs", None) or getattr(options, "compare", [])
    for text in [given] if isinstance(given, str) else given:
        if text == SEPARATOR:
            continue
        name, *own = shlex.split(text)
        name = re.sub(r"^\w+=", "", name)
        flags.override(config_of(name), [*own, *options.overrides])
    for settings in getattr(options, "attention", None) or []:
        importlib.import_module("dyhead_jax.measure.block").attentions(settings)


def test_the_pages_have_commands():
    assert sum(map(len, PROGRAMS.values())) > 60
