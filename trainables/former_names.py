"""Former names of settings, methods and metrics, accepted as input but never written or shown.

The former names of a setting are in its ``validation_alias``, those of a method in ``aliases`` of
its kind, those of a metric in `FORMER_METRICS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar

from pydantic import AliasChoices, BaseModel

V = TypeVar("V")

# patterns of whole names, which may be followed by an interval's end or a seed, e.g. <metric>/low
FORMER_METRICS = {
    r"evaluate/update/without": "evaluate/update/accuracy_before",
    r"evaluate/discover/num_clusters": "evaluate/discover/num_new_clusters",
    r"(evaluate/prior_shift/\w+)/known": r"\1/prior_given",
}
_PATTERNS = [(re.compile(rf"{old}(?=/|$)"), new) for old, new in FORMER_METRICS.items()]
_WORLD = "validation/"  # prefix of a finalist's metrics in the validation world


def former_keys(cls: type[BaseModel], name: str) -> tuple[str, ...]:
    """Return the former names of a field, oldest first.

    Example:
        >>> from pydantic import Field
        >>> class Tail(BaseModel):
        ...     rare: int = Field(default=20, validation_alias=AliasChoices("rare", "few", "tail"))
        >>> former_keys(Tail, "rare")
        ('few', 'tail')
    """
    alias = cls.model_fields[name].validation_alias
    names = alias.choices if isinstance(alias, AliasChoices) else []
    return tuple(str(former) for former in names if former != name)


def current_key(cls: type[BaseModel], key: str) -> str:
    """Return the name of the field that a key stands for; an unknown key stays unchanged."""
    if key in cls.model_fields:
        return key
    found = (name for name in cls.model_fields if key in former_keys(cls, name))
    return next(found, key)


@lru_cache(maxsize=4096)
def current_metric(name: str) -> str:
    """Return the current name of a metric.

    Example:
        >>> current_metric("validation/evaluate/update/without/low")
        'validation/evaluate/update/accuracy_before/low'
        >>> current_metric("evaluate/accuracy/few")
        'evaluate/accuracy/few'
    """
    world = _WORLD if name.startswith(_WORLD) else ""
    rest = name.removeprefix(world)
    for pattern, new in _PATTERNS:
        found = pattern.match(rest)
        if found:
            return f"{world}{found.expand(new)}{rest[found.end() :]}"
    return name


def current_metrics(metrics: Mapping[str, V]) -> dict[str, V]:
    """Return values by the current names of their metrics."""
    return {current_metric(name): value for name, value in metrics.items()}
