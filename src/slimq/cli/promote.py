"""`slimq promote`: makes a variant the policy's default."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from slimq.cli.options import DEFAULT_POLICIES, JsonOption, PoliciesOption
from slimq.core.errors import CheckFailedError, InvalidInputError

if TYPE_CHECKING:
    from slimq.core.repository import Repository

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def promote(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    variant: Annotated[
        str | None, typer.Argument(help="The new default; omit it with --rollback.")
    ] = None,
    policies: PoliciesOption = DEFAULT_POLICIES,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Restore the default from before the last promotion.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Promote without evidence or against it."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a variant the policy's default; a running service picks it up.

    Clears the weights set by `slimq policies route`: the new default then answers all requests
    that name no variant.

    Exits with 1 if the variant has no report, was made from another checkpoint, is not shown to be
    non-inferior to the baseline undisturbed (which is impossible without an environment), or is
    known to fail under a standard condition; then only --force promotes it. A rollback needs no
    evidence.
    """
    from slimq.core.publish import Publisher
    from slimq.core.repository import Repository

    if rollback == (variant is not None):
        received = "both" if rollback else "neither"
        raise InvalidInputError("VARIANT", "either a variant or --rollback", received)
    repository = Repository(policies)
    old = repository.policy(policy)
    before = old.default_variant
    if variant is None:
        manifest = Publisher(repository).roll_back(policy)
    else:
        repository.variant(policy, variant)
        if not force:
            check_evidence(repository, policy, variant)
        manifest = Publisher(repository).promote(policy, variant)
    after = manifest.default_variant
    if as_json:
        values = {
            "policy": policy,
            "default_variant": after,
            "previous_default": manifest.previous_default,
            "changed": before != after,
            "routing_ended": old.routing is not None,
        }
        typer.echo(json.dumps(values))
        return
    cleared = "; routing weights cleared" if old.routing is not None else ""
    if before == after:
        typer.echo(f"{policy}: {after} is already the default{cleared}")
    else:
        typer.echo(f"{policy}: the default is now {after} (was {before}){cleared}")


def check_evidence(repository: Repository, policy: str, variant: str) -> None:
    """Checks in the reports that a variant is non-inferior to the baseline undisturbed.

    Under standard conditions, it must be so if they were played.

    Raises:
        CheckFailedError: it has no report for this model and checkpoint, may lose more than the
            margin, undisturbed or under a condition, or cannot be played.
    """
    from slimq.core.statistics import MARGIN
    from slimq.evaluation.comparison import compare_variants
    from slimq.evaluation.evidence import condition_misses
    from slimq.evaluation.recommendation import margin_miss, missing_evidence

    comparison = compare_variants(repository, policy)
    row = next((row for row in comparison.rows if row.variant == variant), None)
    if row is None:
        reasons = [comparison.failed.get(variant, "it no longer exists")]
    elif comparison.evidence is not None:
        reasons = [comparison.evidence]
    else:
        miss = margin_miss(row, MARGIN)
        misses = [*([] if miss is None else [miss]), *condition_misses(row)]
        reasons = missing_evidence(row) or [reason for reason, _ in misses]
    if reasons:
        problem = f"{policy}/{variant} was not promoted: {'; '.join(reasons)}"
        raise CheckFailedError(f"{problem}; use --force to promote it anyway")
