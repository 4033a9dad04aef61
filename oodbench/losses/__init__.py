"""Heads and their losses: drop-in pairs for any training loop.

    model.fc, criterion = oodbench.losses.DisMaxHead(512, 10), oodbench.losses.DisMaxLoss()

trains a network with the DisMax loss instead of the SoftMax loss. `Loss` shows a loop for all of
them.
"""

from oodbench.losses.cross_entropy import Loss, SoftMaxHead, SoftMaxLoss
from oodbench.losses.normalized import LogitNormHead, LogitNormLoss, T2FNormHead
from oodbench.losses.outlier_exposure import OEHead, OELoss
from oodbench.losses.prototypes import (
    DisMax2022Head,
    DisMax2022Loss,
    DisMaxHead,
    DisMaxLoss,
    DistanceHead,
    IsoMaxPlusHead,
    IsoMaxPlusLoss,
)
from oodbench.losses.rotation_prediction import RotPredHead, RotPredLoss
from oodbench.losses.virtual_outliers import VOSHead, VOSLoss

__all__ = [
    "DisMax2022Head",
    "DisMax2022Loss",
    "DisMaxHead",
    "DisMaxLoss",
    "DistanceHead",
    "IsoMaxPlusHead",
    "IsoMaxPlusLoss",
    "LogitNormHead",
    "LogitNormLoss",
    "Loss",
    "OEHead",
    "OELoss",
    "RotPredHead",
    "RotPredLoss",
    "SoftMaxHead",
    "SoftMaxLoss",
    "T2FNormHead",
    "VOSHead",
    "VOSLoss",
]
