"""What ``--sampler`` can name, and which parameters of a space a sampler draws."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

from trainables.errors import ConfigError, did_you_mean

NAMES = ("tpe", "random", "gp", "cmaes", "nsga2", "qmc")
HUB = "optunahub"
OPTIONAL = ("cmaes", HUB)  # packages, and extras of this project, of the same name
DRAW_ALL = ("tpe", "random")  # conditional parameters too
POPULATION = 50  # of NSGA-II in Optuna


class SamplerPlan(NamedTuple):
    """A sampler, and which parameters it leaves to TPE.

    Attributes:
        name: As `check_name` accepts it.
        own: Parameters that the sampler draws; ``None``: all.
        left: Parameters that TPE draws in its place.
    """

    name: str = "tpe"
    own: frozenset[str] | None = None
    left: tuple[str, ...] = ()

    def notes(self, num_trials: int) -> list[str]:
        """Say in whole lines what a user might not expect of the sampler.

        Example:
            >>> plan = SamplerPlan("gp", frozenset({"lr"}), ("loss.ldam.scale", "loss.ldam.form"))
            >>> plan.notes(24)  # doctest: +NORMALIZE_WHITESPACE
            ['sampler gp draws 1 of 3 parameters: lr; tpe draws the others, which not every recipe
             has or which it cannot draw: loss.ldam.{scale, form}']
            >>> SamplerPlan("tpe").notes(24)
            []
        """
        found = []
        if self.own is not None:
            found.append(
                f"sampler {self.name} draws {len(self.own)} of {len(self.own) + len(self.left)} "
                f"parameters: {_grouped(sorted(self.own))}"
            )
            if self.left:
                found[0] += (
                    "; tpe draws the others, which not every recipe has or which it cannot draw: "
                    f"{_grouped(self.left)}"
                )
        if self.name == "nsga2" and num_trials <= POPULATION:
            found.append(
                f"sampler nsga2 draws its first {POPULATION} trials, a generation, at random: give "
                "more --trials"
            )
        return found


def check_name(name: str) -> None:
    """Refuse a sampler that cannot be had; nothing heavy is imported for it.

    Args:
        name: One of `NAMES`, ``package.module:Class``, or ``optunahub:PACKAGE:Class``.

    Raises:
        ConfigError: No sampler has that name, or a package is missing.

    Example:
        >>> check_name("gpp")
        Traceback (most recent call last):
        ...
        trainables.errors.ConfigError: unknown sampler 'gpp'; allowed: tpe, random, gp, cmaes, \
nsga2, qmc, package.module:Class, optunahub:PACKAGE:Class; did you mean 'gp'?
    """
    kind, *parts = name.split(":")
    if not parts and name not in NAMES:
        raise ConfigError(
            f"unknown sampler '{name}'; allowed: {', '.join(NAMES)}, package.module:Class, "
            f"{HUB}:PACKAGE:Class{did_you_mean(name, NAMES)}"
        )
    if parts and (len(parts) != 1 + (kind == HUB) or not all((kind, *parts))):
        raise ConfigError(
            f"--sampler is written package.module:Class or {HUB}:PACKAGE:Class; received '{name}'"
        )
    if kind in OPTIONAL and find_spec(kind) is None:
        raise ConfigError(
            f"the sampler '{name}' needs the package {kind}, which is not installed: "
            f"pip install {kind} (the extra '{kind}' of this project)"
        )


def _grouped(names: Sequence[str]) -> str:
    """Return dotted names as text, those that differ in their last part together."""
    owners: dict[str, list[str]] = {}
    for name in names:
        owner, _, last = name.rpartition(".")
        owners.setdefault(owner, []).append(last)
    texts = []
    for owner, parts in owners.items():
        last = parts[0] if len(parts) == 1 else f"{{{', '.join(parts)}}}"
        texts.append(f"{owner}.{last}" if owner else ", ".join(parts))
    return ", ".join(texts)
