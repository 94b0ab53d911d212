"""Croissant metadata: what it says, how large it is, and that the library that reads it finds the rows."""

import hashlib
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finerweb.dataset.croissant import croissant, dataset_files, write_croissant
from finerweb.languages import packaged_languages

ABOUT = dict(
    name="lesson", description="Texts.", license="odc-by", citation="@misc{x}", version="1.0.0", published="2026-01-31",
    url="https://example.org", creators=("The authors",),
)  # fmt: skip
_TEXTS = pa.list_(pa.string())
_CHAR = pa.struct([
    ("start", pa.int64()), ("end", pa.int64()), ("label", pa.string()), ("score", pa.float64()),
    ("probability", pa.float64()), ("teachers", _TEXTS),
])  # fmt: skip
_TOKEN = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("label", pa.string())])
RELEASED = pa.schema([
    ("id", pa.string()), ("text", pa.string()), ("char_spans", pa.list_(_CHAR)), ("tokens", _TEXTS),
    ("token_spans", pa.list_(_TOKEN)), ("language", pa.string()), ("url", pa.string()),
])  # fmt: skip
RATED = pa.schema([("id", pa.string()), ("text", pa.string()), ("score", pa.float64()), ("useful", pa.bool_())])


def row(language: str, n: int, spans: int = 3) -> dict:
    "A row with nested and overlapping spans, of which one has no probability."
    text = "الخرطوم 🌍 \u0e01\u0e23\u0e38\u0e07 Oslo"
    kinds = ["city", "capital 'x' \"y\"", "place"]
    kinds = kinds[:spans]
    more = [{"score": 0.5, "teachers": ["a", "b"][:k]} for k in range(spans)]
    chars = [{"start": 0, "end": 7 - k, "label": kind} | more[k] for k, kind in enumerate(kinds)]
    tokens = [{"start": 0, "end": 1, "label": kind} for kind in kinds]
    named = {"id": f"{language}_{n}", "text": text, "language": language, "url": None}
    return named | {"char_spans": chars, "tokens": text.split(), "token_spans": tokens}


@pytest.fixture
def folder(tmp_path) -> Path:
    "Two variants and the ratings, in three languages."
    for variant in ("merged-english-passages", "merged-english-sentences"):
        for language in ("arb", "eng", "tha"):
            path = tmp_path / variant / language / "train.parquet"
            path.parent.mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist([row(language, 0), row(language, 1, 0)], RELEASED), path)
    path = tmp_path / "preferences" / "eng" / "train.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"id": ["a"], "text": ["x"], "score": [3.0], "useful": [True]}, schema=RATED), path)
    return tmp_path


def test_it_says_each_file_with_its_hash_and_each_column_with_its_type(folder):
    described = croissant(folder, **ABOUT)
    objects = {d["@id"]: d for d in described["distribution"] if d["@type"] == "cr:FileObject"}
    assert len(objects) == 7
    for name, file in objects.items():
        content = (folder / name).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest() and file["contentSize"] == f"{len(content)} B"
    records = {r["@id"]: r for r in described["recordSet"]}
    assert set(records) == {"merged-english-passages", "merged-english-sentences", "preferences"}
    fields = {f["@id"].split("/")[-1]: f for f in records["preferences"]["field"]}
    assert {n: f["dataType"] for n, f in fields.items()} == {
        "config": "sc:Text", "id": "sc:Text", "text": "sc:Text", "score": "sc:Float", "useful": "sc:Boolean"
    }  # fmt: skip
    spans = next(f for f in records["merged-english-passages"]["field"] if f["@id"].endswith("/char_spans"))
    assert [f["@id"].split("/")[-1] for f in spans["subField"]] == [field.name for field in _CHAR]
    assert described["license"].startswith("https://opendatacommons.org") and described["citeAs"] == "@misc{x}"


def test_it_is_the_same_for_the_same_files(folder):
    first = write_croissant(folder, **ABOUT).read_bytes()
    assert write_croissant(folder, **ABOUT).read_bytes() == first


def test_a_single_variant_is_described_from_within(folder):
    described = croissant(folder / "merged-english-passages", **ABOUT)
    assert [r["@id"] for r in described["recordSet"]] == ["rows"]
    assert described["distribution"][0]["@id"] == "arb/train.parquet"


def test_other_columns_and_odd_names_are_refused(folder, tmp_path):
    odd = folder / "merged-english-passages" / "tha" / "train.parquet"
    pq.write_table(pq.read_table(odd).drop_columns(["url"]), odd)
    with pytest.raises(ValueError, match=r"tha/train.parquet has other columns than .*: url \(string\); publish"):
        croissant(folder, **ABOUT)
    odd.unlink()
    (folder / "merged-english-passages" / "a b").mkdir()
    os.replace(folder / "preferences/eng/train.parquet", folder / "merged-english-passages" / "a b" / "train.parquet")
    with pytest.raises(ValueError, match="'a b' is no plain name"):
        dataset_files(folder)
    with pytest.raises(ValueError, match="holds no dataset"):
        croissant(folder / "preferences", **ABOUT)


def test_91_languages_in_12_variants_are_half_a_megabyte(tmp_path):
    first = tmp_path / "first.parquet"
    pq.write_table(pa.Table.from_pylist([row("eng", 0)], RELEASED), first)
    for n in range(12):
        for language in packaged_languages():
            (tmp_path / "data" / f"variant-{n}" / language).mkdir(parents=True)
            os.link(first, tmp_path / "data" / f"variant-{n}" / language / "train.parquet")
    path = write_croissant(tmp_path / "data", **ABOUT)
    assert path.stat().st_size < 600_000
    described = json.loads(path.read_text(encoding="utf-8"))
    assert len(described["recordSet"]) == 12 and len(described["distribution"]) == 12 * 92


def test_mlcroissant_finds_nothing_wrong_and_loads_the_rows_with_their_nested_spans(folder):
    mlcroissant = pytest.importorskip("mlcroissant", reason="needs mlcroissant: pip install 'finerweb[croissant]'")
    dataset = mlcroissant.Dataset(str(write_croissant(folder, **ABOUT)))
    assert not dataset.metadata.ctx.issues.errors and not dataset.metadata.ctx.issues.warnings
    name = "merged-english-passages"
    loaded = list(dataset.records(name))
    assert [r[f"{name}/config"] for r in loaded] == [b"arb", b"arb", b"eng", b"eng", b"tha", b"tha"]
    original = row("tha", 0)
    record = next(r for r in loaded if r[f"{name}/id"] == b"tha_0")
    assert record[f"{name}/text"].decode() == original["text"] and record[f"{name}/url"] is None
    assert [token.decode() for token in record[f"{name}/tokens"]] == original["tokens"]
    for column in ("char_spans", "token_spans"):
        place = f"{name}/{column}"
        spans = [{key.removeprefix(f"{place}/"): value for key, value in s.items()} for s in record[place]]
        assert len(spans) == 3
        for span, wanted in zip(spans, original[column], strict=True):
            found = {"start": span["start"], "end": span["end"], "label": span["label"].decode()}
            assert found == {part: wanted[part] for part in found}
    teachers = [span[f"{name}/char_spans/teachers"] for span in record[f"{name}/char_spans"]]
    assert teachers == [[], [b"a"], [b"a", b"b"]]
    assert not loaded[1][f"{name}/char_spans"], "a row without entities"
    (rated,) = dataset.records("preferences")
    assert rated["preferences/score"] == 3.0 and rated["preferences/useful"] is True


def test_mlcroissant_reads_one_language_alone(folder):
    mlcroissant = pytest.importorskip("mlcroissant", reason="needs mlcroissant: pip install 'finerweb[croissant]'")
    path = write_croissant(folder, **ABOUT)
    (folder / "merged-english-passages" / "arb" / "train.parquet").write_bytes(b"spoiled")
    name = "merged-english-passages"
    loaded = list(mlcroissant.Dataset(str(path)).records(name, filters={f"{name}/config": "tha"}))
    assert [r[f"{name}/id"] for r in loaded] == [b"tha_0", b"tha_1"]
