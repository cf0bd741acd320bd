"""YAML of recipes: plain values, each setting once, bounded in depth and size."""

from __future__ import annotations

import re
from typing import Any

import yaml

from trainables.errors import ConfigError, is_control

MOST_LEVELS = 32  # of lists and mappings within each other
MOST_VALUES = 100_000  # an alias counts as all that it repeats
LARGEST_INT = 2**63 - 1

_TAG = "tag:yaml.org,2002:"
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")
_PLAIN = frozenset(f"{_TAG}{kind}" for kind in _KINDS)
_SCIENTIFIC = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")


def parse_yaml(text: str, origin: str) -> Any:
    """Parse YAML text into ``None``, booleans, numbers, texts, lists and mappings of texts.

    ``1e-4`` is a number (YAML 1.1 reads it as text), ``2026-11-30`` is a text.

    Args:
        text: The text.
        origin: What the text is, for messages.

    Raises:
        ConfigError: The text is not YAML, holds other values, names a setting twice, or is too deep
            or too large; the message has the line.

    Example:
        >>> parse_yaml("{lr: 1e-4, name: 2026-11-30}", "text")
        {'lr': 0.0001, 'name': '2026-11-30'}
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{origin} is not valid YAML: {_reason(error)}") from None


def format_yaml(tree: Any) -> str:
    """Return plain values as YAML that `parse_yaml` reads back to equal values."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def format_value(value: Any) -> str:
    """Return a plain value as YAML in one line, as ``--set path=value`` takes it.

    Example:
        >>> format_value(0.1), format_value(None), format_value("1e-4"), format_value("ldam")
        ('0.1', 'null', "'1e-4'", 'ldam')
    """
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")


def _reason(error: Exception) -> str:
    """Return what a YAML error says, with its line and column, without the quoted text."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        words = " ".join(part for part in (error.context, error.problem) if part)
        return f"{words} (line {mark.line + 1}, column {mark.column + 1})" if mark else words
    if isinstance(error, RecursionError):
        return "it is too deep"
    return " ".join(str(error).split())


class _Loader(yaml.SafeLoader):
    """Loads plain values, and refuses all others with their line."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._sizes: dict[yaml.Node, int] = {}  # number of values in each complete node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, with the checks that need its place in the text."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self._level += 1
        if self._level > MOST_LEVELS:
            raise _refusal(f"more than {MOST_LEVELS} levels of lists and mappings", event)
        node = super().compose_node(parent, index)
        self._level -= 1
        if node is None:
            return None
        if not isinstance(event, yaml.AliasEvent):
            self._check(node)
        elif node not in self._sizes:
            raise _refusal(f"the alias '{event.anchor}' is a part of what it repeats", event)
        return node

    def _check(self, node: yaml.Node) -> None:
        """Refuse a node that is no plain value, is too large, or names a setting twice."""
        if not self._is_plain(node):
            tag = node.tag.replace(_TAG, "!!")
            raise _refusal(f"{_written(node)} with the tag {tag} is no plain value", node)
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        items = node.value if isinstance(node, yaml.SequenceNode) else []
        parts = [*items, *(part for pair in pairs for part in pair)]
        self._sizes[node] = 1 + sum(self._sizes[part] for part in parts)
        if self._sizes[node] > MOST_VALUES:
            raise _refusal(f"more than {MOST_VALUES} values", node)
        _check_names([key for key, _ in pairs if key.tag != f"{_TAG}merge"])

    def _is_plain(self, node: yaml.Node) -> bool:
        """Say whether a node is of a plain type; a tag that is written must fit the value."""
        if isinstance(node, yaml.ScalarNode) and node.tag != f"{_TAG}str":
            implied: str = self.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
            return node.tag == implied
        return node.tag in _PLAIN


def _check_names(keys: list[yaml.Node]) -> None:
    """Refuse names of settings that are no texts, or stand twice in a mapping."""
    seen: set[str] = set()
    for key in keys:
        if key.tag != f"{_TAG}str":
            raise _refusal(f"the name of a setting must be a text; received {_written(key)}", key)
        if key.value in seen:
            raise _refusal(f"'{key.value}' is set twice in one mapping", key)
        seen.add(key.value)


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    """Read an integer of at most 64 bits."""
    try:
        value = int(loader.construct_yaml_int(node))
    except ValueError:  # "0x_", or more digits than Python converts
        value = LARGEST_INT + 1
    if abs(value) > LARGEST_INT:
        raise _refusal(f"{_written(node)} is no integer of at most 64 bits", node)
    return value


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    """Read a text without control characters."""
    value = str(loader.construct_yaml_str(node))
    bad = next((c for c in value if c not in "\n\t" and is_control(c)), None)
    if bad:
        raise _refusal(f"a text cannot hold the character U+{ord(bad):04X}", node)
    return value


def _refusal(words: str, at: Any) -> yaml.MarkedYAMLError:
    """Return the error that refuses a place of the text."""
    return yaml.MarkedYAMLError(problem=words, problem_mark=at.start_mark)


def _written(node: yaml.Node) -> str:
    """Return how a node is written, shortened."""
    if not isinstance(node, yaml.ScalarNode):
        return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
    return f"'{node.value}'" if len(node.value) <= 40 else f"'{node.value[:37]}...'"


class _Dumper(yaml.SafeDumper):
    """Puts those texts in quotes that `_Loader` would read as numbers."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag in _PLAIN or tag == f"{_TAG}merge"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor(f"{_TAG}int", _int)
_Loader.add_constructor(f"{_TAG}str", _text)
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(f"{_TAG}float", _SCIENTIFIC, list("-+.0123456789"))
