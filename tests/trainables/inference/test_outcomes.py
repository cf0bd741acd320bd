"""Tables of outcomes: what is stored is read back, and what is damaged is said."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from trainables.errors import ConfigError
from trainables.inference.model import Predictions
from trainables.inference.outcomes import (
    OUTCOMES_FILE,
    Outcomes,
    file_digest,
    image_table,
    load_outcomes,
    save_outcomes,
)


def answers(*names: str) -> Predictions:
    number = len(names)
    return Predictions(
        class_index=np.arange(number),
        class_name=list(names),
        probability=np.linspace(0.5, 0.9, number, dtype=np.float32),
        confidence=np.linspace(-1, 1, number, dtype=np.float32),
        known=np.arange(number) % 2 == 0,
    )


def table() -> Outcomes:
    images = image_table(
        ["a", "b", "c", "d", "e"],
        ["train", "test", "test", "pool", "train"],
        ["lynx", "lynx", "tabby, or \u00e4", "", "tabby, or \u00e4"],
        ["1", "2", "3", "4", "1"],
    )
    plain = Outcomes(images, ("lynx", "tabby, or \u00e4"), 1, 1, 0.05, {"lynx": 0.75})
    return plain.with_answers("test", ["c", "b"], answers("lynx", "lynx"))


def test_what_is_stored_is_read_back(tmp_path: Path) -> None:
    save_outcomes(table(), tmp_path / OUTCOMES_FILE)
    found = load_outcomes(tmp_path / OUTCOMES_FILE)
    assert found.images.equals(table().images)
    assert found._replace(images=None) == table()._replace(images=None)  # type: ignore[arg-type]
    before = (tmp_path / OUTCOMES_FILE).read_bytes()
    save_outcomes(table(), tmp_path / OUTCOMES_FILE)  # a version is known by its files' bytes
    assert (tmp_path / OUTCOMES_FILE).read_bytes() == before


def test_answers_find_their_image_by_its_digest() -> None:
    found = table().answered("test")
    assert found["digest"].tolist() == ["b", "c"]
    assert found["known"].tolist() == [False, True]  # "c" was asked first
    assert found["confidence"].tolist() == [1.0, -1.0]
    assert np.allclose(found["probability"], [0.9, 0.5])
    assert len(table().answered("train")) == 0


def test_answers_to_images_of_another_part_are_passed_over() -> None:
    found = table().with_answers("train", ["b", "e"], answers("lynx", "tabby"))
    assert found.answered("train")["digest"].tolist() == ["e"]
    assert found.answered("test")["predicted"].tolist() == ["lynx", "lynx"]
    with pytest.raises(ValueError, match="1 images, 2 answers"):
        table().with_answers("test", ["b"], answers("lynx", "lynx"))


def test_an_image_that_is_there_twice_was_fitted_on() -> None:
    found = image_table(["a", "a", "b", "b"], ["test", "pool", "val", "train"], ["x"] * 4, "1234")
    assert found[["digest", "part", "group"]].values.tolist() == [
        ["a", "pool", "2"],
        ["b", "train", "4"],
    ]
    with pytest.raises(ValueError, match="received held out"):
        image_table(["a"], ["held out"], ["x"], ["1"])


def test_bands_come_from_training_images() -> None:
    number = [3, 2, 1, 0]
    labels = [name for name, n in zip("wxyz", number, strict=True) for _ in range(n)]
    digests = [str(n) for n in range(len(labels) + 9)]
    images = image_table(digests, ["train"] * 6 + ["test"] * 9, labels + ["z"] * 9, digests)
    assert Outcomes(images, tuple("wxyz"), many_above=2, few_below=2).bands() == {
        "w": "many",
        "x": "medium",
        "y": "few",
        "z": "few",
    }


def test_a_digest_is_that_of_the_files_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"some bytes")
    assert file_digest(tmp_path / "a.png") == hashlib.sha256(b"some bytes").hexdigest()


def test_damaged_and_newer_files_are_one_line(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / OUTCOMES_FILE
    save_outcomes(table(), path)
    content = path.read_bytes()
    for damaged in (content[:-9], b"", b"PAR1"):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"outcomes\.parquet is damaged: ") as caught:
            load_outcomes(path)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr("trainables.inference.outcomes.FORMAT_VERSION", 2)
    save_outcomes(table(), path)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="has format 2; this program reads <= 1"):
        load_outcomes(path)
