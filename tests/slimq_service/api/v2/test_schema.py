from __future__ import annotations

from typing import Any

from slimq_service.api.v2.schema import REQUEST_EXAMPLES, RESPONSE_EXAMPLE

INFER = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
FAILURE = {"$ref": "#/components/schemas/Failure"}


def test_every_path_of_the_protocol_is_documented(service: Any) -> None:
    document = service.get("/openapi.json").json()
    paths = {path: set(found) for path, found in document["paths"].items() if "/v2" in path}
    reads = ["", "/health/live", "/health/ready", "/models/stats"]
    for model in ("/models/{model}", "/models/{model}/versions/{version}"):
        reads += [model + suffix for suffix in ("", "/ready", "/config", "/stats")]
    writes = ["index", "models/{model}/load", "models/{model}/unload"]
    assert paths == {
        **{f"/v2{path}": {"get"} for path in reads},
        **{f"/v2/repository/{path}": {"post"} for path in writes},
        **{path: {"post"} for path in INFER},
    }


def test_every_operation_documents_its_error(service: Any) -> None:
    document = service.get("/openapi.json").json()
    names = []
    for path, operations in document["paths"].items():
        for operation in operations.values():
            names.append(operation["operationId"])
            if path.startswith("/v2"):
                contents = [r.get("content", {}) for r in operation["responses"].values()]
                schemas = [c.get("application/json", {}).get("schema") for c in contents]
                assert FAILURE in schemas, path
    assert len(names) == len(set(names))


def test_inference_is_documented_with_both_forms_and_its_headers(service: Any) -> None:
    document = service.get("/openapi.json").json()
    for path in INFER:
        operation = document["paths"][path]["post"]
        forms = {"application/json", "application/octet-stream"}
        assert set(operation["requestBody"]["content"]) == forms
        assert set(operation["responses"]["200"]["content"]) == forms
        assert {"200", "400", "404", "413", "503"} <= set(operation["responses"])
        assert "Retry-After" in operation["responses"]["503"]["description"]
        headers = {p["name"] for p in operation["parameters"] if p["in"] == "header"}
        assert headers == {"Inference-Header-Content-Length", "Content-Encoding"}


def test_the_examples_match_real_responses(service: Any, protocol: Any) -> None:
    for example in REQUEST_EXAMPLES.values():
        answer = protocol.infer(service, "tiny", example["value"])
        assert answer.status_code == 200
        found, documented = answer.json(), service.get("/openapi.json").json()
        schema = documented["components"]["schemas"]["InferAnswer"]
        assert set(schema["required"]) <= set(found) <= set(schema["properties"])
        assert set(found["outputs"][0]) == set(RESPONSE_EXAMPLE["outputs"][0])  # type: ignore[arg-type]
