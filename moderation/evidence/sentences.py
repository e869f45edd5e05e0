"""Facts in sentences: for reviewers, with what each cannot show, and fixed sentences that platforms may pass on.

Text from the file itself is in quotation marks: somebody wrote it, and it may be about a person.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moderation.evidence.words import (
    ClaimedOrigin,
    Evidence,
    Fact,
    FactKind,
    Status,
    Strength,
    Value,
    declared,
    fact_json,
    ordered,
)

KIND_WORDS: Mapping[FactKind, str] = {
    FactKind.CONTENT_CREDENTIALS: "Content Credentials",
    FactKind.SOURCE_TYPE: "Declared source",
    FactKind.GENERATOR: "Generator",
    FactKind.CAMERA: "Camera",
    FactKind.SOFTWARE: "Programs",
    FactKind.HISTORY: "History",
    FactKind.PERSONAL: "Personal data",
    FactKind.THUMBNAIL: "Thumbnail",
    FactKind.JPEG: "Compression",
    FactKind.RECOMPRESSION: "Compressed before",
    FactKind.RESAMPLING: "Enlarged",
    FactKind.PLATFORM: "Size",
    FactKind.KNOWN_PICTURE: "Known picture",
    FactKind.GATHERING: "Not looked at",
}

STRENGTH_WORDS: Mapping[Strength, str] = {
    Strength.CRYPTOGRAPHIC: "signed",
    Strength.DECLARED: "declared",
    Strength.ANOMALY: "does not fit",
    Strength.CONTEXT: "context",
}

#: What each fact cannot show. It is always shown with the fact.
CAVEATS: Mapping[FactKind, str] = {
    FactKind.CONTENT_CREDENTIALS: "Only honest programs sign. A camera can photograph a screen."
    " Most pictures have none.",
    FactKind.SOURCE_TYPE: "One edit of the file's text writes it or takes it away.",
    FactKind.GENERATOR: "One edit of the file's text writes it or takes it away.",
    FactKind.CAMERA: "Any program can write the name of a camera.",
    FactKind.SOFTWARE: "Programs that change faces also crop and brighten.",
    FactKind.HISTORY: "Editing is ordinary. It does not say what was changed.",
    FactKind.PERSONAL: "It says nothing about the picture.",
    FactKind.THUMBNAIL: "It shows that the whole picture changed. A forged face is too small in it.",
    FactKind.JPEG: "Platforms compress all pictures anew. Low quality hides traces, and the model is less sure.",
    FactKind.RECOMPRESSION: "Every picture that was saved twice shows it. It finds no forged face.",
    FactKind.RESAMPLING: "Every picture that was enlarged may show it. It finds no forged face.",
    FactKind.PLATFORM: "Pictures of any origin are cut and scaled to such sizes.",
    FactKind.KNOWN_PICTURE: "A picture and its face swap look alike. It says nothing of which of them this is.",
    FactKind.GATHERING: "The picture was decoded and judged all the same.",
}

#: Source types in words, by IPTC's names.
_SOURCE_WORDS: Mapping[str, str] = {
    "trainedAlgorithmicMedia": "made by a generative model",
    "compositeWithTrainedAlgorithmicMedia": "changed in parts by a generative model",
    "compositeSynthetic": "composed with synthetic parts",
    "algorithmicMedia": "made by an algorithm",
    "trainedAlgorithmicData": "made by a generative model",
    "virtualRecording": "recorded in a virtual world",
    "digitalCapture": "captured by a digital camera",
    "computationalCapture": "captured by a camera that computes pictures from several",
    "compositeCapture": "composed of captured pictures",
    "negativeFilm": "scanned from film",
    "positiveFilm": "scanned from film",
    "print": "scanned from a print",
}

#: Sentences that name nobody and quote nothing, by the fact's kind, strength and origin.
_DISCLOSED: Mapping[tuple[FactKind, Strength, ClaimedOrigin], str] = {
    (FactKind.CONTENT_CREDENTIALS, Strength.CRYPTOGRAPHIC, ClaimedOrigin.SYNTHETIC): (
        "Content Credentials in the image, signed by a known issuer, declare it synthetic in whole or in part."
    ),
    (FactKind.CONTENT_CREDENTIALS, Strength.CRYPTOGRAPHIC, ClaimedOrigin.CAPTURED): (
        "Content Credentials in the image, signed by a known issuer, declare it captured by a camera."
    ),
    (FactKind.CONTENT_CREDENTIALS, Strength.DECLARED, ClaimedOrigin.SYNTHETIC): (
        "Content Credentials in the image, from an issuer that is not known, declare it synthetic in whole or in part."
    ),
    (FactKind.SOURCE_TYPE, Strength.DECLARED, ClaimedOrigin.SYNTHETIC): (
        "The metadata of the image declare it synthetic in whole or in part."
    ),
    (FactKind.GENERATOR, Strength.DECLARED, ClaimedOrigin.SYNTHETIC): (
        "The metadata of the image name a program that generates images."
    ),
}


def sentence(fact: Fact) -> str:
    """One fact as a sentence for reviewers."""
    return _SENTENCES[fact.kind](fact, fact.data)


def disclosed(fact: Fact) -> str | None:
    """The fixed sentence that a platform may pass on to the uploader and the public. None: it may not."""
    if fact.points_to is None:
        return None
    return _DISCLOSED.get((fact.kind, fact.strength, fact.points_to))


def statement_sentences(evidence: Evidence | None) -> tuple[str, ...]:
    """The sentences of a statement of reasons about evidence: those that may be disclosed, the strongest first."""
    if evidence is None:
        return ()
    said = (disclosed(fact) for fact in ordered(evidence.facts))
    return tuple(dict.fromkeys(words for words in said if words is not None))


def evidence_view(evidence: Evidence, *, conflict: bool) -> dict[str, Any]:
    """Evidence for platforms and exports."""
    strongest = declared(evidence)
    return {
        "declared": strongest and strongest.points_to,
        "strength": strongest and strongest.strength,
        "conflict": conflict,
        "facts": [
            fact_json(fact)
            | {"says": sentence(fact), "cannot_tell": CAVEATS[fact.kind], "disclosable": disclosed(fact)}
            for fact in ordered(evidence.facts)
        ],
    }


# --- a sentence for each kind


def _credentials(fact: Fact, data: Mapping[str, Value]) -> str:
    if fact.status is Status.UNREADABLE:
        if "remote_url" in data:
            place = _quoted(data["remote_url"])
            return f"The file says that its credentials lie elsewhere, at {place}. They were not fetched."
        return f"The file holds credentials that cannot be read ({data.get('why', 'damaged')})."
    state = data.get("state")
    if state == "invalid":
        return f"{_why_invalid(data)}: {_listed(data.get('failures') or data.get('failures_before'))}."
    parts = [_signed_by(data), _typed(data.get("source_types"), "It says that the picture was")]
    if made := data.get("made_before_with"):
        parts.append(f"Made with {_listed(made)}, then edited with {_listed(data.get('made_with'))}.")
    elif made := data.get("made_with"):
        parts.append(f"Made with {_listed(made)}.")
    parts.append(_typed(data.get("source_types_before"), "A picture that went into it was"))
    if failures := data.get("failures_before"):
        parts.append(f"Of a picture that went into it, this does not hold: {_listed(failures)}.")
    if actions := data.get("actions"):
        parts.append(f"What was done: {', '.join(_action(str(one)) for one in _many(actions))}.")
    return " ".join(filter(None, parts))


#: Codes that a change to the bytes causes, by their beginning or end.
_CHANGED = (".mismatch", "claim.missing", "assertion.missing")


def _why_invalid(data: Mapping[str, Value]) -> str:
    if any(str(code).endswith(_CHANGED) for code in _many(data.get("failures"))):
        return "The file was changed after it was signed, or signed wrongly"
    if any(str(code).endswith(_CHANGED) for code in _many(data.get("failures_before"))):
        return "What the file says of a picture that went into it does not hold"
    return "The signature does not hold"


def _signed_by(data: Mapping[str, Value]) -> str:
    signer = _quoted(data["signer"]) if data.get("signer") else "somebody who gives no name"
    if data.get("state") == "trusted":
        return f"Signed by {signer}, who is on the trust list."
    known = (
        "not on the trust list"
        if data.get("trust_list")
        else "not known: this installation has no trust list"
    )
    return f"The signature of {signer} is valid; the signer is {known}."


def _typed(types: Value | None, begins: str) -> str:
    said = [_SOURCE_WORDS.get(str(one), f"declared {_quoted(one)}") for one in _many(types)]
    return f"{begins} {', '.join(dict.fromkeys(said))}." if said else ""


def _action(label: str) -> str:
    """C2PA's own are plain words, as in "c2pa.color_adjustments". Others are quoted."""
    prefix, _, name = label.partition(".")
    return name.replace("_", " ") if prefix == "c2pa" and name.replace("_", "").isalpha() else _quoted(label)


def _source_type(_: Fact, data: Mapping[str, Value]) -> str:
    return _typed(data.get("source_types"), "The file says that it was")


def _generator(_: Fact, data: Mapping[str, Value]) -> str:
    settings = " and holds its settings" if "digest" in data else ""
    return f"The file names {_listed(data.get('generators'))}{settings}."


def _camera(_: Fact, data: Mapping[str, Value]) -> str:
    name = " ".join(str(data[part]) for part in ("make", "model") if part in data)
    taken = f", taken {_quoted(data['taken_at'])}" if "taken_at" in data else ""
    note = "" if data.get("maker_note") else " Without the notes that most cameras write."
    return f"The file names {_quoted(name)}{taken}.{note}"


def _software(_: Fact, data: Mapping[str, Value]) -> str:
    faces = " One of them is made to change faces." if data.get("changes_faces") else ""
    return f"The file names {_listed(data.get('programs'))}.{faces}"


def _history(_: Fact, data: Mapping[str, Value]) -> str:
    changed = f"Changed {_quoted(data['changed_at'])}." if "changed_at" in data else ""
    events = data.get("events", 0)
    listed = f"The file lists {events} events: {_listed(data.get('actions'))}." if events else ""
    return " ".join(filter(None, (changed, listed)))


def _personal(_: Fact, data: Mapping[str, Value]) -> str:
    holds = [
        words for name, words in (("holds_place", "a place"), ("holds_names", "names")) if data.get(name)
    ]
    kept = f" {_listed(data['names'])}." if data.get("names") else ""
    if "latitude" in data:
        kept += f" {data['latitude']}, {data.get('longitude')}."
    return f"The file holds {' and '.join(holds)}.{kept or ' They are not kept here.'}"


def _thumbnail(fact: Fact, data: Mapping[str, Value]) -> str:
    if fact.status is Status.UNREADABLE:
        return "The small picture inside the file cannot be read."
    if data.get("differs"):
        return f"The small picture inside the file shows something else (likeness {data.get('likeness')})."
    return f"The small picture inside the file shows the same (likeness {data.get('likeness')})."


_ENCODERS: Mapping[str, str] = {
    "libjpeg": "an ordinary encoder",
    "photoshop": "Photoshop",
    "camera": "a camera, as far as its tables tell",
    "meta": "a service of Meta",
    "other": "an encoder with tables of its own",
}


def _jpeg(_: Fact, data: Mapping[str, Value]) -> str:
    encoder = _ENCODERS.get(str(data.get("encoder")), "an encoder")
    about = "" if data.get("tables") == "standard" else "about "
    return f"JPEG of quality {about}{data.get('quality')}, written by {encoder}."


def _recompression(_: Fact, data: Mapping[str, Value]) -> str:
    return f"It was a JPEG of another quality before (score {data.get('score')})."


def _resampling(_: Fact, data: Mapping[str, Value]) -> str:
    return f"Its pixels look enlarged (score {data.get('score')})."


def _platform(_: Fact, data: Mapping[str, Value]) -> str:
    names = " and ".join(str(name) for name in _many(data.get("platforms")))
    shape = f" Its shape is {data['shape']}." if "shape" in data else ""
    made = " Generators make pictures of this size." if data.get("generators") else ""
    given = (
        f"Its longer side, {data.get('longer_side')} pixels, is one that {names} gives to pictures."
        if names
        else ""
    )
    return f"{given}{made}{shape}".strip()


def _known_picture(_: Fact, data: Mapping[str, Value]) -> str:
    called = f" as {_quoted(data['reference'])}" if "reference" in data else ""
    place = f"the list {_quoted(data.get('list', ''))}{called}"
    return f"It looks like a picture on {place}: {data.get('distance', 'some')} of 256 bits differ."


def _gathering(_: Fact, data: Mapping[str, Value]) -> str:
    return f"Evidence is missing: {data.get('why', 'it could not be gathered')}."


_SENTENCES: Mapping[FactKind, Callable[[Fact, Mapping[str, Value]], str]] = {
    FactKind.CONTENT_CREDENTIALS: _credentials,
    FactKind.SOURCE_TYPE: _source_type,
    FactKind.GENERATOR: _generator,
    FactKind.CAMERA: _camera,
    FactKind.SOFTWARE: _software,
    FactKind.HISTORY: _history,
    FactKind.PERSONAL: _personal,
    FactKind.THUMBNAIL: _thumbnail,
    FactKind.JPEG: _jpeg,
    FactKind.RECOMPRESSION: _recompression,
    FactKind.RESAMPLING: _resampling,
    FactKind.PLATFORM: _platform,
    FactKind.KNOWN_PICTURE: _known_picture,
    FactKind.GATHERING: _gathering,
}


def _many(value: Value | None) -> Sequence[object]:
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _quoted(value: object) -> str:
    return f"“{value}”"


def _listed(value: Value | None) -> str:
    return ", ".join(_quoted(one) for one in _many(value)) or "nothing"
