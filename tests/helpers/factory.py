"""Synthetic sweep records, with evaluation arrays on disk."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from orchestrator.records import (
    FinalistRecord,
    GateRecord,
    Interval,
    Objective,
    PromotionRecord,
    StageUse,
    SweepRecord,
    TrialRecord,
)
from orchestrator.report.summary import ranked

LOSSES = ("cross_entropy", "logit_adjustment", "ldam", "focal")
REBALANCERS = ("none", "crt", "tau_norm")
SCORES = ("energy", "margin", "mahalanobis")
SECONDS = {
    "pretrain": 0.4,
    "classify": 9.5,
    "rebalance": 0.6,
    "score": 0.3,
    "discover": 0.8,
    "update": 2.7,
    "evaluate": 0.5,
}


def make_record(folder: Path, *, trials: int = 24, objectives: int = 2) -> SweepRecord:
    """Return a sweep's record, and write the winner's evaluation below ``folder``."""
    names = ["evaluate/update/accuracy", "evaluate/auroc"][:objectives]
    tried = make_trials(trials)
    record = SweepRecord(
        name="monday",
        space="full",
        started="2026-11-21T09:00:00+00:00",
        seconds=171.0,
        experiment={"name": "digits_lt", "seed": 0, "data": {"source": "digits"}},
        objectives=[Objective(metric=name, mode="max") for name in names],
        environment={"git": "8d5ef1c", "python": "3.11.7", "torch": "2.15.0", "cpus": "2"},
        data={"digest": "5d41402abc4b2a76", "known": 7, "novel": 3, "train": 412},
        trials=tried,
        promotion=PromotionRecord(
            model="longtail",
            version="3",
            promoted=True,
            gates=[
                GateRecord(
                    name="overall", passed=True, reason="0.871 against 0.842, allowed -0.01"
                ),
                GateRecord(name="few", passed=True, reason="0.71 against 0.66, allowed -0.02"),
                GateRecord(name="novelty", passed=True, reason="AUROC 0.94 against 0.93"),
            ],
        ),
        tracking_uri="sqlite:////tmp/mlflow.db",
        run_id="0123456789abcdef",
    )
    best = [trial for trial in ranked(record) if trial.state == "COMPLETE"][:3]
    if best:
        write_evaluation(folder / "finalists" / "seed0")
    record.finalists = [make_finalist(trial, trial is best[0]) for trial in best]
    return record


def make_trials(count: int) -> list[TrialRecord]:
    """Return trials with common stages, whose metrics depend on their parameters."""
    rng = np.random.default_rng(0)
    computed: set[str] = set()
    return [_trial(number, rng, computed) for number in range(count)]


def _trial(number: int, rng: np.random.Generator, computed: set[str]) -> TrialRecord:
    loss, rebalancer, score = (str(rng.choice(c)) for c in (LOSSES, REBALANCERS, SCORES))
    lr = float(10 ** rng.uniform(-2, 0))
    params: dict[str, str | int | float | bool | None] = {
        "classify.loss": loss,
        "classify.training.lr": round(lr, 5),
        "rebalance.method": rebalancer,
        "score.method": score,
        "update.training.lr": 0.05,
    }
    if rebalancer == "tau_norm":
        params["rebalance.method.tau_norm.tau"] = round(float(rng.uniform(0.3, 1.5)), 3)
    level = 0.62 + 0.06 * LOSSES.index(loss) % 0.17 + 0.05 * (rebalancer != "none")
    level += 0.05 - 0.08 * abs(math.log10(lr) + 1) + float(rng.normal(0, 0.012))
    auroc = 0.8 + 0.05 * SCORES.index(score) - 0.12 * (level - 0.7) + float(rng.normal(0, 0.01))
    keys = {
        "pretrain": "p",
        "classify": f"c-{loss}-{round(lr, 1)}",
        "rebalance": f"r-{loss}-{round(lr, 1)}-{rebalancer}",
        "score": f"s-{loss}-{rebalancer}-{score}",
        "discover": f"d-{loss}-{rebalancer}-{score}",
        "update": f"u-{number}",
        "evaluate": f"e-{number}",
    }
    stages = []
    for stage, key in keys.items():
        stages.append(
            StageUse(
                stage=stage,
                key=key,
                reused=key in computed,
                seconds=SECONDS[stage],
                history=_history(stage, level),
            )
        )
        computed.add(key)
    state = "FAIL" if number % 11 == 7 else "PRUNED" if number % 13 == 9 else "COMPLETE"
    metrics = {
        "evaluate/accuracy": level + 0.05,
        "evaluate/accuracy/many": level + 0.12,
        "evaluate/accuracy/medium": level + 0.04,
        "evaluate/accuracy/few": level - 0.1,
        "evaluate/auroc": auroc,
        "evaluate/update/accuracy": level,
    }
    return TrialRecord(
        trial_id=f"t{number:04d}",
        number=number,
        state=state,
        params=params,
        metrics={} if state == "FAIL" else metrics,
        seconds=sum(u.seconds for u in stages if not u.reused) + 0.2,
        error="classify: loss is nan at step 40" if state == "FAIL" else None,
        stages=stages,
    )


def _history(stage: str, level: float) -> list[dict[str, float]]:
    if stage not in ("classify", "update"):
        return []
    return [
        {
            "epoch": float(epoch),
            f"{stage}/loss": 2.1 * math.exp(-epoch / 5) + 0.2,
            f"{stage}/validation/balanced_accuracy": level * (1 - math.exp(-(epoch + 1) / 4)),
        }
        for epoch in range(20)
    ]


def make_finalist(trial: TrialRecord, first: bool) -> FinalistRecord:
    """Return a finalist with three seeds around the trial's metrics."""
    metrics = {
        name: Interval(
            mean=value,
            low=value - 0.02,
            high=value + 0.02,
            values=[value - 0.01, value + 0.005, value + 0.005],
        )
        for name, value in trial.metrics.items()
    }
    metrics |= {f"validation/{name}": interval for name, interval in metrics.items()}
    return FinalistRecord(
        trial_id=trial.trial_id,
        params=trial.params,
        seeds=[0, 1, 2],
        metrics=metrics,
        run_ids=["a", "b", "c"],
        arrays="finalists/seed0" if first else None,
    )


def make_arrays(num_known: int = 7, num_novel: int = 3) -> dict[str, np.ndarray]:
    """Return the arrays of an evaluation with long-tailed class counts."""
    rng = np.random.default_rng(1)
    counts = np.round(130 * 20 ** (-np.arange(num_known) / max(1, num_known - 1))).astype(np.int64)
    accuracy = np.clip(0.55 + 0.4 * np.linspace(1, 0, num_known), 0, 1)
    confusion = _confusion(accuracy, rng)
    total = num_known + num_novel
    updated = np.zeros((total, total + 1), np.int64)
    updated[:, :total] = _confusion(np.full(total, 0.84), rng)
    updated[:, total] = rng.integers(0, 3, total)
    probability = rng.beta(6, 2, 280).astype(np.float32)
    return {
        "confusion": confusion,
        "updated_confusion": updated,
        "class_accuracy": (confusion.diagonal() / confusion.sum(1)).astype(np.float32),
        "class_counts": counts,
        "confidence_known": rng.normal(6, 2, 280).astype(np.float32),
        "confidence_novel": rng.normal(1.5, 1.4, 120).astype(np.float32),
        "threshold": np.asarray(3.1, np.float32),
        "probability": probability,
        "correct": rng.random(280) < probability,
    }


def _confusion(accuracy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = len(accuracy)
    table = np.zeros((size, size), np.int64)
    for row, share in enumerate(accuracy):
        rest = (1 - share) / max(1, size - 1)
        chances = np.full(size, rest)
        chances[row] = 1 - rest * (size - 1)
        table[row] = rng.multinomial(40, chances)
    return table


def write_evaluation(folder: Path) -> None:
    """Write the arrays in the format of an evaluation artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"arrays/{name}": value for name, value in make_arrays().items()}
    save_file(arrays, folder / "tensors.safetensors")
