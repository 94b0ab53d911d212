"""A teacher that answers in a form nobody can read, a server that is down, the worst that asking can cost: what a run
says, and how it ends well."""

import json
import re
import shutil
import sqlite3
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from chat_server import ChatHandler, fences, serving

from finerweb.data import lesson_passages, read_rows, write_rows
from finerweb.judge import judge_passages
from finerweb.llm.budget import Prices, most_tokens
from finerweb.llm.cached import Remembered
from finerweb.llm.chat import ChatReply, Scripted
from finerweb.llm.ledger import Ledger, spent
from finerweb.llm.prompts import check_refusals
from finerweb.rate import rate_passages
from finerweb.runner.estimate import estimate_tasks, task_sampling
from finerweb.runner.plan import plan
from finerweb.runner.profiles import Profile, check_profile
from finerweb.store import output_folder, read_meta
from finerweb.translate import chat_translations, label_examples

WEAK = {"name": "lexicon", "kind": "weak"}
MINE = {"name": "mine", "kind": "endpoint", "model": "m", "price_in": 1.0, "price_out": 2.0}


class Rater(ChatHandler):
    "Rates passages: in a form of its own until it is `mended`, later all but those in `stubborn`."

    mended, stubborn, requests, lock = False, "", 0, threading.Lock()

    def reply(self, sent: dict) -> dict | str:
        with self.lock:
            Rater.requests += 1
        text = fences(sent["messages"][1]["content"])[0][1]
        if not self.mended or (self.stubborn and self.stubborn in text):
            return {"rating": {"value": "good"}}
        return {"justification": "Names.", "score": 3}


def asked(work) -> int:
    "How many requests `work` makes."
    before = Rater.requests
    work()
    return Rater.requests - before


@pytest.fixture
def run(tmp_path, finerweb, finerweb_here, profile_file):
    """(run(*words): the finished command for the ratings of one language, the server's address); with `here`, a command
    that begins no task, in this process."""
    pytest.importorskip("openai", reason="needs the client of endpoints")
    Rater.mended, Rater.stubborn, Rater.requests = False, "", 0
    with serving(Rater) as address:
        teachers = [WEAK, MINE | {"base_url": address}]
        profile = profile_file(tmp_path, "small", languages=["eng"], teachers=teachers, students=[], benchmarks=[])

        def call(*words: object, stages: str = "11_rate/eng/mine", here: bool = False):
            return (finerweb_here if here else finerweb)(tmp_path, "run", profile, "--stages", stages, *words)

        yield call, address


def spent_money(folder: Path) -> float:
    "US dollars that were booked for the teacher."
    with sqlite3.connect(folder / "runs" / "ledger.sqlite") as db:
        return db.execute("select money from accounts where account = 'mine'").fetchone()[0]


def test_a_server_that_answers_in_a_wrong_form_is_mended_and_asked_again(run, tmp_path):
    call, _ = run
    done = []
    assert asked(lambda: done.append(call())) == 12, done[-1].stdout + done[-1].stderr
    words = ("teacher 'mine': 6 of 6 answers are refused", '{"rating": {"value": "good"}}', "--ask-again refused")
    assert done[-1].returncode == 1 and all(w in done[-1].stdout for w in words), done[-1].stdout
    assert not read_meta(tmp_path / "runs/small/11_rate/eng/mine")

    Rater.mended = True
    assert asked(lambda: done.append(call())) == 0 and done[-1].returncode == 1, "the ledger has the same replies"
    assert asked(lambda: done.append(call("--ask-again", "refused", "--dry-run", here=True))) == 0
    cost = re.search(r"11_rate, mine: 6 requests are asked again, at most ([\d.]+) US dollars", done[-1].stdout)
    assert cost, done[-1].stdout + done[-1].stderr

    before, texts = spent_money(tmp_path), read_rows(tmp_path / "runs/small/10_corpus/eng/rows.parquet")
    Rater.stubborn = texts[0]["text"][:80]
    assert asked(lambda: done.append(call("--ask-again", "refused"))) == 7, "six, and one of them once more"
    assert done[-1].returncode == 0 and cost[0] in done[-1].stdout, done[-1].stdout + done[-1].stderr
    meta = read_meta(tmp_path / "runs/small/11_rate/eng/mine")
    assert meta["rows"] == 5 and meta["dropped"] == {"refused": 1}, "a few refusals are no error"
    assert 0 < spent_money(tmp_path) - before <= float(cost[1])

    Rater.stubborn = ""
    assert asked(lambda: done.append(call("--ask-again", "refused"))) == 1 and done[-1].returncode == 0
    assert read_meta(tmp_path / "runs/small/11_rate/eng/mine")["rows"] == 6
    assert asked(lambda: done.append(call("--ask-again", "refused"))) == 0 and done[-1].returncode == 0
    assert "nothing is asked again" in done[-1].stdout
    wrong = call("--ask-again", "refusd", here=True)
    assert wrong.returncode == 2 and "--ask-again refusd: expected refused" in wrong.stderr


def test_a_server_that_is_down_is_known_before_the_first_task(run, tmp_path, finerweb):
    call, address = run
    Rater.mended = True
    profile = tmp_path / "small.yaml"
    written = profile.read_text(encoding="utf-8")
    profile.write_text(written.replace(address, "http://127.0.0.1:9/v1"), encoding="utf-8")
    down = call(here=True)
    assert down.returncode == 2 and not (tmp_path / "runs/small/10_corpus").exists(), "nothing was begun"
    words = ("nobody answers at http://127.0.0.1:9/v1, the address of teacher 'mine'", "11_rate eng/mine", "base_url")
    assert all(w in down.stderr for w in words), down.stderr
    assert call(stages="10_corpus").returncode == 0, "nobody is asked"
    profile.write_text(written, encoding="utf-8")
    assert call().returncode == 0
    profile.write_text(written.replace(address, "http://127.0.0.1:9/v1"), encoding="utf-8")
    shutil.rmtree(tmp_path / "runs/small/11_rate")
    again = call()
    assert again.returncode == 0, "the ledger has all replies" + again.stdout + again.stderr


def refusals(refused: int, withheld: int) -> list[dict]:
    row = {"id": "eng_0", "detail": "the reply is no JSON of the schema: 'no'"}
    return [row | {"reason": "refused"}] * refused + [row | {"reason": "content_filter"}] * withheld


@pytest.mark.parametrize(
    ("rows", "refused", "withheld", "share", "message"),
    [
        (5, 5, 0, 0.5, ""),
        (4, 5, 0, 0.5, "5 of 9 answers are refused, more than refused_share = 0.5"),
        (4, 5, 0, 0.6, ""),
        (0, 1, 0, 1.0, "1 of 1 answers are refused"),
        (1, 0, 99, 0.0, ""),
        (0, 0, 3, 1.0, "3 of 3 answers are content_filter.*--ask-again content_filter"),
        (1, 1, 9, 0.5, ""),
        (0, 0, 0, 0.0, ""),
    ],
)
def test_which_share_of_refusals_is_an_error(rows, refused, withheld, share, message):
    if not message:
        return check_refusals(MINE, refusals(refused, withheld), rows=rows, refused_share=share)
    with pytest.raises(RuntimeError, match=f"teacher 'mine': {message}"):
        check_refusals(MINE, refusals(refused, withheld), rows=rows, refused_share=share)
    return None


def test_rows_put_aside_for_other_reasons_do_not_count():
    dropped = [{"id": "eng_0", "reason": reason, "detail": ""} for reason in ["too_long", "unanswered"] * 9]
    check_refusals(MINE, dropped, rows=0, refused_share=0.0)


@pytest.mark.parametrize(("batch", "labels"), [(40, 90), (8, 30), (3, 7), (90, 70)])
def test_at_most_covers_the_worst_run_of_a_stage(tmp_path, batch, labels):
    "A model that is cut for ever, at every prompt's longest, books no more than the estimate's at most."
    spec = MINE | {"base_url": "http://127.0.0.1:9/v1", "max_tokens": 5000}
    stages = {"17_translate": {"batch": batch}}
    profile = Profile("x", languages=["swh"], teachers=[WEAK, spec], translator=spec, judge=spec, stages=stages)
    tasks, home, text = plan(check_profile(profile)), str(tmp_path), lesson_passages()[1].text
    entities = [{"start": 0, "end": 7, "label": f"kind {n}", "score": 1.0} for n in range(labels)]
    row = {"text": text, "language": "swh", "script": "Latn", "entities": entities, "undecided": []}
    passage = {"url": "", "document_id": "d", "chunk": 0}
    for stage in ("10_corpus", "16_merge"):
        rows = [row | passage | {"id": f"p{n}"} for n in range(3)]
        folder = output_folder(home, "x", stage, ("swh",))
        folder.mkdir(parents=True)
        write_rows(folder / "rows.parquet", rows, pa.Table.from_pylist(rows).schema)
        names = "fingerprint output rows dropped counts parameters inputs seconds".split()
        (folder / "meta.json").write_text(json.dumps(dict.fromkeys(names) | {"files": {}}))
    estimated = {r["stage"]: r for r in estimate_tasks(tasks, home=home, run="x")}

    def worst_reply(request):
        return ChatReply('{"', "length", most_tokens(request), request.max_tokens)

    for stage in ("11_rate", "17_translate", "19_judge"):
        ledger = Ledger(tmp_path / f"{stage}.sqlite")
        price = Prices(MINE["price_in"], MINE["price_out"], "profile")
        chat = Remembered(Scripted(worst_reply), ledger, account="mine", price=price, max_tokens=5000)
        task = next(t for t in tasks if t.stage == stage and t.key in (("swh",), ("swh", "mine")))
        sampling = task_sampling(task)
        if stage == "17_translate":
            chat_translations(chat, label_examples(rows, examples=3), "swh", sampling, batch=batch)
        else:
            work = rate_passages if stage == "11_rate" else judge_passages
            work(chat, rows, sampling, max_characters=20_000)
        booked = spent(ledger, "mine")["money"]
        ledger.close()
        assert 0.3 * estimated[stage]["money_at_most"] < booked <= estimated[stage]["money_at_most"] * (1 + 1e-9), stage


def test_estimate_says_what_a_cap_will_do_and_why_a_server_of_ones_own_is_free(tmp_path, finerweb_here, profile_file):
    far = MINE | {"base_url": "https://llm.example.org/v1"}
    near = {"name": "near", "kind": "endpoint", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    changes = dict(languages=["eng"], students=[], benchmarks=[])
    shown = {}
    for cap in (0.001, 0.02, 99.0):
        profile = profile_file(tmp_path, f"cap{cap}", teachers=[near, far | {"cap": cap}], **changes)
        shown[cap] = finerweb_here(tmp_path, "estimate", profile).stdout
        assert "near costs 0: its base_url http://127.0.0.1:9/v1 is a server of one's own" in shown[cap], shown[cap]
    assert "mine has a cap of 0.00 US dollars and will stop there" in shown[0.001]
    assert re.search(r"mine has a cap of 0.02 US dollars, and may cost [\d.]+ at most: at its cap the run", shown[0.02])
    assert "has a cap" not in shown[99.0]
