"""Names of tensors: those that other programs give to the tensors of the same network."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from trainables.errors import ConfigError

# what programs put before the names of a network that is a part of theirs
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "backbone.", "encoder.")
COUNTER = "num_batches_tracked"  # of a batch norm; files of older programs lack it

Tensors = Mapping[str, Tensor]


def named_as(network: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
    """Return those of a file's tensors that a network needs, under the network's names.

    Names may have the prefixes `PREFIXES`, and may be those of the program EfficientNet-PyTorch.
    Where no such names fit, the network's family in timm converts the tensors if it can, such as
    position embeddings of another image size. Further tensors, such as a head's, are left out.

    Raises:
        ConfigError: Tensors are missing or of other shapes, or two parts of the file fit.
    """
    wanted = network.state_dict()
    candidates = {start: _as_timm(part, wanted) for start, part in _parts(dict(tensors))}
    fitting = {start: part for start, part in candidates.items() if not misfit(part, wanted)}
    if not fitting:
        made = {start: _converted(network, part) for start, part in candidates.items()}
        fitting = {start: part for start, part in made.items() if not misfit(part, wanted)}
    if len(fitting) > 1:
        starts = " and ".join(f"'{start}*'" for start in fitting)
        raise ConfigError(f"two networks fit, with the names {starts}; keep one of them")
    if not fitting:
        closest = max(candidates.values(), key=lambda part: len(part.keys() & wanted.keys()))
        raise ConfigError(misfit(closest, wanted))
    found = next(iter(fitting.values()))
    return {name: found.get(name, own) for name, own in wanted.items()}


def misfit(tensors: Tensors, wanted: Tensors) -> str:
    """Say why tensors are not those of a network; empty if they are."""
    missing = [name for name in wanted if name not in tensors and not name.endswith(COUNTER)]
    if missing:
        return (
            f"lacks {len(missing)} of the network's {len(wanted)} tensors, first '{missing[0]}'; "
            f"its own first is '{next(iter(tensors), '')}'"
        )
    for name, own in wanted.items():
        if name in tensors and tensors[name].shape != own.shape:
            return (
                f"is of another network: {name} has the shape {list(tensors[name].shape)} in place "
                f"of {list(own.shape)}"
            )
    return ""


def _parts(tensors: dict[str, Tensor], start: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the tensors and each part of them that shares a prefix, without it; nested ones too."""
    yield start, tensors
    for prefix in PREFIXES:
        part = {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        if part:
            yield from _parts(part, f"{start}{prefix}")


def _converted(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as the network's family in timm converts those of other programs."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        made: dict[str, Tensor] = convert(dict(tensors), network)
    except Exception:  # not made for tensors of any other names
        return tensors
    return made


# --- EfficientNet-PyTorch --------------------------------------------------------------------


def _as_timm(tensors: dict[str, Tensor], wanted: Tensors) -> dict[str, Tensor]:
    """Return tensors of EfficientNet-PyTorch under timm's names; others as they are.

    There, blocks are counted from first to last, here within their stages. A block that expands its
    channels first has three convolutions, another one has two.
    """
    if "_conv_stem.weight" not in tensors:
        return tensors
    found = {
        match[1]: None for match in map(re.compile(r"(blocks\.\d+\.\d+)\.").match, wanted) if match
    }
    blocks = [*found]
    return {_timm_name(name, tensors, blocks): value for name, value in tensors.items()}


OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}


def _timm_name(name: str, tensors: Tensors, blocks: list[str]) -> str:
    """Return timm's name of a tensor of EfficientNet-PyTorch."""
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if match is None:
        layer, _, rest = name.partition(".")
        return f"{OUTER.get(layer, layer)}.{rest}"
    number, layer, rest = int(match[1]), match[2], match[3]
    expands = f"_blocks.{number}._expand_conv.weight" in tensors
    layers = {**(EXPANDING if expands else PLAIN), **SQUEEZE}
    block = blocks[number] if number < len(blocks) else f"blocks.{number}"
    return f"{block}.{layers.get(layer, layer)}.{rest}"
