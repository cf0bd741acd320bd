"""Live display of a sweep: trials, what runs, best trial, stages computed and reused, time left."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from orchestrator.execution.progress import LINE_SECONDS, RunProgress, Ticker
from orchestrator.options import command, remedies
from orchestrator.records import Objective, PromotionRecord, SweepRecord, TrialRecord
from orchestrator.report.summary import ending
from trainables.errors import readable


class RunningDisplay:
    """Shows what runs: live on a terminal, else as one line a minute.

    Args:
        console: Console of the display.
        running: Returns the progress of what runs.
    """

    def __init__(self, console: Console, running: Callable[[], Sequence[RunProgress]]) -> None:
        self.console, self._read = console, running
        self._running: Sequence[RunProgress] = ()
        self._read_at = 0.0
        self.live: Live | None = None
        self._ticker = Ticker(self.say, LINE_SECONDS)
        if console.is_terminal:
            self.live = Live(get_renderable=self.render, console=console, refresh_per_second=2)

    def __enter__(self) -> Self:
        """Start the display."""
        (self.live or self._ticker).__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the display; on a terminal its last state stays on the screen."""
        (self.live or self._ticker).__exit__(None, None, None)

    def running(self) -> Sequence[RunProgress]:
        """Return the progress of what runs, read at most once a second."""
        if time.monotonic() >= self._read_at:
            self._running = self._read()
            self._read_at = time.monotonic() + 1.0
        return self._running

    def say(self) -> None:
        """Print what runs as one line."""
        text = "; ".join(progress.text() for progress in self.running())
        self.print(f"running: {text or 'nothing tells its progress yet'}")

    def print(self, text: str) -> None:
        """Print a line as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def render(self) -> RenderableType:
        """Return what runs for rich, a line each."""
        return Group(*(_one_line(progress.text()) for progress in self.running()))


class SweepDisplay(RunningDisplay):
    """Live table on a terminal; in other output a line per finished trial, and one a minute.

    Args:
        record: The sweep's record, read at every refresh.
        total: Number of trials of the sweep.
        console: Console of the display.
        running: Returns the progress of trials that tell it.
    """

    def __init__(
        self,
        record: SweepRecord,
        total: int,
        console: Console,
        running: Callable[[], Sequence[RunProgress]] = tuple,
    ) -> None:
        self.record, self.total = record, total
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
        super().__init__(console, running)

    def running(self) -> Sequence[RunProgress]:
        """Return the progress of each running trial; one that tells nothing yet has its name."""
        told = {progress.label: progress for progress in super().running()}
        labels = [f"trial {trial.number}" for trial in running_trials(self.record)]
        return [told.get(label, RunProgress(label)) for label in labels]

    def trial_finished(self, trial: TrialRecord) -> None:
        """Show a finished trial."""
        if self.first_done is None:
            self.first_done = time.monotonic() - self.started
        if self.live is not None:
            return
        done = len(finished(self.record))
        self.print(
            f"[{done}/{self.total}] trial {trial.number} {ending(trial)} "
            f"{scores(trial, self.record.objectives)}  {trial.seconds:.1f} s"
            + (f"  {trial.error}" if trial.error else "")
        )

    def render(self) -> RenderableType:
        """Return the present state of the sweep for rich."""
        done = len(finished(self.record))
        self.progress.update(self.task, completed=done, left=self._left(done))
        uses = reuse(self.record)
        best = best_trial(self.record)
        table = Table.grid(padding=(0, 2))
        table.add_row("best so far", best)
        table.add_row(
            "stages",
            f"{uses['asked']} used, {uses['computed']} computed, {uses['reused']} reused",
        )
        lines: list[RenderableType] = []
        for progress, trial in zip(self.running(), running_trials(self.record), strict=False):
            lines.append(_one_line(progress.text()))
            lines.append(_one_line(f"  {recipe_text(trial)}", style="dim"))
        return Group(self.progress, table, *lines)

    def _left(self, done: int) -> str:
        new = done - self.already
        if new < 1 or done >= self.total:
            return ""
        seconds = (time.monotonic() - self.started) / new * (self.total - done)
        return f"about {seconds:.0f} s left"


def _one_line(text: str, style: str = "") -> Text:
    """Return a text that is cut at the width of the terminal."""
    return Text(readable(text), style=style, no_wrap=True, overflow="ellipsis")


def recipe_text(trial: TrialRecord) -> str:
    """Return what a trial changes in the base recipe, methods first.

    Example:
        >>> params = {"classify.training.lr": 0.1, "classify.loss": "ldam"}
        >>> recipe_text(TrialRecord(trial_id="t", number=0, state="RUNNING", params=params))
        'classify.loss=ldam classify.training.lr=0.1'
    """
    items = sorted(trial.changes.items(), key=lambda item: not isinstance(item[1], str))
    shown = (f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in items)
    return " ".join(shown) or "the base recipe"


def running_trials(record: SweepRecord) -> list[TrialRecord]:
    """Return the trials that have not ended."""
    return [trial for trial in record.trials if trial.state == "RUNNING"]


def finished(record: SweepRecord) -> list[TrialRecord]:
    """Return the trials that have ended in any state."""
    return [t for t in record.trials if t.state != "RUNNING"]


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
    """Return the numbers of stage results used, computed and reused."""
    counts: Counter[str] = Counter(asked=0, computed=0, reused=0)
    for trial in record.trials:
        for use in trial.stages:
            counts["asked"] += 1
            counts["reused" if use.reused else "computed"] += 1
    return counts


def say_next_steps(
    record: SweepRecord, folder: Path, console: Console, *, storage: str, done: bool
) -> None:
    """Print stage reuse, the gates' verdict, where the report is, and the next commands.

    Args:
        record: Record of the sweep.
        folder: Folder of the sweep and of the report.
        console: Console to print to.
        storage: Storage of the sweep, which the next commands need.
        done: All trials have ended; otherwise the command that resumes the sweep is printed.
    """
    uses = reuse(record)
    lines = [
        f"stage results: {uses['asked']} used, {uses['computed']} computed, {uses['reused']} reused"
    ]
    promotion = record.promotion
    if promotion is not None:
        lines += _verdict(promotion, storage)
    if (folder / "report.html").is_file():
        lines.append(f"report   {folder / 'report.html'}")
    lines.append(f"compare  {command('ui', storage=storage)}   starts the MLflow UI")
    if done and promotion is not None and promotion.version is not None:
        versions = command("promote list", storage=storage, model=promotion.model)
        lines.append(f"next     {versions}   lists versions and aliases")
    elif not done:
        lines.append(f"resume   the same command with --name {shlex.quote(record.name)}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _verdict(promotion: PromotionRecord, storage: str) -> list[str]:
    """Return the result of the promotion, each gate's reason, and the remedies of a refusal."""
    verdict = "is now champion" if promotion.promoted else "was refused"
    gates = [
        f"  {gate.verdict if gate.passed else 'REFUSED':<11}  {gate.name}: {gate.text()}"
        for gate in promotion.gates
    ]
    remedy = [f"  remedy  {line}" for line in remedies(promotion, storage)]
    return [f"{promotion.model} version {promotion.version} {verdict}", *gates, *remedy]


def what_failed(record: SweepRecord) -> str | None:
    """Return in one line why a sweep without a finalist, a verdict or a report has none.

    Example:
        >>> from orchestrator.records import FailureRecord
        >>> trial = TrialRecord(trial_id="t0", number=0, state="COMPLETE", params={})
        >>> nan = FailureRecord(step="finalist", trial_id="t0", seed=1, error="loss is nan")
        >>> record = SweepRecord(
        ...     name="s", space="full", started="", experiment={}, objectives=[], environment={},
        ...     trials=[trial], failures=[nan],
        ... )
        >>> what_failed(record)
        'no finalist completed; the first error: finalist t0, seed 1: loss is nan'
    """
    if not any(trial.state == "COMPLETE" for trial in record.trials):
        return why_nothing_completed(record)
    if not record.finalists:
        first = next((f"; the first error: {f}" for f in record.failures), "")
        return f"no finalist completed{first}"
    failed = [str(f) for f in record.failures if f.step in ("service", "promotion", "report")]
    return f"{'; '.join(failed)}; the same command tries it again" if failed else None


def why_nothing_completed(record: SweepRecord) -> str:
    """Return one line on a sweep in which no trial completed.

    Example:
        >>> failed = TrialRecord(trial_id="t", number=0, state="FAIL", params={}, error="no disk")
        >>> record = SweepRecord(
        ...     name="s", space="full", started="", experiment={}, objectives=[], environment={},
        ...     trials=[failed, failed],
        ... )
        >>> why_nothing_completed(record)
        'no trial completed: 2 failed; the first error: no disk'
    """
    ends = Counter(trial.state for trial in record.trials)
    words = {"FAIL": "failed", "PRUNED": "stopped by the scheduler"}
    counts = ", ".join(f"{n} {words.get(state, state.lower())}" for state, n in ends.items())
    first = next((trial.error for trial in record.trials if trial.error), None)
    reason = f"; the first error: {' '.join(first.split())}" if first else ""
    return f"no trial completed: {counts or 'none was tried'}{reason}"
