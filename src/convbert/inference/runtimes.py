"""Exported models: the runtimes that run them, and a model that answers through one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput

from convbert.configuration import ConvBertConfig
from convbert.inference.loading import TASKS
from convbert.model.convbert import ConvBertPreTrainedModel
from convbert.ops.varlen import VarlenBounds
from convbert.util.errors import InputError
from convbert.util.optional import require

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
"""An exported model in its runtime: inputs by name to outputs by name, for a padded batch."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Names and order of the inputs: (B, T), or (B, choices, T) for multiple choice."""

MAPS = ("attentions", "conv_kernels")
"""Outputs that an export may have beside those of the head: (B, layers, H, T, T) and (B, layers, T, H, K)."""

ONNX_FILES = {
    "fp32": "model.onnx",
    "fp16": "model_fp16.onnx",
    "int8": "model_quantized.onnx",
    "int8-dynamic": "model_int8.onnx",
}
"""Precision to file in the folder `onnx`; transformers.js calls them by `dtype` "fp32", "fp16", "q8" and "int8"."""

OPENVINO_FILE = "openvino_model.xml"

_LARGEST_OUTPUT = 2**26
"""Numbers in an output; a batch with more, of a large vocabulary, is run in parts."""


_BY_TEXT = ("ConvBertForMultipleChoice", "ConvBertForSequenceClassification")


def is_by_token(architecture: str) -> bool:
    """Whether the outputs of a class have a value, or several, for each token; else for each text."""
    return architecture not in _BY_TEXT


def _open_onnx(path: Path, with_maps: bool) -> Run:
    """The file in ONNX Runtime, on the CPU, with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs() if with_maps or output.name not in MAPS]
    return lambda batch: dict(zip(names, session.run(names, batch), strict=True))


def _open_openvino(path: Path, with_maps: bool) -> Run:
    """The file in OpenVINO, on the CPU, in fp32: by itself it may take half precision where the processor has it."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(path, "CPU", settings)

    def run(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = compiled(batch)
        return {port.get_any_name(): found[port] for port in compiled.outputs}

    return run


_RUNTIMES = {"onnx": _open_onnx, "openvino": _open_openvino}


def open_runtime(runtime: str, path: Path, *, with_maps: bool = False) -> Run:
    """An exported file in "onnx" or "openvino", ready to run, `with_maps` with `MAPS` where the file has them; an
    `InputError` where the runtime cannot read it."""
    try:
        return _RUNTIMES[runtime](path, with_maps)
    except Exception as error:  # each runtime has classes of its own for that
        raise InputError(f"{path}: {runtime} cannot read it: {str(error).splitlines()[0]}") from error


class ExportedModel(ConvBertPreTrainedModel):
    """An exported model behind the interface of the class it came from, for pipelines: packed batches in, outputs out.

    Inside, a packed batch is padded: texts come sorted by length, so that little is.
    """

    def __init__(self, config: ConvBertConfig, run: Run) -> None:
        super().__init__(config)
        self.run, self.is_by_token = run, is_by_token(type(self).__name__)
        self.anchor = nn.Parameter(torch.empty(0), requires_grad=False)  # says the device

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        cu_seq_lens_q: Tensor,
        max_length_q: int,
        logits_to_keep: Tensor | None = None,
        **kwargs: Any,
    ) -> ModelOutput:
        """A packed batch, (1, N) with bounds, to outputs (1, N, ...), or (B, ...) of texts.

        Args:
            logits_to_keep: (1, N) bool; the outputs are then (n, ...), at these tokens alone.
        """
        plan = VarlenBounds(cu_seq_lens_q, input_ids.shape[1], max_length_q).padding()
        mask = plan.mask
        padded = {
            "input_ids": plan.pad(input_ids[0]).masked_fill(~mask, self.config.pad_token_id or 0),
            "attention_mask": mask.long(),
            "token_type_ids": plan.pad(token_type_ids[0]),
        }
        kept = mask if logits_to_keep is None else plan.pad(logits_to_keep[0])
        size = max_length_q * max(self.config.vocab_size, self.config.hidden_size)
        found: dict[str, list[Tensor]] = {}
        for rows in torch.arange(len(mask)).split(max(1, _LARGEST_OUTPUT // size)):
            parts = self.run({name: x[rows].numpy() for name, x in padded.items()})
            for name, part in parts.items():
                output = torch.from_numpy(np.asarray(part)).float()
                found.setdefault(name, []).append(output[kept[rows]] if self.is_by_token else output)
        outputs = {name: torch.cat(parts) for name, parts in found.items()}
        if self.is_by_token and logits_to_keep is None:
            outputs = {name: x[None] for name, x in outputs.items()}
        return ModelOutput(**outputs)


def load_exported(folder: str | Path, task: str, runtime: str, precision: str = "auto") -> ExportedModel:
    """The exported model in a folder, for a pipeline, run by "onnx" or "openvino".

    Args:
        task: a key of `TASKS`.
        precision: for ONNX, a key of `ONNX_FILES`; "auto" takes the first that is there.

    Raises:
        InputError: another runtime; an extra that is missing; a folder without such a file, or of another task.
    """
    if runtime not in _RUNTIMES:
        raise InputError(f"runtime must be one of {', '.join(_RUNTIMES)}, got {runtime!r}")
    require(runtime, f"runtime={runtime!r}")
    path = _file(Path(folder), runtime, precision)
    config = ConvBertConfig.from_pretrained(folder)
    wanted, held = TASKS[task].model, config.architectures or ["model of no known class"]
    if wanted.__name__ not in held:
        raise InputError(f"{folder}: holds a {held[0]}, and {task} needs a {wanted.__name__}")
    # Pipelines know a model by the name of its class.
    named = type(wanted.__name__, (ExportedModel,), {})
    model: ExportedModel = named(config, open_runtime(runtime, path))
    model.name_or_path = str(folder)
    return model.eval()


def _file(folder: Path, runtime: str, precision: str) -> Path:
    if runtime == "openvino":
        files = {"auto": folder / OPENVINO_FILE}
    else:
        files = {name: folder / "onnx" / file for name, file in ONNX_FILES.items()}
        files["auto"] = next(
            (path for path in files.values() if path.is_file()), folder / "onnx" / "model.onnx"
        )
    if precision not in files:
        raise InputError(
            f"precision must be one of {', '.join(files)} with runtime={runtime!r}, got {precision!r}"
        )
    if not files[precision].is_file():
        there = sorted(path.name for path in folder.rglob("*.onnx")) if folder.is_dir() else []
        more = f" (there are {', '.join(there)})" if there else ""
        raise InputError(
            f"{files[precision]}: is not there{more}; export the model with convbert export --format {runtime}"
        )
    return files[precision]
