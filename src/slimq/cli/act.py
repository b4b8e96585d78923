"""`slimq act`: sends one batch of observations to a service."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from slimq.cli.observations import read_observations
from slimq.cli.options import DEFAULT_URL, ApiKeyOption, JsonOption, UrlOption

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def act(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    source: Annotated[
        str,
        typer.Option(
            "--input",
            help="Observations: FILE.npy, FILE.npz with one array per part, FILE.json, JSON, or - "
            "for stdin.",
        ),
    ],
    url: UrlOption = DEFAULT_URL,
    variant: Annotated[
        str | None, typer.Option(help="Variant that answers; the policy's default if omitted.")
    ] = None,
    api_key: ApiKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the action and the Q-values for each observation."""
    from slimq.core.client import SlimqClient

    observations = read_observations(source)
    with SlimqClient(url, api_key=api_key) as client:
        manifest = client.policy(policy)
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
        meaning = manifest.actions[action - manifest.action_start]
        typer.echo(f"{action} {meaning}  {values}")
