"""The recipe of a folder of photos: a frozen backbone, a classifier computed on its features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.options import local_folder
from trainables.experiment import Experiment, in_service, with_weights
from trainables.settings import build

if TYPE_CHECKING:
    from orchestrator.fitting.backbone import FrozenBackbone
    from orchestrator.fitting.fit_options import FitOptions

FROZEN: Mapping[str, Any] = {
    "data.skip_unreadable": True,
    "pretrain.method": "pretrained",
    "classify.training.epochs": 0,  # the head comes from the closed form
    "score.method": "msp",
}


def recipe_of_photos(
    options: FitOptions, backbone: FrozenBackbone, source: str, variant: Mapping[str, Any]
) -> Experiment:
    """Return the recipe that serves all classes of a folder.

    Args:
        options: What was asked for.
        backbone: The frozen backbone.
        source: ``data.source`` of the photos.
        variant: The rebalancer, as settings.

    Raises:
        ConfigError: The weights can't be had.
    """
    changes = {
        "name": options.model_name,
        "data.source": source,
        "data.root": str(local_folder(options.storage) / "data"),
        **FROZEN,
        **backbone.settings,
        "rebalance.method": variant,
        "score.prior": options.prior,
        "score.threshold": {"false_alarm": {"level": options.false_alarm}},
    }
    return with_weights(in_service(build(Experiment, {}), changes))
