"""Pure functions on tensors: no weights, no config. Shapes are named in docs/shapes.md."""

from convbert.ops.add_norm import add_norm
from convbert.ops.attention import attention, attention_with_weights
from convbert.ops.backends import Backend
from convbert.ops.depthwise_conv import depthwise_conv
from convbert.ops.dropout import dropout
from convbert.ops.gelu import gelu, gelu_linear
from convbert.ops.span_dynamic_conv import span_dynamic_conv
from convbert.ops.varlen import PaddingPlan, VarlenBounds

__all__ = [
    "Backend",
    "PaddingPlan",
    "VarlenBounds",
    "add_norm",
    "attention",
    "attention_with_weights",
    "depthwise_conv",
    "dropout",
    "gelu",
    "gelu_linear",
    "span_dynamic_conv",
]
