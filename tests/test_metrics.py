"""The span scores against brute force, against seqeval, and against themselves."""

import gzip
import itertools
import json
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from seqeval.metrics import classification_report
from seqeval.metrics.sequence_labeling import get_entities

from finerweb.data import Entity
from finerweb.metrics import across_seeds, length_table, overlap_pairs, score_spans, with_intervals

LABELS = ("person", "location", "organization")


def random_spans(rng: random.Random, most: int, length: int = 14) -> list[tuple[int, int]]:
    spans = set()
    for _ in range(rng.randint(0, most)):
        start = rng.randrange(length)
        spans.add((start, rng.randint(start + 1, min(length, start + 6))))
    return sorted(spans)


def random_entities(rng: random.Random, most: int) -> list[Entity]:
    return [Entity(a, b, rng.choice(LABELS)) for a, b in random_spans(rng, most) for _ in range(rng.choice((1, 1, 2)))]


def largest_pairing(gold: list, predicted: list) -> int:
    """Every way to pair, tried."""
    if not gold:
        return 0
    (a, b), rest = gold[0], gold[1:]
    best = largest_pairing(rest, predicted)
    for n, (c, d) in enumerate(predicted):
        if a < d and c < b:
            best = max(best, 1 + largest_pairing(rest, predicted[:n] + predicted[n + 1 :]))
    return best


def test_overlap_pairs_is_a_largest_pairing():
    rng = random.Random(1)
    sizes = set()
    for _ in range(1500):
        gold, predicted = random_spans(rng, 5), random_spans(rng, 5)
        expected = largest_pairing(gold, predicted)
        assert overlap_pairs(gold, predicted) == overlap_pairs(predicted, gold) == expected, (gold, predicted)
        sizes.add(expected)
    assert sizes == {0, 1, 2, 3, 4, 5}


def test_overlap_pairs_of_many_nested_spans():
    spans = [(n, 20_000 - n) for n in range(5_000)]
    assert overlap_pairs(spans, [(a, b + 1) for a, b in spans]) == 5_000


def brute_force(gold: list[Entity], predicted: list[Entity]) -> tuple[list[int], list[int], dict[str, int]]:
    """Of one text: gold, predicted and correct, strict and by boundary; and label -> the largest relaxed pairing."""
    triples = [{(e.label, e.start, e.end) for e in side} for side in (gold, predicted)]
    places = [{(start, end) for _, start, end in side} for side in triples]
    strict, boundary = ([len(g), len(p), sum(x in p for x in g)] for g, p in (triples, places))
    relaxed = {}
    for label in LABELS:
        spans = [[(start, end) for name, start, end in sorted(side) if name == label] for side in triples]
        relaxed[label] = largest_pairing(*spans)
    return strict, boundary, relaxed


def test_counts_are_those_of_brute_force():
    rng = random.Random(2)
    for _ in range(200):
        documents = rng.randint(1, 6)
        gold, predicted = ([random_entities(rng, 5) for _ in range(documents)] for _ in range(2))
        rows = {(r["match"], r["label"]): r for r in score_spans(gold, predicted).table()}
        strict, boundary, relaxed = [0, 0, 0], [0, 0, 0], Counter()
        for g, p in zip(gold, predicted, strict=True):
            strict_here, boundary_here, relaxed_here = brute_force(g, p)
            strict, boundary = np.add(strict, strict_here), np.add(boundary, boundary_here)
            relaxed.update(relaxed_here)
        for match, expected in (("strict", strict), ("boundary", boundary)):
            row = rows[match, "micro"]
            assert [row["gold"], row["predicted"], row["correct"]] == list(expected)
        assert rows["relaxed", "micro"]["correct"] == sum(relaxed.values())
        assert all(rows["relaxed", name]["correct"] == n for name, n in relaxed.items() if ("relaxed", name) in rows)
        assert rows["strict", "micro"]["correct"] <= rows["relaxed", "micro"]["correct"]


def random_tags(rng: random.Random, length: int) -> list[str]:
    tags = []
    for _ in range(length):
        kind = rng.choice(LABELS)
        tags.append(rng.choice(("O", "O", f"B-{kind}", f"I-{kind}", tags[-1].replace("B-", "I-") if tags else "O")))
    return tags


def entities_of_tags(tags: list[str]) -> list[Entity]:
    return [Entity(first, last + 1, label) for label, first, last in get_entities(tags)]


def check_against_seqeval(gold_tags: list[list[str]], predicted_tags: list[list[str]]) -> int:
    scores = score_spans([*map(entities_of_tags, gold_tags)], [*map(entities_of_tags, predicted_tags)])
    report = classification_report(gold_tags, predicted_tags, output_dict=True, zero_division=0)
    compared = 0
    for row in scores.table():
        if row["match"] == "strict":
            theirs = report[{"micro": "micro avg", "macro": "macro avg"}.get(row["label"], row["label"])]
            assert row["gold"] == theirs["support"], row
            assert row["f1"] == pytest.approx(theirs["f1-score"], abs=1e-12), row
            if row["label"] != "macro":
                measures = theirs["precision"], theirs["recall"]
                assert (row["precision"], row["recall"]) == pytest.approx(measures, abs=1e-12), row
            compared += 1
    assert compared == len(report) - 1  # all but "weighted avg"
    return compared


def test_agrees_with_seqeval_on_random_tags():
    rng = random.Random(3)
    for _ in range(100):
        lengths = [rng.randint(1, 12) for _ in range(rng.randint(1, 8))]
        gold, predicted = ([random_tags(rng, n) for n in lengths] for _ in range(2))
        gold[0][0] = "B-person"
        check_against_seqeval(gold, predicted)


def random_tag(rng: random.Random, kinds: list[str]) -> str:
    return rng.choice(("O", f"B-{rng.choice(kinds)}", f"I-{rng.choice(kinds)}"))


def test_agrees_with_seqeval_on_human_labels(real_data):
    """The human tags against the same tags with every tenth token's spoilt."""
    rng = random.Random(4)
    files = sorted((real_data / "ner").glob("*/*/test.jsonl.gz"))
    assert files
    for corpus in files:
        with gzip.open(corpus, "rt", encoding="utf-8") as lines:
            gold = [json.loads(line)["ner_tags"] for line in lines]
        kinds = sorted({t[2:] for tags in gold for t in tags if t != "O"})
        predicted = [[t if rng.random() < 0.9 else random_tag(rng, kinds) for t in tags] for tags in gold]
        assert check_against_seqeval(gold, predicted) == len(kinds) + 2, corpus


def test_every_gold_span_counts():
    nested = [[Entity(0, 9, "organization"), Entity(0, 4, "location"), Entity(0, 4, "person")]]
    assert score_spans(nested, [[]]).row()["gold"] == 3
    assert score_spans(nested, nested).f1 == 1
    assert score_spans(nested, [nested[0] * 3]).row()["predicted"] == 3  # there three times, counted once
    assert score_spans(nested, [[]], labels=["person"]).row()["gold"] == 1


@pytest.mark.parametrize("name", ["micro", "macro"])
def test_a_label_may_be_called_as_a_sum_is(name):
    gold, predicted = [[Entity(0, 5, name), Entity(6, 9, "city")]], [[Entity(6, 9, "city")]]
    scores = score_spans(gold, predicted)
    assert scores.f1 == pytest.approx(2 / 3) and scores.row("macro")["f1"] == pytest.approx(0.5)
    assert scores.row(f"{name} (label)")["gold"] == 1
    rows = [(row["match"], row["label"]) for row in scores.table()]
    assert len(set(rows)) == len(rows), "no two rows have one name"


def test_intervals_are_those_of_a_plain_bootstrap():
    rng = random.Random(5)
    gold, predicted = ([random_entities(rng, 3) for _ in range(40)] for _ in range(2))
    plain = score_spans(gold, predicted)
    scores = with_intervals(plain, resamples=200, seed=7, level=0.9)
    draws = np.random.default_rng(7)
    f1 = []
    for _ in range(200):
        drawn = draws.integers(0, 40, 40)
        f1.append(score_spans([gold[n] for n in drawn], [predicted[n] for n in drawn]).f1)
    assert (scores.row()["low"], scores.row()["high"]) == pytest.approx(tuple(np.percentile(f1, [5, 95])), abs=1e-12)
    again = with_intervals(plain, resamples=200, seed=7, level=0.9)
    assert again.table() == scores.table()
    assert with_intervals(plain, resamples=200, seed=8, level=0.9).table() != scores.table()


def test_intervals_over_documents_are_those_of_a_plain_bootstrap():
    rng = random.Random(6)
    gold, predicted = ([random_entities(rng, 3) for _ in range(40)] for _ in range(2))
    documents = [str(rng.randint(0, 8)) for _ in range(40)]
    names = list(dict.fromkeys(documents))
    plain, draw = score_spans(gold, predicted), {"resamples": 200, "seed": 7, "level": 0.9}
    scores = with_intervals(plain, documents=documents, **draw)
    draws, f1 = np.random.default_rng(7), []
    for _ in range(200):
        chosen = [names[d] for d in draws.integers(0, len(names), len(names))]
        drawn = [n for name in chosen for n in range(40) if documents[n] == name]
        f1.append(score_spans([gold[n] for n in drawn], [predicted[n] for n in drawn]).f1)
    assert (scores.row()["low"], scores.row()["high"]) == pytest.approx(tuple(np.percentile(f1, [5, 95])), abs=1e-12)
    alone = with_intervals(plain, **draw)
    assert alone.table() == with_intervals(plain, documents=[str(n) for n in range(40)], **draw).table()
    with pytest.raises(ValueError, match="39 names of documents for 40 texts"):
        with_intervals(plain, documents=documents[1:], **draw)


def within(entities: list[Entity], low: int, high: int) -> list[Entity]:
    return [e for e in entities if low <= e.end - e.start <= high]


def test_lengths_add_up_to_the_strict_counts():
    rng = random.Random(7)
    for _ in range(100):
        gold, predicted = ([random_entities(rng, 4) for _ in range(5)] for _ in range(2))
        rows = length_table(gold, predicted, edges=[1, 3, 4])
        strict = score_spans(gold, predicted).row()
        for column in ("gold", "predicted", "correct"):
            assert sum(row[column] for row in rows) == strict[column]
        for row, (low, high) in zip(rows, ((1, 1), (2, 3), (4, 4), (5, 99)), strict=True):
            sides = [[within(entities, low, high) for entities in side] for side in (gold, predicted)]
            assert row["f1"] == score_spans(*sides).f1
    zeros = dict.fromkeys(("gold", "predicted", "correct", "precision", "recall", "f1"), 0)
    assert length_table([], [], edges=[])[0] == {"characters": "all"} | zeros
    for edges in ([3, 2], [2, 2], [0, 1]):
        with pytest.raises(ValueError, match="rising numbers"):
            length_table([], [], edges=edges)


def test_seeds_are_summarised_label_by_label():
    rng = random.Random(8)
    gold = [random_entities(rng, 4) for _ in range(20)]
    tables = [score_spans(gold, [random_entities(rng, 4) for _ in range(20)]).table() for _ in range(3)]
    rows = {(r["match"], r["label"]): r for r in across_seeds(tables)}
    assert list(rows) == [(r["match"], r["label"]) for r in tables[0]]
    for n, row in enumerate(tables[0]):
        f1 = [t[n]["f1"] for t in tables]
        summary = rows[row["match"], row["label"]]
        assert (summary["seeds"], summary["least"], summary["most"]) == (3, min(f1), max(f1))
        assert summary["mean"] == pytest.approx(sum(f1) / 3)
    person, city = Entity(0, 1, "person"), Entity(0, 1, "city")
    silent = [score_spans([[person]], [entities]).table() for entities in ([], [city])]
    row = next(r for r in across_seeds(silent) if r["label"] == "city")
    assert (row["seeds"], row["mean"]) == (2, 0)
    for wrong in ([], [tables[0], silent[0]]):
        with pytest.raises(ValueError, match="expected"):
            across_seeds(wrong)


def test_hostile_labels_do_not_reach_the_page():
    page = score_spans([[Entity(0, 1, "<script>x</script>")]], [[]])._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page


@pytest.mark.parametrize("module", ["metrics", "benchmarks", "text.leakage", "evaluate", "models.embeddings"])
def test_importing_is_light(module):
    heavy = ("torch", "transformers", "pandas", "sklearn", "scipy", "datasets", "matplotlib", "sentence_transformers")
    code = f"import sys, finerweb.{module}; print([m for m in {heavy!r} if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_macro_is_the_mean_over_labels():
    labels = list(itertools.islice(itertools.cycle(LABELS), 9))
    gold = [[Entity(n, n + 1, label) for n, label in enumerate(labels)]]
    predicted = [[e for e in gold[0] if e.label == "person"]]
    assert score_spans(gold, predicted).row("macro")["f1"] == pytest.approx(1 / 3)
