from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slimq.core.errors import InvalidInputError, ObservationError
from slimq.core.repository import Repository
from slimq.loadtest.requests import (
    MAX_BODIES,
    Address,
    make_bodies,
    make_head,
    read_calibration,
    refuse_credentials,
    same_host,
)


@pytest.mark.parametrize(
    ("url", "address", "authority"),
    [
        ("http://host:8000", Address("host", 8000, False, ""), "host:8000"),
        ("http://host", Address("host", 80, False, ""), "host"),
        ("https://host/slimq", Address("host", 443, True, "/slimq"), "host"),
        ("http://[::1]:8000", Address("::1", 8000, False, ""), "[::1]:8000"),
        (
            "http://b\u00fccher.example/\u00fc/",
            Address("xn--bcher-kva.example", 80, False, "/%C3%BC"),
            "xn--bcher-kva.example",
        ),
    ],
)
def test_an_address_is_read_from_a_url(url: str, address: Address, authority: str) -> None:
    assert Address.parse(url) == address
    assert address.authority == authority


def test_an_address_beyond_ascii_makes_a_head() -> None:
    head = make_head(Address.parse("http://b\u00fccher.example/\u00fc"), "pong", "int8", 7, None)
    assert head.startswith(b"POST /%C3%BC/v1/policies/pong/variants/int8/act HTTP/1.1\r\n")


def test_an_address_with_a_password_is_refused_without_repeating_it() -> None:
    refuse_credentials("http://host:8000", "URL")
    refuse_credentials("", "--metrics")
    for url in ("http://user:pw@host:8000", "http://user@host/metrics", "https://:pw@host"):
        with pytest.raises(InvalidInputError, match=r"URL: expected .* --api-key") as refused:
            refuse_credentials(url, "URL")
        assert "pw" not in str(refused.value)
        assert "user" not in str(refused.value)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("https://host/metrics", True),
        ("https://HOST:9090/metrics", True),
        ("http://host/metrics", False),
        ("https://host.example/metrics", False),
        ("https://exa mple:port", False),
    ],
)
def test_a_key_goes_to_its_own_host_only(other: str, same: bool) -> None:
    assert same_host("https://host:8443/slimq", other) == same


def test_the_head_is_one_that_a_service_takes() -> None:
    head = make_head(Address("host", 80, False, "/slimq"), "po ng", "int8", 7, "s3cret")
    line, *headers = head.decode().removesuffix("\r\n\r\n").split("\r\n")
    assert line == "POST /slimq/v1/policies/po%20ng/variants/int8/act HTTP/1.1"
    assert headers == [
        "host: host",
        "content-type: application/octet-stream",
        "content-length: 7",
        "authorization: Bearer s3cret",
    ]


def test_bodies_are_the_observations_spread_over_the_set(tiny_repository: Path) -> None:
    repository = Repository(tiny_repository)
    spec = repository.policy("tiny_frames").observation
    states = read_calibration(repository, "tiny_frames", spec)
    assert states.shape == (16, 4, 84, 84)
    bodies = make_bodies(states, spec, 3)
    assert len(bodies) == 16
    for index, body in enumerate(bodies):
        rows = np.frombuffer(body, np.uint8).reshape(3, 4, 84, 84)
        expected = states[(index + np.arange(3)) % 16]
        np.testing.assert_array_equal(rows, expected)


def test_many_observations_are_thinned_out(tiny_repository: Path) -> None:
    spec = Repository(tiny_repository).policy("tiny").observation
    states = np.arange(4000, dtype=np.float32).reshape(1000, 4)
    bodies = make_bodies(states, spec, 1)
    assert len(bodies) == MAX_BODIES
    firsts = [float(np.frombuffer(body, np.float32)[0]) for body in bodies]
    assert firsts == sorted(set(firsts))
    assert firsts[-1] > 3900


def test_observations_of_another_layout_are_refused(tiny_repository: Path) -> None:
    spec = Repository(tiny_repository).policy("tiny").observation
    with pytest.raises(ObservationError, match=r"shape \(batch, 4\), received shape \(2, 3\)"):
        make_bodies(np.zeros((2, 3), np.float32), spec, 1)


def test_without_observations_it_says_where_to_give_them(
    tiny_repository: Path, tmp_path: Path
) -> None:
    repository = Repository(tiny_repository)
    spec = repository.policy("tiny").observation
    expected = "--policies: expected a repository with real observations of {}, or --input FILE"
    with pytest.raises(InvalidInputError, match=expected.format("tiny")) as missing:
        read_calibration(Repository(tmp_path / "none"), "tiny", spec)
    assert str(missing.value).endswith("none, which is not a folder")
    with pytest.raises(InvalidInputError, match=expected.format("pong")) as unknown:
        read_calibration(repository, "pong", spec)
    assert "available: tiny, tiny_frames" in str(unknown.value)
    path = tiny_repository / "tiny" / "policy.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "calibration": None}))
    with pytest.raises(InvalidInputError, match="where tiny has no calibration set"):
        read_calibration(repository, "tiny", spec)


def test_a_calibration_set_of_another_layout_than_the_services_is_refused(
    tiny_repository: Path,
) -> None:
    repository = Repository(tiny_repository)
    spec = repository.policy("tiny").observation.model_copy(update={"shape": (5,)})
    with pytest.raises(ObservationError, match=r"calibration: expected shape \(batch, 5\)"):
        read_calibration(repository, "tiny", spec)
