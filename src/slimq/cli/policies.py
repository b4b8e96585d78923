"""`slimq policies`: lists, verifies, routes, shares and cleans the policies in the repository."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimq.cli.hub import pull, push
from slimq.cli.options import DEFAULT_POLICIES, JsonOption, PoliciesOption
from slimq.cli.route import route

if TYPE_CHECKING:
    from slimq.core.manifest import PolicyManifest
    from slimq.core.repository import Repository

app = typer.Typer(
    help="List, verify, route, share and clean the policies in the repository.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(route)
app.command()(push)
app.command()(pull)

NOT_PROVEN = "no environment, not proven in play"


@app.command("list")
def list_policies(policies: PoliciesOption = DEFAULT_POLICIES, as_json: JsonOption = False) -> None:
    """List every policy and its variants, with their size and mean return."""
    from slimq.core.errors import RepositoryError
    from slimq.core.repository import Repository

    repository = Repository(policies)
    rows: list[dict[str, Any]] = []
    for name in repository.policies():
        try:
            manifest = repository.policy(name)
            rows.append(
                {
                    "policy": name,
                    "environment": manifest.environment.id if manifest.environment else None,
                    "proven_in_play": manifest.proven_in_play,
                    "baseline_variant": manifest.baseline_variant,
                    "default_variant": manifest.default_variant,
                    "variants": _summaries(repository, manifest),
                }
            )
        except RepositoryError as problem:
            rows.append({"policy": name, "problem": str(problem)})
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        typer.echo(f"{policies} has no policies yet.")
    for row in rows:
        if "problem" in row:
            typer.echo(f"{row['policy']}: {row['problem']}")
            continue
        typer.echo(f"{row['policy']} ({row['environment'] or NOT_PROVEN})")
        for variant in row["variants"]:
            typer.echo(_variant_line(variant, row["default_variant"]))


@app.command()
def show(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    variant: Annotated[str | None, typer.Argument(help="Name of one of its variants.")] = None,
    policies: PoliciesOption = DEFAULT_POLICIES,
    as_json: JsonOption = False,
) -> None:
    """Show a policy's manifest, or a variant's manifest and report."""
    from slimq.core.repository import Repository

    repository = Repository(policies)
    shown: dict[str, Any]
    if variant is None:
        manifest = repository.policy(policy)
        shown = manifest.model_dump(mode="json") | {"variants": _summaries(repository, manifest)}
        shown["proven_in_play"] = manifest.proven_in_play
    else:
        shown = repository.variant(policy, variant).model_dump(mode="json")
        report = repository.report(policy, variant)
        shown["report_content"] = report.model_dump(mode="json") if report else None
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
    else:
        typer.echo("\n".join(_lines(shown)))


@app.command()
def verify(
    policy: Annotated[str | None, typer.Argument(help="One policy; all if omitted.")] = None,
    policies: PoliciesOption = DEFAULT_POLICIES,
    as_json: JsonOption = False,
) -> None:
    """Check every manifest and hash, and run every model on the calibration states.

    Exits with 1 if there is a problem, or nothing to check.
    """
    from slimq.cli.extras import require
    from slimq.core.errors import CheckFailedError
    from slimq.core.repository import Repository

    require("serve", "onnxruntime")
    from slimq.core.verification import find_problems

    repository = Repository(policies)
    everything = {*repository.policies(), *repository.incomplete()}
    names = sorted(everything) if policy is None else [policy]
    found = {name: find_problems(repository, name) for name in names}
    if as_json:
        rows = {
            name: [{"path": problem.path, "problem": problem.problem} for problem in problems]
            for name, problems in found.items()
        }
        typer.echo(json.dumps(rows, indent=2))
    else:
        for name, problems in found.items():
            if not problems:
                count = len(repository.variants(name))
                typer.echo(f"{name}: ok, {count} {'variant' if count == 1 else 'variants'}")
            for problem in problems:
                typer.echo(str(problem))
    if count := sum(map(len, found.values())):
        raise CheckFailedError(f"{count} {'problem' if count == 1 else 'problems'} in {policies}")
    if not names:
        raise CheckFailedError(f"{policies} has no policies")


@app.command()
def clean(
    policy: Annotated[str | None, typer.Argument(help="One policy; all if omitted.")] = None,
    grace_seconds: Annotated[
        float,
        typer.Option(
            min=0, help="Keep files that were in use this recently; a service may still read them."
        ),
    ] = 3600.0,
    policies: PoliciesOption = DEFAULT_POLICIES,
    as_json: JsonOption = False,
) -> None:
    """Remove files left behind by replaced variants and interrupted publishing.

    Exits with 1 if a policy is invalid; such a policy is left as it is.
    """
    from slimq.core.errors import CheckFailedError, RepositoryError
    from slimq.core.publish import Publisher
    from slimq.core.repository import Repository

    repository = Repository(policies)
    publisher = Publisher(repository)
    rows: dict[str, dict[str, Any]] = {}
    for name in repository.policies() if policy is None else [policy]:
        try:
            removed = publisher.collect_garbage(name, grace_seconds)
            rows[name] = {"removed": removed, "problem": None}
        except RepositoryError as problem:
            rows[name] = {"removed": [], "problem": str(problem)}
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        for name, row in rows.items():
            for path in row["removed"]:
                typer.echo(f"removed {path}")
            if not row["removed"]:
                typer.echo(f"{name}: {row['problem'] or 'nothing to remove'}")
    if count := sum(row["problem"] is not None for row in rows.values()):
        raise CheckFailedError(f"{count} {'policy' if count == 1 else 'policies'} not cleaned")


def _summaries(repository: Repository, policy: PolicyManifest) -> list[dict[str, Any]]:
    names = repository.variants(policy.name)
    return [_summary(repository, policy, name) for name in names]


def _summary(repository: Repository, policy: PolicyManifest, variant: str) -> dict[str, Any]:
    """A variant's row; for an invalid variant it states the problem instead of raising."""
    from slimq.core.errors import RepositoryError
    from slimq.core.manifest import is_stale

    try:
        manifest = repository.variant(policy.name, variant)
        report = repository.report(policy.name, variant)
    except RepositoryError as problem:
        return {"variant": variant, "problem": str(problem)}
    return {
        "variant": variant,
        "precision": manifest.precision,
        "bytes": manifest.model.bytes,
        "sha256": manifest.model.sha256,
        "mean_return": report.mean if report else None,
        "agreement": report.fidelity.agreement if report and report.fidelity else None,
        "stale": is_stale(manifest, policy),
    }


def _variant_line(row: dict[str, Any], default: str) -> str:
    name = f"  {row['variant']}{' (default)' if row['variant'] == default else ''}"
    if "problem" in row:
        return f"{name:<34}{row['problem']}"
    mean, agreement = row["mean_return"], row["agreement"]
    played = (
        "not evaluated" if agreement is None else f"agreement {agreement:.1%}, not proven in play"
    )
    if mean is not None:
        played = f"mean return {mean:.2f}"
    if row["stale"]:
        played += ", made from another checkpoint"
    return f"{name:<34}{row['precision']:<12}{row['bytes']:>12,} bytes   {played}"


def _lines(value: dict[str, Any], indent: int = 0) -> list[str]:
    """Formats nested values as indented `key: value` lines; long lists as their length."""
    lines = []
    for key, item in value.items():
        start = f"{' ' * indent}{key}:"
        if isinstance(item, dict) and item:
            lines += [start, *_lines(item, indent + 2)]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            lines.append(start)
            for entry in item:
                first, *others = _lines(entry, indent + 4)
                lines += [f"{' ' * (indent + 2)}- {first.lstrip()}", *others]
        elif isinstance(item, list):
            text = ", ".join(map(str, item)) if len(item) <= 18 else f"{len(item)} values"
            lines.append(f"{start} {text}".rstrip())
        else:
            lines.append(f"{start} {'-' if item is None else item}")
    return lines
