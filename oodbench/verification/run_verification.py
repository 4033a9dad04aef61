"""The verification of one run: which checks run, and which cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from oodbench.errors import counted, listed
from oodbench.progress import Reporter, Silent
from oodbench.report import Leaderboard
from oodbench.report.differences import ORACLE
from oodbench.report.published.average_matching import averages_of
from oodbench.storage.run_description import NAME, RunDescription
from oodbench.storage.run_directory import (
    COSTS,
    DIFFERENCES,
    RECORDS,
    TRAINING,
    RunDirectory,
    scores_name,
)
from oodbench.verification.derived_files import (
    check_digests,
    check_published,
    check_reports,
    check_run_id,
)
from oodbench.verification.outcome import Discrepancy, Verification
from oodbench.verification.recomputation import Recomputed, check_differences, recompute
from oodbench.verification.record_fields import check_fields
from oodbench.verification.record_sets import check_sets, without_reason
from oodbench.verification.stored_lines import StoredLines, read_lines
from oodbench.version import __version__, source_revision

_ORDER = (NAME, RECORDS, COSTS, TRAINING, DIFFERENCES)


def verify_run(path: Path, say: Reporter | None = None) -> Verification:
    """Check that records follow from scores and `run.json`, and everything else from records.

    Args:
        path: a run directory, a folder with `records.jsonl`, or such a file.
        say: progress reporter; default: silent.

    Raises:
        UserError: if there are no records, or a file cannot be read.
    """
    folder = path.parent if path.name == RECORDS else path
    reporter = say or Silent()
    with reporter.work(2):
        return _Verifying(folder, reporter).result()


class _Verifying:
    def __init__(self, folder: Path, say: Reporter) -> None:
        self.directory, self.say = RunDirectory(folder), say
        self.lines: StoredLines = read_lines(folder)
        self.description: RunDescription | None = (
            self.directory.read_description() if self.directory.exists() else None
        )
        self.found: list[Discrepancy] = list(self.lines.unreadable)
        self.checked: list[str] = []
        self.unchecked: list[str] = []

    def result(self) -> Verification:
        """Run all checks that the files allow."""
        self._check_records()
        recomputed = self._check_scores()
        wrong = bool(self.found)
        if self.description is None:
            self.unchecked.append(f"names and digests: there is no {NAME}")
        else:
            self._check_description(self.description)
        if wrong:
            self.unchecked.append("differences and reports, which follow from these records")
        else:
            self.say.stage("differences and reports")
            if self._check_differences(recomputed):
                self._check_reports()
            else:
                self.unchecked.append("reports, which follow from these differences")
            self.say.done("differences and reports")
        return Verification(
            folder=self.directory.folder,
            discrepancies=tuple(sorted(self.found, key=_place)),
            checked=tuple(self.checked),
            unchecked=tuple(self.unchecked),
        )

    def _check_records(self) -> None:
        self.found += check_fields(self.lines, self.description)
        self.found += check_sets(self.lines, self.description)
        self.checked.append(
            f"fields of {counted(len(self.lines.records), 'quality record')} and "
            f"{counted(len(self.lines.costs), 'cost record')}, each method, seed, OOD set and "
            "metric once"
        )
        if not self.lines.costs:
            self.unchecked.append(f"costs: there is no {COSTS}")

    def _check_scores(self) -> Recomputed:
        described = self.description
        resamples = None if described is None else described.of_benchmark.evaluation.resamples
        found = recompute(self.directory, self.lines, resamples, self.say)
        self.found += found.discrepancies
        if found.resampled:
            files = counted(len(found.resampled), "file")
            what = "values" if resamples is None else "values, intervals"
            self.checked.append(
                f"{what} and counts against {found.images:,} scores in {files}"
                + ("" if resamples is None else f", with {resamples:,} resamples")
            )
            if resamples is None:
                self.unchecked.append(f"intervals: {NAME} has the number of resamples")
        if found.without_scores:
            keys = listed((f"{method}, seed {seed}" for method, seed in found.without_scores), 2)
            self.unchecked.append(f"values and intervals of {keys}: no scores are stored")
        self._check_predictions(found)
        known = set(map(scores_name, self.lines.by_key))
        for path in sorted(self.directory.folder.glob("scores/*/seed*.npz")):
            name = path.relative_to(self.directory.folder).as_posix()
            if name not in known:
                self.found.append(Discrepancy(file=name, reason=f"{RECORDS} has no record of it"))
        return found

    def _check_predictions(self, found: Recomputed) -> None:
        """What the comparison with predictions found, and what it lacked."""
        checks = found.predicted
        if checks is None or not found.resampled:
            return
        self.found += [
            Discrepancy(file=name, reason=reason) for name, reason in checks.unreadable.items()
        ]
        if checks.read:
            files = counted(len(checks.read), "file")
            self.checked.append(f"accuracies and metrics on request against predictions in {files}")
        if checks.unchecked:
            kinds = ((checks.missing, "not there"), (checks.unreadable, "not readable"))
            why = "; ".join(f"{why}: {listed(sorted(names), 2)}" for names, why in kinds if names)
            records = counted(checks.unchecked, "record")
            self.unchecked.append(f"{records} of metrics on request ({why})")

    def _check_description(self, description: RunDescription) -> None:
        folder = self.directory.folder
        if description.status == "running":
            self.unchecked.append("the whole run: it is not finished (resume it with --resume)")
        if missing := without_reason(self.lines, description):
            self.unchecked.append(f"{listed(missing, 3)}: neither records nor a reason are there")
        if not description.files or not description.records:
            self.unchecked.append(f"digests: {NAME} has none; an older version wrote it")
            return
        self.found += check_run_id(description)
        self.found += check_digests(self.directory, description, self.lines)
        if description.published is not None:
            self._check_published(description)
        there = [name for name in description.files if (folder / name).exists()]
        self.checked.append(
            f"digests of {counted(len(there), 'file')} and of the records of "
            f"{len(description.records)} methods and seeds"
        )
        gone = [n for n in description.files if n not in there and not n.startswith("scores/")]
        if gone:
            self.unchecked.append(f"{listed(gone)}: {NAME} lists what is not there")

    def _check_published(self, description: RunDescription) -> None:
        reason, wrong = check_published(description, same_version=_same_version(description))
        if reason:
            self.unchecked.append(reason)
        elif wrong:
            text = "its published numbers are not those of oodbench"
            self.found.append(Discrepancy(file=NAME, reason=text))
        else:
            self.checked.append("published numbers")

    def _check_differences(self, recomputed: Recomputed) -> bool:
        """Whether no paired difference is wrong."""
        if not self.lines.differences:
            return True
        needed = {
            key
            for key, mine in self.lines.by_key.items()
            if mine[0].record.status == "ok" and mine[0].record.tuned_on != ORACLE
        }
        if self.description is None or needed - recomputed.resampled.keys():
            self.unchecked.append(f"{DIFFERENCES}: it follows from the scores of all methods")
            return True
        wrong = list(check_differences(self.lines, recomputed.resampled))
        self.found += wrong
        self.checked.append(f"{counted(len(self.lines.differences), 'paired difference')}")
        return not wrong

    def _check_reports(self) -> None:
        described = self.description
        board = Leaderboard.from_records(
            [line.record for line in self.lines.records],
            [line.record for line in self.lines.costs],
            () if described is None else described.warning_texts,
            [line.record for line in self.lines.differences],
        )
        more = () if described is None else tuple(described.left_out)
        board = replace(board, published=averages_of(board, described), left_out=more)
        wrong, compared, left_out = check_reports(
            self.directory, board, same_version=_same_version(described)
        )
        self.found += wrong
        if compared:
            self.checked.append(f"reports: {', '.join(compared)}")
        if left_out:
            self.unchecked.append(
                f"{', '.join(left_out)}: another version of oodbench wrote them, and this one "
                "writes them differently"
            )


def _same_version(description: RunDescription | None) -> bool:
    """Whether this version of oodbench made a run."""
    versions = {} if description is None else description.versions
    made_by = versions.get("oodbench"), versions.get("oodbench_revision")
    return made_by == (__version__, source_revision())


def _place(found: Discrepancy) -> tuple[bool, int, str, int]:
    """Lines before whole files; the records first."""
    rank = _ORDER.index(found.file) if found.file in _ORDER else len(_ORDER)
    return found.line is None, rank, found.file, found.line or 0
