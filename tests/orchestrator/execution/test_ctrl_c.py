"""Ctrl-C that pydantic turned into another error is told as Ctrl-C."""

from __future__ import annotations

import os
import signal
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


class Wrong(BaseModel):
    """Can't be serialized."""

    @model_serializer
    def _wrong(self) -> dict[str, int]:
        raise ValueError("full")


def test_ctrl_c_in_a_serializer_is_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt), keep_ctrl_c():
        Slow().model_dump_json()


def test_a_model_in_a_model_is_too() -> None:
    class Outer(BaseModel):
        inner: Slow = Slow()

    with pytest.raises(KeyboardInterrupt), keep_ctrl_c(), keep_ctrl_c():
        Outer().model_dump(mode="json")


@pytest.mark.parametrize("name", ["disk full", "KeyboardInterrupt"])
def test_an_error_without_ctrl_c_is_itself(name: str) -> None:
    with pytest.raises(OSError, match=name), keep_ctrl_c():
        raise OSError(name)  # of a folder that is called so
    with pytest.raises(Exception, match="full") as found, keep_ctrl_c():
        Wrong().model_dump_json()
    assert type(found.value).__name__ == "PydanticSerializationError"


def test_an_error_after_ctrl_c_that_was_caught_is_itself() -> None:
    @keep_ctrl_c()
    def save() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise OSError("disk full") from None

    with pytest.raises(OSError, match="disk full"):
        save()


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
