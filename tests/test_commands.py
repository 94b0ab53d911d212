"""The command line around a run: whose a run is, where runs lie, how far a task is, what is said at the end, and the
words that show and make profiles."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import yaml
from conftest import untrained
from typer.testing import CliRunner

from finerweb.data import asset
from finerweb.runner.cli import app
from finerweb.runner.display import RunDisplay, failures_of, notes_of, task_progress, works_of
from finerweb.runner.new_profile import new_profile
from finerweb.runner.pipeline import run_profile, run_tasks
from finerweb.runner.plan import PlannedTask, plan, wanted_tasks
from finerweb.runner.profiles import Profile, load_profile
from finerweb.runner.resources import Room
from finerweb.runner.workers import Workers
from finerweb.store import Task, output_folder, read_meta, runs_folder
from finerweb.text.progress import PROGRESS, progress_bar, read_progress, show_progress, trainer_progress

WRONG, DONE = 2, 0


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    "An empty folder as the current one, without FINERWEB_HOME."
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINERWEB_HOME", raising=False)
    monkeypatch.setenv("COLUMNS", "300")
    return tmp_path


def dry(*words: object) -> str:
    "What a dry run says that must succeed."
    ended = CliRunner().invoke(app, ["run", *map(str, words), "--dry-run"])
    assert ended.exit_code == DONE, ended.output
    return ended.stdout


def refused(*words: object) -> str:
    "What a command says on stderr that must be refused, in one line."
    ended = CliRunner().invoke(app, list(map(str, words)))
    assert ended.exit_code == WRONG and ended.stderr.count("\n") == 1, ended.output
    return ended.stderr


# --- whose a run is


def begun(profile: str, run: str, **options: object) -> None:
    "A run with its profile on record and no task done."
    run_profile(
        load_profile(profile), home="", run=run, stages=["10_corpus"], report=lambda *_: None, started=stop, **options
    )


class Stopped(Exception):
    pass


def stop(tasks: list[PlannedTask]) -> None:
    raise Stopped


def begin(profile: str, run: str, **options: object) -> None:
    with pytest.raises(Stopped):
        begun(profile, run, **options)


def test_another_profile_may_not_take_a_run(here, profile_file):
    begin("demo", "mine")
    profile_file(here, "mine")
    before = (here / "runs/mine/profile.yaml").read_bytes()
    for words in (("run", "mine.yaml", "--dry-run"), ("run", "mine.yaml", "--stages", "10_corpus")):
        said = refused(*words)
        assert "the packaged profile demo" in said and str(here / "mine.yaml") in said
        assert "--run NAME" in said and "--take-over" in said
    assert (here / "runs/mine/profile.yaml").read_bytes() == before
    assert "10_corpus" in dry("mine.yaml", "--take-over")
    begin("mine.yaml", "mine", take_over=True)
    assert "packaged profile demo" in refused("run", "demo", "--run", "mine", "--dry-run")


def test_a_profile_stays_itself_when_it_is_changed_moved_or_kept(here, profile_file):
    profile_file(here, "mine")
    begin("mine.yaml", "mine")
    profile_file(here, "mine", workers=1, languages=["eng"], students=[], benchmarks=[])  # edited
    for words in (("mine.yaml",), ("mine.yaml", "--languages", "swh"), ("mine.yaml", "--set", "10_corpus.documents=5")):
        assert "10_corpus" in dry(*words)
    assert "10_corpus" in dry("runs/mine/profile.yaml", "--run", "mine"), "the profile that the run keeps"
    (here / "deeper").mkdir()
    shutil.copytree(here / "runs", here / "elsewhere" / "runs")  # with its run to another machine
    shutil.copy("mine.yaml", here / "elsewhere")
    os.chdir(here / "elsewhere")
    assert "10_corpus" in dry("mine.yaml")
    os.chdir(here)
    shutil.copy("mine.yaml", "deeper")
    assert "made from the profile mine in" in refused("run", "deeper/mine.yaml", "--dry-run"), "two files of one name"
    Path("mine.yaml").unlink()
    assert "10_corpus" in dry("deeper/mine.yaml"), "the file was moved"


def test_a_run_without_a_record_is_taken_and_recorded(here):
    begin("demo", "old")
    kept = here / "runs/old/profile.yaml"
    fields = yaml.safe_load(kept.read_text())
    del fields["origin"]
    kept.write_text(yaml.safe_dump(fields))
    begin("offline", "old")
    assert yaml.safe_load(kept.read_text())["origin"] == "packaged"
    assert "packaged profile offline" in refused("run", "demo", "--run", "old", "--dry-run")


# --- where runs lie


def test_runs_are_looked_for_above_the_current_folder(here, monkeypatch):
    (here / "nbs/03_text").mkdir(parents=True)
    monkeypatch.chdir(here / "nbs/03_text")
    assert runs_folder() == here / "nbs/03_text/runs", "no run and no checkout: here"
    (here / "runs").mkdir()
    assert runs_folder() == here / "nbs/03_text/runs", "somebody else's folder of that name"
    (here / "settings.ini").write_text("[DEFAULT]\nlib_name = other\n")
    assert runs_folder() == here / "nbs/03_text/runs", "somebody else's checkout"
    (here / "settings.ini").write_text("[DEFAULT]\nlib_name = finerweb\n")
    assert runs_folder() == here / "runs"
    (here / "settings.ini").unlink()
    (here / "runs/demo").mkdir()
    (here / "runs/demo/profile.yaml").touch()
    assert runs_folder() == here / "runs"
    monkeypatch.setenv("FINERWEB_HOME", str(here / "named"))
    assert runs_folder() == here / "named" and runs_folder("given") == here / "nbs/03_text/given"


def test_a_notebook_reads_the_run_above_it(finished, monkeypatch, tmp_path):
    folder, _ = finished
    monkeypatch.delenv("FINERWEB_HOME", raising=False)
    (folder / "texts").mkdir(exist_ok=True)
    monkeypatch.chdir(folder / "texts")
    assert len(Task("", "small", "14_annotate", ("swh", "lexicon"), parameters={}).read("13_select", "swh")) == 4
    assert list((folder / "texts").iterdir()) == []


# --- how far a task is


def test_a_bar_is_a_file_for_the_runner_and_prints_nothing(tmp_path, monkeypatch, capsys):
    file = tmp_path / "progress.json"
    monkeypatch.setenv(PROGRESS, str(file))
    with progress_bar(total=150, initial=30, desc="33_binder", unit="batch") as bar:
        for _ in range(20):
            bar.update()
            bar.set_postfix(loss="0.1")
        bar.written = 0.0
        bar.refresh()
        progress = read_progress(file)
    assert (progress["n"], progress["total"], progress["unit"]) == (50, 150, "batch")
    assert show_progress(progress).startswith("50/150 batch, 33 %") and capsys.readouterr() == ("", "")
    monkeypatch.delenv(PROGRESS)
    list(progress_bar(range(3), desc="plain"))
    assert "plain" in capsys.readouterr().err


def test_a_trainer_tells_how_far_it_is(tmp_path, monkeypatch, one_thread):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    monkeypatch.setenv(PROGRESS, str(tmp_path / "progress.json"))

    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def forward(self, x, labels):
            return {"loss": ((self.layer(x) - labels) ** 2).mean()}

    rows = [{"x": torch.ones(1), "labels": torch.ones(1)}] * 8
    folder = str(tmp_path / "out")
    settings = transformers.TrainingArguments(
        folder, max_steps=3, report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no"
    )
    with trainer_progress("12_filter"):
        transformers.Trainer(Line(), settings, train_dataset=rows).train()
    progress = read_progress(tmp_path / "progress.json")
    assert (progress["n"], progress["total"], progress["unit"]) == (3, 3, "step")


def task(stage: str, *key: str, needs: tuple = ()) -> PlannedTask:
    return PlannedTask(stage, key, {}, needs)


def test_every_loop_of_a_stage_goes_through_one_bar(root):
    "A plain tqdm would not be seen by the runner."
    for path in sorted((root / "finerweb").rglob("*.py")) + sorted((root / "nbs").glob("[1-5]*.ipynb")):
        if path.name != "progress.py":
            assert "import tqdm" not in path.read_text(encoding="utf-8"), path.name


def test_where_there_is_no_terminal_a_line_now_and_then_says_how_far_all_are(here, capsys):
    display = RunDisplay("", "lesson", every=0.0)
    training, other = task("33_binder", "binder"), task("34_gliner", "g")
    display.started([training, other])
    folder = output_folder("", "lesson", "33_binder", ("binder",))
    folder.mkdir(parents=True)
    facts = {"n": 45, "total": 150, "unit": "batch", "rate": 0.5, "time": time.time()}
    (folder / "progress.json").write_text(json.dumps(facts))
    for state in ("start", "work"):
        display.report(state, training, "")
    display.report("start", other, "")
    display.report("work", other, "")
    printed = capsys.readouterr().out
    assert f"lesson: 2 tasks, in {here / 'runs' / 'lesson'}" in printed
    assert "at work: 33_binder binder (45/150 batch, 30 %, 3:30 left), 34_gliner g" in printed
    assert works_of([other], "", "lesson") == "34_gliner g" and task_progress(other, "", "lesson") is None


def test_a_finished_task_leaves_no_progress(finished):
    folder, ended = finished
    assert not list((folder / "runs").rglob("progress.json"))
    assert f"tasks, in {folder / 'runs' / 'small'}" in ended.stdout


# --- what is said at the end


def test_one_cause_is_said_once(here):
    "A task without a source fails; whatever needs it, directly or through others, waits for it."
    text = "Oslo ni mji mkuu wa Norwei. " * 10
    (here / "pages.jsonl").write_text(json.dumps({"text": text, "language": "swh"}) + "\n")
    profile = load_profile("demo")
    profile.languages, profile.source, profile.students, profile.benchmarks = ["tha"], "pages.jsonl", [], []
    tasks, reports = wanted_tasks(plan(profile), ["16_merge"]), []

    def report(state: str, task: PlannedTask, message: str) -> None:
        reports.append((state, task.label, message))

    failed = run_tasks(tasks, home="", run="r", workers=Workers({}, Room(workers=1)), report=report)
    causes = {label: message for state, label, message in reports if state == "wait"}
    assert [label for state, label, _ in reports if state == "fail"] == ["10_corpus tha"]
    assert len(failed) == len(tasks) == len(causes) + 1 and set(causes.values()) == {"10_corpus tha"}
    (labels, _), (waiting, some) = failures_of(failed, causes)
    assert labels == "10_corpus tha"
    assert waiting == f"{len(causes)} tasks wait for 10_corpus tha, which failed" and "11_rate tha/lexicon" in some
    error = output_folder("", "r", "16_merge", ("tha",)) / "error.txt"
    assert error.read_text() == "not begun: needs 10_corpus tha, which failed"


def test_tasks_that_fail_alike_are_one_line():
    failed = {f"11_rate {code}/gemma": "no answer" for code in ("amh", "eng", "fin", "swh", "tha", "zul")}
    assert failures_of(failed, {}) == [
        ("11_rate amh/gemma, 11_rate eng/gemma, 11_rate fin/gemma, 11_rate swh/gemma and 2 more", "no answer")
    ]


def test_too_few_passages_and_no_rows_are_noted(here):
    for code, count in (("eng", 0), ("swh", 1)):
        done = Task("runs", "r", "17_translate", (code,), parameters={})
        row = dict(label="city", language=code, translation="mji", concept="city", method="table")
        done.write([row] * count, notes=["1 of 5 labels"] if count else [])
    tasks = [task("17_translate", code) for code in ("eng", "swh", "tha")]
    assert notes_of(tasks, "", "r") == ["17_translate eng: it ended with 0 rows", "17_translate swh: 1 of 5 labels"]
    assert read_meta(output_folder("", "r", "17_translate", ("swh",)))["notes"] == ["1 of 5 labels"]


def test_a_selection_that_kept_too_few_says_so(finished, finerweb, finerweb_here, profile_file, tmp_path):
    folder, _ = finished
    shutil.copytree(folder / "runs", tmp_path / "runs")
    profile_file(tmp_path)
    ended = finerweb(tmp_path, "run", "small.yaml", "--stages", "13_select/swh", "--set", "13_select.passages=200")
    assert ended.returncode == DONE, ended.stdout + ended.stderr
    assert "note 13_select swh: 18 of 200 passages, from 18 documents; the source ends there" in ended.stdout
    assert "18 of 200 passages" in finerweb_here(tmp_path, "status").stdout


# --- profiles and languages


def test_profiles_lists_all_with_what_they_need(here):
    shown = CliRunner().invoke(app, ["profiles"]).stdout
    for path in asset("profiles").glob("*.yaml"):
        profile = load_profile(path.stem)
        assert profile.name in shown and profile.description[:30] in shown and profile.needs[:30] in shown


@pytest.mark.parametrize("base", sorted(p.stem for p in asset("profiles").glob("*.yaml")))
def test_a_new_profile_is_its_base_with_comments_and_runs(here, base):
    ended = CliRunner().invoke(app, ["new", "mine", "--from", base])
    assert ended.exit_code == DONE and "finerweb run mine.yaml --dry-run" in ended.stdout
    mine, theirs = load_profile("mine.yaml"), load_profile(base)
    same = [f for f in Profile.__slots__ if f not in ("name", "description", "needs", "origin")]
    assert {f: getattr(mine, f) for f in same} == {f: getattr(theirs, f) for f in same}
    text = Path("mine.yaml").read_text(encoding="utf-8")
    assert all(f"{field}:" in text for field in same if field != "own_languages")
    assert "51_tables" in dry("mine.yaml")
    before = text
    assert "is there already" in refused("new", "mine")
    assert Path("mine.yaml").read_text(encoding="utf-8") == before


def test_a_new_profile_needs_a_name_of_its_own(here):
    for words, expected in {
        ("../mine",): "cannot name a folder",
        ("demo",): "is a packaged profile",
        ("mine", "--from", "dmeo"): "did you mean demo?",
        ("mine", "--from", "nowhere.yaml"): "is not known",
    }.items():
        assert expected in refused("new", *words)
    assert list(here.iterdir()) == []
    new_profile("mine.yaml", "demo")
    assert [p.name for p in here.iterdir()] == ["mine.yaml"]
    assert "did you mean mine.yaml?" in refused("run", "mine.yml", "--dry-run")


def test_a_dry_run_names_every_wrong_entry(here, profile_file):
    profile_file(
        here,
        "wrong",
        teachers=[{"name": "gazetteer", "kind": "weak"}, {"name": "gemma", "kind": "endpont", "model": "x"}],
        students=[{"name": "a", "kind": "glimer"}, {"name": "b", "encoder": "char", "stpes": 3}],
        benchmarks=[{"name": "sample-swh"}, {"name": "own", "langauge": "eng", "path": "x"}],
    )
    said = refused("run", "wrong.yaml", "--dry-run")
    for expected in (
        "has 5 wrong entries", "no weak teacher 'gazetteer'", "lexicon or patterns", "'gemma' is of kind 'endpont'",
        "student 'a': kind 'glimer' is not known; did you mean gliner?", "'stpes' is not known; did you mean steps?",
        "benchmark 'own': field langauge",
    ):  # fmt: skip
        assert expected in said


def test_single_languages_are_shown_with_what_knows_them(here):
    shown = CliRunner().invoke(app, ["languages", "swh", "Georgian"]).stdout
    assert "Swahili (swh): script Latn" in shown and "FineWeb-2 swh_Latn" in shown
    assert "encoder minilm reads it" in shown
    assert "Georgian (kat)" in shown and "has no piece for" in shown and shown.count("a word list") == 2
    assert "did you mean swh" in refused("languages", "swahilii")


def test_help_and_version_say_what_there_is(here):
    assert CliRunner().invoke(app, ["--version"]).stdout.startswith("finerweb 0.")
    shown = " ".join(CliRunner().invoke(app, ["run", "--help"]).stdout.replace("│", " ").split())
    assert all(p.stem in shown for p in asset("profiles").glob("*.yaml"))
    assert all(form in shown for form in ("sample", "hub:OWNER/NAME", ".parquet", ".jsonl", ".txt"))
    shown = " ".join(CliRunner().invoke(app, ["status", "--help"]).stdout.replace("│", " ").split())
    assert all(f"{column}: " in shown or f"{column}, " in shown for column in ("done", "before", "waits", "dropped"))
    assert "Did you mean 'status'" in CliRunner().invoke(app, ["sattus"]).stderr


def test_status_explains_its_columns_and_counts_what_failed(finished, finerweb_here, tmp_path):
    folder, _ = finished
    shutil.copytree(folder / "runs", tmp_path / "runs")
    run = tmp_path / "runs" / "small"
    for place, error in (("16_merge/swh", "OSError: full"), ("17_translate/swh", "not begun: needs 16_merge swh")):
        (run / place / "meta.json").unlink()
        (run / place / "error.txt").write_text(error)
    shown = finerweb_here(tmp_path, "status").stdout
    assert "done: by this command" in shown and "waits: for one that failed" in shown
    cells = [[cell.strip() for cell in line.split("│")] for line in shown.splitlines() if "│" in line]
    rows = {row[1]: row[2:6] for row in cells}
    assert rows["16_merge"] == ["", "1", "1", ""] and rows["17_translate"] == ["", "1", "", "1"]
    assert "did you mean small?" in finerweb_here(tmp_path, "status", "--run", "smal").stderr


def test_predict_prints_its_lines_and_nothing_else(finished, finerweb):
    folder, _ = finished
    words = ("--labels", "person", "--threshold", "0", "--format", "jsonl", "Wangari Maathai")
    ended = finerweb(folder, "predict", "runs/small/33_binder/tiny", *words)
    assert ended.returncode == DONE and ended.stderr == ""
    assert all(json.loads(line)["label"] == "person" for line in ended.stdout.splitlines())


def test_predict_warns_in_a_line_of_texts_that_the_student_cannot_read(tmp_path, finerweb):
    untrained("minilm").save_pretrained(tmp_path / "latin")
    texts = ("Wangari Maathai", "ዋንጋሪ ማታይ በኬንያ ተወለደች")
    ended = finerweb(tmp_path, "predict", "latin", "--labels", "person", "--threshold", "1", *texts)
    assert ended.returncode == DONE and ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("warning: 1 of 2 texts are written in letters that the student's BertTokenizer does not")
