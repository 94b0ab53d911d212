"""Sentences of a stage: both splitters give rows whose entities keep their text, and what is missing is said early."""

import sys
from pathlib import Path

import papermill
import pyarrow.parquet as pq
import pytest

from finerweb import sentences as stage
from finerweb.data import schema
from finerweb.runner.pipeline import run_profile
from finerweb.runner.profiles import load_profile
from finerweb.sentences import check_splitter, sentence_rows, sentence_spans
from finerweb.store import Task

STUB = '''
class SaT:
    "Stands for a model of wtpsplit: a piece ends behind every full stop."

    def __init__(self, name, **options):
        self.sizes = []

    def split(self, texts):
        self.sizes.append(len(texts))
        return [[piece + "." for piece in text.rstrip(".").split(".")] for text in texts]
'''
TEXT = "Dr. Ada Lovelace wrote. London read.\n\n Nyeri slept."


def row(name: str, text: str, *mentions: str) -> dict:
    "A row of 16_merge with an entity at the first place of each mention."
    places = [(text.index(m), text.index(m) + len(m)) for m in mentions]
    entities = [dict(start=a, end=b, label="name", score=1.0, teachers=["a"]) for a, b in places]
    blank = dict.fromkeys(schema("16_merge").names)
    return blank | {"id": name, "text": text, "language": "eng", "entities": entities, "undecided": []}


@pytest.fixture
def stub(tmp_path, monkeypatch) -> Path:
    "A folder with a wtpsplit that is a stub, first on the paths of this process and of its kernels."
    folder = tmp_path / "stub"
    folder.mkdir()
    (folder / "wtpsplit.py").write_text(STUB)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.delitem(sys.modules, "wtpsplit", raising=False)
    from finerweb.text.sat import _model

    _model.cache_clear()
    yield folder
    _model.cache_clear()
    sys.modules.pop("wtpsplit", None)


def executed(home: Path, root: Path, run: str, rows: list[dict], **parameters) -> list[dict]:
    "The rows that the stage's notebook makes of `rows`."
    Task(str(home), run, "16_merge", ("eng",), parameters={}).write(rows)
    parameters |= dict(home=str(home), run=run, language="eng")
    notebook = root / "nbs" / "18_sentences.ipynb"
    papermill.execute_notebook(notebook, str(home / f"{run}.ipynb"), parameters=parameters, progress_bar=False)
    return pq.read_table(home / run / "18_sentences" / "eng" / "rows.parquet").to_pylist()


def test_the_stage_splits_with_either_splitter(stub, tmp_path, root):
    rows = [row(f"eng_{n}", TEXT, "Dr. Ada Lovelace", "London", "Nyeri") for n in range(3)]
    by_icu = executed(tmp_path, root, "icu", rows)
    by_model = executed(tmp_path, root, "sat", rows, splitter="sat", sat_model="stub")
    texts = ["Dr. Ada Lovelace wrote.", "London read.", "Nyeri slept."]
    assert [r["text"] for r in by_model[:3]] == texts, "the cut behind Dr. is inside an entity"
    assert by_model == by_icu
    for sentence in by_model:
        (entity,) = sentence["entities"]
        assert sentence["text"][entity["start"] : entity["end"]] in ("Dr. Ada Lovelace", "London", "Nyeri")
        start = sentence["offset"]
        assert TEXT[start : start + len(sentence["text"])] == sentence["text"]


def test_the_model_gets_many_passages_at_once(stub, monkeypatch):
    from finerweb.text.sat import _model

    monkeypatch.setattr(stage, "_BATCH", 4)
    texts = [f"Passage {n}. Its end." for n in range(10)]
    spans = sentence_spans(texts, "eng", splitter="sat", sat_model="stub", longest=300)
    assert [[text[a:b] for a, b in one] for text, one in zip(texts, spans, strict=True)] == [
        [f"Passage {n}.", "Its end."] for n in range(10)
    ]
    assert _model("stub").sizes == [4, 4, 2]


def test_a_boundary_in_an_entity_is_passed_over():
    passage = row("eng_0", TEXT, "Dr. Ada Lovelace", "London")
    letters = [(n, n + 1) for n in range(len(TEXT)) if TEXT[n].strip()]
    rows = sentence_rows(passage, letters)
    assert sum(len(r["entities"]) for r in rows) == 2
    assert {"Dr. Ada Lovelace", "London"} <= {r["text"] for r in rows}


def test_a_splitter_that_is_unknown_or_not_installed_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="splitter is 'spacy'; expected 'icu', or 'sat'"):
        check_splitter("spacy")
    check_splitter("icu")
    monkeypatch.setitem(sys.modules, "wtpsplit", None)  # as where it is not installed
    with pytest.raises(RuntimeError, match=r"pip install 'finerweb\[sat\]'"):
        check_splitter("sat")


@pytest.mark.parametrize(("splitter", "error"), [("sat", RuntimeError), ("spacy", ValueError)])
def test_a_run_without_its_splitter_does_not_begin(splitter, error, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wtpsplit", None)
    profile = load_profile("demo")
    profile.stages["18_sentences"] = {"splitter": splitter}
    begun = []
    options = dict(home=str(tmp_path), run="small", stages=[], started=begun.append, report=lambda *_: None)
    with pytest.raises(error, match="splitter"):
        run_profile(profile, **options)
    assert not begun and not list(tmp_path.iterdir())


def test_the_papers_profile_has_the_papers_splitter():
    assert load_profile("paper").stages["18_sentences"] == {"splitter": "sat", "sat_model": "sat-12l-sm"}
