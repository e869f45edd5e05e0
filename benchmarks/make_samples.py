"""Make the pictures in `moderation/samples/` from public-domain portraits.

    python benchmarks/make_samples.py FOLDER

FOLDER holds official portraits of members of the US Congress, named by Bioguide id. Every forgery carries its mark
in the picture. They are coarse on purpose, so that something is found and can be explained: they show the way of an
image, not the state of the art, and not how often the model is right.
"""

import argparse
import tomllib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks.pictures import encoded
from moderation.analysis import Face, Point
from moderation.dfa.gpt.faces import find_faces
from moderation.dfa.gpt.pixels import Picture, crop_face, decode_picture
from moderation.dfa.instruct.forgery.masks import Portrait, geometry
from moderation.dfa.instruct.forgery.swap import other_face
from moderation.dfa.instruct.pool import CROP, MARGIN, landmarks_in_crop

SAMPLES = Path(__file__).parents[1] / "moderation" / "samples"
MARK = "FORGED SAMPLE"
HEIGHT = 400  # pixels of a sample
#: The parts of an edit come from a picture so many times smaller. Enlarged, they are plainly softer than their face.
SMALLER = 4


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the sample pictures.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    for sample in tomllib.loads((SAMPLES / "samples.toml").read_text())["sample"]:
        make(sample["file"], sample["what"], [folder / f"{name}.jpg" for name in sample["from"]])


def make(file: str, what: str, sources: list[Path]) -> None:
    if what == "no_face":
        _landscape().save(SAMPLES / file, quality=85)
    elif what == "broken":
        whole = (SAMPLES / "portrait-1.jpg").read_bytes()
        (SAMPLES / file).write_bytes(whole[: len(whole) * 2 // 5])
    elif what == "bona_fide":
        _portrait(sources[0]).save(SAMPLES / file, quality=85)
    elif what == "FS":
        _swapped(*map(_portrait, sources)).save(SAMPLES / file, quality=85)
    else:
        _edited(file, *map(_portrait, sources)).save(SAMPLES / file, quality=85)


def _portrait(path: Path) -> Image.Image:
    pixels = decode_picture(path.read_bytes()).pixels
    image = Image.fromarray(pixels)
    return image.resize((round(image.width * HEIGHT / image.height), HEIGHT), Image.Resampling.LANCZOS)


def _swapped(target: Image.Image, source: Image.Image) -> Image.Image:
    """The source's face over the target's, by the forgery lab, as the shipped model was trained on."""
    onto, over = _face(target), _face(source)
    forgery = other_face(_lab(target, onto), _lab(source, over), np.random.default_rng(0))
    box = onto.box
    side = round(MARGIN * max(box.width, box.height))
    place = round((box.left + box.right - side) / 2), round((box.top + box.bottom - side) / 2)
    patch = Image.fromarray(forgery.pixels).resize((side, side), Image.Resampling.LANCZOS)
    mask = Image.fromarray((forgery.mask * 255).astype(np.uint8)).resize((side, side))
    result = target.copy()
    result.paste(patch, place, mask.point(lambda value: 255 if value else 0))
    return _marked(result)


def _lab(image: Image.Image, face: Face) -> Portrait:
    """A face as the lab takes it."""
    crop = crop_face(_picture(image), face, CROP, MARGIN)
    return Portrait(crop, geometry(np.array(landmarks_in_crop(face)), CROP))


def _edited(file: str, target: Image.Image, source: Image.Image) -> Image.Image:
    """Parts of the source's face, put on the target's by their landmarks and feathered. The lab has no part in this."""
    onto, over = _face(target), _face(source)
    small = source.resize((source.width // SMALLER, source.height // SMALLER), Image.Resampling.LANCZOS)
    moved = small.resize(source.size, Image.Resampling.BICUBIC).transform(
        target.size, Image.Transform.AFFINE, _aligned(onto, over), Image.Resampling.BICUBIC
    )
    mask = Image.new("L", target.size)
    draw = ImageDraw.Draw(mask)
    for centre, half_width, half_height in _parts(file, onto):
        x, y = centre
        draw.ellipse((x - half_width, y - half_height, x + half_width, y + half_height), fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(5))
    return _marked(Image.composite(_recoloured(moved, target, mask), target, mask))


def _parts(file: str, face: Face) -> list[tuple[Point, float, float]]:
    """Centres and half axes, in pixels, of the replaced parts."""
    left_eye, right_eye, _, left_mouth, right_mouth = _landmarks(face)
    eyes = right_eye.x - left_eye.x
    mouth = Point((left_mouth.x + right_mouth.x) / 2, (left_mouth.y + right_mouth.y) / 2)
    if "mouth" in file:
        return [(mouth, eyes * 0.55, eyes * 0.32)]
    return [(left_eye, eyes * 0.36, eyes * 0.26), (right_eye, eyes * 0.36, eyes * 0.26)]


def _aligned(onto: Face, over: Face) -> tuple[float, ...]:
    """The similarity from points of the target to points of the source, by least squares over the landmarks."""
    a = np.array([complex(*point) for point in _landmarks(onto)])
    b = np.array([complex(*point) for point in _landmarks(over)])
    turn = ((a - a.mean()).conj() @ (b - b.mean())) / ((a - a.mean()).conj() @ (a - a.mean()))
    shift = b.mean() - turn * a.mean()
    return (turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag)


def _recoloured(moved: Image.Image, target: Image.Image, mask: Image.Image) -> Image.Image:
    """Brought half way to the target's mean colour under the mask: the seam stays visible."""
    inside = np.array(mask) > 128
    pixels, wanted = np.array(moved, dtype=np.float64), np.array(target, dtype=np.float64)
    pixels += 0.6 * (wanted[inside].mean(axis=0) - pixels[inside].mean(axis=0))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _marked(image: Image.Image) -> Image.Image:
    band = image.height // 11
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, image.height - band, image.width, image.height), fill=(255, 210, 0))
    font = ImageFont.load_default(size=band * 0.7)
    draw.text((image.width / 2, image.height - band / 2), MARK, fill="black", font=font, anchor="mm")
    return image


def _landscape() -> Image.Image:
    """Drawn hills under a sky: the picture shows nobody and belongs to nobody."""
    y, x = np.mgrid[0:300, 0:400]
    pixels = np.stack([120 + y // 4, 170 + y // 6, 235 - y // 8], axis=2)
    for base, height, period, colour in ((150, 40, 130, (96, 130, 110)), (210, 25, 70, (60, 100, 60))):
        pixels[y > base + height * np.sin(x / period * 2)] = colour
    grain = np.random.default_rng(0).normal(0, 6, (300, 400, 1))
    return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))


def _face(image: Image.Image) -> Face:
    return find_faces(_picture(image))[0]


def _picture(image: Image.Image) -> Picture:
    return decode_picture(encoded(image, "PNG"))


def _landmarks(face: Face) -> tuple[Point, Point, Point, Point, Point]:
    if face.landmarks is None:
        raise ValueError("This face came without landmarks.")
    return face.landmarks


if __name__ == "__main__":
    main()
