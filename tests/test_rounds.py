"""A student as a teacher, and a profile of two rounds: what is asked, what is refused, what is done again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import SMALL, untrained, write_profile

from finerweb.data import Entity, Passage, broader, read_rows
from finerweb.judge import check_judge
from finerweb.merge import is_overruled, merge_entities, overruling
from finerweb.models.agreement import Trust, learn_trust
from finerweb.runner.pipeline import check_models
from finerweb.runner.plan import PlannedTask, plan
from finerweb.runner.standing import up_to_date
from finerweb.runner.profiles import Profile, check_profile, load_profile
from finerweb.store import read_meta
from finerweb.student.teacher import StudentTeacher, confidence, least_score
from finerweb.models.student_folder import student_fingerprint, with_folder
from finerweb.teachers import check_teacher, is_chat, make_teacher
from finerweb.translate import check_translator

pytestmark = pytest.mark.usefixtures("one_thread")
SWAHILI = Passage("swh_0", "Wangari Maathai alizaliwa Nyeri, Kenya.", "swh", "Latn")
THAI = Passage("tha_0", "วังการี มาไท เกิดที่เมืองไนเยรี", "tha", "Thai")
FIRST = {"languages": ["swh"], "encoder": "char", "label_encoder": "char", "steps": 4, "batch": 4, "size": 16}
FIRST |= {"window": 128, "labels": ["person", "location"], "threshold": 0.01, "least": 0.2, "overrules": ["swh"]}


@pytest.fixture
def student_folder(tiny_encoder, tmp_path) -> Path:
    "A small untrained student, alone in its folder."
    untrained(tiny_encoder).save_pretrained(tmp_path / "student")
    return tmp_path / "student"


def teacher_of(folder: Path, **changes) -> dict:
    spec = {"name": "other", "kind": "student", "model": str(folder), "labels": ["person", "city"]}
    return spec | {"threshold": 0.005} | changes


def annotate(spec: dict, *passages: Passage) -> list:
    return make_teacher(spec, language="swh", raw_text=[]).annotate(list(passages))


# A student as a teacher


def test_a_student_gives_exact_places_and_confidences(student_folder):
    said = annotate(teacher_of(student_folder), SWAHILI, THAI)
    assert all(said)
    for passage, mentions in zip((SWAHILI, THAI), said, strict=True):
        for m in mentions:
            assert passage.text[m.start : m.start + len(m.text)] == m.text
            assert m.label in ("person", "city") and 0.5 <= m.score <= 1
    assert len(annotate(teacher_of(student_folder, least=0.01), SWAHILI)[0]) >= len(said[0])
    assert annotate(teacher_of(student_folder, threshold=0.9999), SWAHILI) == [[]]


def test_a_student_teaches_in_the_precision_that_it_is_given(student_folder):
    for changes, precision in (({}, "float32"), ({"precision": "half"}, "half")):
        teacher = make_teacher(teacher_of(student_folder, **changes), language="swh", raw_text=[])
        assert teacher.student.precision == precision


def test_labels_in_another_language_stand_for_english_types(student_folder):
    said = annotate(teacher_of(student_folder, labels={"mtu": "person", "เมือง": "city"}), SWAHILI)
    assert {m.label for m in said[0]} <= {"person", "city"} and said[0]


def test_five_thousand_labels(student_folder):
    said = annotate(teacher_of(student_folder, labels=[f"kind {n}" for n in range(5000)]), SWAHILI)
    assert said[0] and all(m.label.startswith("kind ") for m in said[0])


class WithThresholds:
    "A student that gives one entity, sure by 0.3, in every text; its Thai threshold is another."

    class config:  # noqa: N801
        threshold, thresholds = 0.4, {"Thai": 0.2}

    def predict(self, texts, labels, threshold, batch_size):
        return [[Entity(0, 3, labels[0], 0.3)] if threshold <= 0.3 else [] for _ in texts]


def test_the_threshold_is_that_of_the_script_and_becomes_a_half():
    teacher = StudentTeacher(WithThresholds(), {"person": "person"}, threshold=None, least=0.5, batch=8)
    swahili, thai = teacher.annotate([SWAHILI, THAI])
    assert swahili == [] and thai[0].score > 0.5 and confidence(0.2, 0.2) == 0.5
    for threshold in (0.03, 0.5, 0.9):
        assert confidence(least_score(0.3, threshold), threshold) == pytest.approx(0.3)
    assert confidence(0.31, 0.3) > 0.5 > confidence(0.29, 0.3) and confidence(1.0, 0.3) == 1


@pytest.mark.parametrize("part", ["text_tokenizer", "label_tokenizer"])
def test_a_folder_without_its_tokenizer(student_folder, part):
    shutil.rmtree(student_folder / part)
    with pytest.raises(ValueError, match=f"teacher 'other': no student in .*lacks {part}"):
        annotate(teacher_of(student_folder), SWAHILI)


@pytest.mark.parametrize("weight", ["start.weight", "label.weight"])
def test_damaged_weights(tiny_encoder, tmp_path, weight):
    model = untrained(tiny_encoder)
    with torch.no_grad():
        dict(model.named_parameters())[weight].fill_(float("nan"))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="weights are damaged"):
        annotate(teacher_of(tmp_path), SWAHILI)


def test_a_folder_of_another_model(tiny_encoder):
    with pytest.raises(ValueError, match="holds a model of the type 'finerweb-chars', which is no student"):
        check_teacher(teacher_of(Path(tiny_encoder)))


def test_a_gliner_needs_its_library(tmp_path, monkeypatch):
    (tmp_path / "gliner_config.json").write_text("{}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="holds a GLiNER, and the gliner library is not installed; pip install"):
        check_teacher(teacher_of(tmp_path))


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"labels": []}, "a student needs `labels`"),
        ({"labels": "person"}, "labels is 'person', expected a list"),
        ({"labels": (label for label in ["person"])}, "expected a list"),
        ({"labels": ["person", None]}, "labels holds None"),
        ({"labels": {"mtu": ["person"]}}, "labels holds"),
        ({"model": "a/b/c"}, "there is no such folder"),
        ({"model": ""}, "needs `model`, a student's folder"),
        ({"threshold": 1}, "threshold is 1, expected a number above 0 and below 1"),
        ({"least": 0.7}, "least is 0.7"),
        ({"batch": 0}, "batch is 0"),
        ({"precision": "bfloat16"}, "precision is 'bfloat16', expected float32 or half"),
        ({"temperature": 1}, "a student teacher has no field temperature"),
    ],
)
def test_a_wrong_entry_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        check_teacher(teacher_of("owner/name", **wrong))


def test_a_student_neither_judges_nor_translates_nor_costs():
    spec = teacher_of("owner/name")
    assert not is_chat(spec)
    for check in (check_judge, check_translator):
        with pytest.raises(ValueError, match="'other' is a student teacher, which cannot"):
            check(spec)


def test_the_weights_decide_the_fingerprint(student_folder):
    before = student_fingerprint(str(student_folder))
    assert with_folder(teacher_of("student"), [str(student_folder.parent)])["model"] == str(student_folder)
    (student_folder / "model.safetensors").write_bytes(b"retrained")
    assert student_fingerprint(str(student_folder)) != before
    with pytest.raises(FileNotFoundError, match="no such folder"):
        student_fingerprint(str(student_folder / "nowhere"))


def test_a_broad_label_of_a_student_does_not_deny_a_narrower_one():
    city, place = Entity(13, 17, "city", 0.6), Entity(13, 17, "location", 0.9)
    text = "She lives in Oslo now."
    numbers = dict(overlap=0.5, similarity=0.75, min_score=0.5, cosine=lambda a, b: 0.0, text=text)
    for said in ({"lexicon": [city], "first": [place]}, {"lexicon": [city], "patterns": [place], "first": [place]}):
        passages = [(text, said)] * 30
        trust = learn_trust(passages, min_score=0.5, prior=0.6, prior_weight=30)
        for known in (Trust(), trust):
            entities, undecided = merge_entities(said, trust=known, **numbers)
            assert [(e.label, e.teachers) for e in entities] == [("city", tuple(sorted(said)))] and not undecided


# Two rounds


def profile(**changes) -> Profile:
    fields = {name: value for name, value in SMALL.items() if name != "benchmarks"}
    return check_profile(Profile("lesson", **fields | {"rounds": 2, "first": FIRST} | changes))


def tasks_by_label(**changes) -> dict[str, PlannedTask]:
    return {task.label: task for task in plan(profile(**changes))}


def test_every_task_stands_behind_what_it_reads():
    for languages in (["eng", "swh"], ["all"]):
        every = {k: v for k, v in FIRST.items() if k != "languages"}
        tasks, seen = plan(profile(languages=languages, first=every)), {("source", ()), ("test set", ())}
        for task in tasks:
            assert set(task.needs + task.wants) <= seen, task.label
            seen.add(task.name)
    assert sum(task.stage == "16_merge" for task in tasks) == 2 * 91


def test_what_each_round_reads():
    tasks = tasks_by_label()
    assert tasks["16_merge round1/swh"].needs == tuple(("15_align", ("swh", t)) for t in ("lexicon", "patterns"))
    assert tasks["16_merge swh"].needs[-1] == ("15_align", ("swh", "first"))
    assert [t["name"] for t in tasks["16_merge round1/swh"].parameters["teachers"]] == ["lexicon", "patterns"]
    assert tasks["33_binder first"].needs == (("17_translate", ("round1", "swh")), ("18_sentences", ("round1", "swh")))
    assert tasks["14_annotate eng/first"].needs[-1] == ("33_binder", ("first",))
    assert tasks["33_binder tiny"].needs == (("17_translate", ("swh",)), ("18_sentences", ("swh",)))
    raters = [teacher["name"] for teacher in tasks["12_filter"].parameters["teachers"]]
    assert raters == ["lexicon", "patterns"] and "11_rate swh/first" not in tasks
    assert not any("11_rate" == stage and "first" in key for stage, key in tasks["50_figures"].wants)


def test_one_round_is_as_it_was():
    labels = {task.label for task in plan(profile(rounds=1, first={}))}
    assert "16_merge swh" in labels and not any("round1" in label or "first" in label for label in labels)


def test_a_student_may_learn_from_the_first_round():
    tasks = tasks_by_label(students=[SMALL["students"][0] | {"training_round": "round1"}])
    assert tasks["33_binder tiny"].needs == tasks["33_binder first"].needs


def test_the_first_round_pays_no_translator():
    chat = {"name": "gpt", "kind": "endpoint", "model": "gpt-4o-mini"}
    tasks = tasks_by_label(translator=chat)
    assert tasks["17_translate round1/swh"].parameters["translator"] == {}
    assert tasks["17_translate swh"].parameters["translator"] == chat


def test_the_first_student_can_read_the_languages_that_it_only_teaches():
    "Light, it would lack the word pieces of their letters."
    assert tasks_by_label()["33_binder first"].parameters["pieces"] == "all"
    assert tasks_by_label(first=FIRST | {"pieces": "used"})["33_binder first"].parameters["pieces"] == "used"
    assert tasks_by_label()["33_binder tiny"].parameters.get("pieces", "letters") == "letters"


def test_the_first_student_can_be_a_gliner():
    tasks = tasks_by_label(first={"kind": "gliner", "labels": ["person"]})
    assert tasks["14_annotate swh/first"].needs[-1] == ("34_gliner", ("first",))


TWO_STUDENTS = [teacher_of("owner/name", name=name) for name in ("a", "b")]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"rounds": 3}, "rounds is 3 and first is"),
        ({"rounds": 1}, "expected rounds: 2 with first"),
        ({"first": {}}, "expected rounds: 2 with first"),
        ({"rounds": "two"}, "rounds must be int"),
        ({"first": {"steps": 5}}, "a student needs `labels`"),
        ({"first": FIRST | {"labels": "person"}}, "labels is 'person'"),
        ({"first": FIRST | {"stesp": 5}}, "did you mean steps"),
        ({"first": FIRST | {"kind": "glimer"}}, "did you mean gliner"),
        ({"first": FIRST | {"name": "tiny"}}, "each of students needs a name of its own"),
        ({"first": FIRST | {"name": "lexicon"}}, "each of teachers needs a name of its own"),
        ({"first": FIRST | {"languages": ["tha"], "overrules": []}}, "first needs 17_translate of round1/tha"),
        ({"first": FIRST | {"overrules": ["swh", "eng"]}}, "first.overrules has eng, first.languages has not"),
        ({"first": FIRST | {"overrules": ["Swahili"]}}, "first.overrules has Swahili"),
        ({"first": FIRST | {"overrules": "swh"}}, "overrules is 'swh', expected a list of languages"),
        ({"teachers": TWO_STUDENTS}, "its teachers are all students, which cannot rate"),
        ({"teachers": [*SMALL["teachers"], teacher_of("33_binder/tiny")]}, "33_binder/tiny is a student of this run"),
        ({"stages": {"16_merge": {"training_round": "round1"}}}, "training_round is the runner's to set"),
    ],
)
def test_a_wrong_profile_of_two_rounds(changes, words):
    with pytest.raises(ValueError, match=words):
        wrong = profile(**changes)
        check_models(wrong)
        plan(wrong)


@pytest.fixture(scope="module")
def two_rounds(finished, tmp_path_factory, finerweb) -> Path:
    "A folder with small.yaml of two rounds, whose Swahili is merged for both on top of the small run."
    one_round, _ = finished
    folder = tmp_path_factory.mktemp("rounds")
    shutil.copytree(one_round / "runs", folder / "runs")
    path = write_profile(folder, rounds=2, first=FIRST)
    done = finerweb(folder, "run", path, "--stages", "16_merge/swh")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "done.txt").write_text(done.stdout)
    return folder


def test_both_rounds_stand_side_by_side(two_rounds):
    lines = (two_rounds / "done.txt").read_text().splitlines()
    done = [line.removeprefix("done ").strip() for line in lines if line.startswith("done ")]
    assert done[0] == "16_merge round1/swh" and {*done[1:3]} == {"17_translate round1/swh", "18_sentences round1/swh"}
    assert done[3:] == ["33_binder first", "14_annotate swh/first", "15_align swh/first", "16_merge swh"]
    run = two_rounds / "runs/small"
    names = [t["name"] for t in read_meta(run / "16_merge/swh")["parameters"]["teachers"]]
    assert names == ["lexicon", "patterns", "first"]
    assert "33_binder/first" in read_meta(run / "14_annotate/swh/first")["inputs"]
    said = [m for row in read_rows(run / "15_align/swh/first/rows.parquet") for m in row["entities"]]
    assert said and {e["label"] for e in said} <= {"person", "location"}
    by_first = [e for row in read_rows(run / "16_merge/swh/rows.parquet") for e in row["entities"] + row["undecided"]]
    assert any("first" in e["teachers"] for e in by_first)


def test_what_the_first_student_does_not_repeat_is_dropped_where_it_overrules(two_rounds):
    run = two_rounds / "runs/small"
    claims = {part: [e for row in read_rows(run / f"16_merge/{part}/rows.parquet") for e in row["entities"]]
              for part in ("round1/swh", "swh")}  # fmt: skip
    of_types = [e for e in claims["swh"] if broader(e["label"]) in ("person", "location")]
    assert of_types and all("first" in e["teachers"] for e in of_types)
    first, last = (sum(broader(e["label"]) not in ("person", "location") for e in some) for some in claims.values())
    assert last >= first * 0.8 > 0
    counts = read_meta(run / "16_merge/swh")["counts"]
    assert counts["overruled"] > 0 and "overruled" not in read_meta(run / "16_merge/round1/swh")["counts"]


def test_who_is_overruled():
    first = {"name": "first", "kind": "student", "labels": {"mji": "city", "mtu": "person"}, "overrules": ["swh"]}
    students = overruling([{"name": "lexicon", "kind": "weak"}, first], "swh")
    assert students == {"first": {"city", "person"}} and overruling([first], "eng") == {}
    cases = (("city", True), ("person", True), ("location", False), ("country", False), ("human / person", True))
    for label, expected in cases:
        assert is_overruled(Entity(0, 4, label, 0.9, ("lexicon",)), students) is expected, label
        assert not is_overruled(Entity(0, 4, label, 0.9, ("first", "lexicon")), students)


def test_a_student_trained_again_makes_its_annotations_stale(two_rounds):
    home, tasks = str(two_rounds / "runs"), plan(load_profile(str(two_rounds / "small.yaml")))
    by_label = {task.label: task for task in tasks}

    def stale() -> set[str]:
        names = ("14_annotate swh/lexicon", "16_merge round1/swh", "33_binder first", "14_annotate swh/first")
        return {name for name in names if not up_to_date(by_label[name], home, "small")}

    assert stale() == set()
    file = two_rounds / "runs/small/33_binder/first/meta.json"
    meta = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(meta | {"output": "retrained"}), encoding="utf-8")
    assert stale() == {"14_annotate swh/first"}
    file.write_text(json.dumps(meta), encoding="utf-8")
