"""What `oodbench new` writes: names, contents, conformance."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest
import yaml
from helpers.tiers import by_default

from oodbench.errors import UserError
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.declarations import read_detector
from oodbench.plugins.starter_files import Files, benchmark_files, detector_files, plugin_files
from oodbench.testing import check_detector

KINDS = [(fitted, gradient) for fitted in (False, True) for gradient in (False, True)]


def written(folder: Path, files: Files) -> list[Path]:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return [folder / path for path in files]


# --- detectors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fitted", "gradient"), KINDS)
@pytest.mark.parametrize("searched", by_default([True], [False, True]))
def test_a_new_detector_conforms(
    tmp_path: Path, fitted: bool, gradient: bool, searched: bool
) -> None:
    """As it is written, and with the search space that stands in a comment."""
    (path,) = written(
        tmp_path, detector_files("steepness", Catalog(), fitted=fitted, gradient=gradient)
    )
    if searched:
        text = path.read_text()
        assert text.count("    # search_space=") == 1
        path.write_text(text.replace("    # search_space=", "    search_space="))
    info = read_detector(path)
    assert bool(info.search_space) == searched
    assert (info.name, info.label) == ("steepness", "Steepness")
    assert ("fit" in info.needs, "input_gradients" in info.needs) == (fitted, gradient)
    report = check_detector(path)
    assert report.passed, str(report)


@pytest.mark.parametrize(("fitted", "gradient"), KINDS)
def test_a_new_detector_imports_what_it_uses(fitted: bool, gradient: bool) -> None:
    (text,) = detector_files("x" * 60, Catalog(), fitted=fitted, gradient=gradient).values()
    tree = ast.parse(text)
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported == {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} & imported
    assert not [line for line in text.splitlines() if line != line.rstrip() or len(line) > 100]
    assert text.endswith("\n")


@pytest.mark.parametrize(
    "name", ["detector", "none", "outputs", "tensor", "f", "torch", "oodbench"]
)
def test_names_that_the_file_uses_itself(tmp_path: Path, name: str) -> None:
    (path,) = written(tmp_path, detector_files(name, Catalog(), fitted=True, gradient=True))
    info = read_detector(path)
    assert info.name == name
    detector = Catalog([tmp_path]).load_detector(name)
    assert detector.info == info


REFUSED = {
    "": "'my_detector'",
    "../x": "'x'",
    "near-mean": "'near_mean'",
    "2fast": "'my_detector'",
    "_x": "'x'",
    "a\nb": "'a_b'",
    "\x1b[31mred": "'my_detector'",
    "è": "'my_detector'",
    "x" * 61: "'my_detector'",
    "class": "'my_class'",
    "con": "'my_con'",
    "yes": "'my_yes'",
    "None": "'my_none'",
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_name_of_a_detector(name: str) -> None:
    with pytest.raises(UserError, match="cannot name a detector: ") as raised:
        detector_files(name, Catalog())
    assert REFUSED[name] in raised.value.hint
    assert raised.value.message.isprintable()
    assert len(raised.value.message) < 150
    detector_files(raised.value.hint.split("'")[1], Catalog())  # the suggestion is valid


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("knn", "knn"),
        ("KNN", "knn"),
        ("ebo", "energy"),
        ("maxlogit", "max_logit"),
        ("mine", "mine"),
    ],
)
def test_names_of_other_detectors(tmp_path: Path, name: str, owner: str) -> None:
    written(tmp_path, detector_files("mine", Catalog()))
    with pytest.raises(UserError, match=f"The name '{name}' is taken by detector '{owner}'"):
        detector_files(name, Catalog([tmp_path]))


# --- benchmarks -----------------------------------------------------------------------------------


def test_a_new_benchmark_differs_from_digits_in_what_it_says(tmp_path: Path) -> None:
    (path,) = written(tmp_path, benchmark_files("my-digits", Catalog()))
    catalog = Catalog([tmp_path])
    spec, digits = catalog.benchmark("my-digits"), catalog.benchmark("digits")
    assert spec.ood == {"near": ("letters",), "far": ("photo-patches", "uniform-noise")}
    same = {"models", "methods", "matrix", "tuning", "evaluation", "reference", "id"}
    for key in same:
        assert getattr(spec, key) == getattr(digits, key), key
    # What stands in comments works, too.
    lines = path.read_text().splitlines()
    keys = ("models:", "  SoftMax", "methods:", "matrix:", "tuning:")
    opened = [
        line.removeprefix("# ") if line.removeprefix("# ").startswith(keys) else line
        for line in lines
    ]
    assert sum(a != b for a, b in zip(opened, lines, strict=True)) == 6
    path.write_text("\n".join(opened))
    assert Catalog([tmp_path]).benchmark("my-digits").models["SoftMax"].training.epochs == 30


def test_a_new_benchmark_of_folders(tmp_path: Path) -> None:
    written(tmp_path, benchmark_files("photos", Catalog(), folders=True))
    catalog = Catalog([tmp_path])
    spec = catalog.benchmark("photos")
    sets = [catalog.dataset(name) for name in (spec.id, *spec.ood_groups)]
    assert [each.name for each in sets] == ["photos-id", "photos-ood"]
    assert sets[0].shape == sets[1].shape


@pytest.mark.parametrize("name", ["", "../x", "a b", "1x", "x\n", "null", "aux", "x" * 61, "x."])
def test_no_name_of_a_benchmark(name: str) -> None:
    with pytest.raises(UserError, match="cannot name a benchmark: ") as raised:
        benchmark_files(name, Catalog())
    benchmark_files(raised.value.hint.split("'")[1], Catalog())


def test_names_of_other_benchmarks_and_data_sets(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'Digits' is taken by benchmark 'digits'"):
        benchmark_files("Digits", Catalog())
    written(tmp_path, {Path("data_manifests/photos-ood.yaml"): ""})
    with pytest.raises(UserError, match="'photos-ood' is taken by dataset"):
        benchmark_files("photos", Catalog([tmp_path]), folders=True)


# --- packages -------------------------------------------------------------------------------------


def test_a_new_package_declares_its_content(tmp_path: Path) -> None:
    written(tmp_path, plugin_files("Acme.ood", Catalog()))
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    assert project["project"]["name"] == "Acme.ood"
    assert project["project"]["entry-points"] == {"oodbench.plugins": {"acme_ood": "acme_ood"}}
    assert "license" not in project["project"], "that is for the user to choose"
    (package,) = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    catalog = Catalog([tmp_path / package])
    assert catalog.detectors["acme_ood"].error is None
    assert catalog.benchmark("Acme.ood").name == "Acme.ood"
    workflow = yaml.safe_load((tmp_path / ".github/workflows/tests.yml").read_text())
    commands = "\n".join(step.get("run", "") for step in workflow["jobs"]["test"]["steps"])
    assert "--methods SoftMax+AcmeOod,SoftMax+MSP" in commands
    assert "pytest" in commands.splitlines()


@pytest.mark.parametrize("name", ["", "a--b", "-a", "a.", "Foo Bar", "class", "con", "a/b", "1a"])
def test_no_name_of_a_package(name: str) -> None:
    with pytest.raises(UserError, match="cannot name a package: ") as raised:
        plugin_files(name, Catalog())
    plugin_files(raised.value.hint.split("'")[1], Catalog())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("json", "there is a module 'json'"),
        ("Torch", "there is a module 'torch'"),
        ("knn", "taken by detector 'knn'"),
    ],
)
def test_names_of_other_packages(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plugin_files(name, Catalog())
