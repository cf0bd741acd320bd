"""The cut of the project: arrows of import, forbidden calls, size budgets, lazy start."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
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


def test_methods_do_not_import_stages_or_the_pipeline() -> None:
    above = frozenset(
        f"trainables.{name}" for name in ("stages", "pipeline", "experiment", "data", "loop")
    )
    assert offending("trainables/methods", above) == []


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


def test_trainables_leave_devices_seeds_and_environment_alone() -> None:
    uses = [use for path in sources("trainables") for use in forbidden_uses(path)]
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
