"""Images of a user's DataLoader or Dataset, as checked batches for several passes.

A user's data set runs the user's code: every batch is checked before it is used, and errors name
the argument and the position of the image.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from inspect import isgeneratorfunction
from math import inf
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from oodbench.data.duplicates import fingerprints
from oodbench.errors import UserError, kind_of, with_article
from oodbench.user_data.batch_contents import (
    ONE_SIZE,
    TRANSFORM,
    WITH_TRANSFORM,
    Batch,
    BatchParts,
    check_classes,
    check_values,
    described,
    image_batch,
    is_array,
    item_image,
    label_batch,
    split_batch,
)
from oodbench.user_data.declared_classes import declared_classes
from oodbench.user_data.loader_order import generators, in_order, unordered_sampler

_BATCH = 256
"""Batch size for Datasets."""
_PLACES = 1 << 22
"""Maximum of images x height x width in a batch: large images come in smaller batches."""
_EXPECTED = "a DataLoader or a Dataset of (image, label)"
_READ_AGAIN = (
    "Give data that can be read again: a DataLoader, a Dataset, or an object with an __iter__ that "
    "begins anew each time. The data are read more than once."
)


class LoadedImages:
    """Images, and labels if they are needed, of a DataLoader or a Dataset, in data-set order.

    Args:
        data: a DataLoader, a map-style or iterable Dataset, or another object that can be iterated
            over again, that gives (image, label, ...), images alone, or mappings with such keys as
            "pixel_values" and "labels", or "image" and "label"; one that is no DataLoader gives
            these for one image, or for a batch at a time (`BatchParts.is_batch`). DataLoaders are
            read as `loader_order.in_order` says; `close` restores the states of their generators.
        name: the argument that the data were given as, for messages.
        labeled: whether labels are read. If not, they are ignored, whatever they are.

    Attributes:
        name: as given.
        num_classes: set it to require labels in 0 .. num_classes - 1.
        in_unit_range: set it to require images in [0, 1].
        model_inputs: names of other arguments of the model. Set it to refuse mappings with entries
            of these names, because the model gets the images alone.
        declared: the classes that the data set declares, if labels are read.
        relabel: set it to replace label k by `relabel[k]`.
        fingerprints: one for each image, after the first complete pass (`data.duplicates`).
        scaled: whether there were uint8 images, which are scaled to [0, 1].
        values: lowest and highest value of floating-point images, (inf, -inf) if there are none.
        image_key: the entry of mappings that holds the images; None if there are no mappings. It is
            known after `first`.
        note: remark on the order of the images; "" if they are in data-set order.

    Raises:
        UserError: `data` cannot be read, or not more than once.
    """

    def __init__(self, data: Any, name: str, *, labeled: bool) -> None:
        self.name = name
        self.num_classes: int | None = None
        self.in_unit_range = False
        self.model_inputs: Collection[str] = ()
        self.relabel: Sequence[int] = ()
        self.fingerprints: NDArray[np.uint64] | None = None
        self.scaled = False
        self.values = (inf, -inf)
        self.image_key: str | None = None
        self._labeled = labeled
        self._generators = [(each, each.get_state()) for each in generators(data)]
        self._data = self._readable(data)
        self.declared = declared_classes(data, name) if labeled else None
        inside = getattr(data, "dataset", data)
        self._transform = WITH_TRANSFORM if hasattr(inside, "with_transform") else TRANSFORM
        self.note = self._order_note()
        self._other_entries: set[str] = set()
        self._first: Batch | None = None
        self._begun: Iterator[Batch] | None = None
        self._count: int | None = None

    @property
    def notes(self) -> list[str]:
        """Remarks on how the images were read, for readers of the scores."""
        scaled = f"{self.name} gives images of type uint8: they were scaled to [0, 1]."
        return [note for note in (self.note, scaled if self.scaled else "") if note]

    @property
    def size(self) -> int | None:
        """Number of images; None if the data have no length and no pass is complete."""
        if self._count is not None:
            return self._count
        data: Any = self._data.sampler if isinstance(self._data, DataLoader) else self._data
        try:
            return len(data)
        except Exception:  # of the user's code
            return None

    @property
    def has_labels(self) -> bool:
        """Whether labels are read and the first batch has some."""
        return self.first()[1] is not None

    def first(self) -> Batch:
        """The first batch, with labels as the data give them; the next pass continues after it.

        Raises:
            UserError: there is no image, or the batch is not valid.
        """
        if self._first is None:
            self._begun = self._checked()
            try:
                self._first = next(self._begun)
            except StopIteration:
                raise UserError(
                    f"{self.name} is empty: it gives no images.", f"Give {_EXPECTED} with some."
                ) from None
            if getattr(self._data, "persistent_workers", False):
                self._begun = None  # such a loader has a single iterator
        self._check_other_entries()
        return self._first

    def batches(self) -> Iterator[Batch]:
        """All batches in order, checked: images and labels [B], int64, or None.

        Images are floating-point, [B, C, H, W] or, for other models, [B, ...]; or integers [B, T],
        which are tokens.

        Raises:
            UserError: an image cannot be read or is not valid, or the number of images differs
                from that of another pass.
        """
        self.first()
        # Continue the pass that gave the first batch: a stream cannot be started twice, and
        # starting the workers of a DataLoader twice is slow.
        this_pass, self._begun = self._begun, None
        count, prints = 0, []
        if this_pass is not None:
            assert self._first is not None
            self._check(*self._first, 0)  # attributes may have been set since
            count = len(self._first[0])
            prints.append(fingerprints(self._first[0]))
            yield self._relabeled(*self._first)
        for images, labels in this_pass or self._checked():
            count += len(images)
            if self.fingerprints is None:
                prints.append(fingerprints(images))
            yield self._relabeled(images, labels)
        if self._count not in (None, count):
            raise UserError(
                f"{self.name} gave {self._count} images, and {count} when it was read again.",
                _READ_AGAIN,
            )
        self._count = count
        if self.fingerprints is None:
            self.fingerprints = np.concatenate(prints)

    def close(self) -> None:
        """Release the data and the workers; restore the states of the generators."""
        self._begun = self._first = None
        self._data = ()
        for generator, state in self._generators:
            generator.set_state(state)

    def _readable(self, data: Any) -> Any:
        if isinstance(data, DataLoader):
            return in_order(data)
        if isinstance(data, Iterator) and not isinstance(data, IterableDataset):
            raise UserError(
                f"{self.name}: {described(data)} can be read only once.",
                _READ_AGAIN,
            )
        readable = _is_map(data) or isinstance(data, Iterable)
        parts = data if isinstance(data, tuple | list) and 1 < len(data) < 4 else ()
        if parts and all(map(is_array, parts)) and parts[0].ndim == 4:
            raise UserError(
                f"{self.name}: images and labels come as {kind_of(data)} of arrays.",
                "Make a data set of them: torch.utils.data.TensorDataset(images, labels).",
            )
        if not readable or isinstance(data, str | bytes | Mapping | AbstractSet):
            hint = ""
            if isinstance(data, str | os.PathLike):
                hint = "Read a folder with torchvision.datasets.ImageFolder(folder, transform)."
            elif isinstance(data, Mapping):
                hint = f"Give one of its values, such as data[{next(iter(data), 'test')!r}]."
            elif hasattr(data, "__getitem__"):
                hint = "A map-style Dataset needs __len__."
            elif isgeneratorfunction(data):
                hint = "Give the images of a function as an object whose __iter__ is the function."
            raise UserError(f"{self.name}: expected {_EXPECTED}, not {described(data)}.", hint)
        return data

    def _order_note(self) -> str:
        sampler = unordered_sampler(self._data) if isinstance(self._data, DataLoader) else ""
        if not sampler:
            return ""
        return (
            f"{self.name} was read in the order of its own sampler, {with_article(sampler)}: "
            "scores are in that order."
        )

    def _relabeled(self, images: Tensor, labels: Tensor | None) -> Batch:
        if labels is None or not self.relabel:
            return images, labels
        return images, torch.tensor(self.relabel, device=labels.device)[labels]

    # --- reading -------------------------------------------------------------------------------

    def _checked(self) -> Iterator[Batch]:
        done = 0
        labeled: bool | None = None
        raw = self._loaded() if isinstance(self._data, DataLoader) else self._batched()
        for given, given_labels in raw:
            images = image_batch(given, self.name, done)
            self._record_values(given, images)
            labels = None
            if self._labeled and given_labels is not None:
                labels = label_batch(given_labels, len(images), self.name, done)
            if labeled not in (None, labels is not None):
                raise UserError(
                    f"{self.name}: images have labels up to image {done - 1} and none after it."
                    if labeled
                    else f"{self.name}: images have no labels up to image {done - 1} and have "
                    "some after it."
                )
            labeled = labels is not None
            if len(images) == 0:
                continue
            self._check(images, labels, done)
            yield images, labels
            done += len(images)

    def _loaded(self) -> Iterator[tuple[Any, Any]]:
        """Batches of a DataLoader."""
        for batch in self._reading(lambda: iter(self._data), "the batch from image"):
            parts = self._split(batch, "a batch")
            yield parts.images, parts.labels
            self._position += len(parts.images)

    def _batched(self) -> Iterator[tuple[Any, Any]]:
        """Batches made from the items of other data; those that come as batches as they are."""
        images: list[Any] = []
        labels: list[Any] = []
        size = _BATCH
        whole: bool | None = None
        for item in self._reading(self._items, "image"):
            parts = self._split(item, "an item")
            whole = parts.is_batch if whole is None else whole
            if whole:
                yield torch.as_tensor(parts.images), parts.labels
                self._position += len(parts.images)
                continue
            image = item_image(parts.images, self.name, self._position, self._transform)
            if not images and self._position == 0 and image.ndim > 1:
                size = max(1, min(_BATCH, _PLACES // max(1, image[0].numel())))
            if images and image.shape != images[0].shape:
                raise UserError(
                    f"{self.name}: image {self._position} has shape {list(image.shape)}, those "
                    f"before it {list(images[0].shape)}.",
                    ONE_SIZE,
                )
            images.append(image)
            labels.append(parts.labels)
            self._position += 1
            if len(images) == size:
                yield torch.stack(images), _labels_or_none(labels)
                images, labels = [], []
        if images:
            yield torch.stack(images), _labels_or_none(labels)

    def _items(self) -> Iterator[Any]:
        if isinstance(self._data, IterableDataset) or not _is_map(self._data):
            return iter(self._data)
        return (self._data[index] for index in range(len(self._data)))

    def _split(self, given: Any, what: str) -> BatchParts:
        parts = split_batch(given, self.name, what)
        self._other_entries |= parts.others
        self.image_key = parts.key
        return parts

    def _reading(self, begin: Callable[[], Iterator[Any]], what: str) -> Iterator[Any]:
        """Items of an iterator; errors that it raises get the position in the data."""
        self._position = 0
        try:
            iterator = begin()
        except Exception as error:
            raise self._unreadable(error, what) from error
        while True:
            try:
                given = next(iterator)
            except StopIteration:
                return
            except Exception as error:  # a user's code may raise any type
                raise self._unreadable(error, what) from error
            yield given

    def _unreadable(self, error: Exception, what: str) -> UserError:
        lines = str(error).strip().splitlines() or [""]
        # The message of a worker's error is a traceback; its last line has the original message.
        line = (
            lines[-1] if lines[0].startswith("Caught ") else f"{type(error).__name__}: {lines[0]}"
        )
        hint = ""
        if "PIL." in str(error):
            hint = f"Images are PIL images. {self._transform}"
        elif "equal size" in str(error) or "resize storage" in str(error):
            hint = ONE_SIZE
        position = f"{what} {self._position}"
        if isinstance(self._data, DataLoader):
            position += " on"
        return UserError(f"{self.name}: {position} cannot be read: {line.rstrip('.')}.", hint)

    # --- checks --------------------------------------------------------------------------------

    def _record_values(self, given: Any, images: Tensor) -> None:
        if given.dtype == torch.uint8:
            self.scaled = True
        elif images.is_floating_point() and images.numel():
            low, high = torch.aminmax(images.detach())
            self.values = (min(self.values[0], float(low)), max(self.values[1], float(high)))

    def _check(self, images: Tensor, labels: Tensor | None, done: int) -> None:
        """Check values of images and labels; `done` is the number of images before them."""
        self._check_other_entries()
        check_values(images, self.name, done, in_unit_range=self.in_unit_range)
        if labels is not None and self.num_classes is not None:
            count = len(self.relabel) or self.num_classes
            declared = str(self.declared) if self.relabel else ""
            check_classes(labels, self.name, done, count, declared)

    def _check_other_entries(self) -> None:
        found = sorted(self._other_entries & set(self.model_inputs))
        if found:
            named = ", ".join(map(repr, found))
            raise UserError(
                f"{self.name}: the data have the entries {named} beside the images, and the model "
                "takes them, too; it is given one tensor, the images, so its logits would be "
                "wrong.",
                "Give inputs=, a function of that tensor that makes the others, too, such as "
                'lambda ids: {"input_ids": ids, "attention_mask": (ids != pad_id).long()}; if the '
                "model needs none of them, leave them out of the data.",
            )


def _is_map(data: Any) -> bool:
    """Whether data give their items by position."""
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _labels_or_none(labels: list[Any]) -> list[Any] | None:
    return None if all(label is None for label in labels) else labels
