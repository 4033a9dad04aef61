"""The arguments of `oodbench.evaluate`, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from oodbench import argument_checks
from oodbench.deploy.model_arguments import module_of
from oodbench.engine.passes.image_sources import ID
from oodbench.errors import UserError, did_you_mean, kind_of
from oodbench.user_data.dataloader import LoadedImages
from oodbench.user_model.data_sets import OOD_DATA, DataSets


def named_models(model: Any) -> dict[str, nn.Module]:
    """Name -> module; of a single model the name is "model"."""
    if not isinstance(model, Mapping):
        return {"model": module_of(model)}
    if not model:
        raise UserError("model names none.", 'Give {"name": model, ...}.')
    for name in model:
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"model: expected a name for each model, not {name!r}.")
    return {name: module_of(each) for name, each in model.items()}


def options_of(
    own: Mapping[str, tuple[Any, Any]], name: str, models: Mapping[str, Any], several: bool
) -> dict[str, Any]:
    """The arguments of one model: its own ones, or those given for all models.

    Args:
        own: argument -> its default and the value that was given.
        name: name of the model.
        models: all of them.
        several: whether they were given by name.
    """
    found = {}
    for argument, (default, given) in own.items():
        if several and isinstance(given, Mapping):
            for other in given:
                if other not in models:
                    raise UserError(
                        f"{argument}: there is no model {other!r}.",
                        did_you_mean(str(other), models),
                    )
            given = given.get(name, default)
        found[argument] = given
    return found


def data_sets(
    id_data: Any,
    ood_data: Any,
    fit_data: Any,
    validation_data: Any,
    ood_validation_data: Any = None,
    *,
    in_unit_range: bool,
) -> DataSets:
    """The data sets of a call.

    Raises:
        UserError: if the data or their names are not valid.
    """
    if not isinstance(ood_data, Mapping):
        raise UserError(
            f"ood_data: expected a mapping from names to data, not {kind_of(ood_data)}.",
            'Give ood_data={"name": ...}.',
        )
    if not ood_data:
        raise UserError("ood_data names no data set.", 'Give ood_data={"name": ...}.')
    for name in ood_data:
        argument_checks.visible_name("ood_data", name)
    if ID in ood_data:
        raise UserError(
            f"ood_data: '{ID}' is what the in-distribution scores are called.",
            "Choose another name for that data set.",
        )
    data = DataSets(
        test={
            ID: LoadedImages(id_data, "id_data", labeled=True),
            **{
                name: LoadedImages(given, f"ood_data['{name}']", labeled=False)
                for name, given in ood_data.items()
            },
        },
        fit=None if fit_data is None else LoadedImages(fit_data, "fit_data", labeled=True),
        validation=None
        if validation_data is None
        else LoadedImages(validation_data, "validation_data", labeled=True),
        ood_validation=None
        if ood_validation_data is None
        else LoadedImages(ood_validation_data, OOD_DATA, labeled=False),
    )
    for source in data.all:
        source.in_unit_range = in_unit_range
    return data


def check_seed(seed: Any) -> None:
    """Check that a seed is a whole number that torch takes.

    Raises:
        UserError: if it is not.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UserError(f"seed: expected a whole number from 0 to 2**63 - 1, not {seed!r}.")
