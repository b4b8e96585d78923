"""`slimq policies push` and `pull`: policies to and from a model hub."""

from __future__ import annotations

import logging
import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from slimq.cli.extras import require
from slimq.cli.options import DEFAULT_POLICIES, JsonOption, PoliciesOption
from slimq.cli.output import print_json

EndpointOption = Annotated[
    str,
    typer.Option(
        "--endpoint",
        envvar="HF_ENDPOINT",
        help="Address of the hub. Its token is taken from HF_TOKEN alone.",
    ),
]
RepoArgument = Annotated[
    str, typer.Argument(metavar="REPO_ID", help="Repository on the hub, such as user/pong.")
]
RevisionOption = Annotated[
    str | None,
    typer.Option("--revision", help="Branch, tag or commit; the main branch by default."),
]
ENDPOINT = "https://huggingface.co"


def push(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    repo_id: RepoArgument,
    policies: PoliciesOption = DEFAULT_POLICIES,
    card: Annotated[
        Path | None,
        typer.Option(
            "--card", help="Folder of slimq card; a card without a replay is made if omitted."
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch; the main branch by default.")
    ] = None,
    endpoint: EndpointOption = ENDPOINT,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another policy in this repository.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Verify a policy and upload it with its card to a model hub, in one commit.

    Everything is uploaded: manifests, checkpoint, calibration set, models and reports. Files of an
    earlier push that are no longer part of the policy are removed. A repository with other files is
    refused.
    """
    from slimq.core.errors import InvalidInputError
    from slimq.core.repository import Repository

    require("hub", "huggingface_hub")
    require("serve", "onnxruntime")
    from slimq.sharing.card import CardSettings, is_card, write_card
    from slimq.sharing.hub import Place, push

    repository = Repository(policies)
    place = Place(repo_id, endpoint, revision)
    place.check()
    if card is not None and not (card.is_dir() and is_card(card)):
        raise InvalidInputError("--card", "a folder that slimq card wrote", str(card))
    _hide_bars()
    with tempfile.TemporaryDirectory(prefix="slimq-card-") as folder:
        if card is None:
            require("compress", "matplotlib")
            write_card(repository, policy, Path(folder), CardSettings(repo_id))
        typer.echo(f"uploading {policy} to {endpoint}/{repo_id} ...", err=True)
        pushed = push(
            repository, policy, place, card or Path(folder), private=private, replace=force
        )
    if as_json:
        print_json(pushed)
        return
    removed = f", {pushed.removed} removed" if pushed.removed else ""
    size = f"{pushed.files} files, {pushed.bytes:,} bytes{removed}"
    typer.echo(f"{pushed.policy}: {size}, commit {pushed.commit[:12]} at {pushed.url}")


def pull(
    repo_id: RepoArgument,
    policies: PoliciesOption = DEFAULT_POLICIES,
    policy: Annotated[
        str | None, typer.Option("--policy", help="Name that it gets here; its own if omitted.")
    ] = None,
    revision: RevisionOption = None,
    endpoint: EndpointOption = ENDPOINT,
    force: Annotated[bool, typer.Option("--force", help="Replace a policy of this name.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Download a policy from a model hub, verify it and publish it, whole or not at all.

    Every hash is checked and every model run on the policy's states before anything is published.
    Under its own name, a policy keeps every byte; under another one, its manifests and reports are
    written again, and its models stay as they are.
    """
    from slimq.core.environment import named_code
    from slimq.core.errors import InvalidInputError
    from slimq.core.manifest import SLUG
    from slimq.core.repository import Repository

    require("hub", "huggingface_hub")
    require("serve", "onnxruntime")
    from slimq.sharing.hub import Place, pull

    if policy is not None and not re.fullmatch(SLUG, policy):
        expected = "up to 64 lower-case letters, digits, dots, dashes and underscores"
        raise InvalidInputError("--policy", expected, repr(policy))
    _hide_bars()
    repository = Repository(policies)
    with _FileBar(repo_id) as bar:
        pulled = pull(
            repository,
            Place(repo_id, endpoint, revision),
            policy,
            replace=force,
            on_file=bar.show,
        )
    if as_json:
        print_json(pulled)
        return
    size = f"{pulled.files} files, {pulled.bytes:,} bytes, commit {pulled.commit[:12]}"
    typer.echo(f"{pulled.policy}: {len(pulled.variants)} variants, {size}; verified")
    environment = repository.policy(pulled.policy).environment
    if environment is not None and (code := named_code(environment)):
        said = f"runs code on this machine when it is played: {', '.join(code)}"
        typer.echo(f"note: its environment {said}", err=True)


def _hide_bars() -> None:
    """Leaves the terminal to the command's own bar; the library has one per file."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


class _FileBar:
    """A bar of files on stderr."""

    def __init__(self, description: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            desc=description, unit="file", leave=False, file=sys.stderr, dynamic_ncols=True
        )

    def __enter__(self) -> _FileBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def show(self, done: int, total: int) -> None:
        """Shows how many files have arrived."""
        self._bar.total = total
        self._bar.update(done - self._bar.n)
