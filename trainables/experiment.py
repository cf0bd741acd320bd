"""The whole schema: data and the stages' settings, in the order in which the stages run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from trainables.classify_settings import Classify, FollowUp, Training
from trainables.data_settings import Count, Data, Positive, Stream, Unlabelled
from trainables.methods.augmentations import Augmentation
from trainables.methods.calibrators import Calibrator
from trainables.methods.clusterers import Clusterer
from trainables.methods.distillers import Distiller
from trainables.methods.losses import Loss
from trainables.methods.method import Choice, Range
from trainables.methods.pretrainers import Pretrainer
from trainables.methods.pseudo_labelers import PseudoLabeler
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.samplers import Sampler
from trainables.methods.scores import Score
from trainables.methods.thresholds import Threshold
from trainables.settings import Settings, assign, build, parse_assignments, read_yaml

__all__ = [
    "Classify",
    "Data",
    "Discover",
    "Evaluate",
    "Experiment",
    "Extract",
    "FollowUp",
    "Pretrain",
    "Rebalance",
    "Screen",
    "Stream",
    "Training",
    "Unlabelled",
    "Update",
    "load_experiment",
]


class Pretrain(Settings):
    """Where the trunk's weights come from, before any label is used."""

    backbone: str = "fastnet"
    method: Pretrainer = Field(default="none")  # type: ignore[assignment]
    augmentation: Augmentation = Field(default="simclr_views")  # type: ignore[assignment]
    training: Training = Training(epochs=20, batch_size=256)


class Extract(Settings):
    """Features of every open view under the trained trunk, computed once for all that follows.

    ``batchnorm="frozen"`` leaves the trunk as it is, bit by bit. ``shifted`` first re-estimates the
    running statistics of its batch norm, and nothing else, under draws in which every class is
    drawn alike: ``shift_steps`` batches of ``shift_batch_size`` images, augmented or as they are.
    """

    batch_size: Count = 512
    batchnorm: Annotated[Literal["frozen", "shifted"], Choice(("frozen", "shifted"))] = "frozen"
    shift_steps: Count = 100
    shift_batch_size: Annotated[int, Field(ge=2)] = 128
    shift_augmentation: Augmentation = Field(default="none")  # type: ignore[assignment]


class Rebalance(Settings):
    """A correction of the classifier for the long tail, on frozen features."""

    method: Rebalancer = Field(default="none")  # type: ignore[assignment]


class Screen(Settings):
    """Confidence, calibration and the threshold that sends samples to the pool."""

    method: Score = Field(default="energy")  # type: ignore[assignment]
    calibrator: Calibrator = Field(default="temperature")  # type: ignore[assignment]
    threshold: Threshold = Field(default="precision")  # type: ignore[assignment]


class Discover(Settings):
    """Pseudo-labels for the samples in the pool."""

    clusterer: Clusterer = Field(default="constrained_kmeans")  # type: ignore[assignment]
    pseudo_labeler: PseudoLabeler = Field(default="knn_agreement")  # type: ignore[assignment]
    num_clusters: Count | None = None
    max_clusters: Count = 10


class Update(Settings):
    """Two teachers make one student with more classes, in alternating phases.

    ``exemplars_per_class`` images of each known class are rehearsed (``None``: all of them).

    ``mode="head"`` trains the head alone on cached features; ``mode="full"`` alternates phase A
    (trunk frozen, head trains) and phase B (trunk trains with ``lr * trunk_lr_factor``, head
    frozen) for ``rounds`` rounds.
    """

    distiller: Distiller = Field(default="double_teacher")  # type: ignore[assignment]
    mode: Literal["head", "full"] = "head"
    rounds: Count = 1
    trunk_lr_factor: Annotated[Positive, Range(0.01, 0.1, log=True)] = 0.1
    exemplars_per_class: Annotated[int, Field(ge=1)] | None = None
    loss: Loss = Field(default="cross_entropy")  # type: ignore[assignment]
    sampler: Sampler = Field(default="class_balanced")  # type: ignore[assignment]
    augmentation: Augmentation = Field(default="crop_flip")  # type: ignore[assignment]
    training: Training = Training(epochs=20, lr=0.05)

    @model_validator(mode="after")
    def _trains_to_the_end(self) -> Update:
        """Refuse to cut short what is several trainings, one after the other."""
        if self.training.until:
            raise ValueError(
                "update.training.until: must be 0, an update is several trainings in turn; "
                f"received {self.training.until}"
            )
        return self


class Evaluate(Settings):
    """What is measured; the only stage that is handed held-out views."""

    many_above: Annotated[int, Field(ge=0)] = 100
    few_below: Annotated[int, Field(ge=0)] = 20
    bins: Count = 15


class Experiment(Settings):
    """One recipe: data, seed, and every stage's settings."""

    name: str = "experiment"
    seed: Annotated[int, Field(ge=0)] = 0
    data: Data = Data()
    pretrain: Pretrain = Pretrain()
    classify: Classify = Classify()
    extract: Extract = Extract()
    rebalance: Rebalance = Rebalance()
    score: Screen = Screen()
    discover: Discover = Discover()
    update: Update = Update()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _unlabelled_images_to_learn_from(self) -> Experiment:
        """Refuse to learn from unlabelled images where there are none."""
        trainer = self.classify.self_trainer
        if "unlabelled" in trainer.reads and not self.data.unlabelled.ratio:
            raise ValueError(
                f"data.unlabelled.ratio: classify.self_trainer '{trainer.name}' learns from "
                "unlabelled images; must be above 0; received 0"
            )
        return self


def load_experiment(path: str | Path | None, sets: Iterable[str] = ()) -> Experiment:
    """Read an experiment file and apply ``--set path=value`` texts, which win over the file.

    Args:
        path: YAML file; ``None`` starts from the defaults.
        sets: Texts ``path=value``.

    Raises:
        ConfigError: One line that names what is wrong.
    """
    tree: dict[str, Any] = {} if path is None else read_yaml(Path(path))
    experiment = build(Experiment, tree)
    changes = parse_assignments(sets)
    return assign(experiment, changes) if changes else experiment
