"""The paper's tables beside a run: whose a line is, what its number means, and how it is read."""

import csv

import pytest

from finerweb.tables import DASH, OURS, PAPER_SETS, REPORTED, known_set, merging_table, student_table, write_table


def evaluation(benchmark: str, f1: float, *, student: str = "s") -> dict:
    micro = dict(match="strict", label="micro", precision=0.5, recall=0.5, f1=f1, low=f1, high=f1)
    return dict(student=student, benchmark=benchmark, language="eng", passages=9, leaked=0, all=[micro])


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
