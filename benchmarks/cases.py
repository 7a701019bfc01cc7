"""What is measured, as data: sizes, shapes, inputs, and the bars to reach."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from convbert import ConvBertConfig, ConvBertTokenizerFast
from convbert.files import embedded
from convbert.ops.backends import supports_bfloat16

TEXTS = Path(__file__).parent.parent / "tests/data"
SENTENCES = TEXTS / "sentences.txt"
HELDOUT = TEXTS / "heldout.txt"


def tiny(**overrides: Any) -> ConvBertConfig:
    """For trying a benchmark out, and for its tests."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "embedding_size": 32}
    return ConvBertConfig.small(**{**sizes, **overrides})


SIZES = {
    "tiny": tiny,
    "small": ConvBertConfig.small,
    "medium-small": ConvBertConfig.medium_small,
    "base": ConvBertConfig.base,
}
PUBLISHED = ("small", "medium-small", "base")


@dataclass(frozen=True)
class Case:
    """One row of a table: a size, and a rectangle of tokens or the first so many real sentences.

    Attributes:
        rectangle: (batch, length).
        sentences: how many, in place of a rectangle.
        half_padded: half of the rectangle's positions are padding, in rows of unequal length.
        dtype: name of the precision in which everybody computes.
        step: "forward" or "training"; in pre-training, the objective: "rtd" or "mlm".
    """

    size: str
    rectangle: tuple[int, int] | None = None
    sentences: int | None = None
    half_padded: bool = False
    dtype: str = "float32"
    step: str = "forward"

    @property
    def name(self) -> str:
        if self.rectangle is None:
            return f"{self.size}, {self.sentences} real sentences"
        return (
            f"{self.size} {self.rectangle[0]}×{self.rectangle[1]}{' half padded' if self.half_padded else ''}"
        )

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def inputs(self, device: torch.device) -> dict[str, torch.Tensor]:
        """`input_ids`, the same at every call; where there is padding also `attention_mask`."""
        if self.rectangle is None:
            return _sentences(self.sentences or 1, device)
        vocab_size = SIZES[self.size]().vocab_size
        ids = torch.randint(5, vocab_size, self.rectangle, generator=torch.Generator().manual_seed(0))
        if not self.half_padded:
            return {"input_ids": ids.to(device)}
        mask = torch.arange(self.rectangle[1]) < torch.tensor(half_lengths(*self.rectangle))[:, None]
        return {"input_ids": ids.where(mask, 0).to(device), "attention_mask": mask.long().to(device)}


def half_lengths(batch: int, length: int) -> list[int]:
    """Lengths of rows that fill half of a rectangle: one as long as it, the others spread evenly around their mean."""
    others = batch - 1
    mean = (batch * length / 2 - length) / others
    return [round(mean * (0.25 + 1.5 * row / max(1, others - 1))) for row in range(others)] + [length]


def _sentences(count: int, device: torch.device) -> dict[str, torch.Tensor]:
    lines = SENTENCES.read_text(encoding="utf-8").splitlines()[:count]
    tokenizer = ConvBertTokenizerFast.from_pretrained(embedded.folder())
    batch = tokenizer(lines, padding=True, return_tensors="pt")
    return {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}


def row_lengths(inputs: dict[str, torch.Tensor]) -> list[int]:
    """Tokens of each row, padding left out."""
    if "attention_mask" in inputs:
        return inputs["attention_mask"].sum(1).tolist()
    batch, length = inputs["input_ids"].shape
    return [length] * batch


def _in(dtypes: list[str], cases: list[Case]) -> list[Case]:
    return [replace(case, dtype=dtype) for dtype, case in product(dtypes, cases)]


_RECTANGLES = ((1, 32), (8, 128), (2, 512))
_EVERY_SHAPE = [
    *(Case(size, rectangle) for size in PUBLISHED for rectangle in _RECTANGLES),
    *(Case(size, sentences=count) for size in PUBLISHED for count in (32, 128)),
]
_TRAINING = [Case("small", (32, 128)), Case("medium-small", (32, 128)), *_EVERY_SHAPE]
_TRAINING_GPU = [Case("base", (64, 128)), Case("base", (16, 512))]


def dtypes(device: torch.device) -> list[str]:
    """The precisions that `device` multiplies in hardware; a GPU is asked for bfloat16 alone."""
    if device.type != "cpu":
        return ["bfloat16"] if supports_bfloat16(device) else ["float32"]
    return ["float32", "bfloat16"] if supports_bfloat16(device) else ["float32"]


def forward_cases(device: torch.device) -> list[Case]:
    more = [] if device.type == "cpu" else _TRAINING_GPU
    return _in(dtypes(device), [*_EVERY_SHAPE, *more])


def training_cases(device: torch.device) -> list[Case]:
    cases = _TRAINING if device.type == "cpu" else _TRAINING_GPU
    return [replace(case, step="training") for case in _in(dtypes(device), cases)]


def memory_cases(device: torch.device) -> list[Case]:
    if device.type == "cpu":
        steps = [
            *(Case(*shape, step="training") for shape in (("small", (32, 128)), ("base", (8, 128)))),
            Case("small", (8, 128)),
        ]
        return _in(["float32"], steps)
    steps = [replace(case, step=step) for case in _TRAINING_GPU for step in ("training", "forward")]
    return _in(dtypes(device), steps)


def padding_cases(device: torch.device) -> list[Case]:
    whole = [Case("small", (16, 512))] if device.type == "cpu" else _TRAINING_GPU
    steps = [replace(case, step=step, half_padded=True) for case in whole for step in ("forward", "training")]
    return _in(dtypes(device)[-1:], steps)


def pretraining_cases(device: torch.device) -> list[Case]:
    shapes = (
        [Case("small", (16, 128)), Case("medium-small", (16, 128)), Case("base", (4, 128))]
        if device.type == "cpu"
        else [Case("small", (128, 128)), Case("base", (256, 128))]
    )
    steps = [replace(case, step=objective) for case in shapes for objective in ("rtd", "mlm")]
    return _in(dtypes(device), steps)


@dataclass(frozen=True)
class Bar:
    """A figure to reach: a subject's measure, or its ratio to another's, at most or at least so much.

    Attributes:
        part, case, dtype, device: where it is measured.
        subject, over: of whom; `over=None` is the subject's own measure.
    """

    part: str
    case: str
    subject: str
    over: str | None = None
    at_most: float | None = None
    at_least: float | None = None
    dtype: str = "float32"
    device: str = "cpu"

    def __str__(self) -> str:
        return f"≤ {self.at_most:g}" if self.at_most is not None else f"≥ {self.at_least:g}"

    def is_met(self, figure: float) -> bool:
        return figure <= self.at_most if self.at_most is not None else figure >= (self.at_least or 0.0)


OURS, THEIRS, FLOOR = "ours", "transformers' ConvBERT", "floor"
COMPILED = f"{THEIRS}, compiled"
FILLED = "ours, all positions filled"
INT8 = "ours, int8"
ONNX, ONNX_INT8, OPENVINO = "ONNX Runtime", "ONNX Runtime, dynamic int8", "OpenVINO"
RUNTIME_CASES = [
    Case(size, rectangle, sentences)
    for size in ("small", "base")
    for rectangle, sentences in (((1, 32), None), ((8, 128), None), (None, 16))
]
COPY = "copy of as many bytes"
SPEED, UTILISATION, INPUT_WAIT = "tokens a second", "utilisation in %", "input wait in %"
THEIRS_FLOAT32 = f"{THEIRS}, float32"
ELECTRA, BERT = "transformers' ELECTRA, SDPA", "transformers' BERT, SDPA"
RIVAL = {"tiny": ELECTRA, "small": ELECTRA, "medium-small": ELECTRA, "base": BERT}

_GPU = {"dtype": "bfloat16", "device": "cuda"}
_ON_TRAINING_GPU = [
    bar
    for case in _TRAINING_GPU
    for bar in (
        Bar("training", case.name, THEIRS, OURS, at_least=3.0, **_GPU),
        Bar("training", case.name, BERT, OURS, at_least=1.0, **_GPU),
        Bar("memory", f"training, {case.name}", OURS, THEIRS, at_most=0.5, **_GPU),
        *(
            Bar("padding", f"{step}, {case.name} half padded", FILLED, OURS, at_least=1.7, **_GPU)
            for step in ("forward", "training")
        ),
    )
]
BARS = [
    Bar("forward", "base 8×128", OURS, FLOOR, at_most=1.08),
    Bar("forward", "base 2×512", OURS, FLOOR, at_most=1.08),
    Bar("forward", "small 8×128", OURS, FLOOR, at_most=1.20),
    Bar("forward", "medium-small 8×128", OURS, FLOOR, at_most=1.20),
    Bar("forward", "small 1×32", THEIRS, OURS, at_least=2.5),
    Bar("forward", "base 1×32", THEIRS, OURS, at_least=1.8),
    *(Bar("forward", f"{size} 1×32", RIVAL[size], OURS, at_least=1.0) for size in ("small", "base")),
    Bar("forward", "base 8×128", OURS, FLOOR, at_most=1.25, dtype="bfloat16"),
    Bar("forward", "base 8×128", THEIRS_FLOAT32, OURS, at_least=2.2, dtype="bfloat16"),
    *(Bar("forward", f"{size} 8×128", RIVAL[size], OURS, at_least=1.0) for size in PUBLISHED),
    Bar("training", "small 32×128", THEIRS, OURS, at_least=1.6),
    Bar("training", "base 8×128", THEIRS, OURS, at_least=1.3),
    *(Bar("training", f"{size} 1×32", THEIRS, OURS, at_least=1.0) for size in ("small", "base")),
    Bar("memory", "training, small 32×128", OURS, THEIRS, at_most=0.55),
    Bar("pipeline", "base, random weights", THEIRS, "ours, float32", at_least=2.0, dtype="any"),
    Bar("pipeline", "base, random weights", THEIRS, "ours, best precision", at_least=4.0, dtype="any"),
    *(
        Bar(
            "pipeline",
            "embedded model, same answers as in float32",
            f"ours, {name}",
            at_least=99.5,
            dtype="any",
        )
        for name in ("bfloat16", "int8")
    ),
    Bar("pipeline", "embedded model, lost against float32", "ours, int8", at_most=0.5, dtype="any"),
    Bar("masked_lm", "base 8×128", "ours, all logits", OURS, at_least=1.2),
    Bar("int8", "base 8×128", THEIRS, INT8, at_least=4.0, dtype="int8"),
    *(
        Bar("int8", f"{size} 8×128", THEIRS, INT8, at_least=3.0, dtype="int8")
        for size in ("small", "medium-small")
    ),
    *(
        Bar("runtimes", case, peer, ours, at_least=1.5 if "sentences" in case else 1.0)
        for case in (case.name for case in RUNTIME_CASES)
        for peer, ours in ((ONNX, OURS), (OPENVINO, OURS), (ONNX_INT8, INT8))
    ),
    *(
        Bar("pretraining", f"rtd, {case}", INPUT_WAIT, at_most=2.0)
        for case in ("small 16×128", "medium-small 16×128", "base 4×128")
    ),
    *(
        Bar("pretraining", f"rtd, {case}", INPUT_WAIT, at_most=2.0, **_GPU)
        for case in ("small 128×128", "base 256×128")
    ),
    Bar("pretraining", "rtd, base 256×128", SPEED, at_least=400_000.0, **_GPU),
    *_ON_TRAINING_GPU,
    *(
        Bar("bandwidth", f"span_dynamic_conv {way}", COPY, OURS, at_least=0.6, **_GPU)
        for way in ("forward", "backward")
    ),
]
