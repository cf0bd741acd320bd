"""The whole schema: data and the stages' settings, in the order in which the stages run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from trainables.data.data_settings import Count, Data, Fitting, Stream, Unlabelled
from trainables.data.service_settings import SERVICE, SERVICE_CHANGES, SERVICE_THRESHOLD
from trainables.data.source_names import PRIOR_FILE, WEIGHTS, default_profile, own_kind
from trainables.errors import did_you_mean
from trainables.methods.augmentations import Augmentation
from trainables.methods.calibrators import Calibrator
from trainables.methods.clusterers import Clusterer
from trainables.methods.method import Choice, ContentOfFile
from trainables.methods.pretrainers import Pretrainer
from trainables.methods.pretrainers.pretrained import Pretrained
from trainables.methods.pseudo_labelers import PseudoLabeler
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.scores import Score
from trainables.methods.thresholds import Threshold
from trainables.methods.tuners import Tuner
from trainables.settings import Settings, assign, build, parse_assignments, read_yaml
from trainables.training.classify_settings import Classify, PhaseSettings, Training
from trainables.training.update_settings import Update
from trainables.weights.sources import check_name, has_source

__all__ = [
    "Classify",
    "Data",
    "Discover",
    "Evaluate",
    "Experiment",
    "Extract",
    "PhaseSettings",
    "Pretrain",
    "Rebalance",
    "ScoreSettings",
    "Stream",
    "Training",
    "Unlabelled",
    "Update",
    "load_experiment",
]

logger = logging.getLogger(__name__)

AS_GIVEN = "as_given"
PRIORS = (AS_GIVEN, "natural", "balanced")
UNCHANGED = (("pooling", "default"), ("layer", 0))
Pooling = Literal["default", "average", "max", "gem", "token"]


class Pretrain(Settings):
    """Where the trunk's weights come from, before any label is used.

    Args:
        backbone: Architecture of the trunk: ``fastnet``, ``resnet32``, ``resnet18_small``, or a
            name of timm. With ``method: pretrained`` also weights: ``hf-hub:OWNER/NAME`` (with
            ``@REVISION``), or ``local-dir:PATH``, a folder with ``config.json`` and weights as timm
            writes them.
        pooling: How a network of timm makes one vector of its last maps or tokens: in its own way,
            by their average, maximum, generalized mean (power 3), or by the class token.
        layer: How many of the last stages (or blocks) of a network of timm are left out.
        method: Source of the weights.
        augmentation: Makes the two views of a contrastive method.
        training: Optimizer, schedule and precision.
    """

    backbone: Annotated[str, ContentOfFile(WEIGHTS)] = "fastnet"
    pooling: Pooling = "default"
    layer: Annotated[int, Field(ge=0)] = 0
    method: Pretrainer = Field(default="none")  # type: ignore[assignment]
    augmentation: Augmentation = Field(default="simclr_views")  # type: ignore[assignment]
    training: Training = Training(epochs=20, batch_size=256)

    @model_serializer(mode="wrap")
    def _own_pooling_by_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what recipes stored before do not have: they keep their digests."""
        tree: dict[str, Any] = dump(self)
        return {k: v for k, v in tree.items() if (k, v) not in UNCHANGED}

    @model_validator(mode="after")
    def _pooling_of_timm(self) -> Pretrain:
        """Refuse another pooling for this project's networks."""
        if self.pooling != "default":
            from trainables.models.networks import OWN

            if self.backbone.partition("+")[0] in OWN:
                raise ValueError(
                    f"pretrain.pooling: must be default, '{self.backbone}' pools in its own way; "
                    f"received {self.pooling}"
                )
        return self

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> Pretrain:
        """Refuse a backbone that is no name, and weights that would not be used."""
        check_name(self.backbone)
        if not has_source(self.backbone):
            return self
        if not isinstance(self.method, Pretrained):
            raise ValueError(
                f"pretrain.method: '{self.backbone}' names weights, so it must be pretrained; "
                f"received {self.method.name}"
            )
        if self.method.checkpoint:
            raise ValueError(
                f"pretrain.backbone: must name an architecture, whose weights are in checkpoint "
                f"{self.method.checkpoint}; received '{self.backbone}'"
            )
        return self


class Extract(Settings):
    """Features of every open view under the trained trunk, computed once for all that follows.

    Args:
        batch_size: Images per step.
        batchnorm: ``frozen`` leaves the trunk as it is, bit by bit; ``shifted`` first estimates
            the running statistics of its batch norm anew, with every class drawn equally often.
        shift_steps: Batches that ``shifted`` sees.
        shift_batch_size: Images in each of them.
        shift_augmentation: Random change of these images.
    """

    batch_size: Count = 512
    batchnorm: Annotated[Literal["frozen", "shifted"], Choice(("frozen", "shifted"))] = "frozen"
    shift_steps: Count = 100
    shift_batch_size: Annotated[int, Field(ge=2)] = 128
    shift_augmentation: Augmentation = Field(default="none")  # type: ignore[assignment]


class Rebalance(Settings):
    """A correction of the classifier for the long tail, on frozen features.

    Args:
        method: The correction.
    """

    method: Rebalancer = Field(default="none")  # type: ignore[assignment]


class ScoreSettings(Settings):
    """Confidence, calibration and the threshold below which an image is called unknown.

    Args:
        method: Score of an image, higher for a surely known class.
        calibrator: Maps logits to calibrated logits.
        threshold: Rule that sets the threshold on validation images.
        prior: How often each class is expected, by which images count in calibration and threshold:
            ``as_given``, as the images come that these are fitted on (in world ``service`` as in
            training); ``natural``, as in training; ``balanced``; or ``file:PATH``, of a YAML or
            JSON file with a number for each class.
    """

    method: Score = Field(default="energy")  # type: ignore[assignment]
    calibrator: Calibrator = Field(default="temperature")  # type: ignore[assignment]
    threshold: Threshold = Field(default="precision")  # type: ignore[assignment]
    prior: Annotated[str, ContentOfFile(PRIOR_FILE)] = AS_GIVEN

    @model_serializer(mode="wrap")
    def _own_prior_alone(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what recipes stored before do not have: they keep their digests."""
        tree: dict[str, Any] = dump(self)
        return {key: value for key, value in tree.items() if (key, value) != ("prior", AS_GIVEN)}

    @model_validator(mode="after")
    def _prior_is_named_or_a_file(self) -> ScoreSettings:
        """Refuse another text."""
        if self.prior not in PRIORS and not self.prior.removeprefix(PRIOR_FILE) != self.prior:
            raise ValueError(
                f"score.prior: allowed: {', '.join(PRIORS)}, {PRIOR_FILE}PATH; received "
                f"'{self.prior}'{did_you_mean(self.prior, PRIORS)}"
            )
        return self


class Discover(Settings):
    """Pseudo-labels for the images in the pool.

    Args:
        clusterer: Groups the images of the pool.
        pseudo_labeler: Decides which images of a cluster are believed.
        num_new_clusters: Number of new classes; ``null`` estimates it.
        max_new_clusters: Largest number that the estimate considers.
    """

    clusterer: Clusterer = Field(default="constrained_kmeans")  # type: ignore[assignment]
    pseudo_labeler: PseudoLabeler = Field(default="knn_agreement")  # type: ignore[assignment]
    num_new_clusters: Count | None = Field(
        default=None, validation_alias=AliasChoices("num_new_clusters", "num_clusters")
    )
    max_new_clusters: Count = Field(
        default=10, validation_alias=AliasChoices("max_new_clusters", "max_clusters")
    )


class Evaluate(Settings):
    """What is measured; the only stage that is handed held-out images.

    Args:
        many_above: A class with more training images than this belongs to the band "many".
        few_below: A class with fewer training images than this belongs to the band "few".
        bins: Bins of the calibration error.
    """

    many_above: Annotated[int, Field(ge=0)] = 100
    few_below: Annotated[int, Field(ge=0)] = 20
    bins: Count = 15


class Experiment(Settings):
    """One recipe: data, seed, and every stage's settings.

    Args:
        name: Name of the recipe, for people.
        seed: Seed of all that is drawn in the stages; ``data.seed`` cuts the data.
        data: A data source and the protocol that cuts it.
        pretrain: Where the trunk's weights come from.
        classify: The first classifier, trained with the trunk.
        extract: Features of every image under the trained trunk.
        rebalance: A correction of the classifier for the long tail.
        score: Confidence, calibration and threshold.
        discover: Pseudo-labels for the images in the pool.
        update: The model that learns the new classes.
        evaluate: What is measured.
    """

    name: str = "experiment"
    seed: Annotated[int, Field(ge=0)] = 0
    data: Data = Data()
    pretrain: Pretrain = Pretrain()
    classify: Classify = Classify()
    extract: Extract = Extract()
    rebalance: Rebalance = Rebalance()
    score: ScoreSettings = ScoreSettings()
    discover: Discover = Discover()
    update: Update = Update()
    evaluate: Evaluate = Evaluate()

    def trunk_tuner(self) -> Tuner:
        """Return which weights of the trunk the first classifier's training changes.

        Example:
            >>> Experiment().trunk_tuner().name
            'full'
        """
        return self.classify.trunk.for_trunk(pretrained=self.pretrain.method.name == "pretrained")

    @model_validator(mode="after")
    def _frozen_trunk_is_asked_for_nothing(self) -> Experiment:
        """Refuse methods that train a trunk which is frozen."""
        if not self.trunk_tuner().moves:
            self.classify.check_frozen()
        return self

    @property
    def needs_validation(self) -> bool:
        """Say whether only validation images can choose: the trunk learns, or the classifier."""
        learns = self.pretrain.method.name != "pretrained" or self.trunk_tuner().moves
        return self.rebalance.method.needs_validation or (self.rebalance.method.chooses and learns)

    @model_validator(mode="after")
    def _validation_images_to_choose_by(self) -> Experiment:
        """Refuse a rebalancer that chooses by validation images where there are none."""
        if self.needs_validation and not self.data.validation_per_class:
            raise ValueError(
                f"data.validation_per_class: rebalance.method '{self.rebalance.method.name}' "
                "chooses by validation images; must be above 0; received 0"
            )
        return self

    @model_validator(mode="after")
    def _trunk_stays_as_it_came(self) -> Experiment:
        """Refuse in world `service` statistics of training images inside a frozen trunk."""
        shifted = self.extract.batchnorm == "shifted" and not self.trunk_tuner().moves
        if shifted and self.data.world == SERVICE:
            raise ValueError(
                "extract.batchnorm: must be frozen in world service where the trunk is frozen, "
                "because a shifted trunk has seen the images that answer out of fold; received "
                "shifted"
            )
        return self

    @model_validator(mode="after")
    def _branches_of_own_networks(self) -> Experiment:
        """Refuse branches of a network that can't have any."""
        for name, method in (("branches", self.classify.branches), ("head", self.classify.head)):
            if method.trunk_ending:
                from trainables.models.networks import OWN

                if self.pretrain.backbone.partition("+")[0] not in OWN:
                    raise ValueError(
                        f"classify.{name}: '{method.name}' needs branches of the trunk, which "
                        f"pretrain.backbone '{self.pretrain.backbone}' can't have; allowed "
                        f"backbones: {', '.join(OWN)}"
                    )
        return self

    @model_validator(mode="after")
    def _unlabelled_images_to_learn_from(self) -> Experiment:
        """Refuse to learn from unlabelled images where there are none."""
        trainer = self.classify.self_trainer
        if "unlabelled" in trainer.extra_views and not self.data.unlabelled.ratio:
            raise ValueError(
                f"data.unlabelled.ratio: classify.self_trainer '{trainer.name}' learns from "
                "unlabelled images; must be above 0; received 0"
            )
        return self


def in_service(experiment: Experiment, changes: Mapping[str, Any] | None = None) -> Experiment:
    """Return a recipe in world `service`: its choices, with every class known and trained on.

    Args:
        experiment: A recipe of any world.
        changes: Dotted paths to values, which win over those of the world.

    Example:
        >>> found = in_service(Experiment(), {"score.threshold.false_alarm.level": 0.01})
        >>> found.data.world, found.data.novel_classes, found.score.threshold.level
        ('service', 0, 0.01)
    """
    return assign(experiment, {**SERVICE_CHANGES, **(changes or {})})


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
    if changes.get("data.world") == SERVICE:
        changes = {**SERVICE_CHANGES, **changes}
    elif experiment.data.world == SERVICE and "threshold" not in (tree.get("score") or {}):
        changes = {"score.threshold": SERVICE_THRESHOLD, **changes}
    experiment = with_weights(assign(experiment, changes) if changes else experiment)
    groups = (tree.get("data"), changes.get("data"))
    named = any(group and "profile" in group for group in groups)
    named |= experiment.data.world == SERVICE  # it has a profile of its own
    if named or any(path.startswith("data.profile") for path in changes):
        return experiment
    profile = default_profile(experiment.data.source)  # that of the file was for its own source
    if experiment.data.profile.name != profile:
        experiment = assign(experiment, {"data.profile": profile})
    if own_kind(experiment.data.source):
        _say_once(f"data.profile={profile}: own images keep their class sizes unless it is set")
    return experiment


def with_weights(experiment: Experiment) -> Experiment:
    """Return a recipe that names its pretrained weights exactly, and how images are made for them.

    What the recipe sets of size, interpolation and crop fraction stays as it is.

    Raises:
        ConfigError: The weights are not there; see `trainables.weights.pretrained.identify`.
    """
    pretrain, data = experiment.pretrain, experiment.data
    if not isinstance(pretrain.method, Pretrained):
        return experiment
    from trainables.weights.pretrained import identify

    found = identify(pretrain.backbone, pretrain.method)
    changes: dict[str, Any] = {}
    if found.backbone != pretrain.backbone:
        changes["pretrain.backbone"] = found.backbone
    told = {} if found.preprocessing is None else found.preprocessing._asdict()
    for name in ("image_size", *Fitting._fields):
        if name in told and getattr(data, name) is None:
            changes[f"data.{name}"] = told[name]
    if not changes:
        return experiment
    _say_once(f"{' '.join(f'{k}={v}' for k, v in changes.items())}: of the pretrained weights")
    return assign(experiment, changes)


@cache
def _say_once(text: str) -> None:
    """Log a line, once in this process: a command may load its recipe twice."""
    logger.warning("%s", text)
