"""Groups of names to predictions: each in its place, one group in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.answering.named_images import Named, Unreadable
from orchestrator.answering.stream import Prediction, predict_files, predictions
from tests.helpers.exported import exported, views_of
from trainables.errors import ConfigError
from trainables.inference.answers import answer_images
from trainables.inference.model import Model, load_model


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(exported())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder, view = tmp_path_factory.mktemp("images"), views_of().held_out_novel
    for number in range(20):
        Image.fromarray(view.images[view.indices[number]]).save(folder / f"{number:02d}.png")
    (folder / "text.png").write_text("no image", encoding="utf-8")
    return [str(path) for path in sorted(folder.iterdir())]


def test_each_name_has_its_answer_in_its_place(model: Model, files: list[str]) -> None:
    *images, text = files
    gone = Unreadable("gone.png", "no such file")
    group = [images[3], text, gone, images[0], text, images[3]]
    found = list(predictions(model, [group, [gone], images[:2]]))
    why = Unreadable(text, "the file is not an image of a known format")
    assert [n for n, item in enumerate(found) if isinstance(item, Unreadable)] == [1, 2, 4, 6]
    assert [found[1], found[2], found[4], found[6]] == [why, gone, why, gone]
    named = {n: item for n, item in enumerate(found) if isinstance(item, Prediction)}
    wanted = {0: images[3], 3: images[0], 5: images[3], 7: images[0], 8: images[1]}
    assert {n: item.image for n, item in named.items()} == wanted
    view = views_of().held_out_novel
    answers = answer_images(model, view.images[view.indices[[3, 0, 1]]])
    for place, answer in zip((0, 3, 8), answers, strict=True):
        assert named[place].probability == pytest.approx(answer.probability, abs=1e-5)
        assert named[place].second_class == answer.second_class
        assert named[place].known == answer.known
        assert named[place].nearest == (None if answer.known else answer.class_name)
    assert named[0] == named[5]


def test_a_group_is_read_when_its_answers_are_asked_for(model: Model, files: list[str]) -> None:
    read = []

    def groups() -> Iterator[list[Named]]:
        for number in range(100_000):
            read.append(number)
            yield [files[number % 20]]

    found = predictions(model, groups())
    assert next(found).image == files[0]
    assert next(found).image == files[1]
    assert len(read) == 2


def test_shares_count_the_known_images_of_the_model(model: Model, files: list[str]) -> None:
    view = views_of().validation_known
    found = [item for item in predictions(model, [files[:-1]]) if isinstance(item, Prediction)]
    ordinary = model.outputs(view).confidence.numpy()
    for item in found:
        assert item.known_images == len(view.labels)
        assert item.share is not None
        low, high = (np.mean(ordinary <= item.confidence + d) for d in (-1e-3, 1e-3))
        assert low <= item.share <= high
    assert len({item.share for item in found}) > 3


def test_all_or_nothing_for_programs(model: Model, files: list[str]) -> None:
    paths = [Path(name) for name in files]
    assert [answer.image for answer in predict_files(model, paths[:-1])] == files[:-1]
    with pytest.raises(ConfigError, match=r"text\.png: the file is not an image"):
        predict_files(model, paths)
