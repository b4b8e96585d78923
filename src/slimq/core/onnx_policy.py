"""ONNX sessions for policies: the common session configuration, and the checks on loading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxruntime as ort

from slimq.core._protobuf import check_model
from slimq.core.errors import ConfigError, RepositoryError, first_line
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.providers import CPU, IDENTITY, check_available, full_names
from slimq.core.qfunction import INPUT, OUTPUT, QValues

ELEMENT_TYPES = {"uint8": "tensor(uint8)", "int32": "tensor(int32)", "float32": "tensor(float)"}


def session_options() -> ort.SessionOptions:
    """Builds the session configuration that all variants share.

    One thread, sequential execution, no spinning: by default each session creates a thread pool
    sized to the host's cores, regardless of container limits.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # errors are raised; logging would report them twice
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def make_session(
    model: bytes,
    name: str = "model",
    options: ort.SessionOptions | None = None,
    providers: Sequence[str] = CPU,
) -> ort.InferenceSession:
    """Creates a session for a model, with the configuration that all variants share.

    `run` is thread-safe; construction is not documented to be, so create one session at a time.

    Args:
        model: the serialized ONNX model, uncompressed.
        name: name of the model in errors.
        options: `session_options()` with additions, for inspection; None for the defaults.
        providers: names from `PROVIDERS`, the preferred one first; operators that it does not
            support run on the CPU.

    Raises:
        RepositoryError: the bytes are not an ONNX model, `check_model` rejects it, or the first
            provider cannot run it.
    """
    check_model(model, name)
    options = options or session_options()
    ort.disable_telemetry_events()
    wanted = full_names(providers)
    try:
        session = ort.InferenceSession(model, options, providers=wanted, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise RepositoryError(name, f"rejected by ONNX Runtime: {first_line(error)}") from error
    running = session.get_providers()
    if running[:1] != wanted[:1]:
        raise RepositoryError(name, f"expected to run on {wanted[0]}, runs on {', '.join(running)}")
    return session


def check_providers(names: Sequence[str], source: str, place: str) -> None:
    """Checks that the providers are available and that the first one starts.

    Args:
        names: provider names, the preferred one first.
        source: configuration source that names them, for errors.
        place: setting or key within the source.

    Raises:
        ConfigError: one is not available, or the first does not start.
    """
    check_available(names, source, place)
    try:
        make_session(IDENTITY, names[0], providers=names)
    except RepositoryError as error:
        raise ConfigError(source, place, f"{names[0]} does not start: {error.problem}") from error


class OnnxPolicy:
    """A `QFunction` around an ONNX session.

    Attributes:
        session: the underlying session, for measurements.
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
            model: the serialized ONNX model, uncompressed.
            observation: required layout of the model's `observation` input.
            actions: required number of Q-values per observation.
            name: name of the model in errors.
            providers: as in `make_session`.

        Raises:
            RepositoryError: it does not load, or its inputs or outputs do not match.
        """
        self.session = make_session(model, name, providers=providers)
        # The public `run` validates names and feeds on every call, but these never change.
        self._run = getattr(self.session, "_sess", self.session).run
        _check_values(
            f"{name}: input",
            self.session.get_inputs(),
            (INPUT, ELEMENT_TYPES[observation.dtype], observation.shape),
        )
        _check_values(
            f"{name}: output", self.session.get_outputs(), (OUTPUT, "tensor(float)", (actions,))
        )
        for batch in (2, 1):
            zeros = observation.zeros(batch)
            try:
                shape = self(zeros).shape
            except Exception as error:  # as above
                problem = f"does not run on a batch of {batch}: {first_line(error)}"
                raise RepositoryError(name, problem) from error
            if shape != (batch, actions):
                problem = f"returns shape {shape}, expected {(batch, actions)}"
                raise RepositoryError(name, problem)

    def __call__(self, observations: Observations) -> QValues:
        """Q-values `(batch, actions)` for observations validated by `ObservationSpec.check`."""
        q_values: QValues = self._run([OUTPUT], {INPUT: observations}, None)[0]
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
