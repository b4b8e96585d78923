from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from full_disk import contents
from hub_server import TOKEN, Hub, HubRepository, run_hub
from running import COMMAND
from slimq.core.repository import Repository
from slimq.core.verification import find_problems

SHIPPED = Path(__file__).parents[2] / "policies"
REPO = "someone/cartpole"

# huggingface_hub 2.4 uploads in a way that its client calls out of date.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, which this process and those that it starts know, with the owner's token."""
    with run_hub() as found:
        for name, value in variables(found, tmp_path).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield found


def variables(hub: Hub, home: Path) -> dict[str, str]:
    # Xet, a storage of Hugging Face's own, is not part of the protocol.
    own = {"HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
    return {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, **own}


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A repository with one shipped policy, the smallest."""
    root = tmp_path / "mine"
    shutil.copytree(SHIPPED / "cliffwalking", root / "cliffwalking")
    return root


@pytest.fixture(scope="module")
def first_push(tmp_path_factory: pytest.TempPathFactory) -> tuple[HubRepository, list[str]]:
    """What a hub has after the policy was pushed, and the requests that it got."""
    home = tmp_path_factory.mktemp("pushed")
    with run_hub() as hub:
        command = [*COMMAND, "policies", "push", "cliffwalking", REPO, "--policies", str(SHIPPED)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=variables(hub, home), timeout=300
        )
        assert done.returncode == 0, done.stderr
        return hub.repositories[REPO], hub.requests


@pytest.fixture
def pushed(hub: Hub, first_push: tuple[HubRepository, list[str]]) -> HubRepository:
    """The pushed policy, on a hub of the test's own."""
    hub.repositories[REPO] = copy.deepcopy(first_push[0])
    return hub.repositories[REPO]


@pytest.fixture
def push(invoke: Any, tmp_path: Path, shared: Path) -> Any:
    """`push("cliffwalking", "--force", …)` from `shared`, with a short card."""
    card = tmp_path / "short-card"
    card.mkdir()
    (card / "README.md").write_text('---\nlibrary_name: "slimq"\ntags: []\n---\n')

    def call(policy: str, *options: str) -> subprocess.CompletedProcess[str]:
        where = ("--policies", str(shared), "--endpoint", os.environ["HF_ENDPOINT"])
        own = () if "--card" in options else ("--card", str(card))
        code, out, errors = invoke("policies", "push", policy, REPO, *where, *own, *options)
        return subprocess.CompletedProcess((), code, out, errors)

    return call


@pytest.fixture
def pull(invoke: Any, tmp_path: Path) -> Any:
    """`pull("--revision", …)` into `tmp_path / "theirs"`."""

    def call(*options: str) -> subprocess.CompletedProcess[str]:
        folder = str(tmp_path / "theirs")
        endpoint = () if "--endpoint" in options else ("--endpoint", os.environ["HF_ENDPOINT"])
        code, out, errors = invoke(
            *("policies", "pull", REPO, "--policies", folder, *endpoint, *options)
        )
        return subprocess.CompletedProcess((), code, out, errors)

    return call


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("slimq: ")]
    return line.removeprefix("slimq: ")


def published(folder: Path) -> dict[str, bytes]:
    return {name: text for name, text in contents(folder).items() if not name.endswith(".lock")}


def test_a_policy_comes_back_as_it_went(
    pushed: HubRepository, shared: Path, pull: Any, tmp_path: Path
) -> None:
    done = pull("--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["policy"], found["commit"]) == ("cliffwalking", pushed.branches["main"])
    assert published(tmp_path / "theirs") == published(shared)
    repository = Repository(tmp_path / "theirs")
    assert found["variants"] == repository.variants("cliffwalking")
    assert find_problems(repository, "cliffwalking") == []


def test_a_push_is_the_policy_and_its_card_in_one_commit(
    first_push: tuple[HubRepository, list[str]], shared: Path
) -> None:
    pushed, requests = first_push
    files = {
        name: text
        for name, text in contents(shared / "cliffwalking").items()
        if (shared / "cliffwalking" / name).is_file() and name != ".lock"
    }
    tree = dict(pushed.tree)
    assert {name: tree.pop(name) for name in files} == files
    assert tree.pop(".gitattributes")
    card = tree.pop("README.md").decode()
    assert f"slimq policies pull {REPO} " in card
    assert card.startswith('---\nlibrary_name: "slimq"\n')
    assert all(name.startswith("plots/") for name in tree)
    assert len([line for line in requests if "/commit/" in line]) == 1
    assert any(line.startswith("PUT /objects/") for line in requests)  # models by content


def test_a_second_push_removes_what_is_gone(
    pushed: HubRepository, shared: Path, push: Any, hub: Hub
) -> None:
    names = Repository(shared).variants("cliffwalking")
    gone = next(name for name in names if name != "fp32")
    shutil.rmtree(shared / "cliffwalking" / "variants" / gone)
    done = push("cliffwalking", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["removed"] >= 3
    assert not any(f"/{gone}/" in path for path in hub.repositories[REPO].tree)
    assert len(hub.repositories[REPO].commits) == 3


@pytest.mark.slow
def test_a_card_with_its_replay_is_pushed(
    hub: Hub, shared: Path, slimq: Any, push: Any, tmp_path: Path
) -> None:
    replay = tmp_path / "own.gif"
    replay.write_bytes(b"GIF89a\0")
    card = tmp_path / "card"
    arguments = ("--policies", shared, "--output", card, "--replay", replay)
    assert slimq("card", "cliffwalking", *arguments).returncode == 0
    done = push("cliffwalking", "--card", str(card))
    assert done.returncode == 0, done.stderr
    assert hub.repositories[REPO].tree["replay.gif"] == b"GIF89a\0"
    assert hub.repositories[REPO].tree["README.md"] == (card / "README.md").read_bytes()


def test_another_name_keeps_the_models(
    pushed: HubRepository, shared: Path, pull: Any, tmp_path: Path
) -> None:
    done = pull("--policy", "walker")
    assert done.returncode == 0, done.stderr
    mine, theirs = Repository(shared), Repository(tmp_path / "theirs")
    assert theirs.policies() == ["walker"]
    assert find_problems(theirs, "walker") == []
    for name in mine.variants("cliffwalking"):
        assert theirs.variant("walker", name).model == mine.variant("cliffwalking", name).model
        before, after = mine.report("cliffwalking", name), theirs.report("walker", name)
        assert before is not None
        assert after is not None
        assert (after.policy, after.returns) == ("walker", before.returns)


def test_a_taken_name_is_refused_unless_forced(
    pushed: HubRepository, shared: Path, pull: Any, tmp_path: Path, hub: Hub
) -> None:
    assert pull().returncode == 0
    (tmp_path / "theirs/cliffwalking/variants/mine").mkdir()
    before = contents(tmp_path / "theirs")
    hub.requests.clear()
    done = pull()
    assert done.returncode == 2
    assert (
        "an unused name, or --force, received 'cliffwalking', which already exists" in done.stderr
    )
    assert contents(tmp_path / "theirs") == before
    assert not any(".onnx" in line for line in hub.requests)  # refused before models are fetched
    assert pull("--force").returncode == 0
    assert published(tmp_path / "theirs") == published(shared)


def test_an_earlier_commit_can_be_pulled(
    pushed: HubRepository, shared: Path, pull: Any, push: Any, tmp_path: Path
) -> None:
    first = pushed.branches["main"]
    before = published(shared)
    shutil.rmtree(next((shared / "cliffwalking/variants").glob("[!f]*")))
    assert push("cliffwalking").returncode == 0
    assert pull("--revision", first).returncode == 0
    assert published(tmp_path / "theirs") == before


def tampered(tree: dict[str, bytes], how: str) -> dict[str, bytes]:
    """A commit's files with one of them changed."""
    model = next(path for path in tree if path.startswith("variants/fp32/model-"))
    checkpoint = next(path for path in tree if path.startswith("checkpoint-"))
    if how == "a model":
        content = bytearray(tree[model])
        content[-1] ^= 1
        return {**tree, model: bytes(content)}
    if how == "a shorter checkpoint":
        return {**tree, checkpoint: tree[checkpoint][:-1]}
    if how == "no checkpoint":
        return {path: text for path, text in tree.items() if path != checkpoint}
    if how == "an unnamed file":
        return {**tree, "model-0123456789ab.onnx": b"x"}
    if how == "no policy":
        return {path: text for path, text in tree.items() if path != "policy.json"}
    if how == "an invalid manifest":
        return {**tree, "policy.json": b"{"}
    if how == "another name":
        values = json.loads(tree["policy.json"])
        return {**tree, "policy.json": json.dumps(values | {"name": "../../up"}).encode()}
    return {**tree, how: b"x"}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("a model", "its manifest says "),
        ("a shorter checkpoint", "its manifest says "),
        ("no checkpoint", "is missing"),
        ("an unnamed file", "cliffwalking/model-0123456789ab.onnx: is named by no manifest"),
        ("no policy", "expected a policy, with its policy.json, received a repository without"),
        ("an invalid manifest", "policy.json: Invalid JSON"),
        ("another name", "policy.json: name: String should match pattern"),
        ("evil.py", f"{REPO}: expected the files of a policy and its card, received 'evil.py'"),
        ("../../evil.json", "received '../../evil.json'"),
        ("variants/../../../x/variant.json", "received 'variants/../../../x/variant.json'"),
        ("/etc/evil", "received '/etc/evil'"),
        ("variants/fp32/.lock", "received 'variants/fp32/.lock'"),
    ],
)
def test_what_is_not_as_it_should_be_is_not_published(
    pushed: HubRepository, pull: Any, tmp_path: Path, how: str, message: str
) -> None:
    pushed.commit(tampered(pushed.tree, how))
    done = pull()
    assert done.returncode in (1, 2)
    assert message in error_line(done)
    assert not (tmp_path / "theirs").exists()
    assert not list(tmp_path.rglob("evil*"))


def test_a_download_that_breaks_off_leaves_nothing(
    pushed: HubRepository, pull: Any, tmp_path: Path, hub: Hub
) -> None:
    hub.served_bytes = 4096
    done = pull()
    assert done.returncode == 2
    assert error_line(done).startswith(f"{hub.url}: ")
    assert not (tmp_path / "theirs").exists()


def test_an_interrupted_pull_leaves_nothing(
    pushed: HubRepository, hub: Hub, tmp_path: Path, shared: Path
) -> None:
    root = tmp_path / "theirs"
    shutil.copytree(SHIPPED / "acrobot", root / "acrobot")
    before = contents(root)
    hub.seconds = 0.5
    command = [*COMMAND, "policies", "pull", REPO, "--policies", str(root)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 60
    while not list(root.glob(".pulling-*/downloads/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert contents(root) == before


@pytest.mark.parametrize("options", [(), ("--revision", "v2")])
def test_what_does_not_exist_is_named_in_one_line(
    pushed: HubRepository, pull: Any, hub: Hub, tmp_path: Path, options: tuple[str, ...]
) -> None:
    expected = f"404 {REPO} has no revision 'v2'"
    if not options:
        del hub.repositories[REPO]
        expected = f"404 there is no repository {REPO}, or it is not to be seen with this token"
    done = pull(*options)
    assert done.returncode == 2
    assert error_line(done) == f"{hub.url}: {expected}"
    assert not (tmp_path / "theirs").exists()


def test_a_private_repository_needs_a_token(
    hub: Hub, shared: Path, push: Any, pull: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert push("cliffwalking", "--private").returncode == 0
    assert hub.repositories[REPO].private
    # A token that was saved on this machine is not used.
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "hf").mkdir(exist_ok=True)
    (tmp_path / "hf" / "token").write_text(TOKEN)
    done = pull()
    assert error_line(done) == (
        f"{hub.url}: 401 there is no repository {REPO}, or it is not to be seen without a token "
        "in HF_TOKEN"
    )
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert pull().returncode == 0


@pytest.mark.parametrize(
    ("token", "line"),
    [
        (None, "401 Invalid username or password.; set a valid token in HF_TOKEN"),
        ("hf_of_another", "403 This token may not write here.; check the token in HF_TOKEN"),
    ],
)
def test_a_push_without_the_right_token_is_refused(
    hub: Hub,
    shared: Path,
    push: Any,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    line: str,
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    done = push("cliffwalking")
    assert done.returncode == 2
    assert error_line(done) == f"{hub.url}: {line}"
    assert hub.repositories == {}
    assert TOKEN not in done.stderr


def test_a_repository_with_other_files_is_refused(hub: Hub, shared: Path, push: Any) -> None:
    theirs = HubRepository()
    theirs.commit({"pytorch_model.bin": b"\0weights"})
    hub.repositories[REPO] = theirs
    done = push("cliffwalking", "--force")
    assert done.returncode == 2
    assert error_line(done).endswith("received one with 'pytorch_model.bin'")
    assert theirs.tree == {"pytorch_model.bin": b"\0weights"}


def test_another_policy_is_replaced_on_demand_only(
    pushed: HubRepository, shared: Path, push: Any
) -> None:
    shutil.copytree(SHIPPED / "frozenlake", shared / "frozenlake")
    done = push("frozenlake")
    assert done.returncode == 2
    assert "a repository for frozenlake, received one with cliffwalking; --force" in error_line(
        done
    )
    assert push("frozenlake", "--force").returncode == 0
    assert json.loads(pushed.tree["policy.json"])["name"] == "frozenlake"


def test_a_corrupt_policy_is_not_pushed(hub: Hub, shared: Path, push: Any) -> None:
    model = next((shared / "cliffwalking/variants/fp32").glob("model-*"))
    model.write_bytes(model.read_bytes()[:-1])
    done = push("cliffwalking")
    assert done.returncode == 1
    assert "its manifest says" in error_line(done)
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pull", "cartpole"), "REPO_ID: expected a name such as user/pong, received 'cartpole'"),
        (("pull", REPO, "--policy", "../up"), "--policy: expected up to 64 lower-case letters"),
        (("pull", REPO, "--endpoint", "file:///etc"), "--endpoint: expected an address such as"),
        (("pull", REPO, "--revision", ""), "--revision: expected a branch, a tag or a commit"),
        (("push", "walker", REPO), "unknown policy 'walker'"),
        (("push", "cliffwalking", REPO, "--card", "/etc"), "--card: expected a folder that slimq"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    hub: Hub, shared: Path, slimq: Any, arguments: tuple[str, ...], message: str
) -> None:
    done = slimq("policies", *arguments, "--policies", shared)
    assert done.returncode == 2
    assert message in error_line(done)
    assert hub.requests == []


def test_a_hub_that_is_out_of_order_is_named(
    pushed: HubRepository, pull: Any, hub: Hub, tmp_path: Path
) -> None:
    hub.broken = 500
    done = pull()
    assert done.returncode == 2
    line = error_line(done)
    assert line.startswith(f"{hub.url}: 500 ")
    assert "the hub is out of order" in line


def test_an_upload_that_is_refused_leaves_no_commit(hub: Hub, push: Any) -> None:
    hub.refuses_objects = True
    done = push("cliffwalking")
    assert done.returncode == 2
    line = error_line(done)
    assert line.startswith(f"{hub.url}: 400 Error while uploading '")
    assert list(hub.repositories[REPO].tree) == [".gitattributes"]


def test_a_hub_that_cannot_be_reached_is_named(pull: Any, tmp_path: Path) -> None:
    done = pull("--endpoint", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert error_line(done).startswith("http://127.0.0.1:9: cannot be reached: ")
    assert not (tmp_path / "theirs").exists()


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path) -> None:
    lines = [
        "import importlib.util",
        "found = importlib.util.find_spec",
        "absent = 'huggingface_hub'",
        "importlib.util.find_spec = lambda n, *a: None if n == absent else found(n, *a)",
        "from slimq.cli.main import main",
        "main()",
    ]
    command = [COMMAND[0], "-c", "\n".join(lines), "policies", "pull", REPO]
    done = subprocess.run(
        [*command, "--policies", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert error_line(done) == "huggingface_hub is not installed: pip install 'slimq[hub]'"


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["pong", "cartpole-sb3", "lunarlander"])
def test_shipped_policies_come_back_as_they_went(
    hub: Hub, slimq: Any, pull: Any, tmp_path: Path, policy: str
) -> None:
    done = slimq("policies", "push", policy, REPO, "--policies", SHIPPED)
    assert done.returncode == 0, done.stderr
    assert pull().returncode == 0
    before = published(SHIPPED / policy)
    assert published(tmp_path / "theirs" / policy) == before
