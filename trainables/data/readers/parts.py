"""Names of the parts train, validation and test, as folders and tables have them."""

from __future__ import annotations

from collections.abc import Iterable

from trainables.data.faults import Fault, some
from trainables.errors import readable

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}
VALIDATION_JOINS = "own validation"  # kind of the line that it joins train, outside of service


def is_validation(name: str) -> bool:
    """Say whether a part of this name is the validation.

    Example:
        >>> is_validation("Valid"), is_validation("train")
        (True, False)
    """
    return PARTS.get(name.casefold()) == "val"


def is_test_of(
    owner: str, names: Iterable[str], parted: bool
) -> tuple[dict[str, bool | None], list[Fault]]:
    """Return for each name of a part whether it is the test, and faults.

    Validation joins train. Without a test nothing is it (``None``): it is split off.

    Args:
        owner: What has these parts, for messages.
        names: The names, in any letter case.
        parted: The owner has parts at all.
    """
    if not parted:
        return dict.fromkeys(names, None), []
    part_of = {name: PARTS.get(name.casefold(), "") for name in names}
    present = set(part_of.values())
    unknown = sorted(name for name, part in part_of.items() if not part)
    faults = [
        Fault(
            "parts",
            f"{owner} has the part '{readable(name)}'; allowed: train, val, test; rename it",
        )
        for name in unknown
    ]
    if present and "train" not in present and not unknown:
        held = some(sorted(present))
        faults.append(Fault("parts", f"{owner} has the part {held} and no train; add or rename it"))
    is_test = "test" in present
    if "val" in present:
        more = "" if is_test else "; if val is your test, rename it to test"
        text = f"{owner}: val joins train, from which validation is split off{more}"
        faults.append(Fault(VALIDATION_JOINS, text, fatal=False))
    return {name: part == "test" if is_test else None for name, part in part_of.items()}, faults
