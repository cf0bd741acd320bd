"""Nearest class mean: official vectors, an oracle for every form, the head that it makes."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from tests.helpers.oracles.rebalancers import nearest_mean
from tests.helpers.vectors import golden
from trainables.artifacts import Classifier
from trainables.features.predict import predict_logits
from trainables.methods.heads import Head
from trainables.methods.heads.nearest_mean import NearestMean
from trainables.methods.rebalancers.logit_adjustment import LogitAdjustment
from trainables.methods.rebalancers.ncm import NCM
from trainables.models.growth import grow_head
from trainables.models.nearest_mean import NearestMeanHead

GOLDEN = golden("openworld_scores")
# what the reference code calls its features and its distance
FORMS = {
    "squared_l2": ("un", "l2"),
    "dot": ("un", "cos"),
    "normalized_dot": ("l2n", "cos"),
    "normalized_squared_l2": ("l2n", "l2"),
    "centered_normalized_dot": ("cl2n", "cos"),
    "centered_normalized_squared_l2": ("cl2n", "l2"),
}
OWN_HEAD = [name for name in FORMS if name.endswith("normalized_squared_l2") or "centered" in name]
WIDTH = 6
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(counts: tuple[int, ...], seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float64 features around a direction per class, all leaning the same way."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    noise = torch.randn(len(labels), WIDTH, generator=seeded(seed), dtype=torch.float64)
    return 2 * torch.eye(len(counts), WIDTH)[labels] + 0.8 * noise + 0.5, labels


def fitted(distance: str, features: torch.Tensor, labels: torch.Tensor, classes: int) -> Classifier:
    """Return the classifier that the rebalancer makes of nothing but features."""
    zeros = torch.zeros(classes, dtype=features.dtype)
    counts = torch.bincount(labels, minlength=classes)
    empty = Classifier(Head.parse("linear"), features.shape[1], {}, zeros, counts, zeros[:0])
    return NCM(distance=distance)(classifier=empty, features=features, labels=labels)


def module_of(classifier: Classifier) -> torch.nn.Module:
    """Return the head in float64: what predicts rounds to float32."""
    module = classifier.head.build(classifier.num_features, len(classifier.class_counts)).double()
    module.load_state_dict(classifier.state)
    return module.eval()


@torch.no_grad()
def logits_of(classifier: Classifier, features: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = module_of(classifier)(features)
    return logits


def compare(distance: str, logits: torch.Tensor, wanted: torch.Tensor, given: torch.Tensor) -> None:
    """Compare with the reference code's logits, after what no prediction depends on is undone."""
    width, length = given.shape[1], given.norm(dim=1, keepdim=True)
    found = {
        "squared_l2": logits - length.square(),
        "dot": logits / width,
        "normalized_dot": logits / width / length,
        "normalized_squared_l2": logits / 4,
        "centered_normalized_dot": logits / 4 / width,
        "centered_normalized_squared_l2": logits / 4,
    }[distance]
    torch.testing.assert_close(found, wanted, **EXACT)
    assert torch.equal(logits.argmax(1), wanted.argmax(1))


# --- the rebalancer -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [name for name in GOLDEN.cases if name.startswith("ncm_")])
def test_it_agrees_with_the_official_code(case: str) -> None:
    given, settings = GOLDEN.inputs(case), GOLDEN.cases[case]["hyperparameters"]
    wanted = (settings["feat_type"], settings["dist_type"])
    distance = next(name for name, form in FORMS.items() if form == wanted)
    labels = given["train_labels"]
    result = fitted(distance, given["train_features"], labels, int(labels.max()) + 1)
    torch.testing.assert_close(result.state["weight"], GOLDEN.output(case, "centroids"), **EXACT)
    if "centered" in distance:
        torch.testing.assert_close(
            result.state["center"], GOLDEN.output(case, "feat_mean"), **EXACT
        )
    logits = logits_of(result, given["features"])
    compare(distance, logits, GOLDEN.output(case, "logits"), given["features"])


@pytest.mark.parametrize("distance", FORMS)
@pytest.mark.parametrize("counts", [(40, 12, 4), (7, 1, 1, 30)], ids=str)
def test_every_form_predicts_what_the_reference_code_does(
    distance: str, counts: tuple[int, ...]
) -> None:
    features, labels = samples(counts)
    fresh, _ = samples((15,) * len(counts), seed=5)
    rows, names = features.tolist(), labels.tolist()
    wanted = [nearest_mean(row, rows, names, *FORMS[distance]) for row in fresh.tolist()]
    result = fitted(distance, features, labels, len(counts))
    exact = torch.tensor(wanted, dtype=torch.float64)
    compare(distance, logits_of(result, fresh), exact, fresh)


def test_every_form_of_the_reference_code_has_a_name() -> None:
    assert len(set(FORMS.values())) == 3 * 2
    assert {*FORMS, "cosine"} == set(get_args(NCM.model_fields["distance"].annotation))


def test_cosine_compares_directions_on_both_sides() -> None:
    features, labels = samples((40, 12, 4))
    fresh, _ = samples((9, 9, 9), seed=5)
    unit = features / features.norm(dim=1, keepdim=True)
    means = torch.stack([unit[labels == c].mean(0) for c in range(3)])
    wanted = 30 * torch.nn.functional.cosine_similarity(fresh[:, None], means[None], dim=2)
    torch.testing.assert_close(logits_of(fitted("cosine", features, labels, 3), fresh), wanted)


@pytest.mark.parametrize("distance", [*FORMS, "cosine"])
def test_renaming_classes_renames_predictions(distance: str) -> None:
    features, labels = samples((20, 8, 3))
    order = torch.tensor([2, 0, 1])
    plain, renamed = (fitted(distance, features, names, 3) for names in (labels, order[labels]))
    torch.testing.assert_close(logits_of(renamed, features)[:, order], logits_of(plain, features))


@pytest.mark.parametrize("distance", OWN_HEAD)
def test_only_directions_count_and_a_shift_where_features_are_centered(distance: str) -> None:
    features, labels = samples((20, 8, 3))
    fresh, _ = samples((9, 9, 9), seed=5)
    wanted = logits_of(fitted(distance, features, labels, 3), fresh)
    shift = 3.0 if "centered" in distance else 0.0
    longer = fitted(distance, 7 * features + shift, labels, 3)
    torch.testing.assert_close(logits_of(longer, 7 * fresh + shift), wanted)


@pytest.mark.parametrize("distance", [*FORMS, "cosine"])
def test_a_class_without_images_is_never_predicted(distance: str) -> None:
    features, labels = samples((20, 0, 5))
    result = fitted(distance, features, labels, 3)
    result = result._replace(state={name: value.float() for name, value in result.state.items()})
    everywhere = 10 * torch.randn(500, WIDTH, generator=seeded(2))
    assert 1 not in predict_logits(result, everywhere).argmax(1)
    assert predict_logits(result, everywhere).isfinite().all()


def test_a_correction_for_the_prior_may_follow() -> None:
    features, labels = samples((20, 8, 3))
    result = fitted("centered_normalized_squared_l2", features, labels, 3)
    moved = LogitAdjustment()(classifier=result, class_counts=result.class_counts)
    assert (moved.head, moved.state.keys()) == (result.head, {"weight", "center"})


# --- the head -------------------------------------------------------------------------------------


def head(distance: str = "squared_l2", center: float = 0.5) -> NearestMeanHead:
    module = NearestMean(distance=distance, scale=2.0).build(WIDTH, 4).double()
    drawn = torch.randn(4, WIDTH, generator=seeded(3), dtype=torch.float64)
    module.weight.data.copy_(drawn)
    module.center.fill_(center)
    assert isinstance(module, NearestMeanHead)
    return module


@pytest.mark.parametrize("distance", ["squared_l2", "dot"])
def test_the_gradient_of_the_means_is_that_of_the_formula(distance: str) -> None:
    module, (features, labels) = head(distance), samples((3, 2, 1, 2))
    logits = module(features)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    seen = (features - 0.5) / (features - 0.5).norm(dim=1, keepdim=True)
    slope = {  # of a logit: 2 scale (t - mu), or scale t
        "squared_l2": 4.0 * (seen[:, None] - module.weight.detach()),
        "dot": 2.0 * seen[:, None].expand(-1, 4, -1),
    }[distance]
    excess = logits.detach().softmax(1) - torch.eye(4)[labels]
    torch.testing.assert_close(module.weight.grad, (excess[:, :, None] * slope).mean(0))


@pytest.mark.parametrize("rescale", [True, False])
def test_a_new_class_gets_its_mean_seen_from_the_center(rescale: bool) -> None:
    module, prototypes = head(), samples((2,), seed=8)[0]
    length = module.weight.detach().norm(dim=1).mean() if rescale else 1.0
    grow_head(module, 2, prototypes, rescale=rescale)
    wanted = torch.nn.functional.normalize(prototypes - 0.5, dim=1) * length
    torch.testing.assert_close(module.weight.detach()[4:], wanted)
    assert torch.equal(module.center, torch.full((WIDTH,), 0.5, dtype=torch.float64))
    assert module(prototypes).argmax(1).tolist() == [4, 5]


def test_a_feature_at_the_center_has_no_direction_and_finite_logits() -> None:
    module = head()
    given = module.center.clone()[None].requires_grad_()
    logits = module(given)
    torch.testing.assert_close(logits[0], -2.0 * module.weight.square().sum(1))
    logits.sum().backward()
    assert given.grad is not None
    assert given.grad.isfinite().all()


def test_distances_to_means_of_one_length_are_products() -> None:
    near, product = head(), head("dot")
    for module in (near, product):
        module.weight.data = torch.nn.functional.normalize(module.weight.data, dim=1)
    features, _ = samples((4, 4, 4, 4))
    torch.testing.assert_close(near(features), 2 * product(features) - 4.0)
