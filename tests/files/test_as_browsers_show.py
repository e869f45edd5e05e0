"""The picture that people see is the picture that is judged: what we decode, beside what Chromium draws."""

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from moderation.dfa.gpt.pixels import decode_picture
from moderation.errors import ImageRejected
from tests.files import animated, burdened, coloured, turned

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

#: Pictures in a row, and pixels from one to the next: more than any of them has.
COLUMNS, CELL = 12, 100
#: Of the mean difference, in values of 0 to 255: decoders round transparent parts otherwise.
TOLERANCE = 1.0
#: Chromium takes the transparency of such a file for one of 16 to 235, libavif for one of 0 to 255 (AV1-AVIF, 4).
READS_OTHERWISE = {"avif, alpha": 6.0}


@dataclass(frozen=True)
class Drawn:
    """What a browser shows of a file on a white page. Of a file that it cannot show: nothing, of size 0."""

    pixels: np.ndarray  # (H, W, 3)

    @property
    def nothing(self) -> bool:
        return self.pixels.size == 0 or bool((self.pixels == 255).all())


def draw(browser: Browser, files: list[bytes]) -> Iterator[Drawn]:
    rows = -(-len(files) // COLUMNS)
    page = browser.new_page(viewport={"width": COLUMNS * CELL, "height": rows * CELL})
    images = "".join(
        f'<img style="position:absolute;left:{n % COLUMNS * CELL}px;top:{n // COLUMNS * CELL}px"'
        f' src="data:image/x;base64,{base64.b64encode(data).decode()}">'
        for n, data in enumerate(files)
    )
    page.set_content(f"<body style='margin:0;background:#fff'>{images}")
    sizes = page.evaluate("""async () => {
        const images = [...document.images]
        await Promise.allSettled(images.map((image) => image.decode()))
        return images.map((image) => [image.naturalWidth, image.naturalHeight])
    }""")
    shot = np.array(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    page.close()
    for n, (width, height) in enumerate(sizes):
        left, top = n % COLUMNS * CELL, n // COLUMNS * CELL
        yield Drawn(shot[top : top + height, left : left + width])


def decoded(data: bytes) -> np.ndarray | str:
    try:
        return decode_picture(data).pixels
    except ImageRejected as refusal:
        return str(refusal)


def test_every_file_is_turned_as_chromium_turns_it(browser: Browser) -> None:
    named = dict(turned.files())
    theirs = {
        name: 0 if drawn.nothing else turned.position(drawn.pixels)
        for name, drawn in zip(named, draw(browser, list(named.values())), strict=True)
    }

    ours = {name: _position(decoded(data)) for name, data in named.items()}

    assert ours == theirs
    assert set(theirs.values()) == set(range(9))


def _position(found: np.ndarray | str) -> int:
    return 0 if isinstance(found, str) else turned.position(found)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(animated.files, id="animations"),
        pytest.param(coloured.files, id="colours"),
        pytest.param(burdened.files, id="metadata"),
    ],
)
def test_every_file_has_the_pixels_that_chromium_draws(
    browser: Browser, files: Callable[[], Iterator[tuple[str, bytes]]]
) -> None:
    named = dict(files())
    differing: dict[str, object] = {}
    for (name, data), drawn in zip(named.items(), draw(browser, list(named.values())), strict=True):
        found = decoded(data)
        if isinstance(found, str):
            if not drawn.nothing:
                differing[name] = found
        elif found.shape != drawn.pixels.shape:
            differing[name] = (found.shape, drawn.pixels.shape)
        else:
            off = float(np.abs(found.astype(int) - drawn.pixels).mean())
            if off > READS_OTHERWISE.get(name, TOLERANCE):
                differing[name] = off

    assert differing == {}
