"""`slimq loadtest`: compares the variants of a service under the same load."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from slimq.cli.extras import require
from slimq.cli.options import DEFAULT_POLICIES, ApiKeyOption, JsonOption, PoliciesOption
from slimq.cli.units import parse_duration

if TYPE_CHECKING:
    from slimq.core.observation import Observations, ObservationSpec
    from slimq.loadtest.plan import Mode, Plan

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def loadtest(
    url: Annotated[str, typer.Argument(help="Address of a service.", envvar="SLIMQ_URL")],
    policy: Annotated[str, typer.Option("--policy", help="Name of the policy.")],
    variants: Annotated[
        str,
        typer.Option(
            help="Comma-separated names; name a variant twice to see the measurement noise."
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Variant to compare the others with; by default the policy's baseline, or the "
            "first."
        ),
    ] = None,
    modes: Annotated[
        str, typer.Option(help="Any of closed, open and steps, comma-separated.")
    ] = "closed,open,steps",
    order: Annotated[
        str, typer.Option(help="interleaved, or alone: one variant after another.")
    ] = "interleaved",
    connections: Annotated[
        int, typer.Option(min=1, max=1024, help="Connections of the closed loop, always busy.")
    ] = 4,
    max_connections: Annotated[
        int,
        typer.Option(min=1, max=1024, help="Maximum connections for the open loop and the steps."),
    ] = 64,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.2,
            max=100_000,
            help="Requests per second of the open loop; by default half the throughput of the "
            "slowest variant.",
        ),
    ] = None,
    p99: Annotated[
        str, typer.Option("--p99", help="Highest p99 at which a rate counts as sustained.")
    ] = "10ms",
    rounds: Annotated[
        int, typer.Option(min=1, max=500, help="Blocks per variant in the closed and open loop.")
    ] = 20,
    seconds: Annotated[float, typer.Option(min=0.05, max=60, help="Seconds per block.")] = 0.5,
    sweeps: Annotated[
        int, typer.Option(min=1, max=50, help="Number of sweeps over the steps.")
    ] = 3,
    step: Annotated[
        float, typer.Option(min=1.02, max=4, help="Ratio of a step's rate to the previous one.")
    ] = 1.25,
    step_seconds: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds per step.")] = 2.0,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Observations per request.")] = 1,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=60, help="Seconds until a request counts as failed.")
    ] = 5.0,
    minutes: Annotated[
        float,
        typer.Option(min=0.05, max=1440, help="Time limit; no block starts that would exceed it."),
    ] = 15,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Seed of the order within rounds; random by default, and stated in the report.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="Observations: FILE.npy, FILE.json, or - for stdin; by default the calibration "
            "set of the policy in --policies.",
        ),
    ] = None,
    policies: PoliciesOption = DEFAULT_POLICIES,
    metrics: Annotated[
        str | None,
        typer.Option(help="Address of the metrics, if it is not URL/metrics."),
    ] = None,
    api_key: ApiKeyOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for loadtest.json, .html and .md; by default a new one in runs/loadtest."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare variants of a service under load and tell real differences from noise.

    Sends real observations in a closed loop, in an open loop at a constant rate, and in steps up to
    saturation. On Ctrl-C or SIGTERM it reports what has been measured so far. Other traffic skews
    the figures: the command only knows about its own requests.
    """
    require("load", "hdrh", "httptools", "matplotlib")
    from slimq.cli.loadtest_output import (
        run_with_bar,
        save_figures,
        show_report,
        stopping_on_signals,
    )
    from slimq.core.client import SlimqClient
    from slimq.core.errors import ServiceError
    from slimq.loadtest.plan import Order, Plan, choose_baseline, name_subjects
    from slimq.loadtest.recording import Recording
    from slimq.loadtest.report import RunInfo, make_report
    from slimq.loadtest.requests import refuse_credentials
    from slimq.loadtest.service import (
        find_republished,
        loaded_models,
        make_meter,
        make_service,
    )

    refuse_credentials(url, "URL")
    refuse_credentials(metrics or "", "--metrics")
    with SlimqClient(url, timeout=timeout, api_key=api_key) as client:
        manifest = client.policy(policy)
        named = [name.strip() for name in variants.split(",") if name.strip()]
        subjects = name_subjects(named, client.variants(policy))
        plan = Plan(
            subjects=subjects,
            baseline=choose_baseline(subjects, baseline, manifest.baseline_variant),
            modes=read_modes(modes),
            order=cast("Order", _one_of("--order", order, ("interleaved", "alone"))),
            connections=connections,
            max_connections=max_connections,
            rate=rate,
            p99_us=parse_duration(p99, "--p99"),
            rounds=rounds,
            seconds=seconds,
            sweeps=sweeps,
            step=step,
            step_seconds=step_seconds,
            batch=batch,
            timeout=timeout,
            minutes=minutes,
            seed=secrets.randbelow(2**32) if seed is None else seed,
        )
        plan.check()
        warn_of_time(plan)
        observations, origin = _read_observations(source, policies, policy, manifest.observation)
        models = loaded_models(client, policy, plan, observations)
        folder = _make_folder(output, policy)
        meter = make_meter(client.url, metrics, api_key, timeout)
        service = make_service(
            client.url, policy, plan, observations, manifest.observation, meter, api_key
        )
        recording, started, begin = Recording(), datetime.now(UTC), time.monotonic()
        if meter.problem is not None:
            recording.notes.append(f"no processor time: {meter.problem}")
        with stopping_on_signals() as stop:
            ended, problem = run_with_bar(service, plan, recording, stop)
            took = time.monotonic() - begin
            if stop.requested or isinstance(problem, ServiceError):
                recording.notes.append("not checked whether the models changed during the test")
            else:
                recording.notes += find_republished(client, policy, models)
            info = RunInfo(
                url=client.url,
                policy=policy,
                models=models,
                observations=origin,
                started=f"{started:%Y-%m-%d %H:%M:%S} UTC",
                seconds=took,
                ended=ended,
            )
            report = make_report(recording, plan, info)
            unwritten = save_figures(report, folder)
        meter.close()
    show_report(report, folder, unwritten, as_json=as_json)
    if problem is not None:
        raise problem


def warn_of_time(plan: Plan) -> None:
    """Warns on stderr if a plan takes longer than allowed."""
    from slimq.loadtest.session import estimate_seconds

    needed = estimate_seconds(plan) / 60
    if needed > plan.minutes:
        typer.echo(
            f"this takes about {needed:.3g} minutes, but --minutes allows {plan.minutes:g}: "
            "it will stop before everything is measured",
            err=True,
        )


def read_modes(text: str) -> tuple[Mode, ...]:
    """The modes that an option names, in the order in which they run.

    Raises:
        InvalidInputError: one is unknown, or there is none.
    """
    from slimq.core.errors import InvalidInputError
    from slimq.loadtest.plan import MODES

    asked = [mode.strip() for mode in text.split(",") if mode.strip()]
    if not asked:
        raise InvalidInputError("--modes", f"at least one of {', '.join(MODES)}", "none")
    for mode in asked:
        _one_of("--modes", mode, MODES)
    return tuple(mode for mode in MODES if mode in asked)


def _one_of(field: str, value: str, known: tuple[str, ...]) -> str:
    from slimq.core.errors import InvalidInputError, suggestion

    if value not in known:
        hint = suggestion(value, known)
        raise InvalidInputError(field, " or ".join(known), repr(value), hint)
    return value


def _read_observations(
    source: str | None, policies: Path, policy: str, spec: ObservationSpec
) -> tuple[Observations, str]:
    """The observations, and a description of their source."""
    from slimq.cli.loadtest_output import readable
    from slimq.cli.observations import read_observations
    from slimq.core.batches import as_batch
    from slimq.core.repository import Repository
    from slimq.loadtest.requests import read_calibration

    if source is not None:
        found = as_batch(spec, read_observations(source), "--input")
        return found, f"{len(found)} observations from {readable(source)}"
    found = read_calibration(Repository(policies), policy, spec)
    return found, f"{len(found):,} observations from the calibration set"


def _make_folder(output: Path | None, policy: str) -> Path:
    """Creates the output folder before the load test, so that the report can be written."""
    if output is None:
        output = Path("runs") / "loadtest" / f"{policy}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    output.mkdir(parents=True, exist_ok=True)
    return output
