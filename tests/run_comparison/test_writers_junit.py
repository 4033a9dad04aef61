"""JUnit XML: read by another library, and checked against the schema of CI systems."""

from __future__ import annotations

from pathlib import Path

import junitparser
import pytest
import xmlschema
from helpers.run_comparisons import HOSTILE, SETS, comparison, gate_result

from oodbench.run_comparison.changes import GateResult
from oodbench.run_comparison.writers import junit_xml

SCHEMA = xmlschema.XMLSchema(Path(__file__).with_name("junit.xsd"))


def suites(text: str) -> dict[str, junitparser.TestSuite]:
    return {suite.name: suite for suite in junitparser.JUnitXml.fromstring(text.encode())}


def test_one_test_for_each_method_and_set() -> None:
    text = junit_xml.render(comparison(), GateResult())
    SCHEMA.validate(text)
    (suite,) = suites(text).values()
    cases = {(case.classname, case.name) for case in suite}
    assert len(list(suite)) == len(cases) == suite.tests == 36 * len(SETS)
    assert ("digits.SoftMax+Energy", "letters") in cases
    assert (suite.failures, suite.errors, suite.skipped) == (0, 0, len(SETS))


def test_failures_and_what_is_not_comparable() -> None:
    text = junit_xml.render(comparison(), gate_result())
    SCHEMA.validate(text)
    found = suites(text)
    assert (found["digits"].failures, found["digits"].errors) == (1, 1)
    assert found["digits"].skipped == len(SETS) - 1  # the gate asked for the third
    results = {
        (case.classname, case.name): case.result[0] for case in found["digits"] if case.result
    }
    failure = results["digits.SoftMax+Energy", "letters"]
    assert isinstance(failure, junitparser.Failure)
    assert "SoftMax+Energy: AUROC on letters fell by 2.03 points" in failure.message
    skipped = results["digits.SoftMax+ReAct", "patches"]
    assert isinstance(skipped, junitparser.Skipped)
    assert skipped.message == "other images: the digests of letters differ"
    assert isinstance(results["digits.SoftMax+ReAct", "noise"], junitparser.Error)

    (whole,) = found["gate"]  # a finding about no OOD set
    assert (whole.classname, whole.name) == ("gate.SoftMax+Energy", "max-slower 1.2")
    assert isinstance(whole.result[0], junitparser.Failure)


def test_figures_and_warnings_are_output() -> None:
    suite = suites(junit_xml.render(comparison(), gate_result()))["digits"]
    output = {(case.classname, case.name): case.system_out for case in suite}
    assert output["digits.SoftMax+Energy", "letters"].splitlines()[0] == (
        "AUROC↑: worse; base 91.00; head 88.97; change -2.03; 95% interval -2.43 to -1.63; DeLong"
    )
    assert "warning: SoftMax+ODIN (fixed)" in output["digits.SoftMax+ODIN (fixed)", "patches"]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names(hostile: str) -> None:
    names = [f"{hostile}{number}" for number in range(6)]
    text = junit_xml.render(comparison(*names), gate_result(names[0], names[5]))
    SCHEMA.validate(text)
    assert text.isascii()
    assert suites(text)["digits"].failures == 1
