"""Documents that can be wrong are held to the code."""

import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from moderation.settings import Settings
from moderation.wire import BatchIn, BatchOut, CaseIn, CaseOut, UploadIn, UploadOut

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parent.parent


def test_every_setting_is_in_the_table_with_its_meaning_and_nothing_else_is() -> None:
    table = (ROOT / "docs/settings.md").read_text()
    documented = dict(re.findall(r"^\| `BONAFIDE_(\w+)` \| .*? \| (.*?) \|$", table, re.MULTILINE))

    assert documented == {name.upper(): field.description for name, field in Settings.model_fields.items()}


def test_the_capacity_model_is_what_its_script_computes() -> None:
    from benchmarks.capacity import tables

    assert tables() in (ROOT / "docs/scale.md").read_text()


def test_the_examples_of_the_interface_are_what_it_takes_and_answers() -> None:
    page = (ROOT / "docs/platform.md").read_text()
    examples = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    shapes = (BatchIn, BatchOut, UploadIn, UploadOut, CaseOut)

    for shape, example in zip(shapes, examples, strict=True):
        known = set(shape.model_fields)
        assert set(json.loads(example)) <= known
        shape.model_validate_json(example)
    for item in json.loads(examples[0])["cases"][:2]:
        CaseIn.model_validate(item)


def test_the_documents_name_files_that_exist() -> None:
    missing = [
        f"{document.name}: {target}"
        for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
        if not (document.parent / target).exists()
    ]

    assert missing == []


def _architecture() -> str:
    return (ROOT / "docs/architecture.md").read_text()


def test_the_architecture_names_files_that_exist() -> None:
    named = re.findall(r"`((?:\w+/)+(?:[\w.]+)?|\w+\.(?:md|yml|toml))`", _architecture())

    # A folder of a room is named without the rooms above it, right beside these.
    inside = {"web/console/", "gpt/", "instruct/", "train/", "bench/"}
    assert len(named) > 60
    assert [name for name in named if name not in inside and not (ROOT / name).exists()] == []


def test_the_architecture_has_the_rooms_of_the_import_contract() -> None:
    rooms = re.findall(r"^\| (\d+) \| `(\w+)` \|", _architecture(), re.MULTILINE)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")

    lines = [{room for line, room in rooms if int(line) == number} for number in range(1, len(layers) + 1)]

    assert lines == [set(re.findall(r"\w+", layer)) for layer in layers]


def test_the_architecture_lists_values_that_exist_where_it_says() -> None:
    values = re.findall(r"^\| `([A-Z]\w+)` \| `([\w/]+\.py)` \|", _architecture(), re.MULTILINE)

    assert 0 < len(values) <= 10
    assert [name for name, file in values if f"class {name}" not in (ROOT / file).read_text()] == []


# --- the site


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs/build.py"))


@pytest.fixture(scope="module")
def site(build: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in strict mode: a link that leads nowhere, or a script from elsewhere, ends it with a sentence."""
    return build["build"](tmp_path_factory.mktemp("docs"))


@pytest.mark.slow
def test_the_site_has_every_page_and_tells_of_every_call_command_and_setting(site: Path) -> None:
    from moderation.cli.main import app as commands
    from moderation.web.app import create_app

    needed = {"s3_buckets": "flagged", "s3_access_key_id": "a", "s3_secret_access_key": "b"}
    document = create_app(Settings.model_validate(needed)).openapi()
    pages = {str(page.relative_to(site).with_suffix("")) for page in site.rglob("*.html")}

    written = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in ROOT.glob("docs/**/*.md")}
    assert written | {"index", "api", "commands", "runbook", "changelog"} <= pages
    api, told = ((site / f"{name}.html").read_text() for name in ("api", "commands"))
    for path, calls in document["paths"].items():
        assert all(f"{method.upper()} {path}" in api for method in calls)
    for name in document["components"]["schemas"]:
        assert f'id="{name.lower()}"' in api
    for command in commands.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "")
        assert f"bonafide {name}" in told


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ('<a href="none.html">x</a>', "none.html leads nowhere"),
        ('<a href="#none">x</a>', "#none has no such heading"),
        ('<script src="https://example.org/a.js"></script>', "comes from outside"),
        ("<p>Of three kinds:\n- one\n- two</p>", "a list follows a paragraph"),
    ],
    ids=["page", "heading", "script", "list"],
)
def test_a_site_with_a_fault_is_none(build: dict[str, Any], tmp_path: Path, page: str, said: str) -> None:
    (tmp_path / "index.html").write_text(page)

    (fault,) = build["faults"](tmp_path)

    assert said in fault


def test_the_site_is_searched_from_a_disk_without_a_network_in_the_colours_that_the_reader_has(
    site: Path, browser: "Browser"
) -> None:
    context = browser.new_context(offline=True, color_scheme="dark")
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    page.goto((site / "tutorials/operator.html").as_uri())
    scheme = page.locator("body").get_attribute("data-md-color-scheme")
    page.get_by_role("button", name="Search").first.click()
    page.get_by_role("combobox").fill("lease")
    page.get_by_text(re.compile(r"^\d+ results$")).wait_for()

    assert scheme == "slate"
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
    context.close()


@pytest.mark.slow
def test_the_compose_file_is_one() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]

    checked = subprocess.run(
        [*command, str(ROOT / "docker-compose.yml")], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    "module", ["moderation.web.app", "moderation.client", "moderation.cli.main", "worker.sweeper"]
)
def test_what_people_touch_starts_without_torch(module: str) -> None:
    script = (
        f"import sys, {module}; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )

    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"
