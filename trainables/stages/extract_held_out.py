"""Stage `extract_held_out`: features of the held-out views, computed once for all evaluations."""

from __future__ import annotations

from typing import NamedTuple

import torch

from trainables.artifacts import Backbone, HeldOutFeatures, LabelledView
from trainables.context import Context
from trainables.experiment import Extract
from trainables.models.backbone import extract_views, from_artifact, same_trunk
from trainables.weights.provenance import is_frozen

PROVIDES: dict[str, frozenset[str]] = {}


class HeldOut(NamedTuple):
    """Artifact of the stage."""

    held_out_features: HeldOutFeatures


def run(
    settings: Extract,
    *,
    backbone: Backbone,
    updated_backbone: Backbone,
    held_out_known: LabelledView,
    held_out_novel: LabelledView,
    held_out_unknown: LabelledView,
    context: Context,
) -> HeldOut:
    """Run the trunks before and after the update over the held-out views.

    Only ``evaluate`` gets the result. Recipes that differ in what follows the trunk share it.
    """
    views = (held_out_known, held_out_novel, held_out_unknown)

    def features(artifact: Backbone) -> torch.Tensor:
        trunk = from_artifact(artifact).to(context.device)
        store = context.features if is_frozen(artifact) else None
        size = settings.batch_size
        return torch.cat(extract_views(trunk, views, context=context, batch_size=size, store=store))

    first = features(backbone)
    moved = not same_trunk(backbone, updated_backbone)
    updated = features(updated_backbone) if moved else first[:0]
    return HeldOut(HeldOutFeatures(first, updated))
