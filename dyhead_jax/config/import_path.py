"""Import paths as configuration: `load("package.module:Name")`.

A variant is a file of its own and one line of a config. There is no registry to enter and nothing to decorate.
"""

import dataclasses
import importlib
from typing import Any


class SymbolError(ValueError):
    """An import path that leads nowhere."""


def load(path: str) -> Any:
    """The object that `path` ("package.module:Name") names.

    Raises SymbolError, with the names that the module does have, when the form is wrong, the module cannot be imported
    or the name is missing.
    """
    module_name, separator, name = path.partition(":")
    if not separator or not module_name or not name:
        raise SymbolError(f"import path {path!r} is not of the form 'package.module:Name'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SymbolError(f"import path {path!r}: no module named {error.name!r}") from error
    if not hasattr(module, name):
        public = sorted(n for n in vars(module) if not n.startswith("_"))
        raise SymbolError(f"import path {path!r}: {module_name} has no {name!r}; it has {', '.join(public)}")
    return getattr(module, name)


def build(node: Any, **extra: Any) -> Any:
    """Calls the class that the config node's `module` field names with the node's other fields and `extra`.

    Modules thus take plain values, never the config itself, and a fork's class takes the same arguments by name.
    """
    values = {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.name != "module"}
    return load(node.module)(**values, **extra)
