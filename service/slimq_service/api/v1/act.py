"""The act endpoint: observations in, actions and Q-values out."""

from __future__ import annotations

from slimq_service.api.endpoint import Endpoint
from slimq_service.api.v1.codec import ActCodec
from slimq_service.requests.pipeline import Pipeline

POLICY_PATH = "/v1/policies/{policy}/act"
VARIANT_PATH = "/v1/policies/{policy}/variants/{variant}/act"
PATHS = (POLICY_PATH, VARIANT_PATH)
"""Without a variant in the path, it comes from the query, the body or the policy's default."""


def make_endpoint(pipeline: Pipeline) -> Endpoint:
    """Creates the endpoint of both paths."""
    return Endpoint(
        pipeline, ActCodec(pipeline.settings.max_batch, pipeline.settings.max_body_bytes)
    )
