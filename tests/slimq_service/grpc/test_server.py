"""gRPC on real processes, next to HTTP."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from running import COMMAND
from slimq_service.grpc import open_inference_pb2 as pb
from slimq_service.grpc.server import NAME, options_of
from slimq_service.settings import Settings
from waiting import until

CHECK, REFLECT = "/grpc.health.v1.Health/Check", "ServerReflectionInfo"
HEALTH = health_pb2.HealthCheckResponse
LIMIT = 200_000
ZEROS = np.zeros((1, 4), np.float32)


@pytest.fixture(scope="module")
def process(launch_once: Any) -> Any:
    """One process for the tests that change nothing."""
    return launch_once(SLIMQ_GRPC_PORT="0", SLIMQ_MAX_BODY_BYTES=str(LIMIT))


@pytest.fixture
def caller(process: Any, call: Any) -> Any:
    return call(process.grpc)


def act(process: Any, policy: str, array: Any) -> Any:
    return httpx.post(
        f"{process.url}/v1/policies/{policy}/act", json={"observations": array.tolist()}
    ).json()


def metric(url: str, line: str) -> float:
    rows = httpx.get(url + "/metrics").text.splitlines()
    return sum(float(row.rpartition(" ")[2]) for row in rows if row.startswith(line))


@pytest.mark.parametrize("policy", ["tiny", "tiny_frames"])
@pytest.mark.parametrize("raw", [True, False])
def test_the_answer_is_that_of_http_in_the_form_of_the_request(
    process: Any,
    caller: Any,
    make_request: Any,
    observations: Any,
    frames: Any,
    policy: str,
    raw: bool,
) -> None:
    array = observations if policy == "tiny" else frames[:1]
    expected = act(process, policy, array)
    for _ in range(2):  # the second time, its head is known
        answer = caller.infer(make_request(policy, array, raw=raw))
        assert [o.name for o in answer.outputs] == ["q_values", "actions"]
        if raw:
            q_values = np.frombuffer(answer.raw_output_contents[0], "<f4")
            actions = np.frombuffer(answer.raw_output_contents[1], "<i8").tolist()
        else:
            assert not answer.raw_output_contents
            q_values = np.float32(answer.outputs[0].contents.fp32_contents)
            actions = list(answer.outputs[1].contents.int64_contents)
        np.testing.assert_array_equal(q_values, np.float32(expected["q_values"]).ravel())
        assert actions == expected["actions"]
        assert (answer.model_name, answer.model_version) == (policy, expected["variant"])


def v2(process: Any, path: str, **document: Any) -> str:
    answer = httpx.post(f"{process.url}/v2/models/{path}/infer", json=document)
    text: str = answer.json()["error"]
    return text


def test_an_error_has_the_code_of_the_protocol_and_the_text_of_http(
    process: Any, caller: Any, make_request: Any, failed: Any
) -> None:
    tensor = {"name": "observations", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0]}
    wrong = make_request("tiny", np.zeros((1, 3), np.float32))
    many = make_request("tiny", np.zeros((257, 4), np.float32))
    nan = make_request("tiny", ZEROS * np.nan)
    for request, code, text in (
        (make_request("none", ZEROS), "NOT_FOUND", v2(process, "none", inputs=[tensor])),
        (
            make_request("tiny", ZEROS, model_version="none"),
            "NOT_FOUND",
            v2(process, "tiny/versions/none", inputs=[tensor]),
        ),
        (wrong, "INVALID_ARGUMENT", v2(process, "tiny", inputs=[tensor])),
        (
            pb.ModelInferRequest(model_name="tiny"),
            "INVALID_ARGUMENT",
            v2(process, "tiny", inputs=[]),
        ),
        (
            many,
            "RESOURCE_EXHAUSTED",
            v2(process, "tiny", inputs=[{**tensor, "shape": [257, 4], "data": [[0] * 4] * 257}]),
        ),
        (nan, "INVALID_ARGUMENT", "observations[0][0]: expected a finite float32, received nan"),
    ):
        with pytest.raises(failed) as caught:
            caller.infer(request)
        assert (caught.value.code, caught.value.text) == (code, text)
        assert caught.value.metadata["x-request-id"]


def test_a_message_over_the_limit_is_refused(
    process: Any, caller: Any, make_request: Any, failed: Any
) -> None:
    over = pb.ModelInferRequest(model_name="tiny", raw_input_contents=[bytes(LIMIT)])
    size = over.ByteSize()
    body = httpx.post(f"{process.url}/v2/models/tiny/infer", content=bytes(size)).json()["error"]
    with pytest.raises(failed) as caught:
        caller.infer(over)
    assert (caught.value.code, caught.value.text) == ("RESOURCE_EXHAUSTED", body)
    for options in ({}, {"compression": grpc.Compression.Gzip}):
        with pytest.raises(failed, match=r"RESOURCE_EXHAUSTED: .*larger than max"):
            caller.send("ModelInfer", bytes(100 * LIMIT), **options)
    assert caller.infer(make_request("tiny", ZEROS)).model_name == "tiny"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"raw_input_contents": [bytes(12)]},
            "raw_input_contents[0]: expected 16 bytes (shape [1, 4], FP32), received 12 bytes",
        ),
        (
            {"raw_input_contents": [bytes(16)] * 2},
            "raw_input_contents: expected one element, received 2 elements",
        ),
        (
            {},
            "inputs[0].contents.fp32_contents: expected 4 numbers (shape [1, 4]), "
            "received 0 numbers",
        ),
        (
            {"parameters": {"classification": pb.InferParameter(int64_param=1)}},
            "parameters.classification: expected no such parameter (not supported), received one",
        ),
    ],
)
def test_wrong_contents_are_named(caller: Any, failed: Any, fields: Any, text: str) -> None:
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="observations", datatype="FP32", shape=[1, 4]
    )
    request = pb.ModelInferRequest(model_name="tiny", inputs=[tensor], **fields)
    with pytest.raises(failed) as caught:
        caller.infer(request)
    assert (caught.value.code, caught.value.text) == ("INVALID_ARGUMENT", text)


def test_contents_of_another_type_or_in_both_forms_are_refused(
    caller: Any, failed: Any, make_request: Any
) -> None:
    both = make_request("tiny", ZEROS)
    both.inputs[0].contents.fp32_contents.append(1)
    with pytest.raises(failed, match=r"contents: expected no contents together with raw"):
        caller.infer(both)
    other = make_request("tiny", ZEROS, raw=False)
    other.inputs[0].contents.int_contents.append(1)
    with pytest.raises(failed, match=r"contents: expected fp32_contents, received int_contents"):
        caller.infer(other)


def test_bytes_that_are_no_message_are_refused(caller: Any, failed: Any) -> None:
    for method in ("ModelInfer", "ServerLive", "RepositoryIndex", CHECK):
        with pytest.raises(
            failed, match=r"INVALID_ARGUMENT: message: expected \S+, received 2 oth"
        ):
            caller.send(method, b"\xff\xff")


def test_a_model_without_a_name_is_refused(caller: Any, failed: Any) -> None:
    for method in ("ModelMetadata", "ModelConfig", "ModelReady", "RepositoryModelLoad"):
        with pytest.raises(failed, match=r"INVALID_ARGUMENT: (model_)?name: expected the name of"):
            caller.ask(method)


def test_a_name_is_no_path(caller: Any, failed: Any) -> None:
    with pytest.raises(failed, match="NOT_FOUND: unknown policy 'tiny%2Fconfig'"):
        caller.ask("ModelMetadata", name="tiny/config")
    with pytest.raises(failed, match="NOT_FOUND: unknown policy 'tiny/versions/fp32'"):
        caller.ask("ModelInfer", model_name="tiny/versions/fp32")


def test_calls_are_counted_like_requests(process: Any, caller: Any, make_request: Any) -> None:
    line = 'slimq_requests_total{policy="tiny",variant="other"}'
    before = metric(process.url, line)
    caller.infer(make_request("tiny", ZEROS, model_version="other"))
    assert metric(process.url, line) == before + 1


def test_versions_to_load_can_be_named(caller: Any) -> None:
    variants = pb.ModelRepositoryParameter(string_param="other, fp32")
    caller.ask("RepositoryModelLoad", model_name="tiny", parameters={"variants": variants})
    only = pb.ModelRepositoryParameter(string_param="other")
    caller.ask("RepositoryModelUnload", model_name="tiny", parameters={"variants": only})
    entries = caller.ask("RepositoryIndex").models
    states = {(entry.name, entry.version): entry.state for entry in entries}
    assert states["tiny", "other"] == "UNAVAILABLE"
    assert states["tiny", "fp32"] == "READY"
    ready = caller.ask("RepositoryIndex", ready=True).models
    assert ("tiny", "other") not in {(entry.name, entry.version) for entry in ready}


def test_health_is_told_by_the_standard_protocol(caller: Any, failed: Any) -> None:
    for service in ("", NAME):
        request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        assert HEALTH.FromString(caller.send(CHECK, request)).status == HEALTH.SERVING
    with pytest.raises(failed, match="NOT_FOUND: unknown service 'none'"):
        caller.send(CHECK, health_pb2.HealthCheckRequest(service="none").SerializeToString())


def reflected(caller: Any, **options: Any) -> set[str]:
    ask = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    path = f"/grpc.reflection.v1alpha.ServerReflection/{REFLECT}"
    answers = caller.channel.stream_stream(path)(iter([ask]), timeout=60, **options)
    answer = reflection_pb2.ServerReflectionResponse.FromString(next(answers))
    return {service.name for service in answer.list_services_response.service}


def test_services_are_reflected(caller: Any) -> None:
    found = reflected(caller)
    assert {NAME, "grpc.health.v1.Health"} < found


def test_a_stream_goes_on_after_errors_and_forgets_a_client_that_goes(
    process: Any, caller: Any, make_request: Any
) -> None:
    messages: queue.Queue[bytes] = queue.Queue()
    answers = caller.stream(iter(messages.get, b"end"))
    for message, error in (
        (make_request("tiny", ZEROS, id="1").SerializeToString(), ""),
        (make_request("none", ZEROS, id="2").SerializeToString(), "unknown policy 'none'"),
        (b"\xff", "message: expected inference.ModelInferRequest"),
        (make_request("tiny", ZEROS, id="4").SerializeToString(), ""),
    ):
        messages.put(message)
        answer = pb.ModelStreamInferResponse.FromString(next(answers))
        assert answer.error_message.startswith(error)
        assert bool(answer.error_message) == bool(error)
    assert answer.infer_response.id == "4"
    assert answer.infer_response.parameters["triton_final_response"].bool_param
    assert metric(process.url, "slimq_streams_open ") == 1
    ends = [f'slimq_streams_closed_total{{reason="{reason}"}}' for reason in ("client", "lost")]
    before = sum(metric(process.url, end) for end in ends)
    answers.cancel()
    messages.put(b"end")
    until(lambda: metric(process.url, "slimq_streams_open ") == 0, 10)
    assert sum(metric(process.url, end) for end in ends) == before + 1
    assert "Traceback" not in process.log.read_text()


def test_a_client_may_ask_for_a_status_instead(caller: Any, make_request: Any) -> None:
    message = make_request("none", ZEROS).SerializeToString()
    answers = caller.stream(iter([message]), metadata=[("triton_grpc_error", "true")])
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.fixture
def started(launch: Any, tiny_repository: Path, tmp_path: Path) -> Any:
    """Starts a process with settings."""

    def begin(**variables: str) -> Any:
        log = tmp_path / "log"
        return launch(tiny_repository, log, SLIMQ_GRPC_PORT="0", **variables)

    return begin


def test_a_call_past_its_deadline_is_given_up(
    started: Any, call: Any, make_request: Any, failed: Any
) -> None:
    process = started()
    caller, request = call(process.grpc), make_request("tiny", ZEROS)
    caller.ask("ServerLive")  # connects
    gone = 'slimq_errors_total{code="client-gone",policy="tiny",variant="fp32"} '
    codes = set()
    for seconds in (0.01, 0.005, 0.003, 0.002, 0.001) * 40:  # one ends while the variant is loaded
        caller.ask("RepositoryModelUnload", model_name="tiny")
        try:
            caller.infer(request, timeout=seconds)
        except failed as error:
            codes.add(error.code)
        if metric(process.url, gone) >= 1:
            break
    assert codes == {"DEADLINE_EXCEEDED"}
    until(lambda: metric(process.url, gone) >= 1, 10)
    assert metric(process.url, "slimq_requests_in_flight ") == 0
    assert caller.infer(request).model_name == "tiny"
    assert "Traceback" not in process.log.read_text()


def test_keys_are_those_of_http(started: Any, call: Any, make_request: Any, failed: Any) -> None:
    process = started(SLIMQ_API_KEY="api", SLIMQ_ADMIN_KEY="admin")
    caller, request = call(process.grpc), make_request("tiny", ZEROS)
    api, admin = [("x-api-key", "api")], [("authorization", "Bearer admin")]
    text = httpx.post(process.url + "/v2/models/tiny/infer").json()["error"]
    with pytest.raises(failed) as caught:
        caller.infer(request)
    assert (caught.value.code, caught.value.text) == ("UNAUTHENTICATED", text)
    assert caller.infer(request, metadata=api).model_name == "tiny"
    with pytest.raises(failed, match="PERMISSION_DENIED: key: expected the admin key"):
        caller.ask("RepositoryModelLoad", model_name="tiny", metadata=api)
    assert caller.ask("RepositoryModelLoad", model_name="tiny", metadata=admin).isLoaded
    assert caller.ask("ServerReady").ready
    assert HEALTH.FromString(caller.send(CHECK, b"")).status == HEALTH.SERVING
    assert NAME in reflected(caller, metadata=api)
    answers = caller.stream(iter([request.SerializeToString()]))
    for refused in (lambda: reflected(caller), lambda: next(answers)):
        with pytest.raises(grpc.RpcError) as error:
            refused()
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_streams_are_limited(started: Any, call: Any) -> None:
    process = started(SLIMQ_STREAMS="0")
    with pytest.raises(grpc.RpcError) as caught:
        next(call(process.grpc).stream(iter([b""])))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "all 0 streams are in use" in caught.value.details()


def test_streams_and_calls_end_when_the_service_does(
    started: Any, call: Any, make_request: Any
) -> None:
    process = started()
    caller = call(process.grpc)
    messages: queue.Queue[bytes] = queue.Queue()
    answers = caller.stream(iter(messages.get, b"end"))
    messages.put(make_request("tiny", ZEROS).SerializeToString())
    next(answers)
    path = "/grpc.health.v1.Health/Watch"
    watched = caller.channel.unary_stream(path)(b"")
    assert HEALTH.FromString(next(watched)).status == HEALTH.SERVING
    began = time.monotonic()
    process.process.send_signal(signal.SIGTERM)
    for ended in (answers, watched):
        with pytest.raises(grpc.RpcError) as caught:
            for _ in ended:
                pass
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "the service is shutting down" in caught.value.details()
    messages.put(b"end")
    assert process.process.wait(30) == 0
    assert time.monotonic() - began < 25
    assert "Traceback" not in process.log.read_text()


@pytest.mark.slow
def test_every_worker_answers_on_the_port(started: Any, call: Any, make_request: Any) -> None:
    process = started(SLIMQ_WORKERS="2")
    port = int(process.grpc.rpartition(":")[2])
    until(lambda: list(workers(process).values()) == ["answering"] * 2, 60)
    first, second = workers(process)
    assert listens(first, port)
    assert listens(second, port)
    request = make_request("tiny", ZEROS)
    for _ in range(16):
        call(process.grpc).infer(request)
    caller = call(process.grpc)
    found = caller.ask("ModelStatistics", name="tiny", version="fp32").model_stats[0]
    assert found.inference_count == 16
    caller.ask("RepositoryModelUnload", model_name="tiny")
    for _ in range(8):  # whichever worker answers
        states = {
            m.state for m in call(process.grpc).ask("RepositoryIndex").models if m.name == "tiny"
        }
        assert states == {"UNAVAILABLE"}
    os.kill(first, signal.SIGKILL)
    until(lambda: first not in workers(process), 60)
    until(lambda: list(workers(process).values()) == ["answering"] * 2, 60)
    assert call(process.grpc).infer(request).model_name == "tiny"
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(60) == 0


def workers(process: Any) -> dict[int, str]:
    """The workers' states, by process."""
    found = httpx.get(process.url + "/readyz").json()["workers"]
    return {worker["pid"]: worker["state"] for worker in found}


def listens(pid: int, port: int) -> bool:
    """Whether a process has a socket that listens on a port."""
    tables = Path("/proc/net/tcp"), Path("/proc/net/tcp6")  # gRPC opens sockets for both
    rows = [row.split() for table in tables for row in table.read_text().splitlines()]
    inodes = {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}
    links = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    return any(f"socket:[{inode}]" in links for inode in inodes)


def test_a_port_in_use_is_refused(tiny_repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [
                *(*COMMAND, "serve", "--policies", str(tiny_repository), "--port", "0"),
                *("--grpc-port", str(port)),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert ended.returncode == 2
    assert f"gRPC port: expected a free port of the host, received 127.0.0.1:{port}" in ended.stderr


def test_the_limits_are_those_of_the_settings() -> None:
    options = dict(options_of(Settings(max_body_bytes=2**31, max_header_bytes=1000)))
    assert options["grpc.max_receive_message_length"] == 2**31 - 1
    assert options["grpc.absolute_max_metadata_size"] == 1000
