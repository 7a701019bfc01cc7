"""nn.Modules with weights, under the published parameter names. They read numbers, not the config."""

from convbert.layers.block import Block, BlockOutput
from convbert.layers.embeddings import Embeddings
from convbert.layers.fused_block import FusedBlock
from convbert.layers.layout import Layout
from convbert.layers.linear import GlorotLinear, GroupedLinear, Linear, is_plain, project_and_gelu
from convbert.layers.mixed_attention import MixedAttention
from convbert.layers.packed_linear import PackedLinear, copy_sharing

__all__ = [
    "Block",
    "BlockOutput",
    "Embeddings",
    "FusedBlock",
    "GlorotLinear",
    "GroupedLinear",
    "Layout",
    "Linear",
    "MixedAttention",
    "PackedLinear",
    "copy_sharing",
    "is_plain",
    "project_and_gelu",
]
