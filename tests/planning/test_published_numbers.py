"""Published averages: the shipped file, and what a benchmark refers to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.tiny_benchmark import tiny_benchmark

from oodbench.errors import UserError
from oodbench.planning.published_numbers import published_averages, read_published
from oodbench.plugins.catalog import Catalog
from oodbench.specs import AverageEntry, AveragesSpec, PublishedSpec
from oodbench.specs.yaml_file import read_spec

COLLECTED = Path(__file__).parents[2].parent / "shared" / "openood_v15.yaml"
"""The collected values that the shipped file was made from; not part of the project."""

COUNTS = {
    "cifar10": 61,
    "cifar100": 57,
    "imagenet200": 56,
    "imagenet1k": 97,
    "imagenet200_fsood": 60,
    "imagenet1k_fsood": 83,
}
PAPER = """\
schema_version: 1
name: paper
title: A board
sources: {board: {citation: A. Author. 2020.}}
averages:
  tuning: GRID
  detectors: {MSP: baseline}
  measures: {near: {metric: auroc, group: near, source: board}}
  contested: [{benchmarks: [other], postprocessors: [MSP], reason: A bug.}]
  benchmarks:
    small:
      title: Small
      entries:
        - {training: Cross, network: Net, postprocessor: MSP, values: {near: [80.0, 0.5]}}
        - {training: Cross, network: Net, postprocessor: KNN, values: {near: [81.0]}}
    other:
      title: Other
      entries:
        - {training: Cross, network: Net, postprocessor: MSP, values: {near: [70.0]}}
"""
REFERENCE = "{file: paper, benchmark: small, models: {SoftMax: {training: Cross, network: Net}}}"


@pytest.fixture(scope="module")
def shipped() -> AveragesSpec:
    found = read_published(Catalog(), None, "openood-v1.5").averages
    assert found is not None
    return found


def entry(shipped: AveragesSpec, benchmark: str, *key: str) -> AverageEntry:
    return next(each for each in shipped.benchmarks[benchmark].entries if each.key == key)


def content(folder: Path, paper: str = PAPER, published: str = REFERENCE) -> Catalog:
    (folder / "benchmarks" / "published").mkdir(parents=True)
    text = tiny_benchmark({"SoftMax+MSP": "baseline"}, published=published)
    (folder / "benchmarks" / "tiny.yaml").write_text(text)
    (folder / "benchmarks" / "published" / "paper.yaml").write_text(paper)
    return Catalog([folder])


# --- the shipped file ----------------------------------------------------------------------------


def test_all_published_entries_are_there(shipped: AveragesSpec) -> None:
    assert {name: len(each.entries) for name, each in shipped.benchmarks.items()} == COUNTS
    assert sum(COUNTS.values()) == 414


def test_some_values_as_printed(shipped: AveragesSpec) -> None:
    msp = entry(shipped, "cifar10", "CrossEntropy", "ResNet18", "MSP").values
    assert msp["near_auroc"] == (88.03, 0.25)
    assert msp["far_auroc"] == (90.73, 0.43)
    assert msp["near_fpr95"] == (48.17, 3.92)
    assert msp["id_accuracy"] == (95.06,)
    react = entry(shipped, "imagenet1k", "CrossEntropy", "ResNet50", "ReAct").values
    assert react["near_auroc"] == (77.38,)
    assert (
        len(entry(shipped, "imagenet1k", "CrossEntropy", "Swin-T", "MSP").values["far_auroc"]) == 1
    )


def test_entries_are_those_that_were_collected(shipped: AveragesSpec) -> None:
    if not COLLECTED.exists():
        pytest.skip(f"{COLLECTED.name} is not beside the project")
    collected = yaml.safe_load(COLLECTED.read_text(encoding="utf-8"))
    for name, benchmark in collected["benchmarks"].items():
        found = {each.key: dict(each.values) for each in shipped.benchmarks[name].entries}
        expected = {
            (each["training"], each["network"], each["postprocessor"]): _values(each)
            for each in benchmark["entries"]
        }
        assert found == expected


def _values(collected: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    again = collected.get("rerun", {})
    sources = {
        **{name: (collected, name) for name in ("near_auroc", "far_auroc", "id_accuracy")},
        **{name: (again, name) for name in ("near_fpr95", "far_fpr95")},
        **{f"{name}_rerun": (again, name) for name in ("near_auroc", "far_auroc")},
    }
    return {
        measure: tuple(source[key] for key in (name, f"{name}_sd") if source.get(key) is not None)
        for measure, (source, name) in sources.items()
        if source.get(name) is not None
    }


def test_values_are_percentages(shipped: AveragesSpec) -> None:
    for benchmark in shipped.benchmarks.values():
        for each in benchmark.entries:
            for measure, (mean, *spread) in each.values.items():
                assert 20 <= mean <= 100 or measure.endswith("fpr95"), each
                assert all(0 <= value < 20 for value in spread), each


def test_searched_hyperparameters_are_those_with_a_grid(shipped: AveragesSpec) -> None:
    # Searches over a single value, as those of DICE, Gram and MDSEns, change nothing.
    assert {"ASH", "EBO", "KNN", "NCI", "ODIN", "ReAct", "VIM"} <= set(shipped.tuned)
    assert not {"MSP", "MLS", "DICE", "Gram", "MDS", "MDSEns", "NNGuide"} & set(shipped.tuned)


def test_names_of_detectors_exist_here(shipped: AveragesSpec) -> None:
    assert shipped.detectors.keys() >= {"MSP", "EBO", "ODIN", "MDS", "VIM", "KNN", "MDS++", "NAC"}
    assert set(shipped.detectors.values()) <= Catalog().detectors.keys()


def test_names_of_postprocessors_are_in_the_entries(shipped: AveragesSpec) -> None:
    names = {
        name: {each.postprocessor for each in benchmark.entries}
        for name, benchmark in shipped.benchmarks.items()
    }
    everywhere = set().union(*names.values())
    assert {*shipped.detectors, *shipped.tuned} <= everywhere
    for contested in shipped.contested:
        for name in COUNTS if contested.benchmarks == "all" else contested.benchmarks:
            assert set(contested.postprocessors) <= names[name], contested


@pytest.mark.parametrize(
    ("benchmark", "postprocessor", "words"),
    [
        ("cifar10", "Gram", "85.61/95.64"),
        ("imagenet1k", "CombOOD", "not reproducible"),
        ("imagenet200_fsood", "VIM", "256"),
    ],
)
def test_contested_entries_have_a_reason(
    shipped: AveragesSpec, benchmark: str, postprocessor: str, words: str
) -> None:
    found = shipped.contested_by(benchmark, postprocessor)
    assert found is not None
    assert words in found.reason
    assert str(found.url).startswith("https://github.com/Jingkang50/OpenOOD/")


def test_what_is_not_contested(shipped: AveragesSpec) -> None:
    assert shipped.contested_by("cifar10", "CombOOD") is None
    assert shipped.contested_by("imagenet1k", "Gram") is None
    assert shipped.contested_by("cifar10", "MSP") is None


# --- references ----------------------------------------------------------------------------------


def test_a_benchmark_takes_the_averages_that_it_names(tmp_path: Path) -> None:
    catalog = content(tmp_path)
    found = published_averages(catalog.benchmark("tiny"), catalog)
    assert found is not None
    assert found.averages is not None
    assert list(found.averages.benchmarks) == ["small"]
    assert [each.key[2] for each in found.averages.benchmarks["small"].entries] == ["MSP", "KNN"]


def test_results_do_not_depend_on_published_numbers(tmp_path: Path) -> None:
    spec = content(tmp_path).benchmark("tiny")
    assert spec.published is not None
    assert spec.identity() == spec.model_copy(update={"published": None}).identity()


BAD = {
    "file": ("file: paper", "file: papre", "published: there is no publication 'papre'", "'paper'"),
    "benchmark": (
        "benchmark: small",
        "benchmark: smal",
        "no averages of a benchmark 'smal'",
        "'small'",
    ),
    "training": (
        "training: Cross",
        "training: Corss",
        "no entry of Corss, Net in 'small'",
        "Cross, Net",
    ),
    "network": ("network: Net", "network: Nit", "no entry of Cross, Nit in 'small'", "Cross, Net"),
    "model": ("SoftMax:", "SoftMix:", "published.models: no model 'SoftMix'", ""),
    "key": ("file: paper", "file: paper, fil: x", "published.fil: unknown key", "'file'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_reference_is_said_with_file_and_key(tmp_path: Path, case: str) -> None:
    old, new, message, hint = BAD[case]
    assert old in REFERENCE
    catalog = content(tmp_path, published=REFERENCE.replace(old, new))
    with pytest.raises(UserError) as raised:
        published_averages(catalog.benchmark("tiny"), catalog)
    assert message in raised.value.message
    assert hint in str(raised.value)
    assert "tiny.yaml" in raised.value.message
    assert len(str(raised.value).splitlines()) <= 2


BAD_NUMBERS = {
    "measure": ("values: {near: [81.0]}", "values: {nare: [81.0]}", "no measure 'nare'"),
    "three numbers": ("[80.0, 0.5]", "[80.0, 0.5, 1.0]", "values.near"),
    "no number": ("[81.0]", "[]", "values.near"),
    "twice": ("postprocessor: KNN", "postprocessor: MSP", "has an entry already"),
    "source": ("source: board", "source: borad", "no source 'borad'"),
    "group": ("metric: auroc, group: near", "metric: auroc", "a mean over a group"),
    "metric": ("metric: auroc", "metric: aurok", "no metric is called 'aurok'"),
}


@pytest.mark.parametrize("case", BAD_NUMBERS)
def test_wrong_averages_are_refused(tmp_path: Path, case: str) -> None:
    old, new, message = BAD_NUMBERS[case]
    assert old in PAPER
    catalog = content(tmp_path, PAPER.replace(old, new, 1))
    with pytest.raises(UserError) as raised:
        published_averages(catalog.benchmark("tiny"), catalog)
    assert message in raised.value.message
    assert "paper.yaml" in raised.value.message


def test_averages_of_a_full_spectrum_protocol_are_not_shown_beside_others(tmp_path: Path) -> None:
    paper = PAPER.replace("title: Small", "title: Small\n      full_spectrum: true")
    catalog = content(tmp_path, paper)
    with pytest.raises(UserError) as raised:
        published_averages(catalog.benchmark("tiny"), catalog)
    said = "averages of 'small' count csID images as ID, and this benchmark has none"
    assert said in raised.value.message
    assert "tiny.yaml:" in raised.value.message


def test_shipped_benchmarks_are_compared_with_their_protocol() -> None:
    catalog = Catalog()
    folder = catalog.benchmark_path("openood-cifar10").parent
    stems = [path.stem for path in folder.glob("openood-*.yaml")]
    names = [name for name in stems if not catalog.is_suite(name)]
    found = {name: published_averages(catalog.benchmark(name), catalog) for name in names}
    assert {name for name, each in found.items() if each is None} == {"openood-cifar10-fs"}


def test_averages_without_a_file_of_averages(tmp_path: Path) -> None:
    without = PAPER[: PAPER.index("averages:")]
    catalog = content(tmp_path, without)
    with pytest.raises(UserError, match="no averages of a benchmark 'small'"):
        published_averages(catalog.benchmark("tiny"), catalog)
    path = tmp_path / "benchmarks" / "published" / "paper.yaml"
    with pytest.raises(ValueError, match="no averages"):
        read_spec(PublishedSpec, path).of_benchmark("small")
