"""The commands as a person types them, against the running system."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest

from moderation.client import BonaFide
from moderation.database.connection import Database
from moderation.database.operations import insert_dead_letter
from moderation.local import System, as_role, open_folder
from tests.commands import Ended, run_command


def _run(*args: str, env: dict[str, str]) -> Ended:
    return run_command(*args, env={"COLUMNS": "200", **env})


def _started(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own: where it looks for a stack, or starts one."""
    script = "from moderation.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script, *args],
        env={**os.environ, "COLUMNS": "200"},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def _lines(ended: Ended | subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.fixture
def env(system: System) -> dict[str, str]:
    return dict(system.env)


def test_pictures_are_submitted_waited_for_and_listed(env: dict[str, str], samples: Path) -> None:
    pictures = [str(samples / name) for name in ("portrait-3.jpg", "truncated.jpg")]

    done = _lines(_run("submit", *pictures, "--wait", "--json", "--source", "by-hand", env=env))

    assert [case["file"] for case in done] == pictures
    assert done[0]["verdict"]["label"] in ("deepfake", "bona_fide", "undetermined")
    assert (done[1]["verdict"], done[1]["refusal"]) == (None, "image_corrupt")
    listed = _lines(_run("cases", "--json", "--source", "by-hand", env=env))
    assert {case["id"] for case in listed} == {case["id"] for case in done}
    assert {"verdict", "rationale", "refusal", "fingerprint"} <= set(listed[0])
    shown = _run("status", done[1]["id"], env=env)
    assert "image corrupt" in shown.stdout


def test_whoever_submits_is_told_the_ids_and_how_to_follow_them(
    env: dict[str, str], samples: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    pictures = [str(samples / "portrait-1.jpg"), str(samples / "no-face.jpg")]

    submitted = _run("submit", *pictures, "--source", "told", env={**env, "COLUMNS": "80"})
    waited = _run("submit", pictures[0], "--wait", env={**env, "COLUMNS": "80"})
    listed = _run("cases", "--source", "told", env={**env, "COLUMNS": "80"})
    nothing = _run("submit", str(tmp_path / "empty"), env=env)

    told = [line.split("  ", 1) for line in submitted.stdout.splitlines()]
    assert [place for _, place in told] == pictures
    assert f"bonafide status {told[0][0]}" in submitted.stderr
    assert "portrait-1.jpg" in waited.stdout.splitlines()[0]
    for case, _ in told:
        assert case in listed.stdout
        assert case in _run("status", case, env={**env, "COLUMNS": "80"}).stdout
    assert max(map(len, (listed.stdout + waited.stdout).splitlines())) <= 80 + len(str(samples))
    assert (nothing.returncode, "there is no picture in" in nothing.stderr) == (1, True)


def test_an_image_is_taken_back_and_one_that_is_no_case_ends_with_a_sentence(
    env: dict[str, str], client: BonaFide, samples: Path
) -> None:
    case = client.wait(client.submit_file(samples / "no-face.jpg").id).id
    nobody = "01a20606-fd51-797f-9c50-1f967a548ee7"

    taken = _run("withdraw", str(case), nobody, env=env)
    (again,) = _lines(_run("withdraw", str(case), "--json", env=env))

    assert (taken.returncode, taken.stdout) == (1, f"case {case} is withdrawn\n")
    assert "no case" in taken.stderr
    assert again["state"] == "withdrawn"
    assert client.withdraw(case).withdrawn_at == client.wait(case).withdrawn_at is not None
    assert "withdrawn" in _run("status", str(case), env=env).stdout


def test_cases_are_listed_by_verdict_and_found_by_what_is_known_of_them(
    env: dict[str, str], client: BonaFide, samples: Path
) -> None:
    case = client.wait(client.submit_file(samples / "truncated.jpg", external_id="lost-and-found").id)

    found = _lines(_run("cases", "--find", "lost-and-found", "--json", env=env))
    without = _lines(_run("cases", "--verdict", "none", "--json", env=env))
    decided = _lines(_run("cases", "--outcome", "deepfake", "--json", env=env))
    nothing = _run("cases", "--find", "nobody-knows-this", env=env)

    assert [one["id"] for one in found] == [str(case.id)]
    assert str(case.id) in {one["id"] for one in without}
    assert str(case.id) not in {one["id"] for one in decided}
    assert (nothing.returncode, nothing.stdout, "no case fits" in nothing.stderr) == (0, "", True)
    assert _run("cases", "--verdict", "fake", env=env).returncode == 2


def test_a_case_without_a_verdict_is_retried(env: dict[str, str], client: BonaFide, samples: Path) -> None:
    case = client.wait(client.submit_file(samples / "truncated.jpg").id)

    assert _run("retry", str(case.id), env=env).returncode == 0

    again = client.wait(case.id)
    assert again.version > case.version
    assert again.refusal == "image_corrupt"


def _bulk(content: str, file: Path, env: dict[str, str]) -> tuple[int, list[dict[str, Any]]]:
    file.write_text(content)
    ended = _run("bulk", str(file), "--source", "list", "--json", env=env)
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]


def test_a_list_is_flagged_and_run_again_opens_nothing_twice(
    env: dict[str, str], client: BonaFide, samples: Path, tmp_path: Path
) -> None:
    image = client.upload((samples / "no-face.jpg").read_bytes())
    rows = [{"image": image.model_dump(), "external_id": f"list-{n}", "context": {"n": n}} for n in range(3)]
    content = "\n".join(json.dumps(row) for row in rows)

    code, first = _bulk(content, tmp_path / "flags.jsonl", env)
    again_code, again = _bulk(content, tmp_path / "flags.jsonl", env)

    assert (code, again_code) == (0, 0)
    assert [line["became"] for line in first] == ["opened"] * 3
    assert [line["became"] for line in again] == ["known"] * 3
    assert [line["id"] for line in again] == [line["id"] for line in first]
    case = client.case(first[1]["id"])
    assert (case.external_id, case.source, case.context) == ("list-1", "list", {"n": 1})


def test_a_table_is_flagged_too_and_its_cells_go_before_the_options(
    env: dict[str, str], client: BonaFide, samples: Path, tmp_path: Path
) -> None:
    image = client.upload((samples / "no-face.jpg").read_bytes())
    name = f"s3://{image.bucket}/{image.key}"
    content = f"image,external_id,source,priority\n{name},table-1,,\n{name},table-2,elsewhere,70\n"

    code, lines = _bulk(content, tmp_path / "flags.csv", env)

    first, second = (client.case(line["id"]) for line in lines)
    assert (code, [line["line"] for line in lines]) == (0, [2, 3])
    assert (first.source, first.priority) == ("list", 0)
    assert (second.source, second.priority) == ("elsewhere", 70)


def test_lines_that_cannot_be_flagged_are_named_and_harm_no_other(
    env: dict[str, str], client: BonaFide, samples: Path, tmp_path: Path
) -> None:
    image = client.upload((samples / "no-face.jpg").read_bytes()).model_dump()
    lines = [
        "not JSON",
        "[1]",
        json.dumps({"image": image}),
        json.dumps({"image": image, "external_id": "odd-4", "priority": 1000}),
        json.dumps({"image": "s3://not-ours/a.jpg", "external_id": "odd-5"}),
        "",
        json.dumps({"image": image, "external_id": "odd-7"}),
        json.dumps({"image": image, "external_id": "odd-8", "context": {"score": float("nan")}}),
        json.dumps({"image": image, "external_id": "odd-9", "context": {"name": "\ud800"}}),
        json.dumps({"image": image, "external_id": "odd-\ud800"}),
        "[" * 100_000,
    ]

    code, told = _bulk("\n".join(lines), tmp_path / "flags.jsonl", env)

    assert code == 1
    assert {line["line"]: line.get("code", "opened") for line in told} == {
        **dict.fromkeys((1, 2, 3, 4, 8, 9, 10, 11), "line_unreadable"),
        5: "bucket_not_allowed",
        7: "opened",
    }
    assert [line["external_id"] for line in told] == [None] * 4 + ["odd-5", "odd-7"] + [None] * 4
    assert ["external_id" in told[2]["detail"], "priority" in told[3]["detail"]] == [True, True]


@pytest.mark.parametrize("content", [None, "externé".encode("latin-1")], ids=["not there", "not UTF-8"])
def test_a_list_that_cannot_be_read_gets_a_sentence(
    env: dict[str, str], tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "flags.csv"
    if content is not None:
        file.write_bytes(content)

    ended = _run("bulk", str(file), env=env)

    assert (ended.returncode, "flags.csv cannot be read" in ended.stderr) == (2, True)
    assert "Traceback" not in ended.stderr


def test_a_command_that_this_user_of_postgres_may_not_run_says_so(env: dict[str, str]) -> None:
    limited = {**env, "BONAFIDE_DATABASE_URL": as_role(env["BONAFIDE_DATABASE_URL"], "bonafide_web")}

    ended = _run("keys", "add", "another", env=limited)

    assert ended.returncode == 2
    assert "BONAFIDE_DATABASE_URL" in ended.stderr
    assert "permission denied for table api_keys" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_case_with_a_verdict_is_not_retried(env: dict[str, str], client: BonaFide, samples: Path) -> None:
    case = client.wait(client.submit_file(samples / "no-face.jpg").id)

    ended = _run("retry", str(case.id), env=env)

    assert ended.returncode == 1
    assert "not ready without a verdict" in ended.stderr


def test_a_dead_letter_that_names_a_case_is_published(
    env: dict[str, str], owner: Database, client: BonaFide, samples: Path
) -> None:
    case = client.wait(client.submit_file(samples / "no-face.jpg").id)
    with owner.transaction() as session:
        insert_dead_letter(
            session, queue="analysis", body=f"[['{case.id}', 'and more']]", error="not one case id"
        )
    letter = next(
        one for one in _lines(_run("dead-letters", "list", "--json", env=env)) if str(case.id) in one["body"]
    )

    ended = _run("dead-letters", "replay", letter["id"], env=env)

    assert (ended.returncode, f"published case {case.id}" in ended.stdout) == (0, True)


def test_keys_are_made_shown_once_and_revoked(env: dict[str, str], system: System) -> None:
    secret = _run("keys", "add", "a-platform", "--scope", "read", env=env).stdout.strip()
    prefix = secret.split("_")[1]

    listed = {key["prefix"]: key for key in _lines(_run("keys", "list", "--json", env=env))}
    assert (listed[prefix]["name"], listed[prefix]["scopes"]) == ("a-platform", ["read"])
    assert secret not in json.dumps(listed)
    with BonaFide(system.url, secret) as platform:
        assert platform.queue_stats()

    assert _run("keys", "revoke", prefix, env=env).returncode == 0
    assert _run("keys", "revoke", prefix, env=env).returncode == 1
    assert _run("keys", "add", "x", "--scope", "everything", env=env).returncode == 2


def test_the_doctor_finds_nothing_in_a_healthy_system_and_the_fault_in_a_sick_one(
    env: dict[str, str],
) -> None:
    healthy = _lines(_run("doctor", "--json", env=env))
    sick = _run("doctor", "--json", env={**env, "BONAFIDE_BROKER_URL": "redis://127.0.0.1:9/0"})

    assert all(finding["ok"] for finding in healthy), healthy
    assert sick.returncode == 1
    assert [f["part"] for f in map(json.loads, sick.stdout.splitlines()) if f["ok"] is False] == ["broker"]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        pytest.param(["status", "not-an-id"], 2, "UUID", id="not an id"),
        pytest.param(["submit", "/nowhere.jpg"], 2, "nowhere.jpg", id="no file"),
        pytest.param(["status", "01a20606-fd51-797f-9c50-1f967a548ee7"], 1, "no case", id="no such case"),
        pytest.param(["submit", "s3://not-ours/a.jpg"], 1, "bucket_not_allowed", id="another bucket"),
    ],
)
def test_a_call_that_cannot_be_done_says_why(
    env: dict[str, str], args: list[str], code: int, words: str
) -> None:
    ended = _run(*args, env=env)

    assert ended.returncode == code
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_version_is_told() -> None:
    assert _started("--version").stdout == f"bonafide {version('bonafide-moderation')}\n"


def test_without_a_stack_or_a_key_the_client_commands_say_what_is_missing(tmp_path: Path) -> None:
    ended = _started("cases", cwd=tmp_path)

    assert ended.returncode == 2
    assert "BONAFIDE_API_KEY" in ended.stderr


def test_a_taken_port_and_a_folder_that_cannot_be_written_get_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        busy = _started("up", "--data", str(tmp_path / "d"), "--port", port, cwd=tmp_path)
    (tmp_path / "file").touch()
    blocked = _started("up", "--data", str(tmp_path / "file" / "d"), "--port", "0", cwd=tmp_path)

    assert (busy.returncode, "in use" in busy.stderr) == (2, True)
    assert (blocked.returncode, "cannot be written" in blocked.stderr) == (2, True)


def test_the_demo_shows_every_sample_and_leaves_nothing_behind(tmp_path: Path, samples: Path) -> None:
    done = _lines(_started("demo", "--exit", "--json", cwd=tmp_path))

    assert [case["file"] for case in done] == sorted(path.name for path in samples.glob("*.jpg"))
    assert all(case["state"] == "ready" for case in done)
    assert all((case["verdict"] is None) == (case["refusal"] is not None) for case in done)
    assert _of(tmp_path) == []
    assert not (tmp_path / ".bonafide" / "stack.env").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent died")
def test_a_killed_stack_leaves_nobody_behind_and_starts_again_with_its_data(tmp_path: Path) -> None:
    open_folder(tmp_path)
    first = _up(tmp_path)
    assert (
        len(_of(tmp_path)) > 6
    )  # the command, three servers, web, worker and sweeper: what is waited for below
    first.send_signal(signal.SIGKILL)
    first.wait()
    until(lambda: not _of(tmp_path))
    (tmp_path / "data" / "stack.env").unlink()  # a killed stack cannot take its announcement back

    second = _up(tmp_path)
    refused = _started("up", "--data", str(tmp_path / "data"), "--port", "0", cwd=tmp_path)
    second.send_signal(signal.SIGINT)
    second.wait(60)

    assert "already runs" in refused.stderr
    assert _of(tmp_path) == []


def _up(folder: Path) -> subprocess.Popen[bytes]:
    script = "from moderation.cli.main import main; main()"
    command = [sys.executable, "-c", script, "up", "--data", "data", "--port", "0"]
    with (folder / "up.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=log,
            # Tests that a script started in the background ignore Ctrl-C, and so would what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
    until(lambda: (folder / "data" / "stack.env").exists() or process.poll() is not None)
    assert process.poll() is None, (folder / "up.log").read_text()
    return process


def _of(folder: Path) -> list[str]:
    """The processes that work in this folder or name it, whoever their parent is by now."""
    return [
        " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["cmdline", "cwd", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and str(folder) in " ".join([process.info["cwd"] or "", *(process.info["cmdline"] or [])])
    ]


def until(true: Any, timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
