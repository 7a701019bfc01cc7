"""Both forms of the CPU ops: the compiled kernels, and PyTorch alone, as on a machine without a compiler."""

import pytest

from convbert.ops import compiled


@pytest.fixture(params=["compiled", "portable"])
def form(request, monkeypatch):
    if request.param == "portable":
        monkeypatch.setattr(compiled, "_load", lambda: (None, None, "the tests pretend so"))
    return request.param
