"""Q-values as Stable-Baselines3 computes them, straight from its state dict.

Written after `preprocess_obs`, `NatureCNN`, `CombinedExtractor` and `VecNormalize` of
Stable-Baselines3, and independent of slimq's own networks, so that an import can be checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slimq.core.observation import ObservationPart, Observations, ObservationSpec
from slimq.core.qfunction import QValues
from slimq.importing.networks.activations import FUNCTIONS
from slimq.importing.networks.architecture import Statistics
from slimq.importing.stable_baselines.spaces import inner_spaces, is_image, kind_of, shape_of
from slimq.networks.specification import Activation


@dataclass(frozen=True)
class StableBaselinesPolicy:
    """A `QFunction` over a state dict of Stable-Baselines3.

    Attributes:
        weights: tensors of the policy's Q-network by name.
        network: name of its last layers, `q_net` or `quantile_net`.
        space: the observation space, as data.
        observation: layout of the observations that it is given.
        actions: number of actions.
        activation: of the last layers.
        normalize_images: whether images are divided by 255.
        statistics: of VecNormalize.
    """

    weights: dict[str, Tensor]
    network: str
    space: Any
    observation: ObservationSpec
    actions: int
    activation: Activation
    normalize_images: bool
    statistics: Statistics | None

    def __call__(self, observations: Observations, /) -> QValues:
        """Q-values `(batch, actions)` for observations `(batch, *shape)`."""
        with torch.no_grad():
            features = self.features(torch.from_numpy(np.ascontiguousarray(observations)))
            values = self.last_layers(features)
            if self.network == "quantile_net":
                values = values.view(len(values), -1, self.actions).mean(dim=1)
        q_values: QValues = values.numpy()
        return q_values

    def features(self, batch: Tensor) -> Tensor:
        """The output of the features extractor."""
        if kind_of(self.space) != "Dict":
            part = self.observation.parts[0] if self.observation.parts else None
            value = self.preprocess(self.space, batch, part)
            if "features_extractor.cnn.0.weight" in self.weights:
                return self.nature(value, "features_extractor.")
            return value.flatten(1)
        slices = self.observation.part_slices()
        parts = {part.name: part for part in self.observation.parts or ()}
        found = []
        for key, space in inner_spaces(self.space).items():
            part = parts[key]
            value = batch[:, slices[key]].reshape(len(batch), *part.shape)
            value = self.preprocess(space, value, part)
            prefix = f"features_extractor.extractors.{key}."
            is_cnn = f"{prefix}cnn.0.weight" in self.weights
            found.append(self.nature(value, prefix) if is_cnn else value.flatten(1))
        return torch.cat(found, dim=1)

    def preprocess(self, space: Any, value: Tensor, part: ObservationPart | None) -> Tensor:
        """`preprocess_obs`, after `VecTransposeImage` and `VecNormalize`."""
        kind = kind_of(space)
        if kind == "Box":
            if is_image(space) and tuple(value.shape[1:]) != shape_of(space):
                value = value.permute(0, 3, 1, 2)
            if self.statistics is not None:
                value = self.normalize(value)
            scale = 255.0 if is_image(space) and self.normalize_images else 1.0
            return value.float() / scale
        if kind == "MultiBinary" or part is None or part.categories is None:
            return value.float()
        codes = value.long().reshape(len(value), -1)
        columns = [F.one_hot(codes[:, i], n) for i, n in enumerate(part.categories)]
        return torch.cat(columns, dim=1).float()

    def normalize(self, value: Tensor) -> Tensor:
        """`VecNormalize`, in double precision as NumPy computes it."""
        if self.statistics is None:
            return value
        mean, variance = self.statistics.mean.numpy(), self.statistics.variance.numpy()
        scaled = (value.numpy() - mean) / np.sqrt(variance + self.statistics.epsilon)
        if self.statistics.clip is not None:
            scaled = np.clip(scaled, -self.statistics.clip, self.statistics.clip)
        return torch.from_numpy(scaled.astype(np.float32))

    def nature(self, image: Tensor, prefix: str) -> Tensor:
        """`NatureCNN`, whose activations are ReLUs whatever the policy's are."""
        for layer, stride in ((0, 4), (2, 2), (4, 1)):
            weight, bias = (self.weights[f"{prefix}cnn.{layer}.{k}"] for k in ("weight", "bias"))
            image = F.relu(F.conv2d(image, weight, bias, stride=stride))
        weight, bias = (self.weights[f"{prefix}linear.0.{kind}"] for kind in ("weight", "bias"))
        return F.relu(F.linear(image.flatten(1), weight, bias))

    def last_layers(self, value: Tensor) -> Tensor:
        """The dense layers, with activations between them."""
        index = 0
        while (weight := self.weights.get(f"{self.network}.{index}.weight")) is not None:
            if index:
                value = FUNCTIONS[self.activation](value)
            value = F.linear(value, weight, self.weights[f"{self.network}.{index}.bias"])
            index += 2
        return value
