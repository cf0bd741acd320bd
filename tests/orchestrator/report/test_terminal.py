"""Nothing that is printed can send control characters to the terminal."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.cli.terminal_tables import sweeps_table, versions_table
from orchestrator.records import PromotionRecord, SweepRecord
from orchestrator.report import terminal
from orchestrator.trials.progress import _verdict
from tests.helpers.factory import make_record
from trainables.text.redaction import print_error

EVIL = "\x1b[2J\x1b]0;owned\x07cat\x9b31m\r\x08[/b]"
SHOWN = "\ufffd[2J\ufffd]0;ownedcat\ufffd31m[/b]"  # rich drops the bell and the returns itself


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\x9b", "\r", "\x08"} & set(text), repr(text)
    return text


def record(tmp_path: object) -> SweepRecord:
    found = make_record(tmp_path, trials=2)  # type: ignore[arg-type]
    found.name, found.space = EVIL, EVIL
    return found


@pytest.mark.parametrize(
    "show",
    [
        lambda console, path: console.print(EVIL, markup=False),
        lambda console, path: console.print(Text(EVIL)),
        lambda console, path: console.print(sweeps_table([record(path)])),
        lambda console, path: console.print(versions_table(EVIL, [(EVIL, EVIL, EVIL)])),
        lambda console, path: console.print(
            *_verdict(PromotionRecord(model=EVIL, version="1", promoted=True, gates=[]), "runs"),
            markup=False,
        ),
    ],
    ids=["text", "Text", "sweeps", "versions", "verdict"],
)
def test_names_reach_the_terminal_without_control_characters(
    capsys: pytest.CaptureFixture[str], tmp_path: object, show: Callable[[Console, object], None]
) -> None:
    show(terminal.console(), tmp_path)
    assert "cat" in printed(capsys)


def test_lines_and_tables_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console = terminal.console()
    table = Table("name")
    table.add_row("one\ntwo")
    console.print("a\nb\tc", markup=False)
    console.print(table)
    text = printed(capsys)
    assert text.startswith("a\nb       c\n")
    assert [word for word in ("one", "two", "┃ name ┃") if word not in text] == []


def test_a_terminal_keeps_its_colors_and_its_live_display() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", highlight=False)
    console.push_render_hook(terminal._Printable())
    with Live(Text("waiting"), console=console, auto_refresh=False):
        console.print(Text(EVIL, style="red"))
    text = out.getvalue()
    assert "\x1b[31m" in text, "rich's color"
    assert SHOWN in text
    assert "owned\x07" not in text


def test_errors_have_neither_passwords_nor_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_error(f"{EVIL} at http://ann:s3cret@host/x\nnext")
    err = capsys.readouterr().err
    whole = "\ufffd[2J\ufffd]0;owned\ufffdcat\ufffd31m\ufffd\ufffd[/b]"
    assert err == f"error: {whole} at http://***@host/x\nnext\n"


@pytest.mark.parametrize("text", ["a [/b] c", "[red]x[/red]", "[bold]", "[0.1, 0.2]"])
def test_brackets_are_no_markup(capsys: pytest.CaptureFixture[str], text: str) -> None:
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    terminal.console().print(text, table)
    assert printed(capsys).count(text) == 4
