"""Verdicts of the gates, version against version, as a careful person would give them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.records import GateRecord
from orchestrator.registry.gate_settings import choose_gates
from orchestrator.registry.judging import Judged, Rival, by_metrics, judge_photos
from tests.helpers.versions import NAMES, Photo, photos, right_below, version
from trainables.inference.outcomes import Outcomes
from trainables.methods.gates import Gate
from trainables.methods.gates.latency import Latency
from trainables.methods.gates.overall import Overall

ONE = "version 1"


def judged(mine: Outcomes, theirs: Outcomes | None, *texts: str, **more: object) -> Judged:
    rival = None if theirs is None else Rival(ONE, theirs)
    return judge_photos(mine, gates=choose_gates(texts), champion=rival, **more)  # type: ignore[arg-type]


def verdicts(found: Judged) -> dict[str, str]:
    return {decision.name: decision.verdict for decision in found.decisions}


def decision(found: Judged, gate: str) -> GateRecord:
    return next(d for d in found.decisions if d.name == gate)


def many(skill: float, names: tuple[str, ...] = NAMES, **more: object) -> Outcomes:
    """Return a version of 400 test images a class, so that a point can be told."""
    return version(photos(names, test=400), right_below(skill, names), **more)  # type: ignore[arg-type]


def test_a_clearly_worse_version_is_refused_with_its_numbers() -> None:
    found = judged(many(0.8), many(0.9))
    assert verdicts(found) == {
        "comparison": "passed",
        "calibration": "refused",  # it still states .9
        "chance": "passed",
        "false_alarm": "not asked",
        "few": "not asked",
        "forgetting": "not asked",
        "latency": "not asked",
        "many": "not asked",
        "medium": "refused",
        "novelty": "not asked",
        "overall": "refused",
        "provenance": "passed",
        "unshared_classes": "not asked",
    }
    overall = decision(found, "overall")
    assert (overall.passed, overall.origin) == (False, "test/")
    assert overall.reason.startswith(
        "version 1: test/accuracy/balanced 0.8000 against 0.9000 on 2000 images of 5 classes: "
        "-10.00 points [-11."
    )
    assert decision(found, "few").reason == "no shared image of version 1 shows accuracy/few"
    assert decision(found, "unshared_classes").reason == "both know the same classes"


def test_an_equal_version_passes() -> None:
    found = judged(many(0.9), many(0.9))
    asked = {name for name, verdict in verdicts(found).items() if verdict != "not asked"}
    assert asked == {"comparison", "calibration", "chance", "medium", "overall", "provenance"}
    assert {verdicts(found)[name] for name in asked} == {"passed"}


def test_six_test_images_do_not_tell_and_do_not_stand_in_the_way() -> None:
    small = photos(NAMES[:2], test=3)
    mine, theirs = (version(small, right_below(s, NAMES[:2])) for s in (0.7, 1.0))
    found = judged(mine, theirs)
    overall = decision(found, "overall")
    assert (overall.verdict, overall.passed) == ("cannot tell", True)
    assert overall.needs is not None
    assert overall.needs >= 12
    assert f"that needs about {overall.needs:,} test images" in overall.reason


def test_a_class_is_added() -> None:
    before, data = photos(NAMES[:4], test=400), photos(test=400)
    theirs = version(before, right_below(0.9, NAMES[:4]))

    def drawn(share: float) -> Callable[[Photo], str]:
        def answer(photo: Photo) -> str:
            taken = photo.label != "tabby" and 0.5 < photo.hard < 0.5 + share
            return (
                "tabby"
                if taken
                else right_below(0.9, NAMES[:4])(photo)
                if (photo.label != "tabby")
                else "tabby"
            )

        return answer

    little, much = (judged(version(data, drawn(share)), theirs) for share in (0.01, 0.08))
    for found in (little, much):
        assert decision(found, "overall").verdict == "passed"
        assert "this version alone knows 'tabby'" in decision(found, "comparison").reason
    assert decision(little, "unshared_classes").verdict == "passed"
    assert decision(much, "unshared_classes").verdict == "refused"
    assert "beside -8.00 points by classes that one knows" in decision(much, "overall").reason
    assert decision(much, "unshared_classes").reason.startswith(
        "version 1: test/accuracy/balanced by classes that one version alone knows on 1600 images"
    )
    allowed = judged(version(data, drawn(0.08)), theirs, "unshared_classes.allowed_regression=10")
    assert decision(allowed, "unshared_classes").verdict == "passed"
    assert decision(allowed, "unshared_classes").settings == {"allowed_regression": 10.0}


def test_a_class_is_removed() -> None:
    found = judged(many(0.9, NAMES[:4]), many(0.9))
    assert {verdicts(found)[name] for name in ("overall", "unshared_classes")} == {"passed"}
    assert "version 1 alone knows 'tabby'" in decision(found, "comparison").reason


def test_no_shared_class_asks_for_a_name_of_its_own() -> None:
    mine = version(photos(NAMES[:2]), right_below(0.9, NAMES[:2]))
    theirs = version(photos(NAMES[2:]), right_below(0.9, NAMES[2:]))
    base = Rival("the base recipe", mine)
    found = judged(mine, theirs, base=base, model="photos")
    refused = [d for d in found.decisions if not d.passed]
    assert [d.name for d in refused] == ["comparison"]
    assert refused[0].reason == (
        "it shares no class with version 1 of 'photos', so the two cannot be compared; register "
        "it under a name of its own with --model NAME"
    )
    assert verdicts(found)["overall"] == "not asked"  # the base does not stand in for a champion


def test_no_shared_image_leaves_the_base_to_compare_with() -> None:
    mine = version(photos(start=900), right_below(0.9))
    base = Rival("the base recipe", version(photos(start=900), right_below(0.5)))
    found = judged(mine, version(photos(), right_below(0.9)), base=base)
    assert verdicts(found)["comparison"] == "not asked"
    assert "200 were no test images of version 1" in decision(found, "comparison").reason
    assert decision(found, "overall").verdict == "passed"
    assert decision(found, "overall").reason.startswith("the base recipe: test/accuracy/balanced")
    assert found.over_champion == {}
    alone = judged(mine, version(photos(), right_below(0.9)))
    assert decision(alone, "overall").verdict == "not asked"
    assert decision(alone, "overall").reason == (
        "there is no image to compare on and no base recipe"
    )


def test_common_rehearsals_do_not_stand_in_for_images() -> None:
    rehearsal = dict.fromkeys(NAMES, 0.9)
    mine = version(photos(start=900), right_below(0.5), rehearsal=rehearsal)
    base = Rival("the base recipe", version(photos(start=900), right_below(0.9)))
    theirs = version(photos(), right_below(0.9), rehearsal=rehearsal)
    found = judged(mine, theirs, base=base)
    assert verdicts(found)["comparison"] == "not asked"
    assert decision(found, "overall").verdict == "refused"
    assert decision(found, "overall").reason.startswith("the base recipe: test/accuracy/balanced")
    assert decision(found, "novelty").verdict == "passed"
    assert decision(found, "novelty").reason.startswith("version 1: rehearsal/novelty/auroc")
    assert list(found.over_champion) == ["novelty"]


@pytest.mark.parametrize(("skill", "verdict"), [(0.9, "passed"), (0.7, "refused")])
def test_the_first_version_is_judged_against_its_base(skill: float, verdict: str) -> None:
    base = Rival("the base recipe", many(0.8))
    found = judged(many(skill), None, base=base)
    assert decision(found, "overall").verdict == verdict
    assert "comparison" not in verdicts(found)
    assert "the base recipe: test/accuracy/balanced" in decision(found, "overall").reason


def test_without_test_images_answers_out_of_fold_are_compared() -> None:
    def trained(skill: float) -> Outcomes:
        table = many(skill)
        return table._replace(images=table.images.assign(part="train"))

    found = judged(trained(0.9), None, base=Rival("the base recipe", trained(0.8)))
    for gate in ("overall", "chance"):
        assert (decision(found, gate).verdict, decision(found, gate).origin) == (
            "passed",
            "out_of_fold/",
        )
        assert "out_of_fold/accuracy/balanced" in decision(found, gate).reason
    assert decision(found, "false_alarm").verdict == "not asked"


def test_the_first_version_without_a_base_is_asked_for_its_floors_alone() -> None:
    found = judged(many(0.9), None)
    passed = [d.name for d in found.decisions if d.verdict == "passed"]
    assert passed == ["chance", "provenance"]
    assert {d.verdict for d in found.decisions} == {"passed", "not asked"}
    assert decision(found, "overall").reason == "there is no version before and no base recipe"


@pytest.mark.parametrize(
    ("skill", "verdict"), [(0.2, "refused"), (0.24, "passed"), (0.19, "refused")]
)
def test_a_version_that_is_no_better_than_chance_is_refused(skill: float, verdict: str) -> None:
    assert decision(judged(many(skill), None), "chance").verdict == verdict


def test_ten_images_do_not_tell_chance() -> None:
    data = photos(test=2)
    guess = version(data, lambda p: p.label if p.hard < 0.5 and p.label == "lynx" else "tabby")
    found = decision(judged(guess, None), "chance")
    assert (found.verdict, found.passed) == ("cannot tell", True)


@pytest.mark.parametrize("train", [0, 20])
def test_test_images_of_one_class_do_not_tell_chance(train: int) -> None:
    """Of the one class that has a test, always naming it is right too."""
    data = [*photos(("lynx",), train=200, test=60), *photos(("tabby",), train=train, test=0)]
    perfect = version(data, lambda photo: photo.label, classes=("lynx", "tabby"))
    assert decision(judged(perfect, None), "chance").verdict == "not asked"
    table = perfect.images
    inside = table.assign(predicted=table["label"].where(table["part"] == "train", "tabby"))
    found = decision(judged(perfect._replace(images=inside), None), "chance")
    assert (found.verdict, found.origin) == (
        ("passed", "out_of_fold/") if train else ("not asked", "")
    )


@pytest.mark.parametrize(
    ("share", "level", "verdict"),
    [
        (0.20, 0.05, "refused"),
        (0.05, 0.05, "passed"),
        (0.10, 0.05, "cannot tell"),
        (0.20, None, "not asked"),
    ],
)
def test_false_alarm_is_judged_by_band(share: float, level: float | None, verdict: str) -> None:
    data = [*photos(NAMES[:3], test=400), *photos(NAMES[3:], train=5, test=400)]

    def known(photo: Photo) -> bool:
        return photo.label in NAMES[:3] or photo.hard >= share

    mine = version(data, right_below(0.9), known=known, level=level)
    found = decision(judged(mine, None), "false_alarm")
    assert found.verdict == verdict
    if level is not None:
        assert found.reason.startswith("test/novelty/false_alarm, at most 0.100: ")
        few, medium = f"few {share:.3f} [", "medium 0.000 [0.000, 0.003] of 1200 images"
        assert few in found.reason
        assert medium in found.reason
        assert verdict == "passed" or found.reason.index(few) < found.reason.index(medium)
    assert (found.needs is not None) is (verdict == "cannot tell")


def test_rehearsals_are_compared_where_both_have_one() -> None:
    first = dict.fromkeys(NAMES, 0.9)
    worse = dict.fromkeys(NAMES, 0.4)
    found = judged(many(0.9, rehearsal=worse), many(0.9, rehearsal=first))
    novelty = decision(found, "novelty")
    assert (novelty.verdict, novelty.origin) == ("refused", "rehearsal/")
    assert "rehearsal/novelty/auroc 0.4000 against 0.9000 over 5 classes" in novelty.reason
    none = judged(many(0.9, rehearsal=worse), many(0.9))
    assert decision(none, "novelty").reason == "no class played new in the rehearsals of both"
    unequal = dict(zip(NAMES, (0.95, 0.80, 0.93, 0.85, 0.92), strict=True))
    unsure = decision(judged(many(0.9, rehearsal=unequal), many(0.9, rehearsal=first)), "novelty")
    assert unsure.verdict == "cannot tell"
    assert f"needs about {unsure.needs:,} rehearsed classes" in unsure.reason


def test_a_rehearsal_without_a_value_is_left_out() -> None:
    nan = dict.fromkeys(NAMES, float("nan"))
    mine, theirs = nan | {"lynx": 0.8, "tabby": 0.8}, nan | {"lynx": 0.8, "ocelot": 0.3}
    found = judged(many(0.9, rehearsal=mine), many(0.9, rehearsal=theirs))
    assert decision(found, "novelty").reason == (
        "version 1: rehearsal/novelty/auroc over 1 classes: the same answers"
    )
    none = judged(many(0.9, rehearsal=nan), many(0.9, rehearsal=theirs))
    assert decision(none, "novelty").verdict == "not asked"


def test_models_that_differ_in_what_is_unknown_alone_name_alike() -> None:
    data = photos(test=4)
    first = version(data, right_below(0.5))
    wary = version(data, right_below(0.5), known=lambda photo: photo.hard < 0.5)
    found = judged(wary, first)
    assert decision(found, "overall").verdict == "passed"
    assert decision(found, "overall").reason.endswith("the same answers")


def test_losses_to_the_best_champion_so_far_do_not_add_up() -> None:
    """A point a version is not shown to be lost; three points against the first one are."""
    best = {"overall": Rival(ONE, many(0.93))}
    gates = [Overall(allowed_regression=1.0)]
    champion = Rival("version 2", many(0.905))
    alone = judge_photos(many(0.90), gates=gates, champion=champion)
    assert decision(alone, "overall").passed
    found = judge_photos(many(0.90), gates=gates, champion=champion, best=best)
    overall = decision(found, "overall")
    assert overall.verdict == "refused"
    assert overall.reason.startswith("version 2: test/accuracy/balanced 0.9000 against 0.9050")
    assert "; best champion so far (version 1): test/accuracy/balanced 0.9000" in overall.reason
    assert found.over_champion["overall"].value == pytest.approx(-0.005)
    assert found.over_best["overall"].value == pytest.approx(-0.03)
    gone = {"overall": Rival(ONE, version(photos(start=900), right_below(0.9)))}
    kept = judge_photos(many(0.90), gates=gates, champion=champion, best=gone)
    assert decision(kept, "overall").verdict == decision(alone, "overall").verdict
    assert decision(kept, "overall").reason.endswith("(version 1): no shared image")


def test_what_the_champion_refuses_is_not_asked_of_the_best_one() -> None:
    best = {"overall": Rival(ONE, many(0.93))}
    gates, champion = [Overall()], Rival("version 2", many(0.92))
    found = judge_photos(many(0.80), gates=gates, champion=champion, best=best)
    assert decision(found, "overall").verdict == "refused"
    assert "best champion" not in decision(found, "overall").reason
    assert found.over_best == {}


def test_a_loss_to_the_best_champion_that_is_not_excluded_is_said() -> None:
    best = {"overall": Rival(ONE, many(0.915))}
    champion = Rival("version 2", many(0.90))
    gates = [Overall(allowed_regression=1.0)]
    found = judge_photos(many(0.90), gates=gates, champion=champion, best=best)
    assert decision(found, "overall").verdict == "cannot tell"
    assert decision(found, "overall").needs is not None


def test_metrics_that_were_not_measured_are_not_asked_for() -> None:
    assert decision(judged(many(0.9), many(0.9)), "latency").reason == (
        "evaluate/latency/ms was not measured"
    )
    times = ({"evaluate/latency/ms": 3.0}, {"evaluate/latency/ms": 1.0})
    found = judge_photos(
        many(0.9), gates=[Latency()], champion=Rival(ONE, many(0.9)), metrics=times
    )
    assert verdicts(found) == {"comparison": "passed", "latency": "refused"}


@pytest.mark.parametrize(
    ("champion", "verdict"),
    [
        (None, "not asked"),
        ({}, "not asked"),
        ({"m": float("nan")}, "not asked"),
        ({"m": 0.5}, "passed"),
        ({"m": 0.9}, "refused"),
    ],
)
def test_a_gate_that_compared_nothing_was_not_asked(
    champion: dict[str, float] | None, verdict: str
) -> None:
    found = by_metrics(Overall(metric="m"), {"m": 0.5}, champion)
    assert (found.verdict, found.passed) == (verdict, verdict != "refused")


def test_what_a_gate_says_of_being_not_asked_is_its_verdict() -> None:
    found = by_metrics(Gate.parse("novelty"), {}, None)
    assert found.verdict == "not asked"
    assert found.reason.startswith("test/novelty/auroc needs test images")
    assert found.origin == "test/"
