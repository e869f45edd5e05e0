"""Content Credentials: what a C2PA manifest says, and who signed it (https://spec.c2pa.org, by the kept `c2pa-python`).

It is always offline: it fetches no manifest, no certificate status and no trust list, whatever the file asks for. The
process that it runs in cannot open a connection anyway.
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from c2pa import C2paError, Context, Reader, Settings

from moderation.dfa.gpt.pixels import Picture
from moderation.evidence.words import ClaimedOrigin, Fact, FactKind, Status, Strength, Value, text, texts

_MIME: Mapping[str, str] = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "HEIC": "image/heic",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
}

#: Characters of a manifest store as JSON. Cameras and editors write some thousands.
_LONGEST_STORE = 4_000_000
#: Manifests of one store that are read. Nobody reads a longer history.
_MOST_MANIFESTS = 100

#: IPTC's digital source types, and C2PA's own, by the last part of their address
#: (https://cv.iptc.org/newscodes/digitalsourcetype). The others, as digital art by a person, point to neither.
SYNTHETIC_TYPES = frozenset(
    (
        "trainedAlgorithmicMedia",
        "compositeWithTrainedAlgorithmicMedia",
        "compositeSynthetic",
        "algorithmicMedia",
        "trainedAlgorithmicData",
        "virtualRecording",
    )
)
CAPTURED_TYPES = frozenset(
    ("digitalCapture", "computationalCapture", "compositeCapture", "negativeFilm", "positiveFilm", "print")
)


def origin_of(types: Iterable[str]) -> ClaimedOrigin | None:
    """The origin by these source types. One synthetic part makes the picture synthetic."""
    named = set(types)
    if named & SYNTHETIC_TYPES:
        return ClaimedOrigin.SYNTHETIC
    return ClaimedOrigin.CAPTURED if named & CAPTURED_TYPES else None


def source_type(said: str) -> str:
    """The last part of an address: "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"."""
    return text(said).rstrip("/").rpartition("/")[2]


class Credentials:
    """Reads manifests against one trust list."""

    def __init__(self, trust_list: str, *, private: bool) -> None:
        """`trust_list` is PEM. Without it no signer is known, and the best result is "valid"."""
        self._private = private
        self._trust_list = sha256(trust_list.encode()).hexdigest()[:12] if trust_list else ""
        settings: dict[str, Any] = {
            "version": 1,
            "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
            "core": {"allowed_network_hosts": []},
        }
        if trust_list:
            settings["trust"] = {"user_anchors": trust_list}
        self._context = Context(Settings.from_dict(settings))

    def __call__(self, data: bytes, picture: Picture) -> Iterator[Fact]:
        mime = _MIME.get(picture.facts.format)
        if mime is None:
            return
        try:
            reader = Reader.try_create(mime, io.BytesIO(data), context=self._context)
            if reader is None:
                return
            with reader:
                state, said = str(reader.get_validation_state()), reader.json()
        except C2paError as error:
            yield _unread(str(error))
            return
        if len(said) > _LONGEST_STORE:
            yield _unread("TooLong")
            return
        yield self._fact(state, json.loads(said))

    def _fact(self, state: str, store: Mapping[str, Any]) -> Fact:
        manifests: Mapping[str, Mapping[str, Any]] = store["manifests"]
        active = manifests.get(store.get("active_manifest", ""), {})
        others = [manifest for manifest in manifests.values() if manifest is not active][:_MOST_MANIFESTS]
        own, inherited = _source_types([active]), _source_types(others)
        trusted = state == "Trusted"
        signer: Mapping[str, Any] = active.get("signature_info") or {}
        found: dict[str, Value] = {
            "state": state.lower(),
            "signer": text(str(signer.get("issuer", ""))),
            "made_with": _generators([active]),
            "made_before_with": _generators(others),
            "actions": texts([action.get("action", "") for action in _actions(active)]),
            "source_types": texts(own),
            "source_types_before": texts(inherited),
            "ingredients": len(active.get("ingredients") or ()),
            "failures": texts(_failures(store)),
            "failures_before": texts(_failures_before(store)),
            "trust_list": self._trust_list,
        }
        # A signer who is not on the list wrote this text; it is often a person's name.
        if trusted or self._private:
            found["signer_name"] = text(str(signer.get("common_name", "")))
        if signer.get("time"):
            found["signed_at"] = text(str(signer["time"]))
        origin = origin_of([*own, *inherited])
        if state == "Invalid":
            return Fact(FactKind.CONTENT_CREDENTIALS, Strength.ANOMALY, _kept(found))
        # The signer of an edit vouches for the edit, not for what an ingredient says of itself.
        vouched = trusted and origin is origin_of(own)
        strength = Strength.CRYPTOGRAPHIC if vouched else Strength.DECLARED
        return Fact(FactKind.CONTENT_CREDENTIALS, strength, _kept(found), origin)


def _kept(found: Mapping[str, Value]) -> dict[str, Value]:
    """The values without empty ones."""
    return {name: value for name, value in found.items() if value not in ("", ())}


def _unread(error: str) -> Fact:
    """`Remote: must fetch remote manifests from url …`: only the word is kept, and the address is never followed."""
    why, _, rest = error.partition(":")
    data: dict[str, Value] = {"why": text(why)[:40]}
    if why == "Remote" and "url " in rest:
        data["remote_url"] = text(rest.partition("url ")[2])
    return Fact(FactKind.CONTENT_CREDENTIALS, Strength.CONTEXT, data, status=Status.UNREADABLE)


def _actions(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        action
        for assertion in _list(manifest.get("assertions"))
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in _list((assertion.get("data") or {}).get("actions"))
    ]


def _source_types(manifests: Sequence[Mapping[str, Any]]) -> list[str]:
    types = [
        source_type(str(action["digitalSourceType"]))
        for manifest in manifests
        for action in _actions(manifest)
        if action.get("digitalSourceType")
    ]
    return list(dict.fromkeys(types))


def _generators(manifests: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The programs that made the claims, with versions. Old claims have one line: `Maker/1.0 library/2.0`."""
    return texts([name for manifest in manifests for name in _named(manifest)])


def _named(manifest: Mapping[str, Any]) -> list[str]:
    infos = _list(manifest.get("claim_generator_info"))
    if not infos:
        return [str(manifest.get("claim_generator") or "")]
    return [f"{info.get('name', '')} {info.get('version') or ''}" for info in infos]


def _failures(store: Mapping[str, Any]) -> list[str]:
    """Codes of failed checks of the active manifest."""
    results = (store.get("validation_results") or {}).get("activeManifest") or {}
    return [str(failure.get("code", "")) for failure in _list(results.get("failure"))]


#: Codes that ingredients always have: we do not ask whether a certificate was revoked, most makers are on no list, and
#: most ingredients have no manifest.
_ORDINARY = frozenset(
    ("signingCredential.ocsp.skipped", "signingCredential.untrusted", "ingredient.unknownProvenance")
)


def _failures_before(store: Mapping[str, Any]) -> list[str]:
    """Codes of failed checks of the pictures that went into this one, with time stamps that do not fit."""
    deltas = _list((store.get("validation_results") or {}).get("ingredientDeltas"))
    found = [
        str(one.get("code", ""))
        for delta in deltas
        for kind in ("failure", "informational")
        for one in _list((delta.get("validationDeltas") or {}).get(kind))
    ]
    return [code for code in found if code not in _ORDINARY]


def _list(value: object) -> list[Any]:
    """The items that are objects: other programs' assertions may hold anything."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
