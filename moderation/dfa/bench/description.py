"""AD: are the named regions the touched ones? Compared with answers that never saw the picture.

A text score alone proves nothing: on published answers, a blind template scored higher than the model. So every row of
the model is compared with the best blind answer, fitted on other groups, and with its own answers to other pictures.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sklearn.feature_extraction.text import CountVectorizer

from moderation.analysis import Artifact, Label, Technique
from moderation.dfa.bench.ask import Judged, Told
from moderation.dfa.bench.estimates import (
    Estimate,
    another,
    blind_regions,
    estimates,
    halves,
    mean_estimate,
    region_counts,
    region_scores,
    share,
)
from moderation.dfa.bench.manifest import Item, sampled
from moderation.dfa.bench.tables import Cell, Table

#: Longest n-gram of CIDEr, words.
NGRAMS = 4
#: Prefix of the lab's sources, whose forgeries have exact masks.
LAB = "lab/"
#: Most forged faces whose sentences are counted.
COUNTED = 100
#: Number of candidates for the blind description, and of texts that they are compared with.
CANDIDATES, COMPARED = 20, 200


@dataclass(frozen=True)
class Described:
    """One picture with the regions and text of an answer."""

    item: Item
    regions: frozenset[str]
    text: str


def rouge_l(reference: str, said: str) -> float:
    """F1 of the longest common subsequence of words."""
    return float(_rouge.score(reference, said)["rougeL"].fmeasure)


_rouge = RougeScorer(["rougeL"])


def cider(references: Sequence[str], said: Sequence[str]) -> np.ndarray:
    """CIDEr (Vedantam et al., 2015) of each text against one reference, ×10, without stemming.

    The cosine of n-gram counts, weighted by log(N / pictures whose reference has the n-gram), mean over n = 1 … 4.
    """
    return 10 * np.mean([_cosines(references, said, n) for n in range(1, NGRAMS + 1)], axis=0)


def _cosines(references: Sequence[str], said: Sequence[str], n: int) -> np.ndarray:
    counter = CountVectorizer(ngram_range=(n, n), token_pattern=r"\w+")  # noqa: S106  not a password: it counts words of one letter too
    try:
        counter.fit([*references, *said])
    except ValueError:  # no text holds n words
        return np.zeros(len(references))
    wanted, given = counter.transform(references).toarray(), counter.transform(said).toarray()
    weight = np.log(len(references) / np.maximum((wanted > 0).sum(axis=0), 1))
    a, b = wanted * weight, given * weight
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide((a * b).sum(axis=1), lengths, out=np.zeros(len(references)), where=lengths > 0)


# --- controls ---


def fitted_blind(items: Sequence[Item]) -> tuple[frozenset[str], str]:
    """The blind answer for forged pictures: the best set of regions, and the text most similar to all others."""
    regions = blind_regions([item.regions or frozenset[str]() for item in items])
    texts = Counter(item.description for item in items if item.description)
    compared = texts.most_common(COMPARED)

    def nearness(said: str) -> float:
        return sum(number * rouge_l(text, said) for text, number in compared)

    best = max((text for text, _ in texts.most_common(CANDIDATES)), key=nearness, default="")
    return frozenset(regions), best


def blind_answers(items: Sequence[Item], training: Sequence[Item]) -> list[Described]:
    """A blind answer for each picture, fitted on the training split, or else on the other half of the groups."""
    half_of = halves(item.group for item in items)
    if fit := [item for item in training if item.deepfake and item.regions]:
        blinds = [fitted_blind(fit)] * 2
    else:
        blinds = [fitted_blind([item for item in items if half_of[item.group] != half]) for half in (0, 1)]
    return [Described(item, *blinds[half_of[item.group]]) for item in items]


def shuffled(answers: Sequence[Described]) -> list[Described]:
    """Every picture with the answer to another one."""
    others = [answers[index] for index in another(len(answers))]
    return [replace(other, item=own.item) for own, other in zip(answers, others, strict=True)]


# --- tables ---


def served_answers(judged: Sequence[Judged]) -> list[Described]:
    """The shown answers on forged pictures with known touched regions. Empty for a missed deepfake."""
    return [
        Described(j.item, j.shown, (j.reply or "") if j.verdict.label is not Label.BONA_FIDE else "")
        for j in judged
        if j.item.deepfake and j.item.regions
    ]


def told_answers(told: Sequence[Told]) -> list[Described]:
    return [Described(t.item, t.regions, t.text) for t in told if t.item.regions]


def description_table(judged: Sequence[Judged], told: Sequence[Told], training: Sequence[Item]) -> Table:
    served, given = served_answers(judged), told_answers(told)
    called = served_answers([j for j in judged if j.verdict.label is Label.DEEPFAKE])
    rows: list[Sequence[Cell]] = []
    lab = [answer for answer in called if answer.item.source.startswith(LAB)]
    for name, answers in (
        ("as served", served),
        ("as served, those called deepfakes", called),
        ("verdict given", given),
        *([("as served, the lab's called deepfakes", lab)] if lab else []),
    ):
        items = [answer.item for answer in answers]
        rows.append((name, *_scores(answers)))
        rows.append(("– a blind template", *_scores(blind_answers(items, training))))
        rows.append(("– the same answers, pictures shuffled", *_scores(shuffled(answers))))
    return Table(
        name="description",
        title="AD: named regions against touched ones",
        note=(
            "Forged pictures whose touched regions are known; precision, recall and F1 over all (picture, region). "
            "`As served`, a deepfake that is missed names nothing. ROUGE-L and CIDEr are against the exact "
            "description, where there is one: read them beside the template only. It is fitted on other groups."
        ),
        columns=("answers", "n", "precision", "recall", "F1", "ROUGE-L", "CIDEr"),
        rows=rows,
    )


def _scores(answers: Sequence[Described]) -> Sequence[Cell]:
    if not answers:
        return (0, None, None, None, None, None)
    counts = region_counts(
        [answer.item.regions or frozenset[str]() for answer in answers],
        [answer.regions for answer in answers],
    )
    precision, recall, f1 = estimates(
        lambda rows: region_scores(counts[rows]), [answer.item.group for answer in answers]
    )
    return (len(answers), precision, recall, f1, *_text_scores(answers))


def _text_scores(answers: Sequence[Described]) -> tuple[Estimate | None, Estimate | None]:
    worded = [answer for answer in answers if answer.item.description]
    if not worded:
        return None, None
    references = [answer.item.description or "" for answer in worded]
    said = [answer.text for answer in worded]
    groups = [answer.item.group for answer in worded]
    rouge = [rouge_l(reference, text) for reference, text in zip(references, said, strict=True)]
    return mean_estimate(rouge, groups), mean_estimate(cider(references, said).tolist(), groups)


def description_by_technique(told: Sequence[Told], training: Sequence[Item]) -> Table:
    """Region F1 by technique, with the verdict given."""
    rows: list[Sequence[Cell]] = []
    for technique in Technique:
        answers = [answer for answer in told_answers(told) if answer.item.technique is technique]
        if answers:
            same = [item for item in training if item.technique is technique]
            blind = blind_answers([answer.item for answer in answers], same)
            rows.append((str(technique), len(answers), _f1(answers), _f1(blind), _f1(shuffled(answers))))
    return Table(
        name="description_by_technique",
        title="AD region F1 by technique, verdict given",
        note="The template is fitted on the same technique: a harder control, for it knows the technique.",
        columns=("technique", "n", "model", "blind template", "pictures shuffled"),
        rows=rows,
    )


def _f1(answers: Sequence[Described]) -> Cell:
    return _scores(answers)[3]


def invented_table(judged: Sequence[Judged]) -> Table:
    """Artifacts named on bona fide pictures, and replies that contradict their verdict."""
    bona_fide = [j for j in judged if not j.item.deepfake]
    groups = [j.item.group for j in bona_fide]
    written = [j for j in judged if j.reply is not None]
    contradictions = sum(bool(j.written) is (j.verdict.label is Label.BONA_FIDE) for j in written)
    row = (
        len(bona_fide),
        mean_estimate([len(j.shown) for j in bona_fide], groups),
        share(sum(bool(j.shown) for j in bona_fide), len(bona_fide)),
        mean_estimate([len(j.written) for j in bona_fide], groups),
        share(contradictions, len(written)),
        len(written),
    )
    return Table(
        name="invented",
        title="AD: invented regions",
        note="Over bona fide pictures. `Shown` is what a reviewer sees; `written` also what the model wrote unseen.",
        columns=(
            "bona fide", "regions shown per picture", "share with any shown", "regions written per picture",
            "replies that contradict their verdict", "replies",
        ),
        rows=[row],
    )  # fmt: skip


def sentences_table(judged: Sequence[Judged], told: Sequence[Told], *, seed: int = 0) -> Table:
    """How many distinct sentences a sample of forged faces has. Both rows use the same faces."""
    sample = {item.file for item in sampled([t.item for t in told], COUNTED, seed=seed)[:COUNTED]}
    served = [j.rationale for j in judged if j.item.file in sample]
    given = [t.artifacts for t in told if t.item.file in sample]
    return Table(
        name="sentences",
        title="AD: distinct sentences",
        note=(
            f"Over {COUNTED} forged pictures, or as many as there are. A model that writes a few sentences over and "
            "over looks at no face. Those that are left out before a reviewer sees them are not counted."
        ),
        columns=("answers", "faces", "with artifacts", "sentences", "distinct", "share of the commonest"),
        rows=[_sentences("as served", served), _sentences("verdict given", given)],
    )


def _sentences(name: str, faces: Sequence[Sequence[Artifact]]) -> Sequence[Cell]:
    said = Counter(" ".join(artifact.text.split()) for artifacts in faces for artifact in artifacts)
    number = said.total()
    commonest = share(max(said.values()), number) if said else None
    return (name, len(faces), sum(map(bool, faces)), number, len(said), commonest)
