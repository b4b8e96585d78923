"""The overview: the policies served and the results of each variant, as the page shows them."""

from __future__ import annotations

import json

from pydantic import BaseModel, Field

from slimq import __version__
from slimq.core.errors import SlimqError
from slimq.core.evidence import Judgement
from slimq.core.manifest import PolicyManifest, is_stale
from slimq.core.pages.drawing import Drawing, drawing
from slimq.core.report import EvaluationReport
from slimq_service.api.v1.policies import environment_of
from slimq_service.variants.catalogue import Catalogue
from slimq_service.variants.snapshot import PolicyScan


class VariantRow(BaseModel):
    """Size and measured results of a variant; null if not measured."""

    name: str
    default: bool = Field(description="serves requests that name no variant")
    precision: str | None = None
    bytes: int | None = Field(default=None, description="on disk")
    bytes_ratio: float | None = Field(
        default=None, description="the baseline's size over this variant's"
    )
    mean_return: float | None = None
    interval: tuple[float, float] | None = Field(
        default=None, description="95 % confidence interval of the mean return"
    )
    episodes: int | None = Field(default=None, description="whose returns were averaged")
    agreement: float | None = Field(
        default=None, description="share of states with the same action as the current baseline"
    )
    latency_p50_us: float | None = Field(default=None, description="for one observation")
    latency_p99_us: float | None = None
    processor: str | None = Field(default=None, description="on which latency was measured")
    threads: int | None = Field(default=None, description="of that measurement")
    non_inferior: bool | None = Field(
        default=None, description="to the baseline in undisturbed play; null if not compared"
    )
    robust: bool | None = Field(
        default=None,
        description="whether it is non-inferior undisturbed and under all standard conditions",
    )
    fails_under: list[str] = Field(
        default_factory=list,
        description="where it fails to be non-inferior: `undisturbed`, or standard conditions",
    )
    stale: bool = Field(default=False, description="derived from an earlier network of the policy")
    problem: str | None = None


class PolicyTable(BaseModel):
    """A policy with its variants and a curl command to try."""

    name: str
    environment: str | None
    proven_in_play: bool | None = Field(
        description="false without an environment to measure returns in"
    )
    problem: str | None = None
    baseline_variant: str | None = Field(default=None, description="what variants are compared to")
    random_return: float | None = Field(
        default=None, description="mean return of uniformly random actions"
    )
    drawing: Drawing | None = Field(default=None, description="how the page draws observations")
    try_it: str | None = None
    variants: list[VariantRow]


class Overview(BaseModel):
    """The content of the page."""

    version: str
    plays: bool = Field(default=False, description="whether the service can play episodes itself")
    policies: list[PolicyTable]


async def make_overview(catalogue: Catalogue, base_url: str, *, plays: bool = False) -> Overview:
    """Collects the content of the page from the latest scan and the reports."""
    policies = []
    for name, scanned in catalogue.scan.policies.items():
        manifest = scanned.manifest
        rows = [await _row(catalogue, scanned, name, variant) for variant in scanned.variants]
        policies.append(
            PolicyTable(
                name=name,
                environment=environment_of(manifest),
                proven_in_play=manifest.proven_in_play if manifest else None,
                problem=str(scanned.error) if scanned.error else None,
                baseline_variant=manifest.baseline_variant if manifest else None,
                random_return=_random_return(manifest),
                drawing=drawing(manifest) if manifest else None,
                try_it=example(manifest, base_url) if manifest else None,
                variants=rows,
            )
        )
    return Overview(version=__version__, plays=plays, policies=policies)


def example(policy: PolicyManifest, base_url: str) -> str:
    """A curl command for an all-zero observation: in JSON, or as raw bytes if it is large."""
    url = f"{base_url}/v1/policies/{policy.name}/act"
    spec = policy.observation
    if spec.size > 64:
        line = f"head -c {spec.item_bytes} /dev/zero | curl -s '{url}'"
        return f"{line} -H 'content-type: application/octet-stream' --data-binary @-"
    body = json.dumps({"observations": spec.zeros().tolist()})
    return f"curl -s '{url}' -H 'content-type: application/json' -d '{body}'"


async def _row(
    catalogue: Catalogue, policy_scan: PolicyScan, name: str, variant: str
) -> VariantRow:
    policy, scanned = policy_scan.manifest, policy_scan.variants[variant]
    row = VariantRow(
        name=variant,
        default=policy is not None and policy.default_variant == variant,
        problem=str(scanned.error) if scanned.error else None,
    )
    manifest = scanned.manifest
    if manifest is None:
        return row
    size = manifest.model.bytes
    update: dict[str, object] = {"precision": manifest.precision, "bytes": size}
    update["stale"] = policy is not None and is_stale(manifest, policy)
    found = policy_scan.variants.get(policy.baseline_variant) if policy else None
    baseline = found.manifest.model if found is not None and found.manifest is not None else None
    if baseline is not None and size:
        update["bytes_ratio"] = baseline.bytes / size
    try:
        report = await catalogue.report(name, variant)
    except SlimqError as error:
        update["problem"] = row.problem or str(error)
    else:
        if report is not None and report.model_sha256 == manifest.model.sha256:
            update |= _measured(report, baseline.sha256 if baseline is not None else None)
            update |= _judged(catalogue.evidence.find(name, variant))
    return row.model_copy(update=update)


def _measured(report: EvaluationReport, baseline_sha256: str | None) -> dict[str, object]:
    latency = None
    fidelity = report.fidelity if report.baseline_sha256 == baseline_sha256 else None
    if report.latency is not None:
        latency = report.latency.find("interleaved", 1) or report.latency.find("alone", 1)
    interval = report.interval
    return {
        "mean_return": report.mean,
        "interval": None if interval is None else (interval.low, interval.high),
        "episodes": None if report.returns is None else len(report.returns),
        "agreement": fidelity.agreement if fidelity else None,
        "latency_p50_us": latency.p50_us if latency else None,
        "latency_p99_us": latency.p99_us if latency else None,
        "processor": report.latency.processor if report.latency and latency else None,
        "threads": report.latency.threads if report.latency and latency else None,
    }


def _judged(found: Judgement | None) -> dict[str, object]:
    if found is None or found.undisturbed is None or found.robustness is None:
        return {}
    return {
        "robust": found.robustness.robust,
        "fails_under": found.fails_under,
        "non_inferior": found.undisturbed.non_inferior,
    }


def _random_return(manifest: PolicyManifest | None) -> float | None:
    found = manifest.random_policy if manifest else None
    return None if found is None else found.mean
