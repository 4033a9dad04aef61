"""YAML of a benchmark that a test can run: digits, one small network, one epoch."""

from __future__ import annotations

from collections.abc import Mapping

TRAINING = "{epochs: 1, batch_size: 128, learning_rate: 0.1}"


def tiny_benchmark(
    methods: Mapping[str, str],
    *,
    ood: str = "{near: [letters]}",
    training: str = TRAINING,
    models: str = "",
    **sections: str,
) -> str:
    """A benchmark called "tiny", with 100 bootstrap resamples.

    Args:
        methods: name -> detector for the model SoftMax, or a whole entry "{model: ..., ...}".
        ood: groups of OOD data sets.
        training: of the model SoftMax.
        models: entries beside SoftMax, indented by two spaces; `*training` is the training above.
        sections: others of the file, after the methods, in YAML.
    """
    entries = {
        name: entry if entry.startswith("{") else f"{{model: SoftMax, detector: {entry}}}"
        for name, entry in methods.items()
    }
    anchor = "&training " if models else ""
    return "\n".join(
        [
            *("schema_version: 1", "name: tiny", "version: 1"),
            *("title: Tiny", "summary: For tests", "id: digits", f"ood: {ood}"),
            *("models:", "  SoftMax:", "    network: resnet8", "    head: softmax"),
            f"    training: {anchor}{training}",
            *models.splitlines(),
            "methods:",
            *(f"  {name}: {entry}" for name, entry in entries.items()),
            *(f"{section}: {value}" for section, value in sections.items()),
            "evaluation: {resamples: 100}",
            "",
        ]
    )
