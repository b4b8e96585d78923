"""The README against the program: its commands, options, targets, paths, links and Python."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

from slimq.cli.main import COMMANDS, app

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/configuration.md",
    "docs/decisions.md",
    "docs/devices.md",
    "docs/environments.md",
    "docs/evidence.md",
    "docs/import.md",
    "docs/operations.md",
    "docs/loadtest.md",
    "docs/method.md",
    "docs/service.md",
    "docs/metrics.md",
    "docs/monitoring.md",
    "docs/performance.md",
    "docs/service-protection.md",
    "docs/serving.md",
    "docs/page.md",
    "docs/sharing.md",
    "docs/sharing/acrobot-cleanrl/README.md",
    "docs/sharing/pong/README.md",
    "docs/shrink.md",
    "docs/stream.md",
    "docs/suite.md",
)


def blocks(readme: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)


def command_lines(readme: str, program: str) -> Iterator[list[str]]:
    """The words of every call of a program in the bash blocks."""
    for block in blocks(readme, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == program:
                yield words[1:]


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that these words call and its arguments, groups resolved."""
    assert words, "slimq alone prints its help"
    assert words[0] in COMMANDS, f"slimq {words[0]}: no such command"
    command: Any = get_command(importlib.import_module(COMMANDS[words[0]]).app)
    arguments = words[1:]
    while hasattr(command, "commands"):
        assert arguments, f"slimq {words[0]}: which of {sorted(command.commands)}?"
        assert arguments[0] in command.commands
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return command, arguments


def test_the_readme_names_every_command(readme: str) -> None:
    named = {words[0] for words in command_lines(readme, "slimq")}
    assert named == set(COMMANDS)


def test_every_slimq_line_is_valid(readme: str) -> None:
    lines = list(command_lines(readme, "slimq"))
    assert lines
    for words in lines:
        command, arguments = find_command(words)
        # Parsing only: unknown options, missing arguments and impossible values end in an error.
        command.make_context(words[0], arguments, resilient_parsing=False)


def test_every_configuration_and_recipe_it_mentions_exists(root: Path, readme: str) -> None:
    for words in command_lines(readme, "slimq"):
        if words[0] == "train":
            assert (root / words[1]).exists()
        if words[0] == "compress":
            for name in itertools.takewhile(lambda word: not word.startswith("-"), words[2:]):
                files = [
                    root / "recipes" / place
                    for place in (f"{words[1]}/{name}.toml", f"{name}.toml")
                ]
                assert any(file.exists() for file in files), name


def test_help_lists_every_command() -> None:
    group: Any = get_command(app)
    assert group.list_commands(None) == list(COMMANDS)


def test_every_make_target_exists(root: Path, readme: str) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    contributing = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    called = set(
        re.findall(r"\bmake ([a-z]+)\b(?=[`\n ])", code_of(readme) + code_of(contributing))
    )
    assert called
    assert called <= targets


def test_every_python_block_compiles_and_imports_what_exists(readme: str) -> None:
    found = blocks(readme, "python")
    assert found
    for block in found:
        compile(block, "README.md", "exec")
        for line in block.splitlines():
            if re.match(r"(from|import) ", line):
                exec(line, {})


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_resolves(root: Path, page: str) -> None:
    path = root / page
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{page} links to {target}"


def test_every_path_of_the_layout_table_exists(root: Path, readme: str) -> None:
    section = readme.split("## Layout")[1].split("\n## ")[0]
    paths = re.findall(r"^\| `([^`]+)`", section, flags=re.MULTILINE)
    assert paths
    for path in paths:
        assert (root / path).exists(), path


def test_the_first_curl_line_asks_a_shipped_policy_for_an_action(root: Path, readme: str) -> None:
    """`.ci/probe.py` runs this line; here it only has to be one that fits the policy."""
    line = next(" ".join(words) for words in command_lines(readme, "curl"))
    policy = re.search(r" http://127\.0\.0\.1:8000/v1/policies/([a-z]+)/act ", line)
    assert policy is not None
    assert (root / "configs" / f"{policy[1]}.toml").exists()
    observations = np.array(json.loads(line.partition(" -d ")[2])["observations"])
    assert observations.shape == (1, 4)


def code_of(text: str) -> str:
    """What stands in backticks or in a bash block."""
    return "\n".join(re.findall(r"`[^`\n]+`", text) + blocks(text, "bash"))
