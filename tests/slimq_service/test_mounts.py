"""Repositories on volumes that come and go, or that are switched, under real processes."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from builders import build_repository, make_mlp
from mounts import mount, unmount
from waiting import until

ZEROS = {"observations": [[0, 0, 0, 0]]}
FAST = {"SLIMQ_WATCH_SECONDS": "0.02", "SLIMQ_RETRY_SECONDS": "0.1"}


def act(process: Any, variant: str = "fp32") -> httpx.Response:
    url = f"{process.url}/v1/policies/tiny/variants/{variant}/act"
    return httpx.post(url, json=ZEROS, timeout=30)


def ready(process: Any) -> httpx.Response:
    return httpx.get(f"{process.url}/readyz", timeout=30)


def metric(process: Any, name: str) -> float:
    text = httpx.get(f"{process.url}/metrics", timeout=30).text
    values = [row.rpartition(" ")[2] for row in text.splitlines() if row.startswith(name + " ")]
    assert len(values) == 1, name
    return float(values[0])


def events(process: Any, event: str) -> list[Any]:
    lines = [json.loads(line) for line in process.log.read_text().splitlines() if line[:1] == "{"]
    return [line for line in lines if line.get("event") == event]


@contextlib.contextmanager
def asking(process: Any) -> Iterator[list[httpx.Response]]:
    """Two clients that ask `tiny/fp32` without a pause; their answers."""
    ended, answers = threading.Event(), list[httpx.Response]()

    def ask() -> None:
        with httpx.Client(timeout=30) as client:
            url = f"{process.url}/v1/policies/tiny/variants/fp32/act"
            while not ended.is_set():
                answers.append(client.post(url, json=ZEROS))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ended.set()
        for thread in threads:
            thread.join()


class Volume:
    """A repository that can be taken away as a whole and brought back."""

    def __init__(self, root: Path, how: str) -> None:
        self.root, self._how = root, how
        self._disk = root.with_name("disk")
        if how == "unmounted":
            build_repository(self._disk)
            root.mkdir()
            mount("--bind", str(self._disk), at=root)
        else:
            build_repository(root)

    def take(self) -> None:
        if self._how == "unmounted":
            unmount(self.root)
        elif self._how == "missing":
            self.root.rename(self._disk)
        else:
            self._disk.mkdir()
            for path in list(self.root.iterdir()):
                path.rename(self._disk / path.name)

    def bring(self) -> None:
        if self._how == "unmounted":
            mount("--bind", str(self._disk), at=self.root)
        elif self._how == "missing":
            self._disk.rename(self.root)
        else:
            for path in list(self._disk.iterdir()):
                path.rename(self.root / path.name)

    def close(self) -> None:
        if self._how == "unmounted":
            with contextlib.suppress(Exception):
                unmount(self.root)


@pytest.fixture(params=["unmounted", "emptied", "missing"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    made = Volume(tmp_path / "volume", request.param)
    yield made
    made.close()


def test_a_repository_that_is_gone_leaves_memory_serving_and_says_so(
    volume: Volume, launch: Any, tmp_path: Path
) -> None:
    process = launch(volume.root, tmp_path / "log", **FAST)
    before = act(process)
    assert before.status_code == 200
    with asking(process) as answers:
        volume.take()
        until(lambda: ready(process).json()["problem"], 30)
        reported = len(answers)
        until(lambda: len(answers) > reported + 50, 30)
        detail = ready(process)
        assert detail.status_code == 200
        assert str(volume.root) in detail.json()["problem"]
        states = {f"{v['policy']}/{v['variant']}": v for v in detail.json()["variants"]}
        assert states["tiny/fp32"]["state"] == "loaded"
        assert states["tiny/other"]["state"] == "broken"
        assert str(volume.root) in states["tiny/other"]["problem"]
        until(lambda: metric(process, "slimq_repository_readable") == 0, 30)
        assert metric(process, "slimq_ready") == 1
        missing = act(process, "other")
        assert (missing.status_code, missing.json()["code"]) == (503, "repository")
        assert [line["serving"] for line in events(process, "repository cannot be read")] == [1]
        volume.bring()
        until(lambda: ready(process).json()["problem"] is None, 30)
        until(lambda: act(process, "other").status_code == 200, 30)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.content for answer in answers} == {before.content}
    assert len(events(process, "repository can be read again")) == 1
    loads = 'slimq_variant_loads_total{outcome="success",policy="tiny",variant="fp32"}'
    assert metric(process, loads) == 1, "what was in memory is not loaded anew"
    until(lambda: metric(process, "slimq_repository_readable") == 1, 30)
    assert "Traceback" not in process.log.read_text()


def test_a_service_that_has_nothing_in_memory_is_not_ready_while_its_repository_is_gone(
    volume: Volume, launch: Any, tmp_path: Path
) -> None:
    process = launch(volume.root, tmp_path / "log", **FAST)
    assert ready(process).status_code == 200
    volume.take()
    until(lambda: ready(process).status_code == 503, 30)
    assert act(process).status_code == 503
    volume.bring()
    until(lambda: ready(process).status_code == 200, 30)
    until(lambda: act(process).status_code == 200, 30)


def test_one_of_several_policies_can_be_removed(tmp_path: Path, launch: Any) -> None:
    root = build_repository(tmp_path / "policies")
    process = launch(root, tmp_path / "log", **FAST)
    assert act(process).status_code == 200
    shutil.rmtree(root / "tiny")
    until(lambda: act(process).status_code == 404, 30)
    assert ready(process).json()["problem"] is None
    assert {v["policy"] for v in ready(process).json()["variants"]} == {"tiny_frames"}


class KubernetesVolume:
    """A volume as the kubelet writes a ConfigMap: links into a folder that is replaced."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._numbers = itertools.count()
        root.mkdir(parents=True)

    def write(self, source: Path) -> None:
        """Replaces the content: the new folder, the switch of `..data`, the old folder's end."""
        data = self.root / "..data"
        old = data.readlink() if data.is_symlink() else None
        folder = self.root / f"..2026_10_01_12_00_00.{next(self._numbers)}"
        shutil.copytree(source, folder)
        (self.root / "..data_tmp").symlink_to(folder.name)
        (self.root / "..data_tmp").replace(data)
        for path in source.iterdir():
            if not (self.root / path.name).is_symlink():
                (self.root / path.name).symlink_to(f"..data/{path.name}")
        if old is not None:
            shutil.rmtree(self.root / old)


class GitSync:
    """A link to the newest revision's folder, as git-sync keeps it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.root = folder / "current"
        self._numbers = itertools.count()
        folder.mkdir(parents=True)

    def write(self, source: Path) -> None:
        old = self.root.readlink() if self.root.is_symlink() else None
        revision = Path(".worktrees") / f"{next(self._numbers):040x}"
        shutil.copytree(source, self._folder / revision)
        (self._folder / "next").symlink_to(revision)
        (self._folder / "next").replace(self.root)
        if old is not None:
            shutil.rmtree(self._folder / old)


@pytest.mark.parametrize("kind", ["root", "policy", "git-sync"])
def test_a_switched_volume_is_served_without_a_failed_request(
    kind: str, launch: Any, tmp_path: Path, repositories: Any
) -> None:
    volume: Any
    root, source = tmp_path / "mount", repositories.root
    if kind == "git-sync":
        volume, root = GitSync(root), root / "current"
    elif kind == "root":
        volume = KubernetesVolume(root)
    else:
        volume, source = KubernetesVolume(root / "tiny"), source / "tiny"
    volume.write(source)
    process = launch(root, tmp_path / "log", **FAST)
    digests = [act(process).json()["sha256"]]
    with asking(process) as answers:
        for seed in range(10, 16):
            digests.append(repositories.publish("tiny", "fp32", make_mlp(seed)))
            volume.write(source)
            until(lambda: answers and answers[-1].json()["sha256"] == digests[-1], 30)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["sha256"] for answer in answers} <= {*digests}
    assert ready(process).json()["problem"] is None
    assert {v["state"] for v in ready(process).json()["variants"]} <= {"available", "loaded"}
    assert "Traceback" not in process.log.read_text()
    assert events(process, "variant broken") == []
    assert events(process, "repository cannot be read") == []


def test_links_out_of_the_repository_are_refused_by_name_and_the_rest_is_served(
    launch: Any, tmp_path: Path
) -> None:
    root = build_repository(tmp_path / "policies")
    (tmp_path / "outside").write_text("{}")
    targets = {
        "absolute": "/etc/passwd",
        "above": "../../../../../../../../../etc/passwd",
        "beside": "../../../../outside",
        "loop": "variant.json",
    }
    for variant, target in targets.items():
        folder = root / "tiny" / "variants" / variant
        folder.mkdir()
        (folder / "variant.json").symlink_to(target)
    process = launch(root, tmp_path / "log", **FAST)
    for variant in targets:
        answer = act(process, variant)
        assert (answer.status_code, answer.json()["code"]) == (503, "repository")
        assert answer.json()["field"] == f"tiny/variants/{variant}/variant.json"
        assert "symbolic link" in answer.json()["detail"]
    assert act(process).status_code == 200
    states = {v["variant"]: v["state"] for v in ready(process).json()["variants"][:6]}
    assert {variant for variant, state in states.items() if state == "broken"} == {*targets}
