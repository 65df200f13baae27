"""Tag schemes: which one a corpus is written in, counted before anything is refused, and BIO from all of them.

    scheme  a span of one word   of several        O   marks
    bio     B-X                  B-X I-X I-X       O   B, I
    iob1    I-X                  I-X I-X I-X       O   I; B where a span follows one of the same type
    iobes   S-X                  B-X I-X E-X       O   B, I (or M), E, S (or W)
    bilou   U-X                  B-X I-X L-X       O   B, I, L, U

``repair`` is no scheme but a way to read one with faults: as conlleval and seqeval's default mode do, a span starts
wherever none of its type is open, and ends wherever it is not continued.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from hyperloader.data.bio import check_bio, is_type, suggest
from hyperloader.data.records import Record
from hyperloader.data.sentence import DataError, Sentence

SCHEMES = ("bio", "iob1", "iobes", "bilou")
TAGS = (*SCHEMES, "repair")
_MARKS = {"bio": "BI", "iob1": "BI", "iobes": "BIMESW", "bilou": "BILU"}
_ENDS, _SINGLE, _INSIDE = "EL", "SUW", "IM"


@lru_cache(maxsize=1 << 16)
def parse_tag(tag: str) -> tuple[str, str] | None:
    """(mark, type) of a tag of any scheme, ``("O", "")`` of ``O``, None for what is no tag of a scheme."""
    if tag == "O":
        return "O", ""
    mark, dash, name = tag.partition("-")
    return (mark, name) if dash and len(mark) == 1 and mark in "BIMESWLU" and is_type(name) else None


def faults(scheme: str, tags: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(position from 0, what is wrong) of every tag that breaks ``scheme``."""
    marks, ended = _MARKS[scheme], scheme in ("iobes", "bilou")
    inside = None  # the type of the span before, in iobes and bilou only of one that has not ended
    for position, tag in enumerate(tags):
        parsed = parse_tag(tag)
        if parsed is None or (parsed[0] != "O" and parsed[0] not in marks):
            inside = None
            yield position, f"is no {'BIO' if scheme == 'bio' else scheme} tag; {suggest(tag)}"
            continue
        mark, name = parsed
        if scheme == "bio" and mark == "I" and name != inside:
            yield position, f"starts a span; write 'B-{name}'"
        elif scheme == "iob1" and mark == "B" and name != inside:
            yield position, f"follows no {name}, where iob1 has 'I-{name}'"
        elif ended and (mark in _INSIDE or mark in _ENDS) and name != inside:
            yield position, f"starts a span; write 'B-{name}' or '{'S' if scheme == 'iobes' else 'U'}-{name}'"
        elif ended and inside is not None and mark in f"OB{_SINGLE}":
            yield position, f"stands where the span of type {inside} has not ended"
        inside = None if mark == "O" or (ended and mark in _ENDS + _SINGLE) else name
    if ended and inside is not None:
        yield len(tags) - 1, f"is the last tag, and the span of type {inside} has not ended"


def to_bio(tags: Sequence[str]) -> list[str]:
    """Strict BIO from tags of any scheme; where they break theirs, as ``repair`` says."""
    plain, inside = [], None
    for tag in tags:
        mark, _, name = tag.partition("-")
        starts = mark in f"B{_SINGLE}" or name != inside
        plain.append("O" if tag == "O" else f"{'B' if starts else 'I'}-{name}")
        inside = None if tag == "O" or mark in _ENDS + _SINGLE else name
    return plain


@dataclass
class SchemeCount:
    """Faults of one scheme over a corpus: how many, where the first ones are, and what is wrong with the first."""

    scheme: str
    count: int = 0
    places: list[str] = field(default_factory=list)
    first: str = ""

    def add(self, record: Record, tags: Sequence[str]) -> None:
        """Count the faults of one sentence."""
        for position, wrong in faults(self.scheme, tags):
            self.count += 1
            if self.count == 1:
                self.first = f"{record.where(position)}: tag {position + 1} {tags[position]!r} {wrong}"
            elif len(self.places) < 2:
                self.places.append(record.where(position))


def read_scheme(
    splits: Mapping[str, Sequence[Record]], tags: str | None = None
) -> tuple[dict[str, list[Sentence]], list[str]]:
    """Sentences in strict BIO, and notes about what was converted.

    All splits are counted before anything is refused. Without ``tags`` the scheme is the one of ``SCHEMES`` that no tag
    breaks, ``bio`` before ``iob1``.

    Args:
        splits: records by the name of their split.
        tags: one of ``TAGS``; None finds the scheme.

    Raises:
        DataError: a tag of no scheme, or tags that break every scheme that could be meant, or the one named; the
            message names the first place, the number of such tags, and what helps.
    """
    if tags in (None, "bio") and all(_is_bio(record.tags) for records in splits.values() for record in records):
        return {split: [_sentence(record, record.tags) for record in some] for split, some in splits.items()}, []
    _refuse_unknown(splits)
    found = [_count(splits, scheme) for scheme in _candidates(splits, tags)]
    best = min(found, key=lambda one: one.count)  # of equal ones the first
    if best.count and tags != "repair":
        raise DataError(_refusal(splits, best, tags))
    converted = {split: [_sentence(one, to_bio(one.tags)) for one in some] for split, some in splits.items()}
    name = best.scheme.upper()
    if best.count:
        note = f"{best.count:,} of {_total(splits):,} tags break {name} and were repaired, {best.first}"
    else:
        spans = sum(tag[0] == "B" for some in converted.values() for sentence in some for tag in sentence.tags)
        note = f"the tags are {name}; {spans:,} spans were converted to BIO"
    return converted, [note] if best.count or best.scheme != "bio" else []


def _is_bio(tags: Sequence[str]) -> bool:
    try:
        check_bio(tags)
    except ValueError:
        return False
    return True


def _sentence(record: Record, tags: Sequence[str]) -> Sentence:
    return Sentence(record.tokens, tuple(tags))


def _records(splits: Mapping[str, Sequence[Record]]) -> Iterator[Record]:
    return (record for records in splits.values() for record in records)


def _total(splits: Mapping[str, Sequence[Record]]) -> int:
    return sum(len(record.tags) for record in _records(splits))


def _refuse_unknown(splits: Mapping[str, Sequence[Record]]) -> None:
    unknown: Counter[str] = Counter()
    first = None
    for record in _records(splits):
        for position, tag in enumerate(record.tags):
            if parse_tag(tag) is None:
                unknown[tag] += 1
                first = first or f"{record.where(position)}: tag {position + 1} {tag!r} is no BIO tag; {suggest(tag)}"
    if first is not None:
        listed = ", ".join(f"{tag!r} ({count:,})" for tag, count in unknown.most_common(3))
        count = f"; {unknown.total():,} of {_total(splits):,} tags are none: {listed}" if unknown.total() > 1 else ""
        raise DataError(first + count)


def _candidates(splits: Mapping[str, Sequence[Record]], tags: str | None) -> Sequence[str]:
    """The schemes to try: the one named, or those that have all marks of the corpus, or all."""
    if tags in SCHEMES:
        return (tags,)
    tags_found = {tag for record in _records(splits) for tag in record.tags}
    marks = {parsed[0] for tag in tags_found if (parsed := parse_tag(tag)) is not None} - {"O"}
    return [scheme for scheme in SCHEMES if marks <= set(_MARKS[scheme])] or SCHEMES


def _count(splits: Mapping[str, Sequence[Record]], scheme: str) -> SchemeCount:
    counted = SchemeCount(scheme)
    for record in _records(splits):
        counted.add(record, record.tags)
    return counted


def _refusal(splits: Mapping[str, Sequence[Record]], best: SchemeCount, tags: str | None) -> str:
    also = f" (also at {', '.join(best.places)})" if best.places else ""
    counts = f"{best.count:,} of {_total(splits):,} tags break {best.scheme.upper()}{also}"
    helps = "correct them, or set tags: repair, which starts a span there"
    alone = {split: _faultless({split: some}) for split, some in splits.items()}
    if len(splits) > 1 and all(alone.values()):
        listed = ", ".join(f"{split} is {scheme.upper()}" for split, scheme in alone.items() if scheme)
        helps = f"{listed}: convert the others with hyperloader data convert"
    elif tags is not None:
        scheme = _faultless(splits)
        helps = f"the tags are {scheme.upper()}: set tags: {scheme}" if scheme else helps
    return f"{best.first}; {counts}; {helps}"


def _faultless(splits: Mapping[str, Sequence[Record]]) -> str | None:
    return next((scheme for scheme in _candidates(splits, None) if not _count(splits, scheme).count), None)
