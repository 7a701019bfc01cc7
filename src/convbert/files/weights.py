"""The weights in a model folder: by name and shape, before memory is taken for them, or as tensors, to convert them."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from convbert.files.damage import NOT_TENSORS
from convbert.util.errors import InputError
from convbert.util.schema import read_json

Shapes = dict[str, tuple[int, ...]]

_WHOLE = ("model.safetensors", "pytorch_model.bin")
_ELSEWHERE = {
    "tf_model.h5": (
        "TensorFlow",
        "transformers before 5 reads them with from_pretrained(folder, from_tf=True) and saves them for PyTorch",
    ),
    "flax_model.msgpack": ("Flax", "ask its author for model.safetensors"),
    "model_state.pdparams": (
        "PaddlePaddle",
        "a pickle of arrays under other names; the ConvBERTs that PaddleNLP publishes are YituTech's, which are on the "
        "Hub as YituTech/conv-bert-base, -medium-small and -small",
    ),
}
_TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
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
    anchor = _find_anchor(shapes, folder) if shapes else _ANCHOR
    if _plain(anchor) not in (_ANCHOR, f"convbert.{_ANCHOR}"):
        raise InputError(
            f"{folder}: the names of the weights begin with {_plain(anchor).removesuffix(_ANCHOR)!r}, as in "
            f'{anchor}; without that, or with "convbert.", they could be read'
        )
    # Name by name: transformers applies one rule after the other, and a short one would spoil a longer one's match.
    renamed = {f"^{re.escape(name)}$": _plain(name) for name in shapes if _plain(name) != name}
    return {"key_mapping": renamed} if renamed else {}


class Weights(NamedTuple):
    """The tensors of a model.

    Args:
        file: where they lie; for shards, their index.
        state: under the published names, those of the encoder below `convbert.`.
        beside: names of tensors that lie in the file beside the model's.
        changes: what was done to the names.
    """

    file: Path
    state: dict[str, Tensor]
    beside: list[str]
    changes: list[str]


def read_weights(source: Path) -> Weights:
    """The tensors in a model folder or a file, without what wrappers and training programs put around them.

    Args:
        source: a folder with `model.safetensors`, `pytorch_model.bin`, their shards, or a single file of weights under
            another name; or a file: safetensors, or of `torch.save`, of which only tensors are unpickled.

    Raises:
        InputError: there are none, they cannot be read without running code, or their names are of no ConvBERT.
    """
    files = _locate_any(source)
    tensors: dict[str, Tensor] = {}
    inside: list[str] = []
    for file in files[1:] or files:
        if file.suffix == ".safetensors":
            found: dict[str, Any] = _load_safetensors(file)
        else:
            found, inside = _unwrap(_load(file, "cpu"), file)
        tensors |= {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    file = files[0]
    names = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in tensors}
    anchor = _find_anchor(names.values(), file)
    root = anchor.removesuffix(_ANCHOR).removesuffix("convbert.")
    below = "" if anchor.endswith(f"convbert.{_ANCHOR}") else "convbert."
    state, beside, has_old_norms = {}, [], False
    for name, plain in names.items():
        published = _NORM_NAMES.sub(lambda match: f"LayerNorm.{_NORMS[match[1]]}", plain)
        has_old_norms |= published != plain
        if not plain.startswith(root):
            beside.append(name)
        elif (key := below + published.removeprefix(root)) in state:
            raise InputError(f"{file}: holds two tensors for {key}")
        else:
            state[key] = tensors[name]
    changes = [f"taken out of {'.'.join(inside)!r}"] if inside else []
    if wrapped := sorted({part for name in names for part in name.split(".") if part in _WRAPPERS}):
        changes.append(f"without the names of wrappers: {', '.join(wrapped)}")
    changes += [f"without {root!r} in front of every name"] if root else []
    changes += ["LayerNorm.gamma and beta renamed to weight and bias"] if has_old_norms else []
    return Weights(file, state, beside, changes)


_NORMS = {"gamma": "weight", "beta": "bias"}
_NORM_NAMES = re.compile(r"LayerNorm\.(gamma|beta)$")


def _find_anchor(names: Collection[str], where: Path) -> str:
    """The name of the word embedding, from which the others are told."""
    anchors = [name for name in names if name == _ANCHOR or name.endswith(f".{_ANCHOR}")]
    if len(anchors) == 1:
        return anchors[0]
    what = f"several of them end in {_ANCHOR}" if anchors else f"none ends in {_ANCHOR}"
    first = next(iter(names), "none at all")
    raise InputError(f"{where}: the names of the weights are not those of a ConvBERT ({first}, ...): {what}")


def _locate_any(source: Path) -> list[Path]:
    """The file of the weights, or their index and its shards."""
    if not source.is_dir():
        _refuse_elsewhere([source], source)
        if not source.exists():
            raise InputError(f"{source}: there is no such file or folder")
        return [source]
    if files := _locate(source):
        return files
    loose = [
        file
        for file in sorted(source.iterdir())
        if file.suffix in (*_TORCH_SUFFIXES, ".safetensors") and file.is_file()
    ]
    if len(loose) > 1:
        names = ", ".join(file.name for file in loose)
        raise InputError(f"{source}: holds several files of weights ({names}): give one of them")
    if not loose:
        _refuse_elsewhere(source.iterdir(), source)
        raise InputError(f"{source}: holds no weights: there is no model.safetensors")
    return loose


def _refuse_elsewhere(files: Iterable[Path], where: Path) -> None:
    by_suffix = {Path(name).suffix: told for name, told in _ELSEWHERE.items()}
    for file in files:
        if file.suffix in by_suffix:
            framework, way_out = by_suffix[file.suffix]
            raise InputError(
                f"{where}: its weights are {framework}'s ({file.name}), which are not read here: {way_out}"
            )


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    _header(path)  # whose errors name the file
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise InputError(f"{path}: the weights are damaged ({error})") from error


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
    if files := _locate(folder, use_safetensors):
        read = _header if files[-1].suffix == ".safetensors" else _pickled
        return {tensor: shape for file in files[1:] or files for tensor, shape in read(file).items()}
    if any(file.name.startswith(("adapter_", "model.", "pytorch_model.")) for file in folder.iterdir()):
        return None  # an adapter, or a variant of the weights
    _refuse_elsewhere((folder / name for name in _ELSEWHERE if (folder / name).is_file()), folder)
    raise InputError(f"{folder}: holds no weights: there is no model.safetensors")


def _locate(folder: Path, use_safetensors: bool | None = None) -> list[Path]:
    """The file of the weights under its usual name, or the index and its shards; nothing where there is none."""
    for name in _WHOLE:
        if use_safetensors not in (None, name == _WHOLE[0]):
            continue
        whole, index = folder / name, folder / f"{name}.index.json"
        if whole.is_file():
            return [whole]
        if index.is_file():
            return [index, *_shards(index)]
    return []


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
    content, inside = _unwrap(_load(path, "meta"), path)
    if inside:
        raise InputError(
            f"{path}: the tensors lie within {'.'.join(inside)!r}, beside other things; "
            f"`convbert convert {path} --output FOLDER` takes them out"
        )
    return {str(name): tuple(value.shape) for name, value in content.items() if isinstance(value, Tensor)}


def _unwrap(content: Any, path: Path) -> tuple[dict[Any, Any], list[str]]:
    """The innermost object that holds tensors by their names, and where in the file it lies."""
    inside: list[str] = []
    while isinstance(content, dict) and not any(str(name).endswith(_ANCHOR) for name in content):
        inner = next((name for name in _INNER if isinstance(content.get(name), dict)), None)
        if inner is None:
            break
        inside.append(inner)
        content = content[inner]
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not tensors by their names")
    return content, inside


def _load(path: Path, place: str) -> Any:
    try:
        return torch.load(path, map_location=place, weights_only=True)
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever a damaged pickle makes of itself
        raise InputError(f"{path}: {NOT_TENSORS}") from error


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
