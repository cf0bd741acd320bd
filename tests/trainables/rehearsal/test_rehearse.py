"""A rehearsal: equal to taking each class away by hand; exact rates; what cannot be told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from sklearn.metrics import roc_auc_score

from trainables.artifacts import Classifier, OutOfFold
from trainables.closed_form.statistics import samples
from trainables.context import derive_seed
from trainables.errors import ConfigError
from trainables.features.predict import calibrated, confidence, predict_logits, unknown
from trainables.features.rebalancer_search import fit_closed_forms
from trainables.inference.out_of_fold import Tail
from trainables.inference.scoring import fit_out_of_fold
from trainables.methods.calibrators import Calibrator
from trainables.methods.clusterers import Clusterer
from trainables.methods.heads import Head
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.scores import Score
from trainables.methods.thresholds.false_alarm import FalseAlarm
from trainables.rehearsal.finding import Finding
from trainables.rehearsal.outcome import Rehearsal
from trainables.rehearsal.rehearse import Progress, rehearse, rehearse_each
from trainables.rehearsal.rules import Rules
from trainables.rehearsal.without import Heads

NAMES = ["cat", "dog", "fox", "owl", "bat"]
COUNTS = torch.tensor([60, 40, 30, 20, 12])
WIDTH = 24


def tail(rebalancer: Any, score: Any, calibrator: str = "temperature") -> Tail:
    return Tail(Rebalancer.parse(rebalancer), Calibrator.parse(calibrator), Score.parse(score))


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(5), COUNTS)
    centers = 0.5 * torch.randn(5, WIDTH, generator=generator)
    return centers[labels] + torch.randn(len(labels), WIDTH, generator=generator), labels


def play(
    methods: Tail,
    features: torch.Tensor,
    labels: torch.Tensor,
    names: list[str] = NAMES,
    *,
    stored: Path | None = None,
    progress: Progress | None = None,
    **rules: Any,
) -> Rehearsal:
    return rehearse(
        methods,
        samples(features, labels),
        names,
        Rules(**rules),
        stored=stored,
        progress=progress,
    )


class Service(NamedTuple):
    """What a service that never met a class answers: out of fold, and about the class."""

    inside: torch.Tensor
    sure: torch.Tensor
    predicted: torch.Tensor
    unknown: torch.Tensor
    blind: bool  # its threshold calls nothing unknown


def by_hand(
    methods: Tail,
    features: torch.Tensor,
    labels: torch.Tensor,
    new: int,
    level: float,
    prior: torch.Tensor | None,
) -> Service:
    """Fit a service to the other classes, with the code that fits one to all classes."""
    stay = labels != new
    old = torch.tensor([c for c in range(len(COUNTS)) if c != new])
    train = samples(features[stay], torch.searchsorted(old, labels[stay]))
    counts = torch.bincount(train.labels)
    zeros = torch.zeros(len(old))
    blank = Classifier(Head.parse("linear"), WIDTH, {}, zeros, counts, torch.zeros(WIDTH))
    ((_, fit),) = fit_closed_forms([methods.rebalancer], blank, train)
    assert fit.logits is not None
    generator = torch.Generator().manual_seed(derive_seed(0, "rehearsal", new))
    torch.randint(2**62, (), generator=generator)  # the seed of heads without a closed form
    scorer, inside = fit_out_of_fold(
        (methods.calibrator, methods.score, FalseAlarm(level=level)),
        fit.classifier,
        train=train,
        answers=OutOfFold(fit.logits.float(), torch.zeros(0), train.groups),
        generator=generator,
        prior=None if prior is None else prior[old],
    )
    logits = calibrated(scorer, predict_logits(fit.classifier, features[~stay]))
    sure = confidence(scorer, features=features[~stay], logits=logits, class_counts=counts)
    called = unknown(scorer, confidence=sure, logits=logits)
    assert scorer.class_thresholds is not None
    blind = bool(scorer.class_thresholds.isneginf().all())
    return Service(inside.confidence, sure, old[logits.argmax(1)], called, blind)


@pytest.mark.parametrize(
    ("rebalancer", "score", "prior"),
    [
        ("ridge", "energy", None),
        ("lda", "msp", [0.1, 0.1, 0.2, 0.2, 0.4]),
        ("ridge", "mahalanobis", None),
        ("ncm", {"knn": {"k": 3}}, [0.2] * 5),
        ("fecam", "max_logit", None),
    ],
    ids=str,
)
def test_a_turn_is_a_service_that_was_never_told_of_the_class(
    rebalancer: Any, score: Any, prior: Any
) -> None:
    methods = tail(rebalancer, score)
    features, labels = drawn()
    shares = None if prior is None else torch.tensor(prior).double()
    found = play(methods, features, labels, prior=shares)
    assert [turn.class_name for turn in found.turns] == NAMES
    for new, turn in enumerate(found.turns):
        assert turn.images == COUNTS[new]
        for level, rate in turn.noticed.items():
            service = by_hand(methods, features, labels, new, level, shares)
            assert rate == pytest.approx(float(service.unknown.double().mean()), abs=1e-6)
            assert (level in turn.too_few) == service.blind
        truth = torch.cat([torch.ones(len(service.inside)), torch.zeros(len(service.sure))])
        auroc = roc_auc_score(truth, torch.cat([service.inside, service.sure]))
        assert turn.auroc == pytest.approx(auroc, abs=1e-6)
        served = by_hand(methods, features, labels, new, 0.05, shares)
        kept = served.predicted[~served.unknown]
        expected = {
            NAMES[c]: float((kept == c).sum()) / len(served.sure) for c in kept.unique().tolist()
        }
        assert dict(turn.taken_for) == pytest.approx(expected)


@pytest.mark.parametrize("rebalancer", ["lda", "ridge"])
def test_a_class_of_one_image_sets_no_threshold_of_a_turn(
    rebalancer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its only answer out of fold is by a fit without the class, so it looks like a new one."""
    monkeypatch.setattr(sys.modules[__name__], "COUNTS", torch.tensor([60, 40, 30, 20, 1]))
    features, labels = drawn()
    features[-1] = 30.0  # far from all others
    methods, prior = tail(rebalancer, "msp"), torch.full((5,), 0.2)
    found = play(methods, features, labels, prior=prior)
    assert [turn.class_name for turn in found.turns][:4] == NAMES[:4]
    for new, turn in enumerate(found.turns[:4]):
        service = by_hand(methods, features, labels, new, 0.05, prior)
        assert turn.noticed[0.05] == pytest.approx(float(service.unknown.double().mean()), abs=1e-6)
        inside = service.inside[:-1]  # without the image of the class that is one
        truth = torch.cat([torch.ones(len(inside)), torch.zeros(len(service.sure))])
        auroc = roc_auc_score(truth, torch.cat([inside, service.sure]))
        assert turn.auroc == pytest.approx(auroc, abs=1e-6)


def pairs(center: float, gaps: list[float]) -> list[float]:
    """Return angles of pairs of images, .025 from one pair to the next."""
    starts = [center + 0.025 * (place - len(gaps) / 2) for place in range(len(gaps))]
    return [
        angle for start, gap in zip(starts, gaps, strict=True) for angle in (start, start + gap)
    ]


def test_images_that_are_taken_for_a_class_of_a_band_have_its_threshold() -> None:
    """The confidence is the distance to the nearest image, so that each pair has its gap.

    Of 120 images of the frequent class, .05 of 121 are 6 of gap .010, all others have .002. Of the
    24 of both rare classes, .05 of 25 is one of gap .020.
    """
    often = pairs(0.0, [0.010] * 3 + [0.002] * 57)
    rare = pairs(2.1, [0.020] + [0.006] * 5), pairs(4.2, [0.006] * 6)
    new = [
        *(often[0] - 0.012 for _ in range(4)),  # above .010
        *(often[-1] + 0.005 for _ in range(2)),
        *(rare[0][-1] + 0.012 for _ in range(3)),  # below .020, above .010
        rare[1][-1] + 0.05,
    ]
    angles = torch.tensor([*often, *rare[0], *rare[1], *new], dtype=torch.float64)
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor([120, 12, 12, 10]))
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = play(tail("ncm", {"knn": {"k": 1}}, "none"), features, labels, NAMES[:4])
    turn = found.turns[3]
    assert turn.noticed[0.05] == 0.5
    assert turn.taken_for == [("dog", 0.3), ("cat", 0.2)]
    one = FalseAlarm(offsets="none")  # of 144, .05 of 145 are 7 of gap .010 and above
    alike = play(tail("ncm", {"knn": {"k": 1}}, "none"), features, labels, NAMES[:4], threshold=one)
    assert alike.turns[3].noticed[0.05] == 0.8


def test_where_too_few_stay_known_nothing_is_called_unknown() -> None:
    features, labels = drawn()
    rows = torch.cat([(labels == c).nonzero().flatten()[:n] for c, n in ((0, 60), (1, 40))])
    rows = torch.cat([rows, (labels == 2).nonzero().flatten()[:10]])
    given = features[rows], labels[rows], NAMES[:3]
    found = play(tail("ridge", "energy"), *given)
    # without 'cat' 50 stay, without 'dog' 70, without 'fox' 100: 1 % needs 99, 5 % 19
    assert [turn.too_few for turn in found.turns] == [(0.01,), (0.01,), ()]
    assert [turn.noticed[0.01] for turn in found.turns[:2]] == [0.0, 0.0]
    assert Rehearsal.from_json(found.to_json()) == found
    unseen = play(tail("ridge", "energy"), *given, levels=(0.01,), served=0.01)
    assert sum(rate for _, rate in unseen.turns[0].taken_for) == pytest.approx(1)


def test_scores_share_the_head_of_a_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    features, labels = drawn()
    data = samples(features, labels)
    tails = [tail("ridge", score) for score in ("energy", "mahalanobis", {"knn": {"k": 3}})]
    alone = [play(methods, features, labels) for methods in tails]
    play(tails[1], features, labels, stored=tmp_path)
    fits: list[Any] = []
    fit = Heads.without
    monkeypatch.setattr(
        Heads, "without", lambda self, parted, seed: fits.append(0) or fit(self, parted, seed=seed)
    )
    counted: list[tuple[int, int]] = []
    found = rehearse_each(
        tails,
        data,
        NAMES,
        progress=lambda done, total: counted.append((done, total)),
        stored=tmp_path,
    )
    assert found == alone
    assert len(fits) == 5  # of the classes, not of classes and scores
    assert counted == [(done, 5) for done in range(1, 6)]
    assert rehearse_each(tails, data, NAMES, stored=tmp_path) == alone
    assert len(fits) == 5
    with pytest.raises(ValueError, match="must have one rebalancer"):
        rehearse_each([tails[0], tail("lda", "energy")], data, NAMES)


def clusters(strange: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return three tight classes on a circle, of which the third has images among the first."""
    labels = torch.arange(3).repeat_interleave(40)
    angles = torch.tensor([0.0, 2.0, 4.0])[labels].double()
    angles[80 : 120 - strange] = 0.0
    angles += torch.linspace(0, 1e-3, 40, dtype=torch.float64).repeat(3)
    return torch.stack([angles.cos(), angles.sin()], dim=1), labels


@pytest.mark.parametrize("strange", [0, 10, 30, 40])
def test_a_class_is_noticed_at_the_rate_that_was_laid_out(strange: int) -> None:
    features, labels = clusters(strange)
    methods = tail("ncm", {"knn": {"k": 1}}, "none")
    found = play(methods, features, labels, NAMES[:3])
    turn = found.turns[2]
    assert turn.noticed[0.05] == pytest.approx(strange / 40, abs=1e-9)
    assert dict(turn.taken_for) == pytest.approx({"cat": 1 - strange / 40} if strange < 40 else {})
    assert found.turns[1].noticed[0.05] == 1.0  # nothing lies near the second
    precision = found.precision(0.1)
    mean = found.noticed().mean
    assert precision == pytest.approx(0.1 * mean / (0.1 * mean + 0.9 * 0.05))


def test_images_of_the_class_leave_no_trace_in_what_the_others_are_judged_by() -> None:
    """Of 20 images, 8 stay as they are; what they are worth is the same with any 12 beside them."""
    methods = tail("ridge", "energy")
    features, labels = drawn(3)
    rows = (labels == 3).nonzero().flatten()
    alone = torch.ones(len(labels), dtype=torch.bool)
    alone[rows[8:]] = False
    few = play(methods, features[alone], labels[alone])
    hits = {level: round(8 * rate) for level, rate in few.turns[3].noticed.items()}
    beside = features.clone()
    beside[rows[8:]] = features[rows[0]]  # twelve more of the first
    many = play(methods, beside, labels)
    first = features.clone()
    first[rows] = features[rows[0]]
    single = play(methods, first, labels)
    for level, rate in many.turns[3].noticed.items():
        assert rate == pytest.approx((hits[level] + 12 * single.turns[3].noticed[level]) / 20)
    assert 0 < hits[0.1] < 8


def test_the_prior_weighs_known_classes_in_the_threshold() -> None:
    features, labels = drawn()
    methods = tail("lda", "energy", "none")  # a calibrator would be weighed, too
    natural = play(methods, features, labels)
    same = play(methods, features, labels, prior=COUNTS.double())
    rare = play(methods, features, labels, prior=torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]) + 1e-9)
    assert same.turns == natural.turns
    assert [t.noticed for t in rare.turns] != [t.noticed for t in natural.turns]
    assert [t.auroc for t in rare.turns] == [t.auroc for t in natural.turns]


def test_catch_alls_stay_known_and_met_classes_are_told_apart() -> None:
    features, labels = drawn()
    found = play(
        tail("ridge", "energy"),
        features,
        labels,
        never_new=frozenset({"dog"}),
        met=frozenset({"cat", "owl"}),
    )
    assert [turn.class_name for turn in found.turns] == ["cat", "fox", "owl", "bat"]
    met, others = (found.noticed(among=side) for side in ("met", "others"))
    assert (met.classes, others.classes, found.noticed().classes) == (2, 2, 4)
    assert met.mean == pytest.approx(
        (found.turns[0].noticed[0.05] + found.turns[2].noticed[0.05]) / 2
    )


def test_with_neighbors_a_class_plays_once_more() -> None:
    features, labels = drawn()
    found = play(tail("ridge", "energy"), features, labels, neighbors=1)
    assert [turn.class_name for turn in found.beside] == NAMES
    assert all(len(turn.together) == 1 for turn in found.beside)
    assert all(turn.together == () for turn in found.turns)
    assert found.noticed(beside=True).classes == 5


def test_two_classes_are_told_by_distances_alone() -> None:
    features, labels = drawn()
    two = labels < 2
    given = features[two], labels[two], NAMES[:2]
    for score in ("msp", "energy", "relative_mahalanobis"):
        found = play(tail("ridge", score), *given)
        assert found.turns == []
        assert f"scores/{score} says the same of every image" in found.cannot_tell
    found = play(tail("ridge", {"knn": {"k": 2}}), *given)
    assert found.cannot_tell == ""
    assert [turn.class_name for turn in found.turns] == ["cat", "dog"]
    assert found.turns[0].auroc > 0.8
    one = labels < 1
    alone = play(tail("ridge", "knn"), features[one], labels[one], NAMES[:1])
    assert "none is known while it plays new" in alone.cannot_tell


def test_the_pool_is_searched_where_it_is_asked_for() -> None:
    labels = torch.arange(4).repeat_interleave(50)
    generator = torch.Generator().manual_seed(0)
    features = 6 * torch.eye(4, WIDTH)[labels] + torch.randn(200, WIDTH, generator=generator)
    features[labels == 3] = features[labels == 2] + 0.1  # look-alikes: never noticed
    finding = Finding(Clusterer.parse("constrained_kmeans"), max_new=3, prevalence=0.3)
    found = play(tail("ridge", {"knn": {"k": 3}}), features, labels, NAMES[:4], finding=finding)
    assert [turn.found[30] for turn in found.turns] == [True, True, False, False]
    assert [turn.found[100] for turn in found.turns] == [None] * 4
    assert found.found(30)[:2] == (2, 4)
    assert found.found(100) == (0, 0, 0.0, 1.0)
    assert found.prevalence == 0.3
    assert Rehearsal.from_json(found.to_json()) == found
    assert found.frame()["found 30"].tolist() == [True, True, False, False]


class StoppedError(Exception):
    pass


def test_an_interrupted_rehearsal_goes_on_where_it_was(tmp_path: Path) -> None:
    features, labels = drawn()
    methods = tail("ridge", "energy")

    def stop(done: int, total: int) -> None:
        assert total == 5
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        play(methods, features, labels, stored=tmp_path, progress=stop)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    for path in files:  # so that it shows who computed a turn
        path.write_text(path.read_text().replace('"images": ', '"images": 1000'))
    again = play(methods, features, labels, stored=tmp_path)
    assert [turn.images for turn in again.turns] == [100060, 100040, 30, 20, 12]
    fresh = play(methods, features, labels)
    assert [t.noticed for t in again.turns] == [t.noticed for t in fresh.turns]
    assert len(list(tmp_path.iterdir())) == 5


def test_stored_turns_of_other_data_or_rules_are_not_taken(tmp_path: Path) -> None:
    features, labels = drawn()
    play(tail("ridge", "energy"), features, labels, stored=tmp_path)
    for number, (methods, other) in enumerate(
        [
            (tail("lda", "energy"), {"features": features}),
            (tail("ridge", "energy"), {"features": features + 1e-3}),
            (tail("ridge", "energy"), {"features": features, "seed": 1}),
            (tail("ridge", "energy"), {"features": features, "levels": (0.05, 0.2)}),
            (
                tail("ridge", "energy"),
                {"features": features, "threshold": FalseAlarm(offsets="none")},
            ),
        ]
    ):
        play(methods, labels=labels, stored=tmp_path, **other)
        assert len(list(tmp_path.iterdir())) == 5 * (number + 2)


def test_a_torn_file_is_played_again(tmp_path: Path) -> None:
    features, labels = drawn()
    first = play(tail("ncm", "energy"), features, labels, stored=tmp_path)
    for path in tmp_path.iterdir():
        path.write_text(path.read_text()[:20])
    assert play(tail("ncm", "energy"), features, labels, stored=tmp_path) == first


def test_results_survive_json_and_become_a_table() -> None:
    features, labels = drawn()
    found = play(
        tail("ridge", "energy"),
        features,
        labels,
        met=frozenset({"fox"}),
    )
    assert Rehearsal.from_json(found.to_json()) == found
    table = found.frame()
    assert table["class"].tolist() == NAMES
    assert table["noticed"].tolist() == [turn.noticed[0.05] for turn in found.turns]
    assert table["noticed 10 %"].tolist() == [turn.noticed[0.1] for turn in found.turns]
    assert table["taken for"].tolist() == [turn.taken_for[0][0] for turn in found.turns]
    assert table["met"].tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"served": 0.03}, "served level of false alarm must be one of 0.01, 0.05, 0.1"),
        ({"levels": (0.05, 1.0)}, "a level of false alarm must be in"),
        ({"never_new": frozenset({"foxx"})}, "no class 'foxx' to mark; did you mean 'fox'?"),
        ({"names": NAMES[:3]}, "labels must be below the number of class names, 3"),
        ({"prior": torch.ones(3)}, "needs 5 shares, one per class; received 3"),
        ({"prior": torch.tensor([1.0, 0, 0, 0, 0])}, "two classes at least"),
        ({"labels": torch.zeros(3).long()}, "must be of the same images; received 162, 3 and 3"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], message: str) -> None:
    features, labels = drawn()
    given: dict[str, Any] = {"features": features, "labels": labels}
    with pytest.raises(ConfigError, match=message):
        play(tail("ridge", "energy"), **{**given, **changed})


@pytest.mark.parametrize("name", ["tau_norm", {"ridge": {"chosen_by": "validation"}}])
def test_a_head_that_saw_all_classes_is_refused(name: Any) -> None:
    features, labels = drawn()
    with pytest.raises(ConfigError, match="so no class can play new"):
        play(tail(name, "energy"), features, labels)
