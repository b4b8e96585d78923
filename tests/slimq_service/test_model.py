from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from slimq.core.errors import RepositoryError
from slimq.core.observation import ObservationSpec
from slimq.core.repository import Repository
from slimq_service.model import load, measure, trim_memory

STAMP = (None, None)


def test_cost_grows_with_the_batch_as_measured() -> None:
    def q_function(observations: Any, /) -> Any:
        time.sleep(0.002 + 0.001 * len(observations))
        return np.zeros((len(observations), 2), np.float32)

    cost = measure(q_function, ObservationSpec(dtype="float32", shape=(4,)))
    assert 0.0005 < cost.per_observation < 0.003
    assert cost.seconds(64) > 0.03


def test_a_variant_is_loaded_with_its_policy(repositories: Any) -> None:
    repository = Repository(repositories.root)
    loaded = load(repository, repository.policy("tiny"), "other", STAMP)
    assert loaded.sha256 == repository.variant("tiny", "other").model.sha256
    assert loaded.q_function(np.zeros((5, 4), np.float32)).shape == (5, 2)


def test_a_model_of_another_policy_is_refused_by_name(repositories: Any) -> None:
    repositories.publish("tiny", "other", repositories.shared.make_frames_model())
    repository = Repository(repositories.root)
    with pytest.raises(RepositoryError, match="other"):
        load(repository, repository.policy("tiny"), "other", STAMP)


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_memory_is_trimmed_where_that_can_be_done(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr("slimq_service.model.sys.platform", platform)
    trim_memory()
