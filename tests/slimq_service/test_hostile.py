"""Entries of the repository that would do harm: refused by name, while everything else serves."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zstandard
from onnx import TensorProto, helper, numpy_helper

from builders import make_mlp, make_variant_manifest
from slimq.core.errors import RepositoryError
from slimq.core.manifest import FileEntry
from slimq.core.publish import Publisher
from slimq.core.repository import Repository

HUGE = 10**12


def read_manifest(repositories: Any) -> Any:
    return json.loads((repositories.folder("tiny", "other") / "variant.json").read_text())


def write_manifest(repositories: Any, manifest: Any) -> None:
    (repositories.folder("tiny", "other") / "variant.json").write_text(json.dumps(manifest))


def name_model(path: str) -> Callable[[Any], None]:
    def change(repositories: Any) -> None:
        manifest = read_manifest(repositories)
        manifest["model"]["path"] = path.format(root=repositories.root)
        write_manifest(repositories, manifest)

    return change


def corrupt(repositories: Any) -> None:
    repositories.corrupt("tiny", "other")


def truncate(repositories: Any) -> None:
    path = repositories.model("tiny", "other")
    path.write_bytes(path.read_bytes()[:-1])


def extend(repositories: Any) -> None:
    path = repositories.model("tiny", "other")
    path.write_bytes(path.read_bytes() + b"x")


def link_model(repositories: Any) -> None:
    path = repositories.model("tiny", "other")
    path.rename(repositories.root.parent / "elsewhere")
    path.symlink_to(repositories.root.parent / "elsewhere")


def link_folder(repositories: Any) -> None:
    path = repositories.folder("tiny", "other")
    path.rename(repositories.root.parent / "elsewhere")
    path.symlink_to(repositories.root.parent / "elsewhere")


def swell_manifest(repositories: Any) -> None:
    with (repositories.folder("tiny", "other") / "variant.json").open("r+b") as stream:
        stream.truncate(1 << 34)


def publish(make: Callable[[onnx.ModelProto], None]) -> Callable[[Any], None]:
    """Publishes the small model with a change, under its true hash."""

    def change(repositories: Any) -> None:
        model = onnx.load_from_string(make_mlp(1))
        make(model)
        repositories.publish("tiny", "other", model.SerializeToString())

    return change


def add_external(location: str) -> Callable[[Any], None]:
    def change(model: onnx.ModelProto) -> None:
        onnx.external_data_helper.set_external_data(model.graph.initializer[0], location)
        model.graph.initializer[0].ClearField("raw_data")

    return publish(change)


def add_term(model: onnx.ModelProto, *nodes: Any) -> None:
    """Has the sum of what is called `term` added to the Q-values."""
    model.graph.node[-1].output[0] = "before"
    model.graph.node.extend(nodes)
    model.graph.node.append(helper.make_node("ReduceSum", ["term"], ["sum"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["before", "sum"], ["q_values"]))


def declare(model: onnx.ModelProto) -> None:
    add_term(model)
    tensor = TensorProto(name="term", data_type=TensorProto.FLOAT, dims=[HUGE], raw_data=bytes(8))
    model.graph.initializer.append(tensor)


def allocate(operator: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        shape = [HUGE] if operator == "ConstantOfShape" else [HUGE, 1]
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape), "shape"))
        inputs = ["shape"] if operator == "ConstantOfShape" else ["before", "shape"]
        add_term(model, helper.make_node(operator, inputs, ["term"]))

    return change


def loop(model: onnx.ModelProto) -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Identity", ["x"], ["y"]),
        ],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("x", TensorProto.FLOAT, None),
        ],
        [value("go_on", TensorProto.BOOL, []), value("y", TensorProto.FLOAT, None)],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "forever"))
    add_term(model, helper.make_node("Loop", ["", "forever", "before"], ["term"], body=body))


def unfold(model: onnx.ModelProto) -> None:
    """Forty functions, each of which calls the one before twice."""
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    for index in range(40):
        model.functions.append(
            helper.make_function("own", f"f{index}", ["x"], ["y"], nodes, opsets)
        )
        nodes = [
            helper.make_node(f"f{index}", ["x"], ["z"], domain="own"),
            helper.make_node(f"f{index}", ["z"], ["y"], domain="own"),
        ]
    model.opset_import.append(helper.make_opsetid("own", 1))
    add_term(model, helper.make_node("f39", ["before"], ["term"], domain="own"))


def write_compressed(repositories: Any, stored: bytes, stated: int) -> None:
    digest = repositories.publish("tiny", "other", stored)
    folder = repositories.folder("tiny", "other")
    name = f"model-{digest[:12]}.onnx"
    (folder / name).rename(folder / f"{name}.zst")
    manifest = read_manifest(repositories)
    manifest["model"] |= {"path": f"{name}.zst", "uncompressed_bytes": stated}
    write_manifest(repositories, manifest)


def bomb(stated: int) -> Callable[[Any], None]:
    def change(repositories: Any) -> None:
        write_compressed(repositories, zstandard.ZstdCompressor().compress(bytes(1 << 28)), stated)

    return change


ENTRIES: dict[str, tuple[Callable[[Any], None], str]] = {
    "another sha256": (corrupt, "has sha256"),
    "truncated": (truncate, "its manifest says"),
    "longer than stated": (extend, "expected at most"),
    "a path up": (name_model("../fp32/model.onnx"), "model.path"),
    "an absolute path": (name_model("{root}/tiny/policy.json"), "model.path"),
    "a link to a model elsewhere": (link_model, "is a symbolic link"),
    "a link to a folder elsewhere": (link_folder, "is a symbolic link"),
    "a gigantic manifest": (swell_manifest, "expected at most"),
    "external data beside": (add_external("weights.bin"), "external tensor data"),
    "external data above": (add_external("../../../secret"), "external tensor data"),
    "external data anywhere": (add_external("/etc/passwd"), "external tensor data"),
    "external data in memory": (add_external("*/_ORT_MEM_ADDR_/*"), "external tensor data"),
    "a gigantic tensor": (publish(declare), "declares 1000000000000 elements"),
    "a gigantic constant": (publish(allocate("ConstantOfShape")), "memory"),
    "a gigantic expansion": (publish(allocate("Expand")), "tiny/other"),
    "a gigantic repetition": (publish(allocate("Tile")), "tiny/other"),
    "a loop without an end": (publish(loop), "has a subgraph"),
    "functions that unfold": (publish(unfold), "defines functions"),
    "a bomb that lies": (bomb(1000), "decompresses to more than the 1000 bytes"),
    "a bomb that does not": (bomb(1 << 28), "expected at most 1000000"),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_hostile_entry_is_refused_by_name_and_everything_else_serves(
    start: Any, repositories: Any, entry: str
) -> None:
    change, problem = ENTRIES[entry]
    (repositories.root.parent / "secret").write_bytes(bytes(128))
    change(repositories)
    service = start(max_model_bytes=1_000_000)
    answer = service.act("tiny", [[0, 0, 0, 0]], params={"variant": "other"})
    assert answer.status_code == 503, answer.text
    document = answer.json()
    assert document["code"] == "repository"
    assert "tiny" in document["detail"]
    assert "other" in document["detail"]
    assert problem in document["detail"]
    for policy, variant, shape in (
        ("tiny", "fp32", (4,)),
        ("tiny_frames", "fp32", (4, 84, 84)),
        ("tiny_frames", "other", (4, 84, 84)),
    ):
        observation = np.zeros((1, *shape), int).tolist()
        answer = service.act(policy, observation, params={"variant": variant})
        assert answer.status_code == 200, answer.text
    ready = service.get("/readyz")
    assert ready.status_code == 200
    broken = [v for v in ready.json()["variants"] if v["state"] == "broken"]
    assert [(v["policy"], v["variant"]) for v in broken] == [("tiny", "other")]
    assert problem in broken[0]["problem"]
    index = service.request("POST", "/v2/repository/index").json()
    states = {f"{e['name']}/{e['version']}": e["state"] for e in index}
    assert [name for name, state in states.items() if state != "READY"] == ["tiny/other"]
    assert service.act("tiny", [[0] * 4], params={"variant": "other"}).status_code == 503
    assert service.metric('slimq_variant_loaded{policy="tiny",variant="other"}') == 0


def test_while_a_hostile_version_is_published_the_one_before_serves(
    start: Any, repositories: Any
) -> None:
    service = start()
    options = {"params": {"variant": "other"}}
    before = service.act("tiny", [[0] * 4], **options).json()["sha256"]
    publish(loop)(repositories)
    service.get("/readyz")
    for _ in range(3):
        answer = service.act("tiny", [[0] * 4], **options)
        assert (answer.status_code, answer.json()["sha256"]) == (200, before)


def test_an_entry_of_a_policy_that_is_hostile_does_not_hide_other_policies(
    start: Any, repositories: Any, tmp_path: Path
) -> None:
    for name, content in (("huge", b"{" * (17 << 20)), ("list", b"[]"), ("deep", b"[" * 100_000)):
        (repositories.root / name).mkdir()
        (repositories.root / name / "policy.json").write_bytes(content)
    (repositories.root / "linked").symlink_to(repositories.root / "tiny")
    service = start()
    assert service.act("tiny", [[0] * 4]).status_code == 200
    for name in ("huge", "list", "deep", "linked"):
        answer = service.act(name, [[0] * 4])
        assert answer.status_code in (404, 503), (name, answer.text)
        assert name in answer.json()["detail"]


def take_root(model: onnx.ModelProto) -> None:
    """No number where an observation's sum is below -1."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "one"))
    nodes = [
        helper.make_node("ReduceSum", ["observation", "axis"], ["total"], keepdims=1),
        helper.make_node("Add", ["total", "one"], ["more"]),
        helper.make_node("Sqrt", ["more"], ["term"]),
        helper.make_node("Add", ["before", "term"], ["q_values"]),
    ]
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
    model.graph.node[-1].output[0] = "before"
    model.graph.node.extend(nodes)


FINE, BAD = [[0, 0, 0, 0]], [[0, 0, 0, 0], [-9, 0, 0, 0]]


@pytest.mark.parametrize("inline_seconds", [0.0, 1.0])
def test_q_values_that_are_not_finite_are_answered_to_nobody_and_harm_nobody(
    start: Any, repositories: Any, inline_seconds: float
) -> None:
    publish(take_root)(repositories)
    service = start(inline_seconds=inline_seconds)
    options = {"params": {"variant": "other"}}
    answer = service.act("tiny", BAD, **options)
    assert (answer.status_code, answer.json()["code"]) == (422, "non-finite-q-values")
    assert answer.json()["field"] == "observations[1]"
    numbers = [number for row in BAD for number in row]
    tensor = {"name": "observations", "shape": [2, 4], "datatype": "FP32", "data": numbers}
    for more in ({}, {"parameters": {"binary_data_output": True}}):
        body = {"inputs": [tensor], **more}
        answer = service.request("POST", "/v2/models/tiny/versions/other/infer", json=body)
        assert (answer.status_code, list(answer.json())) == (400, ["error"])
        assert "finite" in answer.json()["error"]
    path = "/v1/policies/tiny/compare"
    answer = service.request("POST", path, json={"observations": BAD})
    assert [row["variant"] for row in answer.json()["variants"]] == ["fp32"]
    assert answer.json()["failed"]["other"]["code"] == "non-finite-q-values"
    assert service.act("tiny", BAD).status_code == 200
    assert service.act("tiny", FINE, **options).status_code == 200
    labels = 'code="non-finite-q-values",policy="tiny",variant="other"'
    assert service.metric(f"slimq_errors_total{{{labels}}}") == 3


def test_a_strangers_observation_without_finite_q_values_in_a_batch_is_his_alone(
    start: Any, repositories: Any
) -> None:
    publish(take_root)(repositories)
    service = start(inline_seconds=0.0, inference_threads=1)
    path = "/v1/policies/tiny/variants/other/act"

    async def together() -> list[int]:
        bodies = [{"observations": BAD if index % 2 else FINE} for index in range(20)]
        requests = [service.client.post(path, json=body) for body in bodies]
        return [answer.status_code for answer in await asyncio.gather(*requests)]

    assert service.run(together()) == [200, 422] * 10


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_model_that_never_answers_finite_q_values_is_not_loaded(
    start: Any, repositories: Any, value: float
) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        spoiled = np.full(2, value, np.float32)
        model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(spoiled, "b2"))

    publish(spoil)(repositories)
    service = start()
    answer = service.act("tiny", FINE, params={"variant": "other"})
    assert (answer.status_code, answer.json()["code"]) == (503, "repository")
    assert "tiny/other" in answer.json()["detail"]
    assert "non-finite" in answer.json()["detail"]
    assert service.act("tiny", FINE).status_code == 200


def test_what_is_refused_here_is_not_published_either(repositories: Any) -> None:
    for make in (declare, loop, unfold):
        model = onnx.load_from_string(make_mlp(1))
        make(model)
        content = model.SerializeToString()
        digest = hashlib.sha256(content).hexdigest()
        entry = FileEntry(path=f"model-{digest[:12]}.onnx", bytes=len(content), sha256=digest)
        manifest = make_variant_manifest("tiny", "new", entry)
        with pytest.raises(RepositoryError, match="tiny/variants/new"):
            Publisher(Repository(repositories.root)).publish_variant(manifest, content)
