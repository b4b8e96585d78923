"""The play endpoint: two variants play the same held-out episode, for the page to show.

The body must be JSON by its content type: browsers then ask before a page of another site may send
it, so that no such page can start a game.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from slimq.core.manifest import require_environment
from slimq_service.decoding.observations import JSON
from slimq_service.http.bodies import media_type
from slimq_service.operations.games import Games
from slimq_service.variants.catalogue import Catalogue

PATH = "/v1/policies/{policy}/play"
LINES = "application/x-ndjson"
MAX_EPISODE = 9_999


class PlayRequest(BaseModel):
    """What is to be played."""

    model_config = ConfigDict(extra="forbid")

    variants: tuple[str, str] = Field(description="the two variants; may be the same")
    episode: int = Field(
        default=0, ge=0, le=MAX_EPISODE, description="which of the held-out episodes"
    )


RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Lines of JSON: `start`; `step` with both sides' newest frame (base64 of "
        "little-endian values), Q-values of both variants, action and return so far; `end` of a "
        "side; or `problem`",
        "content": {LINES: {"schema": {"type": "string"}}},
    }
}


def make_play_router(catalogue: Catalogue, games: Games) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["page"])

    @router.post(
        PATH,
        summary="Two variants play the same episode",
        response_class=Response,
        responses=RESPONSES,
    )
    async def play(request: Request, policy: str, asked: PlayRequest) -> Response:
        media_type(request.scope["headers"], (JSON,))
        await catalogue.refresh()
        require_environment(catalogue.policy(policy), "playing")
        for variant in asked.variants:
            catalogue.check_known(policy, variant)
        lines = await games.start(policy, asked.variants, asked.episode)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(lines, media_type=LINES, headers=headers)

    return router
