"""Strict settings: base class, one-line errors, dotted paths, canonical digest."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from trainables.errors import ConfigError, did_you_mean, explain, unknown_key
from trainables.methods.method import Method


class Settings(BaseModel):
    """A frozen, strict group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)

    def digest(self) -> str:
        """Return a SHA-256 (hex) of the canonical JSON form: equal settings, equal digest."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json")).encode()).hexdigest()


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces, for hashing.

    Example:
        >>> canonical_json({"b": 1, "a": [2.0]})
        '{"a":[2.0],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


class _Loader(yaml.SafeLoader):
    """YAML with ``1e-4`` read as a number (YAML 1.1 reads it as text)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str, origin: str) -> Any:
    """Parse YAML text.

    Raises:
        ConfigError: The text is not YAML; the message has the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping from a file.

    Raises:
        ConfigError: The file is missing or is not a mapping.
    """
    if not path.is_file():
        near = sorted(p.stem for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = did_you_mean(path.stem, near)
        raise ConfigError(f"experiment file not found: {path}{hint}")
    tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold settings by name; received {type(tree).__name__}")
    return tree


T = TypeVar("T", bound=Settings)


def build(cls: type[T], tree: Mapping[str, Any]) -> T:
    """Validate a tree of plain values into settings.

    Raises:
        ConfigError: One line for the first thing that is wrong.
    """
    try:
        return cls.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        raise ConfigError(explain(cls, error.errors()[0], "")) from None


def flatten(settings: Settings) -> dict[str, str | int | float | bool | None]:
    """Return settings as dotted names: ``classify.loss: ldam, classify.loss.ldam.scale: 30.0``.

    The names are the MLflow and Optuna parameter names, and `assign` reads them back.
    """
    flat: dict[str, str | int | float | bool | None] = {}
    _flatten(settings, "", flat)
    return flat


def _flatten(settings: BaseModel, prefix: str, flat: dict[str, Any]) -> None:
    for name in type(settings).model_fields:
        value, path = getattr(settings, name), f"{prefix}{name}"
        if isinstance(value, Method):
            flat[path] = value.name
            _flatten(value, f"{path}.{value.name}.", flat)
        elif isinstance(value, Settings):
            _flatten(value, f"{path}.", flat)
        elif isinstance(value, tuple | list):
            parts = (v.model_dump(mode="json") if isinstance(v, Settings) else v for v in value)
            flat[path] = canonical_json(list(parts))
        else:
            flat[path] = value


def assign(settings: T, changes: Mapping[str, Any]) -> T:
    """Return settings with dotted paths replaced, validated again.

    Args:
        settings: What to start from.
        changes: Path to value, in order. A path may name a method (``classify.loss: ldam``), a
            field of the method chosen so far (``classify.loss.scale: 20``) or of a method that is
            chosen by naming it (``classify.loss.ldam.scale: 20``).

    Raises:
        ConfigError: A path does not exist or a value does not fit.
    """
    tree = settings.model_dump(mode="json")
    for path, value in changes.items():
        _assign(type(settings), tree, path, copy.deepcopy(value))  # later paths may reach into it
    return build(type(settings), tree)


def parse_assignments(texts: Iterable[str]) -> dict[str, Any]:
    """Parse ``path=value`` texts; values are YAML, lists allowed.

    Raises:
        ConfigError: A text has no ``=``.

    Example:
        >>> parse_assignments(["classify.training.lr=1e-2", "data.source=digits"])
        {'classify.training.lr': 0.01, 'data.source': 'digits'}
    """
    changes: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set is written path=value, e.g. seed=1; received '{text}'")
        changes[path.strip()] = parse_yaml(value, f"--set {path}")
    return changes


def _assign(cls: type[BaseModel], tree: dict[str, Any], path: str, value: object) -> None:
    """Set one dotted path in a tree of plain values, guided by the schema."""
    parts = path.split(".")
    for position, part in enumerate(parts):
        owner = ".".join(parts[:position]) or "experiment"
        if part not in cls.model_fields:
            raise ConfigError(unknown_key(owner, part, cls.model_fields))
        annotation = cls.model_fields[part].annotation
        if position == len(parts) - 1:
            listed = isinstance(value, str) and get_origin(annotation) in (tuple, list)
            tree[part] = json.loads(str(value)) if listed else value  # the form `flatten` gives
            return
        if isinstance(annotation, type) and issubclass(annotation, Method):
            _assign_method(annotation, tree, parts, position, value)
            return
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            raise ConfigError(f"{owner}.{part}: has no settings below it; received '{path}'")
        cls, tree = annotation, tree[part]


def _assign_method(
    kind: type[Method], tree: dict[str, Any], parts: list[str], position: int, value: object
) -> None:
    """Set a field of the chosen method, or choose a method by naming it in the path."""
    field, rest = parts[position], parts[position + 1 :]
    path = ".".join(parts[: position + 1])
    chosen = tree[field]
    name, settings = (chosen, {}) if isinstance(chosen, str) else next(iter(chosen.items()))
    if rest[0] in kind.shelf and (len(rest) > 1 or rest[0] != name):
        if rest[0] != name:
            name, settings = rest[0], {}
        rest = rest[1:]
    known = kind.lookup(str(name)).model_fields
    if not rest or rest[0] not in known:
        raise ConfigError(unknown_key(f"{path} ({name})", ".".join(rest), known))
    filled = {**kind.parse({name: settings or {}}).dump()[str(name)]}
    nested = known[rest[0]].annotation
    if len(rest) == 1:
        filled[rest[0]] = value
    elif isinstance(nested, type) and issubclass(nested, Method):
        _assign_method(nested, filled, rest, 0, value)
    else:
        received = ".".join(parts)
        raise ConfigError(f"{path}.{rest[0]}: has no settings below it; received '{received}'")
    tree[field] = {name: filled}


def dump_yaml(settings: Settings) -> str:
    """Return settings as YAML text that `read_yaml` and `build` read back to an equal object."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
