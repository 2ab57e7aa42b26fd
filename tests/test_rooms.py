"""The rooms of the package: no circle of imports, none from a lower to a higher room, no file that grew too long."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "dyhead_jax"
FLOORS = (
    {"types", "choices", "command", "files"},
    {"config", "ops"},
    {"boxes", "backbones", "necks", "dyhead", "data"},
    {"variants"},
    {"detectors", "weights"},
    {"training"},
    {"evaluation"},
    {"inference"},
    {"measure", "export", "look"},
    {"demo", "contract", "compare"},
    {"evaluate", "predict", "convert", "failure", "benchmark"},
    {"train", "__init__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = {
    ".".join(("dyhead_jax", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in PACKAGE.rglob("*.py")
}


def room(module: str) -> str:
    return module.split(".")[1]


def imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, functions' own imports included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dyhead_jax"):
            for alias in node.names:
                names = (f"{node.module}.{alias.name}", f"{node.module}.{alias.name}.__init__", str(node.module))
                found.add(next((name for name in names if name in FILES), f"{node.module}.__init__"))
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("dyhead_jax") for alias in node.names), f"{path}: import from instead"
    return found


GRAPH = {module: imports(path) for module, path in FILES.items()}


def test_no_circle():
    list(TopologicalSorter(GRAPH).static_order())  # raises CycleError, which names the modules


def test_no_import_from_a_lower_to_a_higher_room():
    upward = [
        f"{module} -> {target}"
        for module, targets in GRAPH.items()
        for target in targets
        if FLOOR[room(target)] > FLOOR[room(module)]
        or (room(target) != room(module) and FLOOR[room(target)] == FLOOR[room(module)])
    ]
    assert upward == []


def test_the_top_level_is_what_a_person_types_or_imports():
    files = {path.stem for path in PACKAGE.glob("*.py")}
    assert files <= FLOORS[0] | FLOORS[-2] | FLOORS[-1]
    assert len(files) <= 16


def test_no_file_is_long():
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in FILES.values()}
    assert {name: count for name, count in lines.items() if count > 350} == {}
