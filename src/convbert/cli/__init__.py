"""The command line: one verb, one function. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from convbert import __version__
from convbert.cli import (
    convert,
    doctor,
    evaluate,
    export,
    extend,
    fill_mask,
    finetune,
    predict,
    prepare,
    pretrain,
    push,
    serve,
    tokenizer,
)
from convbert.cli.failures import BROKEN_PIPE, exit_code_of, quiet_libraries, use_utf8

app = typer.Typer(
    name="convbert",
    rich_markup_mode=None,  # examples keep their line breaks
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
tokenizer_app = typer.Typer(rich_markup_mode=None)


def _with_fields(module: str, plan: str) -> type[TyperCommand]:
    """A command whose --help lists the fields of a plan, as its code describes them."""

    class Command(TyperCommand):
        def format_epilog(self, ctx: Any, formatter: Any) -> None:
            from convbert.util.settings import describe

            with formatter.section("Fields for --set, with their defaults"):
                formatter.write_dl(list(describe(getattr(import_module(module), plan))), col_max=34)

    return Command


app.command("fill-mask")(fill_mask.run)
app.add_typer(tokenizer_app, name="tokenizer")
tokenizer_app.command("train")(tokenizer.train)
app.command("prepare")(prepare.run)
app.command("pretrain")(pretrain.run)
app.command("finetune", cls=_with_fields("convbert.finetuning.recipes", "FinetuningPlan"))(finetune.run)
app.command("evaluate")(evaluate.run)
app.command("predict")(predict.run)
app.command("serve")(serve.run)
app.command("convert")(convert.run)
app.command("extend")(extend.run)
app.command("export")(export.run)
app.command("push")(push.run)
app.command("doctor")(doctor.run)


@tokenizer_app.callback()
def _tokenizer() -> None:
    """Work with tokenizers."""


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"convbert {__version__}")
        raise typer.Exit


@app.callback()
def _convbert(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from. May stand after the verb, too.")
    ] = False,
) -> None:
    """ConvBERT: pre-train it, fine-tune it, run it fast.

    \b
    Examples:
      convbert fill-mask "Plants create [MASK] through a process known as photosynthesis."
      convbert pretrain --recipe small --corpus corpus/ --output runs/small
      convbert finetune --task sst2 --data glue/SST-2 --output runs/sst2
      convbert doctor
    """


# Set before the libraries are loaded, unless somebody else has. A thread that waits for work sleeps soon and leaves its
# core to whoever has the work. PyTorch and oneDNN, each for itself, keep what was generated for the last 1024 shapes,
# hundreds of megabytes: batches without padding hardly ever have the same shape twice, but all layers of one batch do.
_ENVIRONMENT = {
    "GOMP_SPINCOUNT": "10000",
    "LRU_CACHE_CAPACITY": "64",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0, 2 where the input is wrong, 1 where convbert is, 130 after Ctrl-C, 141 where the reader of
        stdout has gone.
    """
    words, debug = _take_debug(list(sys.argv[1:] if arguments is None else arguments))
    quiet_libraries(debug)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        use_utf8()
        code = app(args=words or ["--help"], prog_name="convbert", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        return _leave_pipe()
    except BaseException as error:
        if isinstance(error.__context__, BrokenPipeError):  # typer makes an exit of it
            return _leave_pipe()
        if debug:
            raise
        return exit_code_of(error)
    return code if isinstance(code, int) else 0


def _leave_pipe() -> int:
    """Python flushes once more at exit, and must not complain about it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return BROKEN_PIPE


def _take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """Pick `--debug` out wherever it stands before a `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [word for word in arguments[:end] if word != "--debug"]
    return options + arguments[end:], len(options) < end
