"""The console command in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from orchestrator.cli import main as cli
from tests.helpers import ROOT


class Done(NamedTuple):
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


def in_this_process(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs a command in the project's folder or another one."""

    def call(*words: str, cwd: Path = ROOT) -> Done:
        monkeypatch.chdir(cwd)
        with pytest.raises(SystemExit) as left:
            cli.main(words)
        code = left.value.code
        assert code is None or isinstance(code, int)
        return Done(code or 0, *capsys.readouterr())

    return call
