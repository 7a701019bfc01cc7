"""From an exception to one line on stderr and an exit code; and silence from the libraries."""

from __future__ import annotations

import os
import sys
import warnings

from convbert.util.errors import DataWarning, InputError, SlowerWarning

WRONG_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
BROKEN_PIPE = 141  # 128 + SIGPIPE


def say(message: str) -> None:
    """One line on stderr."""
    if sys.stderr is not None:  # closed; print would take stdout
        print(f"convbert: {' '.join(message.split())}", file=sys.stderr, flush=True)


def use_utf8() -> None:
    """Write answers as UTF-8, whatever the locale: they are data, and no text may be lost."""
    if sys.stdout is None:
        raise InputError("stdout is closed: there is nowhere to write to")
    if (reconfigure := getattr(sys.stdout, "reconfigure", None)) is not None:
        reconfigure(encoding="utf-8", errors="backslashreplace")


def is_first_process() -> bool:
    """Whether this one speaks: the first of those that a launcher started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def exit_code_of(error: BaseException) -> int:
    """Say what went wrong, and return the exit code that belongs to it."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if type(error).__name__ == "Abort" and isinstance(error.__cause__, EOFError):
        error = error.__cause__  # typer takes it for a person who ends a dialogue
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        return INTERRUPTED
    if (message := _wrong_input(error)) is not None:
        say(f"error: {message}")
        return WRONG_INPUT
    say(f"internal error: {type(error).__name__}: {error} (--debug shows where)")
    return 1


def _wrong_input(error: BaseException) -> str | None:
    """The sentence for errors that the caller can do something about, None for our own."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        return _system_error(error)
    if isinstance(error, MemoryError):
        return f"there is not enough memory: {error}".removesuffix(": ")
    if type(error).__name__ == "SafetensorError":
        return f"a safetensors file is damaged or cannot be written: {error}"
    # Errors of the command itself: which class they have depends on the version of typer.
    if callable(format_message := getattr(error, "format_message", None)):
        return f"{format_message()} (see convbert --help)"
    return None


def _system_error(error: OSError) -> str:
    # Libraries raise OSError with a sentence of their own; only the system's errors come with a number.
    if error.errno is None:
        return str(error)
    reason = error.strerror or os.strerror(error.errno)
    return reason if error.filename is None else f"{error.filename}: {reason}"


def quiet_libraries(debug: bool = False) -> None:
    """Keep the libraries' warnings, logs and progress bars quiet; call before they are imported.

    Our own warnings become one line.
    """
    if debug:
        return
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", SlowerWarning)
    warnings.simplefilter("always", DataWarning)
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
