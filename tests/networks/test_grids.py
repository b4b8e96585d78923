from __future__ import annotations

import pytest
import torch

from slimq.networks.grids import (
    Codebook,
    Grid,
    LinearLevels,
    Mask,
    PowerOfTwoLevels,
    cubic_sparsity,
    project,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


GRIDS = {
    "mask": lambda: Mask(0.7),
    "sensitive mask": lambda: Mask(0.7, sensitivity=draw(8, 40, seed=9).abs()),
    "linear": lambda: LinearLevels(7),
    "linear tensor": lambda: LinearLevels(7, per_channel=False),
    "linear blocks": lambda: LinearLevels(7, block=16),
    "linear, largest": lambda: LinearLevels(127, fit=False),
    "power of two": lambda: PowerOfTwoLevels(4),
    "codebook": lambda: Codebook(4),
}


@pytest.mark.parametrize("name", list(GRIDS))
def test_projecting_twice_changes_nothing(name: str) -> None:
    grid, weight = GRIDS[name](), draw(8, 40)
    grid.advance(weight, 0.0)
    once = grid.project(weight)
    assert once.shape == weight.shape
    assert torch.equal(grid.project(once), once)
    assert not torch.equal(once, weight)


@pytest.mark.parametrize("name", list(GRIDS))
def test_a_grid_on_another_device_projects_alike(name: str) -> None:
    grid, weight = GRIDS[name](), draw(8, 40)
    grid.advance(weight, 0.0)
    assert torch.equal(grid.to(torch.device("cpu")).project(weight), grid.project(weight))


@pytest.mark.parametrize("name", list(GRIDS))
def test_a_grid_that_was_never_fitted_changes_nothing(name: str) -> None:
    weight = draw(8, 40)
    assert torch.equal(GRIDS[name]().project(weight), weight)


def test_a_mask_keeps_the_largest_weights() -> None:
    mask, weight = Mask(0.75), torch.tensor([[1.0, -4.0, 2.0, 3.0]])
    mask.advance(weight, 0.0)
    assert mask.project(weight).tolist() == [[0.0, -4.0, 0.0, 0.0]]


def test_sensitivity_weighs_the_magnitude() -> None:
    weight = torch.tensor([[1.0, -4.0, 2.0, 3.0]])
    mask = Mask(0.75, sensitivity=torch.tensor([[9.0, 1.0, 1.0, 1.0]]))
    mask.advance(weight, 0.0)
    assert mask.project(weight).tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_gradual_pruning_follows_the_cubic_schedule_of_zhu_and_gupta() -> None:
    assert cubic_sparsity(0.8, 0.0) == 0.0
    assert cubic_sparsity(0.8, 0.5) == pytest.approx(0.8 * (1 - 0.125))
    assert cubic_sparsity(0.8, 2.0) == pytest.approx(0.8)


def test_a_gradual_mask_ends_at_its_sparsity_and_then_stays() -> None:
    mask, weight = Mask(0.9, gradual=True), draw(10, 100)
    shares = []
    for step in range(101):
        mask.advance(weight, step / 100)
        shares.append(float((mask.project(weight) == 0).float().mean()))
    assert shares[0] == 0.0
    assert shares == sorted(shares)
    assert shares[60] == pytest.approx(0.9)
    before = mask.project(weight)
    mask.advance(draw(10, 100, seed=1), 1.0)
    assert torch.equal(mask.project(weight), before)


def test_a_weight_that_a_gradual_mask_pruned_too_early_comes_back() -> None:
    mask = Mask(0.5, gradual=True)
    mask.advance(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 0.4)
    late = torch.tensor([[9.0, 2.0, 3.0, 8.0]])
    mask.advance(late, 0.6)
    assert mask.project(late).tolist() == [[9.0, 0.0, 0.0, 8.0]]


def test_linear_levels_are_multiples_of_a_scale_recovered_by_division() -> None:
    levels, weight = LinearLevels(7), draw(8, 40)
    levels.advance(weight, 0.0)
    rounded = levels.project(weight)
    for row in rounded:
        largest = row.abs().max()
        codes = [row / (largest / k) for k in range(1, 8)]
        exact = [bool(torch.equal(c.round() * (largest / k), row)) for k, c in enumerate(codes, 1)]
        assert any(exact)
    assert len(rounded[0].unique()) <= 15


def test_fitted_scales_have_a_smaller_error_than_those_of_the_largest_weight() -> None:
    weight = draw(4, 500)
    errors = []
    for fit in (True, False):
        levels = LinearLevels(3, fit=fit)
        levels.advance(weight, 0.0)
        errors.append(float((levels.project(weight) - weight).square().mean()))
    assert errors[0] < 0.8 * errors[1]


def test_blocks_have_scales_of_their_own_and_a_last_block_may_be_short() -> None:
    weight = torch.cat([draw(2, 16) * 100, draw(2, 5)], dim=1)
    levels = LinearLevels(7, block=16)
    levels.advance(weight, 0.0)
    assert levels.scale is not None
    assert levels.scale.shape == (4, 1)
    assert (levels.project(weight)[:, 16:] != 0).any()


def test_powers_of_two_are_zero_and_seven_magnitudes_on_either_side() -> None:
    levels, weight = PowerOfTwoLevels(4), draw(1, 5000)
    levels.advance(weight, 0.0)
    found = levels.project(weight).unique()
    magnitudes = found[found > 0]
    assert len(found) == 15
    assert torch.equal(torch.log2(magnitudes), torch.log2(magnitudes).round())


@pytest.mark.parametrize(("value", "level"), [(1.0, 1.0), (1.4, 1.0), (1.6, 2.0), (-0.7, -0.5)])
def test_a_weight_goes_to_the_nearer_power(value: float, level: float) -> None:
    levels = PowerOfTwoLevels(4)
    levels.advance(torch.tensor([[4.0]]), 0.0)
    assert levels.project(torch.tensor([[value]])).item() == level


def test_a_codebook_finds_clusters() -> None:
    weight = torch.tensor([[-1.0, -1.1, 0.5, 0.6, 0.0, 0.01, 2.0, 2.0]])
    book = Codebook(2)
    book.advance(weight, 0.0)
    assert book.project(weight)[0].tolist() == pytest.approx(
        [-1.05, -1.05, 0.55, 0.55, 0.005, 0.005, 2.0, 2.0]
    )


def test_a_sparse_codebook_leaves_zeros_alone_and_gives_them_one_code() -> None:
    mask, book = Mask(0.5), Codebook(2, sparse=True)
    weight = draw(1, 64)
    mask.advance(weight, 0.0)
    book.advance(mask.project(weight), 0.0)
    held = project(weight, (mask, book))
    assert int((held == 0).sum()) == 32
    assert len(held[held != 0].unique()) == 3


def test_a_codebook_of_weights_with_long_tails_leaves_no_centre_empty() -> None:
    weight = draw(40, 500) ** 3
    book = Codebook(4)
    book.advance(weight, 0.0)
    even = torch.linspace(float(weight.min()), float(weight.max()), 16)
    near = even[torch.bucketize(weight, (even[1:] + even[:-1]) / 2)]
    errors = [float((w - weight).square().mean()) for w in (book.project(weight), near)]
    assert len(book.project(weight).unique()) == 16
    assert errors[0] < 0.2 * errors[1]


@pytest.mark.parametrize("make", [LinearLevels, lambda n: Codebook(4)])
def test_levels_follow_the_weights_and_stop_before_the_end(make) -> None:
    grid: Grid = make(7)
    weight = draw(4, 50)
    grid.advance(weight, 0.0)
    first = grid.project(weight)
    grid.advance(weight * 2, 0.5)
    second = grid.project(weight)
    grid.advance(weight * 8, 0.9)
    assert not torch.equal(first, second)
    assert torch.equal(grid.project(weight), second)
