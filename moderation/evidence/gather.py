"""Makes all evidence about a decoded picture from its bytes and pixels.

It runs in the child that decoded the picture, after the pixels were handed over. So a bad parser cannot stop the
judgement, and the child may be killed. Nothing is fetched and no file is opened.
"""

import codecs
import io
import time
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from moderation.dfa.gpt.pixels import Picture, decode_picture
from moderation.evidence.containers import Container, opened
from moderation.evidence.credentials import Credentials
from moderation.evidence.declarations import declarations
from moderation.evidence.jpeg import jpeg_facts
from moderation.evidence.options import Options, read_trust_lists
from moderation.evidence.pdq import look_at
from moderation.evidence.thumbnail import thumbnail_facts
from moderation.evidence.traces import traces
from moderation.evidence.words import Evidence, Fact, FactKind, Status, Strength
from moderation.likeness import Likeness


class Gatherer:
    """All parsers, loaded while files may still be opened. Raise SetupProblem for an unreadable trust list."""

    def __init__(self, options: Options) -> None:
        self._private = options.private
        self._credentials = Credentials(read_trust_lists(options.trust_lists), private=options.private)
        _warm(self)

    def gather(self, data: bytes, picture: Picture) -> Evidence:
        """All facts about one picture. A parser that fails loses only its own facts."""
        began = time.process_time()
        facts = [
            *_looked("credentials", lambda: self._credentials(data, picture)),
            *self._in_file(data, picture),
        ]
        likeness = _likeness(picture, facts)
        return Evidence(tuple(facts), time.process_time() - began, likeness)

    def _in_file(self, data: bytes, picture: Picture) -> Iterator[Fact]:
        container = None
        try:
            # Pillow does not read HEIC, and the library that reads it gives no metadata.
            container = None if picture.facts.format == "HEIC" else opened(data, picture)
        except Exception as error:  # noqa: BLE001  parsers raise whatever they trip over
            yield _tripped("file", error)
        if container is not None:
            yield from _looked("words", lambda: declarations(container, private=self._private))
            yield from _looked("thumbnail", lambda: thumbnail_facts(container, picture))
            yield from _looked("tables", lambda: jpeg_facts(data, container))
        yield from _looked("traces", lambda: traces(picture, luminance_of(container)))


def _warm(gatherer: Gatherer) -> None:
    """Look once at a picture with some of everything, so that all lazily loaded code is loaded now."""
    for letters in ("utf-16-le", "utf-16-be", "latin-1"):
        codecs.lookup(letters)
    noise = Image.effect_noise((256, 256), 64).convert("RGB")
    exif = Image.Exif()
    exif[0x010F], exif[0x0131] = "make", "program"
    for kind in ("JPEG", "PNG", "WEBP"):
        buffer = io.BytesIO()
        noise.save(buffer, kind, exif=exif, xmp=b"<a/>")
        gatherer.gather(buffer.getvalue(), decode_picture(buffer.getvalue()))


def luminance_of(container: Container | None) -> Sequence[int] | None:
    """The luminance table of a JPEG, row by row. None: the file is no JPEG."""
    tables = {} if container is None else getattr(container.image, "quantization", {})
    return tables.get(0)


def _likeness(picture: Picture, facts: list[Fact]) -> Likeness | None:
    try:
        return look_at(picture.pixels)
    except Exception as error:  # noqa: BLE001  as for any other look
        facts.append(_tripped("likeness", error))
        return None


def _looked(what: str, look: Callable[[], Iterator[Fact]]) -> list[Fact]:
    """The facts found until the end, or until a parser failed."""
    found = list[Fact]()
    try:
        found.extend(look())
    except Exception as error:  # noqa: BLE001  parsers raise whatever they trip over
        found.append(_tripped(what, error))
    return found


def _tripped(what: str, error: Exception) -> Fact:
    data = {"why": f"{what}: {type(error).__name__}"}
    return Fact(FactKind.GATHERING, Strength.CONTEXT, data, status=Status.UNREADABLE)
