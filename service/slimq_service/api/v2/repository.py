"""The protocol's repository endpoints: index, load and unload.

They do not publish anything: the service notices changes in the repository by itself. A load brings
a policy into memory before its first request; an unload frees the memory until the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import orjson
from fastapi import APIRouter, Request

from slimq.core.errors import InvalidInputError, ServiceError, SlimqError
from slimq_service.api.v2.documents import TAG, IndexEntry, Loaded
from slimq_service.api.v2.state import version_states
from slimq_service.decoding.nested_lists import kind_of
from slimq_service.errors import MalformedError
from slimq_service.http.bodies import ClientGoneError, read_body
from slimq_service.http.content_encoding import decompress, encoding_of
from slimq_service.http.error_responses import V2_PREFIX
from slimq_service.http.peers import PeerResponse, Peers
from slimq_service.settings import Settings
from slimq_service.variants.catalogue import Catalogue

MAX_BODY_BYTES = 64 * 1024
"""Bytes of a body, which only holds names of variants."""
VARIANTS = "parameters.variants"
REPLACING = re.compile(r"config|file:.*", re.DOTALL)
"""Triton's parameters that override files of the repository; not supported."""
INDEX = {"ready": {"type": "boolean", "description": "list only versions that are ready"}}
NAMED = {
    "parameters": {
        "type": "object",
        "properties": {
            "variants": {
                "type": "array",
                "description": "versions to load or unload; by default all",
                "items": {"type": "string"},
            }
        },
    }
}


def make_control_router(catalogue: Catalogue, settings: Settings, peers: Peers) -> APIRouter:
    """The routes; bodies may be empty, with any Content-Type or none."""
    router = APIRouter(prefix=f"{V2_PREFIX}/repository", tags=[TAG])

    @router.post("/index", summary="All versions and their states", openapi_extra=_body(INDEX))
    async def post_index(request: Request) -> list[IndexEntry]:
        _, document = await _read(request, settings)
        ready = document.get("ready", False)
        if not isinstance(ready, bool):
            raise InvalidInputError("ready", "true or false", kind_of(ready))
        await catalogue.refresh()
        return [
            IndexEntry(name=one.policy, version=one.variant, state=one.state, reason=one.reason)
            for one in version_states(catalogue)
            if one.state == "READY" or not ready
        ]

    @router.post(
        "/models/{model}/load", summary="Load a model's versions", openapi_extra=_body(NAMED)
    )
    async def post_load(request: Request, model: str) -> Loaded:
        body, document = await _read(request, settings)
        await catalogue.refresh()
        versions = chosen_variants(document, catalogue, model)
        try:
            await load_all(catalogue, model, versions)
        finally:  # a failure is the same in every worker; the others load in all
            responses = await peers.ask(request, body)
        check_responses(responses)
        return Loaded(name=model, load=True, versions=versions)

    @router.post(
        "/models/{model}/unload",
        summary="Unload a model's versions",
        openapi_extra=_body(NAMED),
    )
    async def post_unload(request: Request, model: str) -> Loaded:
        body, document = await _read(request, settings)
        await catalogue.refresh()
        versions = chosen_variants(document, catalogue, model)
        for version in versions:
            catalogue.residents.check_unpinned(model, version)
        try:
            for version in versions:
                await catalogue.unload(model, version)
        finally:
            responses = await peers.ask(request, body)
        check_responses(responses)
        return Loaded(name=model, load=False, versions=versions)

    return router


async def _read(request: Request, settings: Settings) -> tuple[bytes, dict[str, Any]]:
    """Reads and decompresses a body; also returns the document in it."""
    limit = min(MAX_BODY_BYTES, settings.max_body_bytes)
    headers, seconds = request.scope["headers"], settings.body_seconds
    try:
        body = await read_body(request.receive, headers, limit, seconds)
    except ClientGoneError:
        raise MalformedError("body", "a complete body", "a truncated one") from None
    encoding = encoding_of(headers)
    if encoding is not None:
        body = decompress(body, encoding, limit)
    return body, parse(body)


def parse(body: bytes) -> dict[str, Any]:
    """Parses a body; an empty one counts as an empty object.

    Raises:
        MalformedError: the body is not JSON.
        InvalidInputError: the body is not an object.
    """
    if not body.strip():
        return {}
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedError("body", "valid JSON", str(error)) from None
    if not isinstance(document, dict):
        raise InvalidInputError("body", "a JSON object", kind_of(document))
    return document


def chosen_variants(document: dict[str, Any], catalogue: Catalogue, policy: str) -> list[str]:
    """The variants in `parameters.variants`, or all of the policy's.

    Raises:
        NotFoundError: unknown policy or variant.
        InvalidInputError: the parameters are invalid, or would override the repository.
    """
    known = list(catalogue.variants(policy))
    parameters = document.get("parameters")
    if parameters is None:
        return known
    if not isinstance(parameters, dict):
        raise InvalidInputError("parameters", "an object", kind_of(parameters))
    for name in parameters:
        if REPLACING.fullmatch(name):
            expected = "no override of the repository's files"
            raise InvalidInputError(f"parameters.{name}", expected, "one")
    named = parameters.get("variants")
    if named is None:
        return known
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise InvalidInputError(VARIANTS, "a list of names", kind_of(named))
    for name in named:
        catalogue.check_known(policy, name)
    return list(dict.fromkeys(named))


async def load_all(catalogue: Catalogue, policy: str, variants: Iterable[str]) -> None:
    """Loads all variants that can be loaded.

    Raises:
        SlimqError: the first failure.
    """
    first: SlimqError | None = None
    for variant in variants:
        try:
            await catalogue.load(policy, variant)
        except SlimqError as error:
            first = first or error
    if first is not None:
        raise first


def check_responses(responses: Iterable[PeerResponse]) -> None:
    """Checks that the other workers succeeded, too.

    Raises:
        ServiceError: one did not.
    """
    for response in responses:
        if response.status != 200:
            raise ServiceError(
                "another worker", response.status, response.body.decode(errors="replace")
            )


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}
