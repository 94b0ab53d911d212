"""What is wrong with words, profiles, sources, disks and folders is said clearly; nothing finished is lost, and the
exit code tells."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import LIGHT_FILTER
from typer.testing import CliRunner

from finerweb.data import asset
from finerweb.runner.cli import app
from finerweb.runner.stages import check_parameters

DONE, FAILED, WRONG = 0, 1, 2
LEXICON = {"name": "lexicon", "kind": "weak"}


def sample(language: str) -> list[dict]:
    lines = (asset("sample") / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def write_lines(path: Path, rows: list[dict | str | bytes]) -> Path:
    "Rows as JSONL; a text or bytes are a line as they are."
    lines = []
    for row in rows:
        line = json.dumps(row) if isinstance(row, dict) else row
        lines.append(line.encode() if isinstance(line, str) else line)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def write_parquet(path: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def wrong(tmp_path, monkeypatch, profile_file):
    """`wrong(*words)`: the one line on stderr of a command that must end with exit code 2 and write nothing.
    `small.yaml` lies in its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINERWEB_HOME", raising=False)
    profile_file(tmp_path)

    def call(*words: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        ended = CliRunner().invoke(app, [str(w) for w in words])
        assert ended.exception is None or isinstance(ended.exception, SystemExit), repr(ended.exception)
        assert ended.exit_code == WRONG, ended.output
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        assert ended.stderr.startswith("finerweb: ") and ended.stderr.count("\n") == 1
        return ended.stderr

    return call


# --- wrong words


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("dmeo",), "profile 'dmeo' is not known; did you mean demo?"),
        (("nothing.yaml",), "profile 'nothing.yaml' is not known"),
        (("demo", "--languages", "swa"), "swa"),
        (("demo", "--languages", "swhi"), "did you mean swh"),
        (("demo", "--languages", "eng,xx"), "xx"),
        (("demo", "--stages", "12_fliter"), "stage '12_fliter' is not known; did you mean 12_filter?"),
        (("demo", "--stages", "zzz"), "there is 30_benchmarks, 10_corpus"),
        (
            ("demo", "--stages", "15_align/eng/lexikon"),
            "15_align: 'eng/lexikon' is not known; did you mean eng/lexicon",
        ),
        (
            ("demo", "--set", "13_select.treshold=0.5"),
            "parameter of 13_select 'treshold' is not known; did you mean threshold?",
        ),
        (("demo", "--set", "13_selct.threshold=0.5"), "did you mean 13_select?"),
        (("demo", "--set", "13_select.passages=many"), "13_select.passages must be int, found 'many' (str)"),
        (("demo", "--set", "13_select.passages=2.5"), "13_select.passages must be int, found 2.5 (float)"),
        (("demo", "--set", "13_select.passages=true"), "13_select.passages must be int, found True (bool)"),
        (("demo", "--set", "13_select.passages="), "13_select.passages must be int, found None"),
        (("demo", "--set", "13_select.skip_rated=1"), "13_select.skip_rated must be bool, found 1 (int)"),
        (("demo", "--set", "13_select.passages"), "expected stage.parameter=value"),
        (("demo", "--set", "passages=3"), "expected stage.parameter=value"),
        (("demo", "--set", "13_select.passages=[1"), "no YAML"),
        (("demo", "--set", "10_corpus.home=elsewhere"), "10_corpus.home"),
        (("demo", "--set", "10_corpus.run=elsewhere"), "10_corpus.run"),
        (("demo", "--set", "10_corpus.language=swh"), "10_corpus.language"),
        (("small.yaml", "--set", "33_binder.student=other"), "33_binder.student"),
        (("demo", "--run", "../outside"), "'../outside' cannot name a folder"),
        (("demo", "--run", ".."), "'..' cannot name a folder"),
        (("demo", "--run", "/etc"), "'/etc' cannot name a folder"),
        (("demo", "--run", "a b"), "'a b' cannot name a folder"),
        (("demo", "--source", "nowhere/*.parquet"), "source 'nowhere/*.parquet': no file ends in .parquet"),
        (("demo", "--source", "."), "no file ends in .parquet"),
    ],
)
def test_a_wrong_word_is_refused_before_anything_is_done(wrong, words, expected):
    assert expected in wrong("run", *words)


def test_wrong_words_have_exit_code_2_in_a_process_too(finerweb, tmp_path):
    commands = {
        ("run", "demo", "--languages", "xyz"): "xyz",
        ("run", "demo", "--nothing"): "No such option",
        ("run", "demo", "--workers", "two"): "Invalid value for '--workers'",
        ("predict", "nowhere", "--labels", "person", "text"): "no student in 'nowhere'",
        ("status",): "no run",
    }
    for words, expected in commands.items():
        ended = finerweb(tmp_path, *words)
        assert ended.returncode == WRONG and expected in ended.stderr, ended.stderr
        assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"langauges": ["eng"]}, "field 'langauges' is not known; did you mean languages?"),
        ({"languages": []}, "has no languages"),
        ({"languages": "eng"}, "languages"),
        ({"languages": [5]}, "languages"),
        ({"languages": None}, "languages"),
        ({"workers": "two"}, "workers"),
        ({"workers": 0}, "workers"),
        ({"source": 5}, "source"),
        ({"offline": "yes"}, "offline"),
        ({"stages": ["10_corpus"]}, "stages"),
        ({"stages": {"10_corpus": 5}}, "10_corpus"),
        ({"stages": {"10_corpsu": {}}}, "did you mean 10_corpus?"),
        ({"stages": {"13_select": {"passages": [4]}}}, "13_select.passages must be int, found [4] (list)"),
        ({"teachers": "lexicon"}, "teachers"),
        ({"teachers": [LEXICON]}, "two or more"),
        ({"teachers": [LEXICON] * 2}, "a name of its own"),
        ({"teachers": [LEXICON, {"kind": "weak"}]}, "needs a name"),
        ({"teachers": [LEXICON, {"name": "oracle", "kind": "divine"}]}, "is of kind 'divine'"),
        (
            {"teachers": [LEXICON, {"name": "../../etc", "kind": "weak", "method": "patterns"}]},
            "'../../etc' cannot name a folder",
        ),
        ({"teachers": [LEXICON, {"name": 5, "kind": "weak", "method": "patterns"}]}, "name"),
        ({"students": [{"name": "../x", "encoder": "char", "languages": ["swh"]}]}, "'../x' cannot name a folder"),
        ({"students": [{"name": "x", "encoder": "char", "languages": ["swh"], "stesp": 3}]}, "did you mean steps?"),
        ({"students": [{"name": "x", "encoder": "char", "languages": ["tha"]}]}, "tha"),
        ({"benchmarks": [{"name": "a/b"}]}, "'a/b' cannot name a folder"),
    ],
)
def test_a_wrong_profile_is_refused_before_anything_is_done(wrong, tmp_path, profile_file, changes, expected):
    profile_file(tmp_path, "wrong", **changes)
    assert expected in wrong("run", "wrong.yaml")


NO_PROFILES = [b"", b"[1, 2]", b"just words", b"languages: [eng", b"\xff\xfe\x00"]
NO_PROFILES += [b"a: !!python/object/apply:os.system ['true']"]


@pytest.mark.parametrize("text", NO_PROFILES)
def test_a_profile_that_is_none_is_refused(wrong, tmp_path, text):
    (tmp_path / "wrong.yaml").write_bytes(text)
    assert "wrong.yaml" in wrong("run", "wrong.yaml")


def test_a_stage_that_the_profile_has_nothing_for_is_refused(wrong, tmp_path, profile_file):
    profile_file(tmp_path, "bare", students=[], benchmarks=[])
    assert "33_binder" in wrong("run", "bare.yaml", "--stages", "33_binder")


# --- sources that cannot be read, and tasks that fail


def test_each_language_fails_for_its_own_reason_and_the_others_go_on(finerweb, profile_file, tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    profile_file(tmp_path, languages=["eng", "fin", "swh", "tha"], students=[], benchmarks=[])
    write_lines(pages / "eng.jsonl", [r for r in sample("eng") if len(r["text"]) > 400][:8])
    write_parquet(pages / "swh.parquet", [{"body": r["text"], "id": r["id"]} for r in sample("swh")[:3]])
    (pages / "fin.parquet").write_bytes(b"PAR1 this is no parquet PAR1")
    ended = finerweb(tmp_path, "run", "small.yaml", "--source", "pages", "--stages", "11_rate,12_filter")
    assert ended.returncode == FAILED, ended.stdout + ended.stderr
    errors = dict(re.findall(r"^(10_corpus (?:fin|swh|tha)): (.*)$", ended.stdout, re.MULTILINE))
    no_text = "swh.parquet has no column 'text', only body, id; if 'body' is the text, add --text-column body"
    assert no_text in errors["10_corpus swh"]
    assert "none of the 1 files of the source can be read" in errors["10_corpus fin"]
    assert "fin.parquet" in errors["10_corpus fin"]
    assert "no usable document of tha (no document at all)" in errors["10_corpus tha"]
    pattern = r"^(\d) tasks wait for 10_corpus (fin|swh|tha), which failed: (.*)$"
    waiting = re.findall(pattern, ended.stdout, re.MULTILINE)
    assert sorted((code, int(count)) for count, code, _ in waiting) == [("fin", 3), ("swh", 2), ("tha", 2)]
    assert "12_filter" in next(labels for _, code, labels in waiting if code == "fin")
    assert "not begun" not in ended.stdout
    run = tmp_path / "runs" / "small"
    finished_folders = {p.parent.relative_to(run).as_posix() for p in run.rglob("meta.json")}
    assert finished_folders == {"10_corpus/eng", "11_rate/eng/lexicon", "11_rate/eng/patterns"}
    assert "10 of 13 tasks are not done" in ended.stdout
    before = {p: p.read_bytes() for p in run.rglob("meta.json")}

    (pages / "fin.parquet").unlink()  # the cause is mended for one of them; what is done is not done again
    write_parquet(pages / "swh.parquet", sample("swh"))
    words = ("--source", "pages", "--stages", "10_corpus", "--languages", "eng,swh")
    ended = finerweb(tmp_path, "run", "small.yaml", *words)
    assert ended.returncode == DONE
    assert "done 10_corpus swh" in ended.stdout and "done 10_corpus eng" not in ended.stdout
    assert before.items() <= {p: p.read_bytes() for p in run.rglob("meta.json")}.items()


def spoil(output: Path) -> None:
    "Makes a finished task fail when it is done again: its output is short, and a file stands where its work would go."
    (output / "rows.parquet").write_bytes(b"short")
    (output / ".incoming").write_text("in the way")


def meta_of(run: Path, stage: str) -> dict:
    return json.loads((run / stage / "meta.json").read_text(encoding="utf-8"))


def test_what_fails_stops_neither_the_dataset_nor_the_figures_and_tables(finished, finerweb, profile_file, tmp_path):
    folder, _ = finished
    shutil.copytree(folder / "runs", tmp_path / "runs")
    run, words = tmp_path / "runs" / "small", ("run", "small.yaml", "--stages", "51_tables,50_figures")
    lost = {"name": "lost", "path": "nowhere", "language": "swh"}
    profile_file(tmp_path, benchmarks=[{"name": "sample-swh"}, lost])
    for output in ("18_sentences/swh", "19_judge/eng"):
        spoil(run / output)
    ended = finerweb(tmp_path, *words)
    assert ended.returncode == FAILED, ended.stdout + ended.stderr
    failures = [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("failed ")]
    assert failures[0] == "30_benchmarks", "a test set that cannot be had is told first"
    assert set(failures) == {"30_benchmarks", "18_sentences", "19_judge"}
    (waiting,) = re.findall("4 tasks wait for 18_sentences swh, which failed: (.*)", ended.stdout)
    expected = {"33_binder tiny", "35_evaluate tiny/sample-swh", "35_evaluate tiny/lost", "40_confidence"}
    assert set(waiting.split(", ")) == expected
    assert "benchmark 'lost': no data" in ended.stdout
    missing = {stage: meta_of(run, stage)["missing"] for stage in ("20_publish", "50_figures", "51_tables")}
    assert set(missing["20_publish"]) == {"18_sentences/swh", "19_judge/eng", "30_benchmarks/lost"}
    assert "FileExistsError" in missing["20_publish"]["18_sentences/swh"]
    students = {"33_binder/tiny", "35_evaluate/tiny/sample-swh", "35_evaluate/tiny/lost"}
    assert set(missing["50_figures"]) == {"18_sentences/swh", "19_judge/eng", "40_confidence"} | students
    assert missing["51_tables"]["35_evaluate/tiny/sample-swh"].startswith("not begun: needs ")
    variant = run / "20_publish" / "merged-english-passages"
    assert sorted(p.name for p in variant.iterdir()) == ["CITATION.cff", "README.md", "croissant.json", "eng"]
    card = (variant / "README.md").read_text()
    assert "18_sentences/swh: FileExistsError" in card and "30_benchmarks" not in card and "sample-swh" in card
    assert (run / "50_figures" / "types.png").is_file() and (run / "51_tables" / "table3_datasets.md").is_file()
    notebook = (run / "50_figures" / "notebook.ipynb").read_text(encoding="utf-8")
    assert "missing: 19_judge/eng: FileExistsError" in notebook

    profile_file(tmp_path)  # what was in the way is taken away
    for output in ("18_sentences/swh", "19_judge/eng"):
        (run / output / ".incoming").unlink()
    ended = finerweb(tmp_path, *words)
    assert ended.returncode == DONE, ended.stdout + ended.stderr
    assert not any("missing" in meta_of(run, stage) for stage in missing)
    assert not [p for p in run.rglob("error.txt") if "lost" not in p.parts]
    assert (run / "50_figures" / "students.png").is_file() and (variant / "swh" / "train.parquet").is_file()


@pytest.mark.parametrize("profile", sorted(p.stem for p in asset("profiles").glob("*.yaml")))
def test_every_packaged_profile_can_be_looked_at_on_a_bare_machine(profile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("FINERWEB_") or n.endswith(("_KEY", "_TOKEN", "_PROJECT"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    ended = CliRunner().invoke(app, ["run", profile, "--dry-run"])
    assert ended.exit_code == DONE, ended.output
    assert "51_tables" in ended.output and not list(tmp_path.iterdir())
    if profile == "paper":
        assert "would fail" not in ended.output, "the paper's test sets are on the hub"
        assert "thainer-2.2" in ended.output
    if profile == "real":
        assert "10_corpus arb would fail" in ended.output, "it wants a source"


def test_a_number_that_yaml_reads_as_a_text_is_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for written in ("3e-5", "1E2", "-2.5e+3"):
        assert check_parameters("33_binder", {"encoder_rate": written}) == {"encoder_rate": float(written)}
    with pytest.raises(ValueError, match="must be float, found 'fast'"):
        check_parameters("33_binder", {"encoder_rate": "fast"})


def test_a_run_does_not_read_its_own_outputs(finerweb, profile_file, tmp_path):
    write_lines(tmp_path / "pages.jsonl", [r for r in sample("swh") if len(r["text"]) > 400][:6])
    profile_file(tmp_path, languages=["swh"], students=[], benchmarks=[])
    for _ in range(2):  # the second time its outputs are there from the beginning
        done = finerweb(tmp_path, "run", "small.yaml", "--source", ".", "--home", "here", "--stages", "10_corpus")
        assert done.returncode == DONE, done.stdout + done.stderr
    assert {r["document_id"] for r in pq.read_table(tmp_path / "here/small/10_corpus/swh/rows.parquet").to_pylist()}


def test_one_document_is_refused_in_plain_words(finerweb, profile_file, tmp_path):
    write_lines(tmp_path / "page.jsonl", [r for r in sample("swh") if len(r["text"]) > 400][:1])
    profile_file(tmp_path, languages=["swh"], students=[], benchmarks=[])
    done = finerweb(tmp_path, "run", "small.yaml", "--source", "page.jsonl", "--stages", "12_filter")
    assert done.returncode == FAILED and "1 rated passages are too few to train a filter" in done.stdout


def hostile_pages(folder: Path) -> dict[str, str]:
    """A folder of pages said to be Swahili: good ones from the sample and every kind of bad one.
    Identifier -> reason it must be dropped with."""
    noise, long = random.Random(5), [row for row in sample("swh") if len(row["text"].split()) > 80]
    texts = [row["text"] for row in long]
    english, thai = sample("eng")[0]["text"], sample("tha")[0]["text"]
    garbage = bytes(noise.randrange(256) for _ in range(4000)).decode("latin-1")
    bad = {
        "empty": ("", "empty"),
        "blank": (" \n\t \u3000", "empty"),
        "null": (None, "no_text"),
        "number": (17, "no_text"),
        "list": (["a"], "no_text"),
        "huge": ("Nairobi ni mji mkuu wa Kenya. " * 175_000, "too_long"),
        "one-word": ("x" * 5_000_000, "too_long"),
        "binary": (garbage, "binary"),
        "nul": ("\x00" * 3000, "binary"),
        "nuls-between": ("\x00".join(texts[0]), "binary"),
        "thai": (thai, "other_script"),
        "digits": ("1 2 3 4 5 6 7 8 9 0 " * 60, "other_script"),
        "short": ("Jambo.", "too_short"),
    }
    good = [{**row, "id": f"good-{n}"} for n, row in enumerate(long[:8])]
    bad_rows = [{"text": text, "id": name, "language": "swh"} for name, (text, _) in bad.items()]
    odd_characters = " \x00 \ud800 \u202e \ufeff e\u0301"  # a page with a few of them is still a page
    odd = [
        {"text": texts[8] + odd_characters, "id": "odd", "language": "swh"},
        {"text": english, "id": "english", "language": "swh"},
        {"text": texts[9], "id": "good-0", "language": "swh"},
        {"text": texts[9], "id": "../../etc/passwd", "language": "sw"},
        {"text": english, "id": "not-mine", "language": "en"},
    ]
    write_lines(folder / "a.jsonl", [*good[:4], *bad_rows, "this is no JSON", b"\xff\xfe{}", "[]", "3", *odd])
    write_parquet(folder / "b.parquet", good[4:])
    whole = write_parquet(folder / "c.parquet", good * 50).read_bytes()
    (folder / "c.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "d.parquet").write_bytes(b"")
    (folder / "e.jsonl").write_bytes(b"")
    (folder / "f.jsonl.gz").write_bytes(b"\x1f\x8b no gzip")
    return {name: reason for name, (_, reason) in bad.items()}


def test_bad_documents_are_dropped_with_a_reason_and_the_others_go_on(finerweb, profile_file, tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    expected = hostile_pages(pages)
    stages = {
        "10_corpus": {"documents": 50},
        "12_filter": LIGHT_FILTER,
        "13_select": {"passages": 50, "threshold": -99.0, "max_length": 200},
    }
    profile_file(tmp_path, languages=["swh"], students=[], benchmarks=[], stages=stages)
    ended = finerweb(tmp_path, "run", "small.yaml", "--source", "pages", "--stages", "15_align")
    assert ended.returncode == DONE, ended.stdout + ended.stderr
    run = tmp_path / "runs" / "small"
    for stage in ("10_corpus", "13_select"):
        dropped = pq.read_table(run / stage / "swh" / "dropped.parquet").to_pylist()
        reasons = {Path(d["id"]).name: d["reason"] for d in dropped}
        assert expected.items() <= reasons.items()
        assert [reasons.get(name) for name in ("c.parquet", "d.parquet", "f.jsonl.gz")] == ["unreadable_file"] * 3
        lines = [d for d in dropped if "a.jsonl:" in d["id"]]  # those that are no JSON objects
        assert sum(d["reason"] == "no_text" for d in lines) == 4
        assert "not-mine" not in reasons
        assert max(len(d["text"]) for d in dropped) <= 20_000
        meta = json.loads((run / stage / "swh" / "meta.json").read_text())
        assert sum(meta["dropped"].values()) == len(dropped)
        assert meta["rows"] + len(dropped) == meta["counts"]["documents_read"] == 32
        assert (reasons.get("good-0") or reasons.get("good-0#0")) == "duplicate_id"  # a document, or a passage of it
    assert {d["id"]: d["reason"] for d in dropped}["english#0"] == "english"
    rows = pq.read_table(run / "13_select" / "swh" / "rows.parquet").to_pylist()
    first = [*(f"good-{n}" for n in range(4)), "odd", "../../etc/passwd"]
    second = [f"good-{n}" for n in range(4, 8)]
    assert [r["document_id"] for r in rows] in (first + second, second + first), "the files are in whatever order"
    assert all("\x00" not in r["text"] and r["text"].encode() for r in rows)
    for row in pq.read_table(run / "15_align" / "swh" / "lexicon" / "rows.parquet").to_pylist():
        assert all(row["text"][e["start"] : e["end"]].strip() for e in row["entities"])


# --- disks and folders


needs_mount = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/bin/mount").exists(), reason="needs root to mount a small disk"
)


@needs_mount
def test_a_full_disk_is_an_error_and_a_later_run_completes(small_disk, finerweb, profile_file, tmp_path):
    profile_file(tmp_path, languages=["swh"])
    disk = small_disk(28_672)  # room for the profile and little more
    words = ("run", "small.yaml", "--home", disk, "--stages", "10_corpus")
    ended = finerweb(tmp_path, *words)
    assert ended.returncode == FAILED and "No space left on device" in ended.stdout, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not list(disk.rglob("meta.json"))
    small_disk(50_000_000)
    ended = finerweb(tmp_path, *words)
    assert ended.returncode == DONE, ended.stdout + ended.stderr
    assert len(list(disk.rglob("meta.json"))) == 1
    assert pq.read_table(disk / "small/10_corpus/swh/rows.parquet").num_rows == 6


@needs_mount
def test_a_disk_without_any_room_is_an_error(small_disk, finerweb, profile_file, tmp_path):
    profile_file(tmp_path, languages=["swh"])
    disk = small_disk(8192)
    (disk / "filled").write_bytes(b"x" * 4096)
    ended = finerweb(tmp_path, "run", "small.yaml", "--home", disk, "--stages", "10_corpus")
    assert ended.returncode in (FAILED, WRONG) and "No space left on device" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(disk.rglob("meta.json"))


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
from finerweb.runner.cli import main
sys.argv = ["finerweb", *sys.argv[1:]]
main()
"""


@pytest.mark.skipif(os.geteuid() == 0, reason="a full disk is tried itself")
def test_a_file_that_cannot_grow_is_an_error_and_a_later_run_completes(finerweb, environment, profile_file, tmp_path):
    profile_file(tmp_path, languages=["swh"])
    words = ["run", "small.yaml", "--stages", "10_corpus"]
    how = dict(cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=600)
    ended = subprocess.run([sys.executable, "-c", LIMITED, *words], **how)
    assert ended.returncode == FAILED and "File too large" in ended.stdout, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not list(tmp_path.rglob("meta.json"))
    assert finerweb(tmp_path, *words).returncode == DONE


def test_a_home_that_is_a_file_is_an_error(wrong, tmp_path):
    (tmp_path / "taken").write_text("here")
    assert "taken" in wrong("run", "small.yaml", "--home", "taken", "--stages", "10_corpus")


def test_a_home_that_cannot_be_written_is_an_error(wrong, small_disk, tmp_path):
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o555)
        home = tmp_path / "locked"
    else:
        home = small_disk(100_000, "ro")
    message = wrong("run", "small.yaml", "--home", home, "--stages", "10_corpus")
    assert str(home) in message and "cannot be written" in message and ("Read-only" in message or "denied" in message)


def test_a_record_that_is_spoilt_in_any_way_does_not_count(tmp_path):
    from finerweb.store import is_done, read_meta

    empty = {"dropped": {}, "counts": {}, "parameters": {}, "inputs": {}}
    files = {"files": {"rows.parquet": [3, "hash"]}, "output": "o", "rows": 1}
    good = {"fingerprint": "f", **files, **empty, "seconds": 1.0}
    (tmp_path / "rows.parquet").write_bytes(b"abc")
    (tmp_path / "meta.json").write_text(json.dumps(good))
    assert is_done(tmp_path, "f") and not is_done(tmp_path, "g")
    whole = (tmp_path / "meta.json").read_bytes()
    records = [{k: v for k, v in good.items() if k != lost} for lost in good] + [good | {"files": ["rows.parquet"]}]
    incomplete = [json.dumps(record).encode() for record in records]
    for spoilt in (b"", whole[:-1], whole[:20], b"\x00" * 50, b"\xff\xfe", b"null", b"[]", b"3", *incomplete):
        (tmp_path / "meta.json").write_bytes(spoilt)
        assert read_meta(tmp_path) is None and not is_done(tmp_path, "f"), spoilt
    (tmp_path / "meta.json").write_bytes(whole)
    for rows in (b"", b"ab", b"abcd"):
        (tmp_path / "rows.parquet").write_bytes(rows)
        assert not is_done(tmp_path, "f")
    (tmp_path / "rows.parquet").unlink()
    assert not is_done(tmp_path, "f")
