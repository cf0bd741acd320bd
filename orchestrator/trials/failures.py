"""Failures of the steps after the search: each is recorded and shown, and the next step runs."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.execution.ctrl_c import keep_ctrl_c
from orchestrator.execution.infrastructure import infrastructure_fault, one_line
from orchestrator.locking.sweep_lock import SweepLostError
from orchestrator.records import FailureRecord, Step, SweepRecord

if TYPE_CHECKING:
    from rich.console import Console


class Failures:
    """Records failures in a sweep's record.

    Args:
        record: Record of the sweep; the caller saves it.
        say: Shows one line.
    """

    def __init__(self, record: SweepRecord, say: Callable[[str], None]) -> None:
        self.record, self.say = record, say

    def forget(self, step: Step) -> None:
        """Remove the recorded failures of a step that is about to run again."""
        self.record.failures = [f for f in self.record.failures if f.step != step]

    def of(self, step: Step) -> list[FailureRecord]:
        """Return the recorded failures of a step."""
        return [f for f in self.record.failures if f.step == step]

    @contextmanager
    def noted(
        self, step: Step, trial_id: str | None = None, seed: int | None = None
    ) -> Iterator[None]:
        """Record an error of the block instead of raising it.

        Errors of disk, host and Ray, and the loss of the sweep to another driver, are raised: the
        next step would meet them too, and the sweep goes on when it is started again.
        """
        try:
            with keep_ctrl_c():
                yield
        except SweepLostError:
            raise
        except Exception as error:  # whatever fails must not end the other steps
            if infrastructure_fault(error) is not None:
                raise
            details = "".join(traceback.format_exception(error))
            failure = FailureRecord(
                step=step, error=one_line(error), trial_id=trial_id, seed=seed, traceback=details
            )
            self.record.failures.append(failure)
            self.say(f"failed: {failure}")


def report(record: SweepRecord, folder: Path, console: Console) -> str | None:
    """Write the report; an error is recorded, and one of the disk is returned in one line."""
    from orchestrator.report.page import write_report

    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    failures = Failures(record, say)
    failures.forget("report")
    try:
        with failures.noted("report"):
            write_report(record, folder)
    except SweepLostError:
        raise
    except Exception as error:
        return infrastructure_fault(error)
    return None


def save_if_possible(record: SweepRecord, folder: Path) -> str | None:
    """Save the record; return in one line what kept it from the disk, which has the last one.

    Raises:
        SweepLostError: Another driver took the sweep over.
    """
    try:
        record.save(folder)
    except OSError as error:
        return infrastructure_fault(error) or one_line(error)
    return None
