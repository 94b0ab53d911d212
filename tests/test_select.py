"""Scoring, near duplicates and the selection: the same result in every way, in bounded memory, with hostile pages."""

import contextlib
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finerweb.data import asset
from finerweb.models.scoring import batches, one_ahead
from finerweb.select import Held, Selection, language_threshold, score_bin, select
from finerweb.source.chunking import cut_documents
from finerweb.source.documents import Document, documents
from finerweb.text.near_duplicates import NearDuplicates, sketch

HOSTILE = ["", " ", "\x00\ud800", "x" * 200_000, "a " * 50_000, "\u202e" * 500, "ສະບາຍດີ" * 300, "9" * 3000]
CUTTING = dict(rated=frozenset(), processes=1, words_per_chunk=20, min_words=5, policy="paper", most_chunks=4)
WORDS = """
    habari watoto mwaka nchini serikali wananchi shule walimu kijiji mkoani rais waziri kazi chakula maji
    barabara nyumba familia wakati siku kwamba katika pamoja lakini wengi ambao wanaume wanawake vijana wazee
    mji mkuu jana leo kesho asubuhi jioni usiku mvua jua mlima ziwa bahari samaki wavuvi wakulima mashamba mazao
    bei soko biashara fedha benki hospitali daktari wagonjwa dawa afya elimu chuo kikuu wanafunzi vitabu gazeti
    waandishi redio muziki ngoma wimbo mchezo timu mpira uwanja ushindi sheria mahakama polisi askari vita amani
    uchaguzi kura chama viongozi mkutano safari ndege gari basi treni bandari mlango dirisha meza kiti
""".split()


def text(seed: int, words: int) -> str:
    chance = random.Random(seed)
    return " ".join(chance.choice(WORDS) for _ in range(words))


def pages(count: int, words: int = 70) -> list[Document]:
    """Pages of Swahili words in any order. Of ten, one is the page before it once more, and one has the identifier of
    the page before it. Every 25th is in another script."""
    documents = []
    for n in range(count):
        body = text(n - (n % 10 == 9), words) + (" tena" if n % 10 == 9 else "")
        documents.append(Document(f"page{n - (n % 10 == 1)}", "ไทย " * 50 if n % 25 == 24 else body))
    return documents


def score(texts: list[str]) -> list[float]:
    "A filter of which a third passes."
    return [(sum(map(ord, t[:40])) % 100) / 150 for t in texts]


def held(**changes) -> Held:
    return Held(
        "swh", **dict(passages=10, at_least=3, threshold=0.5, pick="first", similarity=0.8, shingle=3) | changes
    )


def selected(documents, selection: Selection, *, block: int = 8, scoring=score) -> Selection:
    "`selection`, after it has read the documents."
    for _ in select(cut_documents(documents, "swh", block=block, **CUTTING), selection, score=scoring):
        pass
    return selection


def result(selection: Selection) -> str:
    "All but how many passages were scored: those of a whole block are."
    return json.dumps({name: value for name, value in selection.work().items() if name != "scores"})


# --- scoring


@pytest.fixture
def regressor(tiny_encoder, one_thread):
    import torch

    from finerweb.models.encoders import load_sequence_regressor

    torch.manual_seed(0)
    return load_sequence_regressor(tiny_encoder)


def test_batches_hold_every_text_once_within_the_budget():
    lengths = [random.Random(n).randrange(1, 400) for n in range(200)] + [5000]
    groups = batches(lengths, most=16, budget=1000)
    assert sorted(n for group in groups for n in group) == list(range(201)) and groups[0] == [200]
    assert all(
        len(group) <= 16 and (len(group) == 1 or len(group) * max(lengths[n] for n in group) <= 1000)
        for group in groups
    )
    longest = [max(lengths[n] for n in group) for group in groups]
    assert all(a >= b for a, b in pairwise(longest))


def test_scores_are_those_of_each_text_alone_and_of_the_plain_pipeline(regressor):
    from finerweb.models.scoring import score_passages

    tokenizer, model = regressor
    texts = HOSTILE[:3] + [text(n, 5 + 3 * (n % 9)) for n in range(40)]
    together = score_passages(texts, tokenizer, model, batch=8, max_length=100)
    alone = [score_passages([t], tokenizer, model, batch=1, max_length=100)[0] for t in texts]
    assert together == pytest.approx(alone, abs=1e-4) and len(set(together)) > 30
    assert together == score_passages(texts, tokenizer, model, batch=8, max_length=100)
    assert score_passages([], tokenizer, model, batch=8, max_length=100) == []
    assert all(map(math.isfinite, score_passages(HOSTILE, tokenizer, model, batch=8, max_length=100)))


def test_a_lower_precision_is_taken_only_where_scores_stay(regressor):
    from finerweb.models.scoring import safe_precision

    tokenizer, model = regressor
    texts = [text(n, 20) for n in range(8)]
    kinds = dict(batch=8, max_length=100)
    for precision in ("half", "int8"):
        safe, largest_move = safe_precision(texts, tokenizer, model, precision=precision, within=0.02, **kinds)
        assert safe == (precision if largest_move <= 0.02 else "float32")
        assert safe_precision(texts, tokenizer, model, precision=precision, within=-1.0, **kinds)[0] == "float32"
    model.classifier.weight.data.fill_(math.nan)
    assert safe_precision(texts, tokenizer, model, precision="half", within=0.02, **kinds) == ("float32", math.inf)


def test_a_classifier_is_no_filter(regressor):
    import torch

    from finerweb.models.scoring import score_passages

    tokenizer, model = regressor
    model.classifier = torch.nn.Linear(model.classifier.in_features, 3)
    with pytest.raises(ValueError, match="3 numbers a text, expected 1"):
        score_passages(["a"], tokenizer, model, batch=1, max_length=10)


def test_one_ahead_is_one_ahead_and_hands_on_errors():
    sent = []

    def numbers():
        for n in range(5):
            sent.append(n)
            if n == 3:
                raise OSError("the line broke")
            yield n

    received = []
    with pytest.raises(OSError, match="the line broke"):
        for n in one_ahead(numbers()):
            received.append(n)
            assert len(sent) <= len(received) + 1
    assert received == [0, 1, 2]


# --- near duplicates


def test_near_duplicates_are_found_in_any_script_and_others_are_not():
    sample = [
        json.loads(line)
        for c in ("eng", "swh", "tha", "arb", "hin")
        for line in (asset("sample") / f"{c}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    index = NearDuplicates(similarity=0.8, shingle=3)
    for n, row in enumerate(sample):
        assert index.find(row["text"], row["language"]) is None, "no two pages of the sample are the same"
        index.add(n, row["text"], row["language"])
    for n, row in enumerate(sample):
        edited = "2024 | " + row["text"][: int(0.95 * len(row["text"]))].upper()
        assert index.find(edited, row["language"]) == n
    assert all(index.find(t, "eng") is None for t in HOSTILE)


def test_the_likeness_is_the_share_of_shingles():
    whole = text(1, 300)
    for changed in (3, 10, 30):
        words = whole.split()
        for n in range(changed):
            words[n * 10] = f"x{n}"
        other = " ".join(words)
        runs = [{tuple(t.split()[n : n + 3]) for n in range(298)} for t in (whole, other)]
        true = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
        assert sketch(whole, "eng", shingle=3).jaccard(sketch(other, "eng", shingle=3)) == pytest.approx(true, abs=0.12)


# --- cutting


def test_any_number_of_processes_cuts_the_same_and_loses_nothing_before_a_break():
    def broken():
        yield from pages(40)
        raise OSError("the line broke")

    together = {}
    for processes in (1, 3):
        together[processes] = []
        with pytest.raises(OSError, match="the line broke"):
            for block in cut_documents(broken(), "swh", block=8, **CUTTING | dict(processes=processes)):
                together[processes].append(block)
    assert together[1] == together[3] and sum(map(len, together[1])) == 40
    for block in cut_documents(pages(4000), "swh", block=8, **CUTTING | dict(processes=2)):
        assert len(block) == 8
        break


def test_hostile_pages_are_cut_or_have_a_reason():
    documents = [Document(f"{n}", t) for n, t in enumerate(HOSTILE)]
    cuts = [cut for block in cut_documents(documents, "swh", block=3, **CUTTING) for cut in block]
    assert all(cut.reason or cut.spans for cut in cuts) and all(len(cut.spans) <= 1 for cut in cuts if cut.reason)
    assert all(cut.document.text[span.start : span.end].strip() for cut in cuts for span in cut.spans)


# --- the selection


def test_everything_read_is_held_or_counted():
    selection = selected(pages(200), Selection(held(passages=1000, at_least=0), best_share=0.0, examples=5))
    assert selection.read == 200 == len(selection.rows()) + sum(selection.dropped.counts.values())
    assert (
        set(selection.dropped.counts) == {"near_duplicate", "duplicate_id", "low_score", "other_script"}
        and selection.dropped.counts["other_script"] == 8
    )
    assert len({r["document_id"] for r in selection.rows()}) == len(selection.rows()) == selection.held.passed
    examples = {
        reason: sum(r["reason"] == reason for r in selection.dropped.rows()) for reason in selection.dropped.counts
    }
    assert examples == {reason: min(5, n) for reason, n in selection.dropped.counts.items()}


def test_it_stops_at_the_last_passage_wanted():
    selection = selected(pages(200), Selection(held(passages=10), best_share=0.0, examples=5))
    assert len(selection.rows()) == 10 == selection.held.passed and selection.read < 200
    assert [r["id"] for r in selection.rows()] == [f"swh_{n}" for n in range(10)]
    more = selected(pages(selection.read), Selection(held(passages=10), best_share=0.0, examples=5))
    assert result(more) == result(selection), "documents after the last passage play no part"


def test_the_block_changes_nothing():
    several = [
        selected(pages(120), Selection(held(passages=20), best_share=0.0, examples=9), block=block)
        for block in (1, 7, 512)
    ]
    assert result(several[0]) == result(several[1]) == result(several[2])


@pytest.mark.parametrize(("pick", "at_least"), [("first", 0), ("first", 8), ("best", 0), ("best", 8)])
def test_cut_anywhere_and_taken_up_again_it_is_the_same(pick, at_least):
    make = lambda: Selection(held(passages=12, at_least=at_least, pick=pick, threshold=0.6), best_share=0.3, examples=4)
    whole = selected(pages(160), make())
    assert whole.held.threshold < 0.6
    for cut in (8, 32, 80):
        part = make()
        part.resume(json.loads(json.dumps(selected(pages(cut), make()).work())))
        after = selected(pages(160)[part.read :], part)
        assert (
            result(after) == result(whole)
            and after.rows() == whole.rows()
            and after.dropped.rows() == whole.dropped.rows()
        )


def test_the_best_are_the_best_of_all():
    documents = [Document(f"p{n}", text(1000 + n, 20)) for n in range(150)]
    selection = selected(documents, Selection(held(passages=10, pick="best", at_least=0), best_share=0.0, examples=0))
    expected = sorted((s for s in score([d.text for d in documents]) if s > 0.5), reverse=True)[:10]
    assert sorted((r["filter_score"] for r in selection.rows()), reverse=True) == expected and len(expected) == 10
    assert selection.dropped.counts["not_the_best"] > 0 and selection.dropped.rows() == []


def test_too_few_are_made_up_from_the_best_of_the_others():
    documents = [Document(f"p{n}", text(1000 + n, 20)) for n in range(40)]
    selection = selected(
        documents, Selection(held(passages=10, at_least=6, threshold=5.0), best_share=0.0, examples=99)
    )
    expected = sorted(score([d.text for d in documents]), reverse=True)[:6]
    assert (
        sorted((r["filter_score"] for r in selection.rows()), reverse=True) == expected and selection.held.passed == 0
    )
    places = [int(r["document_id"][1:]) for r in selection.rows()]
    assert places == sorted(places), "in the order of the stream"


def test_a_language_in_which_hardly_anything_passes_has_its_own_threshold():
    documents = [Document(f"p{n}", text(1000 + n, 20)) for n in range(300)]
    low = lambda texts: [s / 10 for s in score(texts)]
    shares = {}
    for scoring in (score, low):
        selection = selected(
            documents, Selection(held(passages=300, at_least=0), best_share=0.1, examples=0), block=100, scoring=scoring
        )
        shares[scoring] = selection.held.threshold, selection.held.passed / 300
    assert shares[score][0] == 0.5 and shares[score][1] > 0.1, "where enough pass nothing changes"
    assert shares[low][0] < 0.07 and 0.05 < shares[low][1] < 0.2
    fixed = selected(
        documents, Selection(held(passages=300, at_least=0), best_share=0.0, examples=0), block=100, scoring=low
    )
    assert fixed.held.passed == 0 and fixed.held.threshold == 0.5
    few = selected(documents[:9], Selection(held(passages=9, at_least=0), best_share=0.1, examples=0), scoring=low)
    assert few.held.threshold == 0.5, "nine scores have no best tenth"
    same = selected(
        documents, Selection(held(at_least=2), best_share=0.1, examples=0), scoring=lambda texts: [0.2] * len(texts)
    )
    assert len(same.rows()) == 2 and same.held.passed == 0, "where all score the same none is the better"
    for share in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="best_share is"):
            language_threshold([0.1], threshold=0.5, best_share=share)


def test_memory_does_not_grow_with_what_is_rejected():
    selection = Selection(held(passages=10, at_least=5, threshold=9.0), best_share=0.0, examples=20)

    def offer(first: int, count: int) -> None:
        for n in range(first, first + count):
            row = {
                "id": f"p{n}#0",
                "document_id": f"p{n}",
                "text": f"word{n} " * 400,
                "filter_score": (n * 7919 % 1000) / 1000,
            }
            selection.add(row, "" if n % 3 else "english", "")

    offer(0, 2000)
    tracemalloc.start()
    offer(2000, 500)
    before = tracemalloc.get_traced_memory()[0]
    offer(2500, 20_000)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert (
        selection.read == 22_500
        and sum(selection.dropped.counts.values()) == 22_495
        and len(selection.dropped.rows()) == 40
    )
    assert grown < 500_000, f"20,000 rejected passages of 3 kB left {grown} bytes behind"


def test_a_page_that_goes_on_in_another_script_keeps_its_good_chunk():
    page = Document("both", text(1, 20) + " " + "ไทยแลนด์ " * 400)
    selection = selected(
        [page, Document("thai", "ไทยแลนด์ " * 400)],
        Selection(held(), best_share=0.0, examples=9),
        scoring=lambda texts: [0.7] * len(texts),
    )
    assert [r["id"] for r in selection.rows()] == ["swh_0"] and selection.rows()[0]["text"] == page.text[
        : len(text(1, 20))
    ]
    assert [(r["document_id"], r["reason"], r["detail"]) for r in selection.dropped.rows()] == [
        ("thai", "other_script", "0.000 of the letters are Latn")
    ]


def test_bad_documents_and_bad_scores_have_their_reasons():
    english = (asset("sample") / "eng.jsonl").read_text(encoding="utf-8").splitlines()[0]
    documents = [
        Document("no end", text(1, 500)),
        Document("one word", "x" * 900_000),
        Document("no blank", "kitabu" * 30_000),
        Document("short", "Jambo."),
        Document("english", json.loads(english)["text"]),
        Document("gone", "", reason="unreadable_file", detail="x.parquet"),
        Document("nan", "nan " + text(2, 18)),
    ]
    scoring = lambda texts: [math.nan if "nan" in t else 0.7 for t in texts]
    selection = selected(documents, Selection(held(), best_share=0.0, examples=9), scoring=scoring)
    reason_of = {r["document_id"]: r["reason"] for r in selection.dropped.rows()}
    assert [r["document_id"] for r in selection.rows()] == ["no end"]
    assert reason_of == {
        "one word": "too_short",
        "no blank": "too_short",
        "short": "too_short",
        "english": "english",
        "gone": "unreadable_file",
        "nan": "no_score",
    }
    assert (
        score_bin(math.nan) == score_bin(math.inf) == "none"
        and score_bin(1e300) == "10.00"
        and score_bin(-0.01) == "-0.05"
    )
    assert selected([], Selection(held(), best_share=0.0, examples=9)).rows() == []


# --- the stage

STAGE = """
import ast, json, sys
from finerweb.store import notebooks_folder
cells = json.loads((notebooks_folder() / "13_select.ipynb").read_text())["cells"]
names, parameters = {}, json.loads(sys.argv[1])
for cell in cells:
    source = "".join(cell["source"])
    if "parameters" in cell["metadata"].get("tags", []):
        exec(source, names)
        names |= parameters
    elif cell["cell_type"] == "code" and source.startswith(("#| export", "#| eval: false")):
        exec(source, names)
"""


@pytest.fixture
def stage(tiny_encoder, one_thread, tmp_path):
    """`stage(home, **parameters)`: the parameters of the notebook's stage on 400 pages, as JSON; a filter and the rated
    passages are there."""
    import torch

    from finerweb.models.encoders import load_sequence_regressor
    from finerweb.source.documents import passage_row
    from finerweb.store import Task

    columns = ("id", "text", "url", "language", "language_script")
    (tmp_path / "crawl").mkdir()
    everything = pages(400)
    for name, part in (("0", everything[:150]), ("1", []), ("2", everything[150:])):
        rows = {
            c: pa.array(
                [dict(id=d.id, text=d.text, language="swh", language_script="Latn").get(c, "") for d in part],
                pa.string(),
            )
            for c in columns
        }
        pq.write_table(pa.table(rows), tmp_path / "crawl" / f"{name}.parquet")
    torch.manual_seed(0)
    tokenizer, model = load_sequence_regressor(tiny_encoder)

    def prepare(home: str, **changes) -> str:
        folder = str(tmp_path / home)
        if not (tmp_path / home).exists():
            Task(folder, "small", "10_corpus", ("swh",), parameters={}).write(
                [passage_row(d, "swh", "Latn", (0, 100), 0) for d in everything[:4]]
            )
            task = Task(folder, "small", "12_filter", parameters={})
            model.save_pretrained(task.open() / "model")
            tokenizer.save_pretrained(task.folder / ".incoming" / "model")
            task.close()
        parameters = dict(
            home=folder,
            run="small",
            language="swh",
            source=str(tmp_path / "crawl"),
            passages=2000,
            threshold=0.0,
            max_length=64,
            block=16,
        )
        return json.dumps(parameters | dict(examples=20, save_every=0.0) | changes)

    return prepare


def run_here(parameters: str, monkeypatch, code: str = STAGE) -> None:
    "The stage in this process, which has its libraries already."
    monkeypatch.setattr(sys, "argv", ["stage", parameters])
    exec(code, {})


def test_a_killed_selection_goes_on_to_the_same_bytes(stage, environment, tmp_path, monkeypatch, capsys):
    command = [sys.executable, "-c", STAGE, stage("broken")]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    unfinished = tmp_path / "broken/small/13_select/swh/unfinished.json"
    while not unfinished.exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (unfinished.parent / "meta.json").exists()
    work = json.loads(unfinished.read_text())["work"]
    read, last = work["read"], list(documents(str(tmp_path / "crawl"), "swh", seed=13))[work["read"] - 1]
    assert 0 < read < 400 and read % 16 == 0 and work["place"] == [last.shard, last.row]
    capsys.readouterr()
    run_here(stage("broken"), monkeypatch)
    assert f"goes on after {read} documents" in capsys.readouterr().out
    run_here(stage("whole"), monkeypatch)
    resumed, whole = unfinished.parent, tmp_path / "whole/small/13_select/swh"
    assert sorted(p.name for p in resumed.iterdir()) == ["dropped.parquet", "meta.json", "rows.parquet", "scores.json"]
    for name in ("dropped.parquet", "rows.parquet", "scores.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name
    metas = [json.loads((p / "meta.json").read_text()) for p in (resumed, whole)]
    assert metas[0] | {"seconds": 0} == metas[1] | {"seconds": 0}
    assert metas[0]["counts"]["documents_read"] == 400 == metas[0]["rows"] + sum(metas[0]["dropped"].values())
    assert pq.read_metadata(resumed / "dropped.parquet").num_rows < sum(metas[0]["dropped"].values()), (
        "some of the rejected are kept, all are counted"
    )


def test_a_filter_that_gives_no_numbers_is_an_error_that_says_so(stage, tiny_encoder, tmp_path, monkeypatch):
    import torch

    from finerweb.models.encoders import load_sequence_regressor

    parameters = stage("whole", passages=5)
    _, model = load_sequence_regressor(tiny_encoder)
    model.classifier.weight.data.fill_(torch.nan)
    model.save_pretrained(tmp_path / "whole/small/12_filter/model")
    with pytest.raises(ValueError, match="the filter gave no number for any of .* delete its folder, 12_filter"):
        run_here(parameters, monkeypatch)


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("dropped.parquet", "rows.parquet", "scores.json")}


@pytest.mark.parametrize(
    "changes",
    [
        {"passages": 24},
        pytest.param({"passages": 24, "best_share": 0.0, "threshold": 0.1}, marks=pytest.mark.long),
        pytest.param({"passages": 24, "pick": "best", "documents": 130}, marks=pytest.mark.long),
        pytest.param({"passages": 2000, "documents": 90}, marks=pytest.mark.long),
    ],
    ids=["the first that pass", "a fixed threshold", "the best", "more than there are"],
)
def test_shards_change_no_byte_and_what_they_scored_is_not_scored_again(changes, stage, tmp_path, monkeypatch, capsys):
    run_here(stage("whole", **changes), monkeypatch)
    whole = tmp_path / "whole/small/13_select/swh"
    meta = json.loads((whole / "meta.json").read_text())
    for shards in (2, 5):
        for shard in (*range(1, shards + 1), 0):
            run_here(stage(f"in {shards}", **changes, shards=shards, shard=shard), monkeypatch)
        joined = tmp_path / f"in {shards}/small/13_select/swh"
        assert outputs(joined) == outputs(whole)
        assert "passages scored, 0 here" in capsys.readouterr().out
        other = json.loads((joined / "meta.json").read_text())
        assert (other["fingerprint"], other["counts"]) == (meta["fingerprint"], meta["counts"])
        assert not list(joined.glob("shard-*")), "the whole has taken the place of its shards"


def test_what_the_shards_left_is_scored_where_they_are_joined(stage, tmp_path, monkeypatch, capsys):
    "Shards that read too little, as if the crawl had been poorer than they found it."
    poor = STAGE.replace("exec(source, names)", 'exec(source.replace("_MORE = 1.1", "_MORE = 0.2"), names)')
    run_here(stage("whole", passages=60), monkeypatch)
    for shard in (1, 2, 0):
        run_here(stage("parts", passages=60, shards=2, shard=shard), monkeypatch, poor)
    scored, here = re.findall(r"(\d+) passages scored, (\d+) here", capsys.readouterr().out)[-1]
    assert 0 < int(here) < int(scored)
    assert outputs(tmp_path / "parts/small/13_select/swh") == outputs(tmp_path / "whole/small/13_select/swh")


def test_a_shard_that_was_killed_goes_on_with_its_scores(stage, tmp_path, monkeypatch, capsys):
    run_here(stage("parts", passages=60, shards=2, shard=2), monkeypatch)
    folder = tmp_path / "parts/small/13_select/swh/shard-02-of-02"
    scores, command = (folder / "scores.parquet").read_bytes(), stage("parts", passages=60, shards=2, shard=2)
    stopped = STAGE.replace('source.startswith(("#|', '"task.write" not in source and source.startswith(("#|')
    with contextlib.suppress(NameError):
        run_here(command, monkeypatch, stopped)
    assert (folder / "unfinished.json").exists()
    capsys.readouterr()
    run_here(command, monkeypatch)
    assert "goes on with the scores of" in (said := capsys.readouterr().out) and "; 0 passages scored" not in said
    assert (folder / "scores.parquet").read_bytes() == scores


def test_a_selection_without_its_shards_is_refused(stage, tmp_path, monkeypatch):
    run_here(stage("parts", passages=24, shards=2, shard=1), monkeypatch)
    with pytest.raises(FileNotFoundError, match="shard-02-of-02.*make it with: finerweb run PROFILE --run small"):
        run_here(stage("parts", passages=24, shards=2), monkeypatch)
    with pytest.raises(FileNotFoundError, match="shard-01-of-02"):  # made with another number of passages
        run_here(stage("parts", passages=25, shards=2), monkeypatch)
