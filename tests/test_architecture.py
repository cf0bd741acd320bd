"""The cut of the project: floors, circles, faces, forbidden calls, size budgets, lazy start."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers import ROOT

PACKAGES = ("trainables", "search_spaces", "orchestrator")
TRACKERS = frozenset({"ray", "optuna", "mlflow"})


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the full names that a file imports, anywhere in it, with their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def offending(package: str, forbidden: frozenset[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        for name, line in imported(path)
        if any(name == bad or name.startswith(f"{bad}.") for bad in forbidden)
    ]


@pytest.mark.parametrize("package", ["trainables", "search_spaces"])
def test_only_the_orchestrator_knows_ray_optuna_and_mlflow(package: str) -> None:
    assert offending(package, TRACKERS) == []


@pytest.mark.parametrize("package", ["trainables", "search_spaces"])
def test_nothing_imports_the_orchestrator(package: str) -> None:
    assert offending(package, frozenset({"orchestrator"})) == []


def test_trainables_do_not_import_search_spaces() -> None:
    assert offending("trainables", frozenset({"search_spaces"})) == []


def test_stages_do_not_import_each_other_or_the_pipeline() -> None:
    stages = {module_name(p) for p in sources("trainables/stages") if p.stem[0] != "_"}
    for path in sources("trainables/stages"):
        others = frozenset(stages - {module_name(path), "trainables.stages"})
        wrong = [
            f"{path.name}:{line} imports {name}"
            for name, line in imported(path)
            if name.startswith("trainables.pipeline")
            or any(name == o or name.startswith(f"{o}.") for o in others)
        ]
        assert path.stem == "__init__" or wrong == []


# --- floors ------------------------------------------------------------------------------------

# A module imports from its own floor or a lower one, deferred imports included; lowest first.
# Kinds of methods (`methods/<kind>/__init__`, `method`, `shelf`) are the floor "contracts", the
# method files the floor "methods". docs/architecture.md draws them.
FLOORS = {
    "trainables": [
        {"former_names", "memory"},
        {"context", "errors", "lazy", "threads"},
        {"text"},
        {"transforms"},
        {"functional"},
        {"contracts"},
        {"settings"},
        {"keys"},
        {"artifacts"},
        {"weights"},
        {"models"},
        {"data"},
        {"training"},
        {"closed_form"},
        {"features"},
        {"methods"},
        {"experiment"},
        {"inference"},
        {"rehearsal"},
        {"uploads"},
        {"stages"},
        {"pipeline"},
        {"__main__"},
    ],
    "orchestrator": [
        {"locking"},
        {"records"},
        {"options", "trial_outcome", "environment"},
        {"search", "store", "tracking"},
        {"execution", "registry", "report"},
        {"choice", "answering"},
        {"trials", "fitting"},
        {"tables"},
        {"cli"},
        {"sweep", "__main__"},
    ],
}


class Import(NamedTuple):
    """One module of this project imports another; ``typing``: below ``TYPE_CHECKING`` alone."""

    importer: str
    imported: str
    typing: bool


def modules() -> dict[str, Path]:
    return {module_name(path): path for package in PACKAGES for path in sources(package)}


def typing_lines(tree: ast.AST) -> set[int]:
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for line in range(node.body[0].lineno, (node.body[-1].end_lineno or 0) + 1)
    }


@cache
def imports() -> tuple[Import, ...]:
    """Return who imports whom inside this project; a name counts for the module that it is in."""
    known = modules()
    found: dict[tuple[str, str], bool] = {}
    for importer, path in known.items():
        typing = typing_lines(ast.parse(path.read_text(encoding="utf-8")))
        for full_name, line in imported(path):
            name = full_name
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name and name != importer:
                pair = (importer, name)
                found[pair] = found.get(pair, True) and line in typing
    return tuple(Import(a, b, typing) for (a, b), typing in found.items())


def room(module: str) -> str:
    """Return the part of its package that a module belongs to: a wing, or a file of the root."""
    rest = module.split(".")[1:]
    if not rest:
        return "__init__"
    if rest[0] == "methods":
        return "methods" if len(rest) == 3 else "contracts"
    return rest[0]


def floor(module: str) -> int:
    floors = FLOORS[module.partition(".")[0]]
    return next(n for n, rooms in enumerate(floors) if room(module) in rooms)


def faces() -> set[str]:
    """Packages whose ``__init__`` says what they hold and imports nothing when it is imported."""
    return {
        name
        for name, path in modules().items()
        if path.name == "__init__.py" and room(name) not in ("contracts", "__init__")
    }


@pytest.mark.parametrize("package", FLOORS)
def test_every_module_has_a_floor(package: str) -> None:
    rooms = {room(name) for name in modules() if name.startswith(f"{package}.")}
    listed = [name for floor in FLOORS[package] for name in floor]
    assert sorted(listed) == sorted(set(listed))
    assert rooms == set(listed)


@pytest.mark.parametrize("package", FLOORS)
def test_imports_go_down(package: str) -> None:
    inside = [
        i
        for i in imports()
        if not i.typing
        and i.importer.startswith(f"{package}.")
        and i.imported.startswith(f"{package}.")
        and i.imported not in faces()
        and room(i.importer) != room(i.imported)
    ]
    assert inside
    up = [f"{i.importer} -> {i.imported}" for i in inside if floor(i.importer) < floor(i.imported)]
    beside = [
        f"{i.importer} -> {i.imported}" for i in inside if floor(i.importer) == floor(i.imported)
    ]
    assert up == []
    assert beside == []


def circles(arrows: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return the groups of nodes that reach each other along arrows."""
    graph: dict[str, set[str]] = {}
    for start, end in arrows:
        graph.setdefault(start, set()).add(end)
        graph.setdefault(end, set())
    reach: dict[str, set[str]] = {}
    for node in graph:
        seen, waiting = set(), list(graph[node])
        while waiting:
            there = waiting.pop()
            if there not in seen:
                seen.add(there)
                waiting += graph[there]
        reach[node] = seen
    groups = {
        tuple(sorted(other for other in reach[node] if node in reach[other]))
        for node in graph
        if node in reach[node]
    }
    return [list(group) for group in sorted(groups)]


def test_circles_are_found() -> None:
    assert circles([("a", "b"), ("b", "a"), ("b", "c"), ("d", "d")]) == [["a", "b"], ["d"]]


def test_no_files_import_each_other() -> None:
    assert circles((i.importer, i.imported) for i in imports()) == []


def wing(module: str) -> str:
    """Return a module's wing; files of a root and kinds of methods are wings of their own."""
    part = room(module)
    package = module.partition(".")[0]
    alone = part in ("contracts", "__init__") or package == "search_spaces"
    return module if alone else f"{package}.{part}"


def test_no_wings_import_each_other() -> None:
    pairs = ((wing(i.importer), wing(i.imported)) for i in imports())
    assert circles((a, b) for a, b in pairs if a != b) == []


def test_nobody_imports_the_script_of_ray_submit() -> None:
    assert [i for i in imports() if i.imported == "orchestrator.sweep"] == []


# --- faces -------------------------------------------------------------------------------------


def test_a_face_is_a_docstring_and_imports_nothing() -> None:
    for name in sorted(faces()):
        tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
        text = ast.get_docstring(tree)
        assert text is not None, name
        assert 3 <= len(text.splitlines()) <= 8 or name.endswith("methods"), name
        eager = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        allowed = {"typing", "__future__"}
        assert all(isinstance(n, ast.ImportFrom) and n.module in allowed for n in eager), name


def test_a_face_names_every_module_of_its_wing() -> None:
    for name in sorted(faces()):
        path = modules()[name]
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        held = {p.stem for p in path.parent.glob("*.py")} - {"__init__"}
        if room(name) not in ("stages", "methods"):
            assert {stem for stem in held if f"`{stem}`" not in text} == set(), name


def test_wings_are_small_enough_to_read() -> None:
    for name in sorted(faces()):
        files = [p for p in modules()[name].parent.glob("*.py") if p.name != "__init__.py"]
        assert len(files) <= 15, name
    for package, most in (("trainables", 14), ("orchestrator", 7)):
        assert len(list((ROOT / package).glob("*.py"))) <= most


def test_importing_the_orchestrator_is_cheap() -> None:
    code = "import orchestrator, sys; print({'torch', 'ray', 'pydantic'} & set(sys.modules))"
    assert run_python(code) == "set()"


# --- what code leaves alone ----------------------------------------------------------------------

FORBIDDEN = {
    "cuda": "move tensors with the context's device",
    "manual_seed": "draw from context.generator(...)",
    "seed": "draw from context.generator(...)",
    "environ": "settings come through the experiment and the context",
    "getenv": "settings come through the experiment and the context",
}


def forbidden_uses(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr not in FORBIDDEN:
            continue
        owner = ast.unparse(node.value)
        called_on_tensor = node.attr == "cuda" and owner != "torch"
        global_seed = node.attr in ("manual_seed", "seed") and owner in (
            "torch",
            "torch.cuda",
            "random",
            "np.random",
            "numpy.random",
        )
        world = owner == "os" and node.attr in ("environ", "getenv")
        if called_on_tensor or global_seed or world:
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            yield f"{where} {ast.unparse(node)}: {FORBIDDEN[node.attr]}"


# what entry points call first: OpenMP's waiting policy is set there, the allocator's variables read
BEFORE_TORCH = [ROOT / "trainables" / name for name in ("threads.py", "memory.py")]


def test_trainables_leave_devices_seeds_and_environment_alone() -> None:
    files = [path for path in sources("trainables") if path not in BEFORE_TORCH]
    uses = [use for path in files for use in forbidden_uses(path)]
    assert uses == []


def test_forbidden_use_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "bad.py"
    path.write_text("x.cuda()\ntorch.manual_seed(0)\nos.environ['A']\ntorch.cuda.is_available()\n")
    assert [use.split(" ")[0] for use in forbidden_uses(path)] == [
        "bad.py:1",
        "bad.py:2",
        "bad.py:3",
    ]


class Size(NamedTuple):
    """Lines of a function or a file."""

    lines: int
    where: str


def function_sizes() -> list[Size]:
    return [
        Size(
            (node.end_lineno or 0) - node.lineno + 1,
            f"{path.relative_to(ROOT)}:{node.lineno} {node.name}",
        )
        for package in PACKAGES
        for path in sources(package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def file_sizes() -> list[Size]:
    return [
        Size(len(path.read_text(encoding="utf-8").splitlines()), str(path.relative_to(ROOT)))
        for package in PACKAGES
        for path in sources(package)
    ]


@pytest.mark.parametrize(
    ("sizes", "median", "p95", "most"),
    [(function_sizes, 12, 45, 70), (file_sizes, 120, 300, 400)],
    ids=["functions", "files"],
)
def test_size_budgets_hold(sizes, median: int, p95: int, most: int) -> None:
    found = sorted(sizes(), reverse=True)
    longest = "; ".join(f"{s.where}: {s.lines}" for s in found[:8])
    lines = [s.lines for s in found]
    at_95 = statistics.quantiles(lines, n=20)[-1]
    assert lines[0] <= most, f"longer than {most} lines: {longest}"
    assert at_95 <= p95, f"95th percentile {at_95:.0f} > {p95} lines; longest: {longest}"
    assert statistics.median(lines) <= median, f"median {statistics.median(lines)} > {median} lines"


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_schema_is_read_without_loading_torch_or_numpy() -> None:
    code = (
        "from trainables.lazy import defer_imports; defer_imports(); import sys;"
        "from trainables.experiment import load_experiment;"
        "load_experiment('experiments/digits.yaml', ['seed=1']).digest();"
        "print(*(type(sys.modules[m]).__name__ for m in ('torch', 'numpy')))"
    )
    assert run_python(code) == "_LazyModule _LazyModule"


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {'ray', 'optuna', 'mlflow'}:
            raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Blocker())
"""


def test_trainables_import_without_ray_optuna_and_mlflow() -> None:
    names = [module_name(path) for path in sources("trainables")]
    imports = "\n".join(f"import {name}" for name in names if not name.endswith("__main__"))
    assert run_python(f"{BLOCKER}\n{imports}\nprint('ok')") == "ok"


def test_the_blocker_blocks() -> None:
    code = f"{BLOCKER}\ntry:\n    import optuna\nexcept ImportError as error:\n    print(error)"
    assert run_python(code) == "blocked: optuna"
