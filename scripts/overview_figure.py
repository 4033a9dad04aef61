"""Draw docs/images/quality-cost-light.svg and -dark.svg: a committed run, quality against cost.

python scripts/overview_figure.py
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

import oodbench
from oodbench.report.tables.values import BASELINE_SIGN

ROOT = Path(__file__).parents[1]
RUN = ROOT / "docs" / "results" / "cifar10-folders"
FOLDER = ROOT / "docs" / "images"
BASELINE = "SoftMax+MSP"

LEFT = {
    "SoftMax+NECO": 84.6,
    "SoftMax+Energy": 81.2,
    "DisMax+Entropy": 77.8,
    "SoftMax+MSP": 74.4,
    "SoftMax+GMM": 66.1,
    "SoftMax+MDS": 53.2,
    "SoftMax+ASH": 47.6,
    "DisMax+Energy": 27.5,
}
"""Methods that are named left of their points, and the height of each label in percent."""

BESIDE = {
    "SoftMax+KNN": (4, 11, "center"),
    "SoftMax+ODIN (fixed)": (7, 1, "left"),
    "DisMax+Mahalanobis": (0, -10, "center"),
    "SoftMax+Gram": (-2, 10, "center"),
    "DisMax+Relation": (7, 0, "left"),
}
"""Methods that are named beside their points: distance of the label in points, alignment."""

SLOWEST = 8.8


@dataclass(frozen=True)
class Theme:
    """Colors of one background."""

    text: str
    soft: str
    rule: str
    shade: str
    page: str
    softmax: str
    dismax: str


THEMES = {
    "light": Theme("#1c1e21", "#57606a", "#d8dee4", "#0000000c", "#ffffff", "#0072b2", "#c24a00"),
    "dark": Theme("#e6edf3", "#9aa4af", "#484f58", "#ffffff0f", "#0d1117", "#58a6ff", "#f0883e"),
}


def points() -> dict[str, tuple[float, float]]:
    """Method -> (time in units of the baseline's, mean AUROC in percent) of the committed run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scores are not committed; the picture needs none
        frame = oodbench.open_run(RUN).leaderboard().to_pandas()
    shown = frame.dropna(subset=["relative_to_baseline"])
    return {
        str(row.method): (float(row.relative_to_baseline), 100 * float(row.auroc))
        for row in shown.itertuples()
    }


def description(places: dict[str, tuple[float, float]]) -> str:
    """What the figure shows, as text: it is kept in the files."""
    return "; ".join(f"{name} {x:.2f} {y:.1f}" for name, (x, y) in places.items())


def draw(places: dict[str, tuple[float, float]], theme: Theme) -> Figure:
    """The figure in the colors of a theme."""
    figure = Figure(figsize=(8.3, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_xlim(0.33, SLOWEST)
    axes.set_ylim(24, 88)
    time, quality = places[BASELINE]
    axes.fill_between((time, SLOWEST), 24, quality, color=theme.shade, linewidth=0, zorder=0)
    axes.plot((time, SLOWEST), (quality, quality), color=theme.soft, linewidth=0.8, zorder=1)
    axes.plot((time, time), (24, quality), color=theme.soft, linewidth=0.8, zorder=1)
    axes.text(
        *(SLOWEST * 0.97, quality - 1.4),
        f"slower than the baseline ({BASELINE}) and worse",
        ha="right",
        va="top",
        color=theme.soft,
        fontsize=9.5,
        style="italic",
    )
    for model, color in (("SoftMax", theme.softmax), ("DisMax", theme.dismax)):
        mine = [place for name, place in places.items() if name.startswith(model)]
        axes.scatter(
            *zip(*mine, strict=True),
            s=36,
            color=color,
            alpha=0.85,
            edgecolor=theme.page,
            linewidth=0.7,
            zorder=3,
            label=f"network trained with {model}",
        )
    label(axes, places, theme)
    finish(axes, len(places), theme)
    return figure


def label(axes: Axes, places: dict[str, tuple[float, float]], theme: Theme) -> None:
    """Name the chosen methods, the baseline in bold."""
    line = {"arrowstyle": "-", "color": theme.soft, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3.5}
    style = {"color": theme.text, "fontsize": 10, "va": "center"}
    for name, height in LEFT.items():
        axes.annotate(
            f"{name}  {places[name][1]:.1f}",
            places[name],
            xytext=(0.84, height),
            ha="right",
            weight="bold" if name == BASELINE else "normal",
            arrowprops=line,
            **style,
        )
    for name, (right, up, alignment) in BESIDE.items():
        axes.annotate(
            f"{name}  {places[name][1]:.1f}",
            places[name],
            xytext=(right, up),
            textcoords="offset points",
            ha=alignment,
            **style,
        )


def finish(axes: Axes, count: int, theme: Theme) -> None:
    """Axes, titles and legend."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.soft)
    axes.grid(axis="y", color=theme.rule, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.soft, labelsize=10, length=0)
    axes.xaxis.set_major_locator(FixedLocator([1, 2, 4, 8]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}{BASELINE_SIGN}"))
    axes.yaxis.set_major_locator(FixedLocator([30, 40, 50, 60, 70, 80]))
    axes.set_xlabel("time per image, relative to the baseline", color=theme.text, fontsize=10)
    axes.set_title(
        f"AUROC (%) and cost of {count} methods: CIFAR-10 against Tiny-ImageNet",
        loc="left",
        color=theme.text,
        fontsize=11.5,
        weight="bold",
        pad=10,
    )
    axes.legend(
        loc="lower right", frameon=False, labelcolor=theme.text, fontsize=10, handletextpad=0.2
    )


def main() -> None:
    """Write both files."""
    places = points()
    metadata = {"Date": None, "Description": description(places)}
    with matplotlib.rc_context({"svg.hashsalt": "overview", "font.family": "DejaVu Sans"}):
        for name, theme in THEMES.items():
            path = FOLDER / f"quality-cost-{name}.svg"
            draw(places, theme).savefig(path, transparent=True, metadata=metadata)


if __name__ == "__main__":
    main()
