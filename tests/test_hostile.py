"""Texts, labels, names and addresses that try to break out: of pages, of cards, of files, of folders."""

import importlib.util
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from test_review import browser, drive, write_variant  # noqa: F401

from finerweb.benchmarks import read_benchmark
from finerweb.data import Entity, Passage, Table, read_rows, storable
from finerweb.dataset.card import citation_file, dataset_card, filter_card, preference_card
from finerweb.dataset.croissant import croissant
from finerweb.dataset.rows import labelled_texts
from finerweb.dataset.statistics import sentence_statistics, set_statistics
from finerweb.evaluate import marks_table
from finerweb.exchange.label_studio import interface
from finerweb.exchange.rows import released, token_spans
from finerweb.export import FORMATS, export_dataset, import_files
from finerweb.metrics import score_spans
from finerweb.page.answers import read_answers
from finerweb.page.order import WEIGHTS
from finerweb.page.page import page_content, review_page
from finerweb.page.reviewed import reviewed_card
from finerweb.page.rows import read_review_set
from finerweb.review import apply_answers, write_page
from finerweb.text.segment import tokens

HOSTILE = {
    "script": "<script>window.hit=1</script>",
    "end of a script": "</script><script>window.hit=1</script>",
    "comment": "<!--<script> --> ]]> <![CDATA[ <!--",
    "image": "<img src=x onerror=window.hit=1><svg onload=window.hit=1>",
    "attribute": "\"'` onmouseover=window.hit=1 autofocus onfocus=window.hit=1 x='",
    "style": "</style><style>*{display:none}</style></textarea></title><iframe src=javascript:window.hit=1>",
    "address": "javascript:window.hit=1",
    "data": "data:text/html,<script>window.hit=1</script>",
    "entities": "&lt;script&gt; &#0; &amp;amp; &",
    "NUL": "a\x00b",
    "control": "\x01\x08\x1b[31m\x7f\x85\x9b",
    "bidi": "\u202egnirts\u202c \u2066isolate \u200f\u061c\u2069\u2069",
    "lines": "a\u2028b\u2029c\x85d\r\ne\rf\tg\x0bh\x0ci\x1cj\n\nk",
    "long": "x" * 20_000,
    "marks": "a" + "\u0301" * 300 + "\u200d" * 50,
    "astral": "😀👩‍👩‍👧𝕆\U0010ffff\ufffe\ufeff",
    "template": "{{constructor.constructor('window.hit=1')()}} ${window.hit=1} {% raw %} @PAYLOAD@ %s {0} \\u0041",
    "columns": "-DOCSTART- -X- O\tB-PER\n\nI-PER\tO\n# id = 1\n",
    "cells": "=HYPERLINK(\"http://x\"),|;\t\"\"\n+1-1@SUM(A1)",
    "markdown": "[x](javascript:window.hit=1) ![](x) ``` | --- | # h\n---\nlicense: mit\n---\n",
    "YAML": "!!python/object:os.system [x]: {y}: &a *a 'z\" # no",
    "path": "../../../../etc/passwd",
    "Windows path": "C:\\..\\con\\nul",
    "prototype": "__proto__ constructor toString hasOwnProperty",
}
each = pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
HAS_SPACY = importlib.util.find_spec("spacy") is not None
NAMES = [name for name in FORMATS if name != "spacy" or HAS_SPACY]


def row_of(hostile: str, name: str = "") -> dict:
    "A released row with `hostile` in every field that may hold text, and as the words of an entity."
    text = f"{hostile} Oslo {hostile}"
    start = text.index("Oslo")
    sure = {"score": 0.5, "probability": None, "teachers": [hostile, "lexicon"]}
    marked = [(0, len(hostile), hostile), (start, start + 4, hostile), (start, len(text), "city"), (0, len(text), "x")]
    spans = [dict(zip(("start", "end", "label"), place, strict=True)) | sure for place in sorted(marked)]
    words = [text[a:b] for a, b in tokens(text, "eng")]
    row = {"id": name or hostile, "text": text, "char_spans": spans, "tokens": words, "language": "eng"}
    return released(row | {"token_spans": token_spans(row), "url": hostile, "document_id": hostile})


def hostile_rows() -> list[dict]:
    return [row_of(hostile) for hostile in HOSTILE.values()]


def places(row: dict) -> list[tuple[int, int, str]]:
    return sorted({(span["start"], span["end"], span["label"]) for span in row["char_spans"]})


# Files


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.skipif(n not in NAMES, reason="needs spaCy"))
                                  for n in FORMATS])  # fmt: skip
@each
def test_each_format_gives_a_row_back_and_writes_nowhere_else(name, hostile, tmp_path):
    folder = tmp_path / "a" / "b"
    rows = [row_of(hostile), row_of("Rome", "next to it")]
    write_variant(folder, rows)
    counts = export_dataset(folder / "merged-english-passages", tmp_path / "out", formats=[name], offsets="points")
    assert counts[0]["rows"] == 2
    files = {path.name for path in (tmp_path / "out" / name).iterdir()}
    assert files <= {f"eng{FORMATS[name].ending}", "eng.aside.jsonl", "eng.xml"}
    import_files(tmp_path / "out", tmp_path / "back", format=name)
    back = {row["id"]: row for row in read_rows(tmp_path / "back" / "eng" / "train.parquet")}
    assert back == {row["id"]: row for row in rows}
    assert {path.name for path in tmp_path.iterdir()} == {"a", "out", "back"}


@pytest.mark.parametrize("language", ["../up", "/etc", "a/b", "..", "con:", "x" * 99, "a\x00", "<b>", "a\nb"])
def test_a_language_is_never_a_way_out(language, tmp_path):
    rows = [row_of("Oslo", "good"), row_of("Rome", "bad") | {"language": language}]
    path = write_variant(tmp_path / "in", rows) / "eng" / "train.parquet"
    export_dataset(path, tmp_path / "out", formats=["spans", "conll"], offsets="points")
    (dropped,) = read_rows(tmp_path / "out" / "dropped.parquet")
    assert dropped["id"] == "bad" and "language is" in dropped["detail"]
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}
    assert {path.name for path in (tmp_path / "out").rglob("*.*")} <= {
        "eng.jsonl", "eng.conll", "eng.aside.jsonl", "dropped.parquet",
    }  # fmt: skip


@each
def test_half_a_pair_is_refused_before_it_is_in_any_file(hostile, tmp_path):
    row = row_of("Oslo", "eng_0")
    for field in ("id", "text", "url", "document_id"):
        with pytest.raises(ValueError, match="half of a surrogate pair"):
            released(row | {field: f"{hostile}\ud800{row['text']}"})
    answer = {"id": "eng_0", "text": row["text"], "reviewer": hostile, "reviewed": True, "note": hostile}
    entity = {"start": 0, "end": 4, "label": "\udfff"}
    (tmp_path / "a.jsonl").write_text(json.dumps(answer | {"entities": [entity]}), encoding="utf-8")
    answers, aside = read_answers([tmp_path / "a.jsonl"], {"eng_0": row["text"]})
    assert not answers and "half of a surrogate pair" in aside[0]["reason"]


# Pages and cards


class _Tags(HTMLParser):
    "The tags of a page with the names of their attributes, and the addresses that it names."

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.addresses = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))
        self.addresses += [value for name, value in attrs if name in ("href", "src", "action", "formaction")]


def passage(words: str) -> Passage:
    entities = (Entity(0, len(words), words, 0.5, (words,)),)
    return Passage(words, f"{words} Oslo", words, words, entities)


def scores_page(words: str) -> str:
    gold = [[Entity(0, 4, words)], [Entity(0, 4, "city")]]
    return score_spans(gold, gold[::-1])._repr_html_()


PAGES: dict[str, Callable[[str], str]] = {
    "passage": lambda words: passage(words)._repr_html_(),
    "table": lambda words: Table([{words: words, "n": 1}, {words: [words, {words: words}], "n": 2}])._repr_html_(),
    "marks": lambda words: marks_table([passage(words)], [[Entity(0, 1, words), Entity(0, len(words), words)]]),
    "scores": scores_page,
}


@pytest.mark.parametrize("kind", PAGES)
@each
def test_what_a_notebook_shows_has_the_tags_of_a_harmless_text(kind, hostile):
    shown, harmless = _Tags(PAGES[kind](hostile)), _Tags(PAGES[kind]("Nairobi"))
    assert shown.tags == harmless.tags and shown.addresses == []


@each
def test_the_review_page_is_the_same_file_around_its_payload(hostile, tmp_path):
    def page(words: str, place: Path) -> str:
        folder = write_variant(place, [row_of(words)])
        review_set = read_review_set(str(folder), language="eng", home="", variant="")
        before, rest = review_page(page_content(review_set, most=0, weights=WEIGHTS)).split('<script id="payload"', 1)
        return before + rest.split("</script>", 1)[1]

    assert page(hostile, tmp_path / "a") == page("Nairobi", tmp_path / "b")


def cards(words: str) -> dict[str, str]:
    """Every card, with `words` for the names of run, model, judge, dataset, and for a reason. A teacher's name is a
    folder's."""
    teachers = [{"name": "teacher-a", "kind": "endpoint", "model": words}, {"name": "lexicon", "kind": "weak"}]
    row = dict.fromkeys(("id", "language", "script", "url", "document_id"), "eng") | {"text": "Oslo"}
    row["entities"] = [{"start": 0, "end": 4, "label": words, "score": 0.9, "teachers": [words]}]
    texts, leaks = labelled_texts(pa.Table.from_pylist([row])), {"passages": 1, "sentences": 1}
    numbers = set_statistics(texts, language="eng", annotator="teacher-a") | {"sentences": sentence_statistics(texts)}
    numbers |= {"leaks": leaks}
    licence = ("odc-by", "Open.")
    about = dict(run=words, teachers=teachers, missing={words: words}, licence=licence, known={}, judge=words)
    about |= {"tests": [words], "imported": words}
    report = dict.fromkeys(("rows", "passages", "kept", "relabelled", "moved", "rejected", "added"), 1)
    report |= {"language": "eng", "dataset": words, "licence": "odc-by", "scores": [{"annotator": words, "f1": 0.5}]}
    return {
        "dataset": dataset_card(("teacher-a", "english", "passages"), [numbers], **about),
        "preferences": preference_card(teachers[0], {"eng": 3}, run=words, licence=licence, tests=[words], leaks=1),
        "filter": filter_card(
            name=words, run=words, teachers=teachers, counts={}, languages=["eng"], encoder=words, licence=licence
        ),
        "reviewed": reviewed_card("reviewed-english-passages", [report]),
    }


HARMLESS = cards("Nairobi")


@pytest.mark.parametrize("kind", HARMLESS)
@each
def test_a_card_keeps_its_head_and_its_lines(kind, hostile):
    card, harmless = cards(hostile)[kind], HARMLESS[kind]
    assert len(card.split("\n")) == len(harmless.split("\n"))
    heads = [yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n")) for text in (card, harmless)]
    names = [{key: value for key, value in head.items() if key != "pretty_name"} for head in heads]
    assert names[0] == names[1]
    assert _Tags(card.split("\n---\n", 1)[1]).tags == _Tags(harmless.split("\n---\n", 1)[1]).tags


@each
def test_files_for_machines_hold_the_words_and_no_more(hostile, tmp_path):
    citation = yaml.safe_load(citation_file(hostile))
    assert set(citation) == set(yaml.safe_load(citation_file("x"))) and isinstance(citation["title"], str)
    assert json.loads(json.dumps(hostile)) == hostile
    folder = write_variant(tmp_path, [row_of(hostile)])
    words = dict(name=hostile, description=hostile, license="odc-by", citation=hostile, version="1.0.0")
    described = json.loads(json.dumps(croissant(folder, **words)))
    assert described["name"] == hostile and described["distribution"][0]["contentUrl"] == "eng/train.parquet"
    assert "hit" not in interface("Latn")


# A review, without and with a browser


def answers_of(rows: list[dict], path: Path) -> None:
    "A reviewer's file that leaves all entities as they are."
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            entities = [dict(zip(("start", "end", "label"), place, strict=True)) for place in places(row)]
            answer = {"id": row["id"], "text": row["text"], "reviewer": row["id"], "reviewed": True, "note": row["id"]}
            file.write(json.dumps(answer | {"entities": entities}) + "\n")


@pytest.mark.parametrize("gold", [0.0, 1.0])
def test_a_review_gives_the_entities_back_and_writes_nowhere_else(gold, tmp_path):
    rows = hostile_rows()
    folder = write_variant(tmp_path / "in", rows)
    about = dict(language="eng", home="", variant="")
    report = write_page(str(folder), tmp_path / "page.html", passages=0, **about)
    assert report["shown"] == len(rows) and not report["aside"]
    answers_of(rows, tmp_path / "a.jsonl")
    out = tmp_path / "out"
    report = apply_answers(str(folder), [tmp_path / "a.jsonl"], out, prefer="", gold=gold, longest=300, **about)
    assert report["aside"] == {} and report["kept"] == sum(len(places(row)) for row in rows)
    back = read_rows(out / "reviewed-english-passages" / "eng" / "train.parquet")
    assert [(row["id"], row["text"], places(row)) for row in back] == [(r["id"], r["text"], places(r)) for r in rows]
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", "page.html", "a.jsonl"}
    lines = (out / "gold" / "eng" / "test.jsonl").read_text(encoding="utf-8")
    assert len(lines.splitlines()) == len(lines.split("\n")) - 1 and "</script" not in lines
    learned = pq.read_table(out / "training" / "eng.parquet").num_rows
    if gold:
        test_set = read_benchmark({"name": "hostile", "path": str(out / "gold"), "language": "eng"})
        expected = {storable(row["document_id"]) for row in map(json.loads, filter(None, lines.split("\n")))}
        assert set(map(storable, test_set.documents)) == expected and not learned
    else:
        assert not lines and learned >= len(rows)


def test_a_browser_shows_all_and_runs_nothing(drive, browser):  # noqa: F811
    rows = hostile_rows()
    driver = drive(rows, teachers={"lexicon": rows, "patterns": []})
    page = driver.page
    page.on("dialog", lambda dialog: driver.faults.append(dialog.message))
    for _ in rows:
        page.focus("#passage")
        driver.keys("t", "Enter")
    assert page.text_content("#progress") == f"{len(rows)} of {len(rows)} reviewed"
    assert page.evaluate("window.hit") is None
    assert page.locator("#source[href^='javascript'], #passage img, #passage svg, #passage iframe").count() == 0
    answers = driver.answers()
    assert {name: answer["text"] for name, answer in answers.items()} == {row["id"]: row["text"] for row in rows}
    for row in rows:
        entities = {(e["start"], e["end"], e["label"]) for e in answers[row["id"]]["entities"]}
        assert sorted(entities) == places(row), row["id"][:40]
    other = browser.new_page()
    for hostile in HOSTILE.values():
        other.set_content("".join(show(hostile) for show in PAGES.values()))
        other.mouse.move(20, 20)
        assert other.evaluate("window.hit") is None
    other.close()
