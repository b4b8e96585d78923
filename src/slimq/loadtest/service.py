"""Service under test: its address, the requests to send, and the models it has loaded."""

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
    """The service under test.

    Attributes:
        address: its address.
        requests: requests by variant.
        meter: meter of its processor time.
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
    """Prepares the requests of a plan.

    Args:
        url: address, as accepted by `SlimqClient`.
        policy: the policy's name.
        plan: the plan, with variants and batch size.
        observations: observations to send.
        spec: the policy's layout.
        meter: meter of the service's processor time.
        api_key: API key; None if the service needs none.
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
    """Makes a meter that sends the API key only to the service's own host.

    Args:
        url: the service's address.
        metrics: address of its metrics; None for `/metrics` below `url`.
        api_key: API key; None if the service needs none.
        timeout: seconds to wait for a response.
    """
    at = metrics or f"{url}/metrics"
    return ProcessorMeter(at, api_key if same_host(url, at) else None, timeout)


def loaded_models(
    client: SlimqClient, policy: str, plan: Plan, observations: Observations
) -> dict[str, str]:
    """SHA-256 of each variant's model, from one request per variant by the ordinary client.

    Raises:
        SlimqError: a variant does not answer, or does not accept this batch size.
    """
    names = sorted({subject.variant for subject in plan.subjects})
    sent = observations.repeat(-(-plan.batch // len(observations)), axis=0)[: plan.batch]
    return {name: client.act(policy, sent, name).sha256 for name in names}


def find_republished(client: SlimqClient, policy: str, models: Mapping[str, str]) -> list[str]:
    """Notes each model that has changed since, and each that could not be checked."""
    notes = []
    for name, sha256 in models.items():
        try:
            same = client.variant(policy, name).model.sha256 == sha256
        except SlimqError as error:
            notes.append(f"could not check whether {name} was republished: {error}")
            continue
        if not same:
            notes.append(f"{name} was republished during the test: its figures mix both models")
    return notes
