"""Where documents come from: the hub, mirrors and files of every form; shards that break, and bad input."""

import gzip
import json
import os
import random
import subprocess
import sys
import tracemalloc
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub

from finerweb.corpus import draw
from finerweb.source import documents as documents_module
from finerweb.source import files as files_module
from finerweb.source.documents import (
    WAITS,
    Document,
    Dropped,
    documents,
    random_number,
    shard_documents,
    shards,
    source_fingerprint,
)
from finerweb.source.files import Shard
from finerweb.source.shards import local_shards
from finerweb.store import Task

SWAHILI = "HuggingFaceFW/fineweb-2/data/swh_Latn/train"


def page(n: int) -> dict:
    "A row in FineWeb-2's columns."
    noise = random.Random(n)
    text = f"Ukurasa wa {n}: Nairobi ni mji mkuu wa Kenya. " + " ".join(
        noise.choice(("mji", "watu", "nchi", "bahari", "shule", "kazi")) for _ in range(80)
    )
    return {
        "text": text,
        "id": f"<urn:uuid:{n}>",
        "dump": "CC-MAIN-2024-10",
        "url": f"https://example.org/{n}",
        "date": "2024-03-01",
        "file_path": "x" * 50,
        "language": "swh",
        "language_score": 0.99,
        "language_script": "Latn",
        "top_langs": json.dumps({"swh_Latn_score": noise.random()}) * 8,
    }


def write_shards(folder: Path, *, shards: int = 4, rows: int = 40, group: int = 10) -> Path:
    "Parquet shards of `rows` pages each, with several row groups."
    folder.mkdir(parents=True)
    for s in range(shards):
        pq.write_table(
            pa.Table.from_pylist([page(s * rows + r) for r in range(rows)]),
            folder / f"{s:03}_00000.parquet",
            row_group_size=group,
        )
    return folder


@pytest.fixture
def mirror(tmp_path) -> Path:
    "A folder with the hub's repositories in it: FineWeb-2's Swahili with its neighbours, and the English ones."
    write_shards(tmp_path / SWAHILI)
    write_shards(tmp_path / "HuggingFaceFW/fineweb-2/data/swh_Latn/test", shards=1)
    write_shards(tmp_path / "HuggingFaceFW/fineweb-2/data/swh_Latn_removed/train", shards=1)
    english = [page(n) | {"text": f"Page {n} of Nairobi, the capital of Kenya.", "language": "en"} for n in range(5)]
    for name in ("fineweb", "fineweb-edu"):
        folder = tmp_path / "HuggingFaceFW" / name / "sample/10BT"
        folder.mkdir(parents=True)
        pq.write_table(
            pa.Table.from_pylist([row | {"id": f"{name}-{row['id']}"} for row in english]), folder / "000_00000.parquet"
        )
    return tmp_path


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    "The waits of this process, which are not waited."
    seconds: list[float] = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


@pytest.fixture
def hub(mirror, monkeypatch) -> Hub:
    "The hub of `mirror`, which this process takes for the real one."
    constants = pytest.importorskip("huggingface_hub.constants")
    with Hub(mirror) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


def ids(pages) -> list[str]:
    return sorted(d.id for d in pages)


# --- the hub


USER = """
import json, sys
from finerweb.source.documents import documents
edu = "hub:HuggingFaceFW/fineweb-edu"
for source, language in (("hub", "swh"), ("hub", "eng"), (edu, "eng"), (edu, "swh")):
    print(json.dumps([[d.id, d.text, d.url, d.reason] for d in documents(source, language, seed=3)]))
try:
    list(documents("hub:nobody/nothing", "swh", seed=3))
except FileNotFoundError as error:
    print(error)
print([m for m in ("datasets", "torch", "pandas") if m in sys.modules])
from datasets import load_dataset
files = {"train": "data/swh_Latn/train/*.parquet"}
streamed = load_dataset("HuggingFaceFW/fineweb-2", data_files=files, split="train", streaming=True)
print(json.dumps(sorted([row["id"], row["text"], row["url"], ""] for row in streamed)))
"""


def test_a_user_reaches_the_hub_by_its_address_and_gets_what_datasets_streams(mirror, environment, tmp_path):
    pytest.importorskip("datasets")
    with Hub(mirror) as hub:
        variables = environment | {
            "HF_ENDPOINT": hub.address,
            "HF_TOKEN": "hf_secretsecret",
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0",
        }
        process = subprocess.run(
            [sys.executable, "-c", USER], env=variables, capture_output=True, encoding="utf-8", timeout=300
        )
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    swahili, english, educated, swahili_too, streamed = (json.loads(lines[n]) for n in (0, 1, 2, 3, 6))
    assert sorted(swahili) == streamed and len(swahili) == 160 and swahili_too == swahili
    assert {name[:9] for name, *_ in english} == {"fineweb-<"} and {name[:12] for name, *_ in educated} == {
        "fineweb-edu-"
    }
    assert "nobody/nothing" in lines[4] and lines[5] == "[]"
    assert {key for *_, key in hub.asked} == {"Bearer hf_secretsecret"}
    assert (
        "hf_secret" not in process.stdout + process.stderr and "secret-signature" not in process.stdout + process.stderr
    )


def test_the_stage_reads_the_hub_and_keeps_no_key(mirror, environment, profile_file, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    profile_file(
        folder,
        languages=["swh"],
        offline=False,
        students=[],
        benchmarks=[],
        stages={"10_corpus": {"documents": 6, "pool": 40, "spread": 2}},
    )
    with Hub(mirror, {"data/swh_Latn/train/001_00000.parquet": ["500", "cut"]}) as hub:
        variables = environment | {"HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_secretsecret", "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-m", "finerweb", "run", "small.yaml", "--source", "hub", "--stages", "10_corpus"]
        process = subprocess.run(command, cwd=folder, env=variables, capture_output=True, encoding="utf-8", timeout=300)
    assert process.returncode == 0, process.stdout + process.stderr
    task = folder / "runs/small/10_corpus/swh"
    meta = json.loads((task / "meta.json").read_text())
    assert (
        meta["rows"] == 6
        and meta["counts"] == {"documents_read": 40}
        and meta["inputs"]["source"] == f"datasets/{SWAHILI}"
    )
    assert len({path for path, *_ in hub.asked}) == 2
    content = b"".join(p.read_bytes() for p in (folder / "runs").rglob("*") if p.is_file())
    assert b"hf_secret" not in content and "hf_secret" not in process.stdout + process.stderr


def test_only_the_folder_is_listed_and_only_the_columns_are_fetched(hub, mirror):
    assert len(ids(documents("hub", "swh", seed=1))) == 160
    assert {call.partition("/tree/main/")[2] for call in hub.calls if "/tree/" in call} == {"data/swh_Latn/train"}
    wanted = 0
    for path in sorted((mirror / SWAHILI).iterdir()):
        table = pq.ParquetFile(path).metadata
        columns = [table.row_group(g).column(j) for g in range(table.num_row_groups) for j in range(table.num_columns)]
        wanted += sum(c.total_compressed_size for c in columns if c.path_in_schema in ("text", "id", "url", "language"))
        wanted += min(path.stat().st_size, 65536)  # the table of contents, of which a small file is a part
    assert sum(many for _, _, many, _ in hub.asked) <= 1.1 * wanted


def test_a_mirror_gives_what_the_hub_gives(hub, mirror):
    here = list(documents(str(mirror / "HuggingFaceFW/fineweb-2"), "swh", seed=5))
    assert here == list(documents("hub", "swh", seed=5)) and len(here) == 160
    for part in ("data", "data/swh_Latn", "data/swh_Latn/train", "data/swh_Latn/train/*.parquet"):
        assert ids(documents(str(mirror / "HuggingFaceFW/fineweb-2" / part), "swh", seed=5)) == ids(here)


def test_a_repository_of_another_layout_is_read_by_names(hub, mirror):
    folder = write_shards(mirror / "me/pages/swh", shards=1, rows=3)
    (mirror / "me/pages/eng").mkdir()
    (mirror / "me/pages/eng/web.jsonl").write_text('{"text": "Nairobi is a city."}\n')
    assert [d.shard for d in documents("hub:me/pages", "swh", seed=1)] == ["swh/000_00000.parquet"] * 3
    assert [d.text for d in documents("hub:me/pages", "eng", seed=1)] == ["Nairobi is a city."]
    assert len(list(documents("hub:me/pages/swh", "swh", seed=1))) == 3 and folder.exists()


# --- what breaks


FAULTS = [
    ["500"],
    ["cut"],
    ["html"],
    ["", "", "429"],
    ["", "", "", "short"],
    ["", "", "cut", "503", "short"],
]  # one a request; the first is for the table of contents


@pytest.mark.parametrize("faults", FAULTS, ids="-".join)
def test_a_stream_that_breaks_is_resumed_without_a_loss(hub, waits, faults):
    hub.faults = {f"data/swh_Latn/train/00{s}_00000.parquet": list(faults) for s in (1, 2)}
    pages = list(documents("hub", "swh", seed=1))
    assert [d for d in pages if d.reason] == [] and ids(pages) == ids(Document(page(n)["id"], "") for n in range(160))
    assert not any(hub.faults.values()) and waits


def test_it_goes_on_at_the_row_that_was_due(hub, waits):
    name = "data/swh_Latn/train/000_00000.parquet"
    shard = next(s for s in shards("hub", "swh", seed=1) if s.name == name)
    hub.faults = {name: [""] * 3 + ["short"]}  # the table of contents, two row groups, then the break
    assert [d.row for d in shard_documents(shard, "swh")] == list(range(40))
    firsts = [first for path, first, *_ in hub.asked]
    groups = [
        pq.ParquetFile(hub.folder / "HuggingFaceFW/fineweb-2" / name)
        .metadata.row_group(g)
        .column(0)
        .dictionary_page_offset
        for g in range(4)
    ]
    again = {g: sum(first == at for first in firsts) for g, at in enumerate(groups)}
    assert again[0] == 1 and sum(again.values()) <= 6, "what had been read is not fetched again"
    assert waits == [WAITS[0]]


@pytest.mark.parametrize("fault", ["500", "cut", "short", "404", "403"])
def test_a_shard_that_stays_bad_is_recorded_and_the_rest_goes_on(hub, waits, capsys, fault):
    name = "data/swh_Latn/train/002_00000.parquet"
    hub.faults = {name: ["", "", fault, "..."]}
    hub.faults[name] = [fault, "..."]
    pages = list(documents("hub", "swh", seed=1))
    bad = [d for d in pages if d.reason]
    assert (
        [(d.id, d.reason, d.row) for d in bad] == [(name, "unreadable_file", -1)]
        and "at row 0" in bad[0].detail
        and len(pages) == 121
    )
    assert "secret-signature" not in bad[0].detail + capsys.readouterr().err
    later_waits = [s for s in waits if s in WAITS and s not in (1.0,)]
    assert later_waits == (list(WAITS[1:]) if fault not in ("404", "403") else [])


def test_a_hub_that_is_down_is_an_error_that_says_so(hub, waits, monkeypatch):
    hub.__exit__()
    with pytest.raises(ConnectionError, match="datasets/HuggingFaceFW/fineweb-2/data/swh_Latn/train cannot be listed"):
        shards("hub", "swh", seed=1)
    monkeypatch.setattr(sys.modules["huggingface_hub"].constants, "HF_HUB_OFFLINE", True)
    waits.clear()
    with pytest.raises(ConnectionError, match="offline"):
        shards("hub", "swh", seed=1)
    assert waits == []


def test_shards_here_that_are_truncated_at_any_point(tmp_path):
    folder = write_shards(tmp_path / "swh", shards=2, rows=20, group=5)
    whole = (folder / "000_00000.parquet").read_bytes()
    for at in (0, 3, 4, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        (folder / "000_00000.parquet").write_bytes(whole[:at])
        pages = list(documents(str(folder), "swh", seed=1))
        assert [d.reason for d in pages if d.reason] == ["unreadable_file"] and len(pages) == 21, at
    spoiled = bytearray(whole)
    spoiled[200:1200] = os.urandom(1000)
    (folder / "000_00000.parquet").write_bytes(spoiled)
    assert len([d for d in documents(str(folder), "swh", seed=1) if d.shard.startswith("001")]) == 20


# --- order, shares, workers


def test_the_order_of_shards_depends_on_the_seed_alone(tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "swh", shards=12, rows=1)
    names = [s.name for s in shards(str(folder), "swh", seed=1)]
    monkeypatch.setattr("os.walk", lambda top, onerror: [(str(folder), [], sorted(os.listdir(folder), reverse=True))])
    assert (
        [s.name for s in shards(str(folder), "swh", seed=1)]
        == names
        != [s.name for s in shards(str(folder), "swh", seed=2)]
    )
    assert sorted(names) == sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("form", ["parquet", "jsonl", "jsonl.gz", "txt"])
def test_every_form_can_be_begun_at_any_row(tmp_path, form):
    pages = [page(n) for n in range(23)]
    folder = tmp_path / "swh"
    folder.mkdir()
    lines = "".join(json.dumps(p) + "\n" for p in pages)
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(pages), folder / "a.parquet", row_group_size=5)
    elif form == "txt":
        for n, p in enumerate(pages):
            (folder / f"{n:03}.txt").write_text(p["text"])
    else:
        (folder / f"a.{form}").write_bytes(gzip.compress(lines.encode()) if form.endswith("gz") else lines.encode())
    [shard] = shards(str(folder), "swh", seed=1)
    whole = list(shard_documents(shard, "swh"))
    assert [d.text for d in whole] == [p["text"] for p in pages] and [d.row for d in whole] == list(range(23))
    for start in (0, 1, 5, 7, 22, 23, 99):
        assert list(shard_documents(shard, "swh", start=start)) == whole[start:]


@pytest.mark.parametrize(("pool", "spread"), [(0, 1), (1, 3), (10, 3), (24, 8), (45, 4), (500, 2)])
def test_a_pool_is_full_and_in_equal_shares_as_far_as_the_shards_reach(tmp_path, pool, spread):
    folder = tmp_path / "swh"
    folder.mkdir()
    sizes = [3, 9, 9, 9, 9, 9]
    for s, many in enumerate(sizes):
        pq.write_table(
            pa.Table.from_pylist([page(100 * s + n) for n in range(many)]), folder / f"{s}.parquet", row_group_size=2
        )
    pages = list(documents(str(folder), "swh", seed=7, pool=pool, spread=spread))
    assert len(pages) == len({d.id for d in pages}) == min(pool or 999, sum(sizes))
    if pool == 24:
        assert sorted(sum(d.shard == s.name for d in pages) for s in shards(str(folder), "swh", seed=7)) == [
            3,
            4,
            4,
            4,
            4,
            5,
        ]


def test_reading_goes_on_behind_any_row_and_reads_nothing_before_it(tmp_path, monkeypatch):
    folder, starts = write_shards(tmp_path / "swh", shards=3, rows=7), []
    (folder / "broken.parquet").write_bytes(b"PAR1")
    whole, shard_rows = list(documents(str(folder), "swh", seed=1)), documents_module.shard_rows

    def noting_rows(shard: Shard, *, start: int):
        starts.append((shard.name, start))
        return shard_rows(shard, start=start)

    assert len(whole) == 22 and sum(d.row < 0 for d in whole) == 1
    monkeypatch.setattr(documents_module, "shard_rows", noting_rows)
    for n, last in enumerate(whole):
        starts.clear()
        assert list(documents(str(folder), "swh", seed=1, after=(last.shard, last.row))) == whole[n + 1 :]
        due = [] if last.row < 0 else [(last.shard, last.row + 1)]
        assert starts == due + [(name, 0) for name in dict.fromkeys(d.shard for d in whole[n:]) if name != last.shard]
    with pytest.raises(ValueError, match=r"gone\.parquet, where reading was to go on, is no longer among the 4 files"):
        next(documents(str(folder), "swh", seed=1, after=("gone.parquet", 3)))


def test_workers_draw_what_one_draws(tmp_path):
    folder = write_shards(tmp_path / "swh", shards=5, rows=30)
    take = lambda document: ({"id": document.id}, "", "")
    whole, read = draw(documents(str(folder), "swh", seed=1), 12, take, Dropped("swh"), seed=1)
    parts = [
        draw(shard_documents(shard, "swh"), 12, take, Dropped("swh"), seed=1)[0]
        for shard in local_shards(str(folder), "swh")
    ]
    joined = sorted((row for part in parts for row in part), key=lambda row: random_number(1, row["id"]))
    assert read == 150 and whole == joined[:12]


def test_the_fingerprint_knows_a_changed_file(tmp_path):
    (tmp_path / "plain").mkdir()
    for n in range(3):
        (tmp_path / f"plain/{n}.txt").write_text("Nairobi ni mji.")
    before = source_fingerprint(str(tmp_path), "swh")
    assert source_fingerprint(str(tmp_path), "swh") == before
    (tmp_path / "plain/1.txt").write_text("Oslo ni mji.")
    assert source_fingerprint(str(tmp_path), "swh") != before


# --- bad input


GOOD = "Nairobi ni mji mkuu wa Kenya, na Dodoma ni mji mkuu wa Tanzania."
SWISS = "Zürich, Genève, Grüße, Möbel, Bücher, Käse, Straße und Äpfel für Österreich. "
PLAIN = {
    "utf8": (GOOD.encode(), ""),
    "mark": (b"\xef\xbb\xbf" + GOOD.encode(), ""),
    "utf16": (GOOD.encode("utf-16"), ""),
    "utf32": (GOOD.encode("utf-32"), ""),
    "only-a-mark": (b"\xef\xbb\xbf", "empty"),
    "utf16-be": (b"\xfe\xff" + GOOD.encode("utf-16-be"), ""),
    "utf16-bare": (GOOD.encode("utf-16-le"), "binary"),
    "latin": ((SWISS * 9).encode("latin-1"), "encoding"),
    "mixed": ((GOOD * 50).encode() + "né".encode("latin-1"), ""),
    "empty": (b"", "empty"),
    "cut": (GOOD.encode("utf-16")[:-1], ""),
    "picture": (bytes(range(256)) * 20, "binary"),
    "large": (GOOD.encode() * 150_000, "too_long"),
}


def test_plain_text_in_every_encoding(tmp_path):
    for name, (content, _) in PLAIN.items():
        (tmp_path / f"{name}.txt").write_bytes(content)
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(GOOD.encode("utf-16")))
    (tmp_path / "broken.txt.gz").write_bytes(gzip.compress(GOOD.encode())[:-12])
    (tmp_path / "away.txt").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe.txt")
    pages = {Path(d.id).name.partition(".")[0]: d for d in documents(str(tmp_path), "swh", seed=1)}
    expected = (
        {name: reason for name, (_, reason) in PLAIN.items()}
        | {"packed": ""}
        | dict.fromkeys(("broken", "away", "pipe"), "unreadable_file")
    )
    assert {name: d.reason for name, d in pages.items()} == expected
    assert all(pages[n].text == GOOD for n in ("utf8", "mark", "utf16", "utf32", "utf16-be", "packed"))
    assert (
        "outside of" in pages["away"].detail
        and "root:" not in pages["away"].text
        and pages["mixed"].text.endswith("n\ufffd")
    )


def test_lines_of_every_kind(tmp_path):
    deep, large = '{"text": ' + "[" * 200_000, json.dumps({"text": "neno " * 2_000_000, "id": "large"})
    lines = [
        json.dumps({"text": GOOD, "id": "good"}),
        "",
        deep,
        "[1, 2]",
        "null",
        "{",
        '{"id": "no-text", "body": "x"}',
        '{"text": 5, "id": "number"}',
        large,
        json.dumps({"text": GOOD, "id": {"a": ["b" * 900]}}),
        json.dumps({"text": GOOD, "id": "\ud800\0", "url": "\udfff"}),
        json.dumps({"text": GOOD, "id": "x", "language": ["sw"]}),
        '{"text": "' + GOOD + '", "id": ' + "9" * 5000 + "}",
        "\ufeff" + json.dumps({"text": GOOD, "id": "mark"}),
        json.dumps({"text": GOOD, "id": "last", "language": "sw-KE", "fault": ["x", "y"]}),
    ]
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding=encoding)
        pages = {d.row: d for d in documents(str(tmp_path), "swh", seed=1)}
        assert {n: d.reason for n, d in pages.items()} == {
            0: "",
            2: "no_text",
            3: "no_text",
            4: "no_text",
            5: "no_text",
            6: "no_text",
            7: "no_text",
            8: "too_long",
            9: "",
            10: "",
            12: "no_text",
            13: "",
            14: "",
        }
        assert (pages[9].id, pages[10].id, pages[10].url, pages[13].id) == (
            "a.jsonl:9",
            "\ufffd\ufffd",
            "\ufffd",
            "mark",
        )
        assert "only id, body" in pages[6].detail and random_number(1, pages[10].id) >= 0


def test_a_line_without_an_end_and_a_bomb_are_read_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "LONGEST_LINE", 100_000)
    good = json.dumps({"text": GOOD, "id": "good"}) + "\n"
    (tmp_path / "line.jsonl").write_text('{"text": "' + "x" * 5_000_000 + '"}\n' + good)
    with gzip.open(tmp_path / "bomb.jsonl.gz", "wb", compresslevel=1) as file:
        file.write(good.encode())
        for _ in range(4):
            file.write(b"0" * 10_000_000)
    assert (tmp_path / "bomb.jsonl.gz").stat().st_size < 4_000_000
    tracemalloc.start()
    pages = list(documents(str(tmp_path), "swh", seed=1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sorted((d.shard, d.row, d.reason) for d in pages) == [
        ("bomb.jsonl.gz", -1, "unreadable_file"),
        ("bomb.jsonl.gz", 0, ""),
        ("line.jsonl", 0, "too_long"),
        ("line.jsonl", 1, ""),
    ]
    assert peak < 10_000_000
    (tmp_path / "plain").mkdir()
    with gzip.open(tmp_path / "plain/bomb.txt.gz", "wb", compresslevel=1) as file:
        file.writelines(b"0" * 1_000_000 for _ in range(20))
    tracemalloc.start()
    assert [d.reason for d in documents(str(tmp_path / "plain"), "swh", seed=1)] == ["too_long"]
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_parquet_of_every_kind(tmp_path):
    texts = [GOOD] * 3
    binary = pa.array([GOOD.encode(), b"\xff\xfe" * 200, None], pa.binary())
    spoiled = pa.StringArray.from_buffers(
        3, pa.array([0, 4, 8, 12], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xff\xff\xffgood\xff\xffok")
    )
    tables = {
        "large": {"text": pa.array(texts, pa.large_string())},
        "dictionary": {"text": pa.array(texts).dictionary_encode()},
        "binary": {"text": binary},
        "number": {"text": [1, 2, 3]},
        "list": {"text": [["a"], ["b"], []]},
        "other": {"body": texts},
        "none": {"text": pa.array([], pa.string())},
        "spoiled": {"text": spoiled},
        "ids": {"text": texts, "id": [7, 7, None], "language": [1, 2, None]},
        "nested": {"text": pa.array([{"text": GOOD}])},
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    reasons_of: dict[str, list[str]] = {name: [] for name in tables}
    for d in documents(str(tmp_path), "swh", seed=1):
        reasons_of[d.shard.partition(".")[0]].append(d.reason)
    unreadable = dict.fromkeys(("number", "list", "other", "nested"), ["unreadable_file"])
    assert reasons_of == unreadable | {
        "large": [""] * 3,
        "dictionary": [""] * 3,
        "binary": ["", "encoding", "no_text"],
        "none": [],
        "spoiled": ["", "", ""],
        "ids": [""],
    }


def test_a_text_that_is_repeated_in_a_small_parquet_file_does_not_fill_the_memory(tmp_path):
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array(["neno " * 190_000]))
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 2_000_000
    before, most = pa.total_allocated_bytes(), 0
    for _ in islice(documents(str(tmp_path), "swh", seed=1), 70):
        most = max(most, pa.total_allocated_bytes() - before)
    assert 1_000_000 < most < 300_000_000


def test_the_language_column_and_the_name_of_the_file(tmp_path):
    rows = [
        {"text": GOOD, "id": f"{n}", "language": tag}
        for n, tag in enumerate(("swh", "sw", "SWH", "swh_Latn", "Swahili", "sw-TZ", "", None, "en", "deu_Latn"))
    ]
    write = lambda name, some: (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in some))
    write("web.jsonl", rows)
    assert ids(documents(str(tmp_path), "swh", seed=1)) == [str(n) for n in range(8)]
    assert ids(documents(str(tmp_path), "deu", seed=1)) == ["6", "7", "9"]
    (tmp_path / "web.jsonl").rename(tmp_path / "swh.jsonl")
    pages = {d.id: d for d in documents(str(tmp_path), "swh", seed=1)}
    assert (
        [n for n, d in pages.items() if d.reason] == ["8", "9"]
        and pages["9"].reason == "other_language"
        and "'deu-latn'" in pages["9"].detail
    )
    (tmp_path / "swh.jsonl").unlink()
    write("web.jsonl", rows[8:])
    assert [(d.id, d.reason, d.detail) for d in documents(str(tmp_path), "swh", seed=1)] == [
        ("web.jsonl", "other_language", "none of its rows is swh; its language column has en, deu-latn")
    ]


def test_links_and_folders(tmp_path):
    inside, outside = tmp_path / "pages", tmp_path / "elsewhere"
    for folder in (inside / "a/b/c", inside / ".cache", outside):
        folder.mkdir(parents=True)
        (folder / "web.jsonl").write_text(json.dumps({"text": GOOD, "id": folder.name}) + "\n")
    (inside / "loop").symlink_to(inside)
    (inside / "away").symlink_to(outside)
    (inside / "away.jsonl").symlink_to(outside / "web.jsonl")
    (inside / "near.jsonl").symlink_to(inside / "a/b/c/web.jsonl")
    (inside / "gone.jsonl").symlink_to(inside / "nowhere")
    os.mkfifo(inside / "pipe.jsonl")
    (inside / "folder.jsonl").mkdir()
    pages = {d.shard: d for d in documents(str(inside), "swh", seed=1)}
    assert {n: d.reason for n, d in pages.items() if not d.reason} == {"a/b/c/web.jsonl": "", "near.jsonl": ""}
    assert {n for n, d in pages.items() if d.reason == "unreadable_file"} == {
        "away",
        "away.jsonl",
        "gone.jsonl",
        "pipe.jsonl",
    }
    assert all("outside of" in pages[n].detail for n in ("away", "away.jsonl"))
    assert ids(documents(f"{inside}/a/**/*.jsonl", "swh", seed=1)) == ["c"] and ids(
        documents(str(inside / "a/b/c/web.jsonl"), "swh", seed=1)
    ) == ["c"]
    snapshot, blobs = tmp_path / "datasets--x/snapshots/123", tmp_path / "datasets--x/blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "abc").write_text((outside / "web.jsonl").read_text())
    (snapshot / "web.jsonl").symlink_to("../../blobs/abc")
    assert ids(documents(str(snapshot), "swh", seed=1)) == ["elsewhere"]


def test_the_source_may_lie_in_a_folder_named_after_a_language(tmp_path):
    folder = tmp_path / "tha" / "pages"
    folder.mkdir(parents=True)
    for name in ("tha", "swh", "web", "dev"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"text": GOOD, "id": name}) + "\n")
    assert ids(documents(str(folder), "tha", seed=1)) == ["tha"] and ids(documents(str(folder), "fin", seed=1)) == [
        "dev",
        "web",
    ]


def test_what_is_dropped_is_counted_beyond_what_is_kept(tmp_path):
    dropped = Dropped("swh", most=3)
    pages = [Document(f"p{n}", "x" * 9000, reason="binary") for n in range(50)] + [
        Document("same", "y"),
        Document("same", "y"),
    ]
    rows, read = draw(pages, 5, lambda d: ({"id": d.id}, "", ""), dropped, seed=1)
    assert (
        (len(rows), read) == (1, 52)
        and dropped.counts == {"binary": 50, "duplicate_id": 1}
        and len(dropped.rows()) == 4
    )
    task = Task(str(tmp_path), "run", "10_corpus", ("swh",), parameters={})
    task.write([], dropped=dropped.rows(), reasons=dropped.counts)
    meta = json.loads((task.folder / "meta.json").read_text())
    assert meta["dropped"] == {"binary": 50, "duplicate_id": 1}
    table = pq.read_table(task.folder / "dropped.parquet").to_pylist()
    assert len(table) == 4 and max(len(r["text"]) for r in table) == 2000


def test_nothing_can_be_read(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="none of the 3 files of the source can be read; the last is .*parquet"):
        list(documents(str(tmp_path), "swh", seed=1))
    with pytest.raises(ValueError, match="expected 'hub', 'hub:OWNER/NAME'"):
        shards("hub:fineweb", "swh", seed=1)
    assert (
        list(shard_documents(Shard(str(tmp_path / "gone.jsonl"), "gone.jsonl"), "swh"))[0].reason == "unreadable_file"
    )
