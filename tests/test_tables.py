"""The paper's tables beside a run: whose a line is, what its number means, and how it is read."""

import csv
import json

import pytest

from finerweb.data import asset
from finerweb.languages import packaged_languages
from finerweb.languages import reported as reported_numbers
from finerweb.paper.errors import error_table
from finerweb.paper.label_language import label_language_table
from finerweb.paper.passages import passage_table
from finerweb.paper.reported import DIFFERENCE, OURS, REPORTED, difference_row, paper_rows
from finerweb.paper.statement import TRAINED_BY, Wanted, contents, run_statement, why_missing, write_index
from finerweb.paper.table_files import DASH, latex_table, latex_text, write_table
from finerweb.runner.stages import STAGES, STUDENTS
from finerweb.tables import (
    PAPER_SETS,
    dataset_table,
    filter_table,
    known_set,
    language_table,
    merging_table,
    student_table,
)


def evaluation(benchmark: str, f1: float, *, student: str = "s") -> dict:
    micro = dict(match="strict", label="micro", precision=0.5, recall=0.5, f1=f1, low=f1, high=f1)
    told = dict(student=student, benchmark=benchmark, language="eng", passages=9, leaked=0, trained_on=["eng", "tha"])
    return told | {"all": [micro]}


def table(f1s: dict[str, float], benchmarks: list[dict]) -> list[dict]:
    sets = {b["name"]: known_set(b) for b in benchmarks}
    return student_table([evaluation(name, f1) for name, f1 in f1s.items()], sets=sets, trained={"s": "eng"})


@pytest.mark.parametrize(
    ("benchmark", "expected"),
    [
        ({"name": "conll2003"}, "conll2003"),
        ({"name": "x", "set": "conll2003", "language": "en"}, "conll2003"),
        ({"name": "x", "set": "masakhaner2", "language": "sw"}, "masakhaner2-swh"),
        ({"name": "x", "set": "masakhaner2", "language": "amh"}, ""),
        ({"name": "x", "set": "thainer-2.2", "language": "th"}, "thainer-2.2"),
        ({"name": "thainer"}, "thainer"),
        ({"name": "conll2003", "split": "dev"}, ""),
        ({"name": "conll2003", "path": "mine.conll"}, ""),
        ({"name": "x", "set": "conll2003", "path": "mine.conll"}, "conll2003"),
        ({"name": "sample-eng"}, ""),
    ],
)
def test_a_set_is_the_papers_only_if_it_is(benchmark, expected):
    assert known_set(benchmark) == expected


def test_this_run_never_stands_under_a_set_that_it_did_not_run():
    benchmarks = [{"name": "thainer"}, {"name": "conll2003", "path": "mine.conll"}, {"name": "sample-eng"}]
    rows = table({"thainer": 0.5, "conll2003": 0.9, "sample-eng": 0.7}, benchmarks)
    last = max(n for n, row in enumerate(rows) if row["source"] == REPORTED and row["benchmark"] in PAPER_SETS)
    first = min(n for n, row in enumerate(rows) if row["source"] == OURS)
    assert last < first, "a line of this run stands among those of a set of the paper"
    assert "1.5.1" in next(row["note"] for row in rows if row["benchmark"] == "thainer")


def test_averages_say_what_they_are_over():
    thai = {"name": "th", "set": "thainer-2.2", "language": "tha"}
    benchmarks = [{"name": "conll2003"}, {"name": "masakhaner2-swh"}, thai, {"name": "sample-eng"}]
    whole = table({"conll2003": 0.6, "masakhaner2-swh": 0.3, "th": 0.9, "sample-eng": 0.1}, benchmarks)
    part = table({"conll2003": 0.6, "sample-eng": 0.2}, benchmarks)
    assert whole[-1]["f1"] == pytest.approx(0.6) and whole[-1]["benchmark"] == whole[-2]["benchmark"]
    assert part[-1]["f1"] == pytest.approx(0.4) and part[-1]["benchmark"] != part[-2]["benchmark"]
    assert part[-1]["note"] == "mean over conll2003, sample-eng"
    reported = [row["f1"] for row in whole if row["source"] == REPORTED][-4:]
    assert reported == [0.601, 0.671, 0.585, 0.66]


def test_annotations_kept_is_the_papers_measure():
    aligned = {name: dict(mentions=10, entities=10) for name in "ab"}
    agreed = dict(annotations=20, exact=10, entities=10, a_annotations=10, a_kept=10, b_annotations=10, b_kept=10)
    ours = [row for row in merging_table(aligned, agreed) if row["source"] == OURS]
    assert [row["share"] for row in ours if row["measure"] == "annotations kept"] == [0.5]
    own = {row["annotator"]: row["share"] for row in ours if row["measure"] == "annotations whose span is kept"}
    assert own == {"a": 1, "b": 1, "all": 1}
    assert not any(row["source"] == REPORTED and "span" in row["measure"] for row in merging_table(aligned, agreed))


def test_what_a_reader_sees_has_digits_that_fit_and_says_its_dashes(tmp_path):
    rows = table({"sample-eng": 0.7021}, [{"name": "sample-eng"}])
    write_table(rows, tmp_path / "t", title="T", about="A.")
    text = (tmp_path / "t.md").read_text(encoding="utf-8")
    assert "| 0.702 |" in text and "None" not in text and "nan" not in text and text.endswith(f"{DASH}\n")
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
        assert next(csv.DictReader(file))["low"] == ""
    write_table([{"f1": 0.5}], tmp_path / "u", title="T", about="A.")
    assert DASH not in (tmp_path / "u.md").read_text(encoding="utf-8")


# --- differences


def test_a_difference_is_only_taken_on_the_papers_set_and_against_its_like():
    rows = table({"conll2003": 0.6, "sample-eng": 0.2}, [{"name": "conll2003"}, {"name": "sample-eng"}])
    ours = {row["benchmark"]: row["difference"] for row in rows if row["source"] == OURS}
    assert ours["conll2003"] == pytest.approx(0.6 - 0.770), "this student learned from several languages"
    assert ours["sample-eng"] is None and ours["average of this run's sets"] is None
    one = evaluation("conll2003", 0.6) | {"trained_on": ["eng"]}
    rows = student_table([one], sets={"conll2003": "conll2003"}, trained={"s": "eng"})
    assert next(row["difference"] for row in rows if row["source"] == OURS) == pytest.approx(0.6 - 0.680)
    assert all(row["difference"] is None for row in rows if row["source"] == REPORTED)


def test_the_average_differs_by_the_mean_of_the_three_sets():
    thai = {"name": "th", "set": "thainer-2.2", "language": "tha"}
    benchmarks = [{"name": "conll2003"}, {"name": "masakhaner2-swh"}, thai]
    rows = table({"conll2003": 0.6, "masakhaner2-swh": 0.3, "th": 0.9}, benchmarks)
    assert rows[-1]["difference"] == pytest.approx(0.6 - (0.770 + 0.420 + 0.615) / 3)


def test_a_filter_is_compared_in_its_own_task():
    scores = dict(passages=20, precision=0.8, recall=0.7, f1=0.6)
    of = dict(encoder="e5", released="", loss="squared", trained="all", leave_out=[], teachers=[{"name": "a"}])
    of_seed = dict(macro=scores, overall=scores, unseen=dict(overall=dict(passages=0)))
    trained = [{"parameters": of | {"task": task}, "scores": of_seed} for task in ("binary", "multiclass")]
    rows = [row for row in filter_table(trained) if row["source"] == OURS and row["mean over"] == "languages"]
    assert [row["difference"] for row in rows] == [pytest.approx(0.6 - 0.841), pytest.approx(0.6 - 0.656)]


def test_sizes_and_languages_have_a_line_of_differences():
    of = dict(passages=10, avg_chars=900.0, annotations_per_passage=10.0, types_per_passage=5.0, distinct_types=2)
    statistics = [of | dict(language="tha", annotator=a, types={"city": 9}) for a in ("a", "b", "merged")]
    last = dataset_table(statistics, run="r")[-1]
    assert last["source"] == DIFFERENCE and last["passages"] == 10 - 226000 and last["languages"] == 1 - 91
    rows = language_table(statistics, teachers=["a", "b"])
    assert [row["source"] for row in rows] == [REPORTED, OURS, DIFFERENCE]
    assert rows[2]["passages"] == 10 - reported_numbers("tha")["passages"] and rows[2]["language"] == "tha"


def test_a_difference_needs_two_numbers():
    row = difference_row({"source": OURS, "a": 1, "b": None, "c": "x", "d": True}, {"a": 3, "b": 2, "c": "y", "d": 1})
    assert row == {"source": DIFFERENCE, "a": -2, "b": None, "c": "x", "d": None}


def test_reported_tables_are_whole():
    sizes = {"table1_filter": 8, "table3_datasets": 6, "table4_students": 4, "table5_judge_errors": 3}
    sizes |= {"table6_translated_labels": 6, "merging": 5, "figures": 6}
    assert {name: len(paper_rows(asset(f"paper/{name}.csv"))) for name in sizes} == sizes
    assert sum(bool(reported_numbers(code)) for code in packaged_languages()) == 91


# --- Tables 2, 5, 6 and 7


def judged(kinds: dict[str, list[str]]) -> list[dict]:
    errors = {kind: [{"text": "t", "label": label, "reason": ""} for label in labels] for kind, labels in kinds.items()}
    return [dict(entities=[{}, {}, {}, {}], missing=[], extra=[], wrong=[]) | errors]


def test_errors_are_counted_by_kind_and_type():
    rows = error_table({"eng": judged({"missing": ["city", "city", "date"]}), "tha": judged({})}, judge="m", types=1)
    missing = next(row for row in rows if row["source"] == OURS and row["kind"] == "missing")
    assert missing["count"] == 3 and missing["share"] == 3 / 8 and missing["types, % of the kind"] == "city 66.7"
    lines = [(row["kind"], row["share"]) for row in rows if row["source"] == DIFFERENCE]
    assert lines == [("missing", pytest.approx(3 / 8 - 0.0612)), ("wrong", pytest.approx(-0.0597))]
    stand_in = error_table({"eng": judged({"wrong": ["city"]})}, judge="", types=1)
    assert not [row for row in stand_in if row["source"] == DIFFERENCE], "agreement is no judgement"
    assert len(error_table({}, judge="", types=1)) == 3


def test_no_entities_no_share():
    rows = error_table({"eng": [dict(entities=[], missing=None, extra=[], wrong=[])]}, judge="m", types=3)
    assert all(row["share"] is None for row in rows if row["source"] != REPORTED)


def test_labels_are_compared_over_the_languages_asked_both_ways():
    asked = [("tha", "english", 0.5), ("tha", "english", 0.7), ("tha", "target", 0.4), ("swh", "english", 0.0)]
    scores = [dict(student="x", benchmark="b", language=c, labels=kind, f1=f1) for c, kind, f1 in asked]
    rows = [row for row in label_language_table(scores) if row["source"] == OURS]
    assert len(rows) == 1 and rows[0]["languages"] == 1 and rows[0]["difference"] == pytest.approx(-0.2)
    reported = [row["difference"] for row in label_language_table([])]
    assert len(reported) == 6 and min(reported) == pytest.approx(-0.092) and max(reported) == pytest.approx(-0.020)


def test_printed_passages_are_the_best_and_the_worst_that_were_scored():
    kept = {"eng": [dict(text=f"{n}", filter_score=n / 10) for n in (6, 9, 7)], "tha": []}
    dropped = [("a" * 900, "0.02", "low_score"), ("x", "1", "too_short"), ("y", "not a number", "low_score")]
    low = {"eng": [dict(text=text, detail=detail, reason=reason) for text, detail, reason in dropped]}
    rows = passage_table(kept, low, characters=100)
    assert [(r["filter score"], r["selected"], len(r["text"])) for r in rows] == [(0.9, True, 1), (0.02, False, 100)]
    assert len(passage_table({"eng": kept["eng"][:1]}, {}, characters=9)) == 1, "one passage is not both"


# --- files


HOSTILE = "\\input{/etc/passwd} 50 % & $x_1^2$ #1 ~ <b>|`\n\\write18{rm}"


def test_no_label_is_a_command_of_latex():
    words = latex_text(HOSTILE)
    plain = words
    for name in ("textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar"):
        plain = plain.replace(f"\\{name}{{}}", "")
    for character in "&%$#_{}":
        plain = plain.replace(f"\\{character}", "")
    assert not set(plain) & set("\\&%$#_{}^~<>|\n")
    text = latex_table([{HOSTILE: HOSTILE, "n": 1}], title=HOSTILE, about=HOSTILE, label="../x y")
    assert r"\label{tab:---x-y}" in text and "\\input{" not in text and "\\write18{" not in text
    assert text.count("\n") == len(text.splitlines()) and text.count(r"\begin{") == text.count(r"\end{")


def test_a_table_has_three_files_with_the_same_numbers(tmp_path):
    write_table([{"label": "จังหวัด", "f1": 0.51, "n": None}], tmp_path / "t", title="T", about="Not the paper's.")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv", "t.md", "t.tex"]
    for ending in ("md", "tex"):
        text = (tmp_path / f"t.{ending}").read_text(encoding="utf-8")
        assert "จังหวัด" in text and "0.510" in text and "Not the paper's." in text and DASH in text.replace("\\", "")


# --- what a run was made of, and what it lacks


WEAK = [{"name": "lexicon", "kind": "weak"}, {"name": "patterns", "kind": "weak"}]
PAPERS = [{"name": "a", "kind": "batch", "model": "gpt-4o-mini"}]
PAPERS.append({"name": "b", "kind": "vllm", "model": "google/gemma-3-27b-it"})


@pytest.mark.parametrize(
    ("teachers", "sizes", "is_papers"),
    [
        (WEAK, [2500] * 91, False),
        (PAPERS, [2500] * 91, True),
        (PAPERS, [2500] * 90, False),
        (PAPERS[:1], [2500] * 91, False),
        (PAPERS, [2500] * 90 + [100], False),
        (WEAK, [], False),
        ([], [2500] * 91, False),
    ],
)
def test_only_the_papers_teachers_and_sizes_are_called_so(teachers, sizes, is_papers):
    metas = {("13_select", f"l{n}"): {"rows": rows} for n, rows in enumerate(sizes)}
    statement = run_statement("r", teachers=teachers, metas=metas)
    assert statement.endswith("the paper's teachers, languages and sizes.") == is_papers
    assert ("not the paper's results" in statement) == (not is_papers)
    assert ("No language model" in statement) == (not any(t["kind"] != "weak" for t in teachers))
    assert f"{sum(sizes):,} passages in {len(sizes)} language" in statement


def test_a_statement_names_students_judge_and_filter():
    metas = {
        ("12_filter",): {"parameters": {"released": "", "encoder": "ngrams+shapes"}},
        ("33_binder", "e5"): {"parameters": {"student": "e5", "steps": 1800}},
        ("34_gliner", "g"): {"parameters": {"student": "g", "encoder": "hub/mdeberta", "epochs": 3}, "counts": {}},
        ("19_judge", "eng"): {"parameters": {"judge": {"name": "j", "kind": "vllm", "model": "Qwen/Qwen3-235B-A22B"}}},
    }
    metas["33_binder", "e5"]["counts"] = {"encoder": "e5", "sentences": 9383}
    statement = run_statement("r", teachers=WEAK, metas=metas)
    for words in ("filter ngrams+shapes", "e5 (encoder e5, 1,800 steps on 9,383 sentences)", "judge Qwen3-235B-A22B"):
        assert words in statement
    assert "g (encoder mdeberta, 3 epochs)" in statement and "No language model" not in statement


def test_an_index_says_why_something_is_not_there(tmp_path):
    wanted = Wanted("T", "Shows t.", ("35_evaluate",), "no test set", "Table 4")
    missing = {"35_evaluate/a/b": "not made", "35_evaluate/a/c": "failed", "19_judge/eng": "no key"}
    words = dict(statement="Run r.", missing=missing)
    (tmp_path / "tt.csv").write_text("x")
    lacking = wanted.entry(tmp_path, "t", **words)
    assert lacking["files"] == [] and lacking["about"] == "Not there: 35_evaluate/a/b: not made; 1 more are missing"
    assert set(lacking["missing"]) == {"35_evaluate/a/b", "35_evaluate/a/c"}
    (tmp_path / "t.csv").write_text("x")
    entry = wanted.entry(tmp_path, "t", **words)
    assert entry["files"] == ["t.csv"] and entry["about"] == "Shows t. Run r." and entry["title"] == "Table 4: T"
    write_index(tmp_path, {"t": entry})
    assert json.loads((tmp_path / "index.json").read_text(encoding="utf-8")) == {"t": entry}
    assert why_missing(("16_merge",), missing, "no test set") == "no test set"


def test_the_contents_cover_the_paper_and_name_stages_that_there_are():
    figures, tables = contents("figures"), contents("tables")
    assert {"Figure 2", "Figure 4", "Figure 5", "Figure 6", "Figure 7"} <= {one.paper for one in figures.values()}
    numbers = {number for one in tables.values() for number in one.paper if number.isdigit()}
    assert numbers == set("123456789")
    studies = {"40_confidence", "41_label_language"}
    for name, one in (figures | tables).items():
        assert set(one.stages) <= set(STAGES) | studies, name
        assert one.caption.endswith(".") and not one.empty.endswith("."), name
    assert TRAINED_BY == STUDENTS
