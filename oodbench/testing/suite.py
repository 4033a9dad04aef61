"""All checks, and the functions that make them."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from oodbench.detector import Detector
from oodbench.engine.reasons import place_of, reason_of
from oodbench.errors import UserError
from oodbench.plugins.content_folders import Plugin
from oodbench.testing import declaration_checks as declarations
from oodbench.testing import fitting_checks as fitting
from oodbench.testing import score_checks as scoring
from oodbench.testing import state_checks as states
from oodbench.testing.assertions import CheckFailed, NotApplicable, NotRun
from oodbench.testing.check import Check
from oodbench.testing.check_results import CheckResult, ConformanceError, ConformanceReport
from oodbench.testing.subject import Subject, subject_of

CHECKS: tuple[Check, ...] = (
    declarations.declaration,
    declarations.parameters_kept,
    scoring.scores,  # before the needs: what fails in every check is named where it is looked for
    declarations.needs_declared,
    declarations.needs_used,
    scoring.orientation,
    scoring.batch_size,
    scoring.neighbors,
    scoring.order,
    scoring.one_image,
    scoring.scored_again,
    scoring.single_precision,
    scoring.other_models,
    scoring.cuda,
    declarations.losses,
    fitting.determinism,
    fitting.fit_batch_size,
    fitting.refit,
    fitting.class_without_images,
    fitting.unfitted,
    fitting.memory,
    declarations.search_after_fit,
    declarations.search_effect,
    states.outputs_unchanged,
    states.model_unchanged,
    states.global_state,
    states.copies,
    states.saved,
)
"""All checks, in the order in which a detector's author would want to see them fail."""


def check_detector(
    detector: Detector | type[Detector] | str | Path,
    *,
    plugins: Plugin | Iterable[Plugin] = (),
    errors: Literal["raise", "return"] = "raise",
) -> ConformanceReport:
    """Check that a detector conforms to its contract: `CHECKS`, one after the other.

    It is fitted and scored on planted outputs of a network, and by the engine on a small network. A
    detector's file is run in this process; the command `oodbench check` runs it in another one.

    Args:
        detector: a detector (new ones with its parameters are checked), a registered class, a name
            of `oodbench list detectors`, or a detector's file.
        plugins: folders of content that a name may be in.
        errors: "raise" raises an error if a check fails; "return" returns the report all the same.

    Returns:
        The results of all checks; `str` of it has a line for each.

    Raises:
        ConformanceError: an AssertionError, with all failures; `.report` has the results.
        UserError: if there is no such detector, or its file does not import.
    """
    subject = subject_of(detector, plugins)
    report = ConformanceReport(subject.name, tuple(results_of(subject)))
    if errors == "raise" and not report.passed:
        raise ConformanceError(report)
    return report


def results_of(subject: Subject) -> Iterator[CheckResult]:
    """The result of each check, as soon as it is made."""
    seen: dict[str, str] = {}
    for check in CHECKS:
        found = result_of(check, subject)
        if found.status == "failed":  # what every check meets is said once
            first = seen.setdefault(found.seen, found.name)
            if first != found.name:
                same = f"as in {first}"
                found = CheckResult(found.name, "failed", found.idea, same, like=first)
        yield found


def result_of(check: Check, subject: Subject) -> CheckResult:
    """Make one check; whatever the detector raises is a failure."""
    try:
        check(subject)
    except NotRun as reason:
        status: Literal["not applicable", "not run"] = (
            "not applicable" if isinstance(reason, NotApplicable) else "not run"
        )
        return CheckResult(check.name, status, check.idea, str(reason))
    except CheckFailed as failure:
        text = "".join(traceback.format_exception(failure))
        return CheckResult(
            check.name, "failed", check.idea, failure.seen, failure.remedy, traceback=text
        )
    except (Exception, SystemExit) as error:
        place, line = place_of(error)
        text = "".join(traceback.format_exception(error))
        seen = reason_of(error)
        return CheckResult(check.name, "failed", check.idea, seen, "", place, line, text)
    return CheckResult(check.name, "passed", check.idea)


def applicable(subject: Subject) -> list[Check]:
    """The checks that say something about a detector."""
    return [check for check in CHECKS if check.obstacle(subject) is None]


def parametrize_with_checks(
    detectors: Iterable[Detector | type[Detector] | str | Path],
    *,
    plugins: Plugin | Iterable[Plugin] = (),
) -> Any:
    """Parametrize a test with detectors and their checks: a pytest decorator.

    The test has the arguments `detector` and `check`::

        @parametrize_with_checks(["mine/detectors/steepness.py"])
        def test_conformance(detector, check):
            check(detector)

    Checks that do not apply to a detector are left out; those that cannot be made on this machine
    are skipped.

    Args:
        detectors: as `check_detector` takes each of them.
        plugins: folders of content that a name may be in.

    Raises:
        UserError: if pytest is not installed, or as `check_detector`.
    """
    try:
        import pytest
    except ImportError as error:
        raise UserError(
            "parametrize_with_checks needs pytest, which is not installed.",
            "Install it (pip install pytest), or use oodbench.testing.check_detector.",
        ) from error
    subjects = [subject_of(each, plugins) for each in detectors]
    return pytest.mark.parametrize(
        ("detector", "check"),
        [
            pytest.param(subject, check, id=f"{subject.name}-{check.name}")
            for subject in subjects
            for check in applicable(subject)
        ],
    )
