"""What the system lets the process have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from structlog.testing import capture_logs

from slimq_service.server.process_limits import (
    RESERVED_FILES,
    available_memory,
    limit_memory,
    raise_file_limit,
)

resource = pytest.importorskip("resource")
LIMIT = 3 * 2**29
"""Bytes; what a process of the tests takes is far less."""


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a test choose the limits on open files; they are what `set` has left them at."""
    kept = {"limits": (0, 0)}

    def choose(soft: int, hard: int) -> dict[str, Any]:
        kept["limits"] = (soft, hard)
        return kept

    monkeypatch.setattr(resource, "getrlimit", lambda _: kept["limits"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: kept.update(limits=limits))
    return choose


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "left"),
    [
        (50_000, 60_000, 1000, 50_000),
        (256, 60_000, 1000, 1000 + RESERVED_FILES),
        (256, resource.RLIM_INFINITY, 1000, 1000 + RESERVED_FILES),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1000, resource.RLIM_INFINITY),
        (256, 1024, 1024 - RESERVED_FILES, 1024),
        (64, 64, 1, 64),
    ],
)
def test_as_many_connections_are_allowed_as_files_can_be_opened(
    files: Any, soft: int, hard: int, allowed: int, left: int
) -> None:
    kept = files(soft, hard)
    with capture_logs() as logs:
        assert raise_file_limit(1000) == allowed
    assert kept["limits"] == (left, hard)
    assert [log["allowed"] for log in logs] == ([] if allowed == 1000 else [allowed])


def test_a_process_that_may_open_few_files_says_so_and_serves(launch_once: Any) -> None:
    server = launch_once(SLIMQ_MAX_CONNECTIONS="1000000")
    logs = [json.loads(line) for line in server.log.read_text().splitlines()]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fewer = [log for log in logs if log["event"] == "open-file limit allows fewer connections"]
    assert bool(fewer) == (hard != resource.RLIM_INFINITY and hard < 1_000_000 + RESERVED_FILES)


def test_the_container_counts_where_it_has_less_than_the_machine(tmp_path: Path) -> None:
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text("1048576\n")
    (tmp_path / "none").write_text("9223372036854771712\n")
    machine = available_memory(())
    assert machine > 2**26
    unlimited = [str(tmp_path / name) for name in ("max", "none", "missing")]
    assert available_memory(unlimited) == machine
    assert available_memory([*unlimited, str(tmp_path / "limit")]) == 2**20


ALLOCATE = """
import sys
from slimq_service.server.process_limits import limit_memory
limit = limit_memory(int(sys.argv[1]) if sys.argv[1] != "None" else None)
try:
    bytearray(int(sys.argv[2]))
except MemoryError:
    print(limit, "refused")
else:
    print(limit, "granted")
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds processes to it")


def allocate(limit: int | None, size: int) -> tuple[int, str]:
    command = [sys.executable, "-c", ALLOCATE, str(limit), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    bound, word = done.stdout.split()
    return int(bound), word


@linux
def test_memory_has_an_end() -> None:
    assert allocate(LIMIT, 2**20) == (LIMIT, "granted")
    assert allocate(LIMIT, 2 * LIMIT) == (LIMIT, "refused")
    bound, word = allocate(None, 2**20)
    assert word == "granted"
    assert bound > available_memory()
    assert allocate(None, 2 * bound)[1] == "refused"


@linux
def test_a_lower_limit_stays(files: Any) -> None:
    kept = files(2**28, resource.RLIM_INFINITY)
    assert limit_memory(2**30) is None
    assert kept["limits"] == (2**28, resource.RLIM_INFINITY)
    files(resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert limit_memory(2**30) == 2**30
    assert kept["limits"] == (2**30, resource.RLIM_INFINITY)


def test_other_systems_have_no_such_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimq_service.server.process_limits.sys.platform", "darwin")
    assert limit_memory(2**30) is None


def greedy_model(elements: int) -> bytes:
    """Fits the policy `tiny`, and needs four bytes for each of so many elements."""
    nodes = [
        helper.make_node("ConstantOfShape", ["count"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["observation", "w"], ["hidden"]),
        helper.make_node("Add", ["hidden", "sum"], ["q_values"]),
    ]
    constants = {"count": np.array([elements], np.int64), "w": np.ones((4, 2), np.float32)}
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


@linux
def test_a_model_that_asks_for_more_memory_than_there_may_be_is_refused_by_name(
    repositories: Any, launch: Any, tmp_path: Path
) -> None:
    repositories.publish("tiny", "other", greedy_model(LIMIT // 4))
    server = launch(repositories.root, tmp_path / "log", SLIMQ_MEMORY_LIMIT_BYTES=str(LIMIT))
    act = {"json": {"observations": [[0] * 4]}, "timeout": 60}
    answer = httpx.post(server.url + "/v1/policies/tiny/variants/other/act", **act)
    assert answer.status_code == 503
    assert "tiny/other" in answer.json()["detail"]
    assert "memory" in answer.json()["detail"]
    assert httpx.post(server.url + "/v1/policies/tiny/act", **act).status_code == 200
    logs = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert "variant broken" in [log["event"] for log in logs], "and nothing but our own lines"
