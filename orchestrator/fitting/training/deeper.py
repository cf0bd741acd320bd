"""The recipe that fine-tunes the last blocks of a pretrained backbone on photos.

Of tf_efficientnet_lite0 at 128 pixels a step of all blocks takes 2.2 times as long on a CPU as one
of the last four of 17, and the first ones hold what all photos share.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from orchestrator.options import local_folder
from trainables.experiment import Experiment, in_service, with_weights
from trainables.settings import build

if TYPE_CHECKING:
    from orchestrator.fitting.backbone import FrozenBackbone
    from orchestrator.fitting.fit_options import FitOptions

EPOCHS = 10
SMALLEST = 224  # pixels at which blocks are counted; the weights make no difference
NOTHING_TO_TUNE = (
    "--deeper fine-tunes a pretrained backbone, and there is none: give --backbone NAME=FILE with "
    "its weights, or leave --deeper out, then a small network is trained whole"
)
WORDS = "fine-tuned backbone, logit-adjusted"
SHARE = 1 / 3  # of the blocks, from the last one
DEEPER: Mapping[str, Any] = {
    "data.skip_unreadable": True,
    "pretrain.method": "pretrained",
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
    """Return the recipe that trains the last third of a pretrained backbone on all classes.

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
        "classify.trunk": {"last_blocks": {"blocks": trained_blocks(backbone)[0]}},
        "score.prior": options.prior,
        "score.threshold": {"false_alarm": {"level": options.false_alarm}},
    }
    return with_weights(in_service(build(Experiment, {}), changes))


def trained_blocks(backbone: FrozenBackbone) -> tuple[int, int]:
    """Return how many blocks of a backbone are trained, and how many it has.

    Blocks are those of `trainables.models.trunks.blocks.blocks_of`.
    """
    number = _blocks_of(str(backbone.settings["pretrain.backbone"]))
    return max(1, round(SHARE * number)), number


@cache
def _blocks_of(name: str) -> int:
    from trainables.models.backbone import build_trunk
    from trainables.models.trunks.blocks import blocks_of
    from trainables.weights.sources import describe

    return len(blocks_of(build_trunk(describe(name).architecture, SMALLEST)))
