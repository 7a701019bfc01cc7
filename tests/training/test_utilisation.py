from __future__ import annotations

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


def test_a_device_without_a_data_sheet_is_measured():
    peak = peak_of(torch.device("cpu"), torch.float32)
    assert "measured" in peak.source
    assert peak.flops_per_second > 0


def test_utilisation_is_a_share_of_all_devices():
    utilisation = Utilisation(flops_per_token=50.0, peak=Peak(1000.0, ""), processes=2)
    assert utilisation({"tokens_per_second": 4.0}) == {"mfu": 0.1}
