"""A user's own texts: files of every likely form, columns of other names, text files of many articles, licences, and
sources with hardly anything in them."""

import bz2
import csv
import gzip
import json
import lzma
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import papermill
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import LIGHT_FILTER, SMALL

from finerweb.corpus import TextFiles, notes_on_files, notes_on_identifiers
from finerweb.data import asset
from finerweb.filter import notes_on_training, split
from finerweb.dataset.card import licence_of
from finerweb.runner.plan import plan
from finerweb.runner.profiles import load_profile
from finerweb.runner.options import change_profile
from finerweb.source.documents import (
    Document,
    Dropped,
    documents,
    lines_on_files,
    shard_documents,
    source_fingerprint,
)
from finerweb.source.files import Shard, form_of
from finerweb.source.rows import shard_rows
from finerweb.source.shards import local_shards
from finerweb.store import Task, notebooks_folder

UNCHANGED = dict(languages="", source="", workers=0, settings=[])


def sample(language: str = "swh", characters: int = 400) -> list[dict]:
    "The sample's documents of a language that are long enough to be used."
    lines = (asset("sample") / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if len(row["text"]) > characters]


def written(folder: Path, name: str, rows: list[dict]) -> Path:
    "`rows` as a file of the form that its name tells."
    folder.mkdir(exist_ok=True)
    path, form = folder / name, form_of(name)
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if form == "csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if ".tsv" in name else ",")
            table.writeheader()
            table.writerows(rows)
        text = path.read_text(encoding="utf-8")
    elif form == "json":
        text = json.dumps(rows, indent=1)
    elif form == "lines":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        text = "\n\n".join(" ".join(row["text"].split()) for row in rows)
    packings = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    packings[".zst"] = lambda content: pa.compress(content, codec="zstd", asbytes=True)
    path.write_bytes(packings.get(path.suffix.lower(), bytes)(text.encode()))
    return path


def texts_of(source: Path, **options: object) -> list[str]:
    return sorted(d.text for d in documents(str(source), "swh", seed=1, **options) if not d.reason)


@pytest.fixture
def corpus(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[list[dict], dict]]:
    "`corpus(source, ...)`: the rows of 10_corpus and its meta.json; its notebook runs in this process."
    monkeypatch.setenv("FINERWEB_HOME", str(tmp_path / "home"))
    cells = json.loads((notebooks_folder() / "10_corpus.ipynb").read_text(encoding="utf-8"))["cells"]

    def run(source: Path, **parameters: object) -> tuple[list[dict], dict]:
        scope = {}
        for cell in cells:
            code = "".join(cell["source"])
            if "parameters" in cell["metadata"].get("tags", ()):
                exec(code, scope)
                scope |= dict(home=str(tmp_path / "home"), language="swh", source=str(source)) | parameters
            elif cell["cell_type"] == "code" and code.startswith(("#| export", "#| eval: false")):
                exec(code, scope)
        folder = scope["task"].folder
        return pq.read_table(folder / "rows.parquet").to_pylist(), json.loads((folder / "meta.json").read_text())

    return run


# --- the forms


LIKELY = (
    "texts.parquet", "texts.jsonl", "texts.jsonl.gz", "texts.json", "texts.csv", "texts.tsv", "texts.txt",
    "folder of text",
)  # fmt: skip


@pytest.mark.parametrize("form", LIKELY)
def test_the_likely_forms_work_at_the_first_try_or_the_message_says_what_to_change(corpus, tmp_path, form):
    rows = [{"nr": n, "text": row["text"], "by": "A. Writer"} for n, row in enumerate(sample()[:6])]
    if form == "folder of text":
        for n, row in enumerate(rows):
            written(tmp_path / "in", f"{n}.TXT", [row])
        source, options = tmp_path / "in", {}
    else:
        source, options = written(tmp_path / "in", form, rows), {}
    if form == "texts.txt":
        options = {"text_documents": "paragraphs"}
    drawn, meta = corpus(source, **options)
    assert len(drawn) == meta["rows"] == 6 and not meta["dropped"]
    whole = " ".join(" ".join(row["text"].split()) for row in rows)
    assert all(" ".join(row["text"].split()) in whole for row in drawn)
    if form == "texts.txt":
        assert meta["notes"] == ["texts.txt: 6 documents, split at empty lines"]
    elif form != "folder of text":
        renamed = [{"nr": row["nr"], "story": row["text"], "by": row["by"]} for row in rows]
        other = written(tmp_path / "other", form, renamed)
        with pytest.raises(ValueError, match="if 'story' is the text, add --text-column story"):
            corpus(other)
        drawn, _ = corpus(other, columns={"text": "story", "id": "nr"})
        assert {row["document_id"] for row in drawn} == {str(n) for n in range(6)}


def test_one_folder_with_every_form(tmp_path, capsys):
    rows, names = sample()[:1], ("a.parquet", "b.Parquet", "c.jsonl", "d.JSONL", "e.ndjson", "f.json", "g.csv", "h.tsv")
    names += ("i.txt", "j.md", *(f"k{n}{end}" for n, end in enumerate((".jsonl.gz", ".jsonl.zst", ".csv.bz2"))))
    names += ("l.txt.gz", "m.json.xz", "n.TXT.ZST")
    for name in names:
        written(tmp_path / "in", name, [{"text": f"{rows[0]['text']} {name}"}])
    for name in ("report.pdf", "table.xlsx", ".hidden.jsonl", "notes", "README.md", "a.parquet.gz"):
        (tmp_path / "in" / name).write_text("x")
    (tmp_path / "in/empty.jsonl").touch()
    (tmp_path / "in/run/10_corpus").mkdir(parents=True)
    (tmp_path / "in/run/profile.yaml").touch()
    assert sorted(text.split()[-1] for text in texts_of(tmp_path / "in")) == sorted(names)
    [line] = capsys.readouterr().out.splitlines()
    for part in (
        "4 of no form that is read (a.parquet.gz, notes, report.pdf, …)",
        "1 hidden (.hidden.jsonl)",
        "1 empty (empty.jsonl)",
        "1 a run's folder (run)",
        "1 about the files (README.md)",
    ):
        assert part in line
    assert line.startswith(f"left out of {tmp_path / 'in'}: ")


def test_a_folder_in_which_nothing_can_be_read_says_what_is_there(tmp_path):
    (tmp_path / "a.pdf").touch()
    with pytest.raises(FileNotFoundError, match=r"no file ends in \.parquet.*there is 1 of no form .*\(a\.pdf\)"):
        local_shards(str(tmp_path), "swh")
    with pytest.raises(FileNotFoundError, match="is not there; give a file, a folder, a pattern, 'sample' or 'hub'"):
        local_shards(str(tmp_path / "sampel"), "swh")
    (tmp_path / "b").mkdir()
    with pytest.raises(FileNotFoundError, match="there is nothing"):
        local_shards(str(tmp_path / "b"), "swh")


BROKEN = {
    "latin.csv": ("text\n" + "Même à Nîmes, près de la forêt, où l'on a dîné. " * 9).encode("latin-1"),
    "null.jsonl": (json.dumps({"text": "\0\1\2" * 200}) + "\n").encode(),
    "cut.jsonl.gz": gzip.compress((json.dumps({"text": "Oslo"}) + "\n").encode() * 2000)[:-9],
    "cut.jsonl.zst": pa.compress(b'{"text": "Oslo"}\n' * 9, codec="zstd", asbytes=True)[:-3],
    "none.parquet": b"PAR1 no parquet PAR1",
    "none.csv.gz": b"no gzip",
    "none.json": b'{"text": "Oslo"',
    "ragged.csv": b"id,text\n1,Oslo, Rome\n",
    "names.csv": b"Oslo ni mji mkuu wa Norwei, na Roma ni mji mkuu wa Italia.\nRoma\n",
}
WHY = {
    "latin.csv": "no UTF-8", "null.jsonl": "control characters", "ragged.csv": "this row has 3 fields, the first 2",
    "names.csv": "its first row must name the columns", "none.json": "the JSON is wrong or breaks off",
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_kept_aside_and_the_rest_is_read(tmp_path, name):
    (tmp_path / name).write_bytes(BROKEN[name])
    written(tmp_path, "good.jsonl", [{"text": "Nairobi ni mji."}])
    pages = list(documents(str(tmp_path), "swh", seed=1))
    assert "Nairobi ni mji." in [d.text for d in pages if not d.reason]
    bad = [d for d in pages if d.reason]
    assert bad and all(d.shard == name for d in bad) and WHY.get(name, "") in bad[-1].detail


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_marks_and_line_ends_change_nothing(tmp_path, encoding, end):
    rows = [{"id": str(n), "text": f"Ukurasa {n} wa Nairobi"} for n in range(3)]
    contents = {
        "a.csv": ["id,text", *(f"{row['id']},{row['text']}" for row in rows)],
        "b.tsv": ["text\tid", *(f"{row['text']}\t{row['id']}" for row in rows)],
        "c.jsonl": [json.dumps(row) for row in rows],
        "d.json": json.dumps(rows, indent=1).split("\n"),
        "e.csv": ["id;text", *(f'{row["id"]};"{row["text"]}"' for row in rows)],
    }
    for name, lines in contents.items():
        (tmp_path / name).write_bytes((end.join(lines) + end).encode(encoding))
        read = [(d.id, d.text) for d in documents(str(tmp_path / name), "swh", seed=1)]
        assert read == [(row["id"], row["text"]) for row in rows], name


def test_json_of_every_shape(tmp_path):
    pages = [{"text": f"Ukurasa {n} {'wa ' * 900}"} for n in range(2000)]
    (tmp_path / "a.json").write_text(json.dumps(pages))
    shard = Shard(str(tmp_path / "a.json"), "a.json")
    assert [row["text"] for _, row in shard_rows(shard)] == [page["text"] for page in pages]
    assert [n for n, _ in shard_rows(shard, start=1998)] == [1998, 1999]
    shapes = {
        '["Jambo", {"text": "Dunia"}, 7]': ["", "", "no_text"],
        '{"text": "Jambo",\n "id": 1}\n{"text": "Dunia"}': ["", ""],
        '[{"text": "Jambo"}] trailing': ["", "unreadable_file"],
        '{"pages": [{"text": "Jambo"}]}': ["no_text"],
        "[]": [],
    }
    for text, reasons in shapes.items():
        (tmp_path / "b.json").write_text(text)
        assert [d.reason for d in documents(str(tmp_path / "b.json"), "swh", seed=1)] == reasons, text


def test_lines_of_carriage_returns_and_quotes_over_lines(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,text\r1,Jambo\r2,Dunia\r")
    (tmp_path / "b.csv").write_bytes(b'id,text\n1,"Jambo,\n""dunia"""\n\n2,\xe2\x80\xa8Dunia\n')
    assert texts_of(tmp_path / "a.csv") == ["Dunia", "Jambo"]
    assert texts_of(tmp_path / "b.csv") == ['Jambo,\n"dunia"', "\u2028Dunia"]


# --- whose language a file is


def test_a_file_named_after_another_language_is_left_out_aloud(tmp_path, capsys):
    for name in ("swh.jsonl", "THA.txt", "arb_Arab.csv"):
        written(tmp_path, name, [{"text": "Nairobi ni mji."}])
    assert [s.name for s in local_shards(str(tmp_path), "swh")] == ["swh.jsonl"]
    assert [s.texts for s in local_shards(str(tmp_path), "tha")] == [("THA.txt",)]
    assert [s.name for s in local_shards(str(tmp_path), "arb")] == ["arb_Arab.csv"]
    assert list(documents(str(tmp_path), "fin", seed=1)) == []
    assert "3 named after another language (THA.txt, arb_Arab.csv, swh.jsonl)" in capsys.readouterr().out
    read, others = lines_on_files(str(tmp_path), ["swh", "tha"])
    assert read == f"read from {tmp_path}: 1 .jsonl, 1 .txt" and "1 named after another language (arb_" in others
    assert lines_on_files(str(tmp_path), ["swh", "tha", "arb"])[1] == ""


def test_the_error_of_a_language_without_a_file_names_the_file(corpus, tmp_path):
    source = written(tmp_path, "swh.jsonl", sample()[:2])
    with pytest.raises(ValueError, match=r"no usable document of tha .*1 named after another language \(swh\.jsonl\)"):
        corpus(source, language="tha")


def test_the_rows_decide_where_all_files_are_named_after_other_languages(tmp_path):
    written(tmp_path, "swh.jsonl", [{"text": "Oslo.", "language": "tha_Thai"}, {"text": "Roma.", "language": "swh"}])
    written(tmp_path, "arb.csv", [{"text": "Nairobi."}])
    assert [d.text for d in documents(str(tmp_path), "tha", seed=1)] == ["Oslo."]
    assert source_fingerprint(str(tmp_path / "swh.jsonl"), "tha")


def test_two_letters_name_a_file_for_its_own_language_only(tmp_path):
    for name in ("sw.txt", "en.txt", "my.txt"):
        written(tmp_path, name, [{"text": f"{name} Nairobi"}])
    assert [s.texts for s in local_shards(str(tmp_path), "swh")] == [("sw.txt",)]
    assert [s.texts for s in local_shards(str(tmp_path), "fin")] == [("en.txt", "my.txt", "sw.txt")]


# --- columns and identifiers


def test_columns_of_other_names_in_every_table(tmp_path):
    rows = [{"nr": n, "story": f"Ukurasa {n}", "link": f"https://example.org/{n}"} for n in range(3)]
    columns = {"text": "story", "id": "nr", "url": "link"}
    for name in ("a.parquet", "a.jsonl", "a.json", "a.csv", "a.tsv"):
        source = written(tmp_path, name, rows)
        pages = list(documents(str(source), "swh", seed=1, columns=columns))
        expected = [("0", "Ukurasa 0"), ("1", "Ukurasa 1"), ("2", "Ukurasa 2")]
        assert [(d.id, d.text) for d in pages] == expected and pages[2].url.endswith("/2"), name
        wrong = list(shard_documents(Shard(str(source), name, columns=(("text", "body"),)), "swh"))
        assert all("no column 'body', only nr, story, link; if 'story' is the text" in d.detail for d in wrong), name
    with pytest.raises(ValueError, match="columns has title: 'x'; expected text, id, url, language"):
        list(documents(str(tmp_path), "swh", seed=1, columns={"title": "x"}))


def test_identifiers_that_are_numbers_or_missing_or_double(tmp_path):
    values = (0, 1.0, None, float("nan"), "", "x", True)
    rows = [{"id": value, "text": f"Ukurasa {n}"} for n, value in enumerate(values)]
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [d.id for d in documents(str(source), "swh", seed=1)]
    assert names == ["0", "1", "a.jsonl:2", "a.jsonl:3", "a.jsonl:4", "x", "True"]
    dropped = Dropped("swh")
    for _ in range(9):
        dropped.add({"id": "same", "text": "x"}, "duplicate_id")
    [note] = notes_on_identifiers(dropped, 10)
    assert "9 of 10 documents have the identifier of another one" in note and "--id-column" in note
    assert notes_on_identifiers(dropped, 100) == [] == notes_on_files(dropped)


def test_a_file_that_cannot_be_read_stands_in_the_summary(corpus, tmp_path):
    written(tmp_path / "in", "good.jsonl", sample()[:3])
    written(tmp_path / "in", "other.csv", [{"nr": 1, "story": "Nairobi ni mji."}])
    _, meta = corpus(tmp_path / "in")
    assert [note for note in meta["notes"] if "1 file cannot be read" in note and "--text-column story" in note]


def test_the_command_line_and_the_profile_name_the_columns_for_both_stages_that_read():
    options = dict(columns={"text": "body", "id": "", "url": ""}, text_documents="lines", license="cc0-1.0")
    profile = change_profile(load_profile("demo"), **UNCHANGED | dict(source="a.csv"), **options)
    for task in plan(profile):
        if task.stage in ("10_corpus", "13_select"):
            assert task.parameters["columns"] == {"text": "body"} and task.parameters["text_documents"] == "lines"
        if task.stage == "20_publish":
            assert task.parameters["source"] == "a.csv" and task.parameters["license"] == "cc0-1.0"
    settings = ["10_corpus.columns={text: story}", "10_corpus.text_documents=paragraphs"]
    for task in plan(change_profile(load_profile("demo"), **UNCHANGED | dict(settings=settings))):
        if task.stage in ("10_corpus", "13_select"):
            assert task.parameters["columns"] == {"text": "story"} and task.parameters["text_documents"] == "paragraphs"
    with pytest.raises(ValueError, match="columns has body: 'text'"):
        change_profile(load_profile("demo"), **UNCHANGED, columns={"body": "text"})


# --- text files of many articles


def test_a_text_file_is_cut_and_read_from_any_document_on(tmp_path):
    source = tmp_path / "many.txt"
    source.write_text("Oslo\nni mji.\n\n \n\nRoma.\n-----\nNairobi.\n\n")
    parts = {"file": 1, "paragraphs": 2, "lines": 5, "-----": 2, "=====": 1}
    for cut, number in parts.items():
        whole = list(documents(str(source), "swh", seed=1, split=cut))
        assert len(whole) == number and not any(d.reason for d in whole), cut
        for n, document in enumerate(whole if cut != "file" else []):
            assert document.id == f"many.txt:{n}"
            rest = documents(str(source), "swh", seed=1, split=cut, after=(document.shard, document.row))
            assert list(rest) == whole[n + 1 :]


def test_a_long_text_file_is_told_of_with_the_option_that_cuts_it(corpus, tmp_path):
    rows = sample() * 8
    source = written(tmp_path / "in", "my.txt", rows)
    drawn, meta = corpus(source)
    told = r"my\.txt is one document of [\d,]+ characters; to split it: --text-documents paragraphs"
    assert len(drawn) == 1 and re.fullmatch(told + ".*", meta["notes"][0])
    drawn, meta = corpus(source, text_documents="paragraphs")
    assert len(drawn) == 24 and meta["notes"] == [f"my.txt: {len(rows)} documents, split at empty lines"]
    drawn, meta = corpus(source, text_documents="-----")
    assert meta["notes"] == ["my.txt: one document; it has no lines '-----' to split it at"]
    source.write_text(source.read_text() * 40)
    with pytest.raises(ValueError, match="too_long: .*split it: --text-documents paragraphs"):
        corpus(source)
    texts = TextFiles("file", words_per_chunk=256)
    pages = [Document(f"{n}.txt", "neno " * 9000, shard=".") for n in range(9)]
    assert len(list(texts.watch(pages))) == 9 and texts.notes()[-1] == "… and so 4 more files"


# --- the licence


def execute(stage: str, folder: Path, parameters: dict) -> None:
    "Executes a stage's notebook into `folder`."
    notebook, copy = notebooks_folder() / f"{stage}.ipynb", folder / "out.ipynb"
    papermill.execute_notebook(str(notebook), str(copy), parameters=parameters, progress_bar=False)


def published(folder: Path) -> tuple[str, str]:
    "The licence in the head of a published card, and the card."
    card = (folder / "20_publish/merged-english-passages/README.md").read_text(encoding="utf-8")
    return yaml.safe_load(card.split("---")[1])["license"], card


def test_two_documents_make_a_dataset_whose_card_names_its_licence(finerweb, profile_file, tmp_path):
    source = written(tmp_path / "in", "texts.jsonl", [{"text": row["text"]} for row in sample("eng")[:2]])
    stages = SMALL["stages"] | {"12_filter": LIGHT_FILTER}
    profile = profile_file(tmp_path, languages=["eng"], students=[], benchmarks=[], stages=stages)
    words = ("run", profile, "--source", source, "--stages", "20_publish")
    done = finerweb(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it learnt from 1 of 2 rated passages" in done.stdout and f"read from {source}: 1 .jsonl" in done.stdout
    licence, card = published(tmp_path / "runs/small")
    assert licence == "unknown" and "with `--license NAME`" in card
    done = finerweb(tmp_path, *words, "--license", "CC-BY-4.0")
    licence, card = published(tmp_path / "runs/small")
    assert licence == "cc-by-4.0" and "The texts are under cc-by-4.0" in card and "not known" not in card
    assert "done 20_publish" in done.stdout and "done 13_select" not in done.stdout


def test_the_cards_of_the_sample_and_of_the_hub_name_their_licences(finished, tmp_path):
    licence, card = published(finished[0] / "runs/small")
    assert licence == "apache-2.0" and "the sample that comes with finerweb" in card
    shutil.copytree(finished[0] / "runs", tmp_path / "runs")
    parameters = dict(home=str(tmp_path / "runs"), run="small", languages=["eng", "swh"], source="hub")
    execute("20_publish", tmp_path, parameters)
    licence, card = published(tmp_path / "runs/small")
    assert licence == "odc-by" and "The texts are from FineWeb" in card


def test_the_licence_of_every_source():
    hub = {"hub", "hub:HuggingFaceFW/fineweb-2@v2", "hub:HuggingFaceFW/fineweb/data", "hub:HuggingFaceFW/fineweb-edu"}
    assert {licence_of(source, "")[0] for source in hub} == {"odc-by"} and licence_of("sample", "")[0] == "apache-2.0"
    assert {licence_of(source, "")[0] for source in ("hub:me/pages", "hubs", "texts/*.csv")} == {"unknown"}
    profile = load_profile("demo")
    with pytest.raises(ValueError, match="license is 'my own\\\\nrules'; expected one short name"):
        change_profile(profile, **UNCHANGED, license="my own\nrules")
    told = change_profile(load_profile("demo"), **UNCHANGED, license="mit")
    assert change_profile(told, **UNCHANGED | dict(source="other.csv")).license == "", "of another source none is known"


# --- numbers, and sources with hardly anything in them


def test_numbers_with_exponents_are_numbers_everywhere_in_a_profile(tmp_path):
    teachers = "teachers: [{name: lexicon, kind: weak}, {name: m, kind: endpoint, model: x, cap: 5e-1}]\n"
    numbers = "filter: {learning_rate: [3e-5, 1E-4]}\nstages: {33_binder: {head_rate: 2.5e-3}}\n"
    (tmp_path / "p.yaml").write_text("languages: [swh]\n" + teachers + numbers)
    profile = load_profile(str(tmp_path / "p.yaml"))
    assert profile.teachers[1]["cap"] == 0.5 and profile.filter == {"learning_rate": [3e-5, 1e-4]}
    assert profile.stages["33_binder"] == {"head_rate": 0.0025}
    changed = change_profile(profile, **UNCHANGED | dict(settings=["33_binder.head_rate=3e-5"]))
    assert changed.stages["33_binder"]["head_rate"] == 3e-5


def test_few_ratings_are_split_and_told_of():
    row = lambda n, language, target: dict(id=f"{language}{n}", language=language, script="Latn", target=target)
    one_each = [row(0, "eng", 1.0), row(0, "swh", 0.0)]
    train, held_out, _ = split(one_each, validation=0.2, seed=13)
    assert (len(train), len(held_out)) == (1, 1)
    assert "it learnt from 1 of 2 rated passages" in notes_on_training(train, held_out, task="binary")[0]
    notes = notes_on_training([row(n, "eng", 0.0) for n in range(30)], held_out, task="binary")
    assert notes == ["all 30 passages that it learnt from are of class 0: it tells none apart"]
    assert split(one_each[:1], validation=0.2, seed=13) == (one_each[:1], [], [])


def test_a_filter_learns_from_two_documents_by_its_head_too(finerweb, profile_file, tmp_path):
    source = written(tmp_path / "in", "texts.jsonl", [{"text": row["text"]} for row in sample("eng")[:2]])
    stages = SMALL["stages"] | {"12_filter": LIGHT_FILTER | {"trained": "head"}}
    profile = profile_file(tmp_path, languages=["eng"], students=[], benchmarks=[], stages=stages)
    words = ("--source", source, "--stages", "12_filter")
    done = finerweb(tmp_path, "run", profile, *words)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_filter_without_a_rated_passage_says_so(tmp_path):
    for teacher in ("lexicon", "patterns"):
        Task(str(tmp_path), "small", "11_rate", ("eng", teacher), parameters={}).write([])
    with pytest.raises(papermill.PapermillExecutionError, match="no passage is rated by every teacher"):
        execute("12_filter", tmp_path, dict(home=str(tmp_path), run="small", languages=["eng"]))
