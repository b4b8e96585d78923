"""Publishing that is really killed, really out of space, really concurrent: in forked processes.

A script without threads forks one publisher after another and reads after each death.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimq.core.atomic import TEMPORARY
from slimq.core.errors import RepositoryError
from slimq.core.publish import Publisher, content_entry
from slimq.core.report import EvaluationReport
from slimq.core.repository import Repository
from slimq.core.verification import find_problems

PRELUDE = """
import fcntl, json, os, resource, shutil, signal, sys, time
from pathlib import Path
from slimq.core.errors import RepositoryError
from slimq.core.publish import Publisher, content_entry
from slimq.core.report import EvaluationReport
from slimq.core.repository import Repository

work = Path(sys.argv[1])
operation = sys.argv[2]
original = work / "policies"
models = [path.read_bytes() for path in sorted(work.glob("model-*.onnx"))]


def publish(root, variant, model, base="fp32"):
    repository = Repository(root)
    manifest = repository.variant("tiny", base)
    entry = content_entry("model", ".onnx", model)
    changes = {"name": variant, "model": entry, "report": None}
    Publisher(repository).publish_variant(manifest.model_copy(update=changes), model)


def perform(root):
    repository = Repository(root)
    if operation == "replace":
        publish(root, "fp32", models[0])
    elif operation == "first":
        publish(root, "new", models[0])
    elif operation == "report":
        content = (work / "report.json").read_bytes()
        report = EvaluationReport.model_validate_json(content)
        Publisher(repository).attach_report("tiny", "fp32", report)
    elif operation == "policy":
        entry = content_entry("checkpoint", ".safetensors", b"weights")
        manifest = repository.policy("tiny").model_copy(update={"checkpoint": entry})
        Publisher(repository).publish_policy(manifest, {entry.path: b"weights"})
    elif operation == "promote":
        Publisher(repository).promote("tiny", "other")
    elif operation == "garbage":
        Publisher(repository).collect_garbage("tiny", 0)


def state(root):
    '''Reads everything there is; raises where anything published is not whole.'''
    repository = Repository(root)
    policy = repository.policy("tiny")
    for entry in (policy.checkpoint, policy.calibration):
        if entry:
            repository.read_file("tiny", entry)
    found = {"checkpoint": policy.checkpoint and policy.checkpoint.sha256}
    found["default"] = policy.default_variant
    for variant in repository.variants("tiny"):
        manifest, _ = repository.read_model("tiny", variant)
        report = repository.report("tiny", variant)
        found[variant] = [manifest.model.sha256, report and report.mean]
    return json.dumps(found, sort_keys=True)


def forked(action):
    '''Runs an action in a child; its exit code, or minus the signal that ended it.'''
    child = os.fork()
    if child == 0:
        try:
            action()
        except RepositoryError:
            os._exit(7)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(9)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""

KILL_AT_EVERY_STEP = (
    PRELUDE
    + """
def dying(step, half):
    remaining = [step]

    def wrap(module, name):
        function = getattr(module, name)
        def call(*args, **kwargs):
            remaining[0] -= 1
            if remaining[0] == 0:
                if name == "write" and half:
                    function(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        setattr(module, name, call)

    for name in ("open", "write", "fsync", "replace", "mkdir", "utime", "close", "unlink"):
        wrap(os, name)
    wrap(fcntl, "flock")


old = state(original)
perform_on = work / "copy"
outcomes = []
for half in (False, True):
    for step in range(1, 500):
        shutil.rmtree(perform_on, ignore_errors=True)
        shutil.copytree(original, perform_on)
        code = forked(lambda: (dying(step, half), perform(perform_on)))
        after = state(perform_on)
        perform(perform_on)  # whoever comes next is not held up and can publish again
        recovered = state(perform_on)
        Publisher(Repository(perform_on)).collect_garbage("tiny", 0)
        assert state(perform_on) == recovered
        left = [path.name for path in perform_on.rglob(".tmp-*")]
        outcomes.append([step, code, after == old, after == recovered, left])
        if code == 0:
            break
print(json.dumps(outcomes))
"""
)

KILL_AT_ANY_TIME = (
    PRELUDE
    + """
def forever():
    while True:
        for model in models:
            publish(original, "fp32", model)


seen = set()
reads = 0
for attempt in range(30):
    child = os.fork()
    if child == 0:
        forever()
    deadline = time.monotonic() + 0.003 + attempt * 0.0017
    while time.monotonic() < deadline:
        seen.add(state(original))
        reads += 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    seen.add(state(original))
    publish(original, "fp32", models[attempt % len(models)])
print(json.dumps([len(seen), reads]))
"""
)

TWO_AT_ONCE = (
    PRELUDE
    + """
def publisher(mine):
    for number in range(12):
        publish(original, "fp32", models[number % len(models)], base="other")
        publish(original, f"{mine}-{number}", models[number % len(models)])
        Publisher(Repository(original)).collect_garbage("tiny", 60)


children = []
for mine in ("a", "b"):
    child = os.fork()
    if child == 0:
        try:
            publisher(mine)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(9)
        os._exit(0)
    children.append(child)
codes = []
while children:
    state(original)
    for child in list(children):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            children.remove(child)
            codes.append(os.waitstatus_to_exitcode(status))
print(json.dumps([codes, Repository(original).variants("tiny"), state(original)]))
"""
)

FULL_DISK = (
    PRELUDE
    + """
def limited(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    perform(original)


old = state(original)
outcomes = []
for limit in [0, 1, 100, 300, len(models[0]) - 1, len(models[0]), len(models[0]) + 50]:
    code = forked(lambda: limited(limit))
    left = [path.name for path in original.rglob(".tmp-*")]
    outcomes.append([limit, code, state(original) == old, left])
print(json.dumps([outcomes, forked(lambda: perform(original)), state(original) != old]))
"""
)


@pytest.fixture
def script(
    tmp_path: Path,
    tiny_repository: Path,
    mlp: Callable[..., bytes],
    report_of: Callable[..., EvaluationReport],
) -> Callable[..., Any]:
    """`script(source, operation)` runs a script on the repository and answers what it printed."""
    repository = Repository(tiny_repository)
    report = report_of(repository.variant("tiny", "fp32"))
    (tmp_path / "report.json").write_text(report.model_dump_json(), encoding="utf-8")
    for seed in range(4):
        (tmp_path / f"model-{seed}.onnx").write_bytes(mlp(100 + seed))

    def call(source: str, operation: str = "") -> Any:
        command = [sys.executable, "-c", source, str(tmp_path), operation]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])  # after the log of who waited

    return call


@pytest.mark.parametrize(
    "operation", ["replace", "first", "report", "policy", "promote", "garbage"]
)
def test_a_publish_killed_at_any_step_leaves_the_old_or_the_new(
    script: Any, operation: str, tiny_repository: Path
) -> None:
    if operation == "garbage":
        for number in range(3):
            stray = tiny_repository / f"tiny/variants/fp32/model-00000000000{number}.onnx"
            stray.write_bytes(b"stray")
    outcomes = script(KILL_AT_EVERY_STEP, operation)
    killed = [outcome for outcome in outcomes if outcome[1] == -9]
    assert len(killed) >= (10 if operation in ("garbage", "promote") else 40)
    assert [outcome[1] for outcome in outcomes if outcome[1] != -9] == [0, 0]
    assert all(was_old or was_new for _, _, was_old, was_new, _ in outcomes)
    assert all(left == [] for *_, left in outcomes)
    if operation != "garbage":
        assert any(was_old and not was_new for _, _, was_old, was_new, _ in killed)
        assert any(was_new and not was_old for _, _, was_old, was_new, _ in killed)


def test_a_publisher_killed_at_any_time_never_disturbs_readers(script: Any) -> None:
    states, reads = script(KILL_AT_ANY_TIME)
    assert states >= 4
    assert reads >= 30


def test_two_publishers_at_once_lose_nothing(script: Any, repository: Repository) -> None:
    codes, variants, _ = script(TWO_AT_ONCE)
    assert codes == [0, 0]
    expected = [f"{mine}-{number}" for mine in "ab" for number in range(12)]
    assert variants == sorted([*expected, "fp32", "other"])
    assert find_problems(repository, "tiny") == []


@pytest.mark.parametrize("operation", ["replace", "report"])
def test_a_full_disk_loses_nothing_and_leaves_nothing(script: Any, operation: str) -> None:
    outcomes, finally_code, changed = script(FULL_DISK, operation)
    assert [outcome[1:] for outcome in outcomes] == [[7, True, []]] * len(outcomes)
    assert (finally_code, changed) == (0, True)


def test_a_full_disk_is_explained(
    publisher: Publisher,
    mlp: Any,
    variant_manifest: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*args: Any) -> int:
        raise OSError(28, "No space left on device")

    model = mlp(5)
    manifest = variant_manifest("tiny", "new", content_entry("model", ".onnx", model))
    monkeypatch.setattr("os.write", full)
    path = manifest.model.path
    message = f"tiny/variants/new: cannot be published: {path}: No space left on device; nothing"
    with pytest.raises(RepositoryError, match=message):
        publisher.publish_variant(manifest, model)
    assert list(publisher.root.rglob(f"{TEMPORARY}*")) == []
    assert not (publisher.root / "tiny/variants/new").exists()
