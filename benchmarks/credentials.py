"""Are Content Credentials read as their publishers say, and what do hostile ones cost?

    python -m benchmarks.credentials --files DIR [--json]

DIR is `image/jpeg` of a checkout of github.com/c2pa-org/public-testfiles: pictures, and in `manifests/` what the
publisher's own tool says about each. Every picture goes through the child that decodes, without a trust list, as a
worker reads it. "As published" means: there are credentials or there are none, the same program, the same number of
ingredients, and the same parts do not hold for the same reason. The pictures are CC BY-SA 4.0 and are not part of this
repository. Their times are CPU of all evidence; those of hostile ones are by the clock until picture and evidence are
there. The hostile ones are made here: a manifest of megabytes, a history of edits, one that names itself, and one
that is stored elsewhere, at a watched address.

Keys: `credentials.files`, `as_published`, `ms_p50`, `ms_most`, `hostile_ms` by kind, `fetched`.
"""

import json
import socket
import statistics
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.show import Row, options, report
from moderation.dfa.gpt.pixels import PixelLimits
from moderation.evidence.options import Options
from moderation.evidence.words import Evidence, Fact, FactKind
from tests.evidence.signing import signed
from worker.decoding import DecodePool

#: Codes that the publisher's tool of 2023 named otherwise, or that only it reports.
NAMES = {"claim.missing": "ingredient.manifest.missing", "timeStamp.mismatch": None}
#: Codes that every file here gets: without a trust list nobody is known.
ORDINARY = {"signingCredential.untrusted"}


def read(pool: DecodePool, data: bytes) -> tuple[Fact | None, float, float]:
    """The evidence, its CPU milliseconds, and milliseconds by the clock until picture and evidence are there."""
    began = time.perf_counter()
    evidence = pool.decode(data).evidence
    took = 1000 * (time.perf_counter() - began)
    assert isinstance(evidence, Evidence)
    return evidence.fact(FactKind.CONTENT_CREDENTIALS), 1000 * evidence.seconds, took


def differences(fact: Fact | None, published: Mapping[str, Any] | None) -> list[str]:
    """The differences between our reading and the published one."""
    if fact is None or published is None:
        return [] if fact is None and published is None else ["found by one alone"]
    active: Mapping[str, Any] = published["manifests"][published["active_manifest"]]
    codes = [NAMES.get(str(one["code"]), str(one["code"])) for one in published.get("validation_status", ())]
    theirs = {code for code in codes if code is not None}
    ours = _words(fact, "failures") | _words(fact, "failures_before")
    found = list[str]()
    if fact.data.get("ingredients") != len(active.get("ingredients", ())):
        found.append("another number of ingredients")
    named = [f"{one['name']} {one.get('version', '')}" for one in active.get("claim_generator_info", ())]
    if _words(fact, "made_with") != set(named or [str(active["claim_generator"])]):
        found.append("another program")
    found += [f"they: {code}" for code in sorted(theirs - ours)]
    if (fact.data["state"] == "invalid") != bool(theirs) or not theirs:
        found += [f"we: {code}" for code in sorted(ours - theirs - ORDINARY)]
    return found


def _words(fact: Fact, name: str) -> set[str]:
    value = fact.data.get(name, ())
    return set(map(str, value)) if isinstance(value, tuple) else {str(value)}


@contextmanager
def watched() -> Generator[tuple[str, socket.socket]]:
    """An address, and whether anybody connected: then the socket has a connection to accept."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield f"http://127.0.0.1:{server.getsockname()[1]}/latest/meta-data", server


def hostile(portrait: bytes, address: str) -> dict[str, bytes]:
    huge = history = portrait
    for number in range(7):
        huge = signed(portrait, program=f"Editor {number}", parent=huge, extra={"x": ["long" * 250] * 800})
    for number in range(12):
        history = signed(portrait, program=f"Editor {number}", parent=history)
    made = signed(portrait, source_type="trainedAlgorithmicMedia")
    edited = signed(made, parent=made)
    own, other = sorted(
        {edited[at : at + 45] for at in range(len(edited)) if edited.startswith(b"urn:c2pa:", at)}
    )
    return {
        f"a manifest of {len(huge) / 1e6:.0f} MB": huge,
        "a history of twelve edits": history,
        "a manifest that names itself": edited.replace(other, own),
        "a manifest that lies elsewhere": signed(
            portrait, source_type="trainedAlgorithmicMedia", remote=address, embedded=False
        ),
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--files", type=Path, required=True)
    asked = parser.parse_args()
    portrait = Path("moderation/samples/portrait-1.jpg").read_bytes()
    pool = DecodePool(PixelLimits(), children=1, seconds=30, evidence=Options())
    rows, times, hostile_ms = list[Row](), list[float](), dict[str, float]()
    as_published = 0
    for path in sorted(asked.files.glob("*.jp*g")):
        said = asked.files / "manifests" / path.stem / "manifest_store.json"
        published = json.loads(said.read_text()) if said.exists() else None
        fact, took, _ = read(pool, path.read_bytes())
        apart = differences(fact, published)
        as_published += not apart
        times.append(took)
        state = "none" if fact is None else str(fact.data.get("state", fact.data.get("why")))
        rows.append((path.stem, state, "as published" if not apart else "; ".join(apart)))
    with watched() as (address, server):
        for name, data in hostile(portrait, address).items():
            fact, _, hostile_ms[name] = read(pool, data)
            rows.append((name, f"{hostile_ms[name]:.0f} ms", "none" if fact is None else fact.status.value))
        try:
            server.accept()[0].close()
            fetched = 1
        except BlockingIOError:
            fetched = 0
    pool.close()
    rows.append(("fetched", str(fetched), "connections to the address that was named"))
    figures = {
        "files": len(times),
        "as_published": as_published,
        "ms_p50": round(statistics.median(times), 1),
        "ms_most": round(max(times), 1),
        "hostile_ms": {name: round(value, 1) for name, value in hostile_ms.items()},
        "fetched": fetched,
    }
    cost = f"{figures['ms_p50']} ms CPU each, {figures['ms_most']} at most"
    rows.append(("as published", f"{as_published} of {len(times)}", cost))
    report("Content Credentials of others", rows, {"credentials": figures}, as_json=asked.json)


if __name__ == "__main__":
    main()
