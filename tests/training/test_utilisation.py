from __future__ import annotations

import torch

from convbert.training.utilisation import measure_peak


def test_a_peak_is_a_plausible_number():
    assert 1e8 < measure_peak(torch.device("cpu"), torch.float32) < 1e16
