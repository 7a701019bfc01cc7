"""Options that several verbs share, and what can be refused before torch is imported, which takes seconds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from convbert.util.errors import InputError

Model = Annotated[
    str | None, typer.Option(help="Model folder, or a name on the Hub; by default the embedded English one.")
]
Device = Annotated[str | None, typer.Option(help='"cpu", "cuda", "cuda:1", ...')]
Precision = Annotated[
    str, typer.Option(help='"auto", "fp32", "bf16" or "int8"; "convbert doctor" says what each gains here.')
]
Long = Annotated[
    str | None,
    typer.Option(
        help='A text that is too long: "windows" reads all of it, "cut" its beginning, "refuse" makes an error of it. '
        "By default as the model was trained: windows; cut for GLUE.",
    ),
]
OnBadRow = Annotated[
    str,
    typer.Option(help='"skip" leaves out and counts rows that cannot be used; "fail" refuses the file.'),
]
Explain = Annotated[
    bool, typer.Option("--explain", help="Also draw attention maps and dynamic kernels: explain.html.")
]
_COLUMNS = {
    "text": ("text_column", "Column of the text (or of the premise of choices)."),
    "text_pair": ("text_pair_column", "Column of the second text of a pair."),
    "label": ("label_column", "Column of the label, labels, number or tags."),
    "tokens": ("tokens_column", "Tagging: column of the words."),
    "choices": (
        "choice_columns",
        "Choices: their columns, with commas between them, or one column of lists.",
    ),
    "question": ("question_column", "Questions: column of the question."),
    "context": ("context_column", "Questions: column of the text with the answer."),
    "answers": ("answers_column", 'Questions: column of {"text": [...], "answer_start": [...]}.'),
    "id": ("id_column", "Column of a name for each example, as questions have."),
}
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
INPUTS = tuple(role for role in _COLUMNS if role not in ("label", "answers"))
"""The roles of what a model is shown, and of the name of a row."""


def with_columns(*roles: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A verb with an option for the column of each role (all by default), which it gets as `columns`, by role."""
    options = {role: _COLUMNS[role] for role in roles or _COLUMNS}

    def decorate(verb: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(verb)
        def run(**given: Any) -> Any:
            return verb(columns={role: given.pop(name) for role, (name, _) in options.items()}, **given)

        signature = inspect.signature(verb, eval_str=True)
        own = [each.replace(kind=each.KEYWORD_ONLY) for each in signature.parameters.values()]
        added = [
            inspect.Parameter(
                name, _KEYWORD, default=None, annotation=Annotated[str | None, typer.Option(help=text)]
            )
            for name, text in options.values()
        ]
        parameters = [*(each for each in own if each.name != "columns"), *added]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def check_model_path(model: str | None) -> None:
    """Refuse what can only be a folder and is not there; the rest is for `find_model`."""
    if model is not None and model.startswith((".", "/", "~")) and not Path(model).exists():
        raise InputError(f"{model}: there is no such folder")


def check_on_bad_row(given: str) -> None:
    """Refuse what is neither of the two."""
    if given not in ("skip", "fail"):
        raise InputError(f'--on-bad-row must be "skip" or "fail", got {given!r}')


def check_training_device(device: str | None) -> None:
    """Refuse a device that is not "cpu": which GPU is used, launchers and the Trainer decide."""
    if device not in (None, "cpu"):
        raise InputError(f'--device {device}: only "cpu" can be said here; without it the first GPU is used')
