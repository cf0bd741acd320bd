"""Pretrainers: golden vectors, a slow oracle, and one contract for all that stand on the shelf."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers.oracles import pretrainers as oracle
from tests.helpers.vectors import golden
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.pretrainers import Pretrainer
from trainables.methods.pretrainers.moco import MoCo
from trainables.methods.pretrainers.pretrained import Pretrained
from trainables.methods.pretrainers.rotation import Rotation
from trainables.methods.pretrainers.simclr import SimCLR

SEMI = golden("semi")
METHODS = [pytest.param(cls(), id=name) for name, cls in sorted(Pretrainer.shelf.items())]
LONG_TAIL = golden("longtail_data")
TRAINED = [
    pytest.param(cls(), id=name)
    for name, cls in sorted(Pretrainer.shelf.items())
    if cls.trains and "first_projections" in cls.required_inputs()
] + [pytest.param(SimCLR(variant="official"), id="simclr-official")]


def views(
    size: int = 6, width: int = 5, *, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Projections of two views, alike but not equal."""
    draw = torch.Generator().manual_seed(size)
    first = torch.randn(size, width, generator=draw, dtype=torch.float64)
    second = first + 0.5 * torch.randn(size, width, generator=draw, dtype=torch.float64)
    return {"first_projections": first.to(dtype), "second_projections": second.to(dtype)}


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_survives_a_round_trip_through_json(method: Pretrainer) -> None:
    assert Pretrainer.parse(method.dump()) == method
    assert Pretrainer.parse(method.name) == method


@pytest.mark.parametrize("method", METHODS)
def test_what_trains_can_be_built_and_called(method: Pretrainer) -> None:
    assert callable(getattr(method, "build", None)) == method.trains


@pytest.mark.parametrize("method", TRAINED)
def test_features_become_projections_and_a_differentiable_loss(method: SimCLR) -> None:
    projector = method.build(num_features=7)
    features = torch.randn(8, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    both = projector(features)
    assert both.shape == (8, method.output_dimension)
    loss = method(first_projections=both[:4], second_projections=both[4:])
    loss.backward()
    assert loss.shape == ()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert features.grad.abs().sum() > 0
    trained = [p for p in projector.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("size", [0, 1, 6])
def test_loss_and_gradient_are_finite(method: SimCLR, size: int) -> None:
    given = {k: v.requires_grad_() for k, v in views(size).items()}
    loss = method(**given)
    gradients = torch.autograd.grad(loss, list(given.values()))
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("method", TRAINED)
def test_bf16_projections_are_computed_in_float32(method: SimCLR) -> None:
    rounded = views(dtype=torch.bfloat16)
    loss = method(**rounded)
    assert loss.dtype == torch.float32
    exact = method(**{k: v.double() for k, v in rounded.items()})
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", TRAINED)
def test_autocast_does_not_cost_digits(method: SimCLR) -> None:
    given = views(32, 64)
    plain = method(**given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = method(**given)
    assert torch.equal(inside, plain)


@pytest.mark.parametrize("method", TRAINED)
def test_order_of_images_and_of_views_does_not_matter(method: SimCLR) -> None:
    given = views(dtype=torch.float64)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    loss = method(**given)
    torch.testing.assert_close(method(**{k: v[order] for k, v in given.items()}), loss)
    first, second = given.values()
    torch.testing.assert_close(method(first_projections=second, second_projections=first), loss)


@pytest.mark.parametrize("method", TRAINED)
def test_gradient_is_that_of_the_loss(method: SimCLR) -> None:
    given = [v.requires_grad_() for v in views(3, dtype=torch.float64).values()]
    assert torch.autograd.gradcheck(
        lambda a, b: method(first_projections=a, second_projections=b), given
    )


# --- SimCLR -------------------------------------------------------------------------------------


def test_simclr_matches_lightly() -> None:
    case = "ntxent_T0.5"
    first, second = (SEMI.inputs(case)[name] for name in ("z0", "z1"))
    first.requires_grad_()
    method = SimCLR(temperature=SEMI.cases[case]["hyperparameters"]["temperature"])
    loss = method(first_projections=first, second_projections=second)
    loss.backward()
    torch.testing.assert_close(loss, SEMI.output(case, "loss"), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(first.grad, SEMI.output(case, "grad_z0"), rtol=1e-5, atol=1e-6)
    exact = method(first_projections=first.detach().double(), second_projections=second.double())
    expected = SEMI.output(case, "loss_float64_formula")
    torch.testing.assert_close(exact, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
def test_simclr_follows_the_formula(temperature: float) -> None:
    given = views(dtype=torch.float64)
    loss = SimCLR(temperature=temperature)(**given)
    expected = oracle.nt_xent(*(v.tolist() for v in given.values()), temperature)
    assert float(loss) == pytest.approx(expected, rel=1e-10)


def test_simclr_ignores_the_length_of_projections() -> None:
    given = views(dtype=torch.float64)
    lengths = torch.linspace(0.1, 10, 6, dtype=torch.float64)[:, None]
    scaled = given | {"first_projections": lengths * given["first_projections"]}
    torch.testing.assert_close(SimCLR()(**scaled), SimCLR()(**given))


@pytest.mark.parametrize("size", [2, 3, 10])
def test_simclr_of_collapsed_projections_is_the_logarithm_of_the_choices(size: int) -> None:
    same = torch.ones(size, 4)
    loss = SimCLR()(first_projections=same, second_projections=same)
    assert float(loss) == pytest.approx(math.log(2 * size - 1), rel=1e-6)


def test_simclr_of_one_image_is_zero() -> None:
    assert SimCLR()(**views(1)) == 0


def test_simclr_falls_when_views_agree() -> None:
    given = views(dtype=torch.float64)
    equal = given | {"second_projections": given["first_projections"]}
    assert SimCLR()(**equal) < SimCLR()(**given)


def test_simclr_refuses_views_of_different_shape() -> None:
    with pytest.raises(ValueError, match=r"pretrainers/simclr: .*\[2, 3\] and \[4, 3\]"):
        SimCLR()(first_projections=torch.zeros(2, 3), second_projections=torch.zeros(4, 3))


def test_projectors_of_paper_and_official_code() -> None:
    def layers(variant: str) -> list[str]:
        projector = SimCLR(variant=variant, hidden_dimension=8, output_dimension=4).build(3)
        return [type(layer).__name__ for layer in projector]

    assert layers("paper") == ["Linear", "ReLU", "Linear"]
    assert layers("official") == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]


def test_a_few_steps_of_simclr_tell_images_apart() -> None:
    # two views of 16 images: a shared signal under independent noise
    draw = torch.Generator().manual_seed(0)
    signal = torch.randn(16, 6, generator=draw)
    method = SimCLR(hidden_dimension=32, output_dimension=8)
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        projector = method.build(12)
    optimizer = torch.optim.Adam(projector.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        noise = 2 * torch.randn(2, 16, 6, generator=draw)
        first, second = (projector(torch.cat([signal, extra], dim=1)) for extra in noise)
        loss = method(first_projections=first, second_projections=second)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


# --- MoCo ---------------------------------------------------------------------------------------


def keyed(size: int = 6, *, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Queries, their keys, and a queue of eleven others."""
    both = list(views(size, dtype=dtype).values())
    draw = torch.Generator().manual_seed(1)
    queue = torch.randn(11, 5, generator=draw, dtype=torch.float64).to(dtype)
    return {"queries": both[0], "keys": both[1], "queue": queue}


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_moco_follows_the_formula(temperature: float) -> None:
    given = keyed(dtype=torch.float64)
    loss = MoCo(temperature=temperature)(**given)
    expected = oracle.info_nce(*(v.tolist() for v in given.values()), temperature)
    assert float(loss) == pytest.approx(expected, rel=1e-10)


def test_moco_has_a_gradient_for_queries_alone() -> None:
    given = {k: v.requires_grad_() for k, v in keyed(dtype=torch.float64).items()}
    MoCo()(**given).backward()
    assert given["queries"].grad is not None
    assert given["queries"].grad.abs().sum() > 0
    assert given["keys"].grad is None
    assert given["queue"].grad is None
    fixed = {name: given[name].detach() for name in ("keys", "queue")}
    assert torch.autograd.gradcheck(lambda q: MoCo()(queries=q, **fixed), [given["queries"]])


def test_moco_does_not_depend_on_order_or_lengths() -> None:
    given = keyed(dtype=torch.float64)
    loss, order = MoCo()(**given), torch.tensor([3, 1, 5, 0, 2, 4])
    moved = {k: v[order] for k, v in given.items() if k != "queue"}
    torch.testing.assert_close(MoCo()(**moved, queue=given["queue"].flip(0)), loss)
    torch.testing.assert_close(MoCo()(**{k: 3 * v for k, v in given.items()}), loss)


@pytest.mark.parametrize("places", [1, 7])
def test_moco_of_collapsed_rows_is_the_logarithm_of_the_choices(places: int) -> None:
    same = torch.ones(4, 3)
    loss = MoCo()(queries=same, keys=same, queue=torch.ones(places, 3))
    assert float(loss) == pytest.approx(math.log(places + 1), rel=1e-6)


def test_moco_of_nothing_is_zero_and_few_bits_do_not_count() -> None:
    empty = torch.zeros(0, 5, requires_grad=True)
    MoCo()(queries=empty, keys=empty, queue=torch.ones(2, 5)).backward()
    assert empty.grad is not None
    rounded = keyed(dtype=torch.bfloat16)
    exact = MoCo()(**{k: v.double() for k, v in rounded.items()})
    torch.testing.assert_close(MoCo()(**rounded).double(), exact, rtol=1e-5, atol=1e-5)
    given = keyed()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = MoCo()(**given)
    assert torch.equal(inside, MoCo()(**given))


def test_moco_projects_as_wide_as_the_features_inside() -> None:
    projector = MoCo(output_dimension=4).build(7)
    shapes = [tuple(p.shape) for p in projector.parameters()]
    assert shapes == [(7, 7), (7,), (4, 7), (4,)]


# --- methods that ask a question about one view ---------------------------------------------------

ASKING = [
    pytest.param(cls(), id=name)
    for name, cls in sorted(Pretrainer.shelf.items())
    if cls.trains and cls.views == 1
]


def pictures(count: int, size: int = 8) -> torch.Tensor:
    draw = torch.Generator().manual_seed(count)
    return torch.randint(256, (count, 3, size, size), generator=draw, dtype=torch.uint8)


@pytest.mark.parametrize("method", ASKING)
@pytest.mark.parametrize("count", [1, 2, 9])
def test_questions_have_answers_and_a_differentiable_loss(method: Rotation, count: int) -> None:
    images, targets = method.pretext(
        images=pictures(count), generator=torch.Generator().manual_seed(0)
    )
    assert images.dtype == torch.uint8
    assert images.shape == (count, 3, 8, 8)
    assert targets.dtype == torch.int64
    features = torch.randn(count, 7, generator=torch.Generator()).requires_grad_()
    logits = method.build(num_features=7)(features)
    assert 0 <= targets.min() <= targets.max() < logits.shape[1]
    loss = method(logits=logits, targets=targets)
    loss.backward()
    assert loss.shape == ()
    assert features.grad is not None
    assert 0 < features.grad.abs().sum() < torch.inf
    rounded = logits.detach().bfloat16()
    exact = method(logits=rounded.double(), targets=targets)
    torch.testing.assert_close(
        method(logits=rounded, targets=targets).double(), exact, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("method", ASKING)
def test_questions_repeat_with_their_seed_and_differ_without(method: Rotation) -> None:
    def asked(seed: int) -> torch.Tensor:
        draw = torch.Generator().manual_seed(seed)
        found: torch.Tensor = method.pretext(images=pictures(32), generator=draw)[0]
        return found

    assert torch.equal(asked(0), asked(0))
    assert not torch.equal(asked(0), asked(1))


@pytest.mark.parametrize("method", ASKING)
def test_an_empty_batch_costs_nothing(method: Rotation) -> None:
    logits = torch.zeros(0, 4, requires_grad=True)
    loss = method(logits=logits, targets=torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0


def test_turns_equal_official_code() -> None:
    case = "ssp_rotation"
    images, targets = LONG_TAIL.inputs(case)["images"], LONG_TAIL.output(case, "targets")
    rotated = LONG_TAIL.output(case, "rotated")
    found = Rotation.turned(images[: len(targets)], targets)
    torch.testing.assert_close(found, rotated, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [1, 4, 10, 63])
def test_turns_are_as_equally_frequent_as_can_be(count: int) -> None:
    draw = torch.Generator().manual_seed(count)
    images, targets = Rotation().pretext(images=pictures(count), generator=draw)
    frequency = targets.bincount(minlength=4)
    assert frequency.max() - frequency.min() <= 1
    for image, turned, turns in zip(pictures(count), images, targets.tolist(), strict=True):
        back = turned
        for _ in range(-turns % 4):  # the rest of the circle, one quarter at a time
            back = back.transpose(1, 2).flip(1)
        assert torch.equal(back, image)


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(ValueError, match="must be square to be rotated; received 4 x 6"):
        Rotation.turned(torch.zeros(1, 3, 4, 6), torch.tensor([1]))


# --- pretrained ---------------------------------------------------------------------------------


def test_a_checkpoint_switches_the_weights_of_timm_off() -> None:
    assert Pretrained().timm_pretrained
    given = Pretrainer.parse({"pretrained": {"checkpoint": "runs/trunk.safetensors"}})
    assert given.dump()["pretrained"]["timm_pretrained"] is False
    assert Pretrainer.parse(given.dump()) == given


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timm_pretrained": False}, "received neither"),
        ({"checkpoint": "a.safetensors", "timm_pretrained": True}, "received both"),
        ({"checkpoint": "a.pkl"}, r"must end in .*; received 'a\.pkl'"),
        ({"pretrained_on": ""}, "pretrained_on"),
    ],
)
def test_weights_from_nowhere_or_from_a_pickle_are_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Pretrainer.parse({"pretrained": settings})
    assert "\n" not in str(caught.value)
