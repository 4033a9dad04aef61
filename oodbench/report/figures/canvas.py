"""What all figures share: colors, grids of plots, legends, files.

`pyplot` is not used: it would keep figures in memory and choose a window system. A figure is at
most as wide as a page, so that its text keeps its size in print. As SVG its colors are variables
of the page, which has light and dark values for them (`report.writers.html`).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = ("#0072b2", "#c24a00", "#008060", "#a8407c", "#b07a00", "#2b8fd0", "#5a4fcf")
"""Those of the site: distinct for color-blind readers, and dark enough for lines on white."""
TEXT, SOFT, RULE, ID, MUTED, PAGE = (
    *("#1c1e21", "#575e6b", "#d5d9df", "#8a919d", "#c4c9d1", "#ffffff"),
)
"""Text, ticks, grid lines, ID images, methods that are not highlighted, background."""

PAGE_WIDTH = 7.0
"""Width of two columns of a journal in inches (178 mm)."""

LineStyle = Literal["-", "--", ":", "-."]

_VARIABLES = {
    **{color: f"c{number}" for number, color in enumerate(COLORS)},
    **{TEXT: "text", SOFT: "soft", RULE: "rule", ID: "id", MUTED: "muted", PAGE: "page"},
}
_DOTS_PER_INCH = 300
_PIXELS = 120
"""Pixels of a page for an inch of a figure."""
_PLAIN = 5
"""Colors that are told apart at a glance; the others resemble one of them."""
_DIGEST = re.compile(r'\bid="([a-z][0-9a-f]{10})"')
"""Identifier that matplotlib gives a clip path or a marker."""
_FONTS = "font-family: system-ui, 'DejaVu Sans', Verdana, sans-serif"


_LEGEND: dict[str, Any] = {
    "frameon": False,
    "fontsize": 8,
    "labelcolor": TEXT,
    "handlelength": 1.8,
    "columnspacing": 1.4,
}


class ShownFigure(Figure):
    """A figure that a notebook shows, also without pyplot."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return png(self), {"width": round(self.get_figwidth() * _PIXELS)}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    figure = ShownFigure(figsize=(width, height), dpi=_DOTS_PER_INCH, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[union-attr, call-arg]
    return figure


def grid(
    rows: int, columns: int, *, width: float, height: float, square: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with plots of this size in inches, all hidden at first.

    Args:
        rows: number of rows.
        columns: number of columns.
        width: of a plot.
        height: of a plot.
        square: whether the plots have fixed proportions; they then stand close together.
    """
    figure = new_figure(width * columns, height * rows + 0.5)
    if square:
        figure.set_layout_engine("compressed", w_pad=0.06, h_pad=0.06, hspace=0.06)
    plots = figure.subplots(rows, columns, squeeze=False)
    for axes in plots.flat:
        axes.set_visible(False)
        plain(axes)
    return figure, [list(row) for row in plots]


def plain(axes: Axes) -> None:
    """Give a plot two axes, thin lines and small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.spines[["left", "bottom"]].set_linewidth(0.7)
    axes.tick_params(colors=SOFT, labelsize=8, width=0.7, length=3)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(TEXT)


def subheading(axes: Axes, text: str) -> None:
    """Put a title above a plot, at the left."""
    axes.set_title(text, loc="left", fontsize=9, color=TEXT)


def named_styles(count: int) -> list[tuple[str, LineStyle]]:
    """A color and a line style for each method that is named; after five colors, dashed."""
    return [
        (color, "-" if number < _PLAIN else "--") for number, color in enumerate(COLORS[:count])
    ]


def colors() -> list[str]:
    """More colors than any figure needs; they repeat after seven."""
    return list(COLORS) * 10


def styles(count: int) -> list[tuple[str, LineStyle]]:
    """A color and a line style for each line; the styles change when the colors repeat."""
    dashes: tuple[LineStyle, ...] = ("-", "--", ":", "-.")
    return [
        (COLORS[index % len(COLORS)], dashes[index // len(COLORS) % len(dashes)])
        for index in range(count)
    ]


def title(figure: Figure, text: str) -> None:
    """Put a title above all plots, at the left."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=10, color=TEXT)


def legend(figure: Figure, handles: Sequence[Artist], width: float) -> None:
    """Add a legend for all plots, below them, for a figure of this width in inches.

    The figure becomes higher, and the plots keep their size.
    """
    longest = max((len(str(each.get_label())) for each in handles), default=1)
    columns = max(1, min(int(width / (0.075 * longest + 0.5)), len(handles)))
    figure.set_figheight(figure.get_figheight() + 0.17 * math.ceil(len(handles) / columns))
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, **_LEGEND)


def legend_in(axes: Axes, handles: Sequence[Artist]) -> None:
    """Put the legend in the place of a plot."""
    axes.set_visible(True)
    axes.set_axis_off()
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(0, 0.5), **_LEGEND)


def png(figure: Figure) -> bytes:
    """The figure as a file for print."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def svg(figure: Figure, name: str) -> str:
    """The figure as an element of a page, as wide as the page allows.

    Args:
        figure: the figure.
        name: names the parts of the image; different for each image of a page.
    """
    content = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    text = content.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var(--{variable}, {color})")
    text = re.sub(r"font: ([\d.]+px) '[^']*'[^;\"]*", rf"font-size: \1; {_FONTS}", text)
    # Clip paths and markers have digests of positions, whose last digits differ from one process to
    # the next: the layout is solved in the order of addresses.
    for number, digest in enumerate(dict.fromkeys(_DIGEST.findall(text)), start=1):
        text = text.replace(digest, f"{name}-part-{number}")
    # A page may have several figures, and matplotlib numbers the groups of each from 1.
    text = re.sub(r'id="([a-z_]+\d+)"', rf'id="{name}-\1"', text)
    width = f"{figure.get_figwidth() * _PIXELS:.0f}px"
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'width="{width}"', text, count=1)
