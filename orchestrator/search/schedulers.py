"""Who may go on: successive halving that survives a restart; the check that a sweep can start."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.locking.sweep_lock import write_file
from orchestrator.trial_outcome import COMPLETED
from trainables.errors import ConfigError, did_you_mean
from trainables.settings import canonical_json

NAMES = ("none", "asha", "hyperband", "ladder")
HYPERBAND_BRACKETS = 3
FILE = "rungs.json"
FORMAT_VERSION = 1


class SuccessiveHalving(FIFOScheduler):  # type: ignore[misc]
    """Asynchronous successive halving (ASHA) by the trials' own ``epoch``.

    A trial that reaches a rung (``grace_epochs * reduction_factor^k``) goes on if it is not below
    the best ``1 / reduction_factor`` of those that reached it before; it is judged once per rung.
    Trials are stopped, never paused, so none needs a checkpoint. With several brackets
    (asynchronous HyperBand) a share of the trials gets its first rung later, in case that early
    epochs mislead.

    Rungs are kept in ``rungs.json``: Ray forgets its own at a restart and then judges by the one
    or two trials that come next. A trial is known by its parameters, so one that is tried again
    after a kill counts once.

    Args:
        metric: What is compared; results without it are let through.
        mode: ``max`` or ``min``.
        max_epochs: Epochs of a trial that is never stopped; there is no rung at or beyond it.
        grace_epochs: First rung.
        reduction_factor: One in so many goes on.
        brackets: Number of brackets; bracket ``s`` starts ``s`` rungs later.
        folder: Where the rungs are kept; ``None`` keeps them in memory.

    Source: Li et al. 2020 (arXiv 1810.05934), algorithm 2, in the stopping form.
    """

    def __init__(
        self,
        *,
        metric: str,
        mode: Literal["max", "min"] = "max",
        max_epochs: int,
        grace_epochs: int = 1,
        reduction_factor: int = 3,
        brackets: int = 1,
        folder: Path | None = None,
    ) -> None:
        # Ray would demand the metric in every report, so it is not told of it.
        super().__init__()
        self.objective, self.mode = metric, mode
        self.reduction_factor = reduction_factor
        self.folder = folder
        self.num_stopped = 0
        milestones = _milestones(grace_epochs, reduction_factor, max_epochs)
        brackets = max(1, min(brackets, len(milestones)))
        self.milestones = [milestones[skipped:] for skipped in range(brackets)]
        self._rungs: dict[str, dict[str, float]] | None = None

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Keep the own metric."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Return CONTINUE, or STOP at a rung where the trial is too far behind."""
        epoch, value = result.get("epoch"), result.get(self.objective)
        ended = result.get(COMPLETED) == 1.0
        if ended or epoch is None or value is None or not math.isfinite(value):
            return str(TrialScheduler.CONTINUE)
        if self.goes_on(trial_key(trial.config), int(epoch), float(value)):
            return str(TrialScheduler.CONTINUE)
        self.num_stopped += 1
        return str(TrialScheduler.STOP)

    def goes_on(self, key: str, epoch: int, value: float) -> bool:
        """Judge a trial at the highest rung that it reached and was not judged at.

        Args:
            key: Names the trial, also after a restart.
            epoch: Epochs that it has trained.
            value: Its metric.
        """
        bracket = self.bracket_of(key)
        reached = [m for m in self.milestones[bracket] if m <= epoch]
        if not reached:
            return True
        rung = self.rungs.setdefault(f"{bracket}:{reached[-1]}", {})
        if key in rung:
            return True
        reward = value if self.mode == "max" else -value
        good = not rung or reward >= _quantile(list(rung.values()), 1 - 1 / self.reduction_factor)
        rung[key] = reward
        self._save()
        return good

    def bracket_of(self, key: str) -> int:
        """Return a trial's bracket: the same after a restart, the earliest for the most."""
        weights = [self.reduction_factor**-s for s in range(len(self.milestones))]
        draw = int(hashlib.sha256(f"bracket/{key}".encode()).hexdigest()[:8], 16) / 16**8
        share = 0.0
        for bracket, weight in enumerate(weights):
            share += weight / sum(weights)
            if draw < share:
                return bracket
        return len(weights) - 1

    @property
    def rungs(self) -> dict[str, dict[str, float]]:
        """Rewards (higher = better) by ``bracket:epoch`` and trial, read on first use.

        Raises:
            ConfigError: The folder holds the rungs of another metric.
        """
        if self._rungs is None:
            path = None if self.folder is None else self.folder / FILE
            if path is None or not path.is_file():
                self._rungs = {}
                return self._rungs
            try:
                document = json.loads(path.read_bytes())
                was, rungs = (document["metric"], document["mode"]), dict(document["rungs"])
            except (ValueError, KeyError, TypeError, OSError):
                raise ConfigError(
                    f"{path} is damaged; delete it, and trials are compared with later ones only"
                ) from None
            now = (self.objective, self.mode)
            if was != now:
                raise ConfigError(
                    f"{path} compares trials by {was[0]} ({was[1]}), the scheduler by "
                    f"{now[0]} ({now[1]}); give a new --name, or the metric it was started with"
                )
            self._rungs = rungs
        return self._rungs

    def _save(self) -> None:
        if self.folder is None:
            return
        document = {
            "format_version": FORMAT_VERSION,
            "metric": self.objective,
            "mode": self.mode,
            "rungs": self.rungs,
        }
        write_file(self.folder / FILE, json.dumps(document, indent=1).encode())

    def debug_string(self) -> str:
        """Say how many trials were stopped, and how many stand on each rung."""
        counts = ", ".join(f"{name}: {len(rung)}" for name, rung in self.rungs.items())
        return f"successive halving: {self.num_stopped} stopped; rungs {counts or 'empty'}"

    def __getstate__(self) -> dict[str, Any]:
        """Leave rungs that lie in a file behind: a copy reads the file."""
        return self.__dict__ | ({"_rungs": None} if self.folder is not None else {})


def _milestones(first: int, factor: int, end: int) -> list[int]:
    """Return the epochs ``first * factor^k`` below ``end``.

    Example:
        >>> _milestones(1, 3, 30)
        [1, 3, 9, 27]
    """
    found = []
    while first < end:
        found.append(first)
        first *= factor
    return found


def _quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile with linear interpolation.

    Example:
        >>> _quantile([1.0, 2.0, 4.0], 0.5)
        2.0
    """
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def trial_key(config: Mapping[str, Any]) -> str:
    """Return a short digest of a trial's parameters: the same trial after a restart.

    Example:
        >>> trial_key({"trial_number": 1, "params": {"lr": 0.1}}) == trial_key(
        ...     {"trial_number": 7, "params": {"lr": 0.1}}
        ... )
        True
    """
    params = config.get("params", config)
    return hashlib.sha256(canonical_json(params).encode()).hexdigest()[:16]


def make_scheduler(
    name: str,
    *,
    metric: str,
    mode: Literal["max", "min"] = "max",
    max_epochs: int,
    grace_epochs: int = 1,
    reduction_factor: int = 3,
    folder: Path | None = None,
) -> TrialScheduler:
    """Return the scheduler of a sweep.

    Args:
        name: ``none``, ``asha``, ``hyperband`` (asynchronous: ASHA in three brackets), or
            ``ladder``: there the searcher decides (`orchestrator.search.ladder`), and nothing is
            stopped.
        metric: What is compared.
        mode: ``max`` or ``min``.
        max_epochs: Epochs of a trial that is never stopped.
        grace_epochs: No trial is stopped before.
        reduction_factor: One in so many goes on at each rung.
        folder: The sweep's folder, for the rungs.

    Raises:
        ConfigError: No scheduler has that name, or a number is out of range.
    """
    if name not in NAMES:
        raise ConfigError(
            f"unknown scheduler '{name}'; allowed: {', '.join(NAMES)}{did_you_mean(name, NAMES)}"
        )
    if name in ("none", "ladder"):
        return FIFOScheduler()
    if grace_epochs < 1 or reduction_factor < 2:
        raise ConfigError(
            f"scheduler {name}: grace_epochs must be at least 1 and reduction_factor at least 2; "
            f"received {grace_epochs} and {reduction_factor}"
        )
    return SuccessiveHalving(
        metric=metric,
        mode=mode,
        max_epochs=max_epochs,
        grace_epochs=grace_epochs,
        reduction_factor=reduction_factor,
        brackets=HYPERBAND_BRACKETS if name == "hyperband" else 1,
        folder=folder,
    )


def check_resources(
    cpus_per_trial: float,
    gpus_per_trial: float,
    concurrency: int,
    cluster_resources: Mapping[str, float],
    *,
    group: Mapping[str, float] | None = None,
) -> None:
    """Refuse a sweep that would wait for resources for ever.

    Args:
        cpus_per_trial: CPUs that a trial holds while it runs.
        gpus_per_trial: GPUs that a trial holds; a share is allowed.
        concurrency: Trials at once.
        cluster_resources: What the cluster has, as ``ray.cluster_resources()`` says it.
        group: What a worker group of a stage needs (``{"CPU": 4, "GPU": 2}``) while the trials
            that wait for it hold theirs; ``None``: stages run inside their trial.

    Raises:
        ConfigError: One trial, all trials at once, or a worker group beside them do not fit.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency must be at least 1; received {concurrency}")
    if cpus_per_trial <= 0 and gpus_per_trial <= 0:
        raise ConfigError("a trial must hold a CPU or a GPU, or a share of one; received 0 and 0")
    for kind, each in (("CPU", cpus_per_trial), ("GPU", gpus_per_trial)):
        has, extra = cluster_resources.get(kind, 0.0), (group or {}).get(kind, 0.0)
        needed = concurrency * each + extra
        if each + extra > has:
            beside = f" and a worker group beside it {extra:g}" if extra else ""
            raise ConfigError(
                f"a trial needs {each:g} {kind}{beside}, the cluster has {has:g}: no trial could "
                f"start; lower the {kind}s per trial or add hosts"
            )
        if needed > has + 1e-9:  # shares such as 1/3 do not add up exactly
            fits = math.floor((has - extra) / each + 1e-9) if each else concurrency
            group_text = f" + {extra:g} for a worker group" if extra else ""
            raise ConfigError(
                f"{concurrency} trials at once x {each:g} {kind}{group_text} need {needed:g} "
                f"{kind}s, the cluster has {has:g}; at most {fits} fit"
            )
