"""Faces drawn on the spot, so that the lab is tested without anybody's picture."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from moderation.analysis import Label, Technique
from moderation.dfa.instruct.forgery.masks import CANONICAL, Portrait, geometry
from moderation.dfa.instruct.pool import CROP, Pool, Pooled, split_of


def a_portrait(seed: int = 0, size: int = CROP) -> Portrait:
    """A face with brows, eyes, nose, mouth and grain, its landmarks known."""
    rng = np.random.default_rng(seed)
    scale = size / 112 * 0.72
    landmarks = CANONICAL * scale + (size * 0.14, size * 0.14)
    skin = tuple(int(value) for value in rng.integers((150, 100, 80), (235, 190, 170)))
    image = Image.new("RGB", (size, size), tuple(int(value) for value in rng.integers(20, 220, 3)))
    draw = ImageDraw.Draw(image)
    left, top = size * 0.14 + 14 * scale, size * 0.14 + 10 * scale
    draw.ellipse((left, top, left + 84 * scale, top + 112 * scale), fill=skin)
    for x, y in landmarks[:2]:
        draw.ellipse((x - 7 * scale, y - 4 * scale, x + 7 * scale, y + 4 * scale), fill=(240, 240, 240))
        draw.ellipse((x - 3 * scale, y - 3 * scale, x + 3 * scale, y + 3 * scale), fill=(60, 40, 20))
        draw.line((x - 9 * scale, y - 9 * scale, x + 9 * scale, y - 9 * scale), fill=(50, 30, 20), width=4)
    nose_x, nose_y = landmarks[2]
    draw.polygon(
        [
            (nose_x, nose_y - 18 * scale),
            (nose_x - 8 * scale, nose_y + 5 * scale),
            (nose_x + 8 * scale, nose_y + 5 * scale),
        ],
        fill=tuple(max(value - 30, 0) for value in skin),
    )
    (x0, y0), (x1, y1) = landmarks[3:]
    draw.ellipse((x0, y0 - 5 * scale, x1, y1 + 5 * scale), fill=(150, 50, 60))
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(1.2)), dtype=np.float32)
    grain = rng.normal(0, 6, soft.shape)
    return Portrait(np.clip(soft + grain, 0, 255).astype(np.uint8), geometry(landmarks, size))


def a_pool(people: int = 12) -> Pool:
    """Drawn bona fide faces of two sources and generated ones, all in the training split."""
    rows: list[Pooled] = []
    crops: list[np.ndarray] = []
    scale = CROP / 112 * 0.72
    landmarks = tuple((float(x), float(y)) for x, y in CANONICAL * scale + CROP * 0.14)
    groups = [name for name in (f"drawn/{number}" for number in range(200)) if split_of(name) == "train"]
    for number, group in enumerate(groups[:people]):
        generated = number % 4 == 3
        origin = (
            "ifg_gan_faces/celebahq_gan"
            if generated
            else ("ifg_gan_faces/celebahq", "congress_portraits")[number % 2]
        )
        rows.append(
            Pooled(
                row=number,
                file=f"{group}.png",
                source=origin.split("/")[0],
                origin=origin,
                label=Label.DEEPFAKE if generated else Label.BONA_FIDE,
                technique=Technique.EFS if generated else None,
                group=group,
                split="train",
                terms="drawn in a test",
                sha256=f"{number:064x}",
                landmarks=landmarks,
                face_side=180.0,
                found=True,
            )
        )
        crops.append(a_portrait(number).pixels)
    return Pool(np.stack(crops), tuple(rows))


def write_pool(pool: Pool, folder: Path) -> Path:
    """A pool on disk, as training reads it."""
    np.save(folder / "crops.npy", pool.crops)
    lines = "".join(json.dumps(asdict(row)) + "\n" for row in pool.rows)
    (folder / "pool.jsonl").write_text(lines, encoding="utf-8")
    return folder
