"""Many heads in one computation: each comes out as if it had been trained alone."""

from collections.abc import Callable, Sequence
from typing import cast

import pytest
import torch
from torch import nn

from trainables.features import batched_heads
from trainables.features.batched_heads import train_heads
from trainables.features.head_losses import HeadLoss
from trainables.features.head_training import (
    HeadTrainingSpec,
    ScaledLinear,
    shuffled_draws,
    train_job,
)
from trainables.models.head_modules import CausalNormHead, CosineHead, LinearHead, MLPHead

SAMPLES, WIDTH, CLASSES = 61, 8, 4
COUNTS = torch.tensor([30, 20, 10, 1])
LABELS = torch.repeat_interleave(torch.arange(CLASSES), COUNTS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


FEATURES = torch.randn(SAMPLES, WIDTH, generator=seeded()) + torch.eye(CLASSES, WIDTH)[LABELS]
TEACHER = torch.randn(SAMPLES, CLASSES, generator=seeded(4))
DRAWS = shuffled_draws(SAMPLES, epochs=4, generator=seeded(1))  # 244: the last batch is not whole


def started(module: nn.Module, seed: int) -> nn.Module:
    """Fill a module's weights from a seed of its own."""
    for number, parameter in enumerate(module.parameters()):
        if parameter.ndim:  # a scale stays
            drawn = torch.randn(parameter.shape, generator=seeded(100 * seed + number))
            parameter.data.copy_(drawn / WIDTH**0.5)
    return module


def scaled(seed: int) -> ScaledLinear:
    module = ScaledLinear(cast(LinearHead, started(LinearHead(WIDTH, CLASSES), seed)))
    module.scale.data.copy_(torch.linspace(0.5, 1.5, CLASSES))
    return module


def factors(seed: int) -> ScaledLinear:
    module = scaled(7)  # all on one frozen head
    module.scale.data.add_(0.1 * seed)
    module.linear.requires_grad_(requires_grad=False)
    return module


KINDS: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda seed: started(LinearHead(WIDTH, CLASSES), seed),
    "no_bias": lambda seed: started(LinearHead(WIDTH, CLASSES, bias=False), seed),
    "cosine": lambda seed: started(CosineHead(WIDTH, CLASSES, scale=4.0 + seed), seed),
    "learnable": lambda seed: started(
        CosineHead(WIDTH, CLASSES, scale=4.0 + seed, learnable=True), seed
    ),
    "causal_norm": lambda seed: started(CausalNormHead(WIDTH, CLASSES, alpha=seed), seed),
    "mlp": lambda seed: started(MLPHead(WIDTH, CLASSES, hidden=12), seed),
    "factors": factors,
    "scaled": scaled,
}
LOSSES = [
    None,
    HeadLoss(class_weights=1 / COUNTS),
    HeadLoss(offset=(COUNTS / SAMPLES).log(), gamma=1.0),
    HeadLoss(margin=COUNTS.float().pow(-0.25), smoothing=torch.full((CLASSES,), 0.1)),
    HeadLoss(distillation=0.5, temperature=2.0, teacher=TEACHER),
    HeadLoss(factor=torch.linspace(1, 0.5, CLASSES)),
]


def jobs(kind: str, dtype: torch.dtype = torch.float32) -> list[HeadTrainingSpec]:
    """Return jobs that differ in everything a group may differ in."""
    made = []
    for place, loss in enumerate(LOSSES):
        module = KINDS[kind](place).to(dtype)
        slow = tuple(cast(ScaledLinear, module).linear.parameters()) if kind == "scaled" else ()
        job = HeadTrainingSpec(
            module=module,
            draws=DRAWS[: (244, 122, 244, 122, 96, 0)[place]],
            batch_size=16,
            lr=(0.1, 0.2, 0.05, 0.1, 0.3, 0.1)[place],
            weight_decay=(0.0, 5e-4, 1e-2, 0.0, 5e-4, 0.0)[place],
            momentum=(0.9, 0.9, 0.5, 0.0, 0.9, 0.9)[place],
            slow=slow,
            slow_factor=(0.2, 0.5, 1.0, 0.0, 0.2, 0.2)[place] if slow else 1.0,
            objective=loss,
        )
        made.append(job)
    return made


def states(modules: Sequence[object]) -> list[dict[str, torch.Tensor]]:
    return [module.state_dict() for module in modules]  # type: ignore[attr-defined]


@pytest.fixture
def alone_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test whose jobs were not grouped: it would compare a function with itself."""

    def refuse(job: HeadTrainingSpec, **_: object) -> nn.Module:
        raise AssertionError(f"trained alone: {type(job.module).__name__}")

    monkeypatch.setattr(batched_heads, "train_job", refuse)


@pytest.mark.usefixtures("alone_is_forbidden")
@pytest.mark.parametrize("at_once", [None, 4])  # 4: two turns, of four and of two heads
@pytest.mark.parametrize("kind", KINDS)
def test_together_is_equal_to_one_by_one(kind: str, at_once: int | None) -> None:
    found = states(train_heads(jobs(kind), features=FEATURES, labels=LABELS, at_once=at_once))
    alone = states([train_job(job, features=FEATURES, labels=LABELS) for job in jobs(kind)])
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("alone_is_forbidden")
@pytest.mark.parametrize("kind", KINDS)
def test_in_double_precision_they_are_equal_to_ten_digits(kind: str) -> None:
    """What is left in single precision is rounding and no other formula."""
    features = FEATURES.double()
    found = states(train_heads(jobs(kind, torch.float64), features=features, labels=LABELS))
    alone = [train_job(job, features=features, labels=LABELS) for job in jobs(kind, torch.float64)]
    torch.testing.assert_close(found, states(alone), rtol=1e-10, atol=1e-10)


def test_modules_come_back_in_evaluation_mode_and_in_order() -> None:
    given = jobs("linear")
    found = train_heads(given, features=FEATURES, labels=LABELS)
    assert [module is job.module for module, job in zip(found, given, strict=True)] == [True] * 6
    assert not any(job.module.training for job in given)


def test_half_precision_features_train_in_single_precision() -> None:
    found = train_heads(jobs("linear"), features=FEATURES.bfloat16(), labels=LABELS)
    rounded = FEATURES.bfloat16().float()
    alone = [train_job(job, features=rounded, labels=LABELS) for job in jobs("linear")]
    torch.testing.assert_close(states(found), states(alone), rtol=1e-5, atol=1e-5)


def test_a_head_that_diverges_does_not_harm_the_others() -> None:
    given = jobs("linear")
    given[0] = given[0]._replace(lr=1e30)
    found = train_heads(given, features=FEATURES, labels=LABELS)
    assert isinstance(found[0], ArithmeticError)
    assert "lr 1e+30" in str(found[0])
    alone = [train_job(job, features=FEATURES, labels=LABELS) for job in jobs("linear")[1:]]
    torch.testing.assert_close(states(found[1:]), states(alone), rtol=1e-5, atol=1e-5)


def test_different_draws_are_not_mixed_up() -> None:
    """Heads of several kinds and samplers in one call; each gets its own samples."""
    other = shuffled_draws(SAMPLES, epochs=2, generator=seeded(2))

    def mixed() -> list[HeadTrainingSpec]:
        plain, cosine = jobs("linear"), jobs("cosine")
        return [
            plain[0],
            cosine[0],
            plain[1]._replace(draws=other),
            plain[2]._replace(batch_size=8),
            cosine[2]._replace(draws=other),
            plain[3],
        ]

    found = states(train_heads(mixed(), features=FEATURES, labels=LABELS))
    alone = states([train_job(job, features=FEATURES, labels=LABELS) for job in mixed()])
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_factors_on_different_frozen_heads_are_not_mixed_up() -> None:
    def pair() -> list[HeadTrainingSpec]:
        made = jobs("factors")[:2]
        cast(ScaledLinear, made[1].module).linear.weight.data.mul_(2)
        return made

    found = states(train_heads(pair(), features=FEATURES, labels=LABELS))
    alone = states([train_job(job, features=FEATURES, labels=LABELS) for job in pair()])
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reason", ["objective", "half_frozen"])
def test_what_cannot_be_grouped_is_trained_alone(reason: str) -> None:
    def made() -> list[HeadTrainingSpec]:
        given = jobs("linear")[:2]
        if reason == "objective":
            return [
                job._replace(objective=lambda z, y, rows: nn.functional.multi_margin_loss(z, y))
                for job in given
            ]
        for job in given:
            for parameter in list(job.module.parameters())[1:]:
                parameter.requires_grad = False
        return given

    found = states(train_heads(made(), features=FEATURES, labels=LABELS))
    alone = states([train_job(job, features=FEATURES, labels=LABELS) for job in made()])
    torch.testing.assert_close(found, alone, rtol=0, atol=0)


def test_dropout_draws_from_the_seed_of_its_job_and_is_trained_alone() -> None:
    def trained(seed: int) -> list[dict[str, torch.Tensor]]:
        module = started(MLPHead(WIDTH, CLASSES, hidden=12, dropout=0.5), 1)
        job = jobs("linear")[0]._replace(module=module, seed=seed)
        torch.rand(3)  # the ambient generator moves on, and nothing depends on it
        return states(train_heads([job], features=FEATURES, labels=LABELS))

    torch.testing.assert_close(trained(1), trained(1), rtol=0, atol=0)
    first, other = trained(1)[0], trained(2)[0]
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_no_jobs_and_no_samples() -> None:
    assert train_heads([], features=FEATURES, labels=LABELS) == []
    before = states([job.module for job in jobs("linear")])
    empty = [job._replace(draws=DRAWS[:0]) for job in jobs("linear")]
    found = train_heads(empty, features=FEATURES[:0], labels=LABELS[:0])
    torch.testing.assert_close(states(found), before)
