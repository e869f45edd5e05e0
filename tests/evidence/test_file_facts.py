"""What a file's own words, its tables and its pixels show; and that a child which may open nothing finds the same."""

import io
import json
from collections.abc import Iterator
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational

from moderation.dfa.gpt.pixels import PixelLimits, decode_picture
from moderation.evidence.gather import Gatherer
from moderation.evidence.jpeg import standard_quality
from moderation.evidence.options import Options
from moderation.evidence.words import ClaimedOrigin, Evidence, Fact, FactKind, Status, Strength, evidence_json
from worker.decoding import DecodePool

PORTRAIT = files("moderation").joinpath("samples", "portrait-1.jpg").read_bytes()
#: Nobody's, but in the files of these tests.
SECRET = "Marguerite"


def a_scene(side: int = 320) -> Image.Image:
    """A portrait without a trace of compression."""
    image = Image.open(io.BytesIO(PORTRAIT)).convert("RGB")
    return image.resize((side * 2, side * 2)).resize((side, side), Image.Resampling.BOX)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gathered(data: bytes, *, private: bool = False) -> Evidence:
    return Gatherer(Options(private=private)).gather(data, decode_picture(data))


def fact_of(data: bytes, kind: FactKind) -> Fact | None:
    return gathered(data).fact(kind)


def xmp(inside: str, attributes: str = "") -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        'xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#" '
        f"{attributes}>{inside}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def an_exif(**tags: object) -> Image.Exif:
    names = {"make": 0x010F, "model": 0x0110, "software": 0x0131, "changed": 0x0132, "artist": 0x013B}
    exif = Image.Exif()
    for name, value in tags.items():
        exif[names[name]] = value
    return exif


AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@pytest.mark.parametrize(
    ("packet", "origin"),
    [
        pytest.param(
            xmp("", f'Iptc4xmpExt:DigitalSourceType="{AI}"'), ClaimedOrigin.SYNTHETIC, id="an attribute"
        ),
        pytest.param(
            xmp(f"<Iptc4xmpExt:DigitalSourceType> {AI}/ </Iptc4xmpExt:DigitalSourceType>"),
            ClaimedOrigin.SYNTHETIC,
            id="an element, with a slash",
        ),
        pytest.param(
            xmp(f'<Iptc4xmpExt:DigitalSourceType rdf:resource="{AI}"/>'),
            ClaimedOrigin.SYNTHETIC,
            id="a resource",
        ),
        pytest.param(
            xmp("", 'Iptc4xmpExt:DigitalSourceType="digitalCapture"'),
            ClaimedOrigin.CAPTURED,
            id="captured, the bare word",
        ),
        pytest.param(
            xmp("", 'Iptc4xmpExt:DigitalSourceType="http://x/digitalArt"'),
            None,
            id="drawn by somebody: neither",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_declared_source_type_is_read_however_it_is_written(
    packet: bytes, origin: ClaimedOrigin | None, kind: str
) -> None:
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", packet.decode())
    data = encoded(a_scene(), kind, **({"pnginfo": text} if kind == "PNG" else {"xmp": packet}))

    fact = fact_of(data, FactKind.SOURCE_TYPE)

    assert fact is not None
    assert (fact.strength, fact.points_to) == (Strength.DECLARED, origin)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"<x", id="cut off"),
        pytest.param(b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', id="with a document type"),
        pytest.param(b"<x>" + b"y" * 600_000 + b"</x>", id="longer than is read"),
    ],
)
def test_xmp_that_is_none_is_passed_over(packet: bytes) -> None:
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", packet.decode())

    found = gathered(encoded(a_scene(), "PNG", pnginfo=text))

    assert [
        fact.kind for fact in found.facts if fact.kind in (FactKind.SOURCE_TYPE, FactKind.GATHERING)
    ] == []


SETTINGS = f"a portrait of {SECRET}\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512"


def _after_the_pixels(png: bytes) -> bytes:
    """The first text chunk moved behind the pixels, where many programs write it."""
    at = png.index(b"tEXt") - 4
    size = 12 + int.from_bytes(png[at : at + 4], "big")
    end = png.index(b"IEND") - 4
    return png[:at] + png[at + size : end] + png[at : at + size] + png[end:]


def _png(packed: bool = False, **texts: str) -> bytes:
    info = PngInfo()
    for name, value in texts.items():
        info.add_text(name.replace("__", "-"), value, zip=packed)
    return encoded(a_scene(), "PNG", pnginfo=info)


def _commented(said: bytes) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = said
    return encoded(a_scene(), exif=exif)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        pytest.param(_png(parameters=SETTINGS), "Stable Diffusion", id="WebUI in a PNG"),
        pytest.param(
            _after_the_pixels(_png(parameters=SETTINGS)), "Stable Diffusion", id="behind the pixels"
        ),
        pytest.param(_png(packed=True, parameters=SETTINGS), "Stable Diffusion", id="packed"),
        pytest.param(_png(prompt=json.dumps({"3": {"inputs": {"text": SECRET}}})), "ComfyUI", id="ComfyUI"),
        pytest.param(_png(sd__metadata=f'{{"prompt": "{SECRET}"}}'), "InvokeAI", id="InvokeAI"),
        pytest.param(
            _commented(b"UNICODE\0" + SETTINGS.encode("utf-16-be")), "Stable Diffusion", id="WebUI in a JPEG"
        ),
        pytest.param(
            _commented(b"ASCII\0\0\0" + SETTINGS.encode()), "Stable Diffusion", id="in plain letters"
        ),
        pytest.param(
            encoded(a_scene(), exif=an_exif(software="Midjourney")), "Midjourney", id="as a program"
        ),
        pytest.param(
            encoded(a_scene(), xmp=xmp("", 'photoshop:Credit="Made with Google AI"')),
            "Google AI",
            id="as a credit",
        ),
    ],
)
def test_a_generator_is_named_and_what_it_was_asked_for_is_not_kept(data: bytes, named: str) -> None:
    evidence = gathered(data, private=True)

    fact = evidence.fact(FactKind.GENERATOR)

    assert fact is not None
    assert (fact.strength, fact.points_to) == (Strength.DECLARED, ClaimedOrigin.SYNTHETIC)
    assert named in str(fact.data["generators"])
    assert SECRET not in json.dumps(evidence_json(evidence))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(PORTRAIT, id="a portrait"),
        pytest.param(
            encoded(a_scene(), exif=an_exif(artist="Gemini Grok", software="GIMP 3")), id="a person's name"
        ),
        pytest.param(_commented(b"ASCII\0\0\0Steps to the beach"), id="a comment that begins alike"),
        pytest.param(_png(Comment="made with love"), id="a comment"),
    ],
)
def test_what_is_no_generator_is_not_called_one(data: bytes) -> None:
    assert fact_of(data, FactKind.GENERATOR) is None


def _of_a_phone() -> bytes:
    exif = an_exif(
        make="Acme", model="Phone 3", software="17.1", changed="2026:02:01 10:00:00", artist=SECRET
    )
    exif.get_ifd(0x8769)[0x9003] = "2026:01:31 09:00:00"
    place = exif.get_ifd(0x8825)
    place[1], place[2] = "N", (IFDRational(48), IFDRational(12), IFDRational(36))
    place[3], place[4] = "W", (IFDRational(16), IFDRational(0), IFDRational(0))
    return encoded(a_scene(), exif=exif)


def test_a_camera_is_context_and_points_nowhere() -> None:
    evidence = gathered(_of_a_phone())

    camera, history = evidence.fact(FactKind.CAMERA), evidence.fact(FactKind.HISTORY)

    assert camera is not None
    assert (camera.strength, camera.points_to) == (Strength.CONTEXT, None)
    assert (camera.data["make"], camera.data["taken_at"]) == ("Acme", "2026:01:31 09:00:00")
    assert history is not None
    assert history.data["changed_at"] == "2026:02:01 10:00:00"


def test_places_and_names_are_kept_only_where_a_setting_says_so() -> None:
    data = _of_a_phone()

    without, kept = gathered(data), gathered(data, private=True).fact(FactKind.PERSONAL)

    fact = without.fact(FactKind.PERSONAL)
    assert fact is not None
    assert dict(fact.data) == {"holds_place": True, "holds_names": True}
    assert SECRET not in json.dumps(evidence_json(without))
    assert "48.2" not in json.dumps(evidence_json(without))
    assert kept is not None
    assert (kept.data["latitude"], kept.data["longitude"]) == (48.21, -16.0)
    assert kept.data["names"] == (SECRET,)


def test_the_history_of_an_editor_is_listed_without_its_files() -> None:
    events = "".join(
        f'<rdf:li stEvt:action="{action}" stEvt:softwareAgent="Editor 1" stEvt:instanceID="{SECRET}"/>'
        for action in ("created", "saved")
    )
    packet = xmp(f"<xmpMM:History><rdf:Seq>{events}</rdf:Seq></xmpMM:History>")

    evidence = gathered(encoded(a_scene(), xmp=packet))

    history, software = evidence.fact(FactKind.HISTORY), evidence.fact(FactKind.SOFTWARE)
    assert history is not None
    assert (history.data["events"], history.data["actions"]) == (2, ("created", "saved"))
    assert software is not None
    assert software.data["programs"] == ("Editor 1",)
    assert SECRET not in json.dumps(evidence_json(evidence))


# --- thumbnails


def with_thumbnail(image: Image.Image, thumbnail: bytes) -> bytes:
    """EXIF with a second directory that points at a JPEG (EXIF 2.32, 4.5.5), big endian."""
    head = b"MM\0*\0\0\0\x08\0\0\0\0\0\x0e\0\x02"
    first = b"\x02\x01\0\x04\0\0\0\x01" + (8 + 6 + 2 + 24 + 4).to_bytes(4, "big")
    second = b"\x02\x02\0\x04\0\0\0\x01" + len(thumbnail).to_bytes(4, "big")
    return encoded(image, exif=b"Exif\0\0" + head + first + second + b"\0\0\0\0" + thumbnail)


def test_a_thumbnail_of_the_same_picture_does_not_differ_and_one_of_another_does() -> None:
    scene, other = a_scene(), Image.open(io.BytesIO(PORTRAIT)).rotate(180).resize((320, 320))
    same = with_thumbnail(scene, encoded(scene.resize((160, 160))))
    different = with_thumbnail(scene, encoded(other.resize((160, 160))))

    fits, differs = fact_of(same, FactKind.THUMBNAIL), fact_of(different, FactKind.THUMBNAIL)

    assert fits is not None
    assert differs is not None
    assert (fits.strength, fits.data["differs"]) == (Strength.CONTEXT, False)
    assert (differs.strength, differs.data["differs"]) == (Strength.ANOMALY, True)


def test_a_thumbnail_with_bars_to_make_it_wider_does_not_differ() -> None:
    scene = a_scene()
    wide = Image.new("L", (160, 120))
    wide.paste(scene.convert("L").resize((120, 120)), (20, 0))

    fact = fact_of(with_thumbnail(scene, encoded(wide)), FactKind.THUMBNAIL)

    assert fact is not None
    assert fact.data["differs"] is False


def test_a_thumbnail_that_is_none_is_said_to_be_unreadable() -> None:
    fact = fact_of(with_thumbnail(a_scene(), b"\xff\xd8\xff nothing"), FactKind.THUMBNAIL)

    assert fact is not None
    assert fact.status is Status.UNREADABLE


# --- tables and pixels


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 100])
def test_the_quality_of_an_ordinary_jpeg_is_read_from_its_tables(quality: int) -> None:
    data = encoded(a_scene(), quality=quality)

    fact = fact_of(data, FactKind.JPEG)

    assert fact is not None
    assert (fact.data["quality"], fact.data["tables"], fact.data["encoder"]) == (
        quality,
        "standard",
        "libjpeg",
    )


def test_tables_of_photoshop_are_told_from_an_encoders_own() -> None:
    known, own = encoded(a_scene(), quality="web_high"), encoded(a_scene(), qtables=[[9] * 64, [9] * 64])

    photoshop, other = fact_of(known, FactKind.JPEG), fact_of(own, FactKind.JPEG)

    assert photoshop is not None
    assert other is not None
    assert (photoshop.data["encoder"], other.data["encoder"]) == ("photoshop", "other")
    assert standard_quality([9] * 64)[1] > 0


def test_a_picture_that_was_saved_at_a_lower_quality_before_is_told_and_one_that_was_not_is_not() -> None:
    scene = a_scene()
    once = encoded(scene, quality=90)
    twice = encoded(Image.open(io.BytesIO(encoded(scene, quality=60))), quality=90)

    assert fact_of(twice, FactKind.RECOMPRESSION) is not None
    assert fact_of(once, FactKind.RECOMPRESSION) is None


def test_an_enlarged_picture_is_told_and_one_that_was_not_is_not() -> None:
    rng = np.random.default_rng(4)
    grain = Image.fromarray(rng.normal(128, 20, (256, 256)).clip(0, 255).astype(np.uint8)).convert("RGB")

    enlarged = encoded(grain.resize((400, 400), Image.Resampling.BICUBIC), "PNG")

    assert fact_of(enlarged, FactKind.RESAMPLING) is not None
    assert fact_of(encoded(grain, "PNG"), FactKind.RESAMPLING) is None


@pytest.mark.parametrize(
    ("size", "platforms", "generators", "shape"),
    [
        pytest.param((1080, 1350), ("Instagram",), False, "4:5", id="a post"),
        pytest.param((1201, 1600), ("WhatsApp",), False, "3:4", id="within a pixel"),
        pytest.param((1216, 832), (), True, None, id="as SDXL makes it, lying"),
        pytest.param((1024, 1024), (), True, "1:1", id="a square"),
    ],
)
def test_a_size_that_platforms_give_or_generators_make_is_told(
    size: tuple[int, int], platforms: tuple[str, ...], generators: bool, shape: str | None
) -> None:
    fact = fact_of(encoded(Image.new("RGB", size)), FactKind.PLATFORM)

    assert fact is not None
    assert fact.points_to is None
    told = (fact.data["platforms"], fact.data["generators"], fact.data.get("shape"))
    assert told == (platforms, generators, shape)


def test_an_ordinary_size_is_told_nothing_of() -> None:
    assert fact_of(encoded(Image.new("RGB", (1000, 700))), FactKind.PLATFORM) is None


# --- in the child


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    opened = DecodePool(PixelLimits(), children=1, seconds=20, evidence=Options(seconds=20))
    yield opened
    opened.close()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_of_a_phone(), id="a phone's"),
        pytest.param(_commented(b"UNICODE\0" + SETTINGS.encode("utf-16-le")), id="wide letters"),
        pytest.param(_png(packed=True, parameters=SETTINGS), id="a PNG with packed text"),
        pytest.param(with_thumbnail(a_scene(), encoded(a_scene().resize((160, 160)))), id="a thumbnail"),
        pytest.param(
            encoded(a_scene(), "WEBP", xmp=xmp("", f'Iptc4xmpExt:DigitalSourceType="{AI}"')), id="WebP"
        ),
        pytest.param(encoded(a_scene(), "AVIF"), id="AVIF"),
        pytest.param(encoded(a_scene(), "TIFF"), id="TIFF"),
        pytest.param(encoded(a_scene(), "GIF"), id="GIF"),
        pytest.param(encoded(a_scene(), "BMP"), id="BMP"),
    ],
)
def test_a_child_that_may_open_nothing_finds_the_same(pool: DecodePool, data: bytes) -> None:
    there = pool.decode(data).evidence

    assert isinstance(there, Evidence)
    assert there.facts == gathered(data).facts
    assert there.fact(FactKind.GATHERING) is None
