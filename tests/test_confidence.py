"""Annotations by how much students that did not learn from them believe them: folds, support, quarters, resuming."""

import json
import random
from collections import Counter

import papermill
import pytest

from finerweb.confidence import deal_folds, draw_passages, entity_support, example_rows, quarters, with_confidence
from finerweb.data import Entity, entity_row, lesson_rows, read_rows, schema
from finerweb.paper.confidence import read_confidence
from finerweb.runner.plan import plan
from finerweb.runner.profiles import load_profile
from finerweb.runner.stages import notebook_parameters
from finerweb.store import Task


def sentences(passages: int, each: int = 3, language: str = "swh") -> list[dict]:
    return [{"language": language, "parent_id": f"{language}_{n}"} for n in range(passages) for _ in range(each)]


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_a_passage_is_in_one_fold_and_each_language_in_all(folds):
    rows = sentences(11) + sentences(7, language="tha") + sentences(1, language="xho")
    random.Random(3).shuffle(rows)
    fold_of = deal_folds(rows, folds=folds, seed=5)
    folds_of_passage: dict[str, set[int]] = {}
    for row, fold in zip(rows, fold_of, strict=True):
        folds_of_passage.setdefault(row["parent_id"], set()).add(fold)
    assert all(len(some) == 1 for some in folds_of_passage.values())
    sizes = Counter(next(iter(some)) for passage, some in folds_of_passage.items() if passage.startswith("swh"))
    assert max(sizes.values()) - min(sizes.values()) <= 1 and len(sizes) == folds
    assert fold_of == deal_folds(rows, folds=folds, seed=5) != deal_folds(rows, folds=folds, seed=6)


def test_passages_are_drawn_whole_and_from_each_language():
    rows = sentences(9) + sentences(2, language="tha")
    drawn = draw_passages(rows, passages=4, seed=1)
    assert Counter(row["language"] for row in drawn) == {"swh": 12, "tha": 6}
    assert draw_passages(rows, passages=0, seed=1) == rows


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ([Entity(5, 9, "person", 0.7)], (0.7, 0.0)),
        ([Entity(5, 9, "human", 0.7)], (0.7, 0.0)),  # the other of two joined labels
        ([Entity(5, 9, "city", 0.7)], (0.0, 0.7)),
        ([Entity(5, 8, "person", 0.7), Entity(8, 12, "city", 0.9)], (0.0, 0.9)),
        ([Entity(0, 5, "person", 0.7), Entity(9, 12, "person", 0.7)], (0.0, 0.0)),  # beside it
        ([Entity(5, 9, "person", 0.2), Entity(5, 9, "city", 0.6)], (0.2, 0.6)),
    ],
)
def test_what_supports_an_entity_and_what_contradicts_it(predicted, expected):
    assert entity_support({"start": 5, "end": 9, "label": "person / human"}, predicted) == expected


def test_a_broader_and_a_finer_label_support():
    assert entity_support({"start": 0, "end": 4, "label": "city"}, [Entity(0, 4, "location", 0.8)])[0] == 0.8
    assert entity_support({"start": 0, "end": 4, "label": "location"}, [Entity(0, 4, "city", 0.8)])[0] == 0.8


@pytest.mark.parametrize("size", [1, 3, 4, 10, 101])
def test_quarters_are_as_large_as_they_can_be(size):
    values = [(random.Random(n).random(),) for n in range(size)]
    found = quarters(values)
    sizes = Counter(found)
    assert set(found) <= {1, 2, 3, 4} and max(sizes.values()) - min(sizes.values()) <= 1
    by_value = [quarter for _, quarter in sorted(zip(values, found, strict=True))]
    assert by_value == sorted(by_value)


def test_the_contradicted_come_before_the_unknown():
    said = [[(0.0, 0.0)], [(0.0, 0.9)], [(0.3, 0.0)], [(0.9, 0.0)]]
    rows = with_confidence([{"n": n} for n in range(4)], said, least=0.5)
    assert [row["subset"] for row in rows] == [2, 1, 3, 4]
    assert [row["when_predicted"] for row in rows] == [None, None, None, 0.9]


def test_examples_are_the_least_and_the_most_certain_once_each():
    rows = [dict(id=f"{n}", language="swh", script="Latn", text="x" * 9) for n in range(5)]
    entities = [
        dict(id=f"{n}", language="swh", start=k, end=k + 1, label="city", confidence=n / 10)
        for n in range(5)
        for k in range(2)
    ]
    assert [x["id"] for x in example_rows(rows, entities, examples=1)] == ["0", "4"]
    assert [x["id"] for x in example_rows(rows, entities, examples=4)] == ["0", "1", "2", "3", "4"]


def labelled_sentences(count: int) -> list[dict]:
    "Swahili sentences as 18_sentences writes them, each a passage of its own."
    lesson, rows = lesson_rows()[1], []
    for n in range(count):
        row = dict.fromkeys(schema("18_sentences").names) | {c: lesson[c] for c in ("text", "language", "script")}
        row |= {"id": f"swh_{n}-s0", "parent_id": f"swh_{n}", "offset": 0, "undecided": []}
        rows.append(row | {"entities": [e | {"score": 0.8, "teachers": ["a"]} for e in lesson["entities"]]})
    return rows


@pytest.fixture(scope="module")
def resumed(root, tmp_path_factory, tiny_encoder):
    "The output of a run that was interrupted when the first of two folds was done, and what that fold had said."
    home, sentence_rows = tmp_path_factory.mktemp("home"), labelled_sentences(8)
    Task(str(home), "small", "18_sentences", ("swh",), parameters={}).write(sentence_rows)
    names = [dict(label="city", language="swh", translation="mji", concept="city", method="table")]
    Task(str(home), "small", "17_translate", ("swh",), parameters={}).write(names)
    changes = dict(languages=["swh"], encoder=tiny_encoder, label_encoder=tiny_encoder, steps=3, batch=2, size=16)
    changes |= dict(max_width=20, encoder_rate=0.001, candidates=1.0, empty=0.0)
    people = [dict(id="p", text="Juma anaishi Kisumu.", language="swh", script="Latn", document_id="d")]
    people = [row | {"entities": [entity_row(Entity(13, 19, "city"))]} for row in people]
    Task(str(home), "small", "30_benchmarks", ("people",), parameters={}).write(people)
    changes |= dict(quarter_steps=2, benchmarks=[{"name": "people"}])
    parameters = {n: v for n, (_, v) in notebook_parameters("40_confidence").items() if n not in ("home", "run")}
    task = Task(str(home), "small", "40_confidence", parameters=parameters | changes)
    task.read("18_sentences", "swh")
    task.read("17_translate", "swh")
    task.read("30_benchmarks", "people")
    fold_of = deal_folds(sentence_rows, folds=2, seed=1)
    said = [[0.123456, 0.5]] * len(sentence_rows[0]["entities"])
    task.save({"fold0-seed1": [said] * fold_of.count(0)})
    values = dict(home=str(home), run="small") | changes
    notebook = str(home / "notebook.ipynb")
    papermill.execute_notebook(root / "nbs/40_confidence.ipynb", notebook, parameters=values, progress_bar=False)
    return home / "small" / "40_confidence"


def test_a_fold_that_is_done_is_not_done_again(resumed):
    rows = read_rows(resumed / "rows.parquet")
    by_fold = {fold: {row["confidence"] for row in rows if row["fold"] == fold} for fold in (0, 1)}
    assert by_fold[0] == {0.123456} and 0.123456 not in by_fold[1]
    assert not (resumed / "unfinished.json").exists()
    meta = json.loads((resumed / "meta.json").read_text(encoding="utf-8"))
    assert meta["counts"]["students"] == 2 and meta["rows"] == len(rows) == 8 * 5


def test_the_tables_agree(resumed):
    rows, probabilities = read_rows(resumed / "rows.parquet"), read_rows(resumed / "probabilities.parquet")
    passages, examples = read_rows(resumed / "passages.parquet"), read_rows(resumed / "examples.parquet")
    key = ("language", "id", "start", "end", "label")
    confidence = {tuple(row[c] for c in key): row["confidence"] for row in rows}
    assert {tuple(p[c] for c in key): p["probability"] for p in probabilities} == confidence  # of one seed
    assert len(passages) == 8 and sum(p["entities"] for p in passages) == len(rows)
    assert {p["id"] for p in passages} == {row["parent_id"] for row in rows}
    for example in examples:
        for e in example["entities"]:
            assert 0 <= e["start"] < e["end"] <= len(example["text"])
            assert confidence["swh", example["id"], e["start"], e["end"], e["label"]] == e["probability"]


def test_a_student_of_each_quarter_is_scored_on_human_labels(resumed):
    scores = read_rows(resumed / "subsets.parquet")
    assert [row["subset"] for row in scores] == [f"quarter {n}" for n in (1, 2, 3, 4)]
    assert {(row["language"], row["seed"]) for row in scores} == {("swh", 1)}
    assert all(0 <= row["f1"] <= 1 for row in scores)
    assert read_confidence(resumed)[2] == scores


def test_every_profile_plans_both_studies_once():
    for name in ("colab", "demo", "kaggle", "offline", "open", "paper", "real", "world"):
        tasks = plan(load_profile(name))
        assert [t.key for t in tasks if t.stage in ("40_confidence", "41_label_language")] == [(), ()]
    paper = next(t for t in plan(load_profile("paper")) if t.stage == "40_confidence")
    assert (paper.parameters["folds"], paper.parameters["seeds"]) == (5, [1, 2, 3])
