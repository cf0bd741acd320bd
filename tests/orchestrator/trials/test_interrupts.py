"""Ctrl-C is noticed beside Tune's handler, and the handler of before comes back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from orchestrator.execution.infrastructure import InfrastructureError
from orchestrator.trials.interrupts import Interrupts


def test_a_signal_is_noticed_and_passed_on() -> None:
    heard: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))  # as Tune does
        interrupts.listen()
        assert not interrupts.seen
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.seen
        assert heard == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is before


def test_the_handler_comes_back_after_an_error_too() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with Interrupts() as interrupts:
            interrupts.listen()
            raise OSError
    except OSError:
        pass
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_leaves_signals_alone() -> None:
    seen: list[object] = []

    def work() -> None:
        with Interrupts() as interrupts:
            interrupts.listen()
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_check_tells_ctrl_c_from_a_fault() -> None:
    Interrupts().check()  # the loop ended by itself
    pressed, full = Interrupts(), Interrupts()
    pressed.seen = full.seen = True
    full.fault = "no space left on device"
    with pytest.raises(KeyboardInterrupt):
        pressed.check()
    with pytest.raises(InfrastructureError, match="no space left on device"):
        full.check()
