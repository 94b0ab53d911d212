"""What kills a run, fills its disk, spoils its files or locks its ledger costs only time: the next run ends with the
bytes of one that nobody disturbed, asks a paid teacher nothing that the ledger holds, and leaves no process behind."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest
from chat_server import ChatHandler, fences, serving
from conftest import LIGHT_FILTER, SMALL, processes, wait_for, write_profile

from finerweb.llm.chat import ChatReply
from finerweb.llm.ledger import Ledger, claim, keep, spent, stored_replies
from finerweb.store import Task, is_done, read_meta

LANGUAGES = ["arb", "eng", "hin", "swh", "tha"]
STAGES = ("--stages", "20_publish")
in_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")


class Teacher(ChatHandler):
    "Names the first words of a text; counts what it is asked."

    asked, lock = Counter(), threading.Lock()

    def reply(self, sent: dict) -> dict:
        message = sent["messages"][1]["content"]
        with self.lock:
            self.asked[hashlib.sha256(json.dumps(sent["messages"]).encode()).hexdigest()] += 1
        time.sleep(0.02)
        text = fences(message)[0][1]
        if "score" in sent["response_format"]["json_schema"]["schema"]["properties"]:
            return {"justification": "Some names.", "score": 1 + len(text) % 4}
        return {"entities": [{"text": word, "type": "thing"} for word in re.findall(r"\w{4,}", text)[:8]]}


TABLES = (".parquet", ".safetensors")
RESULTS = (*TABLES, ".md", ".json")  # cards name the run


def outputs(run: Path, ends: tuple[str, ...]) -> dict[str, bytes]:
    "The files of a run that are its results, by their names."
    records = ("meta.json", "run.json")
    files = [p for p in run.rglob("*") if p.is_file() and p.suffix in ends and p.name not in records]
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in files}


def kept(home: Path) -> int:
    "How many replies the ledger of a home holds."
    if not (home / "ledger.sqlite").exists():
        return 0
    db = sqlite3.connect(home / "ledger.sqlite", timeout=60)
    try:
        return db.execute("select count(*) from replies").fetchone()[0]
    except sqlite3.OperationalError:  # it was killed before there were tables
        return 0
    finally:
        db.close()


class Place:
    "A folder with a profile, whose runs lie in `home`."

    def __init__(self, folder: Path, address: str, environment: dict, languages: list[str], home: Path | None = None):
        chat = {"name": "chat", "kind": "endpoint", "model": "m", "base_url": address, "price_in": 1, "price_out": 1}
        stages = SMALL["stages"] | {"12_filter": LIGHT_FILTER}
        changes = dict(languages=languages, teachers=[SMALL["teachers"][0], chat], students=[], benchmarks=[])
        folder.mkdir(exist_ok=True)
        write_profile(folder, stages=stages, **changes)
        self.folder, self.home, self.lost = folder, home or folder / "runs", 0
        self.environment = environment | {"FINERWEB_MARK": str(folder)}
        self.before = Teacher.asked.copy()  # what other places asked

    @property
    def run(self) -> Path:
        return self.home / "small"

    def start(self, *words: object, name: str = "small", **more: str) -> subprocess.Popen:
        "Begins a run; what it prints goes into a file."
        command = [sys.executable, "-m", "finerweb", "run", "small.yaml", "--run", name, "--home", self.home]
        with open(self.folder / f"{name}.txt", "a") as file:
            how = dict(cwd=self.folder, env=self.environment | more, stdout=file, stderr=file, start_new_session=True)
            how["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # jobs behind a shell ignore it
            return subprocess.Popen([str(word) for word in [*command, *(words or STAGES)]], **how)

    def finish(self, *words: object, **more: str) -> str:
        "Runs to the end, which must be a good one, and leaves no process; what was printed."
        code, printed = self.start(*words, **more).wait(1200), (self.folder / "small.txt").read_text()
        assert code == 0, printed[-3000:]
        wait_for(self.is_quiet, 60, "the end of all processes")
        return printed

    def is_quiet(self) -> bool:
        return not processes(f"FINERWEB_MARK={self.folder}")

    def tasks_done(self) -> int:
        return sum("meta.json" in files for _, _, files in os.walk(self.run))  # which minds no folder that goes

    def is_at(self, tasks: float, runner: subprocess.Popen) -> bool:
        "Whether so many tasks are done, or the run has ended."
        return runner.poll() is not None or self.tasks_done() >= tasks

    @property
    def asked(self) -> int:
        "How many requests this place made."
        return (Teacher.asked - self.before).total()

    def count_lost(self) -> int:
        "After a kill: how many requests more than before were made and have no reply in the ledger."
        wait_for(self.is_quiet, 60, "the end of all processes")
        time.sleep(0.3)  # the server counts what is under way
        lost = self.asked - kept(self.home) - self.lost
        self.lost += lost
        return lost

    def assert_nothing_paid_twice(self) -> None:
        "Every request that was made has its reply in the ledger, once, or was under way at a kill."
        assert self.asked == kept(self.home) + self.lost, (self.asked, kept(self.home), self.lost)


@pytest.fixture(scope="module")
def address():
    pytest.importorskip("openai", reason="needs the client of endpoints")
    with serving(Teacher) as address:
        yield address


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, address, environment):
    "`undisturbed(languages)`: the place of a run that nobody disturbs. Nobody writes into it."
    made = {}

    def place(languages: list[str]) -> Place:
        if tuple(languages) not in made:
            new = Place(tmp_path_factory.mktemp("whole"), address, environment, languages)
            new.finish()
            new.assert_nothing_paid_twice()
            made[tuple(languages)] = new
        return made[tuple(languages)]

    return place


@pytest.fixture
def place(tmp_path, address, environment):
    "`place(languages, home)`: where a run is disturbed."
    made = []

    def new(languages: list[str], home: Path | None = None) -> Place:
        made.append(Place(tmp_path / "place", address, environment, languages, home))
        return made[-1]

    yield new
    for old in made:
        for number in processes(f"FINERWEB_MARK={old.folder}"):
            os.kill(number, signal.SIGKILL)


def assert_same(run: Path, expected: Path, ends: tuple[str, ...] = RESULTS) -> None:
    ours, theirs = outputs(run, ends), outputs(expected, ends)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in theirs if ours[name] != theirs[name]] == []


# --- killed


@in_proc
@pytest.mark.long
def test_killed_at_twenty_random_moments(undisturbed, place):
    """A run in five languages: the runner alone, one other process of it, or all at once, when a random number of tasks
    is done, and a moment later."""
    chance, whole, here = random.Random(17), undisturbed(LANGUAGES), place(LANGUAGES)
    moments = sorted(chance.uniform(0, whole.tasks_done() - 4) for _ in range(20))
    runner, kills = None, {}  # moment -> whose
    for moment in moments:
        longest = 0.5  # seconds
        while not runner or runner.poll() is not None or here.tasks_done() < moment:
            if not runner or runner.poll() is not None:  # killed, or ended, for a task that was killed had failed
                runner, longest = here.start(), 4
            wait_for(partial(here.is_at, moment, runner), 1200, f"{moment:.0f} tasks done")
        time.sleep(chance.uniform(0, longest))
        alive = processes(f"FINERWEB_MARK={here.folder}")
        others = sorted({*alive} - {runner.pid})
        victim = chance.choice(["runner", "other", "all"] if others else ["runner", "all"])
        victims = {"runner": [runner.pid], "other": others and [chance.choice(others)], "all": alive}[victim]
        for number in victims:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
                kills[moment] = victim
        if runner.pid in victims:
            runner.wait()
            assert 0 <= here.count_lost() <= 64, "what was under way at two workers"
    assert {*kills.values()} == {"runner", "other", "all"} and len(kills) >= 16, kills
    runner.wait(1200)
    here.count_lost()
    here.finish()
    here.assert_nothing_paid_twice()
    assert_same(here.run, whole.run)
    assert not list(here.run.rglob(".incoming")) and not list(here.run.rglob("error.txt"))


@in_proc
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_ctrl_c_waits_for_the_tasks_at_work_until_it_comes_again(place, twice):
    "What is at work ends and nothing that is paid for is lost; or all ends at once. Then the same command goes on."
    here, words = place(["swh"]), ("--stages", "13_select")
    runner = here.start(*words)
    wait_for(lambda: here.asked > 0 or runner.poll() is not None, 120, "a request")
    runner.send_signal(signal.SIGINT)
    printed = lambda: (here.folder / "small.txt").read_text()
    wait_for(lambda: "waiting for 11_rate swh/chat; Ctrl-C again ends it now" in printed(), 20, "the word")
    if twice:
        runner.send_signal(signal.SIGINT)
    began, code = time.monotonic(), runner.wait(60)
    assert code == 130 and (not twice or time.monotonic() - began < 5), code
    done, of = map(int, re.search(r"Stopped: (\d+) of (\d+) tasks are done; what is done stays", printed()).groups())
    assert 0 < done <= here.tasks_done() < of and "Traceback" not in printed()
    assert 0 <= here.count_lost() <= (64 if twice else 0)
    assert f"All {of} tasks are done" in here.finish(*words)
    here.assert_nothing_paid_twice()


# In each Python process: a task that is about to be in the middle of its n-th write is killed there.
FAULTS = '''
import os, signal, sqlite3, threading, time

COUNTER, MOMENTS = os.environ["FAULT_COUNTER"], set(map(int, os.environ["FAULT_MOMENTS"].split(",")))


def is_time():
    with open(COUNTER, "ab") as file:
        file.write(b".")
    return os.path.getsize(COUNTER) in MOMENTS


if os.environ["FAULT"] == "parquet":
    import pyarrow.parquet.core as core

    whole = core.ParquetWriter.write_table

    def write_table(self, *values, **words):
        whole(self, *values, **words)
        if is_time():  # the rows are on their way, the end of the file is not there
            os.kill(os.getpid(), signal.SIGKILL)

    core.ParquetWriter.write_table = write_table
else:

    class Connection(sqlite3.Connection):
        def execute(self, sql, *values):
            if sql == "commit" and is_time():
                delay = os.path.getsize(COUNTER) % 5 * 1e-4  # before it begins, or while it writes, or after it
                end = lambda: (time.sleep(delay), os.kill(os.getpid(), signal.SIGKILL))
                threading.Thread(target=end).start()
                super().execute(sql, *values)
                time.sleep(60)
            return super().execute(sql, *values)

    connect = sqlite3.connect
    sqlite3.connect = lambda *values, **words: connect(*values, **{"factory": Connection} | words)
'''


@in_proc
@pytest.mark.long
@pytest.mark.parametrize(("fault", "moments"), [("parquet", "2,5,9,14,20,27"), ("sqlite", "1,4,6,9,12,15,19")])
def test_killed_inside_a_write(fault, moments, undisturbed, place, tmp_path):
    whole, here = undisturbed(["swh"]), place(["swh"])
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults/sitecustomize.py").write_text(FAULTS)
    counter = tmp_path / "counter"
    counter.write_bytes(b"")
    more = {"FAULT": fault, "FAULT_MOMENTS": moments, "FAULT_COUNTER": str(counter)}
    more["PYTHONPATH"] = f"{tmp_path / 'faults'}:{here.environment['PYTHONPATH']}"
    failures = 0
    while here.start(**more).wait(1200):
        failures += 1
        assert failures < 10, (here.folder / "small.txt").read_text()[-3000:]
        here.count_lost()
    assert failures >= 3, "a run goes on after a task that was killed, so two kills may be in one run"
    here.finish()
    here.assert_nothing_paid_twice()
    assert_same(here.run, whole.run)


# --- disks, files, other processes


@pytest.mark.long
def test_a_disk_that_fills_up_again_and_again(undisturbed, place, small_disk):
    whole, disk = undisturbed(["swh"]), small_disk(150_000)
    here = place(["swh"], disk / "runs")
    for size in (150_000, 400_000, 1_000_000, 1_500_000):
        small_disk(size)
        assert here.start().wait(1200) != 0, "the disk was to be full"
        here.count_lost()
    assert "No space left on device" in (here.folder / "small.txt").read_text() or "full" in (
        here.folder / "small.txt"
    ).read_text()
    small_disk(500_000_000)
    here.finish()
    here.assert_nothing_paid_twice()
    assert_same(here.run, whole.run)


@in_proc
@pytest.mark.long
def test_two_runs_at_once_in_one_home_share_their_replies(undisturbed, place):
    whole, here = undisturbed(["swh"]), place(["swh"])
    both = [here.start(name=name) for name in ("small", "second")]
    codes = [runner.wait(1200) for runner in both]
    assert codes == [0, 0], [(here.folder / f"{name}.txt").read_text()[-2000:] for name in ("small", "second")]
    here.assert_nothing_paid_twice()
    assert here.asked == kept(whole.home), "what one asked the other found in the ledger"
    for name, ends in (("small", RESULTS), ("second", TABLES)):
        assert_same(here.home / name, whole.run, ends)


def flipped(path: Path, place: float) -> None:
    "Changes a byte of a file."
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.long
def test_bytes_flipped_or_cut_are_made_again(undisturbed, place):
    whole, here = undisturbed(["swh"]), place(["swh"])
    shutil.copytree(whole.home, here.home)
    for n, stage in enumerate(("10_corpus/swh", "11_rate/swh/chat", "14_annotate/swh/chat", "16_merge/swh")):
        flipped(here.run / stage / "rows.parquet", 0.2 * n)
    flipped(here.run / "20_publish/merged-english-passages/swh/train.parquet", 0.5)
    record = here.run / "15_align/swh/chat/meta.json"
    record.write_bytes(record.read_bytes()[:-40])
    printed = here.finish()
    assert here.asked == 0 and len(re.findall("^done ", printed, re.M)) >= 6
    assert_same(here.run, whole.run)


@in_proc
@pytest.mark.long
def test_a_ledger_that_another_process_locks_for_a_while(undisturbed, place):
    whole, here = undisturbed(["swh"]), place(["swh"])
    here.home.mkdir()
    Ledger(here.home / "ledger.sqlite").close()
    runner = here.start()
    wait_for(lambda: here.asked >= 2 or runner.poll() is not None, 600, "the second request")
    db = sqlite3.connect(here.home / "ledger.sqlite", timeout=60, isolation_level=None)
    db.execute("begin exclusive")
    asked = here.asked
    time.sleep(6)
    assert here.asked <= asked + 64 and runner.poll() is None
    db.execute("rollback")
    db.close()
    assert runner.wait(1200) == 0, (here.folder / "small.txt").read_text()[-3000:]
    here.assert_nothing_paid_twice()
    assert_same(here.run, whole.run)


# --- the same, without a run


@pytest.fixture
def impatient(monkeypatch):
    "A ledger waits for a twentieth of a second in place of a minute."
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *values, **words: connect(*values, **words | {"timeout": 0.05}))


def test_a_reply_that_is_paid_for_waits_for_a_locked_ledger_and_a_request_is_not_made(impatient, tmp_path, capsys):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("begin immediate")
    with pytest.raises(TimeoutError, match="locked by another process, perhaps by one that is stopped"):
        claim(ledger, "k", account="a", money=1.0, cap=None)
    threading.Timer(0.4, lambda: other.execute("rollback")).start()
    keep(ledger, "k", ChatReply("yes", "stop", 1, 1, ""), model="m", revision="", account="a", money=1.0)
    assert "waiting for it" in capsys.readouterr().out
    assert stored_replies(ledger, ["k"])["k"].text == "yes" and spent(ledger, "a")["money"] == 1.0
    ledger.close()


def test_a_new_ledger_that_is_locked_is_not_called_broken(impatient, tmp_path):
    other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    other.execute("begin exclusive")
    with pytest.raises(TimeoutError, match="locked by another process; end that and run again"):
        Ledger(tmp_path / "ledger.sqlite")
    other.execute("rollback")


def _open(path: Path, together: "Barrier", errors: "Queue") -> None:  # noqa: F821
    together.wait()
    try:
        Ledger(path)
        errors.put("")
    except Exception as error:
        errors.put(repr(error))


def test_processes_that_open_a_new_ledger_at_once_all_succeed(tmp_path):
    fork = get_context("fork")
    for n in range(40):
        together, errors = fork.Barrier(6), fork.Queue()
        openers = [fork.Process(target=_open, args=(tmp_path / f"{n}.sqlite", together, errors)) for _ in range(6)]
        for opener in openers:
            opener.start()
        assert [errors.get(timeout=60) for _ in openers] == [""] * 6
        for opener in openers:
            opener.join()


def labelled(home: Path) -> Task:
    "A finished small task."
    rows = [dict(label="city", language="swh", translation="mji", concept="city", method="table")]
    task = Task(str(home), "small", "17_translate", ("swh",), parameters={})
    task.write(rows)
    return task


def test_a_byte_that_is_changed_after_the_record_was_written_is_seen(tmp_path):
    task = labelled(tmp_path)
    rows, wanted = task.folder / "rows.parquet", read_meta(task.folder)["fingerprint"]
    whole = rows.read_bytes()
    assert is_done(task.folder, wanted)
    for n in range(0, 10):
        flipped(rows, n / 10)
        assert not is_done(task.folder, wanted), n
        rows.write_bytes(whole)
        assert is_done(task.folder, wanted), "the same bytes again, though later than the record"
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "small", copy, copy_function=shutil.copy)  # with other times
    assert is_done(copy / "17_translate/swh", wanted)


MIDDLE = """
import os, signal, sys
import pyarrow.parquet.core as core
from finerweb.store import Task

def write_table(self, *values, **words):
    whole(self, *values, **words)
    os.kill(os.getpid(), signal.SIGKILL)

whole, core.ParquetWriter.write_table = core.ParquetWriter.write_table, write_table
Task(sys.argv[1], "small", "17_translate", ("swh",), parameters={}).write([])
"""


def test_a_task_that_is_killed_inside_its_table_leaves_the_one_before(tmp_path, environment):
    task = labelled(tmp_path)
    before = {p.name: p.read_bytes() for p in task.folder.iterdir()}
    killed = subprocess.run([sys.executable, "-c", MIDDLE, tmp_path], env=environment)
    assert killed.returncode == -signal.SIGKILL and (task.folder / ".incoming/rows.parquet").exists()
    assert {p.name: p.read_bytes() for p in task.folder.iterdir() if p.is_file()} == before
    assert len(labelled(tmp_path).read("17_translate", "swh")) == 1 and not (task.folder / ".incoming").exists()
