"""The infer endpoint of the protocol."""

from __future__ import annotations

from slimq_service.api.endpoint import Endpoint
from slimq_service.api.v2.codec import InferCodec
from slimq_service.api.v2.request import Limits
from slimq_service.requests.pipeline import Pipeline

MODEL_PATH = "/v2/models/{model}/infer"
VERSION_PATH = "/v2/models/{model}/versions/{version}/infer"
PATHS = (MODEL_PATH, VERSION_PATH)
"""Without a version in the path, the policy's default variant is used."""


def make_endpoint(pipeline: Pipeline) -> Endpoint:
    """Creates the endpoint of both paths."""
    limits = Limits(pipeline.settings.max_batch, pipeline.settings.max_body_bytes)
    return Endpoint(pipeline, InferCodec(limits))
