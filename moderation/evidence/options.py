"""How an installation gathers evidence: the options for the children that decode."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from moderation.errors import SetupProblem
from moderation.evidence.words import VERSION


@dataclass(frozen=True)
class Options:
    """The options of a child. It reads the trust lists from their files while it may still open files."""

    #: PEM files with the certificates of known signers of Content Credentials.
    trust_lists: tuple[str, ...] = ()
    #: Whether places and names of people are kept.
    private: bool = False
    #: Seconds that gathering may take for one picture.
    seconds: float = 5.0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, said: str) -> Self:
        values = json.loads(said)
        return cls(tuple(values["trust_lists"]), values["private"], values["seconds"])


def read_trust_lists(paths: Sequence[str]) -> str:
    """All certificates, as PEM. Raise SetupProblem."""
    found = list[str]()
    for path in paths:
        try:
            content = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise SetupProblem(
                f"BONAFIDE_EVIDENCE_TRUST_LISTS: {path} cannot be read: {error.strerror}"
            ) from error
        if "-----BEGIN CERTIFICATE-----" not in content:
            raise SetupProblem(f"BONAFIDE_EVIDENCE_TRUST_LISTS: {path} holds no certificate in PEM")
        found.append(content)
    return "\n".join(found)


def gatherer(options: Options) -> str:
    """What facts depend on besides the bytes, in a few letters: code, trust lists, and what is kept."""
    depends = [VERSION, options.private, read_trust_lists(options.trust_lists)]
    return f"{VERSION}-{hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:12]}"
