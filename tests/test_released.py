"""A released dataset as the input of a run: its layouts, rows that do not fit, and what the runner thinks of it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub

from finerweb.data import check_rows, read_rows
from finerweb.runner.plan import plan
from finerweb.runner.standing import up_to_date
from finerweb.runner.profiles import load_profile
from finerweb.runner.options import change_profile
from finerweb.source.released import (
    import_language,
    language_rows,
    open_released,
    released_about,
    released_files,
    released_fingerprint,
)
from finerweb.store import Task, read_meta
from finerweb.text.segment import tokens

_SPAN = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("label", pa.string())])
PAPER = pa.schema([
    ("id", pa.string()), ("text", pa.string()), ("char_spans", pa.list_(_SPAN)), ("tokens", pa.list_(pa.string())),
    ("token_spans", pa.list_(_SPAN)),
])  # fmt: skip
TEXTS = {
    "tha": ("วังการี มาไท เกิดที่ประเทศเคนยา 🌍", [(0, 12, "person / human"), (0, 7, "name"), (20, 31, "country")]),
    "arb": ("وُلدت في نيروبي والخرطوم.", [(9, 15, "city"), (17, 24, "capital")]),
    "eng": ("🌍 Wangari Maathai, of Nyeri, won.", [(2, 17, "person"), (22, 27, "city")]),
}


def paper_row(language: str, name: str) -> dict:
    "A row as the paper released it."
    text, spans = TEXTS[language]
    places = tokens(text, language)
    row = {"id": name, "text": text, "tokens": [text[a:b] for a, b in places], "char_spans": [], "token_spans": []}
    for start, end, label in spans:
        row["char_spans"].append({"start": start, "end": end, "label": label})
        touched = [n for n, (a, b) in enumerate(places) if a < end and start < b]
        row["token_spans"].append({"start": touched[0], "end": touched[-1] + 1, "label": label})
    return row


def put(path: Path, rows: list[dict], schema: pa.Schema = PAPER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


LAYOUTS = ["{0}/train.parquet", "data/{0}-00000-of-00001.parquet", "{0}.parquet", "data/{0}_Xxxx/train-00000.parquet"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_and_every_row_is_one_of_16_merge(tmp_path, layout):
    for language in TEXTS:
        put(tmp_path / layout.format(language), [paper_row(language, f"{language}_2200-s0")])
    files = open_released(str(tmp_path))
    assert list(files.languages) == sorted(TEXTS) and not files.unknown
    for language, (text, spans) in TEXTS.items():
        released = language_rows(files, language)
        (row,) = check_rows(released.rows, "16_merge")
        assert not released.dropped and released.counts == {"characters": len(spans), "sentences": 1}
        assert not released.scores, "the paper gives none"
        assert (row["text"], row["language"], row["document_id"]) == (text, language, f"{language}_2200")
        assert [(e["start"], e["end"], e["label"]) for e in row["entities"]] == sorted(spans)
        assert {e["score"] for e in row["entities"]} == {1.0} and row["entities"][0]["teachers"] == []
        assert row["script"] == {"tha": "Thai", "arb": "Arab", "eng": "Latn"}[language]


def test_the_card_says_which_file_is_whose(tmp_path):
    put(tmp_path / "parts" / "a.parquet", [paper_row("tha", "tha_0")])
    put(tmp_path / "parts" / "b.parquet", [paper_row("eng", "eng_0")])
    put(tmp_path / "parts" / "c.parquet", [paper_row("eng", "eng_1")])
    head = "configs:\n- config_name: tha\n  data_files: parts/a.parquet\n- config_name: default\n  data_files:\n"
    head += "  - {split: eng, path: parts/b.parquet}\n  - {split: toki_pona, path: parts/c.parquet}\n"
    (tmp_path / "README.md").write_text(f"---\n{head}---\n# Card\n")
    files = released_files(tmp_path)
    assert {code: [p.name for p in paths] for code, paths in files.languages.items()} == {
        "eng": ["b.parquet"],
        "tha": ["a.parquet"],
    }
    assert files.unknown == {"parts/c.parquet": "default is no known language"}


def test_unknown_folders_links_and_several_variants_are_said(tmp_path):
    put(tmp_path / "a" / "klingon" / "train.parquet", [paper_row("eng", "x")])
    with pytest.raises(ValueError, match="klingon/train.parquet is no known language; expected LANGUAGE/train.parquet"):
        open_released(str(tmp_path / "a"))
    outside = put(tmp_path / "secret.parquet", [paper_row("eng", "x")])
    put(tmp_path / "a" / "tha" / "train.parquet", [paper_row("tha", "tha_0")])
    (tmp_path / "a" / "eng").mkdir()
    (tmp_path / "a" / "eng" / "train.parquet").symlink_to(outside)
    files = released_files(tmp_path / "a")
    assert list(files.languages) == ["tha"] and "is a link to" in files.unknown["eng/train.parquet"]
    for variant in ("merged-english-passages", "lexicon-english-passages"):
        put(tmp_path / "b" / variant / "tha" / "train.parquet", [paper_row("tha", "tha_0")])
    with pytest.raises(ValueError, match="several variants; name one of its folders: lexicon-.*, merged-"):
        open_released(str(tmp_path / "b"))


def shifted(row: dict, by: int) -> dict:
    spans = [s | {"start": s["start"] + by, "end": s["end"] + by} for s in row["char_spans"]]
    return row | {"char_spans": spans}


def in_utf16(row: dict) -> dict:
    "The row with offsets that count UTF-16 units, as a careless release has them."
    units = [len(row["text"][:n].encode("utf-16-le")) // 2 for n in range(len(row["text"]) + 1)]
    spans = [s | {"start": units[s["start"]], "end": units[s["end"]]} for s in row["char_spans"]]
    return row | {"char_spans": spans}


@pytest.mark.parametrize("spoil", [lambda row: shifted(row, 8), lambda row: shifted(row, 900), in_utf16])
def test_characters_that_do_not_fit_give_way_to_tokens(tmp_path, spoil):
    row = paper_row("eng", "eng_0")
    put(tmp_path / "eng" / "train.parquet", [spoil(row)])
    released = language_rows(open_released(str(tmp_path)), "eng")
    (merged,) = released.rows
    assert not released.dropped and released.counts["tokens"] == 2 and not released.counts["characters"]
    named = {merged["text"][e["start"] : e["end"]]: e["label"] for e in merged["entities"]}
    assert named == {"Wangari Maathai": "person", "Nyeri": "city"}


def test_a_release_without_character_spans_is_read_by_its_tokens(tmp_path):
    rows = [{c: row[c] for c in PAPER.names if c != "char_spans"} for row in [paper_row("tha", "tha_0")]]
    put(tmp_path / "tha" / "train.parquet", rows, PAPER.remove(2))
    released = language_rows(open_released(str(tmp_path)), "tha")
    (merged,) = released.rows
    assert released.counts["tokens"] == 3
    assert [(e["start"], e["end"]) for e in merged["entities"]] == [(0, 7), (0, 12), (20, 31)]


def test_tokens_that_are_not_in_the_text_leave_the_characters_alone(tmp_path):
    row = paper_row("eng", "eng_0") | {"tokens": ["<unk>"] * 9}
    put(tmp_path / "eng" / "train.parquet", [row])
    released = language_rows(open_released(str(tmp_path)), "eng")
    assert not released.dropped and released.counts["characters_alone"] == 2


WRONG = {
    "wrong_text": {"text": " ", "tokens": [], "char_spans": [], "token_spans": []},
    "wrong_id": {"id": None},
    "wrong_spans": {"char_spans": [{"start": 0, "end": 900, "label": "person"}], "token_spans": []},
    "wrong_spans label": {"char_spans": [{"start": 2, "end": 17, "label": ""}], "token_spans": []},
    "wrong_spans blank": {"char_spans": [{"start": 1, "end": 2, "label": "x"}], "token_spans": []},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_bad_row_is_kept_aside_and_stops_no_other(tmp_path, wrong):
    rows = [paper_row("eng", f"eng_{n}") for n in range(1500)]
    rows[1200] |= WRONG[wrong]
    put(tmp_path / "eng" / "train.parquet", rows)
    released = language_rows(open_released(str(tmp_path)), "eng")
    assert len(released.rows) == 1499 and released.counts["characters"] == 2 * 1499
    assert [row["reason"] for row in released.dropped] == [wrong.split()[0]]
    assert released.dropped[0]["detail"].startswith("eng/train.parquet: ")


def test_a_sentence_beside_its_passage_is_kept_aside(tmp_path):
    rows = [paper_row("eng", name) for name in ("eng_0-s0", "eng_0", "eng_1-s0")]
    put(tmp_path / "eng" / "train.parquet", rows)
    released = language_rows(open_released(str(tmp_path)), "eng")
    assert [row["id"] for row in released.rows] == ["eng_0", "eng_1-s0"] and released.counts["sentences"] == 1
    assert [(row["id"], row["reason"]) for row in released.dropped] == [("eng_0-s0", "wrong_id")]


def own_schema() -> pa.Schema:
    more = [("score", pa.float64()), ("probability", pa.float64()), ("teachers", pa.list_(pa.string()))]
    spans = pa.list_(pa.struct([*_SPAN, *(pa.field(*part) for part in more)]))
    own = [pa.field(c, pa.string()) for c in ("language", "script", "url", "document_id")]
    return pa.schema([*PAPER, *own]).set(2, pa.field("char_spans", spans))


def test_our_own_columns_are_kept(tmp_path):
    place = {"language": "tha", "script": "Thai", "url": "https://x.org", "document_id": "<1>"}
    row = paper_row("tha", "tha_7") | place
    for n, span in enumerate(row["char_spans"]):
        span.update(score=[0.7, 0.7, 2.0][n], probability=[0.9, None, 0.2][n], teachers=["lexicon", "gemma"])
    other = row | {"id": "tha_8", "language": "eng"}
    put(tmp_path / "tha" / "train.parquet", [row, other], own_schema())
    released = language_rows(open_released(str(tmp_path)), "tha")
    (merged,), (aside,) = released.rows, released.dropped
    assert (merged["url"], merged["document_id"], released.counts["sentences"]) == ("https://x.org", "<1>", 0)
    assert [(e["score"], e["teachers"]) for e in merged["entities"]] == [
        (0.7, ["lexicon", "gemma"]), (0.9, ["lexicon", "gemma"]), (0.2, ["lexicon", "gemma"])
    ]  # fmt: skip
    assert released.scores == {"tha_7": [[0.7, None], [0.7, 0.9], [None, 0.2]]}, "2.0 is no score"
    assert aside["reason"] == "wrong_language" and "'eng', in the folder tha" in aside["detail"]


CARDS = {
    "license: CC-BY-4.0\npretty_name: 'A <b>name</b>'": ("A <b>name</b>", "cc-by-4.0"),
    "license: [odc-by]": ("release", "odc-by"),
    "license: [odc-by, mit]": ("release", ""),
    "license: unknown": ("release", ""),
    "license: {a: b}\npretty_name: [1]": ("release", ""),
    "license: 'no name <'": ("release", ""),
    ": : :": ("release", ""),
}


@pytest.mark.parametrize("head", CARDS)
def test_what_is_said_of_a_dataset_is_its_cards_and_never_a_path(tmp_path, head):
    folder = tmp_path / "release"
    put(folder / "tha" / "train.parquet", [paper_row("tha", "tha_0")])
    (folder / "README.md").write_text(f"---\n{head}\n---\n# Card\n")
    name, licence = CARDS[head]
    assert released_about(str(folder), open_released(str(folder))) == {"name": name, "license": licence}


WRONG_COLUMNS = {
    "tokens": pa.schema([PAPER.field("id"), PAPER.field("tokens")]),
    "numbers for names": PAPER.set(0, pa.field("id", pa.int64())),
    "texts for spans": PAPER.set(2, pa.field("char_spans", pa.list_(pa.string()))),
    "spans without labels": PAPER.set(2, pa.field("char_spans", pa.list_(pa.struct([("start", pa.int64())])))),
}


@pytest.mark.parametrize("wrong", WRONG_COLUMNS)
def test_columns_that_are_none_of_a_release_are_refused(tmp_path, wrong):
    put(tmp_path / "tha" / "train.parquet", [], WRONG_COLUMNS[wrong])
    with pytest.raises(ValueError, match="tha/train.parquet has the columns id, .*: expected id and text as strings"):
        language_rows(open_released(str(tmp_path)), "tha")


def test_a_file_that_is_none_is_an_error_with_its_name(tmp_path):
    put(tmp_path / "eng" / "train.parquet", [paper_row("eng", "eng_0")])
    path = put(tmp_path / "tha" / "train.parquet", [paper_row("tha", "tha_0")])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="tha/train.parquet cannot be read as parquet"):
        language_rows(open_released(str(tmp_path)), "tha")
    assert language_rows(open_released(str(tmp_path)), "eng").rows


@pytest.fixture
def on_hub(tmp_path, monkeypatch):
    "A hub with a dataset of three languages and a file that is no data."
    constants = pytest.importorskip("huggingface_hub.constants")
    released = tmp_path / "hub/whoisjones/fiNERweb"
    for code in TEXTS:
        put(released / code / "train.parquet", [paper_row(code, f"{code}_2200-s0")])
    put(released / "klingon/train.parquet", [])
    (released / "evil.py").write_text("1")
    (released / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    with Hub(tmp_path / "hub") as hub:
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub._snapshot_download.constants", constants)
        yield hub


def test_from_the_hub_come_the_wanted_languages_and_later_the_cache_does(on_hub, tmp_path, monkeypatch):
    name = "whoisjones/fiNERweb"
    with pytest.raises(ValueError, match="has no rows of fra; it has arb, eng, tha"):
        open_released(name, ["fra", "tha"])
    files = open_released(name, ["tha"])
    assert {path for path, *_ in on_hub.asked} == {"README.md", "tha/train.parquet"}
    assert list(files.languages) == ["tha"] and len(language_rows(files, "tha").rows) == 1
    assert files.unknown == {"klingon/train.parquet": "klingon/train.parquet is no known language"}
    assert released_about("hub:" + name, files) == {"name": name, "license": "cc-by-4.0"}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert language_rows(open_released(name, ["tha"]), "tha").rows
    with pytest.raises((ConnectionError, ValueError), match="the hub did not give|has no rows of eng; it has tha"):
        open_released(name, ["eng"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert list(open_released(name).languages) == sorted(TEXTS)
    assert not list((tmp_path / "cache").rglob("evil.py"))
    for wanted in ([], ["tha"]):
        with pytest.raises(ConnectionError, match="the hub did not give nobody/nothing"):
            open_released("nobody/nothing", wanted)


@pytest.mark.parametrize("name", ["/no/such", "no such", "whoisjones"])
def test_what_is_neither_a_folder_nor_a_name_on_the_hub_is_refused(name):
    with pytest.raises(ValueError, match="is no folder here"):
        open_released(name)


def imported(source: Path, **changes: object) -> list:
    words = dict(languages="", source="", workers=0, settings=[], imported=str(source))
    return plan(change_profile(load_profile("imported"), **words | changes))


def test_what_is_written_is_what_the_plan_of_a_run_looks_for(tmp_path):
    source, home = tmp_path / "released", str(tmp_path / "runs")
    put(source / "eng" / "train.parquet", [paper_row("eng", "eng_0")])
    put(source / "tha" / "train.parquet", [paper_row("tha", "tha_0"), paper_row("tha", "tha_0")])
    merges = [task for task in imported(source, languages="eng,tha") if task.stage == "16_merge"]
    for planned in merges:
        task = Task(home, "mine", "16_merge", planned.key, parameters=planned.parameters)
        rows, _ = import_language(task, *planned.key, str(source))
        assert len(rows) == 1
    assert [up_to_date(task, home, "mine") for task in merges] == [True, True]
    meta = read_meta(task.folder)
    assert meta["dropped"] == {"wrong_id": 1} and meta["notes"] == ["1 of 2 released rows are kept aside"]
    assert read_rows(task.folder / "dropped.parquet")[0]["detail"] == "tha/train.parquet: stands there twice"
    put(source / "tha" / "train.parquet", [paper_row("tha", "tha_1")])
    assert [up_to_date(task, home, "mine") for task in merges] == [True, False], "the file of one language changed"
    put(source / "tha" / "train.parquet", [])
    with pytest.raises(ValueError, match="no row of tha in .* can be used: its files are empty"):
        import_language(task, "tha", str(source))
    (source / "tha" / "train.parquet").unlink()
    with pytest.raises(ValueError, match="has no rows of tha; it has eng"):
        released_fingerprint(str(source), "tha")
