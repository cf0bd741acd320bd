"""Soups of heads: averages by hand, and what greedy takes in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainables.artifacts import Classifier
from trainables.closed_form.scale import NEVER
from trainables.closed_form.statistics import samples
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.features.predict import predict_logits
from trainables.features.rebalancer_search import answer_out_of_fold, merit
from trainables.inference.whole_fit import fit_with_answers
from trainables.methods.heads import Head
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.rebalancers.soup import averaged
from trainables.settings import assign, canonical_json, flatten

WIDTH, COUNTS = 6, torch.tensor([30, 12, 5])
LABELS = torch.repeat_interleave(torch.arange(3), COUNTS)
NOISE = torch.randn(len(LABELS), WIDTH, generator=torch.Generator().manual_seed(1))
FEATURES = 1.5 * torch.eye(3, WIDTH)[LABELS] + 0.8 * NOISE


def classifier(head: str = "linear", **state: Any) -> Classifier:
    zeros = torch.zeros(3)
    state = state or {"weight": torch.eye(3, WIDTH), "bias": zeros}
    return Classifier(Head.parse(head), WIDTH, state, zeros, COUNTS, FEATURES.mean(0))


def fitted(value: Any, *, head: str = "linear", **other: Any) -> Classifier:
    """Return what a rebalancer makes of the training images."""
    given = {
        "classifier": classifier(head),
        "features": FEATURES,
        "labels": LABELS,
        "class_counts": COUNTS,
        "generator": torch.Generator().manual_seed(4),
        "validation_features": FEATURES,
        "validation_labels": LABELS,
        "report": lambda metrics, step: None,
    }
    result: Classifier = Rebalancer.parse(value).call_with({**given, **other})
    return result


def soup(kind: str, *members: Any, **other: Any) -> Classifier:
    return fitted({"soup": {"selection": kind, "members": list(members)}}, **other)


def test_the_average_of_two_heads_has_the_average_of_weights_and_offsets() -> None:
    one = classifier(weight=torch.tensor([[1.0, 2.0]]), bias=torch.tensor([4.0]))
    two = classifier(weight=torch.tensor([[3.0, -2.0]]), bias=torch.tensor([0.0]))
    two = two._replace(logit_offset=torch.tensor([0.0, -3.0, NEVER]))
    found = averaged([one, two._replace(logit_offset=two.logit_offset)])
    assert found.state["weight"].tolist() == [[2.0, 0.0]]
    assert found.state["bias"].tolist() == [2.0]
    assert found.logit_offset.tolist() == [0.0, -1.5, NEVER / 2]
    assert averaged([two, two]).logit_offset.tolist() == [0.0, -3.0, NEVER]  # still no class
    assert one.state["weight"].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("width", [0, 8])
def test_a_uniform_soup_answers_the_average_of_its_members(width: int) -> None:
    members = [
        {"ridge": {"width": width, "balance": balance, "regularizer": level}}
        for balance, level in (("none", 0.1), ("logit_adjusted", 1.0), ("inverse_frequency", 3.0))
    ]
    found = predict_logits(soup("uniform", *members), FEATURES)
    each = [predict_logits(fitted(member), FEATURES) for member in members]
    torch.testing.assert_close(found, torch.stack(each).mean(dim=0))
    assert not torch.allclose(found, each[0], atol=0.1)


# Offsets of tau log(1 / share) favor class 0 by tau log 3. The first two validation images are of
# class 0 and are right if that is above .5 and .9, the others of class 1 if it is below 3 and 2.5.
HALF = {
    "class_counts": torch.tensor([1, 3]),
    "validation_features": torch.tensor([[0.0, 0.5], [0.0, 0.9], [0.0, 3.0], [0.0, 2.5]]),
    "validation_labels": torch.tensor([0, 0, 1, 1]),
    "features": torch.eye(2),
    "labels": torch.arange(2),
}
TAUS = [1.0, 8.0, 1.4, 0.0]


def of_taus(kind: str, taus: list[float]) -> float:
    """Return the strength of the correction of a soup."""
    zeros, counts = torch.zeros(2), torch.tensor([1, 3])
    start = Classifier(
        Head.parse("linear"), 2, {"weight": torch.eye(2), "bias": zeros}, zeros, counts, zeros
    )
    members = [{"logit_adjustment": {"tau": tau}} for tau in taus]
    offset = soup(kind, *members, **{**HALF, "classifier": start}).logit_offset
    return float((offset[0] - offset[1]) / torch.tensor(3.0).log())


def test_greedy_takes_in_what_does_no_harm() -> None:
    # 8 ruins class 1, 1.4 leaves all right and surer, 0 would lose the second image again
    assert of_taus("greedy", TAUS) == pytest.approx((1.0 + 1.4) / 2, rel=1e-5)
    assert of_taus("uniform", TAUS) == pytest.approx(sum(TAUS) / 4, rel=1e-5)


def test_greedy_begins_with_the_first_member_and_keeps_it_alone_if_all_harm() -> None:
    assert of_taus("greedy", [1.4, 8.0, 8.0]) == pytest.approx(1.4, rel=1e-5)
    assert of_taus("greedy", [8.0, 1.0]) == pytest.approx(4.5, rel=1e-5)  # still all of class 0
    # equally right, but less sure of the rare class: not taken in
    assert of_taus("greedy", [1.4, 1.0]) == pytest.approx(1.4, rel=1e-5)


def test_members_with_another_head_are_left_out() -> None:
    level, wide = {"ridge": {"regularizer": 0.1}}, {"ridge": {"width": 8, "regularizer": 0.1}}
    other = {"ridge": {"width": 8, "seed": 1, "regularizer": 0.1}}
    found = soup("uniform", level, "knn", wide, "lda", "fecam")
    wanted = averaged([fitted(level), fitted("lda")])
    torch.testing.assert_close(found.state, wanted.state)
    alone = soup("uniform", wide, other, level)  # another matrix of random features
    torch.testing.assert_close(alone.state, fitted(wide).state)
    gaussians = soup("uniform", "fecam", {"fecam": {"power": 0.9}})
    torch.testing.assert_close(gaussians.state, fitted("fecam").state)


def test_a_head_that_fits_no_member_is_refused() -> None:
    with pytest.raises(ValueError, match="none of tau_norm supports the head 'cosine'"):
        soup("uniform", "tau_norm", head="cosine")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "must name at least one"),
        (["tuned"], "'tuned' is not allowed"),
        (["lda", "soup"], "'soup' is not allowed"),
        ([{"ridge": {"chosen_by": "validation"}}], "'ridge' is not allowed"),
        (["ridg"], "unknown name 'ridg' in rebalancers.*did you mean 'ridge'"),
    ],
)
def test_members_that_cannot_be_mixed_are_one_line(members: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        assign(Experiment(), {"rebalance.method.soup.members": members})
    assert "\n" not in str(caught.value)


def test_greedy_needs_validation_images_unless_answers_out_of_fold_stand_in() -> None:
    none = {
        "data.validation_per_class": 0,
        "data.novel_classes": 0,
        "data.validation_novel_classes": 0,
        "data.world": "test",
    }
    with pytest.raises(ConfigError, match=r"data.validation_per_class: .*'soup' chooses by valid"):
        assign(Experiment(), none | {"rebalance.method": "soup"})
    assign(Experiment(), none | {"rebalance.method.soup.selection": "uniform"})
    frozen = {**none, "pretrain.backbone": "resnet18", "pretrain.method": "pretrained"}
    assign(Experiment(), frozen | {"rebalance.method": "soup"})
    with pytest.raises(ConfigError, match=r"data.validation_per_class: .*'soup' chooses by valid"):
        assign(Experiment(), frozen | {"rebalance.method": "soup", "classify.trunk": "full"})
    with pytest.raises(ConfigError, match=r"data.validation_per_class: .*'soup' chooses by valid"):
        assign(Experiment(), frozen | {"rebalance.method.soup.members": ["lda", "tau_norm"]})


# Pairs of images are one shot.
SHOTS = torch.arange(len(LABELS)) // 2
LEVELS = [0.1, 0.0001, 0.3]


def without_its_shot(level: float) -> torch.Tensor:
    """Return logits of each image by a ridge without the image's shot."""
    whole = fitted({"ridge": {"regularizer": level}}, groups=SHOTS)
    given = {"classifier": classifier(), "class_counts": COUNTS}
    data = samples(FEATURES, LABELS, groups=SHOTS)
    member = Rebalancer.parse({"ridge": {"regularizer": level}})
    ((_, exact),) = answer_out_of_fold([member], given, data, seed=0)
    assert (exact - predict_logits(whole, FEATURES)).abs().max() > 0.01, "not answers of the fit"
    return exact


def whole_and_answers(kind: str, members: list[Any], **other: Any) -> Any:
    """Return the soup and its answers out of fold."""
    method = Rebalancer.parse({"soup": {"selection": kind, "members": members}})
    available = {
        "classifier": classifier(),
        "features": FEATURES,
        "labels": LABELS,
        "groups": SHOTS,
        "class_counts": COUNTS,
        "generator": torch.Generator().manual_seed(4),
        "validation_features": FEATURES[:0],
        "validation_labels": LABELS[:0],
        "report": lambda metrics, step: None,
    }
    return fit_with_answers(method, {**available, **other})


def test_answers_out_of_fold_of_a_soup_are_the_average_of_its_members_answers() -> None:
    members = [{"ridge": {"regularizer": level}} for level in LEVELS]
    found = whole_and_answers("uniform", members)
    expected = torch.stack([without_its_shot(level) for level in LEVELS]).mean(dim=0)
    torch.testing.assert_close(found.logits, expected.double(), atol=1e-8, rtol=1e-8)
    whole = averaged([fitted(member, groups=SHOTS) for member in members])
    torch.testing.assert_close(found.classifier.state, whole.state)


def chosen(answers: list[torch.Tensor]) -> list[int]:
    """Return what a greedy choice by answers of members takes in."""
    kept, best = [0], merit(answers[0], LABELS)
    for place in range(1, len(answers)):
        tried = torch.stack([answers[n] for n in [*kept, place]]).mean(dim=0)
        if merit(tried, LABELS) >= best:
            kept, best = [*kept, place], merit(tried, LABELS)
    return kept


def test_greedy_takes_in_what_does_no_harm_to_answers_without_the_image() -> None:
    members = [{"ridge": {"regularizer": level}} for level in LEVELS]
    answers = [without_its_shot(level) for level in LEVELS]
    seen = [predict_logits(fitted(member, groups=SHOTS), FEATURES) for member in members]
    assert chosen(answers) == [0, 1]
    assert chosen(seen) == [0], "answers that saw the image would choose others"
    found = whole_and_answers("greedy", members)
    whole = averaged([fitted(member, groups=SHOTS) for member in members[:2]])
    torch.testing.assert_close(found.classifier.state, whole.state)
    expected = torch.stack(answers[:2]).mean(dim=0)
    torch.testing.assert_close(found.logits, expected, atol=1e-8, rtol=1e-8)


def test_where_nothing_can_choose_it_is_said() -> None:
    with pytest.raises(ValueError, match="no validation images to choose members by; raise data"):
        soup("greedy", "ridge", "lda", validation_features=FEATURES[:0],
             validation_labels=LABELS[:0])  # fmt: skip
    with pytest.raises(ValueError, match="too few training images stand in"):
        whole_and_answers("greedy", ["lda", "tau_norm"])
    few = {"groups": torch.zeros(len(LABELS), dtype=torch.int64)}
    with pytest.raises(ValueError, match="too few training images stand in"):
        whole_and_answers("greedy", ["ridge", "lda"], **few)
    trained = whole_and_answers("uniform", ["lda", "tau_norm"])
    assert trained.logits is None


def test_members_are_written_as_one_value_and_read_back() -> None:
    members = [{"ridge": {"width": 500}}, {"crt": {"loss": "label_aware_smoothing"}}]
    recipe = assign(Experiment(), {"rebalance.method.soup.members": members})
    assert [m.name for m in recipe.rebalance.method.members] == ["ridge", "crt"]
    flat = flatten(recipe)
    text = flat["rebalance.method.soup.members"]
    assert isinstance(text, str)
    again = assign(
        Experiment(), {"rebalance.method": "soup", "rebalance.method.soup.members": text}
    )
    assert again == recipe
    assert again.digest() == recipe.digest()
    with pytest.raises(ConfigError, match="members: must be a list"):
        assign(Experiment(), {"rebalance.method.soup.members": "ridge"})
    # names count: a soup of other members of equal settings is another recipe
    plain = canonical_json(["lda"]), canonical_json(["tau_norm"]), canonical_json(["none"])
    digests = {
        assign(Experiment(), {"rebalance.method.soup.members": each}).digest() for each in plain
    }
    assert len(digests) == 3
