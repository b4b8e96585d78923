from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from builders import make_mlp
from condition_reports import publish_report
from slimq.core.model_file.described import parse_described, read_described
from slimq.core.repository import Repository
from slimq_service.api.v1 import model as module
from slimq_service.api.v1.model import respond
from slimq_service.variants.model_files import ModelFile

PATH = "/v1/policies/tiny/variants/other/model"


def test_the_file_is_the_variant_and_describes_itself(service: Any, tiny_repository: Path) -> None:
    answer = service.get(PATH)
    repository = Repository(tiny_repository)
    assert answer.status_code == 200
    assert answer.content == read_described(repository, "tiny", "other").content
    assert answer.content.startswith(repository.read_model("tiny", "other")[1])
    sha256 = hashlib.sha256(answer.content)
    assert answer.headers["etag"] == f'"{sha256.hexdigest()}"'
    digest = base64.b64encode(sha256.digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == 'attachment; filename="tiny-other.onnx"'
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["accept-ranges"] == "bytes"
    session = ort.InferenceSession(answer.content)
    zeros = np.zeros((1, 4), np.float32)
    acted = service.act("tiny", zeros.tolist(), params={"variant": "other"}).json()
    np.testing.assert_allclose(session.run(None, {"observation": zeros})[0], acted["q_values"])


def test_who_has_the_current_file_gets_none(service: Any) -> None:
    etag = service.get(PATH).headers["etag"]
    answer = service.get(PATH, headers={"if-none-match": etag, "range": "bytes=0-0"})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert service.get(PATH, headers={"if-none-match": '"x"'}).status_code == 200


def test_a_range_is_a_part_of_the_file(service: Any) -> None:
    whole = service.get(PATH)
    headers = {"range": "bytes=10-19", "if-range": whole.headers["etag"]}
    answer = service.get(PATH, headers=headers)
    assert (answer.status_code, answer.content) == (206, whole.content[10:20])
    assert answer.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    assert answer.headers["content-length"] == "10"
    assert answer.headers["etag"] == whole.headers["etag"]
    answer = service.get(PATH, headers=headers | {"if-range": '"x"'})
    assert (answer.status_code, answer.content) == (200, whole.content)
    answer = service.get(PATH, headers={"range": "bytes=0-1,5-6"})
    assert (answer.status_code, answer.content) == (200, whole.content)


def test_head_tells_the_length_and_ignores_ranges(service: Any) -> None:
    whole = service.get(PATH)
    answer = service.request("HEAD", PATH, headers={"range": "bytes=10-19"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(whole.content))
    answer = service.request("HEAD", PATH, headers={"if-none-match": whole.headers["etag"]})
    assert answer.status_code == 304


def test_a_range_beyond_the_end_is_refused_and_counted(service: Any) -> None:
    size = len(service.get(PATH).content)
    answer = service.get(PATH, headers={"range": f"bytes={size}-"})
    assert (answer.status_code, answer.json()["code"]) == (416, "range-not-satisfiable")
    assert answer.headers["content-range"] == f"bytes */{size}"
    assert service.metric('slimq_http_errors_total{code="range-not-satisfiable"}') == 1


def test_an_unknown_variant_lists_the_others(service: Any) -> None:
    answer = service.get("/v1/policies/tiny/variants/othr/model")
    assert (answer.status_code, answer.json()["available"]) == (404, ["fp32", "other"])


def test_a_new_version_is_served_at_once_and_what_was_begun_of_the_old_one_is_not_continued(
    service: Any, repositories: Any
) -> None:
    old = service.get(PATH)
    model = make_mlp(9)
    repositories.publish("tiny", "other", model)
    resumed = {"range": "bytes=10-", "if-range": old.headers["etag"]}
    answer = service.get(PATH, headers={"if-none-match": old.headers["etag"], **resumed})
    assert answer.status_code == 200
    assert answer.content.startswith(model)
    assert answer.headers["etag"] != old.headers["etag"]


def test_new_evidence_is_a_new_file(service: Any, tiny_repository: Path) -> None:
    old = service.get(PATH)
    publish_report(tiny_repository, "other", {})
    publish_report(tiny_repository, "fp32", {})
    new = service.get(PATH)
    assert new.headers["etag"] != old.headers["etag"]
    assert parse_described(old.content, "old").description.evidence.evaluated is False
    assert parse_described(new.content, "new").description.evidence.robust is True


def test_damaged_files_are_never_served(service: Any, repositories: Any) -> None:
    repositories.corrupt("tiny", "other")
    answer = service.get(PATH)
    assert (answer.status_code, answer.json()["code"]) == (503, "repository")
    repositories.publish("tiny", "other", b"onnx")
    assert service.get(PATH).status_code == 503
    repositories.publish("tiny", "other", make_mlp(2))
    assert service.get(PATH).status_code == 200


def test_a_key_is_needed_as_everywhere(start: Any) -> None:
    service = start(api_key="secret")
    assert service.get(PATH).status_code == 401
    assert service.get(PATH, headers={"authorization": "Bearer secret"}).status_code == 200


def test_others_have_a_turn_between_the_parts_of_a_long_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 100)
    file = ModelFile("x.onnx", bytes(range(250)) * 2, "0" * 64, None)  # type: ignore[arg-type]
    turns, parts, before = 0, [], []

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def send(message: Any) -> None:
        if message.get("body"):
            parts.append(message["body"])
            before.append(turns)

    async def download() -> None:
        others = asyncio.create_task(take_turns())
        await respond(file, [])({"type": "http"}, asyncio.Event().wait, send)
        others.cancel()

    asyncio.run(download())
    assert [len(part) for part in parts] == [100] * 5
    assert b"".join(parts) == file.content
    assert before == sorted(set(before))


def test_the_operation_is_documented(service: Any) -> None:
    path = "/v1/policies/{policy}/variants/{variant}/model"
    operation = service.get("/openapi.json").json()["paths"][path]["get"]
    assert set(operation["responses"]) == {"200", "206", "304", "416", "default"}
    assert set(operation["responses"]["200"]["content"]) == {"application/octet-stream"}
    assert {p["name"] for p in operation["parameters"]} == {
        *("policy", "variant", "If-None-Match", "Range", "If-Range")
    }
