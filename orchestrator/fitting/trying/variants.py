"""What a fit tries on the features of a frozen backbone: heads in closed form, their balance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product, zip_longest
from typing import Any

from trainables.methods.rebalancers import Rebalancer
from trainables.settings import canonical_json

Settings = Mapping[str, Any]

TAUS = (1.0, 0.5, 1.5, 0.25, 0.75, 1.25, 2.0)
BALANCES: tuple[Settings, ...] = (
    *({"balance": "logit_adjusted", "tau": tau} for tau in TAUS[:1]),
    {"balance": "inverse_frequency"},
    {"balance": "none"},
    *({"balance": "logit_adjusted", "tau": tau} for tau in TAUS[1:]),
    {"balance": "effective_number", "beta": 0.999},
    {"balance": "effective_number", "beta": 0.99},
)
WIDTHS = (0, 2000, 500)  # of random features, as in RanPAC; 0: the features themselves
CENTERED = ("centered_normalized_squared_l2", "centered_normalized_dot")
DISTANCES = ("cosine", "normalized_squared_l2", "squared_l2", "normalized_dot", "dot")
GRIDS: Mapping[str, tuple[Settings, ...]] = {
    "ridge": tuple({**balance, "width": width} for width, balance in product(WIDTHS, BALANCES)),
    "lda": tuple(
        {"prior": prior, "unbiased": unbiased}
        for unbiased, prior in product((True, False), (0.0, 0.5, 1.0, 0.25, 0.75))
    ),
    "ncm": (
        *({"distance": name, "scale": "fitted"} for name in DISTANCES),
        *({"distance": name} for name in CENTERED),
    ),
    "fecam": tuple({"power": power} for power in (1.0, 0.5, 0.75, 0.3)),
}
# an untuned ridge regression with logit adjustment: what anybody would take first
BASE: Mapping[str, Settings] = {"ridge": GRIDS["ridge"][0]}


def list_variants(most: int | None = None) -> list[Rebalancer]:
    """Return the base and the other variants, the families in turn.

    Args:
        most: Number of variants, at least 1; ``None`` for all.

    Example:
        >>> [method.name for method in list_variants(6)]
        ['ridge', 'lda', 'ncm', 'fecam', 'ridge', 'lda']
        >>> len(list_variants())
        54
    """
    rounds = zip_longest(*([(name, s) for s in grid] for name, grid in GRIDS.items()))
    found = [Rebalancer.parse({pair[0]: pair[1]}) for turn in rounds for pair in turn if pair]
    return found if most is None else found[:most]


def is_base(method: Rebalancer) -> bool:
    """Say whether a variant is the base.

    Example:
        >>> [is_base(method) for method in list_variants(2)]
        [True, False]
    """
    return canonical_json(method.dump()) == canonical_json(Rebalancer.parse(BASE).dump())


def in_words(method: Rebalancer) -> str:
    """Return a variant in a few words: its family, and how it balances classes.

    Example:
        >>> [in_words(method) for method in list_variants(4)]
        ['ridge, logit-adjusted', 'lda', 'ncm by cosine', 'fecam']
    """
    settings = method.model_dump(mode="json")
    name = method.name
    if "distance" in settings:
        name += f" by {str(settings['distance']).replace('_', ' ')}"
    if settings.get("prior"):
        name += f", prior {settings['prior']:g}"
    balance = str(settings.get("balance", "none")).replace("_", "-")
    if balance != "none":
        name += f", {balance}"
    if balance == "logit-adjusted" and settings["tau"] != 1:
        name += f" by {settings['tau']:g}"
    if balance == "effective-number":
        name += f" of {settings['beta']:g}"
    if not settings.get("unbiased", True):
        name += ", plain means"
    if settings.get("power", 1) != 1:
        name += f", power {settings['power']:g}"
    if settings.get("width"):
        name += f", {settings['width']} random features"
    return name


def families(variants: Sequence[Rebalancer]) -> list[str]:
    """Return the names of the families, in order of appearance."""
    return list(dict.fromkeys(method.name for method in variants))
