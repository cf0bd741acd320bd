"""The look at the data before Ray starts: its faults are shown together, fatal ones refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainables.data.faults import mark_shown
from trainables.data.look import look
from trainables.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.records import SweepRecord
    from trainables.data.data_settings import Data
    from trainables.data.look import Look


def look_before_sweep(data: Data, console: Console) -> None:
    """Decode the data into the cache that trials read, and show what is there and what is wrong.

    Built-in sources are not read.

    Raises:
        ConfigError: A fault is fatal; all are on the console, the message has the first.
    """
    found = look(data, decode=True)
    if found.classes:
        say(console, found.summary())
    say_faults(found, console)


def say_faults(found: Look, console: Console) -> None:
    """Show all faults, a line each.

    Raises:
        ConfigError: One of them is fatal.
    """
    for line in found.lines():
        say(console, line)
    mark_shown(found.faults)
    found.refuse()


def say(console: Console, text: str) -> None:
    """Print a line as it is: class names and paths may look like markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def describe_images(data: Data) -> dict[str, Any]:
    """Return the summary of the views, and the digest of their content under ``views_digest``."""
    from orchestrator.execution.store_executor import cached_views, views_digest

    views = cached_views(data)
    return {**views.summary, "views_digest": views_digest(views)}


def check_same_images(record: SweepRecord, data: Data) -> None:
    """Return if a sweep that goes on has the images it was started with.

    Raises:
        ConfigError: It has others, with which its trials so far cannot be compared.
    """
    if not record.data or not record.trials:
        return
    now = describe_images(data)
    name = "views_digest" if "views_digest" in record.data else "source_digest"  # of before
    if record.data.get(name) == now[name]:
        return
    before, after = record.data.get("sizes", {}), now["sizes"]
    changed = [
        f"{name} {before[name]} -> {after[name]}"
        for name in before
        if name in after and before[name] != after[name]
    ]
    named = record.experiment.get("data", {}).get("source", data.source)  # the user's words
    raise ConfigError(
        f"sweep '{record.name}': the images of {named} changed since its first trials "
        f"({', '.join(changed[:3]) or 'other content'}), which cannot be compared with new ones; "
        "give a new --name, or the images it was started with"
    )
