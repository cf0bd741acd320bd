"""YAML of recipes: plain values, or one line."""

import pytest

from trainables.errors import ConfigError
from trainables.settings import parse_assignments
from trainables.text.yaml_text import format_value, format_yaml, parse_yaml

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-11-30", "2026-11-30"),
        ("2026-11-30 09:00:00", "2026-11-30 09:00:00"),
        ("=", "="),
        ("!!str 2026", "2026"),
        ("1e-4", 1e-4),
        ("0x1F", 31),
        ("9223372036854775807", 2**63 - 1),
        ("[yes, null, .5]", [True, None, 0.5]),
        ("&a {x: 1}", {"x": 1}),
        ("{a: &a {x: 1, y: 1}, b: {<<: *a, x: 2}}", {"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}}),
        ("[&a [1], *a]", [[1], [1]]),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_plain_values_are_read(text: str, value: object) -> None:
    assert parse_yaml(text, "text") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"'a' is set twice in one mapping \(line 3, column 1\)"),
        ("x: {l: 1, m: 2,\n l: 3}", r"'l' is set twice in one mapping \(line 2, column 2\)"),
        ("a: 1\n'a': 2", "'a' is set twice"),
        ("{1: a}", "name of a setting must be a text; received '1'"),
        ("{yes: a}", "name of a setting must be a text; received 'yes'"),
        ("{[a]: b}", "name of a setting must be a text; received a list"),
        ("!!set {a, b}", "a mapping with the tag !!set is no plain value"),
        ("!!binary aGk=", "'aGk=' with the tag !!binary is no plain value"),
        ("!!timestamp 2026-11-30", "!!timestamp is no plain value"),
        ("!!omap [a: 1]", "!!omap is no plain value"),
        ("!!python/object/apply:os.system [true]", "is no plain value"),
        ("!own x", "'x' with the tag !own is no plain value"),
        ("!!bool maybe", "'maybe' with the tag !!bool is no plain value"),
        ("!!int ''", "'' with the tag !!int is no plain value"),
        ("!!float x", "'x' with the tag !!float is no plain value"),
        ("!!map [1]", "expected a mapping node"),
        ("&a [*a]", "alias 'a' is a part of what it repeats"),
        ("&a {x: {y: *a}}", "alias 'a' is a part of what it repeats"),
        ("&a {<<: *a}", "alias 'a' is a part of what it repeats"),
        (LAUGHS, "more than 100000 values"),
        (MERGES, "more than 100000 values"),
        ("1" * 5000, "'1111.*' is no integer of at most 64 bits"),
        ("-9223372036854775809", "no integer of at most 64 bits"),
        ("0x_", "'0x_' is no integer of at most 64 bits"),
        ("[" * 5000, "more than 32 levels"),
        ("{a: " * 40, "more than 32 levels"),
        ("".join(f"{' ' * n}a{n}:\n" for n in range(40)), "more than 32 levels"),
        (r'"\0"', r"a text cannot hold the character U\+0000"),
        (r'"\e[31m"', r"a text cannot hold the character U\+001B"),
        (r'"\ud800"', r"a text cannot hold the character U\+D800"),
        ("\x07", "unacceptable character #x0007"),
        ("a: [", r"\(line 1, column 5\)"),
        ("--- 1\n--- 2", "expected a single document"),
        ("*a", "found undefined alias"),
    ],
)
def test_what_is_no_plain_value_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^x.yaml is not valid YAML: .*{message}") as error:
        parse_yaml(text, "x.yaml")
    assert "\n" not in str(error.value)


def test_an_anchor_is_not_a_part_of_itself_only_because_it_is_used_twice() -> None:
    assert parse_yaml("a: &a [1]\nb: [*a, *a]", "text") == {"a": [1], "b": [[1], [1]]}


@pytest.mark.parametrize(
    "value", ["1e-4", "2026-11-30", "null", "=", "it's", "a: b", "", " a ", "~", "0x1F", "é", "#a"]
)
def test_texts_come_back_as_texts(value: str) -> None:
    assert parse_yaml(format_yaml({"name": value}), "text") == {"name": value}
    assert parse_assignments([f"name={format_value(value)}"]) == {"name": value}


@pytest.mark.parametrize("value", [1e-4, 1e300, 10, True, None, [1, "a"], {"ldam": {"scale": 2.0}}])
def test_other_values_come_back_by_an_assignment(value: object) -> None:
    assert parse_assignments([f"x={format_value(value)}"]) == {"x": value}
