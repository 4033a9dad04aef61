"""The site in a real browser: Chromium, where it is installed, opening the files from disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.site_runs import METHODS, renamed, write_run

import oodbench
from oodbench.report.figures import cost_plot
from oodbench.report.leaderboard import LeaderboardData
from oodbench.report.published.average_matching import compare_averages
from oodbench.report.site.folder import write_site
from oodbench.report.site.page_assembly import assemble
from oodbench.report.site.pages import ShownRun
from oodbench.report.site.rendering import render
from oodbench.specs import PublishedReference, PublishedSpec
from oodbench.storage.stored_run import read_stored_run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

PAGES = (
    "index.html",
    "toy-v1/index.html",
    "toy-v1/history.html",
    "toy-v1/methods/softmax-knn.html",
    "toy-v1/runs/old/index.html",
    "bare-v1/index.html",
    "bare-v1/methods/softmax-knn.html",
)
LONG = "A name of a method that no table was made for, " * 8
HOSTILE = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "a\nb", LONG)


def board_of(folder: Path) -> LeaderboardData:
    return oodbench.open_run(folder).leaderboard()  # type: ignore[union-attr]


def with_published(board: LeaderboardData) -> LeaderboardData:
    """The board beside published averages of hostile detectors."""
    names = dict(zip(HOSTILE, ("MSP", "KNN", "ODIN", "Entropy"), strict=True))
    entry = {"training": HOSTILE[0], "network": HOSTILE[1]}
    numbers = {
        "schema_version": 1,
        "name": "board",
        "title": HOSTILE[0],
        "sources": {"board": {"citation": HOSTILE[1]}},
        "averages": {
            "tuning": "GRID",
            "tuned": HOSTILE[:1],
            "detectors": names,
            "measures": {
                group: {"metric": "auroc", "group": group, "source": "board"}
                for group in ("near", "far")
            },
            "contested": [{"postprocessors": HOSTILE[1:2], "reason": HOSTILE[0]}],
            "benchmarks": {
                "small": {
                    "title": "Small",
                    "entries": [
                        {**entry, "postprocessor": name, "values": {"near": [90.0, 1.0]}}
                        for name in HOSTILE
                    ],
                }
            },
        },
    }
    models = dict.fromkeys(("SoftMax", "DisMax"), entry)
    reference = {"file": "board", "benchmark": "small", "models": models}
    found = compare_averages(
        board,
        PublishedSpec.model_validate(numbers),
        PublishedReference.model_validate(reference),
    )
    return replace(board, published=found)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one benchmark, a run without scores, and hostile names."""
    base = tmp_path_factory.mktemp("runs")
    runs = [
        write_run(base / "new", METHODS, seeds=3, revision="bbb222"),
        write_run(base / "old", METHODS, better=-0.2, written="2026-01-01T00:00:00+00:00"),
        write_run(base / "bare", METHODS, benchmark="bare", scores=False),
    ]
    shown = [ShownRun(read_stored_run(run), board_of(run)) for run in runs]
    shown[2] = replace(shown[2], board=with_published(shown[2].board))
    hostile = write_run(base / "hostile", METHODS, benchmark=f"hostile {LONG}", scores=False)
    shown.append(renamed(hostile, HOSTILE, ["<b>", "</script>", "x" * 500]))
    folder = base / "site"
    write_site(folder, render(assemble(shown, {})))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


class Opened:
    """A page of the site and everything that the browser complained about."""

    def __init__(self, browser: Any, site: Path, **options: Any) -> None:
        self.site, self.said = site, list[str]()
        self.page = browser.new_context(**options).new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog: {dialog.message}"))
        self.page.on("requestfailed", lambda request: self.said.append(f"failed: {request.url}"))

    def open(self, address: str) -> Any:
        name, mark, rest = address.partition("#")
        self.page.goto((self.site / name).as_uri() + mark + rest)
        return self.page

    def methods(self) -> list[str]:
        """Names in the rows that are shown, from top to bottom."""
        return self.page.eval_on_selector_all(
            "#board tbody tr:not([hidden]) th a", "links => links.map(link => link.textContent)"
        )


@pytest.fixture
def opened(browser: Any, site: Path) -> Iterator[Opened]:
    found = Opened(browser, site, viewport={"width": 1280, "height": 900})
    yield found
    assert found.said == []
    found.page.context.close()


@pytest.mark.parametrize("width", [400, 1024, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_complains_or_is_wider_than_the_window(
    browser: Any, site: Path, width: int, scheme: str
) -> None:
    opened = Opened(browser, site, viewport={"width": width, "height": 800}, color_scheme=scheme)
    every = [path.relative_to(site).as_posix() for path in sorted(site.glob("hostile-*/**/*.html"))]
    assert len(every) == 1 + len(HOSTILE)
    for address in (*PAGES, *every):
        page = opened.open(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 22, 26)")
        assert page.locator("h1").count() == 1
        if address == "toy-v1/index.html":
            table = "document.querySelector('#board')"
            assert page.evaluate(f"{table}.offsetWidth <= {table}.parentElement.clientWidth")
    assert opened.said == []
    opened.page.context.close()


def test_headings_sort_the_table(opened: Opened) -> None:
    page = opened.open("toy-v1/index.html")
    board = board_of(opened.site.parent / "new")
    best = [row.method for row in board.rows]
    assert opened.methods() == best
    mean = page.locator("#board th[data-m=auroc][data-c=mean]")
    assert mean.get_attribute("aria-sort") == "descending"
    mean.get_by_role("button").click()
    assert opened.methods() == best[::-1]
    assert mean.get_attribute("aria-sort") == "ascending"
    page.locator("#board th.name button").click()
    assert opened.methods() == sorted(best)
    assert mean.get_attribute("aria-sort") is None
    time = page.locator("#board th[data-cost=relative_to_baseline]")
    time.get_by_role("button").focus()
    page.keyboard.press("Enter")
    cheapest = sorted(board.rows, key=lambda row: row.cost.values["relative_to_baseline"])  # type: ignore[union-attr,arg-type,return-value]
    assert opened.methods() == [row.method for row in cheapest]
    assert time.get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Space")
    assert opened.methods() == [row.method for row in cheapest][::-1]


def test_filters_choose_rows(opened: Opened) -> None:
    page = opened.open("toy-v1/index.html")
    count = page.locator("#count")
    assert count.text_content() == "4 of 4 methods shown"
    page.get_by_label("Search", exact=True).fill("knn")
    assert opened.methods() == ["SoftMax+KNN"]
    assert count.text_content() == "1 of 4 methods shown"
    page.get_by_label("Search", exact=True).fill("")
    page.get_by_label("Model", exact=True).select_option(label="DisMax")
    assert opened.methods() == ["DisMax+Entropy"]
    page.get_by_role("button", name="Reset").click()
    assert len(opened.methods()) == 4
    page.get_by_text("More filters").click()
    page.get_by_label("input preprocessing", exact=True).check()
    assert opened.methods() == ["SoftMax+MSP", "SoftMax+KNN"]
    page.get_by_label("input preprocessing", exact=True).uncheck()
    page.get_by_label("Cost at most", exact=True).fill("2.7")
    assert set(opened.methods()) == {"SoftMax+MSP", "SoftMax+ODIN"}
    page.get_by_label("Cost at most", exact=True).fill("")
    page.get_by_label("only the best").check()
    board = board_of(opened.site.parent / "new")
    marks = {row.method: row.entries["auroc", board.column("mean")].mark for row in board.rows}
    kept = {method for method, mark in marks.items() if mark}
    assert set(opened.methods()) == kept != set(marks)
    page.reload()
    assert set(opened.methods()) == kept, "the address keeps the choice"


def test_filters_that_leave_nothing_say_so(opened: Opened) -> None:
    page = opened.open("toy-v1/index.html#text=.*")
    assert opened.methods() == [], "a text to search for is no pattern"
    assert "No method fits these filters" in (page.locator("#count").text_content() or "")
    assert not page.locator("#board").is_visible()
    assert not page.locator("#chart").is_visible()
    page.get_by_role("button", name="Reset").click()
    assert page.locator("#board").is_visible()
    assert page.locator("#chart svg a").count() == 4


def test_going_back_keeps_filters_and_order(opened: Opened) -> None:
    page = opened.open("toy-v1/index.html")
    page.get_by_label("Search", exact=True).fill("softmax")
    page.locator("#board th.name button").click()
    page.locator("#board th.name button").click()
    before = opened.methods()
    assert before == ["SoftMax+ODIN", "SoftMax+MSP", "SoftMax+KNN"]
    page.get_by_role("link", name="SoftMax+MSP").last.click()
    page.wait_for_url("**/methods/**")
    page.go_back()
    assert opened.methods() == before
    page.evaluate("location.hash = 'sort=relative_to_baseline+ascending'")
    page.wait_for_function("document.querySelector('#text').value === ''")
    assert page.locator("#board [aria-sort]").get_attribute("data-cost") == "relative_to_baseline"
    page.evaluate("location.hash = 'sort=nonsense+ascending'")
    page.wait_for_function("!document.querySelector('#board [data-cost][aria-sort]')")
    assert page.locator("#board [aria-sort]").get_attribute("data-m") == "auroc"


def test_metric_and_ood_set_choose_columns_and_order(opened: Opened) -> None:
    page = opened.open("toy-v1/index.html")

    def columns() -> list[tuple[str, str]]:
        found = page.eval_on_selector_all(
            "#board thead th[data-m]:not([hidden])", "h => h.map(e => [e.dataset.m, e.dataset.c])"
        )
        return [(metric, column) for metric, column in found]

    assert {metric for metric, _ in columns()} == {"auroc"}
    page.get_by_label("Metric", exact=True).select_option("fpr_at_95_tpr")
    assert {metric for metric, _ in columns()} == {"fpr_at_95_tpr"}
    assert len(columns()) == 7
    page.get_by_label("OOD sets", exact=True).select_option("set:noise")
    assert {column for _, column in columns()} == {"set:noise"}
    assert len(columns()) == 7, "all metrics"
    board = board_of(opened.site.parent / "new")
    noise = next(column for column in board.columns if column.name == "noise")
    lowest = sorted(board.rows, key=lambda r: r.entries["fpr_at_95_tpr", noise].estimate.mean)
    assert opened.methods() == [row.method for row in lowest]
    cells = page.locator("#board tbody tr").first.locator("td:visible")
    assert cells.count() == page.locator("#board thead th:visible").count() - 1
    assert "ood=set%3Anoise" in page.url
    again = opened.open("toy-v1/index.html#ood=set%3Anoise&metric=fpr_at_95_tpr&cost=nonsense")
    assert again.get_by_label("OOD sets", exact=True).input_value() == "set:noise"


def test_picture_of_quality_against_cost(opened: Opened) -> None:
    page = opened.open("toy-v1/index.html")
    board = board_of(opened.site.parent / "new")
    mean = board.column("mean")
    front = [
        f"{row.method} ({100 * row.entries['auroc', mean].estimate.mean:.1f})"
        for row in cost_plot.frontier(cost_plot.points(board))
    ]
    assert front
    assert page.locator("#front-text").text_content() == f"Pareto front: {', '.join(front)}."
    points = page.locator("#chart a")
    assert points.count() == 4
    assert page.locator("#chart .label.main").count() == len(front)
    page.locator("#chart a[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    focused = page.evaluate("document.activeElement.dataset.name")
    assert page.locator("#tip strong").text_content() == focused
    assert "AUROC" in page.locator("#tip").text_content()
    assert page.locator("#chart a[tabindex='0']").count() == 1, "one stop of the Tab key"
    page.keyboard.press("End")
    last = page.evaluate("document.activeElement.dataset.name")
    assert last != focused
    page.keyboard.press("Enter")
    page.wait_for_url("**/methods/**")
    assert page.locator("h1").text_content() == last
    page.go_back()
    page.get_by_label("Search", exact=True).fill("no such method")
    assert "No method" in page.locator("#chart").text_content()


def test_a_method_opens_from_the_table_and_leads_back(opened: Opened) -> None:
    page = opened.open("index.html")
    page.get_by_role("link", name="The toy benchmark").first.click()
    page.locator("#board").get_by_role("link", name="SoftMax+KNN").click()
    assert page.locator("h1").text_content() == "SoftMax+KNN"
    assert page.locator("figure.plot").count() == 3 + 3 + 2
    page.get_by_role("link", name="SoftMax+MSP").last.click()
    assert page.locator("h1").text_content() == "SoftMax+MSP"
    page.get_by_role("navigation", name="Where you are").get_by_role("link", name="toy v1").click()
    page.locator("#board").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"


def test_the_theme_is_chosen_and_kept(opened: Opened) -> None:
    page = opened.open("toy-v1/index.html")

    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = background()
    button = page.get_by_role("button", name="Theme")
    button.click()
    assert button.text_content() == "Theme: dark"
    assert background() != light
    page.reload()
    assert background() != light
    page.emulate_media(media="print")
    assert background() == light, "paper is white"
    assert not page.locator("#controls").is_visible()
    page.emulate_media(media="screen")
    for expected in ("light", "system"):
        button = page.get_by_role("button", name="Theme")
        assert expected != button.text_content()
        button.click()
    assert button.text_content() in ("Theme: light", "Theme: system")
    assert background() == light


def test_without_scripts_the_table_is_whole(browser: Any, site: Path) -> None:
    opened = Opened(browser, site, java_script_enabled=False)
    page = opened.open("toy-v1/index.html")
    assert page.locator("#board tbody tr").count() == 4
    assert not page.locator("#controls").is_visible()
    assert page.get_by_text("Without JavaScript").is_visible()
    opened.page.context.close()


def test_size_and_load_time_of_forty_methods_on_eight_sets(
    browser: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{'DisMax' if number % 3 else 'SoftMax'}+Detector {number}" for number in range(40)]
    sets = {f"ood-set-{number}": "near" if number < 3 else "far" for number in range(8)}
    run = write_run(tmp_path / "run", names, sets, seeds=1, images=300)
    stored = read_stored_run(run)
    from oodbench.report import Leaderboard

    board = Leaderboard.from_records(stored.records, stored.costs)
    pages = render(assemble([ShownRun(stored, board)], {}))
    write_site(tmp_path / "site", pages)
    opened = Opened(browser, tmp_path / "site", viewport={"width": 1280, "height": 900})
    page = opened.open("toy-v1/index.html")
    assert page.locator("#board tbody tr").count() == 40
    whole = sum(map(len, pages.values()))
    figures = sum(
        len(part)
        for text in pages.values()
        for part in text.split("<svg")[1:]
        if "</svg>" in part
        for part in [part.partition("</svg>")[0]]
    )
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    with capsys.disabled():
        print(
            f"\nsite of 40 methods x 8 sets: {whole / 2**20:.2f} MiB, without figures "
            f"{(whole - figures) / 2**20:.2f} MiB; leaderboard page "
            f"{len(pages['toy-v1/index.html']) / 2**10:.0f} KiB, loaded in {loaded:.0f} ms"
        )
    assert whole - figures < 2 * 2**20
    assert opened.said == []


def test_published_values_show_every_column_on_a_phone_if_asked(browser: Any, site: Path) -> None:
    opened = Opened(browser, site, viewport={"width": 400, "height": 800})
    page = opened.open("bare-v1/index.html")
    section = page.locator("#published")
    assert section.locator("figure.plot").count() == 1
    assert section.locator(".point").count() == 4
    assert section.locator(".point.hollow").count() == 1
    table = section.locator("table").first

    def visible(selector: str) -> int:
        return sum(each.is_visible() for each in table.locator(selector).all())

    few = visible("thead tr:last-child th")
    page.locator("#published .every").check()
    assert visible("thead tr:last-child th") > few
    # The row of groups spans exactly the columns that are shown.
    for checked in (True, False):
        page.locator("#published .every").set_checked(checked)
        groups = [
            each for each in table.locator("thead tr:first-child th").all() if each.is_visible()
        ]
        spanned = sum(int(each.get_attribute("colspan")) for each in groups)
        assert spanned == visible("thead tr:last-child th")
    assert opened.said == []
