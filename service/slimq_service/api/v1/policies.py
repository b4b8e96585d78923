"""Read-only resources: policies and variants, with their manifests and reports."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from slimq.core.errors import NotFoundError
from slimq.core.manifest import PolicyManifest, VariantManifest
from slimq.core.report import EvaluationReport
from slimq_service.api.v1.robustness import RobustnessReport, describe
from slimq_service.variants.catalogue import Catalogue


class PolicySummary(BaseModel):
    """One policy in the listing."""

    name: str
    environment: str | None = Field(
        description="id of its environment; null if it has none, or the manifest is unreadable"
    )
    proven_in_play: bool | None = Field(
        description="whether returns can be measured: false without an environment, when agreement "
        "and regret on recorded states are all the evidence; null if the manifest is unreadable"
    )
    default_variant: str | None = Field(description="serves requests that name no variant")
    baseline_variant: str | None
    variants: list[str]
    robust: list[str] = Field(
        description="names of variants known to be robust: non-inferior undisturbed and under all "
        "standard conditions"
    )
    problem: str | None = Field(default=None, description="why its manifest cannot be read")


class PolicyList(BaseModel):
    """All policies."""

    policies: list[PolicySummary]


class VariantSummary(BaseModel):
    """One variant in the listing."""

    name: str
    manifest: VariantManifest | None = Field(description="null if it is unreadable")
    problem: str | None = Field(
        default=None, description="why the version on disk cannot be served"
    )
    robustness: RobustnessReport | None = Field(
        default=None, description="null if it was never played"
    )


class VariantList(BaseModel):
    """All variants of a policy."""

    policy: str
    variants: list[VariantSummary]


def environment_of(manifest: PolicyManifest | None) -> str | None:
    """The id of a policy's environment; None if it has none, or its manifest is unreadable."""
    if manifest is None or manifest.environment is None:
        return None
    return manifest.environment.id


def list_policies(catalogue: Catalogue) -> PolicyList:
    """The policies in the latest scan of the repository."""
    summaries = []
    for name, scanned in catalogue.scan.policies.items():
        manifest = scanned.manifest
        summaries.append(
            PolicySummary(
                name=name,
                environment=environment_of(manifest),
                proven_in_play=manifest.proven_in_play if manifest else None,
                default_variant=manifest.default_variant if manifest else None,
                baseline_variant=manifest.baseline_variant if manifest else None,
                variants=list(scanned.variants),
                robust=[v for v in scanned.variants if _is_robust(catalogue, name, v)],
                problem=str(scanned.error) if scanned.error else None,
            )
        )
    return PolicyList(policies=summaries)


def make_resource_router(catalogue: Catalogue) -> APIRouter:
    """The routes; each scans the repository first, so new versions show at once."""
    router = APIRouter(prefix="/v1/policies", tags=["policies"])

    @router.get("", summary="All policies")
    async def get_policies() -> PolicyList:
        await catalogue.refresh()
        return list_policies(catalogue)

    @router.get("/{policy}", summary="A policy's manifest")
    async def get_policy(policy: str) -> PolicyManifest:
        await catalogue.refresh()
        return catalogue.policy(policy)

    @router.get("/{policy}/variants", summary="A policy's variants with their manifests")
    async def get_variants(policy: str) -> VariantList:
        await catalogue.refresh()
        found = [
            VariantSummary(
                name=name,
                manifest=scanned.manifest,
                problem=str(scanned.error) if scanned.error else None,
                robustness=describe(catalogue.evidence.find(policy, name)),
            )
            for name, scanned in catalogue.variants(policy).items()
        ]
        return VariantList(policy=policy, variants=found)

    @router.get("/{policy}/variants/{variant}", summary="A variant's manifest")
    async def get_variant(policy: str, variant: str) -> VariantManifest:
        await catalogue.refresh()
        return catalogue.variant(policy, variant)

    @router.get("/{policy}/variants/{variant}/report", summary="A variant's evaluation report")
    async def get_report(policy: str, variant: str) -> EvaluationReport:
        await catalogue.refresh()
        report = await catalogue.report(policy, variant)
        if report is None:
            found = catalogue.variants(policy)
            evaluated = [name for name, v in found.items() if v.manifest and v.manifest.report]
            raise NotFoundError("report of variant", variant, evaluated)
        return report

    @router.get(
        "/{policy}/variants/{variant}/robustness",
        summary="A variant compared with the baseline, undisturbed and under each condition",
    )
    async def get_robustness(policy: str, variant: str) -> RobustnessReport:
        await catalogue.refresh()
        catalogue.check_known(policy, variant)
        found = describe(catalogue.evidence.find(policy, variant))
        if found is None:
            variants = catalogue.variants(policy)
            played = [name for name in variants if catalogue.evidence.find(policy, name)]
            raise NotFoundError("robustness of variant", variant, played)
        return found

    return router


def _is_robust(catalogue: Catalogue, policy: str, variant: str) -> bool:
    found = catalogue.evidence.find(policy, variant)
    return found is not None and found.robustness is not None and found.robustness.robust is True
