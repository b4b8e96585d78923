"""A policy as an ONNX session: the one session configuration, and the checks when a model loads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from slimq.core._protobuf import check_model
from slimq.core.errors import ConfigError, RepositoryError, first_line
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.providers import CPU, IDENTITY, check_available, full_names
from slimq.core.qfunction import QValues

INPUT, OUTPUT = "observation", "q_values"
ELEMENT_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}


def session_options() -> ort.SessionOptions:
    """The one session configuration, a new object each time.

    One thread, in sequence, without spinning: the defaults build a pool per session from the host's
    cores and ignore the limits of a container.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # what goes wrong is raised, and would be logged a second time
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def make_session(
    model: bytes,
    name: str = "model",
    options: ort.SessionOptions | None = None,
    providers: Sequence[str] = CPU,
) -> ort.InferenceSession:
    """The session of a model, in the one configuration that every variant gets.

    `run` is thread-safe; construction is not documented to be, so several are not made at once.

    Args:
        model: the serialised ONNX model, uncompressed.
        name: how errors name the model.
        options: `session_options()` with profiling, for whoever looks inside.
        providers: what is to run it, of `PROVIDERS`, the preferred one first; operators that it
            does not have run on the processor.

    Raises:
        RepositoryError: not an ONNX model, one that `check_model` refuses, or one that the first
            of the providers does not run.
    """
    check_model(model, name)
    options = options or session_options()
    ort.disable_telemetry_events()
    wanted = full_names(providers)
    try:
        session = ort.InferenceSession(model, options, providers=wanted, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors have no common base of their own
        raise RepositoryError(name, f"ONNX Runtime refuses it: {first_line(error)}") from error
    running = session.get_providers()
    if running[:1] != wanted[:1]:
        raise RepositoryError(name, f"expected to run on {wanted[0]}, runs on {', '.join(running)}")
    return session


def check_providers(names: Sequence[str], source: str, place: str) -> None:
    """Sees whether providers are there, and whether the first one starts.

    Args:
        names: of providers, the preferred one first.
        source: what asked for them, for the error.
        place: where it did.

    Raises:
        ConfigError: one is not there, or the first does not start.
    """
    check_available(names, source, place)
    try:
        make_session(IDENTITY, names[0], providers=names)
    except RepositoryError as error:
        raise ConfigError(source, place, f"{names[0]} does not start: {error.problem}") from error


class OnnxPolicy:
    """A `QFunction` around an ONNX session.

    Attributes:
        session: the session, for whoever measures it.
    """

    def __init__(
        self,
        model: bytes,
        observation: ObservationSpec,
        actions: int,
        name: str = "model",
        providers: Sequence[str] = CPU,
    ) -> None:
        """Loads the model, checks its signature and runs it once, which also warms it up.

        Args:
            model: the serialised ONNX model, uncompressed.
            observation: what the model must take as `observation`.
            actions: how many Q-values it must answer for each observation.
            name: how errors name the model.
            providers: as `make_session` has them.

        Raises:
            RepositoryError: it does not load, or its inputs or outputs are others.
        """
        self.session = make_session(model, name, providers=providers)
        _check_values(
            f"{name}: input",
            self.session.get_inputs(),
            (INPUT, ELEMENT_TYPES[observation.dtype], observation.shape),
        )
        _check_values(
            f"{name}: output", self.session.get_outputs(), (OUTPUT, "tensor(float)", (actions,))
        )
        for batch in (2, 1):
            zeros = np.zeros((batch, *observation.shape), observation.dtype)
            try:
                shape = self(zeros).shape
            except Exception as error:  # as above
                problem = f"does not run on a batch of {batch}: {first_line(error)}"
                raise RepositoryError(name, problem) from error
            if shape != (batch, actions):
                problem = f"answers shape {shape}, expected {(batch, actions)}"
                raise RepositoryError(name, problem)

    def __call__(self, observations: Observations) -> QValues:
        """Q-values `(batch, actions)` of observations that `ObservationSpec.check` has passed."""
        q_values: QValues = self.session.run([OUTPUT], {INPUT: observations})[0]
        return q_values


def _check_values(
    place: str, values: list[Any], expected: tuple[str, str, tuple[int, ...]]
) -> None:
    wanted, element, shape = expected
    names = [value.name for value in values]
    if names != [wanted]:
        raise RepositoryError(place, f"expected only {wanted!r}, found {names}")
    value = values[0]
    if value.type != element:
        raise RepositoryError(place, f"{wanted!r}: expected {element}, found {value.type}")
    if not value.shape or isinstance(value.shape[0], int):
        problem = f"{wanted!r}: expected a dynamic batch axis first, found shape {value.shape}"
        raise RepositoryError(place, problem)
    if tuple(value.shape[1:]) != shape:
        problem = f"{wanted!r}: expected shape (batch, {', '.join(map(str, shape))})"
        raise RepositoryError(place, f"{problem}, found {value.shape}")
