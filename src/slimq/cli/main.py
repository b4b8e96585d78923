"""The `slimq` command. Exit codes: 0 success, 1 a gate or check failed, 2 usage or other error."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Annotated, Any

import structlog
import typer
from typer.core import TyperGroup
from typer.main import get_command

from slimq import __version__
from slimq.core.errors import CheckFailedError, GateError, SlimqError, describe_system_error
from slimq.core.threads import wait_passively

COMMANDS = {
    "train": "slimq.cli.train",
    "import": "slimq.cli.import_policy",
    "compress": "slimq.cli.compress",
    "evaluate": "slimq.cli.evaluate",
    "compare": "slimq.cli.compare",
    "shrink": "slimq.cli.shrink",
    "search": "slimq.cli.search",
    "inspect": "slimq.cli.inspect",
    "recommend": "slimq.cli.recommend",
    "promote": "slimq.cli.promote",
    "export": "slimq.cli.export",
    "policies": "slimq.cli.policies",
    "serve": "slimq.cli.serve",
    "act": "slimq.cli.act",
    "play": "slimq.cli.play",
    "record": "slimq.cli.record",
    "card": "slimq.cli.card",
    "loadtest": "slimq.cli.loadtest",
}
"""Each command and the module that defines its `app`."""


class LazyGroup(TyperGroup):
    """Imports a command's module only when the command is needed."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """The command names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Imports and returns the command; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        command = get_command(importlib.import_module(COMMANDS[cmd_name]).app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=LazyGroup,
    help="Train DQN policies, compress them, prove how well each variant plays, and serve them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"slimq {__version__}")
        raise typer.Exit


@app.callback()
def configure(
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log at debug level.")] = False,
) -> None:
    """Sets up logging and how threads wait, for every command."""
    wait_passively()
    level = logging.DEBUG if verbose else logging.INFO
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )


def main() -> None:
    """Runs the command line; turns user errors into one line on stderr and an exit code.

    On an interrupt, typer exits with 130.
    """
    try:
        app(prog_name="slimq")
    except SlimqError as error:
        typer.echo(f"slimq: {error}", err=True)
        sys.exit(1 if isinstance(error, (GateError, CheckFailedError)) else 2)
    except OSError as error:
        structlog.get_logger(__name__).debug("traceback of the error", exc_info=error)
        typer.echo(f"slimq: {describe_system_error(error)}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
