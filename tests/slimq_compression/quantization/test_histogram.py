from __future__ import annotations

import numpy as np
import pytest

from slimq_compression.quantization.histogram import BINS, Histogram


def heavy_tailed(count: int = 50_000, seed: int = 0) -> np.ndarray:
    """Mostly near 0, a few very large: as activations in a game where little happens."""
    return np.random.default_rng(seed).standard_t(2, count).astype(np.float32)


def fill(*batches: np.ndarray) -> Histogram:
    seen = Histogram()
    for batch in batches:
        seen.add(batch)
    return seen


def test_widening_loses_no_value_and_leaves_each_in_its_bin() -> None:
    values = heavy_tailed()
    seen = fill(values[:10] / 1000, *np.array_split(values, 7))
    assert seen.counts.sum() == len(values) + 10
    whole = np.concatenate([values, values[:10] / 1000])
    edges = np.arange(BINS + 1) * seen.width
    wanted, _ = np.histogram(np.abs(whole.astype(np.float64)), edges)
    assert np.abs(seen.counts - wanted).sum() <= 2  # float rounding at an edge
    assert np.abs(values).max() <= edges[-1] < 4 * np.abs(values).max()


def test_the_order_of_batches_hardly_matters() -> None:
    batches = np.array_split(heavy_tailed(), 10)
    forward, backward = fill(*batches), fill(*batches[::-1])
    for share in (0.5, 0.99, 0.9999):
        assert forward.quantile(share) == pytest.approx(
            backward.quantile(share), abs=2 * max(forward.width, backward.width)
        )


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_quantile_is_that_of_all_magnitudes_to_a_bin(share: float) -> None:
    values = heavy_tailed()
    seen = fill(*np.array_split(values, 5))
    assert seen.quantile(share) == pytest.approx(
        float(np.quantile(np.abs(values), share)), abs=seen.width
    )


def test_all_values_lie_within_the_whole_quantile() -> None:
    values = heavy_tailed()
    assert fill(values).quantile(1.0) >= np.abs(values).max() * (1 - 1e-9)


def test_zeros_alone_have_no_width_and_still_count() -> None:
    seen = fill(np.zeros(10, np.float32))
    assert seen.width == 0.0
    assert (seen.quantile(0.99), seen.least_divergence()) == (0.0, 0.0)
    seen.add(np.ones(1, np.float32))
    assert seen.counts.sum() == 11


def test_the_divergence_of_a_heavy_tail_is_least_far_inside_it() -> None:
    values = heavy_tailed()
    threshold = fill(values).least_divergence()
    assert np.quantile(np.abs(values), 0.9) < threshold < 0.5 * np.abs(values).max()


def test_the_divergence_of_even_values_is_least_without_clipping() -> None:
    values = np.linspace(-1.0, 1.0, 100_000).astype(np.float32)
    assert fill(values).least_divergence() == pytest.approx(1.0, rel=1e-3)


def test_few_distinct_bins_are_not_clipped() -> None:
    """As many bins as levels lose nothing."""
    seen = fill(np.array([1e-3, 1.0], np.float32))
    seen.counts[:] = 0
    seen.counts[:100] = 1
    assert seen.least_divergence() == pytest.approx(100 * seen.width)


def divergence_as_published(counts: np.ndarray, cut: int, levels: int) -> float:
    """Migacz's pseudocode (slide 37), bin by bin."""
    reference = counts[:cut].astype(float)
    candidate = np.zeros(cut)
    groups = [int(np.floor(j * levels / cut)) for j in range(cut)]
    for group in set(groups):
        bins = [j for j in range(cut) if groups[j] == group and counts[j] > 0]
        for j in bins:
            candidate[j] = sum(counts[k] for k in bins) / len(bins)
    reference[-1] += counts[cut:].sum()
    p, q = reference / reference.sum(), candidate / candidate.sum()
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0:
            total += a * np.log(a / b) if b > 0 else np.inf
    return total


def test_the_threshold_is_that_of_the_published_pseudocode() -> None:
    seen = fill(np.abs(heavy_tailed(4_000)))
    used = int(np.flatnonzero(seen.counts)[-1]) + 1
    # Fewer bins, for a reference that is a plain loop.
    seen.counts = np.concatenate(
        [seen.counts[:used][:300], [seen.counts[300:].sum()], np.zeros(BINS - 301, np.int64)]
    ).astype(np.int64)
    counts = seen.counts[:301].copy()
    counts[0] = counts[1]
    published = [divergence_as_published(counts, cut, 255) for cut in range(255, 302)]
    assert np.isfinite(published).sum() > 1
    assert seen.least_divergence() == pytest.approx((255 + np.argmin(published)) * seen.width)
