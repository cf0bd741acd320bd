"""Answers of all variants: those of one variant alone, and a search that is cut short."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.fitting.trying.answer_table import (
    NO_ANSWER,
    AnswerTable,
    answer_all,
    logits_out_of_fold,
)
from orchestrator.fitting.trying.variants import families, list_variants
from orchestrator.store.stage_store import StageStore
from trainables.artifacts import Classifier
from trainables.closed_form.statistics import Samples, samples
from trainables.features.predict import predict_logits
from trainables.methods.heads import Head

VARIANTS = [m for m in list_variants() if m.name in ("ridge", "lda", "ncm")][:24]


@pytest.fixture
def data() -> Samples:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    centers = torch.randn(3, 8, generator=generator)
    noise = torch.randn(60, 8, generator=generator)
    return samples(centers[labels] + noise, labels, groups=torch.arange(60) // 2)


@pytest.fixture
def classifier(data: Samples) -> Classifier:
    state = {"weight": torch.zeros(3, 8), "bias": torch.zeros(3)}
    counts = data.labels.bincount()
    return Classifier(Head.parse("linear"), 8, state, torch.zeros(3), counts, torch.zeros(8))


def answered(classifier: Classifier, data: Samples, store: Path, in_time: int) -> AnswerTable:
    """Return the answers of as many families as there is time for."""
    asked = iter([True] * in_time + [False] * 20)
    return answer_all(
        VARIANTS,
        classifier,
        data,
        store=StageStore(str(store)),
        content=["a"],
        progress=lambda done, total: None,
        in_time=lambda: next(asked),
    )


def test_logits_of_a_variant_are_those_that_were_tried(
    classifier: Classifier, data: Samples, tmp_path: Path
) -> None:
    table = answered(classifier, data, tmp_path, 20)
    for place in (0, len(VARIANTS) - 1):
        logits = logits_out_of_fold(VARIANTS[place], classifier, data)
        assert logits.shape == (60, 3)
        assert torch.equal(logits.argmax(1), table.predicted[place].long())
        entropy = torch.nn.functional.cross_entropy(logits.double(), data.labels)
        assert float(table.surprise[place]) == pytest.approx(float(entropy))


def test_validation_images_are_answered_by_fits_to_all_training_images(
    classifier: Classifier, data: Samples, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(1)
    asked = samples(torch.randn(7, 8, generator=generator), torch.arange(1, 8) % 3)
    variants = [m for m in VARIANTS if m.name == "ncm"] + VARIANTS[:1]
    store, told = StageStore(str(tmp_path)), lambda done, total: None
    given = {"store": store, "content": ["a"], "progress": told}
    table = answer_all(variants, classifier, data, asked=asked, **given)
    available = {
        "classifier": classifier,
        "class_counts": classifier.class_counts,
        "features": data.features,
        "labels": data.labels,
        "groups": data.groups,
        "generator": torch.Generator(),
    }
    for method, predicted, surprise in zip(variants, *table, strict=True):
        logits = predict_logits(method.call_with(available), asked.features)
        assert torch.equal(logits.argmax(1), predicted.long())
        entropy = torch.nn.functional.cross_entropy(logits.double(), asked.labels)
        assert float(surprise) == pytest.approx(float(entropy))
    inside = answer_all(variants, classifier, data, **given)  # stored under a key of its own
    assert inside.predicted.shape == (len(variants), 60)


def test_a_search_that_is_cut_short_has_answers_of_the_first_families(
    classifier: Classifier, data: Samples, tmp_path: Path
) -> None:
    first, second = families(VARIANTS)[:2]
    none = answered(classifier, data, tmp_path / "a", 0)
    one = answered(classifier, data, tmp_path / "b", 1)
    for table, there in ((none, {first}), (one, {first, second})):
        missing = torch.tensor([m.name not in there for m in VARIANTS])
        assert (table.predicted[missing] == NO_ANSWER).all()
        assert table.surprise.isinf().equal(missing)
    whole = answered(classifier, data, tmp_path / "b", 20)  # it goes on from what is stored
    assert (whole.predicted != NO_ANSWER).all()
    assert torch.equal(whole.predicted[~missing], one.predicted[~missing])
