"""`slimq loadtest`: the variants of a service under the same load."""

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
    policy: Annotated[str, typer.Option("--policy", help="The policy.")],
    variants: Annotated[
        str,
        typer.Option(
            help="Which ones, with commas between them; one that is named twice shows the noise."
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(
            help="What the others are held to; by default the policy's own, or the first."
        ),
    ] = None,
    modes: Annotated[
        str, typer.Option(help="Which of closed, open and steps, with commas between them.")
    ] = "closed,open,steps",
    order: Annotated[
        str, typer.Option(help="interleaved, or alone: one variant after the other.")
    ] = "interleaved",
    connections: Annotated[
        int, typer.Option(min=1, max=1024, help="Always busy in the closed loop.")
    ] = 4,
    max_connections: Annotated[
        int, typer.Option(min=1, max=1024, help="Of the open loop and of the steps.")
    ] = 64,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.2,
            max=100_000,
            help="Requests per second of the open loop; by default half of what the slowest "
            "variant can do.",
        ),
    ] = None,
    p99: Annotated[
        str, typer.Option("--p99", help="What the p99 may be at a rate that is held.")
    ] = "10ms",
    rounds: Annotated[
        int, typer.Option(min=1, max=500, help="Blocks per variant of the closed and open loop.")
    ] = 20,
    seconds: Annotated[float, typer.Option(min=0.05, max=60, help="Length of such a block.")] = 0.5,
    sweeps: Annotated[int, typer.Option(min=1, max=50, help="How often steps are climbed.")] = 3,
    step: Annotated[
        float, typer.Option(min=1.02, max=4, help="A step's rate over the one before.")
    ] = 1.25,
    step_seconds: Annotated[float, typer.Option(min=0.1, max=60, help="Length of a step.")] = 2.0,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Observations in a request.")] = 1,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=60, help="Seconds after which a request has failed.")
    ] = 5.0,
    minutes: Annotated[
        float, typer.Option(min=0.05, max=1440, help="After so many nothing more is begun.")
    ] = 15,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Of the order within the rounds; by default drawn, and in the report."
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
        typer.Option(help="Address of the metrics, where it is another than URL/metrics."),
    ] = None,
    api_key: ApiKeyOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for loadtest.json, .html and .md; by default one in runs/loadtest."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compares variants of a service under load, and says which differences are real.

    Real observations are sent in a closed loop, in an open loop of constant rate, and in steps up
    to saturation. Ctrl-C or SIGTERM ends it with a report of what was measured until then. The
    command is alone in knowing what it sends: other traffic makes everything slower.
    """
    require("load", "hdrh", "httptools", "matplotlib")
    from slimq.cli.loadtest_output import heeding_signals, keep_figures, run_with_bar, show_report
    from slimq.core.client import SlimqClient
    from slimq.core.errors import ServiceError
    from slimq.loadtest.plan import Order, Plan, choose_baseline, name_subjects
    from slimq.loadtest.recording import Recording
    from slimq.loadtest.report import Circumstances, make_report
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
            modes=_read_modes(modes),
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
        _warn_of_time(plan)
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
        with heeding_signals() as stop:
            ended, problem = run_with_bar(service, plan, recording, stop)
            took = time.monotonic() - begin
            if stop.asked or isinstance(problem, ServiceError):
                recording.notes.append("whether the models are still the same was not asked")
            else:
                recording.notes += find_republished(client, policy, models)
            circumstances = Circumstances(
                url=client.url,
                policy=policy,
                models=models,
                observations=origin,
                started=f"{started:%Y-%m-%d %H:%M:%S} UTC",
                seconds=took,
                ended=ended,
            )
            report = make_report(recording, plan, circumstances)
            unwritten = keep_figures(report, folder)
        meter.close()
    show_report(report, folder, unwritten, as_json=as_json)
    if problem is not None:
        raise problem


def _warn_of_time(plan: Plan) -> None:
    from slimq.loadtest.session import guess_seconds

    needed = guess_seconds(plan) / 60
    if needed > plan.minutes:
        typer.echo(
            f"this takes about {needed:.3g} minutes, and --minutes allows {plan.minutes:g}: "
            "it will end before all is measured",
            err=True,
        )


def _read_modes(text: str) -> tuple[Mode, ...]:
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
    """The observations, and where they come from."""
    from slimq.cli.loadtest_output import readable
    from slimq.cli.observations import read_observations
    from slimq.core.repository import Repository
    from slimq.loadtest.requests import read_calibration

    if source is not None:
        found = spec.check(read_observations(source), "--input")
        return found, f"{len(found)} observations of {readable(source)}"
    found = read_calibration(Repository(policies), policy, spec)
    return found, f"{len(found):,} observations of the calibration set"


def _make_folder(output: Path | None, policy: str) -> Path:
    """Made before the load, so that nothing is measured that cannot be written."""
    if output is None:
        output = Path("runs") / "loadtest" / f"{policy}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    output.mkdir(parents=True, exist_ok=True)
    return output
