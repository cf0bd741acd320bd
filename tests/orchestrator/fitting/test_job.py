"""A small fit, counted again: what chose, what was rehearsed, what serves and what judges it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from orchestrator.execution.execute import RecipeResult, execute, rebuild
from orchestrator.execution.store_executor import cached_views
from orchestrator.fitting import job as fit_job
from orchestrator.fitting.fit_options import FitOptions
from orchestrator.fitting.fit_record import FitRecord
from orchestrator.fitting.fitted_model import FittedModel
from orchestrator.fitting.progress_lines import Lines
from orchestrator.fitting.rehearsing import rehearse_scores
from orchestrator.fitting.start import fit_photos
from orchestrator.fitting.trying.answer_table import logits_out_of_fold
from orchestrator.fitting.trying.choosing import Answered, Choice, choose
from orchestrator.fitting.trying.variants import in_words
from orchestrator.options import EXPORTED, MODELS
from orchestrator.registry.versions import Registry
from orchestrator.store.stage_store import StageStore
from orchestrator.tracking.mlflow_client import tracking_uri
from tests.helpers.small_fit import few_variants, write_photos, write_weights
from trainables.closed_form.statistics import Samples, samples
from trainables.context import Context
from trainables.inference.outcomes import BASE_FILE, OUTCOMES_FILE, load_outcomes

SIZES = {"zero": 50, "one": 40, "three": 30, "two": 12, "four": 4, "five": 2, "six": 40}
CATCH_ALL = "other"  # what the sixes are called
SHARES = {"zero": 1, "one": 8, "three": 2, "two": 4, "four": 1, "five": 1, CATCH_ALL: 3}
LEVEL = 0.1


class Fit(NamedTuple):
    """A fit with what it was made of."""

    record: FitRecord
    options: FitOptions
    shown: str
    outcome: RecipeResult

    @property
    def exported(self) -> Path:
        return Path(self.options.storage) / MODELS / "photos" / EXPORTED

    @property
    def rows(self) -> list[dict[str, str]]:
        """The lines of the table of photos, in the order of the source."""
        with (self.exported.parent / "photos.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


def digest(row: dict[str, str]) -> str:
    """Return by what the tables of outcomes know an image."""
    return hashlib.sha256(Path(row["path"]).read_bytes()).hexdigest()


def fit(options: FitOptions) -> Fit:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow and pandas deprecate inside MLflow
        patch.setattr(fit_job, "list_variants", few_variants)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        record = fit_photos(options, Lines(out))
    outcome = execute(rebuild(record.recipe), StageStore(options.storage), Context())
    return Fit(record, options, out.getvalue(), outcome)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("small") / "weights")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Iterator[Fit]:
    """Return a fit to images in pairs, with shares of its own; it chooses by accuracy."""
    desk = tmp_path_factory.mktemp("desk")
    photos = write_photos(desk / "photos", SIZES)
    (photos / "six").rename(photos / CATCH_ALL)
    files = sorted(photos.rglob("*.png"))
    pairs = [f"{f.relative_to(photos)},{f.parent.name}{int(f.stem) // 2}" for f in files]
    (desk / "pairs.csv").write_text("\n".join(["path,group", *pairs]), encoding="utf-8")
    shares = "".join(f"{name}: {share}\n" for name, share in SHARES.items())
    (desk / "shares.yaml").write_text(shares, encoding="utf-8")
    options = FitOptions(
        photos=photos,
        backbone=str(weights),
        metric="accuracy",
        expect=str(desk / "shares.yaml"),
        false_alarm=LEVEL,
        groups=str(desk / "pairs.csv"),
        storage=str(desk / "runs"),
    )
    return fit(options)


def training(found: Fit) -> Samples:
    """Return what trains, with groups that are counted from the names of the files."""
    rows = [row for row in found.rows if row["part"] == "train"]
    names = sorted(SHARES)
    labels = torch.tensor([names.index(row["label"]) for row in rows])
    pairs = [(row["label"], int(Path(row["path"]).stem) // 2) for row in rows]
    view = cached_views(rebuild(found.record.recipe).data).known_train
    assert view.groups is not None
    number = dict(zip(pairs, view.groups.tolist(), strict=True))  # of each pair
    groups = torch.tensor([number[pair] for pair in pairs])
    assert len(set(number.values())) == len(number)
    features = found.outcome.artifacts["features"].known_train
    return samples(features, labels, groups=groups)


def chosen(found: Fit, data: Samples) -> tuple[Choice, list[Any], np.ndarray]:
    """Return the choice, the logits of all variants out of fold, and the rows that judge."""
    classifier = found.outcome.artifacts["classifier"]
    logits = [logits_out_of_fold(method, classifier, data) for method in few_variants()]
    labels, groups = data.labels.numpy(), data.groups.numpy()
    pairs = Counter(label for label, _ in set(zip(labels.tolist(), groups.tolist(), strict=True)))
    rows = np.flatnonzero([pairs[label] >= 3 for label in labels.tolist()])
    right = np.stack([(each.argmax(1).numpy() == labels)[rows] for each in logits])
    shares = np.array([SHARES[name] for name in sorted(SHARES)]) / sum(SHARES.values())
    answered = Answered(right, labels[rows], groups[rows], shares)
    return choose(answered, base=0, metric="accuracy"), logits, rows


@pytest.mark.slow
def test_the_choice_is_made_by_the_images_that_can_judge(fitted: Fit) -> None:
    choice, _, rows = chosen(fitted, training(fitted))
    search, variants = fitted.record.search, few_variants()
    assert search.best == in_words(variants[choice.best])
    assert search.served == in_words(variants[choice.served])
    assert (search.honest, search.gain) == (choice.honest, choice.gain)
    assert (search.metric, search.variants, search.left_out) == ("accuracy", len(variants), 0)
    assert search.classes_not_judged == ["five", "four"]  # of one pair and of two
    assert len(rows) == len(training(fitted).labels) - 6
    assert "the choice repeated inside; without five, four (under 3 shots)" in fitted.shown
    served = rebuild(fitted.record.recipe).rebalance.method
    assert served == variants[choice.served]


@pytest.mark.slow
def test_the_rehearsal_is_that_of_the_recipe_that_serves(fitted: Fit, tmp_path: Path) -> None:
    recipe = rebuild(fitted.record.recipe)
    names = sorted(SHARES)
    shares = torch.tensor([SHARES[name] for name in names]).double()
    expected = rehearse_scores(
        recipe.rebalance.method,
        recipe,
        training(fitted),
        names,
        level=LEVEL,
        prior=shares / shares.sum(),
        never_new=frozenset({CATCH_ALL}),
        met=frozenset(),
        folder=tmp_path,
        progress=lambda done, total: None,
    )
    assert recipe.score.method == expected.score
    assert fitted.record.rehearsal == json.loads(expected.rehearsal.to_json())
    assert {turn.class_name for turn in expected.rehearsal.turns} == set(names) - {CATCH_ALL}
    assert "6 of 7 classes played new" in fitted.shown
    assert (fitted.exported / "rehearsal.json").read_text() == expected.rehearsal.to_json()


@pytest.mark.slow
def test_what_was_asked_for_is_in_the_recipe(fitted: Fit) -> None:
    recipe = rebuild(fitted.record.recipe)
    assert recipe.score.threshold.level == LEVEL
    assert recipe.score.prior == f"file:{fitted.options.expect}"
    scorer = fitted.outcome.artifacts["scorer"]
    shares = torch.tensor([SHARES[name] for name in sorted(SHARES)]).double()
    torch.testing.assert_close(scorer.prior, shares / shares.sum())
    assert fitted.record.asked == fitted.options.words
    counts = fitted.outcome.artifacts["classifier"].class_counts.tolist()
    trained = {c.name: c.train for c in fitted.record.photos.classes}
    assert dict(zip(sorted(SHARES), counts, strict=True)) == trained


@pytest.mark.slow
def test_figures_are_those_of_the_model_that_answers(fitted: Fit) -> None:
    figures, model = fitted.record.figures, FittedModel(fitted.record)
    names, data = sorted(SHARES), training(fitted)
    choice, logits, _ = chosen(fitted, data)
    inside = logits[choice.served].argmax(1) == data.labels
    tests = [row for row in fitted.rows if row["part"] == "test"]
    answers = model.predict([row["path"] for row in tests])
    rates = {}
    for label, name in enumerate(names):
        right = [
            one.class_name == name
            for one, row in zip(answers, tests, strict=True)
            if row["label"] == name
        ]
        own = inside[data.labels == label].double().mean()
        rates[name] = float(np.mean(right)) if right else float(own)
    small = {name for name in names if not any(row["label"] == name for row in tests)}
    assert set(figures.out_of_fold_classes) == small - {"five"}  # its only pair left with it
    del rates["five"]
    assert {name: rate.mean for name, rate in figures.by_class.items()} == pytest.approx(rates)
    weight = sum(SHARES[name] for name in rates)
    natural = sum(SHARES[name] * rate for name, rate in rates.items()) / weight
    assert figures.natural.mean == pytest.approx(natural)
    assert figures.balanced.mean == pytest.approx(np.mean(list(rates.values())))
    assert figures.images == len(tests)
    called = np.mean([not one.known for one, row in zip(answers, tests, strict=True)])
    assert 0 < called < 0.4


@pytest.mark.slow
def test_the_tables_say_what_the_model_and_the_base_answer(fitted: Fit) -> None:
    data, names = training(fitted), np.array(sorted(SHARES))
    choice, logits, _ = chosen(fitted, data)
    files = {OUTCOMES_FILE: choice.served, BASE_FILE: 0}
    trained = [digest(row) for row in fitted.rows if row["part"] == "train"]
    for file, place in files.items():
        told = load_outcomes(fitted.exported / file)
        assert told.level == LEVEL
        inside = told.images.set_index("digest").loc[trained]
        assert inside["predicted"].tolist() == names[logits[place].argmax(1).numpy()].tolist()
    turns = {t["class_name"]: t["auroc"] for t in fitted.record.rehearsal["turns"]}
    assert load_outcomes(fitted.exported / OUTCOMES_FILE).rehearsal == pytest.approx(turns)
    assert not load_outcomes(fitted.exported / BASE_FILE).rehearsal


@pytest.mark.slow
def test_the_first_version_is_recorded_with_test_figures(fitted: Fit) -> None:
    registry = Registry(tracking_uri(None, Path(fitted.options.storage)))
    assert registry.aliases("photos") == {"champion": "1"}
    client = registry._client
    (experiment,) = client.search_experiments(filter_string="name = 'fit'")
    (run,) = client.search_runs([experiment.experiment_id])
    metrics = fitted.outcome.metrics
    for name in ("accuracy/balanced", "accuracy/few"):
        if f"evaluate/first/{name}" in metrics:
            told = run.data.metrics[f"test/{name}"]
            assert told == pytest.approx(metrics[f"evaluate/first/{name}"])
    assert any(name.startswith("test/") for name in run.data.metrics)
    assert not any("/updated/" in name for name in run.data.metrics)
    assert run.info.status == "FINISHED"
    total = fitted.record.photos.images
    (version,) = client.search_model_versions("name = 'photos'")
    assert version.description == f"Fitted to {total:,} photos of photos."


@pytest.mark.slow
def test_own_validation_images_are_answered_by_the_model_that_serves(
    tmp_path: Path, weights: Path
) -> None:
    photos = tmp_path / "photos"
    write_photos(photos / "train", {"zero": 30, "one": 25, "two": 12})
    write_photos(photos / "val", {"zero": 30, "one": 25}, first=60)
    write_photos(photos / "test", {"zero": 20, "one": 14}, first=120)
    found = fit(FitOptions(photos=photos, backbone=str(weights), storage=str(tmp_path / "runs")))
    search, figures = found.record.search, found.record.figures
    assert search.classes_not_judged == ["two"]
    assert "on val/, the choice repeated inside; without two (no images in val/)" in found.shown
    rows = [row for row in found.rows if row["part"] == "val"]
    answers = FittedModel(found.record).predict([row["path"] for row in rows])
    right = [one.class_name == row["label"] for one, row in zip(answers, rows, strict=True)]
    rates = [
        np.mean([ok for ok, row in zip(right, rows, strict=True) if row["label"] == name])
        for name in ("zero", "one")
    ]
    assert figures.validation is not None
    assert figures.validation.mean == pytest.approx(np.mean(rates))
    assert figures.false_alarm is not None
    assert set(figures.out_of_fold_classes) == {"two"}
    table = load_outcomes(found.exported / OUTCOMES_FILE).images
    inside = table[table["part"] == "train"]
    assert inside["confidence"].isna().all()  # validation images calibrate: no answer has one
    own = inside[inside["label"] == "two"]
    told = (own["predicted"] == own["label"]).mean()
    assert figures.by_class["two"].mean == pytest.approx(told)


@pytest.mark.slow
def test_validation_images_of_one_class_alone_choose_nothing(tmp_path: Path, weights: Path) -> None:
    photos = tmp_path / "photos"
    write_photos(photos / "train", {"zero": 30, "one": 25, "two": 12})
    write_photos(photos / "val", {"zero": 30}, first=60)
    write_photos(photos / "test", {"zero": 20, "one": 14}, first=120)
    found = fit(FitOptions(photos=photos, backbone=str(weights), storage=str(tmp_path / "runs")))
    search = found.record.search
    assert (search.judged_by, search.classes_not_judged) == ("out-of-fold", [])
    assert "val/ shows one class alone, so the choice is made out of fold" in found.shown
