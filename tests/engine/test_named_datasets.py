"""Data sets that have another name in a benchmark than their manifest has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.tiny_benchmark import tiny_benchmark

import oodbench
from oodbench.data.loaded_splits import LoadedSplits
from oodbench.plugins.catalog import Catalog
from oodbench.report.joint_leaderboard import join
from oodbench.results import Run
from oodbench.storage.stored_run import read_stored_run
from oodbench.verification.run_verification import verify_run

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = {"numbers": "digits", "signs": "letters", "static": "uniform-noise"}
OOD = {"signs": "near", "static": "far"}
BENCHMARK = tiny_benchmark(
    {"SoftMax+MSP": "baseline", "SoftMax+Entropy": "entropy"},
    ood="{near: [signs], far: [static]}",
    datasets=json.dumps(NAMES),
    tuning="{protocol: none}",
).replace("id: digits", "id: numbers")


def run(out: Path, name: str = "tiny", **options: bool | int) -> Run:
    return oodbench.run(name, out=out, device="cpu", seeds=1, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("named")
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "tiny.yaml").write_text(BENCHMARK)
    plain = BENCHMARK.replace("name: tiny", "name: plain").replace("id: numbers", "id: digits")
    plain = plain.replace("[signs]", "[letters]").replace("[static]", "[uniform-noise]")
    plain = "\n".join(line for line in plain.splitlines() if not line.startswith("datasets:"))
    (folder / "benchmarks" / "plain.yaml").write_text(plain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OODBENCH_CACHE", str(folder / "cache"))
        patch.setenv("OODBENCH_PLUGINS", str(folder))
        yield run(folder / "run")


def test_records_and_scores_have_the_names_of_the_benchmark(done: Run) -> None:
    assert {record.id_dataset for record in done.records} == {"numbers"}
    found = {(r.ood_dataset, r.ood_group) for r in done.records if r.ood_dataset}
    assert found == set(OOD.items())
    assert set(done.scores("SoftMax+MSP")) == {"id", *OOD}


def test_checksums_are_those_of_the_manifests(done: Run) -> None:
    described = json.loads((done.folder / "run.json").read_text())
    assert described["benchmark"]["datasets"] == NAMES
    assert set(described["duplicates_of_id_images"]) == set(OOD)
    checksums = described["checksums"]["data"]
    assert set(checksums) == set(NAMES)
    manifests = LoadedSplits({name: Catalog().dataset(name) for name in NAMES.values()})
    for name, manifest in NAMES.items():
        assert checksums[name]["test"] == manifests.fingerprint(manifest, "test"), name


def test_values_do_not_depend_on_the_names(done: Run, tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", "plain")

    def values(found: Run, names: dict[str, str]) -> dict[tuple[str, str, str], float | None]:
        return {
            (r.method, names.get(r.ood_dataset or "", r.ood_dataset or ""), r.metric): r.value
            for r in found.records
        }

    assert values(done, NAMES) == values(plain, {})


def test_a_limited_run_has_the_same_images(done: Run, tmp_path: Path) -> None:
    """The part of a split that a first try takes is that of the manifest."""
    with pytest.warns(UserWarning, match="no better than chance"):  # after one epoch
        limited = [run(tmp_path / name, name, limit=60, epochs=1) for name in ("tiny", "plain")]
    described = [json.loads((each.folder / "run.json").read_text()) for each in limited]
    mine, plain = (each["checksums"]["data"] for each in described)
    assert {NAMES[name]: splits for name, splits in mine.items()} == plain


def test_a_finished_run_is_not_run_again(done: Run) -> None:
    before = (done.folder / "records.jsonl").read_bytes()
    again = run(done.folder, resume=True)
    assert again.complete
    assert (done.folder / "records.jsonl").read_bytes() == before


def test_a_run_is_verified_compared_and_joined(done: Run, tmp_path: Path) -> None:
    found = verify_run(done.folder)
    assert not found.discrepancies, found.discrepancies
    other = run(tmp_path / "other")
    comparison = oodbench.compare(done.folder, other.folder)
    assert {each.method for each in comparison.changes} == {"SoftMax+MSP", "SoftMax+Entropy"}
    board = join([read_stored_run(each.folder) for each in (done, other)])
    assert [each.name for each in board.ood_sets] == list(OOD)
    assert len(board.rows) == 4
