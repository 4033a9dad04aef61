"""Digests of a run's files, and the reports that are made from its records."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from typing import Any

from oodbench.errors import UserError, shown
from oodbench.files import canonical_json, parsed_json
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.content_folders import BUILT_IN
from oodbench.report.leaderboard import LeaderboardData
from oodbench.report.writers.run_files import files_of
from oodbench.specs import PublishedSpec
from oodbench.specs.yaml_file import read_spec
from oodbench.storage.method_lines import MethodLines
from oodbench.storage.run_description import NAME, RunDescription
from oodbench.storage.run_directory import COSTS, RECORDS, RunDirectory
from oodbench.storage.same_work import run_id_of
from oodbench.verification.outcome import Discrepancy
from oodbench.verification.stored_lines import StoredLines

_TOLERANCE = 1e-9
"""Means of records may differ in the last digits on another machine."""


def check_digests(
    directory: RunDirectory, description: RunDescription, lines: StoredLines
) -> Iterator[Discrepancy]:
    """Files and records that do not have the digests in `run.json`; missing files are left out.

    Args:
        directory: of the run.
        description: contents of `run.json`.
        lines: of the run.
    """
    changed = [name for name in directory.changed() if (directory.folder / name).exists()]
    by_key, costs = lines.by_key, lines.cost_by_key
    for each in description.records if lines.costs else ():
        key = each.method, each.seed
        if key not in by_key:
            continue  # reported as missing
        cost = costs.get(key)
        mine = [line.record for line in by_key[key]]
        if MethodLines.of(mine, None if cost is None else cost.record).digest == each.sha256:
            continue
        about = f"{each.method}, seed {each.seed}"
        if cost is not None and COSTS in changed and RECORDS not in changed:
            reason = f"the costs do not have the digest in {NAME}"
            yield Discrepancy(file=COSTS, line=cost.number, record=about, reason=reason)
            continue
        span = f"lines {by_key[key][0].number} to {by_key[key][-1].number}"
        with_cost = "" if cost is None else f", or line {cost.number} of {COSTS}"
        reason = f"its records ({span}{with_cost}) do not have the digest in {NAME}"
        yield Discrepancy(file=RECORDS, record=about, reason=reason)
    for name in changed:
        if name == NAME:
            yield Discrepancy(file=name, reason="its values do not have the digest that it holds")
            continue
        reason = f"it does not have the digest in {NAME}: it was changed after the run"
        yield Discrepancy(file=name, reason=reason)


def check_run_id(description: RunDescription) -> Iterator[Discrepancy]:
    """The run's id is a digest of benchmark, data and version, all of which `run.json` has."""
    version = description.versions.get("oodbench", "")
    identity = description.benchmark_identity
    expected = run_id_of(identity, description.checksums.data, version)
    if description.run_id != expected:
        yield Discrepancy(
            file=NAME,
            field="run_id",
            stored=canonical_json(description.run_id),
            expected=canonical_json(expected),
            reason="digest of its benchmark, data checksums and version",
        )


def check_published(description: RunDescription, *, same_version: bool) -> tuple[str, bool]:
    """Whether the published numbers in `run.json` are those of their file.

    Args:
        description: contents of `run.json`, with published numbers.
        same_version: whether this version of oodbench made the run.

    Returns:
        Why they are not checked, or empty; and whether they differ from a built-in file.
    """
    stored, named = description.published, description.of_benchmark.published
    entry = None if named is None else Catalog().entries["publication"].get(named.file)
    if stored is None or named is None or entry is None:
        return "published numbers: their file is not among the contents of oodbench", False
    try:
        known = read_spec(PublishedSpec, entry.path).of_benchmark(named.benchmark)
    except (UserError, ValueError, KeyError):
        known = None
    if known == stored:
        return "", False
    if not same_version or entry.source != BUILT_IN:
        return f"published numbers: {entry.path.name} has other ones today", False
    return "", True


def check_reports(
    directory: RunDirectory, board: LeaderboardData, *, same_version: bool
) -> tuple[list[Discrepancy], list[str], list[str]]:
    """Reports in a run directory that do not follow from its records.

    JSON and CSV are compared value by value, other texts by their lines. A file that another
    version of oodbench wrote may differ in its form: it is left out if it differs.

    Args:
        directory: of the run.
        board: the leaderboard of its records.
        same_version: whether this version of oodbench made the run.

    Returns:
        Discrepancies, names of the files that were compared, and of those that were not.
    """
    wrong: list[Discrepancy] = []
    compared: list[str] = []
    left_out: list[str] = []
    for name, expected in files_of(board).items():
        path = directory.folder / name
        if not path.exists():
            continue
        try:
            stored = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            wrong.append(Discrepancy(file=name, reason=f"it cannot be read: {error}"))
            continue
        if stored != expected and not same_version:
            left_out.append(name)
            continue
        if stored != expected:
            wrong += _DIFFERENCES[name.rpartition(".")[2]](name, stored, expected)
        compared.append(name)
    return wrong, compared, left_out


def _json_difference(name: str, stored: str, expected: str) -> Iterator[Discrepancy]:
    try:
        found = parsed_json(stored)
    except ValueError as error:
        yield Discrepancy(file=name, reason=f"it is no JSON: {error}")
        return
    for place, value, wanted in _different(found, json.loads(expected), ""):
        yield Discrepancy(
            file=name,
            field=place,
            stored=shown(value),
            expected=shown(wanted),
            reason="made from the records",
        )


def _different(found: Any, wanted: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """The first value that differs."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in {**wanted, **found}:
            one, other = found.get(key), wanted.get(key)
            if difference := next(_different(one, other, f"{place}.{key}".lstrip(".")), None):
                yield difference
                return
    elif isinstance(found, list) and isinstance(wanted, list):
        if len(found) != len(wanted):
            yield f"{place}, entries", len(found), len(wanted)
            return
        for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
            about = other.get("method", index) if isinstance(other, dict) else index
            if difference := next(_different(one, other, f"{place}[{about}]"), None):
                yield difference
                return
    elif not _equal(found, wanted):
        yield place, found, wanted


def _equal(found: Any, wanted: Any) -> bool:
    numbers = isinstance(found, float | int) and isinstance(wanted, float | int)
    if numbers and not isinstance(found, bool):
        return math.isclose(found, wanted, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(found == wanted)


def _csv_difference(name: str, stored: str, expected: str) -> Iterator[Discrepancy]:
    found, wanted = (list(csv.DictReader(io.StringIO(text))) for text in (stored, expected))
    for number, (one, other) in enumerate(zip(found, wanted, strict=False), start=2):
        for field, value in other.items():
            if field in one and not _equal(_number(one[field]), _number(value)):
                yield Discrepancy(
                    file=name,
                    line=number,
                    record=other.get("method", ""),
                    field=field,
                    stored=shown(one[field]),
                    expected=shown(value),
                    reason="made from the records",
                )
                return
    if len(found) != len(wanted):
        yield Discrepancy(file=name, reason=f"{len(found)} lines where there are {len(wanted)}")


def _number(text: Any) -> Any:
    try:
        return float(text)
    except (TypeError, ValueError):
        return text


def _text_difference(name: str, stored: str, expected: str) -> Iterator[Discrepancy]:
    ours, theirs = expected.splitlines(), stored.splitlines()
    pairs = zip(theirs, ours, strict=False)
    first = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
    number = min(len(ours), len(theirs)) if first is None else first
    yield Discrepancy(
        file=name,
        line=number + 1,
        field="the line",
        stored=shown(theirs[number] if number < len(theirs) else ""),
        expected=shown(ours[number] if number < len(ours) else ""),
        reason="made from the records",
    )


_DIFFERENCES = {"json": _json_difference, "csv": _csv_difference, "md": _text_difference}
"""Extension -> the differences of a stored file and the one that follows."""
