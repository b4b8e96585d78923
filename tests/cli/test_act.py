from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimq.core.client import SlimqClient

OBSERVATIONS = np.array([[0.1, 0.2, 0.3, 0.4], [1, -1, 1, -1]], np.float32)


def npy_of(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_json_says_what_the_service_answered(served: str, slimq: Any, tmp_path: Path) -> None:
    path = tmp_path / "observations.npy"
    path.write_bytes(npy_of(OBSERVATIONS))
    done = slimq("act", "tiny", "--url", served, "--variant", "other", "--input", path, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    with SlimqClient(served) as client:
        result = client.act("tiny", OBSERVATIONS, "other")
    assert document["variant"] == "other"
    assert document["sha256"] == result.sha256
    assert document["actions"] == result.actions.tolist()
    found = np.array(document["q_values"], np.float32)
    np.testing.assert_array_equal(found, result.q_values)


def test_text_names_each_action(served: str, slimq: Any) -> None:
    text = json.dumps({"observations": OBSERVATIONS.tolist()})
    done = slimq("act", "tiny", "--url", served, "--input", "-", input=text)
    assert done.returncode == 0, done.stderr
    first, *rows = done.stdout.splitlines()
    assert first.startswith("tiny fp32 ")
    assert len(rows) == 2
    assert all(row.split()[1] in ("left", "right") for row in rows)


def test_npy_comes_through_stdin(served: str, slimq: Any) -> None:
    content = npy_of(np.zeros((2, 4, 84, 84), np.uint8))
    arguments = ("act", "tiny_frames", "--url", served, "--input", "-", "--json")
    done = slimq(*arguments, input=content, text=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["actions"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pong",), "available: tiny, tiny_frames"),
        (("tiny", "--variant", "int8"), "available: fp32, other"),
        (("tiny_frames",), "shape (batch, 4, 84, 84)"),
    ],
)
def test_wrong_usage_is_one_line_that_says_what_is_expected(
    served: str, slimq: Any, arguments: tuple[str, ...], message: str
) -> None:
    done = slimq("act", *arguments, "--url", served, "--input", "-", input="[[1, 2, 3, 4]]")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_the_key_is_sent_to_a_guarded_service(served_with: Any, slimq: Any, tmp_path: Path) -> None:
    url = served_with(SLIMQ_API_KEY="s3cret")
    arguments = ("act", "tiny", "--url", url, "--input", "-")
    for options, variables in (
        (("--api-key", "s3cret"), {}),
        ((), {"SLIMQ_API_KEY": "s3cret"}),
    ):
        done = slimq(*arguments, *options, input="[[1, 2, 3, 4]]", variables=variables)
        assert done.returncode == 0, done.stderr
    done = slimq(*arguments, "--api-key", "wr0ng", input="[[1, 2, 3, 4]]")
    assert done.returncode == 2
    assert "401 Authorization: expected Bearer KEY" in done.stderr
    assert "wr0ng" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
