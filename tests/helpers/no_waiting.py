"""Meta device on which every operation that would synchronize host and GPU is refused.

Tensors on torch's ``meta`` device have shapes and types but no values, so torch itself refuses to
read a value, or to compute a shape that depends on values. Copies from the host synchronize on a
GPU but not on ``meta``; this module refuses them.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.pretend_device import DEVICE

COPIES = (torch.ops.aten._to_copy, torch.ops.aten.copy_)
INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put_, torch.ops.aten._index_put_impl_)
MAKERS = (torch.tensor, torch.as_tensor, torch.scalar_tensor)


class SynchronizationError(AssertionError):
    """The operation would synchronize the host with the device."""


class _NoCopies(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in COPIES:
            source = args[1] if func.overloadpacket is torch.ops.aten.copy_ else args[0]
            if source.device != result.device:
                raise SynchronizationError(f"{func} from {source.device} to {result.device}")
        if func.overloadpacket in INDEXING and args[0].device == DEVICE:
            indices = [index for index in args[1] if index is not None]
            if any(index.device != DEVICE for index in indices):
                raise SynchronizationError(f"{func} with positions on the host")
            if any(index.dtype == torch.bool for index in indices) and args[2].numel() > 1:
                raise SynchronizationError(
                    f"{func} with a mask, whose true values the device must count"
                )
        return result


class _NoNumbers(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        device = (kwargs or {}).get("device")
        if func in MAKERS[:2] and device is not None and torch.device(device) == DEVICE:
            raise SynchronizationError(f"{func.__name__} copies numbers to {device}")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Refuse operations that synchronize the host with the device."""
    with _NoNumbers(), _NoCopies():
        yield
