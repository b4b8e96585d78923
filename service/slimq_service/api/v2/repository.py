"""The repository in the words of the protocol: its index, and what is in memory.

What is published is the repository's own affair: the service sees it without being told. A load
has a policy in memory before its first request, an unload gives the memory back until the next.
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
from slimq_service.http.peers import PeerAnswer, Peers
from slimq_service.settings import Settings
from slimq_service.variants.catalogue import Catalogue

MAX_BODY_BYTES = 64 * 1024
"""Bytes of a body here, which can only name variants."""
VARIANTS = "parameters.variants"
REPLACING = re.compile(r"config|file:.*", re.DOTALL)
"""Parameters with which Triton replaces what is in the repository; here that is not done."""
INDEX = {"ready": {"type": "boolean", "description": "whether only those that can answer"}}
NAMED = {
    "parameters": {
        "type": "object",
        "properties": {
            "variants": {
                "type": "array",
                "description": "which versions; all of them where there is no such key",
                "items": {"type": "string"},
            }
        },
    }
}


def make_control_router(catalogue: Catalogue, settings: Settings, peers: Peers) -> APIRouter:
    """The routes; bodies may be empty, and have any Content-Type or none."""
    router = APIRouter(prefix=f"{V2_PREFIX}/repository", tags=[TAG])

    @router.post(
        "/index", summary="Every version and whether it can answer", openapi_extra=_body(INDEX)
    )
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
        finally:  # what one cannot load, another could not either; the rest is loaded everywhere
            answers = await peers.ask(request, body)
        check_answers(answers)
        return Loaded(name=model, load=True, versions=versions)

    @router.post(
        "/models/{model}/unload",
        summary="Drop a model's versions from memory",
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
            answers = await peers.ask(request, body)
        check_answers(answers)
        return Loaded(name=model, load=False, versions=versions)

    return router


async def _read(request: Request, settings: Settings) -> tuple[bytes, dict[str, Any]]:
    """A request's body, decompressed, and the document in it."""
    limit = min(MAX_BODY_BYTES, settings.max_body_bytes)
    headers, seconds = request.scope["headers"], settings.body_seconds
    try:
        body = await read_body(request.receive, headers, limit, seconds)
    except ClientGoneError:
        raise MalformedError("body", "a whole body", "a truncated one") from None
    encoding = encoding_of(headers)
    if encoding is not None:
        body = decompress(body, encoding, limit)
    return body, parse(body)


def parse(body: bytes) -> dict[str, Any]:
    """The document of a body, empty where the body is.

    Raises:
        MalformedError: it is not JSON.
        InvalidInputError: it is not an object.
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
    """The variants that `parameters.variants` names, or else all of the policy's.

    Raises:
        NotFoundError: there is no such policy or variant.
        InvalidInputError: the parameters are wrong, or would replace what is in the repository.
    """
    known = list(catalogue.variants(policy))
    parameters = document.get("parameters")
    if parameters is None:
        return known
    if not isinstance(parameters, dict):
        raise InvalidInputError("parameters", "an object", kind_of(parameters))
    for name in parameters:
        if REPLACING.fullmatch(name):
            received = "one that would replace it"
            raise InvalidInputError(f"parameters.{name}", "what is in the repository", received)
    named = parameters.get("variants")
    if named is None:
        return known
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise InvalidInputError(VARIANTS, "a list of names", kind_of(named))
    for name in named:
        catalogue.check_known(policy, name)
    return list(dict.fromkeys(named))


async def load_all(catalogue: Catalogue, policy: str, variants: Iterable[str]) -> None:
    """Loads what can be loaded.

    Raises:
        SlimqError: of the first that cannot be.
    """
    first: SlimqError | None = None
    for variant in variants:
        try:
            await catalogue.load(policy, variant)
        except SlimqError as error:
            first = first or error
    if first is not None:
        raise first


def check_answers(answers: Iterable[PeerAnswer]) -> None:
    """Holds what the other workers answered to having done it too.

    Raises:
        ServiceError: one has not.
    """
    for answer in answers:
        if answer.status != 200:
            raise ServiceError(
                "another worker", answer.status, answer.body.decode(errors="replace")
            )


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}
