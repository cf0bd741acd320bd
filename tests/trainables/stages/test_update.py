"""The update by values: what it gathers, its objective, and one step of head and trunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainables.artifacts import (
    Backbone,
    Classifier,
    Features,
    ImageView,
    LabelledView,
    PseudoLabels,
    StreamFeatures,
)
from trainables.context import Context
from trainables.experiment import Update
from trainables.features.predict import head_module, predict_logits
from trainables.functional.class_means import weighted_class_means
from trainables.methods.distillers.double_teacher import DoubleTeacher
from trainables.methods.heads import Head
from trainables.methods.updaters import Updater
from trainables.models.backbone import Trunk, build_trunk, from_artifact, to_artifact
from trainables.models.growth import grow_head
from trainables.models.head_modules import LinearHead
from trainables.stages import update
from trainables.training.student import (
    DistillationSet,
    Student,
    _drawn,
    train_head,
    train_trunk,
)

KNOWN = torch.tensor([[3.0, 0.0], [0.0, 4.0], [1.0, 2.0]])
POOL = torch.tensor([[4.0, 0.0], [9.0, 9.0], [0.0, 8.0], [-3.0, -3.0], [5.0, 5.0], [2.0, 0.0]])
# two samples in cluster 2 (the second counts a quarter), one in cluster 3, one of class 0;
# the sample of weight 0 is not learned from, and sample 1 was not selected
PSEUDO = PseudoLabels(
    positions=torch.tensor([0, 2, 3, 4, 5]),
    labels=torch.tensor([2, 2, 3, 3, 0]),
    weights=torch.tensor([1.0, 0.25, 0.5, 0.0, 0.5]),
    num_new_clusters=2,
    quality={},
)
WEIGHT, BIAS = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0.5, -0.5])
OFFSET = torch.tensor([0.25, 0.75])
CENTERS = torch.tensor([[3.2, 1.6], [-3.0, -3.0]])  # (1 * [4, 0] + .25 * [0, 8]) / 1.25
DISTILLER = {"temperature": 2.0, "old_weight": 1.5, "new_weight": 0.5, "feature_weight": 0.75}
RATE = 0.1


def settings(epochs: int = 1, **changes: Any) -> Update:
    """Epochs of one step of plain SGD on all samples."""
    training = {
        "epochs": epochs,
        "batch_size": 64,
        "lr": RATE,
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "precision": "float32",
        "layout": "contiguous",
    }
    return Update.model_validate(
        {
            "distiller": {"double_teacher": DISTILLER},
            "sampler": "instance_balanced",
            "augmentation": "none",
            "rate": "fixed",
            "training": training,
            **changes,
        }
    )


def classifier() -> Classifier:
    return Classifier(
        head=Head.parse("linear"),
        num_features=2,
        state={"weight": WEIGHT.clone(), "bias": BIAS.clone()},
        logit_offset=OFFSET,
        class_counts=torch.tensor([1, 2]),
        feature_mean=torch.zeros(2),
    )


def views(known: int = len(KNOWN), pool: int = len(POOL)) -> tuple[LabelledView, ImageView]:
    """Images of one color each, known ones first."""
    colors = np.random.default_rng(0).integers(0, 256, (known + pool, 1, 1, 3), dtype=np.uint8)
    images = np.broadcast_to(colors, (known + pool, 8, 8, 3)).copy()
    labels = np.array([0, 1, 1][:known])
    return (
        LabelledView(images, np.arange(known), labels, 2, "known"),
        ImageView(images, known + np.arange(pool), "pool"),
    )


def gathered(chosen: Update, pseudo: PseudoLabels = PSEUDO) -> DistillationSet:
    return update._gather(chosen, classifier(), (KNOWN, POOL), views()[0], pseudo, Context())


def cosines(rows: Tensor, centers: Tensor) -> Tensor:
    return (rows @ centers.T) / rows.norm(dim=1)[:, None] / centers.norm(dim=1)


# --- what is gathered ---------------------------------------------------------------------------


def test_exemplars_come_first_then_the_pool_samples_that_count() -> None:
    study = gathered(settings())
    assert study.rows.tolist() == [0, 1, 2, 3, 5, 6, 8]
    assert study.labels.tolist() == [0, 1, 1, 2, 2, 3, 0]
    assert study.weights.tolist() == [1.0, 1.0, 1.0, 1.0, 0.25, 0.5, 0.5]
    assert study.class_counts.tolist() == [2, 2, 2, 1]
    assert torch.equal(study.features, torch.cat([KNOWN, POOL[[0, 2, 3, 5]]]))
    assert torch.equal(study.old_features, study.features)


def test_each_row_has_the_answers_of_both_teachers_to_its_own_image() -> None:
    study = gathered(settings())
    rows = torch.cat([KNOWN, POOL[[0, 2, 3, 5]]]).double()
    old = rows @ WEIGHT.double().T + BIAS + OFFSET
    torch.testing.assert_close(study.old_logits.double(), old)
    assert study.old_logits[0].tolist() == [3.75, 0.25]
    assert study.old_logits[-1].tolist() == [2.75, 0.25]
    # ten times the cosine to each weighted center
    torch.testing.assert_close(study.new_logits.double(), 10 * cosines(rows, CENTERS.double()))
    assert study.new_logits[0].tolist() == pytest.approx([10 * 2 / 5**0.5, -10 / 2**0.5])
    assert study.new_logits[4].tolist() == pytest.approx([10 * 1 / 5**0.5, -10 / 2**0.5])


def test_a_center_is_the_mean_by_weight() -> None:
    study = gathered(settings())
    found = weighted_class_means(study.features, study.labels, study.weights, range(2, 4))
    torch.testing.assert_close(found, CENTERS)


def test_only_so_many_images_of_a_class_are_rehearsed() -> None:
    study = gathered(settings(exemplars_per_class=1))
    known = study.rows[study.rows < len(KNOWN)].tolist()
    assert known[0] == 0
    assert known[1:] in ([1], [2])
    assert study.class_counts.tolist() == [2, 1, 2, 1]


def test_rehearsed_images_are_drawn_by_the_seed() -> None:
    labels = np.repeat([0, 1], [20, 3])
    view = views()[0]._replace(indices=np.arange(23), labels=labels)

    def drawn(seed: int) -> list[int]:
        return update._exemplars(view, 4, Context(seed=seed)).tolist()

    for seed in range(3):
        assert [int(labels[i]) for i in drawn(seed)] == [0] * 4 + [1] * 3
        assert drawn(seed) == sorted(set(drawn(seed)))
    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(seed)) for seed in range(3)}) == 3


def updated(
    chosen: Update, pseudo: PseudoLabels = PSEUDO, **changes: object
) -> tuple[Backbone, Classifier]:
    known, pool = views()
    return update.run(
        chosen,
        backbone=fastnet(),
        classifier=classifier()._replace(**changes),
        features=Features(KNOWN, KNOWN[:0]),
        stream_features=StreamFeatures(POOL[:0], POOL),
        known_train=known,
        pool=pool,
        pseudo_labels=pseudo,
        context=Context(),
    )


def test_what_the_old_model_says_of_itself_is_kept() -> None:
    cost, mean = {"classify_steps": 7.0}, torch.tensor([2.0, 3.0])
    _, grown = updated(settings(epochs=0), train_cost=cost, feature_mean=mean)
    assert grown.train_cost == cost
    assert torch.equal(grown.feature_mean, mean)
    assert (grown.head, grown.num_features) == (classifier().head, 2)


def test_an_upper_bound_stays_marked_whoever_brought_it_in() -> None:
    still = settings(epochs=0)
    assert not updated(still)[1].oracle
    assert updated(still, PSEUDO._replace(oracle=True))[1].oracle
    assert updated(still, oracle=True)[1].oracle


def test_a_closed_form_learns_labels_and_believed_pseudo_labels_by_their_weight() -> None:
    heard: dict[str, float] = {}
    method = {"ridge": {"regularizer": 0.5, "balance": "none"}}
    known, pool = views()
    before = fastnet()
    same, grown = update.run(
        Update.model_validate({"method": method}),
        backbone=before,
        classifier=classifier(),
        features=Features(KNOWN, KNOWN[:0]),
        stream_features=StreamFeatures(POOL[:0], POOL),
        known_train=known,
        pool=pool,
        pseudo_labels=PSEUDO,
        context=Context(report=lambda metrics, step: heard.update(metrics)),
    )
    assert same is before
    assert grown.class_counts.tolist() == [2, 2, 2, 1]
    # the normal equations of seven images, the intercept unpenalized
    rows = torch.cat([KNOWN, POOL[[0, 2, 3, 5]]]).double()
    labels = torch.tensor([0, 1, 1, 2, 2, 3, 0])
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.25, 0.5, 0.5]).double()
    targets = nn.functional.one_hot(labels, 4).double()
    center = (weights[:, None] * rows).sum(0) / weights.sum()
    centered = rows - center
    gram = centered.T @ (weights[:, None] * centered)
    penalty = 0.5 * gram.trace() / 2 * torch.eye(2).double()
    weight = torch.linalg.solve(gram + penalty, centered.T @ (weights[:, None] * targets)).T
    bias = (weights[:, None] * targets).sum(0) / weights.sum() - weight @ center
    scale = heard["update/ridge/scale"]
    torch.testing.assert_close(grown.state["weight"], (scale * weight).float())
    torch.testing.assert_close(grown.state["bias"], (scale * bias).float())
    assert grown.logit_offset.tolist() == [0.0] * 4
    assert heard["update/ridge/regularizer"] == 0.5


def test_groups_of_labelled_images_stay_together_and_pool_images_are_alone() -> None:
    view = views()[0]._replace(groups=np.array([7, 2, 7]))
    found = update._groups(view, torch.tensor([0, 1, 2, 3, 5]))
    assert found is not None
    assert found[:3].tolist() == [7, 2, 7]
    assert len(set(found[2:].tolist())) == 3
    assert update._groups(views()[0], torch.tensor([0])) is None


@pytest.mark.parametrize("name", ["ridge", "lda"])
def test_copies_in_one_group_do_not_answer_for_each_other(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    rows, fresh = torch.randn(2, 60, 60, generator=draw)  # nothing to learn
    available = {
        "classifier": classifier()._replace(class_counts=torch.tensor([40, 40])),
        "features": torch.cat([rows, rows]).view(2, 3, 20, 60).transpose(0, 1).flatten(0, 2),
        "labels": torch.arange(3).repeat_interleave(40),
        "weights": torch.ones(120),
        "class_counts": torch.full((3,), 40),
        "num_labelled": 80,
    }
    groups = torch.arange(60).view(3, 1, 20).expand(3, 2, 20).flatten()
    method = Updater.parse(name)

    def sure(given: dict[str, Any]) -> float:
        model = method.call_with(given)._replace(num_features=60)
        return float(predict_logits(model, fresh).softmax(1).max(1).values.mean())

    assert sure(available) > 0.9  # each copy gives the other's label away
    assert sure({**available, "groups": groups}) < 0.4


def test_new_rows_point_at_the_weighted_centers() -> None:
    _, grown = updated(settings(epochs=0))
    length = (1 + 2) / 2  # mean norm of the old rows
    directions = CENTERS / CENTERS.norm(dim=1, keepdim=True)
    torch.testing.assert_close(grown.state["weight"], torch.cat([WEIGHT, length * directions]))
    assert grown.state["bias"].tolist() == [0.5, -0.5, 0.0, 0.0]
    assert grown.logit_offset.tolist() == [0.25, 0.75, 0.5, 0.5]
    assert grown.class_counts.tolist() == [2, 2, 2, 1]


def fastnet() -> Backbone:
    return to_artifact(build_trunk("fastnet", 8), "fastnet", 8)


# --- objective and steps, against an oracle in float64 ------------------------------------------


def study_of_seven() -> DistillationSet:
    """Return a study with hand-made teachers, all of weight 1."""
    draw = torch.Generator().manual_seed(3)
    features = torch.randn(7, 2, generator=draw)
    return DistillationSet(
        rows=torch.tensor([0, 1, 2, 3, 5, 6, 8]),
        labels=torch.tensor([0, 1, 1, 2, 2, 3, 0]),
        weights=torch.ones(7),
        features=features,
        old_features=torch.randn(7, 2, generator=draw),
        old_logits=3 * torch.randn(7, 2, generator=draw),
        new_logits=5 * torch.randn(7, 2, generator=draw),
        class_counts=torch.tensor([2, 2, 2, 1]),
    )


def oracle(study: DistillationSet, features: Tensor, logits: Tensor) -> Tensor:
    """Return cross-entropy plus the double teacher, sample by sample in float64.

    ``-log p_y + 1.5 T^2 KL(old || s[:2]) + .5 T^2 KL(new || s[2:]) + .75 (1 - cos(f, f_old))``
    with T = 2, each softmax over one teacher's classes.
    """
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(logits)):
        row = logits[i]
        total = total - (row[study.labels[i]] - row.exp().sum().log())
        for factor, mine, teacher in (
            (1.5, row[:2] / 2, study.old_logits[i].double() / 2),
            (0.5, row[2:] / 2, study.new_logits[i].double() / 2),
        ):
            target = teacher.exp() / teacher.exp().sum()
            student = mine.exp() / mine.exp().sum()
            total = total + factor * 4 * (target * (target / student).log()).sum()
        old = study.old_features[i].double()
        cosine = (features[i] * old).sum() / (features[i].norm() * old.norm())
        total = total + 0.75 * (1 - cosine)
    return total / len(logits)


def head_with(weight: Tensor, bias: Tensor) -> LinearHead:
    head = LinearHead(weight.shape[1], len(weight))
    head.load_state_dict({"weight": weight, "bias": bias})
    return head


def start() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(4)
    weight, bias = torch.randn(4, 2, generator=draw), torch.randn(4, generator=draw)
    return weight, bias, torch.randn(4, generator=draw)


def moved(loss: Tensor, *parameters: Tensor) -> list[Tensor]:
    """Return the parameters after one step of gradient descent."""
    gradients = torch.autograd.grad(loss, parameters)
    return [p - RATE * g for p, g in zip(parameters, gradients, strict=True)]


def test_the_settings_have_the_distiller_of_the_oracle() -> None:
    assert settings().distiller == DoubleTeacher(**DISTILLER)


@pytest.mark.parametrize(("rate", "length", "factor"), [("fixed", 1.0, 1.0), ("scaled", 1.0, 1.0),
    ("fixed", 20.0, 1.0), ("scaled", 20.0, 0.25)])  # fmt: skip
def test_a_step_of_the_head_follows_labels_and_both_teachers(
    rate: str, length: float, factor: float
) -> None:
    study, (weight, bias, offset) = study_of_seven(), start()
    rows = length * nn.functional.normalize(study.features, dim=1)
    study = study._replace(features=rows)  # of mean squared norm 1 or 400
    head = head_with(weight, bias)
    student = Student(nn.Identity(), head, offset)  # type: ignore[arg-type]
    train_head(student, settings(rate=rate), study, Context(), 0)
    exact = [t.double().requires_grad_() for t in (weight, bias)]
    loss = oracle(study, rows.double(), rows.double() @ exact[0].T + exact[1] + offset.double())
    for found, wanted in zip((head.weight, head.bias), moved(factor * loss, *exact), strict=True):
        torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=1e-5)


class Colors(nn.Module):
    """A trunk's network: a matrix on the mean color."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(weight.clone())

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) @ self.matrix.T


def test_a_step_of_the_trunk_follows_labels_and_both_teachers_of_each_image() -> None:
    study, (weight, bias, offset) = study_of_seven(), start()
    matrix = torch.randn(2, 3, generator=torch.Generator().manual_seed(5))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    trunk = Trunk(Colors(matrix), 2, mean=mean, std=std)
    head, both = head_with(weight, bias), views()
    chosen = settings(mode="full", trunk_lr_factor=0.5)
    train_trunk(Student(trunk, head, offset), chosen, study, both, Context(), 0)

    colors = torch.from_numpy(both[0].images[:, 0, 0]).double() / 255  # known and pool share them
    colors = (colors - torch.tensor(mean).double()) / torch.tensor(std).double()
    exact = matrix.double().requires_grad_()
    rows = colors[study.rows] @ exact.T
    loss = oracle(study, rows, rows @ weight.double().T + bias + offset.double())
    (gradient,) = torch.autograd.grad(loss, exact)
    found = trunk.network.matrix  # type: ignore[union-attr]
    wanted = exact.detach() - 0.5 * RATE * gradient
    torch.testing.assert_close(found.detach().double(), wanted, atol=1e-6, rtol=1e-5)
    assert torch.equal(head.weight, weight), "the head is frozen"


@pytest.mark.parametrize("mode", ["head", "full"])
def test_rows_are_drawn_by_their_weight(mode: str) -> None:
    """A sample without weight is never drawn: its teachers, not a number, would end training."""
    study = study_of_seven()
    study = study._replace(weights=torch.tensor([1.0, 1.0, 0.0, 1.0, 0.25, 0.5, 0.0]))
    for name in ("old_logits", "new_logits"):
        poisoned = getattr(study, name).clone()
        poisoned[[2, 6]] = float("nan")
        study = study._replace(**{name: poisoned})
    weight, bias, offset = start()
    trunk = Trunk(Colors(torch.ones(2, 3)), 2)
    student = Student(trunk, head_with(weight, bias), offset)
    if mode == "head":
        train_head(student, settings(), study, Context(), 0)
    else:
        train_trunk(student, settings(mode="full"), study, views(), Context(), 0)
    parameters = student.head if mode == "head" else student.trunk
    assert all(bool(p.isfinite().all()) for p in parameters.parameters())


def test_the_sampler_is_told_how_far_the_training_is() -> None:
    """8 rows, and after three tenths of the training 2 of each class."""
    chosen = settings(epochs=3, sampler={"deferred": {"base": "random_under", "start": 0.3}})
    study = study_of_seven()._replace(
        labels=torch.tensor([0] * 6 + [1] * 2),
        weights=torch.ones(8),
        class_counts=torch.tensor([6, 2]),
    )
    draws = [_drawn(chosen, study, epoch, torch.Generator()) for epoch in range(3)]
    assert [len(rows) for rows in draws] == [8, 4, 4]


def test_rounds_alternate_head_and_trunk_on_the_features_of_the_new_trunk() -> None:
    chosen, before = settings(mode="full", rounds=2, distiller="double_teacher"), fastnet()
    both, width = views(), before.num_features
    stacked = torch.from_numpy(both[0].images).permute(0, 3, 1, 2)

    def answers(trunk: Trunk) -> Tensor:
        with torch.no_grad():
            return trunk.eval()(stacked)

    old = classifier()._replace(
        num_features=width,
        state={"weight": torch.randn(2, width, generator=torch.Generator().manual_seed(1)),
               "bias": BIAS.clone()},
    )  # fmt: skip
    first = answers(from_artifact(before))
    given, stream = Features(first[:3], first[:0]), StreamFeatures(first[:0], first[3:])
    trunk, grown = update.run(
        chosen, backbone=before, classifier=old, features=given, stream_features=stream,
        known_train=both[0],
        pool=both[1], pseudo_labels=PSEUDO, context=Context(),
    )  # fmt: skip

    study = update._gather(chosen, old, (first[:3], first[3:]), both[0], PSEUDO, Context())
    centers = weighted_class_means(study.features, study.labels, study.weights, range(2, 4))
    head = grow_head(head_module(old), 2, centers)
    offset = torch.cat([OFFSET, OFFSET.mean().expand(2)])
    student = Student(from_artifact(before), head, offset)
    for number in range(2):
        student.head.requires_grad_(True)
        train_head(student, chosen, study, Context(), number)
        train_trunk(student, chosen, study, both, Context(), number)
        study = study._replace(features=answers(student.trunk)[study.rows])
    for name, wanted in head.state_dict().items():
        torch.testing.assert_close(grown.state[name], wanted)
    for name, wanted in student.trunk.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(trunk.state[name], wanted)
