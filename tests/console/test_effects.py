"""Reasons that can be checked, in a browser: what the score depends on, maps, and several faces."""

import dataclasses

from playwright.sync_api import expect

from moderation.analysis import (
    Analysis,
    Box,
    Effect,
    Face,
    FaceAnalysis,
    ForeignMap,
    Label,
    Point,
    Region,
    Verdict,
)
from moderation.client import BonaFide
from tests.console.conftest import Cases, Sit, Team, an_analysis_of

SUPPORTED = Effect(score_without=0.41, margin_fall=3.1, control_score=0.92, control_fall=0.1)
UNSUPPORTED = Effect(score_without=0.92, margin_fall=0.2, control_score=0.9, control_fall=0.4)


def _map_of(box: Box) -> ForeignMap:
    """High in the lower half of a box."""
    corners = (
        Point(box.left, box.top),
        Point(box.right, box.top),
        Point(box.right, box.bottom),
        Point(box.left, box.bottom),
    )
    return ForeignMap(14, bytes(98) + bytes([240]) * 98, corners, (Region.MOUTH, Region.JAWLINE))


def _an_analysis(cases: Cases, *, several: bool = False) -> Analysis:
    """Both artifacts of a face measured, one of them in vain; a map; and a second face when there are several."""
    analysis = an_analysis_of((cases.samples / "forged-swap-1.jpg").read_bytes())
    (face,) = analysis.faces
    mouth, overall = face.rationale
    measured = (
        dataclasses.replace(mouth, effect=SUPPORTED),
        dataclasses.replace(overall, effect=UNSUPPORTED),
    )
    faces = (dataclasses.replace(face, rationale=measured, foreign=_map_of(face.face.box)),)
    if several:
        other = Box(10, 10, 80, 90)
        verdict = Verdict(Label.BONA_FIDE, score=0.12, margin=-2.0, answer_mass=0.99)
        faces += (FaceAnalysis(Face(other, 0.9), verdict, foreign=_map_of(other)),)
    return dataclasses.replace(analysis, faces=faces)


def test_each_artifact_says_what_the_score_is_without_it_and_is_marked_when_that_bears_nothing_out(
    cases: Cases, sit: Sit, team: Team, source: str
) -> None:
    case_id = cases.ready(source=source, analysis=_an_analysis(cases))

    page = sit(team.rosa).open(f"/cases/{case_id}?revealed=1")

    mouth, overall = (page.locator(f'[data-artifact="{number}"]') for number in (1, 2))
    expect(mouth).to_contain_text(
        "Without this region the score falls from 0.93 to 0.41 (a control region: 0.92)."
    )
    expect(mouth).not_to_contain_text("not supported")
    expect(overall).to_contain_text("not supported by the score")
    expect(page.locator("#effects")).to_have_count(0)


def test_a_map_is_laid_over_the_picture_and_taken_off_by_key_and_by_button(
    cases: Cases, sit: Sit, team: Team, source: str
) -> None:
    case_id = cases.ready(source=source, analysis=_an_analysis(cases))
    page = sit(team.rosa).open(f"/cases/{case_id}?revealed=1")
    drawn, button = page.locator("[data-map]"), page.get_by_role("button", name="Map")
    expect(drawn).to_be_hidden()
    expect(button).to_have_attribute("aria-pressed", "false")

    page.keyboard.press("m")

    expect(drawn).to_be_visible()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_text("more foreign")).to_be_visible()
    shown, face = (
        page.locator(place).bounding_box() for place in ("[data-map] .foreign-4 >> nth=0", "rect.face")
    )
    assert shown is not None
    assert face is not None
    assert abs(shown["y"] - (face["y"] + face["height"] / 2)) < 3
    assert abs(shown["width"] - face["width"]) < 3

    page.keyboard.press("o")  # without its outlines the map stays
    expect(drawn).to_be_visible()
    button.click()

    expect(drawn).to_be_hidden()
    expect(button).to_have_accessible_description(
        "Where pixels look foreign to the face, to the part of the model that looks at pixels alone:"
        " highest at the mouth and the jawline."
        " A map gives no verdict, and says nothing about how much the score depends on a place."
    )
    page.keyboard.press("?")
    expect(page.get_by_text("Map of foreign pixels")).to_be_visible()


def test_several_faces_have_numbers_and_each_its_verdict_its_artifacts_and_its_map(
    cases: Cases, sit: Sit, team: Team, source: str
) -> None:
    case_id = cases.ready(source=source, analysis=_an_analysis(cases, several=True))

    page = sit(team.rosa).open(f"/cases/{case_id}?revealed=1")

    expect(page.locator(".face-number text")).to_have_text(["1", "2"])
    lines = page.locator(".face-lines > li")
    expect(lines.nth(0)).to_contain_text("0.93")
    expect(lines.nth(1)).to_contain_text("0.12")
    expect(page.locator("[data-artifact]").first).to_contain_text("face 1")
    page.keyboard.press("m")
    expect(page.locator("[data-map]")).to_have_count(2)
    expect(page.locator("#map-says")).to_contain_text("face 2, highest at the mouth and the jawline")


def test_a_bundle_without_a_map_has_no_button_for_one(
    cases: Cases, sit: Sit, team: Team, source: str
) -> None:
    page = sit(team.rosa).open(f"/cases/{cases.ready(source=source)}?revealed=1")

    expect(page.get_by_role("button", name="Map")).to_have_count(0)


def test_what_a_score_depends_on_is_measured_when_the_case_is_opened(
    cases: Cases, client: BonaFide, sit: Sit, team: Team, source: str
) -> None:
    case_id = cases.submitted("forged-swap-2.jpg", source=source)

    page = sit(team.rosa).open(f"/cases/{case_id}?revealed=1")

    expect(page.locator("#effects")).to_contain_text("asked again")
    expect(page.locator("#effect-1")).to_contain_text("Without this region the score")
    expect(page.locator("#effects")).to_be_empty()
    artifact = client.case(case_id).rationale[0]
    assert artifact.effect is not None
    assert artifact.effect.supported == (page.locator("#effect-1").get_by_text("not supported").count() == 0)
