from collections.abc import Sequence

import pytest

from moderation.analysis import Artifact, Box, Face, Point, Region
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.gpt.regions import outline, with_outlines, within
from moderation.dfa.gpt.replies import Reply, read_reply, regions_of

PAPER = """1. **Forehead**: The skin is too smooth.
2. **Eye**: The gaze of both eyes differs.
3. **Cheek and Jawline**: A seam runs along the cheek.
4. **Mouth and Lips**: The teeth melt into each other."""


def test_the_papers_figure_is_read() -> None:
    reply = read_reply(PAPER)

    assert reply is not None
    assert [artifact.heading for artifact in reply.artifacts] == [
        "Forehead",
        "Eye",
        "Cheek and Jawline",
        "Mouth and Lips",
    ]
    assert reply.artifacts[2].regions == (Region.CHEEKS, Region.JAWLINE)
    assert reply.artifacts[2].text == "A seam runs along the cheek."


@pytest.mark.parametrize(
    ("text", "heading", "sentence"),
    [
        pytest.param("Nose: It leans.", "Nose", "It leans.", id="neither number nor bold"),
        pytest.param("1) Nose: It leans.", "Nose", "It leans.", id="another number"),
        pytest.param("- **Nose:** It leans.", "Nose", "It leans.", id="the colon within the bold"),
        pytest.param("* __Nose__: It leans.", "Nose", "It leans.", id="the other bold"),
        pytest.param(
            "• Nose : It leans: to the left.", "Nose", "It leans: to the left.", id="a second colon"
        ),
        pytest.param(
            "12. Left-hand side (cheek): Soft.", "Left-hand side (cheek)", "Soft.", id="signs in the heading"
        ),
        pytest.param("I see these artifacts:\n1. Nose: It leans.", "Nose", "It leans.", id="an introduction"),
    ],
)
def test_every_form_of_a_line_is_read(text: str, heading: str, sentence: str) -> None:
    reply = read_reply(text)

    assert reply is not None
    assert [(artifact.heading, artifact.text) for artifact in reply.artifacts] == [(heading, sentence)]


@pytest.mark.parametrize(
    "text",
    ["There are no artifacts.", "there are no visible artifacts", "No artifacts.", "No evident artifacts."],
)
def test_no_artifacts_are_a_reply_too(text: str) -> None:
    reply = read_reply(text)

    assert reply is not None
    assert reply.artifacts == ()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("The face looks unreal to me.", id="prose with a class in it"),
        pytest.param("Yes. This is a deepfake.", id="a verdict in prose"),
        pytest.param("1. Nose: It leans.\nAnd the rest is fine.", id="a line that is no artifact"),
        pytest.param("1. Nose:", id="no sentence"),
        pytest.param("x" * 61 + ": too long a heading", id="a heading of 61"),
        pytest.param(": no heading", id="no heading"),
        pytest.param("There are no artifacts. But: the nose is odd.", id="none and then one"),
    ],
)
def test_what_cannot_be_read_is_unparsed(text: str) -> None:
    assert read_reply(text) is None


def test_a_reply_that_was_cut_off_loses_its_last_line() -> None:
    whole, cut = read_reply(PAPER), read_reply(PAPER, complete=False)

    assert whole is not None
    assert cut is not None
    assert cut.artifacts == whole.artifacts[:3]


def test_a_cut_off_half_line_is_no_error() -> None:
    reply = read_reply("1. Nose: It leans.\n2. **Mou", complete=False)

    assert reply is not None
    assert len(reply.artifacts) == 1


def test_a_single_cut_line_is_kept() -> None:
    assert read_reply("1. Nose: It leans tow", complete=False) is not None


@pytest.mark.parametrize(
    ("heading", "regions"),
    [
        pytest.param("Eyebrows", [Region.EYES], id="a word of a region"),
        pytest.param("Skin Texture", [Region.SKIN], id="two words of one"),
        pytest.param(
            "Lighting and Shadows on the Neck", [Region.LIGHTING, Region.NECK], id="in the heading's order"
        ),
        pytest.param("Overall", [Region.UNMAPPED], id="no region"),
        pytest.param("Early Years", [Region.UNMAPPED], id="an ear within a word"),
        pytest.param("FACE BOUNDARY", [Region.FACE_BOUNDARY], id="capitals"),
    ],
)
def test_headings_name_regions(heading: str, regions: Sequence[Region]) -> None:
    assert list(regions_of(heading)) == regions


UPRIGHT = (Point(40, 40), Point(60, 40), Point(50, 52), Point(42, 65), Point(58, 65))


def a_face(landmarks: Sequence[tuple[float, float]] | None = UPRIGHT) -> Face:
    points = None if landmarks is None else tuple(Point(x, y) for x, y in landmarks)
    return Face(Box(30, 20, 70, 80), 0.9, points)  # pyright: ignore[reportArgumentType]


def middle(polygon: Sequence[Point]) -> Point:
    return Point(sum(p.x for p in polygon) / len(polygon), sum(p.y for p in polygon) / len(polygon))


def test_outlines_lie_where_the_region_is() -> None:
    places = {
        region: middle(outline([region], a_face()) or ())
        for region in (Region.FOREHEAD, Region.EYES, Region.NOSE)
    }
    mouth = middle(outline([Region.MOUTH], a_face()) or ())

    assert places[Region.FOREHEAD].y < places[Region.EYES].y < places[Region.NOSE].y < mouth.y
    assert all(abs(place.x - 50) < 1 for place in (*places.values(), mouth))


def test_outlines_turn_and_grow_with_the_face() -> None:
    lying = [(-y + 100.0, x) for x, y in UPRIGHT]  # turned by a quarter

    upright = middle(outline([Region.MOUTH], a_face()) or ())
    turned = middle(outline([Region.MOUTH], a_face(lying)) or ())

    assert turned.x == pytest.approx(100 - upright.y, abs=0.2)
    assert turned.y == pytest.approx(upright.x, abs=0.2)


def test_two_regions_have_one_outline_around_both() -> None:
    both = outline([Region.CHEEKS, Region.JAWLINE], a_face()) or ()
    jaw = outline([Region.JAWLINE], a_face()) or ()

    assert min(p.y for p in both) < min(p.y for p in jaw)
    assert max(p.y for p in both) == max(p.y for p in jaw)


@pytest.mark.parametrize(
    ("regions", "landmarks"),
    [
        pytest.param([Region.MOUTH], None, id="no landmarks"),
        pytest.param([Region.MOUTH], [(40, 40), (44, 40), (30, 52), (40, 65), (43, 65)], id="turned away"),
        pytest.param([Region.MOUTH], [(40, 40)] * 5, id="landmarks in one point"),
        pytest.param([Region.BACKGROUND, Region.LIGHTING], UPRIGHT, id="no place on a face"),
        pytest.param([Region.UNMAPPED], UPRIGHT, id="no region"),
    ],
)
def test_nothing_is_drawn_that_would_not_be_honest(
    regions: Sequence[Region], landmarks: Sequence[tuple[float, float]] | None
) -> None:
    assert outline(regions, a_face(landmarks)) is None


def test_outlines_end_at_the_pictures_borders() -> None:
    (artifact,) = with_outlines([Artifact("Neck", "Odd.", (Region.NECK,))], a_face())

    (inside,) = within([artifact], width=60, height=70)

    assert any(p.y > 70 for p in artifact.polygon or ())
    assert all(0 <= p.x <= 60 and 0 <= p.y <= 70 for p in inside.polygon or ())


HEADINGS = [(name, region) for region, names in load_prompts().headings.items() for name in names]


@pytest.mark.parametrize(("heading", "region"), HEADINGS, ids=[heading for heading, _ in HEADINGS])
def test_what_the_model_is_taught_to_write_can_be_read(heading: str, region: Region) -> None:
    reply = read_reply(load_prompts().artifacts_answer([(heading, "It is blurred.")]))

    assert reply is not None
    assert reply.artifacts == (Artifact(heading, "It is blurred.", (region,)),)


def test_the_taught_answer_without_artifacts_can_be_read() -> None:
    assert read_reply(load_prompts().artifacts_answer([])) == Reply(())


def test_what_is_said_twice_is_said_once() -> None:
    reply = read_reply("1. **Nose**: It is soft.\n2. **Mouth**: It is soft.\n3. **Nose**: It is soft.")

    assert reply is not None
    assert [artifact.heading for artifact in reply.artifacts] == ["Nose", "Mouth"]
