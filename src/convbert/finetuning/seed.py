"""One seed: from a checkpoint and features to a trained model and its scores."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from typing import Any, cast

from torch import nn
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, set_seed

from convbert.configuration import ConvBertConfig
from convbert.files.atomic import atomic_folder, save_tokenizer, write_json
from convbert.finetuning.adapters.base import TaskAdapter
from convbert.finetuning.adapters.question_answering import apply_threshold, tune_threshold
from convbert.finetuning.baseline import has_collapsed
from convbert.finetuning.cells import Report
from convbert.finetuning.data import Feature, Split
from convbert.finetuning.folder import RunFolder
from convbert.finetuning.linear_head import LinearHead, fold_linear_head
from convbert.finetuning.recipes import FinetuningPlan
from convbert.finetuning.trainer import SCORE, EvaluateAtTheEnd, FinetuningTrainer, TaskObjective
from convbert.finetuning.warm_start import add_adapters, build_model, read_config, write_task
from convbert.finetuning.writing import write_predictions
from convbert.inference.loading import ready
from convbert.tokenization import ConvBertTokenizerFast
from convbert.training.arguments import training_arguments, uses_bfloat16
from convbert.training.batching import BalancedBatches
from convbert.training.callbacks import HistoryFile, ProgressLine, StopOnSignal, TrainingBudget
from convbert.training.checkpoints import usable_checkpoint
from convbert.training.optimizer import build_optimizer, warmup_then_decay
from convbert.training.processes import launched_processes


@dataclass(frozen=True)
class SeedTrainer:
    """What all seeds of a run share.

    Args:
        source: the checkpoint, whose own head is kept with `keep_head`.
        features: of the training data.
        splits: the eval data; the first chooses the best checkpoint.
        device: "cpu" leaves a GPU unused.
    """

    plan: FinetuningPlan
    adapter: TaskAdapter
    source: str
    keep_head: bool
    tokenizer: ConvBertTokenizerFast
    features: list[Feature]
    splits: list[Split]
    folder: RunFolder
    device: str | None
    report: Report

    def train(self, seed: int) -> dict[str, Any] | None:
        """Train, score, and write the folder of the seed: what its `metrics.json` holds, or None where a signal ended
        it.
        """
        set_seed(seed)
        root, splits = self.folder.of_seed(seed).root, self.splits
        config = read_config(self.source)
        model = ready(build_model(self.source, config, self.adapter, self.plan, self.keep_head), self.source)
        net = add_adapters(model, self.plan) if self.plan.lora_rank else model
        trainer, budget, stop = self._build_trainer(seed, net, model.config)
        checkpoint = usable_checkpoint(root, self.report)
        if checkpoint is not None:
            self.report(f"resuming from {checkpoint}")
        self.report(self._summary(seed, net, trainer))
        with stop.listening():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        step = trainer.state.global_step
        if stop.received is not None and budget.fraction_done(step) < 1.0:
            self.report(f"stopped by {stop.received.name} at step {step}; resume to go on")
            return None
        trained = net.merge_and_unload() if self.plan.lora_rank else model  # type: ignore[operator]
        if isinstance(getattr(trained, "classifier", None), LinearHead):
            fold_linear_head(trained)
        predictions = [split.predict(trained, trainer.accelerator.autocast()) for split in splits]
        plan = tune_threshold(self.adapter.task, self.plan, splits[0].examples, predictions[0])
        for found in predictions:
            apply_threshold(self.adapter.task, found, plan)
        pairs = list(zip(splits, predictions, strict=True))
        result = {
            "scores": {split.name: split.score(found) for split, found in pairs},
            "collapsed": has_collapsed(splits[0], predictions[0]),
            "steps": step,
            "skipped_steps": trainer.skipped_steps,
            "best_step": trainer.state.best_global_step or step,
            "minutes": round(budget.seconds / 60, 2),
            "device": str(trainer.args.device),
            "bf16": trainer.args.bf16,
        }
        trainer.accelerator.wait_for_everyone()  # each has read the best checkpoint, which goes now
        if trainer.is_world_process_zero():
            with atomic_folder(root / "model") as draft:
                self.adapter.rescale(trained, to_data=True)
                trained.save_pretrained(draft)
                save_tokenizer(self.tokenizer, draft, trained.config.max_position_embeddings)
                write_task(draft, self.adapter.task, plan)
            with atomic_folder(root) as draft:
                for split, found in pairs:
                    write_predictions(draft, split, found)
            write_json(root / "metrics.json", result)  # where it is, the seed is done
            for checkpoint in (*root.glob("checkpoint-*"), *root.glob("unused-checkpoint-*")):
                shutil.rmtree(checkpoint)
        return result

    def _build_trainer(
        self, seed: int, net: nn.Module, config: ConvBertConfig
    ) -> tuple[FinetuningTrainer, TrainingBudget, StopOnSignal]:
        plan, root, features = self.plan, self.folder.of_seed(seed).root, self.features
        world_size = launched_processes(self.device).num_processes
        per_process = max(1, plan.batch_size // world_size)
        steps_per_epoch = math.ceil(len(features) / (per_process * world_size))
        planned = max(1, math.ceil(plan.epochs * steps_per_epoch))
        budget, stop = TrainingBudget(min(planned, plan.max_steps or planned)), StopOnSignal()
        interval = max(1, steps_per_epoch // plan.evaluations_per_epoch)
        arguments = training_arguments(
            root,
            budget,
            batch_size=per_process,
            max_grad_norm=plan.max_grad_norm,
            bf16=uses_bfloat16(self.plan.bf16, self.device),
            log_every=plan.log_every,
            evaluate_every=interval,
            save_every=interval,
            seed=seed,
            device=self.device,
            best_metric=SCORE,
        )
        counts_examples = self.adapter.loss_counts_examples and plan.batching == "tokens"
        objective = TaskObjective(net, per_process if counts_examples else None).to(arguments.device)
        optimizer = build_optimizer(
            objective,
            learning_rate=plan.learning_rate,
            weight_decay=plan.weight_decay,
            betas=(plan.adam_beta1, plan.adam_beta2),
            epsilon=plan.adam_epsilon,
            layer_decay=plan.layer_decay,
            num_layers=config.num_hidden_layers,
        )
        sampler = BalancedBatches(
            [feature.length if plan.batching == "tokens" else 1 for feature in features],
            per_process,
            seed,
            rank=arguments.process_index,
            world_size=world_size,
        )
        trainer = FinetuningTrainer(
            objective,
            arguments,
            budget=budget,
            train_dataset=cast("Dataset", features),
            splits=self.splits,
            labelled=lambda split: self.adapter.features(split.examples, self.tokenizer, plan, training=True),
            sampler=sampler,
            data_collator=lambda chosen: self.adapter.collate(chosen, self.tokenizer.pad_token_id),
            optimizer=optimizer,
            scheduler=warmup_then_decay(
                optimizer, round(plan.warmup_fraction * planned), lambda step: min(1.0, step / planned)
            ),
            callbacks=[
                stop,
                EvaluateAtTheEnd(budget),
                HistoryFile(root / "log.jsonl"),
                ProgressLine(budget),
                *([EarlyStoppingCallback(plan.patience)] if plan.patience else []),
            ],
        )
        return trainer, budget, stop

    def _summary(self, seed: int, net: nn.Module, trainer: FinetuningTrainer) -> str:
        trained = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
        mean = sum(feature.length for feature in self.features) / len(self.features)
        precision = "bfloat16 autocast" if trainer.args.bf16 else "float32"
        return (
            f"seed {seed}: {trained / 1e6:.1f} M trained parameters; {len(self.features):,} examples or windows of "
            f"{mean:.0f} tokens on average; {trainer.budget.max_steps} steps, {precision}, {trainer.args.device}"
        )
