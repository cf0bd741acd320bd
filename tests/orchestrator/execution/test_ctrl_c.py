"""Ctrl-C that a library turned into another error is told as Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, model_serializer

from orchestrator.execution.ctrl_c import INTERRUPTED, keep_ctrl_c


class Slow(BaseModel):
    """Gets Ctrl-C while pydantic serializes it."""

    @model_serializer
    def _interrupted(self) -> dict[str, int]:
        os.kill(os.getpid(), signal.SIGINT)
        return {}


def test_ctrl_c_in_a_serializer_is_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), keep_ctrl_c():
        Slow().model_dump_json()
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_passes_through_several_contexts() -> None:
    with pytest.raises(KeyboardInterrupt), keep_ctrl_c(), keep_ctrl_c():
        Slow().model_dump_json()


def test_an_error_without_ctrl_c_is_itself() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(OSError, match="full"), keep_ctrl_c():
        raise OSError("full")
    assert signal.getsignal(signal.SIGINT) is before


def test_what_catches_ctrl_c_goes_on_without_it() -> None:
    with keep_ctrl_c():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            caught = True
    assert caught


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with keep_ctrl_c():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            Slow().model_dump_json()
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_signals_alone() -> None:
    seen: list[object] = []

    def work() -> None:
        before = signal.getsignal(signal.SIGINT)
        with keep_ctrl_c():
            seen.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


def test_a_step_that_records_errors_passes_ctrl_c_on() -> None:
    from orchestrator.trials.failures import Failures

    record: Any = SimpleNamespace(failures=[])
    with pytest.raises(KeyboardInterrupt), Failures(record, print).noted("finalist"):
        Slow().model_dump_json()
    assert record.failures == []


def test_any_command_says_130(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.cli import main as cli

    monkeypatch.setattr(cli, "app", lambda **_: Slow().model_dump_json())
    with pytest.raises(SystemExit) as left:
        cli.main([])
    assert left.value.code == INTERRUPTED == 130
