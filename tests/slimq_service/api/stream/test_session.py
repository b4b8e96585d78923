from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parts import SPECS, build_parts_repository, draw_parts
from slimq.core.manifest import PolicyManifest, Routing
from slimq.core.publish import Publisher
from slimq.core.repository import Repository
from slimq_service.inference import batching

PATH = "/v1/policies/tiny_frames/stream"
TINY = "/v1/policies/tiny/stream"
RAW = {"content-type": "application/octet-stream"}


def act(service: Any, policy: str, variant: str, observation: Any) -> Any:
    """What act answers, in the words of a stream."""
    path = f"/v1/policies/{policy}/variants/{variant}/act"
    answer = service.request("POST", path, content=observation.tobytes(), headers=RAW).json()
    (action,), (q_values,) = answer.pop("actions"), answer.pop("q_values")
    return {**answer, "action": action, "q_values": q_values}


def test_every_frame_is_answered_as_act_answers_the_stack_of_them(
    service: Any, open_wire: Any, newest: Any, stack: Any
) -> None:
    async def play() -> list[Any]:
        wire = await open_wire(service, PATH)
        answers = [await wire.ask(frame) for frame in newest]
        await wire.gone()
        return answers

    answers = service.run(play())
    expected = [
        act(service, "tiny_frames", "fp32", stack(newest[: n + 1])) for n in range(len(newest))
    ]
    assert answers == expected
    assert len({answer["q_values"][0] for answer in answers}) == len(newest)


def test_an_observation_without_a_stack_is_one_message_as_bytes_or_as_json(
    service: Any, open_wire: Any, observations: Any
) -> None:
    async def play() -> list[Any]:
        wire = await open_wire(service, TINY)
        answers = [await wire.ask(row) for row in observations]
        answers += [await wire.ask({"observation": row.tolist()}) for row in observations]
        await wire.gone()
        return answers

    answers = service.run(play())
    assert answers[:3] == answers[3:]
    assert answers[:3] == [act(service, "tiny", "fp32", row) for row in observations]


def test_a_reset_empties_the_stack(service: Any, open_wire: Any, newest: Any, stack: Any) -> None:
    async def play() -> list[Any]:
        wire = await open_wire(service, PATH)
        for frame in newest[:3]:
            await wire.ask(frame)
        said = await wire.ask({"reset": True})
        after = [await wire.ask(frame) for frame in newest[3:5]]
        both = await wire.ask({"observation": newest[5].tolist(), "reset": True})
        await wire.gone()
        return [said, *after, both]

    said, *answers = service.run(play())
    assert set(said) == {"policy", "variant", "sha256"}
    expected = [stack(newest[3:4]), stack(newest[3:5]), stack(newest[5:6])]
    assert answers == [act(service, "tiny_frames", "fp32", one) for one in expected]


def test_another_variant_goes_on_with_the_same_stack(
    service: Any, open_wire: Any, newest: Any, stack: Any
) -> None:
    async def play() -> list[Any]:
        wire = await open_wire(service, PATH)
        answers = [await wire.ask(frame) for frame in newest[:2]]
        said = await wire.ask({"variant": "other"})
        answers += [await wire.ask(newest[2])]
        answers += [await wire.ask({"variant": "fp32", "observation": newest[3].tolist()})]
        answers += [await wire.ask({"variant": "other", "reset": True})]
        answers += [await wire.ask(newest[4])]
        await wire.gone()
        assert (said["variant"], "action" in said) == ("other", False)
        assert answers.pop(4) == said
        return answers

    answers = service.run(play())
    variants = ["fp32", "fp32", "other", "fp32", "other"]
    stacks = [*(stack(newest[:n]) for n in range(1, 5)), stack(newest[4:5])]
    assert answers == [
        act(service, "tiny_frames", variant, one)
        for variant, one in zip(variants, stacks, strict=True)
    ]


BAD: list[tuple[Any, str, str]] = [
    (b"", "invalid-observation", "message"),
    (bytes(84 * 84 * 4), "invalid-observation", "message"),
    ("{", "malformed-body", "message"),
    ({"observation": [[0] * 84] * 83, "reset": True}, "invalid-observation", "observation"),
    ({"observation": [[0] * 84] * 84, "variant": "none"}, "not-found", "variant"),
    ({"variant": "none", "reset": True}, "not-found", "variant"),
    ({"rest": True}, "invalid-input", "message"),
    ({"variant": "x" * 999}, "invalid-input", "variant"),
    ("x" * 70_000, "over-limit", "message"),
]


@pytest.mark.parametrize(("message", "code", "field"), BAD)
def test_a_refused_message_is_a_problem_and_changes_nothing(
    service: Any, open_wire: Any, newest: Any, stack: Any, message: Any, code: str, field: str
) -> None:
    async def play() -> tuple[Any, Any]:
        wire = await open_wire(service, PATH)
        for frame in newest[:2]:
            await wire.ask(frame)
        problem = await wire.ask(message)
        answer = await wire.ask(newest[2])
        await wire.gone()
        return problem, answer

    problem, answer = service.run(play())
    assert (problem["code"], problem["field"]) == (code, field)
    assert {"type", "title", "status", "detail", "received"} <= set(problem)
    assert answer == act(service, "tiny_frames", "fp32", stack(newest[:3]))
    text = service.get("/metrics").text
    counted = [row for row in text.splitlines() if row.startswith("slimq_errors_total")]
    assert sum(float(row.rpartition(" ")[2]) for row in counted) == 1
    assert any(f'code="{code}"' in row and row.endswith(" 1.0") for row in counted)


def test_non_finite_q_values_are_a_problem(service: Any, open_wire: Any) -> None:
    async def play() -> list[Any]:
        wire = await open_wire(service, TINY)
        answers = [await wire.ask(np.array([3e38, -3e38, 3e38, 3e38], np.float32))]
        answers += [await wire.ask(np.zeros(4, np.float32))]
        await wire.gone()
        return answers

    problem, answer = service.run(play())
    assert (problem["code"], problem["status"]) == ("non-finite-q-values", 422)
    assert answer["action"] in (0, 1)


def test_messages_sent_ahead_are_answered_in_order(
    start: Any, open_wire: Any, newest: Any, stack: Any
) -> None:
    for seconds in (1.0, 0.0):
        service = start(inline_seconds=seconds)

        async def play(service: Any) -> list[Any]:
            wire = await open_wire(service, PATH)
            wire.put(*newest[:3], {"reset": True, "variant": "other"}, *newest[3:], b"x")
            answers = [await wire.answer() for _ in range(8)]
            await wire.gone()
            return answers

        answers = service.run(play(service))
        assert answers[7]["code"] == "invalid-observation"
        assert "action" not in answers[3]
        for n in range(3):
            assert answers[n] == act(service, "tiny_frames", "fp32", stack(newest[: n + 1]))
            expected = act(service, "tiny_frames", "other", stack(newest[3 : n + 4]))
            assert answers[n + 4] == expected


def test_messages_sent_ahead_do_not_delay_others(service: Any, open_wire: Any) -> None:
    async def play() -> int:
        wire = await open_wire(service, TINY)
        wire.put(*[np.zeros(4, np.float32)] * 200)
        turns = 0
        while wire.sent.qsize() < 200:
            await asyncio.sleep(0)
            turns += 1
        await wire.gone()
        return turns

    assert service.run(play()) >= 200


def test_a_new_version_answers_the_next_frame(
    service: Any, open_wire: Any, repositories: Any, mlp: Any
) -> None:
    async def play() -> list[Any]:
        wire = await open_wire(service, TINY)
        before = await wire.ask(np.zeros(4, np.float32))
        digest = repositories.publish("tiny", "fp32", mlp(9))
        deadline = asyncio.get_running_loop().time() + 10
        while (after := await wire.ask(np.zeros(4, np.float32)))["sha256"] == before["sha256"]:
            assert asyncio.get_running_loop().time() < deadline
            await service.app.pipeline.catalogue.refresh()
            await asyncio.sleep(0.01)
        await wire.gone()
        return [before, after, digest]

    before, after, digest = service.run(play())
    assert after["sha256"] == digest
    assert after["q_values"] != before["q_values"]


def write_policy(root: Path, policy: str, **changes: Any) -> None:
    """Another version of a policy's manifest, as a publisher would write it."""
    path = root / policy / "policy.json"
    document = {**json.loads(path.read_text()), **changes}
    new = path.with_name("new")
    new.write_text(PolicyManifest.model_validate(document).model_dump_json())
    new.replace(path)


def test_without_a_choice_the_default_answers_whichever_it_is(
    service: Any, open_wire: Any, tiny_repository: Path
) -> None:
    async def play() -> list[str]:
        free = await open_wire(service, TINY)
        bound = await open_wire(service, TINY + "?variant=fp32")
        zeros = np.zeros(4, np.float32)
        variants = [(await wire.ask(zeros))["variant"] for wire in (free, bound)]
        write_policy(tiny_repository, "tiny", default_variant="other")
        await service.app.pipeline.catalogue.refresh()
        variants += [(await wire.ask(zeros))["variant"] for wire in (free, bound)]
        await free.gone()
        await bound.gone()
        return variants

    assert service.run(play()) == ["fp32", "fp32", "other", "fp32"]


def test_weights_choose_for_a_whole_stream_and_a_key_chooses_alike(
    service: Any, open_wire: Any, tiny_repository: Path
) -> None:
    zeros = np.zeros(4, np.float32)
    publisher = Publisher(Repository(tiny_repository))
    publisher.route("tiny", Routing(weights={"fp32": 1, "other": 1}))

    async def play(count: int, headers: Any) -> list[set[str]]:
        seen = []
        for _ in range(count):
            wire = await open_wire(service, TINY, headers=headers)
            seen.append({(await wire.ask(zeros))["variant"] for _ in range(8)})
            await wire.gone()
        return seen

    service.get("/readyz")
    anybody = service.run(play(40, ()))
    assert all(len(variants) == 1 for variants in anybody)
    assert {"fp32"} in anybody
    assert {"other"} in anybody
    somebody = service.run(play(5, [(b"routing-key", b"me")]))
    assert len(set.union(*somebody)) == 1


def test_a_changed_layout_closes_the_stream_with_a_reason(
    service: Any, open_wire: Any, tiny_repository: Path, newest: Any
) -> None:
    async def play() -> tuple[Any, Any]:
        wire = await open_wire(service, PATH)
        await wire.ask(newest[0])
        observation = {"dtype": "uint8", "shape": (4, 84, 84), "stack": {"axis": 0, "count": 2}}
        write_policy(tiny_repository, "tiny_frames", observation=observation)
        catalogue = service.app.pipeline.catalogue
        await catalogue.refresh()
        await catalogue.load("tiny_frames", "fp32")
        problem = await wire.ask(newest[1])
        return problem, await wire.closed()

    problem, (code, reason) = service.run(play())
    assert (problem["code"], problem["status"]) == ("layout-changed", 409)
    assert "open a new stream" in problem["detail"]
    assert (code, reason) == (4409, "the policy's observations have changed; open a new stream")
    assert service.metric('slimq_streams_closed_total{reason="layout"}') == 1


def test_a_stream_without_messages_is_closed(start: Any, open_wire: Any) -> None:
    service = start(stream_idle_seconds=0.3)

    async def play() -> Any:
        wire = await open_wire(service, TINY)
        for _ in range(4):
            await asyncio.sleep(0.15)
            await wire.ask(np.zeros(4, np.float32))
        return await wire.closed()

    assert service.run(play()) == (4408, "idle for too long")
    assert service.metric('slimq_streams_closed_total{reason="idle"}') == 1
    assert service.metric("slimq_streams_open") == 0


def test_a_client_that_does_not_read_is_idle_too(
    start: Any, open_wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slimq_service.api.stream.session.CLOSE_SECONDS", 0.1)
    service = start(stream_idle_seconds=0.2)

    async def play() -> None:
        wire = await open_wire(service, TINY)
        wire.readable.clear()
        wire.put(*[np.zeros(4, np.float32)] * 3)
        await asyncio.wait_for(wire.task, 10)

    service.run(play())
    assert service.metric('slimq_streams_closed_total{reason="idle"}') == 1
    assert service.metric("slimq_streams_open") == 0


class Gate:
    """Holds the models of a service back until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.entered = threading.Event(), threading.Semaphore(0)
        compute = batching.compute

        def wait(q_function: Any, batch: Any) -> Any:
            self.entered.release()
            assert self.open.wait(10)
            return compute(q_function, batch)

        monkeypatch.setattr("slimq_service.inference.batching.compute", wait)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


def test_shutdown_closes_streams_after_the_response_in_progress(
    start: Any, open_wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    service = start(inline_seconds=0, alone_seconds=0, inference_threads=1)

    async def play() -> list[Any]:
        busy, idle = [await open_wire(service, TINY) for _ in range(2)]
        busy.put(*[np.zeros(4, np.float32)] * 2)
        await gate.reached()
        ending = asyncio.ensure_future(service.app.streams.end())
        closed = [await idle.closed()]
        assert not ending.done()
        gate.open.set()
        answer = await busy.answer()
        closed.append(await busy.closed())
        await asyncio.wait_for(ending, 10)
        assert answer["action"] in (0, 1)
        return closed

    assert service.run(play()) == [(1001, "service is restarting")] * 2
    assert service.metric('slimq_streams_closed_total{reason="restart"}') == 2


def test_messages_of_a_disconnected_client_are_not_run(
    start: Any, open_wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    service = start(inline_seconds=0, alone_seconds=0, inference_threads=1)

    async def play() -> None:
        stays, goes, ahead = [await open_wire(service, TINY) for _ in range(3)]
        stays.put(np.zeros(4, np.float32))
        await gate.reached()
        goes.put(np.zeros(4, np.float32))
        ahead.put(*[np.zeros(4, np.float32)] * 2)
        await asyncio.sleep(0.05)
        await goes.gone(1006)
        gate.open.set()
        await stays.answer()
        for _ in range(2):
            await ahead.answer()
        await stays.gone()
        await ahead.gone()

    service.run(play())
    labels = 'policy="tiny",variant="fp32"'
    assert service.metric(f'slimq_errors_total{{code="client-gone",{labels}}}') == 1
    assert service.metric(f"slimq_observations_total{{{labels}}}") == 3
    assert service.metric('slimq_streams_closed_total{reason="lost"}') == 1
    assert service.metric("slimq_queue_depth") == 0
    assert service.metric("slimq_requests_in_flight") == 0


def test_an_overload_is_a_problem_and_the_frame_can_be_sent_again(
    start: Any, open_wire: Any, newest: Any, stack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    service = start(inline_seconds=0, alone_seconds=0, inference_threads=1, queue_requests=1)

    async def play() -> tuple[Any, Any]:
        wires = [await open_wire(service, PATH) for _ in range(3)]
        wires[0].put(newest[0])
        await gate.reached()
        wires[1].put(newest[0])
        await asyncio.sleep(0.05)
        problem = await wires[2].ask(newest[0])
        gate.open.set()
        await wires[0].answer()
        await wires[1].answer()
        again = await wires[2].ask(newest[0])
        for wire in wires:
            await wire.gone()
        return problem, again

    problem, again = service.run(play())
    assert (problem["code"], problem["status"]) == ("overloaded", 503)
    assert problem["retry_after"] >= 1
    assert again == act(service, "tiny_frames", "fp32", stack(newest[:1]))


def test_an_internal_error_in_a_message_is_a_problem_and_the_stream_continues(
    service: Any, open_wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    async def play() -> list[Any]:
        wire = await open_wire(service, TINY)
        with monkeypatch.context() as patch:
            patch.setattr("slimq_service.api.stream.messages.render_response", fail)
            answers = [await wire.ask(np.zeros(4, np.float32))]
        answers.append(await wire.ask(np.zeros(4, np.float32)))
        await wire.gone()
        return answers

    problem, answer = service.run(play())
    assert (problem["code"], problem["status"]) == ("internal", 500)
    assert "secret" not in str(problem)
    assert "action" in answer


def test_an_internal_error_elsewhere_closes_the_stream(
    service: Any, open_wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("slimq_service.api.stream.messages.render_problem", fail)

    async def play() -> Any:
        wire = await open_wire(service, TINY)
        wire.put(b"x")
        return await wire.closed()

    code, reason = service.run(play())
    assert (code, "log" in reason) == (1011, True)
    assert service.metric('slimq_streams_closed_total{reason="internal"}') == 1


def test_a_connection_that_breaks_while_an_answer_is_sent_is_lost(
    service: Any, open_wire: Any
) -> None:
    async def play() -> None:
        wire = await open_wire(service, TINY)
        wire.broken = True
        wire.put(np.zeros(4, np.float32))
        await asyncio.wait_for(wire.task, 10)

    service.run(play())
    assert service.metric('slimq_streams_closed_total{reason="lost"}') == 1


def test_messages_count_in_the_metrics_and_statistics_of_their_variant(
    service: Any, open_wire: Any
) -> None:
    async def play() -> None:
        wire = await open_wire(service, TINY)
        for variant in ("fp32", "other", "other"):
            message = {"variant": variant, "observation": [0, 0, 0, 0]}
            assert "action" in await wire.ask(message)
        rows = (await service.client.get("/metrics")).text.splitlines()
        assert any(row in rows for row in ("slimq_streams_open 1", "slimq_streams_open 1.0"))
        await wire.gone()

    service.run(play())
    for variant, count in (("fp32", 1), ("other", 2)):
        labels = f'{{policy="tiny",variant="{variant}"}}'
        for series in (
            "slimq_requests_total",
            "slimq_observations_total",
            "slimq_inference_seconds_count",
            "slimq_queue_seconds_count",
            "slimq_http_request_seconds_count",
        ):
            assert service.metric(series + labels) == count, series
        stats = service.get(f"/v2/models/tiny/versions/{variant}/stats").json()["model_stats"][0]
        assert stats["inference_count"] == count
        assert stats["inference_stats"]["success"]["count"] == count
    assert service.metric("slimq_streams_opened_total") == 1
    assert service.metric("slimq_streams_open") == 0
    assert service.metric('slimq_streams_closed_total{reason="client"}') == 1
    assert service.metric("slimq_requests_in_flight") == 0


@pytest.mark.parametrize("policy", SPECS)
def test_observations_of_parts_are_one_message_as_bytes_lists_or_by_name(
    start: Any, open_wire: Any, tmp_path: Path, policy: str
) -> None:
    service, spec = start(build_parts_repository(tmp_path / "parts")), SPECS[policy]
    drawn = draw_parts(spec, 1)
    batch = spec.join(drawn)
    named = {name: values[0].tolist() for name, values in drawn.items()}
    wrong = batch.copy()
    wrong[0, -1] = 200

    async def play() -> list[Any]:
        wire = await open_wire(service, f"/v1/policies/{policy}/stream")
        messages = (batch, {"observation": batch[0].tolist()}, {"observation": named})
        answers = [await wire.ask(message) for message in messages]
        refused = (wrong, {"observation": wrong[0].tolist()}, {"observation": {}})
        answers += [await wire.ask(message) for message in refused]
        await wire.gone()
        return answers

    *answers, raw, flat, empty = service.run(play())
    assert answers == [act(service, policy, "fp32", batch)] * 3
    part = (spec.parts or ())[-1].name
    for problem in (raw, flat):
        assert problem["code"] == "invalid-observation"
        assert f"in {part!r}" in problem["detail"]
    assert "received no part" in empty["detail"]


def test_the_newest_observation_wins_where_the_client_asks_for_it(
    start: Any, open_wire: Any, newest: Any, stack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older ones that still wait are not run, but are frames of the episode all the same."""
    gate = Gate(monkeypatch)
    service = start(inline_seconds=0, alone_seconds=0, inference_threads=1)

    async def play() -> list[Any]:
        wire = await open_wire(service, PATH + "?keep=newest")
        wire.put(newest[0])
        await gate.reached()
        wire.put(newest[1], {"variant": "other"}, b"x", newest[2], newest[3], {"reset": False})
        gate.open.set()
        answers = [await wire.answer() for _ in range(7)]
        answers.append(await wire.ask(newest[4]))
        await wire.gone()
        return answers

    first, dropped, said, bad, again, last, empty, after = service.run(play())
    assert first == act(service, "tiny_frames", "fp32", stack(newest[:1]))
    assert {**dropped, "sha256": ""} == {
        "policy": "tiny_frames",
        "variant": "fp32",
        "sha256": "",
        "superseded": True,
    }
    assert (said["variant"], set(said)) == ("other", {"policy", "variant", "sha256"})
    assert bad["code"] == "invalid-observation"
    assert (again["variant"], again["superseded"]) == ("other", True)
    assert last == act(service, "tiny_frames", "other", stack(newest[:4]))
    assert empty["code"] == "invalid-input"
    assert after == act(service, "tiny_frames", "other", stack(newest[:5]))
    assert service.metric("slimq_streams_superseded_total") == 2
    assert service.metric('slimq_observations_total{policy="tiny_frames",variant="other"}') == 4


def test_an_observation_is_not_superseded_by_a_message_without_one(
    service: Any, open_wire: Any, newest: Any
) -> None:
    async def play() -> list[Any]:
        wire = await open_wire(service, PATH + "?keep=newest")
        wire.put(newest[0], {"variant": "other"}, b"x", {"rest": 1})
        answers = [await wire.answer() for _ in range(4)]
        await wire.gone()
        return answers

    first, *_ = service.run(play())
    assert "action" in first


def test_without_being_asked_every_observation_is_run(
    service: Any, open_wire: Any, newest: Any
) -> None:
    async def play() -> list[Any]:
        wire = await open_wire(service, PATH + "?keep=all")
        wire.put(*newest)
        answers = [await wire.answer() for _ in newest]
        await wire.gone()
        return answers

    assert all("action" in answer for answer in service.run(play()))
    assert service.metric("slimq_streams_superseded_total") == 0


def test_a_flood_is_answered_message_by_message_and_its_last_frame_is_run(
    service: Any, open_wire: Any
) -> None:
    async def play() -> list[Any]:
        wire = await open_wire(service, TINY + "?keep=newest")
        wire.put(*[np.zeros(4, np.float32)] * 500)
        answers = [await wire.answer() for _ in range(500)]
        await wire.gone()
        return answers

    answers = service.run(play())
    assert ["action" in answer for answer in answers] == [False] * 499 + [True]
    assert service.metric("slimq_streams_superseded_total") == 499
    assert service.metric("slimq_requests_in_flight") == 0


def test_a_client_that_vanishes_with_newer_observations_waiting_is_lost(
    start: Any, open_wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    service = start(inline_seconds=0, alone_seconds=0, inference_threads=1)

    async def play() -> None:
        stays, goes = [await open_wire(service, TINY + "?keep=newest") for _ in range(2)]
        stays.put(np.zeros(4, np.float32))
        await gate.reached()
        goes.put(*[np.zeros(4, np.float32)] * 3)
        await asyncio.sleep(0.05)
        goes.leave(1006)
        await asyncio.wait_for(goes.task, 10)
        gate.open.set()
        await stays.answer()
        await stays.gone()

    service.run(play())
    assert service.metric('slimq_streams_closed_total{reason="lost"}') == 1
    assert service.metric("slimq_requests_in_flight") == 0
    assert service.metric("slimq_queue_depth") == 0
