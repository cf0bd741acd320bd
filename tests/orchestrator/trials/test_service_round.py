"""The service run: every class known, its own figures, the base beside it, nothing done twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from orchestrator.choice.service_figures import own_metrics
from orchestrator.options import LEDGER, SweepOptions, folder_of_model
from orchestrator.records import (
    FinalistRecord,
    Objective,
    SelectionRecord,
    SweepRecord,
    TrialRecord,
    interval,
)
from orchestrator.report.page import context
from orchestrator.report.service_lines import service_lines
from orchestrator.tracking.tracker import Tracker
from orchestrator.trials.finalists import recipe_of, run_seed
from orchestrator.trials.service_round import ServiceRound, candidate_of
from tests.helpers.weights import write_weights
from trainables.artifacts import save_artifact
from trainables.context import Context
from trainables.data.shots.ledger import Ledger
from trainables.errors import ConfigError
from trainables.experiment import Experiment, load_experiment
from trainables.inference.model import load_model
from trainables.inference.outcomes import BASE_FILE, OUTCOMES_FILE, file_digest, load_outcomes
from trainables.pipeline import run
from trainables.settings import assign

SIZES = {"ant": 26, "bee": 20, "cat": 14, "dog": 9}
TEST = 8
METRIC = "evaluate/accuracy/balanced"
COMPUTED: list[str] = []  # titles of what ran where trials run
SETS = (
    "data.image_size=48", "data.novel_classes=[cat, dog]", "data.validation_novel_classes=[dog]",
    "data.validation_per_class=4", "data.stream={known: 4, novel: 4, unrelated: 0}",
    "classify.training.epochs=0", "pretrain.method=pretrained", "rebalance.method=ridge",
    "score.method=msp", "score.threshold=false_alarm",
)  # fmt: skip


def picture(kind: int, number: int) -> Image.Image:
    """Return an image of a class that is hard to tell: its color is hidden in noise."""
    rng = np.random.default_rng([kind, number])
    color = np.array([110 + 12 * kind, 130, 150 - 12 * kind])
    return Image.fromarray((color + rng.normal(0, 45, (48, 48, 3))).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with photos, weights, and a copy of a test image among them."""
    root = tmp_path_factory.mktemp("desk")
    for kind, (name, count) in enumerate(SIZES.items()):
        for part, numbers in (("train", range(count)), ("test", range(500, 500 + TEST))):
            (root / "photos" / part / name).mkdir(parents=True)
            for n in numbers:
                picture(kind, n).save(root / "photos" / part / name / f"{n:03}.png")
    copied = root / "photos/test/ant/500.png"
    Image.open(copied).save(root / "photos/train/ant/a-copy.png")  # no training image
    write_weights(root / "weights")
    return root


@pytest.fixture(scope="module")
def base(desk: Path) -> Experiment:
    return load_experiment(
        None,
        [f"data.source=folder:{desk / 'photos'}", f"data.root={desk}",
         f"pretrain.backbone=local-dir:{desk / 'weights'}", *SETS],
    )  # fmt: skip


def trial(number: int, **params: Any) -> TrialRecord:
    name = f"trial-{number:04d}"
    return TrialRecord(trial_id=name, number=number, state="COMPLETE", params=params)


LDA = trial(1, **{"rebalance.method": "lda", "score.method": "mahalanobis"})


def finalist(found: TrialRecord, served: str = "first") -> FinalistRecord:
    metrics = {"evaluate/novelty/auroc": interval([0.75]), "test/accuracy": interval([0.125])}
    return FinalistRecord(
        trial_id=found.trial_id, params=found.params, seeds=[7], metrics=metrics,
        run_ids=["one"], served=served,
    )  # fmt: skip


@pytest.fixture
def final(
    base: Experiment, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ServiceRound]:
    """The round of a sweep whose winner is LDA, which computes in this process, without Ray."""
    trials = [trial(0), LDA]
    record = SweepRecord(
        name="s", space="frozen", started="", experiment=base.model_dump(mode="json"),
        environment={}, trials=trials, objectives=[Objective(metric=METRIC, mode="max")],
        finalists=[finalist(LDA), finalist(trials[0])],
        selection=SelectionRecord(winner="trial-0001", base="trial-0000", reason="better"),
    )  # fmt: skip
    for one in trials:
        found = run(recipe_of(one, 7, base), Context(seed=7))["evaluation"]
        folder = tmp_path / "models" / one.trial_id / "evaluation"
        save_artifact(found, folder)
    tracker = Tracker.open("http://127.0.0.1:9", tmp_path, "s", tmp_path / "spool")
    options = SweepOptions(storage=str(tmp_path / "storage"))

    COMPUTED.clear()

    def here(self: ServiceRound, recipe: Experiment, title: str, storage: str) -> None:
        COMPUTED.append(title)
        tree = recipe.model_dump(mode="json")
        run_seed(tree, {}, recipe.seed, storage, world="test", gpus=0.0, progress=("s", title))

    monkeypatch.setattr(ServiceRound, "_compute", here)
    yield ServiceRound(options, base, record, Console(quiet=True), tracker, tmp_path)
    tracker.close(timeout=0.1)


def test_the_model_knows_every_class_and_is_judged_by_its_own_answers(
    final: ServiceRound, desk: Path, tmp_path: Path
) -> None:
    final.run(str(tmp_path / "storage"))
    service = final.record.service
    assert service is not None
    assert (service.trial_id, service.seed, service.classes) == ("trial-0001", 7, 4)
    assert (service.images, service.calibrating, service.test_images) == (69, 0, 32)
    model = load_model(tmp_path / service.folder)
    assert model.card.class_names == tuple(SIZES)
    assert model.card.class_counts == tuple(SIZES.values())
    files = sorted((desk / "photos/test").rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    answers = model.predict(pixels)
    right = [name == file.parent.name for name, file in zip(answers.class_name, files, strict=True)]
    assert 0.25 < np.mean(right) < 1.0  # neither trivial nor chance
    assert service.metrics["test/accuracy"] == pytest.approx(np.mean(right))
    assert service.metrics["test/novelty/false_alarm"] == pytest.approx(np.mean(~answers.known))
    assert service.metrics["rehearsal/novelty/auroc"] == 0.75
    assert not any(name.startswith("test/novelty/auroc") for name in service.metrics)
    table = load_outcomes(tmp_path / service.folder / OUTCOMES_FILE)
    assert table.classes == tuple(SIZES)
    assert table.level == 0.05
    rows = table.images.set_index("digest")
    assert rows["part"].value_counts().to_dict() == {"train": 69, "test": 32}
    told = [rows.loc[file_digest(file)] for file in files]
    assert [row["predicted"] for row in told] == list(answers.class_name)
    assert [row["label"] for row in told] == [file.parent.name for file in files]
    assert file_digest(desk / "photos/train/ant/a-copy.png") in rows.index  # the test image's bytes
    inside = table.answered("train")
    assert len(inside) == 69
    fold = float((inside["predicted"] == inside["label"]).mean())
    assert service.metrics["out_of_fold/accuracy"] == pytest.approx(fold)


def test_tables_have_the_base_beside_it_and_who_played_new(
    final: ServiceRound, tmp_path: Path
) -> None:
    final.run(str(tmp_path / "storage"))
    assert COMPUTED == ["trial 1", "base"]
    folder = tmp_path / candidate_of(final.record).folder
    own, beside = (load_outcomes(folder / name) for name in (OUTCOMES_FILE, BASE_FILE))
    assert set(own.rehearsal) == set(beside.rehearsal) == {"cat"}  # dog played new in validation
    assert own.rehearsal != beside.rehearsal
    assert own.images["digest"].tolist() == beside.images["digest"].tolist()
    assert own.answered("test")["probability"].ne(beside.answered("test")["probability"]).any()


def test_a_start_that_follows_does_nothing_twice_and_a_lost_model_is_made_again(
    final: ServiceRound, tmp_path: Path
) -> None:
    final.run(str(tmp_path / "storage"))
    first = final.record.service
    assert first is not None
    card = tmp_path / first.folder / "model.json"
    card.write_text(card.read_text() + "\n")
    final.run(str(tmp_path / "storage"))
    assert card.read_text().endswith("\n")
    SweepRecord.load(tmp_path)  # saved
    card.unlink()
    final.run(str(tmp_path / "storage"))
    assert final.record.service == first
    assert load_model(tmp_path / first.folder).card.class_names == tuple(SIZES)
    lines = (tmp_path / "spool" / "entries.jsonl").read_text().splitlines()
    entries = [e for e in map(json.loads, lines) if e.get("run") == "trial-0001-service"]
    ends = [entry for entry in entries if entry["op"] == "finish"]
    assert {json.dumps(end["metrics"], sort_keys=True) for end in ends if "metrics" in end}
    starts = [entry for entry in entries if entry["op"] == "start"]
    assert starts[0]["tags"]["orchestrator.role"] == "service"


def test_where_the_winner_cannot_serve_the_base_does(final: ServiceRound, tmp_path: Path) -> None:
    # 26 images alone are not enough to calibrate a head that was trained on all images
    starts = trial(2, **{"rebalance.method": "tau_norm"})
    final.record.trials.append(starts)
    final.record.finalists = [finalist(starts), finalist(final.record.trials[0], "updated")]
    final.record.selection = SelectionRecord(winner=starts.trial_id, base="trial-0000", reason="")
    final.base = final.base.model_copy(
        update={"data": final.base.data.model_copy(update={"validation_per_class": 4})}
    )
    few = {"score.threshold": "false_alarm", "score.threshold.false_alarm.level": 0.02}
    starts.params.update(few)
    final.record.finalists[0].params.update(few)
    final.run(str(tmp_path / "storage"))
    service = final.record.service
    assert service is not None
    assert service.trial_id == "trial-0000"
    assert service.notes[0].startswith("trial 2 won but can't serve, so the base recipe is served")
    assert service.notes[-1].startswith("it answers as before an update")
    assert candidate_of(final.record).run == "trial-0000-service"


def test_a_base_that_won_and_cannot_serve_ends_the_round(
    final: ServiceRound, tmp_path: Path
) -> None:
    final.record.selection = SelectionRecord(winner="trial-0000", base="trial-0000", reason="")
    final.record.finalists = [finalist(final.record.trials[0])]
    final.base = assign(
        final.base,
        {"rebalance.method": "tau_norm", "score.threshold": {"false_alarm": {"level": 0.02}}},
    )
    with pytest.raises(ConfigError, match=r"data\.source"):
        final.run(str(tmp_path / "storage"))
    assert COMPUTED == []
    assert final.record.service is None


def test_a_base_that_fails_is_not_computed_twice(
    final: ServiceRound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: ServiceRound, recipe: Experiment, title: str, storage: str) -> None:
        COMPUTED.append(title)
        raise ValueError("broken")

    monkeypatch.setattr(ServiceRound, "_compute", broken)
    final.record.selection = SelectionRecord(winner="trial-0000", base="trial-0000", reason="")
    final.record.finalists = [finalist(final.record.trials[0])]
    with pytest.raises(ValueError, match="broken"):
        final.run(str(tmp_path / "storage"))
    assert COMPUTED == ["trial 0"]


def test_every_line_says_which_figure_it_is(final: ServiceRound, tmp_path: Path) -> None:
    assert service_lines(final.record) == []
    assert candidate_of(final.record).folder == "models/trial-0001"
    page = context(final.record, tmp_path)
    assert (page["service"], page["rehearsal"]) == ([], False)
    final.run(str(tmp_path / "storage"))
    page = context(final.record, tmp_path)
    assert page["service"] == service_lines(final.record)
    assert page["rehearsal"]
    first, *others = service_lines(final.record)
    assert first == (
        "service: trial 1 once more, with all 4 classes known and 69 training images, seed 7; "
        "this is the model that answers"
    )
    service = final.record.service
    assert service is not None
    shown = service.metrics
    medium, few = service.alarms
    assert (medium.band, medium.number, few.band, few.number) == ("medium", 16, "few", 16)
    assert service.uncalibrated == {}  # all training images answer out of fold
    assert (medium.value, few.value) == (
        shown["test/novelty/false_alarm/medium"], shown["test/novelty/false_alarm/few"]
    )  # fmt: skip
    assert others.pop(1).startswith("  test images of known classes called unknown: medium ")
    assert others == [
        "  its own answers to 32 test images: accuracy/balanced "
        f"{shown['test/accuracy/balanced']:.4f}  accuracy {shown['test/accuracy']:.4f}  "
        f"novelty/false_alarm {shown['test/novelty/false_alarm']:.4f}",
        "  out of fold, on its training images: accuracy/balanced "
        f"{shown['out_of_fold/accuracy/balanced']:.4f}  novelty/false_alarm "
        f"{shown['out_of_fold/novelty/false_alarm']:.4f}",
        "  new classes, from the rehearsal of trial 1 (some played new): novelty/auroc 0.7500",
    ]


def test_the_model_keeps_to_the_parts_that_are_written_down(
    final: ServiceRound, desk: Path, tmp_path: Path
) -> None:
    # by a ledger two training images of the laboratory are test images, and one test image is none
    rows = []
    for file in sorted((desk / "photos").rglob("*.png")):
        part = file.parent.parent.name
        if (part, file.parent.name, file.stem) in {
            ("train", "ant", "003"),
            ("train", "dog", "001"),
        }:
            part = "test"
        if (part, file.stem) != ("test", "507"):
            rows.append(f"{file},{file.parent.name},{part}")
    served = tmp_path / "served.csv"
    served.write_text("\n".join(["path,label,part", *rows]))
    final.record.served_source = f"table:{served}"
    ledger = folder_of_model(final.options.storage, final.options.model) / LEDGER
    Ledger(ledger).append([("b1", "p1", "g1", "test")])
    final.run(str(tmp_path / "storage"))
    service = final.record.service
    assert service is not None
    assert (tmp_path / service.folder / LEDGER).read_bytes() == ledger.read_bytes()
    assert (service.classes, service.images, service.test_images) == (4, 67, 30)
    table = load_outcomes(tmp_path / service.folder / OUTCOMES_FILE)
    part = table.images.set_index("digest")["part"]
    for name in ("ant/003.png", "dog/001.png"):
        assert part[file_digest(desk / "photos/train" / name)] == "test"
    assert file_digest(desk / "photos/test/bee/507.png") not in part.index
    beside = load_outcomes(tmp_path / service.folder / BASE_FILE)
    assert beside.images["part"].tolist() == table.images["part"].tolist()


def test_without_a_class_that_played_new_nothing_is_told_of_new_ones(
    final: ServiceRound, tmp_path: Path
) -> None:
    final.base = assign(
        final.base,
        {"data.novel_classes": 0, "data.validation_novel_classes": 0, "data.stream.novel": 0},
    )
    final.run(str(tmp_path / "storage"))
    assert final.record.service is not None
    assert not any(name.startswith("rehearsal/") for name in final.record.service.metrics)
    table = load_outcomes(tmp_path / final.record.service.folder / OUTCOMES_FILE)
    assert table.rehearsal == {}


def test_what_no_update_and_no_new_class_showed_is_no_figure_of_the_model() -> None:
    given = {
        "evaluate/first/accuracy": 0.5, "evaluate/first/forgetting": 0.0,
        "evaluate/updated/accuracy": 0.5, "evaluate/novelty/oscr": 0.1, "evaluate/oracle": 0.0,
    }  # fmt: skip
    assert own_metrics(given) == {"test/accuracy": 0.5, "evaluate/oracle": 0.0}
