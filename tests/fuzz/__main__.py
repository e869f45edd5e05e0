"""Hostile files against decoding and the face finder.

    python -m tests.fuzz --count 10000 [--seed 1] [--faces 50] [--only HEIC] [--json]

`--count` mutations of each kind, and the files known to be bad. Ends with 1 when a decoder died or hung, or when
anything but a refusal came out.
"""

import argparse
import json
import os
import sys
import time

from rich.console import Console
from rich.table import Table

from moderation.dfa.gpt.pixels import Picture
from moderation.errors import ImageRejected
from tests.fuzz.campaign import Tally, fuzz, open_pool
from tests.fuzz.corpus import FORMATS, known_bad


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--faces", type=int, default=20, help="decoded files of each kind that faces are looked for in"
    )
    parser.add_argument("--only", choices=FORMATS, help="mutations of this kind alone")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    cores = os.cpu_count() or 1
    pool = open_pool(cores)
    began = time.monotonic()
    tallies = {
        kind: fuzz(kind, asked.count, seed=asked.seed, pool=pool, threads=cores, keep=asked.faces)
        for kind in FORMATS
        if asked.only in (None, kind)
    }
    tallies["known bad"] = _known_bad(pool)
    pool.close()
    looked = _look_for_faces([picture for tally in tallies.values() for picture in tally.pictures])
    bad = [words for tally in tallies.values() for words in tally.bad]
    if asked.json:
        print(
            json.dumps(
                {
                    "seed": asked.seed,
                    "tried": sum(tally.tried for tally in tallies.values()),
                    "bad": bad,
                    "faces_looked_for": looked,
                    "seconds": round(time.monotonic() - began, 1),
                    "kinds": {
                        kind: {
                            "tried": tally.tried,
                            "decoded": tally.decoded,
                            "refused": tally.refused,
                            "bad": len(tally.bad),
                            "slowest_seconds": round(tally.slowest, 2),
                        }
                        for kind, tally in tallies.items()
                    },
                }
            )
        )
    else:
        _show(tallies, looked)
    sys.exit(1 if bad else 0)


def _known_bad(pool: object) -> Tally:
    tally = Tally()
    for name, data in known_bad():
        began = time.monotonic()
        try:
            pool.decode(data)  # pyright: ignore[reportAttributeAccessIssue]
            tally.decoded += 1
        except ImageRejected as error:
            tally.refused[error.code] += 1
            if "ended the decoder" in str(error) or "and was stopped" in str(error):
                tally.bad.append(f"{name}: {error}")
        tally.tried += 1
        tally.slowest = max(tally.slowest, time.monotonic() - began)
    return tally


def _look_for_faces(pictures: list[Picture]) -> int:
    from moderation.dfa.gpt.faces import find_faces

    for picture in pictures:
        find_faces(picture)
    return len(pictures)


def _show(tallies: dict[str, Tally], looked: int) -> None:
    table = Table("kind", "tried", "decoded", "refused", "bad", "slowest")
    for kind, tally in tallies.items():
        refused = ", ".join(f"{number} {code}" for code, number in tally.refused.most_common())
        table.add_row(
            kind, str(tally.tried), str(tally.decoded), refused, str(len(tally.bad)), f"{tally.slowest:.2f} s"
        )
    console = Console()
    console.print(table)
    console.print(f"faces were looked for in {looked} of the pictures that decoded")
    for words in (words for tally in tallies.values() for words in tally.bad):
        console.print(words, style="red")


if __name__ == "__main__":
    main()
