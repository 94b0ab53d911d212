"""Test sets in every shape: tags, text, faults, and the human-labelled sets where they are to be had."""

import gzip
import json
import random

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from finerweb.benchmarks import Benchmark, benchmark_entry, find_leaks, join_tokens, known_benchmarks, read_benchmark, spans_of_tags

TOKENS = ["Oslo", "3", "é", "วัน", "ที่", "北京", "ဝ", "a b", "", " ", "\x00", "'s", "n't", "''", *",.\"'()„“”«»$%…-।،"]
LOST = {"\x00": "\ufffd"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "eng").mkdir()
    return tmp_path


def write(folder, lines: list[bytes | dict], *, packed: bool = True):
    whole = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    (folder / "eng" / ("test.jsonl.gz" if packed else "test.jsonl")).write_bytes(gzip.compress(whole) if packed else whole)


def read(folder, **more) -> Benchmark:
    return read_benchmark({"name": "x", "path": str(folder), "language": "eng", **more})


GOOD = {"tokens": ["Ada", "Lovelace", "wrote", "."], "ner_tags": ["B-PER", "I-PER", "O", "O"]}


def test_tags_are_read_as_seqeval_reads_them():
    rng = random.Random(1)
    for _ in range(3000):
        tags = [rng.choice(("O", *(f"{p}-{kind}" for p in "BIES" for kind in ("PER", "LOC")))) for _ in range(rng.randint(0, 8))]
        expected = [(a, b + 1, label) for label, a, b in get_entities(tags)]
        assert spans_of_tags(tags)[0] == expected, tags


def test_only_beginnings_that_do_not_begin_are_repaired():
    assert spans_of_tags(["B-A", "I-A", "O", "I-A", "I-B", "E-C"])[1] == 3
    assert spans_of_tags(["U-A", "B-A", "L-A"]) == ([(0, 1, "A"), (1, 3, "A")], 0)


@pytest.mark.parametrize("tag", ["", "PER", "B-", "B", "X-PER", "-PER", "o", "B_PER", "B- "])
def test_what_is_no_tag_is_refused(tag):
    with pytest.raises(ValueError, match="tag 1 is"):
        spans_of_tags(["O", tag])


def test_every_token_stands_at_its_offsets():
    rng = random.Random(2)
    for _ in range(2000):
        tokens = [rng.choice(TOKENS) for _ in range(rng.randint(0, 12))]
        for script, verbatim in (("Latn", False), ("Thai", False), ("Thai", True), ("Hani", False)):
            text, offsets = join_tokens(tokens, script, verbatim=verbatim)
            cleaned = [LOST.get(t, t) if verbatim else LOST.get(t, t).strip() for t in tokens]
            assert [text[a:b] for a, b in offsets] == cleaned
            assert "".join(text.split()) == "".join("".join(cleaned).split())
            assert text == "".join(cleaned) or not verbatim
            assert "  " not in text or verbatim


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("I do n't know , he said ; really ?", "I don't know, he said; really?"),
        ('" Yes , " she said . " No . "', '"Yes," she said. "No."'),
        ("« Oui » ( non ) [ 5 % ] $ 3", "«Oui» (non) [5%] $3"),
        ("the players ' bus and ' so '", "the players' bus and 'so'"),
        ("ngeR56 . 57 wathenga .", "ngeR56.57 wathenga."),
        ("SOCCER - JAPAN 3 , CHINA 0 .", "SOCCER - JAPAN 3, CHINA 0."),
        ("यह सच है ।", "यह सच है।"),
        ("قال ، نعم ؟", "قال، نعم؟"),
        ("„ ja “ „ nej ” “ yes ” ” joo ”", "„ja“ „nej” “yes” ”joo”"),
    ],
)
def test_spaces_are_put_where_people_put_them(tokens, text):
    assert join_tokens(tokens.split(), "Latn")[0] == text


FAULTS = [
    b"not json",
    b"[1, 2]",
    b"7",
    b"null",
    b"\xff\xfe\x00",
    b"",
    b"[" * 100_000,
    {"tokens": ["a"]},
    {"ner_tags": ["O"]},
    {"tokens": ["a"], "ner_tags": []},
    {"tokens": ["a"], "ner_tags": [0]},
    {"tokens": "a", "ner_tags": "O"},
    {"tokens": [None], "ner_tags": ["O"]},
    {"tokens": ["a"], "ner_tags": ["PER"]},
    {"tokens": [], "ner_tags": []},
    {"tokens": [" "], "ner_tags": ["O"]},
    {"tokens": [" ", "a"], "ner_tags": ["B-PER", "O"]},
    {"text": "a"},
    {"text": None, "entities": []},
    {"text": "a", "entities": ["x"]},
    {"text": "a", "entities": [{"start": 0, "end": 2, "label": "x"}]},
    {"text": "a", "entities": [{"start": 0, "end": 1, "label": None}]},
    {"text": "a", "entities": [{"start": "0", "end": 1, "label": "x"}]},
]


@pytest.mark.parametrize("packed", [True, False])
def test_each_fault_costs_one_line(folder, packed):
    write(folder, [GOOD, *(piece for fault in FAULTS for piece in (fault, GOOD))], packed=packed)
    benchmark = read(folder)
    assert len(benchmark.passages) == len(FAULTS) + 1 and len(benchmark.dropped) == len(FAULTS)
    assert {p.text for p in benchmark.passages} == {"Ada Lovelace wrote."}
    lines = [int(d["detail"].split(":")[1]) for d in benchmark.dropped]
    assert lines == list(range(2, 2 * len(FAULTS) + 2, 2))
    assert all(len(d["detail"]) < 300 and d["reason"] for d in benchmark.dropped)
    assert [p.id for p in benchmark.passages[:2]] == ["x-1", "x-3"]


def test_a_gzip_file_cut_short_keeps_what_came_before(folder):
    rng = random.Random(3)
    rows = [{"tokens": [f"{rng.random()}" for _ in range(20)], "ner_tags": ["O"] * 20} for _ in range(500)]
    write(folder, rows)
    path = folder / "eng" / "test.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-5_000])
    benchmark = read(folder)
    assert 0 < len(benchmark.passages) < 500 and "gzip file is broken" in benchmark.dropped[-1]["detail"]
    path.write_bytes(b"\x1f\x8b" + b"no gzip at all")
    with pytest.raises(ValueError, match="gzip file is broken"):
        read(folder)


def test_hostile_text_comes_through(folder):
    long = {"tokens": ["x" * 5_000_000, "Oslo"], "ner_tags": ["O", "B-LOC"]}
    odd = {"tokens": ["a\x00b", "\ud800"], "ner_tags": ["B-LOC", "I-LOC"]}
    write(folder, [long, odd, b"\xef\xbb\xbf{}"])
    benchmark = read(folder)
    assert [p.mention(e) for p in benchmark.passages for e in p.entities] == ["Oslo", "a\ufffdb \ufffd"]


def test_a_byte_order_mark_and_windows_line_ends(folder):
    (folder / "eng" / "test.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n" + json.dumps(GOOD).encode() + b"\r\n")
    assert len(read(folder).passages) == 2


def test_folders_without_data_say_what_was_expected(folder, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"'x': no data.*eng/test\.jsonl\.gz"):
        read(folder)
    write(folder, [b""])
    with pytest.raises(ValueError, match="no line that can be read"):
        read(folder)
    monkeypatch.delenv("FINERWEB_TEST_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="FINERWEB_TEST_DATA"):
        read_benchmark({"name": "conll2003"})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "nothing"}, "lacks path and language"),
        ({"name": "a/b"}, "cannot name a file"),
        ({"path": "x"}, "a benchmark is"),
        ("conll2003", "a benchmark is"),
        ({"name": "x", "path": "y", "language": "eng", "labels": ["PER"]}, "field labels"),
        ({"name": "x", "path": "y", "language": "eng", "colour": "red"}, "field colour"),
        ({"name": "x", "path": "y", "language": "tlh"}, "add script"),
    ],
)
def test_wrong_entries_name_the_field(entry, message):
    with pytest.raises(ValueError, match=message):
        benchmark_entry(entry)


def test_labels_become_words(folder):
    write(folder, [{"tokens": list("abc"), "ner_tags": ["B-PER", "B-SPORTS_TEAM", "B-NUM"]}])
    assert [e.label for e in read(folder, labels={"NUM": "number"}).passages[0].entities] == ["person", "sports team", "number"]


def test_a_set_that_takes_another_split_of_a_known_one():
    entry = benchmark_entry({"name": "conll-dev", "set": "conll2003", "split": "dev"})
    assert (entry["language"], entry["split"], entry["script"]) == ("eng", "dev", "Latn")


def test_the_packaged_gold_is_sound():
    for name in [n for n in known_benchmarks() if n.startswith("sample-")]:
        benchmark = read_benchmark({"name": name})
        assert benchmark.passages and not benchmark.dropped, name
        assert {"person", "location", "organization"} <= set(benchmark.labels), name
        assert all(p.mention(e) == p.mention(e).strip() for p in benchmark.passages for e in p.entities), name


def test_leaks_are_found_whatever_the_spaces():
    rng = random.Random(4)
    train = ["".join(rng.choice("abcd ") for _ in range(9)) for _ in range(300)]
    test = ["".join(rng.choice("abcd ") for _ in range(9)) for _ in range(300)] + train[:5]
    expected = [n for n, t in enumerate(test) if t.replace(" ", "") and any(t.replace(" ", "") == s.replace(" ", "") for s in train)]
    assert find_leaks(iter(train), test) == expected and len(expected) >= 5
    assert find_leaks(["ﬁn\u00a0Ａ"], ["fin A", "fin a", " "]) == [0]


def test_every_mention_is_the_join_of_its_tokens(real_data, monkeypatch):
    monkeypatch.setenv("FINERWEB_TEST_DATA", str(real_data))
    read_sets = 0
    for name in [n for n in known_benchmarks() if not n.startswith("sample-")]:
        entry = benchmark_entry({"name": name})
        benchmark = read_benchmark({"name": name})
        with gzip.open(benchmark.path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        assert not benchmark.dropped and not benchmark.repaired and len(benchmark.passages) == len(rows), name
        spaces_are_tokens = name in ("thainer", "stockmark")
        for passage, row in zip(benchmark.passages, rows, strict=True):
            tokens = ["" if t in entry["blank"] else t for t in row["tokens"]]
            mentions = [passage.mention(e) for e in passage.entities]
            joined = ["".join(tokens[a : b + 1]) for _, a, b in get_entities(row["ner_tags"])]
            if spaces_are_tokens:
                assert passage.text == "".join(tokens), name
                assert mentions == [m.strip() for m in joined], passage
            else:
                assert ["".join(m.split()) for m in mentions] == ["".join(m.split()) for m in joined], passage
                assert "".join(passage.text.split()) == "".join("".join(tokens).split())
            assert all(m == m.strip() for m in mentions)
        read_sets += 1
    assert read_sets == 13


def test_leaks_between_train_and_test(real_data, monkeypatch):
    monkeypatch.setenv("FINERWEB_TEST_DATA", str(real_data))
    for name, expected in (("conll2003", 126), ("masakhaner2-swh", 12), ("thainer", 0)):
        train, test = (read_benchmark({"name": name, "split": split}).passages for split in ("train", "test"))
        assert len(find_leaks([p.text for p in train], [p.text for p in test])) == expected, name


def test_a_test_data_folder_may_be_named_by_the_environment(folder, monkeypatch):
    write(folder, [GOOD])
    monkeypatch.setenv("FINERWEB_TEST_DATA", str(folder))
    assert len(read_benchmark({"name": "x", "path": "${FINERWEB_TEST_DATA}", "language": "eng"}).passages) == 1


def test_the_stage_writes_each_set_and_what_it_could_not_read(folder, root):
    import papermill
    import pyarrow.parquet as pq

    write(folder, [GOOD, b"broken", GOOD])
    entries = [{"name": "sample-eng"}, {"name": "mine", "path": str(folder), "language": "eng"}]
    seen = []
    for run in ("a", "b"):
        parameters = dict(home=str(folder / "runs"), run=run, benchmarks=entries)
        papermill.execute_notebook(root / "nbs" / "30_benchmarks.ipynb", str(folder / f"{run}.ipynb"), parameters=parameters, progress_bar=False)
        made = folder / "runs" / run / "30_benchmarks"
        seen.append({f.name: f.read_bytes() for f in sorted(made.glob("*.parquet"))})
    assert list(seen[0]) == ["dropped.parquet", "mine.parquet", "sample-eng.parquet"] and seen[0] == seen[1]
    assert [row["text"] for row in pq.read_table(made / "mine.parquet").to_pylist()] == ["Ada Lovelace wrote."] * 2
    assert pq.read_table(made / "dropped.parquet").to_pylist()[0]["detail"].startswith("test.jsonl.gz:2: ")
    counts = json.loads((made / "meta.json").read_text(encoding="utf-8"))["counts"]["mine"]
    assert (counts["passages"], counts["entities"], counts["unreadable"], counts["labels"]) == (2, 2, 1, ["person"])
