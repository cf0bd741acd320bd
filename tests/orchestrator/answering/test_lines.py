"""Predictions as lines that people and programs read."""

from __future__ import annotations

import csv
import json

from orchestrator.answering.lines import TextLines, csv_header, csv_line, json_line
from orchestrator.answering.stream import Prediction

EVIL = "\x1b[2J\x1b]0;owned\x07cat\x9b31m\r\x08"


def tabby(**changes: object) -> Prediction:
    fields: dict[str, object] = {
        "image": "inbox/1.jpg",
        "class_index": 0,
        "class_name": "tabby",
        "probability": 0.97,
        "second_class": "lynx",
        "second_probability": 0.02,
        "known": True,
        "confidence": 3.5,
        "pretrained_on": "ImageNet-1k",
    }
    return Prediction.model_validate({**fields, **changes})


def unknown(**changes: object) -> Prediction:
    found = {"image": "inbox/3.jpg", "known": False, "nearest": "tabby", **changes}
    return tabby(**{"share": 1 / 300, "known_images": 900, **found})


def test_lines_of_a_screen() -> None:
    line = TextLines(["tabby", "lynx", "ocelot"])
    lynx = tabby(
        image="inbox/2.jpg", class_name="lynx", probability=0.61,
        second_class="ocelot", second_probability=0.33,
    )  # fmt: skip
    assert [line(tabby()), line(lynx), line(unknown())] == [
        "inbox/1.jpg   tabby      .97",
        "inbox/2.jpg   lynx       .61   (ocelot .33)",
        "inbox/3.jpg   unknown          nearest: tabby; 1 in 300 known images looks as strange",
    ]


def test_a_class_may_be_called_unknown() -> None:
    line = TextLines(["unknown", "cat"])
    named = line(tabby(class_name="unknown"))
    assert named == "inbox/1.jpg   unknown    .97"
    nearest = line(unknown(class_name="unknown", nearest="unknown"))
    assert "nearest: unknown; 1 in 300" in nearest
    assert json.loads(json_line(tabby(class_name="unknown")))["known"] is True


def test_a_model_without_answers_to_known_images_tells_the_nearest_class_alone() -> None:
    assert TextLines(["tabby"])(unknown(share=None, known_images=None)).endswith("nearest: tabby")


def test_columns_grow_with_names_and_wide_letters_count_twice() -> None:
    line = TextLines(["tabby", "猫"], images=["inbox/10.jpg"])
    assert line(tabby()).index("tabby") == len("inbox/10.jpg   ")
    assert line(tabby(image="x" * 20)).index("tabby") == 23
    assert line(tabby()).index("tabby") == 23
    assert line(tabby(class_name="猫")).endswith(f"猫{' ' * 5}    .97")
    assert line(tabby(image="y" * 90)).index("tabby") == 93  # this line alone
    assert line(tabby()).index("tabby") == 63


def test_no_probability_is_written_as_certain() -> None:
    line = TextLines(["tabby"])
    assert line(tabby(probability=0.9999)).endswith(" >.99")
    assert line(tabby(probability=0.996)).endswith(" >.99")  # 1.00 in two digits
    assert line(tabby(probability=1.0)).endswith(" >.99")
    assert line(tabby(probability=0.3, second_probability=0.1)).endswith(".30   (lynx .10)")
    assert line(tabby(probability=0.3, second_probability=0.09)).endswith(".30")
    assert line(tabby(second_class=None, second_probability=None)).endswith(".97")


def test_no_line_can_steer_a_terminal() -> None:
    found = unknown(class_name=EVIL, second_class=EVIL, pretrained_on=EVIL, met_classes=[EVIL])
    named = tabby(class_name=EVIL, second_class=EVIL, second_probability=0.4)
    for prediction in (found, named):
        for write in (TextLines([EVIL]), json_line, csv_line):
            text = write(prediction)
            assert "cat" in text
            assert not {"\x1b", "\x07", "\x9b", "\r", "\x08", "\n"} & set(text), repr(text)


def test_json_and_csv_say_the_same() -> None:
    prediction = unknown(met_classes=["tabby", "lynx"], class_name='a "cat", tabby')
    found = json.loads(json_line(prediction))
    assert found == {
        "image": "inbox/3.jpg",
        "class_index": 0,
        "class_name": 'a "cat", tabby',
        "probability": 0.97,
        "second_class": "lynx",
        "second_probability": 0.02,
        "known": False,
        "nearest": "tabby",
        "confidence": 3.5,
        "share": 1 / 300,
        "known_images": 900,
        "met_classes": ["tabby", "lynx"],
        "pretrained_on": "ImageNet-1k",
    }
    (row,) = csv.DictReader([csv_header(), csv_line(prediction)])
    assert list(row) == list(found)
    evil = json_line(tabby(class_name=EVIL + "猫"))
    assert json.loads(evil)["class_name"] == EVIL + "猫"
    assert "猫" in evil
    assert row["class_name"] == 'a "cat", tabby'
    assert (row["known"], row["met_classes"]) == ("false", "tabby;lynx")
    assert float(row["share"]) == 1 / 300
    (row,) = csv.DictReader([csv_header(), csv_line(tabby())])
    assert (row["known"], row["nearest"], row["share"]) == ("true", "", "")
