"""A run on a Ray cluster of two nodes, one of which is killed: nothing is lost, and the bytes are those of one machine."""

import threading

import pytest

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
    there = done_in(tmp_path, "there", cluster.address, during=lambda: cluster.remove_node(second, allow_graceful=False))
    assert len(here) == len(there) == 6 and differences(here, there) == []


def test_a_cluster_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(RuntimeError, match="127.0.0.1:1 cannot be reached"):
        RayWorkers({}, address="127.0.0.1:1", timeout=0)
