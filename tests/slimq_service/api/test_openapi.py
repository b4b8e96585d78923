from __future__ import annotations

import json
from typing import Any

from slimq.core.observation import ObservationPart, ObservationSpec
from slimq_service.api.openapi import PARTS_EXAMPLE, REQUEST_EXAMPLES
from slimq_service.api.stream.options import CHOICES
from slimq_service.decoding.observations import JSON, parse


def test_act_and_compare_are_documented_with_examples(service: Any) -> None:
    document = service.get("/openapi.json").json()
    for path in ("/v1/policies/{policy}/act", "/v1/policies/{policy}/variants/{variant}/act"):
        operation = document["paths"][path]["post"]
        assert set(operation["requestBody"]["content"]) == {
            "application/json",
            "application/octet-stream",
            "application/x-npy",
        }
        assert operation["requestBody"]["content"]["application/json"]["examples"]
        assert {"200", "400", "404", "413", "415", "422", "503"} <= set(operation["responses"])
    assert "text/html" in service.get("/docs").headers["content-type"]


def test_streams_are_documented_with_their_refusals(service: Any) -> None:
    document = service.get("/openapi.json").json()
    for path in ("/v1/policies/{policy}/stream", "/v1/policies/{policy}/variants/{variant}/stream"):
        operation = document["paths"][path]["get"]
        assert set(operation["responses"]) == {
            *("101", "400", "403", "404", "413", "422", "426", "500", "503")
        }
        names = [parameter["name"] for parameter in operation["parameters"]]
        assert names[path.count("{") :] == ["variant", *CHOICES, "Routing-Key"]
        chosen = [parameter["schema"].get("enum") for parameter in operation["parameters"]]
        assert [values for values in chosen if values] == [list(v) for v in CHOICES.values()]
        for key in ("observation", "reset", "variant"):
            assert f"`{key}`" in operation["description"]


def test_every_operation_documents_its_problem(service: Any) -> None:
    document = service.get("/openapi.json").json()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert set(document["paths"]) >= {"/", "/healthz", "/readyz", "/metrics", "/v1/policies"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            contents = [r.get("content", {}) for r in operation["responses"].values()]
            problems = [content for content in contents if "application/problem+json" in content]
            assert bool(problems) is not path.startswith("/v2")


def test_every_reference_leads_somewhere(service: Any) -> None:
    document = service.get("/openapi.json").json()
    schemas = document["components"]["schemas"]

    def references(node: Any) -> Any:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            node = list(node.values())
        if isinstance(node, list):
            for child in node:
                yield from references(child)

    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas


def test_the_examples_match_real_responses(service: Any) -> None:
    for example in REQUEST_EXAMPLES.values():
        body: Any = dict(example["value"])  # type: ignore[call-overload]
        body.pop("variant", None)
        answer = service.request("POST", "/v1/policies/tiny/act", json=body)
        assert answer.status_code == 200
        documented = service.get("/openapi.json").json()["components"]["schemas"]["ActAnswer"]
        assert set(answer.json()) == set(documented["required"])


def test_the_example_by_part_is_a_batch_of_two() -> None:
    spec = ObservationSpec(
        dtype="float32",
        shape=(3,),
        parts=(
            ObservationPart(name="position", shape=(2,)),
            ObservationPart(name="direction", shape=(), categories=(4,)),
        ),
    )
    body = json.dumps(PARTS_EXAMPLE["value"]).encode()
    batch = parse(JSON, body, spec, 2).observations(spec, 2)
    assert batch.tolist() == [[0, 0.5, 0], [1, 0, 3]]
