"""Settings of the update: how two teachers make one student."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from trainables.data.data_settings import Count, Positive
from trainables.methods.augmentations import Augmentation
from trainables.methods.distillers import Distiller
from trainables.methods.losses import Loss
from trainables.methods.method import Range
from trainables.methods.samplers import Sampler
from trainables.methods.tuners import Tuner
from trainables.methods.updaters import Updater
from trainables.settings import Settings
from trainables.training.classify_settings import Training


class Update(Settings):
    """The model learns the new classes: by distillation, or in closed form on frozen features.

    With ``distill``, two teachers make one student with more classes, in alternating phases:
    ``mode: head`` trains the head alone on cached features; ``mode: full`` alternates phase A
    (trunk frozen, head trains) and phase B (head frozen, trunk trains) for ``rounds`` rounds.

    Args:
        method: How the new classes are learned; all other settings but ``mode`` and
            ``exemplars_per_class`` are those of ``distill``.
        rate: Learning rate of the head: ``scaled`` lowers it where features are long (see
            `trainables.models.head_rate.rate_factor`), ``fixed`` takes ``training.lr`` as it is.
        distiller: Holds the student to its teachers.
        mode: What is trained: the head, or in turn head and trunk.
        rounds: How often the two phases alternate.
        trunk: Which weights of the trunk are trained in phase B; ``auto``: all.
        trunk_lr_factor: Learning rate of the trunk over ``training.lr``.
        exemplars_per_class: Images of each known class that are trained on again; ``null``: all.
        loss: Loss on labels and pseudo-labels.
        sampler: How often each image is drawn.
        augmentation: Random change of each image, in phase B.
        training: Optimizer, schedule and precision, per phase.
    """

    method: Updater = Field(default="distill")  # type: ignore[assignment]
    rate: Literal["scaled", "fixed"] = "scaled"
    distiller: Distiller = Field(default="double_teacher")  # type: ignore[assignment]
    mode: Literal["head", "full"] = "head"
    rounds: Count = 1
    trunk: Tuner = Field(default="auto")  # type: ignore[assignment]
    trunk_lr_factor: Annotated[Positive, Range(0.01, 0.1, log=True)] = 0.1
    exemplars_per_class: Annotated[int, Field(ge=1)] | None = None
    loss: Loss = Field(default="cross_entropy")  # type: ignore[assignment]
    sampler: Sampler = Field(default="class_balanced")  # type: ignore[assignment]
    augmentation: Augmentation = Field(default="crop_flip")  # type: ignore[assignment]
    training: Training = Training(epochs=20, lr=0.05)

    @model_validator(mode="after")
    def _phase_b_trains(self) -> Update:
        """Refuse a phase B in which nothing is trained."""
        if self.mode == "full" and not self.trunk.moves:
            raise ValueError(
                f"update.trunk: '{self.trunk.name}' trains no trunk, and update.mode is full; "
                "set update.mode=head to train the head alone"
            )
        return self

    @model_validator(mode="after")
    def _trains_to_the_end(self) -> Update:
        """Refuse to cut short what is several trainings, one after the other."""
        if self.training.until:
            raise ValueError(
                "update.training.until: must be 0, an update is several trainings in turn; "
                f"received {self.training.until}"
            )
        return self

    @model_validator(mode="after")
    def _a_closed_form_sees_all_images_on_a_frozen_trunk(self) -> Update:
        """Refuse to move the trunk below statistics of its features, or to leave images out."""
        if self.method.trains:
            return self
        for name, allowed in {"mode": "head", "exemplars_per_class": None}.items():
            value = getattr(self, name)
            if value != allowed:
                raise ValueError(
                    f"update.{name}: must be {allowed or 'null'}, update.method "
                    f"'{self.method.name}' computes the head from the features of all images; "
                    f"received {value}"
                )
        return self

    @model_serializer(mode="wrap")
    def _distilled_by_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what recipes stored before do not have: they keep their digests."""
        tree: dict[str, Any] = dump(self)
        usual: dict[str, Any] = {"method": {"distill": {}}, "trunk": {"auto": {}}}
        return {key: value for key, value in tree.items() if usual.get(key, ...) != value}
