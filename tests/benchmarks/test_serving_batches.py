from __future__ import annotations

import pytest

from places import POLICIES
from serving_batches import best_batch_seconds
from serving_cases import MLP_JSON
from slimq.core.repository import Repository


def test_an_observation_costs_least_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving_batches.SECONDS", 0.02)
    best = best_batch_seconds(Repository(POLICIES), MLP_JSON, 2)
    monkeypatch.setattr("serving_batches.BATCHES", (1,))
    assert 0 < best < best_batch_seconds(Repository(POLICIES), MLP_JSON, 2)
