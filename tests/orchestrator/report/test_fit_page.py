"""The page of a fit: what is on its screen is text, and options stay whole."""

from pathlib import Path

from orchestrator.report.fit_page import Heading, write_fit_page

LINES = [
    "weakest: <b>cat</b>, taken for dog & fox",
    "orchestrator fit photos --deeper --model a--b   fine-tunes -- about 3 min",
]


def test_lines_of_the_screen_are_text_whose_options_stay_whole(tmp_path: Path) -> None:
    write_fit_page(
        tmp_path / "page.html",
        Heading("photos version 1", "photos", "a backbone", "2026-01-01T00:00"),
        screen=LINES,
        sections=[],
        classes=[],
        gates=[],
        left_out={},
        recipe={},
    )
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    screen = page.split('<pre class="screen">')[1].split("</pre>")[0]
    whole = [part.split("<")[0] for part in screen.split('<span class="whole">')[1:]]
    assert whole == ["--deeper", "--model"]
    assert "weakest: &lt;b&gt;cat&lt;/b&gt;, taken for dog &amp; fox" in screen
    assert " a--b   fine-tunes -- about 3 min" in screen
    assert ".whole { white-space: nowrap; }" in page
