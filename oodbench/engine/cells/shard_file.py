"""The file of a scored shard, in the run directory until its cell is finished: arrays and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.data.loaded_splits import ReadSplits
from oodbench.engine.cells.shard_evaluator import ScoredShard
from oodbench.engine.mistakes import FeatureSigns
from oodbench.engine.reasons import ReportedError, ReportedUnsuitableError
from oodbench.engine.set_scoring import Scores
from oodbench.files import parsed_json
from oodbench.planning.shards import Shard
from oodbench.storage.run_directory import arrays_content, read_arrays


def shard_content(shard: Shard, part: ScoredShard) -> bytes:
    """The file of a shard."""
    scores = part.scores
    about = {
        "shard": [shard.scored, shard.start, shard.stop],
        "weights": part.weights,
        "keys": list(scores.scores),
        "errors": [
            [*key, str(error), isinstance(error, ReportedUnsuitableError)]
            for key, error in scores.errors.items()
        ],
        "signs": scores.signs.counts,
        "read": [[*key, fingerprint] for key, (fingerprint, _) in part.read.items()],
    }
    arrays: dict[str, NDArray[Any]] = {
        "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
        "predicted": scores.predicted,
        "confidence": scores.confidence,
    }
    if scores.labels is not None:
        arrays["labels"] = scores.labels
    arrays |= {f"scores{place}": each for place, each in enumerate(scores.scores.values())}
    arrays |= {f"read{place}": digests for place, (_, digests) in enumerate(part.read.values())}
    return arrays_content(arrays)


def read_shard(path: Path) -> tuple[Shard, ScoredShard]:
    """The shard of a file.

    Raises:
        UserError, KeyError, TypeError, ValueError: it is not readable.
    """
    arrays = read_arrays(path, "scores")
    about = parsed_json(arrays["about"].tobytes())
    scores: Scores = Scores(
        {(m, key): arrays[f"scores{place}"] for place, (m, key) in enumerate(about["keys"])},
        {
            (method, key): (ReportedUnsuitableError if unsuitable else ReportedError)(reason)
            for method, key, reason, unsuitable in about["errors"]
        },
        arrays["predicted"],
        arrays["confidence"],
        arrays.get("labels"),
        FeatureSigns(*about["signs"]),
    )
    read: ReadSplits = {
        (dataset, split): (fingerprint, arrays[f"read{place}"])
        for place, (dataset, split, fingerprint) in enumerate(about["read"])
    }
    return Shard(*about["shard"]), ScoredShard(about["weights"], scores, read)
