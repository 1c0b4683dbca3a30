"""deploy/prometheus and deploy/grafana: unit tests of the alerts, and a real Prometheus that scrapes a real server."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.live import Server

from ..server.live import LiveServer
from .dockerfile import ROOT
from .prometheus import FOLDER, Prometheus, running_prometheus

RULES = [rule for group in yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"] for rule in group["rules"]]
RECORDS = [rule["record"] for rule in RULES if "record" in rule]
ALERTS = [rule["alert"] for rule in RULES if "alert" in rule]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
VARIABLES = {"$job": "sana", "$instance": ".*", "$__rate_interval": "1m"}
"""What Grafana puts in place of the dashboard's variables."""
BODY = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("watched") / "log") as server:
        yield server


@pytest.fixture(scope="module")
def prometheus(server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus that has seen a small load on the server: two sizes, a refused request, an image generated twice."""
    target = server.url.removeprefix("http://")
    with running_prometheus(target, tmp_path_factory.mktemp("prometheus")) as prometheus:
        prometheus.wait("sana_images_total == 0")
        with httpx.Client(base_url=server.url, timeout=120) as client:
            for size, status in (("64x64", 200), ("64x64", 200), ("512x64", 200), ("1x1", 400)):
                assert client.post("/v1/images/generations", json={**BODY, "size": size}).status_code == status
        prometheus.wait('sana_images_total == 3 and on () sana_rejected_total{reason="invalid"} == 1')
        yield prometheus


def run_promtool(*arguments: str, stdin: str = "") -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool, which Debian's package prometheus contains")
    command = ["promtool", *arguments]
    done = subprocess.run(command, cwd=FOLDER, input=stdin, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_configuration_and_rules() -> None:
    run_promtool("check", "config", "--lint=all", "--lint-fatal", "prometheus.yaml")


def test_promtool_passes_unit_tests_of_alerts() -> None:
    run_promtool("test", "rules", "tests.yaml")


def test_promtool_accepts_metrics(server: LiveServer) -> None:
    run_promtool("check", "metrics", stdin=httpx.get(f"{server.url}/metrics").text)


def test_every_alert_has_unit_tests_that_fire_and_do_not() -> None:
    tests = yaml.safe_load((FOLDER / "tests.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", [])]
    for fires in (True, False):
        assert {case["alertname"] for case in cases if bool(case.get("exp_alerts")) == fires} == set(ALERTS)


def test_page_explains_every_alert() -> None:
    page = (ROOT / "docs" / "watching.md").read_text()
    assert re.findall(r"^\| `(Sana\w+)`", page, flags=re.MULTILINE) == ALERTS


def test_rules_evaluate_on_real_server(prometheus: Prometheus) -> None:
    for record in RECORDS:
        prometheus.wait(record)
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {*RECORDS, *ALERTS}
    assert {rule["health"] for rule in rules} == {"ok"}
    assert {rule["state"] for rule in rules if rule["type"] == "alerting"} == {"inactive"}


@pytest.mark.parametrize(("title", "expression"), QUERIES, ids=[f"{i}-{title}" for i, (title, _) in enumerate(QUERIES)])
def test_panel_has_values_of_real_server(title: str, expression: str, prometheus: Prometheus) -> None:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    values = prometheus.query(expression)
    assert values
    assert all(math.isfinite(value) for value in values)


def test_scaling_query_has_value_of_real_server(prometheus: Prometheus) -> None:
    scaled = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "overlays" / "autoscaling" / "scaling.yaml").read_text())
    [trigger] = scaled["spec"]["triggers"]
    [value] = prometheus.query(trigger["metadata"]["query"])
    assert value < float(trigger["metadata"]["threshold"])  # an idle server


def test_dashboard_variables_have_values(prometheus: Prometheus) -> None:
    queries = [item["query"]["query"] for item in DASHBOARD["templating"]["list"] if item["type"] == "query"]
    for query in queries:
        [(series, label)] = re.findall(r"^label_values\((.+), (\w+)\)$", query)
        found = prometheus.get(f"label/{label}/values", **{"match[]": series.replace("$job", "sana")})
        assert len(found) == 1, query


def test_dashboard_panels_fill_rows_without_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at: dict[str, Any] = panel["gridPos"]
        covered = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not covered & cells, panel["title"]
        cells |= covered
    assert len(cells) == 24 * (max(y for _, y in cells) + 1)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_dashboard_panels_explain_themselves() -> None:
    assert [panel["title"] for panel in PANELS if not panel["description"].endswith(".")] == []


def test_dead_engine_process_raises_alert(prometheus: Prometheus, server: LiveServer) -> None:
    """Last in this file: the server is not ready for a while."""
    [engine] = Server("", server.process.pid).engines()
    os.kill(engine, signal.SIGKILL)
    prometheus.wait('ALERTS{alertname="SanaEngineRestarts", alertstate="firing"}')
