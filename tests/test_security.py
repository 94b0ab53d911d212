"""No key of the environment reaches a file or a screen, whatever a server answers; no name and no link leads out of the
home."""

import json
import os
import threading
import traceback
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from chat_server import ChatHandler, fences, serving
from conftest import LIGHT_FILTER, SMALL, write_profile

from finerweb.data import read_rows
from finerweb.llm.chat import ChatRequest
from finerweb.llm.endpoint import Endpoint
from finerweb.llm.throttle import Hopeless
from finerweb.runner.plan import plan
from finerweb.runner.standing import standing
from finerweb.runner.profiles import Profile, check_profile
from finerweb.store import Task, check_inside, output_folder

# What finerweb or a library of it reads, what a profile names, and what nobody asks for.
VARIABLES = ["OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GOOGLE_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS"]
VARIABLES += ["ANTHROPIC_API_KEY", "MY_TEACHERS_KEY", "SOMETHING_ELSE_ALTOGETHER"]
CANARIES = {name: f"canary-{n}-{name.lower().replace('_', '')}-f00d" for n, name in enumerate(VARIABLES)}


class Unkind(ChatHandler):
    """Wants the key of the model's teacher. It shows the key in what it says of a mistake, in a header, and in answers
    that are not of the asked form; some requests get an error of the server and some a cut connection."""

    seen, count, lock = [], 0, threading.Lock()

    def do_POST(self) -> None:
        key = self.headers["authorization"].removeprefix("Bearer ")
        with self.lock:
            self.seen.append(key)
            Unkind.count += 1
            turn = self.count % 5
        body = json.dumps({"error": {"message": f"the key {key} is out of breath", "param": key}}).encode()
        if turn == 1:
            self.respond(500, body, key)
        elif turn == 2:
            self.send_response(200)
            self.send_header("content-length", "9999")
            self.end_headers()
            self.wfile.write(body[:30])
            self.close_connection = True
        elif turn == 3:
            self.respond(429, body, key)
        else:
            super().do_POST()

    def respond(self, status: int, body: bytes, key: str) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(status, f"sorry, {key}")
        for name, value in {"content-type": "application/json", "content-length": str(len(body)), "x-key": key}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def reply(self, sent: dict) -> dict:
        text = fences(sent["messages"][1]["content"])[0][1]
        wanted = sent["response_format"]["json_schema"]["schema"]["properties"]
        if "score" in wanted:
            return {"justification": "Names.", "score": 1 + len(text) % 4}
        if "faithfulness" in wanted:
            accused = dict.fromkeys(("missing", "extra", "wrong"), [])
            return accused | {"explanation": "Fine.", "faithfulness": 4, "completeness": 5}
        return {"entities": [{"text": text.split()[0], "type": "thing"}]}


class Closed(Unkind):
    "Refuses every key, and says which."

    def do_POST(self) -> None:
        key = self.headers["authorization"].removeprefix("Bearer ")
        self.respond(401, json.dumps({"error": {"message": f"Incorrect API key provided: {key}."}}).encode(), key)


def written(home: Path) -> dict[str, str]:
    "Every file of a folder as text: what stands in tables (parquet's are packed) and in all other files."
    texts = {}
    for path in (p for p in sorted(home.rglob("*")) if p.is_file()):
        texts[str(path)] = path.read_bytes().decode("utf-8", errors="replace")
        if path.suffix == ".parquet":
            texts[f"{path} (rows)"] = str(pq.read_table(path).to_pylist())
    return texts


def assert_no_canary(texts: dict[str, str]) -> None:
    "No canary stands anywhere, and not the half of one either."
    found = [(name, v) for name, text in texts.items() for v in CANARIES.values() if v in text or v[:14] in text]
    assert not found


@pytest.mark.long
def test_no_key_is_in_anything_that_a_run_writes_or_prints(finerweb, tmp_path):
    pytest.importorskip("openai", reason="needs the client of endpoints")
    common = {"kind": "endpoint", "model": "m", "price_in": 1, "price_out": 1}
    with serving(Unkind) as unkind, serving(Closed) as closed:
        good = {"name": "good", "base_url": unkind, "api_key_env": "MY_TEACHERS_KEY"} | common
        refused = common | {"name": "refused", "base_url": closed, "model": "n"}  # its key is OPENAI_API_KEY
        stages = SMALL["stages"] | {"12_filter": LIGHT_FILTER}
        for name, chat in (("small", good), ("refused", refused)):
            changes = dict(teachers=[SMALL["teachers"][0], chat], judge=chat, languages=["swh"], stages=stages)
            write_profile(tmp_path, name, students=[], benchmarks=[], **changes)
        whole = finerweb(tmp_path, "run", "small.yaml", **CANARIES)
        stopped = finerweb(tmp_path, "run", "refused.yaml", "--stages", "14_annotate", **CANARIES)
        others = [finerweb(tmp_path, *words, **CANARIES) for words in (
            ("status",), ("report", "small"), ("estimate", "refused.yaml"), ("review", "small", "--language", "swh"),
            ("export", "small", "--format", "conll", "--to", "out"), ("run", "refused.yaml", "--dry-run"),
        )]  # fmt: skip
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert set(Unkind.seen) == {CANARIES["MY_TEACHERS_KEY"]}, "the server got this key and no other"
    assert stopped.returncode == 1 and "401" in stopped.stdout, stopped.stdout + stopped.stderr
    assert (tmp_path / "runs/refused/11_rate/swh/refused/error.txt").exists()
    files = written(tmp_path)
    assert any(".ipynb" in name for name in files) and any("ledger.sqlite" in name for name in files)
    assert any("run.json" in name for name in files) and any("error.txt" in name for name in files)
    printed = {f"printed {n}": done.stdout + done.stderr for n, done in enumerate([whole, stopped, *others])}
    assert_no_canary(files | printed)
    notebooks = [text for name, text in files.items() if name.endswith(".ipynb")]
    assert notebooks and not [text for text in notebooks if "XDG_" in text or "environ({" in text]


def test_a_refusal_that_repeats_the_key_is_told_without_it(monkeypatch):
    pytest.importorskip("openai", reason="needs the client of endpoints")
    monkeypatch.setenv("MY_TEACHERS_KEY", CANARIES["MY_TEACHERS_KEY"])
    with serving(Closed) as address:
        closed = Endpoint("m", base_url=address, api_key_env="MY_TEACHERS_KEY", timeout=5, most=4, wait=0.001)
        request = ChatRequest((("user", "Oslo"),), None, max_tokens=9, temperature=0.0, seed=1)
        with pytest.raises(Hopeless, match="Incorrect API key provided: .key.") as raised:
            list(closed.replies([("k", request)]))
    shown = "".join(traceback.format_exception(raised.value))
    assert_no_canary({"as a notebook shows it": shown})


def test_no_notebook_shows_the_environment(finished, root):
    "Neither those of a run nor those that are read: no output holds a variable of this process with its value."
    values = {f"{name}={value}" for name, value in os.environ.items() if len(value) > 3}
    values |= {f"'{name}': '{value}'" for name, value in os.environ.items() if len(value) > 3}
    notebooks = [*(finished[0] / "runs").rglob("notebook.ipynb"), *(root / "nbs").rglob("*.ipynb")]
    assert len(notebooks) > 60
    for path in notebooks:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        shown = json.dumps([cell.get("outputs", []) for cell in cells], ensure_ascii=False)
        assert not [value for value in values if value in shown], path


# --- names

OUT = ["..", "../x", "/etc", "a/b", "a\\b", "a\x00", "", " ", ".hidden", "a\n", "~", "$HOME", "-r", "a:b", "x" * 101]
DEVICES = ["CON", "nul", "Aux", "prn", "COM1", "lpt9", "con.txt", "name."]


@pytest.mark.parametrize("name", [*OUT, *DEVICES], ids=repr)
def test_no_name_leads_out_of_the_home_or_to_a_device(name, tmp_path):
    for words in ((name, "10_corpus", ("swh",)), ("demo", "10_corpus", (name,)), ("demo", "35_evaluate", ("a", name))):
        with pytest.raises(ValueError, match="cannot name a folder"):
            output_folder(str(tmp_path), *words)
    teachers = [{"name": "lexicon", "kind": "weak"}, {"name": name, "kind": "weak", "method": "patterns"}]
    tasks = lambda: plan(check_profile(Profile("mine", languages=["swh"], teachers=teachers)))
    if name:  # an entry without a name is named after its method
        with pytest.raises(ValueError):
            [output_folder(str(tmp_path), "mine", task.stage, task.key) for task in tasks()]
    assert list(tmp_path.iterdir()) == []


def test_a_language_may_be_called_as_a_device():
    from finerweb.languages import use_languages
    from finerweb.text.own_languages import own_language

    with pytest.raises(ValueError, match="on Windows it is a device"):
        output_folder("", "demo", "10_corpus", ("con",))
    cofan = own_language({"code": "con", "name": "Cofán", "script": "Latn"}, "languages[0]")
    use_languages([asdict(cofan)])
    try:
        assert output_folder("", "demo", "10_corpus", ("con",)).name == "con"
    finally:
        use_languages([])


# --- links

ROWS = [dict(label="city", language="swh", translation="mji", concept="city", method="table")]
KEY = ("17_translate", ("swh",))


@pytest.fixture
def outside(tmp_path) -> Path:
    "A folder that is nobody's run, with a file."
    folder = tmp_path / "outside"
    (folder / "swh").mkdir(parents=True)
    (folder / "swh" / "mine.txt").write_text("mine")
    (folder / "meta.json").write_text("{}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("where", ["17_translate", "17_translate/swh"])
def test_a_link_inside_a_run_is_not_followed_out_of_it(outside, where, tmp_path):
    home, before = tmp_path / "runs", contents(outside)
    link = home / "small" / where
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    task = Task(str(home), "small", *KEY, parameters={})
    for write in (lambda: task.write(ROWS), lambda: task.save({"n": 1})):
        with pytest.raises(PermissionError, match="outside of .*put a folder in place of the link"):
            write()
    planned = next(t for t in plan(check_profile(Profile("small", **SMALL))) if (t.stage, t.key) == KEY)
    done, error = standing(planned, str(home), "small")
    assert not done and (not error or "outside of" in error)
    assert contents(outside) == before


def test_a_run_stops_at_such_a_link_and_says_so(outside, finerweb, tmp_path):
    write_profile(tmp_path, languages=["swh"], students=[], benchmarks=[])
    (tmp_path / "runs/small/10_corpus").mkdir(parents=True)
    (tmp_path / "runs/small/10_corpus/swh").symlink_to(outside)
    before = contents(outside)
    ended = finerweb(tmp_path, "run", "small.yaml", "--stages", "10_corpus")
    assert ended.returncode == 1 and "put a folder in place of the link" in ended.stdout, ended.stdout + ended.stderr
    assert contents(outside) == before


def test_links_among_the_files_of_a_task_are_replaced_and_their_targets_stay(outside, tmp_path):
    home, before = tmp_path / "runs", contents(outside)
    folder = output_folder(str(home), "small", *KEY)
    folder.mkdir(parents=True)
    for name in ("rows.parquet", "meta.json", ".meta.json.part", "error.txt"):
        (folder / name).symlink_to(outside / "swh" / "mine.txt")
    (folder / "model").symlink_to(outside)
    Task(str(home), "small", *KEY, parameters={}).write(ROWS)
    assert contents(outside) == before and not [p for p in folder.iterdir() if p.is_symlink()]
    assert read_rows(folder / "rows.parquet") == ROWS
    (folder / ".incoming").symlink_to(outside)
    with pytest.raises(FileExistsError):
        Task(str(home), "small", *KEY, parameters={}).write(ROWS)
    assert contents(outside) == before


def test_the_home_and_a_run_in_it_may_be_links_of_the_user(tmp_path):
    for name in ("disk", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "big").symlink_to(tmp_path / "other")
    for run in ("small", "big"):
        check_inside(str(tmp_path / "home"), run, *KEY)
        Task(str(tmp_path / "home"), run, *KEY, parameters={}).write(ROWS)
    assert (tmp_path / "other/17_translate/swh/meta.json").is_file()
