"""Evaluates the variants of a policy: returns, fidelity, size and latency, one report each.

All variants play the same seeds with the same protocol. Nothing is measured twice: episodes are
logged as they end, and a variant whose report matches the model, baseline and protocol is skipped.
Reports on held-out seeds are published; others are only returned, as is a report with fewer
episodes than the published one. A policy without an environment is not played: its variants are
compared with the baseline on its recorded states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from slimq.core.errors import (
    CheckFailedError,
    EnvironmentFailure,
    InvalidInputError,
    NotFoundError,
    SlimqError,
)
from slimq.core.manifest import FileEntry, VariantManifest, is_stale
from slimq.core.observation import Observations
from slimq.core.onnx_policy import OnnxPolicy
from slimq.core.publish import Publisher
from slimq.core.qfunction import QFunction, QValues
from slimq.core.report import EvaluationProtocol, EvaluationReport, Fidelity, LatencyReport
from slimq.core.repository import Repository
from slimq.core.seeds import HELD_OUT
from slimq.environments.rollout import Episode
from slimq.environments.seeding import check_seeding
from slimq.evaluation.conditions import Trial, join_conditions, make_trials, with_conditions
from slimq.evaluation.fidelity import StateSample, measure_fidelity, q_values_of
from slimq.evaluation.latency import PROCESSES, measure_latency
from slimq.evaluation.protocol import (
    EvaluationSettings,
    check_settings,
    library_versions,
    make_protocol,
    other_versions,
    summarize,
    summarize_recorded,
)
from slimq.evaluation.returns import EpisodeLog, Progress, Silent, play_all, require_finite

_log = structlog.get_logger(__name__)


@dataclass
class Evaluation:
    """The result of an evaluation.

    Attributes:
        policy: the policy's name.
        reports: reports by variant, for the requested variants that could be evaluated.
        cached: variants that already had an up-to-date report.
        kept: number of episodes of published reports that were not replaced, because they have more
            episodes than the one returned; by variant.
        failed: errors of variants that could not be evaluated.
    """

    policy: str
    reports: dict[str, EvaluationReport] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    failed: dict[str, SlimqError] = field(default_factory=dict)


def evaluate_policy(
    repository: Repository,
    policy: str,
    variants: Sequence[str] = (),
    settings: EvaluationSettings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluates variants; if one fails, the others are still evaluated.

    Args:
        repository: the repository, into which reports are published.
        policy: the policy's name.
        variants: names of the variants; empty for all.
        settings: settings of the evaluation.
        progress: receives the progress.

    Raises:
        NotFoundError: the policy or a variant does not exist.
        InvalidInputError: a setting is out of range, or seeds other than held-out ones are
            requested for latency alone or for a policy without an environment.
        RepositoryError: the policy's manifest or its baseline's is invalid.
        EnvironmentFailure: the environment breaks its contract, or ignores its seed.
    """
    return _Evaluator(
        repository, policy, settings or EvaluationSettings(), progress or Silent()
    ).run(variants)


class _Evaluator:
    def __init__(
        self, repository: Repository, policy: str, settings: EvaluationSettings, progress: Progress
    ) -> None:
        self.repository, self.settings, self.progress = repository, settings, progress
        self.manifest = repository.policy(policy)
        self.policy = policy
        self.baseline = repository.variant(policy, self.manifest.baseline_variant)
        check_settings(settings)
        environment = self.manifest.environment
        self.protocol = None if environment is None else make_protocol(environment, settings)
        self.trials = make_trials(repository, self.manifest, settings.conditions)
        self.publishes = settings.seed_range == HELD_OUT
        if settings.latency == "only" and not self.publishes:
            expected = "held-out, as latency is only published in held-out reports"
            raise InvalidInputError("seeds", expected, settings.seed_range.name)
        if self.protocol is None and not self.publishes:
            expected = f"held-out, as {policy} has no environment to play in"
            raise InvalidInputError("seeds", expected, settings.seed_range.name)
        self.result = Evaluation(policy)
        self._states: tuple[Observations, QValues] | None = None
        self._seeding_checked = False

    def run(self, variants: Sequence[str]) -> Evaluation:
        existing = self.repository.variants(self.policy)
        for name in variants:
            if name not in existing:
                raise NotFoundError("variant", name, existing)
        baseline = self.baseline.name
        names = sorted(set(variants) or existing, key=lambda name: (name != baseline, name))
        for name in names:
            try:
                self._evaluate(name)
            except EnvironmentFailure:
                raise
            except SlimqError as error:
                self.result.failed[name] = error
        if self.publishes and self.settings.latency != "skip":
            self._measure_latency(existing)
        return self.result

    def _load(self, name: str) -> tuple[VariantManifest, OnnxPolicy]:
        manifest, load = self._read(name)
        return manifest, load()

    def _read(self, name: str) -> tuple[VariantManifest, Callable[[], OnnxPolicy]]:
        """A variant's manifest and a loader, for use in this or another process."""
        manifest, content = self.repository.read_model(self.policy, name)
        if is_stale(manifest, self.manifest):
            remedy = f"run slimq compress {self.policy} {name}"
            raise CheckFailedError(f"was made from another checkpoint than the policy's; {remedy}")
        label, actions = f"{self.policy}/{name}", len(self.manifest.actions)
        return manifest, partial(OnnxPolicy, content, self.manifest.observation, actions, label)

    def _known(self, variant: VariantManifest) -> EvaluationReport | None:
        """The published report, if it is for this model."""
        try:
            report = self.repository.report(self.policy, variant.name)
        except SlimqError as error:
            _log.warning("ignored an invalid report", variant=variant.name, error=str(error))
            return None
        return report if report and report.model_sha256 == variant.model.sha256 else None

    def _evaluate(self, name: str) -> None:
        variant, q_function = self._load(name)
        known = self._known(variant) if self.publishes else None
        if self.settings.latency == "only":
            if known is None:
                problem = f"no report for its current model: run slimq evaluate {self.policy} first"
                raise CheckFailedError(problem)
            self.result.reports[name] = known
            return
        latency = known.latency if known else None
        if known and self._is_current(known) and not self.settings.force:
            disturbed = self._under_conditions(variant, q_function, known)
            if disturbed == known:
                self.result.reports[name] = known
                self.result.cached.append(name)
            else:
                self._publish(variant, disturbed, known)
            return
        if self.protocol is None:
            recorded = self._compare_on_recorded_states(variant, q_function, latency)
            self._publish(variant, recorded, known)
            return
        episodes = self._play(variant, q_function, self.protocol)
        fidelity = self._fidelity(require_finite(q_function, f"{self.policy}/{name}"))
        report = summarize(variant, self.baseline, self.protocol, episodes, fidelity, latency)
        if known is not None and self._plays_alike(known):
            report = report.model_copy(update={"conditions": known.conditions})
        report = self._under_conditions(variant, q_function, report)
        published = known.protocol.episodes if known and known.protocol else 0
        if published > self.settings.episodes and not self.settings.force:
            self.result.kept[name] = published
            self.result.reports[name] = report
            return
        self._publish(variant, report, known)

    def _plays_alike(self, report: EvaluationReport) -> bool:
        """Whether a report is of the same protocol, apart from the number of episodes."""
        if report.protocol is None or self.protocol is None:
            return False
        same = report.protocol.model_copy(update={"episodes": self.protocol.episodes})
        return same == self.protocol and not other_versions(report.versions, library_versions())

    def _under_conditions(
        self, variant: VariantManifest, q_function: QFunction, report: EvaluationReport
    ) -> EvaluationReport:
        """Plays under the requested conditions that the report lacks, and adds them."""
        protocol = report.protocol
        if protocol is None:
            return report
        count = self.settings.episodes_disturbed
        found = {known.condition: known for known in report.conditions}
        for trial in self.trials:
            known = found.get(trial.condition)
            if known and trial.is_current(known, count) and not self.settings.force:
                continue
            episodes = self._play(variant, q_function, protocol, trial)
            found[trial.condition] = trial.summarize(episodes, protocol)
        return with_conditions(report, found.values())

    def _is_current(self, report: EvaluationReport) -> bool:
        return (
            report.protocol == self.protocol
            and report.baseline_sha256 == self.baseline.model.sha256
            and report.fidelity is not None
            and (self.protocol is not None or report.states_sha256 == self._recorded_states.sha256)
            and not other_versions(report.versions, library_versions())
        )

    @property
    def _recorded_states(self) -> FileEntry:
        recorded = self.manifest.held_out or self.manifest.calibration
        if recorded is None:
            problem = "has neither an environment to play in nor recorded states; import it again"
            raise CheckFailedError(f"{self.policy} {problem} with --env or --observations")
        return recorded

    def _compare_on_recorded_states(
        self, variant: VariantManifest, q_function: QFunction, latency: LatencyReport | None
    ) -> EvaluationReport:
        recorded = self._recorded_states
        states, full = self._baseline_states()
        q_values = q_values_of(require_finite(q_function, f"{self.policy}/{variant.name}"), states)
        fidelity = measure_fidelity(q_values, full)
        return summarize_recorded(variant, self.baseline, recorded, fidelity, latency)

    def _play(
        self,
        variant: VariantManifest,
        q_function: QFunction,
        protocol: EvaluationProtocol,
        trial: Trial | None = None,
    ) -> list[Episode]:
        settings, spec = self.settings, protocol.environment
        seeds = protocol.seeds
        if trial is not None:
            spec = trial.situation.played
            seeds = settings.seed_range.seeds(settings.episodes_disturbed)
        if not self._seeding_checked:
            check_seeding(protocol.environment)
            self._seeding_checked = True
        folder = settings.work / self.policy
        versions = {k: v for k, v in library_versions().items() if k != "slimq"}
        log = EpisodeLog.of(
            folder,
            variant.model.sha256,
            spec,
            settings.epsilon,
            versions,
            trial.identity if trial else None,
        )
        current = log.for_replay() if settings.force else log
        label = f"{self.policy}/{variant.name}"
        episodes = play_all(
            spec,
            q_function,
            seeds,
            current,
            epsilon=settings.epsilon,
            environments=settings.environments,
            name=f"{label} {trial.condition.label}" if trial else label,
            progress=self.progress,
            begin=trial.situation.begin if trial else None,
        )
        if settings.force:
            current.replace(log)
        return episodes

    def _fidelity(self, q_function: QFunction) -> Fidelity | None:
        try:
            states, full = self._baseline_states()
        except SlimqError as error:
            _log.warning("baseline unavailable, fidelity not measured", error=str(error))
            return None
        return measure_fidelity(q_values_of(q_function, states), full)

    def _baseline_states(self) -> tuple[Observations, QValues]:
        if self._states is None:
            _, q_function = self._load(self.baseline.name)
            place = f"{self.policy}/{self.baseline.name}"
            if self.protocol is None:
                states = self._read_states()
                q_values = q_values_of(require_finite(q_function, place), states)
            else:
                states = self._play_states(q_function, self.protocol)
                q_values = q_values_of(q_function, states)
            self._states = states, q_values
        return self._states

    def _read_states(self) -> Observations:
        recorded = self.repository.held_out(self.manifest)
        recorded = recorded or self.repository.calibration(self.manifest)
        if recorded is None or not len(recorded):
            raise CheckFailedError(f"{self.policy} has no recorded states")
        return recorded.observations(self.manifest.observation)

    def _play_states(self, q_function: QFunction, protocol: EvaluationProtocol) -> Observations:
        sample = StateSample(protocol.fidelity_states)
        play_all(
            protocol.environment,
            q_function,
            protocol.seeds[: protocol.fidelity_episodes],
            None,
            epsilon=self.settings.epsilon,
            environments=self.settings.environments,
            name=f"{self.policy}/{self.baseline.name} states",
            progress=self.progress,
            on_step=sample.add,
        )
        return sample.observations()

    def _publish(
        self, variant: VariantManifest, report: EvaluationReport, known: EvaluationReport | None
    ) -> None:
        """Publishes a report, merged with what another evaluation has published meanwhile."""
        if self.publishes:
            now = self._known(variant)
            if now is not None and now != known:
                report = report.model_copy(update={"latency": now.latency})
                if self._plays_alike(now):
                    report = join_conditions(report, known, now)
            Publisher(self.repository).attach_report(self.policy, report.variant, report)
        self.result.reports[report.variant] = report

    def _measure_latency(self, variants: Sequence[str]) -> None:
        """Times all evaluated variants in one run, so that any two can be compared."""
        reports: dict[str, EvaluationReport] = {}
        manifests: dict[str, VariantManifest] = {}
        for name in variants:
            if name in self.result.failed:
                continue
            try:
                manifests[name] = self._load(name)[0]
                report = self._known(manifests[name])
            except SlimqError as error:
                _log.warning("variant skipped in latency run", variant=name, error=str(error))
                continue
            if report:
                reports[name] = report
        runs = {report.latency.run_id if report.latency else None for report in reports.values()}
        required = self.settings.force or self.settings.latency == "only" or None in runs
        if not reports or (len(runs) == 1 and not required):
            return
        measured = measure_latency(
            {name: self._read(name)[1] for name in reports},
            self._observations(),
            iterations=self.settings.iterations,
            processes=PROCESSES,
            on_process=lambda number: _log.info("measuring latency", process=number, of=PROCESSES),
        )
        for name, latency in measured.items():
            # Measuring takes minutes, during which another evaluation may have added to the report.
            report = self._known(manifests[name]) or reports[name]
            report = report.model_copy(update={"latency": latency})
            try:
                Publisher(self.repository).attach_report(self.policy, name, report)
            except SlimqError as error:
                self.result.failed[name] = error
                continue
            if name in self.result.reports and name not in self.result.kept:
                self.result.reports[name] = report

    def _observations(self) -> Observations:
        calibration = self.repository.calibration(self.manifest)
        if calibration is None:
            return self._baseline_states()[0]
        return calibration.observations(self.manifest.observation)[:512]
