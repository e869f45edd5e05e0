"""The pictures of the console in docs/, taken of a running system: `python -m tests.console.screenshots`.

The sample pictures, and marked forgeries of the portraits by the project's lab, go through intake and the shipped
model; nothing on the pages is made up.
"""

import argparse
import io
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from moderation.accounts.accounts import Accounts
from moderation.client import BonaFide
from moderation.database.connection import Database
from moderation.local import Stack, System, scratch_folder, start_system
from moderation.people import Person, Role
from moderation.settings import Settings
from moderation.web.sessions import COOKIE
from moderation.wire import CaseOut
from tests.browser import FLAGS

ROOT = Path(__file__).parent.parent.parent
SAMPLES = ROOT / "moderation/samples"
SIZE = {"width": 1440, "height": 900}

#: Why each sample was flagged, so that the queue has something to read.
FLAGS_OF_SAMPLES = {
    "portrait-1.jpg": ("profile-photos", "A user says this is somebody else.", 20),
    "portrait-2.jpg": ("profile-photos", "Random sample.", 0),
    "portrait-3.jpg": ("messages", "Random sample.", 0),
    "forged-swap-1.jpg": ("profile-photos", "Two users say the face is not hers.", 60),
    "forged-swap-2.jpg": ("messages", "Sent to 400 people within an hour.", 80),
    "forged-mouth.jpg": ("news-uploads", "The mouth does not fit the voice of the clip.", 50),
    "forged-eyes.jpg": ("news-uploads", "Random sample.", 0),
    "no-face.jpg": ("messages", "Reported with the others.", 0),
    "truncated.jpg": ("profile-photos", "Reported by a partner.", 10),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="Path of the browser.")
    asked = parser.parse_args()
    with scratch_folder() as folder, Stack(folder, durable=False) as stack:
        shares = {"BONAFIDE_BLIND_FIRST_SHARE": "0", "BONAFIDE_SECOND_REVIEW_SHARE": "0"}
        system = start_system(stack, overrides={**shares, "BONAFIDE_DEVICE": "cpu"})
        cases = _submit(system, _forged(folder / "forged"))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=asked.chromium, args=list(FLAGS))
            context = browser.new_context(viewport=SIZE, color_scheme="light")  # pyright: ignore[reportArgumentType]
            accounts, person = _reviewer(system)
            cookie = {"name": COOKIE, "value": accounts.sign_in_as(person).secret, "url": system.url}
            context.add_cookies([cookie])  # pyright: ignore[reportArgumentType]
            page = context.new_page()
            _queue(page, system, asked.out)
            _case(page, system, _most_telling(cases), asked.out)
            browser.close()


def _forged(folder: Path) -> list[Path]:
    """Forgeries of the sample portraits with FORGED across them, one of a face swap and one of an edit for each."""
    command = [sys.executable, "-m", "moderation.cli.main", "dfa", "forge", "--technique", "FS"]
    command += ["--technique", "FE", "--out", str(folder), *map(str, sorted(SAMPLES.glob("portrait-*.jpg")))]
    subprocess.run(command, check=True, capture_output=True)
    return sorted(folder.glob("portrait-?.F?.png"))


def _submit(system: System, forged: list[Path]) -> list[CaseOut]:
    with BonaFide(system.url, system.key) as client:
        opened = [
            client.submit_file(SAMPLES / name, source=source, reason=reason, priority=priority).id
            for name, (source, reason, priority) in FLAGS_OF_SAMPLES.items()
        ]
        opened += [client.submit_file(file, source="lab", reason="Forged by the lab.").id for file in forged]
        return [client.wait(case) for case in opened]


def _reviewer(system: System) -> tuple[Accounts, Person]:
    values = {name.removeprefix("BONAFIDE_").lower(): value for name, value in system.env.items()}
    accounts = Accounts(
        Database(system.env["BONAFIDE_DATABASE_URL"], pool_size=1), Settings.model_validate(values)
    )
    return accounts, accounts.add_person("rosa@example.org", "Rosa Diaz", Role.LEAD, None)


def _most_telling(cases: list[CaseOut]) -> CaseOut:
    """The case with the longest rationale, then with the highest score: whatever the model really said."""
    return max(cases, key=lambda case: (len(case.rationale), case.verdict.score or 0 if case.verdict else 0))


def _queue(page: Page, system: System, out: Path) -> None:
    page.goto(f"{system.url}/queue")
    page.wait_for_load_state("networkidle")
    _keep(page, out / "queue.png")


def _case(page: Page, system: System, case: CaseOut, out: Path) -> None:
    page.goto(f"{system.url}/cases/{case.id}")
    page.get_by_role("button", name="Claim this case").click()
    page.wait_for_selector("#decide .go")
    page.get_by_role("button", name="Reveal").click()
    page.get_by_role("button", name="Grey").click()
    page.get_by_label("Your own question").or_(page.get_by_label("Your question")).fill(
        "Does the mouth fit the face?"
    )
    page.keyboard.press("Enter")
    page.wait_for_selector(".turns .by", timeout=60_000)
    if case.rationale:
        page.get_by_role("button", name=f"Look at artifact {len(case.rationale)}").click()
    page.locator("h1").hover()
    page.wait_for_timeout(300)  # the blur fades
    _keep(page, out / "case.png")


def _keep(page: Page, path: Path) -> None:
    """Small enough for a repository: few colours are enough for a page."""
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.quantize(200).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
