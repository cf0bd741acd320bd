"""What people read of the model that answers after a sweep on one's own images."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.records import ServiceRecord, SweepRecord
from trainables.data.faults import some


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
    lines += _alarm_lines(service)
    told = _shown(service.metrics, "out_of_fold/", ("accuracy/balanced", "novelty/false_alarm"))
    if told:
        lines.append(f"  out of fold, on its training images: {told}")
    new = _shown(service.metrics, "rehearsal/", ("novelty/auroc",))
    if new:
        lines.append(f"  new classes, from the rehearsal of {title} (some played new): {new}")
    return lines


def _alarm_lines(service: ServiceRecord) -> list[str]:
    """Return the false alarm of the bands, and whose threshold no image of their own set."""
    told = [
        f"{rate.band} {100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}] "
        f"of {rate.number}"
        for rate in service.alarms
    ]
    lines = [f"  test images of known classes called unknown: {', '.join(told)}"] if told else []
    return lines + [
        f"  {band}: threshold set without images of these classes: {some(names)}; more of their "
        "images may be called unknown"
        for band, names in service.uncalibrated.items()
    ]


def _shown(metrics: Mapping[str, float], origin: str, names: tuple[str, ...]) -> str:
    found = {name: metrics[f"{origin}{name}"] for name in names if f"{origin}{name}" in metrics}
    return "  ".join(f"{name} {value:.4f}" for name, value in found.items())
