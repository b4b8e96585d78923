"""The compose files: what every service is denied, what is published, what can be set."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = ("docker-compose.yml", "docker-compose.replicas.yml")


class Loader(yaml.SafeLoader):
    """Reads compose's own tag, too."""


Loader.add_constructor("!reset", lambda loader, node: loader.construct_sequence(node))


def read(name: str) -> dict[str, Any]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return dict(yaml.load(text, Loader)["services"])


def new_services() -> list[tuple[str, dict[str, Any]]]:
    """Every service in the file that brings it."""
    first, second = (read(name) for name in FILES)
    return [*first.items(), *((name, s) for name, s in second.items() if name not in first)]


@pytest.mark.parametrize(
    ("name", "service"), new_services(), ids=lambda v: v if v == str(v) else ""
)
def test_a_service_has_few_rights_and_limits(name: str, service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}


@pytest.mark.parametrize(
    ("name", "service"), new_services(), ids=lambda v: v if v == str(v) else ""
)
def test_what_is_published_is_on_this_machine_only(name: str, service: dict[str, Any]) -> None:
    ports = service.get("ports", [])
    assert len(ports) == (name in {"service", "prometheus", "grafana", "proxy"})
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_behind_the_proxy_no_replica_is_published() -> None:
    assert read(FILES[1])["service"]["ports"] == []


def test_only_the_trainer_can_write_policies() -> None:
    for name, service in new_services():
        for volume in service.get("volumes", []):
            if isinstance(volume, dict) and volume["type"] == "bind":
                assert volume.get("read_only", False) is (name != "trainer")


def test_who_starts_after_whom() -> None:
    services = dict(new_services())
    after = {name: set(service.get("depends_on", {})) for name, service in services.items()}
    assert after["prometheus"] == after["proxy"] == {"service"}
    assert after["grafana"] == {"prometheus"}
    for service in services.values():
        for condition in service.get("depends_on", {}).values():
            assert condition == {"condition": "service_healthy"}


def test_every_image_has_a_version() -> None:
    images = [service["image"] for _, service in new_services() if "image" in service]
    assert len(images) == 6
    for image in images:
        assert re.search(r":(v?\d+\.\d+\.\d+(-alpine)?|\$\{SLIMQ_TAG:-latest\})$", image), image


def test_the_example_names_every_variable_with_what_holds_without_it() -> None:
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in FILES)
    used = dict(re.findall(r"\$\{([A-Z_]+)(?::-([^}]*))?", text))
    example = (ROOT / "docker" / "example.env").read_text(encoding="utf-8")
    stated = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", example, flags=re.MULTILINE))
    assert stated == used


def test_nothing_has_to_be_set() -> None:
    """`${NAME:?}` and `${NAME?}` would demand it."""
    for name in FILES:
        assert not re.search(r"\$\{[A-Z_]+:?\?", (ROOT / name).read_text(encoding="utf-8"))


def test_grafana_is_read_without_a_login_and_nobody_knows_the_password_of_admin(
    tmp_path: Path,
) -> None:
    grafana = read(FILES[0])["grafana"]
    environment = grafana["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "${GRAFANA_ANONYMOUS:-true}"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    program = tmp_path / "run.sh"
    program.write_text('#!/bin/sh\nprintf %s "$GF_SECURITY_ADMIN_PASSWORD"\n')
    program.chmod(0o755)

    def started(password: str) -> str:
        shell, option, script = grafana["entrypoint"]
        script = script.replace("$$", "$").replace("/run.sh", str(program))
        command, variables = [shell, option, script], {**os.environ, "GRAFANA_PASSWORD": password}
        done = subprocess.run(command, env=variables, check=True, capture_output=True, text=True)
        return done.stdout

    assert started("of my own $x") == "of my own $x"
    first, second = started(""), started("")
    assert len(first) == len(second) == 32
    assert first != second


def test_the_proxy_learns_of_an_ending_replica_before_it_closes() -> None:
    """Two checks that say no, a second apart, and what a stop may take."""
    text = (ROOT / "docker" / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
    (server,) = re.findall(r"^ *default-server check inter (\d+)s fall (\d+)", text, re.MULTILINE)
    service = read(FILES[1])["service"]
    drain = int(
        re.sub(
            r"^\$\{SLIMQ_DRAIN_SECONDS:-(\d+)\}$",
            r"\1",
            service["environment"]["SLIMQ_DRAIN_SECONDS"],
        )
    )
    assert drain >= 2 * int(server[0]) * int(server[1])
    assert int(service["stop_grace_period"].removesuffix("s")) > drain + 30


def test_the_load_test_has_the_key_that_the_service_has() -> None:
    services = dict(new_services())
    assert services["loadtest"]["env_file"] == services["service"]["env_file"]
    # A variable without a value here would take away the one of the file.
    assert "SLIMQ_API_KEY" not in services["service"].get("environment", {})
