"""Released rows to other tools' formats and back: nothing changes, or it is counted and kept aside."""

import gzip
import importlib.util
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finerweb.data import read_rows, write_rows
from finerweb.dataset.rows import RELEASED
from finerweb.exchange.conll import aside_path, label_of, tag_name
from finerweb.exchange.docbin import spacy_tokens
from finerweb.exchange.label_studio import utf16_offsets
from finerweb.exchange.rows import (
    dataset_files,
    lesson_dataset,
    place_words,
    released,
    token_spans,
    touched,
    word_places,
    write_dataset,
)
from finerweb.export import FORMATS, check_formats, export_dataset, import_files, language_rows
from finerweb.languages import languages
from finerweb.source.conll import join_tokens, spans_of_tags, tokens_are_text
from finerweb.text.segment import graphemes, tokens

HAS_SPACY = importlib.util.find_spec("spacy") is not None
NAMES = [name for name in FORMATS if name != "spacy" or HAS_SPACY]
needs_spacy = pytest.mark.skipif(not HAS_SPACY, reason="spaCy is not installed: pip install 'finerweb[spacy]'")
ASTRAL = re.compile("[\U00010000-\U0010ffff]")  # what JavaScript counts as two
each_format = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_spacy) if name == "spacy" else name for name in FORMATS]
)
each_text_format = pytest.mark.parametrize("name", [name for name in FORMATS if name != "spacy"])
LABELS = [
    "person", "sports team", "sports_team", "B-person", "I-", "O", 'quo"ted', "it's", "tab\tbed", "line\nbreak",
    "CR\r\nLF", "</script>", "<!--", "../../up", "C:\\up", "%0A", "50 %", "a\u2028b", "\ufeffBOM", "บุคคล", "人物",
    "شخص", "😀", " x ", "{}",
]  # fmt: skip
IDS = ["tha_2200-s0", "../../etc", "a\nb", "</script>", "#1", "-DOCSTART-", "😀", '"', "x" * 5000]


def row_of(text: str, spans: list[tuple], language: str = "eng", name: str = "row_0", **more: object) -> dict:
    "A released row with (start, end, label, ...) spans, cut into tokens as they are published."
    sure = dict(score=0.25, probability=None, teachers=["lexicon"])
    char_spans = [dict(zip(("start", "end", "label"), span, strict=True)) | sure for span in spans]
    known = language if language in languages() else "eng"
    words = [text[start:end] for start, end in tokens(text, known)]
    row = {"id": name, "text": text, "char_spans": char_spans, "tokens": words, "language": language} | more
    return released(row | {"token_spans": token_spans(row)})


def write(name: str, path: Path, rows: list[dict], offsets: str = "points") -> Counter:
    "Writes rows in a format."
    return FORMATS[name].write(path, rows, **({"offsets": offsets} if name == "label-studio" else {}))


def same(name: str, rows: list[dict], folder: Path, offsets: str = "points") -> Counter:
    "The count of what the format could not say exactly; every row must come back as it is."
    path = folder / f"eng{FORMATS[name].ending}"
    counts = write(name, path, rows, offsets)
    back = list(FORMATS[name].read(path, language=""))
    assert not [(where, row) for where, row in back if isinstance(row, ValueError)]
    of_id = {row["id"]: row for _, row in back}
    assert len(back) == len(rows) and [of_id[row["id"]] for row in rows] == rows
    return counts


def hard_rows() -> list[dict]:
    "Rows with all that breaks formats."
    cases = [
        ("", []), ("   \n\t ", [(1, 3, "blank")]), (" ", []), ("\u200b\u200d", [(0, 2, "unseen")]),
        ("\ufeffOslo", [(1, 5, "city")]),
        ("Oslo\r\n\r\nRome\rBerlin\n", [(0, 4, "city"), (8, 12, "city"), (0, 12, "cities"), (4, 8, "gap")]),
        ("a  b\u00a0c\u2028d\u2029e\x85f\x0bg\x1ch", [(0, 1, "x"), (1, 4, "y"), (3, 5, "z"), (4, 13, "w")]),
        ("👩‍👩‍👧😀🏳️‍🌈 𝕆slo 𠮷野家",
         [(0, 5, "family"), (1, 6, "half"), (5, 6, "smile"), (0, 19, "all"), (11, 15, "city")]),
        ("cafe\u0301 e\u0301e\u0301", [(0, 5, "nfd"), (0, 4, "half"), (6, 8, "e"), (8, 10, "e")]),
        ("زار عنان أوسلو وجامعة نيروبي.",
         [(4, 8, "person"), (16, 28, "university"), (23, 28, "city"), (9, 14, "city")]),
        ("ירושלים של זהב \u200f(2024)\u200e", [(0, 7, "עיר"), (0, 14, "song"), (16, 21, "year")]),
        ("กรุงเทพมหานคร", [(0, 7, "เมือง"), (0, 13, "city"), (3, 9, "part")]),
        ("# -DOCSTART- O B-PER", [(0, 1, "hash"), (2, 12, "mark"), (13, 20, "tags"), (0, 20, "all")]),
        ("Oslo Oslo Oslo",
         [(0, 4, "a"), (0, 4, "a"), (0, 4, "b"), (5, 9, "a"), (0, 9, "c"), (5, 14, "d"), (0, 14, "e")]),
        ("\"quoted\" 'and' \\n </script> <!-- %20 &amp;", [(0, 8, "q"), (15, 17, "backslash"), (18, 27, "</script>")]),
        ("NUL\x00 and \x01 control", [(0, 4, "nul"), (9, 10, "one")]),
    ]  # fmt: skip
    rows = [row_of(text, spans, name=f"case_{n}") for n, (text, spans) in enumerate(cases)]
    text = "Wangari Maathai won"
    rows += [row_of(text, [(0, 15, label), (8, 15, label)], name=f"label_{n}") for n, label in enumerate(LABELS)]
    rows += [row_of(text, [(0, 15, "person")], name=name, url=name, document_id=name) for name in IDS]
    rows.append(row_of("Oslo", [(0, 4, "city")], name="und", language="zzz", script="Zzzz"))
    # tokens and token spans of another tokenizer, and some that are not in the text
    rows.append(released(rows[5] | {"id": "own", "tokens": ["Os", "lo\r\n", "Rome\rBerlin"], "token_spans": []}))
    rows.append(released(rows[5] | {"id": "wrong", "tokens": ["oslo", "rome"], "token_spans": []}))
    rows.append(released(rows[5] | {"id": "none", "tokens": [], "token_spans": []}))
    return rows


# Every format, without data


@each_format
@pytest.mark.parametrize("offsets", ["points", "utf16"])
def test_hard_rows_come_back_as_they_are(name, offsets, tmp_path):
    if offsets == "utf16" and name != "label-studio":
        pytest.skip("only label-studio counts in two ways")
    same(name, hard_rows(), tmp_path, offsets)
    same(name, lesson_dataset(), tmp_path, offsets)
    same(name, [], tmp_path, offsets)


CHARACTERS = st.one_of(
    st.sampled_from("ab 1.,\n\r\t-'\"#%_é\u0301\u200d\u200b\u00a0\u2028\ufeff😀👩𝕆กิعนदि日本"),
    st.characters(exclude_categories=["Cs"]),
)


@st.composite
def any_row(draw: Callable) -> dict:
    "A row of any text with any spans."
    text = draw(st.text(CHARACTERS, max_size=40))
    edges = st.integers(0, len(text))
    spans = draw(st.lists(st.tuples(edges, edges, st.sampled_from(LABELS)), max_size=8)) if text else []
    spans = sorted((min(a, b), max(a, b), label) for a, b, label in spans if a != b)
    return row_of(text, spans, draw(st.sampled_from(["eng", "tha", "arb", "cmn", "zzz"])))


@each_format
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(rows=st.lists(any_row(), max_size=3))
def test_any_row_comes_back(name, rows, tmp_path):
    rows = [row | {"id": f"{row['id']}_{n}"} for n, row in enumerate(rows)]
    same(name, rows, tmp_path)


def outer(counted: Counter) -> int:
    "How many entities no tag says."
    return sum(counted[reason] for reason in ("nested", "overlap", "same_words", "no_word"))


def test_what_tags_cannot_say_is_counted_by_reason(tmp_path):
    text = "Oslo Rome Bern x"
    spans = [
        (0, 9, "a"),
        (0, 4, "b"),
        (5, 14, "c"),
        (0, 9, "d"),
        (4, 5, "e"),
        (15, 16, "f"),
        (0, 3, "g"),
        (11, 16, "h"),
    ]
    counts = same("conll", [row_of(text, spans)], tmp_path)
    assert counts == {"same_words": 1, "nested": 3, "overlap": 1, "no_word": 1, "edge_inside_word": 1}
    file = (tmp_path / "eng.conll").read_text(encoding="utf-8")
    assert file == "Oslo\tB-a\nRome\tI-a\nBern\tB-h\nx\tI-h\n\n"
    kept = [json.loads(line) for line in aside_path(tmp_path / "eng.conll").read_text(encoding="utf-8").splitlines()]
    assert outer(counts) == sum("unsaid" in span for span in kept[0]["char_spans"])


def test_edges_inside_a_word_are_said_as_the_words_and_counted(tmp_path):
    row = row_of("Oslosta Rome", [(0, 4, "city"), (8, 12, "city")])
    assert same("conll", [row], tmp_path) == same("gliner", [row], tmp_path) == {"edge_inside_word": 1}
    assert (tmp_path / "eng.conll").read_text(encoding="utf-8") == "Oslosta\tB-city\nRome\tB-city\n\n"
    assert json.loads((tmp_path / "eng.json").read_text(encoding="utf-8"))[0]["ner"] == [[0, 0, "city"], [1, 1, "city"]]


@pytest.mark.parametrize("label", LABELS)
def test_a_tag_has_no_blank_and_gives_its_label_back(label):
    name = tag_name(label)
    assert label_of(name) == label and name.split() == [name] and len(name.splitlines()) == 1
    assert len({tag_name(label) for label in LABELS}) == len(LABELS)


@each_text_format
def test_files_have_their_lines_whatever_a_reader_calls_a_line(name, tmp_path):
    rows = hard_rows()
    path = tmp_path / f"eng{FORMATS[name].ending}"
    write(name, path, rows)
    for file in tmp_path.iterdir():
        text = file.read_bytes().decode("utf-8")
        assert len(text.splitlines()) == len(text.split("\n")) - 1, file.name
        if name != "conll" or file.suffix == ".jsonl":
            assert "</script" not in text and "<!--" not in text
    if name == "conll":
        lines = path.read_text(encoding="utf-8").split("\n")
        assert all(len(line.split("\t")) == len(line.split()) == 2 for line in lines if line)


def test_offsets_are_javascript_s(tmp_path):
    for row in [*hard_rows(), *lesson_dataset()]:
        units = row["text"].encode("utf-16-le")
        assert utf16_offsets(row["text"])[-1] * 2 == len(units)
        path = tmp_path / "eng.json"
        write("label-studio", path, [row], "utf16")
        (task,) = json.loads(path.read_text(encoding="utf-8"))
        for region in task["predictions"][0]["result"]:
            value = region["value"]
            assert units[2 * value["start"] : 2 * value["end"]].decode("utf-16-le") == value["text"]


# What people change


@each_text_format
def test_a_corrected_file_corrects_the_row(name, tmp_path):
    row = row_of("Oslo and Rome won.", [(0, 4, "city"), (9, 13, "city")], url="https://example.org")
    path = tmp_path / f"eng{FORMATS[name].ending}"
    write(name, path, [row])
    text = path.read_text(encoding="utf-8")
    if name == "conll":
        text = text.replace("Oslo\tB-city", "Oslo\tO").replace("won\tO", "won\tB-deed")
    elif name == "gliner":
        text = text.replace('[[0, 0, "city"], ', '[[3, 3, "deed"], ')
    else:
        (value,) = json.loads(text) if name == "label-studio" else [json.loads(text)]
        deed = {"start": 14, "end": 17, "label": "deed"}
        if name == "spans":
            value["spans"] = [value["spans"][1], deed]
            del value["token_spans"]
        else:
            second = value["predictions"][0]["result"][1]
            drawn = {**second, "value": {"start": 14, "end": 17, "text": "won", "labels": ["deed"]}}
            value["annotations"] = [{"result": [second, drawn, {"type": "relation", "from_id": "a", "to_id": "b"}]}]
        text = json.dumps([value] if name == "label-studio" else value) + "\n"
    path.write_text(text, encoding="utf-8")
    ((_, back),) = FORMATS[name].read(path, language="")
    new = {"start": 14, "end": 17, "label": "deed", "score": None, "probability": None, "teachers": []}
    assert back["char_spans"] == [row["char_spans"][1], new]
    assert back["token_spans"] == [{"start": 2, "end": 3, "label": "city"}, {"start": 3, "end": 4, "label": "deed"}]
    assert {name: back[name] for name in ("id", "text", "url", "tokens")} == {
        name: row[name] for name in ("id", "text", "url", "tokens")
    }


def test_sentences_of_a_tag_file_may_move_and_go_and_what_does_not_fit_is_told(tmp_path):
    path, rows = tmp_path / "eng.conll", lesson_dataset()
    write("conll", path, rows)
    sentences = path.read_text(encoding="utf-8").split("\n\n")
    kept = [sentences[4], sentences[0], sentences[2].replace("2004", "2005")]
    path.write_text("\n\n".join(kept), encoding="utf-8")
    read = list(FORMATS["conll"].read(path, language=""))
    assert [row["id"] for _, row in read if isinstance(row, dict)] == ["eng_1", "eng_0"]
    faults = [str(row) for _, row in read if isinstance(row, ValueError)]
    assert len(faults) == 4 and "only tags" in faults[0] and sum("it was deleted" in fault for fault in faults) == 3


def test_nothing_is_mended_in_silence(tmp_path):
    path = tmp_path / "eng.conll"
    path.write_text("Oslo\tI-LOC\n\nRome\tB-LOC\nwon\tX\n\nBern\tB-LOC\n", encoding="utf-8")
    read = [row for _, row in FORMATS["conll"].read(path, language="eng")]
    assert "I-LOC' where no LOC has begun" in str(read[0]) and "tag 1 is 'X'" in str(read[1])
    assert read[2]["char_spans"][0]["label"] == "LOC" and read[2]["language"] == "eng"


def oslo(*result: dict) -> dict:
    "A task of somebody else's with a prediction."
    return {"data": {"text": "Oslo"}, "predictions": [{"result": list(result)}]}


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"data": {"text": "Oslo"}, "annotations": [{"result": [], "was_cancelled": True}]}, "skipped"),
        ({"data": {"text": "Oslo"}}, "neither annotations nor predictions"),
        (oslo({"type": "labels", "value": {"start": 0, "end": 4}}), "no label"),
        (oslo({"type": "hypertextlabels", "value": {}}), "expected labels"),
        (oslo({"type": "labels", "value": {"start": 0, "end": 3, "text": "Oslo", "labels": ["city"]}}), "other words"),
        ({"data": {"html": "Oslo"}, "predictions": [{"result": []}]}, "a field is missing"),
    ],
)
def test_a_task_that_is_wrong_is_told(task, words, tmp_path):
    path = tmp_path / "eng.json"
    good = {"data": {"text": "😀 a\nb"}, "predictions": [{"result": [
        {"type": "labels", "value": {"start": 2, "end": 5, "text": "a\\nb", "labels": ["x", "y"]}}]}]}  # fmt: skip
    path.write_text(json.dumps([task, good]), encoding="utf-8")
    (_, wrong), (_, row) = FORMATS["label-studio"].read(path, language="eng")
    assert isinstance(wrong, ValueError) and words in str(wrong)
    assert [(s["start"], s["end"], s["label"]) for s in row["char_spans"]] == [(2, 5, "x"), (2, 5, "y")]


def test_the_newest_annotation_counts(tmp_path):
    def region(label: str) -> list[dict]:
        return [{"type": "labels", "value": {"start": 0, "end": 4, "text": "Oslo", "labels": [label]}}]

    done = [
        {"result": region("new"), "updated_at": "2025-02-01"},
        {"result": region("old"), "updated_at": "2025-01-01"},
    ]
    (tmp_path / "eng.json").write_text(
        json.dumps([{"data": {"text": "Oslo"}, "predictions": [{"result": region("guess")}], "annotations": done}])
    )
    ((_, row),) = FORMATS["label-studio"].read(tmp_path / "eng.json", language="eng")
    assert [span["label"] for span in row["char_spans"]] == ["new"]


@each_text_format
@pytest.mark.parametrize(
    "text", ["", "[", "{}", "[1, null]", "\x00", '{"text": 1}', '[{"data": 3}]', '[{"tokenized_text": [1], "ner": []}]']
)
def test_broken_files_are_errors_with_a_place_and_never_rows(name, text, tmp_path):
    path = tmp_path / f"eng{FORMATS[name].ending}"
    path.write_text(text, encoding="utf-8")
    try:
        read = list(FORMATS[name].read(path, language="eng"))
    except ValueError as error:
        assert path.name in str(error)
    else:
        assert not [row for _, row in read if isinstance(row, dict)]
        assert all(path.name in where for where, _ in read)


# Datasets


def test_a_dataset_goes_through_every_format_and_back(tmp_path, capsys):
    for code in ("arb", "eng", "tha"):
        rows = [row for row in [*lesson_dataset(), *hard_rows()] if row["language"] == code]
        write_dataset(tmp_path / "mine", rows, language=code)
    lines = export_dataset(tmp_path / "mine", tmp_path / "out", formats=NAMES, offsets="points")
    assert {(line["language"], line["format"]) for line in lines} == {
        (c, n) for c in ("arb", "eng", "tha") for n in NAMES
    }
    assert all(line["not_exact"] == 0 for line in lines if line["format"] in ("label-studio", "spans"))
    for name in NAMES:
        import_files(tmp_path / "out" / name, tmp_path / "back", format=name)
        for code in ("arb", "eng", "tha"):
            mine, back = (read_rows(tmp_path / kind / code / "train.parquet") for kind in ("mine", "back"))
            assert sorted(mine, key=str) == sorted(back, key=str)
    assert not capsys.readouterr().out
    some = export_dataset(tmp_path / "mine", tmp_path / "some", formats=["spans"], offsets="points", languages=["tha"])
    assert [p.name for p in (tmp_path / "some" / "spans").iterdir()] == ["tha.jsonl"] and len(some) == 1


def test_the_papers_layout_and_columns_are_read(tmp_path):
    span = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("label", pa.string())])
    columns = pa.schema([("id", pa.string()), ("text", pa.string()), ("char_spans", pa.list_(span)),
                         ("tokens", pa.list_(pa.string())), ("token_spans", pa.list_(span))])  # fmt: skip
    row = {
        "id": "deu_0",
        "text": "Oslo siegt.",
        "char_spans": [{"start": 0, "end": 4, "label": "city"}],
        "tokens": ["Oslo", "siegt", "."],
    }
    rows = [row | {"token_spans": [{"start": 0, "end": 1, "label": "city"}]}]
    places = ["deu/train-00000-of-00001.parquet", "deu/deu.parquet", "deu.parquet", "data/deu-00000-of-00001.parquet"]
    for n, place in enumerate(places):
        path = tmp_path / str(n) / place
        path.parent.mkdir(parents=True, exist_ok=True)
        write_rows(path, rows, columns)
        for source in (tmp_path / str(n), path):
            ((by_language, dropped),) = language_rows(source)
            assert not dropped and by_language["deu"][0]["script"] == "Latn"
            assert by_language["deu"][0]["char_spans"][0]["score"] is None
            assert by_language["deu"][0]["token_spans"] == rows[0]["token_spans"]


def test_wrong_rows_are_kept_aside_and_stop_nothing(tmp_path, capsys):
    good = row_of("Oslo", [(0, 4, "city")])
    wrong = [
        good | {"id": "long", "char_spans": [good["char_spans"][0] | {"end": 9}]},
        good | {"id": "mute", "char_spans": [good["char_spans"][0] | {"label": " "}]},
        good | {"id": None},
        good | {"id": "no", "text": None},
        good | {"id": "nan", "char_spans": [good["char_spans"][0] | {"score": float("nan")}]},
        good | {"id": "up", "language": "../../up"},
    ]  # fmt: skip
    (tmp_path / "mine").mkdir()
    write_rows(tmp_path / "mine" / "eng.parquet", [*wrong, good], RELEASED)
    lines = export_dataset(tmp_path / "mine", tmp_path / "out", formats=["spans", "conll"], offsets="points")
    assert [line["rows"] for line in lines] == [1, 1]
    dropped = read_rows(tmp_path / "out" / "dropped.parquet")
    assert [row["id"] for row in dropped] == ["long", "mute", "", "no", "nan", "up"]
    assert dropped[0]["text"] == "Oslo" and dropped[5]["language"] == "../../up"
    assert "rows that are wrong: 6" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {"mine", "out"}
    reasons = " ".join(row["detail"] for row in dropped)
    assert all(
        words in reasons for words in ("[0:9]", "label ' '", "id is None", "text is None", "score is nan", "../../up")
    )


@pytest.mark.parametrize(
    "field",
    [{"start": True}, {"end": "4"}, {"end": 4.0}, {"score": "high"}, {"teachers": "lexicon"}, {"label": "\ud800"}],
)
def test_a_field_of_the_wrong_kind_is_no_row(field, tmp_path):
    span = {"start": 0, "end": 4, "label": "city"} | field
    (tmp_path / "eng.jsonl").write_text(json.dumps({"text": "Oslo", "spans": [span]}), encoding="utf-8")
    ((_, row),) = FORMATS["spans"].read(tmp_path / "eng.jsonl", language="eng")
    assert isinstance(row, ValueError)


def test_other_tables_and_folders_are_refused_with_what_to_do(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="expected a variant of 20_publish"):
        dataset_files(tmp_path)
    write_dataset(tmp_path / "two" / "a", [], language="eng")
    write_dataset(tmp_path / "two" / "b", [], language="eng")
    with pytest.raises(ValueError, match="name one of its folders: a, b"):
        dataset_files(tmp_path / "two")
    (tmp_path / "x").mkdir()
    pq.write_table(pa.table({"tokens": [["Oslo"]], "ner_tags": [["B-LOC"]]}), tmp_path / "x" / "eng.parquet")
    with pytest.raises(ValueError, match="lacks id, text, char_spans: it has tokens, ner_tags"):
        export_dataset(tmp_path / "x", tmp_path / "out", formats=["spans"], offsets="points")
    (tmp_path / "x" / "eng.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        export_dataset(tmp_path / "x", tmp_path / "out", formats=["spans"], offsets="points")
    with pytest.raises(ValueError, match="has no kat; it has eng"):
        export_dataset(tmp_path / "two" / "a", tmp_path / "out", formats=["spans"], offsets="points", languages=["kat"])
    with pytest.raises(ValueError, match="has no row to export"):
        export_dataset(tmp_path / "two" / "a", tmp_path / "out", formats=["spans"], offsets="points")
    with pytest.raises(ValueError, match="has no row of the format gliner: expected files called <language>.json"):
        import_files(tmp_path / "two", tmp_path / "out", format="gliner")
    with pytest.raises(ValueError, match="is not known; expected gliner, conll"):
        check_formats(["brat"], offsets="points")
    extra = pa.Table.from_pylist([row_of("Oslo", [])], schema=RELEASED).append_column("mood", pa.array(["good"]))
    pq.write_table(extra, tmp_path / "x" / "eng.parquet")
    export_dataset(tmp_path / "x", tmp_path / "out", formats=["spans"], offsets="points")
    assert "left out, for no released row has them: mood" in capsys.readouterr().out


def test_a_file_of_no_language_needs_one(tmp_path):
    (tmp_path / "mine.conll").write_text("Oslo\tB-LOC\n", encoding="utf-8")
    with pytest.raises(ValueError, match="--language tha"):
        import_files(tmp_path / "mine.conll", tmp_path / "out", format="conll")
    import_files(tmp_path / "mine.conll", tmp_path / "out", format="conll", language="nob")
    assert read_rows(tmp_path / "out" / "nob" / "train.parquet")[0]["id"] == "nob_0"


# Words


def test_touched_words_are_those_that_share_a_character():
    for row in [*hard_rows(), *lesson_dataset()]:
        places = word_places(row)
        for span in row["char_spans"]:
            first, end = touched(places, span["start"], span["end"])
            plain = [n for n, (a, b) in enumerate(places) if a < span["end"] and span["start"] < b]
            assert list(range(first, end)) == plain


def test_the_words_of_a_published_row_stand_where_they_were_found():
    for row in [*hard_rows(), *lesson_dataset()]:
        cut = tokens(row["text"], "eng" if row["language"] == "zzz" else row["language"])
        assert place_words(row["text"], [row["text"][a:b] for a, b in cut]) == cut


def test_spacy_s_tokens_and_spaces_are_the_text():
    for row in [*hard_rows(), *lesson_dataset()]:
        pieces, spaces = spacy_tokens(row)
        assert "".join(row["text"][a:b] + " " * s for (a, b), s in zip(pieces, spaces, strict=True)) == row["text"]
        starts, ends = ({place[side] for place in pieces} for side in (0, 1))
        assert all(span["start"] in starts and span["end"] in ends for span in row["char_spans"])


# The tools themselves


@needs_spacy
def test_spacy_reads_the_docbin(tmp_path):
    import spacy
    from spacy.tokens import DocBin

    rows = hard_rows()
    write("spacy", tmp_path / "eng.spacy", rows)
    read = list(DocBin().from_disk(tmp_path / "eng.spacy").get_docs(spacy.blank("en").vocab))
    assert [doc.text for doc in read] == [row["text"] for row in rows]
    for doc, row in zip(read, rows, strict=True):
        spans = [(span.start_char, span.end_char, span.label_, span.text) for span in doc.spans["sc"]]
        assert spans == [
            (s["start"], s["end"], s["label"], row["text"][s["start"] : s["end"]]) for s in row["char_spans"]
        ]
    doc = next(doc for doc, row in zip(read, rows, strict=True) if row["id"] == "case_13")
    doc.set_ents(spacy.util.filter_spans(doc.spans["sc"]))
    assert [ent.label_ for ent in doc.ents] == ["e"]
    foreign = spacy.blank("en")("Oslo won  twice.")
    foreign.set_ents([spacy.tokens.Span(foreign, 0, 1, label="GPE")])
    DocBin(docs=[foreign]).to_disk(tmp_path / "theirs.spacy")
    ((_, row),) = FORMATS["spacy"].read(tmp_path / "theirs.spacy", language="eng")
    assert row["text"] == "Oslo won  twice." and row["char_spans"][0]["label"] == "GPE" and row["tokens"][0] == "Oslo"


def test_gliner_s_own_labels_are_those_of_the_file(tmp_path):
    processor = pytest.importorskip("gliner.data_processing.processor", reason="needs the gliner library")
    write("gliner", tmp_path / "eng.json", hard_rows())
    for row in json.loads((tmp_path / "eng.json").read_text(encoding="utf-8")):
        classes = {label: n for n, label in enumerate(sorted({e[2] for e in row["ner"]}), 1)}
        table = processor.BaseProcessor.get_dict(row["ner"], classes)
        assert set(table) == {(first, last) for first, last, _ in row["ner"]}
        assert all(0 <= first <= last < len(row["tokenized_text"]) for first, last in table)


@pytest.mark.parametrize("script", ["<Text", "$labels"])
def test_the_interface_is_sound_xml(script, tmp_path):
    from xml.etree import ElementTree

    write("label-studio", tmp_path / "arb.json", [row for row in lesson_dataset() if row["language"] == "arb"])
    text = (tmp_path / "arb.xml").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert script in text and "rtl" in text and {e.tag for e in root.iter()} == {"View", "Labels", "Text"}


# Real texts, where they are


def human_rows(path: Path, most: int) -> list[dict]:
    "Rows of a human-labelled set, from tags to characters."
    code = path.parent.name
    script = languages()[code].script if code in languages() else "Latn"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(most), file, strict=False)]
    verbatim = tokens_are_text([row["tokens"] for row in rows], script)
    made = []
    for n, row in enumerate(rows):
        text, places = join_tokens(row["tokens"], script, verbatim=verbatim)
        inside = [([p for p in places[a:b] if p[0] < p[1]], label) for a, b, label in spans_of_tags(row["ner_tags"])[0]]
        spans = [(words[0][0], words[-1][1], label) for words, label in inside if words]
        made.append(row_of(text, spans, code, f"{path.parent.parent.name}_{n}"))
    return made


def test_human_labels_come_back(real_data, tmp_path):
    files = sorted((real_data / "ner").rglob("*.jsonl.gz"))
    assert files
    entities, said = 0, Counter()
    for path in files:
        rows = human_rows(path, 40)
        entities += sum(len(row["char_spans"]) for row in rows)
        for name in NAMES if path.name.startswith("dev") else [n for n in NAMES if n != "spacy"]:
            said[name] += outer(same(name, rows, tmp_path))
    assert entities > 1000 and said["conll"] < entities // 100 and not said["gliner"]


def drawn_row(text: str, code: str, name: str) -> dict:
    "A row with drawn spans: of words, of graphemes, of any characters, and again on the same places."
    noise = random.Random(name)
    words, marks = tokens(text, code), [0, *(end for _, end in graphemes(text))]
    spans = []
    for n in range(min(20, len(text) // 10)):
        edges = [word[n % 2] for word in words[:200]] if n % 4 < 2 else marks if n % 4 == 2 else range(len(text) + 1)
        start, end = sorted(noise.choices(list(edges), k=2)) if len(edges) > 1 else (0, 0)
        if start < end:
            spans += [(start, min(end, start + 60), noise.choice(LABELS))] * noise.choice((1, 1, 1, 2))
    return row_of(text, sorted(spans), code, name, url="https://example.org", document_id=name)


def test_web_texts_of_every_language_come_back_with_overlapping_spans(real_data, tmp_path):
    files = sorted((real_data / "web").glob("*.parquet"))
    assert len(files) >= 91
    rows = []
    for path in files:
        table = next(pq.ParquetFile(path).iter_batches(60, columns=["text"])).to_pylist()
        texts = sorted((row["text"][:400] for row in table), key=lambda text: not ASTRAL.search(text))
        rows += [drawn_row(text, path.stem, f"{path.stem}_{n}") for n, text in enumerate(texts[:3])]
    for name in NAMES:
        counts = same(name, rows, tmp_path, "utf16")
        if name in ("label-studio", "spans"):
            assert not counts
    assert any(ASTRAL.search(row["text"]) for row in rows)
