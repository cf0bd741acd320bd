"""Answers in words are the outputs of the model."""

from __future__ import annotations

from copy import copy

import numpy as np
import pytest
import torch

from tests.helpers.exported import exported, views_of
from trainables.inference.answers import answer_images
from trainables.inference.model import Model, Outputs, load_model


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(exported())


def test_answers_are_those_of_the_model(model: Model) -> None:
    view = views_of().held_out_novel
    images = view.images[view.indices]
    answers, wanted = answer_images(model, images), model.answer(images)
    assert [answer.class_index for answer in answers] == wanted.class_index.tolist()
    assert [answer.class_name for answer in answers] == wanted.class_name
    assert [answer.known for answer in answers] == wanted.known.tolist()
    assert len({answer.known for answer in answers}) == 2
    found = np.array([[answer.probability, answer.confidence] for answer in answers])
    np.testing.assert_allclose(found[:, 0], wanted.probability, rtol=1e-5)
    np.testing.assert_allclose(found[:, 1], wanted.confidence, rtol=1e-5)


def test_the_second_class_is_the_largest_of_the_others(model: Model) -> None:
    view = views_of().held_out_novel
    probabilities = model.outputs(view).logits.double().softmax(1).numpy()
    names = model.card.class_names
    for row, answer in zip(
        probabilities, answer_images(model, view.images[view.indices]), strict=True
    ):
        rest = list(zip(row, names, strict=True))
        rest.remove(max(rest))
        assert (answer.second_class, answer.second_probability) == (
            max(rest)[1],
            pytest.approx(max(rest)[0], abs=1e-5),
        )


def test_nearest_is_for_unknown_images_alone(model: Model) -> None:
    view = views_of().held_out_novel
    for answer in answer_images(model, view.images[view.indices]):
        assert answer.nearest == (None if answer.known else answer.class_name)
        assert answer.strangeness is not None
        assert answer.share == answer.strangeness.as_strange / len(
            views_of().validation_known.labels
        )


def test_only_met_classes_among_the_two_are_named(model: Model) -> None:
    names, view = model.card.class_names, views_of().held_out_novel
    met = copy(model)
    met.card = model.card.model_copy(update={"met_classes": (names[0], names[1], "elsewhere")})
    answers = answer_images(met, view.images[view.indices])
    for answer in answers:
        shown = [answer.class_name, answer.second_class]
        assert answer.met_classes == tuple(name for name in shown if name in names[:2])
    assert {len(answer.met_classes) for answer in answers} >= {0, 1}


def test_a_single_class_has_no_second(model: Model) -> None:
    single = copy(model)
    single.card = model.card.model_copy(update={"class_names": ("tabby",), "num_known": 1})
    sure = torch.tensor([model.scorer.threshold + 1, model.scorer.threshold - 1])
    single.outputs = lambda view: Outputs(torch.zeros(2, 1), sure)  # type: ignore[method-assign]
    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    first, second = answer_images(single, images)
    assert (first.class_name, first.second_class, first.second_probability) == ("tabby", None, None)
    assert (first.probability, first.met_classes) == (1.0, ())
    assert (first.nearest, second.nearest) == (None, "tabby")
