"""A page for each room of the package, written by mkdocstrings from the docstrings when the site is built.

A hook of MkDocs: a new room or file has its page without a change here.
"""

import ast
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

PACKAGE = Path(__file__).resolve().parents[1] / "dyhead_jax"
COMMANDS = "top level"


def rooms() -> dict[str, list[str]]:
    """The modules with a docstring, by room, in alphabetical order; files of the top level come first."""
    found: dict[str, list[str]] = {COMMANDS: []}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] == "configs" or parts[-1] == "__main__" or not ast.get_docstring(ast.parse(path.read_text())):
            continue
        names = [name for name in parts if name != "__init__"]
        room = names[0] if len(parts) > 1 else COMMANDS
        found.setdefault(room, []).append(".".join(["dyhead_jax", *names]))
    return found


def pages() -> dict[str, str]:
    """Markdown by file name."""
    result = {}
    for room, modules in rooms().items():
        title = room if room == COMMANDS else f"dyhead_jax.{room}"
        blocks = [f"::: {module}\n    options:\n      show_submodules: false\n" for module in modules]
        result[f"api/{room.replace(' ', '_')}.md"] = "\n".join([f"# {title}\n", *blocks])
    return result


def on_config(config: Any) -> Any:
    config.nav.append({"API": sorted(pages())})
    return config


def on_files(files: Any, config: Any) -> Any:
    for name, content in pages().items():
        files.append(File.generated(config, name, content=content))
    return files
