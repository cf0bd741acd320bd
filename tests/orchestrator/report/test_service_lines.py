"""What people read of the model that serves: false alarm by band, and whose threshold it is."""

from __future__ import annotations

from orchestrator.records import ServiceRecord, SweepRecord
from orchestrator.report.service_lines import is_rehearsal, service_lines
from trainables.functional.paired_rules import Rate

MANY = Rate("many", 0.04, 0.02, 0.0701, 300.0, 300)
MEDIUM = Rate("medium", 0.1, 0.05, 0.2, 50.0, 50)


def record(
    *alarms: Rate, world: str = "validation", uncalibrated: dict[str, list[str]] | None = None
) -> SweepRecord:
    service = ServiceRecord(
        trial_id="t", seed=3, classes=6, images=200, test_images=40, alarms=list(alarms),
        uncalibrated=uncalibrated or {}, folder="models/t", run="t",
    )  # fmt: skip
    return SweepRecord(
        name="s", space="full", started="", experiment={"data": {"world": world}}, objectives=[],
        environment={}, service=service,
    )  # fmt: skip


def test_bands_have_intervals_and_those_without_calibration_images_are_named() -> None:
    silent = {"medium": ["elk"], "few": ["fox", "gnu"]}
    whole = record(MANY, MEDIUM, uncalibrated=silent)
    assert service_lines(whole)[1:] == [
        "  test images of known classes called unknown: many 4.0 % [2.0, 7.0] of 300, medium "
        "10.0 % [5.0, 20.0] of 50",
        "  medium: threshold set without images of these classes: elk; more of their images may be "
        "called unknown",
        "  few: threshold set without images of these classes: fox, gnu; more of their images may "
        "be called unknown",
    ]
    assert SweepRecord.model_validate_json(whole.model_dump_json()) == whole
    assert len(service_lines(record(uncalibrated=silent))) == 3  # no test image: no figure
    assert len(service_lines(record(MANY))) == 2


def test_a_sweep_in_world_service_has_no_rehearsal() -> None:
    assert is_rehearsal(record())
    assert not is_rehearsal(record(world="service"))
    assert not is_rehearsal(record().model_copy(update={"service": None}))
