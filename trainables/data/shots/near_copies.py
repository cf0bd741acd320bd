"""Near copies: the same picture encoded anew, enlarged, recolored, or moved by a few pixels.

Two images are compared by their thumbnails (32x32, smooth, each color's mean taken off): the
highest normalized cross-correlation (Lewis 1995) over moves of up to 2 of 32 pixels, 1 where one is
the other. Only pairs are compared whose Fourier magnitudes are alike, which a move leaves alone.

On 20 classes of 100 images of CIFAR-100 that were enlarged to 128 pixels, level 0.97 links 0.7 % of
the images, 98 % of copies moved by 1 or 2 of 128 pixels, 99.9 % of those moved by 1 or 2 of 32, and
all of those encoded anew as JPEG. A perceptual hash of 64 bits (DCT, as in ImageHash) that links as
few finds 96, 13 and 100 % of them, and a hash of differences 84, 5 and 100 %: moving a picture
flips bits. That is why this is no hash.

Pictures before one background are alike whatever they show. So two images count as near copies only
where they are also more alike than 999 of 1,000 pairs of images of different classes. One picture
under two labels says nothing of this: it is like no other image of that class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainables.data.source_cache import Booleans, Images, Integers

LEVEL = 0.97
MOVES = 2  # of 32 pixels, to each side
NEIGHBOURS = 8  # images that each one is compared with
ALL_PAIRS = 50  # images of which each is compared with all others
NEAR = 0.65  # cosine of Fourier magnitudes below which two images are no near copies
STRANGERS = 1e-3  # share of pairs of different classes that may be above a level
MOST_TWICE, OTHERS = 500, 8  # pairs that may be one picture; others of a class to compare it with
PAIRS_DRAWN, PAIRS_AT_ONCE, ROWS_AT_ONCE = 5_000, 64, 1024
FLAT = 1.0  # gray levels of standard deviation below which a picture shows nothing to compare
FREQUENCIES = 7
FLOOR = 30.0  # magnitudes below are noise
LUMA = (0.299, 0.587, 0.114)

Floats = np.ndarray[Any, np.dtype[np.float32]]


class Alikeness:
    """How alike images are, by their thumbnails.

    Args:
        thumbnails: uint8 ``[N, 32, 32, 3]``, made smooth (`identity.SMOOTH`).
    """

    def __init__(self, thumbnails: Images) -> None:
        self.thumbnails = thumbnails
        self.spectra = _spectra(thumbnails)

    def of_pairs(self, pairs: Integers) -> Floats:
        """Return the similarity of pairs of images ``[P, 2]``, -1 to 1 ``[P]``; 0 if one is flat.

        Example:
            >>> ramp = np.arange(32, dtype=np.uint8)[None, :, None] * np.ones((32, 1, 3), np.uint8)
            >>> images = Alikeness(np.stack([ramp, ramp[::-1, ::-1], ramp + 9, ramp * 0]))
            >>> images.of_pairs(np.array([[0, 1], [0, 2], [0, 3]])).round(3).tolist()
            [-1.0, 1.0, 0.0]
        """
        blocks = range(0, len(pairs), PAIRS_AT_ONCE)
        found = [self._correlations(pairs[start : start + PAIRS_AT_ONCE]) for start in blocks]
        return np.concatenate([np.empty(0, dtype=np.float32), *found])

    def near(self) -> tuple[Integers, Floats]:
        """Return pairs of images ``[P, 2]`` that may be near copies, and their similarity ``[P]``.

        Each image is compared with the 8 whose Fourier magnitudes are nearest. Time grows with
        the square of N: 3,000 images take 0.5 s, 100,000 about a minute and a half. Up to 50
        images are all compared, because magnitudes are told apart by their mean over many.
        """
        count = len(self.spectra)
        few = np.stack(np.triu_indices(count, 1), axis=1) if count <= ALL_PAIRS else None
        pairs = _neighbours(self.spectra) if few is None else few
        return pairs, self.of_pairs(pairs)

    def level_of_strangers(self, class_names: Sequence[str]) -> float:
        """Return the similarity that 1 in 1,000 pairs of images of different classes reach.

        It is taken from 5,000 pairs, drawn the same way every time; images without a class (an
        empty name) are not drawn, and one picture under two labels is left out. Where there is one
        class it is the level of near copies.
        """
        numbers = np.unique(np.array(class_names), return_inverse=True)[1]
        here = np.flatnonzero([bool(name) for name in class_names])
        pairs = here[np.random.default_rng(0).integers(0, len(here), (PAIRS_DRAWN, 2))]
        pairs = pairs[numbers[pairs[:, 0]] != numbers[pairs[:, 1]]]
        similarity = self.of_pairs(pairs)
        found = np.sort(similarity[~self._twice(pairs, similarity, numbers, here)])
        return float(found[-int(STRANGERS * len(found)) - 1]) if len(found) else LEVEL

    def _twice(
        self, pairs: Integers, similarity: Floats, numbers: Integers, here: Integers
    ) -> Booleans:
        """Say which pairs ``[P]`` are one picture under two labels: each is alone in the other's.

        Above 500 such pairs none is: then they are alike for what is around them.
        """
        alike = similarity >= LEVEL
        twice = np.zeros(len(pairs), dtype=np.bool_)
        found, place = np.unique(pairs[alike], axis=0, return_inverse=True)
        if not 0 < len(found) <= MOST_TWICE:
            return twice
        rng = np.random.default_rng(0)
        asked, of = [], []
        for number, pair in enumerate(found):
            for one, other in (pair, pair[::-1]):
                rest = here[(numbers[here] == numbers[other]) & (here != other)]
                drawn = rng.choice(rest, min(OTHERS, len(rest)), replace=False)
                asked += [(one, image) for image in drawn]
                of += [number] * len(drawn)
        most = np.full(len(found), -np.inf)
        np.maximum.at(most, of, self.of_pairs(np.array(asked).reshape(-1, 2)))
        twice[alike] = (np.isfinite(most) & (most < LEVEL))[place.ravel()]
        return twice

    def _correlations(self, pairs: Integers) -> Floats:
        """Return the highest correlation of one image's middle with windows of the other."""
        middle = self.thumbnails[pairs[:, 0], MOVES:-MOVES, MOVES:-MOVES].astype(np.float32)
        middle -= middle.mean((1, 2), keepdims=True)
        other = self.thumbnails[pairs[:, 1]].astype(np.float32) - 128
        side, places = middle.shape[1], range(2 * MOVES + 1)
        windows = [other[:, y : y + side, x : x + side] for y in places for x in places]
        stacked = np.stack(windows, axis=1).reshape(len(pairs), len(windows), -1)
        vectors = middle.reshape(len(pairs), -1, 1)
        products = np.matmul(stacked, vectors)[..., 0]  # the middle's mean is 0: so is the other's
        squares = _variation(other, side) * np.square(vectors).sum(1)
        flat = squares < (FLAT**2 * vectors.shape[1]) ** 2
        best: Floats = (products / np.sqrt(np.where(flat, np.inf, squares))).max(1)
        return best


def _variation(images: Floats, side: int) -> Floats:
    """Return the squared length of all windows less their mean color, row by row ``[N, K]``."""
    count, whole, _, colors = images.shape
    values = np.concatenate([images, np.square(images)], axis=3)
    starts = np.arange(whole - side + 1)[:, None]
    places = np.arange(whole)
    inside = ((places >= starts) & (places < starts + side)).astype(np.float32)  # [5, 32]
    rows = (inside @ values.reshape(count, whole, -1)).reshape(count, len(starts), whole, -1)
    sums = (inside @ rows).reshape(count, -1, 2 * colors)
    squares = sums[..., colors:] - np.square(sums[..., :colors]) / side**2
    variation: Floats = squares.sum(-1).clip(0)
    return variation


def _spectra(thumbnails: Images) -> Floats:
    """Return the logarithms of the lowest Fourier magnitudes, less their mean, as unit vectors.

    A move changes the phases of a picture's Fourier transform alone; a Hann window keeps what
    enters and leaves at its edges small.
    """
    from scipy import fft

    side = thumbnails.shape[1]
    gray = thumbnails.astype(np.float32) @ np.array(LUMA, dtype=np.float32)
    gray -= gray.mean((1, 2), keepdims=True)
    window = np.hanning(side + 2)[1:-1].astype(np.float32)
    magnitudes = np.abs(fft.rfft2(gray * window[:, None] * window, axes=(1, 2)))
    rows = [*range(FREQUENCIES), *range(side - FREQUENCIES + 1, side)]
    values = np.log(magnitudes[:, rows, :FREQUENCIES].reshape(len(gray), -1) + FLOOR)
    values -= values.mean(0)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    spectra: Floats = (values / np.maximum(lengths, 1e-6)).astype(np.float32)
    return spectra


def _neighbours(vectors: Floats) -> Integers:
    """Return each image with the 8 that are nearest by cosine: pairs ``[P, 2]``, once each."""
    count = len(vectors)
    nearest = min(NEIGHBOURS, count - 1)
    if nearest < 1:
        return np.empty((0, 2), dtype=np.int64)
    found = []
    for start in range(0, count, ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, count))
        cosines = vectors[rows] @ vectors.T
        cosines[np.arange(len(rows)), rows] = -2
        others = np.argpartition(-cosines, nearest - 1, axis=1)[:, :nearest]
        pairs = np.stack([np.repeat(rows, nearest), others.ravel()], axis=1)
        found.append(pairs[np.take_along_axis(cosines, others, axis=1).ravel() >= NEAR])
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0).astype(np.int64)
