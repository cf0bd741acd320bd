"""Two batches in a step: golden vectors, and one contract for all that stand on the shelf."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers.vectors import golden, variants
from trainables.functional.joined_batch import Joined, cumulative_share
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.branches import Branches
from trainables.methods.branches.bbn import BBN
from trainables.methods.branches.hybrid import Hybrid
from trainables.methods.losses.cross_entropy import CrossEntropy
from trainables.models.head_modules import LinearHead

GOLDEN = golden("longtail_branches")
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def given(*, dtype: torch.dtype = torch.float32, progress: float = 0.4) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    return {
        "features": torch.randn(6, 4, generator=draw).to(dtype),
        "labels": torch.tensor([0, 0, 1, 0, 2, 0]),
        "second_features": torch.randn(6, 4, generator=draw).to(dtype),
        "second_labels": torch.tensor([2, 1, 2, 0, 1, 2]),
        "progress": progress,
    }


# --- golden vectors -----------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [1, 101])
def test_bbn_loss_and_gradient_equal_official_code(epoch: int) -> None:
    case = f"bbn_mix_ep{epoch}"
    vectors = GOLDEN.inputs(case)
    head = LinearHead(vectors["weight"].shape[1], len(vectors["weight"])).double()
    head.weight.data, head.bias.data = vectors["weight"], vectors["bias"]
    joined = BBN()(
        features=vectors["features_conventional"],
        labels=vectors["labels_conventional"],
        second_features=vectors["features_rebalancing"],
        second_labels=vectors["labels_rebalancing"],
        progress=(epoch - 1) / 200,
    )
    logits, share = head(joined.features), joined.share
    loss = share * CrossEntropy()(logits=logits, labels=joined.labels)
    loss = loss + (1 - share) * CrossEntropy()(logits=logits, labels=joined.second_labels)
    (gradient,) = torch.autograd.grad(loss, head.weight)
    torch.testing.assert_close(loss, GOLDEN.output(case, "loss"), **EXACT)
    torch.testing.assert_close(gradient, GOLDEN.output(case, "grad_weight"), **EXACT)


@pytest.mark.parametrize(("epochs", "reach"), [(200, 1.0), (90, 0.9)])
def test_cumulative_share_equals_official_code(epochs: int, reach: float) -> None:
    shares = [cumulative_share(e / epochs, reach=reach) for e in range(epochs)]
    wanted = GOLDEN.output(f"bbn_alpha_T{epochs}", "alpha")
    torch.testing.assert_close(torch.tensor(shares, dtype=torch.float64), wanted, **EXACT)


# --- the contract -------------------------------------------------------------------------------

everything = pytest.mark.parametrize("method", list(variants(Branches)))


@everything
def test_rows_have_labels_and_the_loss_has_a_share(method: Branches) -> None:
    joined = method.call_with(given())
    assert isinstance(joined, Joined)
    assert len(joined.features) == len(joined.labels) == len(joined.second_labels)
    assert len(joined.compared) == len(joined.compared_labels)
    assert 0 <= joined.share <= 1
    assert not joined.observed.requires_grad


@everything
def test_gradients_reach_all_features_that_were_given(method: Branches) -> None:
    batch = given(progress=0.5)
    leaves = [batch[n].requires_grad_() for n in sorted({"features", "second_features"})]
    joined = method.call_with(batch)
    (joined.features.sum() + joined.compared.sum()).backward()
    used = leaves if method.other_sampler() is not None else leaves[:1]
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in used)


@everything
def test_half_precision_stays(method: Branches) -> None:
    joined = method.call_with(given(dtype=torch.bfloat16))
    assert joined.features.dtype == torch.bfloat16
    assert joined.features.isfinite().all()


@everything
def test_json_round_trip(method: Branches) -> None:
    assert Branches.parse(method.dump()) == method


# --- limits -------------------------------------------------------------------------------------


def test_bbn_halfway_is_the_unscaled_pair_of_a_prediction() -> None:
    joined = BBN().call_with(given(progress=0.5**0.5))
    torch.testing.assert_close(joined.features, joined.observed)
    assert joined.share == pytest.approx(0.5)


def test_bbn_goes_from_the_first_batch_to_the_second() -> None:
    start, end = BBN().call_with(given(progress=0.0)), BBN().call_with(given(progress=1.0))
    assert (start.share, end.share) == (1.0, 0.0)
    assert not start.features[:, 4:].any()
    assert not end.features[:, :4].any()
    assert BBN(reach=0.9).call_with(given(progress=1.0)).share == pytest.approx(0.19)


def test_hybrid_trains_the_classifier_on_the_second_batch_alone() -> None:
    batch = given()
    joined = Hybrid().call_with(batch)
    assert torch.equal(joined.features, batch["second_features"])
    assert torch.equal(joined.labels, batch["second_labels"])
    assert torch.equal(joined.compared, batch["features"])
    assert torch.equal(joined.compared_labels, batch["labels"])
    assert joined.share == 1.0
