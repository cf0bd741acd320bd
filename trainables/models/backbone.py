"""Trunks, which map images to features: this project's networks, and timm's under other names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from trainables.artifacts import Backbone, ImageView, LabelledView, Pixels
from trainables.context import Context, FeatureStore
from trainables.errors import ConfigError, did_you_mean
from trainables.methods.pretrainers import Pretrainer
from trainables.models.extraction.ahead import ReadAhead
from trainables.models.extraction.pieces import InPieces
from trainables.models.extraction.readings import OnePass, family_name
from trainables.models.extraction.stored_features import StoredRows
from trainables.models.networks import OWN, Branched, FastNet, SmallResNet, initialize
from trainables.weights.pretrained import Weights, find_weights, load_tensors
from trainables.weights.timm_networks import SMALL_IMAGE, build_timm, no_drop_path, timm_maps

MEAN = (0.4914, 0.4822, 0.4465)  # CIFAR-10 training images
STD = (0.2023, 0.1994, 0.2010)
MOST_PIXELS = 512 * SMALL_IMAGE**2  # of a pass without gradients: some 100 MB per layer


class Trunk(nn.Module):
    """A network that normalizes images and maps them to features.

    Args:
        network: Maps normalized images ``[B, 3, H, W]`` to features ``[B, D]``; has a method
            ``maps(images) -> dict`` if its intermediate maps have names.
        num_features: D.
        mean: Mean of the red, green and blue values in [0, 1].
        std: Standard deviation of the red, green and blue values.

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

    def extra_repr(self) -> str:
        """Return how tokens are pooled, which the modules do not show."""
        pooling = getattr(self.network, "global_pool", "")
        return f"pooling={pooling}" if isinstance(pooling, str) and pooling else ""

    def forward(self, images: Tensor) -> Tensor:
        """Return features ``[B, D]``."""
        features: Tensor = self.network(self.normalize(images))
        return features

    @property
    def num_branches(self) -> int:
        """Number of branches whose features are concatenated; 1 for an unbranched trunk."""
        return self.network.copies if isinstance(self.network, Branched) else 1

    def forward_branch(self, images: Tensor, number: int) -> Tensor:
        """Return the features ``[B, D]`` of one branch of a branched trunk."""
        return cast(Branched, self.network).branch(self.normalize(images), number)

    def forward_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Return named intermediate maps ``[B, channels, height, width]``, first to last."""
        normalized = self.normalize(images)
        maps = getattr(self.network, "maps", None)
        if maps is not None:
            named: dict[str, Tensor] = maps(normalized)
            return named
        return timm_maps(self.network, normalized)

    def hidden_layers(self) -> list[nn.Module]:
        """Return the modules whose outputs are the trunk's intermediate maps, first to last.

        Raises:
            ConfigError: The network does not name its hidden layers.
        """
        for name in ("groups", "stages"):
            layers = getattr(self.network, name, None)
            if isinstance(layers, nn.ModuleList):
                return list(layers)
        listed = getattr(self.network, "feature_info", None) or []
        names = [str(entry["module"]) for entry in listed if entry.get("module")]
        if not names:
            raise ConfigError(
                f"{type(self.network).__name__} does not name its hidden layers; "
                "choose another architecture, or mix images or features"
            )
        return [self.network.get_submodule(name) for name in names]

    def normalize(self, images: Tensor) -> Tensor:
        """Return ``(images - mean) / std`` in the parameters' type and memory layout."""
        weight = next(self.network.parameters())
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        # one multiplication and one addition in float32; bf16 would lose the pixels' eighth bit
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
    weights: Weights | None = None,
    drop_path: float = 0.0,
) -> Trunk:
    """Build a trunk with random or pretrained weights.

    Args:
        architecture: ``fastnet``, ``resnet32`` (CIFAR, option-A shortcuts), ``resnet18_small``
            (3x3 stem, no max-pool) or any model name of timm, with its arguments (see
            `trainables.weights.sources.architecture_text`). The suffix ``+2xblock`` or
            ``+3xstage`` replaces the last block or stage of one of the first three networks by 2
            or 3 parallel branches (`Branched`). For images of at most 64x64, a 3x3 stride-1 stem
            replaces the 7x7 stride-2 stem and the max-pool of timm's ResNets.
        image_size: Height and width of the images.
        generator: CPU generator of the initial weights; ``None`` uses a fixed seed.
        weights: Pretrained weights of this architecture, see
            `trainables.weights.pretrained.find_weights`.
        drop_path: Drop-path rate of the last block in training (stochastic depth).

    Raises:
        ConfigError: The network is unknown or has no stochastic depth, or the weights do not fit.
    """
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    if architecture.partition("+")[0] in OWN:
        if drop_path:
            raise ConfigError(no_drop_path(architecture, drop_path))
        trunk = _own_trunk(architecture, generator)
        if weights is not None:
            load_tensors(trunk.network, weights)
    else:
        _require_known(architecture)
        trunk = Trunk(*build_timm(architecture, image_size, generator, weights, drop_path))
    if weights is not None and weights.colors is not None:
        for buffer, values in zip((trunk.mean, trunk.std), weights.colors, strict=True):
            buffer.copy_(torch.tensor(values).view(1, 3, 1, 1))
    return trunk


def _require_known(architecture: str) -> None:
    """Refuse a network that timm does not know.

    Raises:
        ConfigError: With the nearest name.
    """
    import timm

    name = architecture.partition(" ")[0]
    if not timm.is_model(name.partition(".")[0]):
        known = [*OWN, *timm.list_models()]
        raise ConfigError(
            f"unknown backbone '{name}'; allowed: {', '.join(OWN)} or a name in "
            f"timm.list_models(){did_you_mean(name, known)}"
        )


def check_backbone(architecture: str, method: Pretrainer, image_size: int | None) -> None:
    """Refuse pretrained weights that can't be had or do not fit, before anything runs.

    Args:
        architecture: Architecture or source of the trunk.
        method: Source of its weights.
        image_size: Height and width of the images; ``None``: that of the source.

    Raises:
        ConfigError: One line with the remedies.
    """
    size = image_size or SMALL_IMAGE
    weights = find_weights(architecture, method, size)
    if weights is not None:  # timm's own fit, if such a network takes images of this size
        known = weights if weights.tensors else None
        build_trunk(weights.architecture, size, weights=known)


def _own_trunk(architecture: str, generator: torch.Generator) -> Trunk:
    """Build a trunk of this project's networks with random weights, with branches if it says so."""
    name, plus, _ = architecture.partition("+")
    with torch.random.fork_rng(devices=[]):  # layers draw weights from the global generator
        network = OWN[name]()
    initialize(network, generator)
    trunk = Trunk(network, network.num_features)
    return branch_trunk(trunk, architecture, generator=generator) if plus else trunk


def branch_trunk(trunk: Trunk, architecture: str, *, generator: torch.Generator) -> Trunk:
    """Return a trunk whose last block or stage has parallel copies (see `Branched`).

    Args:
        trunk: An unbranched trunk of this project's networks; its modules are reused.
        architecture: Name of the new trunk, e.g. ``resnet32+2xblock`` or ``fastnet+3xstage``.
        generator: Draws the weights of the new branches.

    Raises:
        ConfigError: The network does not support branches, or the name is not of this form.
    """
    ending = architecture.partition("+")[2]
    match = re.fullmatch(r"([2-9])x(block|stage)", ending)
    if match is None:
        raise ConfigError(
            f"backbone '{architecture}': branches are written as {next(iter(OWN))}+2xblock or "
            f"{next(iter(OWN))}+3xstage; received '+{ending}'"
        )
    if not isinstance(trunk.network, FastNet | SmallResNet):
        raise ConfigError(
            f"backbone '{architecture}' can't have branches; allowed: {', '.join(OWN)}"
        )
    copies, part = int(match[1]), match[2]
    with torch.random.fork_rng(devices=[]):  # layers draw weights from the global generator
        network = Branched(trunk.network, copies=copies, part=part, generator=generator)
    device = trunk.mean.device
    return Trunk(
        network.to(device),
        network.num_features,
        mean=tuple(trunk.mean.flatten().tolist()),
        std=tuple(trunk.std.flatten().tolist()),
    ).to(device)


def to_artifact(
    trunk: Trunk, architecture: str, image_size: int, *, before: Backbone | None = None
) -> Backbone:
    """Copy the trunk's weights to an artifact on the CPU.

    Args:
        trunk: The trunk.
        architecture: Its name.
        image_size: Height and width of its images.
        before: The trunk before it was trained further, whose provenance it keeps.
    """
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in trunk.state_dict().items()
    }
    artifact = Backbone(architecture, image_size, trunk.num_features, "nothing", state)
    if before is None:
        return artifact
    return artifact._replace(
        pretrained_on=before.pretrained_on,
        pretraining_images=before.pretraining_images,
        training_images=before.training_images,
        pretraining_labels=before.pretraining_labels,
    )


def from_artifact(backbone: Backbone, *, drop_path: float = 0.0) -> Trunk:
    """Rebuild the trunk of an artifact on the CPU, with its weights; see `build_trunk`."""
    trunk = build_trunk(backbone.architecture, backbone.image_size, drop_path=drop_path)
    trunk.load_state_dict(backbone.state)
    return trunk


def same_trunk(one: Backbone, other: Backbone) -> bool:
    """Say whether two trunks are equal bit for bit."""
    return (
        one.architecture == other.architecture
        and one.image_size == other.image_size
        and one.state.keys() == other.state.keys()
        and all(torch.equal(value, other.state[name]) for name, value in one.state.items())
    )


def extract_features(
    trunk: Trunk,
    view: LabelledView | ImageView,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    compute: Callable[[Tensor], Tensor] | None = None,
    store: FeatureStore | None = None,
    done: Callable[[int], None] | None = None,
) -> Tensor:
    """Return the features of a whole view, ``[N, D]`` float32 on the CPU, in view order.

    The trunk runs in evaluation mode without augmentation; its mode is restored afterwards. An
    empty view gives ``[0, D]``. Images are read, and files decoded, a batch ahead of the trunk. A
    batch that the device's memory does not hold is computed in halves.

    Args:
        trunk: The trunk.
        view: The images.
        device: Device of the trunk.
        batch_size: Images per pass at most; of images wider than 64 pixels there are fewer.
        compute: Replaces the trunk's forward pass, see `trainables.models.early_exit.as_needed`.
        store: Features of this trunk that are known are taken from there, others added.
        done: Called with the number of images whose features there are, after each pass.

    Raises:
        DataError: Image files can't be decoded; all of them, after the others were computed.
    """
    was_training = trunk.training
    trunk.eval().to(device)
    features = torch.empty(len(view.indices), trunk.num_features)
    wanted = store is not None and store.readings
    with store.alone(family_name(trunk)) if store is not None and wanted else nullcontext():
        rows = StoredRows(store, trunk, view.images, view.indices, features)
        left = len(rows.missing)
        images = ReadAhead(view.images, view.indices, rows.missing, _per_pass(batch_size, view))
        one_pass: OnePass | None = None

        def run(pixels: Pixels) -> tuple[Tensor, dict[str, Tensor]]:
            nonlocal one_pass
            batch = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
            if wanted and one_pass is None:
                one_pass = OnePass(trunk, batch[:1])
            return one_pass(batch) if one_pass else ((compute or trunk)(batch), {})

        in_pieces = InPieces(run)
        with torch.inference_mode(), rows:
            for chosen, pixels in images:
                found, others = in_pieces(pixels)
                features[chosen] = found.to(features)
                rows.computed(chosen, others)
                left -= len(chosen)
                if done is not None:
                    done(len(features) - left)
    images.refuse_unreadable()
    trunk.train(was_training)
    return features


def extract_views(
    trunk: Trunk,
    views: Sequence[LabelledView | ImageView],
    *,
    context: Context,
    batch_size: int = 512,
    store: FeatureStore | None = None,
) -> list[Tensor]:
    """Return the features of several views; the context is told of the progress."""
    total, before, found = sum(len(view.indices) for view in views), 0, []
    for view in views:
        found.append(
            extract_features(
                trunk,
                view,
                device=context.device,
                batch_size=batch_size,
                store=store,
                done=partial(_tell, context, before, total),
            )
        )
        before += len(view.indices)
    return found


def _tell(context: Context, before: int, total: int, done: int) -> None:
    """Report the images of all views that are done with."""
    context.progress(before + done, total)


def _per_pass(batch_size: int, view: LabelledView | ImageView) -> int:
    """Return the images of a pass: fewer of large ones, because memory grows with pixels."""
    return max(1, min(batch_size, MOST_PIXELS // (view.images.shape[1] * view.images.shape[2])))
