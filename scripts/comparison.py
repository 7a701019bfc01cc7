"""ConvBERT, ELECTRA and BERT of one width, pre-trained on the same text, then fine-tuned: does the convolution pay?

    python scripts/comparison.py run CORPUS HELDOUT TASKS --minutes-per-run 2 --seeds 2      # minutes a cell, on a CPU
    python scripts/comparison.py run CORPUS HELDOUT TASKS --scale small --minutes-per-run 60 # on a GPU
    python scripts/comparison.py page                                             # docs/results_pretraining.md again

Four contenders: `convbert`, replaced token detection; `electra`, the same objective with our encoder's attention
alone, which is ELECTRA's encoder, head for head (a test compares the two); `bert`, that encoder and masked language
modelling; `convbert-mlm`, ConvBERT and masked language modelling. Each is trained twice: on as many tokens as
ConvBERT, and with as many floating-point operations (`convbert.pretraining.cost`). How many is found once, by timing
ConvBERT, and kept in `settings.json`.

A cell is one contender, budget and seed, in a folder of its own. A comparison that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from comparison_page import BUDGETS, Cell, Settings, draw, read_results, render

from convbert import ConvBertConfig
from convbert.cli.failures import say
from convbert.files.atomic import atomic_write
from convbert.finetuning.run import Files, finetune
from convbert.finetuning.tasks import TASKS
from convbert.layers import ForwardContext, MixedAttention
from convbert.layers.mixed_attention import MixedOutput
from convbert.pretraining import cost
from convbert.pretraining.data import prepare_sequences
from convbert.pretraining.dry_run import dry_run
from convbert.pretraining.objectives import build_objective
from convbert.pretraining.recipes import PretrainingPlan, recipe
from convbert.pretraining.run import pretrain
from convbert.pretraining.vocabulary import load_tokenizer, train_wordpiece

CONTENDERS = {
    # objective, and whether the encoder has attention alone
    "convbert": ("rtd", False),
    "electra": ("rtd", True),
    "bert": ("mlm", True),
    "convbert-mlm": ("mlm", False),
}
SCALES = {
    "tiny": recipe("tiny", vocab_size=2048, limit_alphabet=1000),
    "small": recipe("small", learning_rate=5e-4),
    "base": recipe("base"),
}
TUNING: dict[str, dict[str, Any]] = {"tiny": {"batch_size": 8}}
"""Of fine-tuning, where it is not the recipe."""
app = typer.Typer(add_completion=False)


# --------------------------------------------------------------------------------------- attention alone


class AttentionOnly(MixedAttention):
    """All heads are attention heads: twice as many as `MixedAttention` has, each as wide; no convolution."""

    def __init__(
        self, *, width: int, num_heads: int, head_size: int, kernel_size: int, dropout: float
    ) -> None:
        super().__init__(
            width=width,
            num_heads=2 * num_heads,
            head_size=head_size,
            kernel_size=kernel_size,
            dropout=dropout,
        )
        del self.key_conv_attn_layer, self.conv_kernel_layer, self.conv_out_layer

    def forward(self, states: torch.Tensor, context: ForwardContext) -> MixedOutput:
        """As `MixedAttention`'s, with empty kernel logits."""
        projected = self.query(states), self.key(states), self.value(states)
        mixed, weights = self._attend(*projected, context)
        none = states.new_empty(*states.shape[:-1], self.num_heads, 0)
        return MixedOutput(mixed.flatten(-2), weights, none)


def attention_only_flops(config: ConvBertConfig, length: float, kept: float | None = None) -> cost.Flops:
    """`encoder_flops` of the encoder that `attention_only` builds."""
    parts = _encoder_flops(config, length, kept)
    for name in ("query, key, value", "attention"):
        parts[name] *= 2
    return parts | {"span convolution": 0.0}


_encoder_flops = cost.encoder_flops


@contextmanager
def attention_only() -> Iterator[None]:
    """Encoders that are built inside have attention alone."""
    with (
        patch("convbert.layers.encoder_layer.MixedAttention", AttentionOnly),
        patch.object(cost, "encoder_flops", attention_only_flops),
    ):
        yield


@contextmanager
def encoder_of(contender: str) -> Iterator[None]:
    """The contender's encoder inside."""
    if CONTENDERS[contender][1]:
        with attention_only():
            yield
    else:
        yield


# ------------------------------------------------------------------------------------------------- cells


def plan_of(contender: str, settings: Settings, tokenizer: Any, length: float) -> PretrainingPlan:
    """The contender's plan on as many tokens as the settings say; the length is all that budgets change."""
    plan = SCALES[settings.scale].override(name=contender, objective=CONTENDERS[contender][0])
    steps = max(10, round(settings.tokens / (plan.batch_size * length)))
    return with_steps(replace(plan, vocab_size=len(tokenizer)), steps)


def with_steps(plan: PretrainingPlan, steps: int) -> PretrainingPlan:
    """The same plan, so many steps long: a tenth of them warm up; four evaluations."""
    tenth = max(1, steps // 10)
    return plan.override(
        max_steps=steps,
        warmup_steps=tenth,
        evaluate_every=max(1, steps // 4),
        save_every=tenth,
        log_every=max(1, tenth // 10),
    )


def flops_per_step(contender: str, plan: PretrainingPlan, length: float) -> float:
    """Of a training step of this contender."""
    with encoder_of(contender), torch.device("meta"):
        objective = build_objective(plan, plan.model_config(plan.vocab_size))
        per_step = cost.step_cost(
            objective, sequences=plan.batch_size, length=length, mask_prob=plan.mask_prob
        )
    return per_step.flops


def plan_of_cell(cell: Cell, settings: Settings, tokenizer: Any, length: float) -> PretrainingPlan:
    """With the steps that its budget gives it."""
    plan = plan_of(cell.contender, settings, tokenizer, length)
    if cell.budget == "flops":
        ours = plan_of("convbert", settings, tokenizer, length)
        assert ours.max_steps is not None
        allowed = ours.max_steps * flops_per_step("convbert", ours, length)
        plan = with_steps(plan, max(10, round(allowed / flops_per_step(cell.contender, plan, length))))
    return plan.override(seed=cell.seed)


@app.command(hidden=True)
def cell(runs: Path, contender: str, budget: str, seed: int, device: str = "") -> None:
    """Pre-train and fine-tune one contender; what is finished already is left alone."""
    settings, this = read_settings(runs), Cell(contender, budget, seed)
    folder, tokenizer = this.folder(runs), load_tokenizer(runs / "tokenizer")
    packing = SCALES[settings.scale].packing
    train = prepare_sequences(settings.corpus, tokenizer, runs / "data", packing)
    plan = plan_of_cell(this, settings, tokenizer, train.count_tokens() / len(train))
    where = device or None
    with encoder_of(contender):
        done = pretrain(
            plan,
            settings.corpus,
            folder,
            tokenizer=runs / "tokenizer",
            heldout=settings.heldout,
            data_dir=runs / "data",
            device=where,
        )
        if not done.finished:
            raise typer.Exit(130)
        for name in settings.tasks:
            task, output = TASKS[name], folder / "tasks" / name
            data = Path(settings.tasks_folder, name)
            files = Files(task.find_files(data, "train")[0], tuple(task.find_files(data, "dev")[:1]))
            tuned = finetune(
                task,
                files,
                output,
                model=str(done.model_dir),
                resume=output.exists(),
                device=where,
                overrides={**settings.finetuning, "seed": seed},
            )
            if not tuned.finished:
                raise typer.Exit(130)


@app.command()
def run(
    corpus: Annotated[str, typer.Argument(help="Text to train on: file, folder or glob.")],
    heldout: Annotated[str, typer.Argument(help="Text that is only evaluated on.")],
    tasks_folder: Annotated[str, typer.Argument(help="Folder with a folder for each labelled data set.")],
    runs: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path("runs/comparison"),
    scale: Annotated[str, typer.Option(help=f"Size of the models: {', '.join(SCALES)}.")] = "tiny",
    minutes_per_run: Annotated[float, typer.Option(help="ConvBERT's pre-training, roughly.")] = 10.0,
    tokens: Annotated[int | None, typer.Option(help="Or its length in tokens, exactly.")] = None,
    seeds: Annotated[int, typer.Option(help="Of everything.")] = 3,
    tasks: Annotated[str, typer.Option(help="Data sets, with commas.")] = "cola,sst2,mrpc,wnut17,wikigold",
    contenders: Annotated[str, typer.Option(help="With commas.")] = ",".join(CONTENDERS),
    epochs: Annotated[float | None, typer.Option(help="Of fine-tuning; by default the recipe's.")] = None,
    device: Annotated[str, typer.Option(help='"cpu" leaves a GPU unused.')] = "",
) -> None:
    """Run every cell that is not finished, those on equal tokens first, then write the page."""
    names = contenders.split(",")
    if unknown := sorted(set(names) - set(CONTENDERS)):
        raise typer.BadParameter(f"no contender named {', '.join(unknown)}")
    if not (runs / "settings.json").exists():
        tuning = TUNING.get(scale, {}) | ({} if epochs is None else {"epochs": epochs})
        chosen = tuple(tasks.split(","))
        prepare(
            runs,
            Settings(corpus, heldout, tasks_folder, chosen, scale, tokens or 0, tuning),
            minutes_per_run,
            device or None,
        )
    for budget, seed, name in product(BUDGETS, range(seeds), names):
        if name == "convbert" and budget == "flops":
            continue  # the same as on tokens
        say(f"{name}, same {budget}, seed {seed}")
        words = [str(runs), name, budget, str(seed), *(["--device", device] if device else [])]
        # A process of its own: contenders differ in how encoders are built.
        done = subprocess.run([sys.executable, __file__, "cell", *words], check=False)
        if done.returncode:
            raise typer.Exit(done.returncode)
    write_page(runs)


def prepare(runs: Path, settings: Settings, minutes: float, device: str | None) -> None:
    """Learn the vocabulary, tokenise the text, find the number of tokens where it is 0, and keep the settings."""
    plan = SCALES[settings.scale]
    runs.mkdir(parents=True, exist_ok=True)
    if not (runs / "tokenizer" / "tokenizer.json").exists():
        say(f"learning a vocabulary of {plan.vocab_size}")
        train_wordpiece(
            settings.corpus, plan.vocab_size, runs / "tokenizer", limit_alphabet=plan.limit_alphabet
        )
    prepare_sequences(
        settings.corpus, load_tokenizer(runs / "tokenizer"), runs / "data", plan.packing, report=say
    )
    if not settings.tokens:
        estimate = dry_run(plan, settings.corpus, tokenizer=runs / "tokenizer", device=device)
        settings = replace(settings, tokens=round(estimate.tokens_per_second * 60 * minutes))
    atomic_write(runs / "settings.json", json.dumps(asdict(settings), indent=2) + "\n")


def read_settings(runs: Path) -> Settings:
    """What `prepare` kept."""
    stored = json.loads((runs / "settings.json").read_text(encoding="utf-8"))
    return Settings(**{**stored, "tasks": tuple(stored["tasks"])})


def describe(plan: PretrainingPlan) -> str:
    """Sizes and optimizer of the plan, where it is not the recipe `small`, whose length it has not."""
    usual = recipe("small").to_dict()
    changed = {name: value for name, value in plan.to_dict().items() if value != usual[name]}
    fields = changed.pop("model", {}) | changed
    left_out = {"name", "warmup_steps", "max_steps", "evaluate_every", "save_every"}
    return ", ".join(f"{name} {value}" for name, value in fields.items() if name not in left_out)


@app.command("page")
def write_page(
    runs: Annotated[Path, typer.Argument(help="Of `run`.")] = Path("runs/comparison"),
    output: Annotated[Path, typer.Option()] = Path("docs/results_pretraining.md"),
) -> None:
    """Write what there is so far as a page with tables and a picture."""
    settings = read_settings(runs)
    results = read_results(runs, settings, CONTENDERS)
    if not results:
        say("no cell is finished yet")
        return
    picture = output.with_suffix(".png")
    atomic_write(output, render(settings, results, describe(SCALES[settings.scale]), picture.name))
    draw(settings, results, picture)
    say(f"{output}: {len(results)} rows")


if __name__ == "__main__":
    app()
