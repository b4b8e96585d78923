"""The protocol's state of a version: whether its variant can serve requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from slimq_service.variants.catalogue import Catalogue

State = Literal["READY", "LOADING", "UNAVAILABLE"]


@dataclass(frozen=True)
class VersionState:
    """The state of a variant; `reason` says why it is not ready."""

    policy: str
    variant: str
    state: State
    reason: str


def version_state(catalogue: Catalogue, policy: str, variant: str) -> VersionState:
    """The state of a variant; READY includes those that the first request will load.

    Raises:
        NotFoundError: unknown policy or variant.
    """
    catalogue.check_known(policy, variant)
    of_policy = catalogue.scan.policies[policy]
    scanned, state = of_policy.variants[variant], catalogue.residents.state(policy, variant)
    found: tuple[State, str]
    if state.loaded is not None:
        found = "READY", ""
    elif (error := state.error or scanned.error) is not None:
        found = "UNAVAILABLE", str(error)
    elif of_policy.manifest is None:
        found = "UNAVAILABLE", str(of_policy.error)
    elif catalogue.scan_error is not None:
        found = "UNAVAILABLE", catalogue.scan_error
    elif state.task is not None:
        found = "LOADING", "loading"
    elif state.unloaded:
        found = "UNAVAILABLE", "unloaded; the next load or request reloads it"
    else:
        found = "READY", ""
    return VersionState(policy, variant, *found)


def version_states(catalogue: Catalogue) -> Iterator[VersionState]:
    """The states of all variants of all policies."""
    for policy in catalogue.policies():
        for variant in catalogue.variants(policy):
            yield version_state(catalogue, policy, variant)
