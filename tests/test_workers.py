"""The processes that execute tasks: kernels that are forks, and what happens when a process is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from finerweb.runner.plan import PlannedTask, plan
from finerweb.runner.profiles import load_profile
from finerweb.runner.workers import Workers, outcome
from finerweb.store import output_folder, read_meta

linux = pytest.mark.skipif(sys.platform != "linux", reason="forks of imported libraries are Linux's")
FORKED = """
import os, sys, torch
import papermill
from finerweb.runner.workers import KernelFork, use_fork
os.environ["OMP_NUM_THREADS"] = "3"
use_fork(KernelFork())
papermill.execute_notebook("asked.ipynb", "answered.ipynb", kernel_name="python3", progress_bar=False)
"""
ASKED = """import json, os, sys
loaded = "torch" in sys.modules
import torch
leads = os.getsid(0) == os.getpid()
print(json.dumps([loaded, torch.get_num_threads(), os.environ["MARK"], os.getcwd(), __name__, leads]))"""


@linux
def test_a_forked_kernel_has_the_imports_threads_environment_and_folder_of_its_task(tmp_path):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(ASKED)]), tmp_path / "asked.ipynb")
    done = subprocess.run(
        [sys.executable, "-c", FORKED],
        cwd=tmp_path, env=os.environ | {"MARK": "its own"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "--existing" not in done.stdout
    (cell,) = nbformat.read(tmp_path / "answered.ipynb", 4).cells
    (output,) = [output["text"] for output in cell["outputs"]]
    assert json.loads(output) == [True, 3, "its own", str(tmp_path), "__main__", True]


def first_tasks() -> list[PlannedTask]:
    "The tasks of Swahili's rating in the demo: the first needs nothing, two need the first."
    return [t for t in plan(load_profile("demo")) if t.stage in ("10_corpus", "11_rate") and t.key[0] == "swh"]


@pytest.fixture
def workers():
    made = Workers({})
    yield made
    made.close()


def test_a_server_that_is_killed_fails_its_task_and_another_takes_its_place(workers, tmp_path):
    corpus, rate, *_ = first_tasks()
    at_work = workers.begin(corpus, str(tmp_path), "mine")
    killed = workers.server.pid
    os.kill(killed, signal.SIGKILL)
    assert outcome(at_work) == "the worker process was killed, for example for memory"
    assert outcome(workers.begin(corpus, str(tmp_path), "mine")) == ""
    assert workers.server.pid != killed
    assert outcome(workers.begin(rate, str(tmp_path), "mine")) == ""
    assert read_meta(output_folder(str(tmp_path), "mine", "11_rate", rate.key))["rows"] > 0


def test_an_error_comes_back_in_one_line_and_the_next_task_goes_on(workers, tmp_path):
    corpus, rate, *_ = first_tasks()
    assert "no finished output of 10_corpus" in outcome(workers.begin(rate, str(tmp_path), "mine"))
    assert outcome(workers.begin(corpus, str(tmp_path), "mine")) == ""
    (tmp_path / "file").write_text("")
    assert "NotADirectoryError" in outcome(workers.begin(corpus, str(tmp_path / "file"), "mine"))


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
