"""A device without numbers, on which whatever the host would wait for is refused.

Tensors live on torch's ``meta`` device, where shapes and types are computed and numbers are not: a
value that the host asks for, or a shape that depends on values, is an error of torch itself. What
torch lets pass there and waits for on a GPU, copies from the host, is refused here.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from pretend_device import THERE
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

COPIES = (torch.ops.aten._to_copy, torch.ops.aten.copy_)
INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put_, torch.ops.aten._index_put_impl_)
MAKERS = (torch.tensor, torch.as_tensor, torch.scalar_tensor)


class WaitsError(AssertionError):
    """The host would wait for the device."""


class _NoCopies(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in COPIES:
            source = args[1] if func.overloadpacket is torch.ops.aten.copy_ else args[0]
            if source.device != result.device:
                raise WaitsError(f"{func} from {source.device} to {result.device}")
        if func.overloadpacket in INDEXING and args[0].device == THERE:
            indices = [index for index in args[1] if index is not None]
            if any(index.device != THERE for index in indices):
                raise WaitsError(f"{func} with positions on the host")
            if any(index.dtype == torch.bool for index in indices) and args[2].numel() > 1:
                raise WaitsError(f"{func} with a mask, of which the device counts the places")
        return result


class _NoNumbers(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        device = (kwargs or {}).get("device")
        if func in MAKERS[:2] and device is not None and torch.device(device) == THERE:
            raise WaitsError(f"{func.__name__} copies numbers to {device}")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Refuse what waits for the device."""
    with _NoNumbers(), _NoCopies():
        yield
