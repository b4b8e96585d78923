"""The tables of docs/suite.md: those of the shipped policies, and of small made ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from builders import make_calibration, make_mlp, make_policy_manifest, write_policy
from condition_reports import make_conditions
from pages import write_sections
from reports import make_report
from slimq.core.conditions.catalogue import standard_conditions
from slimq.core.manifest import ImportRecord, PolicyManifest, SearchRecord
from slimq.core.publish import Publisher
from slimq.core.report import EvaluationReport, Played
from slimq.core.repository import Repository
from suite import PAGE, ROOT, main, read_sections

EPISODES = 20
FULL = [100.0, 120.0] * (EPISODES // 2)
WIDE = [60.0, 160.0] * (EPISODES // 2)
WORSE = [90.0, 110.0] * (EPISODES // 2)
WIDTHS = {"fp32": 64, "half": 32, "small": 8}
"""Neurons of each variant: a twentieth of the bytes is below all of them."""
MARKERS = "\n".join(
    f"<!-- {side} {name} -->" for name in ("policies", "smallest") for side in ("begin", "end")
)


class Suite:
    """A repository that policies are added to."""

    def __init__(self, root: Path) -> None:
        self.repository = Repository(root)
        self.publisher = Publisher(self.repository)

    def add(
        self,
        name: str,
        variants: Sequence[str] = tuple(WIDTHS),
        manifest: PolicyManifest | None = None,
    ) -> None:
        """Adds a policy with these variants, not evaluated."""
        models = {variant: make_mlp(0, WIDTHS[variant]) for variant in variants}
        manifest = manifest or make_policy_manifest(name)
        write_policy(self.repository.root, manifest, make_calibration("tiny"), models)

    def attach(
        self,
        policy: str,
        variant: str,
        returns: Sequence[float],
        p50: float | None = None,
        lost: Mapping[str, float] | None = None,
    ) -> None:
        """Publishes a report of these returns, with those under conditions if losses are given."""
        report = self.report(policy, variant, returns, p50)
        if lost is not None:
            observation = self.repository.policy(policy).observation
            conditions = make_conditions(observation, returns, lost)
            report = report.model_copy(update={"conditions": conditions})
        self.publisher.attach_report(policy, variant, report)

    def attach_agreement(self, policy: str, variant: str, agreement: float) -> None:
        """Publishes a report of recorded states alone."""
        report, states = self.report(policy, variant, FULL), self.repository.policy(policy)
        assert report.fidelity is not None
        assert states.calibration is not None
        changes = dict.fromkeys(Played._fields) | {
            "fidelity": report.fidelity.model_copy(update={"agreement": agreement}),
            "states_sha256": states.calibration.sha256,
            "trajectories": None,
        }
        self.publisher.attach_report(policy, variant, report.model_copy(update=changes))

    def report(
        self, policy: str, variant: str, returns: Sequence[float], p50: float | None = None
    ) -> EvaluationReport:
        model = self.repository.variant(policy, variant).model
        return make_report(
            variant,
            returns,
            policy=policy,
            model_sha256=model.sha256,
            baseline_sha256=self.repository.variant(policy, "fp32").model.sha256,
            p50=p50,
            size=model.bytes,
        )

    def describe(self, policy: str, variant: str, description: str, search: SearchRecord) -> None:
        """Says how a variant was found."""
        manifest = self.repository.variant(policy, variant)
        changes = {"description": description, "search": search}
        recipe = manifest.recipe.model_copy(update=changes)
        model = self.repository.root / policy / "variants" / variant / manifest.model.path
        self.publisher.publish_variant(
            manifest.model_copy(update={"recipe": recipe}), model.read_bytes()
        )

    def row(self, section: str, policy: str) -> dict[str, list[str]]:
        """A policy's cells by the heading of their columns."""
        head, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in read_sections(self.repository.root)[section].splitlines()
            if line.startswith("|")
        ]
        cells: dict[str, list[str]] = {}
        for heading, cell in zip(head, next(r for r in rows if r[0] == f"`{policy}`"), strict=True):
            cells.setdefault(heading, []).append(cell)
        return cells

    def bounds(self, policy: str) -> str:
        """Why there is no smaller variant; checks that none is shown."""
        cells = self.row("smallest", policy)
        assert cells["variant"] == ["none"]
        assert cells["bytes"] == cells["paired, low"] == cells["tried"] == ["–"]
        return cells["technique, or why there is none"][0]

    def remarks(self) -> list[str]:
        """The lines below the table."""
        lines = read_sections(self.repository.root)["smallest"].splitlines()
        return [line[2:] for line in lines if line.startswith("- ")]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path / "policies")


def test_the_page_has_the_tables_of_the_shipped_reports() -> None:
    page = PAGE.read_text(encoding="utf-8")
    remedy = "run `python benchmarks/suite.py --write`"
    assert write_sections(page, read_sections(ROOT / "policies")) == page, remedy


def test_the_page_says_how_imported_policies_were_made() -> None:
    repository = Repository(ROOT / "policies")
    page = PAGE.read_text(encoding="utf-8")
    for name in repository.policies():
        if repository.policy(name).imported:
            assert f"- `{name}`: " in page


def test_the_smallest_variant_that_is_proven_is_shown_with_its_figures(suite: Suite) -> None:
    suite.add("tiny")
    for variant, p50 in (("fp32", 30.0), ("half", 20.0), ("small", 10.0)):
        suite.attach("tiny", variant, FULL, p50)
    search = SearchRecord(command="shrink", minutes=12.34, trials=41, workers=2)
    suite.describe("tiny", "small", "Shrunk: a|b.", search)
    full, small = (suite.repository.variant("tiny", name).model.bytes for name in ("fp32", "small"))
    assert suite.remarks() == [
        "latency is that of one call at batch 1, alone, on one thread: test processor",
        "`tiny`: above 1/20; nothing smaller than `small` was published",
    ]
    lines = read_sections(suite.repository.root)["smallest"].splitlines()
    line = next(line for line in lines if line.startswith("| `tiny`"))
    assert line == (
        f"| `tiny` | `small` | Shrunk: a\\|b | {small:,} | {full / small:.1f} | 110 (109 to 111) "
        "| 110 (109 to 111) | +0.00% | 20 | – | – | 97.0% | 3.00 | 12.3 × 2 | 41 |"
    )


def test_a_recipe_written_by_hand_took_no_search(suite: Suite) -> None:
    suite.add("tiny")
    for variant in WIDTHS:
        suite.attach("tiny", variant, FULL)
    cells = suite.row("smallest", "tiny")
    assert cells["technique, or why there is none"] == ["small"]
    assert cells["minutes × workers"] == cells["tried"] == cells["× faster"] == ["–"]
    assert any("latency of `small` was not measured" in remark for remark in suite.remarks())


def test_the_smallest_and_the_smallest_robust_variant_may_differ(suite: Suite) -> None:
    suite.add("tiny")
    for variant, lost in (("fp32", {}), ("half", {}), ("small", {"sticky": 30.0})):
        suite.attach("tiny", variant, FULL, lost=lost)
    full, half = (suite.repository.variant("tiny", name).model.bytes for name in ("fp32", "half"))
    cells = suite.row("smallest", "tiny")
    assert (cells["variant"], cells["robust"]) == (["`small`"], ["no"])
    assert cells["smallest robust"] == [f"`half`, 1/{full / half:.0f}"]
    summary = read_sections(suite.repository.root)["smallest"].splitlines()[0]
    assert "; 1 with a smaller one that is robust, 0 of them" in summary
    suite.attach("tiny", "half", FULL, lost={"noise": 30.0})
    assert suite.row("smallest", "tiny")["smallest robust"] == ["–"]
    suite.attach("tiny", "small", FULL, lost={})
    cells = suite.row("smallest", "tiny")
    assert (cells["robust"], cells["smallest robust"][0][:7]) == (["yes"], "`small`")


def test_nothing_is_called_robust_where_no_condition_decides(suite: Suite) -> None:
    suite.add("tiny")
    conditions = standard_conditions(suite.repository.policy("tiny").observation)
    for variant in WIDTHS:
        suite.attach("tiny", variant, FULL, lost={one.name: 1000.0 for one in conditions})
    cells = suite.row("smallest", "tiny")
    assert cells["variant"] == ["`small`"]
    assert cells["robust"] == cells["smallest robust"] == ["–"]
    assert "; 0 with a smaller one" in read_sections(suite.repository.root)["smallest"]


def test_the_summary_counts_what_is_proven_and_what_is_small(suite: Suite) -> None:
    for name in ("one", "two"):
        suite.add(name)
    for variant in WIDTHS:
        suite.attach("one", variant, FULL)
    assert read_sections(suite.repository.root)["smallest"].startswith(
        "2 policies: 1 with a smaller variant that is non-inferior in undisturbed play, "
        "0 of them with"
    )
    assert "`one`: above 1/20; nothing smaller than `small` was published" in suite.remarks()


def test_a_policy_that_was_only_trained(suite: Suite) -> None:
    suite.add("bare", ())
    assert suite.bounds("bare") == "there is no `fp32`: run `slimq shrink bare`"
    cells = suite.row("policies", "bare")
    assert cells["parameters"] == cells["bytes"] == cells["return"] == ["–"]
    assert cells["made by"] == ["[slimq](../configs/bare.toml), 100 steps in 0.0 minutes"]
    assert cells["return of random play"] == ["22"]


def test_a_policy_with_nothing_but_the_full_one(suite: Suite) -> None:
    suite.add("alone", ("fp32",))
    suite.attach("alone", "fp32", FULL)
    assert suite.bounds("alone") == "nothing smaller was published: run `slimq shrink alone`"


def test_a_variant_as_large_as_the_full_policy_is_no_smaller_one(suite: Suite) -> None:
    models = {"fp32": make_mlp(0), "other": make_mlp(1)}
    manifest = make_policy_manifest("same")
    write_policy(suite.repository.root, manifest, make_calibration("tiny"), models)
    for variant in models:
        suite.attach("same", variant, FULL)
    assert suite.bounds("same").startswith("nothing smaller was published")


def test_what_was_not_evaluated_is_not_proven(suite: Suite) -> None:
    suite.add("tiny")
    suite.attach("tiny", "fp32", FULL)
    assert suite.bounds("tiny") == "not evaluated: run slimq evaluate tiny"


@pytest.mark.parametrize(
    ("returns", "reason"),
    [
        (WIDE, r"interval too wide: −\d+\.\d% at 20 episodes"),
        (WORSE, r"loses 11\.4% on average: −11\.4% at 20 episodes"),
    ],
)
def test_the_nearest_of_those_that_are_not_proven_is_named(
    suite: Suite, returns: Sequence[float], reason: str
) -> None:
    suite.add("tiny")
    suite.attach("tiny", "fp32", FULL)
    suite.attach("tiny", "half", returns)
    suite.attach("tiny", "small", [30.0] * EPISODES)
    full, half = (suite.repository.variant("tiny", name).model.bytes for name in ("fp32", "half"))
    nearest = rf"nearest is `half` \(1/{full / half:.0f}\): {reason}"
    assert re.fullmatch(nearest, suite.bounds("tiny"))


def test_what_is_smaller_but_not_proven_is_in_a_note(suite: Suite) -> None:
    suite.add("tiny")
    suite.attach("tiny", "fp32", FULL)
    suite.attach("tiny", "half", FULL)
    suite.attach("tiny", "small", WORSE)
    assert suite.row("smallest", "tiny")["variant"] == ["`half`"]
    (note,) = (remark for remark in suite.remarks() if "not proven" in remark)
    assert "loses 11.4% on average: −11.4% at 20 episodes" in note
    assert note.startswith("`tiny`: smaller, but not proven: `small` (1/")


@pytest.mark.parametrize(("agreement", "shown"), [(0.99, True), (0.9, False)])
def test_a_policy_without_an_environment_is_chosen_by_agreement(
    suite: Suite, agreement: float, shown: bool
) -> None:
    record = ImportRecord(
        format="stable-baselines3",
        algorithm="DQN",
        file="dqn.zip",
        bytes=1,
        sha256="a" * 64,
        versions={"Stable-Baselines3": "2.9.2"},
        states=10,
        max_error=0.0,
    )
    changes = {"environment": None, "random_policy": None, "training": None, "imported": record}
    suite.add("found", manifest=make_policy_manifest("found").model_copy(update=changes))
    for variant, value in (("fp32", 1.0), ("half", 0.5), ("small", agreement)):
        suite.attach_agreement("found", variant, value)
    cells = suite.row("policies", "found")
    assert cells["environment"] == ["none"]
    assert cells["made by"] == ["Stable-Baselines3 2.9.2, DQN"]
    assert cells["return"] == cells["return of random play"] == ["–"]
    if shown:
        cells = suite.row("smallest", "found")
        assert cells["variant"] == ["`small`"]
        assert cells["agreement"] == ["99.0%"]
        assert cells["paired, low"] == cells["episodes"] == ["–"]
    else:
        assert suite.bounds("found").endswith("agreement 90.00% is 8.00% below 98.00%")
    assert any("not proven in play" in remark for remark in suite.remarks())
    assert "1 policies: 0 with" in read_sections(suite.repository.root)["smallest"]


def test_a_variant_that_cannot_be_read_is_in_a_note(suite: Suite) -> None:
    suite.add("tiny")
    for variant in ("fp32", "half"):
        suite.attach("tiny", variant, FULL)
    manifest = suite.repository.root / "tiny" / "variants" / "small" / "variant.json"
    manifest.write_text("{", encoding="utf-8")
    assert suite.row("smallest", "tiny")["variant"] == ["`half`"]
    assert any("`tiny`: `small` cannot be read" in remark for remark in suite.remarks())


def test_the_command_prints_writes_and_checks(
    suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite.add("bare", ())
    page = tmp_path / "suite.md"
    page.write_text(f"# Before\n{MARKERS}\nAfter\n", encoding="utf-8")
    options = ["--policies", str(suite.repository.root), "--page", str(page)]
    main(options)
    assert "| `bare` |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"suite\.md is not what the reports give"):
        main([*options, "--check"])
    main([*options, "--write"])
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Before\n<!-- begin policies -->\n\n| policy |")
    assert text.endswith("<!-- end smallest -->\nAfter\n")
    main([*options, "--check"])


def test_wrong_use_is_one_line(suite: Suite, tmp_path: Path) -> None:
    suite.add("bare", ())
    page = tmp_path / "suite.md"
    page.write_text("# Nothing\n", encoding="utf-8")
    options = ["--policies", str(suite.repository.root), "--page", str(page), "--write"]
    with pytest.raises(SystemExit, match=r"suite\.md: expected <!-- begin policies -->"):
        main(options)
    with pytest.raises(SystemExit, match=r"suite\.py: .*absent"):
        main(["--policies", str(tmp_path / "absent")])
