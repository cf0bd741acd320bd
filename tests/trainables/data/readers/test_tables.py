"""Tables of images: CSV and Parquet files with columns of files, classes and parts."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.pictures import draw
from trainables.data.data_settings import Data
from trainables.data.faults import DataError, Fault
from trainables.data.folders import Loaded, folder_content, read_folder
from trainables.data.look import look
from trainables.data.source_cache import Source
from trainables.data.source_names import Columns
from trainables.data.sources import load_source
from trainables.data.views import build_views
from trainables.errors import ConfigError
from trainables.settings import build

CLASSES = ("cat", "dog", "frog", "ship")


def draw_images(folder: Path, count: int = 10) -> list[tuple[str, str]]:
    """Draw images of four classes in one folder; return file name and class."""
    pairs = []
    for number, label in enumerate(CLASSES):
        for n in range(count):
            draw(folder / f"{label}{n}.png", number, noise=n)
            pairs.append((f"{folder.name}/{label}{n}.png", label))
    return pairs


def write(table: Path, header: str, rows: list[tuple[str, ...]], delimiter: str = ",") -> Path:
    lines = [header, *(delimiter.join(row) for row in rows)]
    table.write_text("\n".join(lines), encoding="utf-8")
    return table


def read(table: Path, *, skip: bool = False, **columns: str) -> Loaded:
    cache = table.parent / "cache"
    return read_folder(
        table, None, skip_unreadable=skip, cache=cache, columns=build(Columns, columns)
    )


def faults_of(table: Path, *, skip: bool = False, **columns: str) -> list[Fault]:
    with pytest.raises(DataError) as caught:
        read(table, skip=skip, **columns)
    assert all("\n" not in fault.text for fault in caught.value.faults)
    return list(caught.value.faults)


def counts(source: Source) -> dict[str, int]:
    return dict(Counter(source.class_names[label] for label in source.labels))


# --- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "delimiter"),
    [
        ("path,label", ","),
        ("File Name;Class", ";"),
        ("img_path\tcategory", "\t"),
        ("\ufeffimage,target", ","),
    ],
)
def test_usual_columns_are_recognized(header: str, delimiter: str, tmp_path: Path) -> None:
    rows = draw_images(tmp_path / "images")
    source, faults = read(write(tmp_path / "mine.csv", header, rows, delimiter))
    assert counts(source) == dict.fromkeys(CLASSES, 10)
    assert source.is_test.sum() == 8
    assert faults == []


def test_columns_in_any_order_and_by_name(tmp_path: Path) -> None:
    rows = [("1", label, "x", name) for name, label in draw_images(tmp_path / "images")]
    table = write(tmp_path / "mine.csv", "id,species,label,where", rows)
    source, _ = read(table, path="where", label="species")
    assert counts(source) == dict.fromkeys(CLASSES, 10)


def test_part_column_is_the_split(tmp_path: Path) -> None:
    parts = ("Train", "test", "train", "VAL", "training")
    rows = [
        (name, label, parts[n % 5]) for n, (name, label) in enumerate(draw_images(tmp_path / "i"))
    ]
    table = write(tmp_path / "mine.csv", "file,label,split", rows)
    source, faults = read(table)
    assert source.is_test.sum() == 8
    assert [f.text for f in faults] == [
        f"{table}: val joins train, from which validation is split off"
    ]
    everything, _ = read(table, split="")
    assert everything.is_test.sum() == 8  # 20 % of each class, drawn
    assert everything.digest != source.digest


def test_rows_without_a_test_part_have_it_split_off(tmp_path: Path) -> None:
    rows = [
        (*pair, ("train", "valid")[n % 2]) for n, pair in enumerate(draw_images(tmp_path / "i"))
    ]
    source, faults = read(write(tmp_path / "mine.csv", "file,label,part", rows))
    assert source.is_test.sum() == 8
    assert "if val is your test, rename it to test" in faults[0].text


@pytest.mark.parametrize("numbers", [[0, 1, 2, 3], [0.0, 1.0, 2.0, 3.0]])
def test_parquet_is_read(numbers: list[float], tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    pairs = draw_images(tmp_path / "images")
    columns = {
        "file_name": [name for name, _ in pairs],
        "label": [numbers[CLASSES.index(label)] for _, label in pairs],
        "split": ["test" if n % 5 == 0 else "train" for n in range(len(pairs))],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "mine.parquet")
    source, faults = read(tmp_path / "mine.parquet")
    assert counts(source) == dict.fromkeys("0123", 10)
    assert source.is_test.sum() == 8
    assert faults == []


def test_parquet_that_holds_images_is_one_line(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [{"bytes": b"x", "path": None}] * 2
    parquet.write_table(pyarrow.table({"image": images, "label": [0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="column 'image' holds images, not the paths"):
        read(tmp_path / "a.parquet")


def test_paths_are_relative_to_the_table_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = draw_images(tmp_path / "photos")
    (tmp_path / "lists").mkdir()
    rows = [(f"..\\{name}".replace("/", "\\"), label) for name, label in pairs]
    write(tmp_path / "lists/mine.csv", "path,label", rows)
    found, contents = [], []
    for folder in ("photos", "lists", "."):
        monkeypatch.chdir(tmp_path / folder)
        relative = os.path.relpath(tmp_path / "lists/mine.csv")
        source = load_source(f"table:{relative}", Path("data"), cache=tmp_path / "cache")
        found.append(source.digest)
        assert counts(source) == dict.fromkeys(CLASSES, 10)
        contents.append(folder_content(Path(relative), cache=tmp_path / "cache"))
    assert len(set(found)) == len(set(contents)) == 1


def test_content_of_a_table_moves_with_its_files(tmp_path: Path) -> None:
    rows = draw_images(tmp_path / "a/images")
    table = write(tmp_path / "a/mine.csv", "path,label", rows)
    before = folder_content(table, cache=tmp_path / "cache")
    (tmp_path / "a").rename(tmp_path / "b")
    moved = tmp_path / "b/mine.csv"
    assert folder_content(moved, cache=tmp_path / "cache") == before
    write(moved, "path,label", [*rows[:-1], (rows[-1][0], "cat")])
    assert folder_content(moved, cache=tmp_path / "cache") != before


# --- what is wrong --------------------------------------------------------------------------------


def test_all_faults_are_told_at_once_one_line_each(tmp_path: Path) -> None:
    rows: list[tuple[str, ...]] = list(draw_images(tmp_path / "images"))
    (tmp_path / "images/cat3.png").write_bytes(b"no image")
    rows += [
        ("images/gone.png", "cat"),
        ("images/dog1.png", ""),
        ("", "dog"),
        ("images/cat0.png", "dog"),
        ("images/../images/cat1.png", "cat"),
    ]
    table = write(tmp_path / "mine.csv", "path,label", rows)
    told = [fault.text.replace(f"{tmp_path}/", "") for fault in faults_of(table)]
    assert told == [
        "mine.csv line 42 lists images/gone.png, which does not exist; restore the file or delete "
        "the line",
        "mine.csv line 43 has no class; complete or delete the line",
        "mine.csv line 44 has no file name; complete or delete the line",
        "mine.csv line 45 gives images/cat0.png the class 'dog', line 2 'cat'; delete one of them",
        "mine.csv: repeated lines left out (1): line 46",
        "images/cat3.png can't be read as an image (the file is not an image of a known format); "
        "delete or replace it, or set data.skip_unreadable=true to leave such files out",
    ]


def test_what_lacks_is_left_out_with_a_count(tmp_path: Path) -> None:
    rows: list[tuple[str, ...]] = list(draw_images(tmp_path / "images"))
    rows += [("images/gone.png", "cat"), ("images/dog1.png", ""), ("http://a.org/b.png", "cat")]
    table = write(tmp_path / "mine.csv", "path,label", rows)
    source, faults = read(table, skip=True)
    assert counts(source) == dict.fromkeys(CLASSES, 10)
    assert [fault.text for fault in faults] == [
        f"{table}: missing files left out (2): line 42, line 44",
        f"{table}: incomplete lines left out (1): line 43",
    ]
    assert not any(fault.fatal for fault in faults)


def test_two_classes_of_one_file_are_refused_even_if_unreadable_files_are_skipped(
    tmp_path: Path,
) -> None:
    rows = [*draw_images(tmp_path / "images"), ("./images/cat0.png", "dog")]
    faults = faults_of(write(tmp_path / "mine.csv", "path,label", rows), skip=True)
    assert "the class 'dog', line 2 'cat'" in faults[0].text


def test_file_in_both_parts_is_refused(tmp_path: Path) -> None:
    rows = [(*pair, "train") for pair in draw_images(tmp_path / "images")]
    rows.append((*rows[0][:2], "test"))
    (fault, *_) = faults_of(write(tmp_path / "mine.csv", "path,label,split", rows))
    assert "the part 'test', line 2 'train'" in fault.text


def test_unknown_parts_are_named(tmp_path: Path) -> None:
    parts = ("train", "test", "holdout", "")
    rows = [(*pair, parts[n % 4]) for n, pair in enumerate(draw_images(tmp_path / "images"))]
    told = [f.text for f in faults_of(write(tmp_path / "mine.csv", "path,label,split", rows))]
    assert "has the part ''; allowed: train, val, test; rename it" in told[0]
    assert "has the part 'holdout'; allowed: train, val, test" in told[1]


@pytest.mark.parametrize(
    ("header", "columns", "words"),
    [
        ("where,what", {}, ["no column for the path", "no column for the label"]),
        ("path,label", {"label": "lable"}, ["no column 'lable' (data.columns.label)", "did you"]),
        ("path,label", {"split": "fold"}, ["no column 'fold' (data.columns.split)"]),
        ("file,image", {"label": "image"}, ["several columns for the path: 'file', 'image'"]),
        ("a/b.png,cat", {}, ["of an image; its columns: 'a/b.png', 'cat'"]),
        ("", {}, ["no column for the path", "its columns: none"]),
    ],
)
def test_columns_that_are_not_there(
    header: str, columns: dict[str, str], words: list[str], tmp_path: Path
) -> None:
    table = write(tmp_path / "mine.csv", header, list(draw_images(tmp_path / "images")))
    told = " ".join(fault.text for fault in faults_of(table, **columns))
    assert all(word in told for word in words), told


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("table:", "a table of images is written table:PATH"),
        ("table:{root}", "is a folder; write folder:"),
        ("folder:{root}/mine.csv", "is a table; write table:"),
        ("table:{root}/none.csv", "not found"),
        ("table:{root}/mine.xlsx", "give a table (.csv, .tsv, .txt, .parquet, .pq) as table:PATH"),
        ("table:{root}/broken.parquet", "is no Parquet file"),
    ],
)
def test_what_is_no_table_is_one_line(source: str, words: str, tmp_path: Path) -> None:
    write(tmp_path / "mine.csv", "path,label", list(draw_images(tmp_path / "images")))
    for name in ("mine.xlsx", "broken.parquet"):
        (tmp_path / name).write_bytes(b"PK")
    name = source.format(root=tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_source(name, tmp_path, cache=tmp_path / "cache")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    found = look(build(Data, {"source": name, "root": str(tmp_path)}))
    assert words in found.faults[0].text


def test_columns_of_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.columns\.label: a folder of images has no col"):
        read(tmp_path, label="species")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"columns": {"label": "a"}}, "data.columns.label: source 'digits' has no columns"),
        ({"columns": {"group": ""}}, "data.columns.group: source 'digits' has no columns"),
        ({"columns": {"lable": "a"}}, "columns: unknown key 'lable'"),
        ({"columns": {"path": ""}}, "columns.path"),
        ({"stream": {"unrelated_source": "table:a.csv"}}, "unrelated_source: must be a folder"),
    ],
)
def test_settings_that_nothing_reads_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Data, changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# --- through the protocol -------------------------------------------------------------------------


@pytest.mark.parametrize("decode", [False, True])
def test_look_and_views_of_a_table(decode: bool, tmp_path: Path) -> None:
    table = write(tmp_path / "mine.csv", "path,label", list(draw_images(tmp_path / "images", 30)))
    plain = {
        "source": f"table:{table}",
        "root": str(tmp_path),
        "novel_classes": 2,
        "validation_per_class": 4,
        "stream": {"unrelated": 0},
    }
    data = build(Data, plain)
    found = look(data, decode=decode)
    assert found.faults == ()
    assert data.profile.name == "natural"
    assert [(row.name, row.train, row.test) for row in found.classes] == [
        (name, 24, 6) for name in CLASSES
    ]
    summary = build_views(data).summary
    assert summary["source"] == "table:mine.csv"


def test_new_classes_by_name_are_looked_at(tmp_path: Path) -> None:
    table = write(tmp_path / "mine.csv", "path,label", list(draw_images(tmp_path / "images", 30)))
    plain = {"source": f"table:{table}", "root": str(tmp_path), "validation_per_class": 4}
    found = look(build(Data, {**plain, "novel_classes": ["cat", "ship"]}))
    plays = {row.name: row.plays for row in found.classes}
    assert plays["dog"] == plays["frog"] == "known"
    assert {plays["cat"], plays["ship"]} == {"new in validation", "new in test"}
    (fault,) = look(build(Data, {**plain, "novel_classes": ["cat", "shop"]})).faults
    assert fault.fatal
    assert "has no class 'shop'; allowed: cat, dog, frog, ship; did you mean 'ship'?" in fault.text
    (fault,) = look(build(Data, {"novel_classes": ["1", "eleven"]})).faults
    assert "source 'digits' has no class 'eleven'" in fault.text


def test_later_phases_are_looked_at(tmp_path: Path) -> None:
    table = write(tmp_path / "mine.csv", "path,label", list(draw_images(tmp_path / "images", 30)))
    plain = {"source": f"table:{table}", "root": str(tmp_path), "validation_per_class": 4}
    chosen = {"novel_classes": ["cat", "ship"], "validation_novel_classes": ["ship"]}
    with pytest.raises(ConfigError, match=r"data\.phases: allowed: 1 to 1"):
        build(Data, {**plain, **chosen, "phases": 2})
    for label in ("car", "bus"):
        for n in range(30):
            draw(tmp_path / f"images/{label}{n}.png", 7, noise=900 + n)
            with table.open("a", encoding="utf-8") as file:
                file.write(f"\nimages/{label}{n}.png,{label}")
    chosen["novel_classes"] = ["cat", "ship", "bus"]
    found = look(build(Data, {**plain, **chosen, "phases": 2}))
    plays = {row.name: row.plays for row in found.classes}
    assert (plays["cat"], plays["bus"]) == ("new in test", "new in a later phase")
    assert "1 new in a later phase" in found.summary()


def test_recipes_without_columns_keep_their_dump(tmp_path: Path) -> None:
    assert "columns" not in Data().model_dump(mode="json")
    named = build(Data, {"source": "table:a.csv", "columns": {"label": "species"}})
    assert build(Data, named.model_dump(mode="json")) == named
