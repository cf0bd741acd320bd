"""Stage `extract`: features of every open view under the trained trunk, cached for later stages."""

from __future__ import annotations

from typing import NamedTuple

from trainables.artifacts import Backbone, Features, ImageView, LabelledView, StreamFeatures
from trainables.context import Context
from trainables.experiment import Extract
from trainables.features.batchnorm import shift_batchnorm
from trainables.models.backbone import extract_views, from_artifact, to_artifact
from trainables.weights.provenance import is_frozen

PROVIDES: dict[str, frozenset[str]] = {"shift_augmentation": frozenset({"images", "generator"})}


class Extracted(NamedTuple):
    """Artifacts of the stage; the trunk's batch norm may have been shifted."""

    backbone: Backbone
    features: Features
    stream_features: StreamFeatures


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
        backbone = to_artifact(trunk, backbone.architecture, backbone.image_size, before=backbone)
    views = (known_train, validation_known, validation_novel, pool)
    store = context.features if is_frozen(backbone) and settings.batchnorm == "frozen" else None
    parts = extract_views(
        trunk, views, context=context, batch_size=settings.batch_size, store=store
    )
    return Extracted(backbone, Features(*parts[:2]), StreamFeatures(*parts[2:]))
