"""Figures of `oodbench.evaluate`, and its page."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.user_network import Net, evaluated, made, pairs

from oodbench import UserError

pytestmark = pytest.mark.usefixtures("quick_evaluation")


def test_figures_of_an_evaluation(trained: Net) -> None:
    ood = {"noise": pairs(50, 2, "noise")}
    result = evaluated(trained, ["baseline", "energy"], ood_data=ood, metrics="acceptance")
    assert [*result.figures()] == ["roc", "scores"]
    (legend,) = result.figures()["scores"].legends
    assert legend.get_texts()[-1].get_text() == "accepts 95 % of ID validation images"
    found = result.figures({"id": pairs(60, 1), **ood})
    assert [*found] == ["roc", "scores", "confusable-images"]
    best = result.leaderboard().rows[0].method
    shown = [axes for axes in found["confusable-images"].axes if axes.images]
    assert len(shown) == 16
    most = int(np.argmax(result.scores[best]["noise"]))
    expected = made(50, 2, kind="noise")[0][most].mean(dim=0)  # two channels are drawn as gray
    np.testing.assert_allclose(np.asarray(shown[0].images[0].get_array()), expected, atol=1e-6)
    page = result.to_html(ood)
    assert page.count("<svg") == 3
    assert "Threshold transfer" in page


def test_images_that_were_not_evaluated(trained: Net) -> None:
    result = evaluated(trained, "energy", validation_data=None)
    with pytest.raises(UserError, match="no data set 'nois'"):
        result.figures({"nois": pairs(50, 2, "noise")})
    with pytest.raises(UserError, match=r"images\['noise'\] has 5 images"):
        result.figures({"noise": pairs(5, 2, "noise")})
    with pytest.raises(UserError, match="expected a mapping"):
        result.figures(pairs(60, 1))  # type: ignore[arg-type]
