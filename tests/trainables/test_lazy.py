"""Postponed imports."""

import subprocess
import sys

import pytest

from tests.helpers import ROOT


def run(code: str) -> str:
    head = "import sys; from trainables.lazy import defer_imports, load_deferred\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("import numpy\nimport numpy", "_LazyModule"),
        ("import numpy; str(numpy.__spec__); repr(numpy.__name__)", "_LazyModule"),
        ("import numpy; numpy.zeros(1)", "module"),
        ("import numpy.linalg; numpy.linalg.norm([1.0])", "module"),
        ("from numpy import zeros; zeros(1)", "module"),
        ("load_deferred()", "module"),
    ],
)
def test_module_loads_on_its_first_attribute(code: str, printed: str) -> None:
    last = "\nprint(type(sys.modules['numpy']).__name__)"
    assert run(f"defer_imports(('numpy',)); {code}{last}") == printed


def test_bound_name_stays_the_loaded_module() -> None:
    code = "defer_imports(('numpy',)); import numpy; numpy.zeros(1)"
    assert run(f"{code}; print(numpy is sys.modules['numpy'])") == "True"


def test_missing_attribute_is_an_attribute_error() -> None:
    code = (
        "defer_imports(('numpy',)); import numpy\n"
        "try:\n    numpy.no_such_thing\nexcept AttributeError as error:\n    print(error)"
    )
    assert "no_such_thing" in run(code)


def test_loaded_and_absent_modules_are_left_alone() -> None:
    code = (
        "import json; defer_imports(('json', 'no_such_module')); load_deferred(('no_such_module',))"
    )
    assert (
        run(f"{code}; print(type(json).__name__, 'no_such_module' in sys.modules)")
        == "module False"
    )


def test_two_threads_may_load_at_once() -> None:
    code = """
import threading
defer_imports(('numpy',)); import numpy
load_deferred()
found = []
threads = [threading.Thread(target=lambda: found.append(numpy.zeros(1).sum())) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(found))
"""
    assert run(code) == "8"


def test_a_whole_recipe_imports_neither_scikit_learn_nor_torchs_compiler() -> None:
    code = (
        "import sys; from trainables.__main__ import main\n"
        "sets = ['classify.training.epochs=1', 'update.training.epochs=1']\n"
        "main(['experiments/digits.yaml', *(w for s in sets for w in ('--set', s))])\n"
        "print([m for m in ('sklearn', 'torch._dynamo') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert '"evaluate/features/silhouette"' in done.stdout
    assert '"evaluate/novelty/auroc"' in done.stdout
