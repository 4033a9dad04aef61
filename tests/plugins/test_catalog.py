"""Where content is found, and how a detector's file is loaded."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import oodbench
from oodbench.errors import UserError
from oodbench.planning.suite_plan import load_suite
from oodbench.plugins.catalog import BUILT_IN, Catalog
from oodbench.plugins.declarations import BrokenDetectorError
from oodbench.plugins.detector_modules import is_content, module_name
from oodbench.plugins.importing import instantiate, load_class

DETECTOR = '''\
"""A detector."""

from torch import Tensor

from oodbench import Detector, Outputs, register


@register("{name}")
class {cls}(Detector):
    """The largest logit."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def score(self, outputs: Outputs) -> Tensor:
        return self.scale * outputs.logits.amax(dim=1)
'''

BASE = """\
schema_version: 1
name: base
version: 1
title: Base
summary: A test
id: digits
ood: {near: [letters], far: [uniform-noise]}
models:
  SoftMax:
    network: resnet8
    head: softmax
    training: {epochs: 1, batch_size: 64, learning_rate: 0.1}
methods:
  A: {model: SoftMax, detector: baseline}
  B: {model: SoftMax, detector: entropy}
reference: A
"""

MANIFEST = """\
schema_version: 1
name: {name}
title: Mine
summary: A test
kind: builtin
builder: uniform_noise
shape: [1, 8, 8]
splits: {{test: 10}}
license: none
citation: none
"""


@pytest.fixture(autouse=True)
def _no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OODBENCH_PLUGINS", raising=False)


def detector(folder: Path, name: str, text: str | None = None) -> Path:
    """Write a detector's file below a folder of content."""
    path = folder / "detectors" / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or DETECTOR.format(name=name, cls=name.title().replace("_", "")))
    return path


def benchmark(folder: Path, name: str, text: str) -> Path:
    """Write a benchmark's file below a folder of content."""
    path = folder / "benchmarks" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package of an installed distribution that declares the entry point."""
    site = tmp_path / "site"
    info = site / "acme_ood-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-ood\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[oodbench.plugins]\nacme = acme_ood_content\n")
    package = site / "acme_ood_content"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('lists run no plug-in')\n")
    monkeypatch.syspath_prepend(str(site))
    yield package
    sys.modules.pop("acme_ood_content", None)


# --- where content is found -----------------------------------------------------------------------


def test_order_of_discovery(
    tmp_path: Path, distribution: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, named = tmp_path / "given", tmp_path / "named"
    detector(given, "z_given")
    detector(named, "y_named")
    detector(distribution, "x_distributed")
    monkeypatch.setenv("OODBENCH_PLUGINS", str(named))
    entries = list(Catalog([given]).entries["detector"].values())
    built_in = [entry.name for entry in entries if entry.source == BUILT_IN]
    assert {"baseline", "odin", "dismax_entropy"} <= set(built_in)
    assert built_in == sorted(built_in)
    assert [(entry.name, entry.source) for entry in entries[len(built_in) :]] == [
        ("z_given", str(given)),
        ("y_named", str(named)),
        ("x_distributed", "distribution acme-ood"),
    ]


def test_all_kinds_of_content_are_found(tmp_path: Path) -> None:
    benchmark(tmp_path, "base", BASE)
    (tmp_path / "data_manifests").mkdir()
    (tmp_path / "data_manifests" / "mine.yaml").write_text(MANIFEST.format(name="mine"))
    catalog = Catalog([tmp_path])
    assert catalog.benchmark("base").title == "Base"
    assert catalog.dataset("mine").splits == {"test": 10}
    assert catalog.entry("dataset", "mine").source == str(tmp_path)


def test_several_folders_in_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        detector(tmp_path / name, f"mine_{name}")
    folders = [str(tmp_path / "one"), str(tmp_path / "two"), ""]
    monkeypatch.setenv("OODBENCH_PLUGINS", os.pathsep.join(folders))
    assert {"mine_one", "mine_two"} <= Catalog().entries["detector"].keys()


def test_hidden_and_private_files_are_left_out(tmp_path: Path) -> None:
    for name in ("_shared", ".hidden", "seen"):
        detector(tmp_path, name)
    found = Catalog([tmp_path]).entries["detector"]
    assert "seen" in found
    assert not {"_shared", ".hidden"} & found.keys()


@pytest.mark.parametrize("source", ["given twice", "built-in again"])
def test_a_folder_named_twice_is_read_once(tmp_path: Path, source: str) -> None:
    folder = tmp_path
    if source == "built-in again":
        folder = Catalog().entry("detector", "baseline").path.parent.parent
    else:
        detector(tmp_path, "mine")
    Catalog([folder, str(folder)])


def test_duplicates_name_both_files(tmp_path: Path) -> None:
    ours = Catalog().entry("detector", "odin").path
    theirs = detector(tmp_path, "odin")
    with pytest.raises(UserError) as raised:
        Catalog([tmp_path])
    assert "detector 'odin'" in raised.value.message
    assert str(ours) in raised.value.message
    assert str(theirs) in raised.value.message


def test_one_name_for_a_detector_and_a_benchmark_is_fine(tmp_path: Path) -> None:
    detector(tmp_path, "base")
    benchmark(tmp_path, "base", BASE)
    assert Catalog([tmp_path]).benchmark("base").name == "base"


def test_a_plugin_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        Catalog([tmp_path / "nowhere"])
    assert f"{tmp_path / 'nowhere'} is not a folder" in raised.value.message
    assert "detectors/" in raised.value.hint


def test_a_plugin_folder_without_content(tmp_path: Path) -> None:
    (tmp_path / "detector").mkdir()
    with pytest.raises(UserError) as raised:
        Catalog([tmp_path])
    assert f"{tmp_path} has none of the sub-folders" in raised.value.message


def test_a_broken_distribution_is_left_out_and_said(
    distribution: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (distribution / "__init__.py").unlink()
    distribution.rmdir()
    with caplog.at_level(logging.WARNING):
        assert "baseline" in Catalog().entries["detector"]
    assert "acme-ood" in caplog.text
    assert "acme_ood_content" in caplog.text


def test_unknown_names_get_the_nearest() -> None:
    catalog = Catalog()
    with pytest.raises(UserError, match="no detector 'mahalanobs'") as raised:
        catalog.entry("detector", "mahalanobs")
    assert "'mahalanobis'" in raised.value.hint
    with pytest.raises(UserError, match="no benchmark 'digit'") as raised:
        catalog.benchmark("digit")
    assert "'digits'" in raised.value.hint
    with pytest.raises(UserError, match="no dataset 'leters'") as raised:
        catalog.dataset("leters")
    assert "'letters'" in raised.value.hint


# --- loading --------------------------------------------------------------------------------------


def test_a_plugin_is_loaded_by_path_and_leaves_sys_path_alone(tmp_path: Path) -> None:
    # Named as a module of the standard library: loaded by path, it is in nobody's way.
    path = detector(tmp_path, "json")
    before, standard = list(sys.path), sys.modules["json"]
    instance = Catalog([tmp_path]).load_detector("json", {"scale": 2.0})
    module = sys.modules[type(instance).__module__]
    assert Path(str(module.__file__)) == path
    assert module.__name__ == module_name(path)
    assert sys.modules["json"] is standard
    assert sys.path == before
    assert instance.parameters == {"scale": 2.0}


def test_same_stem_in_two_folders_are_two_modules(tmp_path: Path) -> None:
    first = load_class(detector(tmp_path / "one", "mine"))
    second = load_class(detector(tmp_path / "two", "mine"))
    assert first is not second
    assert first is load_class(tmp_path / "one" / "detectors" / "mine.py")


def test_a_dataclass_in_a_detector_file(tmp_path: Path) -> None:
    """Dataclasses look for their module in sys.modules while it is being executed."""
    lines = {"mine": "", "lazy": "from __future__ import annotations\n"}
    for name, lazy in lines.items():
        text = DETECTOR.format(name=name, cls="Mine").replace(
            f'@register("{name}")',
            "from dataclasses import KW_ONLY, dataclass\n\n\n@dataclass\nclass Moments:\n"
            '    mean: "float" = 0.0\n    _: KW_ONLY\n    count: int = 0\n\n\n'
            f'@register("{name}")',
        )
        detector(tmp_path, name, text.replace('"""A detector."""\n', f'"""A detector."""\n{lazy}'))
    catalog = Catalog([tmp_path])
    checked = catalog.checked_detectors()
    for name in lines:
        assert checked[name].error is None
        module = sys.modules[type(catalog.load_detector(name)).__module__]
        assert vars(module)["Moments"](1.0, count=2).count == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import torch\n\nraise RuntimeError('no luck')\n", "line 3: RuntimeError: no luck"),
        ("x = 1 / 0\n", "line 1: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3: the file ends Python"),
        ("def f(:\n", "line 1: SyntaxError: invalid syntax"),
        ("import json\njson.loads('\\n\\n\\n[')\n", "line 2: JSONDecodeError: "),
        ("raise KeyError\n", "line 1: KeyError"),
        ("x = 1\n", 'no class is decorated with @register("mine")'),
    ],
)
def test_a_failed_import_leaves_nothing_behind(tmp_path: Path, text: str, said: str) -> None:
    path = detector(tmp_path, "mine", text)
    before = set(sys.modules)
    with pytest.raises(BrokenDetectorError) as raised:
        load_class(path)
    assert said in str(raised.value)
    left = {name for name in set(sys.modules) - before if is_content(name)}
    assert not left
    path.write_text(DETECTOR.format(name="mine", cls="Mine"))
    assert load_class(path).info.name == "mine", "a mended file must load in the same process"


@pytest.mark.parametrize(
    "loop",
    [
        "while True:\n    pass\n",
        "while True:\n    try:\n        pass\n    except Exception:\n        pass\n",
    ],
)
def test_a_file_that_never_ends_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    monkeypatch.setattr("oodbench.plugins.importing.TIME_LIMIT", 0.2)
    path = detector(tmp_path, "mine", loop)
    with pytest.raises(
        BrokenDetectorError, match=r"line \d: running the file takes longer than 0.2 s"
    ):
        load_class(path)


def test_an_error_that_ends_with_a_question_gets_no_period(tmp_path: Path) -> None:
    text = DETECTOR.format(name="mine", cls="Mine").replace('"mine"', '"mine", needs=("feature",)')
    detector(tmp_path, "mine", text)
    with pytest.raises(UserError, match=r"Did you mean .*\?$"):
        Catalog([tmp_path]).load_detector("mine")


def test_asking_for_a_broken_detector_names_its_file(tmp_path: Path) -> None:
    path = detector(tmp_path, "mine", "raise RuntimeError('no luck')\n")
    with pytest.raises(UserError, match="'mine' is broken") as raised:
        Catalog([tmp_path]).load_detector("mine")
    assert str(path) in raised.value.message
    assert "line 1: RuntimeError: no luck" in raised.value.message


def test_parameters_are_checked(tmp_path: Path) -> None:
    cls = load_class(detector(tmp_path, "mine"))
    with pytest.raises(UserError, match="'mine' has no parameter 'scal'") as raised:
        instantiate(cls, {"scal": 1.0})
    assert "'scale'" in raised.value.hint


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('must be positive')", "scale=-1: must be positive."),
        ("raise KeyError('k')", "scale=-1: KeyError: 'k'."),
    ],
)
def test_a_refused_parameter_is_the_users_error(tmp_path: Path, body: str, said: str) -> None:
    text = DETECTOR.format(name="mine", cls="Mine").replace("self.scale = scale", body)
    cls = load_class(detector(tmp_path, "mine", text))
    with pytest.raises(UserError) as raised:
        instantiate(cls, {"scale": -1})
    assert raised.value.message == f"Detector 'mine' cannot be made with {said}"


def test_a_detector_that_needs_an_argument(tmp_path: Path) -> None:
    text = DETECTOR.format(name="mine", cls="Mine").replace("scale: float = 1.0", "scale: float")
    cls = load_class(detector(tmp_path, "mine", text))
    with pytest.raises(UserError, match="cannot be made with its defaults: missing 1 required"):
        instantiate(cls, {})
    assert instantiate(cls, {"scale": 2.0}).parameters == {"scale": 2.0}


# --- aliases --------------------------------------------------------------------------------------

ALIASES = {
    "msp": "baseline",
    "mds": "mahalanobis_single",
    "mds_ensemble": "mahalanobis",
    "rmds": "relative_mahalanobis",
    "mls": "max_logit",
    "ebo": "energy",
    "klm": "kl_matching",
    "temp_scaling": "temperature_scaling",
    "doctor": "gini",
    "dropout": "mcd",
    "nac": "nac_ue",
}


def test_the_aliases_of_the_built_in_detectors() -> None:
    assert Catalog().aliases == ALIASES


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_loaded_as_its_detector(alias: str) -> None:
    assert oodbench.load_detector(alias).info.name == ALIASES[alias]


def test_a_misspelt_alias_gets_the_nearest() -> None:
    with pytest.raises(UserError) as raised:
        oodbench.load_detector("mds_ensembel")
    assert "'mds_ensemble'" in raised.value.hint


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        ('aliases=("msp",)', "alias 'msp' of detector 'mine'"),
        ('aliases=("knn",)', "alias 'knn' of detector 'mine'"),
    ],
)
def test_an_alias_that_is_taken_names_both_detectors(tmp_path: Path, mine: str, said: str) -> None:
    text = DETECTOR.format(name="mine", cls="Mine").replace('"mine"', f'"mine", {mine}')
    path = detector(tmp_path, "mine", text)
    with pytest.raises(UserError) as raised:
        Catalog([tmp_path]).detectors  # noqa: B018
    assert said in raised.value.message
    assert str(path) in raised.value.message
    other = "baseline" if "msp" in mine else "knn"
    assert f"'{other}'" in raised.value.message


def test_a_detector_with_the_name_of_an_alias_is_refused(tmp_path: Path) -> None:
    detector(tmp_path, "msp")
    with pytest.raises(UserError, match=r"alias 'msp' of detector 'baseline'.*detector 'msp'"):
        Catalog([tmp_path]).detectors  # noqa: B018


# --- benchmarks -----------------------------------------------------------------------------------


def test_a_benchmark_by_path(tmp_path: Path) -> None:
    path = benchmark(tmp_path, "base", BASE)
    assert Catalog().benchmark(str(path)).name == "base"


def test_a_benchmark_by_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark(tmp_path, "base", BASE)
    monkeypatch.chdir(tmp_path / "benchmarks")
    assert Catalog().benchmark("base.yaml").name == "base"


def test_a_file_called_as_a_benchmark_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").write_text("not YAML: [")
    monkeypatch.chdir(tmp_path)
    assert Catalog().benchmark("digits").name == "digits"


def test_a_benchmark_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no benchmark file .*none\.yaml"):
        Catalog().benchmark(str(tmp_path / "none.yaml"))


def test_extends_merges(tmp_path: Path) -> None:
    benchmark(tmp_path, "base", BASE)
    benchmark(
        tmp_path,
        "more",
        "extends: base\nname: more\nood: {far: [photo-patches]}\n"
        "models: {SoftMax: {training: {epochs: 2}}}\n"
        "methods: {B: null, C: {model: SoftMax, detector: odin}}\nreference: null\n",
    )
    spec = Catalog([tmp_path]).benchmark("more")
    assert spec.ood == {"near": ("letters",), "far": ("photo-patches",)}, "a list is replaced"
    assert spec.models["SoftMax"].training.epochs == 2
    assert spec.models["SoftMax"].training.batch_size == 64, "what is not named is kept"
    assert list(spec.methods) == ["A", "C"], "null takes away"
    assert spec.reference is None
    assert spec.title == "Base"


def test_extends_a_built_in_benchmark_and_one_beside(tmp_path: Path) -> None:
    benchmark(tmp_path, "one", "extends: digits\nname: one\nversion: 7\n")
    path = benchmark(tmp_path, "two", "extends: one\nname: two\n")
    spec = Catalog().benchmark(str(path))
    assert spec.version == 7
    assert spec.methods == Catalog().benchmark("digits").methods


@pytest.mark.parametrize(
    ("links", "chain"),
    [
        ({"a": "a"}, "a -> a"),
        ({"a": "b", "b": "a"}, "a -> b -> a"),
        ({"a": "b", "b": "c", "c": "b"}, "a -> b -> c -> b"),
    ],
)
def test_a_circle_names_the_chain(tmp_path: Path, links: dict[str, str], chain: str) -> None:
    for name, parent in links.items():
        benchmark(tmp_path, name, f"name: {name}\nextends: {parent}\n")
    with pytest.raises(UserError, match="in a circle") as raised:
        Catalog([tmp_path]).benchmark("a")
    assert raised.value.message.endswith(f": {chain}.")


@pytest.mark.parametrize(
    ("parent", "said"),
    [
        ("digit", "extends: there is no benchmark 'digit'"),
        ("digits.yaml", "extends: there is no benchmark 'digits.yaml'"),
        ("../digits", "extends: expected the name of a benchmark, not '../digits'"),
        ("[digits]", "extends: expected the name of a benchmark, not ['digits']"),
    ],
)
def test_extends_something_that_is_not_there(tmp_path: Path, parent: str, said: str) -> None:
    path = benchmark(tmp_path, "mine", f"name: mine\nextends: {parent}\n")
    with pytest.raises(UserError) as raised:
        Catalog([tmp_path]).benchmark("mine")
    assert raised.value.message.startswith(f"{path}: {said}")


@pytest.mark.parametrize("name", sorted(Catalog().entries["benchmark"]))
def test_every_shipped_benchmark_is_valid(name: str) -> None:
    catalog = Catalog()
    suite = catalog.is_suite(name)
    specs = load_suite(catalog, name).members.values() if suite else [catalog.benchmark(name)]
    for spec in specs:
        for dataset in spec.names:
            catalog.dataset(spec.manifest(dataset))


# --- suites and published numbers -----------------------------------------------------------------


@pytest.mark.parametrize(("name", "suite"), [("digits", False), ("dismax-paper", True)])
def test_what_is_a_suite(name: str, suite: bool) -> None:
    assert Catalog().is_suite(name) is suite


def test_published_numbers_are_no_benchmarks() -> None:
    entries = Catalog().entries
    assert sorted(entries["publication"]) == ["dismax-2019", "openood-v1.5"]
    assert "dismax-2019" not in entries["benchmark"]


def test_duplicate_publications_name_both_files(tmp_path: Path) -> None:
    ours = Catalog().entry("publication", "dismax-2019").path
    theirs = benchmark(tmp_path, "published/dismax-2019", "name: dismax-2019\n")
    with pytest.raises(UserError, match="publication 'dismax-2019'") as raised:
        Catalog([tmp_path])
    assert str(ours) in raised.value.message
    assert str(theirs) in raised.value.message


def test_a_suite_by_path_that_extends_one_of_ours(tmp_path: Path) -> None:
    path = benchmark(tmp_path, "mine", "extends: dismax-paper\nname: mine\nversion: 7\n")
    catalog = Catalog()
    assert catalog.is_suite(str(path))
    spec, file = catalog.suite(str(path))
    assert (spec.version, file) == (7, path)
    assert list(spec.members) == list(catalog.suite("dismax-paper")[0].members)


@pytest.mark.parametrize("members", ["5", "[one, two]", "{}"])
def test_a_suite_with_odd_members_is_no_benchmark(tmp_path: Path, members: str) -> None:
    benchmark(tmp_path, "mine", f"name: mine\nmembers: {members}\n")
    with pytest.raises(UserError, match="'mine' is a suite of benchmarks"):
        Catalog([tmp_path]).benchmark("mine")


def written_with(folder: Path, body: str, space: str) -> Catalog:
    (folder / "detectors").mkdir()
    (folder / "detectors" / "keeping.py").write_text(
        "from oodbench import Detector, register\n"
        f'@register("keeping", search_space={{"power": {space}}})\n'
        "class Keeping(Detector):\n"
        f"    def __init__(self, power: float = 2.0) -> None:\n        {body}\n"
        "    def score(self, outputs):\n        return outputs.logits.amax(dim=1)\n"
    )
    return Catalog((folder,))


@pytest.mark.parametrize(
    ("body", "space", "said"),
    [
        ("self._power = power", "(1.0, 2.0)", "write self.power = power"),
        ("self.p = power", "(2.0,)", "'power' is not kept in an attribute of the same name"),
        ("self.power = power", "(1.0, 3.0)", "the default power = 2.0 is not among (1.0, 3.0)"),
    ],
)
def test_parameters_that_cannot_be_tuned_are_refused(
    tmp_path: Path, body: str, space: str, said: str
) -> None:
    catalog = written_with(tmp_path, body, space)
    with pytest.raises(UserError) as raised:
        catalog.load_detector("keeping")
    assert said in raised.value.message
    with pytest.raises(UserError) as raised:
        oodbench.run("digits", plugins=[tmp_path], methods=["SoftMax+keeping"], seeds=1)
    assert said in raised.value.message


def test_a_default_outside_of_the_search_space_may_be_replaced(tmp_path: Path) -> None:
    catalog = written_with(tmp_path, "self.power = power", "(1.0, 3.0)")
    assert catalog.load_detector("keeping", {"power": 1.0}).parameters == {"power": 1.0}
