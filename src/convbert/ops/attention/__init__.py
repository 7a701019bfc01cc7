from convbert.ops.attention.op import attention
from convbert.ops.attention.reference import attention_with_weights

__all__ = ["attention", "attention_with_weights"]
