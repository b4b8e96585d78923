"""Folders as found on model hubs, written by rl-zoo3, huggingface_sb3 or CleanRL.

In addition to the policy's file, such a folder has the statistics of normalized observations
(`vec_normalize.pkl`), the arguments of the training (`args.yml`, `config.yml`) and a model card.
The YAML is searched for a few keys only; it is never loaded.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from slimq.core.environment import EnvironmentSpec
from slimq.importing.environments import named_environment
from slimq.importing.source import Hints, Source, refuse

SUFFIXES = (".zip", ".cleanrl_model", ".onnx", ".safetensors", ".pt", ".pth", ".bin")
"""Of policies, the preferred kind first."""
NOT_POLICIES = re.compile(
    r".*(optimizer|pytorch_variables|replay_buffer|eval_metrics|training_args).*"
)
STATISTICS = ("vec_normalize.pkl", "vecnormalize.pkl")
MAX_TEXT = 1 << 20
ENVIRONMENT_PATTERNS = {
    "args.yml": re.compile(r"^[ -]*- env(?:_id)?\n +- (\S+)$|^env(?:_id)?: *(\S+)$", re.MULTILINE),
    "README.md": re.compile(
        r"'env_id': '([^'\n]+)'|[Aa]gent [Pp]laying \*\*([^*\n]+)\*\*|playing \*\*([^*\n]+)\*\*"
    ),
}
WRAPPERS = re.compile(r"^[ -]*- env_wrapper\n((?: +- .*\n?)+)|^env_wrapper: *(.+)$", re.MULTILINE)
ATARI_WRAPPER = "stable_baselines3.common.atari_wrappers.AtariWrapper"


def find_policy(folder: Path) -> Path:
    """The policy's file in a folder.

    Raises:
        InvalidInputError: there is none, or more than one of the preferred kind.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise refuse(str(folder), "a readable folder", error.strerror or "an error") from error
    for suffix in SUFFIXES:
        found = [
            path for path in files if path.suffix == suffix and not NOT_POLICIES.match(path.name)
        ]
        if len(found) > 1:
            listing = ", ".join(path.name for path in found[:8])
            raise refuse(str(folder), "one policy", listing, "name the file itself")
        if found:
            return found[0]
    listing = ", ".join(path.name for path in files[:8]) or "no files"
    expected = f"a folder with a policy ({', '.join(SUFFIXES)})"
    raise refuse(str(folder), expected, listing)


def with_statistics(folder: Path, hints: Hints) -> Hints:
    """The hints, with the folder's statistics of normalized observations if there are any."""
    if hints.vecnormalize is not None:
        return hints
    found = next((folder / name for name in STATISTICS if (folder / name).is_file()), None)
    return replace(hints, vecnormalize=found)


def statistics_beside(policy: Path) -> str | None:
    """A note about statistics in the same folder that are not used; None without any."""
    found = next((name for name in STATISTICS if (policy.parent / name).is_file()), None)
    if found is None:
        return None
    return f"{found} is in the same folder: give it with --vecnormalize if the policy needs it"


def with_environment(source: Source, folder: Path, policy: Path) -> Source:
    """The source, with the environment that the folder names."""
    if source.environment is not None:
        return source
    environment = _environment(folder, policy)
    if environment is None:
        return source
    notes = [*source.notes, f"environment {environment.id}, as the folder says"]
    wrappers = _search(WRAPPERS, folder / "config.yml")
    others = [line for line in wrappers.replace("- ", "\n").split() if "." in line]
    unknown = [name for name in others if name.rstrip(":") != ATARI_WRAPPER]
    if unknown:
        notes.append(f"trained with the wrapper {unknown[0][:80]}: give it in --config")
    return replace(source, environment=environment, notes=tuple(notes))


def _environment(folder: Path, policy: Path) -> EnvironmentSpec | None:
    for name, pattern in ENVIRONMENT_PATTERNS.items():
        if found := _search(pattern, folder / name):
            return named_environment(found)
    _, dash, name = policy.stem.partition("-")
    is_id = bool(dash) and re.fullmatch(r".+-v\d+", name) is not None
    return named_environment(name) if is_id else None


def _search(pattern: re.Pattern[str], path: Path) -> str:
    """The first group that matches in a text file; empty if none does."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            found = pattern.search(file.read(MAX_TEXT))
    except OSError:
        return ""
    return "" if found is None else next((group for group in found.groups() if group), "")
