"""A badge with the result of a comparison: an SVG picture, or JSON for shields.io."""

from __future__ import annotations

import json
from typing import NamedTuple

from markupsafe import Markup

from oodbench.errors import visible
from oodbench.run_comparison.changes import GateResult, RunComparison, Verdict

_COLORS = {"brightgreen": "#37802a", "green": "#2f7d52", "red": "#c23b2a", "orange": "#b35c00"}
"""Names that shields.io knows, and colors with a contrast of at least 4.5 to the white text."""

# Widths of the printable ASCII characters, in hundredths of the font size: DejaVu Sans, which is as
# wide as Verdana to 2 %.
_WIDTHS = {
    character: width
    for width, characters in {
        27: "'",
        28: "ijl",
        29: "IJ",
        32: " ,.",
        34: "/:;\\|",
        36: "f-",
        39: "()[]t",
        41: "!r",
        46: '"',
        50: "*_`",
        52: "sz?",
        56: "cL",
        59: "Fkvxy",
        61: "PTYaoe",
        64: "ESbdghnpqu$0123456789{}K",
        69: "AVBRXZC",
        75: "HNUDG",
        79: "OQ&",
        84: "w#+<=>^~M",
        97: "m%",
        100: "W@",
    }.items()
    for character in characters
}
_WIDEST = 100
_SIZE, _PADDING = 11, 6
_LONGEST = 40
"""Longest label, in characters."""


class Badge(NamedTuple):
    """What a badge says."""

    label: str
    message: str
    color: str


def badge(comparison: RunComparison, gate: GateResult) -> Badge:
    """What the badge of a comparison says: how many methods are worse, or better."""
    label = f"oodbench {visible(comparison.head.benchmark)}"
    label = label if len(label) <= _LONGEST else f"{label[: _LONGEST - 3]}..."

    def methods(verdict: Verdict) -> int:
        return len({change.method for change in comparison.of(verdict)})

    worse, better = methods(Verdict.WORSE), methods(Verdict.BETTER)
    severities = {finding.severity for finding in gate.findings}
    if "failure" in severities:
        return Badge(label, f"{worse} worse" if worse else "gate failed", "red")
    if "incomparable" in severities:
        return Badge(label, "not comparable", "orange")
    if worse:
        return Badge(label, f"{worse} worse", "orange")
    if better:
        return Badge(label, f"{better} better", "brightgreen")
    return Badge(label, "no regression", "green")


def endpoint_json(shown: Badge) -> str:
    """JSON for https://shields.io/badges/endpoint-badge."""
    content = {"schemaVersion": 1, **shown._asdict()}
    return json.dumps(content, indent=2) + "\n"


def svg(shown: Badge) -> str:
    """A picture of 20 pixels height, in ASCII; its title is read by screen readers."""
    label, message = (_text_width(text) for text in (shown.label, shown.message))
    left, right = label + 2 * _PADDING, message + 2 * _PADDING
    picture = Markup(_SVG).format(
        title=f"{shown.label}: {shown.message}",
        label=shown.label,
        message=shown.message,
        color=_COLORS[shown.color],
        width=left + right,
        left=left,
        right=right,
        label_width=label,
        message_width=message,
        label_x=_PADDING,
        message_x=left + _PADDING,
    )
    return picture.encode("ascii", "xmlcharrefreplace").decode()


def _text_width(text: str) -> int:
    """Width in pixels."""
    return round(sum(_WIDTHS.get(character, _WIDEST) for character in text) * _SIZE / 100)


_SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{title}">
  <title>{title}</title>
  <linearGradient id="shade" x2="0" y2="100%">
    <stop offset="0" stop-color="#fff" stop-opacity=".12"/>
    <stop offset="1" stop-opacity=".12"/>
  </linearGradient>
  <clipPath id="round"><rect width="{width}" height="20" rx="3"/></clipPath>
  <g clip-path="url(#round)">
    <rect width="{left}" height="20" fill="#4a4f57"/>
    <rect x="{left}" width="{right}" height="20" fill="{color}"/>
    <rect width="{width}" height="20" fill="url(#shade)"/>
  </g>
  <g fill="#fff" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="11">
    <text x="{label_x}" y="14" textLength="{label_width}">{label}</text>
    <text x="{message_x}" y="14" textLength="{message_width}">{message}</text>
  </g>
</svg>
"""
