"""Index, load and unload, after Triton's L0_lifecycle."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any

import numpy as np
import pytest

from builders import make_mlp
from slimq.core.stamp import FileStamp


def index(service: Any, **body: Any) -> dict[str, tuple[str, str]]:
    options = {"json": body} if body else {}
    answer = service.request("POST", "/v2/repository/index", **options)
    assert answer.status_code == 200, answer.text
    return {f"{e['name']}/{e['version']}": (e["state"], e["reason"]) for e in answer.json()}


def control(service: Any, action: str, model: str, body: Any = None) -> Any:
    options = {} if body is None else {"json": body}
    return service.request("POST", f"/v2/repository/models/{model}/{action}", **options)


def loaded(service: Any, variant: str) -> float:
    return float(service.metric(f'slimq_variant_loaded{{policy="tiny",variant="{variant}"}}'))


def variants(*names: str) -> dict[str, Any]:
    return {"parameters": {"variants": list(names)}}


def test_the_index_lists_every_version_with_its_state(service: Any) -> None:
    found = index(service)
    assert list(found) == ["tiny/fp32", "tiny/other", "tiny_frames/fp32", "tiny_frames/other"]
    assert set(found.values()) == {("READY", "")}


def test_the_index_says_why_a_version_cannot_answer(service: Any, repositories: Any) -> None:
    repositories.publish("tiny", "other", b"no model at all")
    service.act("tiny", [[0] * 4], params={"variant": "other"})
    state, reason = index(service)["tiny/other"]
    assert state == "UNAVAILABLE"
    assert reason
    assert "tiny/other" not in index(service, ready=True)
    assert "tiny/other" in index(service, ready=False)


def test_a_load_loads_all_versions_or_the_named_ones(service: Any) -> None:
    answer = control(service, "load", "tiny", variants("other"))
    assert (answer.status_code, answer.json()["versions"]) == (200, ["other"])
    assert (loaded(service, "fp32"), loaded(service, "other")) == (0, 1)
    assert control(service, "load", "tiny").status_code == 200
    assert (loaded(service, "fp32"), loaded(service, "other")) == (1, 1)
    assert control(service, "load", "tiny", {}).status_code == 200
    series = 'slimq_variant_loads_total{outcome="success",policy="tiny",variant="fp32"}'
    assert service.metric(series) == 1, "what is loaded and has not changed is not loaded again"


def test_an_unload_lasts_until_the_next_load_or_request(service: Any) -> None:
    control(service, "load", "tiny")
    answer = control(service, "unload", "tiny", {"parameters": {"unload_dependents": False}})
    assert answer.json() == {"name": "tiny", "load": False, "versions": ["fp32", "other"]}
    assert (loaded(service, "fp32"), loaded(service, "other")) == (0, 0)
    state, reason = index(service)["tiny/fp32"]
    assert state == "UNAVAILABLE"
    assert "unloaded" in reason
    assert service.get("/v2/models/tiny/ready").status_code == 503
    assert service.get("/readyz").status_code == 200, "it can still answer"
    service.run(asyncio.sleep(1.2))
    assert loaded(service, "fp32") == 0, "the watcher leaves it"
    assert service.act("tiny", [[0] * 4]).status_code == 200
    found = index(service)
    assert found["tiny/fp32"] == ("READY", "")
    assert found["tiny/other"][0] == "UNAVAILABLE"
    control(service, "load", "tiny", variants("other"))
    assert index(service)["tiny/other"] == ("READY", "")


def test_a_load_that_fails_is_503_and_leaves_the_others(service: Any, repositories: Any) -> None:
    before = service.act("tiny", [[1] * 4], params={"variant": "other"}).json()
    repositories.publish("tiny", "other", b"no model at all")
    answer = control(service, "load", "tiny")
    assert answer.status_code == 503
    assert "tiny/other" in answer.json()["error"]
    assert loaded(service, "fp32") == 1, "the other version is loaded all the same"
    assert service.act("tiny", [[1] * 4], params={"variant": "other"}).json() == before
    assert index(service)["tiny/other"] == ("READY", ""), "the old version serves on"
    repositories.publish("tiny", "other", make_mlp(9))
    assert control(service, "load", "tiny").status_code == 200
    assert service.act("tiny", [[1] * 4], params={"variant": "other"}).json() != before


def test_a_load_does_not_wait_out_the_time_after_a_failure(start: Any, repositories: Any) -> None:
    service = start(retry_seconds=3600.0, watch_seconds=3600.0)
    path = repositories.model("tiny", "other")
    content = path.read_bytes()
    assert control(service, "load", "tiny", variants("other")).status_code == 200
    control(service, "unload", "tiny", variants("other"))
    path.unlink()
    assert control(service, "load", "tiny", variants("other")).status_code == 503
    path.write_bytes(content)
    assert control(service, "load", "tiny", variants("other")).status_code == 200


def test_a_load_notices_changes_that_left_every_stamp_unchanged(
    start: Any, repositories: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system whose metadata tell nothing; the watcher sees nothing there."""
    constant = FileStamp(0, 0, 0, 0, 0)
    monkeypatch.setattr(FileStamp, "of", classmethod(lambda cls, status: constant))
    service = start(watch_seconds=3600.0)
    ask = {"params": {"variant": "other"}}
    before = service.act("tiny", [[1] * 4], **ask).json()
    path = repositories.model("tiny", "other")
    content = path.read_bytes()
    repositories.corrupt("tiny", "other")
    assert service.get("/readyz").json()["variants"][1]["state"] == "loaded"
    answer = control(service, "load", "tiny", variants("other"))
    assert answer.status_code == 503
    assert f"{path.name}: has sha256" in answer.json()["error"]
    assert service.get("/readyz").json()["variants"][1]["state"] == "stale"
    assert service.act("tiny", [[1] * 4], **ask).json() == before, "memory serves on"
    path.write_bytes(content)
    assert control(service, "load", "tiny", variants("other")).status_code == 200
    digest = repositories.publish("tiny", "other", make_mlp(9))
    assert service.act("tiny", [[1] * 4], **ask).json() == before
    assert control(service, "load", "tiny", variants("other")).status_code == 200
    assert service.act("tiny", [[1] * 4], **ask).json()["sha256"] == digest
    manifest = repositories.root / "tiny" / "policy.json"
    manifest.write_text(manifest.read_text().replace('"left"', '"port"'))
    assert control(service, "load", "tiny", variants("other")).status_code == 200
    assert service.act("tiny", [[1] * 4], **ask).status_code == 200
    assert "port" in service.get("/v1/policies/tiny").json()["actions"]


def test_a_load_sees_what_was_just_published(service: Any, repositories: Any) -> None:
    assert control(service, "load", "late").status_code == 404
    repositories.add_policy("late")
    assert control(service, "load", "late").json()["versions"] == ["fp32"]
    shutil.rmtree(repositories.root / "late")
    assert control(service, "load", "late").status_code == 404
    assert "late/fp32" not in index(service)


@pytest.mark.parametrize("action", ["load", "unload"])
@pytest.mark.parametrize(
    ("status", "message", "body"),
    [
        (400, "body: expected a JSON object", []),
        (400, "parameters: expected an object", {"parameters": []}),
        (400, "parameters.variants: expected a list of names", {"parameters": {"variants": "x"}}),
        (400, "parameters.variants: expected a list of names", {"parameters": {"variants": [1]}}),
        (400, "parameters.config: expected no override", {"parameters": {"config": "{}"}}),
        (400, "parameters.file:1/model.onnx", {"parameters": {"file:1/model.onnx": "AA"}}),
        (404, "unknown variant 'none'", variants("fp32", "none")),
        (404, "unknown variant '../fp32'", variants("../fp32")),
    ],
)
def test_invalid_control_requests_name_the_field_and_have_no_effect(
    service: Any, action: str, status: int, message: str, body: Any
) -> None:
    service.act("tiny", [[0] * 4])
    answer = control(service, action, "tiny", body)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]
    assert (loaded(service, "fp32"), loaded(service, "other")) == (1, 0)


def test_bodies_of_control_requests_are_checked(service: Any) -> None:
    for path in ("index", "models/tiny/load", "models/tiny/unload"):
        where = f"/v2/repository/{path}"
        assert service.request("POST", where, content=b"{").status_code == 400
        assert service.request("POST", where, content=b"[]").status_code == 400
        assert service.request("POST", where, content=b"x" * 70_000).status_code == 413
        assert service.request("POST", where, content=b" \n").status_code == 200
        assert service.get(where).status_code == 405
    answer = service.request("POST", "/v2/repository/index", json={"ready": "yes"})
    assert answer.status_code == 400
    for model in ("none", "%20", "..%2Ftiny"):
        assert control(service, "load", model).status_code == 404


def test_requests_in_progress_succeed_while_versions_are_loaded_and_unloaded(
    start: Any, protocol: Any, frames: Any
) -> None:
    service = start(inline_seconds=0, alone_seconds=0, inference_threads=2)
    body, headers = protocol.binary(frames)
    path = "/v2/models/tiny_frames/versions/other/infer"
    expected = protocol.tensors(service.request("POST", path, content=body, headers=headers))

    async def ask() -> list[Any]:
        send = service.client.post
        return [await send(path, content=body, headers=headers) for _ in range(12)]

    async def move(action: str) -> list[Any]:
        found = []
        for _ in range(8):
            where = f"/v2/repository/models/tiny_frames/{action}"
            found.append(await service.client.post(where))
            await asyncio.sleep(0)
        return found

    async def all_at_once() -> Any:
        asking = asyncio.gather(*(ask() for _ in range(6)))
        moving = asyncio.gather(*(move(action) for action in ("load", "unload", "load")))
        return await asking, await moving

    asked, moved = service.run(all_at_once())
    answers = [answer for answers in asked for answer in answers]
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        np.testing.assert_array_equal(protocol.tensors(answer)["q_values"], expected["q_values"])
    assert {answer.status_code for answers in moved for answer in answers} == {200}
    control(service, "unload", "tiny_frames")
    assert index(service)["tiny_frames/other"][0] == "UNAVAILABLE"
    control(service, "load", "tiny_frames")
    assert index(service)["tiny_frames/other"] == ("READY", "")
