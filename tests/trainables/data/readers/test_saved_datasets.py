"""Datasets that Hugging Face `datasets` saved.

``tests/golden/saved_dataset`` was written by `save_to_disk` of datasets 5.2.0: ``dd`` has the
splits train (12 images), validation (4) and test (4), ``one`` has 6 shuffled rows without splits;
the classes are zebra and ant.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT
from trainables.data.data_settings import Data
from trainables.data.faults import DataError
from trainables.data.folders import Loaded, folder_content, read_folder
from trainables.data.look import look
from trainables.data.shots.look import look_at_photos
from trainables.data.source_cache import Source
from trainables.data.source_names import Columns
from trainables.data.views import build_views
from trainables.errors import ConfigError
from trainables.settings import build

pyarrow = pytest.importorskip("pyarrow")
SAVED = ROOT / "tests/golden/saved_dataset"


def read(folder: Path, cache: Path, *, skip: bool = False, **columns: str) -> Loaded:
    return read_folder(
        folder, None, skip_unreadable=skip, cache=cache, columns=build(Columns, columns)
    )


def counts(source: Source) -> dict[str, int]:
    return dict(Counter(source.class_names[label] for label in source.labels))


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    into = io.BytesIO()
    Image.fromarray(pixels).save(into, "PNG")
    return into.getvalue()


def save(folder: Path, columns: dict[str, list[Any]], features: dict[str, Any]) -> None:
    """Write one split in the form of `save_to_disk`."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(columns)
    with pyarrow.ipc.new_stream(str(folder / "data.arrow"), table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["b", "a"], "_type": "ClassLabel"}}


def images(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"bytes": png(start + n), "path": f"{n}.png"} for n in range(count)]


def test_splits_classes_and_pixels_are_those_of_the_library(tmp_path: Path) -> None:
    source, faults = read(SAVED / "dd", tmp_path / "cache")
    assert source.class_names == ("ant", "zebra")
    assert counts(source) == {"ant": 10, "zebra": 10}
    assert source.is_test.sum() == 4
    assert [fault.text.partition(": ")[2] for fault in faults] == [
        "val joins train, from which validation is split off"
    ]
    with pyarrow.memory_map(str(SAVED / "dd/test/data-00000-of-00001.arrow")) as file:
        table = pyarrow.ipc.open_stream(file).read_all()
    for row, label in zip(table.column("image").to_pylist(), table.column("label"), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB"))
        (place,) = np.flatnonzero((source.images == pixels).all(axis=(1, 2, 3)))
        assert source.is_test[place]
        assert source.class_names[source.labels[place]] == ("zebra", "ant")[label.as_py()]


def test_dataset_without_splits_has_its_test_split_off(tmp_path: Path) -> None:
    source, faults = read(SAVED / "one", tmp_path / "cache")
    assert len(source.images) == 6
    assert source.is_test.sum() == 2
    assert faults == []


def test_content_does_not_depend_on_place_and_images_are_written_once(tmp_path: Path) -> None:
    shutil.copytree(SAVED / "dd", tmp_path / "deep/copy")
    found = {
        folder_content(folder, cache=tmp_path / cache)
        for folder, cache in (
            (SAVED / "dd", "a"),
            (tmp_path / "deep/copy", "a"),
            (tmp_path / "deep/copy", "deep/b"),
        )
    }
    assert len(found) == 1
    assert len(list((tmp_path / "a/unpacked").iterdir())) == 1


def test_look_and_views_of_a_saved_dataset(tmp_path: Path) -> None:
    for part, count in (("train", 48), ("test", 16)):
        labels = [n % 4 for n in range(count)]
        features = {**FEATURES, "label": {"names": list("wxyz"), "_type": "ClassLabel"}}
        columns = {"image": images(count, 100 * len(part)), "label": labels}
        save(tmp_path / f"set/{part}", columns, features)
    (tmp_path / "set/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    plain = {
        "source": f"folder:{tmp_path}/set",
        "root": str(tmp_path),
        "novel_classes": ["w", "y"],
        "validation_per_class": 4,
        "stream": {"unrelated": 0},
    }
    data = build(Data, plain)
    for decode in (False, True):
        found = look(data, decode=decode)
        assert found.faults == ()
        assert [(row.name, row.train, row.test) for row in found.classes] == [
            (name, 12, 4) for name in "wxyz"
        ]
    assert build_views(data).summary["known_class_names"] == ["x", "z"]


def test_splits_that_do_not_count_are_named(tmp_path: Path) -> None:
    save(tmp_path / "set/train", {"image": images(10), "label": [0, 1] * 5}, FEATURES)
    save(tmp_path / "set/test", {"image": images(4, 50), "label": [-1] * 4}, FEATURES)
    save(tmp_path / "set/extra", {"image": images(3, 70), "label": [0, 1, 0]}, FEATURES)
    (tmp_path / "set/dataset_dict.json").write_text('{"splits": ["train", "test", "extra"]}')
    source, faults = read(tmp_path / "set", tmp_path / "cache")
    assert counts(source) == {"a": 5, "b": 5}
    assert source.is_test.sum() == 2
    assert [fault.text.partition("split ")[2] for fault in faults] == [
        "'test' left out (4 rows): it has no labels",
        "'extra' left out (3 rows): read are train, validation and test",
    ]


def test_all_faulty_rows_are_told_at_once(tmp_path: Path) -> None:
    rows = images(10)
    rows[2] = {"bytes": b"no image", "path": "x.png"}
    rows[3] = {"bytes": None, "path": "gone.png"}
    rows[4] = {"bytes": None, "path": None}
    save(tmp_path / "set", {"image": rows, "label": [0, 1, 0, 1, 0, -1, 0, 1, 0, 1]}, FEATURES)
    with pytest.raises(DataError) as caught:
        read(tmp_path / "set", tmp_path / "cache")
    told = [fault.text.replace(f"{tmp_path}/", "") for fault in caught.value.faults]
    assert told[0].startswith("set line 4 lists set/gone.png, which does not exist")
    assert told[1].startswith("set line 5 has no file name")
    assert told[2].startswith("set line 6 has no class")
    assert "00000003.png can't be read as an image" in told[3]
    source, faults = read(tmp_path / "set", tmp_path / "cache", skip=True)
    assert counts(source) == {"a": 3, "b": 3}
    assert not any(fault.fatal for fault in faults)


def test_several_columns_of_labels_are_asked_for(tmp_path: Path) -> None:
    fine, coarse = ({"names": list(names), "_type": "ClassLabel"} for names in ("pqrs", "mn"))
    features = {"img": {"_type": "Image"}, "fine_label": fine, "coarse_label": coarse}
    columns = {
        "img": images(12),
        "fine_label": [n % 4 for n in range(12)],
        "coarse_label": [n % 2 for n in range(12)],
    }
    save(tmp_path / "set", columns, features)
    with pytest.raises(DataError, match=r"no column for the label.*set data\.columns\.label"):
        read(tmp_path / "set", tmp_path / "cache")
    source, _ = read(tmp_path / "set", tmp_path / "cache", label="fine_label")
    assert counts(source) == dict.fromkeys("pqrs", 3)
    with pytest.raises(DataError, match=r"no column 'fine'.*did you mean 'fine_label'"):
        read(tmp_path / "set", tmp_path / "cache", label="fine")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("train/state.json", "{"),
        ("train/state.json", "{}"),
        ("train/data-00000-of-00001.arrow", "no arrow"),
        ("dataset_dict.json", '{"splits": ["../dd/train"]}'),
        ("dataset_dict.json", '{"splits": ["gone"]}'),
        ("dataset_dict.json", '{"splits": []}'),
    ],
)
def test_damaged_dataset_is_one_line(file: str, text: str, tmp_path: Path) -> None:
    shutil.copytree(SAVED / "dd", tmp_path / "dd")
    (tmp_path / "dd" / file).write_text(text)
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "dd", tmp_path / "cache")
    assert "\n" not in str(caught.value)
    (fault,) = look(build(Data, {"source": f"folder:{tmp_path}/dd", "root": str(tmp_path)})).faults
    assert fault.fatal


def test_without_the_library_that_reads_arrow_a_line_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # its import fails
    with pytest.raises(ConfigError, match="is read by pyarrow; install it, or save the images in"):
        read(SAVED / "dd", tmp_path / "cache")
    with pytest.raises(ConfigError, match="Parquet is read by pyarrow; install it, or use CSV"):
        read(tmp_path / "mine.parquet", tmp_path / "cache")


def test_second_look_reads_no_image(tmp_path: Path) -> None:
    first, _ = read(SAVED / "dd", tmp_path / "cache")
    (unpacked,) = (tmp_path / "cache/unpacked").iterdir()
    times = {path: path.stat().st_mtime_ns for path in unpacked.rglob("*")}
    again, _ = read(SAVED / "dd", tmp_path / "cache")
    assert again.digest == first.digest
    assert {path: path.stat().st_mtime_ns for path in unpacked.rglob("*")} == times


@pytest.mark.parametrize("hidden", [False, True])
def test_own_validation_stays_what_it_is_in_service(tmp_path: Path, hidden: bool) -> None:
    shutil.copytree(SAVED / "dd", tmp_path / "dd")
    if hidden:  # as in a benchmark: the classes of the test are not told
        save(tmp_path / "dd/test", {"image": images(4), "label": [-1] * 4}, FEATURES)
    data = build(Data, {"source": f"folder:{tmp_path}/dd", "world": "service"})
    for _ in range(2):  # as it is read, and as it was stored
        views = build_views(data, cache=tmp_path / "cache")
        sizes = {
            name: len(getattr(views, name).labels)
            for name in ("known_train", "validation_known", "held_out_known")
        }
        # without labels of the test a fifth of the training images are the test
        assert sizes == {
            "known_train": 10 if hidden else 12,
            "validation_known": 4,
            "held_out_known": 2 if hidden else 4,
        }
    found = look_at_photos(tmp_path / "dd", ledger=tmp_path / "model/splits.jsonl")
    assert Counter(photo.part for photo in found.photos) == {
        "train": 12,
        "val": 4,
        **({} if hidden else {"test": 4}),
    }
