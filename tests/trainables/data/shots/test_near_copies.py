"""Near copies on CIFAR-like scenes with known moves; measured figures are in the module's text."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.helpers.photos import scene
from trainables.data.shots.near_copies import LEVEL, MOVES, Alikeness


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    small = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BOX)
    return np.asarray(small.filter(ImageFilter.GaussianBlur(1.0)))


def slow_similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Return the similarity of two thumbnails in float64, window by window."""
    side = 32 - 2 * MOVES
    middle = one[MOVES:-MOVES, MOVES:-MOVES].astype(np.float64)
    middle = middle - middle.mean((0, 1))
    best = -1.0
    for y in range(2 * MOVES + 1):
        for x in range(2 * MOVES + 1):
            window = other[y : y + side, x : x + side].astype(np.float64)
            window = window - window.mean((0, 1))
            product = (middle * window).sum()
            best = max(best, product / np.sqrt((middle**2).sum() * (window**2).sum()))
    return best


def test_similarity_is_that_of_the_formula() -> None:
    images = np.stack([thumbnail(scene(n, 128)) for n in range(12)])
    pairs = np.array([[a, b] for a in range(12) for b in range(12)])
    wanted = [slow_similarity(images[a], images[b]) for a, b in pairs]
    np.testing.assert_allclose(Alikeness(images).of_pairs(pairs), wanted, atol=1e-4)


@pytest.mark.parametrize("move", [(0, 4), (8, 0), (-8, 8), (3, -5)])
def test_moved_pictures_are_found_and_others_are_not(move: tuple[int, int]) -> None:
    big = [scene(n, 160) for n in range(60)]
    y, x = 16 + move[0], 16 + move[1]
    images = [thumbnail(picture[16:144, 16:144]) for picture in big]
    images += [thumbnail(picture[y : y + 128, x : x + 128]) for picture in big]
    pairs, similarity = Alikeness(np.stack(images)).near()
    found = {tuple(pair) for pair in pairs[similarity >= LEVEL].tolist()}
    assert found <= {(n, n + 60) for n in range(60)}
    assert len(found) >= 57


def test_brightness_and_contrast_do_not_count() -> None:
    one = thumbnail(scene(1, 128))
    faint = (one * 0.5 + 60).astype(np.uint8)
    assert Alikeness(np.stack([one, faint])).of_pairs(np.array([[0, 1]]))[0] > 0.999


def test_one_tint_does_not_make_pictures_alike() -> None:
    rng = np.random.default_rng(0)
    tint = np.array([200, 30, 90])
    noise = [thumbnail((tint + rng.integers(-20, 20, (64, 64, 3))).astype(np.uint8)) for _ in "ab"]
    assert abs(Alikeness(np.stack(noise)).of_pairs(np.array([[0, 1]]))[0]) < 0.7


def test_level_of_strangers_is_the_highest_of_a_thousand_pairs_of_different_classes() -> None:
    images = np.stack([thumbnail(scene(n, 128)) for n in range(40)])
    names = ["a"] * 20 + ["b"] * 20
    apart = [
        slow_similarity(images[a], images[b])
        for a in range(40)
        for b in range(40)
        if (a < 20) != (b < 20)
    ]
    level = Alikeness(images).level_of_strangers(names)
    assert np.quantile(apart, 0.99) < level <= max(apart) + 1e-4
    assert Alikeness(images).level_of_strangers(["a"] * 40) == LEVEL


def test_pictures_before_one_background_raise_the_level() -> None:
    back = scene(0, 128)
    rng = np.random.default_rng(0)
    images = []
    for _ in range(80):
        picture = back.copy()
        y, x = rng.integers(20, 90, 2)
        picture[y : y + 12, x : x + 12] = rng.integers(0, 255, 3)
        images.append(thumbnail(picture))
    alikeness = Alikeness(np.stack(images))
    assert alikeness.level_of_strangers(["good", "scratched"] * 40) > LEVEL


def test_pictures_that_lie_under_two_labels_do_not_raise_the_level() -> None:
    images = np.stack([thumbnail(scene(n, 128)) for n in range(40)])
    names = ["cat", "dog"] * 20
    plain = Alikeness(images).level_of_strangers(names)
    assert plain < LEVEL
    twice = np.concatenate([images, images[::2]])  # all cats are 'katze' too
    assert Alikeness(twice).level_of_strangers([*names, *["katze"] * 20]) < LEVEL
    # of two classes of one image each nothing says that it is one picture, and no background
    assert Alikeness(images[[0, 0]]).level_of_strangers(["cat", "katze"]) == pytest.approx(1.0)


def test_one_image_has_no_pairs() -> None:
    pairs, similarity = Alikeness(np.zeros((1, 32, 32, 3), dtype=np.uint8)).near()
    assert (pairs.shape, similarity.shape) == ((0, 2), (0,))


@pytest.mark.parametrize("others", [0, 1, 3])
def test_near_copies_are_found_among_few_images(others: int) -> None:
    twice = [thumbnail(scene(0, 128)), thumbnail(scene(0, 128)[2:, 2:])]
    images = [*twice, *(thumbnail(scene(n + 1, 128)) for n in range(others))]
    pairs, similarity = Alikeness(np.stack(images)).near()
    assert pairs[similarity >= LEVEL].tolist() == [[0, 1]]
    assert len(pairs) == len(images) * (len(images) - 1) // 2
