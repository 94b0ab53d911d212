"""Trials of what students learn: the data they get, what is left out of it, and results that are not made twice."""

import gzip
import json
from dataclasses import replace

import pytest

from finerweb.studies.student_quality import (
    Trial,
    at_words,
    human_rows,
    learning_table,
    run_trials,
    split_rows,
    train_student,
    try_out,
)

BUILD = dict(
    encoder="ngrams", label_encoder="ngrams", size=16, max_width=20, window=128, dropout=0.1, freeze_labels=True
)
TRAIN = dict(
    batch=4, encoder_rate=1e-3, head_rate=1e-3, candidates=0.5, negatives=2, loss="bce", encoder_dropout=0.1
)
NAMES = ["Asha", "Juma", "Neema", "Baraka", "Zawadi", "Amina", "Rehema", "Imani", "Salim", "Halima"]
SET = "masakhaner2-swh"


def tagged(name: str, place: str) -> dict:
    "A sentence about a person and a place in MasakhaNER's layout."
    tokens = ["Leo", name, "alisafiri", "kwenda", place, "kwa", "basi", "."]
    tags = {name: "B-PER", place: "B-LOC"}
    return {"tokens": tokens, "ner_tags": [tags.get(token, "O") for token in tokens]}


@pytest.fixture
def small_set(tmp_path, monkeypatch):
    "MasakhaNER's layout with few sentences; the first test sentence also stands in the train split."
    folder = tmp_path / "ner" / "masakhaner2" / "swh"
    folder.mkdir(parents=True)
    sentences = [tagged(name, place) for name in NAMES for place in ("Mombasa", "Dodoma", "Arusha")]
    for split, some in (("train", sentences[:24]), ("test", sentences[23:])):
        with gzip.open(folder / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
            for sentence in some:
                file.write(json.dumps(sentence) + "\n")
    monkeypatch.setenv("FINERWEB_TEST_DATA", str(tmp_path))


def small_trial(**changes) -> Trial:
    values = dict(kind="binder", sets=(SET,), seconds=0, steps=3, seed=1, build=BUILD, train=TRAIN, held_out=6)
    return Trial(**values | changes)


def test_leaked_sentences_are_not_learned(small_set):
    rows = human_rows(SET, "train")
    tests = [row["text"] for row in human_rows(SET, "test")]
    learned, held_out, leaked = split_rows(rows, {"test": tests}, held_out=6, seed=1)
    assert rows[23]["text"] in tests and rows[23]["text"] not in {row["text"] for row in learned + held_out}
    assert leaked and len(learned) + len(held_out) == 24 - leaked
    assert not {row["id"] for row in learned} & {row["id"] for row in held_out}
    assert {e["label"] for row in human_rows(SET, "train", ["person"]) for e in row["entities"]} == {"person"}


def test_a_trial_tells_what_it_did_and_a_result_in_the_file_is_not_made_again(small_set, tmp_path):
    trial = small_trial(shown={"swh": {"person": "mtu"}}, label_language="both", label_languages=["all"], concepts=True)
    result = json.loads(json.dumps(try_out(trial)))
    scores = result["tests"][SET]
    assert result["steps"] == 3 and result["leaked"][SET]
    assert scores["gold"] == 14 and set(scores["shown"]) == {"swh"}
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps(result | {"steps": 99}) + "\n")
    assert run_trials([trial], at_once=1, file=str(file))[0]["steps"] == 99
    assert [row["seeds"] for row in learning_table([result, result])] == [2]


def test_a_trial_that_dies_says_of_what_and_the_others_stay(small_set, tmp_path):
    file = tmp_path / "results.jsonl"
    broken = small_trial(build=BUILD | {"encoder": "nowhere"})
    with pytest.raises(RuntimeError, match="no encoder 'nowhere'"):
        run_trials([small_trial(), broken], at_once=1, file=str(file))
    assert len(file.read_text().splitlines()) == 1


def test_spans_at_words_begin_and_end_where_icu_says():
    from finerweb.text.segment import tokens

    text = "วังการี มาไท เกิดที่ประเทศเคนยา"
    entity = {"start": 0, "end": 7, "label": "person"}
    rows = [{"text": text, "language": "tha", "entities": [entity], "undecided": []}]
    model, _ = train_student(replace(small_trial(), words=True), rows)
    (window,) = model.windows(0, text)
    words = tokens(text, "tha")
    starts = zip(window.offsets, window.can_start, strict=True)
    ends = zip(window.offsets, window.can_end, strict=True)
    assert {start for (start, _), allowed in starts if allowed} == {start for start, _ in words}
    assert {end for (_, end), allowed in ends if allowed} == {end for _, end in words}
    at_words(model, ["tha"])  # twice is as good as once
    assert model.windows(0, text) == [window]
