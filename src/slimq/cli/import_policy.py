"""`slimq import`: publishes a policy that another program trained."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimq.cli.extras import require
from slimq.cli.options import DEFAULT_POLICIES, JsonOption, PoliciesOption
from slimq.core.errors import InvalidInputError, SlimqError

if TYPE_CHECKING:
    from slimq.core.environment import EnvironmentSpec
    from slimq.core.repository import Repository

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


class Framework(enum.StrEnum):
    """Kinds of files."""

    SB3 = "sb3"
    SB3_CONTRIB = "sb3-contrib"
    CLEANRL = "cleanrl"
    TORCH = "torch"
    SAFETENSORS = "safetensors"
    ONNX = "onnx"
    FLAX = "flax"
    HUB = "hub"


class Activation(enum.StrEnum):
    """Nonlinearities between layers."""

    RELU = "relu"
    LEAKY_RELU = "leaky_relu"
    ELU = "elu"
    SILU = "silu"
    GELU = "gelu"
    TANH = "tanh"


@app.command("import")
def import_policy(
    file: Annotated[
        Path, typer.Argument(help="File, or folder as found on a model hub.", metavar="FILE")
    ],
    policy: Annotated[
        str, typer.Option("--policy", help="Name under which the policy is published.")
    ],
    env: Annotated[
        str | None,
        typer.Option(
            "--env",
            help="Environment that it plays in, such as CartPole-v1; Atari games get the usual "
            "preprocessing. Default: the one that the file names, if gymnasium has registered it.",
        ),
    ] = None,
    env_kwargs: Annotated[
        str | None, typer.Option("--env-kwargs", help="Its keyword arguments, as a JSON object.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="TOML file with \\[environment], for wrappers and preprocessing; instead of "
            "--env.",
        ),
    ] = None,
    observations: Annotated[
        Path | None,
        typer.Option(
            "--observations",
            help="npz or npy file with observations, or npz file with an array per part; without "
            "an environment, nothing is proven in play.",
        ),
    ] = None,
    policies: PoliciesOption = DEFAULT_POLICIES,
    framework: Annotated[
        Framework | None, typer.Option(help="Kind of file; recognized by its content by default.")
    ] = None,
    network: Annotated[
        Path | None, typer.Option("--network", help="TOML file with the network of plain weights.")
    ] = None,
    activation: Annotated[
        Activation | None,
        typer.Option("--activation", help="Nonlinearity, if the file does not say."),
    ] = None,
    vecnormalize: Annotated[
        Path | None,
        typer.Option(
            "--vecnormalize",
            help="Statistics of normalized observations: vec_normalize.pkl, an npz or a JSON file.",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", help="Output of an ONNX model with the Q-values.")
    ] = None,
    divisor: Annotated[
        float | None,
        typer.Option(
            "--divisor",
            min=1.0,
            help="Divisor of the pixels for an ONNX model with float inputs: 1 or 255.",
        ),
    ] = None,
    calibration_states: Annotated[
        int,
        typer.Option(min=1, max=100_000, help="States from play to keep for calibration."),
    ] = 1_000,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an existing policy of the same name.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check everything, but publish nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Import a DQN policy from another program, check it against its source and publish it.

    Nothing in the file is executed. The same observations pass through the file's own weights and
    through the published model; a policy whose Q-values differ is refused.
    """
    require("compress", "torch", "gymnasium", "onnx", "onnxruntime", "safetensors")
    from slimq.core.repository import Repository
    from slimq.importing.importer import Request, prepare, summarize
    from slimq.importing.publication import check_free, publish
    from slimq.importing.source import Hints

    _check_name(policy)
    repository = Repository(policies)
    check_free(repository, policy, replace=replace)
    if not file.exists():
        raise InvalidInputError("FILE", "a file or folder", f"{str(file)!r}, which does not exist")
    prepared = prepare(
        Request(
            path=file,
            name=policy,
            hints=Hints(
                framework=None if framework is None else framework.value,
                network=network,
                activation=None if activation is None else activation.value,
                vecnormalize=vecnormalize,
                output=output,
                divisor=divisor,
            ),
            environment=_environment(env, env_kwargs, config),
            states=observations,
            calibration_states=calibration_states,
        )
    )
    summary = summarize(prepared)
    summary["published"] = None
    if not dry_run:
        earlier = _default_variant(repository, policy)
        publish(repository, prepared, replace=replace)
        summary["published"] = str(policies / policy)
        if earlier not in (None, prepared.manifest.default_variant):
            typer.echo(
                f"slimq: {policy}: the default is {prepared.manifest.default_variant} again, "
                f"because {earlier} was made from the previous network; compress and evaluate it "
                f"again, then run slimq promote {policy} {earlier}",
                err=True,
            )
    _print(summary, as_json=as_json)


def _default_variant(repository: Repository, policy: str) -> str | None:
    """The default variant of the policy to be replaced; None if there is no readable policy."""
    try:
        return repository.policy(policy).default_variant
    except SlimqError:
        return None


def _check_name(name: str) -> None:
    import re

    from slimq.core.manifest import SLUG

    if not re.fullmatch(SLUG, name):
        expected = "up to 64 lower-case letters, digits, dots, dashes and underscores"
        raise InvalidInputError("--policy", expected, repr(name))


def _environment(
    env: str | None, env_kwargs: str | None, config: Path | None
) -> EnvironmentSpec | None:
    """The environment of the options; None if they name none."""
    if config is not None:
        if env is not None or env_kwargs is not None:
            raise InvalidInputError("--config", "no --env or --env-kwargs in addition", "both")
        return _read_environment(config)
    if env is None:
        if env_kwargs is not None:
            raise InvalidInputError("--env-kwargs", "--env in addition", "no --env")
        return None
    from slimq.importing.environments import named_environment

    found = named_environment(env)
    if found is None:
        raise InvalidInputError("--env", "an id of 1 to 256 characters", f"{len(env)} characters")
    return found if env_kwargs is None else _with_kwargs(found, env_kwargs)


def _with_kwargs(found: EnvironmentSpec, text: str) -> EnvironmentSpec:
    try:
        kwargs = json.loads(text)
    except ValueError as error:
        raise InvalidInputError("--env-kwargs", "a JSON object", text[:80]) from error
    if not isinstance(kwargs, dict):
        raise InvalidInputError("--env-kwargs", "a JSON object", text[:80])
    return found.model_copy(update={"kwargs": kwargs})


def _read_environment(config: Path) -> EnvironmentSpec:
    """The `[environment]` of a TOML file, such as a training configuration."""
    from slimq.core.environment import EnvironmentSpec
    from slimq.core.errors import ConfigError
    from slimq.core.toml_files import read_toml

    document = read_toml(config)
    table = document.values.get("environment")
    if not isinstance(table, dict):
        raise ConfigError(str(config), "environment", "a table with the environment's id is needed")
    return document.validate(EnvironmentSpec, table, ["environment"], "environment")


def _print(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary))
        return
    notes = summary.pop("notes")
    if summary["published"] is None:
        summary["published"] = "nothing (--dry-run)"
    for key, value in summary.items():
        shown = f"{value:.3g}" if isinstance(value, float) else value
        typer.echo(f"{key}: {'none' if shown is None else shown}")
    for note in notes:
        typer.echo(f"note: {note}")
    if summary["environment"] is None:
        typer.echo("note: without an environment, the policy is not proven in play")
