"""The model of `classify`: trunk, head, and what a contrastive loss trains beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables.artifacts import Backbone, ImageView, LabelledView
from trainables.context import Context, ambient_rng
from trainables.methods.tuners import Tuner
from trainables.models.activation_maps import class_activation
from trainables.models.backbone import Trunk, branch_trunk, extract_features, from_artifact
from trainables.models.contrastive_module import ContrastiveModule
from trainables.models.head_rate import rate_factor
from trainables.models.trunks.blocks import train_only
from trainables.training.classify_settings import Classify
from trainables.training.loop import ParamGroup, rate_groups
from trainables.weights.provenance import NOTHING


class ClassifyModel(NamedTuple):
    """All that is trained together.

    ``architecture`` is the name of the trunk's architecture, branches included; ``mean [D]`` is the
    moving average of features, changed in place; ``companion`` belongs to a contrastive loss;
    ``hits [2, C]`` counts an epoch's right answers and images of each class. ``rates`` are the
    factors of the learning rate of the trunk's parameters, by name; ``head_rate`` that of the rest;
    ``trainable_share`` is the share of all weights that is trained.
    """

    trunk: Trunk
    architecture: str
    head: torch.nn.Module
    mean: Tensor
    companion: ContrastiveModule | None = None
    hits: Tensor = torch.zeros(2, 0)
    rates: Mapping[str, float] = {}
    head_rate: float = 1.0
    trainable_share: float = 1.0

    @property
    def views(self) -> int:
        """Random views of each image in a batch."""
        return 1 if self.companion is None else self.companion.views

    def modules(self) -> dict[str, torch.nn.Module]:
        """Return the modules that are trained, by name."""
        parts = {"trunk": self.trunk, "head": self.head, "companion": self.companion}
        return {name: part for name, part in parts.items() if part is not None}

    def groups(self) -> list[ParamGroup]:
        """Return what is trained, the group of the head's learning rate first."""
        rated = [(p, self.rates[n]) for n, p in self.trunk.named_parameters() if n in self.rates]
        others = [part for name, part in self.modules().items() if name != "trunk"]
        rated += [(p, self.head_rate) for part in others for p in part.parameters()]
        return sorted(rate_groups(rated), key=lambda group: group.lr_factor != self.head_rate)

    def forget_hits(self) -> None:
        """Start to count an epoch's right answers."""
        self.hits.zero_()

    def train_accuracy(self) -> float | None:
        """Return the mean of per-class accuracies in an epoch's batches; ``None``: none counted."""
        right, images = self.hits[:, self.hits[1] > 0]
        return float((right / images).mean()) if len(images) else None


def build_model(
    settings: Classify, backbone: Backbone, view: LabelledView, context: Context
) -> ClassifyModel:
    """Return a model on a trunk, before its training, on the context's device.

    Args:
        settings: Head, loss, branches and mixers.
        backbone: Initial trunk; it gets the branches that head or ``branches`` ask for.
        view: Training images, with the number of classes.
        context: Draws of initial weights, and the device.

    Raises:
        ConfigError: The trunk can't be given branches, or shows no activation maps to a mixer that
            needs them.
    """
    tuner = tuner_of(settings, backbone)
    trunk, architecture = _branched(backbone, settings, context)
    with ambient_rng(context.generator("classify", "tuner")):
        tuner.prepare(trunk)
    factors = tuner.rates(trunk)
    train_only(trunk, factors)
    rates = {name: settings.trunk_lr_factor * factor for name, factor in factors.items()}
    with ambient_rng(context.generator("classify", "head")):
        head = settings.head.build(trunk.num_features, view.num_classes).to(context.device)
    companion = build_companion(settings, trunk.num_features, view.num_classes, context)
    mean = torch.zeros(trunk.num_features, device=context.device)
    hits = torch.zeros(2, view.num_classes, device=context.device)
    model = ClassifyModel(trunk, architecture, head, mean, companion, hits, rates)
    model = model._replace(trainable_share=_trainable_share(model))
    if any("class_activation" in phase.mixing.required_inputs() for phase in settings.phases()):
        _check_activation(model, view, context)
    return model


def _trainable_share(model: ClassifyModel) -> float:
    """Return the share of a model's weights that is trained."""
    weights = sum(p.numel() for part in model.modules().values() for p in part.parameters())
    return sum(p.numel() for group in model.groups() for p in group.parameters) / weights


def tuner_of(settings: Classify, backbone: Backbone) -> Tuner:
    """Return which weights of this trunk are trained."""
    return settings.trunk.for_trunk(pretrained=backbone.pretrained_on != NOTHING)


def build_companion(
    settings: Classify, num_features: int, num_classes: int, context: Context
) -> ContrastiveModule | None:
    """Return what the loss trains beside the model, on the context's device, if anything."""
    with ambient_rng(context.generator("classify", "companion")):
        companion = settings.loss.build(num_features, num_classes)
    return companion and companion.to(context.device)


def _branched(backbone: Backbone, settings: Classify, context: Context) -> tuple[Trunk, str]:
    """Return the trunk and the name of its architecture, with the branches that are asked for."""
    rate = tuner_of(settings, backbone).stochastic_depth
    trunk, architecture = from_artifact(backbone, drop_path=rate), backbone.architecture
    ending = settings.branches.trunk_ending or settings.head.trunk_ending
    if ending and not architecture.endswith(f"+{ending}"):
        architecture = f"{architecture}+{ending}"
        draws = context.generator("classify", "branches")
        trunk = branch_trunk(trunk, architecture, generator=draws)
    return trunk.to(context.device), architecture


def _check_activation(model: ClassifyModel, view: LabelledView, context: Context) -> None:
    """Look at one image, so that a model without activation maps is refused before training."""
    image = torch.from_numpy(view.images[view.indices[:1]]).permute(0, 3, 1, 2)
    label = torch.from_numpy(view.labels[:1])
    class_activation(model.trunk, model.head, image.to(context.device), label.to(context.device))


class StoredFeatures(Trunk):
    """A trunk for features that are computed already: images of one pixel with D channels.

    Args:
        num_features: D.

    Example:
        >>> StoredFeatures(3)(torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1))
        tensor([[1., 2., 3.]])
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(torch.nn.Flatten(), num_features)

    def normalize(self, images: Tensor) -> Tensor:
        """Return the features as they are."""
        return images


def of_features(features: Tensor, view: LabelledView) -> LabelledView:
    """Return a view of the features ``[N, D]`` of its images, for `StoredFeatures`."""
    pixels = features[:, None, None, :].numpy()
    return view._replace(images=pixels, indices=np.arange(len(pixels)))


def on_features(model: ClassifyModel, features: LabelledView) -> ClassifyModel:
    """Return the model without its trunk, whose head learns on features of the trunk.

    The head's learning rate is lowered where features are long, see
    `trainables.models.head_rate.rate_factor`.
    """
    values = torch.from_numpy(features.images[:, 0, 0])
    rate = rate_factor(model.head, values)
    stored = StoredFeatures(model.trunk.num_features).to(model.mean.device)
    return model._replace(trunk=stored, head_rate=rate)


@torch.no_grad()
def predict_view(
    model: ClassifyModel, view: LabelledView | ImageView, device: torch.device
) -> Tensor:
    """Return the logits of a whole view ``[N, C]`` on the CPU, without augmentation."""
    model.head.eval()
    features = extract_features(model.trunk, view, device=device)
    logits: Tensor = model.head(features.to(device))
    return logits.cpu()


def validation_accuracy(
    model: ClassifyModel, view: LabelledView, device: torch.device
) -> float | None:
    """Return the mean of per-class accuracies on a view; ``None``: the view has no images."""
    correct = (predict_view(model, view, device).argmax(1).numpy() == view.labels).astype(float)
    per_class = [
        correct[view.labels == c].mean()
        for c in range(view.num_classes)
        if (view.labels == c).any()
    ]
    return float(sum(per_class) / len(per_class)) if per_class else None
