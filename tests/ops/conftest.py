"""The forms of the CPU ops: every build of the compiled kernels, and PyTorch alone, as without a compiler."""

import pytest

from convbert.ops import compiled
from helpers import FORMS


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    name = request.param
    library = None if name == "portable" else compiled.open_build(name)[0]
    found = (None, None, "the tests pretend so") if library is None else (name, library, None)
    monkeypatch.setattr(compiled, "_load", lambda: found)
    return name
