"""Photos: training of a pretrained trunk and its head, then rebalancing.

The trunk is frozen, trained in its last blocks or as a whole, each with its learning rates and
stochastic depth; beside that dropout, loss, sampler and the strength of the augmentation vary. A
frozen trunk needs no images after its features are computed, so nothing of images is asked for
there. Mixing and branches are the base's.
"""

from __future__ import annotations

from search_spaces.long_tail import choose_correction
from search_spaces.pick import Pick
from trainables.experiment import Experiment
from trainables.methods.method import search_range
from trainables.models.networks import OWN
from trainables.settings import assign

OBJECTIVES = ("evaluate/accuracy/balanced:max",)

TUNERS = ("frozen", "last_blocks", "full")
LOSSES = ("cross_entropy", "balanced_softmax", "logit_adjustment", "label_smoothing", "focal")
SAMPLERS = ("instance_balanced", "class_balanced", "square_root")
AUGMENTATIONS = ("crop_flip", "rand_augment")


def tuners(base: Experiment) -> list[str]:
    """Return the rules to choose from beside the base's, each of which trains other weights."""
    same = base.trunk_tuner().name if base.classify.trunk.name == "auto" else ""
    names = [name for name in TUNERS if name != same]
    try:
        base.classify.check_frozen()
    except ValueError:  # its loss, mixer or branches need images
        return [name for name in names if name != "frozen"]
    return names


def choose_tuning(pick: Pick, base: Experiment) -> None:
    """Choose which weights are trained, at what rates, and how the images are changed."""
    tuner = pick.method_only("classify.trunk", base.classify.trunk, tuners(base))
    own = base.pretrain.backbone.partition("+")[0] in OWN  # without stochastic depth
    for name, field in type(tuner).model_fields.items():
        allowed = search_range(field)
        if allowed is not None and not (own and name == "drop_path"):
            path = f"classify.trunk.{tuner.name}.{name}"
            pick.value(path, getattr(tuner, name), allowed)
    pick.field(base, "classify.training.lr")
    pick.field(base, "classify.dropout")
    pretrained = base.pretrain.method.name == "pretrained"
    if tuner.for_trunk(pretrained=pretrained).moves:
        pick.field(base, "classify.trunk_lr_factor")
        pick.method("classify.augmentation", base.classify.augmentation, AUGMENTATIONS)


def vary(pick: Pick, base: Experiment) -> Experiment:
    """Return the base with the values that `pick` chose for trunk, head and rebalancing."""
    choose_tuning(pick, base)
    pick.method("classify.loss", base.classify.loss, LOSSES)
    pick.method("classify.sampler", base.classify.sampler, SAMPLERS)
    choose_correction(pick, base)
    return assign(base, pick.changes)
