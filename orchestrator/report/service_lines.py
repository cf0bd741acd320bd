"""What people read of the model that answers after a sweep on one's own images."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.records import SweepRecord


def is_rehearsal(record: SweepRecord) -> bool:
    """Say whether the finalists rehearsed for another model, which knows every class."""
    world = record.experiment.get("data", {}).get("world")
    return record.service is not None and world != "service"


def service_lines(record: SweepRecord) -> list[str]:
    """Return what people read of a service run, a line each; empty without one."""
    service = record.service
    if service is None:
        return []
    title = record.titles.get(service.trial_id, service.trial_id)
    lines = [
        f"service: {title} once more, with all {service.classes} classes known and "
        f"{service.images} training images, seed {service.seed}; this is the model that answers"
    ]
    lines += [f"  {note}" for note in service.notes]
    own = _shown(service.metrics, "test/", ("accuracy/balanced", "accuracy", "novelty/false_alarm"))
    if own:
        lines.append(f"  its own answers to {service.test_images} test images: {own}")
    told = _shown(service.metrics, "out_of_fold/", ("accuracy/balanced", "novelty/false_alarm"))
    if told:
        lines.append(f"  out of fold, on its training images: {told}")
    new = _shown(service.metrics, "rehearsal/", ("novelty/auroc",))
    if new:
        lines.append(f"  new classes, from the rehearsal of {title} (some played new): {new}")
    return lines


def _shown(metrics: Mapping[str, float], origin: str, names: tuple[str, ...]) -> str:
    found = {name: metrics[f"{origin}{name}"] for name in names if f"{origin}{name}" in metrics}
    return "  ".join(f"{name} {value:.4f}" for name, value in found.items())
