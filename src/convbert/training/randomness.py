"""Random numbers of a training run as a function of its seed and of the batch, and of nothing else."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_all(*numbers: int) -> None:
    """Seed Python, NumPy and PyTorch (on all devices) from several numbers, such as a seed and the number of a batch.

    With this before every batch, dropout does not depend on what ran before: neither on a restart, nor on an
    evaluation, nor on how a large batch is shared out over processes and accumulation steps.
    """
    words = np.random.SeedSequence(numbers).generate_state(2)
    random.seed(int(words[0]))
    np.random.seed(int(words[0]))
    torch.manual_seed((int(words[0]) << 32 | int(words[1])) >> 1)
