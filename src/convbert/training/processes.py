"""One process among those of torchrun or accelerate launch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from convbert.training.arguments import uses_cpu
from convbert.util.errors import InputError, SlowerWarning

_PATIENCE = timedelta(hours=3)
"""How long processes wait for the first one, which alone tokenises, measures baselines and writes."""
_OF_SEVERAL = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""What torchrun and the kinds of MPI set."""
T = TypeVar("T")


def launched_processes(device: str | None) -> Any:
    """accelerate's view of this process among others."""
    from accelerate import PartialState

    asked = os.environ.keys() >= {
        "ACCELERATE_USE_CPU",
        "MASTER_PORT",
    }  # of several, as accelerate launch says it
    if asked and not any(name in os.environ for name in _OF_SEVERAL):
        warnings.warn(
            "accelerate launch has started one process only, as it does on CPUs; to train with several: torchrun "
            "--nproc-per-node 2 -m convbert ...",
            SlowerWarning,
            stacklevel=2,
        )
    return PartialState(cpu=uses_cpu(device), timeout=_PATIENCE)


def report_of(processes: Any, report: Callable[[str], None]) -> Callable[[str], None]:
    """The report of the main process; the others say nothing."""
    return report if processes.is_main_process else lambda message: None


def main_first(processes: Any, work: Callable[[], T]) -> T:
    """What `work` gives here; the other processes begin when the main one has done its own.

    Args:
        processes: see `launched_processes`.

    Raises:
        InputError: the main process's, in all of them.
    """
    if processes.num_processes == 1:
        return work()
    from accelerate.utils import broadcast_object_list

    found, failure = None, None
    if processes.is_main_process:
        try:
            found = work()
        except InputError as error:
            failure = error
    (message,) = broadcast_object_list([failure and str(failure)])
    if message is not None:
        raise failure or InputError(message)
    return found if processes.is_main_process else work()  # type: ignore[return-value]
