"""Who is measured: ours, transformers' ConvBERT with the same weights, and what a user would pick instead."""

from __future__ import annotations

import importlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
import transformers.models.convbert as theirs
from torch import nn

from benchmarks.cases import SIZES, Case
from convbert import ConvBertConfig, ConvBertModel
from convbert.inference.precision import set_precision


class UnavailableError(Exception):
    """A subject that cannot run here; the message is the reason."""


def prepare(model: nn.Module) -> nn.Module:
    """Ours as a user readies it for running. The one place that knows how."""
    model = model.eval().requires_grad_(False)
    set_precision(model, "bf16" if model.dtype == torch.bfloat16 else "fp32", model.device)
    return model


def config_of(case: Case, **changes: Any) -> ConvBertConfig:
    return SIZES[case.size](**changes)


def twins(config: ConvBertConfig, dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Ours with random weights of `dtype`, and the oracle: transformers' ConvBERT in float32 with the same numbers.

    Both in evaluation mode.
    """
    model = lively(ConvBertModel, config).to(device, dtype).eval()
    oracle = their_model(config).to(device).eval()
    oracle.load_state_dict(model.state_dict())
    return model, oracle


def lively(model_class: type[nn.Module], config: ConvBertConfig) -> Any:
    """A model with seeded random weights under which every part of a layer matters.

    As training starts, scores and kernels are near zero and a mistake in them leaves the outputs as they are. Here the
    linear layers keep the variance of what they read, and no bias is zero.
    """
    torch.manual_seed(0)
    config.initializer_range = config.hidden_size**-0.5
    model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "LayerNorm" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def their_model(config: ConvBertConfig) -> nn.Module:
    """transformers' ConvBERT of these sizes, with random weights."""
    return theirs.ConvBertModel(theirs.ConvBertConfig(**config.to_diff_dict()))


def rival(config: ConvBertConfig, size: str) -> nn.Module:
    """BERT for base and ELECTRA for the smaller sizes, with SDPA: width, layers, heads and feed-forward as in `config`.

    ELECTRA factorises its embeddings as ConvBERT does. Neither has grouped feed-forward layers.
    """
    names = (
        "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings "
        "type_vocab_size hidden_dropout_prob attention_probs_dropout_prob"
    )
    sizes = {name: getattr(config, name) for name in names.split()}
    if size == "base":
        bert = transformers.BertConfig(**sizes, attn_implementation="sdpa")
        return transformers.BertModel(bert, add_pooling_layer=False)
    electra = transformers.ElectraConfig(
        **sizes, embedding_size=config.embedding_size, attn_implementation="sdpa"
    )
    return transformers.ElectraModel(electra)


def compiled(model: nn.Module, device: torch.device) -> Any:
    """`torch.compile` of `model`, for one shape.

    Raises:
        UnavailableError: nothing to compile with.
    """
    if device.type == "cpu":
        _check_cpp_compiler()
    torch.compiler.reset()
    return torch.compile(model, dynamic=False)


def _check_cpp_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UnavailableError("no C++ compiler found") from error


def onnx_runtime(model: Any, inputs: dict[str, torch.Tensor], threads: int, precision: str = "fp32") -> Any:
    """Ours exported to ONNX, as a call in ONNX Runtime on `inputs`: batch and length of any size, padding allowed.

    Args:
        precision: "fp32" or "int8-dynamic", as `convbert export` names them.

    Raises:
        UnavailableError: `onnxruntime` or `onnxscript` is not installed.
    """
    onnxruntime, _ = _needed("onnxruntime"), _needed("onnxscript")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads would go on spinning after each call, and take a core from the next subject.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    graph = _exported(model)[precision]
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feed = _all_inputs(inputs)
    return lambda: session.run(None, feed)


def openvino(model: Any, inputs: dict[str, torch.Tensor], threads: int) -> Any:
    """The same in OpenVINO, in fp32.

    Raises:
        UnavailableError: `openvino` or `onnxscript` is not installed.
    """
    runtime, _ = _needed("openvino"), _needed("onnxscript")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(_exported(model)["fp32"])
        # Left alone, it computes in bfloat16 where the processor can.
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        request = runtime.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    feed = _all_inputs(inputs)
    return lambda: request.infer(feed)


def _needed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnavailableError(f"{error.name} is not installed: pip install 'convbert[bench]'") from error


def _all_inputs(inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    ids = inputs["input_ids"]
    given = {"attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids), **inputs}
    return {name: tensor.numpy() for name, tensor in given.items()}


_graphs: dict[str, dict[str, bytes]] = {}


def _exported(model: Any) -> dict[str, bytes]:
    """What `convbert export` makes of it. That takes minutes, and models of one configuration have the same weights."""
    from convbert.export.graph import traceable
    from convbert.export.onnx import write_onnx

    key = model.config.to_json_string()
    if key not in _graphs:
        with TemporaryDirectory() as folder:
            files = write_onnx(traceable(model), Path(folder), ["fp32", "int8-dynamic"], None)
            _graphs[key] = {precision: path.read_bytes() for precision, path in files.items()}
    return _graphs[key]
