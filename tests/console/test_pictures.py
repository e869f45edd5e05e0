"""Pictures that no browser shows, before a reviewer in one."""

from pathlib import Path

from PIL import Image
from playwright.sync_api import expect
from sqlalchemy import text

from moderation.client import BonaFide
from moderation.database.connection import Database
from tests.console.conftest import Sit, Team
from tests.files.stored_otherwise import as_lab, tiff

#: Pixels of what the page shows, once it has come.
SEEN = "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"


def test_a_tiff_is_shown_as_a_copy_and_has_a_thumbnail(
    client: BonaFide, samples: Path, tmp_path: Path, sit: Sit, team: Team, owner: Database, source: str
) -> None:
    file = tmp_path / "portrait.tif"
    with Image.open(samples / "portrait-1.jpg") as portrait:
        file.write_bytes(tiff(as_lab(portrait)))
        size = list(portrait.size)
    case_id = client.submit_file(file, source=source).id
    client.wait(case_id)
    desk = sit(team.rosa)

    page = desk.open(f"/cases/{case_id}?revealed=1")

    assert page.locator("[data-image]").evaluate(SEEN) == size
    expect(page.locator("[data-broken]")).to_be_hidden()
    expect(page.get_by_text("browsers do not show this kind")).to_be_visible()

    thumbnail = page.request.get(f"{page.url.split('/cases')[0]}/cases/{case_id}/thumbnail")
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert "no-store" in thumbnail.headers["cache-control"]
    with owner.transaction() as session:
        kinds = session.scalars(text("SELECT DISTINCT kind FROM views WHERE case_id = :c"), {"c": case_id})
        assert set(kinds) == {"sent", "shown", "thumbnail"}
