"""The commands on a policy without an environment: they work, or refuse in a line that says why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parts import SPECS, STATES, build_parts_repository, draw_parts
from running import serve
from slimq.core.client import SlimqClient
from slimq.core.errors import ObservationError
from slimq.core.repository import Repository

LINE = f"not proven in play: no environment; agreement and regret on {STATES} recorded states"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build_parts_repository(tmp_path / "policies")


@pytest.fixture
def command(root: Path, invoke: Any) -> Any:
    """`command("compare", "maze", …)` on the policies without environments."""

    def call(*arguments: str) -> tuple[int, str, str]:
        found: tuple[int, str, str] = invoke(*arguments, "--policies", str(root))
        return found

    return call


@pytest.fixture
def evaluated(command: Any) -> Any:
    code, _, err = command("evaluate", "maze", "--no-latency")
    assert code == 0, err
    return command


@pytest.fixture(scope="module")
def served_parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `slimq serve` on the policies of named parts."""
    root = build_parts_repository(tmp_path_factory.mktemp("parts") / "policies")
    with serve(root, 300) as (_, url):
        yield url


def test_evaluate_prints_agreement_and_regret(command: Any, root: Path) -> None:
    code, out, err = command("evaluate", "maze", "--no-latency")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    size = Repository(root).variant("maze", "fp32").model.bytes
    assert first == (
        f"fp32: agreement 100.0%, regret 0 on {STATES} recorded states, not proven in play, "
        f"{size:,} bytes"
    )
    assert second.startswith("other: agreement ")
    code, out, _ = command("evaluate", "maze", "--no-latency", "--json")
    assert json.loads(out)["reports"]["other"]["returns"] is None
    assert json.loads(out)["cached"] == ["fp32", "other"]


def test_compare_has_no_returns_and_says_why(evaluated: Any) -> None:
    code, out, err = evaluated("compare", "maze")
    assert (code, err) == (0, "")
    assert LINE in out.splitlines()
    head = out.splitlines()[0]
    assert "agreement" in head
    assert "regret" in head
    for word in ("mean", "IQM", "non-inferior"):
        assert word not in head
    assert "100.0%" in out
    code, out, _ = evaluated("compare", "maze", "--markdown")
    assert LINE in out
    document = json.loads(evaluated("compare", "maze", "--json")[1])
    assert document["proven_in_play"] is False
    assert document["recorded_states"] == STATES


def test_recommend_refuses_without_an_agreement(evaluated: Any) -> None:
    code, out, err = evaluated("recommend", "maze")
    assert (code, out) == (1, "")
    assert err == (
        "slimq: maze has no environment, so no variant can be shown to be non-inferior, even in "
        "undisturbed play; choose by agreement with --min-agreement\n"
    )
    code, out, err = evaluated("recommend", "maze", "--min-agreement", "0.99")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == (
        "fp32: the smallest variant of maze that meets every limit, with an agreement of at least "
        "99.00%"
    )
    assert "  agreement 100.00%" in lines
    assert f"  {LINE}" in lines


def test_promote_refuses_without_force(evaluated: Any, root: Path) -> None:
    code, _, err = evaluated("promote", "maze", "other")
    assert code == 1
    assert err == (
        f"slimq: maze/other was not promoted: {LINE}; use --force to promote it anyway\n"
    )
    assert Repository(root).policy("maze").default_variant == "fp32"
    assert evaluated("promote", "maze", "other", "--force")[0] == 0
    assert Repository(root).policy("maze").default_variant == "other"


def test_policies_are_listed_as_not_proven(evaluated: Any) -> None:
    code, out, _ = evaluated("policies", "list")
    assert code == 0
    lines = out.splitlines()
    at = lines.index("maze (no environment, not proven in play)")
    assert lines[at + 1].endswith("agreement 100.0%, not proven in play")
    assert lines[lines.index("taxi (no environment, not proven in play)") + 1].endswith(
        "not evaluated"
    )
    row = next(
        row
        for row in json.loads(evaluated("policies", "list", "--json")[1])
        if row["policy"] == "maze"
    )
    assert (row["environment"], row["proven_in_play"]) == (None, False)
    assert row["variants"][0]["mean_return"] is None
    assert "proven_in_play: False" in evaluated("policies", "show", "maze")[1]
    assert evaluated("policies", "show", "maze", "other")[0] == 0
    assert evaluated("policies", "verify", "maze")[0] == 0


def test_play_refuses_in_one_line(served_parts: str, slimq: Any) -> None:
    done = slimq("play", "maze", "--url", served_parts)
    assert done.returncode == 2
    assert "not proven in play" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("policy", SPECS)
def test_the_client_sends_parts_by_name(served_parts: str, policy: str) -> None:
    spec = SPECS[policy]
    drawn = draw_parts(spec, 3)
    with SlimqClient(served_parts) as client:
        named, flat = client.act(policy, drawn), client.act(policy, spec.join(drawn))
        np.testing.assert_array_equal(named.q_values, flat.q_values)
        assert named.actions.tolist() == flat.actions.tolist()
        assert set(named.actions.tolist()) <= {2, 3, 4}
        first = (spec.parts or ())[0].name
        with pytest.raises(ObservationError, match=f"no part '{first}'"):
            client.act(policy, {name: drawn[name] for name in drawn if name != first})


@pytest.mark.parametrize("policy", ["maze", "robot"])
def test_act_takes_parts_as_json_and_as_npz(
    served_parts: str, slimq: Any, tmp_path: Path, policy: str
) -> None:
    spec = SPECS[policy]
    drawn = draw_parts(spec, 2)
    np.savez(tmp_path / "parts.npz", **drawn)
    named = {name: values.tolist() for name, values in drawn.items()}
    answers = []
    for source in (tmp_path / "parts.npz", json.dumps({"observations": named})):
        done = slimq("act", policy, "--url", served_parts, "--input", source, "--json")
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1]
    assert len(answers[0]["actions"]) == 2


def test_act_names_a_part_that_does_not_fit(served_parts: str, slimq: Any) -> None:
    text = json.dumps({"observations": {"image": [[[0, 0]] * 3] * 2, "direction": 4}})
    done = slimq("act", "maze", "--url", served_parts, "--input", text)
    assert done.returncode == 2
    assert "expected an integer from 0 to 3 in 'direction', received 4" in done.stderr
    assert len(done.stderr.splitlines()) == 1
