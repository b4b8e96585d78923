"""Clients of the service: one requests actions, the other fetches a model and acts itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from slimq.core.batches import as_batch
from slimq.core.connection import error_of, explaining, open_connection
from slimq.core.errors import ServiceError
from slimq.core.local.policy import LocalPolicy
from slimq.core.manifest import PolicyManifest, VariantManifest
from slimq.core.qfunction import QValues
from slimq.core.report import EvaluationReport
from slimq.core.schema import read_document

__all__ = ["ActResult", "LocalPolicy", "SlimqClient"]

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class ActResult:
    """The service's answer to an act request.

    Attributes:
        actions: `(batch,)`, the greedy action for each observation.
        q_values: `(batch, actions)`.
        variant: the variant that answered.
        sha256: SHA-256 of that variant's stored model.
    """

    actions: npt.NDArray[np.int64]
    q_values: QValues
    variant: str
    sha256: str


class _Answer(BaseModel):
    policy: str
    variant: str
    sha256: str
    actions: list[int]
    q_values: list[list[float]]


class SlimqClient:
    """A client for one service. Not thread-safe."""

    def __init__(
        self,
        url: str,
        timeout: float = 10.0,
        transport: httpx.BaseTransport | None = None,
        api_key: str | None = None,
    ) -> None:
        """Sets up the client; the first request opens the connection.

        Args:
            url: the service's address, such as `http://127.0.0.1:8000`.
            timeout: seconds allowed for connecting, for sending and for the response, each.
            transport: httpx transport; None for plain HTTP.
            api_key: sent as a bearer token, for a service that requires a key.

        Raises:
            ServiceError: the URL is not an http or https URL.
            InvalidInputError: the key cannot be sent in a header.
        """
        self.url = url.rstrip("/")
        self._manifests: dict[str, PolicyManifest] = {}
        self._http = open_connection(self.url, timeout, transport, api_key)

    def policies(self) -> list[str]:
        """The names of all policies.

        Raises:
            ServiceError: the service cannot be reached or answers with an error.
        """
        found = self._get("/v1/policies")
        return [str(policy["name"]) for policy in self._entries(found, "policies")]

    def policy(self, name: str) -> PolicyManifest:
        """A policy's manifest.

        Raises:
            ServiceError: the service cannot be reached or answers with an error.
        """
        path = f"/v1/policies/{_segment(name)}"
        self._manifests[name] = self._read(PolicyManifest, self._get(path))
        return self._manifests[name]

    def variants(self, policy: str) -> list[str]:
        """The names of a policy's variants.

        Raises:
            ServiceError: the service cannot be reached or answers with an error.
        """
        found = self._get(f"/v1/policies/{_segment(policy)}/variants")
        return [str(variant["name"]) for variant in self._entries(found, "variants")]

    def variant(self, policy: str, variant: str) -> VariantManifest:
        """A variant's manifest.

        Raises:
            ServiceError: the service cannot be reached or answers with an error.
        """
        path = f"/v1/policies/{_segment(policy)}/variants/{_segment(variant)}"
        return self._read(VariantManifest, self._get(path))

    def report(self, policy: str, variant: str) -> EvaluationReport:
        """A variant's evaluation report.

        Raises:
            ServiceError: the service cannot be reached or answers with an error.
        """
        path = f"/v1/policies/{_segment(policy)}/variants/{_segment(variant)}/report"
        return self._read(EvaluationReport, self._get(path))

    def act(
        self,
        policy: str,
        observations: npt.ArrayLike | Mapping[str, Any],
        variant: str | None = None,
    ) -> ActResult:
        """Requests actions and Q-values for a batch, sent as raw little-endian bytes.

        Args:
            policy: the policy's name; its manifest is fetched once, for the observation layout.
            observations: `(batch, *shape)`, or one observation `shape`. For named parts also a
                mapping of such arrays by name, nested or with names joined by dots, or a tuple of
                them, as the environment returns them.
            variant: the variant that should answer; None for the policy's default.

        Raises:
            ObservationError: the observations do not fit the policy.
            ServiceError: the service cannot be reached or answers with an error.
        """
        spec = (self._manifests.get(policy) or self.policy(policy)).observation
        body = as_batch(spec, observations).astype(spec.numpy_dtype, copy=False).tobytes()
        path = f"/v1/policies/{_segment(policy)}"
        path += f"/variants/{_segment(variant)}/act" if variant is not None else "/act"
        headers = {"content-type": "application/octet-stream"}
        response = self._request("POST", path, content=body, headers=headers)
        answer = self._read(_Answer, response)
        return ActResult(
            actions=np.asarray(answer.actions, dtype=np.int64),
            q_values=np.asarray(answer.q_values, dtype=np.float32),
            variant=answer.variant,
            sha256=answer.sha256,
        )

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _get(self, path: str) -> httpx.Response:
        return self._request("GET", path)

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        with explaining(self.url, self._http.timeout.read):
            response = self._http.request(method, path, **options)
        if response.status_code != 200:
            raise error_of(response)
        return response

    def _read(self, model: type[Model], response: httpx.Response) -> Model:
        try:
            return read_document(response.content, model)
        except ValidationError as error:
            problem = f"invalid {model.__name__.lstrip('_')} in the response: {error.errors()[0]}"
            raise ServiceError(str(response.url), response.status_code, problem) from error

    def _entries(self, response: httpx.Response, key: str) -> list[dict[str, Any]]:
        try:
            entries: list[dict[str, Any]] = response.json()[key]
            _ = [entry["name"] for entry in entries]
        except (ValueError, KeyError, TypeError) as error:
            problem = f"no {key} in the response; is this a slimq service?"
            raise ServiceError(str(response.url), response.status_code, problem) from error
        return entries


def _segment(name: str) -> str:
    return quote(name, safe="")
