"""Figures of the model that answers after a sweep: its own, and those of the rehearsal.

Of known classes it is judged by its own answers. It knows every class, so what new classes would
meet is told by the finalist that rehearsed with some of them playing new.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from orchestrator.choice.selection import auroc
from orchestrator.records import FinalistRecord
from orchestrator.registry.paired import BANDS
from trainables.inference.outcomes import Outcomes

OWN, FOLD = "evaluate/first/", "out_of_fold/"
NOT_SHOWN = ("forgetting", "accuracy/new")  # by a model that no update followed
OF_NEW = ("evaluate/novelty/", "evaluate/update/")  # what a rehearsal tells of new classes
FLAGS = ("evaluate/oracle", "evaluate/leaked_pretraining", "evaluate/unknown_pretraining")


def own_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what a run in world `service` tells of its model, under the names that gates read.

    Example:
        >>> own_metrics({
        ...     "evaluate/first/accuracy/few": 0.5,
        ...     "evaluate/first/forgetting": 0.0,
        ...     "evaluate/update/accuracy": 0.5,
        ...     "out_of_fold/accuracy": 0.25,
        ... })
        {'test/accuracy/few': 0.5, 'out_of_fold/accuracy': 0.25}
    """
    found = {
        f"test/{name.removeprefix(OWN)}": value
        for name, value in metrics.items()
        if name.startswith(OWN) and name.removeprefix(OWN) not in NOT_SHOWN
    }
    kept = {n: v for n, v in metrics.items() if n.startswith(FOLD) or n in FLAGS}
    return {**found, **kept}


def rehearsal_metrics(finalist: FinalistRecord | None) -> dict[str, float]:
    """Return a finalist's means of what only its rehearsal can tell: how new classes fare.

    Example:
        >>> from orchestrator.records import interval
        >>> finalist = FinalistRecord(trial_id="t", params={}, seeds=[1], metrics={
        ...     "evaluate/novelty/auroc": interval([0.75]), "test/accuracy": interval([0.5]),
        ... })
        >>> rehearsal_metrics(finalist)
        {'rehearsal/novelty/auroc': 0.75}
    """
    return {
        f"rehearsal/{name.removeprefix('evaluate/')}": found.mean
        for name, found in (finalist.metrics if finalist is not None else {}).items()
        if name.startswith(OF_NEW)
    }


def class_aurocs(arrays: Any, names: Sequence[str]) -> dict[str, float]:
    """Return for each class that played new how well confidence tells it from the known ones.

    Args:
        arrays: ``labels [N]`` (known classes, then new ones), ``confidence [N]`` and
            ``class_counts [C]`` of an `Evaluation`.
        names: Names of the new classes, in the order of their labels.

    Example:
        >>> import torch
        >>> arrays = {"labels": torch.tensor([0, 0, 1, 2]), "class_counts": torch.tensor([9]),
        ...     "confidence": torch.tensor([0.9, 0.5, 0.1, 0.7])}
        >>> class_aurocs(arrays, ["lynx", "ocelot"])
        {'lynx': 1.0, 'ocelot': 0.5}
    """
    labels, confidence = arrays["labels"].numpy(), arrays["confidence"].double().numpy()
    known = len(arrays["class_counts"])
    seen = confidence[labels < known]
    return {
        name: auroc(seen, confidence[labels == known + number])
        for number, name in enumerate(names)
        if len(seen) and (labels == known + number).any()
    }


def uncalibrated(table: Outcomes, calibrated: Collection[str] | None) -> dict[str, list[str]]:
    """Return by band the classes of which no image set a threshold; bands without any are left out.

    Args:
        table: The model's table of outcomes.
        calibrated: Classes of the images that calibrate; ``None``: all training images answer out
            of fold, so every class does.
    """
    bands = table.bands()
    silent = [] if calibrated is None else [c for c in table.classes if c not in calibrated]
    found = {band: [name for name in silent if bands[name] == band] for band in BANDS}
    return {band: names for band, names in found.items() if names}
