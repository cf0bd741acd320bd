"""Challenger and champion on equal terms: the same test views, the same machine."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.packaging import is_model
from orchestrator.records import FinalistRecord
from trainables.errors import ConfigError
from trainables.methods.gates import Gate

if TYPE_CHECKING:
    from orchestrator.registry import Registry
    from trainables.inference import Card, Model

LATENCY = "evaluate/latency/ms"
BATCH, ROUNDS, BUDGET_SECONDS = 32, 21, 30.0


class Terms(NamedTuple):
    """What the gates are given.

    ``champion`` is ``None`` where there is none; ``note`` says that both were measured again,
    ``problem`` why the two cannot be compared.
    """

    challenger: dict[str, float]
    champion: dict[str, float] | None
    note: str = ""
    problem: str = ""


def gate_metrics(finalist: FinalistRecord) -> dict[str, float]:
    """Return a finalist's test metrics as gates read them.

    ``<m>`` is the mean over seeds; with two seeds or more ``<m>/low`` and ``<m>/high`` bound its
    95 % interval, and ``<m>/seed/<n>`` are the single values, for a paired comparison.
    """
    found: dict[str, float] = {}
    for name, interval in finalist.metrics.items():
        if name.startswith("validation/"):
            continue
        found[name] = interval.mean
        if len(interval.values) >= 2:
            found |= {f"{name}/low": interval.low, f"{name}/high": interval.high}
            seeds = zip(finalist.seeds, interval.values, strict=True)
            found |= {f"{name}/seed/{seed}": value for seed, value in seeds}
    return found


def equal_terms(
    registry: Registry,
    model: str,
    *,
    version: str,
    champion: str | None,
    metrics: Mapping[str, float],
    gates: Sequence[Gate],
) -> Terms:
    """Return metrics that may be compared.

    Stored metrics are compared where both versions were measured on the same test views, with the
    same bands. Otherwise both exported models are measured again on the challenger's test views,
    if they know the same classes and the data can be read here. Latency is always measured now, on
    this machine, in turns.

    Args:
        registry: Where both versions are.
        model: Registered name.
        version: The challenger.
        champion: The version that answers now.
        metrics: The challenger's stored metrics.
        gates: Latency is measured only if one of them asks for it.
    """
    timed = any(getattr(gate, "metric", "") == LATENCY for gate in gates)
    with tempfile.TemporaryDirectory() as draft:
        desk = _Desk(registry, model, Path(draft))
        terms = _same_views(desk, version, champion, metrics)
        if timed and not terms.problem:
            return _timed(desk, version, champion, terms)
        return terms


class _Desk:
    """The versions of a model, loaded once each."""

    def __init__(self, registry: Registry, model: str, folder: Path) -> None:
        self.registry, self.model, self.folder = registry, model, folder
        self._loaded: dict[str, Model | None] = {}

    def card(self, version: str) -> Card | None:
        return self.registry.card(self.model, version)

    def metrics(self, version: str) -> dict[str, float]:
        return self.registry.metrics(self.model, version)

    def path(self, version: str) -> Path:
        target = self.folder / version
        return target if target.exists() else self.registry.download(self.model, version, target)

    def load(self, version: str) -> Model | None:
        """Return a version as a model; ``None`` where it is something else."""
        from trainables.inference import load_model

        if version not in self._loaded:
            folder = self.path(version)
            self._loaded[version] = load_model(folder) if is_model(folder) else None
        return self._loaded[version]


def _same_views(
    desk: _Desk, version: str, champion: str | None, metrics: Mapping[str, float]
) -> Terms:
    """Return stored metrics, or metrics that were measured again, or why neither will do."""
    mine = dict(metrics)
    if champion is None:
        return Terms(mine, None)
    my_card, their_card = desk.card(version), desk.card(champion)
    if my_card is None or their_card is None:
        silent = champion if their_card is None else version
        return Terms(
            mine, None, problem=f"version {silent} does not say on which test views it was measured"
        )
    if my_card.yardstick == their_card.yardstick:
        return Terms(mine, desk.metrics(champion))
    views = f"version {champion} was tested on other views ('{their_card.source}')"
    difference = _class_difference(my_card, their_card)
    if difference:
        return Terms(mine, None, problem=f"{views} and {difference}")
    try:
        again = _measure_again(desk, version, champion)
    except (ConfigError, OSError) as error:
        return Terms(mine, None, problem=f"{views}, and the challenger's cannot be read: {error}")
    flags = {k: v for k, v in mine.items() if k.endswith(("oracle", "leaked_pretraining"))}
    note = f"{views}: both exported models were measured again on the challenger's, one seed each"
    return Terms({**again[0], **flags}, again[1], note=note)


def _class_difference(mine: Card, theirs: Card) -> str:
    """Say which classes only one of two models knows, or return an empty text."""
    known, other = (set(c.class_names[: c.num_known]) for c in (mine, theirs))
    parts = [
        f"{who} {', '.join(sorted(names)[:5])}{' and more' if len(names) > 5 else ''}"
        for who, names in (("alone knows", other - known), ("does not know", known - other))
        if names
    ]
    return "; it ".join(parts)


def _measure_again(
    desk: _Desk, version: str, champion: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Measure two versions on the first one's test views, with its bands."""
    from trainables.data import build_views
    from trainables.experiment import load_experiment
    from trainables.measure import measure

    recipe = load_experiment(desk.path(version) / "experiment.yaml")
    views = build_views(recipe.data)
    models = [desk.load(version), desk.load(champion)]
    found = [
        measure(
            model,
            views,
            recipe.evaluate,
            class_names=views.summary["known_class_names"],
            class_counts=models[0].card.class_counts,
        )
        for model in models
        if model is not None and models[0] is not None
    ]
    return found[0], found[1]


def _timed(desk: _Desk, version: str, champion: str | None, terms: Terms) -> Terms:
    """Add the latency of both models, measured in turns."""
    versions = [version] if champion is None else [version, champion]
    models = [model for model in map(desk.load, versions) if model is not None]
    if len(models) < len(versions):
        return terms
    times = [latency_metrics(values) for values in time_models(models)]
    rival = None if terms.champion is None else {**terms.champion, **times[-1]}
    return terms._replace(challenger={**terms.challenger, **times[0]}, champion=rival)


def time_models(models: Sequence[Model], *, rounds: int = ROUNDS) -> list[list[float]]:
    """Return milliseconds per image of each model, one value per round.

    Every round times each model once on a batch of 32 images of its own size, in turns and in
    changing order, so that a busy machine is busy for all. The first round only warms up. At least
    5 rounds are timed, more while 30 seconds have not passed.
    """
    import numpy as np

    batches = [
        np.random.default_rng(0).integers(
            0, 256, (BATCH, m.card.image_size, m.card.image_size, 3), dtype=np.uint8
        )
        for m in models
    ]
    times: list[list[float]] = [[] for _ in models]
    started = time.monotonic()
    for number in range(rounds + 1):
        for position in sorted(range(len(models)), reverse=bool(number % 2)):
            start = time.perf_counter()
            models[position].predict(batches[position])
            if number:
                times[position].append(1000 * (time.perf_counter() - start) / BATCH)
        if number >= 5 and time.monotonic() - started > BUDGET_SECONDS:
            break
    return times


def latency_metrics(times: Sequence[float]) -> dict[str, float]:
    """Return the median of the rounds and its 95 % interval, from the order of the values.

    Example:
        >>> latency_metrics([3.0, 1.0, 2.0])["evaluate/latency/ms"]
        2.0
    """
    ordered = sorted(times)
    skip = max(0, math.floor((len(ordered) - 1.96 * math.sqrt(len(ordered))) / 2))
    return {
        LATENCY: statistics.median(ordered),
        f"{LATENCY}/low": ordered[skip],
        f"{LATENCY}/high": ordered[-1 - skip],
    }
