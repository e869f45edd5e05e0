"""Documents that can be wrong are held to the code."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from moderation.settings import Settings
from moderation.wire import BatchIn, BatchOut, CaseIn, CaseOut, UploadIn, UploadOut

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
        for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
        if not (document.parent / target).exists()
    ]

    assert missing == []


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
