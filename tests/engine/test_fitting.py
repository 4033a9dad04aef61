"""Several detectors fitted from one pass."""

from __future__ import annotations

import functools
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from greenlet import getcurrent, greenlet
from torch import Tensor

import oodbench
from oodbench import Detector, Outputs, register
from oodbench.detector import Batches
from oodbench.engine.fitting import fit_together
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.fitting_pass import pass_outputs
from oodbench.engine.passes.runner import NetworkRunner

Make = Callable[..., Any]


class Source:
    """Passes of five batches of two images whose features are their index and label."""

    def __init__(self, fail_at: int | None = None, batches: int = 5) -> None:
        self.passes = 0
        self.made: list[int] = []
        self.fail_at = fail_at
        self.batches = batches

    def __call__(self) -> Iterator[Outputs]:
        self.passes += 1
        for index in range(self.batches):
            if index == self.fail_at:
                raise OSError("the disk is gone")
            self.made.append(index)
            labels = torch.tensor([index % 3, (index + 1) % 3])
            features = torch.stack([torch.full((2,), float(index)), labels.float()], dim=1)
            yield Outputs(torch.zeros(2, 3).double(), features, labels=labels)


@register("recorder", needs=("features", "fit", "labels"))
class Recorder(Detector):
    """Notes every batch that it sees."""

    def __init__(self, log: list[str] | None = None, name: str = "") -> None:
        self.log = log if log is not None else []
        self.name = name
        self.seen: list[list[int]] = []
        self.classes = 0

    def fit(self, batches: Batches) -> None:
        self.classes = batches.num_classes
        self.this_pass(batches)

    def this_pass(self, batches: Batches) -> None:
        self.seen.append([])
        for outputs in batches:
            self.note(outputs)

    def note(self, outputs: Outputs) -> None:
        assert outputs.labels is not None
        assert outputs.features[:, 1].tolist() == outputs.labels.tolist(), "not its own labels"
        index = int(outputs.features[0, 0])
        self.seen[-1].append(index)
        self.log.append(f"{self.name}{index}")

    def score(self, outputs: Outputs) -> Tensor:
        raise AssertionError("nothing is scored here")


class Twice(Recorder):
    def fit(self, batches: Batches) -> None:
        self.this_pass(batches)
        self.this_pass(batches)


class Breaks(Recorder):
    def fit(self, batches: Batches) -> None:
        self.seen.append([])
        for outputs in batches:
            self.note(outputs)
            if len(self.seen[-1]) == 2:
                break


class BreaksTwice(Breaks):
    def fit(self, batches: Batches) -> None:
        super().fit(batches)
        self.this_pass(batches)


class Raises(Recorder):
    def fit(self, batches: Batches) -> None:
        self.seen.append([])
        for outputs in batches:
            self.note(outputs)
            if len(self.seen[-1]) == 2:
                raise ValueError("no more of this")


class RaisesAfterwards(Recorder):
    def fit(self, batches: Batches) -> None:
        self.this_pass(batches)
        raise ValueError("the matrix is singular")


class RaisesAtOnce(Recorder):
    def fit(self, batches: Batches) -> None:
        raise ValueError("not even one")


class NeverIterates(Recorder):
    def fit(self, batches: Batches) -> None:
        self.classes = batches.num_classes


class Zips(Recorder):
    def fit(self, batches: Batches) -> None:
        for _ in zip(batches, batches, strict=True):
            pass


ALL = [0, 1, 2, 3, 4]


@pytest.fixture(autouse=True)
def _no_fit_stays() -> Iterator[None]:
    known = {id(each) for each in waiting_greenlets()}
    yield
    stayed = [each for each in waiting_greenlets() if id(each) not in known]
    assert not stayed, "a fit still waits for batches"


def waiting_greenlets() -> list[greenlet]:
    """Those that a fit runs in: a thread's own one has no parent, and may outlive its thread."""
    return [
        each
        for each in gc.get_objects()
        if type(each) is greenlet and each and each.parent is not None and each is not getcurrent()
    ]


def fit(source: Source, **detectors: Recorder) -> dict[str, Exception | None]:
    fitted = fit_together(detectors, source, num_classes=3)
    assert list(fitted) == list(detectors)
    assert all(result.seconds >= 0 for result in fitted.values())
    return {name: result.error for name, result in fitted.items()}


def test_one_pass_serves_all() -> None:
    source = Source()
    detectors = {name: Recorder() for name in "abc"}
    assert fit(source, **detectors) == dict.fromkeys("abc")
    assert source.passes == 1
    for detector in detectors.values():
        assert detector.seen == [ALL]
        assert detector.classes == 3


def test_second_pass_for_who_wants_it() -> None:
    source = Source()
    once, twice, other = Recorder(), Twice(), Twice()
    fit(source, once=once, twice=twice, other=other)
    assert source.passes == 2
    assert once.seen == [ALL]
    assert twice.seen == other.seen == [ALL, ALL]


def test_early_break_leaves_the_others_alone() -> None:
    source = Source()
    breaks, whole = Breaks(), Recorder()
    fit(source, breaks=breaks, whole=whole)
    assert source.passes == 1
    assert breaks.seen == [[0, 1]]
    assert whole.seen == [ALL]


def test_pass_ends_when_nobody_wants_more() -> None:
    source = Source()
    fit(source, breaks=Breaks(), raises=Raises())
    assert source.made == [0, 1]


def test_break_and_a_new_pass_starts_from_the_first_batch() -> None:
    source = Source()
    breaks, twice = BreaksTwice(), Twice()
    fit(source, breaks=breaks, twice=twice)
    assert source.passes == 2
    assert breaks.seen == [[0, 1], ALL]
    assert twice.seen == [ALL, ALL]


def test_who_raises_fails_alone() -> None:
    source = Source()
    whole, twice = Recorder(), Twice()
    errors = fit(
        source,
        at_once=RaisesAtOnce(),
        whole=whole,
        raises=Raises(),
        afterwards=RaisesAfterwards(),
        twice=twice,
    )
    assert {name: str(error) for name, error in errors.items()} == {
        "at_once": "not even one",
        "whole": "None",
        "raises": "no more of this",
        "afterwards": "the matrix is singular",
        "twice": "None",
    }
    assert source.passes == 2
    assert whole.seen == [ALL]
    assert twice.seen == [ALL, ALL]


def test_nobody_iterates() -> None:
    source = Source()
    detector = NeverIterates()
    assert fit(source, never=detector) == {"never": None}
    assert source.passes == 0
    assert detector.classes == 3
    assert fit_together({}, source, num_classes=3) == {}


def test_empty_pass() -> None:
    source = Source(batches=0)
    twice = Twice()
    assert fit(source, twice=twice) == {"twice": None}
    assert twice.seen == [[], []]
    assert source.passes == 2


@pytest.mark.parametrize("fail_at", [0, 3])
def test_error_of_the_pass_releases_everybody(fail_at: int) -> None:
    """That no fit is left is checked after every test of this module."""
    source = Source(fail_at=fail_at)
    whole = Recorder()
    with pytest.raises(OSError, match="the disk is gone"):
        fit(source, whole=whole, breaks=Breaks(), twice=Twice(), never=NeverIterates())
    assert whole.seen == [list(range(fail_at))]


def test_two_passes_at_once_are_refused() -> None:
    """Each would get every other batch."""
    whole = Recorder()
    errors = fit(Source(), zips=Zips(), whole=whole)
    assert isinstance(errors["zips"], RuntimeError)
    assert "begun another" in str(errors["zips"])
    assert whole.seen == [ALL]


def test_order_is_always_the_same() -> None:
    logs = []
    for _ in range(20):
        log: list[str] = []
        fit(Source(), a=Recorder(log, "a"), b=Twice(log, "b"), c=Breaks(log, "c"))
        logs.append(log)
    first = ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "a3", "b3", "a4", "b4"]
    assert logs[0] == first + [f"b{index}" for index in ALL]
    assert all(log == logs[0] for log in logs)


def test_no_graph_is_recorded_while_fitting() -> None:
    modes = []

    class NotesMode(Recorder):
        def fit(self, batches: Batches) -> None:
            modes.extend(torch.is_grad_enabled() for _ in batches)

    with torch.enable_grad():
        assert fit(Source(), notes=NotesMode()) == {"notes": None}
    assert modes == [False] * 5


def modes() -> tuple[bool, bool, bool]:
    enabled = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    return *enabled, torch.is_autocast_enabled("cpu")


CONTEXTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "grad": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16),
}


class InContext(Recorder):
    """A loop inside a context of torch, and tensors that may be changed only there."""

    def __init__(self, context: str) -> None:
        super().__init__()
        self.context = context
        self.modes: set[tuple[bool, bool, bool]] = set()

    def fit(self, batches: Batches) -> None:
        with CONTEXTS[self.context]():
            total = torch.zeros(2)
            expected = modes()
            for outputs in batches:
                assert modes() == expected
                total += outputs.features.sum(dim=0)
                self.note_modes()
        assert modes() == (False, False, False), "fit starts without gradients"

    def note_modes(self) -> None:
        self.modes.add(modes())


@pytest.mark.parametrize("outside", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_contexts_of_a_fit_reach_nobody_else(
    outside: Callable[[], AbstractContextManager[None]],
) -> None:
    in_passes = set()

    class Watched(Source):
        def __call__(self) -> Iterator[Outputs]:
            for outputs in super().__call__():
                in_passes.add(modes())
                yield outputs

    detectors = {name: InContext(name) for name in CONTEXTS}
    with outside():
        here = modes()
        assert fit(Watched(), **detectors) == dict.fromkeys(CONTEXTS)
        assert modes() == here
    assert in_passes == {here}
    assert {name: each.modes for name, each in detectors.items()} == {
        "grad": {(True, False, False)},
        "no_grad": {(False, False, False)},
        "inference": {(False, True, False)},
        "autocast": {(False, False, True)},
    }


def test_contexts_of_an_abandoned_fit_reach_nobody() -> None:
    detectors = {name: InContext(name) for name in CONTEXTS}
    before = modes()
    with pytest.raises(OSError, match="the disk is gone"):
        fit(Source(fail_at=2), **detectors)
    assert modes() == before


def test_an_interrupt_ends_everything() -> None:
    class Interrupted(Recorder):
        def note(self, outputs: Outputs) -> None:
            raise KeyboardInterrupt

    whole = Recorder()
    with pytest.raises(KeyboardInterrupt):
        fit(Source(), whole=whole, interrupted=Interrupted())
    assert whole.seen == [[0]]


def test_an_abandoned_fit_that_catches_everything_ends() -> None:
    class Stubborn(Recorder):
        def fit(self, batches: Batches) -> None:
            for _ in range(3):
                try:
                    self.this_pass(batches)
                except Exception:
                    self.log.append("caught")
                finally:
                    self.log.append("cleaned up")

    stubborn = Stubborn()
    with pytest.raises(OSError, match="the disk is gone"):
        fit(Source(fail_at=1), stubborn=stubborn)
    assert stubborn.log == ["0", "cleaned up"]


def test_batches_cannot_be_had_from_elsewhere() -> None:
    class InAThread(Recorder):
        def fit(self, batches: Batches) -> None:
            def work() -> None:
                try:
                    self.this_pass(batches)
                except RuntimeError as error:
                    self.log.append(str(error))

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

    class Keeps(Recorder):
        def fit(self, batches: Batches) -> None:
            super().fit(batches)
            self.batches = batches

    threaded, keeps = InAThread(), Keeps()
    assert fit(Source(), threaded=threaded, keeps=keeps) == {"threaded": None, "keeps": None}
    assert threaded.log == ["batches can be had only while fit runs, and only in its own thread"]
    assert keeps.seen == [ALL]
    with pytest.raises(RuntimeError, match="only while fit runs"):
        next(iter(keeps.batches))


def test_fitted_together_is_fitted_alone(tiny: Make, tiny_data: Make) -> None:
    """Labels belong to their features even if the others come and go in between."""
    classifier, data = tiny(), tiny_data(60, 1)
    runner = NetworkRunner(classifier, batch_size=7, capture=Capture(taps=True))

    class LeavesAndComes(Recorder):
        def fit(self, batches: Batches) -> None:
            next(iter(batches))
            for _ in batches:
                pass

    def this_pass() -> Iterator[Outputs]:
        return pass_outputs(runner, data)

    together = {name: oodbench.load_detector("mahalanobis") for name in ("first", "last")}
    alone = oodbench.load_detector("mahalanobis")
    with runner.attached():
        fit_together({"alone": alone}, this_pass, 3)
        joined = {
            "first": together["first"],
            "leaves": LeavesAndComes(),
            "raises": RaisesAtOnce(),
            "last": together["last"],
        }
        fits = fit_together(joined, this_pass, 3)
    assert fits["leaves"].error is None
    for detector in together.values():
        for tap, gaussian in alone.gaussians.items():  # type: ignore[attr-defined]
            other = detector.gaussians[tap]  # type: ignore[attr-defined]
            torch.testing.assert_close(other.means, gaussian.means, rtol=0, atol=0)
            torch.testing.assert_close(other.covariance, gaussian.covariance, rtol=0, atol=0)


# --- what several detectors share --------------------------------------------------------------


class Sums:
    """A statistic that counts how often it is computed."""

    made: list[Sums] = []  # noqa: RUF012 - the test's own

    def __init__(self, start: int = 0) -> None:
        self.total, self.updates, self.results = float(start), 0, 0
        Sums.made.append(self)

    def update(self, features: Tensor) -> None:
        self.total += float(features[:, 0].sum())
        self.updates += 1

    def result(self) -> Tensor:
        self.results += 1
        if self.total < 0:
            raise ValueError("a negative sum")
        return torch.tensor(self.total)


class Shares(Recorder):
    start = 0
    scale = 1.0
    of = "features"

    def fit(self, batches: Batches) -> None:
        sums = batches.shared(Sums, self.start, of=self.of)
        self.seen.append([])
        for outputs in batches:
            self.note(outputs)
            batches.once(sums.update, self.scale * outputs.features)
        self.result = batches.once(sums.result)


class SharesLater(Shares):
    def fit(self, batches: Batches) -> None:
        self.this_pass(batches)
        super().fit(batches)


class Scaled(Shares):
    scale = 2.0


class ScaledApart(Scaled):
    of = "scaled features"


class Negative(Shares):
    start = -100


@pytest.fixture
def made() -> list[Sums]:
    Sums.made.clear()
    return Sums.made


def test_what_is_shared_is_computed_once(made: list[Sums]) -> None:
    detectors = {"a": Shares(), "b": Shares(), "later": SharesLater(), "c": Shares()}
    fitted = fit_together(detectors, Source(), num_classes=3)
    assert {fit.error for fit in fitted.values()} == {None}
    (sums,) = made
    assert (sums.updates, sums.results) == (5, 1)
    assert {float(each.result) for each in detectors.values()} == {20.0}
    assert detectors["a"].result is detectors["b"].result
    assert all(each.seen[-1] == ALL for each in detectors.values())
    assert fitted["a"].shared_seconds == 0.0
    assert fitted["b"].shared_seconds > 0.0, "alone, it would have computed it"


def test_what_is_not_the_same_is_not_shared(made: list[Sums]) -> None:
    class Later(Shares):
        start = 7

    detectors = {"a": Shares(), "apart": ScaledApart(), "other": Later(), "wrong": Scaled()}
    fitted = fit_together(detectors, Source(), num_classes=3)
    assert [fit.error is None for fit in fitted.values()] == [True, True, True, False]
    assert "given other values by another detector" in str(fitted["wrong"].error)
    assert [float(each.result) for name, each in detectors.items() if name != "wrong"] == [
        20.0,
        40.0,
        27.0,
    ]
    assert len(made) == 3


def test_what_fails_for_one_fails_for_all_who_share_it(made: list[Sums]) -> None:
    errors = fit(Source(), a=Negative(), b=Negative(), c=Shares())
    assert str(errors["a"]) == str(errors["b"]) == "a negative sum"
    assert errors["c"] is None
    assert made[0].results == 1


def test_alone_it_is_as_in_company(made: list[Sums]) -> None:
    breaks, shares = Breaks(), Shares()
    fit(Source(), breaks=breaks, shares=shares)
    alone = Shares()
    fit(Source(), alone=alone)
    assert float(alone.result) == float(shares.result)
    assert [each.updates for each in made] == [5, 5]
