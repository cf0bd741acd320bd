"""ImageNet and its subsets as they are published: synsets, their names, labelled validation."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.pictures import draw
from trainables.data.faults import DataError
from trainables.data.folders import Loaded, outline_folder, read_folder
from trainables.data.source_cache import Source
from trainables.errors import ConfigError

# the synsets and words of ImageNet; two classes are called crane
WORDS = {
    "n01440764": "tench, Tinca tinca",
    "n02012849": "crane",
    "n03126707": "crane",
    "n03775071": "mitten",
}
SHOWN = ("tench", "crane (n02012849)", "crane (n03126707)", "mitten")


def read(folder: Path, *, skip: bool = False) -> Loaded:
    return read_folder(folder, None, skip_unreadable=skip, cache=folder.parent / "cache")


def counts(source: Source) -> dict[str, int]:
    return dict(Counter(source.class_names[label] for label in source.labels))


def draw_train(folder: Path, count: int = 6, inner: str = "") -> None:
    for color, synset in enumerate(WORDS):
        for n in range(count):
            draw(folder / synset / inner / f"{synset}_{n}.JPEG", color, noise=n)


def draw_validation(folder: Path, count: int = 8) -> list[str]:
    """Draw validation images as published, in one folder; return their synsets in order."""
    for n in range(count):
        draw(folder / f"ILSVRC2012_val_{n + 1:08}.JPEG", n % 4, noise=100 + n)
    return [list(WORDS)[n % 4] for n in range(count)]


def write_words(file: Path) -> Path:
    separator = "\t" if file.name == "words.txt" else " "
    if file.suffix == ".json":
        plain: object = WORDS
        if file.name == "imagenet_class_index.json":
            first = [words.partition(",")[0].replace(" ", "_") for words in WORDS.values()]
            plain = {str(n): pair for n, pair in enumerate(zip(WORDS, first, strict=True))}
        file.write_text(json.dumps(plain), encoding="utf-8")
    else:
        lines = [f"{synset}{separator}{words}" for synset, words in WORDS.items()]
        file.write_text("\n".join([*lines, f"n00001740{separator}entity", ""]), encoding="utf-8")
    return file


def kaggle(root: Path) -> Path:
    """Write ImageNet as its archive of Kaggle has it, and return its root."""
    data = root / "ILSVRC/Data/CLS-LOC"
    draw_train(data / "train")
    draw(data / "test/ILSVRC2012_test_00000001.JPEG", 1)
    rows = [
        f"ILSVRC2012_val_{n:08},{synset} 1 2 3 4 {synset} 5 6 7 8 "
        for n, synset in enumerate(draw_validation(data / "val"), 1)
    ]
    text = "\n".join(["ImageId,PredictionString", *reversed(rows)])
    (root / "LOC_val_solution.csv").write_text(text, encoding="utf-8")
    write_words(root / "LOC_synset_mapping.txt")
    return root


@pytest.mark.parametrize("inner", ["", "ILSVRC/Data/CLS-LOC"])
def test_imagenet_of_kaggle(inner: str, tmp_path: Path) -> None:
    source, faults = read(kaggle(tmp_path / "imagenet") / inner)
    assert source.class_names == SHOWN  # in the order of synsets, as every published model has it
    assert np.bincount(source.labels[~source.is_test]).tolist() == [6] * 4
    assert np.bincount(source.labels[source.is_test]).tolist() == [2] * 4
    told = [fault.text for fault in faults]
    assert any("val/ is the test, as published" in text for text in told)
    assert any("left out (1): ILSVRC2012_test_00000001.JPEG" in text for text in told)
    assert not any(fault.fatal for fault in faults)


def test_imagenet_with_its_development_kit(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    root = tmp_path / "imagenet"
    draw_train(root / "train")
    synsets = draw_validation(root / "val")
    kit = root / "ILSVRC2012_devkit_t12/data"
    kit.mkdir(parents=True)
    order = ["n03775071", "n01440764", "n03126707", "n02012849"]  # its numbers are no alphabet
    record = [(n, synset, WORDS[synset], 0) for n, synset in enumerate(order, 1)]
    kinds = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("words", "O"), ("num_children", "i4")]
    savemat(kit / "meta.mat", {"synsets": np.array(record, dtype=kinds)})
    truth = "\n".join(str(order.index(synset) + 1) for synset in synsets)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    source, _ = read(root)
    assert source.class_names == tuple(WORDS)  # the kit's words are no table of names
    assert np.bincount(source.labels[source.is_test]).tolist() == [2] * 4
    (kit / "meta.mat").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"meta\.mat can't be read"):
        read(root)


@pytest.mark.parametrize(
    "file",
    ["LOC_synset_mapping.txt", "synset_words.txt", "words.txt", "Labels.json"],
)
def test_sorted_validation_is_the_test_and_classes_have_names(file: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    draw_train(root / "train")
    draw_train(root / "val", count=3)
    before, _ = read(root)
    assert before.class_names == tuple(WORDS)
    write_words(root / file)
    source, faults = read(root)
    assert source.class_names == SHOWN
    assert source.is_test.sum() == 12
    assert source.digest == before.digest
    assert [fault.text.partition(": ")[2] for fault in faults] == ["val/ is the test, as published"]


def test_class_index_names_classes(tmp_path: Path) -> None:
    draw_train(tmp_path / "set")
    write_words(tmp_path / "set/imagenet_class_index.json")
    assert read(tmp_path / "set").source.class_names == SHOWN
    (tmp_path / "set/imagenet_class_index.json").write_text("{")
    with pytest.raises(ConfigError, match=r"imagenet_class_index\.json is no valid JSON"):
        read(tmp_path / "set")


def test_changed_names_are_noticed(tmp_path: Path) -> None:
    draw_train(tmp_path / "set")
    table = write_words(tmp_path / "set/words.txt")
    assert read(tmp_path / "set").source.class_names == SHOWN
    table.write_text(table.read_text().replace("mitten", "glove"))
    assert read(tmp_path / "set").source.class_names[-1] == "glove"


def test_other_folders_keep_their_names_and_their_validation(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("val", 3)):
        for color, name in enumerate(("n01440764", "mine")):
            for n in range(count):
                draw(tmp_path / f"set/{part}/{name}/{n}.png", color, noise=n + 50 * count)
    write_words(tmp_path / "set/words.txt")
    source, faults = read(tmp_path / "set")
    assert source.class_names == ("mine", "n01440764")
    assert "val/ joins train/" in faults[0].text


def test_tiny_imagenet_has_names_and_all_its_faults_at_once(tmp_path: Path) -> None:
    root = tmp_path / "tiny"
    draw_train(root / "train", inner="images")
    lines = []
    for n in range(8):
        draw(root / f"val/images/val_{n}.JPEG", n % 4, noise=60 + n)
        lines.append(f"val_{n}.JPEG\t{list(WORDS)[n % 4]}\t0\t0\t8\t8")
    for n in range(2):
        draw(root / f"test/images/test_{n}.JPEG", 5, noise=n)
    write_words(root / "words.txt")
    (root / "wnids.txt").write_text("\n".join(WORDS))
    table = root / "val/val_annotations.txt"
    table.write_text("\n".join(lines))
    source, _ = read(root)
    assert source.class_names == SHOWN
    assert np.bincount(source.labels[source.is_test]).tolist() == [2] * 4
    wrong = ["val_9.JPEG\tn01440764", "val_0.JPEG\tn03775071", "val_1.JPEG", lines[2]]
    table.write_text("\n".join([*lines, *wrong]))
    (root / "train/n03775071/images/n03775071_0.JPEG").write_bytes(b"")
    outline = outline_folder(root, skip_unreadable=False, cache=tmp_path / "cache")
    told = [fault.text.replace(f"{tmp_path}/", "") for fault in outline.faults if fault.fatal]
    assert told == [
        "tiny/val/val_annotations.txt line 9 lists tiny/val/images/val_9.JPEG, which does not "
        "exist; restore the file or delete the line",
        "tiny/val/val_annotations.txt line 10 gives tiny/val/images/val_0.JPEG the class "
        "'n03775071', line 1 'n01440764'; delete one of them",
        "tiny/val/val_annotations.txt line 11 has no class; complete or delete the line",
        "tiny/train/n03775071/images/n03775071_0.JPEG can't be read as an image (the file is "
        "empty); delete or replace it, or set data.skip_unreadable=true to leave such files out",
    ]


def test_mini_imagenet_has_names(tmp_path: Path) -> None:
    root = tmp_path / "mini"
    for part, synsets in (
        ("train", list(WORDS)[:2]),
        ("val", ["n03126707"]),
        ("test", ["n03775071"]),
    ):
        rows = ["filename,label"]
        for synset in synsets:
            for n in range(5):
                draw(root / f"images/{synset}{n:08}.jpg", n, noise=int(synset[1:]))
                rows.append(f"{synset}{n:08}.jpg,{synset}")
        (root / f"{part}.csv").write_text("\n".join(rows))
    write_words(root / "words.txt")
    source, _ = read(root)
    assert counts(source) == dict.fromkeys(SHOWN, 5)
    assert source.is_test.sum() == 4


def test_imagenet_with_wrong_files_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = kaggle(tmp_path / "imagenet")
    validation = root / "ILSVRC/Data/CLS-LOC/val"
    (validation / "ILSVRC2012_val_00000003.JPEG").unlink()
    (validation / "notes.txt").write_text("mine")
    shutil.copy(validation / "ILSVRC2012_val_00000001.JPEG", validation / "again.JPEG")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    place = Path(os.path.relpath(root))
    with pytest.raises(DataError, match=r"line 7 lists .*_00000003\.JPEG, which does not exist"):
        read_folder(place, None, skip_unreadable=False, cache=tmp_path / "cache")
    source, faults = read_folder(place, None, skip_unreadable=True, cache=tmp_path / "cache")
    assert source.class_names == SHOWN
    assert np.bincount(source.labels[source.is_test]).tolist() == [2, 2, 1, 2]
    assert any("missing files left out (1): line 7" in fault.text for fault in faults)
