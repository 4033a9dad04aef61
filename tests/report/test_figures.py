"""Figures drawn from hand-made records: what is in them, by looking into the figure objects."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from oodbench.report import Leaderboard
from oodbench.report.figures import canvas, drawing, gallery
from oodbench.report.seed_means import Estimate
from oodbench.report.training_curves import Curve
from oodbench.specs import SuiteSpec
from oodbench.storage.records import QualityRecord, TrainingRecord
from oodbench.storage.suite_directory import MemberRecords

PNG = b"\x89PNG\r\n\x1a\n"


def curve(model: str, end: float, *, epochs: int = 20, seeds: int = 3) -> Curve:
    numbers = tuple(range(1, epochs + 1))
    mean = tuple(end * (1 - 0.5 ** (1 + number / 2)) for number in numbers)
    return Curve(
        model=model,
        epochs=numbers,
        mean=mean,
        low=tuple(value - 0.01 for value in mean),
        high=tuple(value + 0.01 for value in mean),
        seeds=seeds,
    )


def test_a_picture_on_a_page_does_not_depend_on_the_last_digits_of_its_layout() -> None:
    def page(shift: float) -> str:
        figure = Figure()
        axes = figure.add_axes((0.1 + shift, 0.1, 0.8, 0.8))
        axes.imshow(np.eye(3))
        axes.plot([0, 1], [0, 1], marker="o")
        return canvas.svg(figure, "name")

    text = page(0.0)
    assert page(1e-12) == text
    used = {*re.findall(r"url\(#([^)]+)\)", text), *re.findall(r'href="#([^"]+)"', text)}
    assert used
    assert used <= set(re.findall(r'\bid="([^"]+)"', text))


def shown(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_visible()]


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def epoch(number: int, model: str = "SoftMax", seed: int = 0, **changes: Any) -> TrainingRecord:
    known: dict[str, Any] = {
        "run_id": "run",
        "benchmark": "one",
        "model": model,
        "loss": "some",
        "seed": seed,
        "epoch": number,
        "learning_rate": 0.1,
        "train_loss": 0.1,
        "train_accuracy": 0.99,
        "test_loss": 1.0,
        "test_accuracy": 0.5 + number / 100,
        "seconds": 1.0,
    }
    return TrainingRecord(**(known | changes))


def quality(model: str, value: float, *, metric: str = "tnr_at_95_tpr") -> QualityRecord:
    detection = metric != "id_accuracy"
    return QualityRecord(
        run_id="run",
        benchmark="one",
        benchmark_version=1,
        method=f"{model}+Entropy",
        model=model,
        loss="some",
        detector="dismax_entropy",
        detector_params={},
        tuned_on="none",
        seed=0,
        id_dataset="svhn",
        ood_dataset="cifar100" if detection else None,
        ood_group="far" if detection else None,
        metric=metric,
        value=value,
        ci_low=value - 0.02,
        ci_high=value + 0.01,
        n_id=100,
        n_ood=50 if detection else None,
    )


# --- test accuracy --------------------------------------------------------------------------------


def test_accuracy_has_a_plot_for_each_panel_and_a_line_for_each_model() -> None:
    curves = [curve("SoftMax", 0.95), curve("DisMax", 0.94)]
    panels = [
        drawing.Panel("A", 0, 0, curves),
        drawing.Panel("B", 0, 1, curves[:1]),
        drawing.Panel("C", 1, 0, curves),
    ]
    drawn = shown(drawing.accuracy(panels, "suite"))
    assert [axes.get_title(loc="left") for axes in drawn] == ["A", "B", "C"]
    assert [len(axes.lines) for axes in drawn] == [2, 1, 2]
    line = drawn[0].lines[0]
    np.testing.assert_allclose(line.get_xdata(), curves[0].epochs)
    np.testing.assert_allclose(line.get_ydata(), [100 * value for value in curves[0].mean])
    # Axes are named where they begin: below the lowest plot of a column, left of the leftmost.
    assert [axes.get_xlabel() for axes in drawn] == ["", "Epoch", "Epoch"]
    assert [bool(axes.get_ylabel()) for axes in drawn] == [True, False, True]


def test_lines_are_labeled_where_they_end_and_not_on_each_other() -> None:
    panel = drawing.Panel("", 0, 0, [curve(name, 0.95) for name in ("one", "two", "three")])
    (axes,) = shown(drawing.accuracy([panel], "run"))
    assert sorted(text.split()[0] for text in texts(axes)) == ["one", "three", "two"]
    heights = sorted(text.xy[1] for text in axes.texts)  # type: ignore[attr-defined]
    inches = 3.0  # the plot is higher than that, and a line of text 0.13 inches
    assert min(np.diff(heights)) * inches > 0.13
    assert heights[-1] <= 1.0


def test_the_end_of_the_training_fills_the_plot() -> None:
    panel = drawing.Panel("", 0, 0, [curve("SoftMax", 0.95, epochs=100)])
    (axes,) = shown(drawing.accuracy([panel], "run"))
    low, high = axes.get_ylim()
    assert low > 80, "the first tenth of the epochs is cut off"
    assert 95 < high < 100


def test_one_seed_has_no_range() -> None:
    for seeds, bands in ((1, 0), (3, 1)):
        panel = drawing.Panel("", 0, 0, [curve("SoftMax", 0.95, seeds=seeds)])
        figure = drawing.accuracy([panel], "run")
        assert len(shown(figure)[0].collections) == bands
        assert ("seeds" in str(figure.get_suptitle())) == bool(bands)


# --- alpha ----------------------------------------------------------------------------------------

POINTS = {
    alpha: Estimate(mean=value, std=None, ci_low=value - 0.03, ci_high=value + 0.02, seeds=1)
    for alpha, value in ((1.0, 0.7), (10.0, 0.9), (100.0, 0.85))
}


def test_alpha_has_a_logarithmic_axis_with_every_alpha_on_it() -> None:
    figure = drawing.alpha(
        [drawing.AlphaLine("Entropy against cifar100", POINTS)],
        drawing.AlphaLine("", POINTS),
        "run",
    )
    left, right = shown(figure)
    for axes in (left, right):
        assert axes.get_xscale() == "log"
        assert list(axes.get_xticks()) == [1.0, 10.0, 100.0]
        np.testing.assert_allclose(axes.lines[0].get_ydata(), [70, 90, 85])
    assert "Entropy against cifar100" in left.get_title(loc="left")
    assert right.get_title(loc="left") == "Test accuracy (%)"
    (bars,) = left.containers
    segments = bars.lines[2][0].get_segments()
    np.testing.assert_allclose(segments[0], [[1, 67], [1, 72]])


def test_alpha_without_intervals() -> None:
    bare = {each: Estimate(0.5, None, None, None, 1) for each in (1.0, 3.0)}
    figure = drawing.alpha([drawing.AlphaLine("x", bare)], drawing.AlphaLine("", bare), "run")
    assert len(shown(figure)) == 2


MODEL = {"network": "n", "head": "dismax", "training": {"epochs": 1}}


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (
            {
                "a": {**MODEL, "loss_options": {"alpha": 1}},
                "b": {**MODEL, "loss_options": {"alpha": 3}},
            },
            {"a": 1.0, "b": 3.0},
        ),
        ({"a": {**MODEL, "loss_options": {"alpha": 1}}}, {}),
        ({"a": {**MODEL, "loss_options": {"alpha": 1}}, "b": MODEL}, {}),
        (
            {
                "a": {**MODEL, "loss_options": {"alpha": 1}},
                "b": {**MODEL, "network": "m", "loss_options": {"alpha": 3}},
            },
            {},
        ),
        ({}, {}),
    ],
)
def test_models_that_differ_in_alpha_alone(
    models: dict[str, Any], expected: dict[str, float]
) -> None:
    assert gallery.alphas_of(models) == expected


# --- which figures there are ----------------------------------------------------------------------


def test_a_run_has_the_figures_that_its_records_allow(tmp_path: Path) -> None:
    records = [
        quality(model, value, metric=metric)
        for model, value in (("a", 0.7), ("b", 0.8))
        for metric in ("tnr_at_95_tpr", "id_accuracy")
    ]
    models = {
        "a": {**MODEL, "loss_options": {"alpha": 1}},
        "b": {**MODEL, "loss_options": {"alpha": 10}},
    }
    board = Leaderboard.from_records(records, [])
    found = gallery.of_run(models, board, [epoch(1, "a"), epoch(2, "a")], None)
    assert list(found) == ["test-accuracy", "alpha"]
    left, _ = shown(found["alpha"])
    assert left.get_title(loc="left") == "TNR at 95 % TPR (%), Entropy against cifar100"
    np.testing.assert_allclose(left.lines[0].get_ydata(), [70, 80])
    paths = gallery.save_all(found, tmp_path / "new")
    assert [path.name for path in paths] == ["test-accuracy.png", "alpha.png"]
    for path in paths:
        assert path.read_bytes().startswith(PNG)
    last_alone = [epoch(1, test_accuracy=None), epoch(2)]
    for training in ([epoch(1, test_accuracy=None)], last_alone):
        assert gallery.of_run({}, board, training, None) == {}


def test_a_suite_has_a_plot_for_each_benchmark_in_its_place() -> None:
    suite = SuiteSpec.model_validate(
        {
            "schema_version": 1,
            "name": "suite",
            "version": 1,
            "title": "T",
            "summary": "S",
            "members": {
                "one": {"network": "DenseNet", "id": "CIFAR10"},
                "two": {"network": "ResNet", "id": "SVHN"},
                "three": {"network": "ResNet", "id": "CIFAR10"},
            },
        }
    )
    members = [
        MemberRecords(name, name, training=[epoch(1), epoch(2)]) for name in ("one", "two")
    ] + [MemberRecords("three", "three")]
    figure = gallery.of_suite(suite, members)["test-accuracy"]
    assert [axes.get_title(loc="left") for axes in shown(figure)] == [
        "DenseNet, CIFAR10",
        "ResNet, SVHN",
    ]
    assert gallery.of_suite(suite, [MemberRecords("one", "one")]) == {}


def test_figures_are_drawn_without_pyplot() -> None:
    code = (
        "import sys, oodbench.report.figures.drawing;"
        "print([m for m in ('torch', 'matplotlib.pyplot', 'tkinter') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
