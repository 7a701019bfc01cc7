"""What a finished run leaves behind: model folders with their cards, and its figures."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from convbert.files.atomic import save_tokenizer, write_json
from convbert.pretraining.folder import RunFolder
from convbert.pretraining.model_card import draw_curve, model_card
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
    """Write all model folders beside their final places and move them there; `metrics.json` comes last.

    Args:
        models: by the name of their folder.
        history: entries of the log, for the curves.

    Raises:
        InputError: they cannot be written, or a figure is not finite.
    """
    root = folder.root
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{root}: {name} is {value}, so the model is of no use and is not written")
    drafts = {name: root / f".{name}-{os.getpid()}" for name in models}
    try:
        for name, model in models.items():
            model.save_pretrained(drafts[name])
            save_tokenizer(tokenizer, drafts[name], model.config.max_position_embeddings)
            draw_curve(history, drafts[name] / "loss.png")
            card = model_card(plan, metrics, type(model).__name__)
            (drafts[name] / "README.md").write_text(card, encoding="utf-8")
        for name, draft in drafts.items():
            # Left by an end that did not get to the metrics.
            shutil.rmtree(root / name, ignore_errors=True)
            os.replace(draft, root / name)
        write_json(folder.metrics, metrics)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{root}: the models cannot be written: {error}") from error
    finally:
        for draft in drafts.values():
            shutil.rmtree(draft, ignore_errors=True)
