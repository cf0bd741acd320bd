"""Emulation of a GPU by tensors that are on torch's ``meta`` device but have values on the CPU.

Code computes the same values and takes the same branches as on a CPU. Operations that CUDA refuses
raise an error: tensors of two devices in one call, indices on the wrong device, a generator of the
other device, a call without a CUDA kernel. Operations that CUDA allows but that synchronize host
and device are counted: reading values, shapes that depend on values, and copies.
"""

import contextlib
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from trainables.context import Context

DEVICE = torch.device("meta")
ATEN = torch.ops.aten
COPIES = (ATEN._to_copy, ATEN.copy_)
INDEXING = (ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_)
# calls, besides pointwise operations, in which CUDA accepts a number from the host
TAKE_NUMBERS = (*INDEXING[1:], ATEN.fill_, ATEN.masked_fill, ATEN.masked_fill_, ATEN.where)
HOST_ASKS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
CPU_GENERATOR = torch.Generator


class CudaRefusalError(AssertionError):
    """CUDA would refuse the call: its arguments are on two devices, or it has no CUDA kernel."""


class DeviceTensor(Tensor):
    """Tensor on the emulated device; ``numbers`` holds its values on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "DeviceTensor":
        made: DeviceTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=DEVICE,
        )
        made.numbers = numbers
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        return _call(func, args, kwargs or {}, [])


class _Dispatch(TorchDispatchMode):
    """Checks every call of a kernel, and computes it with the values on the CPU."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        return _call(func, args, kwargs or {}, self.waits)


class _Functions(TorchFunctionMode):
    """Handles functions of torch's Python binding that access a tensor's memory."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        if func is Tensor.tolist and isinstance(args[0], DeviceTensor):
            return args[0].cpu().tolist()
        if func is Tensor.new_tensor and isinstance(args[0], DeviceTensor):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(DEVICE)
        device, generator = kwargs.get("device"), kwargs.get("generator")
        if isinstance(generator, CPU_GENERATOR):
            given = [leaf.device for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
            draws_on_device = DEVICE in (given if device is None else [torch.device(device)])
            if draws_on_device is not isinstance(generator, DeviceGenerator):
                raise CudaRefusalError(f"{func} with a generator on {generator.device}")
        makes = func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], DeviceTensor)
        if makes and device is not None and torch.device(device) == DEVICE:
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        return func(*args, **kwargs)


def _call(func: Any, args: Any, kwargs: dict[str, Any], waits: list[str]) -> object:
    """Check a call, compute it on the CPU, and return the result on the device CUDA would use."""
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    wanted = kwargs.get("device")
    on_device = any(isinstance(tensor, DeviceTensor) for tensor in tensors)
    result_on_device = on_device if wanted is None else torch.device(wanted) == DEVICE
    if not on_device and not result_on_device:
        return func(*args, **kwargs)
    if func.overloadpacket in COPIES:
        source, target = (
            reversed(args[:2]) if func.overloadpacket is ATEN.copy_ else (args[0], None)
        )
        to_device = result_on_device if target is None else isinstance(target, DeviceTensor)
        if isinstance(source, DeviceTensor) is not to_device:
            waits.append(f"{func} {'to' if to_device else 'from'} the device")
        result_on_device = to_device
    else:
        _check(func, args, tensors, waits)
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = func(*_numbers(args), **_numbers(kwargs))
    changed = (
        {id(t.numbers): t for t in tensors if isinstance(t, DeviceTensor)} if _writes(func) else {}
    )

    def wrapped(value: object) -> object:
        return changed.get(id(value), DeviceTensor(value)) if isinstance(value, Tensor) else value

    return tree_map(wrapped, result) if result_on_device else result


def _writes(func: Any) -> bool:
    return bool(func._schema.is_mutable)


def _numbers(values: Any) -> Any:
    return tree_map(
        lambda value: value.numbers if isinstance(value, DeviceTensor) else value, values
    )


def _check(func: Any, args: Any, tensors: list[Tensor], waits: list[str]) -> None:
    """Refuse calls that CUDA refuses, and note calls that synchronize."""
    packet, here = func.overloadpacket, [t for t in tensors if not isinstance(t, DeviceTensor)]
    if packet in INDEXING and isinstance(args[0], DeviceTensor):
        positions = [position for position in args[1] if position is not None]
        if any(not isinstance(position, DeviceTensor) for position in positions):
            waits.append(f"{func} with positions on the host")
            here = [t for t in here if not any(t is position for position in positions)]
        masked = any(position.dtype == torch.bool for position in positions)
        if masked and (packet is ATEN.index or args[2].numel() > 1):
            waits.append(f"{func} with a mask, whose true values the device must count")
    takes_numbers = torch.Tag.pointwise in func.tags or packet in TAKE_NUMBERS
    if any(tensor.ndim or not takes_numbers for tensor in here):
        raise CudaRefusalError(f"{func} of {[(t.device.type, list(t.shape)) for t in tensors]}")
    if packet not in INDEXING and any(tag in func.tags for tag in HOST_ASKS):
        waits.append(f"{func}, whose result the host reads")
    if torch.version.cuda and not _has_kernel(func.name()):
        raise CudaRefusalError(f"{func} has no CUDA kernel")


@cache
def _has_kernel(name: str) -> bool:
    return any(
        torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
        for key in ("CUDA", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    ) or torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")


class DeviceGenerator(torch.Generator):
    """Generator of the emulated device with the random numbers of the CPU."""

    device = DEVICE

    def manual_seed(self, seed: int) -> Self:
        super().manual_seed(seed)
        return self


class _EitherGenerator(CPU_GENERATOR):
    """Replacement of ``torch.Generator``, which does not support the emulated device."""

    def __new__(cls, device: torch.device | str = "cpu") -> torch.Generator:  # type: ignore[misc]
        return DeviceGenerator() if torch.device(device) == DEVICE else CPU_GENERATOR(device)


class _Module:
    """Replacement of ``torch.cuda`` that uses the global generator of the CPU."""

    def get_rng_state(self, device: object) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object) -> None:
        torch.set_rng_state(state)


class DeviceContext(Context):
    """Context with generators of the emulated device."""

    def generator(self, *names: str | int, device: str = "cpu") -> torch.Generator:
        drawn = super().generator(*names)
        return drawn if device == "cpu" else DeviceGenerator().manual_seed(drawn.initial_seed())


def _forget_tables() -> None:
    """Clear caches by device, because their meta tensors without values are useless here."""
    modules = [module for name, module in sys.modules.items() if name.startswith("trainables.")]
    for value in [value for module in modules for value in vars(module).values()]:
        if hasattr(value, "cache_clear") and "device" in inspect.signature(value).parameters:
            value.cache_clear()


@contextlib.contextmanager
def pretend_device() -> Iterator[list[str]]:
    """Emulate a device, and yield the growing list of operations that synchronize.

    Autocast is off, because it does not support the device. Inference mode is off, because torch
    does not decompose calls in it before they reach this module.
    """
    waits: list[str] = []
    _forget_tables()
    with (
        patch("torch.Generator", _EitherGenerator),
        patch("torch.meta", _Module(), create=True),
        patch("torch.inference_mode", torch.no_grad),
        patch("torch.autocast", lambda *_, **__: contextlib.nullcontext()),
        _Functions(),
        _Dispatch(waits),
    ):
        try:
            yield waits
        finally:
            _forget_tables()
