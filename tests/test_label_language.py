"""Labels in English and in the language of the text: pairs of labels, and a student that is asked by both."""

import json
import shutil

import numpy as np
import pytest

from finerweb.data import Entity, read_rows
from finerweb.label_language import PAIRS, SCORES, both_scores, label_pairs, label_vectors, names_in, under_labels

DRAWS = dict(resamples=20, seed=1, level=0.9)


def names(language: str, count: int) -> list[dict]:
    rows = [{"label": f"label {n}", "translation": f"{language} {n}"} for n in range(count)]
    return [row | {"language": language, "concept": row["label"], "method": "table"} for row in rows]


def unit(words: list[str]) -> np.ndarray:
    "A unit vector for each word, always the same one."
    vectors = np.array([np.random.default_rng(sum(map(ord, word))).normal(size=8) for word in words])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_every_two_translated_labels_of_a_language_are_a_pair():
    table = names("swh", 4) + names("tha", 3) + names("eng", 5)
    table.append(table[0] | {"label": "rune", "translation": "rune", "method": "english"})
    pairs = label_pairs(table, unit, most=100, seed=1)
    assert [pair["language"] for pair in pairs] == ["swh"] * 6 + ["tha"] * 3
    assert {pair["label"] for pair in pairs} | {pair["other"] for pair in pairs} == {f"label {n}" for n in range(4)}
    first = pairs[0]
    for column, words in (("english", ["label 0", "label 1"]), ("translated", ["swh 0", "swh 1"])):
        a, b = unit(words)
        assert first[column] == pytest.approx(a @ b)
    assert set(first) == set(PAIRS.names)


def test_of_many_labels_some_are_drawn_the_same_ones_each_time():
    table = names("swh", 40)
    pairs = label_pairs(table, unit, most=10, seed=1)
    assert len(pairs) == 45 and pairs == label_pairs(list(reversed(table)), unit, most=10, seed=1)
    assert pairs != label_pairs(table, unit, most=10, seed=2)


def test_e5_reads_a_label_alone_as_among_others():
    words = ["city", "mji", "เมือง", "a much longer label of several words"]
    together, alone = label_vectors(words, model="e5"), label_vectors(words[1:2], model="e5")
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(together[1], alone[0], atol=1e-4)
    cosines = together @ together.T
    assert cosines[0, 2] > cosines[0, 3] and cosines[0, 2] > 0.8  # city, and the Thai word for it


def test_a_translation_of_two_labels_is_asked_once():
    asked = names_in(["town", "city", "rune"], "swh", {"city": "mji", "town": "mji"})
    assert asked == {"mji": "town", "rune": "rune"}
    assert under_labels([[Entity(0, 1, "mji", 0.5)], []], asked) == [[Entity(0, 1, "town", 0.5)], []]


def entity(start: int, end: int, label: str) -> dict:
    return dict(start=start, end=end, label=label, score=1.0, teachers=[])


def test_both_scores_are_over_the_same_gold():
    row = dict(id="a", text="Juma alifika Oslo.", language="swh", script="Latn", document_id="")
    gold = [entity(0, 4, "person"), entity(13, 17, "city")]
    rows = [row | dict(entities=gold, predicted=gold[:1]), row | dict(id="b", entities=gold, predicted=[])]
    calls = []

    def predict(texts: list[str], labels: list[str]) -> list[list[Entity]]:
        calls.append((texts, labels))
        return [[Entity(0, 4, "mtu"), Entity(13, 17, "mji")], [Entity(5, 12, "mtu")]]

    english, target, both = both_scores(rows, predict, {"person": "mtu", "city": "mji"}, **DRAWS)
    assert calls == [([row["text"]] * 2, labels) for labels in (["mji", "mtu"], ["mji", "mtu", "city", "person"])]
    assert (both["labels"], both["asked"], both["translated"]) == ("both", 4, 2) and both["f1"] == target["f1"]
    assert (english["labels"], english["f1"], english["translated"]) == ("english", pytest.approx(0.4), 0)
    assert (target["labels"], target["translated"]) == ("target", 2)
    assert (target["precision"], target["recall"]) == (pytest.approx(2 / 3), pytest.approx(2 / 4))
    assert set(target) | {"student", "benchmark", "taught"} == set(SCORES.names)


def test_a_test_set_in_english_has_no_translated_labels():
    row = dict(id="a", text="Juma", language="eng", script="Latn", document_id="", entities=[entity(0, 4, "person")])
    assert both_scores([row | {"predicted": []}], lambda texts, labels: 1 / 0, {}, **DRAWS) == []


@pytest.fixture(scope="module")
def studies(finished, finerweb, tmp_path_factory):
    "The small run with both studies, the first of which is left out."
    folder, _ = finished
    mine = tmp_path_factory.mktemp("studies")
    shutil.copytree(folder, mine, dirs_exist_ok=True)
    stages, encoder = "40_confidence,41_label_language", "41_label_language.encoder=minilm"
    done = finerweb(mine, "run", next(mine.glob("*.yaml")), "--stages", stages, "--set", encoder)
    assert done.returncode == 0, done.stdout + done.stderr
    return mine / "runs" / "small", done


def test_the_stage_asks_each_student_of_a_run(studies):
    run, _ = studies
    folder = run / "41_label_language"
    scores, pairs = read_rows(folder / "scores.parquet"), read_rows(folder / "pairs.parquet")
    assert [(s["student"], s["benchmark"], s["labels"]) for s in scores] == [
        ("tiny", "sample-swh", "english"),
        ("tiny", "sample-swh", "target"),
        ("tiny", "sample-swh", "both"),
    ]
    evaluated = json.loads((run / "35_evaluate/tiny/sample-swh/scores.json").read_text(encoding="utf-8"))
    micro = next(r for r in evaluated["all"] if (r["match"], r["label"]) == ("strict", "micro"))
    assert scores[0]["f1"] == micro["f1"] and scores[0]["passages"] == evaluated["passages"]
    assert pairs and {pair["language"] for pair in pairs} == {"swh"}


def test_a_study_that_is_left_out_says_so(studies):
    run, done = studies
    assert read_rows(run / "40_confidence" / "rows.parquet") == []
    assert "left out: folds is 0" in done.stdout
