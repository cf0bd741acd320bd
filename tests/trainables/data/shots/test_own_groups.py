"""The user's groups: by a table, a regular expression, a name with stars; refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.data.shots.own_groups import corrected_labels, own_groups
from trainables.errors import ConfigError

PATHS = ["/p/lynx/cat7_01.jpg", "/p/lynx/cat7_02.jpg", "/p/ocelot/cat9_01.jpg", "/p/ocelot/x.jpg"]
NAMES = ["lynx", "lynx", "ocelot", "ocelot"]
WANTED = {PATHS[0]: "lynx/cat7", PATHS[1]: "lynx/cat7", PATHS[2]: "ocelot/cat9"}


@pytest.mark.parametrize("pattern", ["*_??.jpg", r"^(cat\d+)_", "*_*"])
def test_patterns_name_groups(pattern: str) -> None:
    assert own_groups(pattern, Path("/p"), PATHS, NAMES) == WANTED


def test_what_a_pattern_finds_is_a_group_of_one_class_in_all_parts() -> None:
    """The third shot of one class is not that of another one, wherever the class's images lie."""
    paths = ["/p/train/lynx/03_1.jpg", "/p/test/lynx/03_2.jpg", "/p/train/ocelot/03_1.jpg"]
    found = own_groups("*_?.jpg", Path("/p"), paths, ["lynx", "lynx", "ocelot"])
    assert list(found.values()) == ["lynx/03", "lynx/03", "ocelot/03"]


def test_a_table_joins_classes_in_one_group(tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("path,group\nlynx/cat7_01.jpg,night\nocelot/x.jpg,night\n")
    assert set(own_groups(table, Path("/p"), PATHS, NAMES).values()) == {"night"}


@pytest.mark.parametrize("pattern", [r"(session\d)/", "*/*.jpg", r"([^/]+)/[^/]*$"])
def test_a_pattern_with_a_slash_is_of_the_path_below_the_class(pattern: str) -> None:
    inside = ["session1/a.jpg", "old/session2/a.jpg", "b.jpg"]
    paths = [f"/p/train/lynx/{name}" for name in inside] + ["/p/train/ocelot/session1/a.jpg"]
    found = own_groups(pattern, Path("/p"), paths, ["lynx"] * 3 + ["ocelot"])
    assert list(found.items()) == [
        (paths[0], "lynx/session1"),
        (paths[1], "lynx/session2"),
        (paths[3], "ocelot/session1"),
    ]


def test_a_table_names_groups_relative_to_the_folder(tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("File;Group\nlynx/cat7_01.jpg;a\n/p/ocelot/x.jpg;b\n")
    assert own_groups(table, Path("/p"), PATHS, NAMES) == {PATHS[0]: "a", PATHS[3]: "b"}


@pytest.mark.parametrize(
    ("groups", "line"),
    [
        ("dog*_1.jpg", r"groups: no file name matches 'dog\*_1.jpg', such as cat7_01.jpg;"),
        ("(cat", r"groups: '\(cat' is no regular expression"),
        ("cat7_01.jpg", r"groups: 'cat7_01.jpg' says no group; put"),
        ("missing.csv", r"groups: file not found: missing.csv"),
    ],
)
def test_what_names_no_group_is_refused(groups: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        own_groups(groups, Path("/p"), PATHS, NAMES)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("file,shot\nlynx/cat7_01.jpg,a\n", r"has no column group; its columns: 'file', 'shot'"),
        ("file,group\nlynx/cat7_1.jpg,a\n", r"line 2 names 'lynx/cat7_1.jpg', no image of /p"),
        ("file,group\nlynx/cat7_01.jpg,\n", r"line 2 has no group"),
    ],
)
def test_a_table_with_faults_is_refused(text: str, line: str, tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text(text)
    with pytest.raises(ConfigError, match=line):
        own_groups(table, Path("/p"), PATHS, NAMES)


def test_a_file_has_one_group_and_one_label(tmp_path: Path) -> None:
    table = tmp_path / "own.csv"
    table.write_text("path,group,label\nlynx/cat7_01.jpg,a,lynx\n/p/lynx/cat7_01.jpg,a,lynx\n")
    assert own_groups(table, Path("/p"), PATHS, NAMES) == {PATHS[0]: "a"}
    table.write_text(
        f"path,group,label\n{PATHS[1]},c,lynx\n{PATHS[0]},a,lynx\n{PATHS[0]},b,ocelot\n"
    )
    said = r"own.csv line 4 gives /p/lynx/cat7_01.jpg the {} '{}', line 3 '{}'; delete one"
    with pytest.raises(ConfigError, match="groups: .*" + said.format("group", "b", "a")):
        own_groups(table, Path("/p"), PATHS, NAMES)
    with pytest.raises(ConfigError, match="labels: .*" + said.format("label", "ocelot", "lynx")):
        corrected_labels(table, Path("/p"), PATHS, ["lynx", "ocelot"])


def test_without_a_file_there_is_no_group() -> None:
    assert own_groups("*_?.jpg", Path("/p"), [], []) == {}
