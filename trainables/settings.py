"""Strict settings: base class, one-line errors, dotted paths, canonical digest."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_jsonable_python

from trainables.errors import ConfigError, did_you_mean, explain, short, unknown_key
from trainables.former_names import current_key, former_keys
from trainables.methods.method import Method
from trainables.text.yaml_text import format_yaml, parse_yaml


class Settings(BaseModel):
    """A frozen, strict group of settings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False
    )

    def digest(self) -> str:
        """Return a SHA-256 (hex) of the canonical JSON form: equal settings, equal digest.

        The form has the first name of each setting and method, so that renaming one changes no
        digest: studies and tables from before know their recipes.
        """
        return hashlib.sha256(canonical_json(_in_first_names(self)).encode()).hexdigest()


def _in_first_names(settings: BaseModel) -> dict[str, Any]:
    """Return settings as plain values under the names that settings and methods had at first."""
    plain: dict[str, Any] = settings.model_dump(mode="json")
    for name in [*plain]:
        value = getattr(settings, name)
        if isinstance(value, Method):
            plain[name] = {value.first_name(): _in_first_names(value)}
        elif isinstance(value, BaseModel):
            plain[name] = _in_first_names(value)
        elif isinstance(value, tuple):
            parts = zip(value, plain[name], strict=True)
            plain[name] = [_part_in_first_names(v, p) for v, p in parts]
        first = next(iter(former_keys(type(settings), name)), name)
        plain[first] = plain.pop(name)
    return plain


def _part_in_first_names(value: object, plain: object) -> object:
    """Return an entry of a list under first names, given its plain value."""
    if isinstance(value, Method):
        return {value.first_name(): _in_first_names(value)}
    return _in_first_names(value) if isinstance(value, BaseModel) else plain


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces, for hashing.

    Example:
        >>> canonical_json({"b": 1, "a": [2.0]})
        '{"a":[2.0],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping from a file.

    Raises:
        ConfigError: The file is missing, cannot be read, or is not a mapping.
    """
    try:
        if not path.is_file():
            near = [p.stem for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
            hint = did_you_mean(path.stem, sorted(near))
            raise ConfigError(f"experiment file not found: {path}{hint}")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: byte {error.start}: {error.reason}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    tree = parse_yaml(text, str(path))
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
        text = json.dumps(tree)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"settings must be plain values as in YAML: {error}") from None
    try:
        return cls.model_validate_json(text)
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
            flat[path] = canonical_json([_plain(part) for part in value])
        else:
            flat[path] = value


def _plain(part: object) -> object:
    """Return an entry of a list as a plain value."""
    if isinstance(part, Method):
        return part.dump()
    return part.model_dump(mode="json") if isinstance(part, Settings) else part


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


def parse_assignments(texts: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """Parse ``path=value`` texts; values are YAML, lists allowed.

    Args:
        texts: The texts.
        option: Option that they belong to, for messages.

    Raises:
        ConfigError: A text has no ``=``, or its value is not YAML.

    Example:
        >>> parse_assignments(["classify.training.lr=1e-2", "data.source=digits"])
        {'classify.training.lr': 0.01, 'data.source': 'digits'}
    """
    changes: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"{option} is written path=value, e.g. seed=1; received '{text}'")
        changes[path.strip()] = parse_yaml(value, f"{option} {path}")
    return changes


def _assign(cls: type[BaseModel], tree: dict[str, Any], path: str, value: object) -> None:
    """Set one dotted path in a tree of plain values, guided by the schema."""
    parts = path.split(".")
    for position, received in enumerate(parts):
        owner = ".".join(parts[:position]) or "experiment"
        part = parts[position] = current_key(cls, received)
        if part not in cls.model_fields:
            raise ConfigError(unknown_key(owner, part, cls.model_fields))
        for former in former_keys(cls, part):
            if former in tree:  # from a mapping that was assigned as a whole
                tree[part] = tree.pop(former)
        annotation = cls.model_fields[part].annotation
        if position == len(parts) - 1:
            listed = isinstance(value, str) and get_origin(annotation) in (tuple, list)
            tree[part] = _parse_list(path, str(value)) if listed else value
            return
        if isinstance(annotation, type) and issubclass(annotation, Method):
            tree.setdefault(part, cls.model_fields[part].get_default())
            _assign_method(annotation, tree, parts, position, value)
            return
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            raise ConfigError(f"{owner}.{part}: has no settings below it; received '{path}'")
        cls, tree = annotation, _group(tree.setdefault(part, {}), ".".join(parts[: position + 1]))


def _parse_list(path: str, text: str) -> Any:
    """Parse a list in the form that `flatten` gives."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: must be a list, such as []; received {short(text)}") from None


def _group(value: Any, path: str) -> dict[str, Any]:
    """Return settings by name, and refuse any other value in their place."""
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold settings by name; received {short(value)}")
    return value


def _assign_method(
    kind: type[Method], tree: dict[str, Any], parts: list[str], position: int, value: object
) -> None:
    """Set a field of the chosen method, or choose a method by naming it in the path."""
    field, rest = parts[position], parts[position + 1 :]
    path = ".".join(parts[: position + 1])
    name, settings = _chosen_method(kind, tree[field], path)
    named = kind.current_name(rest[0])
    if named in kind.shelf and (len(rest) > 1 or named != name):
        if named != name:
            name, settings = named, {}
        rest = rest[1:]
    cls = kind.lookup(name)
    known = cls.model_fields
    rest[:1] = [current_key(cls, key) for key in rest[:1]]
    if not rest or rest[0] not in known:
        raise ConfigError(unknown_key(f"{path} ({name})", ".".join(rest), known))
    given = _without_defaults(cls, settings)
    nested = known[rest[0]].annotation
    if len(rest) == 1:
        listed = isinstance(value, str) and get_origin(nested) is tuple
        given[rest[0]] = _parse_list(f"{path}.{rest[0]}", str(value)) if listed else value
    elif isinstance(nested, type) and issubclass(nested, Method):
        given.setdefault(rest[0], known[rest[0]].get_default())
        _assign_method(nested, given, rest, 0, value)
    else:
        received = ".".join(parts)
        raise ConfigError(f"{path}.{rest[0]}: has no settings below it; received '{received}'")
    tree[field] = {name: given}


def _chosen_method(kind: type[Method], value: Any, path: str) -> tuple[str, dict[str, Any]]:
    """Return name and settings of a method in a tree of plain values."""
    if isinstance(value, Method):
        value = value.dump()
    elif isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, dict) or len(value) != 1:
        raise ConfigError(f"{path}: {kind.how_to_write(value)}")
    ((name, settings),) = value.items()
    return kind.current_name(str(name)), _group(
        {} if settings is None else settings, f"{path}.{name}"
    )


def _without_defaults(cls: type[Method], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from a method's defaults, under their current names.

    A default may depend on other settings, so one that nobody chose must not be passed on.
    """
    usual = {
        name: to_jsonable_python(field.get_default())
        for name, field in cls.model_fields.items()
        if not field.is_required()
    }
    current = {current_key(cls, name): value for name, value in settings.items()}
    return {k: v for k, v in current.items() if k not in usual or usual[k] != v}


def dump_yaml(settings: Settings) -> str:
    """Return settings as YAML text that `read_yaml` and `build` read back to an equal object."""
    return format_yaml(settings.model_dump(mode="json"))


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read whole numbers with commas, each once.

    Raises:
        ConfigError: A word is no whole number, or is larger than a seed can be.

    Example:
        >>> parse_seeds("0, 1,2,1")
        (0, 1, 2)
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() and len(word) < 10 for word in words):
        raise ConfigError(
            "--seeds: allowed: whole numbers below 10^9 with commas, e.g. 0,1,2; "
            f"received {short(text)}"
        )
    return tuple(dict.fromkeys(int(word) for word in words))
