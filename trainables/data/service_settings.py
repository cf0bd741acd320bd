"""Settings of world `service`: what they are unless a recipe sets them, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

SERVICE = "service"
# Every class is known and every training image trains; nothing plays new, and there is no stream.
SERVICE_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "novel_classes": 0,
        "validation_novel_classes": 0,
        "validation_per_class": 0,
        "profile": {"natural": {"keep": 1.0}},
        "stream": {"known": 0, "novel": 0, "unrelated": 0},
    }
)
SERVICE_THRESHOLD = "false_alarm"
# what a recipe of another world changes to be one of this
SERVICE_CHANGES: Mapping[str, Any] = MappingProxyType(
    {
        "data.world": SERVICE,
        **{f"data.{name}": value for name, value in SERVICE_DEFAULTS.items()},
        **dict.fromkeys(("data.phases", "data.phase"), 1),
        "data.max_per_class": None,
        "data.unlabelled.ratio": 0.0,
        "score.threshold": SERVICE_THRESHOLD,
    }
)


def refused_in_service(data: Any) -> str:
    """Return in one line which setting of `Data` has no meaning in world `service`, or nothing.

    Example:
        >>> from trainables.data.data_settings import Data
        >>> refused_in_service(Data(world="service"))
        ''
        >>> refused_in_service(Data.model_construct(**{**dict(Data(world="service")), "phases": 2}))
        'data.phases: must be 1 in world service, where no class is new; received 2'
    """
    keep = getattr(data.profile, "keep", None)
    rules = (
        ("novel_classes", data.num_novel == 0, "0", "where every class is known"),
        ("phases", data.phases == 1, "1", "where no class is new"),
        ("profile", keep == 1, "{natural: {keep: 1.0}}", "where every image trains"),
        ("max_per_class", data.max_per_class is None, "null", "where every image trains"),
        ("unlabelled.ratio", data.unlabelled.ratio == 0, "0", "where every image has its label"),
        ("stream.known", data.stream.known == 0, "0", "where every image trains"),
        ("stream.novel", data.stream.novel == 0, "0", "where no class is new"),
        ("stream.unrelated", data.stream.unrelated == 0, "0", "which has no stream"),
    )
    for name, holds, allowed, why in rules:
        if not holds:
            received: Any = data
            for part in name.split("."):
                received = getattr(received, part)
            shown = received.dump() if hasattr(received, "dump") else received
            return f"data.{name}: must be {allowed} in world service, {why}; received {shown}"
    return ""
