"""Students that a run does not train: published ones and one's own class, scored on many test sets in one table."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from conftest import LIGHT_FILTER, write_profile
from typer.testing import CliRunner

from finerweb.evaluate import check_student_from_elsewhere, published_student, student_from_elsewhere
from finerweb.runner.cli import app
from finerweb.runner.plan import plan
from finerweb.runner.profiles import load_profile
from finerweb.store import read_meta

OWN = """
from finerweb.data import Entity

class ByHeart:
    def __init__(self, places):
        self.places = places

    def predict(self, texts, labels, threshold=None, batch_size=32):
        return [list(self.found(text)) for text in texts]

    def found(self, text):
        for place in self.places:
            if (at := text.find(place)) >= 0:
                yield Entity(at, at + len(place), "location")
"""
LEXICON = {"name": "lexicon", "kind": "weak"}
SETS = [{"name": f"sample-{code}"} for code in ("eng", "swh")]


def profile(folder: Path, students: list[dict], **changes: object) -> Path:
    "A profile that only scores."
    path = folder / "scored.yaml"
    fields = {"languages": ["eng", "swh"], "workers": 2, "students": students, "benchmarks": SETS}
    fields["stages"] = {"30_benchmarks": {"passages": 4}, "35_evaluate": {"resamples": 20}}
    path.write_text(yaml.safe_dump(fields | changes))
    return path


@pytest.fixture(scope="module")
def scored(finished, tmp_path_factory, finerweb) -> tuple[Path, str]:
    "(folder of the run, what was printed): a trained student of another run and a class of one's own, two test sets."
    folder = tmp_path_factory.mktemp("scored")
    (folder / "my_student.py").write_text(OWN)
    tiny = {"name": "tiny", "kind": "published", "model": str(finished[0] / "runs/small/33_binder/tiny")}
    own = {"name": "mine", "kind": "python", "object": "my_student:ByHeart"}
    own |= {"places": ["London", "Oxford", "Kenya", "Nairobi"]}
    done = finerweb(folder, "run", profile(folder, [tiny, own, LEXICON]))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs/scored", done.stdout


def test_nothing_is_annotated_and_all_students_stand_in_one_table(scored):
    run, printed = scored
    stages = {path.name for path in run.iterdir() if path.is_dir()}
    assert stages == {"30_benchmarks", "35_evaluate", "50_figures", "51_tables", "52_report"}
    with open(run / "51_tables/benchmarks.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["set"], r["benchmark"], r["language"]) for r in rows] == [
        ("sample-eng", "sample-eng", "eng"), ("sample-swh", "sample-swh", "swh"), ("all", "mean", "2 sets"),
    ]  # fmt: skip
    assert {"tiny", "mine", "lexicon"} <= set(rows[0]) and rows[0]["passages"] == "4"
    scores = json.loads((run / "35_evaluate/mine/sample-eng/scores.json").read_text())
    macro = next(r["f1"] for r in scores["all"] if (r["match"], r["label"]) == ("strict", "macro"))
    assert 0 < float(rows[2]["mine"]) < 1, "it knows some names"
    assert float(rows[0]["mine"]) == pytest.approx(macro, abs=1e-3) and scores["trained_on"] == []
    assert read_meta(run / "35_evaluate/tiny/sample-eng")["inputs"]["model"]
    page = (run / "51_tables/benchmarks.md").read_text()
    assert "nothing was annotated or trained here" in page and "mine (my_student:ByHeart)" in page
    assert "lexicon (weak)" in page and 0 < float(rows[2]["lexicon"]) < 1
    assert "lexicon, a teacher" in (run / "52_report/report.html").read_text(encoding="utf-8")
    assert "4 of 6 passages, drawn at random" in printed and "missing" not in read_meta(run / "51_tables")


def test_a_student_of_the_command_line_takes_the_place_of_the_profiles(scored, finished, monkeypatch):
    monkeypatch.chdir(scored[0].parent.parent)
    folder, only = finished[0] / "runs/small/33_binder/tiny/model", ("--stages", "35_evaluate")
    shown = CliRunner().invoke(app, ["run", "scored.yaml", "--student", str(folder), "--dry-run", *only])
    assert shown.exit_code == 0, shown.output
    assert "35_evaluate" in shown.output and "tiny/sample-swh" in shown.output and "mine" not in shown.output
    assert published_student("owner/my model.v2") == {
        "name": "my-model.v2", "kind": "published", "model": "owner/my model.v2",
    }  # fmt: skip
    wrong = CliRunner().invoke(app, ["run", "scored.yaml", "--student", "nowhere", "--dry-run"])
    assert wrong.exit_code == 2 and "there is no such folder" in wrong.stderr


WRONG = {
    "has no teachers for tiny to learn from": {"students": [{"name": "tiny", "encoder": "char"}]},
    "has 0 teachers; a run needs two or more": {"students": []},
    "did you mean published": {"students": [{"name": "x", "kind": "publisched", "model": "a/b"}]},
    "take out first": {"students": [{"name": "x", "kind": "published", "model": "a/b"}], "rounds": 2, "first": {}},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_profile_without_teachers_can_only_score(message, tmp_path):
    changes = WRONG[message]
    if "first" in changes:
        changes = changes | {"first": {"steps": 1, "labels": ["person"]}}
    with pytest.raises(ValueError, match=message):
        load_profile(str(profile(tmp_path, **changes)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "published"}, "needs `model`"),
        ({"kind": "published", "model": "no folder"}, "there is no such folder"),
        ({"kind": "published", "model": "a/b", "steps": 3}, "has no field steps"),
        ({"kind": "python"}, "write module:Class"),
        ({"kind": "python", "object": "nowhere_at_all:Class"}, "there is no module"),
        ({"kind": "python", "object": "json:JSONDecoder"}, "has no method predict"),
        ({"kind": "python", "object": "finerweb.evaluate:Predictor"}, "cannot be had: TypeError"),
    ],
)
def test_a_student_from_elsewhere_that_cannot_be_had(spec, message):
    with pytest.raises(ValueError, match=f"student 'x'.*{message}"):
        student_from_elsewhere({"name": "x"} | spec)


def test_a_teacher_among_the_students_counts_under_the_labels_that_are_asked():
    kenya = "Wangari Maathai lived in Nairobi, Kenya."
    teacher = student_from_elsewhere(LEXICON, language="eng")

    def found(*labels: str) -> set[tuple[str, str]]:
        (entities,) = teacher.predict([kenya], labels)
        return {(kenya[e.start : e.end], e.label) for e in entities}

    assert found("country") == {("Kenya", "country")} and not found("river")
    assert {("Kenya", "country"), ("Nairobi", "location")} <= found("country", "location"), "its own label comes first"
    assert not teacher.predict([kenya], ["location"], threshold=1.0)[0]
    with pytest.raises(ValueError, match="there is no weak teacher 'gpt'"):
        check_student_from_elsewhere({"name": "gpt", "kind": "weak"})
    with pytest.raises(ValueError, match="has no field steps"):
        check_student_from_elsewhere(LEXICON | {"steps": 3})


def test_a_teacher_among_the_students_waits_for_the_texts_of_its_language_only(tmp_path):
    weak = [{"name": name, "kind": "weak"} for name in ("lexicon", "patterns")]
    tasks = plan(load_profile(str(profile(tmp_path, [LEXICON], teachers=weak, source="sample"))))
    needs = {task.key[1]: task.needs for task in tasks if task.stage == "35_evaluate"}
    assert set(needs) == {"sample-eng", "sample-swh"}
    texts = {(stage, ("swh",)) for stage in ("10_corpus", "13_select", "18_sentences")}
    assert set(needs["sample-swh"]) == {*texts, ("30_benchmarks", ("sample-swh",))}
    alone = plan(load_profile(str(profile(tmp_path, [LEXICON]))))
    assert all("18_sentences" != stage for task in alone for stage, _ in task.needs)


def test_a_run_scores_its_teachers_and_leaves_them_when_nothing_changed(tmp_path, finerweb):
    weak = [LEXICON, {"name": "patterns", "kind": "weak"}]
    small = {"10_corpus": {"documents": 4}, "12_filter": LIGHT_FILTER, "13_select": {"passages": 4, "threshold": -9.0}}
    changes = dict(languages=["swh"], teachers=weak, students=weak, stages=small)
    command = ("run", write_profile(tmp_path, **changes), "--stages", "35_evaluate")
    first = finerweb(tmp_path, *command)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "35_evaluate lexicon/sample-swh" in first.stdout and "35_evaluate patterns/sample-swh" in first.stdout
    again = finerweb(tmp_path, *command)
    assert again.returncode == 0 and "done 35_evaluate" not in again.stdout, again.stdout


def test_the_packaged_harness_has_seven_sets_and_trains_nothing():
    profile = load_profile("benchmarks")
    assert len({b["set"] for b in profile.benchmarks}) == 7
    tasks = plan(profile)
    assert {task.stage for task in tasks} == {"30_benchmarks", "35_evaluate", "50_figures", "51_tables", "52_report"}
    met = [task for task in tasks if task.stage == "35_evaluate"]
    assert len(met) == len(profile.students) * len(profile.benchmarks), "each student meets every set"
    for task in met:
        assert {name for name, _ in task.needs} == {"model", "30_benchmarks"}
        assert check_student_from_elsewhere(task.parameters["model"])
