"""The static site: its pages, what it does with bad input and hostile names, its folder."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import Command
from helpers.kills import killed_at, needs_fork
from helpers.site_runs import METHODS, renamed, write_run

import oodbench
from oodbench.errors import UserError
from oodbench.metrics import auroc
from oodbench.report import Leaderboard
from oodbench.report.site.file_names import file_names
from oodbench.report.site.folder import MARKER, write_site
from oodbench.report.site.history import change_text, history_plots
from oodbench.report.site.page_assembly import assemble, portable_command
from oodbench.report.site.pages import Citation, Drawing, ShownRun, Site
from oodbench.report.site.plots import Scale
from oodbench.report.site.rendering import printable, render, web_link
from oodbench.report.site.score_curves import MOST_POINTS, score_curves, thinned
from oodbench.specs import SuiteSpec
from oodbench.storage.stored_run import read_stored_run
from oodbench.storage.suite_description import SuiteDescription
from oodbench.storage.suite_directory import SuiteDirectory

HOSTILE = (
    "../x",
    "../../../etc/passwd",
    "a<b>",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=cmd|' /C calc'!A0",
    "line\nfeed",
    "\x1b[31mred\x1b[0m",
    "\u202edrawkcab",
    "index",
    "CON",
    "A+b",
    "a b",
    "\u65e5\u672c",
    "x" * 5000,
    "{{ 7 * 7 }}",
)


def shown(folder: Path) -> ShownRun:
    stored = read_stored_run(folder)
    return ShownRun(stored, Leaderboard.from_records(stored.records, stored.costs))


def site_of(*folders: Path, **citations: Citation) -> Site:
    return assemble(map(shown, folders), citations)


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether every tag is closed."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def links(pages: dict[str, str]) -> set[str]:
    """Addresses inside of the site that any page refers to, relative to the site."""
    found = set()
    for address, content in pages.items():
        if not address.endswith(".html"):
            continue
        for tag, attributes in Page(content).tags:
            target = attributes.get("href" if tag in ("a", "link") else "src")
            if target and not target.startswith(("#", "http")):
                whole = (Path("/site") / address).parent / target.partition("#")[0]
                path = Path(*whole.parts[:1], *_without_dots(whole.parts[1:]))
                found.add(str(path.relative_to("/site")))
    return found


def _without_dots(parts: tuple[str, ...]) -> list[str]:
    kept: list[str] = []
    for part in parts:
        if part == "..":
            kept.pop()
        else:
            kept.append(part)
    return kept


# --- pages ---------------------------------------------------------------------------------------


def test_every_method_has_a_page_with_figures_and_every_link_leads_somewhere(
    tmp_path: Path,
) -> None:
    site = site_of(write_run(tmp_path / "run"), write_run(tmp_path / "other", benchmark="b"))
    pages = dict(render(site))
    assert links(pages) <= pages.keys()
    assert [each.name for each in site.benchmarks] == ["b", "toy"]
    run = site.benchmarks[1].runs[0]
    assert [page.row.method for page in run.methods] == [row.method for row in run.board.rows]
    assert {page.row.method for page in run.methods} == set(METHODS)
    for page in run.methods:
        assert isinstance(page.drawing, Drawing)
        assert len(page.drawing.histograms) == 3
        content = Page(pages[page.address])
        assert not content.open
        pictures = [a for tag, a in content.tags if tag == "svg" and a.get("role") == "img"]
        assert len(pictures) == 6
        assert all(len(a["aria-label"] or "") > 60 for a in pictures), "text alternatives"
        assert page.row.method in content.text


def test_every_region_that_scrolls_can_be_reached_by_key(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, skipped={"SoftMax+X": "no head"}) for name in "ab"]
    for address, content in render(site_of(*runs)).items():
        for _, attributes in Page(content).tags if address.endswith(".html") else ():
            if attributes.get("class") == "wide":
                assert attributes.get("tabindex") == "0", address
                assert attributes.get("role") == "region", address
                assert attributes.get("aria-label") or attributes.get("aria-labelledby"), address


@pytest.mark.parametrize(
    ("seeds", "words"), [(1, "One seed;"), (2, "Mean over two seeds"), (3, "Mean over seeds,")]
)
def test_values_of_a_method_are_explained(tmp_path: Path, seeds: int, words: str) -> None:
    pages = render(site_of(write_run(tmp_path / "run", seeds=seeds)))
    assert words in Page(pages["toy-v1/methods/softmax-knn.html"]).text


def test_tables_are_real_tables(tmp_path: Path) -> None:
    for address, content in render(site_of(write_run(tmp_path / "run"))).items():
        if not address.endswith(".html"):
            continue
        page = Page(content)
        assert not page.open
        tags = [tag for tag, _ in page.tags]
        assert tags.count("h1") == 1
        assert tags.count("main") == 1
        scopes = {a.get("scope") for tag, a in page.tags if tag == "th"}
        assert scopes <= {"col", "row", "rowgroup"}
        assert ("a", {"class": "skip", "href": "#main"}) in page.tags
        assert any(a.get("http-equiv") == "Content-Security-Policy" for _, a in page.tags)
        inline = [a for tag, a in page.tags if tag == "script" and "src" not in a]
        assert not inline
        assert not any("style" in a or any(k.startswith("on") for k in a) for _, a in page.tags)
        for tag, attributes in page.tags:
            if tag in ("input", "select") and attributes.get("type") != "checkbox":
                assert ("label", {"for": attributes["id"]}) in page.tags


def test_values_of_the_table_are_those_of_the_leaderboard(tmp_path: Path) -> None:
    site = site_of(write_run(tmp_path / "run"))
    run = site.benchmarks[0].runs[0]
    content = render(site)[run.address]
    heads = re.findall(r'data-m="(\w+)" data-c="([^"]+)"', content)
    assert len(heads) == len(set(heads)) == 7 * (2 + 2 + 3)
    first = heads.index(("auroc", "mean"))
    for row in run.board.rows:
        line = next(
            part
            for part in content.split("<tr ")
            if f">{row.method.replace('+', '+<wbr>')}<" in part
        )
        cells = re.findall(r"<td[^>]*>", line)
        value = re.search(r'data-v="([\d.]+)"', cells[1 + first])
        assert value is not None
        mean = row.entries["auroc", run.board.column("mean")].estimate.mean
        assert math.isclose(float(value[1]), 100 * mean, abs_tol=1e-4)


def test_ties_are_shown_where_they_are_tested(tmp_path: Path, command: Command) -> None:
    folder = write_run(tmp_path / "run", seeds=3)
    assert command("site", folder, "--out", tmp_path / "site").code == 0
    content = (tmp_path / "site/toy-v1/index.html").read_text(encoding="utf-8")
    board = oodbench.open_run(folder).leaderboard()  # type: ignore[union-attr]
    marks = [
        entry.mark
        for row in board.rows
        for (_, column), entry in row.entries.items()
        if column.kind != "group" or column.sets != board.column("mean").sets
    ]
    table = content[content.index('id="board"') : content.index("</table>")]
    assert board.tested
    assert table.count("tied with the best") == marks.count("tied") > 0
    assert table.count("(best)") == marks.count("best") > 0
    alone = render(site_of(write_run(tmp_path / "alone", scores=False)))["toy-v1/index.html"]
    assert "Ties are not shown" in alone


def test_an_older_run_has_its_own_pages_and_the_benchmark_a_history(tmp_path: Path) -> None:
    old = write_run(tmp_path / "a", written="2026-01-01T00:00:00+00:00", revision="aaa111")
    new = write_run(tmp_path / "b", METHODS[1:], better=0.5, revision="bbb222")
    benchmark = site_of(old, new).benchmarks[0]
    assert [run.name for run in benchmark.runs] == ["b", "a"]
    assert [run.address for run in benchmark.runs] == [
        "toy-v1/index.html",
        "toy-v1/runs/a/index.html",
    ]
    assert [(run.name, bool(shared)) for run, shared in benchmark.dated] == [
        ("a", False),
        ("b", True),
    ]
    assert [past.page is None for past in benchmark.history("SoftMax+MSP")] == [False, True]
    pages = dict(render(site_of(old, new)))
    assert pages == dict(render(site_of(new, old))), "the order of the runs is irrelevant"
    assert links(pages) <= pages.keys()
    history = Page(pages["toy-v1/history.html"])
    assert "aaa111" in history.text
    assert "SoftMax+MSP" in history.text
    assert "This is an older run" in pages["toy-v1/runs/a/index.html"]
    assert "over runs" in pages["toy-v1/methods/softmax-knn.html"]
    assert "over runs" not in pages["toy-v1/runs/a/methods/softmax-msp.html"], "it has one value"


def test_runs_of_one_day_are_told_apart_by_the_time(tmp_path: Path) -> None:
    dates = ("2026-01-01T08:30:00+00:00", "2026-01-01T09:45:00+00:00")
    folders = [write_run(tmp_path / date[11:13], written=date) for date in dates]
    (benchmark,) = site_of(*folders).benchmarks
    history = benchmark.history("SoftMax+KNN")
    auroc_plot = history_plots(history)[0]
    assert [tick.label for tick in auroc_plot.x_ticks] == ["01-01 08:30", "01-01 09:45"]
    assert len(auroc_plot.lines) == 1
    assert change_text(history) == "0.0"


def test_runs_on_other_data_are_not_joined(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", written="2026-01-01T00:00:00+00:00")
    second = write_run(tmp_path / "b", images=50)
    (benchmark,) = site_of(first, second).benchmarks
    assert [shared for _, shared in benchmark.dated] == ["", ""]
    assert "not comparable" in render(site_of(first, second))["toy-v1/history.html"]


def test_only_checksums_show_that_test_data_are_the_same(tmp_path: Path) -> None:
    for name, known in (("all", True), ("one", False)):
        folders = []
        for day in ("01", "02"):
            written = f"2026-01-{day}T00:00:00+00:00"
            folder = write_run(tmp_path / name / day, written=written)
            described = json.loads((folder / "run.json").read_text())
            board = shown(folder).board
            sets = {board.id_dataset, *(each.name for each in board.ood_sets)}
            data = {each: {"test": "0" * 64} for each in sets}
            if not known:
                del data[board.ood_sets[0].name]
            described["checksums"]["data"] = data
            (folder / "run.json").write_text(json.dumps(described))
            folders.append(folder)
        (benchmark,) = site_of(*folders).benchmarks
        history = Page(render(site_of(*folders))["toy-v1/history.html"]).text
        assert [bool(shared) for _, shared in benchmark.dated] == [False, True]
        assert ("comparable: same test data" in history) == known
        unchecked = "comparable: test data of the same names, not checked: checksums are missing"
        assert (unchecked in history) != known


def test_runs_of_other_seeds_say_so(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / f"{seeds}", seeds=seeds, written=f"2026-01-0{seeds}T00:00:00+00:00")
        for seeds in (1, 2)
    ]
    (benchmark,) = site_of(*folders).benchmarks
    assert benchmark.dated[1][1].endswith(", other seeds")


def test_runs_without_a_date_have_no_history(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, described=False) for name in ("a", "b")]
    (benchmark,) = site_of(*folders).benchmarks
    assert benchmark.history_address == ""
    assert len(benchmark.runs) == 2


def test_a_run_without_scores_says_so_in_place_of_curves(tmp_path: Path) -> None:
    site = site_of(write_run(tmp_path / "run", scores=False))
    pages = render(site)
    for page in site.benchmarks[0].runs[0].methods:
        assert isinstance(page.drawing, str)
        assert "without scores" in Page(pages[page.address]).text


@pytest.mark.parametrize("content", [b"", b"not a zip"])
def test_scores_that_cannot_be_read_are_no_reason_to_stop(tmp_path: Path, content: bytes) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "scores/SoftMax+KNN/seed0.npz").write_bytes(content)
    drawings = {p.row.method: p.drawing for p in site_of(folder).benchmarks[0].runs[0].methods}
    assert isinstance(drawings.pop("SoftMax+KNN"), str)
    assert all(isinstance(drawing, Drawing) for drawing in drawings.values())


def test_scores_that_were_changed_are_not_drawn(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    np.savez(folder / "scores/SoftMax+KNN/seed0.npz", id=np.ones(4), letters=np.zeros(4))
    drawings = {p.row.method: p.drawing for p in site_of(folder).benchmarks[0].runs[0].methods}
    assert "changed after the run" in str(drawings["SoftMax+KNN"])


@pytest.mark.parametrize(
    ("status", "said"), [("running", "Unfinished"), ("incomplete", "Incomplete")]
)
def test_an_unfinished_run_is_labeled(tmp_path: Path, status: str, said: str) -> None:
    pages = render(site_of(write_run(tmp_path / "run", status=status)))
    assert said in Page(pages["index.html"]).text
    assert said in Page(pages["toy-v1/index.html"]).text


def test_a_limited_run_is_not_shown_as_the_benchmark(tmp_path: Path) -> None:
    name = "toy (not the benchmark: limited to 500 images a set)"
    whole, limited = write_run(tmp_path / "a"), write_run(tmp_path / "b", benchmark=name)
    titles = [benchmark.title for benchmark in site_of(whole, limited).benchmarks]
    assert titles == ["The toy benchmark", name]


def test_skipped_methods_notes_and_provenance_are_on_the_page(tmp_path: Path) -> None:
    reason = "needs a DisMax head; SoftMax has a linear head"
    folder = write_run(
        tmp_path / "run",
        skipped={"SoftMax+MMLES": reason},
        notes={"SoftMax+KNN/seed1": ["bank of 7 features"]},
        revision="abc1234",
    )
    pages = render(site_of(folder))
    text = Page(pages["toy-v1/index.html"]).text
    for words in ("SoftMax+MMLES", reason, "abc1234", "bank of 7 features", "Worst set:"):
        assert words in text
    assert "bank of 7 features" in pages["toy-v1/methods/softmax-knn.html"]
    assert "bank of 7 features" not in pages["toy-v1/methods/softmax-msp.html"]


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("oodbench run --out /home/ann/runs/a --seeds 3", "oodbench run --out a --seeds 3"),
        (r"oodbench run 'C:\me\b.yaml' '--out=D:\c\'", "oodbench run b.yaml --out=c"),
        (
            "oodbench run --plugins ~/p,../../q/ --methods A/B",
            "oodbench run --plugins p,q --methods A/B",
        ),
        ("oodbench run --address ray://host:1", "oodbench run --address ray://host:1"),
        ("oodbench run 'unclosed", ""),
    ],
)
def test_commands_are_shown_without_the_folders_of_a_machine(command: str, shown: str) -> None:
    assert portable_command(command) == shown


def test_a_run_without_results_on_ood_sets_has_no_ranking(tmp_path: Path) -> None:
    site = site_of(write_run(tmp_path / "run", sets={}))
    pages = {address: Page(content) for address, content in render(site).items()}
    page = pages["toy-v1/index.html"]
    assert "This run has no result on an OOD set" in page.text
    assert not any(a.get("id") in ("controls", "front") for _, a in page.tags)
    assert "SoftMax+MSP" in page.text
    assert "This run has no result on an OOD set." in pages["toy-v1/methods/softmax-msp.html"].text


def test_a_run_without_costs_and_scores_offers_no_filters_by_them(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", described=False, scores=False)
    assert "More filters" in render(site_of(folder))["toy-v1/index.html"]
    (folder / "costs.jsonl").unlink()
    content = render(site_of(folder))["toy-v1/index.html"]
    assert "More filters" not in content
    assert 'id="text"' in content, "methods can still be searched"


def test_a_long_revision_is_cut_in_headings(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, revision="r" * 300) for name in "ab"]
    pages = render(site_of(*runs))
    assert ">" + "r" * 20 + "<" in pages["toy-v1/history.html"]
    assert "r" * 21 not in pages["toy-v1/history.html"]
    assert "r" * 300 in pages["toy-v1/index.html"], "whole with the versions"


def test_citations_are_links_of_the_web_only(tmp_path: Path) -> None:
    known = Citation(
        "ICLR 2017", "https://x.org/?a=1&b=2", "A Paper", ("An Author",), "", "@a{b,\n  c}"
    )
    pages = render(site_of(write_run(tmp_path / "run"), MSP=known))
    page = Page(pages["toy-v1/methods/softmax-msp.html"])
    assert "An Author. A Paper. ICLR 2017." in page.text
    assert any(a.get("href") == "https://x.org/?a=1&b=2" for _, a in page.tags)
    assert "@a{b,\n  c}" in page.text, "the entry keeps its lines"
    other = Page(pages["toy-v1/methods/softmax-knn.html"])
    assert "ICML 2020" in other.text, "of run.json"
    for address in (
        "javascript:alert(1)",
        "data:text/html,x",
        "//x.org",
        "http://a b",
        "http://[",
        "",
    ):
        assert web_link(address) == ""


# --- hostile names -------------------------------------------------------------------------------


def test_file_names_are_safe_and_unique() -> None:
    names = file_names(HOSTILE)
    assert len({name.casefold() for name in names.values()}) == len(HOSTILE)
    for name in names.values():
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,68}", name)
        assert name not in ("index", "con")
    assert file_names(HOSTILE[::-1]) == names, "the order is irrelevant"
    assert file_names(["SoftMax+ODIN (fixed)"]) == {"SoftMax+ODIN (fixed)": "softmax-odin-fixed"}


def test_hostile_names_are_text(tmp_path: Path) -> None:
    safe = [f"method {number}" for number in range(len(HOSTILE))]
    folder = write_run(tmp_path / "run", safe, {"a": "near", "b": "</script>"}, scores=False)
    run = renamed(folder, HOSTILE, ["<i>set</i>", "b&'\""])
    pages = dict(render(assemble([run], {})))
    assert links(pages) <= pages.keys()
    expected = {"script", "img", "i"}
    for address, content in pages.items():
        assert not Path(address).is_absolute()
        assert ".." not in address
        if address.endswith(".html"):
            page = Page(content)
            tags = [(tag, a) for tag, a in page.tags if tag in expected]
            assert all(
                tag == "script" and (a["src"] or "").endswith("assets/site.js") for tag, a in tags
            )
            assert not set(content) - set(map(chr, [10, *range(32, 127)])), (
                "ASCII, no control characters"
            )
    text = Page(pages["toy-v1/index.html"]).text
    for name in ("<script>alert(1)</script>", "=cmd|' /C calc'!A0", "{{ 7 * 7 }}", "\u65e5\u672c"):
        assert name in text
    assert "\\x1b[31mred" in text


def test_controls_and_bidirectional_marks_are_escaped() -> None:
    assert printable("a\x00b\u202ec\nd") == "a\\x00b\\u202ec\nd"
    assert printable(3) == 3


# --- curves --------------------------------------------------------------------------------------


def test_curves_are_those_of_the_scores() -> None:
    generator = np.random.default_rng(1)
    scores = {"id": generator.normal(1, 1, 3000), "far": generator.normal(0, 1, 2000)}
    curves = score_curves(0, scores, ("far", "missing"))
    (far,) = curves.sets
    x, y = np.array(far.roc).T
    area = float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
    assert math.isclose(area, auroc(scores["id"], scores["far"]), abs_tol=2e-3)
    assert far.roc[0] == (0, 0)
    assert far.roc[-1] == (1, 1)
    assert math.isclose(sum(far.shares), 1)
    assert math.isclose(sum(curves.id_shares), 1)
    assert far.precision_in[-1] == (1, 3000 / 5000)
    assert far.precision_out[-1] == (1, 2000 / 5000)
    assert all(len(line) <= MOST_POINTS for line in (far.roc, far.precision_in, far.precision_out))
    assert (scores["id"] >= curves.threshold).mean() == 0.95


def test_a_thinned_curve_is_near_the_curve() -> None:
    x = np.linspace(0, 1, 5000)
    y = 1 - (1 - x) ** 2
    points = np.array(thinned(x, y))
    assert len(points) < 60
    assert np.abs(np.interp(x, *points.T) - y).max() < 0.005
    line = thinned(x, x)
    assert line == ((0.0, 0.0), (1.0, 1.0))
    noise = np.random.default_rng(0).uniform(size=5000)
    assert len(thinned(x, noise)) == MOST_POINTS


@pytest.mark.parametrize(
    "scores",
    [
        {"id": np.array([np.nan, 1]), "far": np.ones(2)},
        {"id": np.array([1e308, -1e308]), "far": np.ones(2)},
        {"id": np.ones((2, 2)), "far": np.ones(2)},
        {"id": np.array([]), "far": np.ones(2)},
        {"far": np.ones(2)},
        {"id": np.ones(2)},
    ],
)
def test_scores_that_cannot_be_drawn_are_an_error(scores: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        score_curves(0, scores, ("far",))


def test_equal_scores_have_a_histogram() -> None:
    curves = score_curves(0, {"id": np.full(20, 1e12), "far": np.full(20, 1e12)}, ("far",))
    assert curves.low < 1e12 < curves.high


def test_a_few_very_low_scores_do_not_squeeze_the_histogram() -> None:
    known = np.linspace(-1, 0, 100)
    far = np.concatenate([np.linspace(-3, -1, 80), np.full(20, -1e6)])
    curves = score_curves(0, {"id": known, "far": far}, ("far",))
    assert curves.low > -6
    assert math.isclose(sum(curves.sets[0].shares), 1)
    assert curves.sets[0].shares[0] >= 0.2, "the outer bin has all beyond it"


def test_ticks_are_round() -> None:
    assert [tick.label for tick in Scale(0, 100, 0, 10).ticks(6)] == [
        "0",
        "20",
        "40",
        "60",
        "80",
        "100",
    ]
    labels = [tick.label for tick in Scale(1000.001, 1000.002, 0, 10).ticks(5)]
    assert len(set(labels)) == len(labels) > 2


# --- folder and command --------------------------------------------------------------------------


def test_the_command_writes_the_same_bytes_again_and_replaces_its_own_site(
    tmp_path: Path, command: Command
) -> None:
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b", METHODS[:2])
    out = tmp_path / "site"
    done = command("site", first, second, "--out", out)
    assert (done.code, done.out.strip()) == (0, str(out / "index.html")), done.err
    files = contents(out)
    assert set(json.loads(files[MARKER])["files"]) == files.keys() - {MARKER}
    (out / "CNAME").write_text("mine")
    command("site", second, first, "--out", out)
    assert contents(out) == files | {"CNAME": b"mine"}
    command("site", second, "--out", out)
    assert not (out / "toy-v1/runs").exists(), "pages of the older run are removed"
    assert (out / "CNAME").read_text() == "mine"
    assert str(tmp_path).encode() not in b"".join(contents(out).values()), "no path of this machine"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_other_folders_are_not_written(tmp_path: Path, command: Command) -> None:
    run = write_run(tmp_path / "run")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    file = tmp_path / "file"
    file.write_text("")
    before = contents(tmp_path)
    for out, said in ((mine, "holds no site"), (run, "holds a run"), (file, "Cannot write")):
        done = command("site", run, "--out", out)
        assert done.code == 2
        assert said in done.err
        assert "--out" in done.err
    assert contents(tmp_path) == before


@needs_fork
def test_a_folder_where_a_command_was_killed_is_written(tmp_path: Path) -> None:
    killed_at("fsync", lambda: write_site(tmp_path, {"index.html": "x"}))
    assert [each.name[:9] for each in tmp_path.iterdir()] == [".writing-"]
    write_site(tmp_path, {"index.html": "x"})
    assert contents(tmp_path).keys() == {"index.html", MARKER}


@pytest.mark.parametrize("address", ["../outside", "a/../../outside", "{}/outside", "a/..", ""])
def test_a_forged_list_of_files_removes_nothing_outside(tmp_path: Path, address: str) -> None:
    site, outside = tmp_path / "site", tmp_path / "outside"
    site.mkdir()
    outside.write_text("keep")
    (site / MARKER).write_text(json.dumps({"files": [address.format(tmp_path)]}))
    write_site(site, {"index.html": "x"})
    assert outside.read_text() == "keep"
    assert (site / "index.html").read_text() == "x"


@pytest.mark.parametrize("content", ["", "5", "{}", '{"files": 5}', '{"files": [7]}', "\x00"])
def test_a_damaged_list_of_files_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / MARKER).write_text(content)
    with pytest.raises(UserError, match="not the list of a site's files"):
        write_site(tmp_path, {"index.html": "x"})


def test_bad_input_is_one_clear_error(tmp_path: Path, command: Command) -> None:
    (tmp_path / "empty").mkdir()
    for name, words in (("empty", "holds no run"), ("missing", "no folder")):
        done = command("site", tmp_path / name, "--out", tmp_path / "site")
        assert done.code == 2
        assert words in done.err
    assert not (tmp_path / "site").exists()
    assert command("site", "--out", tmp_path / "site").code == 2


def test_records_alone_and_the_same_run_twice(tmp_path: Path, command: Command) -> None:
    folder = write_run(tmp_path / "run", described=False, scores=False)
    out = tmp_path / "site"
    assert command("site", folder / "records.jsonl", folder, "--out", out).code == 0
    assert "There is no run.json" in (out / "toy-v1/index.html").read_text(encoding="utf-8")
    assert not (out / "toy-v1/runs").exists()


def test_a_suite_stands_for_its_runs(tmp_path: Path, command: Command) -> None:
    suite = SuiteSpec.model_validate(
        {
            "schema_version": 1,
            "name": "pair",
            "version": 1,
            "title": "A pair",
            "summary": "Two benchmarks.",
            "members": {"toy": {"network": "n", "id": "A"}, "other": {"network": "n", "id": "B"}},
        }
    )
    directory = SuiteDirectory(tmp_path / "pair")
    directory.write(SuiteDescription.of(suite, None, {}), "running")
    done = command("site", tmp_path / "pair", "--out", tmp_path / "site")
    assert done.code == 2
    assert "no benchmark has results" in done.err
    write_run(tmp_path / "pair/toy")
    assert command("site", tmp_path / "pair", "--out", tmp_path / "site").code == 0
    assert (tmp_path / "site/toy-v1/index.html").exists()


def test_runs_with_equal_names_have_different_labels(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name / "run") for name in ("a", "b")]
    (benchmark,) = site_of(*folders).benchmarks
    assert {run.label for run in benchmark.runs} == {"run (1)", "run (2)"}
    assert len({run.address for run in benchmark.runs}) == 2
