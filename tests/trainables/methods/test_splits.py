"""Splits: what each promises about superclasses, and one contract for the shelf."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from tests.helpers.vectors import variants
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.splits import Split
from trainables.methods.splits.subclass import SubclassSplit
from trainables.methods.splits.superclass import SuperclassSplit

SUPERS = [c % 20 for c in range(100)]  # 20 superclasses of 5 classes, as in CIFAR-100


@pytest.mark.parametrize("split", list(variants(Split)))
@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_contract(split: Split, seed: int) -> None:
    def draw(seed: int) -> list[int]:
        found: list[int] = split(  # type: ignore[operator]
            num_classes=100, num_novel=20, superclasses=SUPERS, seed=seed
        )
        return found

    novel = draw(seed)
    assert novel == sorted(set(novel))
    assert len(novel) == 20
    assert all(type(c) is int and 0 <= c < 100 for c in novel)
    assert draw(seed) == novel
    assert draw(seed + 1) != novel
    assert Split.parse(split.dump()) == split


def test_superclass_split_holds_out_whole_superclasses() -> None:
    novel = SuperclassSplit()(num_classes=100, num_novel=20, superclasses=SUPERS, seed=3)
    held = {SUPERS[c] for c in novel}
    assert len(held) == 4
    assert all((SUPERS[c] in held) == (c in novel) for c in range(100))


def test_superclass_split_combines_superclasses_of_different_size() -> None:
    supers = [0] * 5 + [1] * 4 + [2] * 3
    for seed in range(5):
        novel = SuperclassSplit()(num_classes=12, num_novel=7, superclasses=supers, seed=seed)
        assert novel == [*range(5, 12)]  # 4 + 3 is the only way to 7


@pytest.mark.parametrize("num_novel", [1, 2, 6, 12])
def test_impossible_superclass_split_is_refused(num_novel: int) -> None:
    supers = [0] * 5 + [1] * 4 + [2] * 3
    with pytest.raises(ValueError, match=f"has {num_novel} classes in total"):
        SuperclassSplit()(num_classes=12, num_novel=num_novel, superclasses=supers, seed=0)


@pytest.mark.parametrize("num_novel", [7, 20, 33, 80])
def test_subclass_split_spreads_evenly_and_leaves_known_relatives(num_novel: int) -> None:
    novel = SubclassSplit()(num_classes=100, num_novel=num_novel, superclasses=SUPERS, seed=1)
    per_super = Counter(SUPERS[c] for c in novel)
    sizes = [per_super[s] for s in range(20)]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 4


def test_subclass_split_refuses_to_empty_a_superclass() -> None:
    with pytest.raises(ValueError, match="at most 80 new classes"):
        SubclassSplit()(num_classes=100, num_novel=81, superclasses=SUPERS, seed=1)


@pytest.mark.parametrize("split", [SuperclassSplit(), SubclassSplit()], ids=lambda s: s.name)
def test_source_without_superclasses_is_refused(split: Split) -> None:
    with pytest.raises(ValueError, match="has no superclasses"):
        split(num_classes=4, num_novel=2, superclasses=None, seed=0)  # type: ignore[operator]


def test_another_process_draws_the_same_classes() -> None:
    code = (
        "from trainables.methods.splits.random import RandomSplit as R;"
        "print(R()(num_classes=100, num_novel=20, superclasses=None, seed=5))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    split = Split.parse("random")
    here = split(num_classes=100, num_novel=20, superclasses=None, seed=5)  # type: ignore[operator]
    assert out.stdout.strip() == str(here)
