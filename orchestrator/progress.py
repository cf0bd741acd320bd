"""One live display of a sweep: trials, best so far, stages computed and reused, time left."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from orchestrator.records import Objective, PromotionRecord, SweepRecord, TrialRecord


class SweepDisplay:
    """A live table on a terminal; one line per finished trial elsewhere (a log, CI).

    Args:
        record: The sweep's record, read at every refresh.
        total: Number of trials to reach.
        console: Where to draw.
    """

    def __init__(self, record: SweepRecord, total: int, console: Console) -> None:
        self.record, self.total, self.console = record, total, console
        self.started = time.monotonic()
        self.first_done: float | None = None
        self.already = len(finished(record))
        self.progress = Progress(
            TextColumn("[bold]trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self.task = self.progress.add_task("trials", total=total, left="")
        self.live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> SweepDisplay:
        """Start drawing."""
        if self.live is not None:
            self.live.start()
            self.live.update(self.render())
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing; the last state stays on the screen."""
        if self.live is not None:
            self.live.update(self.render())
            self.live.stop()

    def trial_finished(self, trial: TrialRecord) -> None:
        """Show a finished trial."""
        if self.first_done is None:
            self.first_done = time.monotonic() - self.started
        if self.live is not None:
            self.live.update(self.render())
            return
        done = len(finished(self.record))
        self.console.print(
            f"[{done}/{self.total}] trial {trial.number} {ending(trial)} "
            f"{scores(trial, self.record.objectives)}  {trial.seconds:.1f} s"
            + (f"  {trial.error}" if trial.error else ""),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def render(self) -> RenderableType:
        """Return the present state as a renderable."""
        done = len(finished(self.record))
        self.progress.update(self.task, completed=done, left=self._left(done))
        uses = reuse(self.record)
        best = best_trial(self.record)
        table = Table.grid(padding=(0, 2))
        table.add_row("best so far", best)
        table.add_row(
            "stages",
            f"{uses['asked']} asked, {uses['computed']} computed, {uses['reused']} reused",
        )
        return Group(self.progress, table)

    def _left(self, done: int) -> str:
        new = done - self.already
        if new < 1 or done >= self.total:
            return ""
        seconds = (time.monotonic() - self.started) / new * (self.total - done)
        return f"about {seconds:.0f} s left"


def finished(record: SweepRecord) -> list[TrialRecord]:
    """Return the trials that ended, however they ended."""
    return [t for t in record.trials if t.state != "RUNNING"]


def ending(trial: TrialRecord) -> str:
    """Return how a trial ended as text, and on which rung of a ladder.

    Example:
        >>> rung = {"classify.training.until": 4}
        >>> ending(TrialRecord(trial_id="t", number=0, state="PRUNED", params={}, rung=rung))
        'pruned after 4 epochs'
    """
    epochs = trial.rung.get("classify.training.until")
    return f"{trial.state.lower()} after {epochs} epochs" if epochs else trial.state.lower()


def scores(trial: TrialRecord, objectives: list[Objective]) -> str:
    """Return a trial's objective values as text."""
    parts = [
        f"{o.metric.removeprefix('evaluate/')} {trial.metrics[o.metric]:.4f}"
        for o in objectives
        if o.metric in trial.metrics
    ]
    return "  ".join(parts)


def best_trial(record: SweepRecord) -> Text:
    """Return the best completed trial by the first objective."""
    complete = [t for t in record.trials if t.state == "COMPLETE"]
    if not complete:
        return Text("none yet", style="dim")
    first = record.objectives[0]
    sign = 1 if first.mode == "max" else -1
    best = max(complete, key=lambda t: sign * t.metrics.get(first.metric, float("-inf") * sign))
    return Text(f"trial {best.number}: {scores(best, record.objectives)}")


def reuse(record: SweepRecord) -> Counter[str]:
    """Count stage results asked for, computed and reused."""
    counts: Counter[str] = Counter(asked=0, computed=0, reused=0)
    for trial in record.trials:
        for use in trial.stages:
            counts["asked"] += 1
            counts["reused" if use.reused else "computed"] += 1
    return counts


def say_next_steps(record: SweepRecord, folder: Path, console: Console, *, done: bool) -> None:
    """Write the report; print what was computed and reused, the verdict, and how to go on.

    Args:
        record: Of the sweep.
        folder: Of the sweep; the report goes there.
        console: Where to print.
        done: All trials ended; else the command that goes on is printed.
    """
    from orchestrator.report import write_report

    uses = reuse(record)
    console.print(
        f"stage results: {uses['asked']} asked for, {uses['computed']} computed, "
        f"{uses['reused']} reused"
    )
    if record.promotion is not None:
        _say_verdict(record.promotion, console)
    path = write_report(record, folder)
    console.print(f"report   {path}", soft_wrap=True, highlight=False)
    console.print("compare  make ui        then open the address it prints", highlight=False)
    if done:
        console.print("next     orchestrator promote list        versions, aliases, roll back")
    else:
        console.print(f"resume   the same command with --name {record.name}", highlight=False)


def _say_verdict(promotion: PromotionRecord, console: Console) -> None:
    """Print what the registry did, and each gate's reason."""
    verdict = "is now champion" if promotion.promoted else "was refused"
    console.print(f"{promotion.model} version {promotion.version} {verdict}", highlight=False)
    for gate in promotion.gates:
        console.print(
            f"  {'passed' if gate.passed else 'FAILED'}  {gate.name}: {gate.reason}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
