"""Stage 3: features of every open view under the trained trunk, once for all that follows."""

from __future__ import annotations

from typing import NamedTuple

from trainables.artifacts import Backbone, Features, ImageView, LabelledView
from trainables.backbone import extract_features, from_artifact
from trainables.context import Context
from trainables.experiment import Extract

PROVIDES: dict[str, frozenset[str]] = {}


class Extracted(NamedTuple):
    """What the stage gives."""

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
    """Run the trunk over the open views, without augmentation."""
    trunk = from_artifact(backbone).to(context.device)
    views = (known_train, validation_known, validation_novel, pool)
    parts = [
        extract_features(trunk, view, device=context.device, batch_size=settings.batch_size).cpu()
        for view in views
    ]
    return Extracted(Features(*parts))
