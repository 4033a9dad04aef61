"""Other people's data: DataLoaders and Datasets of torch as checked batches of images.

What comes in is a user's own code: every batch is checked before anything is computed from it, and
what is wrong is said with the name of the argument and the position of the image.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import inf
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from oodbench.data.duplicates import fingerprints
from oodbench.errors import UserError
from oodbench.user_model.declared import declared_classes

_BATCH = 256
"""Images of a batch where the user does not say."""
_PLACES = 1 << 22
"""Places (height times width) of a batch at most: large images come in smaller batches."""
_CHANNELS = (1, 3)
"""Channels of images of type uint8: what tells [channels, height, width] from other orders."""
_ROUNDING = 1e-3
"""How far outside of [0, 1] a value may be that was resized or decoded."""

_IMAGE_KEYS = (
    *("pixel_values", "image", "images", "img", "imgs", "inputs", "input", "x"),
    *("input_values", "input_features", "input_ids"),
)
"""Keys under which mappings hold the images, or what else a model takes."""
_NEUTRAL = {"attention_mask": 1, "pixel_mask": 1, "token_type_ids": 0}
"""Entries that say nothing if all their values are these: models take them for granted."""
_LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class", "fine_label")

_CONVERT = (
    "Convert them with torchvision.transforms.ToTensor(), or with "
    "v2.ToImage() and v2.ToDtype(torch.float32, scale=True)."
)
_TRANSFORM = (
    "Give the data set a transform, such as torchvision.transforms.Compose("
    "[Resize(256), CenterCrop(224), ToTensor()])."
)
_ONE_SIZE = f"Images must have one size. {_TRANSFORM}"
_EXPECTED = "a DataLoader or a Dataset of (image, label)"

Batch = tuple[Tensor, Tensor | None]


class LoadedImages:
    """Images, and labels where they are wanted, of a DataLoader or a Dataset, in its own order.

    Args:
        data: a DataLoader, or a map-style or iterable Dataset, that gives (image, label), more than
            that, images alone, or mappings with such keys as "pixel_values" and "labels", or
            "image" and "label". A DataLoader that shuffles its data set, or a part of it, is read
            in order, and a last batch that it would drop is read; other samplers are left as they
            are. Its generators are put back by `close`.
        name: the argument that it was given as, for messages.
        labeled: whether labels are read. If they are not, they may be anything.

    Attributes:
        name: as given.
        num_classes: set it to have labels held to 0 .. num_classes - 1.
        in_unit_range: set it to have images held to [0, 1].
        model_inputs: set it to refuse mappings with other entries that the model takes by these
            names: it is given the images alone.
        fingerprints: of every image, once a pass came to its end (`data.duplicates`).
        scaled: whether there were images of type uint8, which are scaled to [0, 1].
        values: lowest and highest value of the other images that were read, (inf, -inf) of none.
        note: what a reader of the scores should know of their order; "" if there is nothing.

    Raises:
        UserError: if it is neither DataLoader nor Dataset.
    """

    def __init__(self, data: Any, name: str, *, labeled: bool) -> None:
        self.name = name
        self.num_classes: int | None = None
        self.in_unit_range = False
        self.model_inputs: Collection[str] = ()
        self._left_out: set[str] = set()
        self.fingerprints: NDArray[np.uint64] | None = None
        self._labeled = labeled
        self._generators = [(each, each.get_state()) for each in _generators(data)]
        self._data = self._readable(data)
        self.declared = declared_classes(data, name) if labeled else None
        self.relabel: Sequence[int] = ()
        self.note = self._order_of(self._data)
        self.scaled = False
        self.values = (inf, -inf)
        self._first: Batch | None = None
        self._begun: Iterator[Batch] | None = None
        self._count: int | None = None

    def _readable(self, data: Any) -> Any:
        if isinstance(data, DataLoader):
            return in_order(data)
        readable = hasattr(data, "__getitem__") and hasattr(data, "__len__")
        if isinstance(data, IterableDataset):
            readable = True
        parts = data if isinstance(data, tuple | list) and 1 < len(data) < 4 else ()
        if parts and all(map(_is_array, parts)) and parts[0].ndim == 4:
            raise UserError(
                f"{self.name}: images and labels come as a {type(data).__name__} of arrays.",
                "Make a data set of them: torch.utils.data.TensorDataset(images, labels).",
            )
        if not readable or isinstance(data, str | bytes | dict):
            hint = ""
            if isinstance(data, str | os.PathLike):
                hint = "Read a folder with torchvision.datasets.ImageFolder(folder, transform)."
            elif hasattr(data, "__getitem__") and not isinstance(data, bytes | dict):
                hint = "A map-style Dataset needs __len__."
            raise UserError(f"{self.name}: expected {_EXPECTED}, not {_described(data)}.", hint)
        return data

    def _order_of(self, data: Any) -> str:
        sampler: Any = None
        if isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset):
            sampler = data.sampler
            if data.batch_sampler is not None and type(data.batch_sampler) is not BatchSampler:
                sampler = data.batch_sampler
            elif data.batch_sampler is not None:
                sampler = data.batch_sampler.sampler
        if sampler is None or type(sampler) in (SequentialSampler, _InThisOrder):
            return ""
        return (
            f"{self.name} was read in the order of its own sampler, a {type(sampler).__name__}: "
            "scores are in that order."
        )

    @property
    def notes(self) -> list[str]:
        """What a reader of the scores should know of how the images were read."""
        scaled = f"{self.name} gives images of type uint8: they were scaled to [0, 1]."
        return [note for note in (self.note, scaled if self.scaled else "") if note]

    def first(self) -> Batch:
        """The first batch, its labels as they are read; the pass that comes next goes on after it.

        Raises:
            UserError: if there is none, or it is not as it should be.
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
                self._begun = None  # the loader has one iterator for all who read it
        self._check_left_out()
        return self._first

    @property
    def size(self) -> int | None:
        """Number of images; None if the data do not say and no pass has come to its end."""
        if self._count is not None:
            return self._count
        data: Any = self._data.sampler if isinstance(self._data, DataLoader) else self._data
        try:
            return len(data)
        except Exception:  # what the user's object raises
            return None

    @property
    def has_labels(self) -> bool:
        """Whether labels are wanted and there."""
        return self.first()[1] is not None

    def batches(self) -> Iterator[Batch]:
        """Images [B, C, H, W], floating-point, and labels [B], int64, or None; in order, checked.

        What a model takes may have another shape [B, ...]: vectors, series, volumes; or be whole
        numbers [B, T], which name tokens.

        Raises:
            UserError: if something cannot be read or is not as it should be, or another pass gave
                another number of images.
        """
        self.first()
        # What was begun to see the first batch is gone on with: a stream is not begun twice, and
        # the workers of a DataLoader are not started twice.
        this_pass, self._begun = self._begun, None
        count, prints = 0, []
        if this_pass is not None:
            assert self._first is not None
            self._check(*self._first, 0)  # more may be known by now
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
                "It is read more than once: give data that can be, not a stream.",
            )
        self._count = count
        if self.fingerprints is None:
            self.fingerprints = np.concatenate(prints)

    def _relabeled(self, images: Tensor, labels: Tensor | None) -> Batch:
        if labels is None or not self.relabel:
            return images, labels
        return images, torch.tensor(self.relabel, device=labels.device)[labels]

    def close(self) -> None:
        """Let go of what was begun, and of its workers; put back generators."""
        self._begun = self._first = None
        self._data = ()
        for generator, state in self._generators:
            generator.set_state(state)

    # --- reading -------------------------------------------------------------------------------

    def _checked(self) -> Iterator[Batch]:
        done = 0
        labeled: bool | None = None
        raw = self._loaded() if isinstance(self._data, DataLoader) else self._batched()
        for given, given_labels in raw:
            images = self._images(given, done)
            labels = None
            if self._labeled and given_labels is not None:
                labels = self._labels(given_labels, len(images), done)
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
            images, labels = self._parts(batch, "a batch")
            yield images, labels
            self._position += len(images)

    def _batched(self) -> Iterator[tuple[Any, Any]]:
        """Batches of a Dataset's items."""
        images: list[Any] = []
        labels: list[Any] = []
        size = _BATCH
        for item in self._reading(self._items, "image"):
            image, label = self._parts(item, "an item")
            image = self._image(image)
            if not images and self._position == 0 and image.ndim > 1:
                size = max(1, min(_BATCH, _PLACES // max(1, image[0].numel())))
            if images and image.shape != images[0].shape:
                raise UserError(
                    f"{self.name}: image {self._position} has shape {list(image.shape)}, those "
                    f"before it {list(images[0].shape)}.",
                    _ONE_SIZE,
                )
            images.append(image)
            labels.append(label)
            self._position += 1
            if len(images) == size:
                yield torch.stack(images), _if_any(labels)
                images, labels = [], []
        if images:
            yield torch.stack(images), _if_any(labels)

    def _items(self) -> Iterator[Any]:
        if isinstance(self._data, IterableDataset):
            return iter(self._data)
        return (self._data[index] for index in range(len(self._data)))

    def _reading(self, begin: Any, what: str) -> Iterator[Any]:
        """What an iterator gives; what it raises is said with where it was."""
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
            except Exception as error:  # a user's code may raise whatever it likes
                raise self._unreadable(error, what) from error
            yield given

    def _unreadable(self, error: Exception, what: str) -> UserError:
        lines = str(error).strip().splitlines() or [""]
        # A worker's error has its traceback in the message, and what it is about in the last line.
        line = (
            lines[-1] if lines[0].startswith("Caught ") else f"{type(error).__name__}: {lines[0]}"
        )
        hint = ""
        if "PIL." in str(error):
            hint = f"Images are PIL images. {_TRANSFORM}"
        elif "equal size" in str(error) or "resize storage" in str(error):
            hint = _ONE_SIZE
        position = f"{what} {self._position}"
        if isinstance(self._data, DataLoader):
            position += " on"
        return UserError(f"{self.name}: {position} cannot be read: {line.rstrip('.')}.", hint)

    def _parts(self, given: Any, what: str) -> tuple[Any, Any]:
        """Images and labels of a batch, or of one item."""
        fields = _fields(given)
        if any(key in fields for key in _IMAGE_KEYS):
            return self._named(fields, what)
        if isinstance(given, tuple | list) and given:
            return given[0], given[1] if len(given) > 1 else None
        if isinstance(given, Mapping) and given:
            return self._named(given, what)
        if isinstance(given, tuple | list | Mapping):
            raise UserError(
                f"{self.name}: {what} is an empty {type(given).__name__}; expected (image, label).",
                "Give a Dataset, or a collate_fn, that makes pairs.",
            )
        return given, None

    def _named(self, given: Mapping[Any, Any], what: str) -> tuple[Any, Any]:
        """Images and labels of a mapping, as Hugging Face's data sets give it, by their keys."""
        images, labels = (
            [key for key in keys if key in given] for keys in (_IMAGE_KEYS, _LABEL_KEYS)
        )
        arrays = [key for key in images if _is_array(given[key])]
        if len(arrays) == 1:
            images = arrays  # and not the PIL image that it was made of
        for kind, known, found in (
            ("images", _IMAGE_KEYS, images),
            ("labels", _LABEL_KEYS, labels),
        ):
            if len(found) > 1 or (not found and kind == "images"):
                named = f"{', '.join(map(repr, found))} may be" if found else "none is known to be"
                raise UserError(
                    f"{self.name}: {what} has the entries "
                    f"{', '.join(map(repr, given))}, of which {named} the {kind}.",
                    f"Name one of them {known[0]!r} or {known[1]!r}, or give a Dataset, or a "
                    "collate_fn, that makes pairs.",
                )
        self._left_out |= {
            key
            for key, value in given.items()
            if key != images[0] and key not in _LABEL_KEYS and _says_something(key, value)
        }
        return given[images[0]], given[labels[0]] if labels else None

    def _image(self, image: Any) -> Tensor:
        """One item's image as a tensor."""
        if isinstance(image, np.ndarray) and (image.dtype.kind == "f" or image.dtype == np.uint8):
            return torch.from_numpy(image)  # as torch's own loaders take it
        if not isinstance(image, Tensor):
            raise UserError(
                f"{self.name}: image {self._position} is {_described(image)}, not a tensor.",
                _TRANSFORM if _described(image) == "a PIL image" else _CONVERT,
            )
        return image

    # --- checks --------------------------------------------------------------------------------

    def _images(self, images: Any, done: int) -> Tensor:
        if not isinstance(images, Tensor):
            hint = _CONVERT
            if isinstance(images, tuple | list) and any(isinstance(i, Tensor) for i in images):
                hint = "A batch is (images, labels), each stacked, as torch's own collate_fn does."
            raise UserError(f"{self.name}: images are {_described(images)}, not tensors.", hint)
        if images.ndim < 2:
            raise UserError(
                f"{self.name}: images from {done} on have shape {list(images.shape)}; expected "
                "[images, channels, height, width], or [images, ...].",
                "A Dataset gives single images [channels, height, width]; a DataLoader batches.",
            )
        tokens = images.ndim == 2 and images.dtype in (torch.int32, torch.int64)
        if not (images.is_floating_point() or images.dtype == torch.uint8 or tokens):
            raise UserError(
                f"{self.name}: images are {_name(images.dtype)}, neither floating-point nor uint8.",
                _CONVERT,
            )
        if len(images) and not images.numel():
            raise UserError(
                f"{self.name}: images from {done} on have shape {list(images.shape[1:])}, without "
                "a pixel."
            )
        if images.dtype != torch.uint8:
            if images.is_floating_point() and images.numel():
                low, high = torch.aminmax(images.detach())
                self.values = (min(self.values[0], float(low)), max(self.values[1], float(high)))
            return images
        channels = (images.shape[1], images.shape[-1])
        if images.ndim == 2 or (channels[1] in _CHANNELS and channels[0] not in _CHANNELS):
            last = images.ndim > 2
            raise UserError(
                f"{self.name}: images of type uint8 have shape {list(images.shape[1:])}; expected "
                "[channels, height, width].",
                f"{'Their channels come last. ' * last}{_CONVERT}",
            )
        self.scaled = True
        return images.float().div_(255)

    def _labels(self, given: Any, count: int, done: int) -> Tensor:
        expected = "expected the class of each image, a whole number"
        labels: Tensor = (
            given
            if isinstance(given, Tensor)
            else torch.stack(
                [self._label(label, done + index, expected) for index, label in enumerate(given)]
            )
        )
        hint = ""
        if labels.ndim == 2:
            wide = labels.shape[1] > 1
            hint = (
                "Of one-hot labels give labels.argmax(dim=1)." if wide else "Give labels.flatten()."
            )
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise UserError(f"{self.name}: labels are {_name(labels.dtype)}; {expected}.", hint)
        if tuple(labels.shape) != (count,):
            raise UserError(
                f"{self.name}: labels of {count} images have shape {list(labels.shape)}; "
                f"expected [{count}], the class of each.",
                hint,
            )
        return labels.long()

    def _label(self, label: Any, position: int, expected: str) -> Tensor:
        try:
            return torch.as_tensor(label)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{self.name}: the label of image {position} is {_described(label)}; {expected}."
            ) from error

    def _check_left_out(self) -> None:
        found = sorted(self._left_out & set(self.model_inputs))
        if found:
            named = ", ".join(map(repr, found))
            raise UserError(
                f"{self.name}: the data have the entries {named} beside the images, and the model "
                "takes them, too; it is given one tensor, the images, so its logits would be "
                "wrong.",
                "Wrap the model in a function of one tensor that makes the others, such as "
                "lambda ids: model(input_ids=ids, attention_mask=(ids != pad_id).long()); if the "
                "model needs none of them, leave them out of the data.",
            )

    def _check(self, images: Tensor, labels: Tensor | None, done: int) -> None:
        """Values of images and labels; `done` images came before them."""
        self._check_left_out()
        low, high = torch.aminmax(images)
        if not bool(low.isfinite() & high.isfinite()):
            finite = images.isfinite().flatten(1).all(dim=1)
            raise UserError(
                f"{self.name}: image {done + int(finite.int().argmin())} has values that are not "
                "finite."
            )
        if self.in_unit_range and not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
            inside = ((images >= -_ROUNDING) & (images <= 1 + _ROUNDING)).flatten(1).all(dim=1)
            index = int(inside.int().argmin())
            seen = images[index].aminmax()
            raise UserError(
                f"{self.name}: image {done + index} has values from {float(seen.min):.3g} to "
                f"{float(seen.max):.3g}; with normalization given, images are in [0, 1].",
                "Images that are normalized already go with normalization=None.",
            )
        if labels is None or self.num_classes is None:
            return
        count = len(self.relabel) or self.num_classes
        wrong = (labels < 0) | (labels >= count)
        if bool(wrong.any()):
            index = int(wrong.int().argmax())
            if self.relabel:
                raise UserError(
                    f"{self.name}: image {done + index} has label {int(labels[index])}; the data "
                    f"set says that its classes are {self.declared}.",
                    "Correct its `classes` and `class_to_idx`, or its labels.",
                )
            raise UserError(
                f"{self.name}: image {done + index} has label {int(labels[index])}; the model has "
                f"{self.num_classes} classes, so labels are 0 to {self.num_classes - 1}."
            )


def in_order(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The loader, or one that reads the same data set in its order, to its last image.

    Only what is certain is changed: a `RandomSampler` that draws every image once becomes a
    `SequentialSampler`, a `SubsetRandomSampler` gives its images in the order in which it was given
    them, and `drop_last` is undone. Other samplers stay.
    """
    batches: Any = loader.batch_sampler
    if type(loader) is not DataLoader or type(batches) not in (BatchSampler, type(None)):
        return loader
    sampler: Any = loader.sampler if batches is None else batches.sampler
    ordered = _ordered(sampler, loader.dataset)
    if ordered is sampler and not (batches is not None and batches.drop_last):
        return loader
    options: dict[str, Any] = {
        "batch_size": None if batches is None else batches.batch_size,
        "num_workers": loader.num_workers,
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "generator": loader.generator,
        "persistent_workers": loader.persistent_workers,
    }
    if loader.num_workers:
        options["prefetch_factor"] = loader.prefetch_factor
    if not isinstance(loader.dataset, IterableDataset):
        options["sampler"] = ordered
    return DataLoader(loader.dataset, **options)


class _InThisOrder(Sampler[int]):
    """Gives indices as they are."""

    def __init__(self, indices: Sequence[int]) -> None:
        self._indices = indices

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)


def _ordered(sampler: Any, dataset: Any) -> Any:
    """What gives the same images once each, in order; the sampler itself if that is not certain."""
    if type(sampler) is SubsetRandomSampler:
        return _InThisOrder(sampler.indices)
    shuffles = (
        type(sampler) is RandomSampler
        and sampler.data_source is dataset
        and not sampler.replacement
        and sampler.num_samples == len(dataset)
    )
    return SequentialSampler(dataset) if shuffles else sampler


def _generators(data: Any) -> Iterator[torch.Generator]:
    """The generators that a DataLoader draws from, but for torch's own."""
    if isinstance(data, DataLoader):
        batches: Any = data.batch_sampler
        holders = (data, getattr(data, "sampler", None), batches, getattr(batches, "sampler", None))
        found = [getattr(holder, "generator", None) for holder in holders]
        yield from {id(each): each for each in found if isinstance(each, torch.Generator)}.values()


def _fields(given: Any) -> Mapping[str, Any]:
    """The named parts of a named tuple, or of an object that is made of nothing else."""
    if isinstance(given, tuple) and hasattr(given, "_fields"):
        return dict(zip(given._fields, given, strict=True))
    if isinstance(given, Tensor | Mapping) or not hasattr(given, "__dict__"):
        return {}
    fields: Mapping[str, Any] = vars(given)
    return fields


def _says_something(key: Any, value: Any) -> bool:
    """Whether an entry of a mapping holds numbers that a model may need."""
    if not isinstance(value, Tensor | np.ndarray | tuple | list | int | float):
        return False
    try:
        values = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # lists of unequal length
        return True
    return values.dtype.kind in "biuf" and not bool((values == _NEUTRAL.get(key)).all())


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _if_any(labels: list[Any]) -> list[Any] | None:
    return None if all(label is None for label in labels) else labels


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _described(value: Any) -> str:
    kind = type(value)
    if isinstance(value, np.ndarray):
        return f"a numpy array of {value.dtype}"
    if kind.__module__.startswith("PIL."):
        return "a PIL image"
    return f"a {kind.__name__}"
