from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policy_files import dense, q_net, sb3_zip, write_states
from slimq.core import atomic, publish
from slimq.core.errors import InvalidInputError, RepositoryError
from slimq.core.repository import Repository
from slimq.core.verification import find_problems
from slimq.importing.importer import Prepared, Request, prepare
from slimq.importing.publication import publish as publish_policy
from slimq.importing.source import Hints


def make(tmp_path: Path, seed: int = 0) -> Prepared:
    path = sb3_zip(tmp_path / f"x{seed}.zip", q_net(dense(4, 6, 2, seed=seed)))
    observations = np.random.default_rng(0).normal(size=(20, 4))
    states = write_states(tmp_path / "states.npz", observations=observations)
    return prepare(Request(path, "mine", Hints(), states=states))


def listing(root: Path) -> dict[str, Any]:
    files = (p for p in root.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def fail_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Makes a disk full at the given write."""
    calls = iter(range(1, 100))
    write = atomic.write_atomically

    def full(path: Path, content: bytes) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(publish, "write_atomically", full)


def test_a_policy_is_published_with_its_baseline(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "policies")
    publish_policy(repository, make(tmp_path))
    assert repository.policies() == ["mine"]
    assert repository.variants("mine") == ["fp32"]
    assert find_problems(repository, "mine") == []
    assert [path.name for path in (tmp_path / "policies").iterdir()] == ["mine"]


@pytest.mark.parametrize("call", range(1, 7))
def test_a_full_disk_leaves_nothing_of_a_new_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    prepared = make(tmp_path)
    fail_at(monkeypatch, call)
    with pytest.raises(RepositoryError, match="No space left"):
        publish_policy(Repository(tmp_path / "policies"), prepared)
    assert not (tmp_path / "policies").exists()


@pytest.mark.parametrize("call", range(1, 7))
def test_a_full_disk_leaves_the_policy_that_was_to_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    repository = Repository(tmp_path / "policies")
    publish_policy(repository, make(tmp_path))
    before = listing(repository.root)
    prepared = make(tmp_path, seed=1)
    fail_at(monkeypatch, call)
    with pytest.raises(RepositoryError, match="No space left"):
        publish_policy(repository, prepared, replace=True)
    after = listing(repository.root)
    assert {name: after[name] for name in before} == before
    assert find_problems(repository, "mine") == []


def test_an_existing_policy_is_kept_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "policies")
    publish_policy(repository, make(tmp_path))
    prepared = make(tmp_path, seed=1)
    with pytest.raises(InvalidInputError, match="--policy: expected an unused name, or --replace"):
        publish_policy(repository, prepared)
    publish_policy(repository, prepared, replace=True)
    assert repository.policy("mine") == prepared.manifest
    assert find_problems(repository, "mine") == []
