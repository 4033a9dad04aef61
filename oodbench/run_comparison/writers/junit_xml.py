"""A comparison as JUnit XML, which CI systems show as tests: one test per method and OOD set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from oodbench.errors import visible
from oodbench.run_comparison.changes import Change, Finding, GateResult, RunComparison, Verdict
from oodbench.run_comparison.writers.change_tables import interval, metric_name, percent, points
from oodbench.run_comparison.writers.findings import alike, sentence

_TAGS = ("failure", "error", "skipped")


def render(comparison: RunComparison, gate: GateResult) -> str:
    """XML that fits Jenkins' schema `junit-10.xsd`, in ASCII.

    A test fails if the gate fails because of its method and OOD set. If none of its metrics can be
    compared, it is skipped, with the reason, or an error if the gate asked for them. Findings about
    a whole method, a mean or the whole run are tests of a second suite, "gate".
    """
    tests: dict[tuple[str, str], list[Change]] = {}
    for change in comparison.changes:
        if change.kind == "set":
            tests.setdefault((change.method, change.column), []).append(change)
    about: dict[tuple[str, str], list[Finding]] = {test: [] for test in tests}
    others: list[Finding] = []
    for finding in gate.findings:
        about.get((finding.method, finding.column), others).append(finding)
    name = visible(comparison.head.benchmark)
    cases = [
        _case(f"{name}.{visible(method)}", visible(column), changes, about[method, column])
        for (method, column), changes in tests.items()
    ]
    root = Element("testsuites", name="oodbench compare")
    _add_suite(root, name, cases)
    if others:
        _add_suite(root, "gate", [_gate_case(findings) for findings in alike(others)])
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.attrib[count]) for suite in root)))
    ElementTree.indent(root)
    text: str = ElementTree.tostring(root, encoding="us-ascii", xml_declaration=True).decode()
    return text + "\n"


def _add_suite(root: Element, name: str, cases: Sequence[Element]) -> None:
    found = {tag: sum(case.find(tag) is not None for case in cases) for tag in _TAGS}
    suite = SubElement(
        root,
        "testsuite",
        name=name,
        tests=str(len(cases)),
        failures=str(found["failure"]),
        errors=str(found["error"]),
        skipped=str(found["skipped"]),
    )
    suite.extend(cases)


def _case(
    classname: str, name: str, changes: Sequence[Change], findings: Sequence[Finding]
) -> Element:
    case = Element("testcase", classname=classname, name=name)
    _add_result(case, findings)
    if not len(case) and all(each.verdict == Verdict.NOT_COMPARABLE for each in changes):
        reasons = dict.fromkeys(visible(each.reason) for each in changes)
        SubElement(case, "skipped", message="; ".join(reasons))
    lines = [*map(_line, changes), *_warnings(findings)]
    SubElement(case, "system-out").text = "\n".join(lines)
    return case


def _gate_case(findings: Sequence[Finding]) -> Element:
    first = findings[0]
    name = " ".join(part for part in (first.rule, first.metric) if part)
    case = Element(
        "testcase", classname=f"gate.{visible(first.method or 'run')}", name=visible(name)
    )
    _add_result(case, findings)
    if not len(case):
        SubElement(case, "system-out").text = "\n".join(_warnings(findings))
    return case


def _add_result(case: Element, findings: Iterable[Finding]) -> None:
    """One element for the most severe findings: several would be counted several times."""
    for severity, tag in (("failure", "failure"), ("incomparable", "error")):
        texts = [sentence(each) for each in findings if each.severity == severity]
        if texts:
            SubElement(case, tag, message=texts[0], type=severity).text = "\n".join(texts)
            return


def _warnings(findings: Iterable[Finding]) -> list[str]:
    return [f"warning: {sentence(each)}" for each in findings if each.severity == "warning"]


def _line(change: Change) -> str:
    figures = [
        f"base {percent(change.base)}" if change.base is not None else "",
        f"head {percent(change.head)}" if change.head is not None else "",
        f"change {points(change.difference)}" if change.difference is not None else "",
        f"95% interval {interval(change)}" if interval(change) else "",
        change.test,
        visible(change.reason),
    ]
    shown = "; ".join(figure for figure in figures if figure)
    return f"{metric_name(change.metric)}: {change.verdict.value}{f'; {shown}' if shown else ''}"
