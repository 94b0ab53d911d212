"""A run on a Ray cluster whose nodes and engines are killed: nothing is lost, and the bytes are as on one machine."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from test_engines import ASK, SERVER, SPEC, is_alive, within

from finerweb.llm.engines import Need
from finerweb.llm.served import engine_name
from finerweb.runner.pipeline import run_profile
from finerweb.runner.profiles import check_profile, load_profile
from finerweb.runner.ray_cluster import RayWorkers
from finerweb.runner.reproduce import differences, run_record

ray = pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield made
    ray.shutdown()
    made.shutdown()


def done_in(home, run: str, address: str | None, *, during=lambda: None) -> dict:
    "The outputs of the first stages of the demo in two languages; `during` is called when the first task is done."
    profile = load_profile("demo")
    profile.languages, profile.workers = ["swh", "tha"], 2
    states = []

    def report(state: str, task, message: str) -> None:
        if state == "done" and not any(state == "done" for state, _, _ in states):
            threading.Thread(target=during).start()
        states.append((state, task.label, message))

    options = dict(home=str(home), run=run, stages=["11_rate"], report=report, started=len, ray=address)
    assert run_profile(check_profile(profile), **options) == {}, states
    return run_record(home / run)["outputs"]


def test_a_node_that_is_killed_in_the_middle_loses_nothing(cluster, tmp_path):
    second = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    here = done_in(tmp_path, "here", None)
    kill = lambda: cluster.remove_node(second, allow_graceful=False)
    there = done_in(tmp_path, "there", cluster.address, during=kill)
    assert len(here) == len(there) == 6 and differences(here, there) == []


def test_a_cluster_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(RuntimeError, match="127.0.0.1:1 cannot be reached"):
        RayWorkers({}, address="127.0.0.1:1", timeout=0, folder=tmp_path / "engines")


def test_a_model_is_loaded_once_on_the_node_that_has_the_gpu_and_again_when_it_is_lost(cluster, tmp_path, monkeypatch):
    node, pids = cluster.add_node(num_cpus=1, num_gpus=1), tmp_path / "pids"
    cluster.wait_for_nodes()
    command = lambda spec, port, host: [sys.executable, "-c", SERVER, str(port), str(pids), host]
    workers = RayWorkers({}, address=cluster.address, timeout=0, folder=tmp_path / ".engines", command=command)
    engines, name = workers.engines, engine_name(SPEC)
    assert engines.gpus == ["0"]
    for variable, value in workers.words["environment"].items():
        monkeypatch.setenv(variable, value)

    def ask(language: str) -> bool:
        "Whether a task of this language gets its replies; each has a ledger of its own."
        engines.begin(language, Need(SPEC))
        asking = subprocess.Popen([sys.executable, "-c", ASK, json.dumps(SPEC), str(tmp_path / language)])
        answered = within(60, lambda: engines.tend() or asking.poll() is not None) and asking.returncode == 0
        engines.end(language)
        return answered

    assert ask("eng") and ask("swh") and engines.loads == 1
    assert ray.available_resources().get("GPU", 0) == 0, "the engine has it"
    server, child = map(int, pids.read_text().split())
    os.kill(server, signal.SIGKILL)
    assert within(30, lambda: engines.tend() or engines.ended[name] == 1) and not is_alive(child)
    assert ask("tha") and engines.loads == 2
    cluster.remove_node(node, allow_graceful=False)
    assert within(60, lambda: engines.tend() or engines.ended[name] == 2), "lost with its node"
    assert within(60, lambda: not any(is_alive(int(pid)) for pid in pids.read_text().split()))
    second = cluster.add_node(num_cpus=1, num_gpus=1)
    assert ask("hin") and engines.loads == 3
    workers.close()
    assert not (tmp_path / ".engines").exists()
    assert within(10, lambda: not any(is_alive(int(pid)) for pid in pids.read_text().split()))
    cluster.remove_node(second)
