"""Rungs as trials, as recipes and as variants, for networks of several kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from network_kinds import KINDS, draw_observations, layout_of, make_kind
from slimq.core.calibration import CalibrationSet
from slimq.core.manifest import PolicyManifest, SearchRecord
from slimq.core.observation import ObservationSpec
from slimq.networks.qnetwork import QNetwork, count_parameters, named_layers
from slimq.networks.torch_policy import TorchPolicy
from slimq_compression.network.shapes import Shape
from slimq_compression.pipeline import run_recipe
from slimq_compression.search.ladder import FIRST_SHARE, PROBE_EFFORT, Rung, Terms
from slimq_compression.search.rungs import (
    DISTRIBUTIONS,
    LadderSpace,
    RungProposal,
    inner_layers,
    kind_of,
    name_of,
    rung_of,
    techniques_for,
    tried,
)
from slimq_compression.source import Source

ACCEPT = {"agreement": 0.0}


def source_of(kind: str, make_policy: Callable[..., PolicyManifest]) -> Source:
    """A policy without an environment, of any kind of network."""
    network, states = make_kind(kind), draw_observations(kind, 64)
    indices = np.arange(64, dtype=np.int32)[:, None]
    calibration = CalibrationSet(states, indices, TorchPolicy(network)(states))
    actions = [str(index) for index in range(network.spec.actions)]
    manifest = make_policy("one", None, layout_of(kind), actions)
    return Source(manifest, "0" * 64, network, calibration, calibration)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_has_students_that_are_as_small_as_asked(
    kind: str, make_policy: Callable[..., PolicyManifest]
) -> None:
    source = source_of(kind, make_policy)
    techniques = techniques_for(source)
    for technique in techniques or ("fitted",):
        share = 1.0 if not techniques else 0.5
        proposal = RungProposal(Rung(technique, share), kind_of(source), inner_layers(source))
        recipe, _ = proposal.recipe(name="one", accept=ACCEPT, trained=False)
        staged = run_recipe(recipe, source)
        assert staged.manifest.parameters <= share * count_parameters(source.full)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["int8", "codes"])
def test_own_layers_take_a_form_and_the_head_keeps_its_floats(
    kind: str, form: str, make_policy: Callable[..., PolicyManifest]
) -> None:
    source = source_of(kind, make_policy)
    inner = inner_layers(source)
    assert isinstance(source.full, QNetwork)
    names = list(named_layers(source.full))
    assert set(inner) <= set(names)
    for technique in ("whole", "inner") if inner else ("whole",):
        rung = Rung(technique, form=form, bits=8 if form == "codes" else 0)  # type: ignore[arg-type]
        proposal = RungProposal(rung, kind_of(source), inner)
        recipe, _ = proposal.recipe(name="one", accept=ACCEPT, trained=True)
        staged = run_recipe(recipe, source)
        fidelity = staged.manifest.recipe.steps[-1].fidelity
        assert fidelity is not None
        assert fidelity.agreement > 0.7


def test_a_rung_is_a_trial_and_a_trial_its_rung(
    tmp_path: Path, make_policy: Callable[..., PolicyManifest]
) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    source = source_of("normalized", make_policy)
    terms = Terms(("fitted",), ("whole",), own_codes=False, seconds=600.0)
    space, study = LadderSpace(source, tmp_path, terms), optuna.create_study()
    first = space.next_trial(study, -1.0)
    assert first is not None, "one rung is tried even if starting the worker took all of the time"
    assert rung_of(first.params) == Rung("whole", form="int8")
    assert space.next_trial(study, -1.0) is None
    second = space.next_trial(study, 60.0)
    assert second is not None
    assert rung_of(second.params) == Rung("fitted", FIRST_SHARE, effort=PROBE_EFFORT)
    assert [one.passed for one in tried(study)] == [None, None]
    assert space.next_trial(study, 0.3) is None, "only the others can tell what is next"
    first.set_user_attr("passed", True)
    first.set_user_attr("seconds", 2.0)
    study.tell(first, 1.0)
    second.set_user_attr("seconds", 1_000.0)
    study.tell(second, state=TrialState.PRUNED)
    assert [(one.passed, one.seconds) for one in tried(study)] == [(True, 2.0), (False, 1_000.0)]
    assert space.next_trial(study, 60.0) is None, "no training fits a minute"


@pytest.mark.parametrize(
    ("rung", "name"),
    [
        (Rung("whole", form="int8"), "whole-int8"),
        (Rung("inner", form="codes", bits=8), "inner-8bit"),
        (Rung("fitted", 1 / 64, effort=1.0), "fitted-64-fp32"),
        (Rung("narrowed", 1 / 90.5, "codes", 5, 1, 0.5), "narrowed-90-5bit"),
    ],
)
def test_a_variant_is_named_by_what_it_is(rung: Rung, name: str) -> None:
    assert name_of(rung) == name
    assert set(asdict(rung)) == set(DISTRIBUTIONS)


def test_a_recipe_says_which_search_found_it() -> None:
    search = SearchRecord(command="shrink", minutes=4.5, trials=30, workers=2)
    proposal = RungProposal(Rung("fitted", 1 / 64, effort=0.5), "mlp", ())
    recipe, text = proposal.recipe(name="one", accept=ACCEPT, search=search)
    assert recipe.search == search
    assert 'command = "shrink"' in text


def test_both_shapes_are_offered_where_they_differ(
    make_network: Callable[[str], QNetwork],
    make_policy: Callable[..., PolicyManifest],
) -> None:
    assert {shape.value for shape in Shape} == {"fitted", "narrowed"}
    observation = ObservationSpec(dtype="float32", shape=(4,))
    manifest = make_policy("one", None, observation, ["left", "right"])
    network = make_network("wide")
    states = np.zeros((8, 4), np.float32)
    indices = np.arange(8, dtype=np.int32)[:, None]
    calibration = CalibrationSet(states, indices, TorchPolicy(network)(states))
    source = Source(manifest, "0" * 64, network, calibration, calibration)
    assert techniques_for(source) == ("fitted", "narrowed")
