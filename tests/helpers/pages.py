"""The pages of README and docs/: their text, parts, code blocks and commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.helpers import ROOT

DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
MEASURED = sorted((DOCS / "measured").glob("*.md"))
OWN_SPACE = "my_space:vary"  # the worked example of docs/search.md


def text_of(name: str) -> str:
    """Return a page of docs/ by its name."""
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def section(text: str, head: str) -> str:
    """Return the text below a heading of the second level."""
    _, found, after = text.partition(f"\n## {head}\n")
    assert found, head
    return after.partition("\n## ")[0]


def commands(page: Path) -> list[list[str]]:
    """Return the words of every command, without variables that are set before it."""
    text = "".join(blocks(page.read_text(encoding="utf-8"), "sh"))
    lines = [re.sub(r"^(?:\w+=\S+ )+", "", line) for line in text.strip().splitlines()]
    return [shlex.split(line) for line in lines]
