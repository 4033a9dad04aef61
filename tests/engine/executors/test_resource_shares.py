"""What each of N tasks gets of the machines of a cluster."""

from __future__ import annotations

import pytest

from oodbench.engine.executors.resource_shares import Share, equal_shares
from oodbench.errors import UserError

BIG = {"CPU": 16.0, "GPU": 4.0, "memory": 64.0}
SMALL = {"CPU": 6.0, "memory": 30.0}


def test_one_for_each_machine_or_gpu_by_default() -> None:
    assert equal_shares([BIG, SMALL], None, on_gpus=False) == Share(2, 8, 0.0, 32, 2)
    assert equal_shares([SMALL, SMALL], None, on_gpus=False) == Share(2, 6, 0.0, 30, 1)
    assert equal_shares([BIG, SMALL], None, on_gpus=True) == Share(4, 4, 1.0, 16, 1)


def test_as_many_cores_as_there_is_room_for() -> None:
    """16 and 6 cores: five tasks of four cores have room, six do not."""
    assert equal_shares([BIG, SMALL], 5, on_gpus=False) == Share(5, 4, 0.0, 16, 4)
    assert equal_shares([BIG, SMALL], 6, on_gpus=False).cores == 3
    assert equal_shares([BIG, SMALL], 22, on_gpus=False).cores == 1


def test_tasks_share_gpus_when_there_are_more() -> None:
    share = equal_shares([BIG, {"CPU": 3.0, "GPU": 1.0}], 10, on_gpus=True)
    assert (share.cores, share.gpus, share.sharing, share.memory) == (1, 0.5, 2, 0)
    third = equal_shares([BIG], 12, on_gpus=True)
    assert third.gpus * 3 <= 1, "three have room on one GPU"
    assert (third.gpus, third.cores) == (0.3333, 1)


def test_the_user_may_ask_for_fewer_cores() -> None:
    share = equal_shares([BIG, SMALL], 2, on_gpus=False, most_cores=1)
    assert (share.workers, share.cores) == (2, 1)


def test_too_little() -> None:
    with pytest.raises(UserError, match="22 cores, fewer than 23 workers"):
        equal_shares([BIG, SMALL], 23, on_gpus=False)
    with pytest.raises(UserError, match="no GPUs"):
        equal_shares([SMALL], None, on_gpus=True)
    with pytest.raises(UserError, match="no cores"):
        equal_shares([{"memory": 1.0}], None, on_gpus=False)
