"""Pushing to the hub, against a server on this machine; and the checks that stand before it."""

import hashlib
import importlib
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from push_server import PushHub

from finerweb.data import asset
from finerweb.dataset import push as push_module
from finerweb.dataset.checks import (
    FaultyDataset,
    LeakFinder,
    benchmark_texts,
    dataset_faults,
    file_faults,
    leak_faults,
)
from finerweb.dataset.push import files_to_push, push_dataset, push_model
from finerweb.text.segment import tokens

KEY = "hf_averysecretkey"
_SPAN = [("start", pa.int64()), ("end", pa.int64()), ("label", pa.string())]
_MORE = [("score", pa.float64()), ("probability", pa.float64()), ("teachers", pa.list_(pa.string()))]
FIVE = pa.schema([
    ("id", pa.string()), ("text", pa.string()), ("char_spans", pa.list_(pa.struct(_SPAN))),
    ("tokens", pa.list_(pa.string())), ("token_spans", pa.list_(pa.struct(_SPAN))),
])  # fmt: skip
_PLACES = [(column, pa.string()) for column in ("language", "script", "url", "document_id")]
ALL = pa.schema([f if f.name != "char_spans" else ("char_spans", pa.list_(pa.struct(_SPAN + _MORE))) for f in FIVE])
ALL = pa.schema([*ALL, *(pa.field(*place) for place in _PLACES)])
NUMBERS = dict(schemas=[FIVE, ALL], share=0.8, shortest=20, tests={})


def released(text: str, language: str, name: str, spans: list[tuple[int, int, str]]) -> dict:
    "A row with the tokens of the text."
    places = tokens(text, language)
    row = {"id": name, "text": text, "tokens": [text[a:b] for a, b in places], "char_spans": [], "token_spans": []}
    for start, end, label in spans:
        more = {"score": 0.9, "probability": None, "teachers": ["lexicon"]}
        row["char_spans"].append({"start": start, "end": end, "label": label, **more})
        touched = [n for n, (a, b) in enumerate(places) if a < end and start < b]
        row["token_spans"].append({"start": touched[0], "end": touched[-1] + 1, "label": label})
    return row | {"language": language, "script": "", "url": "", "document_id": ""}


TEXTS = {
    "swh": ("Wangari Maathai alizaliwa Nyeri, Kenya.", [(0, 15, "person"), (0, 7, "given name"), (26, 31, "city")]),
    "arb": ("وُلدت في نيروبي والخرطوم.", [(9, 15, "city"), (17, 24, "capital")]),
    "tha": ("วังการี มาไท เกิดที่ประเทศเคนยา", [(0, 12, "person"), (20, 31, "country")]),
    "eng": ("Zero\u200bwidth 🌍🌍 and 👩‍👩‍👧 in Oslo\u00a0\u3000\n city", [(11, 13, "sign"), (27, 31, "city")]),
}


def card(languages: list[str], place: str = "") -> str:
    one = "- config_name: {0}\n  data_files: [{{split: train, path: {1}{0}/train.parquet}}]"
    configs = [one.format(language, place) for language in languages]
    return "---\nlicense: odc-by\nconfigs:\n" + "\n".join(configs) + "\n---\n# Lesson\n"


def dataset(folder: Path, rows: dict[str, list[dict]], schema: pa.Schema = ALL) -> Path:
    for language, of_language in rows.items():
        (folder / language).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(of_language, schema), folder / language / "train.parquet")
    (folder / "README.md").write_text(card(list(rows)), encoding="utf-8")
    return folder


def sound_rows() -> dict[str, list[dict]]:
    return {code: [released(text, code, f"{code}_0", spans)] for code, (text, spans) in TEXTS.items()}


@pytest.fixture
def folder(tmp_path) -> Path:
    return dataset(tmp_path / "merged-english-passages", sound_rows())


@pytest.fixture
def to_hub(monkeypatch):
    "`to_hub(hub)` lets the library know no other hub, and sleep no second; large files go by LFS."
    importlib.import_module("huggingface_hub.hf_api")
    constants = importlib.import_module("huggingface_hub.constants")

    def use(hub: PushHub) -> PushHub:
        monkeypatch.setenv("HF_TOKEN", KEY)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        return hub

    return use


# Checks


def test_sound_rows_of_four_scripts_have_no_fault(folder):
    assert dataset_faults(folder, schemas=[FIVE, ALL]) == ([], 4)


def test_the_papers_five_columns_are_read(tmp_path):
    rows = {"swh": [{name: row[name] for name in FIVE.names} for row in sound_rows()["swh"]]}
    for span in rows["swh"][0]["char_spans"]:
        del span["score"], span["probability"], span["teachers"]
    folder = dataset(tmp_path / "five", rows, FIVE)
    assert dataset_faults(folder, schemas=[FIVE, ALL]) == ([], 1)
    ((fault,), _) = dataset_faults(folder, schemas=[ALL])
    assert fault.field == "columns" and "url (string)" in fault.problem


WRONG = {  # the fault's field -> what is changed in a row
    "id": {"id": ""},
    "text": {"text": "\u00a0 ", "tokens": [], "char_spans": [], "token_spans": []},
    "language": {"language": "swa"},
    "char_spans outside": {"char_spans": [{"start": 35, "end": 40, "label": "city"}], "token_spans": []},
    "char_spans empty": {"char_spans": [{"start": 3, "end": 3, "label": "city"}], "token_spans": []},
    "char_spans missing": {"char_spans": [{"start": None, "end": 3, "label": "city"}], "token_spans": []},
    "char_spans label": {"char_spans": [{"start": 0, "end": 3, "label": " \n"}], "token_spans": []},
    "char_spans score": {"char_spans": [{"start": 0, "end": 7, "label": "x", "score": np.nan}], "token_spans": []},
    "char_spans blank": {"char_spans": [{"start": 7, "end": 8, "label": "city"}], "token_spans": []},
    "tokens missing": {"tokens": ["Wangari"], "char_spans": [], "token_spans": []},
    "tokens other": {"tokens": ["Wangari", "Mathaai", "alizaliwa", "Nyeri", ",", "Kenya", "."]},
    "tokens empty": {"tokens": ["Wangari", "Maathai", "", "alizaliwa", "Nyeri", ",", "Kenya", "."]},
    "token_spans outside": {"token_spans": [{"start": 6, "end": 9, "label": "city"}]},
    "token_spans missing": {"token_spans": []},
    "token_spans label": {
        "token_spans": [{"start": a, "end": b, "label": "thing"} for a, b in ((0, 2), (0, 1), (3, 4))]
    },
}


@pytest.mark.parametrize("wrong", WRONG)
def test_each_fault_is_found_in_its_row_and_field_and_nowhere_else(tmp_path, wrong):
    row = sound_rows()["swh"][0]
    rows = [row | {"id": f"swh_{n}"} for n in range(2100)]
    rows[1500] |= WRONG[wrong]
    folder = dataset(tmp_path / "faulty", {"swh": rows})
    faults, count = file_faults(folder / "swh/train.parquet", folder=folder, schemas=[ALL])
    assert count == 2100 and {fault.row for fault in faults} == {1500}
    field = wrong.split()[0]
    assert field in {fault.field for fault in faults}
    assert all(fault.file == "swh/train.parquet" for fault in faults)


def test_a_name_twice_a_language_unknown_an_empty_file_and_no_parquet(tmp_path):
    row = sound_rows()["swh"][0]
    folder = dataset(tmp_path / "faulty", {"swh": [row, row], "qqq": [row | {"language": "qqq"}], "tha": []})
    (folder / "eng").mkdir()
    (folder / "eng" / "train.parquet").write_bytes(b"PAR1 no")
    faults, _ = dataset_faults(folder, schemas=[ALL])
    expected = {("swh", "id"), ("qqq", "language"), ("tha", "file"), ("eng", "file")}
    assert {(fault.file[:3], fault.field) for fault in faults} == expected


def test_checks_agree_with_a_plain_check_on_random_damage(tmp_path):
    rng = random.Random(3)
    texts = [(code, text, spans) for code, (text, spans) in TEXTS.items()]
    rows, damaged = [], set()
    for n in range(300):
        code, text, spans = rng.choice(texts)
        row = released(text, code, f"eng_{n}", spans) | {"language": "eng"}
        if rng.random() < 0.3:
            damaged.add(n)
            part = rng.choice(["tokens", "token_spans", "char_spans"])
            if part == "tokens":
                row["tokens"][rng.randrange(len(row["tokens"]))] += "x"
            else:
                span = rng.choice(row[part])
                span["start" if part == "char_spans" else "end"] += 40
        rng.shuffle(row["token_spans"])  # any order
        rows.append(row)
    folder = dataset(tmp_path / "random", {"eng": rows})
    faults, _ = dataset_faults(folder, schemas=[ALL])
    assert {fault.row for fault in faults} == damaged


def test_real_texts_of_every_language_have_no_fault(tmp_path, real_data):
    rows = {}
    for path in sorted((real_data / "web").glob("*.parquet")):
        texts = pq.read_table(path, columns=["text"]).slice(0, 3)["text"].to_pylist()
        rows[path.stem] = []
        for n, text in enumerate(text[:600] for text in texts if text and text.strip()):
            places = tokens(text, path.stem)
            spans = [(places[k][0], places[min(k + 1, len(places) - 1)][1], "thing") for k in range(0, len(places), 7)]
            rows[path.stem].append(released(text, path.stem, f"{path.stem}_{n}", spans))
    faults, count = dataset_faults(dataset(tmp_path / "real", rows), schemas=[ALL])
    assert count > 200 and not faults


def test_a_test_set_is_found_in_any_variant_and_beside_the_run(tmp_path):
    variants = tmp_path / "run" / "20_publish"
    for name in ("merged-english-passages", "lexicon-english-passages"):
        dataset(variants / name, sound_rows())
    assert "sample-swh" in benchmark_texts(variants)
    tests = tmp_path / "run" / "30_benchmarks" / "mine"
    tests.mkdir(parents=True)
    pq.write_table(pa.table({"text": ["WANGARI  Maathai alizaliwa Nyeri , Kenya ."]}), tests / "rows.parquet")
    texts = benchmark_texts(variants)
    assert list(texts) == ["mine"]
    faults = leak_faults(variants, LeakFinder(texts, share=0.8, shortest=20))
    assert sorted(fault.file for fault in faults) == [
        f"{name}/swh/train.parquet" for name in ("lexicon-english-passages", "merged-english-passages")
    ]


# Pushing


def test_a_dry_run_sends_nothing_and_says_what_it_would(folder, to_hub):
    with to_hub(PushHub()) as hub:
        push = push_dataset(folder, "someone/lesson", dry_run=True, **NUMBERS)
    assert not {"create", "yaml", "preupload", "batch", "put", "commit"} & set(hub.calls) and not hub.repositories
    assert push.send == {name: path.stat().st_size for name, path in files_to_push(folder)[0].items()}
    assert not push.commits and len(push.send) == 5


def test_a_dataset_arrives_whole_private_and_is_not_sent_again(folder, to_hub, capsys):
    with to_hub(PushHub()) as hub:
        push = push_dataset(folder, "someone/lesson", **NUMBERS)
        files = hub.repository("someone/lesson").files["main"]
        assert {name: content for name, (content, _) in files.items()} == {
            name: path.read_bytes() for name, path in files_to_push(folder)[0].items()
        }
        assert hub.repository("someone/lesson").private and len(push.commits) == 1
        calls = len(hub.arrived)
        again = push_dataset(folder, "someone/lesson", **NUMBERS)
        assert len(hub.arrived) == calls == 4 and not again.send and len(again.there) == 5 and not again.commits
        (folder / "swh" / "train.parquet").write_bytes((folder / "tha" / "train.parquet").read_bytes())
        with pytest.raises(FaultyDataset, match="tha_0"):
            push_dataset(folder, "someone/lesson", **NUMBERS)
        assert set(hub.keys) == {f"Bearer {KEY}", None}  # the signed address of a large file needs no key
    assert KEY not in capsys.readouterr().out


def test_a_new_version_sends_only_what_changed_and_names_what_stays(folder, to_hub):
    with to_hub(PushHub()) as hub:
        push_dataset(folder, "someone/lesson", **NUMBERS)
        (folder / "README.md").write_text(card(["arb", "eng", "swh"]))
        (folder / "tha" / "train.parquet").unlink()
        push = push_dataset(folder, "someone/lesson", **NUMBERS)
        assert list(push.send) == ["README.md"] and push.besides == ("tha/train.parquet",)
        assert len(hub.arrived) == 4 and len(hub.repository("someone/lesson").commits) == 2


BREAKS = [{"put": ["cut"]}, {"put": ["500", "", "500"]}, {"commit": ["503"]}, {"commit": ["lost"]}, {"batch": ["cut"]}]
BREAKS += [{"preupload": ["502"]}, {"create": ["500"]}, {"yaml": ["500"]}, {"put": ["lost"]}, {"tree": ["500"]}]


@pytest.mark.parametrize("faults", BREAKS, ids=str)
def test_what_breaks_is_tried_again(folder, to_hub, faults):
    with to_hub(PushHub({step: list(names) for step, names in faults.items()})) as hub:
        push_dataset(folder, "someone/lesson", **NUMBERS)
        repository = hub.repository("someone/lesson")
        assert set(repository.files["main"]) == set(files_to_push(folder)[0])
        assert len(repository.commits) == 1 and len(set(hub.arrived)) == 4
        assert len(hub.arrived) == 4 + (faults == {"put": ["lost"]})  # that one was there, and nobody knew
        assert not any(hub.faults.values())


def test_a_push_that_ends_in_the_middle_goes_on_from_there(tmp_path, to_hub, monkeypatch):
    monkeypatch.setattr(push_module, "_PART_FILES", 2)
    rows = {code: [row | {"language": code} for row in sound_rows()["swh"]] for code in ("arb", "eng", "swh", "tha")}
    for code, (row,) in rows.items():
        row["id"] = f"{code}_0"
    folder = dataset(tmp_path / "parts", rows)
    with to_hub(PushHub({"commit": ["", *["500"] * 40]})) as hub:
        with pytest.raises(ConnectionError, match=r"part 2 of 3 failed: .*goes on from there"):
            push_dataset(folder, "someone/lesson", **NUMBERS)
        assert set(hub.repository("someone/lesson").files["main"]) == {"README.md", "arb/train.parquet"}
        arrived = list(hub.arrived)
        assert len(arrived) == 3, "two files of the second part are there, in no commit"
        hub.faults.clear()
        push = push_dataset(folder, "someone/lesson", **NUMBERS)
        assert len(hub.arrived) == len(set(hub.arrived)) == 4
        assert set(push.there) == {"README.md", "arb/train.parquet"}
        assert set(hub.repository("someone/lesson").files["main"]) == set(files_to_push(folder)[0])


def test_no_message_and_no_log_has_the_key_or_a_signature(folder, to_hub, monkeypatch, capsys, caplog):
    with to_hub(PushHub({"put": ["500", "cut", *["403"] * 9]})):
        with pytest.raises(ConnectionError) as raised:
            push_dataset(folder, "someone/lesson", **NUMBERS)
    assert "403" in str(raised.value) and raised.value.__suppress_context__
    with to_hub(PushHub()):
        monkeypatch.setattr(
            "huggingface_hub.HfApi.create_commit", lambda *a, **k: (_ for _ in ()).throw(OSError(f"no {KEY}"))
        )
        with pytest.raises(ConnectionError, match=r"no \(key\)") as second:
            push_dataset(folder, "someone/lesson", **NUMBERS)
    assert "Retrying" in caplog.text
    words = str(raised.value) + str(second.value) + "".join(capsys.readouterr()) + caplog.text
    assert KEY not in words and "secret-signature" not in words


def test_a_public_repository_is_not_filled_by_mistake(folder, to_hub):
    with to_hub(PushHub()) as hub:
        push_dataset(folder, "someone/open", private=False, **NUMBERS)
        assert not hub.repository("someone/open").private
        (folder / "README.md").write_text(card(list(TEXTS)) + "More.")
        with pytest.raises(ValueError, match="is public; to push into it, say so"):
            push_dataset(folder, "someone/open", **NUMBERS)
        assert len(hub.repository("someone/open").commits) == 1


def test_another_revision(folder, to_hub):
    with to_hub(PushHub()) as hub:
        for _ in range(2):
            push_dataset(folder, "someone/lesson", revision="v2", **NUMBERS)
        files = hub.repository("someone/lesson").files
        assert not files["main"] and len(files["v2"]) == 5 and len(hub.arrived) == 4


@pytest.mark.parametrize("fault", ["row", "leak", "card", "no card"])
def test_nothing_is_sent_where_a_check_fails(folder, to_hub, fault):
    tests = {}
    if fault == "row":
        rows = [row | {"text": row["text"][:20]} for row in sound_rows()["swh"]]
        pq.write_table(pa.Table.from_pylist(rows, ALL), folder / "swh" / "train.parquet")
    if fault == "leak":
        tests = {"mine": [TEXTS["tha"][0]]}
    if fault == "card":
        (folder / "README.md").write_text(card(["swh"]))
    if fault == "no card":
        (folder / "README.md").unlink()
    with to_hub(PushHub()) as hub:
        with pytest.raises(FaultyDataset) as raised:
            push_dataset(folder, "someone/lesson", **NUMBERS | {"tests": tests})
    assert not hub.calls
    expected = {"row": "swh/train.parquet row 0 (id 'swh_0'), char_spans", "leak": "is test text 0 of mine"}
    expected |= {"card": "no configuration reads tha/train.parquet", "no card": "README.md, card: is not there"}
    assert expected[fault] in str(raised.value)


def test_a_card_that_the_hub_refuses_stops_the_push_before_any_file(folder, to_hub):
    (folder / "README.md").write_text(card(list(TEXTS)).replace("odc-by", "nonsense"))
    with to_hub(PushHub()) as hub:
        with pytest.raises(ValueError, match="license must be one of"):
            push_dataset(folder, "someone/lesson", **NUMBERS)
        assert not hub.arrived and hub.calls.count("yaml") == 1


def test_no_key_and_no_such_name(folder, to_hub, monkeypatch, tmp_path):
    with to_hub(PushHub()) as hub:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
        with pytest.raises(ValueError, match="set HF_TOKEN, or log in"):
            push_dataset(folder, "someone/lesson", **NUMBERS)
        for name in ("lesson", "a/b/c", "../x", "some one/x"):
            with pytest.raises(ValueError):
                push_dataset(folder, name, **NUMBERS)
        assert not hub.calls


def test_links_hidden_files_and_pickles_stay_here(folder, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (folder / "link.json").symlink_to(tmp_path / "secret")
    (folder / ".env").write_text("HF_TOKEN=1")
    (folder / "training_args.BIN").write_bytes(b"")
    (folder / "meta.json").write_text("{}")
    chosen, left_out = files_to_push(folder)
    assert set(left_out) == {"link.json", ".env", "training_args.BIN", "meta.json"}
    assert len(chosen) == 5


def test_a_model_is_pushed_as_a_model(tmp_path, to_hub):
    from safetensors.numpy import save_file

    model = tmp_path / "student"
    model.mkdir()
    with pytest.raises(FaultyDataset, match="no weights as safetensors"):
        push_model(model, "someone/student")
    save_file({"weight": np.arange(1000.0)}, model / "model.safetensors")
    (model / "config.json").write_text(json.dumps({"model_type": "span-binder"}))
    (model / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [sw]\n---\n# Student\n")
    with to_hub(PushHub({"put": ["cut"]})) as hub:
        push = push_model(model, "someone/student")
        files = hub.repository("someone/student", "model").files["main"]
    assert set(files) == {"README.md", "config.json", "model.safetensors"} == set(push.send)
    assert hub.arrived == [hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()]
    (model / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(FaultyDataset, match="model.safetensors, model: cannot be read"):
        push_model(model, "someone/student", dry_run=True)


def test_the_packaged_test_texts_are_all_there():
    texts = benchmark_texts(Path("nowhere"))
    assert len(texts) == len(list(asset("sample/gold").glob("*.jsonl"))) and all(texts.values())
