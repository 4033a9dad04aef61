"""Progress: a line when nothing was said for long, rates and times left, what evaluate says."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import TensorDataset

import oodbench
from oodbench.data.loaded_splits import LoadedSplits
from oodbench.errors import UserError
from oodbench.progress import Bar, Meter, OneLine, PlainLines, Reporter, Silent, reporter_of
from oodbench.training.trained_models import ModelStore


class Notes:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.details: list[str] = []
        self.ended: list[str] = []
        self.results: list[str] = []
        self.warnings: list[str] = []

    @contextmanager
    def work(self, total: int) -> Iterator[None]:
        yield

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def detail(self, text: str) -> None:
        self.details.append(text)

    def done(self, text: str) -> None:
        self.ended.append(text)

    def result(self, text: str) -> None:
        self.results.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meters speak after every batch."""
    monkeypatch.setattr(Meter, "_INTERVAL", 0.0)


# --- the reporters --------------------------------------------------------------------------------


def lines(patience: float, seconds: float, *, every_stage: bool = True) -> list[str]:
    """What is printed while a stage says nothing but one detail."""
    file = io.StringIO()
    reporter = PlainLines(Console(file=file, width=40), every_stage=every_stage)
    reporter._PATIENCE = patience
    with reporter.work(1):
        reporter.stage("a stage")
        reporter.detail("a detail of more than forty characters, in one line")
        time.sleep(seconds)
        reporter.done("it ended")
    return file.getvalue().splitlines()


def test_nothing_is_silent_for_long() -> None:
    said = lines(0.05, 0.4)
    assert len(said) >= 3
    for line in said[:-1]:
        assert line.endswith("s  ... a stage: a detail of more than forty characters, in one line")
    assert said[-1].endswith("s  it ended")
    assert PlainLines._PATIENCE <= 10


@pytest.mark.parametrize(("every_stage", "count"), [(True, 1), (False, 0)])
def test_short_work_has_a_line_for_each_stage_or_none(every_stage: bool, count: int) -> None:
    assert len(lines(9.0, 0.0, every_stage=every_stage)) == count


def test_a_line_that_is_written_over() -> None:
    written: list[str] = []
    reporter = OneLine(written.append)
    reporter._INTERVAL = 0.0
    with reporter.work(2):
        reporter.stage("first")
        reporter.detail("a long detail of it")
        reporter.done("")
        reporter.stage("second")
        reporter.warn("beware")
    assert [text.strip() for text in written[:3]] == [
        "[0/2] first",
        "[0/2] first: a long detail of it",
        "[1/2] second",
    ]
    assert len(written[2]) >= len(written[1]), "what stood there is written over"
    assert written[3].strip() == "warning: beware"
    assert written[3].endswith("\n")
    assert written[-1].startswith("\r")
    assert not written[-1].strip()


@pytest.mark.parametrize(
    ("progress", "kind"), [(False, Silent), (True, PlainLines), ("auto", PlainLines)]
)
def test_what_can_be_asked_for(progress: Any, kind: type) -> None:
    assert isinstance(reporter_of(progress), kind)


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Console, "is_terminal", property(lambda self: True))
    assert isinstance(reporter_of("auto"), Bar)
    monkeypatch.setattr(Console, "is_jupyter", True, raising=False)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert isinstance(reporter_of("auto"), OneLine)


def test_results_stay_on_a_terminal() -> None:
    file = io.StringIO()
    reporter = Bar(Console(file=file, force_terminal=True, width=60))
    with reporter.work(1):
        reporter.stage("a stage")
        reporter.result("a result of more than sixty characters that is not cut [off] anywhere")
        reporter.done("it ended")
    shown = " ".join(file.getvalue().split())
    assert "a result of more than sixty characters that is not cut [off] anywhere" in shown
    assert "it ended" not in file.getvalue()


@pytest.mark.parametrize("progress", ["yes", None, 3, object()])
def test_what_cannot(progress: Any) -> None:
    with pytest.raises(UserError, match="progress: expected 'auto', True, False or a reporter"):
        reporter_of(progress)


def test_a_reporter_of_ones_own() -> None:
    notes = Notes()
    assert isinstance(notes, Reporter)
    assert reporter_of(notes) is notes


# --- rates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("done", "total", "seconds", "text"),
    [
        (3000, 60000, 2.0, "x: 3,000 of 60,000 images, 1,500 images/s, 0:38 left"),
        (1, 2, 4.0, "x: 1 of 2 images, 0.25 images/s, 0:04 left"),
        (5, None, 1.0, "x: 5 images, 5 images/s"),
        (100, 1_000_000, 1.0, "x: 100 of 1,000,000 images, 100 images/s, 2:46:39 left"),
        (1, 1, 0.1, "x: 1 of 1 image, 10 images/s, 0:00 left"),
        (0, 5, 0.0, "x: 0 of 5 images"),
    ],
)
def test_rate_and_time_left(done: int, total: int | None, seconds: float, text: str) -> None:
    meter = Meter(lambda text: None, "x", total)
    meter.add(done)
    assert meter.text(seconds) == text


def test_a_meter_does_not_speak_of_every_batch() -> None:
    said: list[str] = []
    meter = Meter(said.append, "x", 10**6)
    for _ in range(10_000):
        meter.add(1)
    assert len(said) <= 100


# --- evaluate and training ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    """A model and data for `evaluate`."""
    generator = torch.Generator().manual_seed(0)

    def images(count: int, seed: int) -> TensorDataset:
        labels = torch.arange(count) % 3
        noise = torch.rand(count, 3, 4, 4, generator=generator) * 0.5
        return TensorDataset((noise + labels[:, None, None, None] / 6).clamp(0, 1), labels)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3))
    return {
        "model": model,
        "detectors": ["baseline", "knn", "mahalanobis_single"],
        "id_data": images(60, 1),
        "ood_data": {"far": images(40, 2), "near": images(50, 3)},
        "fit_data": images(90, 4),
    }


@pytest.mark.usefixtures("every_batch")
def test_evaluate_reports_every_pass(small: dict[str, Any]) -> None:
    notes = Notes()
    oodbench.evaluate(**small, costs=True, progress=notes)
    said = "\n".join(notes.details)
    for wanted in (
        "fitting on fit_data: 90 of 90 images",
        "scoring id: 60 of 60 images",
        "scoring far: 40 of 40 images",
        "scoring near: 50 of 50 images",
        "measuring costs",
        "images/s",
        "left",
    ):
        assert wanted in said, f"{wanted!r} is not in:\n{said}"
    assert notes.stages == ["reading the first images", "Sequential", "confidence intervals"]
    assert notes.ended == ["Sequential: 3 detectors"]
    assert notes.details[-3:] == ["baseline", "knn", "mahalanobis_single"]


def test_scores_do_not_depend_on_progress(small: dict[str, Any]) -> None:
    first, second = (oodbench.evaluate(**small, progress=each) for each in (False, Notes()))
    for label, scores in first.scores.items():
        for name, array in scores.items():
            assert np.array_equal(array, second.scores[label][name])


def test_short_evaluations_say_nothing_outside_a_terminal(
    small: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    oodbench.evaluate(**small)
    assert capfd.readouterr() == ("", "")
    oodbench.evaluate(**small, progress=True)
    out, err = capfd.readouterr()
    assert (out, "Sequential: 3 detectors" in err) == ("", True)


@pytest.mark.usefixtures("every_batch")
def test_training_reports_every_step() -> None:
    from oodbench.plugins.catalog import Catalog

    catalog = Catalog()
    spec = catalog.benchmark("digits")
    recipe = spec.models["SoftMax"].training.model_copy(update={"epochs": 2})
    model = spec.models["SoftMax"].model_copy(update={"training": recipe})
    spec = spec.model_copy(update={"models": {"SoftMax": model}})
    notes = Notes()
    data = LoadedSplits({"digits": catalog.dataset("digits")})
    store = ModelStore(spec, data, torch.device("cpu"), notes)
    store.trained("SoftMax", 97)
    said = "\n".join(notes.details)
    assert "training, 2 epochs: " in said
    assert "training, after epoch 1 of 2: loss" in said
    assert "897 of 897 images" in said
    assert "left" in said
