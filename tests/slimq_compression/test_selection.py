from __future__ import annotations

import numpy as np
import pytest

from slimq.core.errors import CheckFailedError
from slimq.core.statistics import mean_interval
from slimq_compression.selection import Score, score_returns


def test_a_score_is_a_share_of_the_baseline_over_random_and_the_bound_of_its_loss() -> None:
    generator = np.random.default_rng(0)
    for episodes in (1, 2, 7, 100):
        reference = generator.normal(19.0, 2.0, episodes).tolist()
        returns = generator.normal(18.0, 3.0, episodes).tolist()
        random = float(generator.normal(-20.0))
        scale = float(np.mean(reference)) - random
        loss = (np.asarray(returns) - np.asarray(reference)) / scale
        score = score_returns(returns, tuple(reference), random, "accept")
        assert score.mean == (float(np.mean(returns)) - random) / scale
        assert score.low == mean_interval(loss).low


def test_the_baseline_scores_one_and_loses_nothing() -> None:
    score = score_returns([3.0, 5.0], [3.0, 5.0], 1.0, "search")
    assert score == Score(1.0, 0.0, 0.0)
    assert score.loss == 0.0
    assert Score(1.25, 0.1, 0.4).loss == 0.0
    assert Score(0.75, -0.5, 0.0).loss == 0.25


def test_whoever_asks_is_told_that_the_baseline_is_no_better_than_random() -> None:
    message = "search: the full policy returns 4, random play 4; returns cannot be scaled"
    with pytest.raises(CheckFailedError, match=message):
        score_returns([3.0, 5.0], [3.0, 5.0], 4.0, "search")
