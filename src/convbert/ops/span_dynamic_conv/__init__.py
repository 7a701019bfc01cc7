from convbert.ops.span_dynamic_conv.op import span_dynamic_conv

__all__ = ["span_dynamic_conv"]
