"""Output of the commands: what is printed cannot send control characters to the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import (
    Console,
    ConsoleOptions,
    ConsoleRenderable,
    RenderableType,
    RenderHook,
    RenderResult,
)
from rich.segment import Segment

from trainables.errors import readable


def console() -> Console:
    """Return a console on standard output, 140 columns wide if the output is not a terminal.

    Control characters in names of classes, files, sweeps and models are replaced, because an escape
    sequence can rewrite what stands on the screen. Brackets in texts are no markup.
    """
    found = Console(highlight=False, markup=False)
    if not found.is_terminal:
        found = Console(highlight=False, markup=False, width=140)
    found.push_render_hook(_Printable())
    return found


class _Printable(RenderHook):
    """Wraps what is printed."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Return the same content without control characters."""
        return [_Clean(item) for item in renderables]


class _Clean:
    """Renders as its content does; rich's own control sequences stay."""

    def __init__(self, content: RenderableType) -> None:
        self._content = content

    def __rich_console__(self, target: Console, options: ConsoleOptions) -> RenderResult:
        yield from _cleaned(target.render(self._content, options))


def _cleaned(segments: Iterable[Segment]) -> Iterable[Segment]:
    for text, style, control in segments:
        if control:
            yield Segment(text, style, control)
        else:
            lines = [readable(line) for line in text.split("\n")]
            yield Segment("\n".join(lines), style)
