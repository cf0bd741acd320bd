"""The rehearsal of a fit: the better score wins, its pool is searched, nothing is done twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.fitting.rehearsing import (
    MOST_COMPARED,
    NEIGHBORS,
    SCORES,
    TURNS,
    Progress,
    Rehearsed,
    choose_score,
    rehearse_scores,
    scores_for,
)
from trainables.closed_form.statistics import samples
from trainables.experiment import Experiment
from trainables.inference.out_of_fold import Tail
from trainables.methods.calibrators import Calibrator
from trainables.methods.clusterers import Clusterer
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.scores import Score
from trainables.rehearsal.finding import Finding
from trainables.rehearsal.outcome import Turn
from trainables.rehearsal.rehearse import rehearse
from trainables.rehearsal.rules import Rules
from trainables.rehearsal.without import Heads
from trainables.settings import assign

NAMES = ["cat", "dog", "fox", "owl"]
RIDGE, TEMPERATURE = Rebalancer.parse("ridge"), Calibrator.parse("temperature")
RECIPE = assign(Experiment(), {"discover.max_new_clusters": 3})
FINDING = Finding(Clusterer.parse("constrained_kmeans"), max_new=3)


def images() -> Any:
    """Return four tight classes of 50 images, far from each other."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(50)
    noise = torch.randn(200, 16, generator=generator)
    return samples(6 * torch.eye(4, 16)[labels] + noise, labels)


def ignored(done: int, total: int) -> None:
    """Progress that nobody looks at."""


def fitted(
    folder: Path, progress: Progress = ignored, data: Any = None, names: list[str] = NAMES
) -> Rehearsed:
    return rehearse_scores(
        RIDGE,
        RECIPE,
        images() if data is None else data,
        names,
        level=0.05,
        prior=None,
        never_new=frozenset(),
        met=frozenset({"dog"}),
        folder=folder,
        progress=progress,
    )


def test_the_better_score_wins_and_its_pool_is_searched(tmp_path: Path) -> None:
    counted: list[tuple[int, int]] = []
    found = fitted(tmp_path, lambda done, total: counted.append((done, total)))
    assert counted == [(done, 12) for done in range(1, 13)]
    each = [
        (score, rehearse(Tail(RIDGE, TEMPERATURE, score), images(), NAMES).auroc().mean)
        for score in (Score.parse("msp"), Score.parse({"knn": {"k": 5}}))
    ]
    assert found.score == max(each, key=lambda item: item[1])[0]
    rules = Rules(finding=FINDING, met=frozenset({"dog"}))
    tail = Tail(RIDGE, TEMPERATURE, found.score)
    expected = rehearse(tail, images(), NAMES, rules)
    again = rehearse(tail, images(), NAMES, rules._replace(finding=None, neighbors=NEIGHBORS))
    assert [len(turn.together) for turn in again.beside] == [1] * 4  # so that two stay known
    assert found.rehearsal == expected._replace(beside=again.beside)
    assert [set(turn.found) for turn in found.rehearsal.turns] == [{10, 30, 100}] * 4
    # no class has 100, and 150 known images have no 14 false alarms, as there are beside 30
    assert [found.rehearsal.found(images).tried for images in (100, 30)] == [0, 0]
    assert found.rehearsal.found(10).hits > 0


def turns(**aurocs: float) -> list[Turn]:
    return [Turn(name, 9, {0.05: 0.5}, auroc, [], {}) for name, auroc in aurocs.items()]


def test_a_score_is_chosen_by_the_other_classes() -> None:
    msp = turns(cat=0.9, dog=0.7, fox=0.7)  # .767; without cat .7, dog .8, fox .8
    distance = turns(cat=0.6, dog=0.85, fox=0.8)  # .75; without cat .825, dog .7, fox .725
    assert choose_score([msp, distance]) == (0, {"cat": 1, "dog": 0, "fox": 0})
    assert choose_score([distance, msp]) == (1, {"cat": 0, "dog": 1, "fox": 1})
    same = turns(cat=0.5, dog=0.5)
    assert choose_score([same, same]) == (0, {"cat": 0, "dog": 0})  # the first one wins a tie
    assert choose_score([turns(cat=0.1), turns(cat=0.9)]) == (1, {"cat": 1})  # nobody else
    # where a score has no turn of a class, that of the others tells it
    assert choose_score([turns(cat=0.9, dog=0.2), turns(dog=0.9)]) == (1, {"dog": 0})
    assert choose_score([turns(cat=0.9, dog=0.8), turns(dog=0.7)]) == (0, {"cat": 0, "dog": 0})


def near() -> Any:
    """Return four classes, one far from the others, in much noise: no score tells all best."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(40)
    centers = torch.eye(4, 16) * torch.tensor([2.0, 2.0, 2.0, 6.0])[:, None]
    told = centers[labels] + torch.randn(160, 16, generator=generator)
    noise = 3 * torch.randn(160, 16, generator=generator)
    return samples(torch.cat([told, noise], dim=1), labels)


def test_the_figures_of_a_class_are_by_the_score_that_the_others_chose(tmp_path: Path) -> None:
    counted: list[tuple[int, int]] = []
    found = fitted(tmp_path, lambda done, total: counted.append((done, total)), near())
    rules = Rules(finding=FINDING, met=frozenset({"dog"}))
    each = [
        rehearse(Tail(RIDGE, TEMPERATURE, Score.parse(name)), near(), NAMES, rules)
        for name in SCORES
    ]
    best, of_class = choose_score([one.turns for one in each])
    assert Score.parse(SCORES[best]) == found.score
    assert set(of_class.values()) == {0, 1}  # or nothing is tested
    expected = [each[of_class[name]].turns[place] for place, name in enumerate(NAMES)]
    assert found.rehearsal.turns == expected
    assert found.rehearsal.turns != each[best].turns
    together = rules._replace(finding=None, neighbors=NEIGHBORS)
    beside = [
        rehearse(Tail(RIDGE, TEMPERATURE, Score.parse(name)), near(), NAMES, together).beside
        for name in SCORES
    ]
    assert beside[0] != beside[1]
    expected = [beside[of_class[name]][place] for place, name in enumerate(NAMES)]
    assert found.rehearsal.beside == expected
    assert counted == [
        *((done, 12) for done in range(1, 5)),
        *((done, 16) for done in range(5, 17)),
    ]


def test_many_images_are_not_compared_with_each_other() -> None:
    few, many = scores_for(MOST_COMPARED), scores_for(MOST_COMPARED + 1)
    assert [score.name for score in few] == ["msp", "knn"]
    assert [score.name for score in many] == ["msp", "relative_mahalanobis"]


def test_of_two_classes_a_distance_tells_each(tmp_path: Path) -> None:
    every = images()
    data = every.part(every.labels < 2)
    found = fitted(tmp_path, data=data, names=NAMES[:2])
    assert found.score == Score.parse({"knn": {"k": 5}})
    alone = rehearse(Tail(RIDGE, TEMPERATURE, found.score), data, NAMES[:2])
    assert [turn.noticed for turn in found.rehearsal.turns] == [t.noticed for t in alone.turns]
    assert min(turn.noticed[0.05] for turn in found.rehearsal.turns) > 0.9  # they are far apart
    assert found.rehearsal.cannot_tell == ""


def test_above_the_turns_that_play_alone_no_class_plays_with_those_like_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.fitting.rehearsing.MOST_TURNS", 3)
    counted: list[tuple[int, int]] = []
    found = fitted(tmp_path, lambda done, total: counted.append((done, total)))
    assert found.rehearsal.beside == []
    assert counted == [(done, 8) for done in range(1, 9)]


class StoppedError(Exception):
    pass


def test_a_search_of_the_pool_that_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[int] = []
    fit = Heads.without
    monkeypatch.setattr(
        Heads, "without", lambda self, parted, seed: fits.append(0) or fit(self, parted, seed=seed)
    )

    def stop(done: int, total: int) -> None:
        if done == 6:  # of both scores all classes, of the pool two
            raise StoppedError

    with pytest.raises(StoppedError):
        fitted(tmp_path, stop)
    assert len(list((tmp_path / TURNS).iterdir())) == 2 * 4 + 2
    again = fitted(tmp_path)
    assert len(fits) == 4 + 4  # the search needs no head; a class with those like it does
    assert len(list((tmp_path / TURNS).iterdir())) == 2 * 4 + 4 + 4
    monkeypatch.undo()
    assert again == fitted(tmp_path / "other")
