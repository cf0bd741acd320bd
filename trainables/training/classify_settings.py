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

from trainables.data.data_settings import Count, NonNegative, Positive
from trainables.methods.augmentations import Augmentation
from trainables.methods.branches import Branches
from trainables.methods.heads import Head
from trainables.methods.losses import Loss
from trainables.methods.method import Range
from trainables.methods.mixers import Mixer
from trainables.methods.samplers import Sampler
from trainables.methods.self_trainers import SelfTrainer
from trainables.methods.tuners import Tuner
from trainables.settings import Settings

Schedule = Literal["cosine", "one_cycle", "step", "constant", "plateau"]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Training(Settings):
    """Optimizer, schedule and precision of a training.

    Args:
        epochs: Passes over the data; the schedule spans all of them.
        until: Stop after this many of ``epochs`` (0: never). The schedule still spans all
            ``epochs``, so a stopped or resumed run equals the full run up to that epoch.
        batch_size: Images per step, shared by the workers.
        optimizer: Optimizer of the weights.
        lr: Peak learning rate.
        momentum: Momentum of ``sgd``.
        nesterov: Nesterov's form of momentum.
        weight_decay: Weight decay, on all weights.
        schedule: Course of the learning rate.
        milestones: Epochs at which the schedule ``step`` multiplies the rate by ``gamma``.
        gamma: Factor of the schedules ``step`` and ``plateau``.
        patience: Epochs without a better validation accuracy (without validation images: loss)
            after which the schedule ``plateau`` multiplies the rate by ``gamma``.
        warmup_epochs: Epochs of linear warm-up, by one step per epoch.
        warmup_fraction: Share of the training with a linear warm-up, from step to step; the
            schedule spans the rest.
        gradient_clip: Largest norm of the gradient; 0 does not clip.
        precision: ``auto`` times a few steps in float32 and bfloat16 and takes the faster one, once
            per storage and kind of machine; on fewer than 20,000 images it is ``float32``.
        layout: Memory layout of images; ``auto`` takes the faster one, as ``precision`` does.
        step: How a step runs, with results that are equal up to rounding: ``eager`` call by call,
            ``compiled`` with the trunk compiled by torch; ``auto`` is ``eager``. Earlier recipes
            may say ``graph``, a CUDA graph: it runs eagerly, and a line of the log says so.
        sync_batchnorm: Batch normalization over the batches of all workers.
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
    patience: Annotated[int, Field(ge=0)] = 10
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    warmup_fraction: Fraction = 0.0
    gradient_clip: NonNegative = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    layout: Literal["auto", "contiguous", "channels_last"] = "auto"
    step: Literal["auto", "eager", "compiled", "graph"] = "auto"
    sync_batchnorm: bool = False

    @model_validator(mode="after")
    def _one_schedule(self) -> Training:
        """Refuse two warm-ups, and a plateau at which the rate would not fall."""
        check_schedule(self)
        return self

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
        """Leave out what recipes stored before do not have: they keep their digests."""
        tree: dict[str, Any] = dump(self)
        usual = {"until": 0, "step": "auto", "patience": 10, "warmup_fraction": 0.0}
        return {key: value for key, value in tree.items() if usual.get(key, ...) != value}


def check_schedule(settings: Training | PhaseSettings) -> None:
    """Refuse settings of a schedule that contradict each other.

    Raises:
        ValueError: There are two warm-ups, or the factor of a plateau does not lower the rate.
    """
    if settings.warmup_epochs and settings.warmup_fraction:
        raise ValueError(
            "warmup_fraction: must be 0 beside warmup_epochs, a training warms up once; "
            f"received {settings.warmup_fraction:g} and {settings.warmup_epochs} epochs"
        )
    if settings.schedule == "plateau" and settings.gamma >= 1:
        raise ValueError(
            "gamma: must be below 1 for the schedule 'plateau', which multiplies the rate by it; "
            f"received {settings.gamma:g}"
        )


class PhaseSettings(Settings):
    """A further training of the first classifier, with a learning rate of its own.

    The optimizer starts anew. Optimizer, batch size and precision are those of the stage.
    Schedules, deferred losses and samplers count this training's own epochs.

    Args:
        epochs: Passes over the data.
        lr: Peak learning rate.
        schedule: Course of the learning rate.
        milestones: Epochs at which the schedule ``step`` multiplies the rate by ``gamma``.
        gamma: Factor of the schedules ``step`` and ``plateau``, whose patience is the stage's.
        warmup_epochs: Epochs of linear warm-up.
        warmup_fraction: Share of this training with a linear warm-up.
        loss: Another loss; ``null`` keeps the stage's.
        sampler: Another sampler; ``null`` keeps the stage's.
        augmentation: Another augmentation; ``null`` keeps the stage's.
        mixing: Another mixer; ``null`` keeps the stage's.
    """

    epochs: Count
    lr: Positive
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: Positive = 0.1
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    warmup_fraction: Fraction = 0.0
    loss: Loss | None = None
    sampler: Sampler | None = None
    augmentation: Augmentation | None = None
    mixing: Mixer | None = None

    @model_serializer(mode="wrap")
    def _what_is_said(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is as in the stage's own settings."""
        tree: dict[str, Any] = dump(self)
        told = {key: value for key, value in tree.items() if value is not None}
        return {key: told[key] for key in told if key != "warmup_fraction" or told[key]}

    @model_validator(mode="after")
    def _one_schedule(self) -> PhaseSettings:
        """Refuse two warm-ups, and a plateau at which the rate would not fall."""
        check_schedule(self)
        return self

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

    Args:
        trunk: Which weights of the trunk are trained: by default all, of pretrained weights none.
        trunk_lr_factor: Learning rate of the trunk over ``training.lr``.
        dropout: Share of the features that the head does not see in a step of the training.
        head: Layer from features to logits.
        loss: Training loss.
        sampler: How often each image is drawn.
        augmentation: Random change of each image; none where the trunk is frozen.
        mixing: Mixes the images of a batch in pairs.
        branches: A second batch in every step.
        self_trainer: Use of the unlabelled images (``data.unlabelled``).
        training: Optimizer, schedule and precision.
        then: Trainings that follow, in order, of the same trunk and head; none after a training
            that ``training.until`` stops.
    """

    trunk: Tuner = Field(default="auto")  # type: ignore[assignment]
    trunk_lr_factor: Annotated[Positive, Range(0.01, 1.0, log=True)] = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0.0, 0.5)] = 0.0
    head: Head = Field(default="linear")  # type: ignore[assignment]
    loss: Loss = Field(default="cross_entropy")  # type: ignore[assignment]
    sampler: Sampler = Field(default="instance_balanced")  # type: ignore[assignment]
    augmentation: Augmentation = Field(default="crop_flip")  # type: ignore[assignment]
    mixing: Mixer = Field(default="none")  # type: ignore[assignment]
    branches: Branches = Field(default="none")  # type: ignore[assignment]
    self_trainer: SelfTrainer = Field(default="none")  # type: ignore[assignment]
    training: Training = Training()
    then: tuple[PhaseSettings, ...] = ()

    @model_serializer(mode="wrap")
    def _alone_by_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what recipes stored before do not have: they keep their digests."""
        tree: dict[str, Any] = dump(self)
        usual = {"trunk": {"auto": {}}, "trunk_lr_factor": 1.0, "dropout": 0.0}
        said = {key: value for key, value in tree.items() if usual.get(key, ...) != value}
        return said if self.then else {key: said[key] for key in said if key != "then"}

    def phases(self) -> tuple[Classify, ...]:
        """Return the settings of each training, in order.

        Example:
            >>> settings = Classify(then=(PhaseSettings(epochs=5, lr=0.01, mixing="mixup"),))
            >>> [(p.training.epochs, p.training.lr, p.mixing.name) for p in settings.phases()]
            [(30, 0.1, 'none'), (5, 0.01, 'mixup')]
        """
        first = self.model_copy(update={"then": ()})
        return first, *(() if self.training.until else (f.after(self) for f in self.then))

    def check_frozen(self) -> None:
        """Refuse what a trunk that is not trained can't do, in each of the trainings.

        Raises:
            ValueError: One line with the remedy.
        """
        remedy = "set classify.trunk=full to train the trunk"
        for phase in self.phases():
            if phase.mixing.name != "none":
                raise ValueError(
                    f"classify.mixing: '{phase.mixing.name}' mixes images, and the trunk is "
                    f"frozen; allowed: none; or {remedy}"
                )
            if "projections" in phase.loss.required_inputs():
                raise ValueError(
                    f"classify.loss: '{phase.loss.name}' compares two views of an image, and the "
                    f"trunk is frozen; allowed: losses on logits; or {remedy}"
                )
        for name, method in (("branches", self.branches), ("head", self.head)):
            if method.trunk_ending:
                raise ValueError(
                    f"classify.{name}: '{method.name}' trains branches of the trunk, which is "
                    f"frozen; choose another, or {remedy}"
                )

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
        if "projections" in self.loss.required_inputs() and self.mixing.name != "none":
            raise ValueError(
                f"classify.mixing: the loss '{self.loss.name}' compares samples by class, and a "
                f"mixed one has two; must be none; received {self.mixing.name}"
            )
        return self

    @model_validator(mode="after")
    def _one_training_is_cut_short(self) -> Classify:
        """Refuse to cut short what is two trainings, one after the other."""
        if self.training.until and self.self_trainer.extra_views:
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
        name, compares = self.branches.name, "projections" in self.loss.required_inputs()
        if self.mixing.name != "none":
            raise ValueError(
                f"classify.mixing: '{self.mixing.name}' mixes one batch, and classify.branches "
                f"'{name}' joins two; allowed: none"
            )
        if compares == bool(self.branches.trunk_ending) or (
            compares and "projection_labels" not in self.loss.accepted_inputs()
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
        if "expert_logits" in self.loss.required_inputs() and (
            not count or number not in (0, count)
        ):
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
