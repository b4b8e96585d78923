"""The service that is tested: where it is, what it is asked, and which models it has loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slimq.core.client import SlimqClient
from slimq.core.errors import SlimqError
from slimq.core.observation import Observations, ObservationSpec
from slimq.loadtest.plan import Plan
from slimq.loadtest.processor_time import ProcessorMeter
from slimq.loadtest.requests import Address, Requests, make_bodies, make_head, same_host


@dataclass(frozen=True)
class Service:
    """What is tested.

    Attributes:
        address: where it is.
        requests: of each variant.
        meter: of its processor time.
    """

    address: Address
    requests: Mapping[str, Requests]
    meter: ProcessorMeter


def make_service(
    url: str,
    policy: str,
    plan: Plan,
    observations: Observations,
    spec: ObservationSpec,
    meter: ProcessorMeter,
    api_key: str | None,
) -> Service:
    """A service with the requests of a plan.

    Args:
        url: as `SlimqClient` has taken it.
        policy: its name.
        plan: whose variants are asked, in requests of its size.
        observations: what they are asked about.
        spec: of the policy.
        meter: of the service's processor time.
        api_key: of a service that asks for one.
    """
    address = Address.parse(url)
    bodies = make_bodies(observations, spec, plan.batch)
    requests = {
        subject.variant: Requests(
            make_head(address, policy, subject.variant, len(bodies[0]), api_key), bodies
        )
        for subject in plan.subjects
    }
    return Service(address, requests, meter)


def make_meter(
    url: str, metrics: str | None, api_key: str | None, timeout: float
) -> ProcessorMeter:
    """A meter that tells the service's key to nobody else.

    Args:
        url: of the service.
        metrics: of its metrics, where that is another than below the URL.
        api_key: of a service that asks for one.
        timeout: seconds that an answer may take.
    """
    at = metrics or f"{url}/metrics"
    return ProcessorMeter(at, api_key if same_host(url, at) else None, timeout)


def loaded_models(
    client: SlimqClient, policy: str, plan: Plan, observations: Observations
) -> dict[str, str]:
    """SHA-256 of each variant's model, of one request to each that a client makes as usual.

    Raises:
        SlimqError: a variant does not answer, or not as many observations in a request.
    """
    names = sorted({subject.variant for subject in plan.subjects})
    asked = observations.repeat(-(-plan.batch // len(observations)), axis=0)[: plan.batch]
    return {name: client.act(policy, asked, name).sha256 for name in names}


def find_republished(client: SlimqClient, policy: str, models: Mapping[str, str]) -> list[str]:
    """A note of each model that is another now, and of each that cannot be known."""
    notes = []
    for name, sha256 in models.items():
        try:
            same = client.variant(policy, name).model.sha256 == sha256
        except SlimqError as error:
            notes.append(f"whether {name} is still the same model is not known: {error}")
            continue
        if not same:
            notes.append(f"{name} was republished during the test: its figures are mixed")
    return notes
