"""`slimq policies route`: who answers requests that name no variant, and who looks on."""

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
        typer.Argument(metavar="VARIANT=WEIGHT", help="Share of each variant, such as int8=10."),
    ] = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="The default variant answers everything again.")
    ] = False,
    shadow: Annotated[
        str | None, typer.Option(help="Variant that looks at a share of the requests too.")
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="That share, over 0 and at most 1.", show_default="1")
    ] = None,
    no_shadow: Annotated[
        bool, typer.Option("--no-shadow", help="No variant looks on any longer.")
    ] = False,
    policies: PoliciesOption = DEFAULT_POLICIES,
    as_json: JsonOption = False,
) -> None:
    """Show or set who answers requests that name no variant; a running service follows by itself.

    Weights are relative to their sum. Requests with the same Routing-Key header go to the same
    variant. With --shadow a variant computes a share of the requests too, off their path, and the
    service's metrics say how often it would have acted otherwise. `slimq promote` ends a routing.
    """
    from slimq.core.manifest import Routing, Shadow
    from slimq.core.publish import Publisher
    from slimq.core.repository import Repository

    _refuse_both("--clear", clear, "VARIANT=WEIGHT", bool(weights))
    _refuse_both("--no-shadow", no_shadow, "--shadow", shadow is not None)
    if share is not None and shadow is None:
        raise InvalidInputError("--share", "--shadow VARIANT with it", "none")
    if shadow is not None:
        _check_name("--shadow", shadow)
    publisher = Publisher(Repository(policies))
    parsed = parse_weights(weights or [])
    if shadow is not None and not 0 < (share := 1.0 if share is None else share) <= 1:
        raise InvalidInputError("--share", "a number over 0 and at most 1", f"{share:g}")
    manifest = publisher.repository.policy(policy)
    if shadow is not None:
        publisher.repository.variant(policy, shadow)  # before anything is changed
    if clear or parsed:
        manifest = publisher.route(policy, Routing(weights=parsed) if parsed else None)
    if no_shadow or shadow is not None:
        following = None if shadow is None else Shadow(variant=shadow, share=share or 1.0)
        manifest = publisher.shadow(policy, following)
    typer.echo(json.dumps(summary(manifest)) if as_json else describe(manifest))


def parse_weights(texts: list[str]) -> dict[str, float]:
    """Weights by variant of texts such as `int8=10`.

    Raises:
        InvalidInputError: one is none, names a variant again, or all are 0.
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
            raise InvalidInputError("VARIANT=WEIGHT", "each variant once", f"{name!r} again")
        weights[name] = weight
    if len(weights) > MAX_WEIGHTS:
        raise InvalidInputError("VARIANT=WEIGHT", f"at most {MAX_WEIGHTS}", str(len(weights)))
    if weights and not any(weights.values()):
        raise InvalidInputError("VARIANT=WEIGHT", "a weight over 0", "none")
    return weights


def summary(manifest: PolicyManifest) -> dict[str, Any]:
    """Shares of 1 by variant, and the shadow."""
    weights = manifest.routing.weights if manifest.routing else {manifest.default_variant: 1.0}
    total = sum(weights.values())
    return {
        "policy": manifest.name,
        "default_variant": manifest.default_variant,
        "shares": {variant: weight / total for variant, weight in weights.items()},
        "shadow": manifest.shadow.model_dump() if manifest.shadow else None,
    }


def describe(manifest: PolicyManifest) -> str:
    """One line."""
    values = summary(manifest)
    shares = ", ".join(f"{variant} {share:.4g}" for variant, share in values["shares"].items())
    shadow = values["shadow"]
    looks = f"; {shadow['variant']} looks at {shadow['share']:.4g} of them" if shadow else ""
    return f"{manifest.name}: requests that name no variant: {shares}{looks}"


def _check_name(field: str, name: str) -> None:
    if not re.fullmatch(SLUG, name):
        raise InvalidInputError(field, f"the name of a variant ({SLUG})", repr(name))


def _refuse_both(first: str, has_first: bool, second: str, has_second: bool) -> None:
    if has_first and has_second:
        raise InvalidInputError(first, f"either {first} or {second}", "both")
