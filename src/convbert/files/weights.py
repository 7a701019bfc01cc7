"""The weights in a model folder, by name and shape, before memory is taken for them."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import torch

from convbert.util.errors import InputError
from convbert.util.schema import read_json

Shapes = dict[str, tuple[int, ...]]

_WHOLE = ("model.safetensors", "pytorch_model.bin")
_ELSEWHERE = {
    "tf_model.h5": "TensorFlow",
    "flax_model.msgpack": "Flax",
    "model_state.pdparams": "PaddlePaddle",
}
_ANCHOR = "embeddings.word_embeddings.weight"
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"}
_OUTER = _WRAPPERS | {"model", "network", "net", "state_dict", "model_state_dict"}
_INNER = ("state_dict", "model_state_dict", "model", "module")


def prepare_loading(folder: Path, use_safetensors: bool | None = None) -> dict[str, Any]:
    """What `from_pretrained` must be told to read the weights of a folder: nothing, if they have their usual names.

    Raises:
        InputError: there are none that can be read, an index leads out of the folder, or their names are of no
            ConvBERT.
    """
    shapes = _find(folder, use_safetensors) or {}
    anchors = [name for name in shapes if name.endswith(_ANCHOR)]
    if shapes and len(anchors) != 1:
        what = f"several of them end in {_ANCHOR}" if anchors else f"none ends in {_ANCHOR}"
        raise InputError(
            f"{folder}: the names of the weights are not those of a ConvBERT ({next(iter(shapes))}, ...): {what}"
        )
    if anchors and _plain(anchors[0]) not in (_ANCHOR, f"convbert.{_ANCHOR}"):
        raise InputError(
            f"{folder}: the names of the weights begin with {_plain(anchors[0]).removesuffix(_ANCHOR)!r}, as in "
            f'{anchors[0]}; without that, or with "convbert.", they could be read'
        )
    # Name by name: transformers applies one rule after the other, and a short one would spoil a longer one's match.
    renamed = {f"^{re.escape(name)}$": _plain(name) for name in shapes if _plain(name) != name}
    return {"key_mapping": renamed} if renamed else {}


def check_sizes(folder: Path, config: Any) -> None:
    """Refuse the `config` of a folder when the weights in it have other sizes.

    Raises:
        InputError: naming both sizes, or the file that cannot be read.
    """
    if shapes := _find(folder):
        _compare(folder, config, {_plain(name): shape for name, shape in shapes.items()})


def stored_labels(folder: Path) -> int | None:
    """Labels that the stored head of a classifier tells apart; None where there is none, or none that can be read."""
    try:
        return _labels({_plain(name): shape for name, shape in (_find(folder) or {}).items()})
    except InputError:  # told to whoever asks for the weights
        return None


def _labels(shapes: Shapes) -> int | None:
    rows = shapes.get("classifier.out_proj.bias") or shapes.get("classifier.bias")
    return rows[0] if rows else None


def _plain(name: str) -> str:
    """A name without what wrappers have put there."""
    parts = name.split(".")
    while parts and parts[0] in _OUTER:
        parts.pop(0)
    return ".".join(part for part in parts if part not in _WRAPPERS)


def _find(folder: Path, use_safetensors: bool | None = None) -> Shapes | None:
    """Names and shapes of the weights that transformers would read; None where they are of a kind of their own.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    for name in _WHOLE:
        is_safe = name == _WHOLE[0]
        if use_safetensors is not None and use_safetensors != is_safe:
            continue
        read = _header if is_safe else _pickled
        whole, index = folder / name, folder / f"{name}.index.json"
        if whole.is_file():
            return read(whole)
        if index.is_file():
            return {tensor: shape for shard in _shards(index) for tensor, shape in read(shard).items()}
    if any(file.name.startswith(("adapter_", "model.", "pytorch_model.")) for file in folder.iterdir()):
        return None  # an adapter, or a variant of the weights
    for name, framework in _ELSEWHERE.items():
        if (folder / name).is_file():
            raise InputError(
                f"{folder}: its weights are {framework}'s ({name}); save them as model.safetensors first"
            )
    raise InputError(f"{folder}: holds no weights: there is no model.safetensors")


def _shards(index: Path) -> list[Path]:
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: weight_map: must be an object of tensors and files")
    if not isinstance(content.get("metadata", {}), dict):
        raise InputError(f"{index}: metadata: must be an object")
    for name in weight_map.values():
        if (
            not isinstance(name, str)
            or name != os.path.basename(name)
            or name in ("", ".", "..")
            or "\\" in name
        ):
            raise InputError(f"{index}: weight_map: {name!r:.60} is no file of this folder")
        if not os.path.isfile(index.parent / name):  # unlike Path.is_file, of any name
            raise InputError(f"{index}: weight_map: there is no {name!r:.60} in this folder")
    return [index.parent / name for name in sorted(set(weight_map.values()))]


def _header(path: Path) -> Shapes:
    """Names and shapes in a safetensors file."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(100_000_000, os.fstat(file.fileno()).st_size - 8):
                raise ValueError("its header is cut or none")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {name: tuple(map(int, tensor["shape"])) for name, tensor in header.items()}
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: the weights are damaged ({error})") from error


def _pickled(path: Path) -> Shapes:
    """Names and shapes in a file of `torch.save`, of which nothing but tensors is ever unpickled."""
    content = _load(path, "meta")
    path_in = []
    while isinstance(content, dict) and not any(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        inner = next((name for name in _INNER if isinstance(content.get(name), dict)), None)
        if inner is None:
            break
        path_in.append(inner)
        content = content[inner]
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not tensors by their names")
    names = [name for name, value in content.items() if isinstance(value, torch.Tensor)]
    shapes = {str(name): tuple(content[name].shape) for name in names}
    if path_in:
        raise InputError(
            f"{path}: the tensors lie within {'.'.join(path_in)!r}, beside other things: save what is in there alone"
        )
    return shapes


def _load(path: Path, place: str) -> Any:
    try:
        return torch.load(path, map_location=place, weights_only=True)
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever a damaged pickle makes of itself
        raise InputError(
            f"{path}: the weights are a pickle with more than tensors in it, or damaged; it was not run. "
            "Ask for safetensors"
        ) from error


def _compare(folder: Path, own: Any, shapes: Shapes) -> None:
    base = "convbert." if f"convbert.{_ANCHOR}" in shapes else ""
    layer = re.compile(re.escape(base) + r"encoder\.layer\.(\d{1,6})\.")
    numbers = {int(match[1]) for name in shapes if (match := layer.match(name))}
    stored = max(numbers) + 1 if numbers else 0
    if numbers and stored != own.num_hidden_layers:
        _refuse(folder, f"there are {stored} layers", f"num_hidden_layers is {own.num_hidden_layers}")
    wanted = {
        f"{base}{_ANCHOR}": (own.vocab_size, own.embedding_size),
        f"{base}embeddings.position_embeddings.weight": (own.max_position_embeddings, own.embedding_size),
        f"{base}embeddings.token_type_embeddings.weight": (own.type_vocab_size, own.embedding_size),
        f"{base}embeddings_project.weight": (own.hidden_size, own.embedding_size),
        f"{base}encoder.layer.0.output.dense.bias": (own.hidden_size,),
        f"{base}encoder.layer.0.intermediate.dense.bias": (own.intermediate_size,),
        f"{base}encoder.layer.0.attention.self.query.weight": (
            own.num_kept_heads * own.head_size,
            own.hidden_size,
        ),
        f"{base}encoder.layer.0.attention.self.key_conv_attn_layer.depthwise.weight": (
            own.hidden_size,
            1,
            own.conv_kernel_size,
        ),
    }
    for name, shape in wanted.items():
        if name in shapes and shapes[name] != shape:
            _refuse(folder, f"{name} is {shapes[name]}", f"the configuration says {shape}")
    labels = _labels(shapes) if own.is_classifier else None
    if labels not in (None, own.num_labels):
        _refuse(folder, f"there are {labels} labels", f"id2label has {own.num_labels} names")


def _refuse(folder: Path, stored: str, said: str) -> None:
    raise InputError(f"{folder}: config.json and the weights do not belong together: {stored}, and {said}")
