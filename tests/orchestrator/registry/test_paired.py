"""Two versions, image by image: the gain that a careful person would find, and on which images."""

from __future__ import annotations

import pytest

from orchestrator.registry.paired import (
    BALANCED,
    CALIBRATION,
    UNSHARED,
    false_alarms,
    over_constant,
    paired_gains,
    rehearsal_gain,
    with_seeds,
)
from orchestrator.registry.shared_images import describe, share
from tests.helpers.versions import NAMES, Photo, photos, right_below, version
from trainables.functional.paired_rules import Gain, judge_gain
from trainables.inference.outcomes import Outcomes


def gains(mine: Outcomes, theirs: Outcomes) -> dict[str, Gain]:
    return paired_gains(share(mine, theirs), mine.bands())


def verdict(mine: Outcomes, theirs: Outcomes, allowed: float = 1.0) -> str:
    return judge_gain(gains(mine, theirs)[BALANCED], allowed).verdict


def test_a_clearly_worse_version_is_refused() -> None:
    data = photos()
    better, worse = (version(data, right_below(skill)) for skill in (0.9, 0.7))
    gain = gains(worse, better)[BALANCED]
    assert (gain.mine, gain.theirs) == (pytest.approx(0.7), pytest.approx(0.9))
    assert gain.value == pytest.approx(-0.2)
    assert gain.number == 200
    assert -0.27 < gain.low < -0.2 < gain.high < -0.14  # 40 of 200 pairs were lost: se .028
    assert verdict(worse, better) == "refused"
    assert verdict(better, worse) == "passed"


def test_identical_versions_pass() -> None:
    data = photos()
    twice = [version(data, right_below(0.8)) for _ in range(2)]
    found = gains(*twice)
    assert {judge_gain(gain, 0.0).verdict for gain in found.values()} == {"passed"}
    assert judge_gain(found[BALANCED], 0.5).reason.endswith("classes: the same answers")


def test_equal_predictions_of_unequal_models_show_no_more_than_their_number() -> None:
    data = photos()
    mine, theirs = (version(data, right_below(0.8), stated=p) for p in (0.8, 0.9))
    gain = gains(mine, theirs)[BALANCED]
    assert (gain.value, gain.high) == (0.0, pytest.approx(1.96 / 202))
    assert judge_gain(gain, 1.0).verdict == "passed"
    unsure = judge_gain(gain, 0.5)
    assert (unsure.verdict, unsure.needs) == ("cannot tell", 390)  # 1.96 / 392 = .5 points


def test_calibration_needs_the_probabilities_of_both() -> None:
    told, silent = (version(photos(), right_below(0.8), stated=p) for p in (0.8, float("nan")))
    for pair in ((told, silent), (silent, told)):
        assert set(gains(*pair)) == {BALANCED, "accuracy/medium"}
    assert gains(told, told)[CALIBRATION].mine == pytest.approx(0.0, abs=1e-6)


def test_six_test_images_cannot_tell() -> None:
    data = photos(train=30, test=3)[: 2 * 33]
    mine, theirs = (version(data, right_below(skill), classes=NAMES) for skill in (0.7, 1.0))
    found = judge_gain(gains(mine, theirs)[BALANCED], 1.0)
    assert found.verdict == "cannot tell"
    assert found.needs is not None
    assert found.needs > 6
    assert found.reason.endswith(f"that needs about {found.needs:,} test images")
    same = gains(version(data, right_below(1.0), stated=0.8, classes=NAMES), theirs)[BALANCED]
    assert judge_gain(same, 1.0)[::2] == ("cannot tell", 200)  # 1.96 / 196 = 1 point, rounded up


def test_an_added_class_is_no_loss_of_the_others() -> None:
    """The new class draws 3 of 40 images from each other one: shown apart, with its own limit."""
    before = photos(NAMES[:4])
    theirs = version(before, right_below(0.9, NAMES[:4]))
    data = [*before, *photos(("tabby",))]

    def answer(photo: Photo) -> str:
        drawn = photo.label != "tabby" and 0.8 < photo.hard < 0.875
        return "tabby" if drawn else right_below(0.9)(photo)

    mine = version(data, answer)
    shared = share(mine, theirs)
    assert (shared.classes, shared.only_mine, shared.only_theirs) == (NAMES[:4], ("tabby",), ())
    assert shared.mine_alone == 40
    found = paired_gains(shared, mine.bands())
    assert found[BALANCED].value == found["accuracy/medium"].value == 0.0
    assert found[BALANCED].number == 160
    assert found[UNSHARED].value == pytest.approx(-3 / 40)
    assert found[BALANCED].mine - found[BALANCED].theirs == pytest.approx(-3 / 40)  # the whole
    assert judge_gain(found[UNSHARED], 2.0).verdict == "refused"
    assert judge_gain(found[BALANCED], 2.0).verdict == "passed"
    assert "this version alone knows 'tabby'" in describe(shared, "version 1")
    assert "40 were no test images of version 1" in describe(shared, "version 1")


def test_a_removed_class_is_said_and_costs_nothing() -> None:
    data = photos()
    theirs = version(data, right_below(0.9))  # wrong answers to 'serval' are 'tabby'
    kept = [photo for photo in data if photo.label != "tabby"]
    mine = version(kept, right_below(0.9, NAMES[:4]))
    shared = share(mine, theirs)
    assert (shared.only_mine, shared.only_theirs) == ((), ("tabby",))
    found = paired_gains(shared, mine.bands())
    assert found[BALANCED].number == 160
    assert found[BALANCED].value == 0.0
    assert found[UNSHARED].value == 0.0
    assert "version 1 alone knows 'tabby'" in describe(shared, "version 1")


def test_what_only_the_former_class_took_is_no_gain_of_the_others() -> None:
    data = photos()
    theirs = version(data, right_below(0.9))
    kept = [photo for photo in data if photo.label != "tabby"]
    mine = version(kept, lambda p: p.label if p.label == "serval" else right_below(0.9)(p))
    found = gains(mine, theirs)
    assert found[BALANCED].value == 0.0
    assert found[UNSHARED].value == pytest.approx(0.1 / 4)


@pytest.mark.parametrize("grown", [False, True])
def test_a_renamed_class_is_the_same_class(grown: bool) -> None:
    data = photos()
    theirs = version(data, right_below(0.9))
    now = {"tabby": "house cat"}
    names = tuple(now.get(name, name) for name in NAMES)
    called = [Photo(p.digest, now.get(p.label, p.label), p.part, p.hard) for p in data]
    called += photos(names, test=20, start=500) if grown else []
    mine = version(called, right_below(0.9, names))
    shared = share(mine, theirs)
    assert shared.renamed == now
    assert set(shared.classes) == set(names)
    assert (shared.relabelled, len(shared.images)) == (0, 200)
    assert verdict(mine, theirs, 0.0) == "passed"
    assert paired_gains(shared, mine.bands())[BALANCED].same
    assert "'tabby' is called 'house cat' now" in describe(shared, "version 1")


def test_two_classes_that_changed_names_are_followed() -> None:
    data = photos()
    swap = {"lynx": "ocelot", "ocelot": "lynx"}
    called = [Photo(p.digest, swap.get(p.label, p.label), p.part, p.hard) for p in data]
    mine, theirs = version(called, right_below(1.0)), version(data, right_below(1.0))
    assert share(mine, theirs).renamed == swap
    assert gains(mine, theirs)[BALANCED].same


@pytest.mark.parametrize("left", [("lynx",), ("lynx", "ocelot")])
def test_an_image_that_a_swap_of_two_labels_left_behind_keeps_no_name(
    left: tuple[str, ...],
) -> None:
    """Else the former lynx would be today's lynx, which are the former ocelots: all were wrong."""
    data = photos()
    swap = {"lynx": "ocelot", "ocelot": "lynx"}
    stay = {f"{name}-train-0" for name in left}
    called = [
        Photo(p.digest, p.label if p.digest in stay else swap.get(p.label, p.label), p.part, p.hard)
        for p in data
    ]
    theirs = version(data, right_below(0.9))
    shared = share(version(called, right_below(0.7)), theirs)
    assert (shared.renamed, shared.only_mine, shared.only_theirs) == (swap, (), ())
    assert shared.relabelled == 0  # the images left behind are no test images
    assert verdict(version(called, right_below(0.7)), theirs) == "refused"


def test_a_scattered_class_whose_name_another_one_took_is_of_before() -> None:
    """The lynxes went to two classes, all but one; what was an ocelot is called lynx."""
    data = photos(NAMES)
    now = {"ocelot": "lynx"}

    def called(n: int, photo: Photo) -> str:
        if photo.label != "lynx":
            return now.get(photo.label, photo.label)
        return "lynx" if photo.digest == "lynx-train-0" else ("serval", "tabby")[n % 2]

    after = [Photo(p.digest, called(n, p), p.part, p.hard) for n, p in enumerate(data)]
    shared = share(version(after, lambda p: p.label), version(data, lambda p: p.label))
    assert shared.renamed == {"ocelot": "lynx", "lynx": "lynx of before"}
    assert shared.only_theirs == ("lynx of before",)
    assert shared.relabelled == 40


def test_a_name_that_another_class_took_is_not_the_class_that_had_it() -> None:
    """The ocelots were deleted, and what was a lynx is called ocelot: no former ocelot is right."""
    before = photos(("lynx", "ocelot"))
    theirs = version(before, lambda photo: "ocelot")
    after = [Photo(p.digest, "ocelot", p.part, p.hard) for p in before if p.label == "lynx"]
    mine = version([*after, *photos(("tabby",))], lambda photo: photo.label)
    shared = share(mine, theirs)
    assert shared.renamed == {"lynx": "ocelot", "ocelot": "ocelot of before"}
    assert (shared.classes, shared.only_theirs) == (("ocelot",), ("ocelot of before",))
    assert set(shared.images["theirs"]) == {"ocelot of before"}
    assert gains(mine, theirs)[UNSHARED].value == 1.0
    said = describe(shared, "version 1")
    assert "'lynx' is called 'ocelot' now; " in said
    assert "version 1 alone knows 'ocelot of before'" in said
    merged = version([*after, *photos(("ocelot",))], lambda photo: photo.label)
    assert share(merged, theirs).renamed == {"lynx": "ocelot"}  # of both, half each: one class


def test_a_class_in_two_halves_is_no_renamed_one() -> None:
    data = photos()
    names = [*NAMES[:4], "red tabby", "grey tabby"]
    called = [
        Photo(p.digest, p.label if p.label != "tabby" else names[4 + n % 2], p.part, p.hard)
        for n, p in enumerate(data)
    ]
    shared = share(version(called, lambda p: p.label), version(data, right_below(0.9)))
    assert shared.renamed == {}
    assert shared.only_mine == ("grey tabby", "red tabby")
    assert shared.only_theirs == ("tabby",)
    assert paired_gains(shared, {})[BALANCED].number == 160


def test_a_quarter_of_a_class_is_not_the_class() -> None:
    data = photos(("lynx",), train=0) + photos(("tabby",), train=0, test=100)
    theirs = version(data, lambda photo: photo.label)

    def now(photo: Photo) -> str:
        return photo.label if photo.label == "tabby" else "kit" if photo.hard < 0.25 else "tabby"

    called = [Photo(p.digest, now(p), p.part, p.hard) for p in data]
    assert share(version(called, lambda photo: photo.label), theirs).renamed == {}


def test_a_class_that_keeps_an_image_keeps_its_name() -> None:
    data = photos()
    moved = [
        Photo(p.digest, "wild cat" if p.label == "tabby" and n % 10 else p.label, p.part, p.hard)
        for n, p in enumerate(data)
    ]
    shared = share(version(moved, lambda p: p.label), version(data, right_below(0.9)))
    assert shared.renamed == {}
    assert shared.only_mine == ("wild cat",)


def test_relabelled_images_count_by_their_label_of_today() -> None:
    """Twenty 'lynx' are 'serval' now: the version that still says 'lynx' is wrong about them."""
    data = photos()
    theirs = version(data, right_below(1.0))
    first = [p for p in data if p.label == "lynx" and p.part == "test"][:20]
    called = [Photo(p.digest, "serval" if p in first else p.label, p.part, p.hard) for p in data]
    mine = version(called, right_below(1.0))
    shared = share(mine, theirs)
    assert (shared.relabelled, shared.renamed) == (20, {})
    gain = gains(mine, theirs)[BALANCED]
    assert gain.theirs == pytest.approx((4 + 40 / 60) / 5)
    assert gain.value == pytest.approx(20 / 60 / 5)
    assert verdict(mine, theirs) == "passed"
    then = gains(theirs, mine)[BALANCED]  # by the labels of then it would be the other way
    assert then.value == pytest.approx(20 / 40 / 5)
    assert "20 have another label than then" in describe(shared, "version 1")


def test_a_grown_test_part_compares_what_both_were_asked() -> None:
    data = photos()
    theirs = version(data, right_below(0.9))
    mine = version([*data, *photos(test=25, train=9, start=500)], right_below(0.9))
    shared = share(mine, theirs)
    assert (len(shared.images), shared.mine_alone) == (200, 125)
    assert gains(mine, theirs)[BALANCED].value == 0.0


def test_an_image_of_the_former_training_part_is_not_compared() -> None:
    """Three images moved into test/; a fourth test image is another copy of one of them."""
    data = photos()
    theirs = version(data, right_below(0.5))
    moved = {f"lynx-train-{n}" for n in range(3)}
    groups = {"lynx-train-0": "burst", "lynx-test-0": "burst"}
    now = [
        Photo(p.digest, p.label, "test" if p.digest in moved else p.part, p.hard,
              groups.get(p.digest, ""))
        for p in data
    ]  # fmt: skip
    mine = version(now, right_below(0.5))
    shared = share(mine, theirs)
    assert shared.fitted == 4
    assert len(shared.images) == 199
    assert not set(shared.images["digest"]) & {*moved, "lynx-test-0"}
    assert gains(mine, theirs)[BALANCED].value == 0.0
    assert "4 are left out, because one of the two was fitted on them" in describe(shared, "v1")


@pytest.mark.parametrize("part", ["train", "val", "pool"])
def test_an_image_that_the_newer_version_was_fitted_on_is_not_compared(part: str) -> None:
    data = photos()
    theirs = version(data, right_below(0.9))
    now = [Photo(p.digest, p.label, part if p.hard > 0.9 else p.part, p.hard) for p in data]
    shared = share(version(now, right_below(0.9)), theirs)
    assert len(shared.images) == 180


def test_no_shared_class_and_no_shared_image() -> None:
    mine = version(photos(NAMES[:2]), right_below(0.9, NAMES[:2]))
    theirs = version(photos(NAMES[2:], start=900), right_below(0.9, NAMES[2:]))
    shared = share(mine, theirs)
    assert (shared.classes, len(shared.images)) == ((), 0)
    assert paired_gains(shared, {}) == {}
    later = version(photos(start=900), right_below(0.9))
    assert share(later, version(photos(), right_below(0.9))).classes == NAMES
    assert gains(later, version(photos(), right_below(0.9))) == {}


def test_bands_are_those_of_the_newer_version() -> None:
    data = [*photos(NAMES[:1], train=200), *photos(NAMES[1:3]), *photos(NAMES[3:], train=5)]
    theirs = version(data, right_below(0.9))

    def answer(photo: Photo) -> str:
        return right_below(0.5 if photo.label == "tabby" else 0.9)(photo)

    found = gains(version(data, answer), theirs)
    assert found["accuracy/few"].value == pytest.approx(-0.2)  # one of its two classes
    assert found["accuracy/few"].where == " on 80 images of 2 classes"
    assert found["accuracy/medium"].value == found["accuracy/many"].value == 0.0
    assert found["accuracy/many"].number == 40


def test_out_of_fold_answers_are_named_so() -> None:
    data = [Photo(p.digest, p.label, "test", p.hard) for p in photos(train=0)]
    mine, base = (version(data, right_below(skill)) for skill in (0.9, 0.8))
    trained = [t._replace(images=t.images.assign(part="train")) for t in (mine, base)]
    shared = share(*trained, "train")
    assert shared.origin == "out_of_fold/"
    gain = paired_gains(shared, trained[0].bands())[BALANCED]
    assert (gain.origin, gain.value) == ("out_of_fold/", pytest.approx(0.1))
    assert share(*trained).images.empty  # nothing is test


def test_chance_is_the_floor() -> None:
    data = photos()
    good = over_constant(version(data, right_below(0.9)))
    assert good is not None
    assert (good.mine, good.theirs) == (pytest.approx(0.9), pytest.approx(0.2))
    assert good.low > 0.5
    usual = [*photos(NAMES[:1], train=99), *photos(NAMES[1:])]
    guess = over_constant(version(usual, lambda p: "caracal"))
    assert guess is not None
    assert guess.value == 0.0
    assert guess.where == " of always answering 'caracal' on 200 images of 5 classes"
    assert over_constant(version([p for p in data if p.part == "train"], lambda p: "")) is None


def test_false_alarms_are_counted_by_band() -> None:
    data = [*photos(NAMES[:1], train=200), *photos(NAMES[1:3]), *photos(NAMES[3:], train=5)]
    rare = ("serval", "tabby")
    alarm = version(data, right_below(0.9), known=lambda p: not (p.label in rare and p.hard > 0.7))
    found = false_alarms(alarm)
    assert {name: rate.value for name, rate in found.items()} == {
        "many": 0.0,
        "medium": 0.0,
        "few": pytest.approx(24 / 80),
    }
    assert found["few"].number == 80
    assert 0.2 < found["few"].low < 0.22  # Wilson: .211
    assert found["many"].high == pytest.approx(0.0876, abs=1e-3)


def test_rehearsals_are_compared_over_classes() -> None:
    data = photos()
    aurocs = dict(zip(NAMES, (0.8, 0.85, 0.9, 0.95, 0.7), strict=True))
    theirs = version(data, right_below(0.9), rehearsal=aurocs)
    lower = {name: value - 0.05 for name, value in aurocs.items()}
    mine = version(data, right_below(0.9), rehearsal={**lower, "ocelot": 0.9})
    gain = rehearsal_gain(mine, theirs, {})
    assert gain is not None
    assert gain.value == pytest.approx(-0.04)
    # differences -.05, -.05, -.05, -.05, 0: sd .02236, t .975 of 4: 2.776
    assert gain.low == pytest.approx(-0.04 - 2.776 * 0.02236 / 5**0.5, abs=1e-4)
    assert (gain.origin, gain.number, gain.unit) == ("rehearsal/", 5, "rehearsed classes")
    assert rehearsal_gain(mine, version(data, right_below(0.9)), {}) is None
    other = version(data, right_below(0.9), rehearsal={"cat": 0.7})
    renamed = rehearsal_gain(mine, other, {"cat": "tabby"})
    assert renamed is not None
    assert renamed.value == pytest.approx(-0.05)
    assert (renamed.low, renamed.high) == (-1.0, pytest.approx(0.95))  # one class shows nothing


def test_seeds_widen_the_interval_on_top_of_images() -> None:
    data = photos()
    mine, theirs = (version(data, right_below(skill)) for skill in (0.85, 0.9))
    gain = gains(mine, theirs)[BALANCED]
    name = f"test/{BALANCED}/seed"
    ours = {f"{name}/1": 0.84, f"{name}/2": 0.86, f"{name}/3": 0.85}
    others = {f"{name}/1": 0.90, f"{name}/2": 0.89, f"{name}/3": 0.91}
    wider = with_seeds(gain, ours, others)
    noise = 4.303 * 0.0173205 / 3**0.5  # differences -.06, -.03, -.06
    assert wider.value - wider.low == pytest.approx(
        ((gain.value - gain.low) ** 2 + noise**2) ** 0.5, abs=1e-4
    )
    assert wider.spread == pytest.approx((gain.spread**2 + noise**2) ** 0.5, abs=1e-4)
    assert with_seeds(gain, {f"{name}/1": 0.8}, others) == gain  # one common seed has no noise
    assert with_seeds(gain, {}, {}) == gain


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_seed_without_a_number_tells_nothing(odd: float) -> None:
    data = photos()
    better, worse = (version(data, right_below(skill)) for skill in (0.9, 0.7))
    gain = gains(better, worse)[BALANCED]
    assert judge_gain(gain, 1.0).verdict == "passed"
    name = f"test/{BALANCED}/seed"
    ours = {f"{name}/{n}": value for n, value in enumerate((0.9, odd, 0.9))}
    found = judge_gain(with_seeds(gain, ours, dict.fromkeys(ours, 0.7)), 1.0)
    assert (found.verdict, found.needs) == ("cannot tell", None)
    assert found.reason.endswith("an end of its interval is no number (nan)")
