"""A page for each room of the package, written by mkdocstrings from the docstrings when the site is built.

A hook of MkDocs: a new room or file has its page without a change here. Fields of classes stand below them as in the
file, because their comments say what they are.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

PACKAGE = Path(__file__).resolve().parents[1] / "dyhead_jax"
COMMANDS = "top level"


def pages() -> dict[str, str]:
    """Markdown by file name."""
    rooms: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        text = path.read_text()
        if parts[0] == "configs" or parts[-1] == "__main__" or not ast.get_docstring(ast.parse(text)):
            continue
        module = ".".join(["dyhead_jax", *(name for name in parts if name != "__init__")])
        rooms.setdefault(parts[0] if len(parts) > 1 else COMMANDS, []).extend(entries(module, text))
    return {
        f"api/{room.replace(' ', '_')}.md": "\n".join([f"# {room}\n", *lines]) for room, lines in sorted(rooms.items())
    }


def entries(module: str, text: str) -> Iterator[str]:
    """Markdown of a module, of what it defines with a docstring, and of the fields of its classes."""
    yield f"::: {module}\n    options:\n      members: false\n      show_root_full_path: true\n"
    body = ast.parse(text).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        fields = fields_of(node, text.splitlines()) if isinstance(node, ast.ClassDef) else ""
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            name, documented = node.name, bool(fields or ast.get_docstring(node))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            name, documented = ast.unparse(target), isinstance(after, ast.Expr)
        else:
            continue
        if documented and not name.startswith("_"):
            yield f"::: {module}.{name}\n    options:\n      heading_level: 3\n"
            if fields:
                yield f"```python\n{fields}\n```\n"


def fields_of(node: ast.ClassDef, lines: list[str]) -> str:
    """The lines of a class that declare its fields, with their comments."""
    own = [part for part in node.body if isinstance(part, ast.AnnAssign) and ast.unparse(part.target)[0] != "_"]
    return "\n".join(line.removeprefix("    ") for part in own for line in lines[part.lineno - 1 : part.end_lineno])


def on_config(config: Any) -> Any:
    config.nav.append({"API": list(pages())})
    return config


def on_files(files: Any, config: Any) -> Any:
    for name, content in pages().items():
        files.append(File.generated(config, name, content=content))
    return files
