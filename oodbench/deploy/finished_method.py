"""A method of a finished run: found by name, with the values that it scored with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodbench.engine.passes.image_sources import ID
from oodbench.errors import UserError, did_you_mean, listed
from oodbench.report.differences import id_key
from oodbench.storage.records import QualityRecord
from oodbench.storage.run_description import RunDescription
from oodbench.storage.run_directory import RunDirectory
from oodbench.storage.suite_directory import SuiteDirectory

_ORACLE = "ood_oracle"


@dataclass(frozen=True, eq=False)
class FinishedMethod:
    """A method of a finished run, for one seed.

    Attributes:
        folder: the run directory.
        description: of the run.
        name: name of the method.
        seed: the seed.
        ood: the OOD set that it was tuned on, under the protocol `ood_oracle`; else None.
        values: parameter -> value that it had when it scored, as plain JSON.
    """

    folder: Path
    description: RunDescription
    name: str
    seed: int
    ood: str | None
    values: dict[str, Any]

    def scores(self) -> dict[str, Any]:
        """Scores in the run: "id" and the names of csID and OOD sets -> array [N].

        Raises:
            UserError: if they are missing or not readable.
        """
        stored = RunDirectory(self.folder).read_scores((self.name, self.seed))
        if self.ood is not None:
            return {ID: stored[id_key(self.ood)], self.ood: stored[self.ood]}
        return stored


def find_method(
    folder: Path, name: str, *, seed: int | None = None, ood: str | None = None
) -> FinishedMethod:
    """A method of a run directory.

    Args:
        folder: the run directory.
        name: name of a method; or of a detector that one method of the run has, or is called by.
        seed: one of the run; None: the first one that has results.
        ood: for a method that is tuned on each OOD set (`ood_oracle`): the set.

    Raises:
        UserError: if there is no such run, method or seed, or the method has no results.
    """
    if SuiteDirectory(folder).exists():
        raise UserError(
            f"{folder} holds the run of a suite.", "Give the folder of one of its benchmarks."
        )
    directory = RunDirectory(folder)
    description = directory.read_description()
    name = _named(name, description, folder)
    mine = [each for each in directory.read_records()[0] if each.method == name]
    good = [each for each in mine if each.status == "ok"]
    seeds = sorted({each.seed for each in good})
    if not seeds:
        reason = next((each.reason for each in mine if each.reason), "it did not run")
        raise UserError(f"'{name}' has no results in {folder}: {reason.rstrip('.')}.")
    if seed is not None and seed not in seeds:
        raise UserError(
            f"--seed: {folder} has no results of '{name}' with seed {seed}.",
            f"It has them for {listed(seeds)}.",
        )
    seed = seeds[0] if seed is None else seed
    good = [each for each in good if each.seed == seed and each.ood_dataset is not None]
    chosen = _of_set(good, ood, name)
    oracle = chosen.ood_dataset if chosen.tuned_on == _ORACLE else None
    return FinishedMethod(folder, description, name, seed, oracle, chosen.detector_params)


def _named(name: str, description: RunDescription, folder: Path) -> str:
    """The name of the method that is meant."""
    methods = {method.name: method for method in description.methods}
    if name in methods:
        return name
    of_detector = [
        each.name
        for each in methods.values()
        if each.detector == name or each.name.casefold() == f"{each.model}+{name}".casefold()
    ]
    if len(of_detector) == 1:
        return of_detector[0]
    if of_detector:
        raise UserError(
            f"{folder} has several methods that '{name}' may mean.",
            f"Name one of them: {listed(of_detector)}.",
        )
    if name in description.skipped:
        raise UserError(f"'{name}' was skipped in {folder}: {description.skipped[name]}.")
    if name in description.left_out:
        raise UserError(
            f"{folder} has no method '{name}': that detector was left out of the run.",
            f"Add it: repeat the command of the run with --out {folder} --resume --methods {name}.",
        )
    detectors = {method.detector for method in methods.values()}
    near = did_you_mean(
        name, [*methods, *detectors], f"`oodbench report {folder}` shows those that it has."
    )
    raise UserError(f"{folder} has no method '{name}'.", near)


def _of_set(good: Sequence[QualityRecord], ood: str | None, name: str) -> QualityRecord:
    """The record with the values of a method's parameters."""
    sets = dict.fromkeys(each.ood_dataset for each in good if each.ood_dataset is not None)
    if good[0].tuned_on != _ORACLE:
        if ood is not None:
            raise UserError(f"--ood: '{name}' is not tuned on each OOD set.", "Leave it out.")
        return good[0]
    if ood is None and len(sets) > 1:
        raise UserError(
            f"'{name}' was tuned on each OOD set (ood_oracle), so that each has a detector of its "
            "own.",
            f"Choose the OOD set whose detector is to be fitted, with --ood: {listed(sets)}.",
        )
    if ood is not None and ood not in sets:
        raise UserError(f"--ood: there is no OOD set '{ood}'.", did_you_mean(ood, sets))
    return next(each for each in good if ood in (None, each.ood_dataset))
