"""The rehearsal of a fit: the better score wins, its pool is searched, nothing is done twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.fitting.rehearsing import TURNS, Progress, Rehearsed, rehearse_scores
from trainables.closed_form.statistics import samples
from trainables.experiment import Experiment
from trainables.inference.out_of_fold import Tail
from trainables.methods.calibrators import Calibrator
from trainables.methods.clusterers import Clusterer
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.scores import Score
from trainables.rehearsal.finding import Finding
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


def fitted(folder: Path, progress: Progress = ignored) -> Rehearsed:
    return rehearse_scores(
        RIDGE,
        RECIPE,
        images(),
        NAMES,
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
    assert counted == [(done, 8) for done in range(1, 9)]
    each = {
        name: rehearse(Tail(RIDGE, TEMPERATURE, Score.parse(name)), images(), NAMES)
        for name in ("msp", "relative_mahalanobis")
    }
    assert found.score == max(each, key=lambda name: each[name].auroc().mean)
    rules = Rules(finding=FINDING, met=frozenset({"dog"}))
    tail = Tail(RIDGE, TEMPERATURE, Score.parse(found.score))
    assert found.rehearsal == rehearse(tail, images(), NAMES, rules)
    assert [set(turn.found) for turn in found.rehearsal.turns] == [{10, 30, 100}] * 4
    # no class has 100, and 150 known images have no 14 false alarms, as there are beside 30
    assert [found.rehearsal.found(images).tried for images in (100, 30)] == [0, 0]
    assert found.rehearsal.found(10).hits > 0


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
    assert len(fits) == 4  # the search needs no head
    assert len(list((tmp_path / TURNS).iterdir())) == 2 * 4 + 4
    monkeypatch.undo()
    assert again == fitted(tmp_path / "other")
