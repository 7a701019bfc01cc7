from convbert.ops.depthwise_conv.op import depthwise_conv

__all__ = ["depthwise_conv"]
