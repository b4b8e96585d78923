from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from parts import SPECS, build_parts_repository, draw_parts
from robots import array_map, pack
from slimq_service.decoding.msgpack_arrays import MAX_LIST_BYTES

PATH = "/v1/policies/tiny_frames/stream?format=msgpack"
TINY = "/v1/policies/tiny/stream?format=msgpack"
RAW = {"content-type": "application/octet-stream"}
TIMES = {"decode_ms", "queue_ms", "infer_ms", "total_ms"}


def act(service: Any, policy: str, variant: str, observation: Any) -> Any:
    path = f"/v1/policies/{policy}/variants/{variant}/act"
    return service.request("POST", path, content=observation.tobytes(), headers=RAW).json()


def check(answer: Any, expected: Any) -> None:
    """The answer of a stream against that of act."""
    assert set(answer) == {*expected, "server_timing"}
    for name in ("policy", "variant", "sha256"):
        assert answer[name] == expected[name]
    actions, q_values = answer["actions"], answer["q_values"]
    assert (actions.dtype, q_values.dtype) == (np.int64, np.float32)
    assert actions.tolist() == expected["actions"]
    np.testing.assert_array_equal(q_values, np.float32(expected["q_values"]))
    times = answer["server_timing"]
    assert set(times) == TIMES
    assert times["decode_ms"] + times["queue_ms"] + times["infer_ms"] < times["total_ms"] < 10_000
    assert times["infer_ms"] > 0


async def play(service: Any, open_wire: Any, path: str, *messages: Any) -> list[Any]:
    """The greeting, and the answers to messages that are sent one by one."""
    wire = await open_wire(service, path)
    answers = [await wire.answer()]
    answers += [await wire.ask(m if isinstance(m, bytes | str) else pack(m)) for m in messages]
    await wire.gone()
    return answers


def test_the_greeting_says_what_to_send_and_what_comes_back(service: Any, open_wire: Any) -> None:
    (greeting,) = service.run(play(service, open_wire, PATH + "&variant=other&keep=newest"))
    manifest = service.get("/v1/policies/tiny_frames").json()
    assert greeting["policy"] == "tiny_frames"
    assert greeting["variant"] == "other"
    for name in ("observation", "actions", "action_start", "environment"):
        assert greeting[name] == manifest[name], name
    assert greeting["frame"] == {"dtype": "uint8", "shape": [84, 84]}
    assert greeting["keep"] == "newest"
    limits = {"message_bytes": 84 * 84 * 8 + MAX_LIST_BYTES, "idle_seconds": 300.0}
    assert greeting["limits"] == limits
    assert (
        greeting["sha256"]
        == service.get("/v1/policies/tiny_frames/variants/other").json()["model"]["sha256"]
    )


def test_frames_are_answered_as_act_answers_the_stack_of_them(
    service: Any, open_wire: Any, newest: Any, stack: Any
) -> None:
    messages = [{"observation": frame} for frame in newest]
    _, *answers = service.run(play(service, open_wire, PATH, *messages))
    for n, answer in enumerate(answers):
        check(answer, act(service, "tiny_frames", "fp32", stack(newest[: n + 1])))


def test_reset_and_variant_take_effect_with_or_without_an_observation(
    service: Any, open_wire: Any, newest: Any, stack: Any
) -> None:
    messages = (
        {"observation": newest[0]},
        {"reset": True},
        {"observation": newest[1], "variant": "other"},
        {"observation": newest[2], "reset": np.bool_(True)},
        {b"variant": "fp32", b"reset": False},
        {b"observation": newest[3]},
    )
    _, first, said, *answers = service.run(play(service, open_wire, PATH, *messages))
    check(first, act(service, "tiny_frames", "fp32", stack(newest[:1])))
    assert set(said) == {"policy", "variant", "sha256", "server_timing"}
    check(answers[0], act(service, "tiny_frames", "other", stack(newest[1:2])))
    check(answers[1], act(service, "tiny_frames", "other", stack(newest[2:3])))
    assert (answers[2]["variant"], "actions" in answers[2]) == ("fp32", False)
    check(answers[3], act(service, "tiny_frames", "fp32", stack(newest[2:4])))


@pytest.mark.parametrize("policy", SPECS)
def test_parts_are_answered_as_act_answers_them(
    start: Any, open_wire: Any, tmp_path: Any, policy: str
) -> None:
    service, spec = start(build_parts_repository(tmp_path / "parts")), SPECS[policy]
    drawn = draw_parts(spec, 1)
    messages = [{"observation": value} for value in (drawn, spec.join(drawn), spec.join(drawn)[0])]
    path = f"/v1/policies/{policy}/stream?format=msgpack"
    _, *answers = service.run(play(service, open_wire, path, *messages))
    for answer in answers:
        check(answer, act(service, policy, "fp32", spec.join(drawn)))


FRAME = np.zeros((84, 84), np.uint8)
BAD: list[tuple[Any, str, str]] = [
    ("{}", "malformed-body", "message"),
    (b"", "malformed-body", "message"),
    (pack({"observation": FRAME})[:-1], "malformed-body", "message"),
    (pack({"observation": FRAME}) + b"\x00", "malformed-body", "message"),
    (FRAME.tobytes(), "invalid-input", "message"),
    (b"\x81\xabobservation" + b"\x91" * 60_000 + b"\xc0", "malformed-body", "message"),
    (bytes(84 * 84 * 8 + MAX_LIST_BYTES + 1), "over-limit", "message"),
    ([FRAME], "invalid-input", "message"),
    ({}, "invalid-input", "message"),
    ({"reset": False}, "invalid-input", "message"),
    ({"observation": FRAME, "prompt": "win"}, "invalid-input", "message"),
    ({"observations": FRAME}, "invalid-input", "message"),
    ({"observation": None}, "invalid-observation", "observation"),
    ({"observation": FRAME[:83], "reset": True}, "invalid-observation", "observation"),
    ({"observation": FRAME[..., None]}, "invalid-observation", "observation"),
    ({"observation": FRAME + 0.5}, "invalid-observation", "observation[0][0][0]"),
    ({"observation": array_map(dtype="|O")}, "invalid-observation", "observation.dtype"),
    ({"observation": array_map(shape=[2**60])}, "invalid-input", "observation.shape"),
    ({"observation": FRAME, "reset": 1}, "invalid-input", "reset"),
    ({"observation": FRAME, "variant": 8}, "invalid-input", "variant"),
    ({"observation": FRAME, "variant": "x" * 65}, "invalid-input", "variant"),
    ({"observation": FRAME, "variant": "none"}, "not-found", "variant"),
]


@pytest.mark.parametrize(("message", "code", "field"), BAD)
def test_a_refused_message_is_a_problem_and_changes_nothing(
    service: Any, open_wire: Any, newest: Any, stack: Any, message: Any, code: str, field: str
) -> None:
    good = [{"observation": frame} for frame in newest[:3]]
    messages = (*good[:2], message, good[2])
    *_, problem, answer = service.run(play(service, open_wire, PATH, *messages))
    assert (problem["code"], problem["field"]) == (code, field)
    assert {"type", "title", "status", "detail", "received", "server_timing"} <= set(problem)
    check(answer, act(service, "tiny_frames", "fp32", stack(newest[:3])))
    labels = 'policy="tiny_frames",variant="fp32"'
    if code != "not-found":
        assert service.metric(f'slimq_errors_total{{code="{code}",{labels}}}') == 1


def test_non_finite_numbers_are_refused_going_in_and_coming_out(
    service: Any, open_wire: Any
) -> None:
    messages = [
        {"observation": np.float32([0, np.nan, 0, 0])},
        {"observation": np.float32([3e38, -3e38, 3e38, 3e38])},
    ]
    _, going_in, coming_out = service.run(play(service, open_wire, TINY, *messages))
    assert going_in["code"] == "invalid-observation"
    assert coming_out["code"] == "non-finite-q-values"


def test_problems_are_text_for_clients_that_raise_it(service: Any, open_wire: Any) -> None:
    async def ask() -> Any:
        wire = await open_wire(service, TINY + "&errors=text")
        await wire.answer()
        wire.put(pack({"observation": np.zeros(3)}))
        refused = await wire.take()
        answer = await wire.ask(pack({"observation": np.zeros(4)}))
        await wire.gone()
        return refused, answer

    refused, answer = service.run(ask())
    assert '"code":"invalid-observation"' in refused["text"]
    assert answer["actions"].shape == (1,)


def test_messages_count_as_those_of_other_streams(service: Any, open_wire: Any) -> None:
    messages = [{"observation": np.zeros(4)}, {"observation": np.zeros(3)}]
    service.run(play(service, open_wire, TINY, *messages))
    labels = 'policy="tiny",variant="fp32"'
    assert service.metric(f"slimq_requests_total{{{labels}}}") == 2
    assert service.metric(f"slimq_observations_total{{{labels}}}") == 1
    assert service.metric("slimq_streams_opened_total") == 1
    assert service.metric('slimq_streams_closed_total{reason="client"}') == 1
    assert service.metric("slimq_requests_in_flight") == 0


def test_an_unknown_format_is_refused_before_the_stream_opens(service: Any, wire: Any) -> None:
    async def ask() -> Any:
        path = "/v1/policies/tiny/stream?format=pickle"
        return await wire(service.app.routes, path).refused()

    status, _, problem = service.run(ask())
    assert (status, problem["code"], problem["field"]) == (422, "invalid-input", "format")


def test_a_client_that_leaves_before_the_greeting_is_lost(service: Any, wire: Any) -> None:
    async def ask() -> None:
        one = wire(service.app.routes, TINY)
        one.broken = True
        await one.task

    service.run(ask())
    assert service.metric('slimq_streams_closed_total{reason="lost"}') == 1
    assert service.metric("slimq_streams_open") == 0
