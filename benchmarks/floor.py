"""The floor: only the matrix products of our network, same shapes, same dtype, each by the best library call.

A short race finds for each shape of product the fastest form: PyTorch's `mm`, `addmm` or `linear`, oneDNN's or MKL's,
with weights laid out or packed beforehand where they do not change (not in training). Operands are random numbers,
and everything that can be is allocated beforehand; each layer has its own weights, as in the network. Nothing else is
done: no bias, norm, activation, softmax, convolution or lookup."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.oracle import PRODUCTS
from benchmarks.timing import Call, measure
from convbert import ConvBertConfig

RACE_SECONDS = 2.0  # for all forms that race together, but at least so many turns
RACE_TURNS = 3
QUICK = 2e-3  # seconds; a quicker product meets the weights of all layers in its race, as their way from memory counts
FEW_LAYERS = 3


@dataclass(frozen=True)
class Product:
    """`batch` products of (rows, inner) by (inner, columns), the right one a weight or not. The name is for people."""

    name: str = field(compare=False)
    rows: int
    inner: int
    columns: int
    batch: int = 1
    has_weight: bool = True
    left_transposed: bool = False

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.rows * self.inner * self.columns

    def gradients(self) -> tuple[Product, Product]:
        """The products that give the gradients of the left and of the right factor."""
        left = Product(
            f"{self.name}, gradient", self.rows, self.columns, self.inner, self.batch, self.has_weight
        )
        # Rows of the weight's layout: (columns, rows) by (rows, inner).
        right = Product(
            f"{self.name}, gradient of the {'weight' if self.has_weight else 'right'}",
            self.columns,
            self.rows,
            self.inner,
            self.batch,
            has_weight=False,
            left_transposed=True,
        )
        return left, right


Stage = list[list[Product]]  # alternatives that compute the same; the fastest is taken


def stages(config: ConvBertConfig, lengths: Sequence[int]) -> tuple[list[Stage], list[Stage]]:
    """The products before the layers, and those of one layer, in the order of the network.

    Args:
        lengths: tokens of each sequence; padding does not exist here.
    """
    tokens, width, inner = sum(lengths), config.hidden_size, config.num_kept_heads * config.head_size
    one = Product("query", tokens, width, inner)
    before = []
    if config.embedding_size != width:
        before = [[[Product("embeddings", tokens, config.embedding_size, width)]]]
    layer: list[Stage] = [
        [[Product("query, key, value and convolution values", tokens, width, 4 * inner)], [one] * 4],
        [[Product("pointwise", tokens, width, inner)]],
        [[Product("kernels", tokens, inner, config.num_kept_heads * config.conv_kernel_size)]],
        *_attention(config, lengths),
        [[Product("attention output", tokens, 2 * inner, width)]],
        [[_feed_forward("widening", tokens, width, config.intermediate_size, config.num_groups)]],
        [[_feed_forward("narrowing", tokens, config.intermediate_size, width, config.num_groups)]],
    ]
    return before, layer


def _attention(config: ConvBertConfig, lengths: Sequence[int]) -> list[Stage]:
    """Scores and mix of each sequence; those of equal length are one batch."""
    together: list[Stage] = []
    for length, count in sorted(Counter(lengths).items()):
        batch, size = count * config.num_kept_heads, config.head_size
        scores = Product("scores", length, size, length, batch, has_weight=False)
        mix = Product("mix", length, length, size, batch, has_weight=False)
        together.append([[scores, mix]])
    return together


def _feed_forward(name: str, tokens: int, width: int, to: int, groups: int) -> Product:
    return Product(name, tokens, width // groups, to // groups, groups)


def flops(config: ConvBertConfig, lengths: Sequence[int]) -> int:
    """Floating-point operations of the forward products."""
    before, layer = stages(config, lengths)
    per_layer, once = (sum(p.flops for stage in part for p in stage[0]) for part in (layer, before))
    return once + config.num_hidden_layers * per_layer


Form = Callable[
    [Tensor, Tensor, Tensor], Call
]  # left (.., m, k), right as a weight (.., n, k), out (.., m, n)


def _mm(left: Tensor, right: Tensor, out: Tensor) -> Call:
    multiply, turned = (torch.mm if left.dim() == 2 else torch.bmm), right.transpose(-1, -2)
    return lambda: multiply(left, turned, out=out)


def _mm_turned(left: Tensor, right: Tensor, out: Tensor) -> Call:
    return _mm(left, right.transpose(-1, -2).contiguous().transpose(-1, -2), out)


def _addmm(left: Tensor, right: Tensor, out: Tensor) -> Call:
    turned, bias = right.t().contiguous(), right.new_zeros(right.shape[0])
    return lambda: torch.addmm(bias, left, turned, out=out)


def _linear(left: Tensor, right: Tensor, out: Tensor) -> Call:
    return lambda: F.linear(left, right)


def _onednn(left: Tensor, right: Tensor, out: Tensor) -> Call:
    return lambda: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")


def _onednn_packed(left: Tensor, right: Tensor, out: Tensor) -> Call:
    packed = torch.ops.mkldnn._reorder_linear_weight(right, left.shape[0])
    return lambda: torch.ops.mkldnn._linear_pointwise(left, packed, None, "none", [], "")


def _mkl_packed(left: Tensor, right: Tensor, out: Tensor) -> Call:
    packed = torch.ops.mkl._mkl_reorder_linear_weight(right, left.shape[0])
    return lambda: torch.ops.mkl._mkl_linear(left, packed, right, None, left.shape[0])


def _group_by_group(form: Form) -> Form:
    def every_group(left: Tensor, right: Tensor, out: Tensor) -> Call:
        groups = [form(*group) for group in zip(left, right, out, strict=True)]
        return lambda: [call() for call in groups]

    return every_group


def forms(product: Product, dtype: torch.dtype, device: torch.device, training: bool) -> dict[str, Form]:
    """The library calls that compute this product, by name."""
    found: dict[str, Form] = {"mm": _mm, "mm, turned": _mm_turned}
    if product.left_transposed or not product.has_weight:
        return found
    single: dict[str, Form] = {"linear": _linear, "addmm": _addmm}
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        single["oneDNN"] = _onednn
        if not training:
            single["oneDNN, packed"] = _onednn_packed
            if dtype == torch.float32 and torch.backends.mkl.is_available():
                single["MKL, packed"] = _mkl_packed
    if product.batch == 1:
        return {**found, **single}
    return {**found, **{f"{name}, by group": _group_by_group(form) for name, form in single.items()}}


@dataclass
class Entry:
    """A form in a race, with the weights of several layers; `seconds` is its best turn, per product."""

    product: Product
    name: str
    form: Form
    calls: list[Call]
    seconds: float = math.inf

    def take_turn(self, device: torch.device) -> float:
        """Through all layers' weights; the seconds that took."""
        took = measure(lambda: [call() for call in self.calls], 1, device)
        self.seconds = min(self.seconds, took / len(self.calls))
        return took


class Floor:
    """All products of one step, ready to be called.

    Attributes:
        flops: floating-point operations of a call.
        chosen: the form of each product that won its race.
    """

    def __init__(
        self,
        config: ConvBertConfig,
        lengths: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        *,
        training: bool = False,
    ) -> None:
        self.dtype, self.device, self.training = dtype, device, training
        self.num_layers = config.num_hidden_layers
        self.flops = flops(config, lengths) * (3 if training else 1)
        self.chosen: dict[str, str] = {}
        self._buffers: dict[tuple[object, ...], Tensor] = {}
        self._winners: dict[Product, Entry] = {}
        before, layer = stages(config, lengths)
        once, every = self._fastest(before), self._fastest(layer)
        forward = [once] + [every] * self.num_layers
        products = list(itertools.chain(*forward))
        if training:
            products += [grad for product in reversed(products) for grad in product.gradients()]
        self._calls = [self._call(product) for product in products]
        self._winners.clear()  # and with them the races' own weights

    @torch.no_grad()
    def __call__(self) -> None:
        for call in self._calls:
            call()

    def _fastest(self, part: list[Stage]) -> list[Product]:
        """Of each stage the fastest alternative, forward."""
        chosen: list[Product] = []
        for stage in part:
            self._race({product for alternative in stage for product in alternative})
            chosen += min(stage, key=lambda alternative: sum(self._winners[p].seconds for p in alternative))
        return chosen

    def _call(self, product: Product) -> Call:
        self._race({product})
        winner = self._winners[product]
        self.chosen[product.name] = winner.name
        return winner.form(*self._operands(product))

    def _race(self, products: set[Product]) -> None:
        """Find the fastest form of each product, among those with the right result: all take turns, the best counts."""
        entries = [entry for p in products if p not in self._winners for entry in self._entries(p)]
        if not entries:
            return
        once = sum(entry.take_turn(self.device) for entry in entries)
        for _ in range(max(RACE_TURNS, min(30, int(RACE_SECONDS / once)))):
            for entry in entries:
                entry.take_turn(self.device)
        for entry in sorted(entries, key=lambda entry: -entry.seconds):
            self._winners[entry.product] = entry  # the fastest comes last

    def _entries(self, product: Product) -> list[Entry]:
        first = self._operands(product)
        found = forms(product, self.dtype, self.device, self.training)
        right = {name: form for name, form in found.items() if _is_right(form(*first), *first)}
        is_quick = measure(right["mm"](*first), 1, self.device) < QUICK
        layers = self.num_layers if is_quick else min(FEW_LAYERS, self.num_layers)
        operands = [first, *(self._operands(product) for _ in range(layers - 1))]
        return [
            Entry(product, name, form, [form(*each) for each in operands]) for name, form in right.items()
        ]

    def _operands(self, product: Product) -> tuple[Tensor, Tensor, Tensor]:
        """Left and out from buffers that products share; a weight of its own for each call."""
        batch = (product.batch,) if product.batch > 1 else ()
        rows, inner, columns = product.rows, product.inner, product.columns
        if product.left_transposed:
            left = self._buffer("left", (*batch, inner, rows)).transpose(-1, -2)
            right = self._buffer("right", (*batch, inner, columns)).transpose(-1, -2)
        else:
            left = self._buffer("left", (*batch, rows, inner))
            shape = (*batch, columns, inner)
            right = self._random(shape) if product.has_weight else self._buffer("right", shape)
        return left, right, self._buffer("out", (*batch, rows, columns))

    def _buffer(self, role: str, shape: tuple[int, ...]) -> Tensor:
        if (role, shape) not in self._buffers:
            self._buffers[role, shape] = self._random(shape)
        return self._buffers[role, shape]

    def _random(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, device=self.device).to(self.dtype)


def _is_right(call: Call, left: Tensor, right: Tensor, out: Tensor) -> bool:
    """Whether a form computes the product: it returns its result, or one per group."""
    result = call()
    result = torch.stack(result) if isinstance(result, list) else result
    expected = left.float() @ right.float().transpose(-1, -2)
    error = (result.float() - expected).norm() / expected.norm()
    return error.item() <= PRODUCTS[str(left.dtype).removeprefix("torch.")]
