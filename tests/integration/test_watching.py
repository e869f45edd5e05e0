"""The dashboard, the alerts and the runbook speak of what the code exports."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client import REGISTRY

# Imported for the metrics they register: the worker's, and those of whoever delivers.
import moderation.webhooks.courier
import worker.telemetry
from moderation.database.connection import Database
from moderation.decisions import Outcome
from moderation.errors import StorageUnavailable
from moderation.evidence.drift import SourceDrift
from moderation.evidence.watch import Watched, keep
from moderation.settings import Settings
from moderation.triage import retry_delay
from tests.builders import a_verdict, bona_fide
from tests.integration.beside import both, on_trial
from tests.integration.conftest import enrolled
from tests.integration.deciding import a_review, decide

DEPLOY = Path(__file__).parents[2] / "deploy"
_SCHEMAS: dict[str, Any] = json.loads((DEPLOY.parent / "tests/schemas/custom.json").read_text())

assert moderation.webhooks.courier
assert worker.telemetry

#: What an expression may call, besides metrics.
_METRIC = re.compile(r"\bbonafide_[a-z_]+")


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _expressions() -> Iterator[tuple[str, str]]:
    for rule in _rules():
        yield rule["alert"], rule["expr"]
    dashboard = json.loads((DEPLOY / "grafana/bonafide.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


@pytest.fixture
def exported(api: TestClient, database: Database, settings: Settings) -> set[str]:
    """Every series name that a scrape of the console, a worker or a sweeper can hold."""
    on_trial(database)  # and a decided picture to compare: what there is none of is not exported
    decide(
        a_review(database, settings),
        database,
        enrolled(database),
        both(database, a_verdict(), bona_fide()),
        Outcome.DEEPFAKE,
    )
    look = SourceDrift("a source", 500, 500, 0.001, 0.01)
    with database.transaction() as session:
        keep(session, "f", [Watched(look, ())])
    names: set[str] = set()
    for metric in REGISTRY.collect():
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}
        names |= {metric.name + ending for ending in endings.get(metric.type, ("",))}
    return names | set(re.findall(r"^(bonafide_\w+)", api.get("/metrics").text, re.MULTILINE))


def test_every_metric_that_is_watched_is_exported(exported: set[str]) -> None:
    missing = {(where, name) for where, text in _expressions() for name in _METRIC.findall(text)}

    assert {(where, name) for where, name in missing if name not in exported} == set()


def test_every_way_in_which_storage_fails_is_watched() -> None:
    (watched,) = (r["expr"] for r in _rules() if r["alert"] == "BonafideStorageUnavailable")
    (pattern,) = re.findall(r'why=~"([^"]+)"', watched)

    failures = [StorageUnavailable, *StorageUnavailable.__subclasses__()]
    assert [error.code for error in failures if not re.fullmatch(pattern, error.code)] == []
    counted = [
        REGISTRY.get_sample_value("bonafide_releases_total", {"why": error.code}) for error in failures
    ]
    assert None not in counted  # before the first failure too, or the first would not be seen


def test_one_case_that_storage_never_gives_is_an_alert_and_a_hiccup_is_none(settings: Settings) -> None:
    (rule,) = (rule for rule in _rules() if rule["alert"] == "BonafideStorageUnavailable")
    (minutes,) = set(re.findall(r"\[(\d+)m\]", rule["expr"]))
    window, lasts = 60 * int(minutes), 60 * int(rule["for"].removesuffix("m"))

    assert "/ sum(increase(bonafide_attempts_count[" in rule["expr"]  # a share is high for few cases too
    assert retry_delay(100, random=1.0) + settings.image_fetch_seconds < window
    assert lasts > window


def test_the_state_of_a_model_is_watched_and_shown() -> None:
    rules, everything = {rule["expr"] for rule in _rules()}, " ".join(text for _, text in _expressions())

    for name in ("bonafide_breaker_open", "bonafide_candidate_stopped"):
        assert f"sum({name}) > 0" in rules
        assert everything.count(name) == 2  # the dashboard has it too


def test_metrics_that_are_not_told_are_an_alert_of_their_own() -> None:
    """`max` of nothing is nothing, and never above anything."""
    unseen = " ".join(rule["expr"] for rule in _rules() if "absent(" in rule["expr"])

    for name in ("bonafide_oldest_waiting_seconds", "bonafide_processes"):
        assert f"absent({name}" in unseen


def test_the_rules_have_the_shape_that_prometheus_reads() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())

    jsonschema.validate(rules, _SCHEMAS["PrometheusRules"])
    for _, expression in _expressions():
        assert expression.count("(") == expression.count(")")
        assert expression.count("{") == expression.count("}")


def test_every_alert_has_a_section_in_the_runbook_and_every_section_an_alert() -> None:
    sections = re.findall(r"^## (\w+)$", (DEPLOY / "RUNBOOK.md").read_text(), re.MULTILINE)
    alerts = {rule["alert"]: rule["annotations"]["runbook"] for rule in _rules()}

    assert sections == list(alerts)
    assert all(link == f"deploy/RUNBOOK.md#{name.lower()}" for name, link in alerts.items())


def test_labels_that_rules_select_by_exist(api: TestClient) -> None:
    scraped = api.get("/metrics").text

    for name, label, value in re.findall(
        r'(bonafide_\w+)\{(\w+)="(\w+)"\}', "\n".join(r["expr"] for r in _rules())
    ):
        if f"{name}{{" in scraped and label in ("kind", "state"):
            assert f'{name}{{{label}="{value}"}}' in scraped, (name, label, value)
