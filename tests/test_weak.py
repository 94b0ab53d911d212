"""The offline teachers: all languages, hostile text, the same answer in every process, rich text above noise, and floors on human labels."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from babel import Locale

from finerweb.data import Mention, Passage, asset, broader, storable
from finerweb.languages import languages
from finerweb.weak.lexicon import lexicon, locale_of, word_list
from finerweb.weak.teacher import weak_teacher

METHODS = ("lexicon", "patterns")
SAMPLES = sorted(path.stem for path in asset("sample").glob("*.jsonl"))
HOSTILE = {
    "empty": "",
    "blank": " \n\t\u00a0" * 50,
    "NUL": "Nairobi\x00Kenya \x00\x01\x02 Dr. \x00",
    "surrogates": "Dr. Mary \ud800 Smith \udfff of Kenya \ud83d",
    "marks": "\u200f\u202eNairobi\u202c \u2066Kenya\u2069 \u200b\u0301\u0301\u0301 \ufeff",
    "capitals": "A" * 100_000 + "Aa" * 25_000 + " " + "A.B." * 12_000,
    "separators": "de la & of the - ' . : " * 3_000,
    "digits": "12.345.678,9/" * 5_000,
    "open quotes": "ТОВ «" * 6_000,
    "small change": "".join(chr(33 + n * n % 9_000) for n in range(60_000)),
}


def check(text: str, mentions: list[Mention]) -> None:
    "Inside the text, in order, without overlap, with a score in (0, 1]."
    at = 0
    for mention in mentions:
        assert mention.text and text[mention.start :].startswith(mention.text) and mention.start >= at, mention
        assert 0 < mention.score <= 1 and mention.label, mention
        at = mention.start + len(mention.text)


def annotate(text: str, language: str, raw_text: Iterable[str] = ()) -> list[list[Mention]]:
    "What each of the two teachers finds."
    return [weak_teacher(method, language=language, raw_text=raw_text).annotate([Passage("x", text, language)])[0] for method in METHODS]


@pytest.mark.parametrize("language", languages())
def test_every_language_knows_its_countries(language):
    known = Locale.parse(locale_of(language)["cldr"]).territories
    names = [known[code] for code in ("FR", "JP", "KE", "BR", "IN", "CN", "DE", "US") if code in known][:4]
    # Irish names carry an article, and Sanskrit ones a colon for a visarga
    names = [name.removeprefix("an ").rstrip(":") for name in names]
    text = "; ".join(names) + "."
    found = annotate(text, language)
    for mentions in found:
        check(text, mentions)
    places = {m.text for mentions in found for m in mentions if m.score >= 0.5 and broader(m.label) == "location"}
    lexicon.cache_clear()  # 91 lexicons at once are a lot of memory
    assert len(places & set(names)) >= 3, f"{language}: of {names} only {sorted(places)}"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text(name):
    text = HOSTILE[name]
    for language in ("eng", "ukr", "tha", "arb") if len(text) < 1_000 else ("ukr", "tha"):
        for method in METHODS:
            teacher = weak_teacher(method, language=language, raw_text=[text[:2_000]])
            (mentions,), ((score, why),) = teacher.annotate([Passage("x", text, language)]), teacher.rate([Passage("x", text[:3_000], language)])
            check(storable(text), mentions)
            assert score in (1, 2) and why


def test_unknown_names_of_languages_and_teachers():
    with pytest.raises(ValueError, match="'lexicon' or 'patterns'"):
        weak_teacher("oracle", language="eng", raw_text=[])
    with pytest.raises(ValueError, match="locales.tsv"):
        weak_teacher("lexicon", language="tlh", raw_text=[])


def sample(language: str) -> list[dict]:
    return [json.loads(line) for line in (asset("sample") / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()]


PROGRAM = """
import json, sys
from finerweb.data import Passage, asset
from finerweb.weak.teacher import weak_teacher
for language in ("swh", "hin"):
    texts = [json.loads(line)["text"][:1500] for line in (asset("sample") / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()[:12]]
    for method in ("lexicon", "patterns"):
        teacher = weak_teacher(method, language=language, raw_text=texts)
        for text, mentions in zip(texts, teacher.annotate([Passage("x", t, language) for t in texts])):
            print(json.dumps([[m.text, m.label, m.score, m.start] for m in mentions]))
"""


def test_same_answer_in_every_process():
    runs = [subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, env={**os.environ, "PYTHONHASHSEED": seed}) for seed in ("1", "20")]
    one, two = (run.communicate(timeout=120)[0] for run in runs)
    assert all(run.returncode == 0 for run in runs) and one == two and one.count(b"\n") == 48 and b"person" in one


@pytest.mark.parametrize("language", SAMPLES)
def test_rich_pages_are_rated_above_noise(language):
    rows = sample(language)
    for method in METHODS:
        teacher = weak_teacher(method, language=language, raw_text=[row["text"] for row in rows])
        scores: dict[str, list[int]] = {"rich": [], "noise": []}
        for kind, given in scores.items():
            given += [score for score, _ in teacher.rate([Passage(row["id"], row["text"][:1_500], language) for row in rows if row["kind"] == kind])]
        rich, noise = (sum(given) / len(given) for given in scores.values())
        assert rich > noise + 0.5, f"{method}, {language}: rich {rich:.2f}, noise {noise:.2f}"


TYPES = {"PER": "person", "LOC": "location", "ORG": "organization"}


def gold(path: Path, step: int, first: int = 0) -> list[tuple[str, set[tuple[int, int, str]]]]:
    "(text, spans) of every `step`-th sentence of a file of tokens and tags, joined by spaces."
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][first::step]
    found = []
    for row in rows:
        text, spans = "", []
        for token, tag in zip(row["tokens"], row["ner_tags"], strict=True):
            text += (" " if text and token not in {",", ".", ":", ";", ")", "'s", "!", "?"} and not text.endswith("(") else "") + token
            if tag[0] == "I" and spans and spans[-1][2] == tag[2:]:
                spans[-1][1] = len(text)
            elif tag != "O":
                spans.append([len(text) - len(token), len(text), tag[2:]])
        found.append((text, {(start, end, TYPES[kind]) for start, end, kind in spans if kind in TYPES}))
    return found


def merged(one: list[Mention], two: list[Mention]) -> set[tuple[int, int, str]]:
    "What both teachers together are sure of: equal spans strengthen each other, of overlapping ones the surer stays."
    pool: dict[tuple[int, int], tuple[float, str]] = {}
    for mention in [*one, *two]:
        span, score, kind = (mention.start, mention.start + len(mention.text)), mention.score, broader(mention.label)
        other, known = pool.get(span, (0.0, kind))
        pool[span] = (1 - (1 - score) * (1 - other), kind) if kind == known else max((score, kind), (other, known))
    kept: list[tuple[int, int, str]] = []
    for (start, end), (score, kind) in sorted(pool.items(), key=lambda found: (-found[1][0], found[0])):
        if score >= 0.5 and all(end <= a or b <= start for a, b, _ in kept):
            kept.append((start, end, kind))
    return {span for span in kept if span[2] in TYPES.values()}


@pytest.mark.parametrize(("corpus", "language", "step", "floor"), [("conll2003", "eng", 6, 0.63), ("masakhaner2", "swh", 4, 0.77)])
def test_f1_on_human_labels(real_data, corpus, language, step, floor):
    import pyarrow.parquet as pq

    folder = real_data / "ner" / corpus / language
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    raw = pq.read_table(real_data / "web" / f"{language}.parquet", columns=["text"]).column("text").to_pylist()[:150]
    lines = [text for text, _ in gold(folder / "train.jsonl.gz", 4)]
    raw += ["\n".join(lines[n : n + 20]) for n in range(0, len(lines), 20)]
    rows = gold(folder / "test.jsonl.gz", step)
    said = [weak_teacher(method, language=language, raw_text=raw).annotate([Passage("x", text, language) for text, _ in rows]) for method in METHODS]
    right = predicted = there = 0
    for (text, spans), one, two in zip(rows, *said, strict=True):
        check(text, one)
        check(text, two)
        found = merged(one, two)
        right, predicted, there = right + len(found & spans), predicted + len(found), there + len(spans)
    f1 = 2 * right / (predicted + there)
    assert f1 >= floor, f"{corpus} {language}: F1 {f1:.3f} on {len(rows)} sentences, expected at least {floor}"


def test_word_lists_hold_no_word_twice_and_no_empty_kind():
    for language in languages():
        for kind, words in word_list(language).items():
            assert words and all(words), f"{language}: {kind} is empty"
