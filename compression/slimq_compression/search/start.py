"""Starting points of a search: the policy's published students.

Variants that have passed a gate are the best guesses, and the sampler explores around good trials;
the random trials that follow keep the search from staying there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import structlog
from optuna.trial import FixedTrial, TrialState, create_trial

from slimq.core.errors import SlimqError
from slimq.core.manifest import StepRecord
from slimq.core.repository import Repository
from slimq.networks.specification import QNetworkSpec
from slimq_compression.search.space import Offer, suggest

_log = structlog.get_logger(__name__)

PLAIN = {"kind": "conv", "activation": True, "batch_norm": False, "groups": 1, "padding": 0}
"""Properties common to all convolutions of the space."""


def enqueue_published(
    study: optuna.Study,
    repository: Repository,
    policy: str,
    network: QNetworkSpec,
    offer: Offer,
    background: int,
) -> list[str]:
    """Enqueues published students that are in the space as first trials; returns their names.

    Trials that the study already has are not enqueued, and unreadable variants are skipped.
    """
    names = []
    for name in repository.variants(policy):
        try:
            recipe = repository.variant(policy, name).recipe
        except SlimqError as error:
            _log.warning("skipping an unreadable variant", variant=name, error=str(error))
            continue
        chosen = None if recipe is None else _choices(recipe.steps, network)
        if chosen is not None and _is_offered(chosen, recipe.steps, network, offer, background):
            study.enqueue_trial(chosen, user_attrs={"start": name}, skip_if_exists=True)
            names.append(name)
    return names


def _choices(steps: Sequence[StepRecord], network: QNetworkSpec) -> dict[str, Any] | None:
    """The choices that make a recipe's student; None if it is not in the space."""
    if not steps or steps[0].name != "student":
        return None
    made = steps[0].parameters
    if made.get("architecture") is not None or made.get("width", 1.0) != 1.0:
        return None
    hidden = {f"hidden.{n}": width for n, width in enumerate(made.get("hidden") or (), start=1)}
    chosen = {"structure": "student", **_weights(steps), **hidden}
    if network.body.kind == "mlp":
        return {**chosen, "layers": len(hidden)}
    tables = made.get("convolutions") or ()
    plain = all(table.get(n, value) == value for table in tables for n, value in PLAIN.items())
    if not plain or len(hidden) != 1:
        return None
    return {**chosen, **_convolutions(tables), **_window(made.get("window") or {}, network)}


def _is_offered(
    chosen: Mapping[str, Any],
    steps: Sequence[StepRecord],
    network: QNetworkSpec,
    offer: Offer,
    background: int,
) -> bool:
    """Whether these choices are in the space and make the student of these steps."""
    trial = FixedTrial(dict(chosen))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values out of range are refused below
            candidate = suggest(trial, network, offer, background)
        create_trial(
            state=TrialState.WAITING, params=trial.params, distributions=trial.distributions
        )
    except ValueError:
        return False
    tables = steps[0].parameters.get("convolutions") or ()
    return [c["kernel"] for c in candidate.convolutions] == [t["kernel"] for t in tables]


def _weights(steps: Sequence[StepRecord]) -> dict[str, Any]:
    """The choice of weight format: levels if a step rounds all layers, else int8 or fp32."""
    for step in steps:
        if step.name == "quantize_weights" and step.parameters.get("layers") is None:
            form = step.parameters["form"]
            return {"weights": form, f"bits.{form}": step.parameters["bits"]}
    eight = any(step.name == "quantize_int8" for step in steps)
    return {"weights": "int8" if eight else "fp32"}


def _convolutions(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    chosen: dict[str, Any] = {"convolutions": len(tables)}
    for index, table in enumerate(tables, start=1):
        chosen |= {f"conv{index}.{name}": table[name] for name in ("channels", "stride")}
    if len(tables) > 1:
        chosen["conv2.kernel"] = tables[1]["kernel"]  # the others are determined by the sizes
    return chosen


def _window(spans: Mapping[str, Any], network: QNetworkSpec) -> dict[str, Any]:
    frames, rows, _ = network.seen_shape
    newest = spans.get("channels") or (0, frames)
    start, stop = spans.get("rows") or (0, rows)
    return {
        "window.frames": frames - newest[0],
        "window.top": start,
        "window.bottom": rows - stop,
    }
