"""The true classes of images that lie in folders of classes, or are listed with labels."""

from __future__ import annotations

from collections.abc import Sequence

from oodbench.data.readers.class_names import ordered_classes
from oodbench.errors import UserError, counted, did_you_mean
from oodbench.user_data.image_files import ImageFile


def true_classes(files: Sequence[ImageFile], classes: Sequence[str], count: int) -> list[str]:
    """The true class of each image, by the names that predictions have.

    Args:
        files: the images, with their labels.
        classes: names of the model's classes, in the order of its outputs; empty if not known.
        count: number of its classes.

    Raises:
        UserError: an image has no label, or one that is no class of the model.
    """
    bare = next((file.path for file in files if not file.label), None)
    if bare is not None:
        raise UserError(
            f"--labels: {bare} has no class: it is in no sub-folder of a folder that was given.",
            "Give the folder above the folders of the classes.",
        )
    given = ordered_classes(file.label for file in files)
    numbers = set(map(str, range(count)))
    if classes and not set(given) <= numbers:
        for name in given:
            if name not in classes:
                raise UserError(
                    f"--labels: '{name}' is no class of the model.",
                    f"{did_you_mean(name, classes)} Give OOD images with --ood.",
                )
        return [file.label for file in files]
    if not set(given) <= numbers and len(given) != count:
        raise UserError(
            f"--labels: there are {counted(len(given), 'class')} of images, and the model has "
            f"{counted(count, 'class')}, whose names the artifact does not know.",
            f"Name the folders 0 to {count - 1}.",
        )
    labels = {name: int(name) if name in numbers else i for i, name in enumerate(given)}
    names = classes or tuple(map(str, range(count)))
    return [names[labels[file.label]] for file in files]
