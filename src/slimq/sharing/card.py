"""The card of a policy: a README.md for a model hub, with its plots and its replay."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slimq.core.errors import InvalidInputError
from slimq.core.manifest import PolicyManifest
from slimq.core.repository import Repository
from slimq.core.staging import FolderKind
from slimq.evaluation.comparison import Comparison, ComparisonRow, compare_variants
from slimq.evaluation.plots import draw_plots, draw_training
from slimq.sharing.evidence import UNPROVEN, condition_table, evidence_notes, variant_table
from slimq.sharing.front_matter import FIRST_LINES, algorithm, environment_name, front_matter
from slimq.sharing.provenance import origin, protocol_block, variant_origins

README, PLOTS = "README.md", "plots"
REPLAY_SUFFIXES = (".mp4", ".gif")
CARD_FILES = re.compile(r"README\.md|replay\.(mp4|gif)|plots/[a-z0-9][a-z0-9._-]*\.png")
"""Every file that a card may have, as a path in its folder."""
MAX_REPLAY_BYTES = 50_000_000
_ROBUST = "robust: it keeps the full policy's return undisturbed and under each standard condition"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


@dataclass(frozen=True)
class CardSettings:
    """What is not known from the policy.

    Attributes:
        repo_id: where the policy is to be found on a hub, such as `user/pong`; None if unknown.
        license: identifier of the policy's licence, such as `apache-2.0`; None if unknown.
        replay: a video to show, `.mp4` or `.gif`; None for none.
        caption: what the video shows; empty if that is unknown.
    """

    repo_id: str | None = None
    license: str | None = None
    replay: Path | None = None
    caption: str = ""


def is_card(folder: Path) -> bool:
    """Whether a folder is a card that slimq wrote, and has no other files."""
    readme = folder / README
    files = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    paths = [path.relative_to(folder).as_posix() for path in files]
    if not all(map(CARD_FILES.fullmatch, paths)) or README not in paths:
        return False
    with readme.open("rb") as file:
        return file.read(len(FIRST_LINES)) == FIRST_LINES.encode()


CARD = FolderKind("a card", f"its {README} and nothing else", is_card)


def check_card_settings(settings: CardSettings) -> None:
    """Checks what a card is to be made of.

    Raises:
        InvalidInputError: the replay is no video, or the licence no identifier.
    """
    replay, license_ = settings.replay, settings.license
    if replay is not None:
        if replay.suffix.lower() not in REPLAY_SUFFIXES:
            expected = f"a file that ends in {' or '.join(REPLAY_SUFFIXES)}"
            raise InvalidInputError("--replay", expected, str(replay))
        if not replay.is_file():
            raise InvalidInputError("--replay", "a file", f"{replay}, which is none")
        if (size := replay.stat().st_size) > MAX_REPLAY_BYTES:
            expected = f"at most {MAX_REPLAY_BYTES:,} bytes"
            raise InvalidInputError("--replay", expected, f"{replay}, which has {size:,}")
    if license_ is not None and not _LICENSE.fullmatch(license_):
        expected = "an identifier such as apache-2.0"
        raise InvalidInputError("--license", expected, repr(license_))


def write_card(
    repository: Repository, policy: str, folder: Path, settings: CardSettings
) -> list[str]:
    """Writes a policy's card into an empty folder; returns the paths of its files in it.

    Raises:
        NotFoundError: there is no such policy.
        InvalidInputError: a setting is out of range.
        RepositoryError: the policy's manifest or a variant's is invalid.
    """
    check_card_settings(settings)
    manifest = repository.policy(policy)
    comparison = compare_variants(repository, policy)
    plots = folder / PLOTS
    for path in [*draw_plots(comparison, plots), *draw_training(manifest, plots)]:
        if path.suffix != ".png":
            path.unlink()
    replay = None
    if settings.replay is not None:
        replay = f"replay{settings.replay.suffix.lower()}"
        shutil.copyfile(settings.replay, folder / replay)
    drawn = sorted(path.name for path in plots.iterdir())
    if not drawn:
        plots.rmdir()
    text = "\n\n".join(_sections(repository, manifest, comparison, settings, replay, drawn))
    (folder / README).write_text(_front(repository, manifest, settings) + text + "\n", "utf-8")
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _front(repository: Repository, manifest: PolicyManifest, settings: CardSettings) -> str:
    report = None
    if manifest.default_variant in repository.variants(manifest.name):
        report = repository.report(manifest.name, manifest.default_variant)
    return front_matter(manifest, report, settings.license)


def _sections(
    repository: Repository,
    manifest: PolicyManifest,
    comparison: Comparison,
    settings: CardSettings,
    replay: str | None,
    plots: list[str],
) -> Iterator[str]:
    environment = manifest.environment
    where = "" if environment is None else f" for {environment_name(environment)}"
    yield f"\n# {manifest.name}: {algorithm(manifest)}{where}"
    yield _summary(manifest, comparison)
    if not manifest.proven_in_play:
        yield UNPROVEN
    if replay is not None:
        yield _embed(replay, settings.caption)
    yield "## Variants"
    yield variant_table(comparison)
    notes = evidence_notes(comparison)
    if notes:
        yield "\n".join(f"- {note}" for note in notes)
    if (conditions := condition_table(comparison)) is not None:
        yield "### Mean return under disturbances"
        yield conditions
    for name in plots:
        said = name.removesuffix(".png").removeprefix(f"{manifest.name}-")
        yield f"![{_PLOTS.get(said, said)}]({PLOTS}/{name})"
    yield from _usage(manifest, settings.repo_id)
    yield "## Provenance"
    yield from origin(manifest)
    readable = [repository.variant(manifest.name, row.variant) for row in comparison.rows]
    yield variant_origins(readable)
    if comparison.protocol is not None:
        yield protocol_block(comparison.protocol)


_PLOTS = {
    "return": "Mean return against bytes, by variant",
    "latency": "Time of a call against bytes, by variant",
    "training": "Mean return during training",
}


def _summary(manifest: PolicyManifest, comparison: Comparison) -> str:
    """A sentence or two: how many variants, and which one is the smallest that keeps its return."""
    count = len(comparison.rows)
    text = (
        f"A {algorithm(manifest)} policy with {count} {'variant' if count == 1 else 'variants'} in "
        f"ONNX, compressed and evaluated by slimq. `{manifest.default_variant}` answers unless "
        "another is requested."
    )
    found = smallest_kept(comparison)
    if found is None or found.variant == comparison.baseline:
        return text
    robust = found.robustness is not None and found.robustness.robust is True
    said = _ROBUST if robust else "non-inferior to the full policy in undisturbed play"
    return f"{text} `{found.variant}` is the smallest that is {said} ({_figures(found)})."


def smallest_kept(comparison: Comparison) -> ComparisonRow | None:
    """The smallest robust variant, or the smallest non-inferior one; None if neither is known."""
    rows = comparison.rows
    kept = [row for row in rows if row.robustness and row.robustness.robust]
    kept = kept or [row for row in rows if row.difference and row.difference.non_inferior]
    return min(kept, key=lambda row: row.bytes, default=None)


def _figures(row: ComparisonRow) -> str:
    figures = [f"{row.bytes:,} bytes"]
    figures += [] if row.smaller is None else [f"{row.smaller:.0f} times smaller"]
    figures += [] if row.mean is None else [f"mean return {row.mean:.2f}"]
    return ", ".join(figures)


def _embed(replay: str, caption: str) -> str:
    shown = f"![Replay]({replay})"
    if replay.endswith(".mp4"):
        shown = f'<video src="{replay}" controls autoplay loop muted></video>'
    return f"{shown}\n\n{caption}" if caption else shown


def _usage(manifest: PolicyManifest, repo_id: str | None) -> Iterator[str]:
    name, spec = manifest.name, manifest.observation
    shape = ", ".join(map(str, spec.shape))
    yield "## Usage"
    yield (
        "```bash\n"
        "pip install 'slimq[serve,hub]'\n"
        f"slimq policies pull {repo_id or 'USER/REPOSITORY'} --policies policies\n"
        "slimq serve --policies policies --port 8000\n"
        "```"
    )
    yield (
        f"An observation is {spec.dtype} of shape ({shape}), and the actions are "
        f"{', '.join(f'`{action}`' for action in manifest.actions)}. With observations in a JSON, "
        "npy or raw file:"
    )
    yield f"```bash\nslimq act {name} --input observations.npy\n```"
    comma = "," if len(spec.shape) else ""
    yield (
        "```python\n"
        "import numpy as np\n\n"
        "from slimq.core.client import SlimqClient\n\n"
        'with SlimqClient("http://127.0.0.1:8000") as client:\n'
        f"    observations = np.zeros((1{comma} {shape}), np.{spec.dtype})\n"
        f'    result = client.act("{name}", observations)\n'
        "    print(result.actions, result.q_values)\n"
        "```"
    )
