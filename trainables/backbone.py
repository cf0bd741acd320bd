"""Trunks: images in, features out. Own networks by name, every other name is timm's."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainables.artifacts import Backbone, ImageView, LabelledView
from trainables.errors import ConfigError, did_you_mean
from trainables.networks import OWN, Branched, FastNet, SmallResNet, initialize
from trainables.precision import Precision, probe_precision, resolve_precision

__all__ = [
    "Precision",
    "Trunk",
    "branch_trunk",
    "build_trunk",
    "extract_features",
    "from_artifact",
    "probe_precision",
    "resolve_precision",
    "to_artifact",
]

MEAN = (0.4914, 0.4822, 0.4465)  # CIFAR-10 training images
STD = (0.2023, 0.1994, 0.2010)
SMALL_IMAGE = 64  # up to this size a 7x7 stride-2 stem would throw the image away


class Trunk(nn.Module):
    """A network that turns images into features; it normalises inside.

    Args:
        network: Maps normalised images ``[B, 3, H, W]`` to features ``[B, D]``; with a method
            ``maps(images) -> dict`` if it has named intermediate maps.
        num_features: D.
        mean: Mean of the red, green and blue values in [0, 1].
        std: Their standard deviation.

    Shapes:
        images: uint8 ``[B, 3, H, W]`` in 0..255, or floating point in [0, 1].
        features: ``[B, D]`` in the type of the parameters.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        num_features: int,
        *,
        mean: tuple[float, ...] = MEAN,
        std: tuple[float, ...] = STD,
    ) -> None:
        super().__init__()
        self.network = network
        self.num_features = num_features
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return features ``[B, D]``."""
        features: Tensor = self.network(self.normalize(images))
        return features

    @property
    def num_branches(self) -> int:
        """How many features of different branches stand side by side."""
        return self.network.copies if isinstance(self.network, Branched) else 1

    def forward_branch(self, images: Tensor, number: int) -> Tensor:
        """Return the features ``[B, D]`` of one branch of a trunk that has several."""
        return cast(Branched, self.network).branch(self.normalize(images), number)

    def forward_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Return named intermediate maps ``[B, channels, height, width]``, first to last."""
        normalized = self.normalize(images)
        maps = getattr(self.network, "maps", None)
        if maps is not None:
            named: dict[str, Tensor] = maps(normalized)
            return named
        return _timm_maps(self.network, normalized)

    def hidden_layers(self) -> list[nn.Module]:
        """Return the modules whose outputs are the trunk's intermediate maps, first to last.

        Raises:
            ConfigError: The network does not say which they are.
        """
        for name in ("groups", "stages"):
            own = getattr(self.network, name, None)
            if isinstance(own, nn.ModuleList):
                return list(own)
        listed = getattr(self.network, "feature_info", None) or []
        names = [str(entry["module"]) for entry in listed if entry.get("module")]
        if not names:
            raise ConfigError(
                f"{type(self.network).__name__} does not name its hidden layers; "
                "use a trunk of another architecture, or mix images or features"
            )
        return [self.network.get_submodule(name) for name in names]

    def normalize(self, images: Tensor) -> Tensor:
        """Return ``(images - mean) / std`` in the parameters' type and memory layout."""
        weight = next(self.network.parameters())
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        # One multiply and one add, in float32: bf16 would lose the eighth bit of the pixels.
        factor = 1.0 / (self.std.float() * scale)
        normalized = images.to(torch.float32) * factor - self.mean.float() / self.std.float()
        if weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last):
            normalized = normalized.contiguous(memory_format=torch.channels_last)
        return normalized.to(weight.dtype)


def build_trunk(
    architecture: str,
    image_size: int,
    *,
    generator: torch.Generator | None = None,
    pretrained: bool = False,
) -> Trunk:
    """Build a trunk with fresh (or timm's pretrained) weights.

    Args:
        architecture: ``fastnet``, ``resnet32`` (CIFAR, option-A shortcuts), ``resnet18_small``
            (3x3 stem, no max-pool) or any name of timm. An own network with ``+2xblock`` or
            ``+3xstage`` behind its name has its last block, or stage, that often (`Branched`).
            For images of at most 64x64 the 7x7 stride-2 stem and the max-pool of timm's ResNets
            become a 3x3 stride-1 stem.
        image_size: Height and width of the images.
        generator: CPU generator of the initial weights; without one, a fixed seed.
        pretrained: Take timm's weights (downloads them when they are not in its cache).

    Raises:
        ConfigError: No network of that name, or one that has no pretrained weights.
    """
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    name, plus, _ = architecture.partition("+")
    if plus and name in OWN:
        trunk = build_trunk(name, image_size, generator=generator, pretrained=pretrained)
        return branch_trunk(trunk, architecture, generator=generator)
    if architecture in OWN:
        if pretrained:
            raise ConfigError(
                f"backbone '{architecture}' has no pretrained weights; "
                "use a timm name, or pretrain.method to pretrain it on this data"
            )
        with torch.random.fork_rng(devices=[]):  # torch's layers draw weights of their own first
            network = OWN[architecture]()
        initialize(network, generator)
        return Trunk(network, network.num_features)
    return _timm_trunk(architecture, image_size, generator, pretrained=pretrained)


def branch_trunk(trunk: Trunk, architecture: str, *, generator: torch.Generator) -> Trunk:
    """Return a trunk whose last part is there several times (see `Branched`); takes it apart.

    Args:
        trunk: An own network that has no branches yet.
        architecture: Its name from now on: ``resnet32+2xblock``, ``fastnet+3xstage`` and so on.
        generator: Draws the weights of the new branches.

    Raises:
        ConfigError: The network can't be cut, or the name is not of this form.
    """
    ending = architecture.partition("+")[2]
    found = re.fullmatch(r"([2-9])x(block|stage)", ending)
    if found is None:
        raise ConfigError(
            f"backbone '{architecture}': branches are written as in {next(iter(OWN))}+2xblock or "
            f"+3xstage; received '+{ending}'"
        )
    if not isinstance(trunk.network, FastNet | SmallResNet):
        raise ConfigError(
            f"backbone '{architecture}' can't be given branches; allowed: {', '.join(OWN)}"
        )
    copies, part = int(found[1]), found[2]
    with torch.random.fork_rng(devices=[]):  # torch's layers draw weights of their own first
        network = Branched(trunk.network, copies=copies, part=part, generator=generator)
    device = trunk.mean.device
    return Trunk(
        network.to(device),
        network.num_features,
        mean=tuple(trunk.mean.flatten().tolist()),
        std=tuple(trunk.std.flatten().tolist()),
    ).to(device)


def to_artifact(
    trunk: Trunk, architecture: str, image_size: int, pretrained_on: str = "nothing"
) -> Backbone:
    """Return the trunk's weights as an artifact on the CPU, detached from the live module."""
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in trunk.state_dict().items()
    }
    return Backbone(architecture, image_size, trunk.num_features, pretrained_on, state)


def from_artifact(backbone: Backbone) -> Trunk:
    """Rebuild the trunk of an artifact on the CPU, with its weights."""
    trunk = build_trunk(backbone.architecture, backbone.image_size)
    trunk.load_state_dict(backbone.state)
    return trunk


def extract_features(
    trunk: Trunk,
    view: LabelledView | ImageView,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    compute: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the features of a whole view, ``[N, D]`` float32 on the CPU, in view order.

    Evaluation mode, no augmentation; the trunk's mode is put back afterwards. An empty view gives
    ``[0, D]``. ``compute`` uses the trunk in its own way, as `trainables.routing.as_needed` does.
    """
    was_training = trunk.training
    trunk.eval().to(device)
    parts = [torch.empty(0, trunk.num_features)]
    with torch.inference_mode():
        for start in range(0, len(view.indices), batch_size):
            chosen = view.images[view.indices[start : start + batch_size]]
            images = torch.from_numpy(chosen).to(device).permute(0, 3, 1, 2)
            parts.append((compute or trunk)(images).float().cpu())
    trunk.train(was_training)
    return torch.cat(parts)


def _timm_trunk(name: str, size: int, generator: torch.Generator, *, pretrained: bool) -> Trunk:
    """Build a timm network without its classifier, deterministic from ``generator``."""
    import timm

    if not timm.is_model(name.partition(".")[0]):
        known = [*OWN, *timm.list_models()]
        raise ConfigError(
            f"unknown backbone '{name}'; allowed: {', '.join(OWN)} or any name of "
            f"timm.list_models(){did_you_mean(name, known)}"
        )
    options: dict[str, Any] = {"num_classes": 0, "pretrained": pretrained}
    # timm draws from the global generator: lend it ours, then give both their states back.
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(generator.get_state())
        try:
            network = timm.create_model(name, img_size=size, **options)
        except TypeError:  # convolutional networks take images of any size
            network = timm.create_model(name, **options)
        if size <= SMALL_IMAGE:
            _shrink_stem(network)
        generator.set_state(torch.random.get_rng_state())
    with torch.no_grad():
        num_features = network.eval()(torch.zeros(1, 3, size, size)).shape[1]
    network.train()
    cfg = network.pretrained_cfg if pretrained else {}
    return Trunk(network, num_features, mean=cfg.get("mean", MEAN), std=cfg.get("std", STD))


def _shrink_stem(network: nn.Module) -> None:
    """Turn a 7x7 stride-2 stem and its max-pool into a 3x3 stride-1 stem, in place.

    Pretrained weights keep the centre of their 7x7 kernels.
    """
    stem, pool = getattr(network, "conv1", None), getattr(network, "maxpool", None)
    if not isinstance(stem, nn.Conv2d) or stem.kernel_size != (7, 7) or pool is None:
        return
    small = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=False)
    with torch.no_grad():
        small.weight.copy_(stem.weight[:, :, 2:5, 2:5] * (7 / 3))  # keep the outputs' scale
    network.conv1, network.maxpool = small, nn.Identity()


def _timm_maps(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return timm's intermediate maps; networks that offer none give their last map."""
    intermediates = getattr(network, "forward_intermediates", None)
    if intermediates is None:
        last: Tensor = network.forward_features(images)  # type: ignore[operator]
        return {"last": last}
    maps = intermediates(images, intermediates_only=True)
    return {f"stage{number}": map_ for number, map_ in enumerate(maps, start=1)}
