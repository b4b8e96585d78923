"""Observations of an import: their layout, and the states that are published with the policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slimq.core.calibration import CalibrationSet
from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.qfunction import QFunction
from slimq.environments.collection import collect_calibration
from slimq.environments.vector import describe
from slimq.importing.checking import evaluate
from slimq.importing.environments import check_registered
from slimq.importing.source import Source
from slimq.importing.states import (
    MIN_TO_SPLIT,
    layout_of_states,
    read_states,
    split_states,
    states_for,
)

MAX_STATES = 10_000
"""States of a file that are kept; more are thinned out evenly."""


@dataclass(frozen=True)
class Place:
    """Where observations come from.

    Attributes:
        observation: their layout.
        actions: meaning of each action; None if only their number is known.
        action_start: the environment's number of the first one, or the file's.
        environment: None without one.
        states: given by the user; None without.
    """

    observation: ObservationSpec
    actions: list[str] | None
    action_start: int
    environment: EnvironmentSpec | None
    states: Observations | None


@dataclass(frozen=True)
class Recorded:
    """States with the full policy's Q-values.

    Attributes:
        calibration: for compression.
        held_out: for evaluation without an environment; None with one, or with too few states.
    """

    calibration: CalibrationSet
    held_out: CalibrationSet | None


def find_place(source: Source, environment: EnvironmentSpec | None, file: Path | None) -> Place:
    """The layout of observations, from the environment or the states.

    Args:
        source: what is imported; its environment is used if nothing else is given, and if it is a
            registered one.
        environment: where the policy plays.
        file: npz file with observations.

    Raises:
        InvalidInputError: there is neither, the states do not fit, or the file names code as its
            environment.
    """
    if environment is None and file is None:
        environment = source.environment
        if environment is not None:
            check_registered(environment)
    name = str(file)
    arrays = None if file is None else read_states(file)
    if environment is not None:
        description = describe(environment)
        states = None
        if arrays is not None:
            states = _thin(states_for(arrays, description.observation, name))
        return Place(
            description.observation,
            list(description.actions),
            description.action_start,
            environment,
            states,
        )
    if arrays is None:
        expected = "--env ID, to play in, or --observations STATES.npz, for the check"
        raise InvalidInputError("--env", expected, "neither, and the file names no environment")
    layout = layout_of_states(arrays, source.layout, name, strict=source.strict)
    states = _thin(states_for(arrays, layout, name))
    return Place(layout, None, source.action_start or 0, None, states)


def _thin(states: Observations) -> Observations:
    if len(states) <= MAX_STATES:
        return states
    kept: Observations = states[np.linspace(0, len(states) - 1, MAX_STATES).astype(int)]
    return kept


def record_states(place: Place, full: QFunction, count: int) -> Recorded:
    """Records `count` states from play, for calibration, or splits those of the user's file."""
    if place.environment is not None:
        played = collect_calibration(place.environment, place.observation, full, count)
        return Recorded(played, None)
    if place.states is None:
        raise TypeError("neither an environment nor states")
    calibration, held_out = split_states(place.states)
    return Recorded(
        _with_q_values(calibration, full),
        None if held_out is None else _with_q_values(held_out, full),
    )


def _with_q_values(states: Observations, full: QFunction) -> CalibrationSet:
    indices = np.arange(len(states), dtype=np.int32)[:, np.newaxis]
    return CalibrationSet(states, indices, evaluate(full, states))


def notes_of(place: Place, recorded: Recorded) -> tuple[str, ...]:
    """A note where evaluation has no states of its own."""
    if place.environment is not None or recorded.held_out is not None:
        return ()
    count = len(recorded.calibration)
    return (
        f"with {count} of the {MIN_TO_SPLIT} states needed to hold some back from compression, "
        "evaluation has to use the same ones",
    )
