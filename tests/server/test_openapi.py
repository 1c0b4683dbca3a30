"""The served OpenAPI document, tried out by schemathesis: no 5xx, and no status or type it does not name."""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from .live import LiveServer

load_all_checks()


@pytest.fixture(scope="session")
def api(server: LiveServer) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_answers_are_as_documented(case: schemathesis.Case) -> None:
    if isinstance(case.body, dict):
        case.body |= {"size": "1x1"}  # nothing that passes is drawn
    checks = [status_code_conformance, content_type_conformance, response_schema_conformance]
    response = case.call_and_validate(checks=checks)
    assert response.status_code < 500
