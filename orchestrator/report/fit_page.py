"""HTML report of a fit: it opens with the last screen, then classes, gates, and the recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.locking.sweep_lock import write_file
from orchestrator.records import GateRecord, Interval
from orchestrator.report.photo_sections import Section
from trainables.data.source_names import with_last_names
from trainables.errors import readable
from trainables.text.yaml_text import format_yaml

SHOWN_CLASSES = 30  # rows of a table that are shown before it is opened
# what images of no class look like stands between them; text of a page holds no such mark
BEGIN, END = "<!-- images of no class -->", "<!-- end of images of no class -->"
TEMPLATES = Path(__file__).parent / "templates"
_OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")


class ClassRow(NamedTuple):
    """A class: its images, and the share that is named rightly; of which, if of no test images."""

    name: str
    train: int
    test: int
    rate: Interval
    origin: str = ""


class Heading(NamedTuple):
    """Name and version of a model, folder of its photos, backbone, and when it began (ISO 8601)."""

    title: str
    folder: str
    backbone: str
    started: str


def options_whole(line: str) -> str:
    """Return a line as HTML in which no option is broken after its hyphens.

    Example:
        >>> options_whole("fit <photos> --deeper")
        'fit &lt;photos&gt; <span class="whole">--deeper</span>'
    """
    return _OPTION.sub(r'<span class="whole">\g<0></span>', escape(line))


def write_fit_page(
    target: Path,
    heading: Heading,
    *,
    screen: Sequence[str],
    sections: Sequence[Section],
    classes: Sequence[ClassRow],
    gates: Sequence[GateRecord],
    left_out: Mapping[str, Sequence[str]],
    recipe: Mapping[str, Any],
) -> None:
    """Write the page, which needs no network; paths of the recipe are cut to their last names.

    Args:
        target: The file.
        heading: What the page is about.
        screen: Lines of the last screen.
        sections: Sections about the photos.
        classes: The classes, in any order.
        gates: Decisions of the gates.
        left_out: Reason to names of files.
        recipe: Settings of the model that answers.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("fit.html.j2").render(
        **heading._asdict(),
        screen=[options_whole(readable(line)) for line in screen],
        sections=sections,
        classes=sorted(classes, key=lambda row: (row.rate.mean, row.name)),
        few_shown=SHOWN_CLASSES,
        gates=gates,
        left_out=left_out,
        recipe=format_yaml(with_last_names(dict(recipe))),
        place_of_loose=f"{BEGIN}{END}",
    )
    write_file(target, page.encode())


def show_in_page(target: Path, section: Section | None) -> None:
    """Show what images of no class look like in a page that was written before.

    A page that is gone, or of a version without a place for it, stays as it is.

    Args:
        target: The page.
        section: In place of what was shown; ``None``: nothing.
    """
    page = target.read_text(encoding="utf-8") if target.is_file() else ""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        return
    text = ""
    if section is not None:
        title = escape(section.title)
        text = f"\n<section>\n<h2>{title}</h2>\n{section.html}\n</section>\n"
    write_file(target, f"{before}{begin}{text}{end}{after}".encode())
