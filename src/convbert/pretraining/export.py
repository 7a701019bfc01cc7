"""What a finished run leaves behind: model folders with their cards and loss curves, and the final metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from convbert.files.atomic import atomic_folder, save_tokenizer, write_json
from convbert.files.card import LOADING, head
from convbert.pretraining.folder import RunFolder
from convbert.pretraining.recipes import PretrainingPlan
from convbert.util.errors import InputError


def write_models(
    folder: RunFolder,
    models: Mapping[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    plan: PretrainingPlan,
    metrics: dict[str, Any],
    history: list[dict[str, Any]],
) -> None:
    """Write all model folders, by their names, then `metrics.json`; `history` is the log, for the curves.

    Raises:
        InputError: they cannot be written, or a metric is not finite.
    """
    root = folder.root
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{root}: {name} is {value}, so the model is of no use and is not written")
    with ExitStack() as folders:  # none of them is there before all are complete
        for name, model in models.items():
            draft = folders.enter_context(atomic_folder(root / name))
            model.save_pretrained(draft)
            save_tokenizer(tokenizer, draft, model.config.max_position_embeddings)
            draw_curve(history, draft / "loss.png")
            card = model_card(plan, metrics, type(model).__name__)
            (draft / "README.md").write_text(card, encoding="utf-8")
    write_json(folder.metrics, metrics)


# ------------------------------------------------------------------------------------------- model card

_MASKED_LM = """\
# ConvBERT {what} with the recipe `{recipe}`

A ConvBERT encoder with its masked-language-model head, trained by `convbert pretrain`.{beside}

```python
import convbert

fill = convbert.pipeline("fill-mask", "this/folder")
```
"""

_DISCRIMINATOR = """\
# ConvBERT pre-trained with the recipe `{recipe}`

A ConvBERT encoder to fine-tune, trained by `convbert pretrain` to tell the tokens of a text from those that a small
generator put there. Its head gives one logit a token, positive where the token looks replaced. It fills no masks: the
generator does, in `generator/` beside this folder.

```
convbert finetune --model this/folder --help
```
"""

_FIGURES_NOTE = """\
Model and baselines are measured on the same masked positions. Losses are in nats. *masked*: the masked-language model
at masked positions. The baselines: always the most frequent token; and the token that bigram counts of the training
text make most likely between its neighbours."""

_REPLACED_NOTE = """\
*sampled accuracy*: how often the generator's draw was the true token, which then counts as original. *replaced*: the
discriminator over all tokens of the texts, precision and recall at a probability of one half, AUC from histograms."""


def model_card(plan: PretrainingPlan, metrics: dict[str, Any], architecture: str) -> str:
    """The README.md of a trained model of the class `architecture`: how it was made, and its metrics."""
    held_out = {name: value for name, value in metrics.items() if name.startswith(("heldout_", "baseline_"))}
    cost = {name: value for name, value in metrics.items() if name not in held_out}
    task = "feature-extraction" if architecture == "ConvBertForPreTraining" else "fill-mask"
    sections = [head(task, base=plan.start_from), _introduction(plan, architecture), LOADING]
    if plan.start_from is not None:
        sections.append(
            f"Training began with the weights of `{plan.start_from}`, which this card does not count.\n"
        )
    if held_out:
        notes = f"{_FIGURES_NOTE}\n{_REPLACED_NOTE}" if plan.objective == "rtd" else _FIGURES_NOTE
        sections.append(f"## Held-out figures\n\n{_table(held_out)}\n\n{notes}\n")
    sections.append(f"## Cost\n\n{_table(cost)}\n\n![Loss by step](loss.png)\n")
    sections.append(f"## Recipe\n\n```json\n{json.dumps(plan.to_dict(), indent=2, allow_nan=False)}\n```\n")
    return "\n".join(sections)


def _introduction(plan: PretrainingPlan, architecture: str) -> str:
    if architecture == "ConvBertForPreTraining":
        return _DISCRIMINATOR.format(recipe=plan.name)
    if plan.objective == "mlm":
        return _MASKED_LM.format(what="pre-trained", recipe=plan.name, beside="")
    beside = " It is the small generator\nthat made the task of the model in `model/`; that one is the better encoder."
    return _MASKED_LM.format(what="generator pre-trained", recipe=plan.name, beside=beside)


_CURVES = (
    ("masked_loss", "cross-entropy of masked tokens (nats)"),
    ("replaced_loss", "cross-entropy of original or replaced (nats)"),
)


def draw_curve(history: list[dict[str, Any]], path: Path) -> None:
    """Draw training and held-out losses by step, from log entries, to a PNG."""
    from matplotlib.figure import Figure

    curves = [(name, label) for name, label in _CURVES if any(name in entry for entry in history)]
    curves = curves or [_CURVES[0]]
    figure = Figure(figsize=(7, 1 + 3 * len(curves)), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(len(curves), squeeze=False)[:, 0], curves, strict=True):
        for key, source in ((name, "training"), (f"heldout_{name}", "held-out")):
            points = [(entry["step"], entry[key]) for entry in history if key in entry]
            if points:
                axes.plot(*zip(*points, strict=True), label=source)
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def _table(values: dict[str, Any]) -> str:
    rows = [f"| {name.replace('_', ' ')} | {_shown(value)} |" for name, value in values.items()]
    return "\n".join(("| | |", "| --- | --- |", *rows))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
