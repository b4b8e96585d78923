from __future__ import annotations

import shutil
from typing import Any

import pytest

from slimq import __version__


def test_server_metadata_has_version_and_extensions(service: Any) -> None:
    assert service.get("/v2").json() == {
        "name": "slimq",
        "version": __version__,
        "extensions": [
            "binary_tensor_data",
            "model_repository",
            "model_configuration",
            "statistics",
        ],
    }


def test_health_has_both_keys_at_both_paths(service: Any) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        answer = service.get(path)
        assert (answer.status_code, answer.json()) == (200, {"live": True, "ready": True})


def test_without_a_variant_the_service_lives_but_is_not_ready(
    start: Any, tiny_repository: Any
) -> None:
    for policy in ("tiny", "tiny_frames"):
        shutil.rmtree(tiny_repository / policy)
    service = start()
    answer = service.get("/v2/health/live")
    assert (answer.status_code, answer.json()) == (200, {"live": True, "ready": False})
    answer = service.get("/v2/health/ready")
    assert answer.status_code == 503
    assert answer.json()["ready"] is False
    assert "holds no variants" in answer.json()["error"]
    assert service.get("/v2/models/stats").json() == {"model_stats": []}


def test_a_models_metadata_has_its_versions_and_tensors(service: Any) -> None:
    assert service.get("/v2/models/tiny").json() == {
        "name": "tiny",
        "versions": ["fp32", "other"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "observations", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "q_values", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "actions", "datatype": "INT64", "shape": [-1]},
        ],
    }
    frames = service.get("/v2/models/tiny_frames/versions/other").json()
    assert frames["versions"] == ["other"]
    assert frames["inputs"][0]["datatype"] == "UINT8"
    assert frames["inputs"][0]["shape"] == [-1, 4, 84, 84]


@pytest.mark.parametrize("path", ["tiny", "tiny/versions/other"])
def test_the_configuration_has_what_load_tools_read(start: Any, path: str) -> None:
    service = start(max_batch=17)
    assert service.get(f"/v2/models/{path}/config").json() == {
        "name": "tiny",
        "platform": "onnx_onnxv1",
        "backend": "onnxruntime",
        "max_batch_size": 17,
        "input": [{"name": "observations", "data_type": "TYPE_FP32", "dims": [4]}],
        "output": [
            {"name": "q_values", "data_type": "TYPE_FP32", "dims": [2]},
            {"name": "actions", "data_type": "TYPE_INT64", "dims": [1], "reshape": {"shape": []}},
        ],
    }


def test_a_model_is_ready_before_its_first_request(service: Any) -> None:
    for path in ("tiny", "tiny/versions/other"):
        answer = service.get(f"/v2/models/{path}/ready")
        assert (answer.status_code, answer.json()) == (200, {"name": "tiny", "ready": True})


def test_a_broken_version_is_not_ready_and_says_why(service: Any, repositories: Any) -> None:
    repositories.publish("tiny", "other", b"no model at all")
    assert service.act("tiny", [[0] * 4], params={"variant": "other"}).status_code == 503
    answer = service.get("/v2/models/tiny/versions/other/ready")
    assert answer.status_code == 503
    assert answer.json()["ready"] is False
    assert answer.json()["error"].startswith("tiny/other: ")
    assert service.get("/v2/models/tiny/ready").status_code == 200, "its default is fine"
    assert service.get("/v2/models/tiny/versions/other").status_code == 200, "it is described"


def test_new_versions_are_noticed_at_once(service: Any, repositories: Any) -> None:
    assert service.get("/v2/models/new").status_code == 404
    repositories.add_policy("new")
    assert service.get("/v2/models/new").json()["versions"] == ["fp32"]
    assert service.get("/v2/models/new/ready").status_code == 200


@pytest.mark.parametrize("suffix", ["", "/ready", "/config", "/stats"])
@pytest.mark.parametrize("model", ["none", "tiny/versions/none", "%20", "tiny/versions/%00"])
def test_unknown_names_are_404_everywhere(service: Any, model: str, suffix: str) -> None:
    answer = service.get(f"/v2/models/{model}{suffix}")
    assert answer.status_code == 404
    assert list(answer.json()) == ["error"]


def stages(service: Any, path: str) -> Any:
    (entry,) = service.get(f"/v2/models/{path}/stats").json()["model_stats"]
    return entry


def test_statistics_count_requests_observations_and_nanoseconds(
    service: Any, protocol: Any, observations: Any
) -> None:
    fresh = stages(service, "tiny/versions/fp32")
    assert (fresh["name"], fresh["version"], fresh["batch_stats"]) == ("tiny", "fp32", [])
    assert (fresh["inference_count"], fresh["execution_count"]) == (0, 0)
    assert fresh["last_inference"] == 0
    protocol.infer(service, "tiny", protocol.document(observations))
    protocol.infer(service, "tiny", *protocol.binary(observations[:1]))
    service.act("tiny", observations.tolist())
    protocol.infer(service, "tiny", b"{")
    protocol.infer(service, "tiny/none", b"{")
    found = stages(service, "tiny/versions/fp32")
    assert (found["inference_count"], found["execution_count"]) == (7, 3)
    assert found["last_inference"] > 1.7e12
    counted = found["inference_stats"]
    assert counted["success"]["count"] == 3
    assert counted["fail"]["count"] == 1
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert [counted[part]["count"] for part in parts] == [3] * 4
    assert all(counted[part]["ns"] > 0 for part in parts[1:])
    assert sum(counted[part]["ns"] for part in parts) <= counted["success"]["ns"]
    assert stages(service, "tiny/versions/other")["inference_count"] == 0


def test_statistics_are_listed_for_a_version_a_model_or_all(service: Any) -> None:
    def names(path: str) -> Any:
        answer = service.get(path).json()
        return [(entry["name"], entry["version"]) for entry in answer["model_stats"]]

    assert names("/v2/models/tiny/versions/other/stats") == [("tiny", "other")]
    assert names("/v2/models/tiny/stats") == [("tiny", "fp32"), ("tiny", "other")]
    assert len(names("/v2/models/stats")) == 4
