from __future__ import annotations

from pathlib import Path

import pytest

from slimq.core.environment import EnvironmentSpec
from slimq.core.errors import ConfigError
from slimq_compression.recipe import (
    UNPROVEN_AGREEMENT,
    Accept,
    Recipe,
    applied,
    load_recipe,
    parse_recipe,
)
from small_networks import OBSERVATIONS

ROOT = Path(__file__).parents[2]

VALID = """
name = "small"
description = "A test."
seed = 7

[[network]]
pass = "prune_channels"
ratio = 0.5

[[network]]
pass = "finetune"
rounds = 2

[export]
opset = 19

[[graph]]
pass = "quantize_int8"

[accept]
episodes = 4
margin = 0.1
agreement = 0.5
max_bytes = 1000
"""


def test_a_recipe_is_read_with_all_its_steps() -> None:
    recipe = parse_recipe(VALID, "small.toml")
    assert (recipe.name, recipe.description, recipe.seed) == ("small", "A test.", 7)
    assert [step.place for step in recipe.network] == [
        "network[1].prune_channels",
        "network[2].finetune",
    ]
    assert [step.name for step in recipe.graph] == ["quantize_int8"]
    assert recipe.export.opset == 19
    assert (recipe.accept.episodes, recipe.accept.margin) == (4, 0.1)


def test_the_fingerprint_holds_every_parameter_even_those_left_out() -> None:
    fingerprint = parse_recipe(VALID, "small.toml").fingerprint
    assert [name for name, _ in fingerprint] == [
        "prune_channels",
        "finetune",
        "export",
        "quantize_int8",
    ]
    assert fingerprint[0][1]["importance"] == "l1"
    assert fingerprint[2][1] == {"opset": 19}


def test_how_the_file_is_stored_is_part_of_the_fingerprint_where_it_changes_the_file() -> None:
    plain = parse_recipe(VALID, "small.toml")
    same = parse_recipe(VALID + '[store]\ncompression = "none"\nlevel = 3', "small.toml")
    assert same.fingerprint == plain.fingerprint
    packed = parse_recipe(VALID + '[store]\ncompression = "zstd"\nlevel = 3', "small.toml")
    store = {"compression": "zstd", "level": 3, "compact": False}
    assert packed.fingerprint == [*plain.fingerprint, ("store", store)]
    compact = parse_recipe(VALID + "[store]\ncompact = true", "small.toml")
    assert compact.fingerprint[-1][1] == {"compression": "none", "level": 19, "compact": True}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('compresion = "zstd"', "store.compresion: unknown key 'compresion', did you mean 'comp"),
        ('compression = "gzip"', "store.compression: Input should be 'none' or 'zstd', received"),
        ("level = 0", "store.level: Input should be greater than or equal to 1, received 0"),
        ("level = 23", "store.level: Input should be less than or equal to 22, received 23"),
        ('compact = "much"', "store.compact: Input should be a valid boolean"),
    ],
)
def test_a_mistake_in_how_to_store_is_named(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_recipe(f"{VALID}[store]\n{line}", "small.toml")
    assert str(caught.value).startswith(f"small.toml: {message}")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.toml")), ids=str)
def test_every_shipped_recipe_is_valid_and_named_like_its_file(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.description


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 7", "sed = 7", "sed: unknown key 'sed', did you mean 'seed'?"),
        ('name = "small"', "", "name: is missing"),
        ('name = "small"', 'nmae = "small"', "nmae: unknown key 'nmae', did you mean 'name'?"),
        ('name = "small"', 'name = "Not a slug"', "name: String should match pattern"),
        (
            "ratio = 0.5",
            "ratoi = 0.5",
            "network[1].prune_channels.ratoi: unknown key 'ratoi', did "
            "you mean 'ratio'? (at line 8)",
        ),
        (
            "ratio = 0.5",
            "ratio = 1.5",
            "network[1].prune_channels.ratio: Input should be less than or equal to 1, "
            "received 1.5",
        ),
        ("ratio = 0.5", "", "network[1].prune_channels: give exactly one of keep and ratio"),
        (
            'pass = "finetune"',
            'pass = "fintune"',
            "network[2]: unknown pass 'fintune', did you mean 'finetune'?; available: ",
        ),
        ('pass = "finetune"', "", "network[2].pass: expected one of "),
        ('pass = "finetune"', "pass = 3", "network[2].pass: expected one of "),
        (
            'pass = "finetune"',
            'pas = "finetune"',
            "network[2].pas: unknown key 'pas', did you mean 'pass'?",
        ),
        (
            '[[graph]]\npass = "quantize_int8"',
            '[[network]]\npass = "quantize_int8"',
            "network[3].quantize_int8: is a graph pass: move it to [[graph]]",
        ),
        (
            'pass = "quantize_int8"',
            'pass = "finetune"',
            "graph[1].finetune: is a network pass: move it to [[network]]",
        ),
        ("opset = 19", "opsat = 19", "export.opsat: unknown key 'opsat', did you mean 'opset'?"),
        ("opset = 19", "opset = 3", "export.opset: Input should be greater than or equal to 17"),
        (
            "margin = 0.1",
            "margn = 0.1",
            "accept.margn: unknown key 'margn', did you mean 'margin'?",
        ),
        ("episodes = 4", "episodes = 0", "accept.episodes: Input should be greater than"),
        ("seed = 7", "seed = ", "syntax: Invalid value"),
    ],
)
def test_a_mistake_is_named_with_file_step_and_nearest_name(
    old: str, new: str, message: str
) -> None:
    assert old in VALID
    with pytest.raises(ConfigError) as caught:
        parse_recipe(VALID.replace(old, new, 1), "small.toml")
    assert str(caught.value).startswith(f"small.toml: {message}")


def test_a_teacher_needs_a_step_that_learns() -> None:
    taught = 'name = "taught"\nteacher = "sticky"\naccept = { agreement = 0.5 }\n[[network]]\n'
    for step in ('pass = "finetune"', 'pass = "finetune_td"\nteacher_weight = 0.1'):
        assert parse_recipe(taught + step, "taught.toml").teacher == "sticky"
    message = r"^taught\.toml: teacher: expected a step that learns: .* \(at line 2\)$"
    for step in ('pass = "finetune_td"', 'pass = "student"\nhidden = [8]'):
        with pytest.raises(ConfigError, match=message):
            parse_recipe(taught + step, "taught.toml")


def test_a_share_needs_a_teacher() -> None:
    text = 'name = "taught"\nteacher_share = 0.5\naccept = { agreement = 0.5 }\n'
    step = '[[network]]\npass = "finetune"\n'
    message = r"^taught\.toml: teacher_share: expected a teacher as well, .* \(at line 2\)$"
    with pytest.raises(ConfigError, match=message):
        parse_recipe(text + step, "taught.toml")
    taught = parse_recipe(f'teacher = "sticky"\n{text}{step}', "taught.toml")
    assert taught.taught_by == ("sticky", 0.5)


@pytest.mark.parametrize("gate", ["", "[accept]\nmax_bytes = 1000"])
def test_passes_without_a_gate_that_looks_at_what_the_variant_does_are_refused(gate: str) -> None:
    before, _, _ = VALID.partition("[accept]")
    with pytest.raises(
        ConfigError, match=r"^small\.toml: accept: a recipe with passes needs at least one"
    ):
        parse_recipe(before + gate, "small.toml")


def test_an_export_alone_needs_no_gate() -> None:
    assert not parse_recipe('name = "fp32"', "fp32.toml").accept.plays


def test_a_missing_file_and_one_that_is_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: file: No such file"):
        load_recipe(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.toml: syntax: "):
        load_recipe(tmp_path / "binary.toml")


def test_robust_needs_a_margin_and_its_episodes_need_robust() -> None:
    def parse(accept: str) -> Recipe:
        return parse_recipe(f'name = "fp32"\n[accept]\n{accept}\n', "fp32.toml")

    message = r"^fp32\.toml: accept: robust needs a margin, .* \(at line 2\)$"
    with pytest.raises(ConfigError, match=message):
        parse("robust = true\nagreement = 0.5")
    with pytest.raises(ConfigError, match=r"accept: .*condition_episodes needs robust = true"):
        parse("margin = 0.02\ncondition_episodes = 20")
    accept = parse("margin = 0.02\nrobust = true\ncondition_episodes = 20").accept
    assert (accept.robust, accept.condition_episodes) == (True, 20)


def test_a_policy_without_an_environment_is_not_asked_to_be_robust(make_policy) -> None:
    accept = Accept(margin=0.02, robust=True, condition_episodes=20)
    played = make_policy(
        "a", EnvironmentSpec(id="CartPole-v1"), OBSERVATIONS["mlp"], ["left", "right"]
    )
    assert applied(accept, played) == accept
    recorded = played.model_copy(update={"environment": None})
    assert applied(accept, recorded) == Accept(agreement=UNPROVEN_AGREEMENT)
