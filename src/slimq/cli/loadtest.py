"""`slimq loadtest`: the variants of a service under the same load."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from slimq.cli.extras import require
from slimq.cli.options import DEFAULT_POLICIES, ApiKeyOption, JsonOption, PoliciesOption
from slimq.cli.units import parse_duration

if TYPE_CHECKING:
    from slimq.core.client import SlimqClient
    from slimq.core.observation import Observations, ObservationSpec
    from slimq.evaluation.loadtest.plan import Mode, Plan
    from slimq.evaluation.loadtest.processor import Meter
    from slimq.evaluation.loadtest.recording import Recording
    from slimq.evaluation.loadtest.report import Report
    from slimq.evaluation.loadtest.session import Progress, Service

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
    most_connections: Annotated[
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
        float, typer.Option(min=0.05, max=1440, help="The longest it may take.")
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
    to saturation. Ctrl-C ends it with a report of what was measured until then. The command is
    alone in knowing what it sends: other traffic makes everything slower.
    """
    require("load", "hdrh", "httptools", "matplotlib")
    from slimq.core.client import SlimqClient
    from slimq.core.errors import CheckFailedError, ServiceError
    from slimq.evaluation.loadtest.plan import Order, Plan, choose_baseline, name_subjects
    from slimq.evaluation.loadtest.recording import Recording
    from slimq.evaluation.loadtest.report import Circumstances, make_report
    from slimq.evaluation.loadtest.requests import refuse_credentials
    from slimq.evaluation.loadtest.session import TimeIsUpError

    refuse_credentials(url, "URL")
    refuse_credentials(metrics or "", "--metrics")
    with SlimqClient(url, api_key=api_key) as client:
        manifest = client.policy(policy)
        named = [name.strip() for name in variants.split(",") if name.strip()]
        subjects = name_subjects(named, client.variants(policy))
        plan = Plan(
            subjects=subjects,
            baseline=choose_baseline(subjects, baseline, manifest.baseline_variant),
            modes=_read_modes(modes),
            order=cast("Order", _one_of("--order", order, ("interleaved", "alone"))),
            connections=connections,
            most_connections=most_connections,
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
        folder = _make_folder(output, policy)
        models = _ask_all(client, policy, plan, observations)
        meter = _make_meter(client.url, metrics, api_key, timeout)
        service = _make_service(
            client.url, policy, plan, observations, manifest.observation, meter, api_key
        )
        recording, started, begin = Recording(), _now(), time.monotonic()
        if meter.problem is not None:
            recording.notes.append(f"no processor time: {meter.problem}")
        ended, problem = "complete", None
        try:
            _drive(service, plan, recording)
        except KeyboardInterrupt:
            ended = "interrupted"
        except TimeIsUpError:
            ended = f"ended after its {minutes:g} minutes"
        except ServiceError as error:
            ended, problem = f"ended by an error: {error}", error
        finally:
            meter.close()
        circumstances = Circumstances(
            url=client.url,
            policy=policy,
            models=models,
            observations=origin,
            started=started,
            seconds=time.monotonic() - begin,
            ended=ended,
        )
        with _undisturbed():
            _check_models(client, policy, models, recording)
            report = make_report(recording, plan, circumstances)
    _write(report, folder, as_json=as_json)
    if problem is not None:
        raise problem
    if ended == "interrupted":
        raise typer.Exit(130)
    if ended != "complete":
        raise CheckFailedError(f"the load test {ended}; {_readable(folder)} has what was measured")


def _warn_of_time(plan: Plan) -> None:
    from slimq.evaluation.loadtest.session import guess_seconds

    needed = guess_seconds(plan) / 60
    if needed > plan.minutes:
        typer.echo(
            f"this takes about {needed:.3g} minutes, and --minutes allows {plan.minutes:g}: "
            "it will end before all is measured",
            err=True,
        )


def _read_modes(text: str) -> tuple[Mode, ...]:
    from slimq.core.errors import InvalidInputError
    from slimq.evaluation.loadtest.plan import MODES

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
    from slimq.cli.act import read_observations
    from slimq.core.repository import Repository
    from slimq.evaluation.loadtest.requests import read_calibration

    if source is not None:
        found = spec.check(read_observations(source), "--input")
        return found, f"{len(found)} observations of {_readable(source)}"
    found = read_calibration(Repository(policies), policy, spec)
    return found, f"{len(found):,} observations of the calibration set"


def _make_folder(output: Path | None, policy: str) -> Path:
    """Made before the load, so that nothing is measured that cannot be written."""
    if output is None:
        output = Path("runs") / "loadtest" / f"{policy}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    output.mkdir(parents=True, exist_ok=True)
    return output


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _ask_all(
    client: SlimqClient, policy: str, plan: Plan, observations: Observations
) -> dict[str, str]:
    """One request to each variant, as a client would make it: which models are loaded now."""
    names = {subject.variant for subject in plan.subjects}
    return {name: client.act(policy, observations[:1], name).sha256 for name in sorted(names)}


def _check_models(
    client: SlimqClient, policy: str, models: dict[str, str], recording: Recording
) -> None:
    """Notes what was republished meanwhile; that this cannot be known is a note as well."""
    from slimq.core.errors import SlimqError

    for name, sha256 in models.items():
        try:
            same = client.variant(policy, name).model.sha256 == sha256
        except SlimqError as error:
            recording.notes.append(f"whether {name} is still the same model is not known: {error}")
            continue
        if not same:
            recording.notes.append(f"{name} was republished during the test: its figures are mixed")


def _make_meter(url: str, metrics: str | None, api_key: str | None, timeout: float) -> Meter:
    """A meter that tells the service's key to nobody else."""
    from slimq.evaluation.loadtest.processor import Meter
    from slimq.evaluation.loadtest.requests import same_host

    at = metrics or f"{url}/metrics"
    return Meter(at, api_key if same_host(url, at) else None, timeout)


def _make_service(
    url: str,
    policy: str,
    plan: Plan,
    observations: Observations,
    spec: ObservationSpec,
    meter: Meter,
    api_key: str | None,
) -> Service:
    from slimq.evaluation.loadtest.requests import Address, Requests, make_bodies, make_head
    from slimq.evaluation.loadtest.session import Service

    address = Address.parse(url)
    bodies = make_bodies(observations, spec, plan.batch)
    requests = {
        subject.variant: Requests(
            make_head(address, policy, subject.variant, len(bodies[0]), api_key), bodies
        )
        for subject in plan.subjects
    }
    return Service(address, requests, meter)


def _drive(service: Service, plan: Plan, recording: Recording) -> None:
    """Runs the plan under a bar that shows the share done, and the block that is over."""
    from tqdm import tqdm

    from slimq.evaluation.loadtest.session import guess_seconds, run_plan

    total = guess_seconds(plan)
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    with tqdm(total=total, bar_format=form, dynamic_ncols=True) as bar:

        def show(progress: Progress) -> None:
            where = progress.mode or "warm-up"
            bar.set_description(f"{where} {progress.label}", refresh=False)
            if progress.sample is not None:
                bar.set_postfix(_figures(progress), refresh=False)
            bar.update(min(total, progress.share * total) - bar.n)

        run_plan(service, plan, recording, show)


def _figures(progress: Progress) -> dict[str, str]:
    sample = progress.sample
    if sample is None:
        return {}
    figures = {"req/s": f"{sample.throughput:,.0f}"}
    if sample.p50_us is not None and sample.p99_us is not None:
        figures |= {"p50": f"{sample.p50_us / 1000:.2f}ms", "p99": f"{sample.p99_us / 1000:.2f}ms"}
    return figures


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Without interrupts: another Ctrl-C must not cost what was measured."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _write(report: Report, folder: Path, *, as_json: bool) -> None:
    """Writes the figures, prints them even where that failed, and draws last."""
    from slimq.evaluation.loadtest.documents import (
        STEM,
        render_document,
        write_figures,
        write_page,
    )
    from slimq.evaluation.loadtest.tables import render

    try:
        with _undisturbed():
            write_figures(report, folder)
    finally:
        text = render_document(report) if as_json else render(report, markdown=False)
        typer.echo(text, nl=as_json)
    problem = write_page(report, folder)
    if problem is not None:
        typer.echo(f"no plots could be drawn: {problem}", err=True)
    typer.echo(f"wrote {_readable(folder)}/{STEM}.json, .html and .md", err=True)


def _readable(path: str | Path) -> str:
    """A name as text that can be written: bytes that are none are replaced."""
    return os.fsencode(path).decode(errors="replace")
