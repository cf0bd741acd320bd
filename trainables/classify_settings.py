"""Settings of trainings, and of the first classifier's: one, or several that follow each other."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from trainables.data_settings import Count, NonNegative, Positive
from trainables.methods.augmentations import Augmentation
from trainables.methods.branches import Branches
from trainables.methods.heads import Head
from trainables.methods.losses import Loss
from trainables.methods.method import Range
from trainables.methods.mixers import Mixer
from trainables.methods.samplers import Sampler
from trainables.methods.self_trainers import SelfTrainer
from trainables.settings import Settings

Schedule = Literal["cosine", "one_cycle", "step", "constant"]


class Training(Settings):
    """How a module is trained: optimiser, schedule, precision.

    ``batch_size`` is the whole batch, shared by the workers. ``sync_batchnorm`` lets batch
    normalisation see all of it; it changes nothing for one worker.

    ``step`` says how a step runs, with results that are equal up to rounding: ``eager`` call by
    call, ``compiled`` with the trunk compiled by torch, ``graph`` recorded once as a CUDA graph and
    replayed; ``auto`` is ``graph`` on a GPU where the step can be recorded, else ``eager``.

    ``until`` ends the training after so many of its ``epochs``, at the point of the schedule that
    they reach (0: all of them): a training that is cut short, and one that goes on from there, are
    the same as the whole one up to their ends.
    """

    epochs: Annotated[int, Field(ge=0)] = 30
    until: Annotated[int, Field(ge=0)] = 0
    batch_size: Count = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[Positive, Range(0.01, 1.0, log=True)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: Annotated[NonNegative, Range(1e-5, 1e-2, log=True)] = 5e-4
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: Positive = 0.1
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    gradient_clip: NonNegative = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    layout: Literal["auto", "contiguous", "channels_last"] = "auto"
    step: Literal["auto", "eager", "compiled", "graph"] = "auto"
    sync_batchnorm: bool = False

    @model_validator(mode="after")
    def _ends_before_its_schedule(self) -> Training:
        """Refuse a second way to write the whole training, and an end beyond it."""
        if self.until and self.until >= self.epochs:
            raise ValueError(
                f"until must be below epochs ({self.epochs}), or 0 for all of them; "
                f"received {self.until}"
            )
        return self

    @model_serializer(mode="wrap")
    def _whole_by_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a whole training and a usual step: recipes stored before keep their digests."""
        tree: dict[str, Any] = dump(self)
        usual = {"until": 0, "step": "auto"}
        return {key: value for key, value in tree.items() if usual.get(key, ...) != value}


class FollowUp(Settings):
    """A further training of the first classifier, with a learning rate of its own.

    The optimiser begins anew. What is not said is as in the stage's own settings: optimiser, batch
    size and precision, and each of ``loss``, ``sampler``, ``augmentation`` and ``mixing`` that is
    left out. Schedules, deferred losses and samplers count this training's own epochs.
    """

    epochs: Count
    lr: Positive
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: Positive = 0.1
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    loss: Loss | None = None
    sampler: Sampler | None = None
    augmentation: Augmentation | None = None
    mixing: Mixer | None = None

    @model_serializer(mode="wrap")
    def _what_is_said(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is as in the stage's own settings."""
        tree: dict[str, Any] = dump(self)
        return {key: value for key, value in tree.items() if value is not None}

    def after(self, whole: Classify) -> Classify:
        """Return all settings of this training, one of those that follow ``whole``."""
        own = {name: getattr(self, name) for name in type(self).model_fields}
        methods = {n: own.pop(n) for n in ("loss", "sampler", "augmentation", "mixing")}
        told = {name: method for name, method in methods.items() if method is not None}
        rest = {name: getattr(whole, name) for name in Classify.model_fields if name != "then"}
        training = whole.training.model_copy(update={**own, "until": 0})
        return Classify(**{**rest, **told, "training": training})


class Classify(Settings):
    """The first classifier, trained with the trunk on the long-tailed known classes.

    ``then`` are trainings that follow, one after the other, of the same trunk and head. A training
    that ends early (``training.until``) is not followed by them.
    """

    head: Head = Field(default="linear")  # type: ignore[assignment]
    loss: Loss = Field(default="cross_entropy")  # type: ignore[assignment]
    sampler: Sampler = Field(default="instance_balanced")  # type: ignore[assignment]
    augmentation: Augmentation = Field(default="crop_flip")  # type: ignore[assignment]
    mixing: Mixer = Field(default="none")  # type: ignore[assignment]
    branches: Branches = Field(default="none")  # type: ignore[assignment]
    self_trainer: SelfTrainer = Field(default="none")  # type: ignore[assignment]
    training: Training = Training()
    then: tuple[FollowUp, ...] = ()

    @model_serializer(mode="wrap")
    def _alone_by_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out that nothing follows: recipes stored before keep their digests."""
        tree: dict[str, Any] = dump(self)
        return {key: value for key, value in tree.items() if key != "then" or value}

    def phases(self) -> tuple[Classify, ...]:
        """Return the settings of each training, in order.

        Example:
            >>> settings = Classify(then=(FollowUp(epochs=5, lr=0.01, mixing="mixup"),))
            >>> [(p.training.epochs, p.training.lr, p.mixing.name) for p in settings.phases()]
            [(30, 0.1, 'none'), (5, 0.01, 'mixup')]
        """
        first = self.model_copy(update={"then": ()})
        return first, *(() if self.training.until else (f.after(self) for f in self.then))

    @model_validator(mode="after")
    def _follow_ups_go_with_the_rest(self) -> Classify:
        """Refuse follow-ups of nothing, and any whose settings would be refused by themselves."""
        if self.then and not self.training.epochs:
            raise ValueError(
                "classify.then: follows a training, classify.training.epochs must be at least 1; "
                "received 0"
            )
        for number, follow_up in enumerate(self.then):
            try:
                follow_up.after(self)
            except ValidationError as error:
                first = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"classify.then.{number}: {first}") from None
        return self

    @model_validator(mode="after")
    def _one_label_where_samples_are_compared(self) -> Classify:
        """Refuse to mix labels for a loss that compares samples by their class."""
        if "projections" in self.loss.needs() and self.mixing.name != "none":
            raise ValueError(
                f"classify.mixing: the loss '{self.loss.name}' compares samples by class, and a "
                f"mixed one has two; must be none; received {self.mixing.name}"
            )
        return self

    @model_validator(mode="after")
    def _one_training_is_cut_short(self) -> Classify:
        """Refuse to cut short what is two trainings, one after the other."""
        if self.training.until and self.self_trainer.reads:
            raise ValueError(
                f"classify.training.until: must be 0, classify.self_trainer "
                f"'{self.self_trainer.name}' trains twice; received {self.training.until}"
            )
        return self

    @model_validator(mode="after")
    def _loss_trains_the_head(self) -> Classify:
        """Refuse a loss that would leave the head as it was drawn."""
        if not self.loss.trains_head():
            name = self.loss.name
            raise ValueError(
                f"classify.loss: '{name}' trains the features and no head; "
                f"put it beside a loss that does: {{joint: {{contrast: {name}}}}}"
            )
        return self

    @model_validator(mode="after")
    def _branches_get_what_they_join(self) -> Classify:
        """Refuse two batches where one is mixed, or where the loss can't take both."""
        if self.branches.other_sampler() is None:
            return self
        name, compares = self.branches.name, "projections" in self.loss.needs()
        if self.mixing.name != "none":
            raise ValueError(
                f"classify.mixing: '{self.mixing.name}' mixes one batch, and classify.branches "
                f"'{name}' joins two; allowed: none"
            )
        if compares == bool(self.branches.trunk_ending) or (
            compares and "projection_labels" not in self.loss.takes()
        ):
            allowed = "losses on logits alone" if self.branches.trunk_ending else "joint"
            raise ValueError(
                f"classify.branches: '{name}' does not go with the loss '{self.loss.name}'; "
                f"allowed: {allowed}"
            )
        return self

    @model_validator(mode="after")
    def _experts_are_those_of_the_loss(self) -> Classify:
        """Refuse a loss on experts without them, and branches of two kinds."""
        ending, wanted = self.head.trunk_ending, self.branches.trunk_ending
        count = getattr(self.head, "count", 0) if self.head.name == "experts" else 0
        number = self.loss.num_experts
        if "expert_logits" in self.loss.needs() and (not count or number not in (0, count)):
            raise ValueError(
                f"classify.head: the loss '{self.loss.name}' needs the head 'experts' with "
                f"{number or 'some'} of them; received '{self.head.name}'"
                f"{f' with {count}' if count else ''}"
            )
        if ending and wanted and ending[0] != wanted[0]:
            raise ValueError(
                f"classify.head: classify.branches '{self.branches.name}' needs {wanted[0]} "
                f"experts or another head; received {count}"
            )
        return self
