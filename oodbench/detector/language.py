"""The text side of a vision-language model, as a detector reads it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Language:
    """The text side of a vision-language model: `Outputs.language`.

    Attributes:
        class_names: names of the classes, in the order of the labels.
        text_features: what the text encoder gives for the prompts of each class, averaged, shape
            [C, D], of unit length, in the space of `Outputs.features`.
        encode: features of any other texts, shape [T, D], of unit length.
        logit_scale: the factor of the cosines that the model was trained with; None if it has none.
    """

    class_names: tuple[str, ...]
    text_features: Tensor
    encode: Callable[[Sequence[str]], Tensor]
    logit_scale: float | None = None
    _kept: dict[Hashable, Any] = field(default_factory=dict)

    def cosines(self, features: Tensor) -> Tensor:
        """Cosines of image features and the text features of each class.

        Args:
            features: shape [..., D]; of any length.

        Returns:
            Shape [..., C], float64; the product is taken in the features' own precision.
        """
        from torch.nn.functional import normalize

        directions = normalize(features, dim=-1)
        return (directions @ self.text_features.to(directions).T).double()

    def once(
        self,
        make: Callable[Concatenate[Language, P], R],
        *arguments: P.args,
        **unused: P.kwargs,
    ) -> R:
        """`make(self, *arguments)`, computed once for a model.

        Use it for what depends on the texts alone, such as features of a word list: `score` gets a
        new batch each time, and the same `Language`.

        Args:
            make: function of the module, not a method or a lambda.
            arguments: hashable.
            unused: none; `make` gets positional arguments only.
        """
        key = (make, *arguments)
        if key not in self._kept:
            self._kept[key] = make(self, *arguments, **unused)
        found: R = self._kept[key]
        return found
