"""What makes records of results that a test makes by hand."""

from __future__ import annotations

from collections.abc import Sequence

from oodbench.engine.recording.recorder import Recorder


def recorder(
    csid: Sequence[str], *, resamples: int = 100, optional: Sequence[str] = ()
) -> Recorder:
    """Of a run with digits as ID set and one OOD set, "far"."""
    return Recorder(
        benchmark="mine",
        version=1,
        id_dataset="digits",
        csid=csid,
        ood_groups={"far": "far"},
        heads={"SoftMax": "softmax"},
        resamples=resamples,
        run_id="0",
        device="cpu",
        optional=optional,
    )
