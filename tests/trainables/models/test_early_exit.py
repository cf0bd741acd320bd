"""Branches are computed for the images that gates send on, and answers stay what they are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from tests.helpers.exported import exported, views_of
from trainables.inference.model import Model, load_model
from trainables.methods.heads.experts import Experts
from trainables.methods.heads.routed_experts import RoutedExperts
from trainables.models.backbone import Trunk, build_trunk
from trainables.models.early_exit import as_needed
from trainables.models.routed_experts import RoutedExpertsHead

ROUTED = (
    "classify.head=experts",
    "classify.loss=sade",
    "rebalance.method=expert_routing",
)


class Counter:
    """Counts the images that pass each branch of a trunk."""

    def __init__(self, trunk: Trunk) -> None:
        branches = trunk.network.branches
        self.rows = [0] * len(branches)
        for number, branch in enumerate(branches):
            branch.register_forward_hook(self.hook(number))

    def hook(self, number: int) -> object:
        def count(module: object, inputs: Sequence[torch.Tensor], output: object) -> None:
            self.rows[number] += len(inputs[0])

        return count


def trunk_of(architecture: str) -> Trunk:
    draw = torch.Generator().manual_seed(0)
    trunk = build_trunk(architecture, 8, generator=draw).train()
    trunk(torch.rand(64, 3, 8, 8, generator=draw))  # batch norm has seen something
    return trunk.eval()


def head_of(trunk: Trunk, *, bias: float = 0.0, seed: int = 0) -> RoutedExpertsHead:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = RoutedExperts(count=trunk.num_branches).build(trunk.num_features, 4)
    assert isinstance(head, RoutedExpertsHead)
    with torch.no_grad():  # about half of the images go on
        features = trunk(images())
        means = head.running_means(head.each(features))
        needed = head.gates(head.gate_inputs(features, means))[:, 0]
    head.gates.last.bias.data += bias - needed.median()
    return head.eval()


def images(size: int = 40) -> torch.Tensor:
    return torch.rand(size, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", ["fastnet+3xstage", "resnet32+2xblock"])
@pytest.mark.parametrize("bias", [0.0, -1e6, 1e6])
def test_answers_are_those_of_all_branches(architecture: str, bias: float) -> None:
    trunk = trunk_of(architecture)
    head = head_of(trunk, bias=bias)
    with torch.no_grad():
        whole = trunk(images())
        used = head.experts_used(whole)
        counter = Counter(trunk)
        spared = as_needed(trunk, [head])(images())
    assert counter.rows == [int((used > n).sum()) for n in range(trunk.num_branches)]
    torch.testing.assert_close(head(spared), head(whole), rtol=1e-4, atol=1e-5)
    assert torch.equal(head.experts_used(spared), used)
    if not bias:
        assert counter.rows[0] > counter.rows[1] > 0


def test_two_heads_get_what_either_of_them_needs() -> None:
    trunk = trunk_of("fastnet+3xstage")
    heads = [head_of(trunk, seed=seed) for seed in (0, 1)]
    with torch.no_grad():
        whole = trunk(images())
        used = torch.stack([head.experts_used(whole) for head in heads])
        counter = Counter(trunk)
        spared = as_needed(trunk, heads)(images())
    assert (used[0] != used[1]).any()
    assert counter.rows == [int((used.amax(0) > n).sum()) for n in range(3)]
    for head in heads:
        torch.testing.assert_close(head(spared), head(whole), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_spared_is_the_whole_trunk() -> None:
    trunk = trunk_of("fastnet+3xstage")
    plain = Experts(count=3).build(trunk.num_features, 4)
    shared = RoutedExperts(count=3, own="nothing").build(trunk.num_features, 4)
    for heads in ([plain], [shared], [head_of(trunk), plain]):
        assert as_needed(trunk, heads) is trunk
    unbranched = trunk_of("fastnet")
    head = RoutedExperts(count=2).build(unbranched.num_features, 4)
    assert as_needed(unbranched, [head]) is unbranched


def test_no_image_is_no_feature() -> None:
    trunk = trunk_of("fastnet+3xstage")
    assert as_needed(trunk, [head_of(trunk)])(images(0)).shape == (0, trunk.num_features)


def answers(model: Model) -> tuple[object, list[int]]:
    counter = Counter(model._trunk)
    return model.outputs(views_of().held_out_known), counter.rows


def test_a_served_model_computes_what_its_gates_ask_for() -> None:
    model, whole = (load_model(exported(0, *ROUTED, "score.method=energy")) for _ in range(2))
    whole._features = whole._trunk
    found, rows = answers(model)
    wanted, all_rows = answers(whole)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert all_rows == [all_rows[0]] * 3
    assert rows[0] == all_rows[0]
    assert rows[1] < all_rows[1]


def test_a_score_on_features_gets_all_of_them() -> None:
    model = load_model(exported(0, *ROUTED, "score.method=mahalanobis"))
    _, rows = answers(model)
    assert rows[0] == rows[1] == rows[2] > 0
