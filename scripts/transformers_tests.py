"""Run transformers' own ConvBERT model tests on our classes: whatever passes with theirs must pass with ours.

    python scripts/transformers_tests.py path/to/transformers

The path is a source checkout of the installed transformers version (the wheel has no `tests`); the tests
need the packages pytest and parameterized. They run twice, each time in a process of its own: once as they
are, and once with this file as a pytest plugin that puts our classes where the tests look for transformers'
own. `RUN_SLOW=1` in the environment also runs the tests that transformers marks as slow.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

TESTS = "tests/models/convbert/test_modeling_convbert.py"
REPLACED = (
    "ConvBertConfig",
    "ConvBertForMaskedLM",
    "ConvBertForMultipleChoice",
    "ConvBertForQuestionAnswering",
    "ConvBertForSequenceClassification",
    "ConvBertForTokenClassification",
    "ConvBertModel",
    "ConvBertPreTrainedModel",
)
# Tests that pass with theirs and cannot apply to ours, each with the reason.
NOT_APPLICABLE: dict[str, str] = {}
SWITCH = "CONVBERT_REPLACES_TRANSFORMERS"

Outcomes = dict[str, tuple[str, str]]


def pytest_configure() -> None:
    """The plugin: runs before any test module is imported."""
    if os.environ.get(SWITCH):
        replace_classes()


def replace_classes() -> None:
    """Put our classes into every module from which transformers and its tests take theirs."""
    import convbert

    homes = (
        "transformers",
        "transformers.models.convbert",
        "transformers.models.convbert.configuration_convbert",
        "transformers.models.convbert.modeling_convbert",
    )
    for home in map(importlib.import_module, homes):
        for name in REPLACED:
            setattr(home, name, getattr(convbert, name))
    convbert.register_auto_classes()


def run_tests(checkout: Path, ours: bool, pattern: str) -> Outcomes:
    """Test name to (outcome, first line of its message)."""
    here = Path(__file__).resolve()
    paths = [str(here.parent), str(here.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "HF_HUB_OFFLINE": "1",
        SWITCH: "1" if ours else "",
    }
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", TESTS, "-q", "-p", here.stem, "-p", "no:cacheprovider"]
        command += ["-k", pattern, f"--junitxml={report}"]
        done = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
        if not report.exists():
            raise typer.BadParameter(
                f"pytest did not run in {checkout}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        return read_outcomes(report)


def read_outcomes(report: Path) -> Outcomes:
    """From pytest's JUnit file. A test with subtests has several entries; the worst that ran counts."""
    rank = {"skipped": 0, "passed": 1, "failed": 2}
    outcomes: Outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        outcome, message = "passed", ""
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                outcome = "skipped" if child.tag == "skipped" else "failed"
                message = (child.get("message") or "").split("\n")[0]
        name = case.get("name", "")
        if name not in outcomes or rank[outcome] > rank[outcomes[name][0]]:
            outcomes[name] = (outcome, message)
    return outcomes


def print_table(theirs: Outcomes, ours: Outcomes) -> list[str]:
    """Show every test that runs for either, and return those that pass with theirs alone."""
    table = Table("test", "theirs", "ours", "why")
    worse = []
    for name in sorted(theirs.keys() | ours.keys()):
        their_outcome, _ = theirs.get(name, ("absent", ""))
        our_outcome, why = ours.get(name, ("absent", ""))
        if their_outcome == our_outcome == "skipped":
            continue
        if name in NOT_APPLICABLE:
            our_outcome, why = "not applicable", NOT_APPLICABLE[name]
        elif their_outcome == "passed" and our_outcome != "passed":
            worse.append(name)
        table.add_row(name, their_outcome, our_outcome, why)
    Console().print(table)
    return worse


def main(
    checkout: Annotated[Path, typer.Argument(help="Source checkout of the installed transformers version.")],
    pattern: Annotated[str, typer.Option("-k", help="Only these tests, as for pytest.")] = "",
) -> None:
    """Compare; exit code 1 if a test passes with theirs and not with ours."""
    if not (checkout / TESTS).is_file():
        raise typer.BadParameter(f"{checkout} has no {TESTS}: give a source checkout of transformers")
    theirs, ours = (run_tests(checkout, ours=subject, pattern=pattern) for subject in (False, True))
    worse = print_table(theirs, ours)
    passed = [sum(outcome == "passed" for outcome, _ in outcomes.values()) for outcomes in (theirs, ours)]
    print(f"{passed[0]} pass with theirs, {passed[1]} with ours; {len(worse)} pass with theirs alone")
    if worse or not passed[0]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
