"""Gate on oracle labels and leaked pretraining."""

from __future__ import annotations

from collections.abc import Mapping

from trainables.methods.gates import Gate

FLAGS = {
    "oracle": "the run is an upper bound that used labels unavailable in a deployment",
    "leaked_pretraining": "the trunk was pretrained with labels of held-out images or classes",
}
UNKNOWN = "unknown_pretraining"


class Provenance(Gate):
    """Gate that refuses a challenger with oracle labels or leaked pretraining.

    The challenger is refused if ``oracle`` or ``leaked_pretraining`` (also as ``evaluate/...``) is
    above 0 or NaN. If ``unknown_pretraining`` is, the reason says that the trunk may know the new
    classes.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason). The champion is ignored.

    Source:
        None: a rule of this project.

    Example:
        >>> Provenance()(challenger={"evaluate/oracle": 1.0}, champion=None)
        (False, 'the run is an upper bound that used labels unavailable in a deployment')
        >>> Provenance()(challenger={"evaluate/oracle": 0.0}, champion=None)[0]
        True
    """

    def __call__(
        self, *, challenger: Mapping[str, float], champion: Mapping[str, float] | None
    ) -> tuple[bool, str]:
        reasons = [
            reason
            for flag, reason in FLAGS.items()
            # not "> 0", because NaN must refuse too
            if not all(challenger.get(name, 0.0) <= 0 for name in (flag, f"evaluate/{flag}"))
        ]
        if reasons:
            return False, "; ".join(reasons)
        if challenger.get(f"evaluate/{UNKNOWN}", challenger.get(UNKNOWN, 0.0)) == 0:
            return True, "no oracle labels and no leaked pretraining"
        return True, (
            "no oracle labels; what the trunk was pretrained on is not known, so it may know the "
            "new classes"
        )
