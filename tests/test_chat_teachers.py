"""Two chat teachers that disagree in every way: stages 10 to 20 in three scripts, under both policies of 16_merge."""

import hashlib
import itertools
import re
import shutil
import string
import threading
from collections import Counter
from types import SimpleNamespace

import pytest
from chat_server import ChatHandler, fences, serving
from conftest import LIGHT_FILTER, SMALL

from finerweb.data import Entity, read_rows
from finerweb.models.paper_merge import span_overlap
from finerweb.runner.plan import plan
from finerweb.runner.profiles import load_profile
from finerweb.store import output_folder, read_meta

LANGUAGES = ["arb", "tha"]
NAMES = ("one", "two")
RUN = "chats"
SIGNS = re.escape(string.punctuation) + "،؛؟“”‘’«»–—…"
WORD = re.compile(rf"[^\s{SIGNS}](?:\S*[^\s{SIGNS}])?")  # between blanks, without the signs around it
# Of each five words of a line: (first word, word after the last, label) by the first teacher, and by the second.
DISAGREEMENTS = {
    "none": [(0, 3, "city"), (0, 3, "city")],
    "label": [(0, 3, "city"), (0, 3, "volcano")],
    "nested": [(0, 4, "university"), (1, 2, "city")],
    "crossing": [(0, 3, "river"), (1, 4, "river")],
    "crossing, and label": [(1, 4, "person"), (0, 3, "sports event")],
    "longer": [(0, 2, "person"), (0, 3, "person")],
    "label, the other way": [(2, 4, "volcano"), (2, 4, "city")],
}


def scripted_mentions(text: str, teacher: int) -> list[dict]:
    "What a teacher names in a text."
    kinds, mentions = itertools.cycle(DISAGREEMENTS.values()), []
    for line in text.splitlines():
        words = [m.span() for m in WORD.finditer(line)]
        for five in (words[n : n + 5] for n in range(0, len(words) - 4, 5)):
            first, after, label = next(kinds)[teacher]
            mentions.append({"text": line[five[first][0] : five[after - 1][1]], "type": label})
    return mentions


class Teachers(ChatHandler):
    "Both teachers; the model's name tells which. A request without the teacher's own key is refused."

    asked, lock = Counter(), threading.Lock()

    def reply(self, sent: dict) -> dict | None:
        model, text = sent["model"], fences(sent["messages"][1]["content"])[0][1]
        wanted = sent["response_format"]["json_schema"]["schema"]["properties"]
        if self.headers["authorization"] != f"Bearer key of {model}":
            return None
        with self.lock:
            Teachers.asked[model, sorted(wanted)[0]] += 1
        if "entities" in wanted:
            return {"entities": scripted_mentions(text, NAMES.index(model))}
        return {"justification": "Some names.", "score": 1 + hashlib.sha256(text.encode()).digest()[0] % 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, finerweb, profile_file) -> dict[str, SimpleNamespace]:
    "Policy -> its run: `profile`, `home`, `asked`, its requests. The paper's begins as a copy of the default's."
    pytest.importorskip("openai", reason="needs the client of endpoints")
    keys, runs, folder = {f"KEY_{n}": f"key of {n}" for n in NAMES}, {}, tmp_path_factory.mktemp("chats")
    with serving(Teachers) as address:
        common = {"kind": "endpoint", "base_url": address}
        teachers = [{"name": n, "model": n, "api_key_env": f"KEY_{n}"} | common for n in NAMES]
        stages = SMALL["stages"] | {"12_filter": LIGHT_FILTER}
        changes = dict(languages=LANGUAGES, teachers=teachers, students=[], benchmarks=[], stages=stages)
        profile = profile_file(folder, RUN, **changes)
        for policy in ("default", "paper"):
            home = folder / policy
            if policy == "paper":
                shutil.copytree(folder / "default", home)
            Teachers.asked = Counter()
            words = ["--stages", "20_publish,19_judge", "--home", home, "--set", f"16_merge.policy={policy}"]
            done = finerweb(folder, "run", profile, *words, **keys)
            assert done.returncode == 0, done.stdout + done.stderr
            runs[policy] = SimpleNamespace(profile=profile, home=home, asked=Teachers.asked)
    return runs


def rows(run: SimpleNamespace, stage: str, *key: str) -> dict[str, dict]:
    "id -> row of a stage's output."
    return {r["id"]: r for r in read_rows(output_folder(str(run.home), RUN, stage, key) / "rows.parquet")}


def entities(row: dict, field: str = "entities") -> list[Entity]:
    return [Entity(e["start"], e["end"], e["label"]) for e in row[field]]


def pairs(run: SimpleNamespace, language: str) -> list[tuple[str, str, Entity, Entity]]:
    "(id, kind, the first teacher's entity, the second's) of every two that touch each other and nothing else."
    one, two = (rows(run, "15_align", language, n) for n in NAMES)
    result = []
    for passage, row in one.items():
        mine, others = entities(row), entities(two[passage])
        touched = [(a, b) for a in mine for b in others if span_overlap(a, b)]
        degree = Counter(e for pair in touched for e in enumerate(pair))
        for a, b in touched:
            if degree[0, a] == degree[1, b] == 1:
                inside = (a.start - b.start) * (a.end - b.end) <= 0
                same = (a.start, a.end) == (b.start, b.end)
                kind = ("same" if a.label == b.label else "label") if same else "nested" if inside else "crossing"
                result.append((passage, kind, a, b))
    return result


both_policies = pytest.mark.parametrize("policy", ["default", "paper"])
each_language = pytest.mark.parametrize("language", LANGUAGES)


@both_policies
def test_every_task_ends_well(runs, policy):
    run = runs[policy]
    tasks = plan(load_profile(str(run.profile)))
    wanted = {"12_filter": 1, "20_publish": 1} | dict.fromkeys(("11_rate", "14_annotate", "15_align"), 4)
    wanted |= dict.fromkeys(("10_corpus", "13_select", "16_merge", "17_translate", "18_sentences", "19_judge"), 2)
    done = [t.stage for t in tasks if read_meta(output_folder(str(run.home), RUN, t.stage, t.key))]
    assert Counter(stage for stage in done if stage < "30") == wanted
    for language in LANGUAGES:
        meta = read_meta(output_folder(str(run.home), RUN, "16_merge", (language,)))
        assert meta["parameters"]["policy"] == policy and not meta["dropped"]
        assert rows(run, "16_merge", language).keys() == rows(run, "13_select", language).keys()


def test_each_request_is_made_once_and_the_other_policy_asks_nothing(runs):
    assert set(runs["default"].asked) == {(n, kind) for n in NAMES for kind in ("entities", "justification")}
    passages = sum(len(rows(runs["default"], "13_select", language)) for language in LANGUAGES)
    assert {runs["default"].asked[n, "entities"] for n in NAMES} == {passages}
    assert not runs["paper"].asked


@each_language
def test_the_teachers_disagree_in_every_way(runs, language):
    kinds = Counter(kind for _, kind, _, _ in pairs(runs["default"], language))
    assert min(kinds[kind] for kind in ("same", "label", "nested", "crossing")) >= 2, kinds


@both_policies
@each_language
def test_merged_entities_are_the_teachers_spans_and_do_not_overlap(runs, policy, language):
    run = runs[policy]
    aligned = [rows(run, "15_align", language, n) for n in NAMES]
    for passage, row in rows(run, "16_merge", language).items():
        merged = entities(row)
        assert merged and all(a.end <= b.start for a, b in itertools.pairwise(merged))
        spans = {(e.start, e.end) for table in aligned for e in entities(table[passage])}
        assert {(e.start, e.end) for e in merged} <= spans


@both_policies
@each_language
def test_each_disagreement_is_decided_as_the_policy_says(runs, policy, language):
    merged = {passage: entities(row) for passage, row in rows(runs[policy], "16_merge", language).items()}
    for passage, kind, a, b in pairs(runs[policy], language):
        survivors = [e for e in merged[passage] if span_overlap(e, a) or span_overlap(e, b)]
        assert len(survivors) == 1, (kind, a, b, survivors)
        longer = a if a.end - a.start >= b.end - b.start else b
        if kind == "same" or policy == "paper":
            assert (survivors[0].start, survivors[0].end) == (longer.start, longer.end), (kind, a, b, survivors)
            assert survivors[0].label == longer.label, (kind, a, b, survivors)


@each_language
def test_the_policies_differ(runs, language):
    default, paper = (rows(runs[policy], "16_merge", language) for policy in ("default", "paper"))
    assert any(entities(default[passage]) != entities(paper[passage]) for passage in default)


@both_policies
@each_language
def test_published_spans_are_mentions_of_a_teacher(runs, policy, language):
    run = runs[policy]
    merged, folder = rows(run, "16_merge", language), output_folder(str(run.home), RUN, "20_publish", ())
    annotations = [rows(run, "14_annotate", language, n) for n in NAMES]
    texts = {passage: {m["text"] for table in annotations for m in table[passage]["mentions"]} for passage in merged}
    # the sign of a list in front of a name is no part of it
    mentions = {passage: some | {text.lstrip("• ") for text in some} for passage, some in texts.items()}
    published = {r["id"]: r for r in read_rows(folder / "merged-english-passages" / language / "train.parquet")}
    assert published.keys() == merged.keys()
    for passage, row in published.items():
        assert {row["text"][e["start"] : e["end"]] for e in row["char_spans"]} <= mentions[passage]
        assert entities(row, "char_spans") == entities(merged[passage])
    sentences = read_rows(folder / "merged-english-sentences" / language / "train.parquet")
    texts = [row["text"][e["start"] : e["end"]] for row in sentences for e in row["char_spans"]]
    assert len(texts) > len(merged) and set(texts) <= set().union(*mentions.values())
