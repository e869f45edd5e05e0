"""Decoding in children: the same pictures and refusals as in process; a decoder that ends itself harms no other."""

import hashlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pillow_heif
import psutil
import pytest
from PIL import Image

from moderation.dfa.gpt.pixels import FORMATS, Picture, PixelLimits, decode_picture
from moderation.errors import DecoderKilled, ImageCorrupt, ImageRejected, NotAnImage, TooManyPixels
from worker.decoding import DecodePool

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    opened = DecodePool(PixelLimits(), children=2, seconds=60)
    yield opened
    opened.close()


def _encoded(width: int, height: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 80).convert(mode).save(buffer, kind)
    return buffer.getvalue()


@contextmanager
def _one_child(*, seconds: float) -> Generator[tuple[DecodePool, psutil.Process]]:
    """A pool with one child, which is waiting for a picture."""
    before = {child.pid for child in _children()}
    pool = DecodePool(PixelLimits(), children=1, seconds=seconds)
    pool.decode(_encoded(8, 8))
    (child,) = [child for child in _children() if child.pid not in before]
    yield pool, child
    pool.close()


def _first_to_fail(*asked: Future[Picture]) -> None:
    """Both are done; at most one of them may have failed."""
    failed = [one for one in asked if one.exception() is not None]
    assert len(failed) <= 1
    for one in failed:
        one.result()


def _children() -> list[psutil.Process]:
    found = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in found if "worker.decode_child" in " ".join(child.cmdline())]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP"])
def test_a_child_gives_the_same_pixels_and_facts(pool: DecodePool, kind: str) -> None:
    data = _encoded(120, 90, kind)

    here, there = decode_picture(data), pool.decode(data)

    assert there.facts == here.facts
    np.testing.assert_array_equal(there.pixels, here.pixels)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        pytest.param(b"hello", NotAnImage, id="text"),
        pytest.param(b"", NotAnImage, id="nothing"),
        pytest.param(_encoded(64, 64)[:80], ImageCorrupt, id="cut off"),
    ],
)
def test_a_child_refuses_in_the_same_words(pool: DecodePool, data: bytes, error: type[ImageRejected]) -> None:
    with pytest.raises(error) as here:
        decode_picture(data)
    with pytest.raises(error) as there:
        pool.decode(data)

    assert str(there.value) == str(here.value)


def test_the_largest_picture_fits_into_a_childs_memory(pool: DecodePool) -> None:
    side = 8191  # 67 megapixels, which are laid on white and turned
    exif = Image.Exif()
    exif[0x0112] = 5
    buffer = io.BytesIO()
    Image.new("RGBA", (side, side)).save(buffer, "PNG", exif=exif, compress_level=1)

    assert pool.decode(buffer.getvalue()).pixels.shape == (side, side, 3)


def test_a_decoder_that_crashes_refuses_its_picture_and_no_other() -> None:
    with _one_child(seconds=20) as (pool, child), ThreadPoolExecutor(2) as threads:
        child.suspend()
        crashing = threads.submit(pool.decode, _encoded(64, 64))
        other = threads.submit(pool.decode, _encoded(64, 65))
        child.send_signal(signal.SIGSEGV)
        child.resume()

        with pytest.raises(ImageCorrupt, match="ended the decoder"):
            _first_to_fail(crashing, other)


def test_a_child_that_somebody_else_ended_costs_no_picture() -> None:
    with _one_child(seconds=20) as (pool, child), ThreadPoolExecutor(1) as threads:
        child.suspend()
        asked = threads.submit(pool.decode, _encoded(64, 64))
        child.kill()
        assert asked.result().pixels.shape == (64, 64, 3)

        (other,) = pool._all
        other._process.send_signal(signal.SIGSEGV)
        other._process.wait(5)
        assert pool.decode(_encoded(64, 66)).pixels.shape == (66, 64, 3)


@pytest.mark.parametrize(
    "side", [pytest.param(64, id="after it read"), pytest.param(1024, id="more than a pipe holds")]
)
def test_a_decoder_that_hangs_is_stopped_and_its_picture_refused(side: int) -> None:
    with _one_child(seconds=1) as (pool, child):
        child.suspend()

        with pytest.raises(ImageCorrupt, match="more than 1 seconds"):
            pool.decode(_encoded(side, side))

        assert not child.is_running()


def test_a_picture_that_takes_too_much_memory_is_refused_and_the_next_is_not() -> None:
    limits = PixelLimits(max_pixels=500_000_000)
    tight = DecodePool(limits, children=1, seconds=30, memory=700 * 2**20)

    with pytest.raises((TooManyPixels, ImageCorrupt)):
        tight.decode(_bomb(20_000))

    assert tight.decode(_encoded(64, 64)).pixels.shape == (64, 64, 3)
    tight.close()


def _bomb(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


#: Takes the place of Python when a child is started, and changes what it answers.
_ODD_CHILD = """#!{python}
import os, signal, sys
from worker import decode_child
honest = decode_child._answer
def odd(data, limits, pixels):
    answer = honest(data, limits, pixels)
    {odd}
    return answer
decode_child._answer = odd
sys.argv = sys.argv[2:]
decode_child.main()
"""


def _let_children_be(odd: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = folder / "child"
    child.write_text(_ODD_CHILD.format(python=sys.executable, odd=odd))
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))


@pytest.mark.parametrize(
    ("ended_by", "error"),
    [
        pytest.param("SIGKILL", DecoderKilled, id="by the kernel, for want of memory"),
        pytest.param("SIGABRT", ImageCorrupt, id="by itself"),
    ],
)
def test_only_a_decoder_that_ends_itself_accuses_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended_by: str, error: type[Exception]
) -> None:
    _let_children_be(f"os.kill(os.getpid(), signal.{ended_by})", tmp_path, monkeypatch)
    pool = DecodePool(PixelLimits(), children=1, seconds=20)

    with pytest.raises(error):
        pool.decode(_encoded(64, 64))

    pool.close()


def test_a_child_that_lies_about_whose_bytes_it_decoded_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = 'answer[0]["facts"] |= {"sha256": "f" * 64, "size": 7}'
    _let_children_be(lie, tmp_path, monkeypatch)
    pool = DecodePool(PixelLimits(), children=1, seconds=20)
    data = _encoded(64, 64)

    facts = pool.decode(data).facts

    pool.close()
    assert (facts.sha256, facts.size) == (hashlib.sha256(data).hexdigest(), len(data))


def test_a_child_knows_no_secret_and_ends_with_its_worker() -> None:
    script = (
        "import os, sys, time; from worker.decoding import DecodePool;"
        "from moderation.dfa.gpt.pixels import PixelLimits;"
        "p = DecodePool(PixelLimits(), children=1, seconds=5); p.warm(); "
        "print(next(iter(p._all))._process.pid, flush=True); time.sleep(60)"
    )
    env = {**os.environ, "BONAFIDE_DATABASE_URL": "postgresql://u:secret@h/d", "AWS_SECRET_ACCESS_KEY": "x"}
    worker = subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    child = psutil.Process(int(worker.stdout.readline()))

    known = Path(f"/proc/{child.pid}/environ").read_bytes() if sys.platform == "linux" else b""
    worker.kill()
    worker.communicate()

    assert b"secret" not in known
    assert b"AWS" not in known
    child.wait(10)


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param("open(f'/proc/{os.getppid()}/environ')", id="the worker's secrets"),
        pytest.param("socket.socket()", id="a connection"),
    ],
)
def test_a_child_opens_nothing(attempt: str) -> None:
    script = (
        "import os, socket; from worker.decode_child import _confine, _warm;"
        f"_warm(heic=False); _confine(4 << 30); {attempt}"
    )

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert "Too many open files" in ended.stderr


#: Decodes the file of its argument as `main` does, and as no root: limits on processes do not hold for root.
_CONFINED = """
import os, sys
from pathlib import Path
from moderation.dfa.gpt.pixels import PixelLimits, decode_picture
from worker.decode_child import _confine, _warm
data, heic = Path(sys.argv[1]).read_bytes(), sys.argv[2] == "HEIC"
_warm(heic=heic)
if os.getuid() == 0:
    os.setuid(65534)
_confine(4 << 30, threads=heic)
print(decode_picture(data, PixelLimits(heic=heic)).facts.format)
"""


@pytest.mark.parametrize("kind", [*FORMATS, "HEIC"])
def test_every_kind_decodes_in_a_child_that_is_not_root(kind: str, tmp_path: Path) -> None:
    picture = Image.radial_gradient("L").convert("RGB")
    if kind == "HEIC":
        pillow_heif.from_pillow(picture).save(tmp_path / "picture")
    else:
        picture.save(tmp_path / "picture", kind)

    ended = subprocess.run(
        [sys.executable, "-c", _CONFINED, str(tmp_path / "picture"), kind],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.stdout.strip() == kind, ended.stderr
