"""Commands in this process."""

import pytest

from tests.helpers.commands import Command, in_this_process


@pytest.fixture
def orchestrator(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return in_this_process(capsys, monkeypatch)
