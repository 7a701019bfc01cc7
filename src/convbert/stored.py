"""The weights in a model folder, by name and shape, before memory is taken for them."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import torch

from convbert.damage import naming_damage
from convbert.errors import InputError
from convbert.schema import read_json

Shapes = dict[str, tuple[int, ...]]

_WHOLE = ("model.safetensors", "pytorch_model.bin")
_ELSEWHERE = {
    "tf_model.h5": "TensorFlow",
    "flax_model.msgpack": "Flax",
    "model_state.pdparams": "PaddlePaddle",
}
_ANCHOR = "embeddings.word_embeddings.weight"
_WRAPPER = re.compile(r"(?:(?:module|model|_orig_mod|network|net|state_dict|model_state_dict)\.)+")
_INNER = ("state_dict", "model_state_dict", "model", "module")


def prepare_loading(folder: Path) -> dict[str, Any]:
    """What `from_pretrained` must be told to read the weights of a folder: nothing, if they have their usual names.

    Raises:
        InputError: there are none that can be read, an index leads out of the folder, their names are of no ConvBERT,
            or their shapes are others than `config.json` says.
    """
    options: dict[str, Any] = {}
    found = _find(folder)
    if found is None:
        return options
    shapes = found
    anchors = [name for name in shapes if name.endswith(_ANCHOR)]
    if len(anchors) != 1:
        example = next(iter(shapes), "none")
        what = f"several of them end in {_ANCHOR}" if anchors else f"none ends in {_ANCHOR}"
        raise InputError(
            f"{folder}: the names of the weights are not those of a ConvBERT ({example}, ...): {what}"
        )
    prefix = anchors[0].removesuffix(_ANCHOR).removesuffix("convbert.")
    if prefix and not _WRAPPER.fullmatch(prefix):
        raise InputError(
            f"{folder}: the names of the weights begin with {prefix!r}, as in {anchors[0]}; without that, or with "
            '"convbert.", they could be read'
        )
    plain = {name.removeprefix(prefix): shape for name, shape in shapes.items()}
    _compare(folder, read_json(folder / "config.json"), plain)
    if prefix:
        options["key_mapping"] = {f"^{re.escape(prefix)}": ""}
    return options


def _find(folder: Path) -> Shapes | None:
    """Names and shapes."""
    for name in _WHOLE:
        whole, index = folder / name, folder / f"{name}.index.json"
        if whole.is_file():
            return _header(whole) if name == _WHOLE[0] else _pickled(whole)
        if index.is_file():
            shapes: Shapes = {}
            for shard in _shards(index):
                shapes |= _header(shard) if name == _WHOLE[0] else _pickled(shard)
            return shapes
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
        if "\0" in name or not (index.parent / name).is_file():
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


def _compare(folder: Path, config: Any, shapes: Shapes) -> None:
    """Refuse a configuration of other sizes than the weights have."""
    from convbert.configuration import ConvBertConfig

    with naming_damage(folder):
        own = ConvBertConfig.from_dict(config)
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
        "classifier.out_proj.bias": (own.num_labels,),
    }
    for name, shape in wanted.items():
        if name in shapes and shapes[name] != shape:
            _refuse(folder, f"{name} is {shapes[name]}", f"the configuration says {shape}")


def _refuse(folder: Path, stored: str, said: str) -> None:
    raise InputError(f"{folder}: config.json and the weights do not belong together: {stored}, and {said}")
