"""What a person corrected goes back: from a published run, by the command line, into a student, its test, the hub."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import SMALL
from typer.testing import CliRunner

from finerweb.data import lesson_rows, read_rows, schema, write_rows
from finerweb.page.reviewed import is_gold, read_reviewed, with_reviewed
from finerweb.page.rows import read_review_set
from finerweb.runner.cli import app
from finerweb.runner.plan import plan
from finerweb.runner.standing import up_to_date
from finerweb.runner.profiles import load_profile
from finerweb.store import read_meta

VARIANT, SHARE = "reviewed-english-passages", 0.3


@pytest.fixture
def here(finished, tmp_path, monkeypatch) -> Path:
    "A folder with a copy of the finished run, as the current one."
    shutil.copytree(finished[0] / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINERWEB_HOME", raising=False)
    monkeypatch.setenv("COLUMNS", "300")
    return tmp_path


def command(*words: object, code: int = 0) -> str:
    "What a command prints; it must end with `code`."
    ended = CliRunner().invoke(app, list(map(str, words)))
    assert ended.exit_code == code, ended.output
    if code:
        assert ended.stderr.count("finerweb: ") == 1 and ended.stderr.endswith("\n"), ended.output
        assert "Traceback" not in ended.output
    return " ".join(ended.output.split())


def write_answers(path: Path, *, reviewer: str = "Amina", language: str = "swh") -> list[dict]:
    "A reviewer's file about all passages of the published run: the first entity of each is a river, the last is none."
    rows = read_review_set("small", language=language, home="runs", variant="merged-english-passages").passages
    answers = []
    for passage in rows:
        spans = [{f: e[f] for f in ("start", "end", "label")} for e in passage["entities"]]
        entities = [spans[0] | {"label": "river"}, *spans[1:-1]] if len(spans) > 1 else spans
        answer = {"id": passage["id"], "text": passage["text"], "reviewer": reviewer, "reviewed": True, "note": ""}
        answers.append(answer | {"entities": entities})
    path.write_text("".join(json.dumps(answer) + "\n" for answer in answers), encoding="utf-8")
    return answers


def test_corrections_teach_and_test_a_student_and_never_the_same_passage(here, finerweb, profile_file):
    assert "swh.html" in command("review", "small", "--language", "swh", "--to", "swh.html")
    answers = write_answers(here / "a.jsonl")
    names = [answer["id"] for answer in answers]
    gold = [name for name in names if is_gold(name, SHARE)]
    assert 0 < len(gold) < len(names), "the share cuts these few passages into two parts"
    shown = command("review", "small", "--language", "swh", "--apply", "a.jsonl", "--gold", SHARE)
    assert "river" not in shown and "relabelled" in shown and "f1" in shown and "lexicon" in shown
    student = SMALL["students"][0] | {"reviewed": ["reviewed"]}
    benchmark = {"name": "swh-gold", "path": "reviewed/gold", "language": "swh"}
    profile = profile_file(here, "second", students=[student], benchmarks=[benchmark])
    done = finerweb(here, "run", profile, "--run", "small", "--take-over", "--stages", "35_evaluate")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = here / "runs" / "small"
    learned = read_rows(folder / "33_binder" / "tiny" / "rows.parquet")
    assert not {row["parent_id"] for row in learned} & set(gold)
    corrected = [row for row in learned if row["parent_id"] in names]
    assert {row["parent_id"] for row in corrected} == set(names) - set(gold)
    entities = [e for row in corrected for e in row["entities"]]
    assert {tuple(e["teachers"]) for e in entities} == {("Amina",)} and {e["score"] for e in entities} == {1.0}
    assert "river" in {e["label"] for e in entities}
    assert "reviewed sentences take the place of" in read_meta(folder / "33_binder" / "tiny")["notes"][0]
    tested = folder / "35_evaluate" / "tiny" / "swh-gold"
    assert set(gold) >= {row["document_id"] for row in read_rows(tested / "rows.parquet")} != set()
    scores = json.loads((tested / "scores.json").read_text(encoding="utf-8"))
    assert scores["leaked"] == 0 and "river" in scores["labels"] and scores["passages"] > 0
    micro = next(row for row in scores["all"] if (row["label"], row["match"]) == ("micro", "strict"))
    assert 0 <= micro["low"] <= micro["f1"] <= micro["high"] <= 1
    tasks = {task.stage: task for task in plan(load_profile(str(profile)))}
    trained, scored = tasks["33_binder"], tasks["35_evaluate"]
    assert up_to_date(trained, "runs", "small") and up_to_date(scored, "runs", "small")
    file = here / "reviewed" / "training" / "swh.parquet"
    write_rows(file, read_rows(file)[:1], schema("18_sentences"))
    assert not up_to_date(trained, "runs", "small"), "another review makes another student"


def test_a_profile_that_names_no_review_is_told_before_anything_runs(tmp_path, profile_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "empty").mkdir()
    for place, words in (("nowhere", "it is no folder"), ("empty", "it has neither training/ nor gold/")):
        student = SMALL["students"][0] | {"reviewed": [place]}
        profile = profile_file(tmp_path, "wrong", students=[student])
        shown = command("run", profile, "--dry-run")
        assert "33_binder tiny would fail" in shown and words in shown and "finerweb review DATASET" in shown


def test_the_reviewed_dataset_is_one_like_the_others(here, monkeypatch):
    write_answers(here / "a.jsonl")
    write_answers(here / "b.jsonl", language="eng", reviewer="<b>Juma")
    for language, file in (("swh", "a.jsonl"), ("eng", "b.jsonl")):
        command("review", "small", "--language", language, "--apply", file, "--gold", "0.3")
    folder = here / "reviewed" / VARIANT
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    about = {"README.md", "CITATION.cff", "croissant.json"}
    assert files == about | {"eng/train.parquet", "swh/train.parquet"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card and "config_name: swh" in card and "<b>" not in card
    command("export", folder, "--to", "out", "--format", "spans,gliner,conll,label-studio")
    command("export", "out", "--from", "conll", "--to", "back")
    for language in ("eng", "swh"):
        back = read_rows(here / "back" / language / "train.parquet")
        assert sorted(back, key=lambda row: row["id"]) == sorted(
            read_rows(folder / language / "train.parquet"), key=lambda row: row["id"]
        )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shown = command("push", folder, "someone/reviewed", "--dry-run")
    assert "5 │" in shown and "README.md" in shown
    again = command("review", folder, "--language", "swh", "--to", "again.html")
    assert "4 of 4 passages" in again


WRONG = [
    (("review", "nowhere", "--language", "swh"), "'nowhere' is no file, no variant's folder, and as a run it lacks"),
    (("review", "small", "--language", "xx-none"), "unknown language"),
    (("review", "small", "--language", "deu"), "as a run it lacks"),
    (("review", "small", "--language", "../swh"), "unknown language"),
    (("review", "small", "--language", "swh", "--variant", "../x"), "cannot name a folder"),
    (("review", "small", "--language", "swh", "--apply", "other.jsonl"), "no answer can be taken; the first of 1"),
    (("review", "small", "--language", "swh", "--apply", "bytes.jsonl"), "is no text in UTF-8"),
    (("review", "small", "--language", "swh", "--apply", "empty.jsonl"), "the files have no lines"),
    (("export", "nowhere", "--to", "out"), "no run that has published; runs in"),
    (("export", "small/../..", "--to", "out"), "has no ../..; it has"),
    (("export", "small", "--to", "out", "--format", "pickle"), "format 'pickle' is not known"),
    (("export", "small", "--to", "out", "--languages", "tha"), "has no tha; it has eng, swh"),
    (("push", "nowhere", "a/b", "--dry-run"), "no run that has published"),
    (("push", "small", "no-owner", "--dry-run"), "expected OWNER/NAME"),
    (("push", "broken", "a/b", "--dry-run"), "README.md"),
]


@pytest.mark.parametrize("words, message", WRONG, ids=range(len(WRONG)))
def test_wrong_words_are_refused_in_one_line(words, message, here):
    other = {"id": "swh_999", "text": "Elsewhere.", "reviewer": "Amina", "reviewed": True, "entities": []}
    (here / "other.jsonl").write_text(json.dumps(other), encoding="utf-8")
    (here / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    (here / "empty.jsonl").write_text("\n\n", encoding="utf-8")
    (here / "broken" / "swh").mkdir(parents=True)
    write_rows(here / "broken" / "swh" / "train.parquet", [], schema("18_sentences"))
    assert message in command(*words, code=2)
    assert not (here / "out").exists()


def test_broken_lines_are_kept_aside_with_their_reasons(here):
    good, *_ = write_answers(here / "a.jsonl")
    lines = [json.dumps(good), '{"id": ', json.dumps(good | {"id": "swh_999"}), json.dumps(good | {"text": "x"})]
    lines.append(json.dumps(good | {"entities": [{"start": 0, "end": 10**9, "label": "x"}]}))
    (here / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    shown = command("review", "small", "--language", "swh", "--apply", "a.jsonl", "--to", "out", "--gold", 1)
    assert "there is nothing to learn from: --gold 1 divides these 1 passages so" in shown
    aside = [json.loads(line) for line in (here / "out" / "aside-swh.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["line"] for row in aside] == [2, 3, 4, 5] and all(row["reason"] and row["answer"] for row in aside)
    report = json.loads((here / "out" / "report-swh.json").read_text(encoding="utf-8"))
    assert report["passages"] == 1 and sum(report["aside"].values()) == 4


def test_what_one_folder_tests_on_no_other_teaches(tmp_path):
    row = dict.fromkeys(schema("18_sentences").names) | lesson_rows()[1] | {"id": "swh_1-s0", "parent_id": "swh_1"}
    (tmp_path / "a" / "training").mkdir(parents=True)
    (tmp_path / "b" / "gold" / "swh").mkdir(parents=True)
    write_rows(tmp_path / "a" / "training" / "swh.parquet", [row], schema("18_sentences"))
    (tmp_path / "b" / "gold" / "swh" / "test.jsonl").write_text('{"document_id": "swh_1"}\n', encoding="utf-8")
    folders = [str(tmp_path / name) for name in "ab"]
    assert read_reviewed(folders).lessons == [] and with_reviewed([row], folders)[0] == []
    write_rows(tmp_path / "a" / "training" / "tha.parquet", [row | {"parent_id": None}], schema("18_sentences"))
    with pytest.raises(ValueError, match=r"tha\.parquet holds no rows to learn from"):
        read_reviewed(folders)
