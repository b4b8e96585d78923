from __future__ import annotations

import pytest

from slimq.core.errors import AcceptGateError, ConfigError
from slimq.core.manifest import StepFidelity
from slimq.core.verification import find_problems
from slimq_compression.compress import compress, ensure_baseline
from slimq_compression.recipe import parse_recipe

FP32 = 'name = "fp32"\n[accept]\nagreement = 0.99\n'
INT8 = """
name = "int8"
[[graph]]
pass = "quantize_int8"
[accept]
episodes = 4
margin = 0.2
max_bytes = {limit}
"""


def recipes(limit: int = 100_000):
    return [
        parse_recipe(FP32, "fp32.toml"),
        parse_recipe(INT8.format(limit=limit), "int8.toml"),
    ]


def test_accepted_variants_are_published_and_verify(cartpole_repository) -> None:
    outcomes = compress(cartpole_repository, "cartpole", recipes())
    assert [outcome.status for outcome in outcomes] == ["published", "published"]
    assert cartpole_repository.variants("cartpole") == ["fp32", "int8"]
    assert find_problems(cartpole_repository, "cartpole") == []
    manifest, model = cartpole_repository.read_model("cartpole", "int8")
    assert manifest == outcomes[1].manifest
    exported, quantized = manifest.recipe.steps
    assert exported.fidelity == StepFidelity(agreement=1.0, regret=0.0)
    assert quantized.fidelity is not None
    assert exported.bytes < quantized.bytes == len(model)  # of a small one the graph weighs more
    assert len(model) == manifest.model.bytes


def test_a_variant_made_before_is_left_alone_unless_forced(cartpole_repository) -> None:
    compress(cartpole_repository, "cartpole", recipes())
    stamp = cartpole_repository.stamp("cartpole", "int8")
    again = compress(cartpole_repository, "cartpole", recipes())
    assert [outcome.status for outcome in again] == ["unchanged", "unchanged"]
    assert cartpole_repository.stamp("cartpole", "int8") == stamp
    forced = compress(cartpole_repository, "cartpole", recipes(), force=True)
    assert [outcome.status for outcome in forced] == ["published", "published"]
    assert forced[1].manifest.model == again[1].manifest.model


PACKED = """
name = "packed"
[store]
compression = "zstd"
[[graph]]
pass = "store_weights"
[accept]
episodes = 4
margin = 0.2
max_bytes = {limit}
"""


def test_a_compressed_variant_is_judged_by_its_bytes_on_disk_and_published_as_them(
    cartpole_repository,
) -> None:
    fp32 = parse_recipe(FP32, "fp32.toml")
    made = compress(
        cartpole_repository, "cartpole", [fp32, parse_recipe(PACKED.format(limit=1_700), "p")]
    )[1]
    entry = made.manifest.model
    assert made.verdict.criteria[0].value == entry.bytes < 1_700 < entry.uncompressed_bytes
    manifest, model = cartpole_repository.read_model("cartpole", "packed")
    assert (manifest, len(model)) == (made.manifest, entry.uncompressed_bytes)
    assert find_problems(cartpole_repository, "cartpole") == []
    tighter = parse_recipe(PACKED.format(limit=entry.bytes - 1), "p")
    (refused,) = compress(cartpole_repository, "cartpole", [tighter])
    with pytest.raises(AcceptGateError, match=rf"max_bytes is {entry.bytes}, at most"):
        refused.require_accepted()


def test_a_compressed_baseline_is_what_others_are_compared_with(cartpole_repository) -> None:
    packed = parse_recipe(FP32 + '[store]\ncompression = "zstd"\n', "fp32.toml")
    outcomes = compress(cartpole_repository, "cartpole", [packed, recipes()[1]])
    assert [outcome.status for outcome in outcomes] == ["published", "published"]
    assert len(outcomes[1].verdict.reference_returns) == 4


UNFIT = """
name = "unfit"
[[graph]]
pass = "quantize_activations"
[accept]
agreement = 0.0
"""


def test_a_variant_that_cannot_be_made_leaves_the_others_to_go_on(cartpole_repository) -> None:
    fp32, int8 = recipes()
    told = []
    outcomes = compress(
        cartpole_repository,
        "cartpole",
        [fp32, parse_recipe(UNFIT, "unfit.toml"), int8],
        on_outcome=told.append,
    )
    assert told == outcomes
    assert [outcome.status for outcome in outcomes] == ["published", "failed", "published"]
    with pytest.raises(ConfigError, match=r"unfit\.toml.*calibration"):
        outcomes[1].require_accepted()


def test_without_a_baseline_nothing_goes_on(cartpole_repository) -> None:
    told = []
    with pytest.raises(ConfigError, match="fp32"):
        compress(
            cartpole_repository,
            "cartpole",
            [parse_recipe(UNFIT.replace("unfit", "fp32"), "fp32.toml"), recipes()[1]],
            on_outcome=told.append,
        )
    assert [outcome.status for outcome in told] == ["failed"]


def test_the_baseline_is_made_first_where_others_are_compared_with_it(cartpole_repository) -> None:
    told = []
    fp32, int8 = recipes()
    outcomes = compress(cartpole_repository, "cartpole", [int8, fp32], on_outcome=told.append)
    assert told == outcomes
    assert [(o.variant, o.status) for o in outcomes] == [
        ("fp32", "published"),
        ("int8", "published"),
    ]
    assert outcomes[0].verdict.criteria[0].limit == 0.99  # by the recipe that was given
    (again,) = compress(cartpole_repository, "cartpole", [int8])
    assert again.status == "unchanged"


def test_what_is_not_compared_with_the_baseline_does_without(cartpole_repository) -> None:
    alone = INT8.replace("margin = 0.2", "agreement = 0.0").format(limit=100_000)
    (outcome,) = compress(cartpole_repository, "cartpole", [parse_recipe(alone, "int8.toml")])
    assert outcome.status == "published"
    assert cartpole_repository.variants("cartpole") == ["int8"]


def test_a_dry_run_of_one_variant_publishes_no_baseline_either(cartpole_repository) -> None:
    share = recipes('"1/1"')[1]
    outcomes = compress(cartpole_repository, "cartpole", [share], dry_run=True)
    assert [(o.variant, o.status) for o in outcomes] == [("fp32", "staged"), ("int8", "refused")]
    size = outcomes[0].manifest.model.bytes
    assert outcomes[1].verdict.criteria[0].basis == f"1/1 of the {size} bytes of fp32"
    assert cartpole_repository.variants("cartpole") == []


def test_a_refused_baseline_ends_the_queue_that_needs_it(cartpole_repository, tmp_path) -> None:
    (tmp_path / "fp32.toml").write_text(FP32 + "max_bytes = 10\n", encoding="utf-8")
    int8, told = recipes()[1], []
    with pytest.raises(AcceptGateError, match="variant 'fp32' is not accepted"):
        compress(
            cartpole_repository, "cartpole", [int8, int8], on_outcome=told.append, folder=tmp_path
        )
    assert [(o.variant, o.status) for o in told] == [("fp32", "refused")]


def test_a_file_of_the_baselines_name_must_make_the_baseline(cartpole_repository, tmp_path) -> None:
    (tmp_path / "fp32.toml").write_text(FP32.replace("fp32", "full"), encoding="utf-8")
    message = r"fp32\.toml: name: expected 'fp32', the variant to compare with, received 'full'$"
    with pytest.raises(ConfigError, match=message):
        compress(cartpole_repository, "cartpole", [recipes()[1]], folder=tmp_path)


def test_the_baseline_is_ensured_once_and_remade_if_it_is_damaged(cartpole_repository) -> None:
    made = ensure_baseline(cartpole_repository, "cartpole")
    assert (made.variant, made.status) == ("fp32", "published")
    assert ensure_baseline(cartpole_repository, "cartpole") is None
    folder = cartpole_repository.root / "cartpole" / "variants" / "fp32"
    (folder / made.manifest.model.path).write_bytes(b"tampered")
    again = ensure_baseline(cartpole_repository, "cartpole")
    assert again.manifest.model == made.manifest.model
    assert find_problems(cartpole_repository, "cartpole") == []


def test_a_broken_model_is_made_again(cartpole_repository) -> None:
    made = compress(cartpole_repository, "cartpole", recipes())[1].manifest
    path = cartpole_repository.root / "cartpole" / "variants" / "int8" / made.model.path
    path.write_bytes(b"tampered")
    again = compress(cartpole_repository, "cartpole", recipes())
    assert [outcome.status for outcome in again] == ["unchanged", "published"]
    assert find_problems(cartpole_repository, "cartpole") == []


def test_a_dry_run_judges_everything_and_publishes_nothing(cartpole_repository) -> None:
    outcomes = compress(cartpole_repository, "cartpole", recipes(), dry_run=True)
    assert [outcome.status for outcome in outcomes] == ["staged", "staged"]
    assert all(outcome.verdict is not None for outcome in outcomes)
    assert cartpole_repository.variants("cartpole") == []


def test_a_refused_variant_leaves_the_old_one_and_the_others_to_go_on(cartpole_repository) -> None:
    compress(cartpole_repository, "cartpole", recipes())
    old = cartpole_repository.variant("cartpole", "int8")
    packed = parse_recipe(PACKED.format(limit=1_700), "p")
    queue = [*recipes(limit=10), packed]
    outcomes = compress(cartpole_repository, "cartpole", queue, force=True)
    assert [outcome.status for outcome in outcomes] == ["published", "refused", "published"]
    outcomes[0].require_accepted()
    with pytest.raises(AcceptGateError, match="max_bytes"):
        outcomes[1].require_accepted()
    outcomes[2].require_accepted()
    assert cartpole_repository.variants("cartpole") == ["fp32", "int8", "packed"]
    assert cartpole_repository.variant("cartpole", "int8") == old
