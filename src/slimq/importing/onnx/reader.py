"""ONNX models with Q-values as a source: any names, one or several inputs, opset 9 and later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from slimq.core.errors import InvalidInputError, RepositoryError, first_line
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.onnx_policy import OnnxPolicy, make_session
from slimq.core.qfunction import QFunction, QValues
from slimq.importing.checking import draw_observations, relative_error
from slimq.importing.files.reading import read_file
from slimq.importing.networks.architecture import build
from slimq.importing.onnx.chain import as_architecture
from slimq.importing.onnx.inputs import Feed, check_inputs, layout_of_inputs, plan_feeds
from slimq.importing.onnx.loading import (
    Value,
    choose_output,
    inputs_of,
    opset_of,
    parse_model,
    to_current_opset,
)
from slimq.importing.onnx.normal_form import normalize
from slimq.importing.source import Fitted, Hints, Source, refuse
from slimq.networks.torch_policy import TorchPolicy

MAX_ERROR = 1e-4
BATCHES = (1, 2, 3)
STATES = 6


@dataclass(frozen=True)
class OriginalPolicy:
    """A `QFunction` over the original model in ONNX Runtime, one row at a time if it has to.

    Attributes:
        session: of the model as it was.
        feeds: the plan for its inputs.
        output: name of its Q-values.
        batched: whether its batch axis is dynamic.
        file: name of the file in errors.
    """

    session: Any
    feeds: Sequence[Feed]
    output: str
    batched: bool
    file: str

    def __call__(self, observations: Observations, /) -> QValues:
        """Q-values `(batch, actions)` for observations `(batch, *shape)`."""
        if self.batched:
            return self._run(observations)
        rows = [self._run(observations[i : i + 1]) for i in range(len(observations))]
        return np.concatenate(rows)

    def _run(self, batch: Observations) -> QValues:
        feeds = {feed.value.name: feed.array(batch) for feed in self.feeds}
        values = np.asarray(self.session.run([self.output], feeds)[0])
        if values.ndim != 2 or len(values) != len(batch):
            received = f"shape {values.shape} for a batch of {len(batch)}"
            raise refuse(self.file, "Q-values (batch, actions)", received)
        return values.astype(np.float32)


def read_onnx(path: Path, hints: Hints) -> Source:
    """Reads an ONNX model.

    Raises:
        InvalidInputError: it is damaged or has no Q-values, or its inputs are not observations.
    """
    name = str(path)
    model = parse_model(read_file(path), name)
    inputs = inputs_of(model)
    check_inputs(inputs, name)
    output = choose_output(model, hints.output, name)
    actions = output.shape[1] if len(output.shape) == 2 else None
    versions = {"opset": str(opset_of(model))}
    if model.producer_name:
        versions[model.producer_name[:64]] = model.producer_version[:64] or "unknown"
    return Source(
        format="onnx",
        algorithm="DQN",
        actions=actions,
        fit=partial(_fit, model, inputs, output, hints.divisor, name),
        layout=layout_of_inputs(inputs),
        versions=versions,
        strict=False,
    )


def _fit(
    model: onnx.ModelProto,
    inputs: Sequence[Value],
    output: Value,
    divisor: float | None,
    name: str,
    observation: ObservationSpec,
) -> Fitted:
    feeds = plan_feeds(inputs, observation, divisor, name)
    states = draw_observations(observation, STATES)
    reference = _open_original(model, feeds, output, name)
    try:
        expected = reference(states)
    except InvalidInputError:
        raise
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise refuse(name, "a model that runs on observations", first_line(error)[:200]) from error
    actions = expected.shape[1]
    if output.shape[1:] not in ((), (None,), (actions,)) or not 1 <= actions <= 4096:
        raise refuse(name, "Q-values (batch, actions)", f"{output} that gives {actions} per row")
    notes = []
    if any(feed.transpose for feed in feeds):
        notes.append("images are transposed: the model takes the channels first")
    current, note = to_current_opset(model)
    if note:
        notes.append(note)
    graph = normalize(current, feeds, output, observation, actions)
    content = _check_graph(graph, observation, states, expected, name)
    architecture = as_architecture(graph, observation)
    if architecture is not None:
        try:
            network = build(architecture, observation, actions, name)
        except InvalidInputError:
            architecture = None
        else:
            if relative_error(expected, TorchPolicy(network)(states)) <= MAX_ERROR:
                return Fitted(network, None, reference, tuple(notes))
    notes.append("kept as its ONNX graph, since slimq has no layers for it")
    return Fitted(None, content, reference, tuple(notes))


def _open_original(
    model: onnx.ModelProto, feeds: Sequence[Feed], output: Value, name: str
) -> OriginalPolicy:
    try:
        session = make_session(model.SerializeToString(), name)
    except RepositoryError as error:
        raise refuse(name, "a model that ONNX Runtime accepts", error.problem) from error
    batched = all(feed.value.shape[0] is None for feed in feeds)
    return OriginalPolicy(session, feeds, output.name, batched, name)


def _check_graph(
    graph: onnx.ModelProto,
    observation: ObservationSpec,
    states: Observations,
    expected: QValues,
    name: str,
) -> bytes:
    """Runs the normalized graph on batches of several sizes; returns its bytes.

    Raises:
        InvalidInputError: it does not run, or a row depends on the others.
    """
    remedy = "export it with a dynamic batch axis (dynamic_axes or dynamic_shapes)"
    wanted = "a model that computes each observation of a batch by itself"
    try:
        onnx.checker.check_model(graph)
        content = bytes(graph.SerializeToString(deterministic=True))
        policy: QFunction = OnnxPolicy(content, observation, expected.shape[1], name)
    except RepositoryError as error:
        raise refuse(name, wanted, f"one that {error.problem[:200]}", remedy) from error
    except onnx.checker.ValidationError as error:
        raise refuse(name, "a valid ONNX model", first_line(error)[:200]) from error
    for size in BATCHES:
        try:
            found = policy(states[:size])
        except Exception as error:  # as above
            raise refuse(name, wanted, first_line(error)[:200], remedy) from error
        if relative_error(expected[:size], found) > MAX_ERROR:
            raise refuse(name, wanted, f"different Q-values in a batch of {size}", remedy)
    return content
