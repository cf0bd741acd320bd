"""Gates with settings of one's own, as ``--gate`` gives them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trainables.errors import ConfigError, did_you_mean
from trainables.methods.gates import Gate
from trainables.settings import parse_assignments


def choose_gates(texts: Iterable[str] = ()) -> list[Gate]:
    """Return every gate in the order of their names, with its default settings or those given.

    Args:
        texts: ``gate.setting=value``.

    Raises:
        ConfigError: There is no such gate or setting, or the value does not fit.

    Example:
        >>> gates = choose_gates(["few.allowed_regression=2"])
        >>> few = next(gate for gate in gates if gate.name == "few")
        >>> few.name, few.allowed_regression, changed_settings(few)
        ('few', 2.0, {'allowed_regression': 2.0})
    """
    given: dict[str, dict[str, Any]] = {name: {} for name in sorted(Gate.shelf)}
    for path, value in parse_assignments(texts, "--gate").items():
        name, dot, setting = path.partition(".")
        if name not in given:
            raise ConfigError(
                f"--gate: unknown gate '{name}'; allowed: {', '.join(given)}"
                f"{did_you_mean(name, given)}"
            )
        if not dot:
            raise ConfigError(
                "--gate is written gate.setting=value, e.g. few.allowed_regression=2; "
                f"received '{path}'"
            )
        given[name][setting] = value
    try:
        return [Gate.parse({name: settings}) for name, settings in given.items()]
    except ConfigError as error:
        raise ConfigError(f"--gate: {error}") from None


def changed_settings(gate: Gate) -> dict[str, Any]:
    """Return the settings of a gate that differ from its defaults."""
    return gate.model_dump(mode="json", exclude_defaults=True)
