"""`slimq policies route`: splits requests that name no variant, and sets a shadow variant."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimq.cli.options import DEFAULT_POLICIES, JsonOption, PoliciesOption
from slimq.core.errors import InvalidInputError
from slimq.core.manifest import MAX_WEIGHTS, SLUG

if TYPE_CHECKING:
    from slimq.core.manifest import PolicyManifest


def route(
    policy: Annotated[str, typer.Argument(help="Name of the policy.")],
    weights: Annotated[
        list[str] | None,
        typer.Argument(metavar="VARIANT=WEIGHT", help="Weight of each variant, such as int8=10."),
    ] = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Send all such requests to the default variant again.")
    ] = False,
    shadow: Annotated[
        str | None, typer.Option(help="Variant that also computes a share of the requests.")
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(help="Shadow's share, above 0 and at most 1.", show_default="1"),
    ] = None,
    no_shadow: Annotated[
        bool, typer.Option("--no-shadow", help="Remove the shadow variant.")
    ] = False,
    policies: PoliciesOption = DEFAULT_POLICIES,
    as_json: JsonOption = False,
) -> None:
    """Show or set how requests that name no variant are split; a running service picks up changes.

    Weights are relative to their sum. Requests with the same Routing-Key header go to the same
    variant. With --shadow, a variant also computes a share of the requests, off the request path,
    and the service's metrics show how often its action would differ. `slimq promote` clears the
    routing.
    """
    from slimq.core.manifest import Routing, Shadow
    from slimq.core.publish import Publisher
    from slimq.core.repository import Repository

    _refuse_both("--clear", clear, "VARIANT=WEIGHT", bool(weights))
    _refuse_both("--no-shadow", no_shadow, "--shadow", shadow is not None)
    if share is not None and shadow is None:
        raise InvalidInputError("--share", "--shadow VARIANT as well", "no --shadow")
    if shadow is not None:
        _check_name("--shadow", shadow)
    publisher = Publisher(Repository(policies))
    parsed = parse_weights(weights or [])
    if shadow is not None and not 0 < (share := 1.0 if share is None else share) <= 1:
        raise InvalidInputError("--share", "a number above 0 and at most 1", f"{share:g}")
    manifest = publisher.repository.policy(policy)
    if shadow is not None:
        publisher.repository.variant(policy, shadow)  # must exist before anything changes
    if clear or parsed:
        manifest = publisher.route(policy, Routing(weights=parsed) if parsed else None)
    if no_shadow or shadow is not None:
        new_shadow = None if shadow is None else Shadow(variant=shadow, share=share or 1.0)
        manifest = publisher.shadow(policy, new_shadow)
    typer.echo(json.dumps(summary(manifest)) if as_json else describe(manifest))


def parse_weights(texts: list[str]) -> dict[str, float]:
    """Parses texts such as `int8=10` into weights by variant.

    Raises:
        InvalidInputError: a text is malformed, a variant is named twice, or all weights are 0.
    """
    weights: dict[str, float] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = -1.0
        if not name or not separator or not 0 <= weight <= 1e9:
            expected = "VARIANT=WEIGHT with a weight from 0 to 1e9, such as int8=10"
            raise InvalidInputError("VARIANT=WEIGHT", expected, repr(text))
        _check_name("VARIANT=WEIGHT", name)
        if name in weights:
            raise InvalidInputError("VARIANT=WEIGHT", "each variant once", f"{name!r} twice")
        weights[name] = weight
    if len(weights) > MAX_WEIGHTS:
        raise InvalidInputError("VARIANT=WEIGHT", f"at most {MAX_WEIGHTS}", str(len(weights)))
    if weights and not any(weights.values()):
        raise InvalidInputError("VARIANT=WEIGHT", "a weight above 0", "only zeros")
    return weights


def summary(manifest: PolicyManifest) -> dict[str, Any]:
    """The share of each variant, from 0 to 1, and the shadow."""
    weights = manifest.routing.weights if manifest.routing else {manifest.default_variant: 1.0}
    total = sum(weights.values())
    return {
        "policy": manifest.name,
        "default_variant": manifest.default_variant,
        "shares": {variant: weight / total for variant, weight in weights.items()},
        "shadow": manifest.shadow.model_dump() if manifest.shadow else None,
    }


def describe(manifest: PolicyManifest) -> str:
    """Formats the routing as one line."""
    values = summary(manifest)
    shares = ", ".join(
        f"{variant} ({100 * share:.4g}%)" for variant, share in values["shares"].items()
    )
    shadow = values["shadow"]
    shadowed = f"; shadow: {shadow['variant']} ({100 * shadow['share']:.4g}%)" if shadow else ""
    return f"{manifest.name}: requests that name no variant go to {shares}{shadowed}"


def _check_name(field: str, name: str) -> None:
    if not re.fullmatch(SLUG, name):
        raise InvalidInputError(field, f"the name of a variant ({SLUG})", repr(name))


def _refuse_both(first: str, has_first: bool, second: str, has_second: bool) -> None:
    if has_first and has_second:
        raise InvalidInputError(first, f"either {first} or {second}", "both")
