"""House style of the figures: SVG that follows the page's colors, or PNG on white."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Safe for color-blind readers (Okabe and Ito; Tol). In SVG each becomes a CSS variable with this
# value as its fallback, so that a page can lighten it on a dark ground.
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
    """Return a figure as one ``<svg>`` element: transparent, text as text, ink ``currentColor``.

    Nothing in it is loaded from elsewhere, and the same figure gives the same text.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "orchestrator"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # repeated in every figure of a page
    text = re.sub(r"font-family: [^;\"]+; ?", "", text)  # the page's own
    text = re.sub(INK, "currentColor", text, flags=re.IGNORECASE)
    for name, color in COLORS.items():
        text = re.sub(color, f"var(--{name}, {color})", text, flags=re.IGNORECASE)
    return text


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG on white, readable wherever it is shown."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white", dpi=144)
    return buffer.getvalue()


def canvas(width: float, height: float, rows: int = 1, **layout: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure in inches with ``rows`` axes below each other, in the house style."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(rows, 1, squeeze=False, **layout)[:, 0])
    for axis in axes:
        style(axis)
    return figure, axes


def style(axis: Axes) -> None:
    """Give axes thin ink, a faint horizontal grid, and no box."""
    for side, spine in axis.spines.items():
        spine.set_color(INK)
        spine.set_alpha(0.35)
        spine.set_visible(side in ("left", "bottom"))
    axis.tick_params(colors=INK, labelcolor=INK, labelsize=8.5, length=3)
    axis.grid(axis="y", color=INK, alpha=0.12, linewidth=0.7)
    axis.set_axisbelow(True)


def label(axis: Axes, x: str = "", y: str = "") -> None:
    """Name the axes."""
    axis.set_xlabel(x, color=INK, fontsize=9)
    axis.set_ylabel(y, color=INK, fontsize=9)


def legend(axis: Axes, **where: Any) -> None:
    """Show a legend in ink, without a box."""
    axis.legend(frameon=False, labelcolor=INK, fontsize=8.5, **where)


def legend_above(axis: Axes, columns: int = 3) -> None:
    """Show a legend above the axes, where it covers nothing."""
    legend(axis, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
