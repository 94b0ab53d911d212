"""Test sets in every shape: tags, text, faults, and the human-labelled sets where they are to be had."""

import gzip
import json
import random

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from finerweb.benchmarks import (
    Benchmark,
    benchmark_entry,
    benchmark_fingerprint,
    is_met,
    known_benchmarks,
    label_words,
    read_benchmark,
)
from finerweb.data import Entity
from finerweb.metrics import score_spans
from finerweb.source.conll import join_tokens, place_tokens, spans_of_tags
from finerweb.text.leakage import LeakIndex, bare, find_leaks, without_leaks
from finerweb.text.segment import written

TOKENS = ["Oslo", "3", "é", "วัน", "ที่", "北京", "ဝ", "a b", "", " ", "\x00", "'s", "n't", "''", *",.\"'()„“”«»$%…-।،"]
LOST = {"\x00": "\ufffd"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "eng").mkdir()
    return tmp_path


def write(folder, lines: list[bytes | dict], *, packed: bool = True):
    whole = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    if packed:
        (folder / "eng" / "test.jsonl.gz").write_bytes(gzip.compress(whole))
    else:
        (folder / "eng" / "test.jsonl").write_bytes(whole)


def read(folder, **more) -> Benchmark:
    return read_benchmark({"name": "x", "path": str(folder), "language": "eng", **more})


GOOD = {"tokens": ["Ada", "Lovelace", "wrote", "."], "ner_tags": ["B-PER", "I-PER", "O", "O"]}


SPELLED = 'IS는 "KBS  2TV"를\u00a0봤다'  # a set of characters, blanks among them
SPELLED_TAGS = ["B-OG", "I-OG", "O", "O", "B-OG", *["I-OG"] * 9, *"OOOO"]


@pytest.mark.parametrize("form", ["tab", "blank", "json"])
def test_characters_with_blanks_are_the_text_as_written(tmp_path, form):
    pairs = list(zip(SPELLED, SPELLED_TAGS, strict=True))
    gap = "\t" if form == "tab" else " "
    lines = [f"{character}{gap}{tag}" for character, tag in pairs]
    row = json.dumps({"tokens": list(SPELLED), "ner_tags": SPELLED_TAGS})
    path = tmp_path / ("x.jsonl" if form == "json" else "x.conll")
    path.write_text(row if form == "json" else "\n".join([f"## id-0\t{SPELLED}", *lines, "", *lines]), encoding="utf-8")
    read = read_benchmark({"name": "x", "path": str(path), "language": "ko"})
    assert not read.dropped and not read.repaired and not read.unmapped
    for passage in read.passages:
        assert passage.text == SPELLED
        assert [passage.mention(e) for e in passage.entities] == ["IS", '"KBS  2TV"']


def test_a_stray_blank_among_words_does_not_join_them(folder):
    words = "Ada Lovelace wrote this in the year 1843 , and it was the first of its kind .".split()
    write(folder, [{"tokens": [*words, " "], "ner_tags": ["B-PER", "I-PER", *["O"] * (len(words) - 1)]}])
    assert read(folder).passages[0].text.startswith("Ada Lovelace wrote")


def test_tags_are_read_as_seqeval_reads_them():
    rng = random.Random(1)
    choices = ("O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("PER", "LOC")))
    for _ in range(3000):
        tags = [rng.choice(choices) for _ in range(rng.randint(0, 8))]
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
    line = json.dumps(GOOD).encode() + b"\r\n"
    (folder / "eng" / "test.jsonl").write_bytes(b"\xef\xbb\xbf" + line + line)
    assert len(read(folder).passages) == 2


def test_folders_without_data_say_what_was_expected(folder, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"'x': no data.*eng/test or test or eng with the ending \.jsonl\.gz"):
        read(folder)
    write(folder, [b""])
    with pytest.raises(ValueError, match="no row that can be read"):
        read(folder)
    monkeypatch.delenv("FINERWEB_TEST_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="FINERWEB_TEST_DATA"):
        read_benchmark({"name": "hiner"})
    with pytest.raises(ValueError, match="cannot be had from the hub.*FINERWEB_TEST_DATA"):
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
    (passage,) = read(folder, labels={"NUM": "number"}).passages
    assert [e.label for e in passage.entities] == ["person", "sports team", "number"]


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
    plain = {t.replace(" ", "") for t in train} - {""}
    expected = [n for n, t in enumerate(test) if t.replace(" ", "") in plain]
    leaks = find_leaks(iter(train), test, share=0.8, shortest=20)
    assert [leak.test for leak in leaks] == expected and len(expected) >= 5 and all(leak.exact for leak in leaks)
    assert all(bare(train[leak.train]) == bare(test[leak.test]) for leak in leaks)
    assert [leak.test for leak in find_leaks(["ﬁn\u00a0Ａ"], ["fin A", "fin a", " "], share=0.8, shortest=20)] == [0]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 1.0])
def test_no_near_copy_is_missed(share):
    """Against every pair, tried."""
    rng = random.Random(5)
    words = ["".join(rng.choice("abcde") for _ in range(rng.randint(2, 6))) for _ in range(30)]
    train = [" ".join(rng.choice(words) for _ in range(rng.randint(1, 30))) for _ in range(120)]
    test = [" ".join(rng.choice(words) for _ in range(rng.randint(1, 10))) for _ in range(60)]
    for n in range(0, 60, 2):  # half of them spoilt copies of a part of a training text
        part = rng.choice(train).split()[:8]
        if n % 8:
            part[rng.randrange(len(part))] = rng.choice(words)
        test[n] = " ".join(part).upper() if n % 4 else " ".join(part)

    def pieces(text):
        text = text.replace(" ", "").lower()
        return {text[i : i + 5] for i in range(max(1, len(text) - 4))}

    def shared(text, other):
        plain = text.replace(" ", "")
        if plain == other.replace(" ", ""):
            return 1.0
        return len(pieces(text) & pieces(other)) / len(pieces(text)) if len(plain) >= 12 else 0.0

    expected = {}
    for n, text in enumerate(test):
        largest = max(shared(text, other) for other in train)
        if largest >= share:
            expected[n] = largest
    shares = {leak.test: leak.share for leak in find_leaks(train, test, share=share, shortest=12)}
    assert shares == pytest.approx(expected) and len(expected) >= 5


def test_leaks_of_hostile_texts():
    book = "".join(chr(0x4E00 + n % 5000) for n in range(3_000_000))
    test = ["", "\x00", "\ud800" * 30, "x" * 100_000, book[1000:1040], "👨‍👩‍👧‍👦" * 10]
    leaks = find_leaks([book, "\ud800" * 30, "\x00"], test, share=0.8, shortest=20)
    assert [(leak.test, leak.train, leak.exact) for leak in leaks] == [(1, 2, True), (2, 1, True), (4, 0, False)]
    assert find_leaks([], test, share=0.8, shortest=20) == find_leaks([book], [], share=0.8, shortest=20) == []
    for share in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="share is"):
            LeakIndex([], share=share, shortest=20)


def test_leaked_training_rows_are_taken_out():
    texts = ["Ada Lovelace wrote .", "Nobody here has been leaked.", "As we know: In Oslo it rained all week long."]
    rows = [{"id": n, "language": "eng", "text": text} for n, text in enumerate(texts)]
    tests = {"one": ["Ada Lovelace wrote."], "two": ["In Oslo it rained all week long!"]}
    clean, dropped = without_leaks(rows, tests, share=0.8, shortest=20)
    assert [row["id"] for row in clean] == [1]
    assert [(d["id"], d["reason"], d["detail"][:11]) for d in dropped] == [
        (0, "in a test set", "one, text 0"),
        (2, "in a test set", "two, text 0"),
    ]


def seen(mention):
    return mention[slice(*written(mention, 0, len(mention)))]


def test_invisible_edges_are_no_part_of_a_mention(tmp_path):
    path = tmp_path / "own.jsonl"
    rows = [
        {"tokens": ["\ufeff", "Oslo\u200f", "won"], "ner_tags": ["B-LOC", "I-LOC", "O"]},
        {"text": "In \u200bOslo\ufeff.", "entities": [{"start": 3, "end": 9, "label": "LOC"}]},
        {"tokens": ["\u200f", "won"], "ner_tags": ["B-LOC", "O"]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    benchmark = read_benchmark({"name": "own", "path": str(path), "language": "eng"})
    assert [p.mention(e) for p in benchmark.passages for e in p.entities] == ["Oslo", "Oslo"]
    assert len(benchmark.dropped) == 1 and "no characters" in benchmark.dropped[0]["detail"]


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
                assert mentions == [seen(m) for m in joined], passage
            else:
                assert ["".join(m.split()) for m in mentions] == [seen("".join(m.split())) for m in joined], passage
                assert "".join(passage.text.split()) == "".join("".join(tokens).split())
            assert all(m == seen(m) for m in mentions)
        read_sets += 1
    assert read_sets == 13


def test_leaks_between_train_and_test(real_data, monkeypatch):
    """The published numbers of these sets: 126, none, all and 12."""
    monkeypatch.setenv("FINERWEB_TEST_DATA", str(real_data))

    def texts_of(name: str, split: str) -> list[str]:
        return [p.text for p in read_benchmark({"name": "x", "set": name, "split": split}).passages]

    leaked = {"conll2003": {"test": 126}, "thainer": {"test": 0, "dev": 510}, "masakhaner2-swh": {"test": 12}}
    for name, splits in leaked.items():
        texts = {split: texts_of(name, split) for split in ("train", *splits)}
        for split, expected in splits.items():
            leaks = find_leaks(texts["train"], texts[split], share=0.8, shortest=20)
            assert sum(leak.exact for leak in leaks) == expected, (name, split)
            assert (len(leaks) > expected) == (name in ("conll2003", "masakhaner2-swh"))
    train = [{"text": text} for text in texts["train"]]
    clean, dropped = without_leaks(train, {"swh": texts["test"]}, share=0.8, shortest=20)
    assert len(dropped) >= 12 and len(clean) + len(dropped) == len(train)
    assert not find_leaks([row["text"] for row in clean], texts["test"], share=0.8, shortest=20)


def spoilt(tags: list[str], kind: str, rng: random.Random) -> list[str]:
    "The tags of a student that is wrong about a tenth of them."
    return [tag if rng.random() < 0.9 else rng.choice(("O", f"B-{kind}", f"I-{kind}")) for tag in tags]


def entities_of(row: dict, tags: list[str], entry: dict, *, verbatim: bool) -> list[Entity]:
    "The entities of `tags` on the tokens of a row."
    _, offsets = join_tokens(row["tokens"], entry["script"], verbatim=verbatim)
    spans, _ = spans_of_tags(tags)
    words = lambda label: label_words(label, entry["labels"])
    return [Entity(offsets[a][0], offsets[b - 1][1], words(label)) for a, b, label in spans]


def test_scores_of_whole_test_sets_are_seqevals(real_data, monkeypatch):
    """Tags through the loader to characters and labels in words, against seqeval on the tags themselves."""
    from seqeval.metrics import f1_score

    monkeypatch.setenv("FINERWEB_TEST_DATA", str(real_data))
    rng = random.Random(6)
    for name in ("conll2003", "thainer", "uner-gsdsimp", "masakhaner2-swh"):
        benchmark, entry = read_benchmark({"name": name}), benchmark_entry({"name": name})
        with gzip.open(benchmark.path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines][:1200]
        verbatim = name == "thainer"
        kind = next(tag[2:] for row in rows for tag in row["ner_tags"] if tag != "O")
        gold_tags = [row["ner_tags"] for row in rows]
        tags = [spoilt(row_tags, kind, rng) for row_tags in gold_tags]
        predicted = [entities_of(row, one, entry, verbatim=verbatim) for row, one in zip(rows, tags, strict=True)]
        gold = [entities_of(row, row["ner_tags"], entry, verbatim=verbatim) for row in rows]
        expected = f1_score(gold_tags, tags)
        assert score_spans(gold, predicted).f1 == pytest.approx(expected, abs=1e-12), name
        loaded = score_spans([p.entities for p in benchmark.passages[: len(rows)]], predicted)
        assert 0.3 < loaded.f1 < 1
        tolerance = 2e-3 if verbatim else 1e-12  # spaces at an edge are no part of a mention
        assert loaded.f1 == pytest.approx(expected, abs=tolerance), name


def test_a_strict_set_refuses_what_it_does_not_know(folder):
    tagged = lambda tag: {"tokens": ["Ada"], "ner_tags": [tag]}
    write(folder, [GOOD, tagged("B-PRE"), tagged("I-PER"), tagged(1), {"tokens": ["Ada"]}])
    loose, strict = read(folder), read(folder, strict=True)
    assert len(loose.passages) == 3 and loose.repaired == 1 and loose.labels == ["person", "pre"]
    assert [d["detail"].split(":", 2)[:2] for d in strict.dropped] == [["test.jsonl.gz", str(n)] for n in (2, 3, 4, 5)]
    messages = [
        "label 'PRE'",
        "tag 0 is 'I-PER' where no PER has begun",
        "ner_tags: 1 is the number of no tag",
        "column ner_tags is missing",
    ]
    for message, row in zip(messages, strict.dropped, strict=True):
        assert message in row["detail"], row


def test_columns_documents_and_comments(folder):
    lines = [
        "-DOCSTART- -X- -X- O",
        "",
        "Ada NNP I-NP B-PER",
        "wrote VBD I-VP O",
        "",
        "# id 5 domain=en",
        "# NN I-NP O",
        "1 CD I-NP O",
        "",
        "-DOCSTART- -X- -X- O",
        "",
        "Oslo NNP I-NP B-LOC",
        "broken",
    ]
    (folder / "eng" / "test.conll").write_text("\n".join(lines) + "\n", encoding="utf-8")
    benchmark = read(folder)
    assert [p.text for p in benchmark.passages] == ["Ada wrote", "# 1"] and benchmark.documents == ["1", "1"]
    expected = "test.conll:12: tag 1 is 'broken'; expected O or B-, I-, E-, S-, L-, U- and a label"
    assert [d["detail"] for d in benchmark.dropped] == [expected]
    (folder / "eng" / "test.conll").unlink()
    (folder / "eng" / "test.iob2").write_bytes(b"# text = Oslo!\r\n1\tOslo\tB-LOC\t-\r\n2\t!\tO\t-\r\n\r\n1\tx\r\n")
    uner = read(folder, tokens=1, tags=2)
    assert uner.passages[0].text == "Oslo!" and uner.passages[0].mention(uner.passages[0].entities[0]) == "Oslo"
    assert "expected a token in column 1 and a tag in column 2" in uner.dropped[0]["detail"]


def test_the_text_that_a_set_keeps_is_used_where_it_fits(folder):
    tokens, tags = ["Oslo", ",", "2004"], ["B-LOC", "O", "O"]
    write(folder, [{"tokens": tokens, "ner_tags": tags, "text": text} for text in ("Oslo ,2004", "Oslo, in 2004", 7)])
    assert [p.text for p in read(folder).passages] == ["Oslo ,2004", "Oslo, 2004", "Oslo, 2004"]
    rng = random.Random(7)
    for _ in range(500):
        tokens = [rng.choice(TOKENS) for _ in range(rng.randint(1, 8))]
        text, offsets = join_tokens(tokens, "Latn")
        placed = place_tokens(text, tokens)
        assert [text[a:b] for a, b in placed] == [text[a:b] for a, b in offsets]
    assert place_tokens("x " * 200_000, ["x"] * 200_000)[-1] == (399_998, 399_999)


LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in the hub's layout: tables by config and split, tags numbered with their names beside them."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    tag = datasets.List(datasets.ClassLabel(names=LABELS))

    def make(rows: dict, *, config: str = "swa", branch: bool = False, tags=tag, columns=("tokens", "ner_tags")) -> str:
        folder = tmp_path / "hub" / "a-set"
        place = folder / config / "test" / "0000.parquet" if branch else folder / config / "test-00000-of-00001.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        text = datasets.Value("string")
        features = {columns[0]: datasets.List(text), columns[1]: tags}
        features |= {column: text for column in rows if column not in columns}
        datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(place)
        if not branch:
            files = f"data_files:\n  - {{split: test, path: {config}/test-*}}"
            card = f"---\nconfigs:\n- config_name: {config}\n  {files}\n---\n"
            (folder / "README.md").write_text(card, encoding="utf-8")
        return str(folder)

    return make


ROWS = {"tokens": [["Ada", "Lovelace"], ["Oslo", "!"], ["x"], None], "ner_tags": [[1, 2], [3, 0], [], None]}


def test_a_set_of_the_hub_with_named_numbers(hub):
    for set_, branch in ({}, False), ({"revision": "refs/convert/parquet"}, True):
        address = hub(ROWS, branch=branch)
        entry = {"name": "x", "hub": address, "config": "{code}", "codes": {"swh": "swa"}, "language": "swh", **set_}
        benchmark = read_benchmark(entry)
        assert [(p.text, [(p.mention(e), e.label) for e in p.entities]) for p in benchmark.passages] == [
            ("Ada Lovelace", [("Ada Lovelace", "person")]),
            ("Oslo!", [("Oslo", "location")]),
        ]
        place = "/swa/test" + (" at refs/convert/parquet" if branch else "")
        assert [d["detail"].removeprefix(address) for d in benchmark.dropped] == [
            f"{place}:3: 1 tokens and 0 ner_tags; expected as many of both",
            f"{place}:4: tokens: expected a list of texts, found None",
        ]


def test_known_sets_read_from_the_hubs_layout(hub):
    """The rows of assets/benchmarks.yaml against tables as these sets are laid out there."""
    import datasets

    numbers = datasets.List(datasets.Value("int64"))
    columns = ("words", "ner")
    thai = hub({"words": [["นาย", " ", "จตุพร"]], "ner": [[1, 2, 2]]}, config="default", columns=columns)
    benchmark = read_benchmark({"name": "thai", "set": "thainer-2.2", "language": "tha", "path": "", "hub": thai})
    (passage,) = benchmark.passages
    assert (passage.text, passage.entities[0].label) == ("นาย จตุพร", "person")

    rows = {"tokens": [["Oslo"], ["狗", "叫"]], "ner_tags": [[5], [7, 0]], "lang": ["no", "zh"]}
    nerd = {"set": "multinerd", "path": "", "hub": hub(rows, config="all", tags=numbers)}
    benchmark = read_benchmark({"name": "nerd", "language": "cmn", **nerd})
    assert [(p.text, p.entities[0].label) for p in benchmark.passages] == [("狗叫", "animal")]
    assert not benchmark.dropped

    rows = {"tokens": [["Oslo"], ["Oslo"]], "ner_tags": [[31], [5]], "lang": ["en", "en"]}
    nerd["hub"] = hub(rows, config="all", tags=numbers)
    benchmark = read_benchmark({"name": "n", "language": "eng", **nerd})
    assert "31 is the number of no tag; this set names 31" in benchmark.dropped[0]["detail"]


@pytest.mark.parametrize(
    ("name", "language", "tag", "words"),
    [
        ("masakhaner1", "swh", "B-DATE", "date"),
        ("panx", "tha", "B-ORG", "organization"),
        ("multiconer1", "ben", "B-CW", "creative work"),
        ("multiconer2", "eng", "B-Medication/Vaccine", "medication or vaccine"),
        ("dynamicner", "jpn", "B-Music_Genre", "music genre"),
        ("multinerd", "eng", "B-MYTH", "mythological entity"),
    ],
)
def test_each_known_set_has_its_words(folder, monkeypatch, name, language, tag, words):
    monkeypatch.setenv("FINERWEB_TEST_DATA", str(folder))
    place = folder / "ner" / name / language
    place.mkdir(parents=True)
    (place / "test.jsonl").write_text(json.dumps({"tokens": ["x", "y"], "ner_tags": [tag, "O"]}), encoding="utf-8")
    benchmark = read_benchmark({"name": "mine", "set": name, "language": language})
    assert benchmark.labels == [words]


def test_what_the_hub_does_not_have_is_said(hub):
    address = hub(ROWS)
    for change, message in (
        ({"config": "xyz"}, "xyz/test cannot be had from the hub"),
        ({"split": "dev"}, "dev cannot be had"),
        ({"tags": "tags"}, "has no column tags; it has tokens, ner_tags"),
    ):
        with pytest.raises(ValueError, match=message):
            read_benchmark({"name": "x", "hub": address, "config": "swa", "language": "swh", **change})
    with pytest.raises(ValueError, match="benchmark 'x': nobody/nothing/test cannot be had from the hub"):
        read_benchmark({"name": "x", "hub": "nobody/nothing", "language": "swh"})
    entry = {"name": "x", "hub": "a/b", "language": "swh"}
    assert len({benchmark_fingerprint(entry | {"revision": revision}) for revision in "12"}) == 2


def test_students_meet_their_own_languages():
    thai = {"name": "sample-tha"}
    assert is_met(thai, {"name": "a", "languages": ["tha"]}, ["eng"]) and is_met(thai, {"name": "a"}, ["tha"])
    assert not is_met(thai, {"name": "a"}, ["eng"])
    assert not is_met(thai, {"name": "a", "languages": ["eng"], "zero_shot": False}, ["tha"])
    with pytest.raises(ValueError, match="zero_shot is 'yes'"):
        is_met(thai, {"name": "a", "zero_shot": "yes"}, ["tha"])


def test_a_test_data_folder_may_be_named_by_the_environment(folder, monkeypatch):
    write(folder, [GOOD])
    monkeypatch.setenv("FINERWEB_TEST_DATA", str(folder))
    assert len(read_benchmark({"name": "x", "path": "${FINERWEB_TEST_DATA}", "language": "eng"}).passages) == 1


def test_the_stage_writes_its_set_and_what_it_could_not_read(folder, root):
    import papermill
    import pyarrow.parquet as pq

    write(folder, [GOOD, b"broken", GOOD])
    tables = []
    for run in ("a", "b"):
        benchmark = {"name": "mine", "path": str(folder), "language": "eng"}
        parameters = dict(home=str(folder / "runs"), run=run, benchmark=benchmark)
        notebook, copy = root / "nbs" / "30_benchmarks.ipynb", folder / f"{run}.ipynb"
        papermill.execute_notebook(notebook, str(copy), parameters=parameters, progress_bar=False)
        output = folder / "runs" / run / "30_benchmarks" / "mine"
        tables.append({file.name: file.read_bytes() for file in sorted(output.glob("*.parquet"))})
    assert list(tables[0]) == ["dropped.parquet", "rows.parquet"] and tables[0] == tables[1]
    assert [row["text"] for row in pq.read_table(output / "rows.parquet").to_pylist()] == ["Ada Lovelace wrote."] * 2
    assert pq.read_table(output / "dropped.parquet").to_pylist()[0]["detail"].startswith("test.jsonl.gz:2: ")
    counts = json.loads((output / "meta.json").read_text(encoding="utf-8"))["counts"]
    assert (counts["passages"], counts["entities"], counts["unreadable"], counts["labels"]) == (2, 2, 1, ["person"])


@pytest.mark.parametrize("code", ["mr", "mar", "mar_Deva", "Marathi", "mr-IN"])
def test_a_language_may_stand_there_by_any_code(code):
    entry = benchmark_entry({"name": "x", "path": "x", "language": code})
    assert (entry["language"], entry["script"]) == ("mar", "Deva")
    assert is_met(entry, {"name": "a", "languages": ["mar"]}, [])


def test_codes_of_iso_639_2_and_macrolanguages():
    expected = {"ger": "deu", "chi": "cmn", "zho": "cmn", "swa": "swh", "ara": "arb", "per": "fas", "eng_Latn": "eng"}
    assert {c: benchmark_entry({"name": "x", "path": "x", "language": c})["language"] for c in expected} == expected
    own = benchmark_entry({"name": "x", "path": "x", "language": "ltz_Latn"})
    assert (own["language"], own["script"]) == ("ltz", "Latn")
    with pytest.raises(ValueError, match="language 'lb' is unknown here; write its ISO 639-3 code, and add script"):
        benchmark_entry({"name": "x", "path": "x", "language": "lb"})


def test_labels_that_no_map_knows_are_told(folder):
    tagged = lambda *tags: {"tokens": ["x"] * len(tags), "ner_tags": list(tags)}
    write(folder, [tagged("B-RIV", "B-PER", "B-WrittenWork"), tagged("B-RIV", "B-river"), b"broken"])
    benchmark = read(folder)
    assert benchmark.unmapped == {"RIV": 2, "WrittenWork": 1, "river": 1}
    told, unread = benchmark.notes
    assert "RIV (2; asked for as 'riv'), WrittenWork (1; asked for as 'written work')" in told
    assert unread.startswith("1 of 3 rows cannot be read: test.jsonl.gz:3: ")
    words = {"RIV": "river", "WrittenWork": "book", "river": "river"}
    assert not read(folder, labels=words).unmapped and read(folder, labels=words).labels == ["book", "person", "river"]


@pytest.mark.parametrize("column", ["entities", "char_spans", "spans", "label"])
def test_spans_in_each_form_and_column(folder, column):
    forms = [[0, 3, "PER"]], [{"start": 0, "end": 3, "label": "PER"}], [[0, 3]], [[0, 9, "PER"]]
    write(folder, [{"text": "Ada!", column: spans} for spans in forms])
    benchmark = read(folder)
    assert [[(p.mention(e), e.label) for e in p.entities] for p in benchmark.passages] == [[("Ada", "person")]] * 2
    assert f"expected text and a list of {column}" in benchmark.dropped[0]["detail"]
    assert len(benchmark.dropped) == 2


def test_a_file_of_two_languages_makes_two_sets(folder):
    rows = [{"lang": lang, **GOOD} for lang in ("en", "sw", "en")]
    write(folder, [*rows, GOOD, b"broken"])
    english, swahili = (read(folder, where={"lang": lang}) for lang in ("en", "sw"))
    assert [p.id for p in english.passages] == ["x-1", "x-3"] and [p.id for p in swahili.passages] == ["x-2"]
    assert "column lang of where is missing; the row has tokens, ner_tags" in english.dropped[0]["detail"]
    write(folder, rows)
    with pytest.raises(ValueError, match="has no row where {'lang': 'de'}"):
        read(folder, where={"lang": "de"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["PER"]}, "expected dict from labels to words"),
        ({"labels": {"PER": ["person"]}}, "labels has \\['person'\\] for PER; expected its words"),
        ({"labels": {"PER": " "}}, "expected its words"),
        ({"labels": {False: "number"}}, "put it in quotes"),
        ({"labels": {"B-PER": "person"}}, "write its label alone, as PER: person"),
        ({"tokens": "words"}, "found .*; name its columns in tokens and tags"),
        ({"tags": "tag"}, "column tag is missing; the row has tokens, ner_tags"),
    ],
)
def test_a_wrong_form_is_said(folder, change, message):
    write(folder, [GOOD])
    with pytest.raises(ValueError, match=message):
        read(folder, **change)


def test_a_file_of_another_kind_is_refused(folder):
    (folder / "set.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match="set.xlsx cannot be read; its ending is none of .jsonl.gz, .jsonl"):
        read(folder, path=str(folder / "set.xlsx"))
    (folder / "SET.NDJSON").write_text(json.dumps(GOOD), encoding="utf-8")
    assert len(read(folder, path=str(folder / "SET.NDJSON")).passages) == 1
