"""Observations of every kind get the same answer, however they are sent, or the same refusal."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parts import ACTIONS, SPECS, build_parts_repository, draw_parts
from slimq.core.observation import Observations, ObservationSpec
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.repository import Repository

RAW = {"content-type": "application/octet-stream"}
NPY = {"content-type": "application/x-npy"}
DATATYPES = {"uint8": "UINT8", "int32": "INT32", "float32": "FP32"}
ACT = "/v1/policies/maze/act"
WAYS = ["json", "json by name", "raw", "npy", "wide npy", "v2 flat", "v2 nested", "v2 binary"]
WRONG = {
    "taxi": (0, 1500, "an integer from 1000 to 1499 in 'state', received 1500"),
    "wheels": (1, -3, "an integer from -2 to 0 in 'wheels'[1], received -3"),
    "buttons": (5, 2, "an integer from 0 to 1 in 'keys'[5], received 2"),
    "maze": (12, 4, "an integer from 0 to 3 in 'direction', received 4"),
    "robot": (2, 1.5, "an integer from 1 to 3 in 'gear', received 1.5"),
}
"""An element of each policy's observations, a value that it cannot have, and the error."""


@pytest.fixture(scope="module")
def parts_service(in_process: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    root = build_parts_repository(tmp_path_factory.mktemp("parts") / "policies")
    service = in_process(root)
    yield service
    service.close()


def npy_of(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def by_name(spec: ObservationSpec, batch: Any) -> dict[str, Any]:
    slices = spec.part_slices()
    return {
        part.name: batch[:, slices[part.name]].reshape(-1, *part.shape).tolist()
        for part in spec.parts or ()
    }


def infer(service: Any, policy: str, document: Any, tail: bytes = b"") -> Any:
    head = json.dumps(document).encode()
    headers = {"inference-header-content-length": str(len(head))} if tail else {}
    return service.request(
        "POST", f"/v2/models/{policy}/infer", content=head + tail, headers=headers
    )


def send(service: Any, policy: str, way: str, batch: Any) -> Any:
    """The response to a batch, an array of any dtype, sent in a way."""
    spec, path = SPECS[policy], f"/v1/policies/{policy}/act"
    if way == "json":
        return service.act(policy, batch.tolist())
    if way == "json by name":
        return service.act(policy, by_name(spec, batch))
    if way == "raw":
        content = batch.astype(spec.numpy_dtype).tobytes()
        return service.request("POST", path, content=content, headers=RAW)
    if way == "npy":
        content = npy_of(batch.astype(spec.dtype))
        return service.request("POST", path, content=content, headers=NPY)
    if way == "wide npy":
        return service.request("POST", path, content=npy_of(batch), headers=NPY)
    tensor = {"name": "observations", "shape": batch.shape, "datatype": DATATYPES[spec.dtype]}
    if way == "v2 binary":
        content = batch.astype(spec.numpy_dtype).tobytes()
        tensor["parameters"] = {"binary_data_size": len(content)}
        return infer(service, policy, {"inputs": [tensor]}, content)
    data = batch.ravel().tolist() if way == "v2 flat" else batch.tolist()
    return infer(service, policy, {"inputs": [{**tensor, "data": data}]})


def answer(response: Any) -> tuple[Any, list[int]]:
    assert response.status_code == 200, response.text
    document = response.json()
    if "outputs" not in document:
        return np.float32(document["q_values"]), document["actions"]
    q_values, actions = document["outputs"]
    return np.float32(q_values["data"]).reshape(q_values["shape"]), actions["data"]


def expected(service: Any, policy: str, batch: Observations) -> tuple[Any, list[int]]:
    _, model = Repository(service.settings.policies).read_model(policy, "fp32")
    q_values = OnnxPolicy(model, SPECS[policy], len(ACTIONS))(batch)
    return q_values, (q_values.argmax(axis=1) + 2).tolist()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(SPECS)), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_every_way_of_sending_a_batch_gives_the_same_q_values(
    parts_service: Any, policy: str, count: int, seed: int
) -> None:
    spec = SPECS[policy]
    batch = spec.join(draw_parts(spec, count, seed))
    q_values, actions = expected(parts_service, policy, batch)
    wide = batch.astype(np.float64 if spec.dtype == "float32" else np.int64)
    for way in WAYS:
        found = answer(send(parts_service, policy, way, wide))
        np.testing.assert_array_equal(found[0], q_values, err_msg=way)
        assert found[1] == actions, way


@pytest.mark.parametrize("policy", SPECS)
@pytest.mark.parametrize("way", WAYS)
def test_a_value_out_of_its_range_is_refused_on_every_way(
    parts_service: Any, policy: str, way: str
) -> None:
    spec = SPECS[policy]
    element, value, message = WRONG[policy]
    kind = np.float64 if spec.dtype == "float32" else np.int64
    batch = spec.join(draw_parts(spec, 2)).astype(kind)
    for _ in range(2):  # the head of a binary tensor is remembered after the first
        assert send(parts_service, policy, way, batch).status_code == 200
    batch[1, element] = value
    response = send(parts_service, policy, way, batch)
    assert response.status_code in (400, 422)
    problem = response.json()
    text = problem["error"] if "error" in problem else problem["detail"]
    assert message in text
    assert f"[1][{element}]" in text


@pytest.mark.parametrize("policy", SPECS)
def test_compare_takes_parts_by_name(parts_service: Any, policy: str) -> None:
    spec = SPECS[policy]
    batch = spec.join(draw_parts(spec, 3))
    path = f"/v1/policies/{policy}/compare"
    flat = parts_service.request("POST", path, json={"observations": batch.tolist()}).json()
    named = parts_service.request("POST", path, json={"observations": by_name(spec, batch)}).json()
    assert [row["variant"] for row in named["variants"]] == ["fp32", "other"]
    for first, second in zip(flat["variants"], named["variants"], strict=True):
        assert first["q_values"] == second["q_values"]
    assert named["variants"][0]["q_values"] != named["variants"][1]["q_values"]


@pytest.mark.parametrize("policy", SPECS)
def test_metadata_states_the_datatype_and_the_flat_shape(parts_service: Any, policy: str) -> None:
    spec = SPECS[policy]
    (tensor,) = parts_service.get(f"/v2/models/{policy}").json()["inputs"]
    assert tensor["datatype"] == DATATYPES[spec.dtype]
    assert tensor["shape"] == [-1, spec.size]
    (config,) = parts_service.get(f"/v2/models/{policy}/config").json()["input"]
    assert config["data_type"] == f"TYPE_{DATATYPES[spec.dtype]}"
    manifest = parts_service.get(f"/v1/policies/{policy}").json()
    assert ObservationSpec.model_validate(manifest["observation"]) == spec


def test_the_command_on_the_page_is_a_valid_request(parts_service: Any) -> None:
    overview = parts_service.get("/", headers={"accept": "application/json"}).json()
    for table in overview["policies"]:
        body = table["try_it"].rpartition("-d '")[2].removesuffix("'")
        path = f"/v1/policies/{table['name']}/act"
        response = parts_service.request(
            "POST", path, content=body, headers={"content-type": "application/json"}
        )
        assert response.status_code == 200, response.text


def test_a_version_in_memory_gets_no_observations_of_a_newer_layout(
    start: Any, tmp_path: Path
) -> None:
    root = build_parts_repository(tmp_path / "policies")
    service, path, spec = start(root), root / "maze" / "policy.json", SPECS["maze"]
    body = {"observations": by_name(spec, spec.join(draw_parts(spec, 1)))}
    for variant in ("fp32", "other"):
        assert service.request("POST", ACT, json=body, params={"variant": variant}).is_success
    manifest = json.loads(path.read_text())
    manifest["observation"]["parts"][1]["categories"] = [9]  # the model has four, so stays as it is
    path.write_text(json.dumps(manifest))
    service.get("/v1/policies")
    body["observations"]["direction"] = [7]
    answered = service.request("POST", ACT, json=body)
    assert "an integer from 0 to 3 in 'direction', received 7" in answered.text
    compared = service.request("POST", "/v1/policies/maze/compare", json=body)
    assert (compared.status_code, compared.json()["limit"]) == (422, "the policy's new layout")
