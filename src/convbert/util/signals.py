"""Handlers of signals, for a while."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def handling(
    numbers: Iterable[signal.Signals], handle: Callable[[int, Any], None]
) -> Iterator[Callable[[], None]]:
    """Call `handle` at these signals inside the block; outside the main thread, where Python allows none, never.

    Yields:
        What brings back the earlier handlers before the block ends.
    """
    is_main = threading.current_thread() is threading.main_thread()
    earlier = {number: signal.signal(number, handle) for number in numbers} if is_main else {}

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    try:
        yield restore
    finally:
        restore()
