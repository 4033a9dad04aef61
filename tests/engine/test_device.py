"""How a device computes: settings of torch, which exist without a GPU too."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from oodbench.engine.device import full_precision

# In a process of its own: torch keeps for good in which of its two ways it was set.
CODE = """
import torch
from oodbench.engine.device import full_precision

backends = torch.backends

def newer():
    places = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    return [place.fp32_precision for place in places]

{setting}
before = newer()
assert "tf32" in before, before
try:
    with full_precision(torch.device("cuda")):
        assert "tf32" not in newer(), newer()
        {inside}
        raise KeyError
except KeyError:
    pass
assert newer() == before, newer()
{after}
print("fine")
"""

OLDER = "backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()"
SETTINGS = {
    "torch's own": ("", f"assert ({OLDER}) == (False, 'highest')", f"assert ({OLDER})[0]"),
    "older": (
        "torch.set_float32_matmul_precision('high')",
        "with backends.cudnn.flags(enabled=True): pass",
        f"assert ({OLDER}) == (True, 'high')",
    ),
    "newer": ("backends.cudnn.conv.fp32_precision = 'ieee'", "pass", ""),
    "newer, products": ("backends.cuda.matmul.fp32_precision = 'tf32'", "pass", ""),
}


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="an older torch")
@pytest.mark.parametrize("name", SETTINGS)
def test_full_precision_is_set_and_put_back(name: str) -> None:
    setting, inside, after = SETTINGS[name]
    code = CODE.format(setting=setting, inside=inside, after=after)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr


def test_nothing_is_set_for_a_cpu() -> None:
    before = torch.backends.cudnn.allow_tf32
    assert before, "torch's own setting"
    with full_precision(torch.device("cpu")):
        assert torch.backends.cudnn.allow_tf32 == before
