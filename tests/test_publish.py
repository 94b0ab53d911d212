"""What `20_publish` writes: the same as the plain way says, no test text in it, and cards that the hub can read."""

import json
import random
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard

from finerweb.data import read_rows, schema, write_rows
from finerweb.dataset.card import filter_card
from finerweb.dataset.checks import FaultyDataset, LeakFinder, dataset_faults, leak_faults
from finerweb.dataset.push import card_faults, push_dataset, push_model
from finerweb.dataset.rows import (
    PAPER,
    RELEASED,
    SCHEMAS,
    TokenTable,
    as_sentences,
    labelled_texts,
    released_rows,
    translated,
    with_scores,
)
from finerweb.dataset.statistics import sentence_statistics, set_statistics
from finerweb.publish import Annotated, find_leaks, notes_on, write_variants
from finerweb.runner.plan import plan
from finerweb.runner.profiles import load_profile
from finerweb.text.leakage import LeakIndex, bare
from finerweb.text.segment import sentences, tokens

TEXTS = {
    "arb": "وُلدت وانغاري في نيروبي والخرطوم. ثم عاشت في أوسلو 2004!",
    "eng": "🌍 Wangari Maathai, of Nyeri\r\n👩‍👩‍👧 won. The Nobel Peace Prize went to Oslo in 2004.",
    "mya": "မင်္ဂလာပါ။ ရန်ကုန်မြို့သည် မြန်မာနိုင်ငံ၌ ရှိသည်။ က္ကသ",
    "tha": "วังการี มาไท เกิดที่ประเทศเคนยา และได้รับรางวัลโนเบลสาขาสันติภาพที่กรุงออสโลในปี 2004",
}
NONE = LeakFinder({}, share=0.8, shortest=20)


def random_rows(language: str, count: int, seed: int) -> list[dict]:
    "Passages with entities that overlap, nest, share a place and begin inside tokens."
    of_texts, rng, rows = random.Random(0), random.Random(seed), []
    for n in range(count):
        shuffled = "".join(of_texts.sample(TEXTS[language] * 2, 40))
        text = TEXTS[language] * (n % 3) or shuffled
        entities = []
        for _ in range(rng.randrange(9)):
            start = rng.randrange(len(text) - 8)
            names = rng.choice((["lexicon"], ["patterns"], ["lexicon", "patterns"]))
            entity = {"start": start, "end": start + rng.randint(1, 7), "label": rng.choice(("city", "person", "year"))}
            entities.append(entity | {"score": round(rng.random(), 3), "teachers": names})
        row = {"id": f"{language}_{n}", "text": text, "language": language, "entities": entities}
        rows.append(row | {"url": None if n % 2 else f"https://{n}.org", "script": "", "document_id": f"d{n}"})
    return rows


def cuts_of(rows: list[dict]) -> list[dict]:
    return [
        {"id": f"{row['id']}-s{n}", "parent_id": row["id"], "offset": start, "text": row["text"][start:end]}
        for row in rows
        for n, (start, end) in enumerate(sentences(row["text"], row["language"], longest=30))
    ]


def columns(rows: list[dict], stage: str = "16_merge") -> pa.Table:
    return pa.Table.from_pylist(rows, schema(stage))


# The plain way, row by row


def plain_row(row: dict, labels: dict[str, str]) -> dict:
    places, char_spans, token_spans = tokens(row["text"], row["language"]), [], []
    for e in sorted(row["entities"], key=lambda e: (e["start"], e["end"])):
        label = labels.get(e["label"], e["label"])
        more = {name: e.get(name) for name in ("score", "probability", "teachers")}
        char_spans.append({"start": e["start"], "end": e["end"], "label": label} | more)
        touched = [n for n, (a, b) in enumerate(places) if a < e["end"] and e["start"] < b]
        if touched:
            token_spans.append({"start": touched[0], "end": touched[-1] + 1, "label": label})
    released = {"id": row["id"], "text": row["text"], "char_spans": char_spans, "token_spans": token_spans}
    released["tokens"] = [row["text"][a:b] for a, b in places]
    return released | {name: row.get(name) or "" for name in ("language", "script", "url", "document_id")}


def plain_scores(rows: list[dict], claims: dict[str, list[dict]]) -> list[dict]:
    said = {(teacher, row["id"]): row["entities"] for teacher, of_teacher in claims.items() for row in of_teacher}
    scored = []
    for row in rows:
        entities = []
        for e in row["entities"]:
            overlapping = [
                c["score"]
                for teacher in e["teachers"]
                for c in said.get((teacher, row["id"]), ())
                if c["start"] < e["end"] and e["start"] < c["end"]
            ]
            entities.append(e | {"probability": e["score"], "score": max(overlapping, default=None)})
        scored.append(row | {"entities": entities})
    return scored


def plain_sentences(rows: list[dict], cuts: list[dict]) -> list[dict]:
    parts = []
    for row in rows:
        for cut in (cut for cut in cuts if cut["parent_id"] == row["id"]):
            start, end = cut["offset"], cut["offset"] + len(cut["text"])
            inside = [e for e in row["entities"] if start <= e["start"] and e["end"] <= end]
            moved = [e | {"start": e["start"] - start, "end": e["end"] - start} for e in inside]
            parts.append(row | {"id": cut["id"], "text": cut["text"], "entities": moved})
    return parts


@pytest.mark.parametrize("language", TEXTS)
def test_columns_say_what_rows_say(language):
    rows, cuts = random_rows(language, 60, 1), cuts_of(random_rows(language, 60, 1))
    claims = {"lexicon": random_rows(language, 60, 2)[::-1], "patterns": random_rows(language, 40, 3)}
    merged = with_scores(
        labelled_texts(columns(rows)), {name: labelled_texts(columns(said)) for name, said in claims.items()}
    )
    parts = as_sentences(merged, columns(cuts, "18_sentences"))
    scored = plain_scores(rows, claims)
    assert any(e["score"] is None for row in scored for e in row["entities"])
    labels = {"city": "mji", "year": "mwaka"}
    for labelled, expected in ((merged, scored), (parts, plain_sentences(scored, cuts))):
        table = TokenTable(labelled.texts["text"].to_pylist(), language)
        released = released_rows(labelled, table.of(labelled.texts["text"]))
        assert released.schema == RELEASED
        assert released.to_pylist() == [plain_row(row, {}) for row in expected]
        assert translated(released, labels).to_pylist() == [plain_row(row, labels) for row in expected]
        numbers = set_statistics(labelled, language=language, annotator="merged")
        kinds = [{e["label"] for e in row["entities"]} for row in expected]
        assert numbers["types_per_passage"] == round(sum(map(len, kinds)) / len(kinds), 2)
        assert sum(numbers["types"].values()) == numbers["annotations"] == sum(len(r["entities"]) for r in expected)
        without = sum(not row["entities"] for row in expected)
        assert sentence_statistics(labelled)["without_entities"] == without
    nothing = np.zeros(len(rows), dtype=bool)
    empty = merged.with_texts(nothing)
    assert released_rows(empty, TokenTable([], language).of(empty.texts["text"])).num_rows == 0
    assert set_statistics(empty, language=language, annotator="x")["avg_chars"] == 0
    assert len(as_sentences(merged, columns([], "18_sentences")).row) == 0


def test_texts_segmented_together_have_the_tokens_that_they_have_alone(real_data):
    for path in sorted((real_data / "web").glob("*.parquet")):
        texts = pq.read_table(path, columns=["text"]).slice(0, 2)["text"].to_pylist()
        parts = [t[a:b] for t in texts if t for a, b in sentences(t[:700], path.stem, longest=60)]
        table = TokenTable(parts, path.stem)
        together = table.of(pa.chunked_array([parts], pa.string())).to_pylist()
        assert [[(t["start"], t["end"]) for t in row] for row in together] == [tokens(t, path.stem) for t in parts]


# Leaks


def plain_pieces(text: str) -> set[str]:
    small = bare(text).casefold()
    return {small[n : n + 5] for n in range(max(1, len(small) - 4))}


def test_the_index_finds_what_the_definition_says():
    rng = random.Random(5)
    words = [unicodedata.normalize("NFKC", w) for text in TEXTS.values() for w in text.split()]
    tests = [" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(60)] + ["", "   ", "a"]
    texts = [" ".join(rng.sample(tests[:60], 3)) for _ in range(15)] + tests[:20] + ["", "\ud800" * 9]
    texts += [test[: len(test) * 9 // 10] for test in tests]
    for share in (0.05, 0.8, 1.0):
        index, found = LeakIndex(tests, share=share, shortest=12), 0
        for text in texts:
            expected = {}
            for n, test in enumerate(tests):
                of_test = plain_pieces(test)
                part = len(of_test & plain_pieces(text)) / len(of_test)
                if bare(test) and bare(test) == bare(text):
                    expected[n] = (1.0, True)
                elif len(bare(test)) >= 12 and part >= share:
                    expected[n] = (part, False)
            leaks = {leak.test: (leak.share, leak.exact) for leak in index.look(text)}
            assert leaks == expected
            found += len(leaks)
        assert found > 30


LEAKED = "The Nobel Peace Prize went to Oslo in 2004."


@pytest.fixture
def variants(tmp_path) -> tuple[Path, list[dict], list[dict]]:
    "A folder of variants without the leaked texts, the statistics, and what was kept aside."
    rows = [row | {"id": f"eng_{n}"} for n, row in enumerate(random_rows("eng", 9, 4))]
    rows = [row | {"entities": [e for e in row["entities"] if row["text"][e["start"]].isalnum()]} for row in rows]
    passages = {name: labelled_texts(columns(rows)) for name in ("merged", "lexicon")}
    cuts = columns(cuts_of(rows), "18_sentences")
    annotated = Annotated(passages, {"english": {}, "target": {"city": "ville"}}, set(), cuts, known={}, imported={})
    finder = LeakFinder({"mine": ["Oslo", LEAKED.upper()]}, share=0.8, shortest=20)
    statistics, _, aside = write_variants(tmp_path / "variants", "eng", annotated, finder)
    return tmp_path / "variants", statistics, aside


def test_no_variant_holds_a_test_text_and_the_rest_is_there(variants, tmp_path):
    folder, statistics, aside = variants
    finder = LeakFinder({"mine": [LEAKED]}, share=0.8, shortest=20)
    assert not leak_faults(folder, finder) and dataset_faults(folder, schemas=SCHEMAS)[0] == []
    rows = random_rows("eng", 9, 4)
    leaking = {row["id"] for row in rows if LEAKED in row["text"]}
    assert leaking and leaking != {row["id"] for row in rows}
    cuts = cuts_of(rows)
    parts = {cut["id"] for cut in cuts if finder.problem(cut["text"])}
    assert {row["id"] for row in aside} == leaking | parts and len(aside) == len(leaking | parts)
    assert {row["reason"] for row in aside} == {"leak"}
    for name in ("merged-english", "lexicon-target"):
        kept = [row["id"] for row in read_rows(folder / f"{name}-passages/eng/train.parquet")]
        assert kept == [row["id"] for row in rows if row["id"] not in leaking]
        kept = [row["id"] for row in read_rows(folder / f"{name}-sentences/eng/train.parquet")]
        assert kept == [cut["id"] for cut in cuts if cut["id"] not in parts]
    for numbers in statistics:
        assert numbers["leaks"] == {"passages": len(leaking), "sentences": len(parts)}
        assert numbers["passages"] == 9 - len(leaking)
    (note,) = notes_on(aside, [])
    assert note.startswith(f"{len(aside)} rows hold a text of a test set and are kept aside, such as eng_")


def test_sentences_are_looked_up_only_where_their_passage_leaks():
    rows = random_rows("eng", 9, 4)
    looked, finder = [], LeakFinder({"mine": [LEAKED]}, share=0.8, shortest=20)

    class Counting:
        def problem(self, text: str) -> str:
            looked.append(text)
            return finder.problem(text)

    passages = [labelled_texts(columns(rows))] * 3
    leaks = find_leaks(passages, columns(cuts_of(rows), "18_sentences"), Counting())
    assert leaks == {text: finder.problem(text) for text in looked if finder.problem(text)}
    texts = {row["text"] for row in rows}
    assert len([text for text in looked if text in texts]) == len(texts), "one look-up a text, not one an annotator"
    clean = [row for row in rows if not finder.problem(row["text"])]
    assert clean and not {cut["text"] for cut in cuts_of(clean)} & (set(looked) - texts)


def test_publishing_reads_the_test_sets_of_the_run():
    (task,) = (task for task in plan(load_profile("demo")) if task.stage == "20_publish")
    names = {("30_benchmarks", (benchmark["name"],)) for benchmark in task.parameters["benchmarks"]}
    assert names and names <= set(task.wants) and not names & set(task.needs)


# Pushing


def put(folder: Path, rows: list[dict], columns: pa.Schema) -> Path:
    (folder / "eng").mkdir(parents=True)
    write_rows(folder / "eng" / "train.parquet", rows, columns)
    head = "license: odc-by\nconfigs:\n- config_name: eng\n  data_files: eng/train.parquet"
    (folder / "README.md").write_text(f"---\n{head}\n---\n")
    return folder


def test_the_papers_rows_and_reviewed_ones_can_be_pushed(tmp_path):
    from finerweb.review import apply_answers

    text = TEXTS["eng"]
    entities = [{"start": 2, "end": 17, "label": "person", "score": 0.9, "teachers": ["lexicon"]}]
    row = plain_row({"id": "eng_0", "text": text, "language": "eng", "entities": entities}, {})
    plain = {name: row[name] for name in PAPER.names}
    plain["char_spans"] = [{name: span[name] for name in ("start", "end", "label")} for span in row["char_spans"]]
    numbers = dict(schemas=SCHEMAS, share=0.8, shortest=20, tests={}, dry_run=True)
    answer = {"id": "eng_0", "text": text, "reviewer": "A", "reviewed": True}
    answer["entities"] = [{"start": 2, "end": 9, "label": "person"}]
    (tmp_path / "a.jsonl").write_text(json.dumps(answer))
    for name, rows, kind in (("paper", plain, PAPER), ("released", row, RELEASED)):
        folder = put(tmp_path / f"{name}-english-passages", [rows], kind)
        assert push_dataset(folder, "someone/lesson", **numbers).send
        about = dict(language="eng", home="", variant="", prefer="", gold=0.0, longest=300)
        apply_answers(str(folder), [tmp_path / "a.jsonl"], tmp_path / name, **about)
        reviewed = tmp_path / name / "reviewed-english-passages"
        assert "eng/train.parquet" in push_dataset(reviewed, "someone/lesson", **numbers).send
    other = put(tmp_path / "other", [row], RELEASED.append(pa.field("more", pa.string())))
    with pytest.raises(FaultyDataset, match="has besides more"):
        push_dataset(other, "someone/lesson", **numbers)


def test_cards_of_models_are_read_by_the_hubs_library_and_say_what_they_must(tmp_path):
    teachers = [{"name": "<i>|x", "kind": "weak"}, {"name": "a: - b\n", "kind": "endpoint", "model": "m"}]
    about = dict(name="--- filter", run="r | <b>", teachers=teachers, languages=["eng", "tha"])
    counts = {"train": 90, "validation": 10, "f1": 0.8}
    card = filter_card(**about, encoder="e5", counts=counts, licence=("odc-by", "Of FineWeb."))
    head = ModelCard(card).data
    assert (head.language, head.base_model) == (["eng", "tha"], ["intfloat/multilingual-e5-small"])
    assert head.license == "other" and head.eval_results[0].metric_value == 0.8 and head.metrics == ["f1"]
    body = card.split("---\n", 2)[2]
    assert "<i>" not in body and "<b>" not in body
    assert all(f"## {title}\n" in body for title in ("Limits", "Licence", "Citation")) and "Of FineWeb." in body
    (tmp_path / "README.md").write_text(card)
    assert not card_faults(tmp_path, ["README.md"], "model")
    unscored = filter_card(**about, encoder="char", counts={"train": 9}, licence=("odc-by", ""))
    assert ModelCard(unscored).data.eval_results is None and ModelCard(unscored).data.base_model is None
    for lacking in ("language", "license"):
        (tmp_path / "README.md").write_text(card.replace(f"\n{lacking}:", f"\nno_{lacking}:"))
        assert any(f"{lacking} is missing" in fault.problem for fault in card_faults(tmp_path, ["README.md"], "model"))
    (tmp_path / "README.md").unlink()
    with pytest.raises(FaultyDataset, match="README.md, card: is not there"):
        push_model(tmp_path, "someone/filter", dry_run=True)
