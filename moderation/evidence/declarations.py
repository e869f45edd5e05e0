"""What a file says of itself: source type, generator, camera, programs, history, and if it names places or people."""

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

from moderation.evidence.containers import NAMES, Container, xmp_values
from moderation.evidence.credentials import origin_of, source_type
from moderation.evidence.words import ClaimedOrigin, Fact, FactKind, Strength, Value, text, texts

# EXIF tags (EXIF 2.32, tables 4 to 8).
_MAKE, _MODEL, _SOFTWARE, _CHANGED, _ARTIST, _COPYRIGHT = 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298
_TAKEN_AT, _MAKER_NOTE, _COMMENT, _OWNER, _LENS = 0x9003, 0x927C, 0x9286, 0xA430, 0xA434
_DESCRIPTION, _XP_AUTHOR, _XP_COMMENT = 0x010E, 0x9C9D, 0x9C9C
_LATITUDE, _LONGITUDE = (1, 2), (3, 4)

#: Keywords of text chunks in which generators write their settings.
_SETTINGS: Mapping[str, str] = {
    "parameters": "Stable Diffusion WebUI or alike",
    "prompt": "ComfyUI",
    "workflow": "ComfyUI",
    "sd-metadata": "InvokeAI",
    "invokeai_metadata": "InvokeAI",
    "invokeai_graph": "InvokeAI",
    "Dream": "InvokeAI",
    "fooocus_scheme": "Fooocus",
    "sui_image_params": "SwarmUI",
    "generation_data": "Tensor.Art",
    "aesthetic_score": "Stable Diffusion",
}
#: Settings in free text, as WebUI writes them into EXIF comments of JPEG and WebP.
_STEPS = re.compile(r"\bSteps: \d+,.*\b(Sampler|CFG scale|Seed): ", re.DOTALL)
_JOURNEY = re.compile(r"\bJob ID: [0-9a-f-]{36}\b")

#: Names of generators in fields for programs, credits and comments.
_GENERATORS = re.compile(
    r"\b(stable ?diffusion|comfyui|invokeai|automatic1111|fooocus|novelai|midjourney|dall[-·. ]?e|openai|"
    r"adobe firefly|firefly|imagen|made with google ai|google ai|gemini|bing image creator|"
    r"microsoft designer|leonardo\.ai|ideogram|black forest labs|flux\.1|grok|meta ai|imagined with ai|"
    r"stability ai|draw things|thispersondoesnotexist)\b",
    re.IGNORECASE,
)
#: Programs that change faces. They do not say what they did to this one.
_FACE_PROGRAMS = re.compile(
    r"\b(faceapp|facetune|reface|deepfacelab|faceswap|roop|facefusion|remini|meitu|beautyplus|yc?am|b612|snow|"
    r"peachy|airbrush|perfect365|youcam)\b",
    re.IGNORECASE,
)


def declarations(container: Container, *, private: bool) -> Iterator[Fact]:
    yield from _source_types(container)
    yield from _generators(container)
    yield from _camera(container)
    yield from _software(container)
    yield from _history(container)
    yield from _personal(container, private=private)


def _source_types(container: Container) -> Iterator[Fact]:
    types = [source_type(said) for said in xmp_values(container.xmp, "iptc_ext", "DigitalSourceType")]
    if types := [kind for kind in types if kind]:
        yield Fact(FactKind.SOURCE_TYPE, Strength.DECLARED, {"source_types": texts(types)}, origin_of(types))


# --- generators


def _generators(container: Container) -> Iterator[Fact]:
    """The generator and the names under which it appears. Its prompt is left out: it may be about a person."""
    keys = [name for name in container.texts if name in _SETTINGS]
    words = [container.texts[name] for name in keys]
    named = [_SETTINGS[name] for name in keys]
    for said in _free_texts(container):
        if _STEPS.search(said):
            named.append(_SETTINGS["parameters"])
            words.append(said)
        elif _JOURNEY.search(said):
            named.append("Midjourney")
            words.append(said)
    credited = [match[0] for said in _credits(container) if (match := _GENERATORS.search(said))]
    if not named and not credited:
        return
    found: dict[str, Value] = {"generators": texts([*named, *credited])}
    if keys:
        found["keys"] = texts(keys)
    if words:
        # The digest shows that two pictures have the same settings, but not the settings themselves.
        found["digest"] = sha256("\0".join(words).encode()).hexdigest()[:16]
    yield Fact(FactKind.GENERATOR, Strength.DECLARED, found, ClaimedOrigin.SYNTHETIC)


def _free_texts(container: Container) -> Iterator[str]:
    yield from filter(None, map(container.texts.get, ("comment", "Comment", "Description")))
    exif = container.exif
    for value in (container.taken.get(_COMMENT), exif.get(_XP_COMMENT), exif.get(_DESCRIPTION)):
        if value:
            yield _comment(value)


def _comment(value: object) -> str:
    """EXIF's user comment: eight bytes with the encoding, then the text (EXIF 2.32, 4.6.5)."""
    if not isinstance(value, bytes):
        return str(value)[:100_000]
    code, said = value[:8], value[8:200_000]
    if code.startswith(b"UNICODE"):
        wide = "utf-16-be" if said[:1] == b"\0" else "utf-16-le"
        return said.decode(wide, "replace")
    return (said if code.startswith((b"ASCII", b"\0\0\0")) else value[:200_000]).decode("utf-8", "replace")


def _credits(container: Container) -> Iterator[str]:
    """Fields in which a program or a service names itself."""
    yield from _programs(container)
    for prefix, name in (("photoshop", "Credit"), ("iptc_ext", "AISystemUsed")):
        yield from xmp_values(container.xmp, prefix, name)
    # Not fields for people's names: some people have the name of a generator.
    for tag in (_MAKE, _MODEL):
        yield str(container.exif.get(tag) or "")[:1000]
    yield container.texts.get("Source", "")


# --- cameras and programs


def _camera(container: Container) -> Iterator[Fact]:
    found: dict[str, Value] = {
        name: text(str(value))
        for name, value in (
            ("make", container.exif.get(_MAKE)),
            ("model", container.exif.get(_MODEL)),
            ("lens", container.taken.get(_LENS)),
            ("taken_at", container.taken.get(_TAKEN_AT)),
        )
        if value and text(str(value))
    }
    if "make" in found or "model" in found:
        # Usually only cameras write this: programs that invent a camera seldom invent a maker note.
        found["maker_note"] = _MAKER_NOTE in container.taken
        yield Fact(FactKind.CAMERA, Strength.CONTEXT, found)


def _programs(container: Container) -> list[str]:
    said = [str(container.exif.get(_SOFTWARE) or ""), container.texts.get("Software", "")]
    return [*filter(None, said), *xmp_values(container.xmp, "xmp", "CreatorTool")]


def _software(container: Container) -> Iterator[Fact]:
    programs = texts([*_programs(container), *_agents(container)])
    if programs:
        changes_faces = any(_FACE_PROGRAMS.search(program) for program in programs)
        yield Fact(
            FactKind.SOFTWARE, Strength.CONTEXT, {"programs": programs, "changes_faces": changes_faces}
        )


def _events(container: Container) -> Iterator[Mapping[str, str]]:
    """The file's history in XMP: action, program and time of each event."""
    if container.xmp is None:
        return
    item = f"{{{NAMES['rdf']}}}li"
    for history in container.xmp.iter(f"{{{NAMES['xmp_mm']}}}History"):
        for event in history.iter(item):
            said = dict(event.attrib) | {part.tag: part.text or "" for part in event}
            prefix = f"{{{NAMES['st_evt']}}}"
            yield {key.removeprefix(prefix): value for key, value in said.items() if key.startswith(prefix)}


def _agents(container: Container) -> list[str]:
    return [event["softwareAgent"] for event in _events(container) if event.get("softwareAgent")]


def _history(container: Container) -> Iterator[Fact]:
    events = list(_events(container))
    changed = container.exif.get(_CHANGED) or next(xmp_values(container.xmp, "xmp", "ModifyDate"), None)
    taken = container.taken.get(_TAKEN_AT)
    later = isinstance(changed, str) and isinstance(taken, str) and changed[:19] > taken[:19]
    if not events and not later:
        return
    found: dict[str, Value] = {
        "events": len(events),
        "actions": texts([event.get("action", "") for event in events]),
    }
    if changed:
        found["changed_at"] = text(str(changed))
    yield Fact(FactKind.HISTORY, Strength.CONTEXT, found)


# --- what is about people


def _personal(container: Container, *, private: bool) -> Iterator[Fact]:
    """Whether a file holds a place or names. The values themselves are kept only if the installation says so."""
    names = texts(list(_names(container)))
    place = _place(container)
    holds_place = bool(container.place) or any(xmp_values(container.xmp, "exif", "GPSLatitude"))
    if not names and not holds_place:
        return
    found: dict[str, Value] = {"holds_place": holds_place, "holds_names": bool(names)}
    if private:
        found["names"] = names
        if place is not None:
            found["latitude"], found["longitude"] = place
    yield Fact(FactKind.PERSONAL, Strength.CONTEXT, found)


def _names(container: Container) -> Iterable[str]:
    for value in (container.exif.get(_ARTIST), container.exif.get(_COPYRIGHT), container.taken.get(_OWNER)):
        yield str(value or "")
    author = container.exif.get(_XP_AUTHOR)
    yield author.decode("utf-16-le", "replace") if isinstance(author, bytes) else str(author or "")
    yield from xmp_values(container.xmp, "dc", "creator")
    yield container.texts.get("Author", "")


def _place(container: Container) -> tuple[float, float] | None:
    """The place in degrees, north and east positive."""
    degrees: list[float] = []
    for (reference, value), negative in ((_LATITUDE, "S"), (_LONGITUDE, "W")):
        parts: Any = container.place.get(value)
        try:
            first, second, third = (float(part) for part in parts)
        except (TypeError, ValueError, ZeroDivisionError):
            return None
        sign = -1 if str(container.place.get(reference)).strip() == negative else 1
        degrees.append(sign * (first + second / 60 + third / 3600))
    return round(degrees[0], 6), round(degrees[1], 6)
