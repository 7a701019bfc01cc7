"""Pure functions on tensors: no weights, no config. Shapes are named in docs/shapes.md."""

from convbert.ops.attention import attention
from convbert.ops.backends import Backend
from convbert.ops.depthwise_conv import depthwise_conv
from convbert.ops.linear import linear
from convbert.ops.span_dynamic_conv import span_dynamic_conv
from convbert.ops.unpad import Packing, pack_mask

__all__ = ["Backend", "Packing", "attention", "depthwise_conv", "linear", "pack_mask", "span_dynamic_conv"]
