"""The processes that execute tasks: forks that execute notebooks, and what happens when a process is killed."""

import dataclasses
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from finerweb.llm.engines import Engines
from finerweb.runner import workers as runner_workers
from finerweb.runner.cli import app
from finerweb.runner.pipeline import run_tasks
from finerweb.runner.plan import PlannedTask, plan
from finerweb.runner.profiles import load_profile
from finerweb.runner.resources import Room, task_need, task_resources
from finerweb.runner.workers import Workers
from finerweb.store import output_folder, read_meta

linux = pytest.mark.skipif(sys.platform != "linux", reason="forks of imported libraries are Linux's")
ASKED = """import json, os, subprocess, sys, tempfile
loaded = "torch" in sys.modules
import torch
leads = os.getsid(0) == os.getpid()
os.write(1, b"past Python")
left = subprocess.Popen(["sleep", "600"]).pid
print(json.dumps([loaded, torch.get_num_threads(), os.environ["MARK"], __name__, leads, tempfile.mkdtemp(), left]))"""


@pytest.fixture
def executed(tmp_path, monkeypatch):
    "Executes a cell as the notebook of a task of three threads; the error in one line, and the task's folder."
    monkeypatch.setattr(runner_workers, "notebooks_folder", lambda: tmp_path)
    monkeypatch.setenv("MARK", "its own")
    monkeypatch.setenv("TMPDIR", "")  # so that both are put back
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    corpus, *_ = first_tasks()
    task = dataclasses.replace(corpus, parameters={**corpus.parameters, "threads": 3})
    folder = output_folder(str(tmp_path), "mine", task.stage, task.key)

    def execute(cell: str, seconds: int = 0) -> tuple[str, Path]:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
        notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
        nbformat.write(notebook, tmp_path / f"{task.stage}.ipynb")
        return runner_workers._in_own_process(task, str(tmp_path), "mine", seconds), folder

    yield execute
    assert not list(tmp_path.glob("finerweb-*")), "temporary files are left"


@linux
def test_a_notebook_has_the_imports_threads_and_environment_of_its_task_and_leaves_nothing(executed):
    import torch  # noqa: F401

    error, folder = executed(ASKED)
    assert error == "the notebook ended without an output"
    (printed,) = [o["text"] for c in nbformat.read(folder / "notebook.ipynb", 4).cells for o in c.get("outputs", [])]
    *facts, scratch, left = json.loads(printed)
    assert facts == [True, 3, "its own", "__main__", True]
    assert (folder / "kernel.log").read_text() == "past Python"
    assert not Path(scratch).exists()
    status = Path(f"/proc/{left}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()  # dead, and perhaps not yet buried


@linux
@pytest.mark.parametrize(
    ("cell", "seconds", "expected"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", 0, "the process of the notebook was killed"),
        ("import time\ntime.sleep(600)", 1, "TimeoutError: not done after 1 seconds"),
        ("import os\nos._exit(3)", 0, "the process of the notebook was killed"),
    ],
)
def test_a_notebook_whose_process_ends_or_hangs_says_so_and_has_no_output(executed, cell, seconds, expected):
    prepared = "import pathlib, os\nfolder = pathlib.Path(os.environ['FINERWEB_PROGRESS']).parent\n"
    error, folder = executed(f"{prepared}(folder / 'meta.json').write_text('{{}}')\n{cell}", seconds)
    assert expected in error and "\n" not in error
    assert not (folder / "meta.json").exists()


def first_tasks() -> list[PlannedTask]:
    "The tasks of Swahili's rating in the demo: the first needs nothing, two need the first."
    return [t for t in plan(load_profile("demo")) if t.stage in ("10_corpus", "11_rate") and t.key[0] == "swh"]


@pytest.fixture
def workers():
    made = Workers({}, Room(workers=2))
    yield made
    made.close()


def test_a_server_that_is_killed_fails_its_task_and_another_takes_its_place(workers, tmp_path):
    corpus, rate, *_ = first_tasks()
    at_work = workers.begin(corpus, str(tmp_path), "mine")
    killed = workers.server.pid
    os.kill(killed, signal.SIGKILL)
    assert workers.outcome(at_work) == "the worker process was killed, for example for memory"
    assert workers.outcome(workers.begin(corpus, str(tmp_path), "mine")) == ""
    assert workers.server.pid != killed
    assert workers.outcome(workers.begin(rate, str(tmp_path), "mine")) == ""
    assert read_meta(output_folder(str(tmp_path), "mine", "11_rate", rate.key))["rows"] > 0


def test_an_error_comes_back_in_one_line_and_the_next_task_goes_on(workers, tmp_path):
    corpus, rate, *_ = first_tasks()
    assert "no finished output of 10_corpus" in workers.outcome(workers.begin(rate, str(tmp_path), "mine"))
    assert workers.outcome(workers.begin(corpus, str(tmp_path), "mine")) == ""
    (tmp_path / "file").write_text("")
    assert "NotADirectoryError" in workers.outcome(workers.begin(corpus, str(tmp_path / "file"), "mine"))


def test_a_notebook_that_papermill_alone_executes_makes_the_same_bytes(finished, tmp_path):
    import papermill

    small = finished[0] / "runs/small"
    shutil.copytree(small, tmp_path / "small")
    for stage, *key in (("12_filter",), ("16_merge", "swh"), ("33_binder", "tiny")):
        made, again = small.joinpath(stage, *key), tmp_path.joinpath("small", stage, *key)
        parameters = read_meta(made)["parameters"] | {"home": str(tmp_path), "run": "small"}
        shutil.rmtree(again)
        source = str(Path(__file__).parent.parent / f"nbs/{stage}.ipynb")
        papermill.execute_notebook(source, None, parameters, kernel_name="python3", progress_bar=False)
        assert read_meta(again)["files"] == read_meta(made)["files"], stage


@linux
@pytest.mark.parametrize(("cell", "expected"), [("raise SystemExit(3)", "SystemExit: 3"), ("input()", "StdinNot")])
def test_a_notebook_that_asks_for_its_end_or_for_input_fails(executed, cell, expected):
    error, folder = executed(cell)
    assert error.startswith(expected)
    assert nbformat.read(folder / "notebook.ipynb", 4).metadata.papermill.exception


# --- room, time, and what is made again


class Counting(Workers):
    "Workers that begin no process, and remember which tasks were at work together, with the GPU of each."

    def __init__(self, room: Room, engines: Engines) -> None:
        super().__init__({}, room, engines=engines)
        self.together = []

    def begin(self, task: PlannedTask, home: str, run: str) -> PlannedTask:
        self.room.take(task)
        variables = self.engines.begin(task, task_need(task))
        engine = next((place.gpus for place in self.engines.places.values() if task in place.tasks), ())
        self.begun[task] = variables.get("CUDA_VISIBLE_DEVICES") or ",".join(engine)
        self.together.append(dict(self.begun))
        return task

    def wait(self, begun, seconds):
        return [next(iter(begun))]

    def outcome(self, task: PlannedTask) -> str:
        del self.begun[task]
        self.room.give_back(task)
        self.engines.end(task)
        return ""


def test_models_and_memory_of_paper_are_shared_out(tmp_path):
    """`paper` on a machine with two GPUs and eight workers: an engine for the language model, the other GPU for a
    stage's own model. No process is begun, so that the plan of 91 languages takes seconds."""
    tasks = [t for t in plan(load_profile("paper")) if t.stage in ("10_corpus", "11_rate", "12_filter", "14_annotate")]
    engines = Engines(gpus=["0", "1"], per_gpu=1, variables={})
    workers = Counting(Room(workers=8, memory=16.0), engines)
    states = Counter()
    report = lambda state, task, message: states.update([state])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("finerweb.runner.pipeline.standing", lambda task, home, run: (False, ""))
        assert run_tasks(tasks, home=str(tmp_path), run="x", workers=workers, report=report) == {}
    assert states["done"] == len(tasks) and not states["fail"]
    for together in workers.together:
        own = [gpu for task, gpu in together.items() if task.stage == "12_filter"]
        served = {gpu for task, gpu in together.items() if task_need(task).spec}
        assert len(own) <= 2 and len(served) <= 1 and not served & set(own)
        assert len(together) <= 8 and sum(task_resources(task).memory for task in together) <= 16
    assert max(map(len, workers.together)) == 8
    assert {gpu for together in workers.together for t, gpu in together.items() if task_need(t).spec} == {"0"}


def test_a_task_that_needs_more_than_the_machine_has_runs_alone():
    light, heavy = (next(t for t in plan(load_profile("demo")) if t.stage == s) for s in ("10_corpus", "33_binder"))
    room = Room(workers=4, memory=2.0)
    assert room.fits(heavy)
    room.take(heavy)
    assert not room.fits(light) and not room.is_full
    room.give_back(heavy)
    room.take(light)
    assert not room.fits(heavy)


@linux
def test_a_task_that_takes_too_long_is_ended_with_its_kernel_and_says_so(tmp_path):
    corpus, *_ = first_tasks()
    figures = next(t for t in plan(load_profile("demo")) if t.stage == "50_figures")  # its lesson draws for seconds
    workers = Workers({}, Room(workers=1), timeout=1)
    error = workers.outcome(workers.begin(figures, str(tmp_path), "mine"))
    assert error.startswith("TimeoutError: not done after 1 seconds")
    assert workers.room.taken == {} and not read_meta(output_folder(str(tmp_path), "mine", "50_figures", figures.key))
    children = Path(f"/proc/{workers.server.pid}/task/{workers.server.pid}/children")
    until = time.monotonic() + 60
    while children.read_text().strip() and time.monotonic() < until:
        time.sleep(0.05)
    assert not children.read_text().strip()
    workers.timeout = 600
    assert workers.outcome(workers.begin(corpus, str(tmp_path), "mine")) == ""
    workers.close()


def test_forced_tasks_are_made_again_and_those_from_a_stage_on(tmp_path, monkeypatch):
    command = ["run", "demo", "--home", str(tmp_path), "--languages", "swh", "--stages", "11_rate"]
    assert CliRunner().invoke(app, command).exit_code == 0

    def made() -> dict[str, int]:
        return {f.parent.relative_to(tmp_path).as_posix(): f.stat().st_mtime_ns for f in tmp_path.rglob("meta.json")}

    before = made()
    dry = CliRunner().invoke(app, [*command, "--dry-run", "--force", "11_rate/swh/lexicon"]).output
    assert "made again: 11_rate swh/lexicon: asked for" in dry and made() == before
    assert CliRunner().invoke(app, [*command, "--force", "11_rate/swh/lexicon"]).exit_code == 0
    assert {path for path, at in made().items() if at != before[path]} == {"demo/11_rate/swh/lexicon"}
    before = made()
    assert CliRunner().invoke(app, [*command, "--from", "10_corpus"]).exit_code == 0
    assert {path for path, at in made().items() if at != before[path]} == set(before)
    wrong = CliRunner().invoke(app, [*command, "--force", "11_rat"])
    assert wrong.exit_code == 2 and "did you mean 11_rate" in wrong.output
    wrong = CliRunner().invoke(app, [*command, "--engine", "rey"])
    assert wrong.exit_code == 2 and "expected local or ray" in wrong.output
