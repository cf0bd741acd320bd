"""A device that is not there, with real numbers: what must not meet, and what the host waits for.

Tensors say that they are on torch's ``meta`` device and hold their numbers on the CPU. So code runs
through with the values it would have, takes every branch it would take, and gives what it gives on
a CPU, while what CUDA refuses is refused: tensors of both devices in one call, positions on the
wrong one, a generator of the other one, a call that has no CUDA kernel. What CUDA allows but waits
for is counted: numbers and shapes that the host asks for, and copies.
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

THERE = torch.device("meta")
ATEN = torch.ops.aten
COPIES = (ATEN._to_copy, ATEN.copy_)
INDEXING = (ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_)
# calls beside the pointwise ones in which CUDA takes a number from the host
TAKE_NUMBERS = (*INDEXING[1:], ATEN.fill_, ATEN.masked_fill, ATEN.masked_fill_, ATEN.where)
HOST_ASKS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
CPU_GENERATOR = torch.Generator


class MixedError(AssertionError):
    """CUDA would refuse the call: what it is given is on two devices, or has no kernel there."""


class There(Tensor):
    """A tensor that says it is on the device; ``numbers`` are its values."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "There":
        made: There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=THERE,
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
    """Checks every call that reaches a kernel, and computes it with the numbers."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        return _call(func, args, kwargs or {}, self.waits)


class _Functions(TorchFunctionMode):
    """Catches what torch's own Python binding would do with a tensor's memory."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        if func is Tensor.tolist and isinstance(args[0], There):
            return args[0].cpu().tolist()
        if func is Tensor.new_tensor and isinstance(args[0], There):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(THERE)
        device, generator = kwargs.get("device"), kwargs.get("generator")
        if isinstance(generator, CPU_GENERATOR):
            given = [leaf.device for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
            draws_there = THERE in (given if device is None else [torch.device(device)])
            if draws_there is not isinstance(generator, ThereGenerator):
                raise MixedError(f"{func} with a generator on {generator.device}")
        makes = func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], There)
        if makes and device is not None and torch.device(device) == THERE:
            return func(*args, **{**kwargs, "device": "cpu"}).to(THERE)
        return func(*args, **kwargs)


def _call(func: Any, args: Any, kwargs: dict[str, Any], waits: list[str]) -> object:
    """Check a call, compute it with the numbers, and put the result where CUDA would have it."""
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    wanted = kwargs.get("device")
    is_there = any(isinstance(tensor, There) for tensor in tensors)
    goes_there = is_there if wanted is None else torch.device(wanted) == THERE
    if not is_there and not goes_there:
        return func(*args, **kwargs)
    if func.overloadpacket in COPIES:
        source, target = (
            reversed(args[:2]) if func.overloadpacket is ATEN.copy_ else (args[0], None)
        )
        to_there = goes_there if target is None else isinstance(target, There)
        if isinstance(source, There) is not to_there:
            waits.append(f"{func} {'to' if to_there else 'from'} the device")
        goes_there = to_there
    else:
        _check(func, args, tensors, waits)
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = func(*_numbers(args), **_numbers(kwargs))
    changed = {id(t.numbers): t for t in tensors if isinstance(t, There)} if _writes(func) else {}

    def there(value: object) -> object:
        return changed.get(id(value), There(value)) if isinstance(value, Tensor) else value

    return tree_map(there, result) if goes_there else result


def _writes(func: Any) -> bool:
    return bool(func._schema.is_mutable)


def _numbers(values: Any) -> Any:
    return tree_map(lambda value: value.numbers if isinstance(value, There) else value, values)


def _check(func: Any, args: Any, tensors: list[Tensor], waits: list[str]) -> None:
    """Refuse what CUDA refuses, and note what it waits for."""
    packet, here = func.overloadpacket, [t for t in tensors if not isinstance(t, There)]
    if packet in INDEXING and isinstance(args[0], There):
        positions = [position for position in args[1] if position is not None]
        if any(not isinstance(position, There) for position in positions):
            waits.append(f"{func} with positions on the host")
            here = [t for t in here if not any(t is position for position in positions)]
        masked = any(position.dtype == torch.bool for position in positions)
        if masked and (packet is ATEN.index or args[2].numel() > 1):
            waits.append(f"{func} with a mask, of which the device counts the places")
    takes_numbers = torch.Tag.pointwise in func.tags or packet in TAKE_NUMBERS
    if any(tensor.ndim or not takes_numbers for tensor in here):
        raise MixedError(f"{func} of {[(t.device.type, list(t.shape)) for t in tensors]}")
    if packet not in INDEXING and any(tag in func.tags for tag in HOST_ASKS):
        waits.append(f"{func}, of which the host asks for a result")
    if torch.version.cuda and not _has_kernel(func.name()):
        raise MixedError(f"{func} has no CUDA kernel")


@cache
def _has_kernel(name: str) -> bool:
    return any(
        torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
        for key in ("CUDA", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    ) or torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")


class ThereGenerator(torch.Generator):
    """A generator on the device; it draws what one of the CPU with its seed draws."""

    device = THERE

    def manual_seed(self, seed: int) -> Self:
        super().manual_seed(seed)
        return self


class _EitherGenerator(CPU_GENERATOR):
    """Stands for ``torch.Generator``, which does not know the device."""

    def __new__(cls, device: torch.device | str = "cpu") -> torch.Generator:  # type: ignore[misc]
        return ThereGenerator() if torch.device(device) == THERE else CPU_GENERATOR(device)


class _Module:
    """Stands for ``torch.cuda``: the device draws from the ambient generator of the CPU."""

    def get_rng_state(self, device: object) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object) -> None:
        torch.set_rng_state(state)


class ThereContext(Context):
    """A context whose generators may be on the device."""

    def generator(self, *names: str | int, device: str = "cpu") -> torch.Generator:
        drawn = super().generator(*names)
        return drawn if device == "cpu" else ThereGenerator().manual_seed(drawn.initial_seed())


def _forget_tables() -> None:
    """Clear caches that hold something per device: without numbers it would be of no use here."""
    modules = [module for name, module in sys.modules.items() if name.startswith("trainables.")]
    for value in [value for module in modules for value in vars(module).values()]:
        if hasattr(value, "cache_clear") and "device" in inspect.signature(value).parameters:
            value.cache_clear()


@contextlib.contextmanager
def pretend_device() -> Iterator[list[str]]:
    """Compute on the device that is not there; gives the list of what was waited for, as it grows.

    Autocast, which does not know the device, is off, and so is inference mode, in which calls are
    not taken apart before they come here.
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
