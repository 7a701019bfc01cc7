"""Every op that the package declares to PyTorch keeps PyTorch's rules: schema, fake, gradient, tracing."""

import pytest
import torch

from helpers import FORMS, bounds

TOKENS, LENGTHS = 7, [2, 0, 5]
SEED = torch.tensor(7)


def convolution(name, cu_seqlens):
    """Inputs of the forward op."""
    tokens = (TOKENS,) if cu_seqlens is not None else (2, TOKENS)
    if name == "depthwise_conv":
        return torch.randn(*tokens, 6), torch.randn(6, 1, 3), cu_seqlens
    return torch.randn(*tokens, 2, 3), torch.randn(*tokens, 2, 5), cu_seqlens


def samples(name):
    """Inputs of an op, in each of its forms."""
    forward, is_backward = name.removesuffix("_backward"), name.endswith("_backward")
    if forward == "attention":
        for shape, ends in (((2, TOKENS), None), ((TOKENS,), bounds(LENGTHS))):
            inputs = *(torch.randn(*shape, 2, 3) for _ in range(3)), ends, None if ends is None else 5
            for rest in ((0.0, None), (0.4, SEED)):
                if is_backward:
                    results = torch.ops.convbert.attention(*inputs, *rest)
                    yield torch.randn_like(inputs[0]), *inputs, *results, *rest
                else:
                    yield *inputs, *rest
        return
    for cu_seqlens in (None, bounds(LENGTHS)):
        inputs = convolution(forward, cu_seqlens)
        yield (torch.randn_like(inputs[0]), *inputs) if is_backward else inputs


def with_gradients(inputs):
    """Numbers of the forward ops ask for gradients; the backward ops have none."""
    return [
        x.requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs
    ]


OPS = ["span_dynamic_conv", "depthwise_conv", "attention"]


def test_these_are_all():
    declared = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("convbert::")}
    assert declared == {
        *(f"convbert::{op}{suffix}" for op in OPS for suffix in ("", "_backward")),
    }


@pytest.mark.parametrize("form", dict.fromkeys([FORMS[0], "portable"]), indirect=True)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("suffix", ["", "_backward"], ids=["forward", "backward"])
def test_opcheck(form, op, suffix):
    for inputs in samples(op + suffix):
        inputs = inputs if suffix else with_gradients(inputs)
        torch.library.opcheck(getattr(torch.ops.convbert, op + suffix), tuple(inputs))
