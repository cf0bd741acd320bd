"""The lines of a fit: parts sum up, names in place of indices, intervals, commands that run."""

import json
from pathlib import Path

import pytest

from orchestrator.fitting.figures.closing_lines import (
    answers,
    compared_lines,
    next_commands,
    suspects_lines,
    verdict,
)
from orchestrator.fitting.fit_record import (
    OWN_VALIDATION,
    ClassCount,
    Deeper,
    Figures,
    FitRecord,
    Photos,
    Search,
)
from orchestrator.fitting.screen import (
    found_lines,
    gain_line,
    headline,
    last_screen,
    photos_lines,
    rehearsal_lines,
    search_line,
)
from orchestrator.records import GateRecord, Interval, PromotionRecord
from trainables.closed_form.groups import FEWEST_GROUPS
from trainables.rehearsal.outcome import Rehearsal, Turn


def rate(mean: float, low: float, high: float) -> Interval:
    return Interval(mean=mean, low=low, high=high, values=[mean])


PHOTOS = Photos(
    folder="pets",
    images=1300,
    train=1040,
    test=260,
    shots=900,
    classes=[
        ClassCount(name="tabby", train=800, test=200),
        ClassCount(name="lynx", train=240, test=60),
    ],
    smallest=(480, 360),
    largest=(4032, 3024),
    left_out={"unreadable": ["tabby/1.jpg"], "copies": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]},
    loose=["odd.jpg"],
    remarks=["all 'lynx' images are 640x640, no others are: the model may learn the size"],
)
SEARCH = Search(
    variants=54,
    metric="balanced",
    best="lda",
    honest=rate(0.861, 0.84, 0.88),
    base="ridge, logit-adjusted",
    gain=rate(0.069, 0.041, 0.097),
    served="lda",
    serves_base=False,
)
FIGURES = Figures(
    origin="test",
    balanced=rate(0.852, 0.823, 0.878),
    natural=rate(0.889, 0.86, 0.9),
    bands={"many": rate(0.91, 0.9, 0.92), "few": rate(0.74, 0.6, 0.8)},
    false_alarm=rate(0.046, 0.031, 0.066),
    false_alarm_bands={"many": rate(0.04, 0.03, 0.05), "few": rate(0.07, 0.0, 0.1)},
    by_class={"tabby": rate(0.9, 0.8, 0.95), "lynx": rate(0.8, 0.7, 0.9)},
    images=260,
    out_of_fold_classes=["lynx"],
)
GATES = [
    GateRecord(name="overall", passed=True, reason="gained 2.00 points"),
    GateRecord(name="few", passed=True, verdict="not asked", reason="no image"),
]
RECORD = FitRecord(
    model="pets",
    storage="my runs",
    key="k",
    backbone="efficientnet_lite0",
    pretrained_on="ImageNet-1k",
    image_size=224,
    photos=PHOTOS,
    search=SEARCH,
    figures=FIGURES,
    recipe={},
    promotion=PromotionRecord(model="pets", version="1", promoted=True, gates=GATES),
    seconds=140.0,
    report="my runs/models/pets/report.html",
)


def test_the_photos() -> None:
    assert photos_lines(PHOTOS) == [
        (
            "photos",
            "1,305 files, 1,300 images in 2 classes, 480x360 to 4032x3024; tabby 1000 ... lynx "
            "300: imbalance 3.33 : 1",
        ),
        ("left out", "1 unreadable (tabby/1.jpg); 4 copies (a.jpg, b.jpg, c.jpg ...)"),
        (
            "",
            "1,300 images in 900 shots, each whole in one part: 1,040 train, 260 test; pets/ has "
            "no test part of its own",
        ),
        ("no class", "1 image (odd.jpg): none trains or tests"),
        ("look at", PHOTOS.remarks[0]),
    ]


def test_the_headline() -> None:
    assert list(headline(RECORD)) == [
        ".852 [.823, .878] balanced accuracy over 2 classes    many .910, few .740; of 100 photos "
        "like yours 89 are named rightly",
        "lynx: no test images, their figures are out-of-fold",
        "+.069 [+.041, +.097] over the base recipe (ridge, logit-adjusted), paired, out-of-fold",
        "4.6 % [3.1, 6.6] of photos of known classes are called unknown (many 4 %, few 7 %)",
    ]
    assert search_line(SEARCH) == (
        "54 variants of head and balance; lda is the best: .861 [.840, .880] balanced accuracy, "
        "out-of-fold, the choice repeated inside"
    )


def test_classes_that_do_not_judge_the_choice_are_named() -> None:
    assert FEWEST_GROUPS == 3
    blind = SEARCH.model_copy(update={"classes_not_judged": ["lynx", "fox"]})
    end = "out-of-fold, the choice repeated inside; without lynx, fox (under 3 shots)"
    assert search_line(blind).endswith(end)
    own = blind.model_copy(update={"judged_by": OWN_VALIDATION})
    end = "on val/, the choice repeated inside; without lynx, fox (no images in val/)"
    assert search_line(own).endswith(end)


def test_few_test_images_stand_beside_answers_out_of_fold() -> None:
    few = FIGURES.model_copy(update={"images": 60, "out_of_fold": rate(0.8, 0.7, 0.9)})
    lines = list(headline(RECORD.model_copy(update={"figures": few})))
    assert lines[0].startswith(".861 [.840, .880] balanced accuracy over 2 classes, out-of-fold")
    assert lines[0].endswith("as only 60 images test")
    assert lines[1].startswith(".852 [.823, .878] balanced accuracy on these    many")
    base = SEARCH.model_copy(update={"serves_base": True})
    record = RECORD.model_copy(update={"figures": few, "search": base})
    assert next(headline(record)).startswith(".800 [.700, .900] balanced accuracy")


@pytest.mark.parametrize(
    ("metric", "words"),
    [("accuracy", "accuracy"), ("worst-class", "accuracy of the worst class")],
)
def test_beside_few_test_images_the_choice_is_told_by_its_metric_and_its_classes(
    metric: str, words: str
) -> None:
    few = FIGURES.model_copy(update={"images": 60, "out_of_fold": rate(0.8, 0.7, 0.9)})
    told = {"metric": metric, "classes_not_judged": ["lynx"]}
    record = RECORD.model_copy(update={"figures": few, "search": SEARCH.model_copy(update=told)})
    lines = list(headline(record))
    assert lines[0] == (
        f".861 [.840, .880] {words} over 1 classes, out-of-fold, as only 60 images test"
    )
    assert lines[1].startswith(".852 [.823, .878] balanced accuracy on these")
    base = SEARCH.model_copy(update={**told, "serves_base": True})
    lines = list(headline(record.model_copy(update={"search": base})))
    assert lines[0].startswith(".800 [.700, .900] balanced accuracy over 2 classes, out-of-fold")


def test_own_validation_images_choose_and_may_be_of_other_conditions() -> None:
    search = SEARCH.model_copy(update={"judged_by": OWN_VALIDATION})
    assert "balanced accuracy, on val/, the choice repeated inside" in search_line(search)
    assert gain_line(search).endswith("paired, on val/")
    tells = {"validation": rate(0.7, 0.6, 0.8), "validation_gap": rate(-0.16, -0.2, -0.1)}
    other = FIGURES.model_copy(update=tells)
    record = RECORD.model_copy(update={"figures": other, "search": search})
    assert (
        "val/ has other conditions than train/: .700 [.600, .800] balanced accuracy there, "
        "-.160 [-.200, -.100] against train/ out-of-fold"
    ) in list(headline(record))
    tells["validation_gap"] = rate(-0.01, -0.05, 0.03)
    alike = FIGURES.model_copy(update=tells)
    assert not any(
        "val/ has" in line for line in headline(record.model_copy(update={"figures": alike}))
    )
    few = other.model_copy(update={"images": 60})
    lines = list(headline(record.model_copy(update={"figures": few})))
    assert lines[0].endswith("over 2 classes, on val/, as only 60 images test")


@pytest.mark.parametrize(
    ("best", "words"),
    [
        ("lda", "answers: lda is not better beyond noise, +.004 [-.010, +.018]"),
        ("ridge, logit-adjusted", "answers: no variant is better out-of-fold"),
    ],
)
def test_a_base_that_is_served_says_so(best: str, words: str) -> None:
    search = SEARCH.model_copy(
        update={"serves_base": True, "best": best, "gain": rate(0.004, -0.01, 0.018)}
    )
    assert words in gain_line(search)


def test_verdict_and_commands() -> None:
    assert verdict(RECORD) == (
        "pets version 1 is champion: 1 gate passed, 1 not asked.   2 min 20 s.   "
        "my runs/models/pets/report.html"
    )
    refused = [GateRecord(name="few", passed=False, reason="lost 4 points")]
    promotion = PromotionRecord(
        model="pets", version="2", promoted=False, gates=refused, champion="1"
    )
    assert verdict(RECORD.model_copy(update={"promotion": promotion})) == (
        "pets version 2 was refused, version 1 stays champion: few: lost 4 points"
    )
    first, page, last = next_commands(RECORD, Path("my pets/a b.jpg"))
    assert first == (
        "orchestrator predict 'my pets/a b.jpg' --storage 'my runs' --model pets   "
        "what is in an image"
    )
    assert page.startswith("orchestrator report pets --storage 'my runs'  ")
    assert last.startswith("orchestrator promote list --storage 'my runs' --model pets  ")
    assert len(last_screen(RECORD, None)) == len(last_screen(RECORD, Path("a.jpg"))) - 1


def test_a_refused_first_version_does_not_answer_and_its_remedies_are_said() -> None:
    refused = [GateRecord(name="few", passed=False, reason="lost 4 points")]
    promotion = PromotionRecord(model="pets", version="1", promoted=False, gates=refused)
    record = RECORD.model_copy(update={"promotion": promotion})
    assert verdict(record) == (
        "pets version 1 was refused, and no version answers yet: few: lost 4 points"
    )
    words = [line.partition("   ")[0].strip() for line in next_commands(record, Path("a.jpg"))]
    again = "orchestrator promote version 1 --storage 'my runs' --model pets"
    assert words == [
        "orchestrator report pets --storage 'my runs'",
        "orchestrator promote list --storage 'my runs' --model pets",
        f"{again} --gate few.allowed_regression=NUMBER",
        f"{again} --force",
    ]
    assert not answers(record)
    stays = record.model_copy(update={"promotion": promotion.model_copy(update={"champion": "1"})})
    assert answers(stays)
    assert "orchestrator predict a.jpg" in next_commands(stays, Path("a.jpg"))[0]
    assert answers(RECORD)


def test_the_screen_says_for_how_many_classes_the_pool_shows_one_cluster() -> None:
    def turns(hits: int, tried: int, untried: int) -> list[Turn]:
        every = [True] * hits + [False] * (tried - hits) + [None] * untried
        return [
            Turn(str(n), 40, {0.05: 0.5}, 0.9, [("cat", 0.5)], {10: True, 30: found})
            for n, found in enumerate(every)
        ]

    told = Rehearsal(turns(11, 13, 7), [], (0.05,), 0.05, frozenset(), 0.1, "")
    assert list(found_lines(told)) == [
        "           30 images of a new class are found as one cluster for 11 of the 13 classes "
        "that could be tried [.55, .98]"
    ]
    assert list(rehearsal_lines(told, 3))[2] == next(found_lines(told))
    few = told._replace(turns=turns(0, 0, 4))
    assert next(found_lines(few)).strip() == (
        "10 images of a new class are found as one cluster for 4 of the 4 classes that could be "
        "tried [.40, 1.00]"
    )
    none = [turn._replace(found={10: None, 30: None}) for turn in few.turns]
    assert list(found_lines(told._replace(turns=none))) == []
    unasked = [turn._replace(found={}) for turn in few.turns]
    assert list(found_lines(told._replace(turns=unasked))) == []


def test_which_backbone_answers_is_said_once_with_what_the_frozen_one_noticed() -> None:
    told = Deeper(
        epochs=10,
        kept_out=341,
        gain=Interval(mean=0.031, low=0.01, high=0.052, values=[0.031]),
        serves=True,
        frozen="ridge, logit-adjusted",
        new=["lynx", "ocelot"],
        frozen_noticed=0.86,
        not_judged=["fox"],
    )
    turns = [Turn("lynx", 40, {0.05: 0.5}, 0.9, [("tabby", 0.5)], {}, together=("ocelot",))]
    rehearsal = json.loads(Rehearsal(turns, [], (0.05,), 0.05, frozenset(), 0.1, "").to_json())
    lines = list(headline(RECORD.model_copy(update={"deeper": told, "rehearsal": rehearsal})))
    gain = (
        "+.031 [+.010, +.052] over the frozen backbone (ridge, logit-adjusted), paired, on 341 "
        "images kept out of its training (fox: none)"
    )
    assert lines[2] == gain
    assert not any("over the base recipe" in line for line in lines)
    noticed = "the frozen backbone noticed 86 % of the images of these 2 classes, each new alone"
    assert lines[-1].strip() == noticed
    lost = told.model_copy(update={"serves": False})
    lines = list(headline(RECORD.model_copy(update={"deeper": lost, "rehearsal": rehearsal})))
    assert lines[2].startswith("+.069 [+.041, +.097] over the base recipe")
    assert lines[3] == (
        "the frozen backbone answers: fine-tuned for 10 epochs it is not better beyond noise, "
        "+.031 [+.010, +.052], paired, on 341 images kept out of its training"
    )
    assert not any("the frozen backbone noticed" in line for line in lines)


def test_a_fine_tuning_is_offered_once_with_its_time() -> None:
    offered = RECORD.model_copy(update={"asked": "fit 'my pets'", "deeper_seconds": 840.0})
    words, _, what = next_commands(offered, None)[0].partition("   ")
    assert words == "orchestrator fit 'my pets' --deeper --storage 'my runs' --model pets"
    assert what.strip() == "also fine-tune the backbone (about 14 min here)"
    impossible = offered.model_copy(update={"deeper_seconds": 0.0})
    assert not any("--deeper" in line for line in next_commands(impossible, None))


def test_a_later_version_says_what_was_compared() -> None:
    gates = [
        GateRecord(name="comparison", passed=True, reason="61 test/images of 8 classes are ..."),
        GateRecord(name="few", passed=True, reason="gained"),
        GateRecord(name="overall", passed=True, reason="version 1: +1.20 points"),
    ]
    promotion = PromotionRecord(model="pets", version="2", promoted=True, gates=gates)
    later = RECORD.model_copy(update={"promotion": promotion})
    lines = ["61 test images of 8 classes are ...", "version 1: +1.20 points"]
    assert compared_lines(later) == lines
    assert last_screen(later, None)[-6:-4] == lines
    first = promotion.model_copy(update={"version": "1"})
    assert compared_lines(RECORD.model_copy(update={"promotion": first})) == []


def test_the_rehearsal_says_where_its_figures_come_from() -> None:
    turns = [
        Turn("lynx", 40, {0.05: 0.75}, 0.9, [("ocelot", 0.25)], {}),
        Turn("ocelot", 40, {0.05: 0.25}, 0.6, [("lynx", 0.75)], {}),
        Turn("tabby", 40, {0.05: 0.95}, 0.99, [("lynx", 0.05)], {}),
    ]
    found = Rehearsal(turns, [], (0.05,), 0.05, frozenset({"tabby"}), 0.1, "")
    lines = list(rehearsal_lines(found, 3))
    assert "noticed in 65 % [" in lines[0]
    assert "rehearsal, in which each of 3 classes played new" in lines[0]
    assert "rehearsal, in which 3 of 4 classes played new" in next(rehearsal_lines(found, 4))
    # 1 of 10 is new: .1 * .65 / (.1 * .65 + .9 * .05) = .59
    assert lines[1].strip() == (
        "if 1 photo in 10 is new, 59 of 100 alarms are right; weakest: ocelot, taken for lynx"
    )
    assert lines[2].strip() == (
        "1 class has a label in the backbone's pretraining: 95 %; the other 2: 50 %"
    )
    with_it = [turn._replace(noticed={0.05: 0.9}, together=("owl", "fox")) for turn in turns]
    together = found._replace(beside=with_it)
    (line,) = set(rehearsal_lines(together, 3)) - set(lines)
    assert line.startswith(
        "           where the 2 classes most like it are not known either: 90 % ["
    )
    one = [turn._replace(together=("owl",)) for turn in with_it]
    said = "\n".join(rehearsal_lines(found._replace(beside=one), 3))
    assert "where the class most like it is not known either: 90 % [" in said
    blind = [turns[0]._replace(noticed={0.05: 0.0}, too_few=(0.01, 0.05)), turns[1], turns[2]]
    said = list(rehearsal_lines(found._replace(turns=blind), 3))
    assert said[1].strip() == (
        "without 1 of these classes too few known images are left to set a threshold for 5 %: "
        "nothing is called unknown then"
    )
    assert len(said) == len(lines) + 1
    nothing = found._replace(turns=[], cannot_tell="two classes are too few")
    assert list(rehearsal_lines(nothing, 3)) == [
        "a class it was not told of: cannot be told, two classes are too few"
    ]
    twice = found._replace(turns=[], cannot_tell="cannot be told: every class stays known")
    assert list(rehearsal_lines(twice, 3)) == [
        "a class it was not told of: cannot be told, every class stays known"
    ]


def test_a_fold_is_named_so() -> None:
    turns = [
        Turn("lynx", 40, {0.05: 0.75}, 0.9, [("ocelot", 0.25)], {}, ("serval",)),
        Turn("serval", 40, {0.05: 0.25}, 0.6, [("ocelot", 0.75)], {}, ("lynx",)),
    ]
    found = Rehearsal(turns, [], (0.05,), 0.05, frozenset(), 0.0, "")
    assert "rehearsal, in which 2 of 20 classes were new" in next(rehearsal_lines(found, 20))


def test_a_trained_network_is_judged_by_images_that_were_kept_out() -> None:
    search = SEARCH.model_copy(update={"variants": 1, "kept_out": 40, "serves_base": True})
    figures = FIGURES.model_copy(
        update={
            "images": 60,
            "out_of_fold": rate(0.8, 0.7, 0.9),
            "by_class": {"tabby": rate(1, 1, 1)},
        }
    )
    lines = list(headline(RECORD.model_copy(update={"search": search, "figures": figures})))
    assert lines[0] == (
        ".800 [.700, .900] balanced accuracy over 1 classes, on 40 images kept out of the "
        "training, as only 60 images test"
    )
    assert "lynx: known, but without a figure, as no image is left to judge by" in lines
    assert not any("base recipe" in line for line in lines)  # nothing was compared


def test_classes_whose_labels_can_not_be_doubted_are_one_line() -> None:
    said = "labels of lynx are not doubted: the model does not tell this class well enough"
    assert suspects_lines(RECORD.model_copy(update={"not_doubted": ["lynx"]})) == [said]
    found = {"suspects": {"train": 2}, "suspects_file": "s.csv", "not_doubted": list("abcdefg")}
    lines = suspects_lines(RECORD.model_copy(update=found))
    assert lines[0].startswith("2 labels may be wrong (2 train)")
    assert lines[1].startswith("labels of a, b, c, d, e and 2 more are not doubted")
    assert suspects_lines(RECORD) == []
