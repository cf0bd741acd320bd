"""Confidences of training images by scores without their group, beside refitting by brute force."""

from __future__ import annotations

import pytest
import torch

from trainables.methods.scores import Score

# classes of 12, 7, 3, 1 and 4 images; groups within a class, across classes, and of a whole class
LABELS = torch.tensor([0] * 12 + [1] * 7 + [2] * 3 + [3] + [4] * 4)
GROUPS = torch.arange(27)
GROUPS[5], GROUPS[20], GROUPS[21], GROUPS[25], GROUPS[26] = 4, 13, 19, 0, 24
WHOLE_CLASS = torch.where(LABELS == 2, 99, GROUPS)
FEATURES = torch.randn(27, 9, generator=torch.Generator().manual_seed(0)).double()
FEATURES = FEATURES + 3 * torch.eye(5, 9)[LABELS]


@pytest.mark.parametrize("groups", [torch.arange(27), GROUPS, WHOLE_CLASS], ids=str)
@pytest.mark.parametrize(
    "score",
    [
        "mahalanobis",
        {"mahalanobis": {"normalize": False, "ridge": 0.1}},
        "relative_mahalanobis",
        "knn",
        {"knn": {"k": 3}},
        {"knn": {"k": 30, "within_class": False}},
    ],
    ids=str,
)
def test_leaving_out_equals_refitting(score: object, groups: torch.Tensor) -> None:
    method, refitted = Score.parse(score), []
    for number, group in enumerate(groups.tolist()):
        rest = groups != group
        state = method.fit(features=FEATURES[rest], labels=LABELS[rest])
        refitted.append(method(features=FEATURES[number : number + 1], state=state))
    found = method.leave_out(features=FEATURES, labels=LABELS, groups=groups)
    torch.testing.assert_close(found, torch.cat(refitted), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("score", ["mahalanobis", "relative_mahalanobis"])
def test_images_without_any_variance_are_no_error(score: str) -> None:
    same, labels = torch.ones(4, 3).double(), torch.tensor([0, 0, 1, 1])
    method = Score.parse({score: {"normalize": False}})
    found = method.leave_out(features=same, labels=labels, groups=torch.arange(4))
    torch.testing.assert_close(found, torch.zeros(4).double())


def test_every_score_with_statistics_can_leave_images_out() -> None:
    fitted = {name for name in Score.shelf if hasattr(Score.shelf[name], "fit")}
    assert fitted == {name for name in Score.shelf if hasattr(Score.shelf[name], "leave_out")}
