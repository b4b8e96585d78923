"""Zip files of Stable-Baselines3 and sb3-contrib: DQN and QR-DQN with any of their policies.

`data` is JSON; spaces and keyword arguments in it are base64 pickles, which are read as data.
`policy.pth` is a state dict. Layers and widths follow from its names and shapes, as the classes in
`stable_baselines3.common.torch_layers` give them.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from slimq.core.errors import first_line
from slimq.core.observation import ObservationPart, ObservationSpec
from slimq.importing.files.pickles import PickleError
from slimq.importing.files.reading import open_archive, read_file, read_member
from slimq.importing.files.tensors import load_tensors, sizes, state_dict
from slimq.importing.networks.architecture import (
    Architecture,
    Convolution,
    Dense,
    Stack,
    Statistics,
    build,
)
from slimq.importing.networks.mixed_activations import replace_activations
from slimq.importing.source import Fitted, Hints, Source, describe_layout, refuse
from slimq.importing.stable_baselines.data import (
    NETWORKS,
    activation_of,
    keywords_of,
    network_of,
    read_data,
    unpickled,
)
from slimq.importing.stable_baselines.forward import StableBaselinesPolicy
from slimq.importing.stable_baselines.normalization import read_statistics
from slimq.importing.stable_baselines.spaces import (
    actions_of,
    inner_spaces,
    is_image,
    kind_of,
    layout_of,
    shape_of,
)
from slimq.networks.specification import Activation

UNREADABLE = (
    PickleError,
    KeyError,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
    OverflowError,
)
"""Errors of spaces whose fields are not as expected."""
STRIDES = (4, 2, 1)
"""Of the three convolutions of `NatureCNN`."""
VERSIONS = ("Python", "Stable-Baselines3", "PyTorch", "Numpy", "Gymnasium", "OpenAI Gym")


@dataclass(frozen=True)
class Contents:
    """The parts of a zip file that matter.

    Attributes:
        file: name of the file in errors.
        network: `q_net` or `quantile_net`.
        weights: its tensors, without the network's own name in front.
        space: the observation space, as data.
        actions: number of actions.
        activation: of the dense layers.
        normalize_images: whether images are divided by 255.
    """

    file: str
    network: str
    weights: dict[str, Tensor]
    space: Any
    actions: int
    activation: Activation
    normalize_images: bool

    @property
    def algorithm(self) -> str:
        """DQN or QR-DQN."""
        return NETWORKS[self.network]


def read_zip(path: Path, hints: Hints) -> Source:
    """Reads a zip file of Stable-Baselines3.

    Raises:
        InvalidInputError: it is damaged, of another algorithm, or has layers that are unknown here.
    """
    name = str(path)
    archive = open_archive(read_file(path), name)
    data = read_data(archive, name)
    weights = state_dict(load_tensors(read_member(archive, "policy.pth", name), name), name)
    network = network_of(data, weights, name)
    keywords = keywords_of(data, name)
    space = unpickled(data, "observation_space", name)
    try:
        layout = layout_of(space)
        actions, action_start = actions_of(unpickled(data, "action_space", name))
    except UNREADABLE as error:
        problem = f"one without {error}" if isinstance(error, KeyError) else first_line(error)[:160]
        raise refuse(name, "spaces that slimq supports", problem) from error
    _check_starts(layout, name)
    prefix = f"{network}."
    contents = Contents(
        file=name,
        network=network,
        weights={k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)},
        space=space,
        actions=actions,
        activation=hints.activation or activation_of(keywords, name),
        normalize_images=keywords.get("normalize_images") is not False,
    )
    statistics = read_statistics(hints.vecnormalize) if hints.vecnormalize else None
    if statistics and not takes_statistics(layout):
        received = f"observations {describe_layout(layout)} in {name}"
        raise refuse(str(hints.vecnormalize), "float observations without parts", received)
    notes = []
    if statistics is not None and hints.vecnormalize is not None:
        notes.append(f"normalizes with {hints.vecnormalize.name}")
    if contents.network == "quantile_net":
        notes.append("the quantiles are reduced to their mean")
    return Source(
        format="stable-baselines3" if network == "q_net" else "sb3-contrib",
        algorithm=contents.algorithm,
        actions=actions,
        fit=partial(_fit, contents, layout, statistics),
        layout=layout,
        versions=_versions(archive, name),
        notes=tuple(notes),
        action_start=action_start,
    )


def takes_statistics(layout: ObservationSpec) -> bool:
    """Whether slimq normalizes such observations: float ones without parts."""
    return layout.parts is None and layout.dtype == "float32"


def _fit(
    contents: Contents,
    layout: ObservationSpec,
    statistics: Statistics | None,
    observation: ObservationSpec,
) -> Fitted:
    _check_layout(contents, layout, observation)
    reference = StableBaselinesPolicy(
        weights=contents.weights,
        network=contents.network,
        space=contents.space,
        observation=observation,
        actions=contents.actions,
        activation=contents.activation,
        normalize_images=contents.normalize_images,
        statistics=statistics,
    )
    architecture = _architecture(contents, statistics)
    network = build(architecture, observation, contents.actions, contents.file)
    if architecture.body.convolutions and architecture.encoder_activation is not None:
        ours = len(architecture.body.dense) - 1
        graph = replace_activations(network, first=2, count=ours, activation=contents.activation)
        note = f"kept as a graph: convolutions with ReLU, dense layers with {contents.activation}"
        return Fitted(None, graph, reference, (note,))
    return Fitted(network, None, reference)


def _architecture(contents: Contents, statistics: Statistics | None) -> Architecture:
    """The network in neutral form; encoders for the images of a Dict."""
    layers = _dense(contents)
    if contents.network == "quantile_net":
        layers = (*layers[:-1], _mean_of_quantiles(layers[-1], contents))
    hidden, output = layers[:-1], layers[-1:]
    _check_names(contents)
    if kind_of(contents.space) != "Dict":
        cnn = _nature(contents, "features_extractor.")
        body = Stack(dense=hidden)
        mixed = False
        if cnn is not None:
            body = Stack(cnn.convolutions, (*cnn.dense, *hidden))
            mixed = bool(hidden) and contents.activation != "relu"
        image = is_image(contents.space) or cnn is not None
        scaled = is_image(contents.space) and contents.normalize_images
        return Architecture(
            body=body,
            output=output,
            activation="relu" if cnn is not None else contents.activation,
            encoder_activation="relu" if mixed else None,
            divisor=255.0 if scaled else 1.0,
            statistics=statistics,
            image=shape_of(contents.space) if image else None,
        )
    spaces = inner_spaces(contents.space)
    encoders = {}
    for key in spaces:
        if (cnn := _nature(contents, f"features_extractor.extractors.{key}.")) is not None:
            encoders[key] = cnn
    scaled_parts = [k for k, s in spaces.items() if is_image(s) and contents.normalize_images]
    return Architecture(
        body=Stack(dense=hidden),
        output=output,
        activation=contents.activation,
        encoders=encoders,
        encoder_activation="relu",
        divisors=dict.fromkeys(scaled_parts, 255.0),
        images={key: shape_of(space) for key, space in spaces.items() if key in encoders},
        parts=tuple(spaces),
    )


def _check_names(contents: Contents) -> None:
    """Refuses layers beside the known ones, which a policy class of the user's own may have."""
    known = [f"{contents.network}."]
    if kind_of(contents.space) == "Dict":
        keys = inner_spaces(contents.space)
        known += [f"features_extractor.extractors.{key}." for key in keys]
    else:
        known += ["features_extractor.cnn.", "features_extractor.linear."]
    for name in contents.weights:
        if not name.startswith(tuple(known)):
            remedy = "export the policy to ONNX and import that"
            expected = "only the layers of a policy of Stable-Baselines3"
            raise refuse(contents.file, expected, repr(name[:64]), remedy)


def _dense(contents: Contents) -> tuple[Dense, ...]:
    """The layers of `q_net` or `quantile_net`, whose activations have odd numbers."""
    found, index = [], 0
    prefix = f"{contents.network}."
    while (weight := contents.weights.get(f"{prefix}{index}.weight")) is not None:
        bias = contents.weights.get(f"{prefix}{index}.bias")
        if weight.dim() != 2 or bias is None:
            raise refuse(contents.file, "dense layers", f"{prefix}{index} {tuple(weight.shape)}")
        found.append(Dense(weight, bias))
        index += 2
    count = sum(key.startswith(prefix) for key in contents.weights)
    if not found or count != 2 * len(found):
        received = sizes(contents.weights)
        raise refuse(contents.file, f"dense layers {prefix}0, {prefix}2 and so on", received)
    return tuple(found)


def _mean_of_quantiles(layer: Dense, contents: Contents) -> Dense:
    """The mean over quantiles, exactly: it is linear, and quantiles are the outer axis."""
    outputs, width = layer.weight.shape
    if outputs % contents.actions:
        received = f"{outputs} outputs for {contents.actions} actions"
        raise refuse(contents.file, "as many quantiles for every action", received)
    weight = layer.weight.double().reshape(-1, contents.actions, width).mean(0)
    bias = layer.bias.double().reshape(-1, contents.actions).mean(0)
    return Dense(weight.float(), bias.float())


def _nature(contents: Contents, prefix: str) -> Stack | None:
    """The layers of a `NatureCNN`; None if there is none under the prefix."""
    found = {k.removeprefix(prefix): v for k, v in contents.weights.items() if k.startswith(prefix)}
    found = {k: v for k, v in found.items() if not k.startswith("extractors.")}
    if not found:
        return None
    expected = [f"{layer}.{kind}" for layer in ("cnn.0", "cnn.2", "cnn.4", "linear.0")
                for kind in ("weight", "bias")]  # fmt: skip
    kernels = [tuple(found[key].shape[2:]) for key in expected[0:6:2] if key in found]
    if sorted(found) != sorted(expected) or kernels != [(8, 8), (4, 4), (3, 3)]:
        remedy = "export it to ONNX and import that"
        raise refuse(contents.file, "the convolutions of NatureCNN", sizes(found), remedy)
    convolutions = tuple(
        Convolution(found[f"cnn.{2 * i}.weight"], found[f"cnn.{2 * i}.bias"], stride)
        for i, stride in enumerate(STRIDES)
    )
    dense = Dense(found["linear.0.weight"], found["linear.0.bias"])
    return Stack(convolutions, (dense,))


def _check_starts(layout: ObservationSpec, name: str) -> None:
    for part in layout.parts or ():
        if part.start is not None:
            received = f"{part.name!r} from {part.start[0]} on"
            expected = "categories from 0 on, as Stable-Baselines3 encodes them"
            raise refuse(name, expected, received)


def _check_layout(
    contents: Contents, layout: ObservationSpec, observation: ObservationSpec
) -> None:
    """Compares the file's observations with those at hand; images may have the channels last."""
    if layout.parts is None and observation.parts is None:
        shapes = [layout.shape]
        if is_image(contents.space):
            shapes.append((*layout.shape[1:], layout.shape[0]))
        same = observation.dtype == layout.dtype and observation.shape in shapes
    else:
        same = _same_parts(contents, layout, observation)
    if not same:
        received = describe_layout(observation)
        remedy = "give the environment and the wrappers that it was trained with"
        raise refuse(contents.file, f"observations {describe_layout(layout)}", received, remedy)


def _same_parts(contents: Contents, layout: ObservationSpec, observation: ObservationSpec) -> bool:
    ours = {part.name: part for part in observation.parts or ()}
    theirs = {part.name: part for part in layout.parts or ()}
    if len(ours) == len(theirs) == 1 and kind_of(contents.space) != "Dict":
        ours = dict(zip(theirs, ours.values(), strict=True))
    if set(ours) != set(theirs):
        return False
    return all(_same_part(contents, part, ours[name]) for name, part in theirs.items())


def _same_part(contents: Contents, part: ObservationPart, other: ObservationPart) -> bool:
    """Compares a part with the one at hand; shape () is that of a Discrete, (1,) of a lone one."""
    shapes = [part.shape or (1,)]
    if _is_encoded_image(contents, part.name):
        shapes.append((*part.shape[1:], part.shape[0]))
    same = (other.shape or (1,)) in shapes and other.categories == part.categories
    if part.integer and (other.low, other.high) != (part.low, part.high):
        return False
    return same and other.integer == part.integer and other.first == part.first


def _is_encoded_image(contents: Contents, key: str) -> bool:
    """Whether a part of a Dict is an image with convolutions, which take the channels first."""
    if kind_of(contents.space) != "Dict" or not is_image(inner_spaces(contents.space)[key]):
        return False
    return f"features_extractor.extractors.{key}.cnn.0.weight" in contents.weights


def _versions(archive: zipfile.ZipFile, name: str) -> dict[str, str]:
    if "system_info.txt" not in archive.namelist():
        return {}
    text = read_member(archive, "system_info.txt", name).decode(errors="replace")
    found = (line.removeprefix("- ").split(": ", 1) for line in text.splitlines()[:32])
    return {pair[0]: pair[1][:64] for pair in found if len(pair) == 2 and pair[0] in VERSIONS}
