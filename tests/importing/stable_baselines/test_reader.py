from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from policy_files import Payload, dense, forward, q_net, sb3_zip, serialized
from slimq.core.errors import InvalidInputError
from slimq.core.observation import ObservationSpec
from slimq.importing.checking import draw_observations, relative_error
from slimq.importing.source import Fitted, Hints
from slimq.importing.stable_baselines.reader import read_zip
from slimq.networks.torch_policy import TorchPolicy

spaces = gymnasium.spaces
IMAGE = spaces.Box(0, 255, (3, 36, 40), np.uint8)
FLAT = 64
"""Values after the convolutions of NatureCNN, for `IMAGE`."""


def nature(prefix: str, flat: int = FLAT, width: int = 16) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    sizes = {"cnn.0": (32, 3, 8, 8), "cnn.2": (64, 32, 4, 4), "cnn.4": (64, 64, 3, 3)}
    found = {}
    for name, size in {**sizes, "linear.0": (width, flat)}.items():
        found[f"{prefix}{name}.weight"] = torch.randn(size) / np.prod(size[1:]) ** 0.5
        found[f"{prefix}{name}.bias"] = torch.randn(size[0]) * 0.1
    return found


def check(fitted: Fitted, observation: ObservationSpec, expected: Any = None) -> None:
    states = draw_observations(observation, 8)
    assert fitted.network is not None
    found = TorchPolicy(fitted.network)(states)
    assert relative_error(fitted.reference(states), found) < 1e-5
    if expected is not None:
        assert relative_error(expected(states), found) < 1e-5


@pytest.mark.parametrize(
    ("name", "activation"), [("ReLU", torch.relu), ("Tanh", torch.tanh), ("SiLU", nn.SiLU())]
)
@pytest.mark.parametrize("widths", [(4, 2), (4, 8, 2), (4, 6, 5, 7, 2)])
def test_any_widths_and_activations(
    tmp_path: Path, name: str, activation: Any, widths: tuple[int, ...]
) -> None:
    layers = dense(*widths)
    keywords = {"net_arch": list(widths[1:-1]), "activation_fn": getattr(nn, name)}
    source = read_zip(sb3_zip(tmp_path / "x.zip", q_net(layers), keywords=keywords), Hints())
    assert (source.format, source.algorithm, source.actions) == ("stable-baselines3", "DQN", 2)
    assert source.versions["Stable-Baselines3"] == "2.9.2"
    assert source.layout is not None
    fitted = source.fit(source.layout)
    check(fitted, source.layout, lambda states: forward(layers, states, activation))


def test_quantiles_become_their_mean(tmp_path: Path) -> None:
    layers = dense(4, 8, 2 * 5)
    path = sb3_zip(tmp_path / "x.zip", q_net(layers, "quantile_net"))
    source = read_zip(path, Hints())
    assert (source.format, source.algorithm, source.actions) == ("sb3-contrib", "QR-DQN", 2)
    assert source.layout is not None

    def mean(states: Any) -> Any:
        return forward(layers, states).reshape(-1, 5, 2).mean(1)

    check(source.fit(source.layout), source.layout, mean)


@pytest.mark.parametrize("last", [False, True])
def test_images_are_read_as_the_environment_has_them(tmp_path: Path, last: bool) -> None:
    weights = q_net(dense(16, 2)) | nature("q_net.features_extractor.")
    source = read_zip(sb3_zip(tmp_path / "x.zip", weights, IMAGE), Hints())
    shape = (36, 40, 3) if last else (3, 36, 40)
    observation = ObservationSpec(dtype="uint8", shape=shape, low=0, high=255)
    fitted = source.fit(observation)
    check(fitted, observation)
    assert fitted.network is not None
    assert fitted.network.spec.body.channels == ("last" if last else None)  # type: ignore[union-attr]
    assert fitted.network.spec.divisor == 255.0


def test_a_flattened_image_with_the_channels_last_permutes_the_inputs(tmp_path: Path) -> None:
    layers = dense(3 * 36 * 40, 2)
    source = read_zip(sb3_zip(tmp_path / "x.zip", q_net(layers), IMAGE), Hints())
    observation = ObservationSpec(dtype="uint8", shape=(36, 40, 3), low=0, high=255)

    def expected(states: Any) -> Any:
        return forward(layers, states.transpose(0, 3, 1, 2) / 255.0)

    check(source.fit(observation), observation, expected)


def test_bytes_that_are_no_image_are_not_scaled(tmp_path: Path) -> None:
    layers = dense(6, 2)
    space = spaces.Box(0, 9, (6,), np.uint8)
    source = read_zip(sb3_zip(tmp_path / "x.zip", q_net(layers), space), Hints())
    assert source.layout == ObservationSpec(dtype="uint8", shape=(6,), low=0, high=9)
    check(source.fit(source.layout), source.layout, lambda states: forward(layers, states))


def test_other_activations_after_convolutions_are_kept_as_a_graph(tmp_path: Path) -> None:
    weights = q_net(dense(16, 6, 2)) | nature("q_net.features_extractor.")
    path = sb3_zip(tmp_path / "x.zip", weights, IMAGE, keywords={"activation_fn": nn.Tanh})
    source = read_zip(path, Hints())
    assert source.layout is not None
    fitted = source.fit(source.layout)
    assert fitted.network is None
    assert fitted.graph is not None
    assert b"Tanh" in fitted.graph
    assert "convolutions with ReLU, dense layers with tanh" in fitted.notes[0]


def test_parts_are_encoded_and_ordered_as_in_the_file(tmp_path: Path) -> None:
    space = spaces.Dict(
        {"b": spaces.Discrete(3), "a": IMAGE, "c": spaces.Box(-1, 1, (2, 2)),
         "d": spaces.MultiBinary(2)}
    )  # fmt: skip
    weights = q_net(dense(3 + 16 + 4 + 2, 5, 2))
    weights |= nature("q_net.features_extractor.extractors.a.")
    source = read_zip(sb3_zip(tmp_path / "x.zip", weights, space), Hints())
    assert source.layout is not None
    assert [part.name for part in source.layout.parts or ()] == list(space.spaces)
    check(source.fit(source.layout), source.layout)
    parts = tuple(reversed(source.layout.parts or ()))
    reordered = ObservationSpec(dtype="float32", shape=source.layout.shape, parts=parts)
    check(source.fit(reordered), reordered)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(5), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(5)]
)
def test_categories_and_bits_are_encoded(tmp_path: Path, space: Any) -> None:
    source = read_zip(sb3_zip(tmp_path / "x.zip", q_net(dense(5, 2)), space), Hints())
    assert source.layout is not None
    check(source.fit(source.layout), source.layout)


@pytest.mark.parametrize(
    "observation",
    [
        ObservationSpec(dtype="float32", shape=(5,)),
        ObservationSpec(dtype="uint8", shape=(4,)),
        ObservationSpec(dtype="float32", shape=(2, 2)),
    ],
)
def test_other_observations_are_refused_with_both_named(
    tmp_path: Path, observation: ObservationSpec
) -> None:
    source = read_zip(sb3_zip(tmp_path / "x.zip", q_net(dense(4, 2))), Hints())
    wanted = r"expected observations float32 \(4,\), received \w+ \("
    with pytest.raises(InvalidInputError, match=wanted):
        source.fit(observation)


@pytest.mark.parametrize(
    ("signs", "algorithm"),
    [
        ({"clip_range": 0.2, "gae_lambda": 0.95}, "PPO"),
        ({"gae_lambda": 0.95}, "A2C"),
        ({"policy_class": serialized(json.JSONDecoder)}, r"json\.decoder\.JSONDecoder"),
    ],
)
def test_other_algorithms_are_named(tmp_path: Path, signs: Any, algorithm: str) -> None:
    path = sb3_zip(tmp_path / "x.zip", {"mlp_extractor.policy_net.0.weight": torch.ones(2)},
                   data=signs)  # fmt: skip
    with pytest.raises(InvalidInputError, match=f"received a policy of {algorithm}$"):
        read_zip(path, Hints())


def test_classes_of_the_user_are_not_loaded(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for key in ("observation_space", "policy_kwargs", "policy_class", "action_space"):
        hostile = {key: serialized(Payload(trace))}
        path = sb3_zip(tmp_path / "x.zip", q_net(dense(4, 2)), data=hostile)
        if key.endswith("space"):
            with pytest.raises(InvalidInputError, match=r"a space of gymnasium, found io\.open"):
                read_zip(path, Hints())
        else:
            read_zip(path, Hints())
    assert not trace.exists()


def test_weights_that_would_execute_are_refused(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = sb3_zip(tmp_path / "x.zip", {**q_net(dense(4, 2)), "z": Payload(trace)})  # type: ignore[dict-item]
    with pytest.raises(InvalidInputError, match="nothing of it was executed"):
        read_zip(path, Hints())
    assert not trace.exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"data": {"observation_space": {":serialized:": "!"}}}, "a pickle in 'observation_space'"),
        ({"policy__pth": None}, "an archive with 'policy.pth'"),
        ({"policy__pth": b""}, "a file that torch.save wrote"),
        ({"data": {"action_space": serialized(spaces.Box(-1, 1, (1,)))}}, "found Box"),
        ({"data": {"observation_space": serialized(spaces.Dict(a=spaces.Dict(b=IMAGE)))}},
         "a Dict within a Dict"),
        ({"data": {"observation_space": serialized(spaces.Discrete(4, start=1))}},
         "categories from 0 on"),
        ({"keywords": {"features_extractor_class": dict}}, r"received builtins\.dict"),
        ({"keywords": {"activation_fn": nn.Sigmoid}}, r"activation\.Sigmoid; give --activation"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_in_a_line(tmp_path: Path, changes: Any, problem: str) -> None:
    path = sb3_zip(tmp_path / "x.zip", q_net(dense(4, 3, 2)), **changes)
    with pytest.raises(InvalidInputError, match=problem) as caught:
        read_zip(path, Hints())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["q_net.value_net.0.weight", "q_net.features_extractor.own.weight", "q_net.q_net.1.x"]
)
def test_layers_beside_the_known_ones_are_refused(tmp_path: Path, name: str) -> None:
    weights = q_net(dense(4, 6, 2)) | {name: torch.ones(2, 2)}
    source = read_zip(sb3_zip(tmp_path / "x.zip", weights), Hints())
    assert source.layout is not None
    with pytest.raises(InvalidInputError, match=r"only the layers|dense layers q_net\.0"):
        source.fit(source.layout)


def test_an_activation_given_by_the_user_wins(tmp_path: Path) -> None:
    layers = dense(4, 6, 2)
    path = sb3_zip(tmp_path / "x.zip", q_net(layers), keywords={"activation_fn": nn.Sigmoid})
    source = read_zip(path, Hints(activation="tanh"))
    assert source.layout is not None
    check(source.fit(source.layout), source.layout, lambda s: forward(layers, s, torch.tanh))


def test_an_image_of_a_dict_may_have_the_channels_last(tmp_path: Path) -> None:
    space = spaces.Dict({"a": IMAGE, "c": spaces.Box(-1, 1, (2, 2))})
    weights = q_net(dense(16 + 4, 2)) | nature("q_net.features_extractor.extractors.a.")
    source = read_zip(sb3_zip(tmp_path / "x.zip", weights, space), Hints())
    assert source.layout is not None
    observation = with_part(source.layout, shape=(36, 40, 3))
    check(source.fit(observation), observation)


def with_part(layout: ObservationSpec, **changes: Any) -> ObservationSpec:
    """A layout with changes of its first part."""
    first, *others = (part.model_dump() for part in layout.parts or ())
    return ObservationSpec.model_validate(
        {**layout.model_dump(), "parts": [{**first, **changes}, *others]}
    )


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        (spaces.Box(-1, 1, (2, 3, 4)), {"shape": (3, 4, 2)}),
        (spaces.Box(-1, 1, (2, 6)), {"shape": (6, 2)}),
        (spaces.Box(-1, 1, (4,)), {"shape": (2, 2)}),
        (spaces.MultiBinary(6), {"shape": (2, 3)}),
        (spaces.MultiDiscrete([2, 3]), {"categories": (3, 2)}),
        (spaces.Box(0, 100, (3,), np.uint8), {"high": 255.0}),
        (spaces.Box(0, 100, (3,), np.uint8), {"low": 1.0}),
        (IMAGE, {"shape": (36, 40, 3)}),
    ],
)
def test_other_parts_are_refused(tmp_path: Path, part: Any, changes: Any) -> None:
    width = gymnasium.spaces.utils.flatdim(part)
    space = spaces.Dict({"a": part, "b": spaces.Box(-1, 1, (2,))})
    path = sb3_zip(tmp_path / "x.zip", q_net(dense(width + 2, 2)), space)
    source = read_zip(path, Hints())
    assert source.layout is not None
    check(source.fit(source.layout), source.layout)
    with pytest.raises(InvalidInputError, match=r"expected observations a: .* received a: "):
        source.fit(with_part(source.layout, **changes))


def test_a_tuple_is_refused_as_such(tmp_path: Path) -> None:
    space = spaces.Tuple((spaces.Box(-1, 1, (4,)),))
    path = sb3_zip(tmp_path / "x.zip", q_net(dense(4, 2)), space)
    with pytest.raises(InvalidInputError, match="received a Tuple, which Stable-Baselines3"):
        read_zip(path, Hints())
    inside = spaces.Dict({"a": space, "b": spaces.Box(-1, 1, (4,))})
    path = sb3_zip(tmp_path / "y.zip", q_net(dense(4, 2)), inside)
    with pytest.raises(InvalidInputError, match="'a' is a Tuple within a Dict"):
        read_zip(path, Hints())
