"""Mixers: golden vectors, slow oracles, and one contract for all that stand on the shelf."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers.oracles import mixers as oracle
from tests.helpers.vectors import golden, variants
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.losses.class_balanced import ClassBalanced
from trainables.methods.losses.cross_entropy import CrossEntropy
from trainables.methods.mixers import Mixer
from trainables.methods.mixers.cam_resampling import CamResampling
from trainables.methods.mixers.cutmix import CutMix
from trainables.methods.mixers.manifold_mixup import ManifoldMixup
from trainables.methods.mixers.mixup import Mixup
from trainables.methods.mixers.none import NoMixing
from trainables.methods.mixers.remix import Remix
from trainables.training.mixed_batch import mixed_features, mixed_loss
from trainables.transforms.mixing import Mix, draw_share, mixed_values, paired

GOLDEN = golden("longtail_data")
COUNTS = torch.tensor([90, 20, 6, 0])
everything = pytest.mark.parametrize("method", list(variants(Mixer)))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(size: int = 12, *, seed: int = 0, progress: float = 0.0) -> dict[str, Any]:
    draw = seeded(99)
    return {
        "images": torch.randint(256, (size, 3, 8, 6), generator=draw, dtype=torch.uint8),
        "labels": torch.arange(size) % 3,
        "class_counts": COUNTS,
        "class_activation": lambda: torch.rand(size, 8, 6, generator=seeded(7)),
        "progress": progress,
        "generator": seeded(seed),
    }


def drawn(method: Mixer, count: int = 20, **given: Any) -> list[Mix | None]:
    return [method.call_with(batch(seed=seed, **given)) for seed in range(count)]


# --- golden vectors: what official code gives ---------------------------------------------------


def given_mix(case: str) -> tuple[dict[str, torch.Tensor], Mix]:
    inputs = GOLDEN.inputs(case)
    share = (
        float(inputs["lam"]) if "lam" in inputs else GOLDEN.cases[case]["hyperparameters"]["lam"]
    )
    labels = inputs.get("labels", torch.arange(len(inputs["perm"])))
    return inputs, paired(labels, share, inputs["perm"])


def loss_and_gradient(logits: torch.Tensor, mix: Mix) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.clone().requires_grad_()
    loss = mixed_loss(CrossEntropy(), {"logits": logits}, mix)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, check_dtype=False)


def test_mixed_images_equal_official_code() -> None:
    case = "mixup_images"
    inputs, mix = given_mix(case)
    mixed = mixed_values(inputs["images"], mix)
    close(mixed[0], GOLDEN.output(case, "mixed_first"))
    close(mixed.mean((1, 2, 3)), GOLDEN.output(case, "mixed_mean"))
    assert torch.equal(mix.labels, GOLDEN.output(case, "labels_a"))
    assert torch.equal(mix.partner_labels, GOLDEN.output(case, "labels_b"))


def test_loss_of_mixup_equals_official_code() -> None:
    case = "mixup_loss"
    inputs, mix = given_mix(case)
    loss, gradient = loss_and_gradient(inputs["logits"], mix)
    close(loss, GOLDEN.output(case, "loss"))
    close(gradient, GOLDEN.output(case, "grad_logits"))


def test_mixed_features_and_targets_equal_official_code() -> None:
    case = "manifold_mixup"
    inputs, mix = given_mix(case)
    close(mixed_values(inputs["hidden"], mix), GOLDEN.output(case, "hidden"))
    close(mixed_values(inputs["onehot"], mix), GOLDEN.output(case, "targets"))


def test_remix_equals_official_code() -> None:
    case = "remix_seed5"
    inputs, mix = given_mix(case)
    arguments = (inputs["labels"], mix.partner, mix.share, inputs["class_counts"])
    shares = Remix().label_shares(*arguments)
    close(shares, GOLDEN.output(case, "lam_y"), 1e-6)
    assert set(shares.unique().tolist()) > {1.0}  # pairs that take a label whole are among them
    loss, gradient = loss_and_gradient(inputs["logits"], Remix().pair(*arguments))
    close(loss, GOLDEN.output(case, "loss"), 1e-6)
    close(gradient, GOLDEN.output(case, "grad_logits"), 1e-6)


def test_remix_without_the_pairing_equals_the_other_official_code() -> None:
    case = "remix_bot_quirk_seed3"
    inputs, mix = given_mix(case)
    arguments = (inputs["labels"], mix.partner, mix.share, inputs["class_counts"])
    wanted = GOLDEN.output(case, "loss")
    loss, _ = loss_and_gradient(inputs["logits"], Remix(variant="official").pair(*arguments))
    close(loss, wanted, 1e-6)
    right, _ = loss_and_gradient(inputs["logits"], Remix().pair(*arguments))
    assert abs(float(right - wanted)) > 1e-3


# --- oracles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.4, 0.5, 0.6, 0.9])
@pytest.mark.parametrize(("kappa", "tau"), [(3.0, 0.5), (1.0, 0.7), (10.0, 0.3)])
def test_remix_pairs_every_loss_with_its_own_share(share: float, kappa: float, tau: float) -> None:
    given = batch(12)
    labels, partner = given["labels"], torch.randperm(12, generator=seeded(3))
    logits = torch.randn(12, 4, generator=seeded(1), dtype=torch.float64)
    wanted = [
        oracle.remix_share(int(own), int(other), share, kappa=kappa, tau=tau)
        for own, other in zip(COUNTS[labels], COUNTS[labels[partner]], strict=True)
    ]
    method = Remix(kappa=kappa, tau=tau)
    assert method.label_shares(labels, partner, share, COUNTS).tolist() == pytest.approx(wanted)
    loss, _ = loss_and_gradient(logits, method.pair(labels, partner, share, COUNTS))
    numbers = logits.tolist(), labels.tolist(), partner.tolist(), wanted
    assert float(loss) == pytest.approx(oracle.paired_mean(*numbers), rel=1e-12)


@pytest.mark.parametrize("center", [(0, 0), (4, 3), (7, 5), (2, 5)])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.75, 1.0])
def test_a_box_is_what_its_pixels_say(share: float, center: tuple[int, int]) -> None:
    inside, left = oracle.box_mask(share, 8, 6, *center)
    box = top, bottom, first, last = CutMix.cut(share, (8, 6), center)
    mask = torch.zeros(8, 6, dtype=torch.bool)
    mask[top:bottom, first:last] = True
    assert mask.tolist() == inside
    assert CutMix.kept(box, (8, 6)) == pytest.approx(left)


def test_boxes_are_pasted_from_the_partner_and_labels_share_by_area() -> None:
    given = batch()
    for mix in drawn(CutMix(probability=1.0)):
        assert mix is not None
        assert mix.box is not None
        pasted = mixed_values(given["images"], mix)
        assert pasted.dtype == torch.uint8
        top, bottom, left, right = mix.box
        mask = torch.zeros(8, 6, dtype=torch.bool)
        mask[top:bottom, left:right] = True
        wanted = torch.where(mask, given["images"][mix.partner], given["images"])
        assert torch.equal(pasted, wanted)
        assert mix.label_share == pytest.approx(1 - mask.float().mean().item())


# --- the contract -------------------------------------------------------------------------------


@everything
def test_a_mix_is_a_permutation_of_the_batch_with_shares_in_zero_to_one(method: Mixer) -> None:
    labels = batch()["labels"]
    for mix in drawn(method):
        if mix is None:
            continue
        assert sorted(mix.partner.tolist()) == list(range(12))
        assert 0 <= mix.share <= 1
        assert 0 <= float(mix.label_share) <= 1
        both = torch.stack([labels, labels[mix.partner]])
        for found in (mix.labels, mix.partner_labels):
            assert found.dtype == torch.int64
            assert ((found == both).any(0)).all()


@everything
def test_one_seed_is_one_mix(method: Mixer) -> None:
    first, second = (drawn(method, count=3) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.equal(one.partner, other.partner)
            assert (one.share, one.box, one.depth) == (other.share, other.box, other.depth)
    if hasattr(method, "alpha"):
        # with alpha 0.1 most boxes of so small an image are all or nothing
        assert len({mix.share for mix in drawn(method) if mix is not None}) > 3


@everything
@pytest.mark.parametrize("size", [1, 2])
def test_small_batches_and_absent_classes_are_mixed(method: Mixer, size: int) -> None:
    logits = torch.randn(size, 4, generator=seeded())
    for mix in drawn(method, count=5, size=size):
        available = {"logits": logits, "labels": torch.arange(size), "class_counts": COUNTS}
        loss = mixed_loss(CrossEntropy(), available, mix)
        assert loss.isfinite()
        assert loss.shape == ()


@everything
def test_mixing_ends_where_it_is_told(method: Mixer) -> None:
    if not hasattr(method, "until"):
        return
    late = type(method)(**{**dict(method), "until": 0.8})
    assert any(mix is not None for mix in drawn(late, progress=0.79))
    assert drawn(late, progress=0.8) == [None] * 20


@everything
def test_json_round_trip(method: Mixer) -> None:
    assert Mixer.parse(method.dump()) == method


# --- new images by activation maps ----------------------------------------------------------------


def test_new_images_per_class_equal_official_code() -> None:
    case = "cam_absent_counts"
    counts = GOLDEN.inputs(case)["class_counts"]
    assert torch.equal(CamResampling().lacking(counts), GOLDEN.output(case, "num_absent"))
    lack = CamResampling(most=100).lacking(torch.tensor([500, 100, 99, 3, 0]))
    assert lack.tolist() == [0, 0, 100, 100, 0]


def test_new_images_come_late_in_the_asked_share_with_their_labels() -> None:
    assert drawn(CamResampling(), progress=0.79) == [None] * 20
    labels, found = batch()["labels"], torch.zeros(3)
    images = batch()["images"]
    maps = torch.zeros(12, 8, 6)
    maps[:, 1:3, 1:3] = 1.0  # away from the middle, so that all moves show
    for seed in range(200):
        given = batch(seed=seed, progress=0.8)
        mix = CamResampling().call_with({**given, "class_activation": lambda: maps})
        assert mix.pasted is not None
        assert mix.pasted.dtype == torch.uint8
        assert torch.equal(mix.labels, labels)
        changed = (mix.pasted != images).flatten(1).any(1)
        found += labels[changed].bincount(minlength=3)
    # of 96 images a class has in the end, 90, 20 and 6 are its own; 800 images a class
    wanted = 1 - torch.tensor([90, 20, 6]) / 96
    assert ((found / 800 - wanted).abs() < 0.06).all()  # four errors, and shifts by nothing


def test_new_images_are_the_loss_of_their_own_label() -> None:
    (mix,) = drawn(CamResampling(), count=1, progress=1.0)
    available = {"logits": torch.randn(12, 4, generator=seeded()), "labels": batch()["labels"]}
    plain = mixed_loss(CrossEntropy(), available, None)
    assert torch.equal(mixed_loss(CrossEntropy(), available, mix), plain)


def test_new_images_are_mixed_in_their_turn() -> None:
    given = batch(progress=0.9)
    pasting = CamResampling(start=0.5, mixer=Mixup())
    mix, early = pasting.call_with(given), pasting.call_with(batch(progress=0.4))
    alone = Mixup().call_with(batch(progress=0.9))
    assert mix.pasted is not None
    assert (mix.share, mix.label_share) == (alone.share, alone.label_share)
    assert torch.equal(mix.partner, alone.partner)
    assert early.pasted is None
    assert early.share == Mixup().call_with(batch(progress=0.4)).share
    pasted = mix.pasted.float() / 255
    wanted = mix.share * pasted + (1 - mix.share) * pasted[mix.partner]
    seen: list[torch.Tensor] = []
    mixed_features(lambda images: seen.append(images) or images, given["images"], mix)  # type: ignore[arg-type, func-returns-value]
    torch.testing.assert_close(seen[0], wanted)
    logits, labels = torch.randn(12, 4, generator=seeded()), given["labels"]
    loss = mixed_loss(CrossEntropy(), {"logits": logits, "labels": labels}, mix)
    own = CrossEntropy()(logits=logits, labels=labels)
    other = CrossEntropy()(logits=logits, labels=labels[mix.partner])
    torch.testing.assert_close(loss, mix.share * own + (1 - mix.share) * other)


def test_new_images_are_made_once() -> None:
    with pytest.raises(ValueError, match=r"cam_resampling\.mixer: 'cam_resampling' makes"):
        CamResampling(mixer=CamResampling())
    assert "mixer" not in CamResampling().model_dump()
    again = Mixer.parse(CamResampling(mixer=Mixup(alpha=0.5)).dump())
    assert again == CamResampling(mixer=Mixup(alpha=0.5))


# --- properties ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Mixup(), ManifoldMixup(variant="paper"), CutMix()])
def test_the_next_draw_does_not_depend_on_the_size_of_the_batch(method: Mixer) -> None:
    following = []
    for size in (3, 700):
        draw = seeded()
        for _ in range(3):
            method.call_with({**batch(size), "generator": draw})
        following.append(torch.rand(2, generator=draw))
    assert torch.equal(*following)


def test_equal_counts_make_remix_mixup() -> None:
    given = {**batch(), "class_counts": torch.tensor([5, 5, 5, 0])}
    one = Remix().call_with({**given, "generator": seeded(4)})
    other = Mixup().call_with({**given, "generator": seeded(4)})
    assert torch.equal(one.partner_labels, other.partner_labels)
    assert (one.share, one.label_share) == (other.share, other.label_share)


def test_a_share_of_one_is_the_plain_loss() -> None:
    available = {"logits": torch.randn(6, 3, generator=seeded()), "labels": torch.arange(6) % 3}
    mix = paired(available["labels"], 1.0, torch.arange(6).flip(0))
    assert torch.equal(
        mixed_loss(CrossEntropy(), available, mix), mixed_loss(CrossEntropy(), available, None)
    )
    values = torch.randn(6, 2, generator=seeded())
    assert torch.equal(mixed_values(values, mix), values)


def test_any_loss_is_the_mean_over_both_labels() -> None:
    labels, partner = torch.tensor([0, 0, 1, 2]), torch.tensor([2, 3, 0, 1])
    available = {
        "logits": torch.randn(4, 4, generator=seeded(), dtype=torch.float64),
        "labels": labels,
        "class_counts": COUNTS,
    }
    loss = ClassBalanced()
    wanted = 0.3 * loss.call_with(available)
    wanted += 0.7 * loss.call_with({**available, "labels": labels[partner]})
    torch.testing.assert_close(mixed_loss(loss, available, paired(labels, 0.3, partner)), wanted)


def test_shares_follow_the_beta_distribution() -> None:
    draw = seeded()
    for alpha in (0.2, 1.0, 4.0):
        shares = torch.tensor([draw_share(alpha, draw) for _ in range(4000)])
        variance = 1 / (4 * (2 * alpha + 1))
        # four standard errors of a mean; the variance within a tenth
        assert abs(float(shares.mean()) - 0.5) < 4 * (variance / 4000) ** 0.5
        assert float(shares.var()) == pytest.approx(variance, rel=0.1)


def test_bytes_are_averaged_as_fractions() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    mixed = mixed_values(images, paired(torch.arange(2), 0.25, torch.tensor([1, 0])))
    assert mixed.flatten().tolist() == [0.75, 0.25]


def test_layers_are_drawn_alike_and_the_official_form_takes_the_features() -> None:
    found = [mix for mix in drawn(ManifoldMixup(variant="paper"), count=60) if mix]
    thirds = [int(mix.depth * 3) for mix in found]
    assert {mix.place for mix in found} == {"hidden"}
    assert set(thirds) == {0, 1, 2}
    assert {mix.place for mix in drawn(ManifoldMixup()) if mix} == {"features"}


def test_a_part_of_the_batches_is_cut() -> None:
    mixed = [mix is not None for mix in drawn(CutMix(), count=200)]
    assert 70 < sum(mixed) < 130  # four standard errors
    assert NoMixing()() is None
