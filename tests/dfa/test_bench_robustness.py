"""Every cell of the grid does to a picture what its name says, and nothing to its label."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from moderation.dfa.bench.ask import judge, verdicts_only
from moderation.dfa.bench.estimates import Estimate
from moderation.dfa.bench.manifest import Item
from moderation.dfa.bench.robustness import (
    PLACES,
    QUICK,
    SENTENCES,
    SOCIAL_SIDE,
    captioned,
    cropped,
    injected,
    noisy,
    robustness_table,
    screenshot,
    social,
    treatments,
)
from moderation.dfa.gpt.bundle import BundleSpec
from moderation.dfa.gpt.detector import Detector
from tests.dfa.conftest import a_picture
from tests.dfa.drawn_faces import a_portrait

GRID = {treatment.name: treatment for treatment in treatments()}


@pytest.fixture(scope="module")
def face() -> Image.Image:
    return Image.fromarray(a_portrait(1, size=256).pixels)


def through(name: str, image: Image.Image, number: int = 0) -> Image.Image:
    return Image.open(io.BytesIO(GRID[name].change(image, number)))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=np.float32)


def test_clean_changes_nothing(face: Image.Image) -> None:
    assert (pixels(through("clean", face)) == pixels(face)).all()
    assert (pixels(through("searched: face found anew", face)) == pixels(face)).all()


def test_every_other_cell_changes_something(face: Image.Image) -> None:
    for name in GRID.keys() - {"clean", "searched: face found anew"}:
        changed = pixels(through(name, face))
        assert changed.shape != pixels(face).shape or np.abs(changed - pixels(face)).max() > 8, name


@pytest.mark.parametrize("quality", [90, 75, 60, 45, 30])
def test_jpeg_cells_are_jpegs_of_that_quality(quality: int, face: Image.Image) -> None:
    buffer = io.BytesIO()
    face.save(buffer, "JPEG", quality=quality)

    changed = through(f"JPEG {quality}", face)

    assert changed.format == "JPEG"
    assert getattr(changed, "quantization") == getattr(Image.open(buffer), "quantization")  # noqa: B009  JPEG's alone


@pytest.mark.parametrize("quality", [75, 40])
def test_webp_cells_are_webp(quality: int, face: Image.Image) -> None:
    assert through(f"WebP {quality}", face).format == "WEBP"


@pytest.mark.parametrize("scale", [0.75, 0.5, 0.35, 0.25])
def test_resized_pictures_stay_small(scale: float, face: Image.Image) -> None:
    assert through(f"resize {scale:g}", face).size == (round(256 * scale), round(256 * scale))


def test_blur_takes_fine_detail_away_and_more_takes_more(face: Image.Image) -> None:
    def detail(image: Image.Image) -> float:
        return float(np.abs(np.diff(pixels(image), axis=1)).mean())

    levels = [detail(face)] + [detail(through(f"blur {radius} px", face)) for radius in ("0.5", "1", "2")]

    assert levels == sorted(levels, reverse=True)


@pytest.mark.parametrize("variance", [0.001, 0.005, 0.01])
def test_noise_has_the_variance_it_names(variance: float) -> None:
    grey = Image.new("RGB", (128, 128), (128, 128, 128))

    changed = pixels(through(f"noise {variance:g}", grey)) / 255

    assert changed.var() == pytest.approx(variance, rel=0.05)


def test_noise_is_the_same_in_every_run(face: Image.Image) -> None:
    assert (pixels(noisy(face, 0.01, 3)) == pixels(noisy(face, 0.01, 3))).all()
    assert (pixels(noisy(face, 0.01, 3)) != pixels(noisy(face, 0.01, 4))).any()


@pytest.mark.parametrize(("name", "side"), [("crop 5%", 230), ("crop 10%", 204)])
def test_crops_lose_that_part_on_each_side(name: str, side: int, face: Image.Image) -> None:
    changed = through(name, face)

    assert changed.size == (side, side)
    at = (256 - side) // 2
    assert (pixels(changed) == pixels(face)[at : at + side, at : at + side]).all()


def test_a_crop_of_nothing_is_the_picture(face: Image.Image) -> None:
    assert cropped(face, 0).size == face.size


def test_flip_twice_is_the_picture(face: Image.Image) -> None:
    assert (pixels(through("flip", through("flip", face))) == pixels(face)).all()


def test_a_screenshot_holds_the_picture_within_a_frame(face: Image.Image) -> None:
    shot = pixels(screenshot(face))

    assert shot.shape[0] > 256 * 1.5
    rows = [top for top in range(shot.shape[0] - 255) if (shot[top : top + 256] == pixels(face)).all()]
    assert len(rows) == 1
    assert GRID["screenshot frame"].search


def test_a_social_chain_reduces_to_1080_and_encodes_twice() -> None:
    large = Image.fromarray(a_picture(1600, seed=2)).resize((1600, 1200))
    once = io.BytesIO()
    large.resize((1080, 810), Image.Resampling.BICUBIC).save(once, "JPEG", quality=75)

    changed = Image.open(io.BytesIO(social(large)))

    assert changed.format == "JPEG"
    assert max(changed.size) == SOCIAL_SIDE
    assert (pixels(changed) != pixels(Image.open(once))).any()
    assert getattr(changed, "quantization") == getattr(Image.open(once), "quantization")  # noqa: B009


def test_small_pictures_are_not_enlarged_by_a_social_chain(face: Image.Image) -> None:
    assert Image.open(io.BytesIO(social(face))).size == face.size


def test_a_caption_covers_the_lowest_seventh_and_nothing_else(face: Image.Image) -> None:
    changed, before = pixels(captioned(face, "When you see it")), pixels(face)

    top = 256 - 256 // 7
    assert (changed[:top] == before[:top]).all()
    assert (changed[top + 1 :] == 255).all(axis=2).mean() > 0.7
    assert (changed[top:] == 0).all(axis=2).any()


def test_words_over_the_picture_leave_most_of_it(face: Image.Image) -> None:
    changed = (pixels(through("text overlay", face)) != pixels(face)).any(axis=2)

    assert 0.01 < changed.mean() < 0.3
    assert not changed[:128].any()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("answer", ["No", "Yes"])
def test_an_injection_writes_its_answer_where_it_says(answer: str, place: str, face: Image.Image) -> None:
    before = pixels(face)

    changed = (pixels(injected(face, answer, place, 0)) != before).any(axis=2)
    other = pixels(injected(face, "Yes" if answer == "No" else "No", place, 0))

    rows = np.flatnonzero(changed.any(axis=1))
    assert 0.002 < changed.mean() < 0.3
    assert (rows.min() < 20) == (place != "low contrast")
    assert (other != pixels(injected(face, answer, place, 0))).any()


def test_low_contrast_words_hardly_show() -> None:
    flat = Image.new("RGB", (224, 224), (100, 100, 100)).filter(ImageFilter.BLUR)

    difference = np.abs(pixels(injected(flat, "No", "low contrast", 1)) - pixels(flat))

    assert 0 < difference.max() <= 18


def test_pictures_take_turns_with_the_sentences(face: Image.Image) -> None:
    drawn = {injected(face, "No", "band", number).tobytes() for number in range(len(SENTENCES))}

    assert len(drawn) == len(SENTENCES)


def test_sentences_fit_even_a_small_picture() -> None:
    small = Image.new("RGB", (64, 64), (0, 0, 0))

    for number in range(len(SENTENCES)):
        injected(small, "Yes", "band", number)


def test_the_quick_grid_is_part_of_the_whole_one() -> None:
    assert {treatment.name for treatment in treatments(quick=True)} == QUICK
    assert GRID.keys() > QUICK


# --- with a model ---


def items(folder: Path, count: int = 6) -> list[Item]:
    made: list[Item] = []
    for number in range(count):
        file = folder / f"{number}.png"
        Image.fromarray(a_picture(96, seed=number)).save(file)
        made.append(
            Item(
                file=file,
                deepfake=number % 2 == 0,
                technique=None,
                source="drawn",
                group=str(number),
                video=None,
                split="test",
                crop=True,
                regions=None,
                description=None,
            )
        )
    return made


def test_every_cell_is_asked_about_the_same_pictures(tiny: BundleSpec, tmp_path: Path) -> None:
    detector = verdicts_only(Detector.load(tiny.folder, device="cpu"))

    table = robustness_table(detector, items(tmp_path), 0.5, quick=True)

    assert [row[0] for row in table.rows] == [treatment.name for treatment in treatments(quick=True)]
    assert {row[1] for row in table.rows} == {6}
    clean = dict(zip(table.columns, table.rows[0], strict=True))
    assert isinstance(clean["flipped"], Estimate)
    assert clean["flipped"].value == 0
    # Nothing in a screenshot of noise is a face: it is not judged, and that shows.
    shot = next(row for row in table.rows if row[0] == "screenshot frame")
    undetermined = shot[table.columns.index("undetermined")]
    assert isinstance(undetermined, Estimate)
    assert undetermined.value == 1


def test_only_the_verdict_is_asked_for(tiny: BundleSpec, tmp_path: Path) -> None:
    detector = verdicts_only(Detector.load(tiny.folder, device="cpu"))

    rows = judge(detector, items(tmp_path))

    assert all(row.reply is None and row.verdict.technique_scores is None for row in rows)
    assert all(row.score is not None for row in rows)
