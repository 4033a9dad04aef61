"""Negative labels (Jiang et al., ICLR 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.detector import Language
from oodbench.number_checks import positive
from oodbench.numerics import input_checks
from oodbench.numerics.word_lists import word_lists

NOUN_PROMPT = "The nice {}."
ADJECTIVE_PROMPT = "This is a {} photo"


@register(
    "neglabel",
    label="NegLabel",
    title="Negative labels of a vision-language model",
    paper="Negative Label Guided OOD Detection with Pretrained Vision-Language Models",
    authors=(
        "Xue Jiang",
        "Feng Liu",
        "Zhen Fang",
        "Hong Chen",
        "Tongliang Liu",
        "Feng Zheng",
        "Bo Han",
    ),
    venue="ICLR",
    year=2024,
    url="https://arxiv.org/abs/2403.20078",
    code="https://github.com/XueJiang16/NegLabel",
    needs=("features", "language"),
)
class NegativeLabels(Detector):
    """Mean over groups g of sum_ID e^(s_c/T) / (sum_ID e^(s_c/T) + sum_{n in g} e^(s_n/T)).

    s are cosines of the image features and text features. The negative labels n are mined once for
    a model: of all nouns and of all adjectives, each, the 15 % whose .95 quantile of the cosines to
    the ID classes is smallest. They are put into 100 groups of one size by a seeded permutation;
    the remainder is dropped. The authors set T = .01, and have no grid.

    The paper's prompts are used: "The nice {}." for nouns (the authors' code has no full stop) and
    "This is a {} photo" for adjectives. The authors prompt the ID classes with "The nice {}." too;
    here the model's own prompts are used, so that all detectors see one classifier: give it that
    prompt to follow the paper.

    Args:
        words: "wordnet" (nouns and adjectives of WordNet, of the package spacy-lookups-data), or a
            text file with one noun a line.
        adjectives: a text file with one adjective a line, beside a file of nouns; None: no others.
        kept: fraction of the words that is kept.
        quantile: of the cosines of a word to the ID classes.
        temperature: T.
        groups: number of groups; less where there are fewer negative labels.
        seed: of the permutation.
    """

    def __init__(
        self,
        words: str = "wordnet",
        adjectives: str | None = None,
        kept: float = 0.15,
        quantile: float = 0.95,
        temperature: float = 0.01,
        groups: int = 100,
        seed: int = 0,
    ) -> None:
        self.words, self.adjectives = words, adjectives
        self.kept, self.quantile = _fraction("kept", kept), _fraction("quantile", quantile)
        self.temperature = positive("temperature", temperature)
        self.groups, self.seed = input_checks.at_least("groups", groups, 1), seed

    def score(self, outputs: Outputs) -> Tensor:
        """Mean share of the ID classes, in (0, 1), shape [B]."""
        language, features = outputs.language, outputs.features
        assert language is not None
        groups = language.once(
            negative_groups,
            self.words,
            self.adjectives,
            self.kept,
            self.quantile,
            self.groups,
            self.seed,
        ).to(features)
        directions = torch.nn.functional.normalize(features, dim=1)
        cosines = (directions @ groups.flatten(0, 1).T).double().unflatten(1, groups.shape[:2])
        negative = (cosines / self.temperature).logsumexp(dim=2)
        positive = (language.cosines(features) / self.temperature).logsumexp(dim=1, keepdim=True)
        shares: Tensor = (positive - negative).sigmoid()
        return shares.mean(dim=1)


def _fraction(name: str, value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be a fraction in (0, 1], not {value}")
    return value


def negative_groups(
    language: Language,
    words: str,
    adjectives: str | None,
    kept: float,
    quantile: float,
    groups: int,
    seed: int,
) -> Tensor:
    """Text features of the negative labels in groups, shape [G, N, D] (algorithm 1, NegMine).

    Args:
        language: of the model.
        words: as in `NegativeLabels`; so are the others.
        adjectives: file or None.
        kept: fraction.
        quantile: of cosines.
        groups: at most.
        seed: of the permutation.

    Raises:
        UserError: if the words cannot be read.
        ValueError: if no word is kept.
    """
    nouns, others = word_lists(words, adjectives)
    mined = []
    for prompt, names in ((NOUN_PROMPT, nouns), (ADJECTIVE_PROMPT, others)):
        count = int(len(names) * kept)
        if not count:
            continue
        features = language.encode([prompt.format(name) for name in names])
        nearness = torch.cat(
            [language.cosines(rows).quantile(quantile, dim=1) for rows in features.split(4096)]
        )
        mined.append(features[nearness.argsort(stable=True)[:count]])
    if not mined:
        raise ValueError(f"kept = {kept} leaves none of the {len(nouns) + len(others)} words")
    negatives = torch.cat(mined)
    count = min(groups, len(negatives))
    size = len(negatives) // count
    order = torch.randperm(len(negatives), generator=torch.Generator().manual_seed(seed))
    chosen: Tensor = negatives[order[: count * size].to(negatives.device)]
    return chosen.reshape(count, size, -1)
