"""Run the benchmarks and print one table: benchmark, baseline, ratio, goal, spread, reached.

    python -m benchmarks            all benchmarks
    python -m benchmarks loader     one benchmark
    python -m benchmarks --data cifar10 --script pytorch-image-models/train.py    with real images
    python -m benchmarks --page docs/measured/performance.md    write the latest rows as a page

Each benchmark is a file of this folder that prints JSON rows, which are kept in
``runs/benchmarks/<name>.jsonl``. The exit status is 1 if a goal is missed or results differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.goals import goal_of
from orchestrator.environment import git_commit

HERE = Path(__file__).parent
ROWS = Path("runs/benchmarks")
KEPT = HERE / "rows"
PAGE = "docs/measured/performance.md"  # where the page stands in the repository
TAKES = {
    "--data": ("gpu", "gpu_trials", "loader", "reuse", "small_budget", "timm_train"),
    "--script": ("timm_train",),
}
HELPERS = ("goals", "frozen_search", "timm_alone")  # files of this folder that are no benchmarks
PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "numpy")


def names() -> list[str]:
    """Return the names of the benchmarks, one per file of this folder."""
    files = (path.stem for path in HERE.glob("*.py"))
    return sorted(stem for stem in files if not stem.startswith("__") and stem not in HELPERS)


def run(name: str, arguments: list[str]) -> tuple[list[dict[str, Any]], int]:
    """Run one benchmark in a fresh process and return its rows and exit status."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    stamp = {"commit": git_commit(12), "date": f"{datetime.now(UTC):%Y-%m-%d}", "cpu": processor()}
    rows = [
        {**json.loads(line), **stamp} for line in done.stdout.splitlines() if line.startswith("{")
    ]
    if done.returncode and not rows:
        sys.stderr.write(done.stderr)
    ROWS.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (ROWS / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return rows, done.returncode


def arguments(name: str, options: argparse.Namespace) -> list[str]:
    """Return the options of this command that a benchmark accepts."""
    given = {"--data": options.data, "--script": options.script}
    return [
        part
        for option, value in given.items()
        if value and name in TAKES[option]
        for part in (option, value)
    ]


def main() -> int:
    """Run the chosen benchmarks and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"benchmarks: {', '.join(names())}; default: all")
    parser.add_argument("--data", help=f"folder of real images for {', '.join(TAKES['--data'])}")
    parser.add_argument("--script", help="timm's train.py for timm_train")
    parser.add_argument(
        "--page", type=Path, help="write the latest rows of all benchmarks to this file"
    )
    options = parser.parse_args()
    if options.page:
        options.page.write_text(page(), encoding="utf-8")
        KEPT.mkdir(exist_ok=True)
        for name in names():  # the raw rows behind the page
            if (ROWS / f"{name}.jsonl").is_file():
                shutil.copy(ROWS / f"{name}.jsonl", KEPT / f"{name}.jsonl")
        return 0
    unknown = sorted(set(options.names) - set(names()))
    if unknown:
        parser.error(f"no benchmark called {', '.join(unknown)}; allowed: {', '.join(names())}")
    table = Table("benchmark", "baseline", "ratio", "goal", "spread", "reached")
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
    """Return the latest rows as a Markdown page, with machine and package versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    machine = f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    lines = [
        "# Performance",
        "",
        "Each row is one case of `benchmarks/`; both sides are measured in the same run. The",
        "ratio is the baseline's median cost divided by ours; `loader`, `precision`, `startup` and",
        "times of `features` divide ours by the baseline's; their goal is the largest that passes.",
        "Goals, with their dates and changes, are in `benchmarks/goals.yaml`, raw rows in",
        "`benchmarks/rows/`.",
        "The spread is the slowest repeat divided by the fastest.",
        "",
        f"Written by `python -m benchmarks --page {PAGE}`; {machine}; {versions}.",
        "",
        "| benchmark | baseline | ratio | goal | spread | reached | measured at |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names():
        files = [folder / f"{name}.jsonl" for folder in (ROWS, KEPT)]
        text = next((file.read_text(encoding="utf-8") for file in files if file.is_file()), "")
        rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        for row in (row for row in rows if "ratio" in row):
            *start, reached = cells(row)
            plain = {"[green]yes[/]": "yes", "[red]no[/]": "**no**"}.get(reached, reached)
            when = f"{row.get('commit', '')} {row.get('date', '')}".strip() or "not recorded"
            busy = "busy" if "load" in row else ""  # other programs had the cores too
            measured = ", ".join(part for part in (when, row.get("cpu", ""), busy) if part)
            lines.append(f"| {' | '.join(start)} | {plain} | {measured} |")
        if not any("ratio" in row for row in rows):
            lines.append(f"| {name} | | not measured | | | | |")
    return "\n".join(lines) + "\n"


def processor() -> str:
    """Return the processor's name from ``/proc/cpuinfo``, or else the architecture."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row's cells as text."""
    spread = row.get("spread", "")
    if isinstance(spread, dict):
        spread = ", ".join(f"{k} {v}" for k, v in spread.items())
    # "rival": the key of rows that were measured earlier
    baseline = str(row.get("baseline", row.get("rival", "")))
    # judged by today's goals: what a row said of itself when it was measured may be outdated
    goal = goal_of(str(row["benchmark"]), baseline)
    shown = "none" if goal is None else f"{goal.bound:.3g}"
    reached = "no goal"
    if goal is not None:
        good = row.get("correct", True) and goal.reached(row["ratio"])
        reached = "[green]yes[/]" if good else "[red]no[/]"
    return [str(row["benchmark"]), baseline, f"{row['ratio']:.3g}", shown, str(spread), reached]


if __name__ == "__main__":
    sys.exit(main())
