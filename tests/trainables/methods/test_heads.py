"""Heads: golden vectors, growth, and one contract for all that stand on the shelf."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers.vectors import golden, variants
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.heads import Head
from trainables.methods.heads.aligned import Aligned
from trainables.methods.heads.causal_norm import CausalNorm
from trainables.methods.heads.cosine import Cosine
from trainables.methods.heads.linear import Linear
from trainables.methods.heads.mlp import MLP
from trainables.models.growth import grow_head
from trainables.models.head_modules import CausalNormHead, CosineHead, LinearHead

GOLDEN = golden("longtail_losses")
REBALANCED = golden("longtail_rebalancers")
D, C = 12, 5


def build(method: Head, classes: int = C, *, seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module: torch.nn.Module = method.build(D, classes)
    return module


def features(size: int = 6, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(size, D, generator=torch.Generator().manual_seed(1)).to(dtype)


def trained(method: Head, classes: int = C) -> torch.nn.Module:
    """A head after three steps, so that moving averages and biases hold something."""
    module = build(method, classes).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for step in range(3):
        loss = module(features() + step).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()


# --- golden vectors -----------------------------------------------------------------------------


def test_cosine_equals_official_code() -> None:
    given = GOLDEN.inputs("normed_linear")
    module = Cosine(scale=30.0).build(given["weight"].shape[1], len(given["weight"])).double()
    module.weight.data = given["weight"]
    wanted = GOLDEN.output("normed_linear", "logits")
    torch.testing.assert_close(module(given["features"]) / 30, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", [c for c in GOLDEN.cases if c.startswith("causal_")])
def test_causal_norm_equals_official_code(case: str) -> None:
    given, settings = GOLDEN.inputs(case), GOLDEN.cases[case]["hyperparameters"]
    method = CausalNorm(
        num_heads=settings["num_head"],
        tau=settings["tau"],
        alpha=settings["alpha"],
        gamma=settings["gamma"],
    )
    module = method.build(given["weight"].shape[1], len(given["weight"])).double()
    assert isinstance(module, CausalNormHead)
    module.weight.data = given["weight"]
    close = {"rtol": 1e-9, "atol": 1e-9}
    logits = module.train()(given["features"])
    torch.testing.assert_close(logits, GOLDEN.output(case, "train_logits"), **close)
    module.mean_feature.copy_(given["embed_mean"])
    logits = module.eval()(given["features"])
    torch.testing.assert_close(logits, GOLDEN.output(case, "tde_logits"), **close)
    module.alpha = 0.0
    logits = module(given["features"])
    torch.testing.assert_close(logits, GOLDEN.output(case, "no_effect_logits"), **close)


@pytest.mark.parametrize("lower", [False, True], ids=["copy", "below the old biases"])
def test_growth_equals_official_code(lower: bool) -> None:
    given = GOLDEN.inputs("head_growth")
    weight, bias = given["old_weight"], given["old_bias"]
    module = LinearHead(weight.shape[1], len(weight)).double()
    module.weight.data, module.bias.data = weight, bias
    new = given["init_weight"][len(weight) :]
    new_bias = bias.min().item() - 1 if lower else 0.0
    grow_head(module, len(new), new, rescale=False, new_bias=new_bias)
    torch.testing.assert_close(
        module.weight, GOLDEN.output("head_growth", "weight"), check_dtype=False
    )
    wanted = GOLDEN.output("head_growth", "bias_autonovel" if lower else "bias_pycil")
    checked = slice(None) if lower else slice(0, len(bias))  # the copy leaves new ones as drawn
    torch.testing.assert_close(module.bias[checked].detach(), wanted[checked], check_dtype=False)


@pytest.mark.parametrize(
    ("case", "variant"), [("disalign_init", "official"), ("disalign_logits_paper", "paper")]
)
def test_alignment_equals_official_code(case: str, variant: str) -> None:
    given = REBALANCED.inputs(case)
    module = Aligned(variant=variant).build(given["weight"].shape[1], len(given["weight"])).double()
    # the golden start is that of the build: a scale of 1, a shift of 0, v of 0.1 and c of 0
    named = {"logit_scale": "scale", "logit_bias": "shift"}
    named |= {"conf_weight": "confidence.weight", "conf_bias": "confidence.bias"}
    state = {"base.weight": given["weight"], "base.bias": given["bias"]}
    state |= {name: given[role].reshape(-1) for role, name in named.items() if role in given}
    shaped = {k: v.reshape(module.state_dict()[k].shape) for k, v in state.items()}
    module.load_state_dict(shaped, strict=case == "disalign_logits_paper")
    wanted = REBALANCED.output(case, "logits")
    # 1e-8: the start of 0.1 was rounded to float32 before it was made double
    torch.testing.assert_close(module(given["features"]), wanted, rtol=1e-8, atol=1e-7)


def test_alignment_in_the_form_of_the_paper_starts_as_its_base() -> None:
    for base in ("linear", "cosine"):
        module = build(Aligned(base=base)).eval()
        torch.testing.assert_close(module(features()), module.base(features()))
        surer = build(Aligned(base=base, variant="official")).eval()
        assert torch.equal(surer(features()).argmax(1), surer.base(features()).argmax(1))
        assert (surer(features()).abs() > surer.base(features()).abs()).all()


def test_a_frozen_base_stays_in_evaluation_mode_under_an_alignment() -> None:
    module = trained(Aligned(base="causal_norm"))
    mean = module.base.mean_feature.clone()
    module.base.requires_grad_(False)
    frozen = module.eval()(features()).detach()
    torch.testing.assert_close(module.train()(features()), frozen)
    assert torch.equal(module.base.mean_feature, mean)
    module.base.requires_grad_(True)
    module.train()(features())
    assert not torch.equal(module.base.mean_feature, mean)


# --- the contract -------------------------------------------------------------------------------

everything = pytest.mark.parametrize("method", list(variants(Head)))


@everything
@pytest.mark.parametrize(("size", "classes"), [(6, C), (1, C), (0, C), (3, 1)])
def test_logits_have_a_column_per_class(method: Head, size: int, classes: int) -> None:
    module = build(method, classes)
    for mode in (True, False):
        logits = module.train(mode)(features(size))
        assert logits.shape == (size, classes)
        assert logits.isfinite().all()


@everything
def test_gradient_reaches_features_and_all_parameters(method: Head) -> None:
    # an alignment starts as no alignment, whose confidence can't matter yet: three steps on it does
    start = trained if method.name == "aligned" else build
    module, given = start(method).train(), features().requires_grad_()
    module.zero_grad()
    torch.nn.functional.cross_entropy(module(given), torch.arange(6) % C).backward()
    for tensor in (given, *module.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()


@everything
def test_zero_features_have_finite_logits_and_gradient(method: Head) -> None:
    module, given = build(method), torch.zeros(4, D, requires_grad=True)
    for mode in (True, False):
        logits = module.train(mode)(given)
        logits.sum().backward()
        assert logits.isfinite().all()
        assert given.grad is not None
        assert given.grad.isfinite().all()


@everything
def test_runs_under_bf16_autocast(method: Head) -> None:
    module = trained(method)
    full = module(features())
    with torch.autocast("cpu", torch.bfloat16):
        half = module(features())
    # bf16 keeps 8 bits: a few thousandths of the largest logit, after a sum over D terms.
    torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.05 * full.abs().max().item())


@everything
def test_eval_is_repeatable_and_leaves_the_state_alone(method: Head) -> None:
    module = trained(method)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    assert torch.equal(module(features()), module(features()))
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


@everything
def test_a_sample_does_not_depend_on_its_batch(method: Head) -> None:
    module = trained(method)
    one_by_one = torch.cat([module(row[None]) for row in features()])
    torch.testing.assert_close(one_by_one, module(features()))


@everything
def test_initialisation_follows_the_ambient_seed(method: Head) -> None:
    first, again, other = (build(method, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@everything
def test_state_restores_the_module(method: Head) -> None:
    module = trained(method)
    fresh = build(method, seed=9)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh.eval()(features()), module(features()))


@everything
def test_json_round_trip(method: Head) -> None:
    assert Head.parse(method.dump()) == method


@everything
@pytest.mark.parametrize("with_prototypes", [True, False])
def test_growth_keeps_old_classes_exactly(method: Head, with_prototypes: bool) -> None:
    module = trained(method)
    old_logits = module(features())
    old = {k: v.clone() for k, v in module.state_dict().items()}
    prototypes = features(3) if with_prototypes else None
    assert grow_head(module, 3, prototypes) is module
    for name, value in module.state_dict().items():
        kept = value[: len(old[name])] if value.ndim else value
        assert torch.equal(kept, old[name]), name
    logits = module(features())
    assert logits.shape == (6, C + 3)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:, :C], old_logits)
    build(method, C + 3).load_state_dict(module.state_dict())  # what a stored classifier needs
    logits.sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@everything
def test_growth_by_nothing_changes_nothing(method: Head) -> None:
    module = trained(method)
    before = module(features())
    assert torch.equal(grow_head(module, 0)(features()), before)


@everything
def test_growth_refuses_shapes_that_do_not_fit(method: Head) -> None:
    with pytest.raises(ValueError, match=rf"prototypes must be \[2, {D}\]; received \[2, 3\]"):
        grow_head(build(method), 2, torch.ones(2, 3))
    with pytest.raises(ValueError, match="num_new must be >= 0; received -1"):
        grow_head(build(method), -1)


# --- rules of single heads ----------------------------------------------------------------------


@pytest.mark.parametrize("method", [Linear(), Cosine(), CausalNorm()], ids=lambda m: m.name)
def test_new_rows_point_to_prototypes_and_have_the_mean_length(method: Head) -> None:
    module = trained(method)
    prototypes = 100 * features(2)
    length = module.weight[:C].norm(dim=1).mean()
    new = grow_head(module, 2, prototypes).weight[C:]
    torch.testing.assert_close(new.norm(dim=1), length.expand(2))
    cosines = torch.nn.functional.cosine_similarity(new, prototypes)
    torch.testing.assert_close(cosines, torch.ones(2))


def test_a_frozen_head_stays_frozen_when_it_grows() -> None:
    module = build(Linear()).requires_grad_(False)
    grow_head(module, 1)
    assert not any(p.requires_grad for p in module.parameters())


def test_new_biases_are_the_mean_of_the_old_unless_told() -> None:
    module = build(Linear())
    mean = module.bias.mean().item()
    assert grow_head(module, 1).bias[-1].item() == pytest.approx(mean)
    assert grow_head(module, 1, new_bias=-2.0).bias[-1].item() == -2.0
    assert grow_head(build(Linear(bias=False)), 1).bias is None


def test_growth_refuses_a_foreign_module() -> None:
    with pytest.raises(TypeError, match="Conv2d is not a GrowingHead"):
        grow_head(torch.nn.Conv2d(1, 1, 1), 1)


def test_sigmoid_start_gives_every_class_one_share_of_c() -> None:
    module = build(Linear(bias_start="sigmoid"))
    assert torch.sigmoid(module.bias).tolist() == pytest.approx([1 / C] * C)


def test_cosine_logits_ignore_length_and_stay_within_the_scale() -> None:
    module = build(Cosine(scale=7.0))
    assert isinstance(module, CosineHead)
    torch.testing.assert_close(module(features()), module(50 * features()))
    along = module(module.weight.detach())
    torch.testing.assert_close(along.diagonal(), torch.full((C,), 7.0))
    assert along.abs().max().item() <= 7.0 + 1e-4
    torch.testing.assert_close(module.weight.norm(dim=1), torch.ones(C))


def test_a_fixed_scale_is_a_setting_and_a_learnable_one_is_state() -> None:
    fixed, learnable = build(Cosine()), build(Cosine(learnable=True))
    assert "scale" not in fixed.state_dict()
    assert "scale" in learnable.state_dict()
    changed = Cosine(scale=3.0).build(D, C)
    changed.load_state_dict(fixed.state_dict())
    torch.testing.assert_close(changed(features()), fixed(features()) / 10)


def test_mlp_with_wide_hidden_layer_counts_its_parameters() -> None:
    module = build(MLP(hidden=16))
    assert sum(p.numel() for p in module.parameters()) == D * 16 + 16 + 16 * C + C


def test_mean_feature_moves_in_training_only() -> None:
    module = build(CausalNorm())
    assert isinstance(module, CausalNormHead)
    first, second = features(), features() + 1
    module.train()(first)
    module(second)
    wanted = 0.9 * first.mean(0) + second.mean(0)
    torch.testing.assert_close(module.mean_feature, wanted)
    module.eval()(first)
    torch.testing.assert_close(module.mean_feature, wanted)


def test_without_a_mean_feature_nothing_is_removed() -> None:
    module = build(CausalNorm(alpha=3.0))
    logits = module.eval()(features())
    torch.testing.assert_close(logits, build(CausalNorm(alpha=0.0)).eval()(features()))


def test_alpha_can_change_after_training_through_the_setting() -> None:
    method = CausalNorm()
    state = trained(method).state_dict()
    stronger = build(method.model_copy(update={"alpha": 3.0})).eval()
    stronger.load_state_dict(state)
    module = trained(method)
    assert isinstance(module, CausalNormHead)
    module.alpha = 3.0
    assert torch.equal(stronger(features()), module(features()))
    module.alpha = 0.0
    assert not torch.allclose(stronger(features()), module(features()))


def test_causal_norm_equals_a_loop() -> None:
    module = trained(CausalNorm(num_heads=2, tau=4.0, gamma=0.5, alpha=1.2)).double()
    given, width = features(2).double(), D // 2
    for i, c in ((0, 0), (1, 3)):
        total = 0.0
        for h in range(2):
            part = slice(h * width, (h + 1) * width)
            x, w, m = (t[part].tolist() for t in (given[i], module.weight[c], module.mean_feature))
            x = [v / math.hypot(*x) for v in x]
            m = [v / math.hypot(*m) for v in m]
            along = sum(a * b for a, b in zip(x, m, strict=True))
            x = [a - 1.2 * along * b for a, b in zip(x, m, strict=True)]
            total += sum(a * b for a, b in zip(x, w, strict=True)) / (math.hypot(*w) + 0.5)
        assert module(given)[i, c].item() == pytest.approx(4.0 / 2 * total, rel=1e-9)


def test_causal_norm_refuses_a_dimension_its_heads_do_not_divide() -> None:
    with pytest.raises(
        ValueError, match=r"num_heads must divide the feature dimension 7; received 2"
    ):
        CausalNorm().build(7, C)
