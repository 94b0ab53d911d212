"""Rows as columns do what lists of dicts do, and take a small part of their memory."""

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from finerweb.data import lesson_rows, read_rows, schema, write_rows
from finerweb.dataset import columns
from finerweb.dataset.columns import Rows, chosen, label_counts, read_columns, remade, write_columns
from finerweb.paper.confidence import confidence_rows, read_confidence

COUNT = 2000
LEARNED = ["id", "text", "language", "script", "entities", "undecided"]


def sentences(count: int) -> list[dict]:
    "Rows of 18_sentences, different from each other; every fifth has no entity, every seventh an undecided span."
    empty, lessons = dict.fromkeys(schema("18_sentences").names), lesson_rows()
    rows = []
    for n in range(count):
        row = empty | lessons[n % 3]
        row |= {"id": f"{row['language']}_{n}-s0", "parent_id": f"{row['language']}_{n}", "url": f"https://a.org/{n}"}
        row["text"] += f" {n}"
        entities = [e | {"score": n % 10 / 10, "teachers": ["lexicon", "patterns"]} for e in row["entities"]]
        row |= {"entities": entities if n % 5 else [], "undecided": [] if n % 7 else entities[:1]}
        rows.append(row)
    return rows


@pytest.fixture
def files(tmp_path) -> list[Path]:
    "Two files of 18_sentences."
    rows, paths = sentences(COUNT), [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    write_rows(paths[0], rows[:1200], schema("18_sentences"))
    write_rows(paths[1], rows[1200:], schema("18_sentences"))
    return paths


def test_they_are_read_and_written_as_dicts_are(files, tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "_BLOCK", 1024)  # several blocks
    rows, dicts = read_columns(files), [row for path in files for row in read_rows(path)]
    assert list(rows) == dicts and len(rows) == COUNT
    assert [rows[place] for place in (0, 1199, 1200, -1)] == [dicts[place] for place in (0, 1199, 1200, -1)]
    places = random.Random(1).sample(range(COUNT), 1700)
    assert list(rows.take(places)) == chosen(dicts, places)
    assert list(rows.take(places)[100:1500:7]) == chosen(dicts, places)[100:1500:7]
    assert list(remade(rows, iter(dicts))) == dicts
    assert list(rows[:3] + dicts[7:9]) == dicts[:3] + dicts[7:9]
    assert label_counts(rows.take([*places, places[0]])).total() == sum(
        len(dicts[place]["entities"]) for place in [*places, places[0]]
    )
    assert list(rows[:0]) == [] and label_counts(rows[:0]) == {}
    with pytest.raises(IndexError):
        rows[COUNT]
    for count in (COUNT, 1025, 0):
        write_columns(tmp_path / "columns.parquet", rows[:count], schema("18_sentences"))
        write_rows(tmp_path / "dicts.parquet", dicts[:count], schema("18_sentences"))
        assert (tmp_path / "columns.parquet").read_bytes() == (tmp_path / "dicts.parquet").read_bytes()


def test_the_same_sentences_are_chosen_in_the_same_order(files):
    pytest.importorskip("torch")
    from finerweb.binder import choose_rows, swap_names, unread_shares

    rows, dicts = read_columns(files, LEARNED), [row for path in files for row in read_rows(path)]
    dicts = [{name: row[name] for name in LEARNED} for row in dicts]
    choice = dict(confident_only=True, min_score=0.3, longest=110, empty=0.15, seed=3)
    usable, of_dicts = choose_rows(rows, **choice), choose_rows(dicts, **choice)
    assert isinstance(usable, Rows) and isinstance(of_dicts, list)
    assert list(usable) == of_dicts and 400 < len(usable) < 1600
    swapped = swap_names(usable, 0.5, seed=2)
    assert isinstance(swapped, Rows) and list(swapped) == swap_names(of_dicts, 0.5, seed=2) != of_dicts
    assert unread_shares(rows[:90], "char") == unread_shares(dicts[:90], "char")


def peak_bytes(work: Callable[[], object]) -> tuple[object, int]:
    "(What comes of some work, the most bytes that Python held for it at a time.)"
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_sentences_that_are_learned_from_do_not_become_dicts_together(files, monkeypatch):
    pytest.importorskip("torch")
    from finerweb.binder import choose_rows

    monkeypatch.setattr(columns, "_BLOCK", 128)
    choice = dict(confident_only=False, min_score=0.0, longest=400, empty=0.15, seed=3)
    dicts, of_dicts = peak_bytes(lambda: [row for path in files for row in read_rows(path)])
    usable, of_columns = peak_bytes(lambda: choose_rows(read_columns(files, LEARNED), **choice))
    counted, of_reading = peak_bytes(lambda: sum(len(row["entities"]) for row in usable))
    assert counted == sum(len(row["entities"]) for row in choose_rows(dicts, **choice))
    assert of_dicts / COUNT > 2000, "what it was: bytes a row"
    assert max(of_columns, of_reading) / COUNT < 700  # a block, and numbers
    assert sum(batch.nbytes for batch in usable.batches) / COUNT < 600


def test_examples_are_the_same_packed_and_a_tenth_of_the_size():
    pytest.importorskip("torch")
    from finerweb.student.targets import Example, Examples, GoldSpan
    from finerweb.student.windows import Window

    def example(n: int) -> Example:
        units = 90 + n % 20
        offsets = [(i, i + 1) for i in range(1000, 1000 + units)]
        starts = [i % 3 == 0 for i in range(units)]
        ids, cases = list(range(1000, 1000 + units)), [n % 4] * units
        window = Window(n, ids, offsets, starts, starts[::-1], cases, (n % 2, units))
        gold = [GoldSpan(i, i + 2, f"label {i} / b", 0.5 * (1 + n % 2)) for i in range(n % 4)]
        return Example(window, "tha" if n % 2 else "", "Thai", gold, [(0, 3), (5, 5)][: n % 3])

    objects, of_objects = peak_bytes(lambda: [example(n) for n in range(1500)])
    packed, of_packed = peak_bytes(lambda: Examples(map(example, range(1500))))
    assert of_packed / 1500 < 1200 and of_packed < of_objects / 8
    assert len(packed) == 1500 and packed.lengths() == [len(x.window.ids) for x in objects]
    for n in (0, 1, 7, 1499, -1):
        was, made = objects[n], packed[n]
        for name in ("text", "ids", "can_start", "can_end", "cases", "inner"):
            assert repr(getattr(made.window, name)) == repr(getattr(was.window, name)), "of the same types too"
        assert (made.language, made.script, made.gold, made.veiled) == (was.language, was.script, was.gold, was.veiled)
    assert packed.kinds == {(x.script, x.language, g.label) for x in objects for g in x.gold}
    assert packed.digest() == Examples(objects).digest() != Examples(objects[:-1]).digest()
    with pytest.raises(IndexError):
        packed[1500]


def test_probabilities_of_a_study_stay_columns(tmp_path):
    count = 20_000
    table = pa.table({
        "id": ["x"] * count, "language": ["eng", "tha"] * (count // 2), "seed": [1] * count,
        "probability": [n / count for n in range(count)],
    })  # fmt: skip
    pa.parquet.write_table(table, tmp_path / "probabilities.parquet")
    (probabilities, _, _), of_reading = peak_bytes(lambda: read_confidence(tmp_path))
    rows, of_rows = peak_bytes(lambda: confidence_rows(probabilities))
    assert max(of_reading, of_rows) / count < 80  # as dicts: 400
    assert [row["median"] for row in rows] == [0.5, 0.49995]
