"""The engines of a run: who has which GPU, what the tasks learn, and that nothing is left behind."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from finerweb.llm.chat import chat_request
from finerweb.llm.engine import Engine
from finerweb.llm.engines import Engines, Need, gpus_wanted
from finerweb.llm.served import ENGINE_KEY, ENGINES, Served, engine_name
from finerweb.llm.vllm import InProcess
from finerweb.teachers import make_teacher

# A server that answers a chat request with what it was asked, and needs its key.
SERVER = """
import http.server, json, os, subprocess, sys, time
print("the model is loaded", flush=True)
child = subprocess.Popen(["sleep", "600"])
open(sys.argv[2], "a").write(f"{os.getpid()} {child.pid}\\n")
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def refused(self):
        known = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        return not known and (self.answer(401, {"error": "Unauthorized"}) or True)
    def do_GET(self):
        self.refused() or self.answer(200, {"data": [{"max_model_len": 100}]})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.refused():
            choice = {"message": {"content": json.dumps(asked)}, "finish_reason": "stop"}
            self.answer(200, {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer((sys.argv[3], int(sys.argv[1])), Answer).serve_forever()
"""
SPEC = {"name": "m", "kind": "vllm", "model": "models/m", "revision": "r1", "extra": {"enable_thinking": False}}
REQUESTS = [
    chat_request(("user", f"say {n}"), schema={"type": "object"}, max_tokens=200, temperature=0.5, seed=n)
    for n in range(3)
]


def is_alive(pid: int) -> bool:
    "Whether a process runs; one that ended and that nobody waited for does not."
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def within(seconds: float, condition) -> bool:
    "Whether `condition()` comes true in this time."
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.fixture
def started(tmp_path):
    "(a `start` for `Engines` with the server above, a function that gives the processes of all that were started)."
    pids = tmp_path / "pids"
    command = lambda spec, port, host: [sys.executable, "-c", SERVER, str(port), str(pids), host]

    def processes() -> list[int]:
        return [int(pid) for pid in pids.read_text().split()] if pids.exists() else []

    yield lambda spec, **more: Engine(spec, command=command, **more), processes
    assert within(5, lambda: not any(map(is_alive, processes()))), "a server was left behind"


def teacher_of(spec: dict, home: Path):
    return make_teacher(spec, language="eng", raw_text=[], home=str(home))


def test_a_task_asks_the_engine_with_the_keys_it_has_without_one(tmp_path, monkeypatch, started, capfd):
    start, processes = started
    alone = teacher_of(SPEC, tmp_path)
    assert isinstance(alone.backend, InProcess)
    with Engines(gpus=[], per_gpu=1, variables={}, start=start) as engines:
        for name, value in engines.environment.items():
            monkeypatch.setenv(name, value)
        assert isinstance(teacher_of(SPEC, tmp_path).backend, InProcess), "no engine was offered yet"
        assert engines.begin("task", Need(SPEC)) == {}
        served = teacher_of(SPEC, tmp_path)
        assert isinstance(served.backend, Served)
        assert [served.key(r) for r in REQUESTS] == [alone.key(r) for r in REQUESTS]
        engines.tend()
        assert engines.loads == 0, "nobody has asked"
        served.chat([])
        asking = subprocess.Popen([sys.executable, "-c", ASK, json.dumps(SPEC), str(tmp_path)])
        assert within(30, lambda: engines.tend() or asking.poll() is not None) and asking.returncode == 0
        assert engines.loads == 1
        assert oct(engines.folder.stat().st_mode)[-3:] == "700"
        replies = [json.loads(reply.text) for reply in alone.chat(REQUESTS)]  # from the ledger: no model is loaded
        for request, asked in zip(REQUESTS, replies, strict=True):
            assert asked["model"] == "models/m" and asked["seed"] == request.seed and asked["temperature"] == 0.5
            assert asked["max_tokens"] == 100, "no more than the model can write"
            assert asked["chat_template_kwargs"] == SPEC["extra"]
            assert asked["response_format"]["json_schema"]["schema"] == request.schema
        log = next(engines.folder.glob("*.log")).read_text()
        assert "the model is loaded" in log
        key, traces = engines.environment[ENGINE_KEY], [log, *capfd.readouterr()]
        traces += [path.read_text(errors="replace") for path in engines.folder.iterdir()]
    served.ledger.close()
    traces += [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert not [trace for trace in traces if key in trace]
    assert not engines.folder.exists() and within(10, lambda: not any(map(is_alive, processes())))
    rows = sqlite3.connect(tmp_path / "ledger.sqlite").execute("select key from replies").fetchall()
    assert {key for (key,) in rows} == {alone.key(r) for r in REQUESTS}


ASK = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_engines import REQUESTS, teacher_of
replies = teacher_of(json.loads(sys.argv[1]), sys.argv[2]).chat(REQUESTS)
assert not any(reply.error for reply in replies), replies
"""


def test_without_its_key_the_engine_answers_nobody(tmp_path, monkeypatch, started):
    start, _ = started
    engine = start(SPEC, key="right", gpus=(), log=tmp_path / "log", variables={})
    engine._key = "wrong"
    with pytest.raises(RuntimeError, match="another server"):
        within(10, engine.ready)
    engine.stop()


OTHER = """
import socketserver, sys
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.rfile.readline()
        self.wfile.write(sys.argv[2].encode())
socketserver.TCPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
OK = "HTTP/1.0 200 OK\r\n\r\n"


@pytest.mark.parametrize("answer", [f"{OK}<html>", f'{OK}{{"data": []}}', f"{OK}[]", "220 mail\r\n"])
def test_what_another_server_answers_at_its_port_is_an_error_of_the_engine(answer, tmp_path):
    command = lambda spec, port, host: [sys.executable, "-c", OTHER, str(port), answer]
    engine = Engine(SPEC, key="k", gpus=(), log=tmp_path / "log", variables={}, command=command)
    with pytest.raises(RuntimeError, match="another server"):
        within(10, engine.ready)
    engine.stop()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_engine_ends_with_the_process_that_began_it(tmp_path, number):
    code = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_engines import SERVER, SPEC, Engine
command = lambda spec, port, host: [sys.executable, "-c", SERVER, str(port), {str(tmp_path / "pids")!r}, host]
engine = Engine(SPEC, key="k", gpus=(), log={str(tmp_path / "log")!r}, variables={{}}, command=command)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    assert within(20, lambda: (tmp_path / "pids").exists() and len((tmp_path / "pids").read_text().split()) == 2)
    server, child = map(int, (tmp_path / "pids").read_text().split())
    assert is_alive(server) and is_alive(child)
    parent.send_signal(number)
    parent.wait()
    assert within(10, lambda: not is_alive(server) and not is_alive(child))


def test_when_the_keeper_is_killed_the_engine_ends_all_the_same(tmp_path, started):
    start, processes = started
    engine = start(SPEC, key="k", gpus=(), log=tmp_path / "log", variables={})
    assert within(20, engine.ready) and len(processes()) == 2
    os.kill(engine.keeper.pid, signal.SIGKILL)
    assert within(10, lambda: engine.keeper.poll() is not None)
    with pytest.raises(RuntimeError, match="ended while it was at work"):
        engine.ready()
    engine.stop()
    assert within(10, lambda: not any(map(is_alive, processes())))


def test_what_a_killed_server_leaves_is_ended_and_the_next_task_gets_another(tmp_path, monkeypatch, started):
    start, processes = started
    with Engines(gpus=[], per_gpu=1, variables={}, start=start) as engines:
        name = engine_name(SPEC)
        engines.begin("task", Need(SPEC))

        def loads(count: int) -> bool:
            (engines.folder / f"{name}.asked").touch()
            ready = lambda: engines.tend() or len(processes()) == 2 * count and engines.places[name].server.ready()
            return within(20, ready)

        for count in (1, 2, 3):
            assert loads(count) and engines.loads == count
            server, child = processes()[-2:]
            os.kill(server, signal.SIGKILL)
            assert within(10, lambda child=child: engines.tend() or not is_alive(child))
            assert within(10, lambda count=count: engines.tend() or engines.ended[name] == count)
        state = json.loads((engines.folder / f"{name}.json").read_text())
        assert "ended while it was at work" in state["error"] and name not in engines.places, "three times is enough"


def test_a_model_that_cannot_be_loaded_is_tried_once(tmp_path, monkeypatch):
    command = lambda spec, port, host: [sys.executable, "-c", "raise SystemExit('CUDA out of memory')"]
    with Engines(
        gpus=["0"], per_gpu=1, variables={}, start=lambda spec, **more: Engine(spec, command=command, **more)
    ) as engines:
        for name, value in engines.environment.items():
            monkeypatch.setenv(name, value)
        for language in ("eng", "swh"):
            assert engines.choose([(language, Need(SPEC))]) == language
            engines.begin(language, Need(SPEC))
            asking = subprocess.Popen(
                [sys.executable, "-c", ASK, json.dumps(SPEC), str(tmp_path)], stderr=subprocess.PIPE, text=True
            )
            assert within(30, lambda asking=asking: engines.tend() or asking.poll() is not None)
            assert "ended while it was loading" in (said := asking.stderr.read()) and "CUDA out of memory" in said
            engines.end(language)
        assert engines.loads == 1
        assert engines.choose([("other", Need(gpu=True))]) == "other", "it takes no GPU"


def test_a_model_whose_server_cannot_begin_is_given_up_and_the_run_goes_on():
    def start(spec: dict, **_: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    with Engines(gpus=["0"], per_gpu=1, variables={}, start=start) as engines:
        engines.begin("eng", Need(SPEC))
        name = engine_name(SPEC)
        (engines.folder / f"{name}.asked").touch()
        engines.tend()
        assert "unavailable" in json.loads((engines.folder / f"{name}.json").read_text())["error"]
        assert name not in engines.places and engines.choose([("other", Need(gpu=True))]) == "other"


# Who has which GPU


def model(name: str, gpus: int = 1) -> dict:
    return {"name": name, "kind": "vllm", "model": name, "engine": {"tensor_parallel_size": gpus}}


class Machine:
    "A run on a machine with some GPUs, as the runner drives it; it checks at each step who is on which GPU."

    def __init__(self, gpus: list[str], *, per_gpu: int = 2):
        self.on = {gpu: set() for gpu in gpus or [""]}  # GPU -> models
        self.loads, self.own = [], {}
        self.engines = Engines(gpus=gpus, per_gpu=per_gpu, variables={}, start=self.start)

    def start(self, spec: dict, *, key: str, gpus: tuple[str, ...], log: Path, variables: dict) -> SimpleNamespace:
        places = gpus or ("",)
        assert len(places) == min(gpus_wanted(spec), len(self.on)) and not any(self.on[gpu] for gpu in places)
        assert not set(places) & set(self.own.values()), "a task computes there"
        self.loads.append(spec["model"])
        for gpu in places:
            self.on[gpu].add(spec["model"])
        stop = lambda: [self.on[gpu].discard(spec["model"]) for gpu in places]
        return SimpleNamespace(longest=0, waits=False, ready=lambda: True, base_url="http://127.0.0.1:1/v1", stop=stop)

    def run(self, needs: dict[str, Need], *, workers: int, seed: int = 0) -> list[str]:
        "The tasks in the order in which they began; each ends at some time."
        chance, left, running, order = random.Random(seed), dict(needs), {}, []
        while left or running:
            while len(running) < workers and (task := self.engines.choose(left.items())):
                running[task] = need = left.pop(task)
                order.append(task)
                variables = self.engines.begin(task, need)
                if need.spec and engine_name(need.spec) in self.engines.places:
                    (self.engines.folder / f"{engine_name(need.spec)}.asked").touch()
                elif need.gpu and self.engines.gpus:
                    self.own[task] = variables["CUDA_VISIBLE_DEVICES"]
                    assert not self.on[self.own[task]]
            self.engines.tend()
            assert all(len(models) <= 1 for models in self.on.values())
            assert running, f"nothing can begin: {left}"
            done = chance.choice(sorted(running))
            self.engines.end(done)
            self.own.pop(done, None)
            del running[done]
        self.engines.close()
        assert not any(self.on.values())
        return order


LANGUAGES = [f"l{n:02}" for n in range(91)]


def test_each_model_is_loaded_once_for_all_languages():
    needs = {f"{code} {name}": Need(model(name)) for code in LANGUAGES for name in "AB"}
    for workers in (1, 4):
        machine = Machine(["0"])
        order = machine.run(needs, workers=workers)
        assert machine.loads == ["A", "B"] and [task[-1] for task in order] == ["A"] * 91 + ["B"] * 91
    machine = Machine(["0", "1"])
    machine.run(needs, workers=4)
    assert sorted(machine.loads) == ["A", "B"]
    machine = Machine([])
    machine.run(needs, workers=2)
    assert machine.loads == ["A", "B"], "one place where there is no GPU"


def test_tasks_that_need_nothing_do_not_wait():
    needs = {"A": Need(model("A")), "B": Need(model("B")), "words": Need()}
    engines = Engines(gpus=["0"], per_gpu=1, variables={}, start=None)
    assert engines.choose(needs.items()) == "A"
    engines.begin("A", needs.pop("A"))
    assert engines.choose(needs.items()) == "words" and engines.begin("words", needs["words"]) == {
        "CUDA_VISIBLE_DEVICES": ""
    }
    assert engines.choose([("B", needs["B"])]) is None
    engines.end("A")
    assert engines.choose([("B", needs["B"]), ("A2", Need(model("A")))]) == "A2", "what is loaded goes first"
    assert engines.choose([("B", needs["B"])]) == "B" and engine_name(model("A")) in engines.places
    engines.begin("B", needs["B"])
    assert set(engines.places) == {engine_name(model("B"))}
    engines.close()


def test_a_task_with_a_model_of_its_own_gets_a_gpu_that_no_engine_is_on():
    engines = Engines(gpus=["3", "GPU-ab"], per_gpu=2, variables={}, start=None)
    engines.begin("A", Need(model("A")))
    own = Need(gpu=True)
    for task in ("one", "two"):
        assert engines.choose([(task, own)]) == task
        assert engines.begin(task, own) == {"CUDA_VISIBLE_DEVICES": "GPU-ab"}
    assert engines.choose([("three", own)]) is None, "two may share a GPU"
    engines.end("A")
    assert engines.choose([("three", own)]) == "three"
    assert engines.begin("three", own) == {"CUDA_VISIBLE_DEVICES": "3"} and not engines.places
    assert engines.choose([("B", Need(model("B")))]) is None
    assert engines.choose([("big", Need(model("big", 3)))]) == "big", "it says itself what it lacks"
    engines.begin("big", Need(model("big", 3)))
    assert not engines.places
    engines.close()


@pytest.mark.parametrize("seed", range(20))
def test_any_mixture_ends_and_no_gpu_has_two(seed):
    chance = random.Random(seed)
    models = [model(name, chance.choice([1, 1, 2])) for name in "ABCD"]
    kinds = [lambda: Need(), lambda: Need(gpu=True), lambda: Need(chance.choice(models))]
    needs = {f"{n:03}": chance.choices(kinds, [1, 1, 4])[0]() for n in range(120)}
    gpus = [str(n) for n in range(chance.choice([0, 1, 2, 4]))]
    order = Machine(gpus, per_gpu=chance.choice([1, 3])).run(needs, workers=chance.choice([1, 2, 5]), seed=seed)
    assert sorted(order) == sorted(needs)
    assert not os.environ.get(ENGINES), "it is the tasks' alone"


def test_an_engine_that_waits_for_the_gpus_of_one_node_gets_the_place_of_an_idle_one():
    "Two nodes with two GPUs; the models A and B have one on each, so that two are free, and no node has both."
    stopped = []

    def start(spec: dict, **_: object) -> SimpleNamespace:
        waits = spec["name"] == "C"
        ways = dict(ready=lambda: not waits, stop=lambda: stopped.append(spec["name"]))
        return SimpleNamespace(longest=int(not waits), waits=waits, base_url="http://127.0.0.1:1/v1", **ways)

    with Engines(gpus=list("0123"), largest=2, per_gpu=1, variables={}, start=start) as engines:
        for name, count in (("A", 1), ("B", 1), ("C", 2)):
            need = Need(model(name, count))
            assert engines.choose([(name, need)]) == name
            engines.begin(name, need)
            (engines.folder / f"{engine_name(need.spec)}.asked").touch()
        engines.tend()
        engines.tend()
        assert not stopped, "all are at work"
        engines.end("A")
        engines.tend()
        engines.tend()
        assert stopped == ["A"] and engine_name(model("A")) not in engines.places
        assert engines.choose([("four", Need(model("D", 3)))]) == "four", "it says itself what it lacks"
        engines.begin("four", Need(model("D", 3)))
        assert engine_name(model("D", 3)) not in engines.places

