"""The benchmarks of OpenOOD v1.5 as its authors publish them: sets, groups, numbers of images."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from oodbench.cli.plan_display import missing_renderables, renderables
from oodbench.data.missing_files import MissingFile
from oodbench.planning.absent_splits import with_images_here
from oodbench.planning.plan import Plan
from oodbench.planning.planned_splits import planned_splits
from oodbench.planning.planner import make_plan
from oodbench.planning.published_numbers import read_published
from oodbench.planning.suite_plan import load_suite
from oodbench.planning.workload import passes_of
from oodbench.plugins.catalog import Catalog

CIFAR_FAR = {"mnist": 70_000, "svhn": 26_032, "texture": 5_640}
LARGE_NEAR = {"ssb_hard": 49_000, "ninco": 5_879}
LARGE_FAR = {"inaturalist": 10_000, "textures": 5_160, "openimage_o": 15_869}
COUNTS = {
    "openood-cifar10": {
        "ID train": {"cifar10": 50_000},
        "ID validation": {"cifar10": 1_000},
        "ID test": {"cifar10": 9_000},
        "near-OOD": {"cifar100": 9_000, "tin": 7_793},
        "far-OOD": {**CIFAR_FAR, "places365": 35_195},
        "validation OOD": {"tin": 1_000},
    },
    "openood-cifar100": {
        "ID train": {"cifar100": 50_000},
        "ID validation": {"cifar100": 1_000},
        "ID test": {"cifar100": 9_000},
        "near-OOD": {"cifar10": 10_000, "tin": 6_526},
        "far-OOD": {**CIFAR_FAR, "places365": 33_773},
        "validation OOD": {"tin": 972},
    },
    "openood-imagenet200": {
        "ID train": {"imagenet200": 260_000},  # at most: no list is published
        "ID validation": {"imagenet200": 1_000},
        "ID test": {"imagenet200": 9_000},
        "near-OOD": LARGE_NEAR,
        "far-OOD": LARGE_FAR,
        "validation OOD": {"openimage_o": 1_763},
    },
    "openood-imagenet": {
        "ID train": {"imagenet": 1_281_167},
        "ID validation": {"imagenet": 5_000},
        "ID test": {"imagenet": 45_000},
        "near-OOD": LARGE_NEAR,
        "far-OOD": LARGE_FAR,
        "validation OOD": {"openimage_o": 1_763},
    },
}
CSID = {
    "openood-cifar10": {"cifar10c": 10_000},
    "openood-imagenet200": {"imagenet_v2": 2_000, "imagenet_c": 2_000, "imagenet_r": 30_000},
    "openood-imagenet": {"imagenet_v2": 10_000, "imagenet_c": 10_000, "imagenet_r": 30_000},
}
CHECKPOINTS = {"openood-imagenet": 1}


def plan(name: str) -> Plan:
    catalog = Catalog()
    return make_plan(catalog.benchmark(name), catalog, catalog.detectors)


@pytest.mark.parametrize("full_spectrum", [False, True])
@pytest.mark.parametrize("name", COUNTS)
def test_sets_groups_and_numbers_of_images(name: str, full_spectrum: bool) -> None:
    expected = dict(COUNTS[name])
    if full_spectrum:
        if name not in CSID:
            pytest.skip("OpenOOD has no csID set for CIFAR-100")
        expected["csID"] = CSID[name]
    planned = plan(f"{name}-fs" if full_spectrum else name)
    found: dict[str, dict[str, int]] = {}
    for each in planned_splits(planned):
        found.setdefault(each.role, {})[each.dataset] = each.images
    assert found == expected
    tested = {each.dataset: each.images for each in passes_of(planned) if each.purpose == "score"}
    assert tested == {
        dataset: count
        for role, sets in expected.items()
        if role not in ("ID train", "ID validation", "validation OOD")
        for dataset, count in sets.items()
    }


@pytest.mark.parametrize("name", COUNTS)
def test_every_detector_runs_on_published_checkpoints(name: str) -> None:
    planned = plan(name)
    assert len(planned.seeds) == CHECKPOINTS.get(name, 3)
    assert {model.training for model in planned.benchmark.models.values()} == {None}
    others = {"dismax_entropy", "min_distance", "mmles", "mcm", "gl_mcm", "neglabel"}
    others |= {"ensemble", "mcd", "rotpred"}
    skipped = {skip.detector for skip in planned.skips}
    assert skipped | {"mcd"} == others  # of a library's networks it is found when they run
    assert planned.reference is not None
    detectors = {method.detector.name for method in planned.methods}
    assert detectors | {skip.detector for skip in planned.skips} == set(Catalog().detectors)


@pytest.mark.parametrize("name", COUNTS)
def test_detectors_that_openood_searches_are_tuned(name: str) -> None:
    published = read_published(Catalog(), None, "openood-v1.5").averages
    assert published is not None
    searched = {published.detectors[each] for each in published.tuned} - {"fdbd"}
    tuned = {m.detector.name for m in plan(name).methods if m.tuned_on == "ood_validation"}
    # fDBD has no parameter here. Mahalanobis has to be calibrated; VRA has no published entry.
    assert tuned == searched | {"mahalanobis", "vra"}


def test_suites_have_all_benchmarks() -> None:
    suite, full = (load_suite(Catalog(), name) for name in ("openood", "openood-fs"))
    assert list(suite.members) == list(COUNTS)
    assert list(full.members) == [f"{name}-fs" for name in CSID]


@pytest.mark.parametrize("width", [80, 120])
def test_a_plan_fits_a_terminal(width: int, tmp_path: Path) -> None:
    output = io.StringIO()
    console = Console(file=output, width=width)
    missing = [
        MissingFile(tmp_path / "lists/a/one.txt", ("data set 'a'",), ("https://a.org/1",), 2_000),
        MissingFile(tmp_path / "lists/a/two.txt", ("data set 'a'",), ("https://a.org/2",), 1_000),
        MissingFile(tmp_path / "all.zip", ("data set 'a'",), ("https://b.org/z",)),
        MissingFile(tmp_path / "train", ("data set 'b'",), what="the training images"),
    ]
    planned = with_images_here(plan("openood-imagenet"), tmp_path)
    for part in renderables(planned, width):
        console.print(part)
    text = output.getvalue()
    assert "ID train (not here)" in text
    assert "no training images" in text
    for part in missing_renderables(missing, tmp_path, "openood", width):
        console.print(part)
    text = output.getvalue()
    assert max(map(len, text.splitlines())) <= width
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "lists/a/*.txt (2 lists) 0.0 a.org" in lines
    assert "all.zip ? b.org" in lines
    assert any(line.startswith("train ? to be provided: the training images") for line in lines)
    assert not missing_renderables([], tmp_path, "openood", width)
