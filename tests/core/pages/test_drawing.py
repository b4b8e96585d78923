from __future__ import annotations

import re

from builders import make_policy_manifest
from places import POLICIES
from slimq.core.environment import EnvironmentSpec
from slimq.core.pages import SHARED
from slimq.core.pages.drawing import CLIFF, LAKES, drawing
from slimq.core.repository import Repository
from slimq.environments.make import make_single


def test_maps_are_gymnasiums() -> None:
    for name, rows in LAKES.items():
        env = make_single(EnvironmentSpec(id="FrozenLake-v1", kwargs={"map_name": name}))
        found = env.unwrapped.desc.tolist()  # type: ignore[attr-defined]
        assert [b"".join(row).decode() for row in found] == list(rows)
    env = make_single(EnvironmentSpec(id="CliffWalking-v1"))
    cliff = env.unwrapped._cliff  # type: ignore[attr-defined]
    assert [["C" if cell else "." for cell in row] for row in cliff.tolist()] == [
        list(row.replace("S", ".").replace("G", ".")) for row in CLIFF
    ]


def test_every_shipped_policy_has_a_drawing_of_its_own_that_the_page_has() -> None:
    repository = Repository(POLICIES)
    kinds = {name: drawing(repository.policy(name)).kind for name in repository.policies()}
    assert "values" not in kinds.values(), kinds
    table = (SHARED / "drawings.js").read_text(encoding="utf-8").partition("const DRAWINGS")[2]
    known = set(re.findall(r"^  (\w+): draw", table, flags=re.MULTILINE))
    assert set(kinds.values()) | {"values"} <= known


def test_what_is_not_known_is_drawn_as_values() -> None:
    policy = make_policy_manifest("tiny")
    own = policy.model_copy(update={"environment": EnvironmentSpec(id="mine.py:make")})
    assert drawing(own).kind == "values"
    assert drawing(policy.model_copy(update={"environment": None})).kind == "values"
    frames = make_policy_manifest("tiny_frames").model_copy(update={"environment": None})
    assert drawing(frames).kind == "frames"
