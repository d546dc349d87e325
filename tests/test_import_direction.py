"""Imports run down only: from a room to a lower floor, never to a room of its own floor or above."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

FLOORS = [
    {"h2q"},
    {"config", "cli", "guard", "suggestions", "shown", "events", "terminal", "figures", "threads", "columns", "mix"},
    {"storage", "senses"},
    {"runs", "cluster", "corpus"},
    {"prepare", "tracking"},
    {"training", "comparison"},
    {"evaluation", "sweep"},
    {"benchmark", "compression", "export", "projector", "study"},  # they measure, prove and hand on what lies below
    {"jobs"},
]
"""From the lowest. A name is a top-level package, or a room (or a module of the hall) of `pipeline`."""

HALL = FLOORS[1]
"""The modules of `pipeline` itself: they may use each other."""

FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def test_imports_run_down_only() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources()
        for line, module in imports(path)
        if not allowed(room_of(dotted(path)), room_of(module))
    ]
    assert wrong == [], "\n".join(wrong)


def test_every_room_has_a_floor() -> None:
    assert {room_of(dotted(path)) for path in sources()} - {""} == set(FLOOR)


def test_h2q_needs_torch_and_the_standard_library_only() -> None:
    import sys

    # Triton comes with torch for CUDA, and is imported only where that is.
    allowed_there = sys.stdlib_module_names | {"torch", "triton", "h2q"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources()
        if path.is_relative_to(ROOT / "h2q")
        for line, module in imports(path, everything=True)
        if module.partition(".")[0] not in allowed_there
    ]
    assert wrong == [], "\n".join(wrong)


def allowed(room: str, to: str) -> bool:
    return to in ("", room) or FLOOR[to] < FLOOR[room] or {room, to} <= HALL


def sources() -> list[Path]:
    return [path for folder in ("h2q", "pipeline", "jobs") for path in sorted((ROOT / folder).rglob("*.py"))]


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """`pipeline.runs.folder` → `runs`, `h2q.model` → `h2q`; nothing for `pipeline` itself."""
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == "pipeline" else first


def imports(path: Path, *, everything: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full name of what a module imports of this project, wherever in the module; or of anything."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "pipeline" else [module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if everything or name.split(".")[0] in ("h2q", "pipeline"))


def test_no_function_is_longer_than_a_screen() -> None:
    longest = 60
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {length} lines"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > longest
    ]
    assert wrong == [], "\n".join(wrong)
