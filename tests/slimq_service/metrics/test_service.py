from __future__ import annotations

from functools import partial
from itertools import pairwise

from samples import sample_value
from slimq_service.metrics.codes import ERROR_CODES, HTTP_ERROR_CODES, STREAM_ENDS
from slimq_service.metrics.registry import Registry
from slimq_service.metrics.service import Metrics
from slimq_service.metrics.variant_metrics import HTTP_BUCKETS, INFERENCE_BUCKETS


def test_every_series_of_a_variant_is_there_as_soon_as_it_appears() -> None:
    metrics = Metrics(Registry())
    metrics.add("pong", "int8")
    text = metrics.registry.render()
    labels = 'policy="pong",variant="int8"'
    for series in (
        f"slimq_requests_total{{{labels}}} 0.0",
        f"slimq_observations_total{{{labels}}} 0.0",
        f"slimq_inference_seconds_count{{{labels}}} 0.0",
        f"slimq_http_request_seconds_count{{{labels}}} 0.0",
        f"slimq_variant_loaded{{{labels}}} 0.0",
    ):
        assert series in text
    for code in ERROR_CODES:
        assert f'slimq_errors_total{{code="{code}",{labels}}} 0.0' in text


def test_names_from_requests_never_become_labels() -> None:
    metrics = Metrics(Registry())
    metrics.error("invented", "name", "not-found")
    metrics.error(None, None, "a code nobody listed")
    text = metrics.registry.render()
    assert "invented" not in text
    assert 'code="not-found",policy="unknown",variant="unknown"} 1.0' in text
    assert 'code="internal",policy="unknown",variant="unknown"} 1.0' in text


def test_created_series_are_off() -> None:
    assert "_created" not in Metrics(Registry()).registry.render()


def test_buckets_resolve_what_is_faster_than_a_millisecond() -> None:
    assert INFERENCE_BUCKETS[0] == 25e-6
    assert HTTP_BUCKETS[0] == 0.25e-3
    assert INFERENCE_BUCKETS[-1] > 1
    assert HTTP_BUCKETS[-1] > 10
    for buckets in (INFERENCE_BUCKETS, HTTP_BUCKETS):
        assert all(above <= 2 * below for below, above in pairwise(buckets))


def test_two_registries_do_not_share_anything() -> None:
    first, second = Metrics(Registry()), Metrics(Registry())
    first.in_flight.inc()
    assert sample_value(second.registry, "slimq_requests_in_flight") == 0


def test_errors_outside_act_have_a_series_of_their_own_from_the_start() -> None:
    metrics = Metrics(Registry())
    value = partial(sample_value, metrics.registry)
    for code in HTTP_ERROR_CODES:
        assert value("slimq_http_errors_total", {"code": code}) == 0
    of_bodies = ("malformed-body", "over-limit", "body-timeout")
    assert set(of_bodies) <= set(HTTP_ERROR_CODES), "control requests have bodies"
    metrics.http_error("no-such-path")
    assert value("slimq_http_errors_total", {"code": "no-such-path"}) == 1
    unknown = {"policy": "unknown", "variant": "unknown"}
    assert all(value("slimq_errors_total", {**unknown, "code": code}) == 0 for code in ERROR_CODES)


def test_streams_have_their_series_from_the_start() -> None:
    metrics = Metrics(Registry())
    value = partial(sample_value, metrics.registry)
    assert value("slimq_streams_open") == value("slimq_streams_opened_total") == 0
    for reason in STREAM_ENDS:
        assert value("slimq_streams_closed_total", {"reason": reason}) == 0
    metrics.stream_closed("idle")
    assert value("slimq_streams_closed_total", {"reason": "idle"}) == 1
    refusals = {"not-found", "overloaded", "closing", "conflict", "upgrade-required"}
    assert refusals <= set(HTTP_ERROR_CODES), "those of a stream count as other requests"


def test_actions_count_by_the_names_of_the_policy() -> None:
    metrics = Metrics(Registry())
    metrics.add("pong", "int8", ["noop", "up"])
    value = partial(sample_value, metrics.registry)
    labels = {"policy": "pong", "variant": "int8"}
    assert value("slimq_actions_total", {**labels, "action": "up"}) == 0
    measured = metrics.of("pong", "int8")
    measured.count_actions([1, 0, 1, 1])
    assert value("slimq_actions_total", {**labels, "action": "up"}) == 3
    assert value("slimq_actions_total", {**labels, "action": "noop"}) == 1
    metrics.add("pong", "int8", ["stay"])
    measured.count_actions([0, 1])
    assert value("slimq_actions_total", {**labels, "action": "stay"}) == 1
    assert value("slimq_actions_total", {**labels, "action": "up"}) == 3
