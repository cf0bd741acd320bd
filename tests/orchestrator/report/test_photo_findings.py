"""What answers tell about photos: known answers by hand, and a planted wrong label."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from orchestrator.report.photo_findings import (
    Answers,
    ClassFigure,
    Confusion,
    Suspect,
    classes_told,
    confusions,
    nearest_images,
    surest_mistakes,
    suspect_labels,
    suspects_csv,
    weakest_classes,
)

NAMES = ["lynx", "ocelot", "tabby", "serval"]


def by_hand() -> Answers:
    """Return nine images of three classes; serval has none, and three answers are wrong."""
    rows = [
        ("l0", 0, [0.7, 0.2, 0.1, 0.0]),
        ("l1", 0, [0.1, 0.8, 0.1, 0.0]),  # taken for an ocelot
        ("l2", 0, [0.3, 0.6, 0.1, 0.0]),  # as well, less sure
        ("l3", 0, [0.9, 0.1, 0.0, 0.0]),
        ("o0", 1, [0.1, 0.9, 0.0, 0.0]),
        ("o1", 1, [0.0, 0.03, 0.0, 0.97]),  # taken for a serval
        ("t0", 2, [0.0, 0.1, 0.9, 0.0]),
        ("t1", 2, [0.2, 0.2, 0.6, 0.0]),
        ("t2", 2, [0.0, 0.0, 1.0, 0.0]),
    ]
    files, labels, probabilities = zip(*rows, strict=True)
    return Answers(np.array(labels), np.array(probabilities), files, NAMES)


def test_confusions_are_the_largest_shares_of_a_class_first() -> None:
    assert confusions(by_hand()) == [
        Confusion("lynx", "ocelot", 4, ["l1", "l2"]),
        Confusion("ocelot", "serval", 2, ["o1"]),
    ]
    assert [pair.share for pair in confusions(by_hand())] == [0.5, 0.5]


def test_confusions_count_against_all_images_of_the_class() -> None:
    answers = by_hand()
    answers.probabilities[7] = [0.9, 0.1, 0.0, 0.0]  # one of three tabbies
    found = confusions(answers)
    assert [(p.true_class, p.predicted_class) for p in found][-1] == ("tabby", "lynx")
    assert found[-1].share == pytest.approx(1 / 3)


def test_weakest_classes_come_first_and_absent_ones_not_at_all() -> None:
    assert weakest_classes(by_hand()) == [
        ClassFigure("lynx", 4, 2, [("ocelot", 2)]),
        ClassFigure("ocelot", 2, 1, [("serval", 1)]),
        ClassFigure("tabby", 3, 3, []),
    ]
    assert [row.accuracy for row in weakest_classes(by_hand())] == [0.5, 0.5, 1.0]


def test_the_surest_mistake_comes_first() -> None:
    found = surest_mistakes(by_hand())
    assert [(m.file, m.label, m.predicted, m.probability) for m in found] == [
        ("o1", "ocelot", "serval", 0.97),
        ("l1", "lynx", "ocelot", 0.8),
        ("l2", "lynx", "ocelot", 0.6),
    ]


def test_suspects_are_above_the_mean_confidence_of_the_suggested_class() -> None:
    # thresholds: lynx (.7 + .1 + .3 + .9) / 4 = .5, ocelot (.9 + .03) / 2 = .465,
    # tabby (.9 + .6 + 1) / 3, serval none: it has no images, so nothing is suggested to be one
    assert suspect_labels(by_hand()) == [
        Suspect("l1", "lynx", "ocelot", 0.1, 0.8),
        Suspect("l2", "lynx", "ocelot", 0.3, 0.6),
    ]


def test_a_rare_class_has_a_threshold_of_its_own() -> None:
    # the model is never sure of the rare class: .4 there is as much as .9 elsewhere
    probabilities = np.array([[0.9, 0.1], [0.95, 0.05], [0.6, 0.4], [0.61, 0.39], [0.59, 0.41]])
    answers = Answers(np.array([0, 0, 0, 1, 1]), probabilities, list("abcde"), NAMES[:2])
    assert [(s.file, s.suggested) for s in suspect_labels(answers)] == [("c", "ocelot")]


def test_planted_wrong_labels_are_the_first_suspects() -> None:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    digits, generator = load_digits(), np.random.default_rng(0)
    images, truth = digits.data[:900] / 16, digits.target[:900]
    planted = generator.choice(900, 30, replace=False)
    labels = truth.copy()
    labels[planted] = (truth[planted] + generator.integers(1, 10, 30)) % 10
    model = LogisticRegression(C=0.5, max_iter=300)
    probabilities = cross_val_predict(model, images, labels, cv=5, method="predict_proba")
    files = [str(n) for n in range(900)]
    found = suspect_labels(Answers(labels, probabilities, files, [str(n) for n in range(10)]))
    wrong = [int(suspect.file) in planted for suspect in found]
    assert wrong[:10] == [True] * 10  # measured: 15
    assert sum(wrong) >= 15  # measured: 17 of 30 in 22 suspects
    assert len(found) <= 30
    assert all(s.suggested == str(truth[int(s.file)]) for s in found[:10])


def test_a_model_that_does_not_tell_a_class_doubts_none_of_its_labels() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 400)
    chance = generator.dirichlet(np.ones(4), 400)
    answers = Answers(labels, chance, [str(n) for n in range(400)], NAMES)
    assert classes_told(answers).tolist() == [False] * 4
    assert suspect_labels(answers) == []
    # two classes are told, but for one image each; the other two are taken for each other
    chance[:] = np.eye(4)[np.array([0, 1, 3, 2])[labels]]
    first, second = np.flatnonzero(labels == 0)[0], np.flatnonzero(labels == 1)[0]
    chance[first], chance[second] = np.eye(4)[1], np.eye(4)[2]
    found = suspect_labels(answers)
    assert classes_told(answers).tolist() == [True, True, False, False]
    assert [(s.file, s.label, s.suggested) for s in found] == [(str(first), "lynx", "ocelot")]


def test_nothing_is_suspect_where_every_answer_is_right() -> None:
    answers = Answers(np.arange(4), np.eye(4), list("abcd"), NAMES)
    assert suspect_labels(answers) == []
    assert (confusions(answers), surest_mistakes(answers)) == ([], [])
    none = Answers(np.zeros(0, dtype=np.int64), np.zeros((0, 4)), [], NAMES)
    assert (suspect_labels(none), weakest_classes(none), confusions(none)) == ([], [], [])


def test_suspects_as_a_table_that_can_be_corrected() -> None:
    odd = Suspect('a, "b".jpg', "lynx", "ocelot", 0.12345, 0.9)
    text = suspects_csv({"train": [odd], "test": [odd._replace(file="c.jpg")]})
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[0] == {
        "path": 'a, "b".jpg',
        "label": "lynx",
        "suggested": "ocelot",
        "label_probability": "0.1235",
        "suggested_probability": "0.9",
        "part": "train",
    }
    assert [(row["path"], row["part"]) for row in rows[1:]] == [("c.jpg", "test")]
    assert suspects_csv({"train": []}).splitlines() == [text.splitlines()[0]]


def test_nearest_images_are_those_of_a_brute_force_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.report.photo_findings.BLOCK_ROWS", 4)
    generator = np.random.default_rng(0)
    asked, train = generator.normal(size=(11, 6)), generator.normal(size=(40, 6))
    train *= generator.uniform(0.1, 9, size=(40, 1))  # lengths must not matter
    train[7] = 0
    found = nearest_images(asked.astype(np.float32), train, count=3)
    for row, places in zip(asked, found, strict=True):
        cosines = []
        for other in train:
            length = np.sqrt(row @ row) * np.sqrt(other @ other)
            cosines.append(row @ other / length if length else 0.0)
        assert places.tolist() == sorted(range(40), key=lambda place: -cosines[place])[:3]
    assert nearest_images(asked[:1], train[:2], count=3).shape == (1, 2)
    assert nearest_images(asked[:0], train, count=3).shape == (0, 3)


def test_images_of_the_own_group_are_not_near() -> None:
    train = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    groups = np.array([4, 4, 5])
    found = nearest_images(train, train, 2, groups, groups)
    assert found.tolist() == [[2, -1], [2, -1], [1, 0]]


def test_what_was_corrected_stays_in_the_table() -> None:
    odd = Suspect("b.jpg", "lynx", "ocelot", 0.1, 0.9)
    text = suspects_csv({"train": [odd]}, {"c.jpg": "tabby", "b.jpg": "lynx", "a.jpg": "lynx"})
    assert text.splitlines()[1:] == [
        "b.jpg,lynx,ocelot,0.1,0.9,train",
        "a.jpg,lynx,,,,",
        "c.jpg,tabby,,,,",
    ]
