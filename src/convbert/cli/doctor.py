"""`convbert doctor`."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Annotated

import typer


def run(
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object instead.")] = False,
) -> None:
    """Show what this machine can run, which form each op takes, and why.

    \b
    Examples:
      convbert doctor
      convbert doctor --json
    """
    from convbert.inference import doctor as examination

    findings = examination.examine()
    if as_json:
        print(json.dumps(examination.as_dict(findings), indent=2, allow_nan=False))
        return
    for room, members in groupby(findings, key=lambda finding: finding.room):
        print(room)
        for finding in members:
            value = {"True": "yes", "False": "no"}.get(str(finding.value), finding.value)
            reason = f"  ({finding.reason})" if finding.reason else ""
            print(f"  {finding.name:<26}{value}{reason}")
