"""Stage 3: features of every open view under the trained trunk, once for all that follows."""

from __future__ import annotations

from typing import NamedTuple

from trainables.artifacts import Backbone, Features, ImageView, LabelledView
from trainables.backbone import extract_features, from_artifact, to_artifact
from trainables.batchnorm import shift_batchnorm
from trainables.context import Context
from trainables.experiment import Extract

PROVIDES: dict[str, frozenset[str]] = {"shift_augmentation": frozenset({"images", "generator"})}


class Extracted(NamedTuple):
    """What the stage gives: the trunk too, whose batch norm may have been shifted."""

    backbone: Backbone
    features: Features


def run(
    settings: Extract,
    *,
    backbone: Backbone,
    known_train: LabelledView,
    validation_known: LabelledView,
    validation_novel: LabelledView,
    pool: ImageView,
    context: Context,
) -> Extracted:
    """Run the trunk over the open views, without augmentation; see `Extract` for batch norm."""
    trunk = from_artifact(backbone).to(context.device)
    if settings.batchnorm == "shifted":
        shift_batchnorm(
            trunk,
            known_train,
            steps=settings.shift_steps,
            batch_size=settings.shift_batch_size,
            generator=context.generator("extract", "shift"),
            augmentation=settings.shift_augmentation,
            device=context.device,
        )
        backbone = to_artifact(
            trunk, backbone.architecture, backbone.image_size, backbone.pretrained_on
        )
    views = (known_train, validation_known, validation_novel, pool)
    parts = [
        extract_features(trunk, view, device=context.device, batch_size=settings.batch_size).cpu()
        for view in views
    ]
    return Extracted(backbone, Features(*parts))
