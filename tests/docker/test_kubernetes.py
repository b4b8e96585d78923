"""The example for Kubernetes: what the schemas say, and what fits each other and the service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator import v1 as operator

from slimq_service.metrics.registry import Registry
from slimq_service.metrics.service import Metrics
from slimq_service.settings import Settings
from slimq_service.settings_reading import unknown_variables

FOLDER = Path(__file__).parents[2] / "docker" / "kubernetes"
VERSION = "1.33"
OTHERS = {"kustomization.yaml", "adapter-values.yaml"}
"""Files for other programs than Kubernetes itself."""


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def manifests() -> list[str]:
    return sorted(path.name for path in FOLDER.glob("*.yaml") if path.name not in OTHERS)


@pytest.mark.parametrize("name", [name for name in manifests() if name != "servicemonitor.yaml"])
def test_a_document_is_what_kubernetes_expects(name: str) -> None:
    kubernetes_validate.validate(read(name), VERSION, strict=True)


def test_a_document_with_an_unknown_field_is_refused() -> None:
    deployment = read("deployment.yaml")
    deployment["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSION, strict=True)


def test_the_monitor_is_what_the_operator_expects() -> None:
    document = read("servicemonitor.yaml")
    monitor = operator.ServiceMonitor.model_validate(document)
    known = monitor.model_dump(by_alias=True, exclude_unset=True)
    assert known == document  # the model drops what it does not know


def test_kustomize_is_given_every_document() -> None:
    assert sorted(read("kustomization.yaml")["resources"]) == manifests()


def test_selectors_ports_and_claims_fit_each_other() -> None:
    deployment, service = read("deployment.yaml")["spec"], read("service.yaml")
    pod = deployment["template"]
    labels = pod["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert read("disruption.yaml")["spec"]["selector"]["matchLabels"] == labels
    monitor = read("servicemonitor.yaml")["spec"]
    assert monitor["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "slimq"
    (port,) = service["spec"]["ports"]
    assert monitor["endpoints"][0]["port"] == port["name"]
    (container,) = pod["spec"]["containers"]
    assert port["targetPort"] in {one["name"] for one in container["ports"]}
    claims = [v["persistentVolumeClaim"] for v in pod["spec"]["volumes"] if "emptyDir" not in v]
    assert claims == [{"claimName": read("policies.yaml")["metadata"]["name"], "readOnly": True}]
    assert read("hpa.yaml")["spec"]["scaleTargetRef"]["name"] == "slimq"


def test_the_container_has_settings_that_are_read_and_time_to_end() -> None:
    pod = read("deployment.yaml")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    assert unknown_variables(variables) == {}
    values = {name.removeprefix("SLIMQ_").lower(): value for name, value in variables.items()}
    settings = Settings(**values)
    ending = settings.drain_seconds + settings.shutdown_seconds
    assert pod["terminationGracePeriodSeconds"] > ending
    ready = container["readinessProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] < settings.drain_seconds
    assert pod["enableServiceLinks"] is False  # a Service named slimq would set SLIMQ_PORT


def test_replicas_follow_a_metric_that_the_service_has() -> None:
    (metric,) = read("hpa.yaml")["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    (rule,) = read("adapter-values.yaml")["rules"]["custom"]
    assert rule["seriesQuery"].startswith(f"{name}{{")
    registry = Registry()
    Metrics(registry)
    assert f"\n{name} 0.0\n" in registry.render()
