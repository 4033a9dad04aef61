"""The page about scored images: what is counted, which images are shown, and that it is whole."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from oodbench.metrics.thresholds import Threshold
from oodbench.report.score_page.score_log import ScoreLog
from oodbench.report.score_page.scored_image_page import histogram, render
from oodbench.report.score_page.selection import SHOWN, groups

LIMIT = Threshold(0.0, 0.95, 400, 0.95)
SCORES = [2.0, 1.0, 0.0, -1.0, 3.0, -4.0]
"""Four ID images, then two OOD images; the threshold accepts the first three, and the fifth."""


def log(
    *, threshold: Threshold | None = LIMIT, known: int | None = 4, truth: bool = True
) -> ScoreLog:
    """Of seven files; the seventh, an OOD image, is not read."""
    made = ScoreLog(
        "SoftMax+KNN",
        threshold,
        [f"folder/{number}.png" for number in range(7)],
        ("cat", "<dog>"),
        ["cat", "cat", "<dog>", "cat", "", "", ""] if truth else None,
        known,
    )
    made.add([0, 1, 2], np.array(SCORES[:3]), np.array([0, 1, 1]))
    made.add([3, 4, 5], np.array(SCORES[3:]), np.array([0, 0, 1]))
    made.unreadable.append(("folder/6.png", "it is empty"))
    return made


def shown(of: ScoreLog) -> dict[str, list[int]]:
    return {group.name: list(group.indices) for group in groups(of)}


def test_numbers_and_decisions() -> None:
    assert log().accepted.tolist() == [True, True, True, False, True, False, False]
    assert log().misclassified.tolist() == [False, True, *[False] * 5]
    assert log().summary() == [
        "6 images scored; 4 accepted (66.7 %), 2 rejected; 1 skipped.",
        "75.0 % of the ID images are accepted (95% interval 19.4 to 99.4).",
        "50.0 % of the OOD images are accepted (95% interval 1.3 to 98.7).",
        "75.0 % of the ID images are classified correctly.",
    ]
    assert log(threshold=None, known=None, truth=False).summary() == ["6 images scored; 1 skipped."]


def test_which_images_are_shown() -> None:
    assert shown(log()) == {
        "Accepted OOD images": [4],
        "Rejected ID images": [3],
        "Misclassified and accepted": [1],
        "Nearest to the threshold": [4, 0, 1, 2, 3, 5],
        "Least in-distribution": [5, 3, 2, 1, 0, 4],
        "Most in-distribution": [4, 0, 1, 2, 3, 5],
    }
    assert list(shown(log(threshold=None, known=None, truth=False))) == [
        "Least in-distribution",
        "Most in-distribution",
    ]
    everything = Threshold(-np.inf, 0.95, 3, 1.0)
    assert "Nearest to the threshold" not in shown(log(threshold=everything))
    assert "Rejected ID images" not in shown(log(threshold=everything))


def test_of_many_images_the_first_are_shown() -> None:
    many = ScoreLog("KNN", LIMIT, [str(number) for number in range(1000)])
    many.add(range(1000), np.linspace(-1, 1, 1000), np.zeros(1000, np.int64))
    assert shown(many) == {
        "Nearest to the threshold": list(range(511, 511 - SHOWN, -1)),
        "Least in-distribution": list(range(SHOWN)),
        "Most in-distribution": list(range(999, 999 - SHOWN, -1)),
    }


def pixels(path: str) -> NDArray[np.uint8] | None:
    number = int(Path(path).stem)
    if number == 3:  # removed meanwhile
        return None
    return np.full((3, 200, 100) if number else (1, 8, 8), 40 * number, np.uint8)


def test_the_page_is_one_file() -> None:
    page = render(log(), pixels)
    assert page.isascii()
    assert "<link" not in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:image/|#)", page)
    assert page.count("data:image/png") == 3, "the first image, in three groups"
    assert "not there any more" in page
    assert "&lt;dog&gt;" in page
    assert "<dog>" not in page
    assert "6.png" in page
    assert "it is empty" in page
    assert "Threshold: 0, set on 400 ID images to accept 95 %" in page
    for text in log().summary():
        assert text in page


def test_images_are_whole() -> None:
    size = (3, 32, 32)  # of noise: PNG files of more than 3,000 bytes
    noise = np.random.default_rng(0).integers(256, size=size, dtype=np.uint8)
    page = render(log(), lambda _: noise)
    addresses = re.findall('src="data:image/png;base64,([^"]*)"', page)
    assert len(addresses) == 21
    for address in addresses:
        content = io.BytesIO(base64.b64decode(html.unescape(address), validate=True))
        assert np.array_equal(np.asarray(Image.open(content)), noise.transpose(1, 2, 0))


def test_a_page_without_images_and_without_a_threshold() -> None:
    nothing = ScoreLog("KNN", None, ["a.png"])
    assert "0 images scored" in render(nothing, pixels)
    warned = render(log(threshold=Threshold(-np.inf, 0.95, 3, 1.0)), pixels)
    assert "At least 19 are needed." in warned


@pytest.mark.parametrize("value", [0.0, -1e9, 1e9])
def test_the_histogram_shows_the_threshold(value: float) -> None:
    plot = histogram(log(threshold=Threshold(value, 0.95, 400, 0.95)))
    assert [line.dashed for line in plot.lines] == [False, False, True]
    place = float(re.match(r"M([0-9.]+) ", plot.lines[-1].path)[1])  # type: ignore[index]
    assert 0 < place < plot.width


def test_a_histogram_of_equal_scores() -> None:
    same = ScoreLog("KNN", None, ["a.png", "b.png"])
    same.add([0, 1], np.zeros(2), np.zeros(2, np.int64))
    assert "median 0" in histogram(same).description
