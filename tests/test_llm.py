"""Language models: faults of servers, the ledger, budgets, and the reading of replies.

The server is tests/server.py, in a process of its own."""

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest
import server
from chat_server import ChatHandler
from chat_server import serving as chat_serving
from hypothesis import given, settings
from hypothesis import strategies as some

from finerweb.llm.batch import Batch, name_batch, note_batch, open_batches
from finerweb.llm.budget import BudgetSpent, Prices, estimate, most_tokens
from finerweb.llm.cached import Remembered
from finerweb.llm.chat import ChatReply, ChatRequest, Scripted, chat_request, failure, split_reasoning
from finerweb.llm.endpoint import Endpoint
from finerweb.llm.ledger import Ledger, claim, clear_dead, spent, stored_replies
from finerweb.llm.protocol import read_completion
from finerweb.llm.schema import fits
from finerweb.llm.structured import ask, parse_reply, second_at_most
from finerweb.llm.throttle import Hopeless
from finerweb.teachers import check_teacher, make_teacher

HERE = Path(__file__).resolve().parent
TEXT = {"type": "string", "minLength": 1}
MENTION = {
    "type": "object",
    "properties": {"text": TEXT | {"maxLength": 200}, "label": TEXT | {"maxLength": 80}},
    "required": ["text", "label"],
    "additionalProperties": False,
}
ENTITIES = {
    "type": "object",
    "properties": {"entities": {"type": "array", "items": MENTION, "maxItems": 10}},
    "required": ["entities"],
    "additionalProperties": False,
}
RATING = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "minimum": 1, "maximum": 4},
        "justification": {"type": "string", "maxLength": 600},
    },
    "required": ["score", "justification"],
    "additionalProperties": False,
}
SCHEMAS = {"entities": ENTITIES, "rating": RATING}
FREE = Prices(0.0, 0.0, "runs here")


def questions(n: int, schema: dict | None = ENTITIES) -> list:
    "`n` requests that differ in the passage's number."
    settings = {"schema": schema, "max_tokens": 200, "temperature": 0, "seed": 0}
    task = ("system", "List the entities.")
    return [chat_request(task, ("user", f"Passage {i}: Oslo"), **settings) for i in range(n)]


@contextmanager
def serving(*options: str):
    "The address of a fresh server."
    command = [sys.executable, str(HERE / "server.py"), *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        process.stdin.close()
        process.wait(10)


def model(
    address: str, folder: Path, *, most: int = 64, timeout: float = 4.0, wait: float = 0.01, **others
) -> Remembered:
    backend = Endpoint("tiny", base_url=address, api_key_env="NO_KEY_IS_NEEDED", timeout=timeout, most=most, wait=wait)
    return Remembered(backend, Ledger(folder / "ledger.sqlite"), account="tiny", price=FREE, **others)


def counted(log: Path) -> tuple[Counter, Counter]:
    "How often each request came, and how often it was answered."
    lines = [line.split() for line in log.read_text().splitlines()]
    came, answered = (Counter(digest for event, digest in lines if event == kind) for kind in ("asked", "answered"))
    return came, answered


def test_a_fifth_of_all_requests_fail_and_every_one_ends_with_a_value_or_a_reason(tmp_path):
    requests, log = questions(200), tmp_path / "log"
    with serving("--faults", "0.2", "--latency", "0.01", "--log", str(log)) as address:
        answers, counts = ask(model(address, tmp_path), requests)
        came, answered = counted(log)
        assert all((a.value is None) == bool(a.reason) for a in answers)
        assert counts["refused"] == sum(a.value is None for a in answers) <= 3
        assert counts["repaired"] and counts["salvaged"] and counts["asked_again"], "the faults were not all met"
        assert sum(counts[how] for how in ("parsed", "repaired", "salvaged", "refused")) == len(requests)
        assert all(fits(a.value, ENTITIES) for a in answers if a.value is not None)
        assert max(answered.values()) == 1, "nothing that was answered is asked again"
        assert len(came) > len(requests), "cut replies were asked again with a longer limit"
        assert sum(came.values()) > len(came), "after a fault the same request came again"
        again, second_counts = ask(model(address, tmp_path), requests)
        assert counted(log)[1] == answered and [a.value for a in again] == [a.value for a in answers]
        assert second_counts["asked_again"] == counts["asked_again"]


def test_faults_do_not_change_what_is_answered(tmp_path):
    with serving("--faults", "0.2") as faulty, serving() as sound:
        (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
        one, _ = ask(model(faulty, tmp_path / "a"), questions(100))
        two, _ = ask(model(sound, tmp_path / "b"), questions(100))
    whole = lambda answer: answer.how in ("parsed", "repaired") and answer.reply.finish_reason == "stop"
    parsed = [(x.value, y.value) for x, y in zip(one, two, strict=True) if whole(x)]
    assert len(parsed) > 70
    same = sum(a == b for a, b in parsed)
    # a reply asked again with a longer limit is another question to the model; all others are equal
    assert same >= len(parsed) - 6


def test_wrong_address_key_and_model_end_at_once(tmp_path, monkeypatch):
    with serving("--faults", "0") as address:
        pass
    began = time.monotonic()
    with pytest.raises(Hopeless, match="in a row"):
        model(address, tmp_path, wait=0.001).chat(questions(500))
    assert time.monotonic() - began < 20
    monkeypatch.delenv("THE_KEY", raising=False)
    elsewhere = Endpoint("m", base_url="https://llm.example.org/v1", api_key_env="THE_KEY", timeout=1, most=4)
    with pytest.raises(Hopeless, match="THE_KEY"):
        list(elsewhere.replies([("k", questions(1)[0])]))


def test_key_is_nowhere_but_in_the_request(tmp_path, monkeypatch, capfd):
    secret = "sk-proj-0123456789abcdef"
    monkeypatch.setenv("THE_KEY", secret)
    with serving("--faults", "0.9") as address:
        backend = Endpoint("tiny", base_url=address, api_key_env="THE_KEY", timeout=1, most=8, tries=2, wait=0.001)
        chat = Remembered(backend, Ledger(tmp_path / "ledger.sqlite"), account="tiny", price=FREE)
        replies = chat.chat(questions(15))
    assert any(r.error for r in replies)
    chat.ledger.close()
    assert not [p for p in tmp_path.iterdir() if secret.encode() in p.read_bytes()]
    out = capfd.readouterr()
    assert secret not in repr((replies, chat, backend, vars(chat), vars(backend))) + out.out + out.err


def test_works_inside_a_running_event_loop(tmp_path):
    import asyncio

    async def cell() -> list[ChatReply]:
        return model(address, tmp_path).chat(questions(5))

    with serving() as address:
        assert [r.finish_reason for r in asyncio.run(cell())] == ["stop"] * 5


WORKER = """
import json, sys
from finerweb.llm.budget import Prices
from finerweb.llm.endpoint import Endpoint
from finerweb.llm.ledger import Ledger
from finerweb.llm.chat import chat_request
from finerweb.llm.cached import Remembered
from finerweb.llm.structured import ask
address, folder, n, schema = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
backend = Endpoint("tiny", base_url=address, api_key_env="NO_KEY_IS_NEEDED", timeout=30, most=64)
chat = Remembered(backend, Ledger(folder + "/ledger.sqlite"), account="tiny", price=Prices(0.0, 0.0, "runs here"))
settings = {"schema": schema, "max_tokens": 200, "temperature": 0, "seed": 0}
task = ("system", "List the entities.")
answers, counts = ask(chat, [chat_request(task, ("user", f"Passage {i}: Oslo"), **settings) for i in range(n)])
print(json.dumps([a.value for a in answers]))
"""


def worker(address: str, folder: Path, n: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WORKER, address, str(folder), str(n), json.dumps(ENTITIES)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def keys_in(path: Path) -> set[str]:
    connection = sqlite3.connect(path, timeout=30)
    try:
        return {k for (k,) in connection.execute("select key from replies")}
    except sqlite3.OperationalError:  # not made yet
        return set()
    finally:
        connection.close()


def digest_of(request: ChatRequest) -> str:
    "The name that tests/server.py gives to a request."
    messages = [{"role": role, "content": content} for role, content in request.messages]
    return hashlib.sha256(json.dumps([messages, request.max_tokens]).encode()).hexdigest()


def test_killed_at_any_moment_nothing_answered_is_asked_again(tmp_path):
    n, kills = int(os.environ.get("FINERWEB_TEST_PASSAGES", "200")), int(os.environ.get("FINERWEB_TEST_KILLS", "2"))
    chance = random.Random(3)
    log, folder, other = tmp_path / "log", tmp_path / "killed", tmp_path / "whole"
    folder.mkdir(), other.mkdir()
    naming = Remembered(Scripted(str, model="tiny"), Ledger(tmp_path / "x.sqlite"), account="t", price=FREE)
    digests = {naming.key(q): digest_of(q) for q in questions(n)}
    with serving("--latency", "0.1", "--slots", "32", "--log", str(log)) as address:
        stopped = []
        for number in range(kills):
            process = worker(address, folder, n)
            replies_before_kill = n * (number + chance.random()) / (kills + 1)
            while len(keys_in(folder / "ledger.sqlite")) <= replies_before_kill and process.poll() is None:
                time.sleep(0.02)
            time.sleep(0.1 * chance.random())
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, process.stderr.read()
            process.stdout.close(), process.stderr.close()
            stored = {digests[k] for k in keys_in(folder / "ledger.sqlite")}
            stopped.append((stored, len(log.read_text().splitlines())))
        last = worker(address, folder, n)
        output, errors = last.communicate(timeout=120)
        assert last.returncode == 0, errors
        lines = log.read_text().splitlines()
        for stored, lines_at_kill in stopped:
            assert 0 < len(stored) < n
            assert not stored & {line.split()[1] for line in lines[lines_at_kill:] if line.startswith("asked")}
        came, _ = counted(log)
        print(f"{kills} kills; asked twice, in flight at a kill: {sum(came.values()) - n} of {n}")
        whole, _ = ask(model(address, other), questions(n))
    assert json.loads(output) == [a.value for a in whole]


def test_two_workers_ask_everything_once(tmp_path):
    log = tmp_path / "log"
    with serving("--latency", "0.05", "--slots", "32", "--log", str(log)) as address:
        both = [worker(address, tmp_path, 120) for _ in range(2)]
        outputs = [w.communicate(timeout=60) for w in both]
    assert [w.returncode for w in both] == [0, 0], outputs
    (first, _), (second, _) = outputs
    assert first == second
    came, _ = counted(log)
    assert len(came) == 120 and max(came.values()) == 1


CLAIMER = """
import sys
from finerweb.llm.ledger import Ledger, claim
ledger = Ledger(sys.argv[1])
claim(ledger, "k", account="a", money=1.0, cap=None)
print(1, flush=True)
input()
"""


def test_claims_of_the_dead_are_free_and_of_the_living_are_not(tmp_path):
    path = tmp_path / "ledger.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIMER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    ledger = Ledger(path)
    clear_dead(ledger)
    assert claim(ledger, "k", account="a", money=1.0, cap=None) == "taken"
    process.kill()
    process.wait()
    clear_dead(ledger)
    assert claim(ledger, "k", account="a", money=1.0, cap=None) == "yes"
    ledger.close()
    assert not list(tmp_path.glob(".*.lock"))


def test_a_forked_worker_leaves_its_parents_lock_alone(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert claim(ledger, "k", account="a", money=0.0, cap=None) == "yes"
    child = os.fork()
    if child == 0:
        stored_replies(ledger, ["k"])
        os._exit(0)
    os.waitpid(child, 0)
    other = Ledger(ledger.path)
    clear_dead(other)
    assert claim(other, "k", account="a", money=0.0, cap=None) == "taken"


def test_only_the_owner_reads_the_ledger(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.touch(0o644)
    Remembered(Scripted(lambda r: "x"), Ledger(path), account="a", price=FREE).chat(questions(2))
    files = [p for p in tmp_path.iterdir() if "sqlite" in p.name and not p.name.endswith(".lock")]
    rights_of_others = {p.suffix: oct(p.stat().st_mode & 0o077) for p in files}
    assert rights_of_others == {".sqlite": "0o0", ".sqlite-wal": "0o0", ".sqlite-shm": "0o0"}
    assert not [p for p in tmp_path.glob("*sqlite*") if b"Passage 1" in p.read_bytes()], "requests are not kept"


def test_a_failure_is_asked_again_and_a_reply_is_not(tmp_path):
    moods = iter([failure("down"), "fine"])
    backend = Scripted(lambda r: next(moods))
    chat = Remembered(backend, Ledger(tmp_path / "l.sqlite"), account="a", price=FREE)
    assert [chat.chat(questions(1))[0].error for _ in range(3)] == ["down", "", ""]
    assert len(backend.requests) == 2


def test_every_part_of_a_request_counts(tmp_path):
    ledger, (base,) = Ledger(tmp_path / "l.sqlite"), questions(1)
    backend = Scripted(lambda r: "x", model="m")
    others = [
        replace(base, max_tokens=9),
        replace(base, temperature=0.5),
        replace(base, seed=1),
        replace(base, schema=None),
        replace(base, messages=base.messages[:1]),
    ]
    Remembered(backend, ledger, account="a", price=FREE).chat([base, *others])
    Remembered(backend, ledger, account="b", price=FREE, revision="2").chat([base])
    Remembered(backend, ledger, account="b", price=FREE, extra={"top_p": 0.5}).chat([base])
    assert len(backend.requests) == 8
    Remembered(backend, ledger, account="c", price=FREE).chat([base, *others])
    assert len(backend.requests) == 8


@pytest.mark.parametrize("cap", [0.0, 0.0005, 0.002, 0.01])
def test_cap_is_never_passed_and_nothing_is_lost(tmp_path, cap):
    price, requests = Prices(1.0, 4.0, "profile"), questions(40)
    backend = Scripted(lambda r: ChatReply("x", "stop", most_tokens(r), r.max_tokens))  # as dear as it can be
    ledger = Ledger(tmp_path / "l.sqlite")
    with pytest.raises(BudgetSpent, match=f"{cap:.4f}") as stop:
        Remembered(backend, ledger, account="a", price=price, cap=cap).chat(requests)
    money = spent(ledger, "a")["money"]
    assert money <= cap and stop.value.left == 40 - len(backend.requests)
    assert cap - money < 2 * price.money(most_tokens(requests[0]), 200), "it stopped long before the cap"
    Remembered(backend, ledger, account="a", price=price, cap=1.0).chat(requests)
    assert len(backend.requests) == 40


def test_cap_holds_with_many_requests_in_flight(tmp_path):
    with serving("--latency", "0.05") as address:
        backend = Endpoint("tiny", base_url=address, api_key_env="NO_KEY", timeout=5, most=64)
        ledger, price = Ledger(tmp_path / "l.sqlite"), Prices(1.0, 1.0, "profile")
        with pytest.raises(BudgetSpent):
            Remembered(backend, ledger, account="a", price=price, cap=0.01).chat(questions(500))
        bill = spent(ledger, "a")
    assert bill["money"] <= 0.01 and bill["requests"] > 60, "130 tokens a request: the cap has room for 76"


def corpus() -> list[dict]:
    return [json.loads(line) for line in (HERE / "replies.jsonl").read_text(encoding="utf-8").splitlines()]


def test_replies_in_the_shapes_that_models_give():
    rows = corpus()
    assert len(rows) >= 200 and len({r["shape"] for r in rows}) >= 50
    different, shares = [], Counter()
    for row in rows:
        value, how = parse_reply(row["text"], SCHEMAS[row["schema"]])
        shares[how] += 1
        if (value, how) != (row["value"], row["how"]):
            different.append((row["shape"], how, value))
    assert not different
    print({how: round(n / len(rows), 3) for how, n in sorted(shares.items())})


def test_a_value_always_fits_and_a_refusal_is_none():
    for row in corpus():
        for schema in SCHEMAS.values():
            whole = row["text"]
            for text in (whole, whole[: len(whole) // 2], whole * 3, whole.replace('"', "'"), whole[::-1]):
                value, how = parse_reply(text, schema)
                assert (value is None) == (how == "refused") and (value is None or fits(value, schema))


HOSTILE = {
    "deep lists": "[" * 200_000,
    "deep objects": '{"a":' * 100_000,
    "braces": "{" * 39_000,
    "parentheses": "{" + "(" * 39_000,
    "quotes": '"' * 100_000,
    "commas": "[" + "," * 100_000,
    "many objects": "{}" * 100_000,
    "fences": "```json\n" * 20_000,
    "backslashes": '{"entities": "' + "\\" * 100_001,
    "a number": '{"score": ' + "9" * 100_000 + ', "justification": ""}',
    "long": '{"entities": [' + ", ".join(['{"text": "Oslo", "label": "city"}'] * 28_000) + "]}",
    "longer": '{"entities": [' + ", ".join(['{"text": "Oslo", "label": "city"}'] * 100_000) + "]}",
    "5 MB": "x" * 5_000_000,
    "surrogates": '{"entities": [{"text": "\\ud800\\udfff\\u0000", "label": "x"}]}',
    "exponent": '{"score": 1e999999, "justification": ""}',
    "open strings": '{"entities": ["' * 2_000,
    "slashes": "{//" * 13_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_replies_are_read_in_time(name):
    for schema in SCHEMAS.values():
        began = time.process_time()
        value, how = parse_reply(HOSTILE[name], schema)
        assert time.process_time() - began < 5
        assert (value is None) == (how == "refused")
        json.dumps(value).encode(), json.dumps(value, ensure_ascii=False).encode()


KEYS = some.sampled_from(["entities", "text", "label", "score", "justification", "x"])
JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=20),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
PARTS = [
    *"{}[]\":,\\'`()/# \n\x00\ud800Ωไ0123eE.-tfn",
    "```json\n",
    "<think>",
    "</think>",
    '{"entities": [',
    '{"text": "',
    '"label": "',
    "NaN",
]
MARKS = some.lists(some.sampled_from(PARTS), max_size=60).map("".join)


@settings(max_examples=400, deadline=None)
@given(JSON, some.text(max_size=20), some.integers(0, 60), some.sampled_from(list(SCHEMAS.values())))
def test_any_json_cut_and_dressed(data, around, cut, schema):
    whole = json.dumps(data)
    for text in (whole, around + whole + around, whole[: len(whole) - cut], f"```\n{whole}\n```"):
        value, how = parse_reply(text, schema)
        assert (value is None) == (how == "refused") and (value is None or fits(value, schema))


@settings(max_examples=600, deadline=None)
@given(MARKS)
def test_any_text(text):
    answer, reasoning = split_reasoning(text)
    assert len(answer) + len(reasoning) <= len(text)
    for schema in SCHEMAS.values():
        value, how = parse_reply(text, schema)
        assert (value is None) == (how == "refused") and (value is None or fits(value, schema))


@settings(max_examples=200, deadline=None)
@given(some.lists(some.tuples(some.text(min_size=1, max_size=20), some.text(min_size=1, max_size=10)), max_size=8))
def test_what_is_said_well_comes_back_whole(mentions):
    from finerweb.data import storable

    value = {"entities": [{"text": t, "label": label} for t, label in mentions]}
    stored = {"entities": [{"text": storable(t), "label": storable(label)} for t, label in mentions]}
    for text, how in (
        (json.dumps(value), "parsed"),
        (f"```json\n{json.dumps(value, indent=1)}\n```", "repaired"),
        (f"So: {json.dumps(value)}", "repaired"),
    ):
        assert parse_reply(text, ENTITIES) == (stored, how)


def test_cut_replies_are_asked_longer_once_and_never_unchanged():
    whole = json.dumps(server.good_answer("00" * 32))

    def cut(request: ChatRequest) -> ChatReply:
        "The whole reply up to the limit; a token is a character here."
        text = whole[: request.max_tokens]
        return ChatReply(text, "stop" if text == whole else "length", 1, len(text))

    length = len(whole)
    for limit, how, asked in ((length, "parsed", 1), (length // 2 + 1, "parsed", 2), (length // 3, None, 2)):
        cutting = Scripted(cut)
        (answer,), counts = ask(cutting, [replace(questions(1)[0], max_tokens=limit)])
        assert how in (None, answer.how) and len(cutting.requests) == asked == counts["asked_again"] + 1
        assert [r.max_tokens for r in cutting.requests] == [limit, 2 * limit][:asked]
    endless = Scripted(lambda r: ChatReply(whole[:-9], "length", 1, r.max_tokens))
    endless.max_tokens = 300
    (answer,), counts = ask(endless, questions(1))
    assert answer.how == "salvaged", "what was whole is kept at the model's limit"
    assert [r.max_tokens for r in endless.requests] == [200, 300]


OSLO = '{"text": "Oslo", "label": "city"}'
COMPLETE = {  # a reply that the limit cut -> (mentions in it, whether it is asked again)
    '{"entities": [' + OSLO + "]}" + " " * 900: (1, False),
    '{"entities": [' + OSLO + "]}\n" + ('{"entities": [' + OSLO + "]}\n") * 30 + '{"ent': (1, False),
    '{"entities": [' + ", ".join(f'{{"text": "place {n}", "label": "x"}}' for n in range(12)) + ', {"te': (10, False),
    '{"entities": [' + f"{OSLO}, " * 30 + '{"text"': (10, False),
    '{"entities": [{"text": "Nyeri", "label": "town"}, {"text": "Oslo", "label": "' + "x, " * 200: (1, False),
    "I think that the passage names Oslo, and " + "then Oslo, and then Nairobi, and " * 30: (None, False),
    '{"entities": [' + OSLO + ', {"text": "Nai': (1, True),
    '{"entities": [{"text": "Nai': (None, True),
}


@pytest.mark.parametrize("text", COMPLETE, ids=range(len(COMPLETE)))
def test_a_reply_at_its_limit_is_asked_again_only_where_something_was_cut(text):
    looping = Scripted(lambda r: ChatReply(text, "length", 1, r.max_tokens))
    mentions, is_cut = COMPLETE[text]
    (answer,), counts = ask(looping, questions(1))
    assert (answer.value and len(answer.value["entities"])) == mentions
    assert counts["asked_again"] == is_cut and len(looping.requests) == 1 + is_cut


WORST = {
    "cut for ever": lambda request: ('{"entities": [{"te', "length"),
    "never JSON": lambda request: ("Samahani.", "stop"),
    "no JSON, then cut": lambda request: ("Sorry." if "no JSON" not in request.messages[-1][1] else "{", "length"),
}


@pytest.mark.parametrize("kind", WORST)
def test_at_most_covers_the_worst_that_a_model_can_do(kind, tmp_path):
    def worst_reply(request: ChatRequest) -> ChatReply:
        text, finish_reason = WORST[kind](request)
        return ChatReply(text, finish_reason, most_tokens(request), request.max_tokens)

    price, ledger, requests = Prices(3.0, 7.0, "x"), Ledger(tmp_path / "ledger.sqlite"), questions(5)
    chat = Remembered(Scripted(worst_reply), ledger, account="t", price=price, max_tokens=350)
    ask(chat, requests)
    following = [second_at_most(request, 350) for request in requests]
    bill = estimate(requests, price, reply_tokens=20, again=following)
    assert bill.money < spent(ledger, "t")["money"] <= bill.money_at_most
    ledger.close()


def test_a_better_reader_reads_kept_replies_for_free(tmp_path, monkeypatch):
    script = Scripted(lambda request: '[{"text": "Oslo", "label": "city"}]')
    for reader, how in ((lambda text, schema: (None, "refused"), "refused"), (parse_reply, "repaired")):
        monkeypatch.setattr("finerweb.llm.structured.parse_reply", reader)
        for _ in range(2):
            chat = Remembered(script, Ledger(tmp_path / "ledger.sqlite"), account="t", price=FREE)
            answers, _ = ask(chat, questions(3))
            assert [answer.how for answer in answers] == [how] * 3
            assert len(script.requests) == 6, "none is paid for again"
            chat.ledger.close()


def test_what_thinking_models_write_is_not_the_answer():
    good = '{"score": 4, "justification": "rich"}'
    wrong = '{"score": 1, "justification": "no"}'
    for text in (f"<think>{wrong}</think>{good}", f"<THINKING>\n{wrong}\n</THINKING>\n\n```json\n{good}\n```"):
        answer, _ = split_reasoning(text)
        assert parse_reply(answer, RATING)[0]["score"] == 4
    assert split_reasoning(f"<think>{wrong}") == ("", wrong)


def test_fields_of_teachers():
    good = {
        "name": "t",
        "kind": "endpoint",
        "model": "m",
        "base_url": "http://127.0.0.1:1/v1",
        "cap": 1,
        "temperature": 0.0,
        "extra": {"top_k": 1},
    }
    assert check_teacher(good) is good
    changes = [
        {"modle": "m"},
        {"model": ""},
        {"cap": True},
        {"cap": -1},
        {"base_url": "127.0.0.1"},
        {"structured": "yaml"},
        {"kind": ["x"]},
    ]
    for change in [*changes, {"method": "patterns"}, {"api_key_env": "sk-1"}]:
        with pytest.raises(ValueError, match=next(iter(change))):
            check_teacher(good | change)


def test_chat_teacher_asks_its_server_and_remembers(tmp_path):
    spec = {"name": "tiny", "kind": "endpoint", "model": "tiny", "most": 4, "timeout": 5}
    with serving() as address:
        chat = make_teacher(spec | {"base_url": address}, language="swh", raw_text=[], home=str(tmp_path))
        first = chat.chat(questions(3))
    again = make_teacher(spec | {"base_url": address}, language="swh", raw_text=[], home=str(tmp_path))
    assert again.chat(questions(3)) == first and (tmp_path / "ledger.sqlite").exists()
    assert spent(again.ledger, "tiny")["requests"] == 3


# What servers do with errors, waits and usage


def scripted(answer: Callable[[dict], tuple[int, dict, dict]]) -> type[ChatHandler]:
    "A handler that sends what `answer` makes of a request: (status, headers, JSON); `requests` counts them."

    class Handler(ChatHandler):
        requests = 0

        def do_POST(self) -> None:
            type(self).requests += 1
            sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, headers, content = answer(sent)
            body = json.dumps(content).encode()
            self.send_response(status)
            fields = {"content-type": "application/json", "content-length": str(len(body))}
            for name, value in (fields | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler


def completion(text: str, usage: dict | None) -> dict:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    whole = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return whole if usage is None else whole | {"usage": usage}


def endpoint(address: str, **changes: object) -> Endpoint:
    how = dict(base_url=address, api_key_env="NO_SUCH_KEY", timeout=20, most=4, structured="none")
    return Endpoint("m", **(how | changes))


PAST = formatdate(time.time() - 60, usegmt=True)


@pytest.mark.parametrize("headers", [{}, *({"retry-after": v} for v in ("0", "-5", PAST)), {"retry-after-ms": "1"}])
def test_a_wait_that_is_none_is_never_faster_than_the_backoff(headers):
    handler = scripted(lambda sent: (429, headers, {"error": {"message": "slow down"}}))
    with chat_serving(handler) as address:
        began = time.monotonic()
        replies = list(endpoint(address, tries=3, wait=0.2, patience=5).replies([("k", questions(1)[0])]))
    assert handler.requests == 3 and time.monotonic() - began > 0.3
    assert "given up after 3 faults" in replies[0][1].error


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 20.0, "completion_tokens": 900.0}])
def test_a_cap_holds_whatever_a_server_says_of_its_usage(usage, tmp_path):
    handler = scripted(lambda sent: (200, {}, completion("Kenya borders Tanzania. " * 160, usage)))
    with chat_serving(handler) as address:
        ledger = Ledger(tmp_path / "ledger.sqlite")
        chat = Remembered(endpoint(address), ledger, account="t", price=Prices(10.0, 30.0, "x"), cap=0.1)
        requests = [
            chat_request(("user", f"text {n}"), schema=None, max_tokens=1000, temperature=0, seed=0) for n in range(15)
        ]
        with pytest.raises(BudgetSpent):
            chat.chat(requests)
        assert 0.02 < spent(ledger, "t")["money"] <= 0.1 and handler.requests < 5
        ledger.close()


def test_a_request_that_a_filter_refuses_is_answered_for_good(tmp_path):
    refused = {"error": {"message": "The prompt triggered the content policy.", "code": "content_filter"}}
    handler = scripted(lambda sent: (400, {}, refused))
    request = questions(1)[0]
    with chat_serving(handler) as address:
        ledger = Ledger(tmp_path / "ledger.sqlite")
        for _ in range(2):
            chat = Remembered(endpoint(address), ledger, account="t", price=Prices(None, None, "x"), cap=None)
            (reply,) = chat.chat([request])
            assert reply.finish_reason == "content_filter" and "content policy" in reply.text and not reply.error
        ledger.close()
    assert handler.requests == 1, "the refusal is kept"


CLOSING = """
import sys
from finerweb.llm.chat import chat_request
from finerweb.llm.endpoint import Endpoint
request = chat_request(("user", "x"), schema=None, max_tokens=10, temperature=0, seed=0)
for n in range(10):
    server = Endpoint("m", base_url=sys.argv[1], api_key_env="NO_SUCH_KEY", timeout=20, most=4, structured="none")
    assert next(server.replies([("k", request)]))[1].text == "yes"
"""


def test_clients_are_closed_before_their_loop_ends():
    with chat_serving(scripted(lambda sent: (200, {}, completion("yes", None)))) as address:
        done = subprocess.run([sys.executable, "-c", CLOSING, address], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Event loop is closed" not in done.stderr, done.stderr[-500:]


ANSWER = '{"entities": [{"text": "Kenya", "label": "country"}]}'
FORMS = {
    "content": {"content": ANSWER},
    "reasoning": {"content": None, "reasoning_content": ANSWER},
    "thoughts before it": {"content": "", "reasoning": f"A country, I think. {ANSWER}"},
    "parts": {"content": [{"type": "text", "text": ANSWER[:20]}, {"type": "text", "text": ANSWER[20:]}]},
    "tool call": {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": ANSWER}}]},
}


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_is_read_wherever_a_server_puts_it(form):
    whole = completion("", {"prompt_tokens": 3, "completion_tokens": 4})
    whole["choices"][0]["message"] = {"role": "assistant"} | FORMS[form]
    value, how = parse_reply(read_completion(whole).text, ENTITIES)
    assert value == json.loads(ANSWER) and how in ("parsed", "repaired")


EMPTY = [{"content": None}, {"content": " \n"}, {"content": []}, {"content": None, "tool_calls": [{}]}]


@pytest.mark.parametrize("message", EMPTY)
def test_an_empty_message_is_a_fault_and_is_not_kept(message, tmp_path):
    empty = completion("", None)
    empty["choices"][0]["message"] = {"role": "assistant"} | message
    answers = iter([empty, empty, completion(ANSWER, None)])
    handler = scripted(lambda sent: (200, {}, next(answers)))
    with chat_serving(handler) as address:
        ledger = Ledger(tmp_path / "ledger.sqlite")
        chat = Remembered(endpoint(address, wait=0.01), ledger, account="t", price=Prices(None, None, "x"), cap=None)
        assert chat.chat(questions(1))[0].text == ANSWER and handler.requests == 3
        ledger.close()


def test_what_broke_off_is_a_fault():
    broken = completion(ANSWER[:20], None)
    broken["choices"][0]["finish_reason"] = "error"
    with pytest.raises(ValueError, match="broke off"):
        read_completion(broken)


@pytest.mark.parametrize("end", ["}]}", "},]}"])
def test_escaped_pairs_become_their_character_whether_repaired_or_not(end):
    value, _ = parse_reply(r'{"entities": [{"text": "\ud83d\ude00 \ud842\udfb7", "label": "x"' + end, ENTITIES)
    assert value["entities"][0]["text"] == "😀 𠮷"


def test_a_batch_that_the_service_no_longer_knows_is_asked_anew(tmp_path, capsys):
    class Forgetful(scripted(lambda sent: (400, {}, {"error": {"message": "no new batches today"}}))):
        posts = 0

        def do_GET(self) -> None:
            body = b'{"error": {"message": "No batch found with this id"}}'
            self.send_response(404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:  # the upload of the new file
            type(self).posts += 1
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(400)
            self.send_header("content-length", "0")
            self.end_headers()

    with chat_serving(Forgetful) as address:
        ledger = Ledger(tmp_path / "ledger.sqlite")
        how = dict(api_key_env="NO_SUCH_KEY", ledger=ledger, account="t", poll=0.01, most=10)
        backend = Batch("m", base_url=address, **how)
        chat = Remembered(backend, ledger, account="t", price=Prices(None, None, "x"), cap=None)
        request = questions(1)[0]
        note_batch(ledger, "n1", "t", [chat.key(request)])
        name_batch(ledger, "n1", "batch_old")
        with pytest.raises(Hopeless):
            chat.chat([request])
        assert "n1" not in open_batches(ledger, "t") and Forgetful.posts == 1
        ledger.close()
    assert "no longer knows the batch batch_old; its 1 requests are asked anew" in capsys.readouterr().out
