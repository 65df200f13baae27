"""Running text with spans by character offsets, as doccano, Label Studio and Prodigy write them."""

from dataclasses import dataclass
from typing import Any, cast

from hyperloader.data.bio import is_type
from hyperloader.data.records import Reading
from hyperloader.data.sentence import DataError
from hyperloader.data.words import split_words

TEXT_KEYS = ("text", "data")
SPAN_KEYS = ("label", "labels", "entities", "spans", "annotations")
_STARTS, _ENDS, _LABELS = ("start", "start_offset"), ("end", "end_offset"), ("label", "labels", "type", "tag")


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start`` to ``end`` (exclusive) of a text, labelled."""

    start: int
    end: int
    label: str


def text_of(record: dict, how: Reading) -> str | None:
    """The running text of a record: ``text``, ``data``, or ``data.text``; None where there is none."""
    for key in [str(how.columns["text"])] if "text" in how.columns else TEXT_KEYS:
        for holder in (record, record.get("data")):
            if isinstance(holder, dict) and isinstance(holder.get(key), str):
                return holder[key]
    return None


def has_spans(record: dict, how: Reading) -> bool:
    """Whether a record holds running text and spans."""
    return text_of(record, how) is not None and bool(_span_keys(record, how))


def _span_keys(record: dict, how: Reading) -> list[str]:
    """The keys that hold lists which may be spans: those with something in them, else the empty ones."""
    keys = [str(how.columns["spans"])] if "spans" in how.columns else SPAN_KEYS
    lists = [key for key in keys if isinstance(record.get(key), list)]
    return [key for key in lists if record[key]] or lists[:1]


def read_spans(record: dict, where: str, how: Reading) -> tuple[list[str], list[str] | None] | None:
    """Words and BIO tags of a record; None for one that was rejected, ignored or not annotated, which is counted.

    The words are those of the record where it has tokens with offsets, else those of ``split_words``. A span covers the
    words that it has a character in common with. A border inside a word, a span without a word, and a span that
    overlaps an earlier one are faults: ``how.span_faults`` gets them, and the tags are those of ``tags: repair``: the
    whole word, nothing, the first of the two.

    Raises:
        DataError: offsets that are no numbers or outside the text, a label that is no type, text that differs.
    """
    if record.get("answer") in ("reject", "ignore"):
        how.count(f"records left out whose answer is {record['answer']}", where)
        return None
    text = cast(str, text_of(record, how))  # of a record that ``has_spans``
    words = given_words(record, text, where) or split_words(text)
    tokens = [text[start:end] for start, end in words]
    if not how.labelled:
        return tokens, None
    keys = _span_keys(record, how)
    if len(keys) > 1:
        raise DataError(f"{where}: the spans may be {' or '.join(keys)}; set columns: {{spans: {keys[0]}}} or another")
    entries = record[keys[0]]
    if keys[0] == "annotations":
        entries = _annotation(entries, where, how)
        if entries is None:
            return None
    spans = sorted(
        (_span(one, text, f"{where}: {keys[0]}[{number}]") for number, one in enumerate(entries)),
        key=lambda span: (span.start, -span.end),
    )
    tags = ["O"] * len(words)
    for span in spans:
        how.spans += 1
        covered = [place for place, (start, end) in enumerate(words) if start < span.end and span.start < end]
        fault = _fault(span, text, words, covered, tags)
        if fault:
            how.span_faults.append((where, fault))
        if covered and all(tags[place] == "O" for place in covered):
            for place in covered:
                tags[place] = f"{'B' if place == covered[0] else 'I'}-{span.label}"
    return tokens, tags


def _fault(span: Span, text: str, words: list, covered: list[int], tags: list[str]) -> str | None:
    shown = f"span [{span.start}, {span.end}] {text[span.start : span.end]!r} ({span.label})"
    if not covered:
        return f"{shown} covers no word"
    if any(tags[place] != "O" for place in covered):
        return f"{shown} overlaps another span"
    first, last = words[covered[0]], words[covered[-1]]
    for word, inside in ((first, first[0] < span.start), (last, span.end < last[1])):
        if inside:
            return f"{shown} ends or starts inside the word {text[word[0] : word[1]]!r}"
    return None


def _annotation(values: list, where: str, how: Reading) -> list | None:
    """The spans of Label Studio's ``annotations``: of the first one that was not cancelled, None where there is
    none."""
    if values and not (isinstance(values[0], dict) and "result" in values[0]):
        return values  # some other tool's list of spans
    kept = [one for one in values if isinstance(one, dict) and not one.get("was_cancelled")]
    if not kept:
        how.count("records left out that have no annotation", where)
        return None
    if len(kept) > 1:
        how.count("records with several annotations, of which the first was read", where)
    results = kept[0].get("result") or []
    if not isinstance(results, list):
        raise DataError(f"{where}: annotations[0] must have a list as its result, got {results!r:.60}")
    spans = [one for one in results if not isinstance(one, dict) or one.get("type", "labels") == "labels"]
    if len(spans) < len(results):
        how.count("records with results other than spans, which were skipped", where)
    return spans


def _span(entry: Any, text: str, where: str) -> Span:
    start: Any
    end: Any
    label: Any
    stated = None
    if isinstance(entry, dict):
        fields = entry["value"] if isinstance(entry.get("value"), dict) else entry
        start, end, label = (next((fields[key] for key in keys if key in fields), None) for keys in _KEYS)
        stated = fields.get("text")
        if isinstance(label, list) and len(label) == 1:
            label = label[0]
    elif isinstance(entry, list) and len(entry) == 3:
        start, end, label = entry
    else:
        raise DataError(f"{where} must be a span as [start, end, label] or an object with these, got {entry!r:.60}")
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in (start, end)):
        raise DataError(f"{where} must start and end at whole numbers, got {start!r} and {end!r}")
    if not isinstance(label, str) or not is_type(label):
        raise DataError(f"{where} must have one label, text without white space, got {label!r}; rename it")
    if isinstance(stated, str):
        start, end = _agreeing(start, end, text, stated, where)
    if not 0 <= start < end <= len(text):
        raise DataError(f"{where} must lie within the {len(text)} characters of the text, got [{start}, {end}]")
    return Span(start, end, label)


_KEYS = (_STARTS, _ENDS, _LABELS)


def _agreeing(start: int, end: int, text: str, stated: str, where: str) -> tuple[int, int]:
    """Offsets under which the text is the one stated: as they are, or counted in UTF-16 as browsers do."""
    wanted = stated.replace("\\n", "\n")
    if text[start:end] in (stated, wanted):
        return start, end
    units = [0]
    for character in text:
        units.append(units[-1] + 1 + (character > "\uffff"))
    places = {unit: place for place, unit in enumerate(units)}
    if start in places and end in places and text[places[start] : places[end]] in (stated, wanted):
        return places[start], places[end]
    raise DataError(f"{where} [{start}, {end}] must be {stated!r}, got {text[start:end]!r} there; correct the offsets")


def given_words(record: dict, text: str, where: str) -> list[tuple[int, int]] | None:
    """The record's own tokens as offsets in its text, None where it has none; tokens of white space alone (spaCy writes
    such) are no words. Raises DataError for tokens that do not follow in the text."""
    tokens = record.get("tokens")
    if not isinstance(tokens, list) or not tokens:
        return None
    words, place = [], 0
    start: Any
    end: Any
    for number, token in enumerate(tokens):
        if isinstance(token, str):
            start = text.find(token, place)
            end = start + len(token)
            if start < 0 or text[place:start].strip():
                raise DataError(
                    f"{where}: tokens[{number}] {token!r} must follow in the text, got {text[place:]!r:.40}"
                )
        else:
            start, end = (token.get(key) if isinstance(token, dict) else None for key in ("start", "end"))
            numbers = type(start) is int and type(end) is int  # a bool is no offset
            if not numbers or not place <= start < end <= len(text):
                raise DataError(f"{where}: tokens[{number}] must have start and end, in order, got {token!r:.60}")
        place = end
        if text[start:end].strip():
            words.append((start, end))
    return words
