"""Requests that the description of the interface allows, and such as it forbids: none is too much for the server."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

pytest.importorskip("fastapi", reason="needs the extra serve")
schemathesis = pytest.importorskip("schemathesis", reason="draws the requests")


@pytest.mark.parametrize("mode", schemathesis.GenerationMode, ids=lambda mode: mode.value)
def test_requests_are_answered_as_described(server, mode):
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    conformance = (
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    )
    checked = [not_a_server_error, *conformance]
    described = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [each.ok() for each in described.get_all_operations()]
    asked = [each for each in operations if each.body]
    assert len(asked) >= 9
    for operation in asked:

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=4, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        def requests(case):
            case.call_and_validate(checks=checked)

        requests()
