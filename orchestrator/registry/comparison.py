"""Metrics of challenger and champion from the same test set and the same machine."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.records import FinalistRecord
from orchestrator.registry.packaging import is_model
from trainables.errors import ConfigError
from trainables.methods.gates import Gate

if TYPE_CHECKING:
    from orchestrator.registry.versions import Registry
    from trainables.data.data_settings import Data
    from trainables.data.views import Views
    from trainables.inference.card import Card
    from trainables.inference.model import Model

LATENCY = "evaluate/latency/ms"
BATCH, ROUNDS, BUDGET_SECONDS = 32, 21, 30.0


class Comparison(NamedTuple):
    """Metrics of challenger and champion for the gates.

    ``champion`` is ``None`` without a champion. ``note`` says that both models were evaluated
    again; ``problem`` says why the two cannot be compared.
    """

    challenger: dict[str, float]
    champion: dict[str, float] | None
    note: str = ""
    problem: str = ""


class Asked(NamedTuple):
    """A registered version that gates are asked about, beside another one.

    Attributes:
        registry: Registry of both versions.
        model: Registered name.
        version: The challenger.
        champion: What it is compared with: the present champion, or a former one; ``None``: there
            is no champion.
        metrics: The challenger's stored metrics.
        gates: Gates that will compare; latency is measured only if a gate compares latency.
        data: Data settings of the challenger with paths of this machine; by default those stored
            with the version, in which paths have their last names alone.
    """

    registry: Registry
    model: str
    version: str
    champion: str | None
    metrics: Mapping[str, float]
    gates: Sequence[Gate]
    data: Data | None = None

    @property
    def timed(self) -> bool:
        """Whether a gate compares latency."""
        return any(getattr(gate, "metric", "") == LATENCY for gate in self.gates)


def gate_metrics(finalist: FinalistRecord) -> dict[str, float]:
    """Return a finalist's test metrics under the names that gates read.

    ``<m>`` is the mean over seeds. With two seeds or more, ``<m>/low`` and ``<m>/high`` are the
    ends of the 95 % interval, and ``<m>/seed/<n>`` are the values of the seeds, for a paired
    comparison.
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


def comparable_metrics(
    registry: Registry,
    model: str,
    *,
    version: str,
    champion: str | None,
    metrics: Mapping[str, float],
    gates: Sequence[Gate],
    data: Data | None = None,
) -> Comparison:
    """Return metrics of challenger and champion that can be compared.

    If both versions were evaluated on the same test set with the same bands, the stored metrics are
    used. Otherwise both exported models are evaluated again on the challenger's test set, if both
    know the same classes and the data can be read here. Latency is always measured now, on this
    machine, alternating between the models.

    The arguments are those of `Asked`.
    """
    asked = Asked(registry, model, version, champion, metrics, gates, data)
    with tempfile.TemporaryDirectory() as draft:
        loaded = _LoadedVersions(registry, model, Path(draft), data)
        comparison = _same_views(loaded, version, champion, metrics)
        if asked.timed and not comparison.problem:
            return _timed(loaded, version, champion, comparison)
        return comparison


def with_latency(asked: Asked) -> Comparison:
    """Return stored metrics of two versions, which are compared image by image, with the latency.

    Their data are not read.
    """
    version, other = asked.version, asked.champion
    theirs = None if other is None else asked.registry.metrics(asked.model, other)
    comparison = Comparison(dict(asked.metrics), theirs)
    if not asked.timed:
        return comparison
    with tempfile.TemporaryDirectory() as draft:
        loaded = _LoadedVersions(asked.registry, asked.model, Path(draft))
        return _timed(loaded, version, other, comparison)


class _LoadedVersions:
    """Versions of a model, each downloaded and loaded once.

    Args:
        registry: Registry of the versions.
        model: Registered name.
        folder: Where they are downloaded to.
        data: See `comparable_metrics`.
    """

    def __init__(
        self, registry: Registry, model: str, folder: Path, data: Data | None = None
    ) -> None:
        self.registry, self.model, self.folder, self.data = registry, model, folder, data
        self._loaded: dict[str, Model | None] = {}

    def card(self, version: str) -> Card | None:
        return self.registry.card(self.model, version)

    def metrics(self, version: str) -> dict[str, float]:
        return self.registry.metrics(self.model, version)

    def path(self, version: str) -> Path:
        target = self.folder / version
        return target if target.exists() else self.registry.download(self.model, version, target)

    def load(self, version: str) -> Model | None:
        """Return a version as a model; ``None`` if the version is not an exported model."""
        from trainables.inference.model import load_model

        if version not in self._loaded:
            folder = self.path(version)
            self._loaded[version] = load_model(folder) if is_model(folder) else None
        return self._loaded[version]


def _same_views(
    loaded: _LoadedVersions, version: str, champion: str | None, metrics: Mapping[str, float]
) -> Comparison:
    """Return stored metrics, or metrics of a new evaluation, or the reason for having neither."""
    mine, my_card = dict(metrics), loaded.card(version)
    if champion is None:
        former = my_card is not None and my_card.is_former
        return _alone_again(loaded, version, mine) if former else Comparison(mine, None)
    their_card = loaded.card(champion)
    if my_card is None or their_card is None:
        unnamed = champion if their_card is None else version
        return Comparison(
            mine, None, problem=f"version {unnamed} does not name the test set of its metrics"
        )
    former = my_card.is_former or their_card.is_former
    if my_card.evaluation_digest == their_card.evaluation_digest and not former:
        return Comparison(mine, loaded.metrics(champion))
    other = f"version {champion} was tested on another test set ('{their_card.source}')"
    if former:
        other = "a version of before was tested in another way"
    difference = _class_difference(my_card, their_card)
    if difference:
        return Comparison(mine, None, problem=f"{other} and {difference}")
    try:
        again = _measure_again(loaded, version, champion)
    except (ConfigError, OSError) as error:
        return Comparison(
            mine, None, problem=f"{other}, and the challenger's test set cannot be read: {error}"
        )
    note = f"{other}; both exported models (one seed) were evaluated on the challenger's test set"
    theirs = {**again[1], **_forgetting(loaded.metrics(champion))}
    return Comparison({**again[0], **_kept(mine)}, theirs, note=note)


def _alone_again(loaded: _LoadedVersions, version: str, mine: dict[str, float]) -> Comparison:
    """Return metrics of a version of before, evaluated as versions are today."""
    try:
        [again] = _measure_again(loaded, version)
    except (ConfigError, OSError) as error:
        return Comparison(
            mine,
            None,
            problem=f"version {version} was tested in another way, and its test set "
            f"cannot be read: {error}",
        )
    note = f"version {version} was tested in another way; its model was evaluated again"
    return Comparison({**again, **_kept(mine)}, None, note=note)


def _kept(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the stored metrics that a new evaluation of the exported model can't give."""
    flags = {k: v for k, v in metrics.items() if k.endswith(("oracle", "_pretraining"))}
    return flags | _forgetting(metrics)


def _forgetting(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what an update lost on its own test set, which an exported model can't show again."""
    names = ("test/forgetting", "evaluate/update/forgetting")  # the second one until format 2
    found = next((metrics[name] for name in names if name in metrics), None)
    return {} if found is None else {"test/forgetting": found}


def _class_difference(mine: Card, theirs: Card) -> str:
    """Return the classes that only one of two models knows as text, empty if there are none."""
    known, other = (set(c.class_names[: c.num_known]) for c in (mine, theirs))
    parts = [
        f"{verb} {', '.join(sorted(names)[:5])}{' and more' if len(names) > 5 else ''}"
        for verb, names in (("alone knows", other - known), ("does not know", known - other))
        if names
    ]
    return " and ".join(parts)


def _measure_again(loaded: _LoadedVersions, *versions: str) -> list[dict[str, float]]:
    """Evaluate versions on the test set of the first one, with the bands of its classes.

    Each model gets the images as its own training made them.

    Raises:
        ConfigError: The images are not there, or can't be made for all models alike.
    """
    from trainables.data.views import build_views
    from trainables.experiment import Experiment
    from trainables.inference.evaluate_exported import measure
    from trainables.settings import build, read_yaml

    recipe = build(Experiment, read_yaml(loaded.path(versions[0]) / "experiment.yaml"))
    data = _where_it_is(recipe.data, loaded.data)
    views = build_views(data)
    models = [loaded.load(version) for version in versions]
    return [
        measure(
            model,
            _views_for(model.card, views, data),
            recipe.evaluate,
            class_names=views.summary["known_class_names"],
            class_counts=models[0].card.class_counts,
        )
        for model in models
        if model is not None and models[0] is not None
    ]


def _views_for(card: Card, views: Views, data: Data) -> Views:
    """Return views with the size and fitting of a model's images.

    Raises:
        ConfigError: Other images are left out as copies at that size.
    """
    from trainables.data.views import build_views

    if (card.image_size, card.fitting) == (views.held_out_known.images.shape[1], data.fitting):
        return views
    own = {"image_size": card.image_size, **card.fitting._asdict()}
    found = build_views(data.model_copy(update=own))
    if found.index_lists != views.index_lists:
        raise ConfigError(
            f"at {card.image_size} pixels other images count as copies, so the test sets differ"
        )
    return found


def _where_it_is(stored: Data, here: Data | None) -> Data:
    """Return stored data settings with the paths of this machine."""
    if here is None:
        return stored
    stream = stored.stream.model_copy(update={"unrelated_source": here.stream.unrelated_source})
    paths = {"source": here.source, "root": here.root, "stream": stream}
    return stored.model_copy(update=paths)


def _timed(
    loaded: _LoadedVersions, version: str, champion: str | None, comparison: Comparison
) -> Comparison:
    """Return a comparison with the latency of both models."""
    versions = [version] if champion is None else [version, champion]
    models = [model for model in map(loaded.load, versions) if model is not None]
    if len(models) < len(versions):
        return comparison
    times = [latency_metrics(values) for values in time_models(models)]
    champion_metrics = None if comparison.champion is None else {**comparison.champion, **times[-1]}
    return comparison._replace(
        challenger={**comparison.challenger, **times[0]}, champion=champion_metrics
    )


def time_models(models: Sequence[Model], *, rounds: int = ROUNDS) -> list[list[float]]:
    """Return the milliseconds per image of each model, one value per round.

    Every round times each model once, on a batch of 32 random images of the model's size. The order
    of the models changes from round to round, so that other load on the machine affects all models.
    The first round is a warm-up and not timed. After 5 timed rounds, a limit of 30 seconds ends the
    measurement.
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
    """Return the median of the rounds and its 95 % interval by order statistics.

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
