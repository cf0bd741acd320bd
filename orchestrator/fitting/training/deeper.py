"""The recipe that fine-tunes a pretrained backbone on photos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.options import local_folder
from trainables.experiment import Experiment, in_service, with_weights
from trainables.settings import build

if TYPE_CHECKING:
    from orchestrator.fitting.backbone import FrozenBackbone
    from orchestrator.fitting.fit_options import FitOptions

EPOCHS = 10
NOTHING_TO_TUNE = (
    "--deeper fine-tunes a pretrained backbone, and there is none: give --backbone NAME=FILE with "
    "its weights, or leave --deeper out, then a small network is trained whole"
)
WORDS = "fine-tuned backbone, logit-adjusted"
DEEPER: Mapping[str, Any] = {
    "data.skip_unreadable": True,
    "pretrain.method": "pretrained",
    "classify.trunk": "full",
    "classify.trunk_lr_factor": 0.3,  # the head starts at random, the backbone knows images
    "classify.loss": "logit_adjustment",
    "classify.training.optimizer": "adamw",
    "classify.training.lr": 1e-3,
    "classify.training.weight_decay": 0.05,
    "classify.training.batch_size": 32,
    "classify.training.warmup_fraction": 0.1,
    "classify.training.gradient_clip": 1.0,
    "score.method": "msp",
}


def recipe_deeper(
    options: FitOptions, backbone: FrozenBackbone, source: str, *, epochs: int
) -> Experiment:
    """Return the recipe that trains all weights of a pretrained backbone on all classes.

    Its loss is cross-entropy with logit adjustment, which makes up for unequal classes.

    Args:
        options: What was asked for.
        backbone: Where the training starts.
        source: ``data.source`` of the photos, some of which validate.
        epochs: Passes over the training images.
    """
    changes = {
        "name": options.model_name,
        "data.source": source,
        "data.root": str(local_folder(options.storage) / "data"),
        **DEEPER,
        **backbone.settings,
        "classify.training.epochs": epochs,
        "score.prior": options.prior,
        "score.threshold": {"false_alarm": {"level": options.false_alarm}},
    }
    return with_weights(in_service(build(Experiment, {}), changes))
