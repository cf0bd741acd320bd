"""Routing of experts: golden vectors, a slow oracle, limits, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers.vectors import golden
from trainables.artifacts import Classifier
from trainables.features.head_training import head_state
from trainables.features.predict import head_module, predict_logits
from trainables.methods.heads.cosine import Cosine
from trainables.methods.heads.experts import Experts
from trainables.methods.heads.routed_experts import RoutedExperts
from trainables.methods.rebalancers.expert_routing import ExpertRouting, needs_more
from trainables.models.growth import grow_head
from trainables.models.routed_experts import RoutedExpertsHead, mean_experts_used

GOLDEN = golden("longtail_routing")
EXACT = {"rtol": 1e-9, "atol": 1e-9}
E, C, D = 3, 4, 5


class Table(torch.nn.Module):
    """An expert whose logits are given."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.logits


def official() -> tuple[RoutedExpertsHead, dict[str, torch.Tensor]]:
    """Return the head with the gates of the golden case, and its inputs."""
    given, settings = GOLDEN.inputs("routing"), GOLDEN.cases["routing"]["hyperparameters"]
    module = RoutedExpertsHead(
        [Table(logits) for logits in given["expert_logits"].unbind(dim=1)],
        num_features=given["features"].shape[1],
        shared=False,
        weights=(),
        num_classes=settings["num_classes"],
        top_choices=settings["top_choices_num"],
        hidden=settings["hidden"],
    ).double()
    for number, layer in enumerate(module.gates.hidden):
        layer.weight.data = given["hidden_weight"][number]
        layer.bias.data = given["hidden_bias"][number]
    module.gates.last.weight.data = given["last_weight"]
    module.gates.last.bias.data = given["last_bias"]
    return module, given


def test_gates_and_their_loss_equal_official_code() -> None:
    module, given = official()
    means = module.running_means(given["expert_logits"])
    needed = module.gates(module.gate_inputs(given["features"], means))
    torch.testing.assert_close(needed, GOLDEN.output("routing", "needed"), **EXACT)
    wanted = needs_more(means.argmax(2) == given["labels"][:, None]).double()
    assert 0 < wanted.mean() < 1
    method = ExpertRouting(pos_weight=GOLDEN.cases["routing"]["hyperparameters"]["pos_weight"])
    rows = torch.arange(len(wanted))
    loss = method._objective(wanted)(needed, given["labels"], rows)
    torch.testing.assert_close(loss[None], GOLDEN.output("routing", "loss"), **EXACT)
    layers = [*module.gates.hidden, module.gates.last]
    *hidden, last = torch.autograd.grad(loss, [layer.weight for layer in layers])
    for role, gradient in (("hidden", torch.stack(hidden)), ("last", last)):
        wanted_gradient = GOLDEN.output("routing", f"grad_{role}_weight")
        torch.testing.assert_close(gradient, wanted_gradient, **EXACT)


def test_routed_answers_equal_official_code() -> None:
    module, given = official()
    logits = module.eval()(given["features"])
    torch.testing.assert_close(logits, GOLDEN.output("routing", "logits"), **EXACT)
    used = module.experts_used(given["features"])
    assert torch.equal(used, GOLDEN.output("routing", "experts_used"))
    assert set(used.tolist()) == {1, 2, 3}


def test_a_later_expert_must_be_right_where_one_is_not() -> None:
    right = torch.randint(2, (50, 4), generator=torch.Generator().manual_seed(0)).bool()
    slow = [[not row[i] and any(row[i + 1 :]) for i in range(3)] for row in right.tolist()]
    assert needs_more(right).tolist() == slow


# --- the head -----------------------------------------------------------------------------------


def routed(*, bias: float = 0.0, own: str = "stage", **settings: Any) -> RoutedExpertsHead:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = RoutedExperts(count=E, own=own, **settings).build(E * D, C)
    assert isinstance(module, RoutedExpertsHead)
    module.gates.last.bias.data += bias
    return module.eval()


def features(size: int = 40) -> torch.Tensor:
    return torch.randn(size, E * D, generator=torch.Generator().manual_seed(1))


def test_each_sample_is_answered_by_the_mean_of_the_experts_it_uses() -> None:
    module, rows = routed(), features()
    used, each, logits = module.experts_used(rows), module.each(rows), module(rows)
    assert len(used.unique()) > 1
    for sample, count in enumerate(used.tolist()):
        torch.testing.assert_close(logits[sample], each[sample, :count].mean(dim=0))


@pytest.mark.parametrize(("bias", "count"), [(-1e6, 1), (1e6, E)])
def test_closed_and_open_gates_are_one_expert_and_all(bias: float, count: int) -> None:
    module, rows = routed(bias=bias), features()
    assert (module.experts_used(rows) == count).all()
    wanted = module.each(rows)[:, :count].mean(dim=1)
    torch.testing.assert_close(module(rows), wanted)
    torch.testing.assert_close(module.train()(rows), wanted)  # sure gates: no mean to take


def test_in_training_it_is_the_mean_over_all_ways() -> None:
    module, rows = routed(), features(6)
    means = module.running_means(module.each(rows))
    go_on = module.gates(module.gate_inputs(rows, means)).sigmoid()
    first, second = go_on.unbind(dim=1)
    chances = [1 - first, first * (1 - second), first * second]
    wanted = sum(p[:, None] * m for p, m in zip(chances, means.unbind(dim=1), strict=True))
    torch.testing.assert_close(module.train()(rows), wanted)


def test_weights_count_among_the_experts_that_are_asked() -> None:
    module, rows = routed(weights=(1.0, 3.0, 0.0)), features()
    logits, each = module.running_means(module.each(rows)), module.each(rows)
    torch.testing.assert_close(logits[:, 0], each[:, 0])
    torch.testing.assert_close(logits[:, 1], (each[:, 0] + 3 * each[:, 1]) / 4)
    torch.testing.assert_close(logits[:, 2], logits[:, 1])


def test_gates_do_not_see_classes_that_came_later() -> None:
    for own in ("stage", "nothing"):
        module = routed(own=own)
        before = module.experts_used(features())
        grow_head(module, 6, features(6))
        assert torch.equal(module.experts_used(features()), before)


def test_bands_are_means_over_their_samples() -> None:
    module, rows = routed(), features()
    labels = torch.arange(40) % 3
    bands = {"many": torch.tensor([True, False, False, False]), "few": torch.arange(4) == 3}
    used = module.experts_used(rows).double()
    assert mean_experts_used(module, rows, labels, bands) == {
        "experts_used": pytest.approx(used.mean().item()),
        "experts_used/many": pytest.approx(used[labels == 0].mean().item()),
    }
    assert mean_experts_used(module, rows[:0], labels[:0], bands) == {}


# --- the training -------------------------------------------------------------------------------


def specialists(size: int = 400) -> tuple[Classifier, dict[str, torch.Tensor]]:
    """Return two experts on shared features, and samples of two sides: the first expert knows one.

    On the side where the first feature is negative the first expert is always wrong, weakly, and
    the second is right.
    """
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (size,), generator=draw)
    side = torch.where(torch.rand(size, generator=draw) < 0.3, -1.0, 1.0)
    sign = 2.0 * labels - 1
    rows = torch.stack([side, sign, sign * side], dim=1)
    rows += 0.05 * torch.randn(size, 3, generator=draw)
    head = Experts(count=2, own="nothing", base="linear")
    module = head.build(3, 2)
    for expert, weight in zip(module.experts, ([0.0, 0.0, 1.0], [0.0, 3.0, 0.0]), strict=True):
        expert.weight.data = torch.tensor([[-w for w in weight], weight])
        expert.bias.data.zero_()
    zeros = torch.zeros(2)
    classifier = Classifier(head, 3, head_state(module), zeros, labels.bincount(), zeros)
    return classifier, {"features": rows, "labels": labels, "side": side}


def learned(method: ExpertRouting, **changes: Any) -> tuple[Classifier, dict[str, float]]:
    classifier, given = specialists()
    reports: dict[str, float] = {}
    result = method.call_with(
        {
            "classifier": classifier,
            **given,
            "generator": torch.Generator().manual_seed(1),
            "report": lambda metrics, step: reports.update(metrics),
            **changes,
        }
    )
    return result, reports


def test_gates_learn_who_needs_the_second_expert() -> None:
    method = ExpertRouting(pos_weight=1.0, lr=0.1, top_choices=2)
    result, reports = learned(method)
    classifier, given = specialists()
    module = head_module(result)
    assert isinstance(module, RoutedExpertsHead)
    used = module.experts_used(given["features"])
    assert torch.equal(used, torch.where(given["side"] < 0, 2, 1))
    assert (predict_logits(result, given["features"]).argmax(1) == given["labels"]).all()
    assert reports["rebalance/experts_used"] == pytest.approx(used.double().mean().item())
    assert reports["rebalance/more_needed"] == pytest.approx((given["side"] < 0).double().mean())
    for name, value in classifier.state.items():
        assert torch.equal(result.state[name], value), name


def test_a_larger_weight_asks_more_experts() -> None:
    used = [
        learned(ExpertRouting(pos_weight=weight, epochs=5, lr=0.01))[1]["rebalance/experts_used"]
        for weight in (0.01, 1.0, 300.0)
    ]
    assert used == sorted(used)
    assert used[0] < used[-1]


def test_a_routed_head_is_routed_anew() -> None:
    once, _ = learned(ExpertRouting(epochs=2))
    again, _ = learned(ExpertRouting(epochs=2, top_choices=3), classifier=once)
    assert again.head == RoutedExperts(count=2, own="nothing", top_choices=3)
    own = {name for name in again.state if name.startswith("experts.")}
    assert all(torch.equal(again.state[name], once.state[name]) for name in own)
    direct, _ = learned(ExpertRouting(epochs=2, top_choices=3))
    assert all(torch.equal(direct.state[name], value) for name, value in again.state.items())


def test_settings_of_the_experts_are_kept() -> None:
    head = Experts(count=2, own="nothing", base=Cosine(scale=30.0), weights=(1.0, 2.0))
    zeros = torch.zeros(2)
    state = head_state(head.build(3, 2))
    classifier = Classifier(head, 3, state, zeros, torch.ones(2), torch.zeros(3))
    result, _ = learned(ExpertRouting(epochs=1), classifier=classifier)
    assert result.head == RoutedExperts(
        count=2, own="nothing", base=Cosine(scale=30.0), weights=(1.0, 2.0)
    )
