"""What a user may get wrong in a YAML file, and what the message says."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from oodbench.errors import UserError
from oodbench.specs import BenchmarkSpec, DatasetSpec
from oodbench.specs.yaml_file import place_of, read_mapping, read_spec, validate

MANIFEST = """\
schema_version: 1
name: mine
title: Mine
summary: A test
kind: builtin
builder: uniform_noise
shape: [1, 8, 8]
splits: {test: 10}
license: none
citation: none
"""


def file(folder: Path, text: str | bytes, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(folder: Path, text: str | bytes, name: str = "mine.yaml") -> UserError:
    """The error that reading a manifest gives; it names the file, in one or two lines."""
    path = file(folder, text, name)
    with pytest.raises(UserError) as raised:
        read_spec(DatasetSpec, path)
    assert raised.value.message.find(str(path)) >= 0, f"no file in: {raised.value}"
    assert len(str(raised.value).splitlines()) <= 2, f"more than two lines: {raised.value}"
    return raised.value


def benchmark(**changes: Any) -> dict[str, Any]:
    training = {"epochs": 1, "batch_size": 8, "learning_rate": 0.1}
    content: dict[str, Any] = {
        "schema_version": 1,
        "name": "mine",
        "version": 1,
        "title": "Mine",
        "summary": "A test",
        "id": "digits",
        "ood": {"near": ["letters"]},
        "models": {"head": {"network": "resnet8", "head": "softmax", "training": training}},
        "methods": {"A": {"model": "head", "detector": "baseline"}},
    }
    return content | changes


def test_a_valid_file_is_read(tmp_path: Path) -> None:
    spec = read_spec(DatasetSpec, file(tmp_path, MANIFEST))
    assert spec.shape == (1, 8, 8)
    assert spec.splits == {"test": 10}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: 1\nb: [1, 2\n", ":3:1:"),
        ("a: 1\n\tb: 2\n", ":2:1:"),
        ("a: 1\nb: *nowhere\n", ":2:4:"),
        ("a: 1\nb: !!python/object/apply:os.getcwd []\n", ":2:4:"),
    ],
)
def test_syntax_errors_have_a_line(tmp_path: Path, text: str, place: str) -> None:
    error = refusal(tmp_path, text)
    assert place in error.message
    assert "not valid YAML" in error.message


@pytest.mark.parametrize("value", ["2020-13-45", "!!int abc", "a\0b"])
def test_values_that_only_look_right(tmp_path: Path, value: str) -> None:
    assert "not valid YAML" in refusal(tmp_path, f"a: {value}\n").message


def test_a_key_written_twice(tmp_path: Path) -> None:
    error = refusal(tmp_path, MANIFEST + "title: Again\n")
    assert ":11:1: not valid YAML: the key 'title' is written twice" in error.message


def test_a_key_written_twice_deep_inside(tmp_path: Path) -> None:
    error = refusal(tmp_path, MANIFEST + "options: {seed: 0, seed: 1}\n")
    assert "the key 'seed' is written twice" in error.message


def test_a_mapping_as_key(tmp_path: Path) -> None:
    assert "a key must be plain text" in refusal(tmp_path, "? {a: 1}\n: 2\n").message


def test_merge_keys_are_yaml_too(tmp_path: Path) -> None:
    text = "base: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}\n"
    assert read_mapping(file(tmp_path, text))["more"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x {b: {c: *x}}\n", "a.b.c: an alias (*) that contains itself"),
        ("a: &x [1, *x]\n", "a.1: an alias (*) that contains itself"),
        ("a: &x {<<: *x}\n", "'<<' merges a mapping into itself"),
    ],
)
def test_aliases_without_end(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text).message


@pytest.mark.parametrize("form", ["[*a{0}, *a{0}]", "{{<<: [*a{0}, *a{0}], b: 1}}"])
def test_aliases_that_repeat_each_other(tmp_path: Path, form: str) -> None:
    """Sixty levels of doubling mean 10^18 values, which cannot be looked into, shown or merged."""
    first = "a0: &a0 [1]" if form[0] == "[" else "a0: &a0 {c: 1}"
    lines = [first] + [f"a{i}: &a{i} {form.format(i - 1)}" for i in range(1, 60)]
    assert "more than 1,000,000 values" in refusal(tmp_path, "\n".join(lines)).message
    assert len(read_mapping(file(tmp_path, "\n".join(lines[:12])))) == 12


def test_an_unknown_key_gets_the_nearest_name(tmp_path: Path) -> None:
    error = refusal(tmp_path, MANIFEST + "licenses: x\n")
    assert "licenses: unknown key" in error.message
    assert "'license'" in error.hint


def test_an_old_name_of_a_manifests_key_gets_the_new_name(tmp_path: Path) -> None:
    """The old name is the error, not the new one that is missing."""
    error = refusal(tmp_path, MANIFEST.replace("license:", "licence:"))
    assert ":9: licence: unknown key" in error.message
    assert error.hint == "It is called 'license' now."
    error = refusal(tmp_path, MANIFEST + "hold_out: {validation: test}\nbad: 1\n")
    assert "hold_out: unknown key" in error.message
    assert error.hint == "It is called 'split_from' now. (1 more below it)"


@pytest.mark.parametrize(
    ("change", "key", "name"),
    [
        ({"sweep": {"models": "all"}, "methods": {}}, "sweep", "matrix"),
        (
            {"models": {"M": {"normalisation": {"mean": [0.5], "std": [0.5]}}}},
            "models.M.normalisation",
            "normalization",
        ),
    ],
)
def test_an_old_name_of_a_benchmarks_key_gets_the_new_name(
    tmp_path: Path, change: dict[str, Any], key: str, name: str
) -> None:
    with pytest.raises(UserError) as raised:
        validate(BenchmarkSpec, benchmark(**change), tmp_path / "mine.yaml")
    assert f"{key}: unknown key" in raised.value.message
    assert f"It is called '{name}' now." in raised.value.hint


def test_an_old_name_elsewhere_is_a_key_like_any_other(tmp_path: Path) -> None:
    """A data set has no matrix, so that `sweep` there is no old name of it."""
    error = refusal(tmp_path, MANIFEST + "sweep: {}\n")
    assert "sweep: unknown key" in error.message
    assert "matrix" not in error.hint


def test_an_unknown_key_deep_inside_gets_the_nearest_name(tmp_path: Path) -> None:
    # The model is called as a key of models is: the name must not be taken for the key.
    content = benchmark()
    content["models"]["head"]["training"]["augment"] = {"crop_pading": 1}
    with pytest.raises(UserError) as raised:
        validate(BenchmarkSpec, content, tmp_path / "mine.yaml")
    assert "models.head.training.augment.crop_pading: unknown key" in raised.value.message
    assert "'crop_padding'" in raised.value.hint


def test_a_wrong_type_names_key_and_value(tmp_path: Path) -> None:
    error = refusal(tmp_path, MANIFEST.replace("test: 10", "test: many"))
    assert "splits.test: " in error.message
    assert "'many'" in error.message


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    error = refusal(tmp_path, MANIFEST.replace("[1, 8, 8]", "x" * 500))
    assert len(error.message) < 300 + len(str(tmp_path)), error.message


def test_a_missing_key(tmp_path: Path) -> None:
    error = refusal(tmp_path, MANIFEST.replace("builder: uniform_noise\n", ""))
    assert "kind builtin needs a builder" in error.message
    error = refusal(tmp_path, MANIFEST.replace("kind: builtin\n", ""))
    assert "kind: this key is required" in error.message


def test_several_errors_are_counted(tmp_path: Path) -> None:
    error = refusal(tmp_path, "schema_version: 1\nname: mine\n")
    assert "title: this key is required" in error.message
    assert "6 more" in error.hint, error.hint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ood": {"near": []}}, "ood: names no data set"),
        ({"ood": {"near": ["letters"], "far": ["letters"]}}, "'letters' is listed twice"),
        ({"ood": {"near": ["digits"]}}, "'digits' is the in-distribution data set"),
        ({"datasets": {"leters": "mine"}}, "datasets: 'leters' is no data set of this benchmark"),
        ({"datasets": {"leters": "mine"}}, "Did you mean 'letters'?"),
        ({"datasets": {"xyz": "mine"}}, "Known: digits, letters"),
        (
            {"datasets": {"a": "x", "b": "x"}, "ood": {"near": ["a"], "far": ["b"]}},
            "datasets: 'a' and 'b' are both the test images of manifest 'x'",
        ),
        (
            {"datasets": {"a": "digits"}, "ood": {"near": ["a"]}},
            "datasets: 'digits' and 'a' are both the test images of manifest 'digits'",
        ),
        ({"models": {}}, "models: names no model"),
        ({"methods": {}}, "give methods, a matrix, or both"),
        ({"methods": {"A": {"model": "x", "detector": "y"}}}, "methods.A.model: no model 'x'"),
        ({"schema_version": 2}, "schema_version: input should be 1, not 2."),
        ({"matrix": {"models": 3}}, "matrix.models: input should be 'all' or a list, not 3"),
        ({"matrix": {"models": ["x"]}}, "matrix.models: no model 'x'"),
    ],
)
def test_benchmarks_that_contradict_themselves(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as raised:
        validate(BenchmarkSpec, benchmark(**changes), tmp_path / "mine.yaml")
    assert said in raised.value.message
    assert not raised.value.message.endswith(("..", "?."))


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"momentum": 0}, "nesterov: needs a momentum above 0; write nesterov: false"),
        ({"learning_rate": float("inf")}, "training.learning_rate: input should be a finite"),
        ({"weight_decay": float("nan")}, "training.weight_decay: input should be a finite"),
        ({"recipe": "slow"}, "there is no recipe 'slow' (recipes: lee, iso, openood, quick)"),
    ],
)
def test_recipes_that_cannot_be_trained(
    tmp_path: Path, training: dict[str, Any], said: str
) -> None:
    content = benchmark()
    content["models"]["head"]["training"] |= training
    with pytest.raises(UserError) as raised:
        validate(BenchmarkSpec, content, tmp_path / "mine.yaml")
    assert said in raised.value.message


@pytest.mark.parametrize(
    ("network", "epochs", "batch"),
    [("densenet_bc100", 300, 64), ("resnet34", 200, 128), ("torchvision:resnet18", 200, 128)],
)
def test_a_recipe_fits_the_network(tmp_path: Path, network: str, epochs: int, batch: int) -> None:
    content = benchmark()
    content["models"]["head"] |= {"network": network, "training": {"recipe": "lee"}}
    training = validate(BenchmarkSpec, content, tmp_path / "x.yaml").models["head"].training
    assert (training.recipe, training.epochs, training.batch_size) == ("lee", epochs, batch)
    assert training.augment.crop_padding == 4
    content["models"]["head"]["training"] = {"recipe": "lee", "epochs": 7}
    training = validate(BenchmarkSpec, content, tmp_path / "x.yaml").models["head"].training
    assert (training.epochs, training.batch_size) == (7, batch), "one value is replaced"


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("1e-3", 1e-3),
        ("5E4", 5e4),
        ("-1e+2", -100.0),
        ("+.5e1", 5.0),
        ("1.5e-3", 1.5e-3),
        ("0.5", 0.5),
        ("0", 0),
        ("-3", -3),
        ("1_000", 1000),
        ("0x1F", 31),
        ("e5", "e5"),
        ("1e", "1e"),
        ("'1e5'", "1e5"),
        ("'010'", "010"),
        ("08a", "08a"),
    ],
)
def test_numbers_are_what_they_seem_to_be(tmp_path: Path, value: str, read: Any) -> None:
    found = read_mapping(file(tmp_path, f"a: {value}\n"))["a"]
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize("value", ["010", "-07", "00", "+012", "1:30", "190:20:30", "1:30.5"])
def test_numbers_to_another_base_are_refused(tmp_path: Path, value: str) -> None:
    """YAML 1.1 reads 010 as 8 and 1:30 as 90."""
    error = refusal(tmp_path, f"a: 1\nb: [1, {value}]\n")
    assert f":2:8: not valid YAML: {value} is read as a number of base" in error.message


WRONG: list[tuple[str, str, str]] = [
    ("test: 10", "test: yes", "splits.test: input should be a valid integer, not True"),
    ("test: 10", "test: 10.0", "splits.test: input should be a valid integer, not 10.0"),
    ("test: 10", "test: '10'", "splits.test: input should be a valid integer, not '10'"),
    ("test: 10", "test: 08", "splits.test: input should be a valid integer, not '08'"),
    ("[1, 8, 8]", "[on, 8, 8]", "shape.0: input should be a valid integer, not True"),
    ("[1, 8, 8]", "[1, 8, '8']", "shape.2: input should be a valid integer, not '8'"),
    ("title: Mine", "title: 3", "title: input should be a valid string, not 3"),
    ("title: Mine", "title: ''", "title: string should have at least 1 character"),
    ("title: Mine", "title: ' '", "title: string should have at least 1 character"),
    ("license: none", "license: no", "license: input should be a valid string, not False"),
]


@pytest.mark.parametrize(("line", "wrong", "said"), WRONG)
def test_wrong_types_name_the_line(tmp_path: Path, line: str, wrong: str, said: str) -> None:
    text = MANIFEST.replace(line, wrong)
    number = next(i for i, each in enumerate(text.splitlines(), 1) if wrong in each)
    error = refusal(tmp_path, text)
    assert f"mine.yaml:{number}: {said}" in error.message
    if "True" in said or "False" in said:
        assert "YAML reads yes, no, on and off as true and false" in error.hint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": True}, "version: input should be a valid integer, not True"),
        ({"version": 2**63}, "version: input should be less than or equal to 9223372036854775807"),
        ({"schema_version": True}, "schema_version: input should be 1, not True"),
        ({"tuning": {"detectors": [True]}}, "tuning.detectors.0: input should be a valid string"),
        ({"evaluation": {"resamples": True}}, "evaluation.resamples: input should be a valid int"),
        ({"tuning": {"fgsm_step": True}}, "tuning.fgsm_step: input should be a valid number"),
        ({"tuning": {"noise_std": "0.1"}}, "tuning.noise_std: input should be a valid number"),
        (
            {"methods": {"A": {"model": "head", "detector": ""}}},
            "methods.A.detector: string should",
        ),
        ({"ood": {"": ["letters"]}}, "string should have at least 1 character"),
        ({"ood": {"near": [""]}}, "ood.near.0: string should have at least 1 character"),
        ({"tuning": "none"}, "tuning: input should be keys and values, not 'none'"),
        ({"name": "NUL"}, "name: 'NUL' cannot name a file: it is a device on Windows"),
        ({"name": "a/b"}, "name: 'a/b' cannot name a file: it has the character /"),
        ({"name": "b" * 201}, "cannot name a file: it has 201 bytes, more than 200"),
        ({"name": "\u20ac" * 67}, "cannot name a file: it has 201 bytes, more than 200"),
    ],
)
def test_values_that_could_only_fail_later(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as raised:
        validate(BenchmarkSpec, benchmark(**changes), tmp_path / "mine.yaml")
    assert said in raised.value.message
    assert len(raised.value.message) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"epochs": True}, "epochs: input should be a valid integer, not True"),
        ({"epochs": 2.0}, "epochs: input should be a valid integer, not 2.0"),
        ({"learning_rate": True}, "learning_rate: input should be a valid number, not True"),
        ({"learning_rate": "0.1"}, "learning_rate: input should be a valid number, not '0.1'"),
        ({"nesterov": 1}, "nesterov: input should be a valid boolean, not 1"),
        ({"compile": "yes"}, "compile: input should be a valid boolean, not 'yes'"),
        ({"milestones": [True]}, "milestones.0: input should be a valid number, not True"),
        ({"augment": {"crop_padding": True}}, "augment.crop_padding: input should be a valid int"),
    ],
)
def test_training_of_another_type(tmp_path: Path, training: dict[str, Any], said: str) -> None:
    content = benchmark()
    content["models"]["head"]["training"] |= training
    with pytest.raises(UserError) as raised:
        validate(BenchmarkSpec, content, tmp_path / "mine.yaml")
    assert f"models.head.training.{said}" in raised.value.message


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("inf"), "p: input should be a finite number, not inf"),
        (float("nan"), "p: input should be a finite number, not nan"),
        (2**63, "p: input should be a number of at most 64 bits"),
        ([1.0, [2.0, float("-inf")]], "p.1.1: input should be a finite number, not -inf"),
        ({"q": float("nan")}, "p.q: input should be a finite number, not nan"),
        ({3: 1}, "p: the key 3 is no text"),
        (datetime.date(2020, 1, 2), "p: a date cannot be recorded; write text in quotes"),
        (b"x", "p: a bytes cannot be recorded"),
    ],
)
def test_parameters_that_cannot_be_recorded(tmp_path: Path, value: Any, said: str) -> None:
    """Wherever a file may have values of any kind."""
    method = {"model": "head", "detector": "baseline", "parameters": {"p": value}}
    network = benchmark()["models"]["head"] | {"network": "m:f", "network_options": {"p": value}}
    manifest = yaml.safe_load(MANIFEST) | {"options": {"p": value}}
    for spec, content, key in (
        (BenchmarkSpec, benchmark(methods={"A": method}), "methods.A.parameters"),
        (BenchmarkSpec, benchmark(models={"head": network}), "models.head.network_options"),
        (DatasetSpec, manifest, "options"),
    ):
        with pytest.raises(UserError) as raised:
            validate(spec, content, tmp_path / "mine.yaml")  # type: ignore[type-var]
        assert f"{key}: {said}" in raised.value.message


def test_a_line_is_that_of_the_key(tmp_path: Path) -> None:
    text = "a:\n  b:\n  - c: 1\n    d: {e: 2}\nf.g: 3\n"
    path = file(tmp_path, text)
    for keys, line in (
        (("a",), 1),
        (("a", "b"), 2),
        (("a", "b", "0", "c"), 3),
        (("a", "b", "0", "d", "e"), 4),
        (("f.g",), 5),
    ):
        assert place_of(path, keys) == f"{path}:{line}"
    for keys in ((), ("x",), ("a", "x"), ("a", "b", "1"), ("a", "b", "x"), ("f.g", "h")):
        assert place_of(path, keys) == str(path)
    assert place_of(tmp_path / "none.yaml", ("a",)) == str(tmp_path / "none.yaml")


def test_specs_that_say_the_same_are_the_same(tmp_path: Path) -> None:
    """Whichever files they were read from, and also if none."""
    first, second = (
        validate(BenchmarkSpec, benchmark(), tmp_path / name) for name in ("a.yaml", "b.yaml")
    )
    assert first == second == BenchmarkSpec.model_validate(benchmark())
    assert (first.file, second.file) == (tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert first != BenchmarkSpec.model_validate(benchmark(version=2))


def test_specs_are_frozen(tmp_path: Path) -> None:
    spec = validate(BenchmarkSpec, benchmark(), tmp_path / "mine.yaml")
    with pytest.raises(ValueError, match="frozen"):
        spec.version = 2  # type: ignore[misc]


def test_the_name_is_that_of_the_file(tmp_path: Path) -> None:
    error = refusal(tmp_path, MANIFEST, "other.yaml")
    assert "name: 'mine' differs from the file's name" in error.message
    assert error.hint == "Write 'name: other' or call the file mine.yaml."


@pytest.mark.parametrize(
    ("text", "found"), [("- a\n- b\n", "a list"), ("word", "text"), ("", "nothing"), ("3", "int")]
)
def test_what_is_no_mapping(tmp_path: Path, text: str, found: str) -> None:
    assert f"expected keys and values, found {found}" in refusal(tmp_path, text).message


def test_what_is_not_utf8(tmp_path: Path) -> None:
    assert "not UTF-8" in refusal(tmp_path, b"title: \xff\xfe\n").message


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_mapping(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="Is a directory"):
        read_mapping(tmp_path)


TOO_LARGE: list[tuple[dict[str, Any], str]] = [
    ({"evaluation": {"resamples": 10**9}}, "evaluation.resamples"),
    ({"evaluation": {"resamples": 20_001}}, "evaluation.resamples"),
    ({"evaluation": {"batch_size": 10**9}}, "evaluation.batch_size"),
    ({"tuning": {"min_adversarial": 10**12}}, "tuning.min_adversarial"),
    ({"tuning": {"fgsm_step": 1e300}}, "tuning.fgsm_step"),
    ({"tuning": {"noise_std": 1e300}}, "tuning.noise_std"),
]
TOO_LARGE += [
    ({"models": {"head": {"network": "resnet8", "head": "softmax", **model}}}, "models.head")
    for model in (
        {"training": {"epochs": 10**9, "batch_size": 8, "learning_rate": 0.1}},
        {"training": {"epochs": 1, "batch_size": 10**9, "learning_rate": 0.1}},
        {"training": {"epochs": 1, "batch_size": 8, "learning_rate": 1e300}},
        {
            "training": {"epochs": 1, "batch_size": 8, "learning_rate": 0.1},
            "normalization": {"mean": [1e300], "std": [1.0]},
        },
        {
            "training": {"epochs": 1, "batch_size": 8, "learning_rate": 0.1},
            "normalization": {"mean": [0.0], "std": [1e-300]},
        },
        {
            "training": {
                "epochs": 1,
                "batch_size": 8,
                "learning_rate": 0.1,
                "augment": {"crop_padding": 10**9},
            }
        },
    )
]


@pytest.mark.parametrize(("changes", "key"), TOO_LARGE, ids=str)
def test_numbers_that_can_only_fail_later(
    tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    path = file(tmp_path, yaml.safe_dump(benchmark(**changes)))
    with pytest.raises(UserError, match=rf"mine\.yaml:\d+: {key}.*(less|greater) than"):
        read_spec(BenchmarkSpec, path)


@pytest.mark.parametrize("shape", ["[1, 8, 1000000]", "[1000000, 8, 8]"])
def test_images_that_no_memory_holds(tmp_path: Path, shape: str) -> None:
    error = refusal(tmp_path, MANIFEST.replace("[1, 8, 8]", shape))
    assert "shape." in error.message
    assert "less than or equal to 65536" in error.message
    more = refusal(tmp_path, MANIFEST.replace("{test: 10}", "{test: 1000000000000}"))
    assert "splits.test: input should be less than or equal to 1000000000" in more.message


@pytest.mark.parametrize("number", ["1_0", "1_0000", "-1_0", "1__000", "1_0.5"])
def test_numbers_with_underscores(tmp_path: Path, number: str) -> None:
    error = refusal(tmp_path, MANIFEST.replace("test: 10", f"test: {number}"))
    assert "mine.yaml:8:16:" in error.message
    assert f"{number} is read as " in error.message
    assert "write numbers without underscores" in error.message


@pytest.mark.parametrize(("key", "read"), [("yes", "true"), ("no", "false"), ("Off", "false")])
@pytest.mark.parametrize("where", ["methods", "models", "options"])
def test_keys_that_yaml_reads_as_true_or_false(
    tmp_path: Path, key: str, read: str, where: str
) -> None:
    path = file(tmp_path, f"title: x\n{where}:\n  {key}: 1\n")
    with pytest.raises(UserError) as raised:
        read_mapping(path)
    said = f"{path}:3:3: not valid YAML: the key {key} is read as {read}; write it in quotes."
    assert raised.value.message == said


@pytest.mark.parametrize("option", ["seeds", "device", "data_root"])
def test_options_of_the_command_are_no_keys(tmp_path: Path, option: str) -> None:
    path = file(tmp_path, yaml.safe_dump({**benchmark(), option: 3}))
    with pytest.raises(UserError, match=f"{option}: unknown key") as raised:
        read_spec(BenchmarkSpec, path)
    assert f"`oodbench run NAME --{option.replace('_', '-')} ...`" in raised.value.hint
    path.write_text(yaml.safe_dump(benchmark(matrx={})))
    with pytest.raises(UserError, match=r"Did you mean .matrix"):
        read_spec(BenchmarkSpec, path)
