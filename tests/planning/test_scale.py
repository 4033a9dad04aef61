"""`scripts/scale/simulate.py`: its schedule, and its table in docs/explanation/scale.md."""

from pathlib import Path

import pytest
from scale.simulate import Cell, Phase, Rates, simulate, table

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "scale.md"


@pytest.fixture(scope="module")
def rates() -> Rates:
    return Rates.read({"cores_per_gpu": 10.0, "storage_bytes": 100.0})


def cell(*, images: float = 3600.0, gpu: float = 1.0, core: float = 0.0, read: float = 0.0) -> Cell:
    return Cell("a", (Phase("score", images, gpu, core, read),), 0.0, 0.0, 0.0)


def test_the_page_has_the_table_that_the_script_prints() -> None:
    assert table(Rates.read({})) in PAGE.read_text(encoding="utf-8")


def test_cells_that_only_compute_share_the_gpus(rates: Rates) -> None:
    found = simulate([cell()] * 6, 4, rates)
    assert found.hours == pytest.approx(2)  # four, then two
    assert found.busy == pytest.approx(6 / 8)
    assert found.limits["computing"] == pytest.approx(1)


def test_a_cell_is_as_slow_as_its_slowest_part(rates: Rates) -> None:
    decoding = simulate([cell(core=20.0)], 1, rates)  # two seconds on ten cores
    assert decoding.hours == pytest.approx(2)
    assert decoding.busy == pytest.approx(0.5)
    assert decoding.limits["decoding"] == pytest.approx(1)
    reading = simulate([cell(read=400.0)], 1, rates)
    assert reading.hours == pytest.approx(4)
    assert reading.limits["storage"] == pytest.approx(1)


def test_the_storage_is_shared_fairly(rates: Rates) -> None:
    """One wants 20 bytes a second and gets them; two want 60 each and get 40."""
    cells = [cell(read=20.0), cell(read=60.0), cell(read=60.0)]
    found = simulate(cells, 3, rates)
    assert found.hours == pytest.approx(1 + (3600 * 60 - 3600 * 40) / 50 / 3600)


def test_the_longest_cells_are_first(rates: Rates) -> None:
    found = simulate([cell(), cell(), cell(images=7200.0)], 2, rates)
    assert found.hours == pytest.approx(2)
