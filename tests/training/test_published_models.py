"""Benchmarks whose models have published weights: files, seeds, records, errors."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from helpers.commands import Command
from helpers.servers import Server, refuse, send, serving
from helpers.small_vit import save_vit
from torch import Tensor

import oodbench
from oodbench import models
from oodbench.data.splits import load_split
from oodbench.data.store import download
from oodbench.data.store.checkpoint_files import torch_hub_file
from oodbench.errors import UserError
from oodbench.models.classifier import Classifier
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Silent
from oodbench.specs import ModelSpec
from oodbench.storage import run_directory
from oodbench.storage.records import PUBLISHED
from oodbench.training.published_models import Images, Publication, published_classifier

NORMALIZATION = "{mean: [0.3], std: [0.3]}"
DIGITS = Images("digits", (1, 8, 8), 10)
COLORS = Images("colors", (3, 32, 32), 10)


def weights(seed: int = 0, network: str = "resnet8", num_classes: int = 10) -> dict[str, Tensor]:
    """A state dict for the digits."""
    torch.manual_seed(seed)
    return dict(models.create(network, num_classes, in_channels=1).state_dict())


def content(seed: int = 0, num_classes: int = 10) -> bytes:
    """A checkpoint as it is downloaded."""
    stream = BytesIO()
    torch.save({"state_dict": weights(seed, num_classes=num_classes)}, stream)
    return stream.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server, and no waiting between attempts."""
    monkeypatch.setattr(download, "WAITS", (0.0,))
    with serving() as running:
        yield running


def benchmark(folder: Path, checkpoint: str, methods: str = "msp: baseline", **model: str) -> Path:
    """The file of a benchmark with one model with published weights."""
    lines = {"network": "resnet8", "head": "softmax", "normalization": NORMALIZATION, **model}
    named = dict(part.split(": ") for part in methods.split(", "))
    path = folder / "tiny.yaml"
    path.write_text(
        "\n".join(
            [
                *("schema_version: 1", "name: tiny", "version: 1", "title: Tiny"),
                *("summary: For tests", "id: digits", "ood: {near: [letters]}", "models:", "  R:"),
                *(f"    {key}: {value}" for key, value in lines.items() if value),
                *([f"    checkpoint: {checkpoint}"] if checkpoint else []),
                "methods:",
                *(f"  {name}: {{model: R, detector: {each}}}" for name, each in named.items()),
                *("tuning: {protocol: none}", "evaluation: {resamples: 100}", ""),
            ]
        )
    )
    return path


def made(
    checkpoint: str,
    tmp_path: Path,
    images: Images = DIGITS,
    **model: object,
) -> tuple[Classifier, Publication]:
    """The classifier of a model with these keys; files are in the temporary folder."""
    values = {
        "network": "resnet8",
        "head": "softmax",
        "normalization": {"mean": [0.3], "std": [0.3]},
        **model,
    }
    if checkpoint:
        values["checkpoint"] = json.loads(checkpoint)
    spec = ModelSpec.model_validate({key: value for key, value in values.items() if value})
    return published_classifier(
        spec, 0, images, benchmark=tmp_path / "b.yaml", root=tmp_path / "root", say=Silent()
    )


def refusal(checkpoint: str, tmp_path: Path, images: Images = DIGITS, **model: object) -> UserError:
    with pytest.raises(UserError) as raised:
        made(checkpoint, tmp_path, images, **model)
    return raised.value


# --- a whole run ----------------------------------------------------------------------------------


def test_a_run_of_an_ensemble(tmp_path: Path, command: Command) -> None:
    """Scores are those of the mean probabilities of the members, and one line has all of them."""
    for member in (0, 1, 2):
        torch.save({"model": weights(member)}, tmp_path / f"m{member}.pth")
    files = "[{path: m0.pth}, {path: m1.pth}, {path: m2.pth}]"
    methods = "deep: ensemble, msp: baseline, near: knn, weights: openmax"
    file = benchmark(tmp_path, files, methods, ensemble="true")
    shown = command("run", file, "--dry-run")
    assert "no training: ensemble of m0.pth, m1.pth" in " ".join(shown.out.split())
    done = command("run", file, "--out", tmp_path / "run")
    assert done.code == 3, done.err
    run = oodbench.open_run(tmp_path / "run")
    assert isinstance(run, oodbench.Run)
    assert {r.method for r in run.records if r.status == "ok"} == {"deep", "msp"}
    skipped = {r.method: r.reason for r in run.records if r.status == "skipped"}
    assert skipped == {
        "near": "needs features of one network; R is an ensemble",
        "weights": "needs the weights of a linear last layer; the logits of R do not come from one",
    }
    described = json.loads((tmp_path / "run/run.json").read_text())
    assert described["published_weights"]["R/seed0"]["source"] == "m0.pth, m1.pth, m2.pth"

    images = torch.from_numpy(load_split(Catalog().dataset("digits"), "test").images)
    each = []
    for member in (0, 1, 2):
        network = models.create("resnet8", 10, in_channels=1).eval()
        network.load_state_dict(weights(member))
        with torch.no_grad():
            each.append(network((images - 0.3) / 0.3).double().softmax(dim=1))
    mean = torch.stack(each).mean(dim=0)
    entropy = -(mean * mean.log()).sum(dim=1)
    scores = np.load(tmp_path / "run/scores/deep/seed0.npz")["id"]
    np.testing.assert_allclose(scores, -entropy.log().numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="at least two checkpoints"):
        made('[{"path": "m0.pth"}]', tmp_path, ensemble=True)


def test_a_run_of_published_checkpoints(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1):
        torch.save({"model": weights(seed)}, tmp_path / f"s{seed}.pth")
    file = benchmark(tmp_path, "[{path: s0.pth}, {path: s1.pth}]", "msp: baseline, near: knn")
    shown = command("run", file, "--dry-run")
    assert shown.code == 0
    assert "2 seeds" in shown.out
    assert "no training: s0.pth, s1.pth" in " ".join(shown.out.split())
    assert "no training" in shown.out

    done = command("run", file, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "Weights of a checkpoint, not trained by this run: R." in " ".join(done.out.split())
    run = oodbench.open_run(tmp_path / "run")
    assert isinstance(run, oodbench.Run)
    assert {record.seed for record in run.records} == {0, 1}
    assert {record.weights for record in run.records} == {PUBLISHED}
    assert not run.training
    described = json.loads((tmp_path / "run/run.json").read_text())
    assert described["seeds"] == [0, 1]
    first = described["published_weights"]["R/seed0"]
    assert first["source"] == "s0.pth"
    assert first["sha256"] == sha256((tmp_path / "s0.pth").read_bytes()).hexdigest()
    assert first["taken"] == ["entry 'model'"]
    assert (first["mean"], first["std"]) == ([0.3], [0.3])
    digests = described["checksums"]["checkpoints"]
    assert digests["R/seed0"] != digests["R/seed1"]
    assert command("verify", tmp_path / "run").code == 0

    again = command("run", file, "--out", tmp_path / "run", "--resume")
    assert "finished before" in again.err
    torch.save(weights(7), tmp_path / "s1.pth")
    write = run_directory.write_atomic

    def killed(path: Path, content: bytes | str) -> None:
        if path.suffix == ".npz":
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch:  # when it stores the new results
        patch.setattr(run_directory, "write_atomic", killed)
        changed = command("run", file, "--out", tmp_path / "run", "--resume")
    assert "R/seed1 has other weights than before: its methods run again" in changed.err
    assert "R/seed0 has other" not in changed.err
    assert command("run", file, "--out", tmp_path / "run", "--resume").code == 0
    now = oodbench.open_run(tmp_path / "run")
    assert isinstance(now, oodbench.Run)
    old, new = (
        {(r.method, r.seed, r.metric, r.ood_dataset): r.value for r in each.records}
        for each in (run, now)
    )
    assert {key for key in old if old[key] != new[key]} == {key for key in old if key[1] == 1}


def test_seeds_are_limited_by_the_checkpoints(tmp_path: Path, command: Command) -> None:
    file = benchmark(tmp_path, "{path: s0.pth}")
    done = command("run", file, "--seeds", "2", "--dry-run")
    assert done.code == 2
    assert "2 seeds need as many checkpoints" in done.err
    assert "models.R of benchmark 'tiny' has 1 checkpoint" in done.err
    assert "Run --seeds 1" in done.err


def test_there_is_nothing_to_train(tmp_path: Path, command: Command) -> None:
    done = command("train", benchmark(tmp_path, "{path: absent.pth}"))
    assert (done.code, done.out) == (0, "")
    assert "R: weights of a checkpoint, nothing to train." in done.err


def test_detectors_of_feature_layers_are_planned_for_networks_of_libraries(
    tmp_path: Path, command: Command
) -> None:
    model = {"network": "timm:resnet10t", "weights": "pretrained", "normalization": ""}
    file = benchmark(tmp_path, "", "layers: mahalanobis, msp: baseline", **model)
    file.write_text(file.read_text().replace("protocol: none", "protocol: fgsm"))
    shown = command("run", file, "--dry-run")
    assert shown.code == 0, shown.err
    assert "Skipped" not in shown.out
    assert "no training: weights pretrained" in " ".join(shown.out.split())


def test_errors_name_the_model(tmp_path: Path, command: Command) -> None:
    done = command("run", benchmark(tmp_path, "{path: s0.pth}"), "--out", tmp_path / "run")
    assert done.code == 2
    assert "models.R: checkpoint 's0.pth' is missing; looked for:" in done.err
    assert str(tmp_path / "s0.pth") in done.err


def test_unknown_keys_name_their_line(tmp_path: Path, command: Command) -> None:
    done = command("run", benchmark(tmp_path, "{pth: s0.pth}"), "--dry-run")
    assert done.code == 2
    assert "tiny.yaml:13" in done.err
    assert "pth: unknown key" in done.err


# --- files ----------------------------------------------------------------------------------------


def test_a_file_is_downloaded_once_from_the_first_mirror_that_has_it(
    tmp_path: Path, server: Server
) -> None:
    data = content()
    server.files["/b/w.pth"] = data
    urls = [f"{server.url}/a/w.pth", f"{server.url}/b/w.pth"]
    file = {"urls": urls, "sha256": sha256(data).hexdigest(), "size": len(data)}
    checkpoint = json.dumps({"files": [file]})
    classifier, found = made(checkpoint, tmp_path)
    assert found.source == "w.pth"
    assert found.sha256 == file["sha256"]
    own = classifier.network.state_dict()
    torch.testing.assert_close(own["stem.0.weight"], weights()["stem.0.weight"], rtol=0, atol=0)
    asked = len(server.requests)
    made(checkpoint, tmp_path)
    assert len(server.requests) == asked


def test_a_download_continues(tmp_path: Path, server: Server) -> None:
    data = content()
    cut: list[int] = []

    def once(handler: object) -> None:
        upto = None if cut else len(data) // 2
        cut.append(1)
        send(handler, data, upto=upto)  # type: ignore[arg-type]

    server.behaviors["/w.pth"] = once
    file = {"urls": [f"{server.url}/w.pth"], "sha256": sha256(data).hexdigest(), "size": len(data)}
    made(json.dumps({"files": [file]}), tmp_path)
    assert server.ranges()[-1] is not None


def test_checkpoints_in_one_archive(tmp_path: Path, server: Server) -> None:
    stream = BytesIO()
    with ZipFile(stream, "w") as archive:
        for seed in (0, 1):
            archive.writestr(f"run/s{seed}/best.ckpt", content(seed))
    data = stream.getvalue()
    server.files["/all.zip"] = data
    file = {
        "urls": [f"{server.url}/all.zip"],
        "sha256": sha256(data).hexdigest(),
        "unpacked_limit": 10_000_000,
    }
    for seed in (0, 1):
        checkpoint = json.dumps({"files": [file], "path": f"run/s{seed}/best.ckpt"})
        classifier, _ = made(checkpoint, tmp_path)
        own = classifier.network.state_dict()["stem.0.weight"]
        torch.testing.assert_close(own, weights(seed)["stem.0.weight"], rtol=0, atol=0)
    assert len(server.requests) == 1
    error = refusal(json.dumps({"files": [file], "path": "run/s2/best.ckpt"}), tmp_path)
    assert "all.zip has no such file" in error.message
    placed = tmp_path / "root/run/s0/best.ckpt"  # a folder that a user has already
    placed.parent.mkdir(parents=True)
    placed.write_bytes(content(5))
    classifier, _ = made(json.dumps({"files": [file], "path": "run/s0/best.ckpt"}), tmp_path)
    own = classifier.network.state_dict()["stem.0.weight"]
    torch.testing.assert_close(own, weights(5)["stem.0.weight"], rtol=0, atol=0)


def test_a_wrong_checksum_and_a_page_in_place_of_a_file(tmp_path: Path, server: Server) -> None:
    server.files["/w.pth"] = content()
    server.behaviors["/page.pth"] = lambda handler: send(handler, b"<html>", kind="text/html")
    server.behaviors["/gone.pth"] = refuse(403)
    urls = [f"{server.url}/{name}.pth" for name in ("w", "page", "gone")]
    error = refusal(json.dumps({"files": [{"urls": urls, "sha256": "0" * 64}]}), tmp_path)
    assert error.message.startswith("checkpoint 'w.pth': cannot download w.pth")
    assert f"instead of {'0' * 64}" in error.message
    assert "it sent a web page instead of the file" in error.message
    assert "HTTP 403" in error.message
    assert "by hand and put it into" in error.hint
    assert "root/checkpoints/w-" in error.hint


def test_a_path_with_a_wrong_checksum(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "w.pth")
    error = refusal(json.dumps({"path": "w.pth", "sha256": "0" * 64}), tmp_path)
    assert f"instead of {'0' * 64}" in error.message


def test_offline_says_what_to_place_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(download.OFFLINE_VARIABLE, "1")
    file = {"urls": ["https://x/w.pth"], "sha256": "0" * 64}
    error = refusal(json.dumps({"files": [file]}), tmp_path)
    assert error.message.startswith("checkpoint 'w.pth' needs w.pth, and OODBENCH_OFFLINE forbids")
    assert "download https://x/w.pth by hand and put it into" in error.hint


def test_offline_every_checkpoint_is_named(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(download.OFFLINE_VARIABLE, "1")
    files = [f"{{files: [{{urls: ['https://x/w{k}.pth'], sha256: '{k * 64}'}}]}}" for k in "01"]
    file = benchmark(tmp_path, f"[{', '.join(files)}]")
    done = command("run", file, "--out", tmp_path / "run", "--data-root", tmp_path)
    assert done.code == 2
    message = done.err.strip().splitlines()[-1]
    for name in ("w0.pth", "w1.pth"):
        assert f"models.R: checkpoint '{name}' needs {name}" in message
        assert f"  from  https://x/{name}\n  to    {tmp_path}/checkpoints/" in done.out
        assert f"  for   checkpoint '{name}'\n" in done.out


def test_another_number_of_classes(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content(num_classes=100))
    message = refusal('{"path": "w.pth"}', tmp_path).message
    assert "its last layer 'head' has 100 classes, the ID data set 10" in message


# --- normalization --------------------------------------------------------------------------------


def test_an_unknown_normalization_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content())
    error = refusal('{"path": "w.pth"}', tmp_path, normalization=None)
    assert "does not say how its images were normalized" in error.message
    assert "normalization: {mean: [...], std: [...]}" in error.hint
    error = refusal('{"path": "w.pth"}', tmp_path, normalization={"mean": [0, 0], "std": [1, 1]})
    assert "2 channels, the images of 'digits' have 1" in error.message


def test_a_checkpoint_of_oodbench_has_its_own(tmp_path: Path) -> None:
    """And its head, whichever it is."""
    torch.manual_seed(3)
    network = models.create("resnet8", 10, "dismax", in_channels=1)
    trained = Classifier(network, [0.25], [0.5])
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    classifier, found = made('{"path": "w.pt"}', tmp_path, head="dismax", normalization=None)
    assert found.preprocessing.mean == (0.25,)
    assert "without the prefix 'network.'" in found.taken
    for name, tensor in classifier.state_dict().items():
        torch.testing.assert_close(tensor, trained.state_dict()[name], rtol=0, atol=0)


def test_a_network_s_own_normalization(tmp_path: Path) -> None:
    network = models.create("resnet20_option_a", 10)
    torch.save(network.state_dict(), tmp_path / "w.th")
    given = {"network": "resnet20_option_a", "normalization": None}
    classifier, _ = made('{"path": "w.th"}', tmp_path, COLORS, **given)
    assert classifier.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


# --- networks of libraries ------------------------------------------------------------------------


def torchvision_weights(folder: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> bytes:
    """Fresh weights in place of torchvision's; the name begins with their SHA-256, as theirs do."""
    import torchvision

    network = torchvision.models.shufflenet_v2_x0_5(weights=None, num_classes=10)
    stream = BytesIO()
    torch.save(network.state_dict(), stream)
    data = stream.getvalue()
    entry = torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
    name = f"shufflenet-{sha256(data).hexdigest()[:8]}.pth"
    changed = type(entry.value)(
        url=f"{url}/{name}",
        transforms=entry.transforms,
        meta={**entry.meta, "categories": list("abcdefghij")},
    )
    monkeypatch.setattr(entry, "_value_", changed)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(folder / "hub"))
    return data


SHUFFLENET = {"network": "torchvision:shufflenet_v2_x0_5", "weights": "IMAGENET1K_V1"}


def test_torchvision_s_weights(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = torchvision_weights(tmp_path, monkeypatch, server.url)
    name = f"shufflenet-{sha256(data).hexdigest()[:8]}.pth"
    error = refusal("", tmp_path, COLORS, **SHUFFLENET, normalization=None)
    assert "HTTP 404" in error.message
    assert f"put it into {tmp_path / 'root/checkpoints'} as {name}." in error.hint
    server.files[f"/{name}"] = b"other"
    error = refusal("", tmp_path, COLORS, **SHUFFLENET, normalization=None)
    assert f"instead of {sha256(data).hexdigest()[:8]}" in error.message
    server.files[f"/{name}"] = data
    classifier, found = made("", tmp_path, COLORS, **SHUFFLENET, normalization=None)
    assert found.source == f"torchvision:shufflenet_v2_x0_5 IMAGENET1K_V1 ({name})"
    assert found.preprocessing.mean == (0.485, 0.456, 0.406)
    assert "made for images of 224x224 (resize 256 bilinear, center crop 224)" in found.warning
    assert len(classifier.taps) > 2
    assert classifier.describe_head().kind == "linear"
    with torch.no_grad():
        assert classifier(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    monkeypatch.setenv(download.OFFLINE_VARIABLE, "1")
    made("", tmp_path, COLORS, **SHUFFLENET, normalization=None)  # the file is there
    (tmp_path / f"root/checkpoints/{name}").write_bytes(b"other")
    with pytest.warns(UserWarning, match="is not used: its sha256 is not"):
        error = refusal("", tmp_path, COLORS, **SHUFFLENET, normalization=None)
    assert "OODBENCH_OFFLINE forbids downloads" in error.message


def test_weights_that_two_workers_need_are_downloaded_once(tmp_path: Path, server: Server) -> None:
    data = np.random.default_rng(0).bytes(200_000)
    name = f"net-{sha256(data).hexdigest()[:8]}.pth"
    begun = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        begun.set()
        time.sleep(0.2)
        send(handler, data)

    server.behaviors[f"/{name}"] = slow
    with ThreadPoolExecutor(2) as pool:
        get = partial(torch_hub_file, f"{server.url}/{name}", "net", tmp_path, Silent())
        first = pool.submit(get)
        assert begun.wait(10)
        second = pool.submit(get)
        files = [first.result(), second.result()]
    assert {file.read_bytes() for file in files} == {data}
    assert len(server.requests) == 1


def test_weights_with_other_classes_or_another_head(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = torchvision_weights(tmp_path, monkeypatch, server.url)
    server.files[f"/shufflenet-{sha256(data).hexdigest()[:8]}.pth"] = data
    hundred = Images("cifar100", (3, 32, 32), 100)
    error = refusal("", tmp_path, hundred, **SHUFFLENET, normalization=None)
    assert "has 10 classes, the ID data set 'cifar100' has 100" in error.message
    error = refusal("", tmp_path, COLORS, **SHUFFLENET, head="dismax", normalization=None)
    assert "have a linear last layer, not head 'dismax'" in error.message


def test_a_checkpoint_of_a_network_of_torchvision(tmp_path: Path) -> None:
    import torchvision

    network = torchvision.models.resnet18(weights=None, num_classes=10)
    torch.save(network.state_dict(), tmp_path / "best.ckpt")
    given = {
        "network": "torchvision:resnet18",
        "normalization": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }
    classifier, _ = made('{"path": "best.ckpt"}', tmp_path, COLORS, **given)
    assert {"layer1", "layer2", "layer3", "layer4"} <= {
        tap.rpartition(".")[2] for tap in classifier.taps
    }
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = network.eval()((images - 0.5) / 0.5)
        torch.testing.assert_close(classifier(images), expected)


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    save_vit(tmp_path / "vit")
    images = Images("small", (3, 16, 16), 10)
    given = {"network": f"hf:{tmp_path / 'vit'}", "normalization": None}
    classifier, found = made("", tmp_path, images, **given, weights="pretrained")
    assert found.preprocessing.mean == (0.5, 0.4, 0.3)
    assert not found.warning
    assert classifier.describe_head().kind == "linear"
    assert classifier.taps
    error = refusal("", tmp_path, COLORS, **given, weights="pretrained")
    assert "cannot take the images of 'colors' (3x32x32)" in error.message
    assert "made for 16x16" in error.hint


def test_a_checkpoint_of_timm(tmp_path: Path) -> None:
    import timm

    network = timm.create_model("resnet10t.c3_in1k", num_classes=10)
    torch.save({"state_dict_ema": network.state_dict()}, tmp_path / "w.pth")
    given = {"network": "timm:resnet10t.c3_in1k", "normalization": None}
    classifier, found = made('{"path": "w.pth"}', tmp_path, COLORS, **given)
    assert found.taken == ("entry 'state_dict_ema'",)
    assert found.preprocessing.size == (176, 176)
    assert len(classifier.taps) > 2


def test_catalog_lists_benchmarks_with_checkpoints(tmp_path: Path) -> None:
    spec = Catalog().benchmark(str(benchmark(tmp_path, "{path: s0.pth}")))
    assert spec.models["R"].most_seeds == 1
    assert spec.file == tmp_path / "tiny.yaml"


def test_an_id_data_set_without_training_images(tmp_path: Path, command: Command) -> None:
    """Nothing is trained, so only detectors that are fitted need them."""
    folder = tmp_path / "data_manifests"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "{schema_version: 1, name: mine, title: M, summary: M, kind: npz, paths: {test: t.npz}, "
        "shape: [1, 8, 8], num_classes: 10, splits: {test: 20}, license: L, citation: C}"
    )
    file = benchmark(tmp_path, "{path: s0.pth}")
    text = file.read_text().replace("id: digits", "id: mine")
    file.write_text(text)
    shown = command("run", file, "--dry-run", "--plugins", tmp_path)
    assert shown.code == 0, shown.err
    file.write_text(text.replace("baseline", "knn"))
    skipped = command("run", file, "--dry-run", "--plugins", tmp_path)
    assert skipped.code == 0, skipped.err
    assert "is fitted on training images, and 'mine' has none" in skipped.out
