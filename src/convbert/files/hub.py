"""The Hub, without minutes of waiting where there is no network."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from convbert.util.errors import InputError

SECONDS = 3.0


def check_hub(source: str) -> None:
    """Refuse a name on the Hub that can only come from there, where it cannot be reached.

    A model that was fetched before is then read as it is, and nothing is asked.

    Raises:
        InputError: naming `source`.
    """
    if os.path.isdir(source):
        return
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE or is_reachable():
        return
    if not isinstance(try_to_load_from_cache(source, "config.json"), str):
        raise InputError(
            f"{source}: there is no such folder, and {constants.ENDPOINT}, where it may be, cannot be reached"
        )
    constants.HF_HUB_OFFLINE = True


def is_reachable() -> bool:
    """Whether the Hub answers; taken to do so behind a proxy."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and (bool(getproxies()) or _answers(constants.ENDPOINT))


def _answers(endpoint: str) -> bool:
    """Whether there is somebody at the address; a name may have several, and some take no connections."""
    parts = urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or endpoint, port), timeout=SECONDS):
            return True
    except OSError:
        return False
