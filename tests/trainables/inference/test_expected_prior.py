"""How often each class is expected: named, or told by a file in one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainables.errors import ConfigError
from trainables.inference.expected_prior import expected_prior, weights_of
from trainables.methods.calibrators.temperature import Temperature
from trainables.methods.metrics.calibration import Calibration

NAMES, COUNTS = ["cat", "dog", "owl"], torch.tensor([6, 3, 1])


def told(tmp_path: Path, text: str) -> torch.Tensor | None:
    path = tmp_path / "expected.yaml"
    path.write_text(text)
    return expected_prior(f"file:{path}", COUNTS, NAMES)


def test_a_file_gives_a_number_to_each_class(tmp_path: Path) -> None:
    prior = told(tmp_path, "owl: 1\ncat: 2.5\ndog: 1.5\n")
    assert prior is not None
    assert prior.tolist() == [0.5, 0.3, 0.2]
    exact = told(tmp_path, "owl: 100000001\ncat: 100000000\ndog: 0\n")
    assert exact is not None
    assert exact.tolist() == [100000000 / 200000001, 0.0, 100000001 / 200000001]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat: 1\ndog: 1\nowls: 2\n", "names 'owls', which is no class; allowed: cat, dog, owl"),
        ("cat: 1\ndog: 1\n", "must give class 'owl' a number of at least 0.*received none"),
        ("cat: 1\ndog: 1\nowl: -2\n", "must give class 'owl' a number.*received -2"),
        ("cat: 1\ndog: many\nowl: 2\n", "must give class 'dog' a number.*received many"),
        ("cat: 0\ndog: 0\nowl: 0\n", "expects no image of any class"),
        ("cat: 1\ndog: .inf\nowl: 2\n", "must give class 'dog' a number.*at most 1e\\+15.*inf"),
        ("cat: 1\ndog: .nan\nowl: 2\n", "must give class 'dog' a number.*received nan"),
        ("cat: 1\ndog: 1.0e+300\nowl: 2\n", "must give class 'dog' a number.*received 1e\\+300"),
        ("cat: 1\ndog: true\nowl: 2\n", "must give class 'dog' a number.*received True"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        told(tmp_path, text)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"nowhere.yaml: no such file"):
        expected_prior("file:nowhere.yaml", COUNTS, NAMES)


def test_weights_make_classes_as_frequent_as_expected() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    weights = weights_of(torch.tensor([0.2, 0.8, 0.0]), labels)
    assert weights is not None
    shares = torch.bincount(labels, weights) / weights.sum()
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.8, 0.0]).double())
    assert float(weights.mean()) == pytest.approx(1.0)


def test_a_weight_of_two_is_an_image_twice() -> None:
    draws = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 3, generator=draws), torch.arange(40) % 3
    weights = 1.0 + (torch.arange(40) % 2)
    twice = torch.arange(40).repeat_interleave(weights.long())
    counted = Temperature().fit(logits=logits, labels=labels, weights=weights)
    repeated = Temperature().fit(logits=logits[twice], labels=labels[twice])
    torch.testing.assert_close(counted["temperature"], repeated["temperature"], rtol=1e-6, atol=0)
    stated = torch.rand(40, generator=draws).double()
    happened = (torch.rand(40, generator=draws) < 0.5).double()
    share, gap = Calibration().gaps(stated, happened, weights)
    share_of_all, gap_of_all = Calibration().gaps(stated[twice], happened[twice])
    torch.testing.assert_close(share, share_of_all)
    torch.testing.assert_close(gap, gap_of_all)
