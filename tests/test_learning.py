"""Trials of what students learn: the data they get, what is left out of it, and results that are not made twice."""

import gzip
import json
from dataclasses import replace

import pytest

from finerweb.studies.student_quality import Trial, at_words, human_rows, learning_table, run_trials, split_rows, try_out

BUILD = dict(encoder="ngrams", label_encoder="ngrams", size=16, max_width=20, window=128, dropout=0.1, freeze_labels=True)
TRAIN = dict(batch=4, encoder_rate=1e-3, head_rate=1e-3, candidates=0.5, negatives=2, loss="bce", encoder_dropout=0.1)
NAMES = ["Asha", "Juma", "Neema", "Baraka", "Zawadi", "Amina", "Rehema", "Imani", "Salim", "Halima"]


@pytest.fixture
def small_set(tmp_path, monkeypatch):
    "MasakhaNER's layout with few sentences; the first test sentence also stands in the train split."
    folder = tmp_path / "ner" / "masakhaner2" / "swh"
    folder.mkdir(parents=True)
    said = [(["Leo", name, "alisafiri", "kwenda", place, "kwa", "basi", "."], name, place) for name in NAMES for place in ("Mombasa", "Dodoma", "Arusha")]
    for split, some in (("train", said[:24]), ("test", said[23:])):
        with gzip.open(folder / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
            for tokens, name, place in some:
                tags = ["B-PER" if t == name else "B-LOC" if t == place else "O" for t in tokens]
                file.write(json.dumps({"tokens": tokens, "ner_tags": tags}) + "\n")
    monkeypatch.setenv("FINERWEB_TEST_DATA", str(tmp_path))


def trial(**other) -> Trial:
    return Trial(**dict(kind="binder", sets=("masakhaner2-swh",), seconds=0, steps=3, seed=1, build=BUILD, train=TRAIN, held_out=6) | other)


def test_leaked_sentences_are_not_learned(small_set):
    rows = human_rows("masakhaner2-swh", "train")
    tests = [r["text"] for r in human_rows("masakhaner2-swh", "test")]
    learned, held, leaked = split_rows(rows, {"test": tests}, held_out=6, seed=1)
    assert rows[23]["text"] in tests and rows[23]["text"] not in {r["text"] for r in learned + held}
    assert leaked and len(learned) + len(held) == 24 - leaked and not {r["id"] for r in learned} & {r["id"] for r in held}
    assert {e["label"] for r in human_rows("masakhaner2-swh", "train", ["person"]) for e in r["entities"]} == {"person"}


def test_a_trial_tells_what_it_did_and_a_result_in_the_file_is_not_made_again(small_set, tmp_path):
    told = trial(shown={"swh": {"person": "mtu"}}, label_language="both", concepts=True)
    result = json.loads(json.dumps(try_out(told)))
    scored = result["tests"]["masakhaner2-swh"]
    assert result["steps"] == 3 and result["leaked"]["masakhaner2-swh"] and scored["gold"] == 14 and set(scored["shown"]) == {"swh"}
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps(result | {"steps": 99}) + "\n")
    assert run_trials([told], at_once=1, file=str(file))[0]["steps"] == 99
    assert [row["seeds"] for row in learning_table([result, result])] == [2]


def test_a_trial_that_dies_says_of_what_and_the_others_stay(small_set, tmp_path):
    file = tmp_path / "results.jsonl"
    with pytest.raises(RuntimeError, match="no encoder 'nowhere'"):
        run_trials([trial(), trial(build=BUILD | {"encoder": "nowhere"})], at_once=1, file=str(file))
    assert len(file.read_text().splitlines()) == 1


def test_spans_at_words_begin_and_end_where_icu_says():
    from finerweb.studies.student_quality import trained
    from finerweb.text.segment import tokens

    text = "วังการี มาไท เกิดที่ประเทศเคนยา"
    rows = [{"text": text, "language": "tha", "entities": [{"start": 0, "end": 7, "label": "person"}], "undecided": []}]
    model, _ = trained(replace(trial(), words=True), rows)
    (window,) = model.windows(0, text)
    starts, ends = (set(side) for side in zip(*tokens(text, "tha"), strict=True))
    assert {a for (a, _), may in zip(window.offsets, window.can_start, strict=True) if may} == starts
    assert {b for (_, b), may in zip(window.offsets, window.can_end, strict=True) if may} == ends
    at_words(model, ["tha"])  # twice is as good as once
    assert model.windows(0, text) == [window]
