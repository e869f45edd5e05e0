"""What a file holds besides its pixels: EXIF, XMP and text chunks, read within limits. No pixel is decoded."""

import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

from PIL import Image
from PIL.ExifTags import IFD

from moderation.dfa.gpt.pixels import Picture

#: Bytes of one text or packet that are read, and text chunks of one PNG.
_LONGEST, _MOST_TEXTS = 512 * 1024, 64

#: XMP's namespaces.
NAMES: Mapping[str, str] = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "iptc_ext": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "st_evt": "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmp_mm": "http://ns.adobe.com/xap/1.0/mm/",
}


@dataclass(frozen=True)
class Container:
    """One opened file. Nothing in it is trusted or interpreted yet."""

    image: Image.Image
    #: The raw block, from its byte order on. Empty: there is none.
    exif_block: bytes
    exif: Image.Exif
    #: EXIF's second directory: when and how the picture was taken. Empty when there is none.
    taken: Mapping[int, object]
    place: Mapping[int, object]
    #: None: there is none, or it is unreadable.
    xmp: ElementTree.Element | None
    #: Text chunks of a PNG, comments of a JPEG or GIF, by their keyword.
    texts: Mapping[str, str] = field(default_factory=dict[str, str])


def opened(data: bytes, picture: Picture) -> Container:
    """Open a file. Raise what Pillow raises, although it has read the same header before."""
    kind = "JPEG" if picture.facts.format == "MPO" else picture.facts.format
    image = Image.open(io.BytesIO(data), formats=(kind,))
    chunks = list(_png_chunks(data)) if kind == "PNG" else []
    words = dict(_png_text(chunk, content) for chunk, content in chunks if chunk != b"eXIf")
    block = next((content for chunk, content in chunks if chunk == b"eXIf"), image.info.get("exif", b""))
    exif = _exif(block) if kind == "PNG" else image.getexif()
    comment = image.info.get("comment")
    if isinstance(comment, bytes | str):
        words["comment"] = _decoded(comment)
    packet = words.pop("XML:com.adobe.xmp", None) or image.info.get("xmp") or exif.get(0x02BC)
    return Container(
        image=image,
        exif_block=block.removeprefix(b"Exif\0\0"),
        exif=exif,
        taken=dict(exif.get_ifd(IFD.Exif)),
        place=dict(exif.get_ifd(IFD.GPSInfo)),
        xmp=_xml(packet),
        texts=words,
    )


def _decoded(said: bytes | str) -> str:
    return said[:_LONGEST] if isinstance(said, str) else said[:_LONGEST].decode("utf-8", "replace")


def _xml(packet: object) -> ElementTree.Element | None:
    """Parse XMP. A packet with a document type is not read, because its entities could grow; XMP needs none."""
    if isinstance(packet, str):
        packet = packet.encode()
    if not isinstance(packet, bytes) or len(packet) > _LONGEST or b"<!" in packet:
        return None
    try:
        return ElementTree.fromstring(packet.strip(b"\0 \r\n\t"))  # noqa: S314  see above
    except ElementTree.ParseError:
        return None


def _exif(block: bytes) -> Image.Exif:
    exif = Image.Exif()
    if block:
        exif.load(block if block.startswith(b"Exif\0\0") else b"Exif\0\0" + block)
    return exif


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk of words or EXIF (PNG specification, 11.3), before the pixels and after them.

    Pillow finds the latter only by decoding all pixels again.
    """
    at, found = 8, 0
    while at + 12 <= len(data) and found < _MOST_TEXTS:
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf"):
            found += 1
            yield kind, data[at + 8 : at + 8 + min(size, _LONGEST)]
        at += 12 + size


def _png_text(kind: bytes, chunk: bytes) -> tuple[str, str]:
    keyword, _, rest = chunk.partition(b"\0")
    packed = kind == b"zTXt"
    if packed:
        rest = rest[1:]
    elif kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    if packed:
        try:
            rest = zlib.decompressobj().decompress(rest, _LONGEST)
        except zlib.error:
            rest = b""
    return keyword.decode("latin-1"), rest.decode("latin-1" if kind == b"tEXt" else "utf-8", "replace")


def xmp_values(xmp: ElementTree.Element | None, prefix: str, name: str) -> Iterator[str]:
    """A property's texts in every form: an attribute, an element, a resource or a list."""
    if xmp is None:
        return
    key, resource = f"{{{NAMES[prefix]}}}{name}", f"{{{NAMES['rdf']}}}resource"
    for element in xmp.iter():
        if key in element.attrib:
            yield element.attrib[key]
        if element.tag == key:
            for part in element.iter():
                yield from filter(None, (part.get(resource), (part.text or "").strip()))
