"""Suites: what they refer to, the published numbers they carry, and running them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.notes import Notes
from helpers.tiny_content import LOST as LOST_MANIFEST

from oodbench import api
from oodbench.engine.executors import worker_processes
from oodbench.engine.recording import planned_work
from oodbench.engine.runs import suite_run
from oodbench.engine.runs.benchmark_run import BenchmarkRun
from oodbench.errors import UserError
from oodbench.planning.suite_plan import load_suite, plan_suite
from oodbench.plugins.catalog import Catalog
from oodbench.results import SuiteRun
from oodbench.specs import PublishedSpec
from oodbench.specs.yaml_file import read_spec
from oodbench.storage.suite_directory import SuiteDirectory

ONE = """\
schema_version: 1
name: tiny-one
version: 1
title: Tiny one
summary: For tests
id: digits
ood: {near: [letters], far: [uniform-noise]}
models:
  SoftMax: &model
    network: resnet8
    head: softmax
    training: &training
      {epochs: 2, batch_size: 128, learning_rate: 0.1, test_accuracy: each}
  DisMax: {<<: *model, head: dismax}
methods:
  SoftMax+MaxProb: {model: SoftMax, detector: baseline}
  DisMax+Entropy: {model: DisMax, detector: dismax_entropy}
reference: SoftMax+MaxProb
evaluation: {resamples: 100}
"""
TWO = "extends: tiny-one\nname: tiny-two\nood: {far: null}\n"
# Its images are nowhere: it fails when it is run.
LOST = "extends: tiny-one\nname: tiny-lost\nid: digits\nood: {near: null, far: [lost]}\n"
PUBLISHED = """\
schema_version: 1
name: paper
title: A paper
sources: {paper: {citation: A. Author. A Paper. 2020., url: "https://example.org"}}
tables:
  detection:
    source: paper
    place: Table 1
    title: Detection
    columns: [MaxProb, Entropy]
    measures: {auroc: {unit: percent, decimals: 1}}
    rows:
      - {network: Net, id: One, ood: Letters, values: {auroc: [90.0, 91.0]}}
      - {network: Net, id: One, ood: Noise, values: {auroc: [95.0, 99.0]}}
      - {network: Net, id: Two, ood: Letters, values: {auroc: [90.0, 91.0]}}
      - {network: Net, id: Lost, ood: Letters, values: {auroc: [12.3, 45.6]}}
  training:
    source: paper
    place: Table 2
    title: Training
    columns: [SoftMax, DisMax]
    measures: {test_accuracy: {unit: percent, decimals: 1}}
    rows:
      - {network: Net, id: One, values: {test_accuracy: [97.0, 98.0]}}
      - {network: Net, id: Two, values: {test_accuracy: [97.0, 98.0]}}
      - {network: Net, id: Lost, values: {test_accuracy: [97.0, 98.0]}}
"""
SUITE = """\
schema_version: 1
name: tiny-suite
version: 1
title: A tiny suite
summary: For tests
members:
  tiny-one: {network: Net, id: One}
  tiny-two: {network: Net, id: Two}
ood: {letters: Letters, uniform-noise: Noise}
published: paper
tables:
  one:
    about: detection
    title: "Table 1: detection"
    published: detection
    measures: [auroc]
    columns: {MaxProb: SoftMax+MaxProb, Entropy: DisMax+Entropy}
  two:
    about: training
    title: "Table 2: training"
    published: training
    measures: [test_accuracy]
    columns: {SoftMax: SoftMax, DisMax: DisMax}
"""


def content(folder: Path, **changed: str) -> Path:
    """A folder of content with the tiny suite; files can be changed by their stems."""
    benchmarks = folder / "benchmarks"
    texts = {
        "tiny-one": ONE,
        "tiny-two": TWO,
        "tiny-lost": LOST,
        "tiny-suite": SUITE,
        "published/paper": PUBLISHED,
    }
    for name, text in texts.items():
        path = benchmarks / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(changed.get(path.stem.replace("-", "_"), text))
    manifests = folder / "data_manifests"
    manifests.mkdir(exist_ok=True)
    (manifests / "lost.yaml").write_text(LOST_MANIFEST)
    return folder


# --- the suites that are shipped ------------------------------------------------------------------

SIX = [
    f"dismax-{network}-{dataset}"
    for network in ("densenet", "resnet")
    for dataset in ("cifar10", "cifar100", "svhn")
]


def test_the_dismax_suite_runs_six_benchmarks() -> None:
    suite = load_suite(Catalog(), "dismax-paper")
    assert list(suite.names) == SIX
    networks = {"densenet": "densenet_bc100", "resnet": "resnet34"}
    for name, benchmark in suite.members.items():
        _, network, dataset = name.split("-")
        assert benchmark.id == dataset
        assert {model.network for model in benchmark.models.values()} == {networks[network]}
        row = suite.spec.members[name]
        assert row.network.lower() in name
        assert row.id.lower() in name
        trainings = {model.training for model in benchmark.models.values()}
        assert len(trainings) == 1, "SoftMax and DisMax are trained alike"
        (training,) = trainings
        assert (training.recipe, training.test_accuracy) == ("lee", "each")
        assert (training.epochs, training.batch_size) == (
            (300, 64) if network == "densenet" else (200, 128)
        )


def test_the_quick_suite_is_the_same_with_another_recipe_and_other_names() -> None:
    suite, quick = (load_suite(Catalog(), name) for name in ("dismax-paper", "dismax-paper-quick"))
    assert list(quick.names) == [f"{name}-quick" for name in SIX]
    for name in SIX:
        theirs, ours = suite.members[name], quick.members[name]
        assert ours.ood == theirs.ood
        assert ours.tuning == theirs.tuning
        for model, spec in ours.models.items():
            assert spec.training.recipe == "quick"
            assert spec.training.epochs == 30
            assert spec.training.test_accuracy == "each", "what stands beside the recipe stays"
            assert spec.network == theirs.models[model].network


def test_noise_and_normalization_are_those_of_lee_et_al() -> None:
    noise = {
        ("densenet", "cifar10"): 0.0525,
        ("densenet", "cifar100"): 0.02625,
        ("densenet", "svhn"): 0.0525,
        ("resnet", "cifar10"): 0.0625,
        ("resnet", "cifar100"): 0.03125,
        ("resnet", "svhn"): 0.0625,
    }
    mean = {"densenet": (125.3, 123.0, 113.9), "resnet": (125.307, 122.961, 113.8575)}
    std = {"densenet": (63.0, 62.1, 66.7), "resnet": (51.5865, 50.847, 51.255)}
    for name, benchmark in load_suite(Catalog(), "dismax-paper").members.items():
        _, network, dataset = name.split("-")
        assert benchmark.tuning.noise_std == noise[network, dataset], name
        assert benchmark.tuning.fgsm_step == 0.05
        assert benchmark.tuning.protocol == "fgsm"
        for model in benchmark.models.values():
            assert model.normalization is not None
            assert [255 * value for value in model.normalization.mean] == pytest.approx(
                mean[network], abs=1e-3
            )
            assert [255 * value for value in model.normalization.std] == pytest.approx(
                std[network], abs=1e-3
            )


def test_cifar100_is_tested_against_nowhere_but_to_choose_alpha() -> None:
    catalog = Catalog()
    tested = {
        name
        for name in catalog.entries["benchmark"]
        if name.startswith("dismax-")
        and not catalog.is_suite(name)
        and "cifar100" in catalog.benchmark(name).ood_groups
    }
    assert tested == {"dismax-alpha"}
    for name in ("dismax-paper", "dismax-paper-quick"):
        suite = load_suite(catalog, name)
        assert "dismax-alpha" not in suite.members
        for benchmark in suite.members.values():
            assert "cifar100" not in benchmark.ood_groups


def test_alpha_shares_a_checkpoint_with_the_paper() -> None:
    models = Catalog().benchmark("dismax-alpha").models
    assert [spec.loss_options["alpha"] for spec in models.values()] == [1, 3, 10, 30, 100]
    ours = Catalog().benchmark("dismax-densenet-svhn").models["DisMax"]
    assert models["DisMax (alpha=10)"] == ours


def test_the_tables_name_methods_that_are_run() -> None:
    catalog = Catalog()
    suite = load_suite(catalog, "dismax-paper")
    plans = plan_suite(catalog, suite, catalog.detectors, seeds=1)
    assert list(plans) == SIX
    for name, plan in plans.items():
        methods = {method.name for method in plan.methods}
        for table in suite.spec.tables.values():
            if table.about == "detection":
                assert set(table.columns.values()) <= methods, name
        names = {method.detector.name for method in plan.methods if method.model == "DisMax"}
        assert {"baseline", "dismax_entropy", "odin", "mahalanobis"} <= names
        assert "entropy" not in names, "the same score as dismax_entropy"


# --- the published numbers ------------------------------------------------------------------------

Cells = dict[tuple[str, str, str | None, str, str], float]


@pytest.fixture(scope="module")
def printed() -> Callable[[str], Cells]:
    """The cells of a published table: (network, ID, OOD, measure, column) -> value."""
    catalog = Catalog()
    spec = read_spec(PublishedSpec, catalog.entry("publication", "dismax-2019").path)

    def cells(name: str) -> Cells:
        table = spec.tables[name]
        return {
            (row.network, row.id, row.ood, measure, column): value
            for row in table.rows
            for measure, values in row.values.items()
            for column, value in zip(table.columns, values, strict=True)
        }

    return cells


def columns(cells: Cells, renamed: dict[str, str]) -> Cells:
    """Only these columns, under other names."""
    return {
        (network, id_, ood, measure, renamed[column]): value
        for (network, id_, ood, measure, column), value in cells.items()
        if column in renamed
    }


def shared(one: Cells, other: Cells, column: str) -> list[tuple[float, float]]:
    keys = [key for key in one if key[4] == column and key in other]
    return [(one[key], other[key]) for key in keys]


def test_tables_are_whole(printed: Callable[[str], Cells]) -> None:
    sizes = {
        "dismax-table-2": 18 * 3 * 3,
        "dismax-table-3": 18 * 2 * 3,
        "dismax-table-3-differences": 18 * 2,
        "dismax-table-4": 6 * 4 * 2,
        "lee-table-1": 5 * 6,
        "lee-table-2-fgsm": 18 * 3 * 3,
        "lee-table-2-ood": 18 * 3 * 3,
        "odin-table-2": 4 * 5 * 2,
    }
    for name, size in sizes.items():
        found = printed(name)
        assert len(found) == size, name
        assert all(value <= 100 for value in found.values()), name
        assert round(sum(found.values()), 3) == SUMS[name], name


SUMS = {
    # Of all cells; of the DisMax paper's tables they were taken from its text, not from our file.
    "dismax-table-2": 12429.7,
    "dismax-table-3": 9834.8,
    "dismax-table-3-differences": 68.4,
    "dismax-table-4": 2270.394,
    "lee-table-1": 2725.07,
    "lee-table-2-fgsm": 13069.5,
    "lee-table-2-ood": 13637.8,
    "odin-table-2": 2627.1,
}


def test_dismax_in_table_3_is_dismax_in_table_2(printed: Callable[[str], Cells]) -> None:
    pairs = shared(printed("dismax-table-3"), printed("dismax-table-2"), "DisMax+Entropy")
    assert len(pairs) == 36
    assert all(one == other for one, other in pairs)


def test_odin_and_mahalanobis_in_table_3_are_those_of_lee_et_al(
    printed: Callable[[str], Cells],
) -> None:
    pairs = [
        pair
        for column in ("ODIN", "Mahalanobis")
        for pair in shared(printed("dismax-table-3"), printed("lee-table-2-fgsm"), column)
    ]
    assert len(pairs) == 72
    assert all(one == other for one, other in pairs)


def test_the_printed_differences_follow_but_for_two(printed: Callable[[str], Cells]) -> None:
    table = printed("dismax-table-3")
    off = {}
    for key, difference in printed("dismax-table-3-differences").items():
        place = key[:4]
        true = round(table[(*place, "Mahalanobis")] - table[(*place, "DisMax+Entropy")], 1)
        if true != difference:
            off[place] = (difference, true)
    assert off == {
        ("ResNet", "SVHN", "LSUN", "dtacc"): (6.0, 8.0),
        ("DenseNet", "CIFAR100", "LSUN", "dtacc"): (7.6, 7.7),
    }


def test_what_the_paper_claims_follows_from_its_numbers(printed: Callable[[str], Cells]) -> None:
    table = printed("dismax-table-2")
    ours = columns(table, {"DisMax+Entropy": "x"})
    for other in ("SoftMax+MaxProb", "SoftMax+Entropy"):
        theirs = columns(table, {other: "x"})
        assert sum(ours[key] > theirs[key] for key in ours) == 54
    entropy, maximum = (columns(table, {f"SoftMax+{n}": "x"}) for n in ("Entropy", "MaxProb"))
    below = [key for key in entropy if entropy[key] < maximum[key]]
    assert len(below) == 5
    assert {key[:2] for key in below} == {("ResNet", "SVHN")}
    table = printed("dismax-table-3")
    ours, odin, theirs = (
        columns(table, {column: "x"}) for column in ("DisMax+Entropy", "ODIN", "Mahalanobis")
    )
    margins = {key: round(ours[key] - odin[key], 1) for key in ours}
    assert min(margins.values()) > 0
    assert min(value for key, value in margins.items() if key[3] == "auroc") == 0.3
    ahead = [round(theirs[key] - ours[key], 1) for key in ours]
    assert sum(0 < value < 2 for value in ahead) == 15
    assert sum(value < 0 for value in ahead) == 5


def test_the_two_tables_of_lee_et_al_agree(printed: Callable[[str], Cells]) -> None:
    fgsm, oracle = printed("lee-table-2-fgsm"), printed("lee-table-2-ood")
    assert all(one == other for one, other in shared(fgsm, oracle, "Baseline"))
    first = columns(printed("lee-table-1"), {"Baseline": "Baseline", "ODIN": "ODIN"})
    first |= columns(printed("lee-table-1"), {"+ both": "Mahalanobis"})
    compared = {key: value for key, value in first.items() if key in oracle}
    assert len(compared) == 9
    for key, value in compared.items():
        assert oracle[key] == pytest.approx(value, abs=0.051), key


# --- what refers to what --------------------------------------------------------------------------


def test_a_suite_by_path_finds_what_lies_beside_it(tmp_path: Path) -> None:
    path = content(tmp_path) / "benchmarks" / "tiny-suite.yaml"
    catalog = Catalog()  # knows nothing of the folder
    assert catalog.is_suite(str(path))
    suite = load_suite(catalog, str(path))
    assert list(suite.names) == ["tiny-one", "tiny-two"]
    assert suite.published is not None
    assert suite.published.title == "A paper"


def test_a_suite_that_extends_another_one(tmp_path: Path) -> None:
    text = (
        "extends: tiny-suite\nname: tiny-half\nmembers: {tiny-two: null}\n"
        "training: {epochs: 1}\nsuffix: short\n"
    )
    folder = content(tmp_path)
    (folder / "benchmarks" / "tiny-half.yaml").write_text(text)
    suite = load_suite(Catalog([folder]), "tiny-half")
    assert list(suite.names) == ["tiny-one-short"]
    for model in suite.members["tiny-one"].models.values():
        assert model.training.epochs == 1
        assert model.training.batch_size == 128
    # Another suite may take the built-in published numbers.
    text = "extends: tiny-suite\nname: tiny-half\npublished: dismax-2019\ntables: null\n"
    (folder / "benchmarks" / "tiny-half.yaml").write_text(text)
    published = load_suite(Catalog([folder]), "tiny-half").published
    assert published is not None
    assert "dismax-table-2" in published.tables


def test_a_suite_without_published_numbers(tmp_path: Path) -> None:
    lines = SUITE.split("ood:")[0]
    suite = load_suite(Catalog([content(tmp_path, tiny_suite=lines)]), "tiny-suite")
    assert suite.published is None


BAD = {
    "member": ("tiny-two:", "tiny-tow:", "members: there is no benchmark 'tiny-tow'", "'tiny-two'"),
    "no member": (
        "  tiny-one: {network: Net, id: One}\n  tiny-two: {network: Net, id: Two}\n",
        "  {}\n",
        "members: names no benchmark",
        "",
    ),
    "suite in a suite": ("tiny-two:", "dismax-paper:", "'dismax-paper' is a suite itself", ""),
    "member elsewhere": ("tiny-two:", "../tiny-two:", "there is no benchmark '../tiny-two'", ""),
    "published": ("published: paper", "published: papre", "no publication 'papre'", "'paper'"),
    "no published": ("published: paper\n", "", "tables need a file of published numbers", ""),
    "table": ("published: training", "published: trainin", "no published table", "'training'"),
    "measure": ("[auroc]", "[aurok]", "no measure of detection is called 'aurok'", "'auroc'"),
    "unpublished measure": ("[auroc]", "[dtacc]", "no published measure is called 'dtacc'", ""),
    "measure of training": (
        "[test_accuracy]",
        "[auroc]",
        "no measure of training is called 'auroc'",
        "",
    ),
    "column": ("{MaxProb:", "{MaxProp:", "no published column is called 'MaxProp'", "'MaxProb'"),
    "method": (
        "Entropy: DisMax+Entropy",
        "Entropy: DisMax+Entrop",
        "no method of 'tiny-one' is called 'DisMax+Entrop'",
        "'DisMax+Entropy'",
    ),
    "model": ("DisMax: DisMax}", "DisMax: dismax}", "no model of 'tiny-one'", "'DisMax'"),
    "row": ("id: Two", "id: Three", "has no row Net, Three", "Net, Two"),
    "same row": ("id: Two", "id: One", "two benchmarks have the same row", ""),
    "ood set": ("letters: L", "leters: L", "no OOD set of a member is called 'leters'", "letters"),
    "ood label": (": Noise", ": Nose", "no OOD set in the published tables", "'Noise'"),
    "suffix alone": ("published: paper", "published: paper\nsuffix: x", "given together", ""),
    "no suffix": (
        "published: paper",
        "published: paper\ntraining: {epochs: 1}",
        "given together",
        "",
    ),
    "training": (
        "published: paper",
        "published: paper\ntraining: {epohcs: 1}\nsuffix: x",
        "unknown key 'epohcs'",
        "",
    ),
    "recipe": (
        "published: paper",
        "published: paper\ntraining: {recipe: fast}\nsuffix: x",
        "there is no recipe 'fast'",
        "",
    ),
    "key": ("summary: For", "member: {}\nsummary: For", "member: unknown key", "'members'"),
    "name": ("name: tiny-suite", "name: tiny", "differs from the file's name", ""),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_with_file_and_key(tmp_path: Path, case: str) -> None:
    old, new, message, hint = BAD[case]
    assert old in SUITE
    folder = content(tmp_path, tiny_suite=SUITE.replace(old, new))
    with pytest.raises(UserError) as raised:
        load_suite(Catalog([folder]), "tiny-suite")
    assert message in raised.value.message
    assert hint in raised.value.hint
    assert "tiny-suite.yaml" in raised.value.message
    assert len(str(raised.value).splitlines()) <= 2


def test_suites_that_extend_each_other(tmp_path: Path) -> None:
    text = "extends: tiny-other\nname: tiny-suite\n"
    folder = content(tmp_path, tiny_suite=text)
    (folder / "benchmarks" / "tiny-other.yaml").write_text("extends: tiny-suite\n")
    with pytest.raises(UserError, match="in a circle"):
        load_suite(Catalog([folder]), "tiny-suite")


BAD_NUMBERS = {
    "value missing": ("{auroc: [90.0, 91.0]}", "{auroc: [90.0]}", "each of the 2 columns"),
    "measure missing": ("{auroc: [90.0, 91.0]}", "{}", "expected values for auroc"),
    "row twice": ("ood: Noise", "ood: Letters", "has a row already"),
    "source": ("source: paper", "source: papre", "no source 'papre'"),
    "no number": ("[90.0, 91.0]", "[90.0, n/a]", "values.auroc"),
}


@pytest.mark.parametrize("case", BAD_NUMBERS)
def test_published_numbers_are_checked(tmp_path: Path, case: str) -> None:
    old, new, message = BAD_NUMBERS[case]
    folder = content(tmp_path, paper=PUBLISHED.replace(old, new, 1))
    with pytest.raises(UserError) as raised:
        load_suite(Catalog([folder]), "tiny-suite")
    assert message in raised.value.message
    assert "paper.yaml" in raised.value.message


def test_a_suite_is_no_benchmark_and_the_other_way_round(tmp_path: Path) -> None:
    catalog = Catalog([content(tmp_path)])
    with pytest.raises(UserError, match="'tiny-suite' is a suite of benchmarks") as raised:
        catalog.benchmark("tiny-suite")
    assert "tiny-one, tiny-two" in raised.value.hint
    with pytest.raises(UserError, match="'tiny-one' is not a suite"):
        load_suite(catalog, "tiny-one")
    with pytest.raises(UserError, match="no benchmark 'tiny-siute'"):
        load_suite(catalog, "tiny-siute")


# --- running --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a suite of which one benchmark failed; the content is beside it."""
    folder = tmp_path_factory.mktemp("suite")
    suite = SUITE.replace("  tiny-two:", "  tiny-lost: {network: Net, id: Lost}\n  tiny-two:")
    plugins = content(folder / "content", tiny_suite=suite)
    said: list[str] = []
    done = api.run_suite(
        "tiny-suite",
        out=folder / "run",
        plugins=[plugins],
        seeds=2,
        device="cpu",
        say=said.append,
    )
    assert not done.complete
    assert len(done.failures) == 1
    assert done.failures[0].startswith("tiny-lost: ")
    assert [line for line in said if line.startswith("[")] == [
        "[2/3] tiny-lost: not run, data sets are missing: lost",
        "[1/3] tiny-one",
        "[3/3] tiny-two",
    ]
    # Said once, before the first benchmark.
    (missing,) = [line for line in said if line.startswith("data set 'lost' is missing: ")]
    assert said.index(missing) < said.index("[1/3] tiny-one")
    return folder / "run"


def again(finished: Path, folder: Path, **options: Any) -> SuiteRun:
    """Run the suite on, in a copy of its directory."""
    if not folder.exists():
        shutil.copytree(finished, folder)
    known: dict[str, Any] = {
        "out": folder,
        "plugins": [finished.parent / "content"],
        "seeds": 2,
        "device": "cpu",
        "resume": True,
    }
    return api.run_suite("tiny-suite", **(known | options))


def records(folder: Path, member: str) -> str:
    return (folder / member / "records.jsonl").read_text(encoding="utf-8")


def test_every_benchmark_has_a_run_directory_of_its_own(finished: Path) -> None:
    found = {path.name for path in finished.iterdir()}
    assert {"suite.json", "tiny-one", "tiny-two", "figures"} <= found
    assert {f"comparison.{suffix}" for suffix in ("md", "csv", "json", "html")} <= found
    assert (finished / "figures" / "test-accuracy.png").stat().st_size > 1000
    for member in ("tiny-one", "tiny-two"):
        drawn = {path.name for path in (finished / member / "figures").iterdir()}
        assert {"test-accuracy.png", "roc.png", "scores.png"} <= drawn
    members = SuiteRun(finished).members
    assert list(members) == ["tiny-one", "tiny-two"]
    assert members["tiny-one"].leaderboard().benchmark == "tiny-one"


def test_a_benchmark_that_fails_stops_no_other(finished: Path) -> None:
    description = json.loads((finished / "suite.json").read_text())
    assert description["status"] == "incomplete"
    status = {each["name"]: each["status"] for each in description["members"]}
    assert status == {"tiny-one": "complete", "tiny-lost": "failed", "tiny-two": "complete"}
    (reason,) = [each["reason"] for each in description["members"] if each["reason"]]
    assert "lost" in reason
    comparison = SuiteRun(finished).comparison()
    assert comparison.members[1].reason == reason


def test_measured_values_are_those_of_the_records(finished: Path) -> None:
    content = json.loads((finished / "comparison.json").read_text())
    cells = {
        (cell["table"], cell["id"], cell["ood"], cell["column"]): cell for cell in content["cells"]
    }
    values = [
        record["value"]
        for record in map(json.loads, records(finished, "tiny-one").splitlines())
        if (record["method"], record["metric"], record["ood_dataset"])
        == ("DisMax+Entropy", "auroc", "letters")
    ]
    assert len(values) == 2
    cell = cells["one", "One", "Letters", "Entropy"]
    assert cell["measured"] == pytest.approx(sum(values) / 2)
    assert cell["seeds"] == 2
    lines = (finished / "tiny-one" / "training.jsonl").read_text().splitlines()
    last = [
        record["test_accuracy"]
        for record in map(json.loads, lines)
        if (record["model"], record["epoch"]) == ("SoftMax", 2)
    ]
    assert cells["two", "One", None, "SoftMax"]["measured"] == pytest.approx(sum(last) / 2)
    lost = [cell for cell in content["cells"] if cell["id"] == "Lost"]
    assert len(lost) == 4
    assert {cell["measured"] for cell in lost} == {None}, "never filled from the paper"
    assert {cell["published"] for cell in lost} == {0.123, 0.456, 0.97, 0.98}


def test_what_is_done_is_not_done_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def refuse(run: BenchmarkRun) -> None:
        begun.append(run.plan.benchmark.name)
        raise UserError("not now")

    monkeypatch.setattr(BenchmarkRun, "begin", refuse)
    monkeypatch.setattr(suite_run, "_absent", lambda *_: {})
    before = records(finished, "tiny-one")
    done = again(finished, tmp_path / "run")
    assert begun == ["tiny-lost"]
    assert done.failures == ("tiny-lost: not now",)
    assert records(tmp_path / "run", "tiny-one") == before
    begun.clear()
    again(finished, tmp_path / "run", seeds=3)
    assert begun == ["tiny-one", "tiny-lost", "tiny-two"], "a seed more is asked for"


def test_what_is_done_with_other_data_is_not_taken_for_done(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = planned_work.data_checksums

    def other(plan: Any, data: Any) -> dict[str, dict[str, str]]:
        checksums = real(plan, data)
        if plan.benchmark.name == "tiny-two":
            checksums["letters"]["test"] = "0" * 64
        return checksums

    monkeypatch.setattr(planned_work, "data_checksums", other)
    done = again(finished, tmp_path / "run")
    (failure,) = [line for line in done.failures if line.startswith("tiny-two")]
    assert "holds a run with other data" in failure
    assert not done.complete


def test_two_workers_serve_all_benchmarks(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def noted(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start(*args, **options))
        return started[-1]

    monkeypatch.setattr(worker_processes.subprocess, "Popen", noted)
    notes = Notes()
    folder = tmp_path / "run"
    folder.mkdir()
    chosen = {"seeds": 1, "methods": ["SoftMax+MaxProb"]}
    again(finished, folder, resume=False, workers=2, progress=notes, **chosen)
    assert len(started) == 2
    assert None not in [process.returncode for process in started], "both have stopped"
    rows = {line for text in notes.details for line in text.splitlines()}
    for member in ("tiny-one", "tiny-two"):
        got = records(folder, member).splitlines()
        assert got
        assert set(got) <= set(records(finished, member).splitlines())
        assert any(row.startswith(f"{member}: SoftMax, seed 0") for row in rows)


def test_a_stop_loses_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = BenchmarkRun.begin

    def interrupted(run: BenchmarkRun) -> Any:
        if run.plan.benchmark.name == "tiny-two":
            raise KeyboardInterrupt
        return real(run)

    folder = tmp_path / "run"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(BenchmarkRun, "begin", interrupted)
        with pytest.raises(KeyboardInterrupt):
            again(finished, folder, resume=False)
    state = SuiteDirectory(folder).read()
    status = {each.member: each.status for each in state.members}
    assert status == {"tiny-one": "complete", "tiny-lost": "failed", "tiny-two": "waiting"}
    text = (folder / "comparison.md").read_text()
    assert "waiting" in text
    again(finished, folder)
    for member in ("tiny-one", "tiny-two"):
        assert records(folder, member) == records(finished, member)
    for name in ("comparison.csv", "comparison.json", "comparison.md"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_surprise_in_one_benchmark(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(run: BenchmarkRun) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(BenchmarkRun, "begin", explode)
    monkeypatch.setattr(suite_run, "_absent", lambda *_: {})
    done = again(finished, tmp_path / "run")
    assert done.failures == ("tiny-lost: RuntimeError: out of memory",)


def test_a_suite_onto_a_suite(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a run of a suite already") as raised:
        again(finished, tmp_path / "run", resume=False)
    assert "--resume" in raised.value.hint
    folder = content(
        tmp_path / "content", tiny_suite=SUITE.replace("A tiny suite", "Another tiny suite")
    )
    with pytest.raises(UserError, match="'tiny-suite' version 1 in another state"):
        again(finished, tmp_path / "run", plugins=[folder])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        again(finished, tmp_path / "other")


def test_misspelt_methods_are_found_before_anything_is_run(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'basline'"):
        again(finished, tmp_path / "new", methods=["basline"], resume=False)


def test_a_description_that_is_not_readable(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "suite.json").write_text("{}")
    with pytest.raises(UserError, match=r"Cannot read .*suite\.json"):
        SuiteRun(folder).comparison()
    (folder / "suite.json").unlink()
    with pytest.raises(UserError, match="holds no suite"):
        SuiteRun(folder).comparison()


def test_reports_need_nothing_but_the_directory(finished: Path, tmp_path: Path) -> None:
    """The content may be gone or changed: what was read is in suite.json."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(finished, folder)
    comparison = SuiteRun(folder).comparison()
    assert comparison.to_markdown() == (finished / "comparison.md").read_text(encoding="utf-8")
    held = json.loads((folder / "suite.json").read_text())
    assert held["published"] == read_spec(
        PublishedSpec, finished.parent / "content" / "benchmarks" / "published" / "paper.yaml"
    ).model_dump(mode="json")
    assert yaml.safe_load(SUITE)["tables"].keys() == held["suite"]["tables"].keys()
