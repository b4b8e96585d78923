from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import make_frames_model
from parts import SPECS, build_parts_repository
from places import POLICIES
from slimq.core.errors import RepositoryError
from slimq.core.observation import ObservationPart, ObservationSpec
from slimq.core.repository import Repository
from slimq_service.variants.loading import is_batch_invariant, load, trim_memory, unlike_rows


def test_a_variant_is_loaded_with_its_policy(repositories: Any) -> None:
    repository = Repository(repositories.root)
    loaded = load(repository, repository.policy("tiny"), "other")
    assert loaded.sha256 == repository.variant("tiny", "other").model.sha256
    assert loaded.q_function(np.zeros((5, 4), np.float32)).shape == (5, 2)


def test_a_model_of_another_policy_is_refused_by_name(repositories: Any) -> None:
    repositories.publish("tiny", "other", make_frames_model())
    repository = Repository(repositories.root)
    with pytest.raises(RepositoryError, match="other"):
        load(repository, repository.policy("tiny"), "other")


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_memory_is_trimmed_where_that_can_be_done(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr("slimq_service.variants.loading.sys.platform", platform)
    trim_memory()


@pytest.mark.parametrize(
    ("policy", "variant", "batch_invariant"),
    [
        ("cartpole", "fp32", True),
        ("cartpole", "int8", True),
        ("cartpole", "int8-dynamic", False),
        ("pong", "int8", True),
        ("pong", "int8-dynamic", False),
    ],
)
def test_models_with_one_scale_per_batch_are_not_batch_invariant(
    policy: str, variant: str, batch_invariant: bool
) -> None:
    repository = Repository(POLICIES)
    loaded = load(repository, repository.policy(policy), variant)
    assert loaded.batch_invariant is batch_invariant


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_model_that_scales_by_its_batch_is_seen(dtype: Any) -> None:
    def apart(observations: Any, /) -> Any:
        return observations.reshape(len(observations), -1).astype(np.float32)

    def together(observations: Any, /) -> Any:
        return apart(observations) / (1 + apart(observations).max())

    spec = ObservationSpec(dtype=dtype, shape=(2, 2), low=0, high=255)
    assert is_batch_invariant(apart, spec)
    assert not is_batch_invariant(together, spec)


def test_a_model_that_an_extreme_observation_is_too_much_for_is_tried_with_the_others() -> None:
    def overflow(observations: Any, /) -> Any:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.exp(observations[:, :2]) - np.exp(observations[:, 2:])

    spec = ObservationSpec(dtype="float32", shape=(4,))
    assert not np.isfinite(overflow(np.full((1, 4), 1e3, np.float32))).any()
    assert is_batch_invariant(overflow, spec)


@pytest.mark.parametrize(
    "spec",
    [
        *SPECS.values(),
        ObservationSpec(dtype="int32", shape=(2, 2)),
        ObservationSpec(dtype="uint8", shape=(3,)),
        ObservationSpec(dtype="float32", shape=(3,)),
        ObservationSpec(
            dtype="float32",
            shape=(2,),
            parts=(
                ObservationPart(name="above", shape=(), integer=True, low=5_000),
                ObservationPart(name="below", shape=(), integer=True, high=-5_000),
            ),
        ),
    ],
)
def test_a_batch_is_tried_with_valid_observations_that_differ(spec: ObservationSpec) -> None:
    rows = np.stack(unlike_rows(spec))
    np.testing.assert_array_equal(spec.check(rows), rows)
    assert (rows.min(axis=0) < rows.max(axis=0)).all()


@pytest.mark.parametrize("policy", SPECS)
def test_models_that_fail_out_of_range_are_loaded_with_what_is_in_it(
    policy: str, tmp_path: Path
) -> None:
    repository = Repository(build_parts_repository(tmp_path / "policies"))
    loaded = load(repository, repository.policy(policy), "fp32")
    assert loaded.batch_invariant
    if policy == "taxi":
        with pytest.raises(Exception, match="out of data bounds"):
            loaded.q_function(np.zeros((1, 1), np.int32))
