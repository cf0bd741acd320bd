"""Distillers: golden vectors, slow oracles, and one contract for all that stand on the shelf."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers.oracles import distillers as oracle
from tests.helpers.vectors import golden, variants
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.distillers import Distiller
from trainables.methods.distillers.dkd import DKD
from trainables.methods.distillers.double_teacher import DoubleTeacher
from trainables.methods.distillers.feature import Feature
from trainables.methods.distillers.kd import KD
from trainables.methods.distillers.lwf import LwF
from trainables.methods.distillers.none import NoDistillation

GOLDEN = golden("open_world_update")
SEMI = golden("semi")
METHODS = list(variants(Distiller))
KNOWN, NEW = 5, 3
TRAINED = ("student_logits", "student_features")
# The minimum of a cross-entropy is the teacher's entropy.
NOT_ZERO_WHEN_EQUAL = {"lwf": "cross-entropy to soft targets keeps their entropy"}


def batch(
    size: int = 6, *, known: int = KNOWN, new: int = NEW, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Everything the update stage can offer a distiller."""
    draw = torch.Generator().manual_seed(size + known)

    def normal(columns: int) -> torch.Tensor:
        values = torch.randn(size, columns, generator=draw, dtype=torch.float64)
        return (2 * values).to(dtype)

    return {
        "student_logits": normal(known + new),
        "old_logits": normal(known),
        "new_logits": normal(new),
        "student_features": normal(4),
        "old_features": normal(4),
        "labels": torch.arange(size) % max(known + new, 1),
    }


def with_gradient(
    method: Distiller, given: dict[str, Any]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the loss and its gradients with respect to what the student makes."""
    inputs = {k: v.clone().requires_grad_() if k in TRAINED else v for k, v in given.items()}
    loss = method.call_with(inputs)
    found = torch.autograd.grad(loss, [inputs[k] for k in TRAINED], allow_unused=True)
    return loss.detach(), [g for g in found if g is not None]


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [0, 1, 6])
@pytest.mark.parametrize(("known", "new"), [(5, 3), (5, 1), (5, 0), (2, 1), (1, 1)])
def test_loss_is_a_finite_scalar_with_a_finite_gradient(
    method: Distiller, size: int, known: int, new: int
) -> None:
    loss, gradients = with_gradient(method, batch(size, known=known, new=new))
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("method", METHODS)
def test_bf16_inputs_are_computed_in_float32(method: Distiller) -> None:
    rounded = batch(dtype=torch.bfloat16)
    exact = {k: v.double() if v.is_floating_point() else v for k, v in rounded.items()}
    loss = method.call_with(rounded)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), method.call_with(exact), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_order_of_samples_does_not_matter(method: Distiller) -> None:
    given = batch(dtype=torch.float64)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = {k: v[order] for k, v in given.items()}
    torch.testing.assert_close(method.call_with(shuffled), method.call_with(given))


@pytest.mark.parametrize("method", METHODS)
def test_order_of_classes_does_not_matter(method: Distiller) -> None:
    given = batch(dtype=torch.float64)
    order = torch.randperm(KNOWN, generator=torch.Generator().manual_seed(0))
    added = KNOWN + torch.randperm(NEW, generator=torch.Generator().manual_seed(1))
    both = torch.cat([order, added])
    renamed = given | {
        "student_logits": given["student_logits"][:, both],
        "old_logits": given["old_logits"][:, order],
        "new_logits": given["new_logits"][:, added - KNOWN],
        "labels": both.argsort()[given["labels"]],
    }
    torch.testing.assert_close(method.call_with(renamed), method.call_with(given))


@pytest.mark.parametrize("method", METHODS)
def test_a_student_that_agrees_has_no_loss_and_no_gradient(method: Distiller) -> None:
    given = batch(dtype=torch.float64)
    # centered, because the consolidation form wants centered logits
    old, new = (
        given[name] - given[name].mean(dim=1, keepdim=True) for name in ("old_logits", "new_logits")
    )
    given |= {
        "old_logits": old,
        "new_logits": new,
        "student_logits": torch.cat([old, new], dim=1),
        "student_features": given["old_features"],
    }
    loss, gradients = with_gradient(method, given)
    if method.name in NOT_ZERO_WHEN_EQUAL:
        assert (loss > 0) == (method.weight > 0)
    else:
        torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-12)
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_teachers_are_constants(method: Distiller) -> None:
    given = batch()
    teachers = {k: given[k].requires_grad_() for k in ("old_logits", "new_logits", "old_features")}
    student = {k: given[k].requires_grad_() for k in TRAINED}
    loss = method.call_with(given | teachers | student)
    found = torch.autograd.grad(loss, list(teachers.values()), allow_unused=True)
    assert all(gradient is None for gradient in found)


@pytest.mark.parametrize("method", METHODS)
def test_extreme_logits_stay_finite(method: Distiller) -> None:
    given = batch()
    given |= {k: 1e4 * given[k] for k in ("student_logits", "old_logits", "new_logits")}
    loss, gradients = with_gradient(method, given)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("method", METHODS)
def test_survives_a_round_trip_through_json(method: Distiller) -> None:
    assert Distiller.parse(method.dump()) == method


@pytest.mark.parametrize("method", METHODS)
def test_gradient_is_that_of_the_loss(method: Distiller) -> None:
    given = batch(3, dtype=torch.float64)
    student = [given[k].clone().requires_grad_() for k in TRAINED]

    def loss(*values: torch.Tensor) -> torch.Tensor:
        return method.call_with(given | dict(zip(TRAINED, values, strict=True)))

    assert torch.autograd.gradcheck(loss, student, atol=1e-6)


# --- golden vectors -----------------------------------------------------------------------------


def test_kd_matches_mdistiller() -> None:
    given = GOLDEN.inputs("kd_T4")
    student = given["student"].requires_grad_()
    loss = KD(temperature=4.0)(student_logits=student, old_logits=given["teacher"])
    loss.backward()
    torch.testing.assert_close(loss, GOLDEN.output("kd_T4", "loss"), rtol=1e-9, atol=1e-9)
    gradient = GOLDEN.output("kd_T4", "grad_student")
    torch.testing.assert_close(student.grad, gradient, rtol=1e-9, atol=1e-9)


def test_kd_and_lwf_match_repdistiller() -> None:
    given = SEMI.inputs("distill_T4.0")
    student = given["student_logits"].requires_grad_()
    loss = KD(temperature=4.0)(student_logits=student, old_logits=given["teacher_logits"])
    loss.backward()
    torch.testing.assert_close(
        loss, SEMI.output("distill_T4.0", "kl_times_T2"), rtol=1e-5, atol=1e-6
    )
    gradient = SEMI.output("distill_T4.0", "grad_student")
    torch.testing.assert_close(student.grad, gradient, rtol=1e-5, atol=1e-6)
    soft = LwF(temperature=4.0)(
        student_logits=student.detach().double(), old_logits=given["teacher_logits"].double()
    )
    torch.testing.assert_close(
        soft, SEMI.output("distill_T4.0", "soft_ce_float64"), rtol=1e-9, atol=1e-9
    )


def test_lwf_matches_pycil() -> None:
    given = GOLDEN.inputs("lwf")
    logits = given["logits"].requires_grad_()
    kept = LwF(weight=1.0)(student_logits=logits, old_logits=given["old_logits"])
    torch.testing.assert_close(kept, GOLDEN.output("lwf", "kd"), rtol=1e-9, atol=1e-9)
    # the step of the reference adds cross-entropy over the new logits alone
    learned = torch.nn.functional.cross_entropy(logits[:, 7:], given["label"] - 7)
    loss = LwF(weight=3.0)(student_logits=logits, old_logits=given["old_logits"]) + learned
    loss.backward()
    torch.testing.assert_close(loss, GOLDEN.output("lwf", "loss"), rtol=1e-9, atol=1e-9)
    gradient = GOLDEN.output("lwf", "grad_logits")
    torch.testing.assert_close(logits.grad, gradient, rtol=1e-9, atol=1e-9)


def test_dkd_matches_mdistiller() -> None:
    given = GOLDEN.inputs("dkd")
    student = given["student"].requires_grad_()

    def loss(alpha: float, beta: float) -> torch.Tensor:
        return DKD(alpha=alpha, beta=beta)(
            student_logits=student, old_logits=given["teacher"], labels=given["label"]
        )

    total = loss(1.0, 8.0)
    total.backward()
    for role, value in (("tckd", loss(1.0, 0.0)), ("nckd", loss(0.0, 1.0)), ("loss", total)):
        expected = GOLDEN.output("dkd", role)
        torch.testing.assert_close(value.detach(), expected, rtol=1e-8, atol=1e-8)
    gradient = GOLDEN.output("dkd", "grad_student")
    torch.testing.assert_close(student.grad, gradient, rtol=1e-8, atol=1e-8)


def test_double_teacher_matches_deep_model_consolidation() -> None:
    given = GOLDEN.inputs("double_teacher_dmc")
    student = given["student"].requires_grad_()
    loss = DoubleTeacher(variant="dmc")(
        student_logits=student, old_logits=given["teacher_old"], new_logits=given["teacher_new"]
    )
    loss.backward()
    expected = GOLDEN.output("double_teacher_dmc", "loss")
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    gradient = GOLDEN.output("double_teacher_dmc", "grad_student")
    torch.testing.assert_close(student.grad, gradient, rtol=1e-9, atol=1e-9)


# --- slow oracles -------------------------------------------------------------------------------


def mean(values: list[float]) -> torch.Tensor:
    return torch.tensor(sum(values) / len(values), dtype=torch.float64)


def rows(given: dict[str, Any], *names: str) -> list[tuple[list[float], ...]]:
    return list(zip(*(given[name].tolist() for name in names), strict=True))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kd_and_lwf_follow_the_formula(temperature: float) -> None:
    given = batch(dtype=torch.float64)
    pairs = rows(given, "student_logits", "old_logits")
    torch.testing.assert_close(
        KD(temperature=temperature, weight=0.3).call_with(given),
        0.3 * mean([oracle.kd(s, t, temperature) for s, t in pairs]),
    )
    torch.testing.assert_close(
        LwF(temperature=temperature, weight=0.3).call_with(given),
        0.3 * mean([oracle.lwf(s, t, temperature) for s, t in pairs]),
    )


def test_double_teacher_adds_its_three_terms() -> None:
    given = batch(dtype=torch.float64)
    method = DoubleTeacher(temperature=2.0, old_weight=0.5, new_weight=3.0, feature_weight=0.7)
    expected = [
        0.5 * oracle.kd(s, old, 2.0)
        + 3.0 * oracle.kd(s[KNOWN:], new, 2.0)
        + 0.7 * oracle.cosine_distance(f, g)
        for s, old, new, f, g in rows(
            given, "student_logits", "old_logits", "new_logits", "student_features", "old_features"
        )
    ]
    torch.testing.assert_close(method.call_with(given), mean(expected))


def test_double_teacher_weighs_blocks_of_the_consolidation_form() -> None:
    given = batch(dtype=torch.float64)
    method = DoubleTeacher(variant="dmc", old_weight=0.5, new_weight=3.0)
    expected = [
        oracle.dmc(s, old, new, old_weight=0.5, new_weight=3.0)
        for s, old, new in rows(given, "student_logits", "old_logits", "new_logits")
    ]
    torch.testing.assert_close(method.call_with(given), mean(expected))


def test_dkd_follows_the_formula_also_for_labels_the_old_model_lacks() -> None:
    given = batch(8, dtype=torch.float64)
    method = DKD(alpha=0.7, beta=2.0, temperature=3.0)
    expected = []
    for s, t, label in rows(given, "student_logits", "old_logits", "labels"):
        target = label if label < KNOWN else t.index(max(t))
        expected.append(oracle.dkd(s, t, target, alpha=0.7, beta=2.0, temperature=3.0))
    torch.testing.assert_close(method.call_with(given), mean(expected))


# --- properties ---------------------------------------------------------------------------------


def test_no_distillation_is_zero_and_can_be_differentiated() -> None:
    loss, (gradient,) = with_gradient(NoDistillation(), batch())
    assert loss == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("method", [KD(), LwF(), DKD()], ids=["kd", "lwf", "dkd"])
def test_new_classes_get_no_gradient_from_the_old_model(method: Distiller) -> None:
    _, (gradient,) = with_gradient(method, batch())
    assert (gradient[:, KNOWN:] == 0).all()
    assert (gradient[:, :KNOWN] != 0).any()


@pytest.mark.parametrize("variant", ["kd", "dmc"])
def test_weight_zero_switches_a_teacher_off(variant: str) -> None:
    given = batch()
    _, (old_only,) = with_gradient(DoubleTeacher(variant=variant, new_weight=0.0), given)
    _, (new_only,) = with_gradient(DoubleTeacher(variant=variant, old_weight=0.0), given)
    assert (old_only[:, KNOWN:] == 0).all()
    assert (old_only[:, :KNOWN] != 0).any()
    assert (new_only[:, :KNOWN] == 0).all()
    assert (new_only[:, KNOWN:] != 0).any()


def test_a_term_that_is_off_ignores_a_broken_teacher() -> None:
    given = batch() | {"new_logits": torch.full((6, NEW), torch.inf)}
    assert torch.isfinite(DoubleTeacher(new_weight=0.0).call_with(given))


def test_double_teacher_without_new_weight_is_kd() -> None:
    given = batch(dtype=torch.float64)
    torch.testing.assert_close(
        DoubleTeacher(new_weight=0.0).call_with(given), KD().call_with(given)
    )


def test_double_teacher_needs_features_only_with_a_feature_weight() -> None:
    given = {k: v for k, v in batch().items() if "features" not in k}
    assert torch.isfinite(DoubleTeacher().call_with(given))
    with pytest.raises(ValueError, match="needs student_features and old_features"):
        DoubleTeacher(feature_weight=1.0).call_with(given)


def test_kd_gradient_keeps_its_size_at_high_temperature() -> None:
    given = batch(dtype=torch.float64)
    sizes = [with_gradient(KD(temperature=t), given)[1][0].norm() for t in (50.0, 100.0)]
    assert sizes[1] / sizes[0] == pytest.approx(1.0, rel=0.05)


def test_dkd_with_the_teachers_rest_as_beta_is_kd() -> None:
    given = batch(1, dtype=torch.float64)
    teacher = torch.softmax(given["old_logits"] / 4, dim=1)
    beta = float(1 - teacher[0, given["labels"][0]])
    torch.testing.assert_close(DKD(alpha=1.0, beta=beta).call_with(given), KD().call_with(given))


def test_cosine_features_ignore_length_and_squared_features_do_not() -> None:
    old = torch.tensor([[1.0, 2.0]])
    assert Feature()(student_features=3 * old, old_features=old) == pytest.approx(0, abs=1e-6)
    assert Feature(distance="squared")(student_features=3 * old, old_features=old) == 10


@pytest.mark.parametrize("method", [KD(), LwF(), DKD(), DoubleTeacher()], ids=lambda m: m.name)
def test_a_student_with_fewer_classes_than_its_teacher_is_refused(method: Distiller) -> None:
    given = batch() | {"student_logits": torch.zeros(6, KNOWN - 1)}
    with pytest.raises(ValueError, match=rf"distillers/{method.name}: student_logits must be"):
        method.call_with(given)


def test_double_teacher_refuses_columns_that_do_not_add_up() -> None:
    given = batch() | {"new_logits": torch.zeros(6, NEW + 1)}
    with pytest.raises(
        ValueError, match=r"columns of old_logits and new_logits; received \[6, 8\]"
    ):
        DoubleTeacher().call_with(given)


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape; received \[6, 4\] and \[6, 2\]"):
        Feature().call_with(batch() | {"old_features": torch.zeros(6, 2)})
