from __future__ import annotations

from collections.abc import Mapping

from trainables.methods.gates import Gate

FLAGS = {
    "oracle": "it is an upper bound that read labels a deployment cannot know",
    "leaked_pretraining": "its trunk may have been pretrained on the new classes",
}


class Provenance(Gate):
    """Refuses a challenger whose numbers come from knowledge that a deployment does not have.

    Refuses when ``oracle`` or ``leaked_pretraining`` (also as ``evaluate/...``) is above 0 or NaN.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason). The champion is not read.

    Source:
        None: a rule of this project.

    Example:
        >>> Provenance()(challenger={"evaluate/oracle": 1.0}, champion=None)
        (False, 'it is an upper bound that read labels a deployment cannot know')
        >>> Provenance()(challenger={"evaluate/oracle": 0.0}, champion=None)[0]
        True
    """

    def __call__(
        self, *, challenger: Mapping[str, float], champion: Mapping[str, float] | None
    ) -> tuple[bool, str]:
        reasons = [
            reason
            for flag, reason in FLAGS.items()
            # not "> 0": NaN must refuse too
            if not all(challenger.get(name, 0.0) <= 0 for name in (flag, f"evaluate/{flag}"))
        ]
        return not reasons, "; ".join(reasons) or "no label or weight from beyond the deployment"
