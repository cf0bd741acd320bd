"""No training step waits for its device; checked without one (see `no_waiting`)."""

import contextlib
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.no_waiting import SynchronizationError, no_waiting
from tests.helpers.pretend_device import DEVICE, DeviceContext, DeviceGenerator
from trainables.artifacts import (
    Classifier,
    Features,
    ImageView,
    LabelledView,
    PseudoLabels,
    StreamFeatures,
)
from trainables.experiment import Classify, Pretrain, Training, Update
from trainables.features.batched_heads import _fractions, _start, _step
from trainables.features.head_losses import HeadLoss
from trainables.features.head_stacks import LinearStack
from trainables.features.head_training import HeadTrainingSpec
from trainables.methods.augmentations import Augmentation
from trainables.methods.heads import Head
from trainables.methods.losses import Loss
from trainables.models.backbone import build_trunk, to_artifact
from trainables.models.head_modules import LinearHead
from trainables.stages import classify, pretrain, update
from trainables.training import student
from trainables.training.loop import make_optimizer, set_lr
from trainables.training.steps import EagerStep

CLASSES = 5
LOSSES = sorted(name for name, loss in Loss.shelf.items() if loss.trains_head())  # type: ignore[attr-defined]
HEAD = Head.parse("linear")
TRAINING = Training(epochs=2, batch_size=4, precision="float32", layout="channels_last")


def view(images: int = 12) -> LabelledView:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(images) % CLASSES
    return LabelledView(pixels, np.arange(images), labels, CLASSES, "")


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x[torch.tensor([0, 2])],
        lambda x: x.__setitem__(x > 0, torch.ones(3).to(DEVICE)),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: x + torch.ones(3).to(DEVICE),
        lambda x: x + torch.tensor(2.0, device=DEVICE),
        lambda x: torch.bincount(x.long()),
    ],
)
def test_the_check_sees_what_waits(wait: Any) -> None:
    there = torch.zeros(3, device=DEVICE)
    with no_waiting():
        there.mul_(2.0).add_(there.where(there > 0, 1.0))[:2] = 3.0
        with pytest.raises((SynchronizationError, RuntimeError)):
            wait(there)


class StepTakenError(Exception):
    """A step was done."""


@pytest.fixture
def one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each training end after a few steps, in which nothing may wait."""

    def fit(groups: Any, **given: Any) -> None:
        training, modules = given["training"], given["state"].modules
        optimizer = make_optimizer(training, groups)
        step = EagerStep(given["batch_loss"], optimizer, training)
        batches = iter(given["epoch_batches"](0))
        batch = next(batches)  # the order of the epoch is brought there with the first batch
        with no_waiting():
            for progress in (0.0, 0.99):
                set_lr(optimizer, training, progress)
                value = step(batch, progress)
                assert value.device == DEVICE
                assert value.shape == ()
            step(next(batches), 0.5)
        assert all(p.device == DEVICE for module in modules.values() for p in module.parameters())
        if given["stage"] != "update/head":  # which is followed by another training
            raise StepTakenError

    monkeypatch.setattr(classify, "fit", fit)
    monkeypatch.setattr(pretrain, "fit", fit)
    monkeypatch.setattr(student, "fit", fit)
    # autocast, which is off here, does not know the device
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def train_one_step(settings: Classify, trunk_name: str = "fastnet") -> None:
    backbone = to_artifact(build_trunk(trunk_name, 16), trunk_name, 16)
    with pytest.raises(StepTakenError):
        classify.run(
            settings,
            backbone=backbone,
            known_train=view(),
            validation_known=view(),
            context=DeviceContext(device=DEVICE),
        )


@pytest.mark.usefixtures("one_step")
@pytest.mark.parametrize("loss", LOSSES)
def test_no_step_of_a_loss_waits(loss: str) -> None:
    experts = "expert_logits" in Loss.lookup(loss).required_inputs()
    head = {"experts": {"count": Loss.lookup(loss).num_experts or 3}} if experts else "linear"  # type: ignore[attr-defined]
    train_one_step(Classify(loss=loss, head=head, training=TRAINING))  # type: ignore[arg-type]


@pytest.mark.usefixtures("one_step")
@pytest.mark.parametrize("contrast", ["supcon", "bcl", "psc"])
def test_no_step_of_a_joint_loss_waits(contrast: str) -> None:
    train_one_step(Classify(loss={"joint": {"contrast": contrast}}, training=TRAINING))  # type: ignore[arg-type]


@pytest.mark.usefixtures("one_step")
@pytest.mark.parametrize("trunk", ["fastnet", "resnet32", "resnet18_small", "efficientnet_b0"])
def test_no_step_of_a_network_waits(trunk: str) -> None:
    train_one_step(Classify(training=TRAINING.model_copy(update={"gradient_clip": 1.0})), trunk)


@pytest.mark.usefixtures("one_step")
@pytest.mark.parametrize("head", ["cosine", "causal_norm", "mlp", "nearest_mean"])
def test_no_step_of_a_head_waits(head: str) -> None:
    train_one_step(Classify(head=head, training=TRAINING))  # type: ignore[arg-type]


@pytest.mark.usefixtures("one_step")
@pytest.mark.parametrize("method", ["simclr", "moco", "rotation"])
def test_no_step_of_pretraining_waits(method: str) -> None:
    settings = Pretrain(method=method, training=TRAINING)  # type: ignore[arg-type]
    with pytest.raises(StepTakenError):
        pretrain.run(settings, known_train=view(), context=DeviceContext(device=DEVICE))


@pytest.mark.usefixtures("one_step")
@pytest.mark.parametrize("distiller", ["double_teacher", "feature"])
def test_no_step_of_the_update_waits(distiller: str) -> None:
    # a scaled rate reads the length of the features, once and before the first step
    settings = Update(distiller=distiller, mode="full", rate="fixed", training=TRAINING)  # type: ignore[arg-type]
    draws = torch.Generator().manual_seed(0)
    trunk = build_trunk("fastnet", 16)
    head = HEAD.build(trunk.num_features, CLASSES)
    classifier = Classifier(
        head=HEAD,
        num_features=trunk.num_features,
        state=dict(head.state_dict()),
        logit_offset=torch.zeros(CLASSES),
        class_counts=torch.bincount(torch.from_numpy(view().labels)),
        feature_mean=torch.zeros(trunk.num_features),
    )
    known, pool = torch.rand(2, 12, trunk.num_features, generator=draws)
    with pytest.raises(StepTakenError):
        update.run(
            settings,
            backbone=to_artifact(trunk, "fastnet", 16),
            classifier=classifier,
            features=Features(known, known),
            stream_features=StreamFeatures(known, pool),
            known_train=view(),
            pool=ImageView(view().images, np.arange(12), ""),
            pseudo_labels=PseudoLabels(
                torch.arange(12), CLASSES + torch.arange(12) % 2, torch.ones(12), 2, {}
            ),
            context=DeviceContext(device=DEVICE),
        )


def test_no_step_of_many_heads_waits() -> None:
    losses = (HeadLoss(), HeadLoss(class_weights=torch.ones(CLASSES)), HeadLoss(gamma=2.0))
    draws, jobs = torch.zeros(12, dtype=torch.int64, device=DEVICE), []
    for number, loss in enumerate(losses):  # lengths that differ: so do the rates of a step
        head = LinearHead(8, CLASSES).to(DEVICE)
        jobs.append(HeadTrainingSpec(head, draws[: 8 + 2 * number], 4, 0.1, 0.0, objective=loss))
    features, labels = torch.zeros(12, 8, device=DEVICE), torch.zeros(12, device=DEVICE).long()
    state = _start(jobs, LinearStack, features)
    first, second = _fractions(state, range(2))
    with no_waiting():
        _step(state, draws[:4], labels, first)
        _step(state, draws[4:8], labels, second)


@pytest.mark.parametrize("name", sorted(Augmentation.shelf))
def test_no_augmentation_waits(name: str) -> None:
    augmentation = Augmentation.parse(name)
    images = torch.zeros(6, 3, 16, 16, dtype=torch.uint8, device=DEVICE)
    # a table that it has goes there once, with the first call
    augmentation(images=images, generator=DeviceGenerator())  # type: ignore[operator]
    with no_waiting():
        out = augmentation(images=images, generator=DeviceGenerator().manual_seed(0))  # type: ignore[operator]
    assert (out.shape, out.dtype, out.device) == (images.shape, images.dtype, DEVICE)
