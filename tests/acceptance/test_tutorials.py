"""The three tutorials, followed command by command and key by key on a system that the first of them starts."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from moderation.local import PEOPLE_FILE, open_folder
from tests.acceptance.flood import QUICK
from tests.acceptance.test_commands import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TUTORIALS = Path(__file__).parent.parent.parent / "docs/tutorials"
FOLDER = "bonafide-tutorial"
START = f"mkdir {FOLDER} && cd {FOLDER}\nbonafide up\n"

#: Nothing is held back by chance, and what is lost is published again soon. At the end nobody waits long for what the
#: worker is at.
_OVERRIDES = {
    **QUICK,
    "BONAFIDE_BLIND_FIRST_SHARE": "0",
    "BONAFIDE_SECOND_REVIEW_SHARE": "0",
    "BONAFIDE_DRAIN_SECONDS": "2",
}


@dataclass(frozen=True)
class Block:
    """One fence of commands, and what its page shows of their output."""

    commands: str
    shown: list[str]


def _blocks(name: str) -> list[Block]:
    fences = re.findall(r"^```(\w+)\n(.*?)^```", (TUTORIALS / f"{name}.md").read_text(), re.M | re.S)
    blocks: list[Block] = []
    for kind, text in fences:
        if kind == "sh":
            blocks.append(Block(text, []))
        else:
            assert kind == "text", kind
            blocks[-1].shown.extend(text.splitlines())
    return blocks


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the readers of the tutorials sit: the first block was typed in another terminal."""
    folder = open_folder(tmp_path_factory.mktemp("tutorials"))
    programs = folder / "bin"
    programs.mkdir()
    _program(programs / "bonafide", '-c "from moderation.cli.main import main; main()"')
    _program(programs / "python", "")
    stack_env = folder / FOLDER / ".bonafide/stack.env"
    with (folder / "up.log").open("wb") as log:
        # Port 8000 may be taken on a machine that runs tests.
        commands = START.replace("bonafide up", "exec bonafide up --port 0")
        process = subprocess.Popen(
            ["bash", "-ec", commands], cwd=folder, env=_env(folder), stdout=log, stderr=log
        )
    try:
        until(lambda: stack_env.exists() or process.poll() is not None)
        assert process.poll() is None, (folder / "up.log").read_text()
        until((folder / FOLDER / ".bonafide" / PEOPLE_FILE).exists)
        yield folder
    finally:
        process.terminate()
        process.wait(60)


def _program(path: Path, arguments: str) -> None:
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
    path.chmod(0o755)


def _env(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BONAFIDE_")}
    root = str(TUTORIALS.parent.parent)
    return {
        **kept,
        **_OVERRIDES,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": root,
        "COLUMNS": "200",
    }


def _follow(place: Path, name: str) -> None:
    """Type all blocks into one shell. Each must end well, and print what the page shows, in that order."""
    start, *blocks = _blocks(name)
    assert start.commands == START
    mark = "--- the next block"
    script = f"\necho '{mark}'\n".join(block.commands for block in blocks)

    ended = subprocess.run(
        ["bash", "-e", "-o", "pipefail"], input=script, cwd=place, env=_env(place), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=200, check=False,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stdout
    for block, printed in zip(blocks, ended.stdout.split(f"{mark}\n"), strict=True):
        end = 0
        for part in (part for line in block.shown for part in line.split("…") if part):
            found = printed.find(part, end)
            assert found >= 0, f"{block.commands}\nprinted\n{printed}\nand not {part!r}"
            end = found + len(part)


@pytest.mark.parametrize("name", ["platform", "operator"])
def test_a_tutorial_does_what_it_says(place: Path, name: str) -> None:
    _follow(place, name)


def test_the_reviewers_tutorial_does_what_it_says(place: Path, browser: "Browser") -> None:
    _follow(place, "reviewer")
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.set_default_timeout(30_000)
    _sign_in(page, place)
    text = (TUTORIALS / "reviewer.md").read_text()
    steps = re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)
    assert [key for key, _ in steps] == ["n", "b", "1", "a", "Escape", "f", "w", "Escape", "Enter", "z"]

    for key, words in steps:
        page.keyboard.press(key)
        _see(page, key)
        if typed := re.search(r"Type: `(.+)`", words):
            page.keyboard.type(typed[1])

    page.context.close()


def _sign_in(page: "Page", place: Path) -> None:
    email, first = (place / FOLDER / ".bonafide" / PEOPLE_FILE).read_text().splitlines()[0].split()
    announced = (place / FOLDER / ".bonafide/stack.env").read_text()
    (url,) = re.findall("^BONAFIDE_API_URL=(.*)$", announced, re.MULTILINE)
    page.goto(f"{url}/queue")
    page.get_by_label("Email").fill(email)
    page.get_by_label("Password").fill(first)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Queue").wait_for()


def _see(page: "Page", key: str) -> None:
    """Wait for what the tutorial says that this key does."""
    from playwright.sync_api import expect

    match key:
        case "n":
            expect(page.locator("#claim")).to_contain_text("Yours")
            page.wait_for_load_state()  # keys work from then on
        case "b":
            expect(page.locator("[data-stage]")).not_to_have_class(re.compile("blurred"))
        case "1":
            expect(page.locator("[data-lens]")).to_be_visible()
        case "a":
            expect(page.get_by_role("radio", name="I see it").first).to_be_checked()
        case "Escape":
            expect(page.locator("[data-lens]")).to_be_hidden()
        case "f":
            expect(page.get_by_role("radio", name="Deepfake")).to_be_checked()
        case "w":
            expect(page.get_by_label("Reason")).to_be_focused()
        case "Enter":
            expect(page.locator("[data-toast]")).to_contain_text("Decided: Deepfake")
        case "z":
            expect(page.locator("#claim")).to_contain_text("Yours")
            expect(page.get_by_label("Reason")).to_have_value("The face has another light than the neck.")
        case _:
            pytest.fail(f"the tutorial presses {key}, and this test does not know what for")
