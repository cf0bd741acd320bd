"""Images that set the threshold: counted as the quantile counts them, refused in one line."""

import math
from pathlib import Path

import pytest
import torch

from orchestrator.fitting.fit_options import FitOptions
from orchestrator.fitting.threshold_images import require_threshold
from tests.orchestrator.fitting.training.test_kept_out import photos
from trainables.errors import ConfigError
from trainables.inference.expected_prior import weights_of
from trainables.methods.thresholds.false_alarm import weighted_quantile

SIZES = {"cat": 60, "dog": 40, "fox": 8}


def options(tmp_path: Path, shares: str = "", **more: object) -> FitOptions:
    if shares:
        (tmp_path / "shares.yaml").write_text(shares)
        more["expect"] = str(tmp_path / "shares.yaml")
    return FitOptions.model_validate({"photos": tmp_path, **more})


def test_an_extreme_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    asked = options(tmp_path, "cat: 1\ndog: 1\nfox: 98\n")
    with pytest.raises(ConfigError) as error:
        require_threshold(photos(SIZES), asked)
    # weights 1/60, 1/40 and 98/8: (100)^2 / (1/60 + 1/40 + 98^2 / 8) = 8.33; 1 / 9.33 = .107
    assert str(error.value) == (
        f"--expect {tmp_path / 'shares.yaml'}: 108 images set the threshold, and with these shares "
        "they tell no more than 8 alike; a false alarm of 5 % needs 19: add images of 'fox', "
        "expect less of 'fox' or give --false-alarm 0.11"
    )
    allowed = asked.model_copy(update={"false_alarm": 0.11})
    require_threshold(photos(SIZES), allowed)
    with pytest.raises(ConfigError, match=r"--false-alarm 0\.11"):
        require_threshold(photos(SIZES), asked.model_copy(update={"false_alarm": 0.1}))


@pytest.mark.parametrize("fox", [0.0, 1.0, 10.0, 30.0, 34.0, 35.0, 36.0, 40.0, 98.0])
def test_what_is_refused_is_what_has_no_quantile(fox: float, tmp_path: Path) -> None:
    shares = torch.tensor([30.0, 30.0, fox], dtype=torch.float64)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(list(SIZES.values())))
    weights = weights_of(shares / shares.sum(), labels)
    assert weights is not None
    values = torch.arange(len(labels), dtype=torch.float64)
    told = weighted_quantile(values, weights, 0.05) > -math.inf
    asked = options(tmp_path, f"cat: 30\ndog: 30\nfox: {fox}\n")
    try:
        require_threshold(photos(SIZES), asked)
        refused = False
    except ConfigError:
        refused = True
    assert refused is not told


def test_too_few_images_are_told_without_any_expectation(tmp_path: Path) -> None:
    few = photos({"cat": 10, "dog": 8})
    with pytest.raises(ConfigError) as error:
        require_threshold(few, options(tmp_path))
    assert str(error.value) == (
        "--false-alarm 0.05: 18 images set the threshold; a false alarm of 5 % needs 19: add "
        "images or give --false-alarm 0.06"
    )
    require_threshold(photos({"cat": 10, "dog": 9}), options(tmp_path))
    require_threshold(few, options(tmp_path, false_alarm=0.06))


def test_of_own_validation_images_these_alone_set_it(tmp_path: Path) -> None:
    some = photos({"cat": 60, "dog": 40})
    own = [p._replace(part="val") if n % 6 == 0 else p for n, p in enumerate(some.photos)]
    with pytest.raises(ConfigError, match="17 images set the threshold"):
        require_threshold(some._replace(photos=own), options(tmp_path))


def test_own_validation_images_with_other_shares_than_train_say_why_they_are_too_few(
    tmp_path: Path,
) -> None:
    some = photos({"cat": 500, "dog": 50})
    seen: dict[str, int] = {}
    own = []
    for photo in some.photos:
        seen[photo.class_name] = seen.get(photo.class_name, 0) + 1
        validates = photo.part == "train" and seen[photo.class_name] <= 10
        own.append(photo._replace(part="val") if validates else photo)
    # 10 validate of each; 490 and 40 train: shares p = 49/53, 4/53; 10 (p + q)^2 / (p^2 + q^2)
    # = 10 * 53^2 / (49^2 + 4^2) = 11.62, and 1 / 12.62 = .0792
    found = some._replace(photos=own, own_parts=frozenset({"train", "val"}))
    with pytest.raises(ConfigError) as error:
        require_threshold(found, options(tmp_path))
    assert str(error.value) == (
        "--false-alarm 0.05: 20 images of val/ set the threshold, and with the shares of the "
        "training images they tell no more than 11 alike; a false alarm of 5 % needs 19: add "
        "images of 'cat' to val/ or give --false-alarm 0.08"
    )
    require_threshold(found, options(tmp_path, false_alarm=0.08))
    even = options(tmp_path, expect="balanced")
    require_threshold(found, even)
    with pytest.raises(ConfigError, match=r"add images of 'cat' to val/, expect less of 'cat'"):
        require_threshold(found, options(tmp_path, "cat: 9\ndog: 1\n"))


def test_a_class_that_is_one_shot_sets_no_threshold(tmp_path: Path) -> None:
    some = photos({"cat": 10, "dog": 9, "fox": 40})
    one = [p._replace(group="f") if p.class_name == "fox" else p for p in some.photos]
    require_threshold(some._replace(photos=one), options(tmp_path))
    few = [p for p in one if p.file != Path("dog/3.png")]
    with pytest.raises(ConfigError, match="18 images set the threshold"):
        require_threshold(some._replace(photos=few), options(tmp_path))


def test_balanced_names_the_class_that_weighs_most(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--expect balanced: 202 images .* add images of 'fox'"):
        require_threshold(
            photos({"cat": 100, "dog": 100, "fox": 2}), options(tmp_path, expect="balanced")
        )


def test_a_file_with_a_wrong_class_is_refused_here_already(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"names 'fax', which is no class.*did you mean 'fox'"):
        require_threshold(photos(SIZES), options(tmp_path, "cat: 1\ndog: 1\nfax: 1\n"))
