"""Links of pages to files of the repository, and what Python-Markdown would not show."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from documentation.lists import glued_lists
from documentation.markdown_text import code, escaped, fenced, table, table_below
from documentation.repository_links import linked_sources, source_page, with_site_links


def site_link(uri: str, link: str) -> str:
    """The link as the site has it."""
    said: list[str] = []
    text = with_site_links(uri, f"[x]({link})", said.append)
    assert not said
    return text.strip().removeprefix("[x](").removesuffix(")")


@pytest.mark.parametrize(
    ("uri", "link", "expected"),
    [
        ("how-to/a.md", "../../examples/ci/github.yml", "../source/examples/ci/github.yml.md"),
        ("how-to/a.md", "../../examples/detectors", "../source/examples/detectors.md"),
        ("how-to/a.md", "../../.ci/gate.toml", "../source/ci/gate.toml.md"),
        ("how-to/a.md", "../../CONTRIBUTING.md#tests", "../contributing.md#tests"),
        ("how-to/a.md", "../reference/metrics.md#ties", "../reference/metrics.md#ties"),
        ("how-to/a.md", "../leaderboards/digits", "../leaderboards/digits/leaderboard.md"),
        ("contributing.md", "docs/reference/metrics.md", "reference/metrics.md"),
        ("how-to/a.md", "#here", "#here"),
        ("how-to/a.md", "https://example.org/a.md", "https://example.org/a.md"),
    ],
)
def test_links_lead_to_pages(uri: str, link: str, expected: str) -> None:
    assert site_link(uri, link) == expected


def test_a_link_to_no_file_is_said() -> None:
    said: list[str] = []
    with_site_links("how-to/a.md", "[x](../../examples/no.yml)", said.append)
    assert said == [
        "'how-to/a.md' links to '../../examples/no.yml', which is not in the repository"
    ]


def test_links_in_code_are_left_as_they_are() -> None:
    text = "```\n[x](../../examples/no.yml)\n```\n"
    assert with_site_links("how-to/a.md", text, pytest.fail) == text
    assert not [*linked_sources("how-to/a.md", "```\n[x](../../examples/ci)\n```")]


def test_linked_files_get_pages() -> None:
    found = [*linked_sources("how-to/a.md", "[x](../../examples/ci), [y](../explanation/scale.md)")]
    assert found == [PurePosixPath("examples/ci")]
    uri, text = source_page(found[0])
    assert uri == "source/examples/ci.md"
    assert "## github.yml" in text
    assert "```yaml\n" in text
    _, notebook = source_page(PurePosixPath("examples/deploy.ipynb"))
    assert "```python\nimport" in notebook


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Text:\n- one\n- two\n", ["- one"]),
        ("Text:\n\n- one\n- two\n", []),
        ("- one\n  more\n- two\n\n1. a\n2. b\n", []),
        ("```\nText\n- one\n```\n", []),
        ("Text\n1. one\n", ["1. one"]),
        ("# Heading\n- one\n", []),
    ],
)
def test_lists_below_text_are_found(text: str, found: list[str]) -> None:
    assert [*glued_lists(text)] == found


def test_plain_text_stays_plain() -> None:
    assert escaped("a_i * b_i < `x_i`") == r"a\_i \* b\_i \< `x_i`"
    assert code("str | None") == "<code>str &#124; None</code>"
    assert fenced("```\nx\n```", "text") == "````text\n```\nx\n```\n````\n"
    written = "# Page\n\n## Values\n\n" + table(("A", "B"), [("x|y", "z")])
    assert table_below(written, "Values") == (["A", "B"], [["x|y", "z"]])
    with pytest.raises(ValueError, match="no table below the heading 'Other'"):
        table_below(written, "Other")
