"""How well a student knew a test set's labels: the definition by hand and at length, and what 35_evaluate says."""

import json
import random

import pytest

from finerweb.data import read_rows
from finerweb.models.embeddings import label_cosine
from finerweb.student.familiarity import familiarities, mean_familiarity, taught_labels, zipf_mean


def at_length(similarities: list[float], counts: list[int], places: int) -> float:
    "The definition word by word: one entity after the other, the n-th with the weight 1 / n."
    pairs = sorted(zip(similarities, counts, strict=True), reverse=True)
    line = [similarity for similarity, count in pairs for _ in range(count)][:places]
    weights = [1 / n for n in range(1, places + 1)]
    return sum(s * w for s, w in zip(line, weights, strict=False)) / sum(weights)


def test_by_hand():
    # places 1 to 4 have the weights 1, 1/2, 1/3, 1/4, in sum 25/12
    assert zipf_mean([0.9], [1], places=4) == pytest.approx(0.9 * 12 / 25)
    assert zipf_mean([0.2, 0.8], [5, 1], places=4) == pytest.approx((0.8 + 0.2 * (1 / 2 + 1 / 3 + 1 / 4)) / (25 / 12))
    assert zipf_mean([0.6], [4], places=4) == pytest.approx(0.6)
    assert zipf_mean([0.6], [400], places=4) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("similarities", "counts", "places", "expected"),
    [([0.95, 0.8], [200, 200], 400, 0.93420), ([0.95, 0.8, 0.7], [200, 500, 100], 800, 0.91956)],
)
def test_the_authors_numbers(similarities, counts, places, expected):
    assert zipf_mean(similarities, counts, places=places) == pytest.approx(expected, abs=1e-5)


def test_any_order_and_any_counts_are_the_definition():
    chance = random.Random(7)
    for _ in range(200):
        size = chance.randrange(1, 9)
        similarities = [round(chance.random(), 1) for _ in range(size)]  # with equal ones
        counts = [chance.choice([0, 1, 2, 30, 700]) for _ in range(size)]
        places = chance.choice([1, 3, 50, 1000])
        expected = at_length(similarities, counts, places)
        assert zipf_mean(similarities, counts, places=places) == pytest.approx(expected)


def test_a_label_that_points_elsewhere_counts_as_zero_and_not_below():
    cosines = {("hot", "cold"): -1.0, ("hot", "wet"): 0.0, ("hot", "hot"): 1.0}
    numbers = dict(places=1000, cosine=lambda a, b: cosines[a, b])
    (row,) = familiarities(["hot"], {"cold": 500, "wet": 500}, **numbers)
    assert row["familiarity"] == 0 and row["entities"] == 0
    (row,) = familiarities(["hot"], {"cold": 999, "hot": 1, "never": 0}, **numbers)
    assert row["familiarity"] == pytest.approx(1 / sum(1 / n for n in range(1, 1001))) and row["nearest"][0] == "hot"


def test_an_entity_teaches_its_broader_label_and_those_joined_to_it():
    rows = [{"entities": [{"label": "city / town"}, {"label": "location"}]}, {"entities": [{"label": "rune"}]}]
    assert taught_labels(rows) == {"city": 1, "town": 1, "location": 2, "rune": 1}


def test_the_mean_counts_each_label_once():
    rows = [{"label": "a", "familiarity": 0.2}, {"label": "b", "familiarity": 0.8}]
    assert mean_familiarity(rows) == pytest.approx(0.5)
    assert mean_familiarity(rows, ["b", "c"]) == 0.8 and mean_familiarity(rows, ["c"]) is None


def test_it_stands_beside_the_scores_of_a_run(finished):
    folder, done = finished
    run = folder / "runs" / "small"
    evaluated = run / "35_evaluate" / "tiny" / "sample-swh"
    scores = json.loads((evaluated / "scores.json").read_text(encoding="utf-8"))
    taught = taught_labels(read_rows(run / "18_sentences" / "swh" / "rows.parquet"))
    expected = familiarities(scores["labels"], taught, places=1000, cosine=label_cosine([]))
    assert [row["label"] for row in scores["familiarities"]] == [row["label"] for row in expected]
    assert 0 < scores["familiarity"] < 1
    assert scores["familiarity"] == pytest.approx(mean_familiarity(expected))
    counts = json.loads((evaluated / "meta.json").read_text(encoding="utf-8"))["counts"]
    assert counts["familiarity"] == scores["familiarity"]
    assert "familiarity" in done.stdout and f"{scores['familiarity']:.2f}" in done.stdout
