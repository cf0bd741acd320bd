"""The cut: sizes, small classes, groups that grow, and what two parts have in common."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.data.shots.grouping import components
from trainables.data.shots.parts import Node, cut, place_of


def alone(count: int, class_name: str = "lynx", first: int = 0) -> list[Node]:
    return [Node(f"{n:016x}", class_name) for n in range(first, first + count)]


def written(nodes: list[Node], parts: list[str], groups: list[str]) -> list[Node]:
    return [
        node._replace(written=part, written_group=group)
        for node, part, group in zip(nodes, parts, groups, strict=True)
    ]


def test_a_fifth_is_test_by_hash() -> None:
    nodes = alone(1000)
    found = cut(nodes, [], own_test=False, seed=0)
    wanted = ["test" if place_of(node.name, 0) < 0.2 else "train" for node in nodes]
    assert found.parts == wanted
    assert 160 < found.parts.count("test") < 240
    assert cut(nodes, [], own_test=False, seed=1).parts != found.parts


def test_a_class_gives_test_groups_from_25_images_in_5_groups_on() -> None:
    assert cut(alone(24), [], own_test=False, seed=0).parts == ["train"] * 24
    for seed in range(40):
        assert cut(alone(25), [], own_test=False, seed=seed).parts.count("test") >= 2
    four = [(n, n + 4) for n in range(36)]  # 40 images in 4 groups
    assert cut(alone(40), four, own_test=False, seed=0).parts == ["train"] * 40
    five = [(n, n + 5) for n in range(35)]
    for seed in range(40):
        found = cut(alone(40), five, own_test=False, seed=seed)
        tested = {g for g, part in zip(found.groups, found.parts, strict=True) if part == "test"}
        assert len(tested) >= 2


def test_the_next_by_hash_is_taken() -> None:
    nodes = alone(25)
    seed = next(s for s in range(999) if all(place_of(n.name, s) >= 0.2 for n in nodes))
    found = cut(nodes, [], own_test=False, seed=seed)
    first = sorted(nodes, key=lambda node: place_of(node.name, seed))[:2]
    tested = [n for n, part in zip(nodes, found.parts, strict=True) if part == "test"]
    assert sorted(tested) == sorted(first)


def test_a_group_of_more_than_half_of_a_class_trains() -> None:
    links = [(0, n) for n in range(1, 16)]  # 16 of 30
    for seed in range(40):
        assert cut(alone(30), links, own_test=False, seed=seed).parts[:16] == ["train"] * 16


def test_a_class_that_grows_keeps_what_was_written() -> None:
    small = alone(20)
    before = cut(small, [], own_test=False, seed=0)
    known = written(small, before.parts, before.groups)
    grown = [*known, *alone(10, first=100)]
    after = cut(grown, [], own_test=False, seed=0)
    assert after.parts[:20] == ["train"] * 20
    assert after.parts[20:].count("test") >= 2


def test_new_images_join_the_part_and_the_group_that_they_are_linked_to() -> None:
    nodes = [*written(alone(2), ["train", "test"], ["a", "b"]), *alone(3, first=50)]
    found = cut(nodes, [(0, 2), (2, 3), (1, 4)], own_test=False, seed=0)
    assert found.parts == ["train", "test", "train", "train", "test"]
    assert found.groups == ["a", "b", "a", "a", "b"]


def test_a_group_that_links_two_parts_joins_neither() -> None:
    nodes = [*written(alone(2), ["train", "test"], ["a", "b"]), *alone(3, first=50)]
    found = cut(nodes, [(0, 2), (2, 3), (3, 1)], own_test=False, seed=0)
    assert found.parts == ["train", "test", "", "", "train"]
    assert found.linking == {2: ("test", "train"), 3: ("test", "train")}
    assert found.groups[:2] == ["a", "b"]


def test_an_image_that_is_gone_still_says_where_its_copies_go() -> None:
    gone = Node("f" * 16, "", "", "test", "g")
    found = cut([*alone(2), gone], [(1, 2)], own_test=False, seed=0)
    assert found.parts == ["train", "test", "test"]
    assert found.groups[1] == "g"


def test_own_groups_join_what_is_written_under_their_name() -> None:
    gone = Node("f" * 16, "", "", "test", "cat 7")
    nodes = [Node("0" * 16, "lynx", group="cat 7"), Node("1" * 16, "lynx", group="cat 8"), gone]
    found = cut(nodes, [], own_test=False, seed=0)
    assert found.parts == ["test", "train", "test"]
    assert found.groups == ["cat 7", "cat 8", "cat 7"]


def test_own_groups_take_the_place_of_those_that_were_found_and_written() -> None:
    nodes = written(alone(3), ["train", "train", "test"], ["0" * 16, "0" * 16, "1" * 16])
    nodes = [
        n._replace(group=name) for n, name in zip(nodes, ["cat 7", "cat 7", "dog"], strict=True)
    ]
    found = cut(nodes, [], own_test=False, seed=0)
    assert found.parts == ["train", "train", "test"]
    assert found.groups == ["cat 7", "cat 7", "dog"]


def test_own_parts_win_and_what_is_beside_a_test_image_does_not_train() -> None:
    own = ["train", "train", "train", "val", "val", "test"]
    nodes = [n._replace(own=part) for n, part in zip(alone(6), own, strict=True)]
    nodes[2] = nodes[2]._replace(written="test", written_group="x")
    found = cut(nodes, [(0, 5), (1, 3), (4, 5)], own_test=True, seed=0)
    assert found.parts == ["", "", "train", "val", "", "test"]
    assert found.beside == {0: 5, 1: 3, 4: 5}


def test_a_whole_shot_leaves_the_own_training_part_for_one_test_image() -> None:
    own = ["test", "train", "train", "train", "val", "train"]
    nodes = [n._replace(own=part) for n, part in zip(alone(6), own, strict=True)]
    links = [(1, 0), (1, 2), (2, 4), (5, 4)]  # test - 1 - 2 - validation - 5
    found = cut(nodes, links, own_test=True, seed=0)
    assert found.parts == ["test", "", "", "train", "", ""]
    assert found.beside == {1: 0, 2: 0, 4: 0, 5: 0}


def test_a_whole_shot_leaves_the_training_part_for_one_image_of_the_own_validation() -> None:
    nodes = [n._replace(own="val" if k == 0 else "train") for k, n in enumerate(alone(40))]
    found = cut(nodes, [(0, 1), (1, 2), (2, 3)], own_test=False, seed=0)
    assert found.parts[:4] == ["val", "", "", ""]
    assert found.beside == {1: 0, 2: 0, 3: 0}
    assert all(found.parts[4:])


def test_a_written_image_leaves_for_a_test_image_that_is_beside_it_and_for_none_further_on() -> (
    None
):
    own = ["test", "train", "train", "train"]
    nodes = [n._replace(own=part) for n, part in zip(alone(4), own, strict=True)]
    nodes[2:] = written(nodes[2:], ["train", "train"], ["a", "b"])
    found = cut(nodes, [(0, 1), (1, 2), (0, 3)], own_test=True, seed=0)
    assert found.parts == ["test", "", "train", ""]
    assert found.beside == {1: 0, 3: 0}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_shot_is_in_two_of_the_own_parts(data: st.DataObject) -> None:
    count = data.draw(st.integers(5, 25))
    places = st.integers(0, count - 1)
    links = data.draw(st.lists(st.tuples(places, places), max_size=25))
    links = [pair for pair in links if pair[0] != pair[1]]
    own = data.draw(
        st.lists(st.sampled_from(["train", "val", "test"]), min_size=count, max_size=count)
    )
    nodes = [n._replace(own=part) for n, part in zip(alone(count), own, strict=True)]
    found = cut(nodes, links, own_test=True, seed=0)
    shots: dict[int, set[str]] = {}
    for root, part in zip(components(count, links), own, strict=True):
        shots.setdefault(root, set()).add(part)
    for place, root in enumerate(components(count, links)):
        first = next(part for part in ("test", "val", "train") if part in shots[root])
        assert found.parts[place] == (first if own[place] == first else "")
    again = [
        node._replace(written=part, written_group=group) if part else node
        for node, part, group in zip(nodes, found.parts, found.groups, strict=True)
    ]
    assert cut(again, links, own_test=True, seed=0).parts == found.parts


def test_own_validation_without_a_test_leaves_the_rest_to_the_hash() -> None:
    nodes = [n._replace(own="val" if k < 5 else "train") for k, n in enumerate(alone(200))]
    found = cut(nodes, [(0, 7)], own_test=False, seed=0)
    assert found.parts[:5] == ["val"] * 5
    assert found.beside == {7: 0}
    assert Counter(found.parts[5:])["test"] > 20


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_nothing_moves_and_nothing_leaks_whatever_comes(data: st.DataObject) -> None:
    count = data.draw(st.integers(30, 60))
    links = data.draw(
        st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=40)
    )
    links = [pair for pair in links if pair[0] != pair[1]]
    seen = data.draw(st.integers(1, count))
    nodes = [n._replace(class_name="ab"[k % 2]) for k, n in enumerate(alone(count))]
    first = [pair for pair in links if max(pair) < seen]
    before = cut(nodes[:seen], first, own_test=False, seed=0)
    for one, other in first:
        assert before.parts[one] == before.parts[other]
        assert before.groups[one] == before.groups[other]
    known = written(nodes[:seen], before.parts, before.groups)
    after = cut([*known, *nodes[seen:]], links, own_test=False, seed=0)
    assert after.parts[:seen] == before.parts
    for one, other in links:
        if after.parts[one] and after.parts[other]:
            assert after.parts[one] == after.parts[other]
            assert after.groups[one] == after.groups[other]


def test_what_is_written_is_not_judged_again() -> None:
    nodes = written(alone(2), ["train", "test"], ["a", "b"])
    found = cut(nodes, [(0, 1)], own_test=False, seed=0)
    assert (found.parts, found.groups, found.beside) == (["train", "test"], ["a", "b"], {})


def test_three_groups_of_a_class_train_whatever_the_hash_says() -> None:
    links = [(n, n + 5) for n in range(20)]  # 25 images in 5 groups
    nodes = alone(25)

    def low(seed: int) -> list[str]:
        return sorted((n.name for n in nodes[:5]), key=lambda name: place_of(name, seed))

    seed = next(s for s in range(9999) if place_of(low(s)[3], s) < 0.2)  # 4 of 5 would be test
    found = cut(nodes, links, own_test=False, seed=seed)
    tested = {g for g, part in zip(found.groups, found.parts, strict=True) if part == "test"}
    assert tested == set(low(seed)[:2])
    # with one test group written, one more may join it
    first = next(k for k, n in enumerate(nodes) if n.name == low(seed)[3])
    nodes[first] = nodes[first]._replace(written="test", written_group=nodes[first].name)
    found = cut(nodes, links, own_test=False, seed=seed)
    tested = {g for g, part in zip(found.groups, found.parts, strict=True) if part == "test"}
    assert tested == {low(seed)[3], low(seed)[0]}


def test_the_own_validation_makes_no_class_large() -> None:
    own = ["val"] * 23 + ["train"] * 2
    nodes = [n._replace(own=part) for n, part in zip(alone(25), own, strict=True)]
    assert cut(nodes, [], own_test=False, seed=0).parts == own
    more = [*nodes, *(n._replace(own="train") for n in alone(23, first=100))]
    assert cut(more, [], own_test=False, seed=0).parts.count("test") >= 2


def test_a_written_test_image_stays_where_its_shot_moves_into_the_own_validation() -> None:
    nodes = written(alone(3), ["test"] * 3, ["a"] * 3)
    nodes = [n._replace(own=part) for n, part in zip(nodes, ["val", "train", "train"], strict=True)]
    found = cut(nodes, [], own_test=False, seed=0)
    assert found.parts == ["", "test", "test"]
    assert found.beside == {0: 1}


def test_written_test_groups_count_among_the_two_that_a_class_gives() -> None:
    nodes = written(alone(2), ["test", "test"], ["a", "b"]) + alone(28, first=100)
    seed = next(s for s in range(9999) if all(place_of(n.name, s) >= 0.2 for n in nodes[2:]))
    assert cut(nodes, [], own_test=False, seed=seed).parts == ["test"] * 2 + ["train"] * 28


def test_an_image_that_is_gone_takes_none_from_the_own_training_part() -> None:
    nodes = [Node("0" * 16, "lynx", "train"), Node("f" * 16, "", "", "test", "g")]
    found = cut(nodes, [(0, 1)], own_test=True, seed=0)
    assert (found.parts[0], found.beside) == ("train", {})
