"""Names of the metrics that a search can have as objectives; an unknown one is refused early.

A recipe's metrics come from the stage ``evaluate`` minutes after a sweep was started; a misspelled
objective shall not take so long. A test compares the names with what the stage gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from orchestrator.records import Objective
from trainables.errors import ConfigError, did_you_mean

_BANDS = ("", "/many", "/medium", "/few")
NAMES = tuple(
    f"evaluate/{name}"
    for name in (
        "accuracy", "accuracy/balanced", "accuracy/many", "accuracy/medium", "accuracy/few",
        *(f"calibration/{name}" for name in ("brier", "classwise_ece", "ece", "mce", "nll")),
        *(f"clustering/{name}" for name in (
            "accuracy", "accuracy_balanced", "accuracy_known", "accuracy_novel", "ari", "nmi",
        )),
        *(f"cost/{stage}_{what}" for stage in ("classify", "rebalance")
          for what in ("samples", "steps")),
        "cost/parameters", "cost/experts_used",
        *(f"{model}/{name}" for model in ("first", "updated") for name in (
            *(f"accuracy{part}" for part in ("", "/balanced", "/many", "/medium", "/few")),
            "accuracy/new", "accuracy/open", "calibration/ece", "forgetting",
            "novelty/auroc", "novelty/false_alarm", "novelty/recall", "accuracy/expected",
            "novelty/false_alarm/many", "novelty/false_alarm/medium", "novelty/false_alarm/few",
        )),
        *(f"discover/{name}" for name in (
            "ari", "clustering_accuracy", "kept", "nmi", "num_labelled",
            "num_new_clusters", "unrelated_kept",
        )),
        *(f"features/{name}" for name in (
            "alignment", "intra_inter", "knn_accuracy", "silhouette", "uniformity",
        )),
        *(f"novelty/auroc{band}" for band in _BANDS),
        *(f"novelty/{name}" for name in (
            "aupr_known", "aupr_unknown", "f1", "fpr_known@95tpr_unknown",
            "fpr_unknown@95tpr_known", "oscr", "precision", "recall",
        )),
        *(f"pool/{name}" for name in ("precision", "recall", "size", "unrelated")),
        "prior_shift/strength",
        *(f"update/{name}" for name in (
            "accuracy", "accuracy/known", "accuracy/novel", "accuracy_before", "forgetting",
        )),
    )
) + tuple(
    f"out_of_fold/{name}"
    for name in (
        "accuracy", "accuracy/balanced", "accuracy/many", "accuracy/medium", "accuracy/few",
        "accuracy/expected", "calibration/ece",
        *(f"novelty/false_alarm{band}" for band in _BANDS),
    )
)  # fmt: skip
OF_NEW_CLASSES = re.compile(
    r"evaluate/(novelty/(?!f1$|precision$).*|(first|updated)/novelty/(auroc|recall))"
)
PATTERN = re.compile(
    r"evaluate/(prior_shift/(forward|backward)_\d+(/prior_given)?"
    r"|cost/experts_used/\w+|discover/\w+)"
)


def check_objectives(
    objectives: Iterable[Objective], *, closed: bool = False, service: bool | None = None
) -> None:
    """Refuse an objective that no recipe measures.

    Args:
        objectives: The objectives.
        closed: The data have no new classes, so nothing tells whether they would be noticed.
        service: The world is `service`, where ``evaluate/...`` is of the test part, by which
            nothing is chosen; ``None``: not known yet.

    Raises:
        ConfigError: The metric does not exist; the message names the nearest one. Or it is of new
            classes, and there are none.

    Example:
        >>> check_objectives([Objective(metric="evaluate/accuracy/balanced", mode="max")])
    """
    for objective in objectives:
        name = objective.metric
        if name not in NAMES and not PATTERN.fullmatch(name):
            raise ConfigError(
                f"--objective: no metric is called '{name}'; metrics are called like "
                f"evaluate/accuracy/balanced{did_you_mean(name, NAMES)}"
            )
        own = name.startswith("out_of_fold/")
        if service and not own and not name.startswith("evaluate/cost/"):
            raise ConfigError(
                f"--objective: '{name}' is of the test part in world service, by which nothing is "
                "chosen; give --objective out_of_fold/accuracy/balanced:max"
            )
        if own and service is False:
            raise ConfigError(
                f"--objective: '{name}' is measured in world service alone; set "
                "data.world=service, or give --objective evaluate/accuracy/balanced:max"
            )
        if closed and OF_NEW_CLASSES.fullmatch(name):
            raise ConfigError(
                f"--objective: '{name}' is measured on new classes, and data.novel_classes is 0; "
                "give --objective evaluate/accuracy/balanced:max, or set data.novel_classes"
            )
