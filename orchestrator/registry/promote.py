"""Promotion: gates decide which version gets the alias champion, challenger or previous."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records import GateRecord, PromotionRecord
from orchestrator.registry.comparison import LATENCY, Asked
from orchestrator.registry.floors import keep_best
from orchestrator.registry.gate_settings import changed_settings, choose_gates
from orchestrator.registry.judged_versions import judge_version
from orchestrator.registry.packaging import is_model
from orchestrator.registry.verdicts import summary
from trainables.errors import ConfigError
from trainables.inference.card import read_card
from trainables.methods.gates import Gate
from trainables.methods.gates.provenance import Provenance
from trainables.settings import canonical_json

if TYPE_CHECKING:
    from orchestrator.registry.versions import Registry
    from trainables.data.data_settings import Data

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"

VERDICT_TAG, LATENCY_TAG = "orchestrator.verdict", "orchestrator.latency_ms"
GATES_TAG = "orchestrator.gates"  # settings of gates that differ from the defaults, as JSON
ORIGIN_TAG, SWEEP_TAG = "orchestrator.pretrained_on", "orchestrator.sweep"
MET_TAG, MOST_TEXT = "orchestrator.met_classes", 4000  # MLflow cuts longer tags

DISQUALIFIERS = {
    "oracle": "an upper bound that used labels which are unknown in deployment",
    "leaked_pretraining": "the backbone was pretrained with labels of held-out images or classes",
}

HEADLINE = {
    "accuracy": "test/accuracy/balanced",
    "few": "test/accuracy/few",
    "new classes": "test/accuracy/new",
    "right answers": "test/accuracy/open",
    "novelty": "test/novelty/auroc",
}


def promote(
    metrics: Mapping[str, float],
    *,
    registry: Registry,
    model: str,
    folder: Path,
    run_id: str,
    tags: Mapping[str, str] | None = None,
    description: str = "",
    gates: Sequence[Gate] | None = None,
    data: Data | None = None,
) -> PromotionRecord:
    """Register a challenger, compare it with the champion by the gates, and move the aliases.

    When all gates pass, ``champion`` points to the new version and ``previous`` to the old one.
    Otherwise the new version only gets the alias ``challenger``.

    Args:
        metrics: The challenger's test metrics. A run that is marked as an upper bound, or as
            pretrained with labels of held-out images, is not registered (see `disqualifications`).
        registry: Registry of versions and aliases.
        model: Name of the registered model.
        folder: The exported model.
        run_id: MLflow run to which the version belongs.
        tags: Tags of the version.
        description: Text of the version in Markdown.
        gates: Gates that must all pass; default: all gates with their default settings.
        data: Data settings of the challenger, whose paths are those of this machine.

    Raises:
        ValueError: ``gates`` is empty.
    """
    disqualified = disqualifications(metrics)
    if disqualified:
        return PromotionRecord(model=model, version=None, promoted=False, gates=disqualified)
    chosen = _at_least_one(gates)
    origin = _origin_tags(folder) if is_model(folder) else {}
    version = registry.register(
        model, folder, run_id, dict(metrics), {**(tags or {}), **origin}, description
    )
    return decide(version, metrics, registry=registry, model=model, gates=chosen, data=data)


def _origin_tags(folder: Path) -> dict[str, str]:
    """Return tags on what a model's trunk was trained on before."""
    card = read_card(folder)
    met = ", ".join(card.met_classes)[:MOST_TEXT]
    return {ORIGIN_TAG: card.pretrained_on, **({MET_TAG: met} if met else {})}


def judge_again(
    version: str,
    *,
    registry: Registry,
    model: str,
    gates: Sequence[Gate] | None = None,
    force: bool = False,
    data: Data | None = None,
) -> PromotionRecord:
    """Apply the gates to a version that is registered already.

    Args:
        version: Number of the version.
        registry: Registry of versions and aliases.
        model: Name of the registered model.
        gates: Gates that must all pass; default: all gates with their default settings.
        force: Make the version champion even if gates refuse it or cannot compare it; the decisions
            are recorded. Upper bounds and leaked pretraining are refused with ``force`` too.
        data: Data settings of the version, whose paths are those of this machine.

    Raises:
        ConfigError: The version does not exist, or is the champion.
    """
    known = registry.versions(model)
    if version not in known:
        raise ConfigError(
            f"model '{model}' has no version {version}; its versions: {', '.join(known) or 'none'}"
        )
    if registry.alias(model, CHAMPION) == version:
        raise ConfigError(f"version {version} of '{model}' is the champion already")
    metrics = registry.metrics(model, version)
    chosen = _at_least_one(gates)
    return decide(
        version, metrics, registry=registry, model=model, gates=chosen, force=force, data=data
    )


def decide(
    version: str,
    metrics: Mapping[str, float],
    *,
    registry: Registry,
    model: str,
    gates: Sequence[Gate],
    force: bool = False,
    data: Data | None = None,
) -> PromotionRecord:
    """Ask every gate (see `judge_version`) and move the aliases.

    A gate that cannot tell, or that had nothing to compare, does not stand in the way; it is said.
    """
    disqualified = disqualifications(metrics)
    if disqualified:
        return PromotionRecord(model=model, version=version, promoted=False, gates=disqualified)
    champion = standing_champion(registry, model, version)
    judged = judge_version(Asked(registry, model, version, champion, metrics, gates, data))
    decisions, comparison = judged.decisions, judged.comparison
    refusing = [decision.name for decision in decisions if not decision.passed]
    promoted = not refusing or (force and Provenance.name not in refusing)
    record = PromotionRecord(
        model=model,
        version=version,
        promoted=promoted,
        gates=decisions,
        champion=None if promoted else registry.alias(model, CHAMPION),
    )
    verdict = f"refused by {', '.join(refusing)}" if refusing else summary(record)
    tags = {VERDICT_TAG: f"{verdict}; forced" if refusing and promoted else verdict}
    changed = {gate.name: changed_settings(gate) for gate in gates}
    tags[GATES_TAG] = canonical_json({name: given for name, given in changed.items() if given})
    if LATENCY in comparison.challenger:
        tags[LATENCY_TAG] = f"{comparison.challenger[LATENCY]:.4f}"
    registry.set_version_tags(model, version, tags)
    if promoted:
        keep_best(
            registry,
            model,
            version,
            champion=champion,
            comparison=comparison,
            floors=judged.floors,
            gates=gates,
            refusing=refusing,
            unshared=judged.unshared,
        )
        _set_champion(registry, model, version, champion)
    else:
        registry.set_alias(model, CHALLENGER, version)
    return record


def standing_champion(registry: Registry, model: str, version: str) -> str | None:
    """Return the version that a version is compared with; ``None`` if it is the first.

    A version that is champion already was decided by a run that ended before it kept the decision;
    it is compared with the champion before it again.
    """
    champion = registry.alias(model, CHAMPION)
    return registry.alias(model, PREVIOUS) if champion == version else champion


def rollback(registry: Registry, model: str) -> str:
    """Make the previous champion the champion again and return its version.

    The aliases ``champion`` and ``previous`` are swapped, so a second call undoes the first.

    Raises:
        ConfigError: The model has no previous champion.
    """
    previous = registry.alias(model, PREVIOUS)
    if previous is None:
        raise ConfigError(f"model '{model}' has no previous champion")
    _set_champion(registry, model, previous, registry.alias(model, CHAMPION))
    return previous


def list_versions(registry: Registry, model: str) -> list[tuple[str, str, str]]:
    """Return (version, aliases, headline metrics) of a model's versions, newest first.

    Raises:
        ConfigError: The model does not exist.
    """
    versions = registry.versions(model)
    if not versions:
        raise ConfigError(f"there is no registered model '{model}'; `sweep` registers one")
    names = registry.aliases(model)
    rows = []
    for version in reversed(versions):
        aliases = sorted(alias for alias, held in names.items() if held == version)
        rows.append((version, ", ".join(aliases), _headline(registry, model, version)))
    return rows


def _headline(registry: Registry, model: str, version: str) -> str:
    """Return the headline metrics of a version as text, or that they are damaged."""
    try:
        metrics = registry.metrics(model, version)
    except ConfigError as error:
        return str(error)
    shown = [f"{name} {metrics[key]:.3f}" for name, key in HEADLINE.items() if key in metrics]
    return ", ".join(shown)


def disqualifications(metrics: Mapping[str, float]) -> list[GateRecord]:
    """Return the reasons that exclude a run from promotion; the list is empty without any.

    Example:
        >>> [decision.name for decision in disqualifications({"evaluate/oracle": 1.0})]
        ['oracle']
    """
    return [
        GateRecord(name=name, passed=False, reason=reason)
        for name, reason in DISQUALIFIERS.items()
        if metrics.get(f"evaluate/{name}", 0.0) > 0
    ]


def _at_least_one(gates: Sequence[Gate] | None) -> Sequence[Gate]:
    """Return the gates to apply and refuse an empty list, which would promote every version."""
    chosen = choose_gates() if gates is None else gates
    if not chosen:
        raise ValueError("promotion needs at least one gate; received none")
    return chosen


def _set_champion(registry: Registry, model: str, version: str, champion: str | None) -> None:
    """Move the alias ``champion``, after saving the old champion under ``previous``."""
    if champion is not None and champion != version:
        registry.set_alias(model, PREVIOUS, champion)
    registry.set_alias(model, CHAMPION, version)
    if registry.alias(model, CHALLENGER) == version:
        registry.delete_alias(model, CHALLENGER)
