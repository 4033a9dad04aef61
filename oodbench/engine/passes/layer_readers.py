"""The layers that detectors with the need "layers" choose to read."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from oodbench.detector import Detector
from oodbench.engine.passes.capture import LayerReader
from oodbench.engine.passes.contract import DetectorError
from oodbench.engine.passes.modes import evaluating
from oodbench.errors import counted, did_you_mean, kind_of
from oodbench.models.classifier import Classifier
from oodbench.models.layers import Layer, find_layers, taps_of


def layer_readers(
    classifier: Classifier, detectors: Mapping[str, Detector], images: Tensor
) -> tuple[list[LayerReader], dict[str, Exception]]:
    """A reader for every detector that declares the need "layers".

    Args:
        classifier: the network.
        detectors: method -> detector, of any needs.
        images: a few, as the classifier takes them.

    Returns:
        The readers, and method -> error of a detector that could not choose.
    """
    reading = {m: each for m, each in detectors.items() if "layers" in each.info.needs}
    readers, errors = list[LayerReader](), dict[str, Exception]()
    if not reading:
        return readers, errors
    with evaluating(classifier):
        layers = find_layers(classifier, images)
    taps = taps_of(classifier.network)
    known = {layer.name: layer for layer in (*taps, *layers)}
    for method, detector in reading.items():
        try:
            names = detector.choose_layers(
                [layer.name for layer in layers], [layer.name for layer in taps]
            )
            readers.append(LayerReader(method, _named(names, known), detector))
        except Exception as error:
            errors[method] = error
    return readers, errors


def _named(names: object, known: Mapping[str, Layer]) -> tuple[Layer, ...]:
    if isinstance(names, str) or not isinstance(names, list | tuple):
        raise DetectorError(f"choose_layers gave {kind_of(names)}, not a list of names")
    for name in names:
        if name not in known:
            raise DetectorError(
                f"choose_layers gave '{name}', which is no layer of the network. "
                f"{did_you_mean(str(name), list(known))}".rstrip()
            )
    return tuple(known[name] for name in dict.fromkeys(names))


def reads(reader: LayerReader) -> str:
    """Which layers a detector reads, in words; of those that it dropped, why."""
    layers, dropped = reader.read, reader.detector.dropped_layers
    convolutions = sum(layer.convolution for layer in layers)
    names = [layer.name for layer in layers]
    ends = ": " + (f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0]) if names else ""
    of_all = f"{len(names)} of " if dropped else ""
    why = f"; {next(iter(dropped.values()))}" if dropped else ""
    return (
        f"reads {of_all}{counted(len(reader.layers), 'layer')} "
        f"({counted(convolutions, 'convolution')}){ends}{why}"
    )
