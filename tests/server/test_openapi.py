"""The served OpenAPI document, tested by schemathesis: no 5xx, and no undocumented status or content type."""

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from .live import LiveServer

load_all_checks()


CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def test_responses_match_openapi_document(server: LiveServer) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    tried = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @EXAMPLES
        @given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            if isinstance(case.body, dict):
                case.body |= {"size": "1x1"}  # an invalid size, so that nothing is generated
            assert case.call_and_validate(checks=CHECKS).status_code < 500

        check()
        tried.add(operation.path)
    assert {"/v1/images/generations", "/v1/models", "/files/{name}", "/health", "/ready", "/metrics"} <= tried
