"""Cores that this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """As the system binds the process, where it can; else all cores of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
