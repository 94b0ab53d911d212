"""A language in shards: the same bytes as in one piece, by however many workers; nothing is asked or paid twice."""

import json
import shutil
import threading
from collections import Counter
from pathlib import Path

import pytest
from chat_server import ChatHandler, fences, serving

from finerweb.data import Table, lesson_passages
from finerweb.runner.asked import ask_again, refusals_of
from finerweb.runner.estimate import estimate_tasks
from finerweb.runner.pipeline import run_tasks
from finerweb.runner.plan import PlannedTask, plan
from finerweb.runner.standing import standing
from finerweb.runner.profiles import Profile, check_profile
from finerweb.runner.resources import Room
from finerweb.runner.workers import Workers
from finerweb.shards import shard_rows
from finerweb.store import Task, notebooks_folder, output_folder, read_meta
from finerweb.teachers import make_teacher

LEXICON, PATTERNS = ({"name": name, "kind": "weak"} for name in ("lexicon", "patterns"))
ROOT = Path(__file__).parent.parent


def passages(language: str, count: int) -> list[dict]:
    "Rows of 13_select: the English lesson, with a number that tells them apart."
    english, *_ = lesson_passages()
    same = dict(language=language, script="Latn", url="", chunk=0, filter_score=0.9, detected_language=language)
    rows = [same | dict(document_id=f"d{n}", text=f"{english.text} Number {n}.") for n in range(count)]
    return [row | {"id": f"{language}_{n}"} for n, row in enumerate(rows)]


def selected(home: Path, *languages: str, count: int = 11) -> None:
    "Makes what 14_annotate reads."
    for language in languages:
        rows = passages(language, count)
        corpus = [{k: v for k, v in row.items() if k not in ("filter_score", "detected_language")} for row in rows]
        for stage, made in (("10_corpus", corpus), ("13_select", rows)):
            Task(str(home), "small", stage, (language,), parameters={}).write(made)


def tasks_of(
    teachers: list[dict], shards: int, *languages: str, block: int = 2, passages: int = 11
) -> list[PlannedTask]:
    "The planned tasks of 14_annotate."
    annotating = {"block": block, "shards": shards}
    stages = {"13_select": {"passages": passages}, "14_annotate": annotating}
    profile = Profile("small", languages=list(languages), teachers=teachers, stages=stages)
    return [task for task in plan(check_profile(profile)) if task.stage == "14_annotate"]


def annotate_here(home: Path, **parameters) -> None:
    "The stage in this process."
    names = {"make_teacher": make_teacher, "Table": Table}  # which its lessons import
    for cell in json.loads((notebooks_folder() / "14_annotate.ipynb").read_text())["cells"]:
        source = "".join(cell["source"])
        if "parameters" in cell["metadata"].get("tags", []):
            exec(source, names)
            names |= {"home": str(home), "run": "small", **parameters}
        elif cell["cell_type"] == "code" and source.startswith(("#| export", "#| eval: false")):
            exec(source, names)


def files(home: Path, *key: str) -> dict[str, bytes]:
    "The tables of an output of 14_annotate."
    folder = output_folder(str(home), "small", "14_annotate", key)
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


@pytest.mark.parametrize("count, shards, block", [(11, 5, 2), (11, 11, 1), (11, 3, 512), (1, 2, 1), (0, 3, 4)])
def test_shards_are_whole_blocks_and_hold_every_row_once(count, shards, block):
    rows = list(range(count))
    parts = [shard_rows(rows, shard, shards, block=block) for shard in range(1, shards + 1)]
    assert sum(parts, []) == rows == shard_rows(rows, 0, shards, block=block)
    assert all(not part or part[0] % block == 0 for part in parts)
    sizes = [-(-len(part) // block) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("teacher", [LEXICON, PATTERNS], ids=["lexicon", "patterns"])
def test_the_number_of_shards_changes_no_byte(teacher, tmp_path):
    key = ("swh", teacher["name"])
    selected(tmp_path, "swh")
    annotate_here(tmp_path, language="swh", teacher=teacher, block=2)
    whole, meta = files(tmp_path, *key), read_meta(output_folder(str(tmp_path), "small", "14_annotate", key))
    assert meta["rows"] == 11 and meta["counts"]["mentions"] > 11
    for shards in (2, 5):
        shutil.rmtree(tmp_path / "small/14_annotate")
        for shard in (*range(1, shards + 1), 0):
            annotate_here(tmp_path, language="swh", teacher=teacher, block=2, shards=shards, shard=shard)
        other = read_meta(output_folder(str(tmp_path), "small", "14_annotate", key))
        assert files(tmp_path, *key) == whole
        for name in ("fingerprint", "output", "counts", "dropped", "inputs"):
            assert other[name] == meta[name], name


def test_shards_of_other_passages_are_not_joined(tmp_path):
    selected(tmp_path, "swh")
    for shard in (1, 2):
        annotate_here(tmp_path, language="swh", teacher=LEXICON, block=2, shards=2, shard=shard)
    selected(tmp_path, "swh", count=9)
    with pytest.raises(FileNotFoundError, match="does not hold 14_annotate/swh/lexicon/shard-01-of-02 as it would be"):
        annotate_here(tmp_path, language="swh", teacher=LEXICON, block=2, shards=2)


def test_the_plan_has_a_task_for_each_shard_and_later_stages_know_of_none():
    stages = {"13_select": {"passages": 11, "shards": 3}, "14_annotate": {"block": 2, "shards": 99}}
    tasks = plan(check_profile(Profile("p", languages=["swh"], teachers=[LEXICON, PATTERNS], stages=stages)))
    counts = Counter(task.stage for task in tasks)
    assert counts["13_select"] == 3 + 1 and counts["14_annotate"] == 2 * (6 + 1)  # 11 passages are 6 blocks
    by_name = {task.name: task for task in tasks}
    shards = {task.name for task in tasks if task.parameters.get("shard")}
    for task in tasks:
        wholes = {name for name in task.needs + task.wants if name in shards}
        assert not wholes or all(name[0] == task.stage and name[1][:-1] == task.key for name in wholes)
        seen = {by_name[name].name for name in task.needs + task.wants if name in by_name}
        assert all(tasks.index(by_name[name]) < tasks.index(task) for name in seen)
    one = plan(check_profile(Profile("p", languages=["swh"], teachers=[LEXICON, PATTERNS])))
    assert {task.name for task in one} == set(by_name) - shards


@pytest.mark.parametrize("shards", [0, -1])
def test_a_wrong_number_of_shards_is_told_before_the_run(shards):
    with pytest.raises(ValueError, match=f"14_annotate.shards is {shards}, expected 1 or more"):
        tasks_of([LEXICON, PATTERNS], shards, "swh")


def test_which_shard_a_task_is_cannot_be_set():
    stages = {"14_annotate": {"shard": 1}}
    with pytest.raises(ValueError, match="14_annotate.shard is the runner's to set"):
        plan(check_profile(Profile("p", languages=["swh"], teachers=[LEXICON, PATTERNS], stages=stages)))


# --- with the runner and a chat teacher


class Server(ChatHandler):
    "Names a city in each passage; it answers nothing about the numbers in `silent`, and refuses those in `refused`."

    asked, silent, refused, lock = Counter(), set(), set(), threading.Lock()

    def reply(self, sent: dict) -> dict | None:
        text = fences(sent["messages"][1]["content"])[0][1]
        number = int(text.split("Number ")[1].rstrip("."))
        with self.lock:
            Server.asked[number] += 1
        if number in Server.silent:
            return None
        return {"no": "entities"} if number in Server.refused else {"entities": [{"text": "Oslo", "type": "city"}]}


@pytest.fixture
def chat():
    "A chat teacher whose server answers everything."
    pytest.importorskip("openai", reason="needs the client of endpoints")
    Server.asked, Server.silent, Server.refused = Counter(), set(), set()
    with serving(Server) as address:
        yield {"name": "chat", "kind": "endpoint", "model": "tiny", "base_url": address}


def run(tasks: list[PlannedTask], home: Path, workers: int = 2) -> tuple[list[str], dict[str, str]]:
    "(labels of the tasks that were done now, errors)."
    done = []

    def report(state: str, task: PlannedTask, message: str) -> None:
        if state == "done":
            done.append(task.label)

    at_work = Workers({"PYTHONPATH": str(ROOT)}, Room(workers=workers))
    errors = run_tasks(tasks, home=str(home), run="small", workers=at_work, report=report)
    return sorted(done), errors


def asked() -> set[int]:
    "The numbers of the passages that the server was asked about since the last call."
    numbers, Server.asked = set(Server.asked), Counter()
    return numbers


def chat_tasks(chat: dict, shards: int, *languages: str) -> list[PlannedTask]:
    return [t for t in tasks_of([LEXICON, chat], shards, *(languages or ["swh"])) if t.key[1] == "chat"]


def test_a_failed_shard_is_done_again_alone_and_no_request_is_made_twice(chat, tmp_path):
    """The last of three shards gets no answer. It stops its whole and nothing else, and then it alone is done again.
    Cut into another number of shards, it is done already."""
    home, tasks = tmp_path / "runs", chat_tasks(chat, 3)
    selected(home, "swh")
    Server.silent = {8, 9, 10}
    *others, last, whole = [task.label for task in tasks]
    done, errors = run(tasks, home)
    assert done == others and set(errors) == {last, whole}
    assert errors[whole] == f"not begun: needs {last}, which failed"
    assert asked() == set(range(11)) and not files(home, "swh", "chat")

    Server.silent = set()
    assert run(tasks, home) == ([whole, last], {})
    assert asked() == {8, 9, 10}
    folder = output_folder(str(home), "small", "14_annotate", ("swh", "chat"))
    assert read_meta(folder)["rows"] == read_meta(folder)["counts"]["parsed"] == 11
    assert sorted(p.name for p in folder.iterdir()) == ["meta.json", "notebook.ipynb", "rows.parquet"]

    for shards in (1, 2, 5):
        assert all(standing(task, str(home), "small") == (True, "") for task in chat_tasks(chat, shards))


@pytest.mark.long
def test_any_number_of_shards_and_workers_makes_the_same_bytes_of_the_same_replies(chat, tmp_path):
    home, made = tmp_path / "runs", []
    selected(home, "swh")
    for shards, workers in ((3, 2), (2, 1), (1, 2), (5, 2)):
        done, errors = run(chat_tasks(chat, shards), home, workers)
        assert len(done) == (shards + 1 if shards > 1 else 1) and not errors
        assert asked() == (set() if made else set(range(11))), "only the first asks"
        made.append(files(home, "swh", "chat"))
        shutil.rmtree(output_folder(str(home), "small", "14_annotate", ("swh", "chat")))
    assert all(tables == made[0] for tables in made)


def test_a_passage_without_an_answer_waits_in_its_shard_and_is_asked_about_again(chat, tmp_path):
    "Here in this process: what the notebook does."
    selected(tmp_path, "swh")
    Server.silent, Server.refused = {9}, {0}
    words = dict(language="swh", teacher=chat, block=2, shards=3)
    for shard in (1, 2, 3, 0):
        annotate_here(tmp_path, **words, shard=shard)
    shards, tables = asked(), files(tmp_path, "swh", "chat")
    meta = read_meta(output_folder(str(tmp_path), "small", "14_annotate", ("swh", "chat")))
    assert shards == set(range(11)) and meta["dropped"] == {"refused": 1, "unanswered": 1} and meta["rows"] == 9
    annotate_here(tmp_path, language="swh", teacher=chat, block=2)
    assert asked() == {9} and files(tmp_path, "swh", "chat") == tables, "the rows put aside are in order, too"
    Server.silent = set()
    for shard in (1, 2, 3, 0):
        annotate_here(tmp_path, **words, shard=shard)
    assert asked() == {9}
    refusals = refusals_of(chat_tasks(chat, 3), {"refused"}, str(tmp_path), "small")
    assert [task.label for task in refusals] == ["14_annotate swh/chat"]
    annotate_here(tmp_path, **words, shard=1)  # a run that was stopped before it joined
    ask_again(refusals, str(tmp_path), "small")
    assert not any(standing(task, str(tmp_path), "small")[0] for task in chat_tasks(chat, 3))
    Server.refused = set()
    for shard in (1, 2, 3, 0):
        annotate_here(tmp_path, **words, shard=shard)
    assert asked() == {0}


def test_many_refusals_of_one_shard_are_few_of_its_language(chat, tmp_path):
    selected(tmp_path, "swh")
    Server.refused = {8, 9, 10}
    words = dict(language="swh", teacher=chat, block=2, shards=3)
    for shard in (1, 2, 3, 0):
        annotate_here(tmp_path, **words, shard=shard)
    with pytest.raises(RuntimeError, match="3 of 11 answers are refused"):
        annotate_here(tmp_path, **words | {"shards": 1}, refused_share=0.2)


def test_the_estimate_counts_each_request_once(chat, tmp_path):
    for shards in (1, 4):
        (row,) = estimate_tasks([*chat_tasks(chat, shards), *selecting(chat)], home=str(tmp_path), run="small")
        assert row["requests"] == 11 and row["stage"] == "14_annotate"


def selecting(chat: dict) -> list[PlannedTask]:
    stages = {"13_select": {"passages": 11}}
    tasks = plan(check_profile(Profile("small", languages=["swh"], teachers=[LEXICON, chat], stages=stages)))
    return [task for task in tasks if task.stage in ("10_corpus", "13_select")]


@pytest.mark.long
def test_a_language_whose_shard_fails_does_not_stop_another(chat, tmp_path):
    home, tasks = tmp_path / "runs", chat_tasks(chat, 5, "eng", "swh")
    selected(home, "eng", count=8)
    selected(home, "swh")
    Server.silent = {8, 9, 10}
    done, errors = run(tasks, home)
    assert {label.split("/")[0] for label in errors} == {"14_annotate swh"}
    assert "14_annotate eng/chat" in done and len(done) + len(errors) == len(tasks)
