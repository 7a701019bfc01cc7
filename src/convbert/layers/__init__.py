"""nn.Modules with weights, under the published parameter names. They read numbers, not the config."""

from convbert.layers.context import ForwardContext
from convbert.layers.embeddings import Embeddings
from convbert.layers.encoder_layer import EncoderLayer, LayerOutput
from convbert.layers.linear import GlorotLinear, GroupedLinear
from convbert.layers.mixed_attention import MixedAttention

__all__ = [
    "Embeddings",
    "EncoderLayer",
    "ForwardContext",
    "GlorotLinear",
    "GroupedLinear",
    "LayerOutput",
    "MixedAttention",
]
