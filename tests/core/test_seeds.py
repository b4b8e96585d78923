"""Seed ranges are disjoint, and an episode's generator depends on its seed alone."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimq.core.errors import InvalidInputError
from slimq.core.seeds import (
    COLLECTION,
    HELD_OUT,
    SELECTION,
    TRAINING,
    SeedRange,
    exploration_generator,
)

RANGES = [COLLECTION, SELECTION, HELD_OUT, TRAINING]


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(RANGES, 2)))
def test_ranges_are_disjoint(one: SeedRange, other: SeedRange) -> None:
    assert one.start + one.size <= other.start or other.start + other.size <= one.start
    assert one.name != other.name


def test_ranges_never_change() -> None:
    assert [(one.name, one.start, one.size) for one in RANGES] == [
        ("collection", 1_000_000, 1_000_000),
        ("selection", 2_000_000, 1_000_000),
        ("held-out", 3_000_000, 1_000_000),
        ("training", 10_000_000, 1_000_000_000),
    ]


@given(st.integers(0, 50), st.integers(0, 999_950))
def test_seeds_are_consecutive_and_within_the_range(count: int, offset: int) -> None:
    seeds = HELD_OUT.seeds(count, offset)
    assert len(seeds) == len(set(seeds)) == count
    assert all(seed in HELD_OUT for seed in seeds)
    assert not any(seed in one for seed in seeds for one in (COLLECTION, SELECTION, TRAINING))
    assert seeds == sorted(seeds)


@pytest.mark.parametrize(("count", "offset"), [(1_000_001, 0), (1, 1_000_000), (-1, 0), (1, -1)])
def test_more_seeds_than_the_range_has_are_refused(count: int, offset: int) -> None:
    with pytest.raises(InvalidInputError, match=r"episodes: expected .* 1000000 selection seeds"):
        SELECTION.seeds(count, offset)


def test_a_range_is_half_open() -> None:
    assert 1_000_000 in COLLECTION
    assert 1_999_999 in COLLECTION
    assert 2_000_000 not in COLLECTION
    assert 999_999 not in COLLECTION


def test_the_generator_of_an_episode_is_pinned() -> None:
    generator = exploration_generator(3_000_000)
    assert [generator.random() for _ in range(3)] == GOLDEN
    assert exploration_generator(3_000_000).random() == GOLDEN[0]


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_episodes_have_different_generators(one: int, other: int) -> None:
    same = exploration_generator(one).random() == exploration_generator(other).random()
    assert same == (one == other)


GOLDEN = [0.04487397258791037, 0.05655410679578532, 0.9556678199108739]
