"""A student on a test set: what leaked is found, left out and counted; which student meets which test set."""

import json
from pathlib import Path

import papermill
import pyarrow.parquet as pq
import pytest

from finerweb.data import Entity, Passage, schema
from finerweb.evaluate import compared, evaluation_scores, leak_scores, marks_table
from finerweb.metrics import score_spans, with_intervals
from finerweb.runner.plan import plan
from finerweb.runner.profiles import Profile, check_profile, load_profile
from finerweb.store import Task

WEAK = [{"name": "lexicon", "kind": "weak"}, {"name": "patterns", "kind": "weak"}]
HOW = dict(core=["person"], resamples=50, seed=1, level=0.9)


def entities_of(*spans: tuple[int, int, str]) -> list[dict]:
    return [dict(start=a, end=b, label=label, score=1.0, teachers=[]) for a, b, label in spans]


def test_leaked_passages_count_in_one_score_only():
    passages = [Passage(str(n), "Ada wrote", "eng", "Latn", (Entity(0, 3, "person"),)) for n in range(10)]
    predicted = [[Entity(0, 3, "person")] if n < 4 else [Entity(4, 9, "person")] for n in range(10)]
    scores = leak_scores(passages, predicted, {0, 1, 2}, **HOW)
    assert (scores["without"]["all"].f1, scores["with"]["all"].f1) == (pytest.approx(1 / 7), pytest.approx(0.4))
    rows = compared(scores)
    expected = [(labels, leaked, n, n) for labels in ("all", "core") for leaked, n in (("without", 7), ("with", 10))]
    assert [(row["labels"], row["leaked"], row["texts"], row["gold"]) for row in rows] == expected
    nothing_leaked = leak_scores(passages, predicted, set(), **HOW)
    assert nothing_leaked["without"]["all"].table() == nothing_leaked["with"]["all"].table()
    with pytest.raises(ValueError, match="all 10 passages"):
        leak_scores(passages, predicted, set(range(10)), **HOW)


def test_documents_follow_the_passages_that_are_left():
    passages = [Passage(str(n), "Ada wrote", "eng", "Latn", (Entity(0, 3, "person"),)) for n in range(30)]
    predicted = [[Entity(0, 3, "person")] if n % 3 else [] for n in range(30)]
    documents = [str(n // 6) for n in range(30)]
    left = [n for n in range(30) if n not in {1, 7, 8}]
    scores = leak_scores(passages, predicted, {1, 7, 8}, documents=documents, **HOW)["without"]["all"]
    some = [passages[n] for n in left], [predicted[n] for n in left]
    expected = evaluation_scores(*some, documents=[documents[n] for n in left], **HOW)["all"]
    without_documents = leak_scores(passages, predicted, {1, 7, 8}, **HOW)["without"]["all"]
    assert scores.table() == expected.table() != without_documents.table()


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, root) -> Path:
    """The folder of 35_evaluate for a tiny untrained student, whose training text holds one test sentence exactly and
    one nearly."""
    import torch

    from finerweb.models.char_encoder import CharEncoder, CharEncoderConfig, CharTokenizer
    from finerweb.student.model import SpanBinder

    home = tmp_path_factory.mktemp("home")
    torch.manual_seed(0)
    CharEncoder(CharEncoderConfig(rows=500, row_size=8, hidden_size=16, dilations=[1, 2])).save_pretrained(
        home / "encoder"
    )
    CharTokenizer().save_pretrained(home / "encoder")
    sizes = dict(size=8, max_width=9, window=100, dropout=0.0, freeze_labels=True)
    model = SpanBinder.from_encoder(str(home / "encoder"), label_encoder=str(home / "encoder"), **sizes)
    model.config.scripts = ["Thai"]  # as if it were light, and not for this test set
    task = Task(str(home), "small", "33_binder", ("tiny",), parameters=dict(languages=["swh"]))
    model.save_pretrained(task.open() / "model")
    task.close()
    blank = dict.fromkeys(schema("18_sentences").names) | {
        "language": "swh",
        "script": "Latn",
        "entities": [],
        "undecided": [],
    }
    train = [
        "Habari za Nairobi .",
        "Wangari Maathai alipokea Tuzo ya Nobel mjini Oslo mwaka wa 2004.",
        "Sentensi nyingine kabisa ya mafunzo.",
    ]
    task = Task(str(home), "small", "18_sentences", ("swh",), parameters={})
    task.write([blank | {"id": f"swh_{n}", "text": text} for n, text in enumerate(train)])
    texts = [
        "Habari za Nairobi.",
        "Wangari Maathai alipokea Tuzo ya Nobel mjini Oslo mwaka 2004.",
        "Juma anaishi Kisumu.",
        "Amina alifika Mombasa.",
        "Juma alifika Oslo.",
    ]
    places = [(10, 17), (45, 49), (13, 19), (14, 21), (13, 17)]
    documents = ["a", "a", "b", "b", ""]
    rows = []
    for n, (text, place, document) in enumerate(zip(texts, places, documents, strict=True)):
        row = dict(id=f"mine-{n}", text=text, language="swh", script="Latn", document_id=document)
        rows.append(row | dict(entities=entities_of((*place, "location"))))
    Task(str(home), "small", "30_benchmarks", ("mine",), parameters={}).write(rows)
    parameters = dict(home=str(home), run="small", student="tiny", benchmark="mine")
    parameters |= dict(threshold=0.001, resamples=40, lengths=[4, 6])
    path, copy = root / "nbs" / "35_evaluate.ipynb", str(home / "notebook.ipynb")
    papermill.execute_notebook(path, copy, parameters=parameters, progress_bar=False)
    return home / "small" / "35_evaluate" / "tiny" / "mine"


def test_the_stage_leaves_out_what_leaked_and_says_so(evaluated):
    counts = json.loads((evaluated / "meta.json").read_text(encoding="utf-8"))["counts"]
    assert (counts["passages"], counts["leaked"], counts["leaked_exactly"]) == (3, 2, 1)
    dropped = pq.read_table(evaluated / "dropped.parquet").to_pylist()
    reasons = [("mine-0", "in the training text"), ("mine-1", "nearly in the training text")]
    assert [(row["id"], row["reason"]) for row in dropped] == reasons
    assert "mwaka wa 2004" in dropped[1]["detail"] and dropped[1]["detail"].startswith("0.")
    assert [r["id"] for r in pq.read_table(evaluated / "rows.parquet").to_pylist()] == ["mine-2", "mine-3", "mine-4"]


def test_the_stage_notes_what_its_student_warns_of(evaluated):
    [note] = json.loads((evaluated / "meta.json").read_text(encoding="utf-8"))["notes"]
    assert note.startswith("5 of 5 texts, such as 'Habari za Nairobi.', are in a script") and "Thai" in note


def test_the_stages_scores_are_those_of_its_rows(evaluated):
    rows = pq.read_table(evaluated / "rows.parquet").to_pylist()
    report = json.loads((evaluated / "scores.json").read_text(encoding="utf-8"))
    counts = json.loads((evaluated / "meta.json").read_text(encoding="utf-8"))["counts"]
    gold, predicted = (
        [Passage.from_row(row | {"entities": row[side]}).entities for row in rows] for side in ("entities", "predicted")
    )
    assert any(predicted)
    draws = dict(resamples=40, seed=1, level=0.95, documents=["b", "b", "4"])
    scores = with_intervals(score_spans(gold, predicted, labels=["location"]), **draws)
    assert report["all"] == scores.table() and counts["f1"] == scores.f1
    with_leaked = report["with_leaked"]["all"]
    strict = next(row for row in with_leaked if (row["match"], row["label"]) == ("strict", "micro"))
    assert strict["gold"] == 5 and counts["f1_with_leaked"] == strict["f1"]
    for match in ("boundary", "relaxed"):
        assert counts[f"{match}_f1"] == scores.row(match=match)["f1"]
    assert [row["characters"] for row in report["lengths"]] == ["1 to 4", "5 to 6", "over 6"]
    assert [row["gold"] for row in report["lengths"]] == [1, 1, 1]
    assert sum(r["predicted"] for r in report["lengths"]) == scores.row()["predicted"]


def test_gold_stands_beside_predictions_and_nothing_is_html():
    ada, oxford, left = Entity(3, 6, "person"), Entity(16, 22, "city"), Entity(11, 22, "a<b")
    passage = Passage("<i>1", "<b>Ada</b> left Oxford & London.", "arb", "Arab", (ada, oxford))
    page = marks_table([passage], [[oxford, left]])
    _, gold, predicted = page.split("<tr>")
    assert "<b>M</b> Ada <small>person" in gold and "<b>R</b> Oxford <small>city" in gold and "<b>W</b>" not in gold
    assert "<b>W</b> left Oxford <small>a&lt;b" in predicted and "<b>R</b> Oxford <small>city" in predicted
    assert 'dir="rtl"' in gold and "&lt;i&gt;1" in page and "&lt;b&gt;" in page and "<b>Ada" not in page
    colours = {letter: page.split(f"<b>{letter}</b>")[0].rsplit("background:", 1)[1][:7] for letter in "RMW"}
    assert len(set(colours.values())) == 3 and "No passages" in marks_table([], [])


def test_the_stages_record_shows_gold_beside_predictions(evaluated):
    cells = json.loads((evaluated.parents[3] / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    pages = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    assert any("<td>predicted</td>" in page and "Juma anaishi" in page for page in pages)


def pairs(tasks: list, stage: str = "35_evaluate") -> list[tuple[str, ...]]:
    return [t.key for t in tasks if t.stage == stage]


def test_students_meet_test_sets_of_their_languages():
    thai = {"name": "thai", "languages": ["tha"]}
    students = [{"name": "all"}, thai, {"name": "bold", "languages": ["tha"], "zero_shot": True}]
    english = {"name": "sample-eng"}
    benchmarks = [english, {"name": "sample-tha"}, {"name": "mine", "path": "x.jsonl", "language": "arb"}]
    fields = dict(languages=["eng", "tha"], teachers=WEAK, students=students, benchmarks=benchmarks)
    tasks = plan(check_profile(Profile("lesson", **fields)))
    expected = [("all", "sample-eng"), ("all", "sample-tha"), ("thai", "sample-tha")]
    expected += [("bold", "sample-eng"), ("bold", "sample-tha"), ("bold", "mine")]
    assert pairs(tasks) == expected
    for stage in ("50_figures", "51_tables"):
        task = next(t for t in tasks if t.stage == stage)
        assert [key for need, key in task.wants if need == "35_evaluate"] == expected
    assert all("zero_shot" not in t.parameters for t in tasks)
    no_pair = Profile("none", **fields | {"students": [thai], "benchmarks": [english]})
    assert pairs(plan(check_profile(no_pair))) == []
    with pytest.raises(ValueError, match="zero_shot is 1"):
        plan(check_profile(Profile("wrong", **fields | {"students": [{"name": "a", "zero_shot": 1}]})))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("demo", 5), ("offline", 24), ("open", 6), ("paper", 12), ("real", 43), ("world", 8), ("colab", 5),
        ("kaggle", 8),
    ],  # fmt: skip
)
def test_packaged_profiles_have_no_pointless_evaluation(name, count):
    profile = load_profile(name)
    assert len(pairs(plan(profile))) == count
    if name in ("offline", "open", "paper"):  # with students of some languages only
        assert count < len(profile.students) * len(profile.benchmarks)
