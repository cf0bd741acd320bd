"""Every entry point chooses the number of threads and how they wait, whatever the user has set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from trainables import __main__ as command

REFUSED = ["experiments/digits.yaml", "--set", "data.source=cifar10", "--set", "data.root=nowhere"]


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process where OpenMP writes what it was told when torch loads it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MKL_", "OPENBLAS_"))}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env={**kept, "OMP_DISPLAY_ENV": "TRUE", **variables},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def told(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """Return the number of threads and the waiting policy that OpenMP read."""
    lines = dict(
        line.removeprefix("  [host] ").strip().split(" = ", 1)
        for line in done.stderr.splitlines()
        if " = '" in line
    )
    return lines["OMP_NUM_THREADS"].strip("'"), lines["OMP_WAIT_POLICY"].strip("'")


@pytest.mark.parametrize("variables", [{}, {"OMP_NUM_THREADS": "5", "OMP_WAIT_POLICY": "ACTIVE"}])
def test_a_recipe_has_one_thread(variables: dict[str, str]) -> None:
    done = run("-m", "trainables", *REFUSED, **variables)
    assert done.returncode == 2, done.stderr
    assert told(done) == ("1", "PASSIVE")


def test_a_recipe_has_the_threads_that_were_asked_for() -> None:
    done = run("-m", "trainables", *REFUSED, "--threads", "2")
    assert told(done) == ("2", "PASSIVE")


SHOWN = """
import sys
try:
    {call}
except SystemExit:
    pass
import torch, numpy
print(torch.get_num_threads(), torch.__config__.parallel_info().count("MKL"))
"""


@pytest.mark.parametrize(
    "call",
    [
        "from orchestrator.cli.main import main; main(['version'])",
        "sys.argv[1:] = ['--help']; from orchestrator.sweep import main; main()",
    ],
    ids=["orchestrator", "sweep.py"],
)
def test_a_command_has_one_thread(call: str) -> None:
    done = run("-c", SHOWN.format(call=call), OMP_NUM_THREADS="5", MKL_NUM_THREADS="3")
    assert done.stdout.splitlines()[-1].split()[0] == "1", done.stdout + done.stderr
    assert told(done) == ("1", "PASSIVE")


SERVED = "{first}; from trainables.threads import choose_threads_if_free as c; c(); import torch; "
NUMBER = "print(torch.get_num_threads())"


@pytest.mark.parametrize(
    ("first", "variables", "threads"),
    [
        ("pass", {}, "1"),
        ("pass", {"OMP_NUM_THREADS": "2,1"}, "1"),
        ("import torch; torch.set_num_threads(4)", {}, "4"),  # the process of somebody else
    ],
)
def test_a_served_model_has_one_thread_unless_torch_is_loaded(
    first: str, variables: dict[str, str], threads: str
) -> None:
    done = run("-c", SERVED.format(first=first) + NUMBER, **variables)
    assert done.stdout.split() == [threads], done.stderr


def test_a_server_may_be_given_threads() -> None:
    done = run("-c", SERVED.format(first="pass") + NUMBER, OMP_NUM_THREADS="3")
    assert told(done) == ("3", "PASSIVE")


@pytest.mark.parametrize("number", ["0", "-1", "two", "", "10000"])
def test_a_wrong_number_of_threads_is_one_line(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["experiments/digits.yaml", f"--threads={number}"]) == 2
    line = f"error: --threads: allowed: 1 to 9999; received {number}\n"
    assert capsys.readouterr().err == line


def test_the_served_model_chooses_before_torch_is_loaded() -> None:
    text = Path(ROOT, "orchestrator/registry/served_model.py").read_text(encoding="utf-8")
    choice, model = text.index("choose_threads_if_free()"), text.index("from trainables.inference")
    assert choice < model
