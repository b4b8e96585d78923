"""Networks of every kind that a specification can describe, small, with observations for them."""

from __future__ import annotations

import numpy as np
import torch

from slimq.core.observation import ObservationPart, Observations, ObservationSpec
from slimq.networks.layers import ConvLayer, DenseLayer, Window
from slimq.networks.qnetwork import QNetwork
from slimq.networks.specification import (
    Atoms,
    ConvSpec,
    HeadSpec,
    MLPSpec,
    MultiInputSpec,
    Normalization,
    QNetworkSpec,
)

PARTS = (
    ObservationPart(name="image", shape=(7, 9, 3), integer=True, low=0, high=255),
    ObservationPart(name="position", shape=(2,), categories=(4, 300), start=(-1, 5)),
    ObservationPart(name="speed", shape=(3,)),
)
_SIZE = sum(part.size for part in PARTS)

KINDS: dict[str, QNetworkSpec] = {
    "normalized": QNetworkSpec(
        body=MLPSpec(hidden=(8, 7), activation="tanh"),
        observation_shape=(3, 2),
        observation_dtype="float32",
        normalization=Normalization(clip=2.0),
        actions=3,
    ),
    "layer-norm": QNetworkSpec(
        body=MLPSpec(hidden=(DenseLayer(width=7, layer_norm=True), 6), activation="gelu"),
        observation_shape=(4,),
        observation_dtype="float32",
        actions=3,
    ),
    "channels-last": QNetworkSpec(
        body=ConvSpec(
            channels="last",
            window=Window(rows=(1, 9)),
            convolutions=(ConvLayer(channels=5, kernel=3, layer_norm=True),),
            hidden=(6,),
            activation="silu",
        ),
        observation_shape=(10, 9, 4),
        observation_dtype="uint8",
        divisor=1.0,
        actions=3,
    ),
    "dueling": QNetworkSpec(
        body=ConvSpec(convolutions=(ConvLayer(channels=5, kernel=3),), hidden=()),
        observation_shape=(2, 8, 7),
        observation_dtype="uint8",
        head=HeadSpec(dueling=True, hidden=(9,)),
        actions=4,
    ),
    "categorical": QNetworkSpec(
        body=MLPSpec(hidden=(8,), activation="elu"),
        observation_shape=(4,),
        observation_dtype="float32",
        head=HeadSpec(atoms=Atoms(count=11, low=-2.0, high=5.0)),
        actions=2,
    ),
    "categories": QNetworkSpec(
        body=MLPSpec(hidden=(5,)),
        observation_shape=(1,),
        observation_dtype="int32",
        observation_parts=(ObservationPart(name="state", shape=(), categories=(16,), start=(1,)),),
        actions=4,
    ),
    "several-inputs": QNetworkSpec(
        body=MultiInputSpec(
            encoders={
                "image": ConvSpec(
                    channels="last",
                    window=Window(columns=(0, 8)),
                    convolutions=(ConvLayer(channels=4, kernel=3),),
                    hidden=(5,),
                ),
                "speed": MLPSpec(hidden=(6,), activation="tanh"),
            },
            hidden=(9,),
            activation="leaky_relu",
        ),
        observation_shape=(_SIZE,),
        observation_dtype="float32",
        observation_parts=PARTS,
        divisors={"image": 255.0},
        head=HeadSpec(dueling=True, atoms=Atoms(count=5, low=-1.0, high=1.0)),
        actions=4,
    ),
}
"""By what is special about each."""


def make_kind(kind: str, seed: int = 0) -> QNetwork:
    """An untrained network of a kind; a normalization has seen some observations."""
    torch.manual_seed(seed)
    network = QNetwork(KINDS[kind]).eval()
    if network.normalize is not None:
        shape = network.spec.observation_shape
        network.normalize.update(3.0 * torch.randn(100, *shape) + 1.0)
    return network


def layout_of(kind: str) -> ObservationSpec:
    """The observations of a kind of network."""
    spec = KINDS[kind]
    return ObservationSpec(
        dtype=spec.observation_dtype,
        shape=spec.observation_shape,
        parts=spec.observation_parts,
        high=spec.divisor if spec.observation_dtype == "uint8" else None,
    )


def draw_observations(kind: str, count: int, seed: int = 0) -> Observations:
    """`(count, *shape)` valid observations of a kind of network."""
    generator = np.random.default_rng(seed)
    spec, layout = KINDS[kind], layout_of(kind)
    if spec.observation_parts is not None:
        return layout.join(
            {part.name: _draw_part(part, count, generator) for part in spec.observation_parts}
        )
    shape = (count, *spec.observation_shape)
    if spec.observation_dtype == "uint8":
        return generator.integers(0, int(spec.divisor) + 1, shape, dtype=np.uint8)
    return (5.0 * generator.normal(size=shape)).astype(np.float32)


def _draw_part(part: ObservationPart, count: int, generator: np.random.Generator) -> np.ndarray:
    if part.categories is not None:
        lows = np.array(part.first)
        drawn = generator.integers(lows, lows + part.categories, (count, part.size))
        return drawn.reshape(count, *part.shape)
    if part.integer:
        return generator.integers(int(part.low or 0), int(part.high or 0) + 1, (count, *part.shape))
    return generator.normal(size=(count, *part.shape))
