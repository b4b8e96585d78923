"""`slimq serve`: answers requests until it is told to end."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from slimq.cli.extras import require

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def serve(
    ctx: typer.Context,
    policies: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the policy repository.", show_default="policies, or SLIMQ_POLICIES"
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on.", show_default="127.0.0.1, or SLIMQ_HOST"),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port; 0 for any free one.", show_default="8000, or SLIMQ_PORT"
        ),
    ] = None,
    uds: Annotated[
        Path | None,
        typer.Option(
            help="Unix socket to listen on instead of host and port.",
            show_default="none, or SLIMQ_UDS",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=256, help="Number of worker processes.", show_default="1, or SLIMQ_WORKERS"
        ),
    ] = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port for gRPC; 0 for any free one.",
            show_default="none, or SLIMQ_GRPC_PORT",
        ),
    ] = None,
    root_path: Annotated[
        str | None,
        typer.Option(
            help="Path prefix behind a proxy, such as /slimq.",
            show_default="none, or SLIMQ_ROOT_PATH",
        ),
    ] = None,
) -> None:
    """Serve every variant of every policy over HTTP, and over gRPC if it has a port.

    The URL (unix:PATH for a Unix socket) goes to stdout, followed by those of SLIMQ_ADMIN_PORT and
    gRPC if set; logs go to stderr. Other settings are read from SLIMQ_* variables, such as
    SLIMQ_MAX_BATCH or SLIMQ_MAX_BODY_BYTES; flags take precedence.
    """
    require(
        "serve", "fastapi", "uvicorn", "websockets", "onnxruntime", "orjson", "prometheus_client"
    )
    from slimq_service.server.logs import configure_logs
    from slimq_service.server.serve import serve as run
    from slimq_service.settings_reading import read_settings

    settings = read_settings(
        policies=policies,
        host=host,
        port=port,
        uds=uds,
        workers=workers,
        grpc_port=grpc_port,
        root_path=root_path,
    )
    verbose = ctx.find_root().params.get("verbose", False)
    configure_logs(logging.DEBUG if verbose else logging.INFO)

    def announce(url: str, admin_url: str | None, grpc_address: str | None, /) -> None:
        typer.echo(f"slimq: serving {settings.policies} at {url}")
        if admin_url is not None:
            typer.echo(f"slimq: metrics and administration at {admin_url}")
        if grpc_address is not None:
            typer.echo(f"slimq: gRPC at {grpc_address}")

    run(settings, announce, player_command())


def player_command() -> tuple[str, ...]:
    """The program that plays games for the page; empty if no environments are installed."""
    if any(importlib.util.find_spec(module) is None for module in ("gymnasium", "ale_py")):
        return ()
    return (sys.executable, "-P", "-m", "slimq.cli.game")
