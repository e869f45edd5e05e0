"""What evidence costs, and what the traces in a file can show and cannot.

    python -m benchmarks.evidence --pictures DIR [--most 100] [--json]

DIR holds bona fide pictures, of many kinds if possible. Costs are CPU milliseconds per picture of all evidence.
Then each measure is tried twice. First on its own task: treated pictures and the same pictures untreated. Then on
forgeries of the lab and the original bona fide crops, saved in the same way. There it should find nothing, and if it
does, that is no reason to mix it into a score.

Keys: `evidence.cpu_ms_per_image` by kind of file, `evidence.auc` by measure and task, `evidence.said`: the share of
pictures with this report, treated and untreated.
"""

import io
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.pictures import encoded
from benchmarks.show import options, report
from moderation.analysis import Technique
from moderation.dfa.bench.estimates import auc
from moderation.dfa.gpt.pixels import Picture, decode_picture
from moderation.dfa.instruct.forgery.pairs import forge
from moderation.dfa.instruct.workshop import portrait
from moderation.evidence.gather import Gatherer
from moderation.evidence.jpeg import standard_quality
from moderation.evidence.options import Options
from moderation.evidence.traces import ENLARGED_FROM, RECOMPRESSED_FROM, enlarging, middle, recompression
from tests.evidence.signing import signed

#: Rounds. The fastest counts: the machine also does other work.
ROUNDS = 5
#: Qualities that the last encoder had, and the one before it.
LAST, BEFORE = (75, 80, 85, 90, 95), (50, 60, 70, 75, 80, 85, 90)
FACTORS = (1.2, 1.4, 1.5, 1.7, 1.9)

Measure = Callable[[bytes], float | None]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--most", type=int, default=100)
    asked = parser.parse_args()
    files = sorted(path for path in asked.pictures.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png"))
    random.Random(1).shuffle(files)
    chosen = files[: asked.most]
    cost = _costs()
    treated = _treated(chosen)
    forged = _forged(chosen)
    rows = [(f"all evidence, {kind}", f"{ms:.1f} ms CPU", "") for kind, ms in cost.items()]
    found: dict[str, dict[str, float]] = {"auc": {}, "said": {}}
    for name, (yes, no, said_from) in treated.items():
        found["auc"][name] = _auc(yes, no)
        found["said"][name], found["said"][f"{name}, untreated"] = (
            float(np.mean(np.array(scores) >= said_from)) for scores in (yes, no)
        )
        share = f"reported on {found['said'][name]:.0%}, and on {found['said'][f'{name}, untreated']:.0%} of the others"
        rows.append((name, f"AUC {found['auc'][name]:.3f}", f"{share}; n = {len(yes)} + {len(no)}"))
    for name, (yes, no) in forged.items():
        found["auc"][name] = _auc(yes, no)
        rows.append((name, f"AUC {found['auc'][name]:.3f}", f"n = {len(yes)} + {len(no)}"))
    figures = {"evidence": {"cpu_ms_per_image": {k: round(v, 2) for k, v in cost.items()}, **found}}
    report(f"{len(chosen)} pictures", rows, figures, as_json=asked.json)


def _auc(yes: Sequence[float], no: Sequence[float]) -> float:
    return auc(np.array([*yes, *no]), np.array([True] * len(yes) + [False] * len(no)))


# --- what it costs


def _costs() -> dict[str, float]:
    """CPU milliseconds of all evidence of one picture, by kind, without the decoding itself."""
    gatherer = Gatherer(Options())
    return {kind: _cost(gatherer, data) for kind, data in _kinds().items()}


def _kinds() -> Mapping[str, bytes]:
    small = Path("moderation/samples/portrait-1.jpg").read_bytes()
    image = Image.open(io.BytesIO(small)).convert("RGB")
    large = image.resize((1600, 1200))
    jpeg = encoded(large)
    made = signed(jpeg, source_type="trainedAlgorithmicMedia")
    return {
        "portrait of 0.1 megapixels, JPEG": small,
        "2 megapixels, JPEG": jpeg,
        "2 megapixels, PNG": encoded(large, "PNG"),
        "2 megapixels, JPEG with Content Credentials": made,
        "the same, edited once": signed(made, program="Editor 1", parent=made),
        "12 megapixels, JPEG": encoded(image.resize((4000, 3000))),
    }


def _cost(gatherer: Gatherer, data: bytes) -> float:
    picture = decode_picture(data)
    spent = list[float]()
    for _ in range(ROUNDS):
        began = time.process_time()
        gatherer.gather(data, picture)
        spent.append(time.process_time() - began)
    return 1000 * min(spent)


# --- what it finds on its own task


def _treated(files: Sequence[Path]) -> dict[str, tuple[list[float], list[float], float]]:
    """Scores of treated pictures, of the same pictures untreated, and the lowest score that is reported."""
    chance = random.Random(3)
    twice_up, twice_down, once = list[float](), list[float](), list[float]()
    enlarged_png, enlarged_jpeg, as_it_was = list[float](), list[float](), list[float]()
    for clean in _clean(files):
        last, before = chance.choice(LAST), chance.choice(BEFORE)
        plain = encoded(clean, quality=last)
        _add(once, _recompression(plain))
        _add(as_it_was, _enlarging(plain))
        again = encoded(Image.open(io.BytesIO(encoded(clean, quality=before))), quality=last)
        if before != last:
            _add(twice_up if before < last else twice_down, _recompression(again))
        factor = chance.choice(FACTORS)
        size = (round(clean.width * factor), round(clean.height * factor))
        larger = clean.resize(size, chance.choice((Image.Resampling.BICUBIC, Image.Resampling.BILINEAR)))
        _add(enlarged_png, _enlarging(encoded(larger, "PNG")))
        _add(enlarged_jpeg, _enlarging(encoded(larger, quality=last)))
    return {
        "saved twice, the second time better": (twice_up, once, RECOMPRESSED_FROM),
        "saved twice, the second time worse": (twice_down, once, RECOMPRESSED_FROM),
        "enlarged, kept without loss": (enlarged_png, as_it_was, ENLARGED_FROM),
        "enlarged, then a JPEG of 75 to 95": (enlarged_jpeg, as_it_was, ENLARGED_FROM),
    }


def _clean(files: Sequence[Path]) -> Iterator[Image.Image]:
    """Smaller pictures, without any trace of how they were saved."""
    for path in files:
        image = Image.open(path).convert("RGB")
        small = image.resize((round(image.width * 0.7), round(image.height * 0.7)), Image.Resampling.BICUBIC)
        if min(small.size) >= 136:
            yield small


def _recompression(data: bytes) -> float | None:
    grey = middle(decode_picture(data))
    return None if grey is None else recompression(grey, _luminance(data))


def _enlarging(data: bytes) -> float | None:
    grey = middle(decode_picture(data))
    return None if grey is None else enlarging(grey)


def _quality(data: bytes) -> float:
    return float(standard_quality(_luminance(data))[0])


def _luminance(data: bytes) -> Sequence[int]:
    tables: Any = Image.open(io.BytesIO(data)).quantization  # pyright: ignore[reportAttributeAccessIssue]
    return tables[0]


def _add(scores: list[float], score: float | None) -> None:
    if score is not None:
        scores.append(score)


# --- what it finds on forged faces, which are not its task


def _forged(files: Sequence[Path]) -> dict[str, tuple[list[float], list[float]]]:
    """Scores of forged and of bona fide crops, each saved at a random quality that does not depend on the label."""
    measures: Mapping[str, Measure] = {
        "forged faces, by recompression": _recompression,
        "forged faces, by enlarging": _enlarging,
        "forged faces, by quality of the tables": _quality,
        "forged faces, by the error-level view": lambda data: _inside_over_outside(error_levels, data),
        "forged faces, by the noise view": lambda data: _inside_over_outside(noise_levels, data),
    }
    faces = [face for face in map(portrait, files) if face is not None]
    scores = {name: (list[float](), list[float]()) for name in measures}
    rng = np.random.default_rng(5)
    for number, face in enumerate(faces):
        other = faces[(number + 1) % len(faces)]
        technique = list(Technique)[number % len(Technique)]
        for pixels, which in ((forge(technique, face, other, rng).pixels, 0), (face.pixels, 1)):
            data = encoded(Image.fromarray(pixels), quality=int(rng.choice(LAST)))
            for name, measure in measures.items():
                _add(scores[name][which], measure(data))
    return scores


def _inside_over_outside(view: Callable[[Picture], np.ndarray], data: bytes) -> float:
    """How much brighter the view is where the face is, the middle of the crop, than around it."""
    shown = view(decode_picture(data))
    height, width = shown.shape
    face = shown[height // 4 : -height // 4, width // 4 : -width // 4].mean()
    around = (shown.sum() - face * (height // 2) * (width // 2)) / (height * width * 0.75)
    return float(face / (around + 1e-6))


def error_levels(picture: Picture) -> np.ndarray:
    """As the console's view: what saving once more at quality 90 changes, (H, W)."""
    again = np.asarray(Image.open(io.BytesIO(encoded(Image.fromarray(picture.pixels)))), dtype=np.float32)
    return np.abs(picture.pixels - again).mean(axis=2)


def noise_levels(picture: Picture) -> np.ndarray:
    """As the console's view: what is left when each pixel's eight neighbours are taken from it, (H, W)."""
    grey = picture.pixels.astype(np.float32).mean(axis=2)
    padded = np.pad(grey, 1, mode="edge")
    around = sum(
        padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if (dx, dy) != (0, 0)
    )
    return np.abs(grey - around / 8)


if __name__ == "__main__":
    main()
