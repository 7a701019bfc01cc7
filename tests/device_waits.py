"""Which operators of a program would sync with a GPU, counted on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
_READ = (
    *(aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero),
    *(aten.unique_consecutive, aten._unique2, aten.bincount),
)
_INDEXED = (aten.index, aten.index_put, aten.index_put_)


class DeviceWaits(TorchDispatchMode):
    """Notes operators whose result, or its shape, the program must know to go on; boolean indices among them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet in _READ or (packet in _INDEXED and any(x.dtype == torch.bool for x in _tensors(args[1]))):
            self.seen.append(packet)
        return func(*args, **(kwargs or {}))


def _tensors(indices: Any) -> Iterator[torch.Tensor]:
    return (index for index in indices if index is not None)
