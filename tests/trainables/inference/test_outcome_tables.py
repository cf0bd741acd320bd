"""Answers of a model as tables: verdicts by each class's threshold, digests, parts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.pictures import draw
from trainables.artifacts import Classifier, Features, OutOfFold, Scorer
from trainables.data.data_settings import Data
from trainables.data.shots.photo_set import Photo
from trainables.data.views import build_views
from trainables.errors import ConfigError
from trainables.experiment import Evaluate
from trainables.inference.outcome_tables import (
    answers_of_table,
    answers_out_of_fold,
    answers_to_kept_out,
    answers_to_test,
    outcomes_of,
    pictures_of,
    save,
)
from trainables.inference.outcomes import BASE_FILE, OUTCOMES_FILE, file_digest, load_outcomes
from trainables.methods.calibrators import Calibrator
from trainables.methods.heads import Head
from trainables.methods.scores import Score

NAMES = ["ant", "bee"]
SCORER = Scorer(Calibrator.parse("none"), {}, Score.parse("msp"), {}, 0.5, torch.tensor([0.9, 0.2]))
NOTHING = answers_of_table(torch.empty(0, dtype=torch.long), NAMES)
ARRAYS = {
    "confidence_known": torch.tensor([0.8, 0.8, 0.1]),
    "predicted": torch.tensor([0, 1, 1, 0]),  # the last one is of no known class
    "probability": torch.tensor([0.8, 0.7, 0.6]),
}


def photo(name: str, part: str, digest: str) -> Photo:
    return Photo(Path(f"{digest}.png"), name, part, f"g{digest}", digest, digest, (8, 8))  # type: ignore[arg-type]


def test_each_class_has_its_threshold() -> None:
    found = answers_to_test(ARRAYS, SCORER, NAMES)
    assert found.class_name == ["ant", "bee", "bee"]
    assert found.known.tolist() == [False, True, False]  # .8 < .9; .8 >= .2; .1 < .2
    inside = answers_out_of_fold(
        OutOfFold(
            torch.tensor([[0.0, 2.0], [2.0, 0.0]]), torch.tensor([0.3, 0.3]), torch.arange(2)
        ),
        SCORER,
        NAMES,
    )
    assert inside.class_name == ["bee", "ant"]
    assert inside.known.tolist() == [True, False]
    assert inside.probability.tolist() == [torch.tensor([0.0, 2.0]).softmax(0)[1].item()] * 2


def test_probabilities_out_of_fold_are_calibrated() -> None:
    scorer = SCORER._replace(
        calibrator=Calibrator.parse("temperature"),
        calibrator_state={"temperature": torch.tensor(2.0)},
    )
    logits = torch.tensor([[0.0, 2.0]])
    found = answers_out_of_fold(
        OutOfFold(logits, torch.tensor([0.3]), torch.arange(1)), scorer, NAMES
    )
    assert found.probability.tolist() == [pytest.approx(0.7310586)]  # 1 / (1 + exp(-1))


def test_images_that_a_network_was_not_trained_on_have_its_answers() -> None:
    photos = [photo("ant", "test", "a"), photo("bee", "val", "b"), photo("ant", "train", "c")]
    arrays = {name: values[:1] for name, values in ARRAYS.items()}
    inside = OutOfFold(torch.tensor([[0.0, 2.0]]), torch.tensor([0.3]), torch.arange(1))
    kept = answers_out_of_fold(inside, SCORER, NAMES)
    found = outcomes_of(
        photos,
        NAMES,
        Evaluate(),
        test=([0], answers_to_test(arrays, SCORER, NAMES)),
        train=([1], kept),
    )
    rows = found.images.set_index("digest")
    assert rows["predicted"].to_dict() == {"a": "ant", "b": "bee", "c": ""}


def test_answers_are_told_by_digest_whatever_the_order_of_images() -> None:
    photos = [photo("ant", "test", "a"), photo("bee", "train", "b"), photo("bee", "test", "c"),
              photo("ant", "train", "d"), photo("ant", "test", "e")]  # fmt: skip
    inside = OutOfFold(
        torch.tensor([[0.0, 2.0], [2.0, 0.0]]), torch.tensor([0.3, 0.3]), torch.arange(2)
    )
    found = outcomes_of(
        photos,
        NAMES,
        Evaluate(),
        test=([0, 4, 2], answers_to_test(ARRAYS, SCORER, NAMES)),
        train=([3, 1], answers_out_of_fold(inside, SCORER, NAMES)),
        level=0.05,
    )
    rows = found.images.set_index("digest")
    assert rows["predicted"].to_dict() == {
        "a": "ant", "e": "bee", "c": "bee", "d": "bee", "b": "ant"
    }  # fmt: skip
    assert rows["known"].to_dict() == {"a": False, "e": True, "c": False, "d": True, "b": False}
    assert rows.loc["a", "group"] == "ga"
    assert found.level == 0.05


def test_images_that_were_kept_out_are_answered_as_new_ones_are() -> None:
    head = {"weight": torch.eye(2), "bias": torch.zeros(2)}
    counts = torch.tensor([3, 2])
    classifier = Classifier(
        Head.parse("linear"), 2, head, torch.tensor([0.0, 1.0]), counts, torch.zeros(2)
    )
    asked = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.5, 0.0]])  # logits [2, 1], [0, 3], [.5, 1]
    features = Features(known_train=-asked, validation_known=asked)
    scorer = SCORER._replace(
        calibrator=Calibrator.parse("temperature"),
        calibrator_state={"temperature": torch.tensor(2.0)},
        class_thresholds=torch.tensor([0.7, 0.6]),
    )
    found = answers_to_kept_out({"features": features, "classifier": classifier}, scorer, NAMES)
    assert found.class_name == ["ant", "bee", "bee"]
    # softmax of halved logits: 1 / (1 + exp(-.5)), 1 / (1 + exp(-1.5)), 1 / (1 + exp(-.25))
    wanted = [0.6224593, 0.8175745, 0.5621765]
    assert found.probability.tolist() == pytest.approx(wanted)
    assert found.confidence.tolist() == pytest.approx(wanted)  # maximum softmax probability
    assert found.known.tolist() == [False, True, False]  # .62 < .7; .82 >= .6; .56 < .6


def test_an_answer_of_which_the_class_alone_is_known_is_never_unknown() -> None:
    found = answers_of_table(torch.tensor([1, 0, 1]), NAMES)
    assert found.class_name == ["bee", "ant", "bee"]
    assert found.class_index.tolist() == [1, 0, 1]
    assert found.known.tolist() == [True, True, True]
    assert np.isnan(found.probability).all()
    assert np.isnan(found.confidence).all()


def table(folder: Path, *, grouped: bool) -> Data:
    """Write images of two classes with their part and, if wanted, group; return data settings."""
    lines = ["path,label,part" + (",group" if grouped else "")]
    for number, part in enumerate(("train", "train", "val", "test", "train", "test")):
        for name in NAMES:
            draw(folder / f"{name}{number}.png", number, noise=NAMES.index(name))
            group = f",{name if number < 2 else ''}" if grouped else ""
            lines.append(f"{folder / name}{number}.png,{name},{part}{group}")
    (folder / "list.csv").write_text("\n".join(lines))
    source = f"table:{folder / 'list.csv'}"
    return Data(source=source, root=str(folder), image_size=8, world="service")


@pytest.mark.parametrize("grouped", [True, False])
def test_pictures_have_the_part_class_and_group_of_their_files(
    tmp_path: Path, grouped: bool
) -> None:
    data = table(tmp_path, grouped=grouped)
    views = build_views(data)
    pictures = pictures_of(data, views)
    found = {picture.bytes_digest: picture for picture in pictures}
    assert len(found) == len(pictures) == 12
    for number, part in enumerate(("train", "train", "val", "test", "train", "test")):
        for name in NAMES:
            picture = found[file_digest(tmp_path / f"{name}{number}.png")]
            assert (picture.part, picture.class_name) == (part, name)
    groups = [[found[file_digest(tmp_path / f"{name}{n}.png")].group for n in range(6)]
              for name in NAMES]  # fmt: skip
    assert len({*groups[0], *groups[1]}) == (10 if grouped else 12)
    assert all((own[0] == own[1]) == grouped for own in groups)
    held = views.index_lists["held_out_known"]
    assert [pictures[n].part for n in held] == ["test"] * 4


@pytest.mark.parametrize("change", ["other pixels", "one for another"])
def test_files_that_changed_since_they_were_decoded_are_told_no_answers(
    tmp_path: Path, change: str
) -> None:
    """As many files are there, so that the answers to others would go by their digests."""
    data = table(tmp_path, grouped=False)
    views = build_views(data)
    draw(tmp_path / "bee4.png", 77)
    if change == "one for another":
        (tmp_path / "bee4.png").replace(tmp_path / "new.png")
        rows = (tmp_path / "list.csv").read_text().replace("bee4.png", "new.png")
        (tmp_path / "list.csv").write_text(rows)
    with pytest.raises(ConfigError, match="its files changed since they were decoded; start again"):
        pictures_of(data, views)


def test_the_table_of_the_base_lies_beside_that_of_the_model(tmp_path: Path) -> None:
    one = outcomes_of([photo("ant", "test", "a")], NAMES, Evaluate(), test=([], NOTHING), level=0.5)
    save(one, tmp_path, base=False)
    save(one._replace(level=0.25), tmp_path, base=True)
    assert load_outcomes(tmp_path / OUTCOMES_FILE).level == 0.5
    assert load_outcomes(tmp_path / BASE_FILE).level == 0.25
