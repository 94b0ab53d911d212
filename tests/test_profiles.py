"""Profiles for small GPUs, the line in an error about a profile, and the tutorial of a language of one's own."""

import re
from pathlib import Path

import papermill
import pytest
from typer.testing import CliRunner

from finerweb.data import asset
from finerweb.runner.cli import app
from finerweb.runner.plan import plan
from finerweb.runner.profiles import load_profile
from finerweb.runner.options import change_profile
from finerweb.teachers import check_teacher
from finerweb.text.yaml_lines import line_of, read_yaml

WHOLE = """\
description: a lesson
languages:
  - eng
  - {code: ltz, name: Luxembourgish, script: Latn}
source: sample
workers: 2
teachers:
  - {name: lexicon, kind: weak}
  - name: gemma
    kind: endpoint
    model: gemma
    base_url: "http://127.0.0.1:8000/v1"
judge: gemma
filter:
  task: binary
  seed: [1, 2]
students:
  - &tiny
    name: tiny
    encoder: char
    steps: 4
  - <<: *tiny
    name: other
benchmarks:
  - name: sample-eng
stages:
  10_corpus: {documents: 6}
  13_select:
    passages: 4
    threshold: 0.5
"""
MISTAKES = [  # what stands there, what stands there wrongly, the line, words of the message
    ("workers: 2", "wrokers: 2", 6, "field 'wrokers' is not known; did you mean workers?"),
    ("workers: 2", "workers: two", 6, "workers must be int"),
    ("workers: 2", "workers: 0", 6, "workers must be 1 or more"),
    ("workers: 2", "workers: 2\nrounds: 2", 7, "rounds is 2 and first is {}"),
    ("workers: 2", "license: a licence", 6, "license is"),
    ("workers: 2", "columns: {body: text}", 6, "columns has body"),
    ("workers: 2", "workers: [2", 7, "is no YAML"),
    ("  - eng", "  - egn", 3, "did you mean"),
    ("  - eng", "  - 5", 3, "in quotes where YAML reads them otherwise"),
    ("script: Latn", "script: Latin", 4, "languages[1] (ltz): script is 'Latin'"),
    ("kind: endpoint", "kind: endpont", 10, "'gemma' is of kind 'endpont'"),
    ("8000/v1", "8000/v1\n    pirce_in: 3".replace("/v1\n", '/v1"\n').rstrip('"'), 13, "has no field pirce_in"),
    ('"http://127.0.0.1:8000/v1"', "nowhere", 12, "base_url is 'nowhere'"),
    ("name: gemma", "name: lexicon", 9, "each of teachers needs a name of its own"),
    ("judge: gemma", "judge: gemna", 13, "judge must name a teacher"),
    ("  seed: [1, 2]", "  sede: [1, 2]", 16, "filter 'sede' is not known; did you mean seed?"),
    ("  seed: [1, 2]", "  seed: []", 16, "seed has no value"),
    ("    name: other", "    name: other\n    stpes: 4", 24, "'stpes' is not known; did you mean steps?"),
    ("    name: other", "    name: other\n    steps: many", 24, "33_binder.steps must be int"),
    ("    name: other", "    name: tiny", 22, "each of students needs a name of its own"),
    ("    name: other", "    name: ../other", 23, "'../other' cannot name a folder"),
    ("    name: other", "    name: other\n    languages: [tha]", 24, "needs 17_translate of tha"),
    ("sample-eng", "own\n    langauge: eng\n    path: x", 26, "field langauge"),
    ("  13_select:", "  13_selct:", 28, "stage '13_selct' is not known; did you mean 13_select?"),
    ("    threshold", "    treshold", 30, "'treshold' is not known; did you mean threshold?"),
    ("passages: 4", "passages: [4]", 29, "13_select.passages must be int, found [4] (list)"),
    ("passages: 4", "passages: 4\n    language: eng", 30, "13_select.language is the runner's to set"),
    ("{documents: 6}", "6", 27, "must map parameters to values"),
]


@pytest.fixture
def refused(tmp_path, monkeypatch):
    "`refused(text, *words)`: what a dry run of this profile says, which ends in one line and exit code 2."
    monkeypatch.chdir(tmp_path)

    def call(text: str, *words: str) -> str:
        Path("mine.yaml").write_text(text, encoding="utf-8")
        ended = CliRunner().invoke(app, ["run", "mine.yaml", "--dry-run", *words])
        assert ended.exit_code == 2 and ended.stderr.count("\n") == 1, ended.output
        return ended.stderr

    return call


@pytest.mark.parametrize(("right", "wrong", "line", "words"), MISTAKES)
def test_an_error_names_the_file_and_the_line(refused, right, wrong, line, words):
    assert WHOLE.count(right) == 1
    told = refused(WHOLE.replace(right, wrong))
    place = re.search(r"profile mine\.yaml, line (\d+)|profile mine\.yaml is no YAML: line (\d+)", told)
    assert words in told and place and int(place[1] or place[2]) == line, told


def test_several_wrong_entries_have_a_line_each(refused):
    told = refused(WHOLE.replace("kind: endpoint", "kind: endpont").replace("    steps: 4", "    stpes: 4"))
    assert "profile mine.yaml has 3 wrong entries: (1) line 10: teacher 'gemma'" in told
    assert "line 21: student 'tiny'" in told and "line 21: student 'other'" in told, "other has it from tiny"


def test_what_the_command_line_replaces_has_no_line(refused):
    told = refused(WHOLE, "--set", "13_select.passages=many")
    assert "13_select.passages must be int" in told and "line" not in told
    assert "line" not in refused(WHOLE, "--languages", "egn").replace("languages", "")
    assert "line 10" in refused(WHOLE.replace("endpoint", "endpont"), "--set", "13_select.passages=4")


def test_a_profile_made_in_python_has_a_name_and_no_line():
    profile = load_profile("demo")
    profile.file = None
    with pytest.raises(ValueError, match="^profile demo: workers must be 1 or more"):
        change_profile(profile, languages="", source="", workers=-1, settings=[])


def test_a_key_that_is_taken_over_has_the_line_where_it_is_written():
    value, node = read_yaml("a: &a {x: 1}\nb:\n  <<: *a\n  y: 3e-5\n")
    assert value["b"] == {"x": 1, "y": 3e-5}
    assert [line_of(node, "b", key) for key in ("x", "y", "z")] == [1, 4, 2]


# --- profiles for small GPUs


@pytest.mark.parametrize(("name", "cards"), [("colab", 1), ("kaggle", 2)])
def test_a_profile_for_a_t4_asks_for_nothing_that_a_t4_lacks(name, cards):
    profile = load_profile(name)
    text = (asset("profiles") / f"{name}.yaml").read_text(encoding="utf-8")
    assert not re.search(r"^[^#]*bfloat16", text, re.MULTILINE) and not re.search(r"^[^#]*gemma", text, re.MULTILINE)
    assert len({check_teacher(teacher)["model"].split("/")[0] for teacher in profile.teachers}) == 2, "two families"
    for teacher in profile.teachers:
        engine = teacher["engine"]
        assert engine["dtype"] == "float16" and engine.get("tensor_parallel_size", 1) == cards
    tasks = plan(profile)
    assert not any(task.parameters.get("bfloat16") for task in tasks)
    (longest,) = {t.parameters["max_tokens"] for t in tasks if t.stage == "14_annotate"}
    assert longest + 1024 <= engine["max_model_len"], "a prompt of a thousand tokens has room beside the reply"


def test_open_judges_by_a_model_that_is_no_teacher_and_says_what_fits():
    profile = load_profile("open")
    assert profile.judge["model"] not in {teacher["model"] for teacher in profile.teachers}
    for spec in (*profile.teachers, profile.judge):
        assert spec["engine"]["max_model_len"] < 40_960, f"{spec['name']}: its longest text would not fit 80 GB"
    assert profile.stages["19_judge"]["max_tokens"] < profile.judge["engine"]["max_model_len"] - 4096


def test_paper_selects_as_the_paper():
    select = next(task.parameters for task in plan(load_profile("paper")) if task.stage == "13_select")
    wanted = {"passages": 2500, "threshold": 0.5, "best_share": 0.0, "at_least": 0, "similarity": 1.0, "pick": "first"}
    assert {name: select[name] for name in wanted} == wanted


# --- a language of one's own


@pytest.mark.long
def test_the_tutorial_of_a_language_of_ones_own_runs(root, tmp_path, monkeypatch):
    monkeypatch.setenv("FINERWEB_HOME", str(tmp_path / "runs"))
    made = tmp_path / "out.ipynb"
    notebook = root / "nbs" / "80_own_language.ipynb"
    done = papermill.execute_notebook(str(notebook), str(made), progress_bar=False, cwd=str(tmp_path))
    shown = "".join(str(cell.get("outputs", "")) for cell in done.cells)
    assert "Scyld" in shown and "35_evaluate" in shown and "released" in done.cells[-1].source
