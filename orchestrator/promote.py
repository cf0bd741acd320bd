"""Gates decide which model version answers: challenger, champion, previous."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.comparison import LATENCY, Terms, equal_terms
from orchestrator.records import GateRecord, PromotionRecord
from trainables.errors import ConfigError
from trainables.methods.gates import Gate
from trainables.methods.gates.provenance import Provenance

if TYPE_CHECKING:
    from orchestrator.registry import Registry

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"

VERDICT_TAG, LATENCY_TAG = "orchestrator.verdict", "orchestrator.latency_ms"

BARS = {
    "oracle": "an upper bound: it read labels that a deployment cannot know",
    "leaked_pretraining": "its trunk was pretrained on data that may hold the new classes",
}

HEADLINE = {
    "accuracy": "evaluate/accuracy/balanced",
    "few": "evaluate/accuracy/few",
    "novelty": "evaluate/novelty/auroc",
    "after update": "evaluate/update/accuracy",
}


def default_gates() -> list[Gate]:
    """Return every gate on the shelf with its defaults, by name."""
    return [Gate.parse(name) for name in sorted(Gate.shelf)]


def promote(
    metrics: Mapping[str, float],
    *,
    registry: Registry,
    model: str,
    folder: Path,
    run_id: str,
    tags: Mapping[str, str] | None = None,
    gates: Sequence[Gate] | None = None,
) -> PromotionRecord:
    """Register a challenger, let the gates compare it with the champion, move the aliases.

    When all gates pass, ``champion`` points to the new version and ``previous`` to the old one.
    Otherwise the new version only gets the alias ``challenger``.

    Args:
        metrics: The challenger's metrics on the test views; a run marked as an upper bound or as
            pretrained on the new classes (see `bars`) is not registered.
        registry: Where versions and aliases live.
        model: Name of the registered model.
        folder: The exported model.
        run_id: The tracker's run that the version belongs to.
        tags: What to write on the version.
        gates: Who decides; default all gates on the shelf with their defaults.

    Raises:
        ValueError: ``gates`` is empty: nothing would decide.
    """
    barred = bars(metrics)
    if barred:
        return PromotionRecord(model=model, version=None, promoted=False, gates=barred)
    chosen = _some(gates)
    version = registry.register(model, folder, run_id, dict(metrics), dict(tags or {}))
    return decide(version, metrics, registry=registry, model=model, gates=chosen)


def reconsider(
    version: str,
    *,
    registry: Registry,
    model: str,
    gates: Sequence[Gate] | None = None,
    force: bool = False,
) -> PromotionRecord:
    """Let the gates judge a version that is registered already.

    Args:
        version: Its number.
        registry: Where versions and aliases live.
        model: Name of the registered model.
        gates: Who decides; default all gates on the shelf.
        force: Make it champion even if gates refuse or cannot compare; what they said is recorded.
            An upper bound and a trunk that may have seen the new classes stay refused.

    Raises:
        ConfigError: There is no such version, or it is the champion.
    """
    known = registry.versions(model)
    if version not in known:
        raise ConfigError(
            f"model '{model}' has no version {version}; its versions: {', '.join(known) or 'none'}"
        )
    if registry.alias(model, CHAMPION) == version:
        raise ConfigError(f"version {version} of '{model}' is the champion already")
    metrics = registry.metrics(model, version)
    chosen = _some(gates)
    return decide(version, metrics, registry=registry, model=model, gates=chosen, force=force)


def decide(
    version: str,
    metrics: Mapping[str, float],
    *,
    registry: Registry,
    model: str,
    gates: Sequence[Gate],
    force: bool = False,
) -> PromotionRecord:
    """Ask every gate on equal terms (see `equal_terms`), then move the aliases."""
    barred = bars(metrics)
    if barred:
        return PromotionRecord(model=model, version=version, promoted=False, gates=barred)
    champion = registry.alias(model, CHAMPION)
    terms = equal_terms(
        registry, model, version=version, champion=champion, metrics=metrics, gates=gates
    )
    words = [*_compared(terms), *(_ask(gate, terms) for gate in gates)]
    refusing = [word.name for word in words if not word.passed]
    promoted = not refusing or (force and Provenance.name not in refusing)
    verdict = f"refused by {', '.join(refusing)}" if refusing else "passed"
    tags = {VERDICT_TAG: f"{verdict}; forced" if refusing and promoted else verdict}
    if LATENCY in terms.challenger:
        tags[LATENCY_TAG] = f"{terms.challenger[LATENCY]:.4f}"
    registry.set_version_tags(model, version, tags)
    if promoted:
        _crown(registry, model, version, champion)
    else:
        registry.set_alias(model, CHALLENGER, version)
    return PromotionRecord(model=model, version=version, promoted=promoted, gates=words)


def rollback(registry: Registry, model: str) -> str:
    """Make the previous champion the champion again and return its version.

    The two swap places, so that a second call undoes the first.

    Raises:
        ConfigError: There is no previous champion.
    """
    previous = registry.alias(model, PREVIOUS)
    if previous is None:
        raise ConfigError(f"model '{model}' has no previous champion to go back to")
    _crown(registry, model, previous, registry.alias(model, CHAMPION))
    return previous


def standing(registry: Registry, model: str) -> list[tuple[str, str, str]]:
    """Return (version, aliases, headline metrics) of a model's versions, newest first.

    Raises:
        ConfigError: There is no such model.
    """
    versions = registry.versions(model)
    if not versions:
        raise ConfigError(f"there is no registered model '{model}'; `sweep` registers one")
    names = registry.aliases(model)
    rows = []
    for version in reversed(versions):
        metrics = registry.metrics(model, version)
        shown = [f"{name} {metrics[key]:.3f}" for name, key in HEADLINE.items() if key in metrics]
        aliases = sorted(alias for alias, held in names.items() if held == version)
        rows.append((version, ", ".join(aliases), ", ".join(shown)))
    return rows


def bars(metrics: Mapping[str, float]) -> list[GateRecord]:
    """Return why a run may never be promoted, however good it is; an empty list: it may.

    Example:
        >>> [word.name for word in bars({"evaluate/oracle": 1.0, "evaluate/accuracy": 0.99})]
        ['oracle']
    """
    return [
        GateRecord(name=name, passed=False, reason=reason)
        for name, reason in BARS.items()
        if metrics.get(f"evaluate/{name}", 0.0) > 0
    ]


def _some(gates: Sequence[Gate] | None) -> Sequence[Gate]:
    """Return the gates to ask; an empty list would promote everything."""
    chosen = default_gates() if gates is None else gates
    if not chosen:
        raise ValueError("promotion needs at least one gate; received none")
    return chosen


def _compared(terms: Terms) -> list[GateRecord]:
    """Return a word on the comparison itself, where there is something to say."""
    reason = terms.problem or terms.note
    passed = not terms.problem
    return [GateRecord(name="comparison", passed=passed, reason=reason)] if reason else []


def _ask(gate: Gate, terms: Terms) -> GateRecord:
    """Ask a gate; one that compares a metric refuses where nothing can be compared."""
    metric = getattr(gate, "metric", None)
    if terms.problem and metric is not None:
        mine = terms.challenger.get(metric)
        shown = "" if mine is None else f" {mine:.4f}"
        return GateRecord(
            name=gate.name, passed=False, reason=f"{metric}{shown} cannot be compared"
        )
    passed, reason = gate(challenger=terms.challenger, champion=terms.champion)
    return GateRecord(name=gate.name, passed=passed, reason=reason)


def _crown(registry: Registry, model: str, version: str, champion: str | None) -> None:
    """Move ``champion``; the old one is remembered first, so that a crash loses nothing."""
    if champion is not None and champion != version:
        registry.set_alias(model, PREVIOUS, champion)
    registry.set_alias(model, CHAMPION, version)
    if registry.alias(model, CHALLENGER) == version:
        registry.delete_alias(model, CHALLENGER)
