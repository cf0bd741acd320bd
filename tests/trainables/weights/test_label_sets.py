"""Labels of a pretraining: which of a user's classes it has met."""

from __future__ import annotations

import pytest

from trainables.weights.label_sets import labels_of_config, met_classes, sets_in_words, sets_of_tag


@pytest.mark.parametrize(
    ("name", "met"),
    [
        ("tench", True),
        ("Great_White-Shark", True),
        ("n01440764", True),
        ("frog", True),  # tree frog
        ("leopard", True),
        ("airplane", False),  # airliner is another word
        ("gadget", False),
        ("Egyptian", False),
        ("", False),
    ],
)
def test_classes_that_imagenet_names(name: str, met: bool) -> None:
    assert met_classes([name], ["imagenet-1k"]) == ((name,) if met else ())


def test_order_and_spelling_of_the_users_names_stay() -> None:
    found = met_classes(["Red_Fox", "x", "CAT"], ["red fox, Vulpes vulpes", "Egyptian cat"])
    assert found == ("Red_Fox", "CAT")
    assert met_classes(["cat"], []) == ()


def test_sets_that_tags_and_sentences_name() -> None:
    assert sets_of_tag("fb_in22k_ft_in1k") == ("imagenet-22k", "imagenet-1k")
    assert sets_of_tag("laion2b") == ()
    assert sets_in_words("pretrained on imagenet1k") == ("imagenet-1k",)
    assert sets_in_words("imagenette") == ()
    assert labels_of_config({"tag": "a1_in1k", "label_names": ["a"]}) == ("a",)
