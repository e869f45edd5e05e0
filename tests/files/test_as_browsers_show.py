"""The picture that people see is the picture that is judged: what we decode, beside what Chromium draws."""

import base64
import io
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from moderation.dfa.gpt.pixels import decode_picture
from moderation.errors import ImageRejected
from tests.files import animated, burdened, coloured, profiled, turned

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

#: Pictures in a row, and pixels from one to the next: more than any of them has.
COLUMNS, CELL = 12, 100
#: Of the mean difference, in values of 0 to 255: decoders round transparent parts otherwise.
TOLERANCE = 1.0
#: Chromium takes transparency and sequences that Pillow writes for values of 16 to 235, libavif for 0 to 255.
READS_OTHERWISE = {
    "avif, alpha": 6.0,
    **{name: 13.0 for name, _ in animated.timed() if name.startswith("avif")},
}


@dataclass(frozen=True)
class Drawn:
    """What a browser shows of a file on a white page. Of a file that it cannot show: nothing, of size 0."""

    pixels: np.ndarray  # (H, W, 3)

    @property
    def nothing(self) -> bool:
        return self.pixels.size == 0 or bool((self.pixels == 255).all())


@contextmanager
def page_of(browser: Browser, files: list[bytes]) -> Generator[Page]:
    """All of them beside each other, as far as they are shown."""
    rows = -(-len(files) // COLUMNS)
    page = browser.new_page(viewport={"width": COLUMNS * CELL, "height": rows * CELL})
    images = "".join(
        f'<img style="position:absolute;left:{n % COLUMNS * CELL}px;top:{n // COLUMNS * CELL}px"'
        f' src="data:image/x;base64,{base64.b64encode(data).decode()}">'
        for n, data in enumerate(files)
    )
    page.set_content(f"<body style='margin:0;background:#fff'>{images}")
    page.evaluate("() => Promise.allSettled([...document.images].map((image) => image.decode()))")
    yield page
    page.close()


def look(page: Page) -> list[Drawn]:
    """What is on the page at this moment."""
    sizes = page.evaluate(
        "() => [...document.images].map((image) => [image.naturalWidth, image.naturalHeight])"
    )
    shot = np.array(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    places = [(n % COLUMNS * CELL, n // COLUMNS * CELL) for n in range(len(sizes))]
    return [
        Drawn(shot[top : top + height, left : left + width])
        for (left, top), (width, height) in zip(places, sizes, strict=True)
    ]


def draw(browser: Browser, files: list[bytes]) -> list[Drawn]:
    with page_of(browser, files) as page:
        return look(page)


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
        pytest.param(profiled.files, id="profiles"),
        pytest.param(burdened.files, id="metadata"),
    ],
)
def test_every_file_has_the_pixels_that_chromium_draws(
    browser: Browser, files: Callable[[], Iterator[tuple[str, bytes]]]
) -> None:
    named = dict(files())

    assert differing(named, draw(browser, list(named.values()))) == {}


def test_of_an_animation_that_frame_is_judged_which_people_are_left_with(browser: Browser) -> None:
    named = dict(animated.timed())
    with page_of(browser, list(named.values())) as page:
        left = differing(named, look(page))
        # The first frames are over within a second; a machine that is busy draws late.
        waiting = iter(range(100))
        while left and next(waiting, None) is not None:
            page.wait_for_timeout(100)
            left = differing(named, look(page))

    assert left == {}


def differing(named: Mapping[str, bytes], drawn: Sequence[Drawn]) -> dict[str, object]:
    """Which files are decoded to something else than was drawn, and by how much; or the words of a refusal."""
    found: dict[str, object] = {}
    for (name, data), theirs in zip(named.items(), drawn, strict=True):
        ours = decoded(data)
        if isinstance(ours, str):
            if not theirs.nothing:
                found[name] = ours
        elif ours.shape != theirs.pixels.shape:
            found[name] = (ours.shape, theirs.pixels.shape)
        else:
            off = float(np.abs(ours.astype(int) - theirs.pixels).mean())
            if off > READS_OTHERWISE.get(name, TOLERANCE):
                found[name] = off
    return found
