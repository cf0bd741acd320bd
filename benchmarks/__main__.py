"""Run the benchmarks and print one table: what, rival, ratio, goal, spread, reached or not.

    python -m benchmarks            all of them
    python -m benchmarks loader     one
    python -m benchmarks --data cifar10 --script pytorch-image-models/train.py    with real images
    python -m benchmarks --page docs/performance.md    write what was last measured as a page

Each benchmark is a file that prints JSON rows; they are kept in ``runs/benchmarks/<name>.jsonl``.
Exits with 1 when a goal is missed or a check of results fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
ROWS = Path("runs/benchmarks")
TAKES = {
    "--data": ("gpu", "gpu_fused", "gpu_trials", "loader", "small_budget", "timm_train"),
    "--script": ("timm_train",),
}
PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "numpy")


def names() -> list[str]:
    """Return the names of the benchmarks: the files of this folder."""
    return sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("__"))


def run(name: str, arguments: list[str]) -> tuple[list[dict[str, Any]], int]:
    """Run one benchmark in a fresh process and return its rows and exit status."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode and not rows:
        sys.stderr.write(done.stderr)
    ROWS.mkdir(parents=True, exist_ok=True)
    (ROWS / f"{name}.jsonl").write_text(done.stdout, encoding="utf-8")
    return rows, done.returncode


def arguments(name: str, options: argparse.Namespace) -> list[str]:
    """Return the arguments for one benchmark: those of ours that it takes."""
    given = {"--data": options.data, "--script": options.script}
    return [
        part
        for option, value in given.items()
        if value and name in TAKES[option]
        for part in (option, value)
    ]


def main() -> int:
    """Run what was asked for and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(names())}; default all")
    parser.add_argument("--data", help=f"folder of real images for {', '.join(TAKES['--data'])}")
    parser.add_argument("--script", help="timm's train.py for timm_train")
    parser.add_argument("--page", type=Path, help="write the last rows of all to this file")
    options = parser.parse_args()
    if options.page:
        options.page.write_text(page(), encoding="utf-8")
        return 0
    unknown = sorted(set(options.names) - set(names()))
    if unknown:
        parser.error(f"no benchmark called {', '.join(unknown)}; there are {', '.join(names())}")
    table = Table("benchmark", "rival", "ratio", "goal", "spread", "reached")
    status = 0
    for name in options.names or names():
        rows, code = run(name, arguments(name, options))
        status = status or code
        for row in rows:
            if "ratio" in row:
                table.add_row(*cells(row))
    Console().print(table)
    return status


def page() -> str:
    """Return the rows that were measured last as a Markdown page, with machine and versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    machine = f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    lines = [
        "# Performance",
        "",
        "Each row is a benchmark of `benchmarks/`, both sides in one run. The ratio says how many",
        "times less ours needs than the rival, or where the goal is a largest ratio (loader,",
        "precision, startup) ours over the rival's; the spread is slowest over fastest repeat.",
        "",
        f"Written by `python -m benchmarks --page docs/performance.md`; {machine}; {versions}.",
        "",
        "| benchmark | rival | ratio | goal | spread | reached |",
        "|---|---|---|---|---|---|",
    ]
    for name in names():
        file = ROWS / f"{name}.jsonl"
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        for row in (row for row in rows if "ratio" in row):
            *start, reached = cells(row)
            lines.append(f"| {' | '.join(start)} | {'yes' if 'yes' in reached else '**no**'} |")
        if not any("ratio" in row for row in rows):
            lines.append(f"| {name} | | not measured | | | |")
    return "\n".join(lines) + "\n"


def processor() -> str:
    """Return the processor's name, as Linux tells it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row's cells as text."""
    spread = row.get("spread", "")
    if isinstance(spread, dict):
        spread = ", ".join(f"{k} {v}" for k, v in spread.items())
    reached = "[green]yes[/]" if row.get("passed") else "[red]no[/]"
    goal = row.get("goal", "")
    goal = f"{goal:.3g}" if isinstance(goal, float) else str(goal)
    rival = str(row.get("rival", ""))
    return [str(row["benchmark"]), rival, f"{row['ratio']:.3g}", goal, str(spread), reached]


if __name__ == "__main__":
    sys.exit(main())
