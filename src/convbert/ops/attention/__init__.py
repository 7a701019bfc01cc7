from convbert.ops.attention.op import attention, attention_with_weights
from convbert.ops.attention.packed import packed_form

__all__ = ["attention", "attention_with_weights", "packed_form"]
