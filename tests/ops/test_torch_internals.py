"""The names of torch's that are not public are there: an upgrade that renames one fails here, by name."""

import pytest
import torch
from torch import nn

from convbert.ops import _torch_internals as internals
from convbert.ops.attention import attention, attention_with_weights, cpu
from helpers import assert_close, bounds


def test_attention_on_a_cpu():
    assert internals.flash is not None, (
        "torch.ops.aten has no flash attention for CPUs: plain steps would run"
    )
    assert internals.flash_backward is not None


def test_assertions_on_a_gpu():
    assert hasattr(torch, "_assert_async")


def test_hooks():
    module = nn.Linear(2, 2)
    hooks = internals.hooks_of(module)
    assert hooks is not None, "nn.Module keeps its hooks under other names: no encoder would be frozen"
    assert internals.hooks_of_all_modules() is not None
    listen = (
        module.register_forward_hook,
        module.register_forward_pre_hook,
        module.register_full_backward_hook,
        module.register_full_backward_pre_hook,
    )
    for register in listen:
        assert not internals.is_listened_to(module)
        handle = register(lambda *args: None)
        assert any(hooks), register.__name__
        assert internals.is_listened_to(module)
        handle.remove()
    handle = nn.modules.module.register_module_forward_hook(lambda *args: None)
    assert any(internals.hooks_of_all_modules())
    handle.remove()


def test_compiled_modules():
    module = nn.Linear(2, 2)
    assert internals.compiled_from(torch.compile(module)) is module
    assert internals.compiled_from(module) is None


def test_versions():
    x = torch.zeros(2)
    before = internals.version_of(x)
    x.add_(1)
    assert internals.version_of(x) == before + 1
    with torch.inference_mode():
        assert internals.version_of(torch.zeros(2)) is None


def test_transformations():
    seen = []

    def look(x):
        seen.append(internals.is_transformed())
        return x * 2

    x = torch.ones(2)
    look(x)
    torch.func.vmap(look)(x)
    torch.func.jvp(look, (x,), (x,))
    torch.jit.trace(look, x, check_trace=False)
    with torch.autograd.forward_ad.dual_level():
        look(x)
    assert seen == [False, True, True, True, True]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_attention_without_them(monkeypatch, dropout):
    """Plain steps, with gradients."""
    monkeypatch.setattr(cpu, "flash", None)
    monkeypatch.setattr(cpu, "flash_backward", None)
    inputs = [torch.randn(9, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    found = attention(*inputs, cu_seqlens=bounds([4, 5]), dropout=dropout)
    assert torch.isfinite(found).all()
    if dropout:
        return
    alone = [attention_with_weights(*(x[None, a:b] for x in inputs))[0][0] for a, b in ((0, 4), (4, 9))]
    expected, grad = torch.cat(alone), torch.randn_like(found)
    assert_close(found, expected, torch.float64)
    pairs = zip(
        torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    )
    for actual, wanted in pairs:
        assert_close(actual, wanted, torch.float64)
