"""Style of the figures, and their conversion to SVG with CSS colors or to PNG on white."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colors that color-blind readers can distinguish (Okabe and Ito; Tol). In SVG each is a CSS
# variable with this value as its fallback, so that the page can lighten the color in dark mode.
INK = "#1b1d21"
COLORS = {
    "known": "#0072b2",
    "novel": "#d55e00",
    "unrelated": "#009e73",
    "many": "#4477aa",
    "medium": "#b8960c",
    "few": "#aa3377",
    "quiet": "#8a8f98",
}
BANDS = ("many", "medium", "few")


def svg(figure: Figure) -> str:
    """Return a figure as one transparent ``<svg>`` element with text in ``currentColor``.

    The element loads nothing from elsewhere, and equal figures give equal text.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    style_of_text = mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "orchestrator"})
    with style_of_text, _any_script():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # ids would repeat in every figure of a page
    text = re.sub(r"font-family: [^;\"]+; ?", "", text)  # use the page's font
    text = re.sub(INK, "currentColor", text, flags=re.IGNORECASE)
    for name, color in COLORS.items():
        text = re.sub(color, f"var(--{name}, {color})", text, flags=re.IGNORECASE)
    return text


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG on a white background."""
    buffer = io.BytesIO()
    with _any_script():
        figure.savefig(buffer, format="png", facecolor="white", dpi=144)
    return buffer.getvalue()


@contextmanager
def _any_script() -> Iterator[None]:
    """Ignore that matplotlib's font lacks a letter of a class name: SVG uses the page's font."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def canvas(width: float, height: float, rows: int = 1, **layout: Any) -> tuple[Figure, list[Axes]]:
    """Return a styled figure, sizes in inches, with ``rows`` axes below each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(rows, 1, squeeze=False, **layout)[:, 0])
    for axis in axes:
        style(axis)
    return figure, axes


def style(axis: Axes) -> None:
    """Set thin spines, a faint horizontal grid, and no box."""
    for side, spine in axis.spines.items():
        spine.set_color(INK)
        spine.set_alpha(0.35)
        spine.set_visible(side in ("left", "bottom"))
    axis.tick_params(colors=INK, labelcolor=INK, labelsize=8.5, length=3)
    axis.grid(axis="y", color=INK, alpha=0.12, linewidth=0.7)
    axis.set_axisbelow(True)


def label(axis: Axes, x: str = "", y: str = "") -> None:
    """Set the labels of the axes."""
    axis.set_xlabel(x, color=INK, fontsize=9)
    axis.set_ylabel(y, color=INK, fontsize=9)


def legend(axis: Axes, **where: Any) -> None:
    """Show a legend without a box."""
    axis.legend(frameon=False, labelcolor=INK, fontsize=8.5, **where)


def legend_above(axis: Axes, columns: int = 3) -> None:
    """Show a legend above the axes, so that it covers no data."""
    legend(axis, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
