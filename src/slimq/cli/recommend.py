"""`slimq recommend`: picks the variant to deploy from limits and evidence, with reasons."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from slimq.cli.options import DEFAULT_POLICIES, JsonOption, PoliciesOption
from slimq.cli.output import print_json
from slimq.cli.units import parse_bytes, parse_duration
from slimq.core.errors import CheckFailedError

if TYPE_CHECKING:
    from slimq.evaluation.recommendation import Candidate, Recommendation

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


class Mode(StrEnum):
    """Latency mode."""

    alone = "alone"
    interleaved = "interleaved"


class Aim(StrEnum):
    """Cost to minimize."""

    bytes = "bytes"
    latency = "latency"


@app.command()
def recommend(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    policies: PoliciesOption = DEFAULT_POLICIES,
    max_latency: Annotated[
        str | None,
        typer.Option("--max-latency", help="Limit on a call's median time: 0.2ms, 200us, 1s."),
    ] = None,
    max_bytes: Annotated[
        str | None, typer.Option("--max-bytes", help="Limit on disk size: 20000, 16.9kB, 1MB.")
    ] = None,
    margin: Annotated[
        float,
        typer.Option(
            "--margin", help="Tolerated loss in undisturbed play, as a share of (full − random)."
        ),
    ] = 0.02,
    robust: Annotated[
        bool | None,
        typer.Option(
            "--robust/--no-robust",
            help="Require that it is also non-inferior under all standard conditions.",
            show_default="robust if the full variant has been evaluated under all of them",
        ),
    ] = None,
    latency: Annotated[
        Mode, typer.Option("--latency", help="Which latency measurement to use.")
    ] = Mode.alone,
    batch: Annotated[
        int, typer.Option("--batch", help="Batch size of the latency measurement.")
    ] = 1,
    min_return: Annotated[
        float | None, typer.Option("--min-return", help="Minimum mean return over the episodes.")
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            "--min-agreement",
            help="Minimum share of states with the full policy's action, from 0 to 1; required for "
            "a policy that is not proven in play.",
        ),
    ] = None,
    aim: Annotated[
        Aim | None,
        typer.Option(
            "--for",
            help="Cost to minimize.",
            show_default="bytes; latency if only --max-bytes is given",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Name the variant to deploy: the cheapest that is robust and meets every limit.

    Robust is non-inferior undisturbed and under every standard condition. If the full variant has
    not been evaluated under these, being non-inferior undisturbed is enough, and the output says
    so.

    Reads only the reports. A policy without an environment has no returns, so none of its variants
    can be shown to be non-inferior, even undisturbed: --min-agreement then chooses by agreement on
    its recorded states. Exits with 1 if no variant fits.
    """
    from slimq.core.repository import Repository
    from slimq.evaluation.comparison import compare_variants
    from slimq.evaluation.recommendation import Criteria
    from slimq.evaluation.recommendation import recommend as choose

    criteria = Criteria(
        margin=margin,
        max_bytes=None if max_bytes is None else parse_bytes(max_bytes, "--max-bytes"),
        max_latency_us=(
            None if max_latency is None else parse_duration(max_latency, "--max-latency")
        ),
        min_return=min_return,
        min_agreement=min_agreement,
        mode=latency.value,
        batch=batch,
        goal=None if aim is None else aim.value,
        robust=robust,
    )
    found = choose(compare_variants(Repository(policies), policy), criteria)
    if as_json:
        print_json(found)
    else:
        typer.echo("\n".join(describe(found)))
    if found.choice is None:
        raise CheckFailedError(explain_failure(found))


def describe(found: Recommendation) -> list[str]:
    """Formats the choice, the runners-up and the rejected variants as lines of text."""
    lines = []
    if found.choice is not None:
        cost = "smallest" if found.goal == "bytes" else "fastest"
        criteria = _criteria(found)
        lines.append(f"{found.choice.variant}: the {cost} variant of {found.policy} {criteria}")
        lines += [f"  {line}" for line in _figures(found.choice, found)]
        lines += [f"  {remark}" for remark in (found.evidence, found.unknown) if remark]
    if found.runners_up:
        lines.append("also fit, next best first:")
        lines += [
            f"  {candidate.variant}: {', '.join(_figures(candidate, found))}"
            for candidate in found.runners_up
        ]
    if found.rejected:
        lines.append("do not fit:")
        lines += [f"  {one.variant}: {'; '.join(one.reasons)}" for one in found.rejected]
    return lines


def explain_failure(found: Recommendation) -> str:
    """Says in one line why nothing fits: the nearest miss, or the lack of evidence."""
    start = f"no variant of {found.policy} fits"
    if found.nearest is None:
        return f"{start}: none has the required evidence; run slimq evaluate {found.policy}"
    return f"{start}; the nearest is {found.nearest.variant}: {'; '.join(found.nearest.reasons)}"


def _criteria(found: Recommendation) -> str:
    from slimq.core.robustness import CONDITION_MARGIN

    criteria = found.criteria
    parts = [f"that is non-inferior undisturbed at {criteria.margin:.2%}"]
    if found.robust:
        parts = [f"{parts[0]} and under each standard condition at {CONDITION_MARGIN:.2%}"]
    if found.evidence is not None:
        parts = ["that meets every limit"]
    if criteria.min_agreement is not None:
        parts.append(f"with an agreement of at least {criteria.min_agreement:.2%}")
    if criteria.max_bytes is not None:
        parts.append(f"with at most {criteria.max_bytes:,} bytes")
    if criteria.max_latency_us is not None:
        parts.append(f"with a p50 of at most {criteria.max_latency_us:g} µs")
    if criteria.min_return is not None:
        parts.append(f"with a mean return of at least {criteria.min_return:g}")
    return ", ".join(parts)


def _figures(candidate: Candidate, found: Recommendation) -> list[str]:
    smaller = "" if candidate.smaller is None else f" (× {candidate.smaller:.2f} smaller)"
    lines = [f"{candidate.bytes:,} bytes{smaller}"]
    if candidate.latency_us is not None:
        faster = "" if candidate.faster is None else f" (× {candidate.faster:.2f} faster)"
        how = f"{found.criteria.mode}, batch {found.criteria.batch}"
        lines.append(f"p50 {candidate.latency_us:.1f} µs {how}{faster}")
    if candidate.mean is not None and candidate.low is not None:
        lines.append(f"mean return {candidate.mean:.2f}, lower bound {candidate.low:+.2%}")
    if candidate.worst_condition is not None and candidate.worst_low is not None:
        kept = {True: "robust", False: "not robust", None: "not known to be robust"}
        worst = f"{candidate.worst_low:+.2%} under {candidate.worst_condition}"
        lines.append(f"{kept[candidate.robust]}, lowest bound {worst}")
    if candidate.agreement is not None and found.criteria.min_agreement is not None:
        lines.append(f"agreement {candidate.agreement:.2%}")
    return [*lines, *candidate.notes]
