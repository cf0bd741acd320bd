"""Lines of a fit on a pipe and on a terminal."""

import io

import pytest

from orchestrator.fitting.progress_lines import Lines


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_pipe_gets_a_line_a_minute_and_no_bars() -> None:
    out, clock = io.StringIO(), Clock()
    lines = Lines(out, clock)
    for second in range(0, 200, 10):
        clock.now = float(second)
        lines.step("features", "200 images", second, 200)
    lines.step("features", "200 images", 200, 200)
    lines.say("search", "done")
    written = out.getvalue().splitlines()
    assert written == [
        "features   200 images  30 %  2 min 20 s left",
        "features   200 images  60 %  1 min 20 s left",
        "features   200 images  90 %  20 s left",
        "search     done",
    ]


def test_a_terminal_gets_one_line_that_is_drawn_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    out, clock = Terminal(), Clock()
    lines = Lines(out, clock)
    for done in (0, 50, 100):
        clock.now += 10
        lines.step("features", "100 images", done, 100)
    lines.say("search", "done")
    drawn = out.getvalue().split("\r\x1b[2K")
    assert drawn[0] == ""
    assert drawn[2] == f"features   100 images  {'#' * 15}{'-' * 15}  50 %  10 s left"
    assert drawn[-1] == "search     done\n"
    assert out.getvalue().count("\n") == 1


def test_names_cannot_send_control_characters() -> None:
    out = io.StringIO()
    Lines(out).say("left out", "a\x1b[2Jb.png")
    assert "\x1b" not in out.getvalue()
