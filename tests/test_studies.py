"""The studies' measures on cases whose outcome is known, and on human labels where they are there."""

import json
import random
from dataclasses import replace

import pytest
from chat_server import ChatHandler, fences, serving

from finerweb.data import Entity, Mention, Passage, entity_row, schema, write_rows
from finerweb.studies.error_budget import (
    Calibration,
    calibration_error,
    fit_calibration,
    judged,
    lowest_quarter,
    merged_entities,
    reliability,
    spoilt,
)
from finerweb.studies.grounding import aligners, compare_rules, faulty_mentions
from finerweb.studies.planted_errors import LISTS, chat_judge, examine, found_table, plant
from finerweb.studies.worth_of_stages import Cell, cell_rows, drawn, fingerprint, read_results, run_grid, worth_table

np = pytest.importorskip("numpy")
FAULTS = {"forgets": 0.1, "moves": 0.15, "invents": 0.05, "respells": 0.1, "repeats": 0.05, "collapses": 0.2}


def drawn_judgements(said: float, right: float, entities: int) -> list:
    pick = random.Random(1)
    return [[(said, pick.random() < right)] for _ in range(entities)]


# Error budget


def test_calibration_finds_the_numbers_that_spoilt_the_probabilities():
    pick, passages = random.Random(3), []
    for _ in range(4000):
        odds = pick.gauss(1, 2)
        right = pick.random() < 1 / (1 + np.exp(-(0.5 * odds - 0.7)))
        passages.append([(float(1 / (1 + np.exp(-odds))), right)])
    learnt = fit_calibration(passages, pull=1.0)
    assert learnt.slope == pytest.approx(0.5, abs=0.08) and learnt.offset == pytest.approx(-0.7, abs=0.12)
    after = [[(learnt(p), right) for p, right in own] for own in passages]
    how = dict(bins=10, resamples=20, seed=1)
    assert reliability(after, **how)["ECE"] < 0.03 < 0.1 < reliability(passages, **how)["ECE"]


def test_calibration_keeps_the_order_and_few_entities_move_it_little():
    wrong_way = [[(0.9, False), (0.2, True)]] * 50  # the surer, the wronger
    learnt = fit_calibration(wrong_way, pull=1.0)
    assert learnt.slope >= 0 and learnt(0.9) >= learnt(0.2)
    assert fit_calibration([[(0.9, False)]], pull=20.0)(0.9) > 0.8 and fit_calibration([], pull=1.0) == Calibration()
    assert 0 < learnt(0.0) <= learnt(1.0) < 1


def test_reliability_of_nothing_and_of_sure_ones():
    how = dict(bins=10, resamples=10, seed=1)
    assert reliability([], **how)["entities"] == reliability([[], []], **how)["ECE"] == 0
    assert calibration_error(np.array([1.0, 1.0]), np.array([1.0, 0.0]), 10) == pytest.approx(0.5)
    assert reliability(drawn_judgements(0.9, 0.5, 400), **how)["ECE"] == pytest.approx(0.4, abs=0.08)


def test_lowest_quarter_shares_ties():
    assert lowest_quarter([(n / 8, n in (0, 7)) for n in range(8)]) == 0.5
    assert lowest_quarter([(0.1, True)] * 4 + [(0.9, False)] * 4) == 0.5
    assert lowest_quarter([]) == lowest_quarter([(0.5, False)]) == 0


def test_spoilt_claims_differ_from_the_planted_ones_only():
    entities = [Entity(n * 20, n * 20 + 9, "person", 0.9) for n in range(200)]
    words = [(n * 20 + 12, n * 20 + 17) for n in range(200)]
    claims, planted = spoilt(entities, words, ["person", "location"], rate=0.1, seed="1")
    keys = {(e.start, e.end, e.label) for e in claims}
    assert keys - {(e.start, e.end, e.label) for e in entities} == set(planted)
    assert all(10 <= list(planted.values()).count(kind) <= 32 for kind in ("label", "edge", "invented"))


# Grounding


def test_rules_on_mentions_without_faults_and_with():
    text = "Anna met Bo in Oslo. Bo left Oslo with Anna."
    spans = [(0, 4, "person"), (9, 11, "person"), (15, 19, "city"), (21, 23, "person"), (29, 33, "city")]
    passage = Passage("1", text, "eng", "Latn", tuple(Entity(*span) for span in spans))
    none = dict.fromkeys(FAULTS, 0.0)
    rules = aligners(langextract=False)
    assert [row["F1"] for row in compare_rules(faulty_mentions([passage], faults=none, seed=1), rules, repeats=1)] == [
        1,
        1,
    ]
    backwards = [
        (passage, [Mention("Bo", "person"), Mention("Anna", "person")], [("Bo", "person"), ("Anna", "person")])
    ]
    recalls = {row["rule"]: row["recall"] for row in compare_rules(backwards, {"p": rules["paper"]}, repeats=1)}
    assert recalls == {"p": 0.0} or recalls == {"p": 0.5}


def test_langextract_is_asked_for_by_name():
    pytest.importorskip("langextract", reason="the package langextract is not installed")
    text = "I saw Wangari Maathai today."
    placed = aligners(langextract=True)["langextract, Unicode"](
        text, [Mention("Wangari Maathai", "x"), Mention(" ", "x")]
    )
    assert placed == [Entity(6, 21, "x")]


# Planted errors


def test_a_perfect_judge_finds_all_and_a_blind_one_nothing():
    text = "Anna Berg met Bo Lund in Oslo today."
    entities = (Entity(0, 9, "person"), Entity(14, 21, "person"), Entity(25, 29, "location"))
    gold = [Passage(f"{n}", text, "eng", "Latn", entities) for n in range(60)]
    labels, sides = ("person", "location"), ("missing", "extra", "wrong")

    def perfect(rows: list[dict]) -> list[dict]:
        right, verdicts = {(e.start, e.end, e.label) for e in entities}, []
        for row in rows:
            there, lists = {(e["start"], e["end"], e["label"]) for e in row["entities"]}, {name: [] for name in sides}
            for start, end, label in sorted(there - right):
                touched = any(s < end and start < e for s, e, _ in right)
                lists["wrong" if touched else "extra"].append({"text": text[start:end], "label": label})
            for start, end, label in sorted(right):
                if not any(s < end and start < e for s, e, _ in there):
                    lists["missing"].append({"text": text[start:end], "label": label})
            verdicts.append(row | lists)
        return verdicts

    counts, unjudged = examine(gold, perfect, labels=labels, rate=0.15, seed=1)
    table = {row["kind"]: row for row in found_table(counts)}
    assert unjudged == 0 and set(table) == set(LISTS) and all(row["planted"] > 5 for row in table.values())
    assert all(row["recall"] == row["precision"] == 1 and not row["right ones accused"] for row in table.values())
    blind, unjudged = examine(
        gold, lambda rows: [row | dict.fromkeys(sides) for row in rows[1:]], labels=labels, rate=0.15, seed=1
    )
    assert unjudged == 1 and all(row["recall"] == 0 for row in found_table(blind))
    nothing, planted = plant(replace(gold[0], entities=()), [(0, 4)], labels, rate=0.5, seed="1")
    assert nothing.entities == () and not any(planted.values())


class KnowsGold(ChatHandler):
    "A language model that knows the entities of each passage, and reads what it is asked about out of the request."

    gold: dict[str, str] = {}  # text of an entity -> its label
    asked: list[str] = []

    def reply(self, sent: dict) -> dict | None:
        (_, text), (_, listed) = fences(sent["messages"][1]["content"])
        self.asked.append(text)
        if "secret" in text:
            return None
        annotations = json.loads(listed)
        wrong, extra = [], []
        for a in annotations:
            if self.gold.get(a["text"]) != a["type"]:
                touches = any(a["text"] in name or name in a["text"] for name in self.gold)
                (wrong if touches else extra).append({"number": a["number"], "reason": "it is not"})
        gone = [n for n in self.gold if n in text and not any(n[1:-2] in a["text"] for a in annotations)]
        missing = [{"text": name, "type": self.gold[name], "reason": "it is one"} for name in gone]
        return {"missing": missing, "extra": extra, "wrong": wrong, "explanation": "", "faithfulness": 3,
                "completeness": 3}  # fmt: skip


def test_a_language_model_is_asked_for_planted_errors_through_its_endpoint(tmp_path, monkeypatch, capsys):
    pytest.importorskip("openai", reason="needs the client of endpoints")
    monkeypatch.setenv("JUDGES_KEY", "k")
    entities = (Entity(0, 9, "person"), Entity(14, 21, "person"), Entity(25, 29, "location"))
    texts = [f"Anna Berg met Bo Lund in Oslo today, {'secret' if n == 7 else n}." for n in range(60)]
    gold = [Passage(f"{n}", text, "eng", "Latn", entities) for n, text in enumerate(texts)]
    KnowsGold.gold, KnowsGold.asked = {"Anna Berg": "person", "Bo Lund": "person", "Oslo": "location"}, []
    how = dict(home=str(tmp_path), max_tokens=1000, max_characters=20_000, seed=1)
    with serving(KnowsGold) as address:
        spec = {"name": "knows", "kind": "endpoint", "base_url": address, "model": "m", "api_key_env": "JUDGES_KEY"}
        judge = chat_judge(spec, **how)
        counts, unjudged = examine(gold, judge, labels=("person", "location"), rate=0.15, seed=1)
        asked = len(KnowsGold.asked)
        assert examine(gold[:7], judge, labels=("person", "location"), rate=0.15, seed=1)[1] == 0
        assert len(KnowsGold.asked) == asked, "what was answered once is not asked, nor paid, again"
    assert unjudged == 1 and "knows gave no verdict on 1 passages" in capsys.readouterr().out
    table = {row["kind"]: row for row in found_table(counts)}
    assert all(row["planted"] > 5 and row["recall"] == row["placed"] == row["precision"] == 1 for row in table.values())
    with pytest.raises(ValueError, match="the judge is empty"):
        chat_judge({}, **how)


# Worth of stages


@pytest.fixture
def run(tmp_path):
    "A run of one language with two teachers and eight passages."
    passages = [{"id": f"eng_{n}", "text": f"Anna Berg met no. {n} in Oslo.", "language": "eng"} for n in range(8)]
    person, city = (entity_row(Entity(0, 9, "person", 0.9)), entity_row(Entity(21, 25, "city", 0.9)))

    def write(place: str, stage: str, rows: list[dict]) -> None:
        (tmp_path / place).mkdir(parents=True)
        write_rows(tmp_path / place / "rows.parquet", rows, schema(stage))

    write("13_select/eng", "13_select", [p | {"filter_score": 0.9 if n % 2 else 0.1} for n, p in enumerate(passages)])
    write("15_align/eng/a", "15_align", [p | {"entities": [person]} for p in passages])
    write("15_align/eng/b", "15_align", [p | {"entities": [person, city]} for p in passages])
    write("16_merge/eng", "16_merge", [p | {"entities": [person, city], "undecided": []} for p in passages])
    write("16_merge/round1/eng", "16_merge", [p | {"entities": [person], "undecided": [city]} for p in passages])
    write(
        "18_sentences/eng",
        "18_sentences",
        [p | {"id": p["id"] + "-s0", "parent_id": p["id"], "offset": 0} for p in passages],
    )
    return tmp_path


def cell(variant: str = "ours", **changed) -> Cell:
    return Cell(**dict(variant=variant, passages=4, languages=["eng"], seed=1, steps=2, batch=2, longest=200) | changed)


def test_variants_differ_in_one_thing(run):
    rows = {
        v: cell_rows(run, cell(v), {}, min_score=0.5)[0]
        for v in ("ours", "paper's merge", "only a", "only b", "any passages", "no concepts", "one round")
    }
    assert {len(r["entities"]) for r in rows["only a"]} == {1} and {len(r["entities"]) for r in rows["only b"]} == {2}
    chosen = {v: {r["id"].removesuffix("-s0") for r in some} for v, some in rows.items()}
    assert chosen["ours"] == chosen["only b"] == {"eng_1", "eng_3", "eng_5", "eng_7"} != chosen["any passages"]
    assert fingerprint(rows["ours"]) == fingerprint(rows["no concepts"]) != fingerprint(rows["only a"])
    assert rows["one round"] == []  # each has an undecided span
    smaller = {r["id"].removesuffix("-s0") for r in cell_rows(run, cell(passages=2), {}, min_score=0.5)[0]}
    assert smaller < chosen["ours"]
    with pytest.raises(ValueError, match="5 passages are wanted, 4 can be drawn"):
        drawn(
            [{"id": f"{n}", "language": "eng", "filter_score": n % 2} for n in range(8)], 5, any_passages=False, seed=1
        )
    with pytest.raises(ValueError, match="variant 'other' is not known"):
        cell_rows(run, cell("other"), {}, min_score=0.5)


def test_test_sentences_are_not_learned(run):
    rows, leaked = cell_rows(run, cell(), {"t": ["Anna Berg met no. 3 in Oslo."]}, min_score=0.5)
    assert leaked >= 1 and "eng_3" not in {r["id"].removesuffix("-s0") for r in rows}


def test_a_grid_goes_on_and_trains_again_after_a_change(run, tmp_path, monkeypatch):
    trained, file = [], tmp_path / "results.jsonl"

    def fake(run, cell, rows, tests):
        trained.append(cell.variant)
        return {"counts": {"t": [[1, 1, 1]]}}

    monkeypatch.setattr("finerweb.studies.worth_of_stages.run_cell", fake)
    cells = [cell("ours"), cell("only a")]
    first = run_grid(run, cells[:1], {}, file=file, min_score=0.5)
    file.write_text(file.read_text() + '{"cell": {"var', encoding="utf-8")
    assert run_grid(run, cells, {}, file=file, min_score=0.5)[:1] == first and trained == ["ours", "only a"]
    assert len(read_results(file)) == 2 and json.loads(file.read_text().splitlines()[0]) == first[0]
    place = run / "16_merge" / "eng" / "rows.parquet"
    rows = [{"id": f"eng_{n}", "text": "", "language": "eng", "entities": [], "undecided": []} for n in range(8)]
    write_rows(place, rows, schema("16_merge"))
    run_grid(run, cells, {}, file=file, min_score=0.5)
    assert trained == ["ours", "only a", "ours"]


def test_a_difference_on_the_same_sentences_is_surer_than_two_intervals():
    def result(variant: str, seed: int, counts: list) -> dict:
        cell = {"variant": variant, "passages": 9, "seed": seed, "languages": ["eng", "swh"]}
        return {"cell": cell, "counts": {"t": counts}}

    hard = [[3, 3, 3]] * 30 + [[3, 3, 0]] * 30
    bit_better = [[3, 3, 3]] * 34 + [[3, 3, 0]] * 26
    grid = [result("ours", 1, bit_better), result("less", 1, hard), result("less", 2, hard)]
    ours, less = worth_table(grid, compared="ours", resamples=500, seed=1)
    assert less["seeds"] == 2 and less["difference"] == pytest.approx(-4 / 60)
    assert less["to"] - less["from"] < ours["high"] - ours["low"] and less["to"] <= 0


# Human labels


def test_planted_errors_stand_where_probability_is_low(real_data):
    from finerweb.studies.merge_quality import core, offline, read_sets

    read = read_sets(real_data, names=["masakhaner2"], sentences=250, length=1200)["masakhaner2 swh"]
    gold = [replace(p, entities=tuple(core(p.entities))) for p in read]
    merged = merged_entities(gold, offline(gold, [], "swh"), prior=0.6, prior_weight=30)
    row = reliability(judged(gold, merged), bins=10, resamples=50, seed=1)
    assert row["entities"] > 200 and row["said"] > row["right"] > 0.5  # it says too much


def test_ours_places_more_than_the_papers_rule(real_data):
    from finerweb.studies.merge_quality import read_sets

    for read in read_sets(real_data, names=["thainer-1.5.1", "anercorp"], sentences=200, length=1000).values():
        named = faulty_mentions([p for p in read if p.entities][:8], faults=FAULTS, seed=2)
        rows = {row["rule"]: row["F1"] for row in compare_rules(named, aligners(langextract=False), repeats=1)}
        assert rows["ours"] > 0.95 > rows["paper"]
