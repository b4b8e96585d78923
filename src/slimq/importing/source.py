"""The result of the readers of all formats, and the hints that they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import InvalidInputError
from slimq.core.observation import ObservationSpec
from slimq.core.qfunction import QFunction
from slimq.networks.qnetwork import QNetwork
from slimq.networks.specification import Activation

Framework = Literal["sb3", "sb3-contrib", "cleanrl", "torch", "safetensors", "onnx", "flax", "hub"]


@dataclass(frozen=True)
class Hints:
    """What the user says about a file.

    Attributes:
        framework: the kind of file; None to recognise it.
        network: TOML file with the network of plain weights.
        activation: the nonlinearity, where the file does not say.
        vecnormalize: statistics of normalized observations.
        output: output of an ONNX model with the Q-values.
        divisor: what the pixels of a model with float inputs are divided by before.
    """

    framework: Framework | None = None
    network: Path | None = None
    activation: Activation | None = None
    vecnormalize: Path | None = None
    output: str | None = None
    divisor: float | None = None


@dataclass(frozen=True)
class Fitted:
    """A source for observations of a given layout.

    Attributes:
        network: the source's network as one of slimq's; None if slimq has no layers for it.
        graph: the policy as an ONNX graph where there is no network.
        reference: the source's own computation, independent of network and graph.
        notes: what was assumed or left out.
    """

    network: QNetwork | None
    graph: bytes | None
    reference: QFunction
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A policy as its file describes it.

    Attributes:
        format: kind of file, such as `stable-baselines3`.
        algorithm: such as `QR-DQN`.
        actions: number of actions; None if it is only known from the first Q-values.
        fit: the policy for observations of a layout.
        layout: observations as the file describes them; None if it does not.
        environment: the environment that the file names; None if it names none.
        versions: of the program that made the file.
        notes: what was assumed or left out.
        action_start: the environment's number of the first action; None if the file does not say.
        strict: whether observations must be of the file's layout; otherwise `fit` adapts them.
    """

    format: str
    algorithm: str
    actions: int | None
    fit: Callable[[ObservationSpec], Fitted]
    layout: ObservationSpec | None = None
    environment: EnvironmentSpec | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    strict: bool = True
    action_start: int | None = None


def refuse(file: str, expected: str, received: str, remedy: str = "") -> InvalidInputError:
    """The error about a file that cannot be imported, with what to do about it."""
    return InvalidInputError(file, expected, received, f"; {remedy}" if remedy else "")


def describe_layout(layout: ObservationSpec) -> str:
    """A layout in a few words, such as `float32 (4,)` or `image uint8 (3, 40, 44), speed (1,)`."""
    if layout.parts is None:
        return f"{layout.dtype} {layout.shape}"
    described = []
    for part in layout.parts:
        if part.categories is not None:
            kind = "categories " + "×".join(map(str, part.categories[:8]))
        elif part.integer and part.low is not None and part.high is not None:
            kind = f"integers {part.low:g} to {part.high:g}"
        else:
            kind = "integers" if part.integer else "numbers"
        described.append(f"{part.name}: {kind} {part.shape}")
    return "; ".join(described)
