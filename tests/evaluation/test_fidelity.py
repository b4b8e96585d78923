from __future__ import annotations

import numpy as np
import pytest

from slimq.core.errors import InvalidInputError
from slimq.environments.rollout import StepTrace
from slimq.evaluation.fidelity import StateSample, measure_fidelity, q_values_of

BASELINE = np.array([[1.0, 2.0, 0.0], [3.0, 1.0, 0.0], [1.0, 1.00001, 0.0], [0.0, 0.0, 5.0]])


def trace(pairs):
    seeds, steps = np.array(pairs).T
    states = (seeds * 1000 + steps).astype(np.float32)[:, None]
    return StepTrace(states, np.zeros((len(pairs), 2), np.float32), steps, seeds, steps)


def test_the_baseline_agrees_with_itself_in_everything():
    fidelity = measure_fidelity(BASELINE, BASELINE)
    assert fidelity.agreement == fidelity.agreement_without_ties == 1.0
    assert fidelity.regret == fidelity.q_error_mean == fidelity.q_error_max == 0.0
    assert fidelity.states == 4


def test_near_ties_are_counted_and_excluded():
    variant = BASELINE.copy()
    variant[2, 0] += 0.1
    fidelity = measure_fidelity(variant, BASELINE)
    assert fidelity.near_ties == 1
    assert fidelity.agreement == 0.75
    assert fidelity.agreement_without_ties == 1.0
    assert fidelity.regret == pytest.approx(0.00001 / 4)


def test_errors_and_regret_are_in_units_of_the_baselines_q_values():
    variant = BASELINE.copy()
    variant[1, 1] = 4.0
    fidelity = measure_fidelity(variant, BASELINE)
    assert fidelity.q_error_max == 3.0
    assert fidelity.q_error_mean == pytest.approx(3.0 / 12)
    assert fidelity.regret == pytest.approx(2.0 / 4)


def test_with_only_near_ties_agreement_is_1():
    full = np.zeros((3, 2))
    assert measure_fidelity(full + np.array([0.0, 1.0]), full).agreement_without_ties == 1.0


def test_other_shapes_are_refused():
    with pytest.raises(InvalidInputError, match=r"q_values: expected shape \(4, 3\)"):
        measure_fidelity(BASELINE[:, :2], BASELINE)


def test_the_sample_does_not_depend_on_the_order_of_states():
    pairs = [(seed, step) for seed in range(4) for step in range(50)]
    together, shuffled = StateSample(30), StateSample(30)
    together.add(trace(pairs))
    order = np.random.default_rng(0).permutation(len(pairs))
    for index in order:
        shuffled.add(trace([pairs[index]]))
    np.testing.assert_array_equal(together.observations(), shuffled.observations())
    kept = together.observations()[:, 0]
    assert len(np.unique(kept)) == 30
    assert list(kept) == sorted(kept)
    assert len({int(state) // 1000 for state in kept}) == 4


def test_a_sample_of_few_states_keeps_all():
    sample = StateSample(30)
    sample.add(trace([(1, 0), (1, 1)]))
    np.testing.assert_array_equal(sample.observations(), [[1000.0], [1001.0]])


def test_q_values_are_computed_in_batches_and_concatenated_in_order():
    sizes = []

    def doubled(observations, /):
        sizes.append(len(observations))
        return observations * 2

    states = np.arange(150, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(q_values_of(doubled, states), states * 2)
    assert sizes == [64, 64, 22]
