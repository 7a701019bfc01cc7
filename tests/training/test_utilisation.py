from __future__ import annotations

from time import perf_counter

import pytest
import torch

from convbert.training.utilisation import TERA, Peak, Utilisation, known_peak, peak_of


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_names_as_drivers_say_them(name, tera):
    assert known_peak(name, torch.bfloat16) == tera * TERA


def test_a_name_that_only_begins_alike_is_not_known():
    assert known_peak("NVIDIA L400", torch.bfloat16) is None
    assert known_peak("NVIDIA A100-SXM4-40GB", torch.float64) is None


def test_full_precision_is_slower_unless_it_is_not_full():
    slow, fast = (known_peak("NVIDIA H200", torch.float32, tf32=tf32) for tf32 in (False, True))
    assert slow == 67 * TERA
    assert fast == known_peak("NVIDIA H200", torch.bfloat16) / 2


def test_a_measured_peak_is_what_a_product_reaches():
    """Against a product of another shape, timed here: the peak is at least half of it, and not ten times as much.

    A busy neighbour may slow one of the two down: the best of a few tries counts."""
    ratios = []
    for _ in range(5):
        peak = peak_of(torch.device("cpu"), torch.float32)
        assert "measured" in peak.source
        ratios.append(peak.flops_per_second / _reached(torch.randn(512, 512)))
        if 0.5 < ratios[-1] < 10:
            return
    pytest.fail(f"the measured peak is {ratios} times what a product reaches")


def _reached(matrix):
    """FLOPs per second of the fastest of some products."""
    times = []
    for _ in range(21):
        started = perf_counter()
        matrix @ matrix
        times.append(perf_counter() - started)
    return 2 * len(matrix) ** 3 / min(times)


def test_utilisation_is_a_share_of_all_devices():
    utilisation = Utilisation(flops_per_token=50.0, peak=Peak(1000.0, ""), processes=2)
    assert utilisation({"tokens_per_second": 4.0}) == {"mfu": 0.1}
