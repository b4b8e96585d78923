"""`slimq act`: one batch of observations through a service."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimq.cli.options import DEFAULT_URL, ApiKeyOption, JsonOption, UrlOption

if TYPE_CHECKING:
    import numpy.typing as npt

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def act(
    policy: Annotated[str, typer.Argument(help="The policy.")],
    source: Annotated[
        str, typer.Option("--input", help="Observations: FILE.npy, FILE.json, or - for stdin.")
    ],
    url: UrlOption = DEFAULT_URL,
    variant: Annotated[
        str | None, typer.Option(help="Which variant answers; the policy's default if not given.")
    ] = None,
    api_key: ApiKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the action and the Q-values of each observation."""
    from slimq.core.client import SlimqClient

    observations = read_observations(source)
    with SlimqClient(url, api_key=api_key) as client:
        meanings = client.policy(policy).actions
        result = client.act(policy, observations, variant)
    if as_json:
        document = {
            "policy": policy,
            "variant": result.variant,
            "sha256": result.sha256,
            "actions": result.actions.tolist(),
            "q_values": [[float(str(q)) for q in row] for row in result.q_values],
        }
        typer.echo(json.dumps(document))
        return
    typer.echo(f"{policy} {result.variant} {result.sha256[:12]}")
    for action, row in zip(result.actions, result.q_values, strict=True):
        values = " ".join(f"{value:.6g}" for value in row)
        typer.echo(f"{action} {meanings[action]}  {values}")


def read_observations(source: str) -> npt.NDArray[Any]:
    """The array of an npy file, of JSON (a list, or an object with `observations`), or of stdin.

    Raises:
        InvalidInputError: it cannot be read, or is neither.
    """
    import numpy as np

    from slimq.core.errors import InvalidInputError, first_line

    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        received = f"{source} ({error.strerror})"
        raise InvalidInputError("--input", "a file that can be read", received) from error
    expected = "npy, or JSON with observations"
    try:
        if content.startswith(b"\x93NUMPY"):
            array: npt.NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
            return array
        document = json.loads(content)
        if not isinstance(document, dict):
            return np.asarray(document)
        if "observations" in document:
            return np.asarray(document["observations"])
    except Exception as error:  # an npy header is Python source: its reader raises all sorts
        received = f"{source}: {first_line(error)}"
        raise InvalidInputError("--input", expected, received) from error
    raise InvalidInputError("--input", expected, f"{source}: an object without observations")
