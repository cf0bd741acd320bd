"""Start-up: help, a refused setting, and a cold process that runs a recipe's imports.

Goal P11: ``--help`` and a configuration error answer within 0.3 s and without torch (the rival is
a bare interpreter that imports typer and rich's console, what most such commands do), and a cold
process that can run a recipe takes at most 1.2 times ``import torch, timm``. Both sides find their
bytecode, as every start but the first does.

    python -m benchmarks.startup [--repeats 7]

CPU time of the whole process, so that neighbors on a shared machine do not count.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys

from benchmarks import print_row

COMMAND = [sys.executable, "-m", "orchestrator"]
KEEP_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}  # empty is as good as unset
CASES = {
    "help": ([*COMMAND, "--help"], 0),
    "help of a command": ([*COMMAND, "sweep", "--help"], 0),
    "refused setting": ([*COMMAND, "run", "--set", "classify.los=ldam"], 2),
}
MOST_SECONDS = 0.3
BARE = [sys.executable, "-c", "import typer, rich.console"]
RECIPE = [sys.executable, "-c", "import trainables.pipeline, torch; torch.ones(1)"]
IMPORTS = [sys.executable, "-c", "import torch, timm"]


def cpu_seconds(command: list[str], status: int = 0) -> float:
    """Return the CPU seconds of a command.

    Raises:
        RuntimeError: It ends with another status.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | KEEP_BYTECODE
    )
    if ended.returncode != status:
        raise RuntimeError(f"{command} ended with {ended.returncode}: {ended.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Measure, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    sides = CASES | {"bare": (BARE, 0), "recipe": (RECIPE, 0), "imports": (IMPORTS, 0)}
    for command, status in sides.values():
        cpu_seconds(command, status)  # files are read once
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, (command, status) in sides.items():
            times[name].append(cpu_seconds(command, status))
    passed = True
    for name in CASES:
        both = {"ours": times[name], "typer + rich": times["bare"]}
        goal = MOST_SECONDS / statistics.median(times["bare"])
        passed &= print_row(f"startup/{name}", "typer + rich", both, goal=goal, most=True)
    both = {"ours": times["recipe"], "import torch, timm": times["imports"]}
    passed &= print_row("startup/recipe", "import torch, timm", both, goal=1.2, most=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
