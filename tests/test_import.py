"""`finerweb import`: a released dataset as a run, from its files to a student's score, and what it refuses."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import CHEAP
from hub_server import Hub
from typer.testing import CliRunner

from finerweb.data import read_rows
from finerweb.dataset.checks import dataset_faults
from finerweb.dataset.rows import RELEASED
from finerweb.runner.cli import app
from finerweb.runner.estimate import estimate_tasks
from finerweb.runner.plan import plan
from finerweb.runner.profiles import check_profile, load_profile
from finerweb.runner.options import change_profile
from finerweb.runner.stages import ANNOTATING
from finerweb.store import read_meta

PAPER = ("id", "text", "char_spans", "tokens", "token_spans")
TINY = {
    "imported": "nobody/nothing",
    "languages": ["all"],
    "workers": 2,
    "students": [
        {"name": "tiny", "encoder": "char", "label_encoder": "minilm", "steps": 4, "batch": 4, "size": 16, "window": 96}
    ],
    "benchmarks": [{"name": "sample-swh"}],
    "stages": CHEAP | {"35_evaluate": {"resamples": 20}},
}  # fmt: skip


def as_the_paper(path: Path) -> list[dict]:
    "The rows of a released file of ours with what the paper's rows have."
    rows = [{name: row[name] for name in PAPER} for row in read_rows(path)]
    for row in rows:
        row["char_spans"] = [{name: span[name] for name in ("start", "end", "label")} for span in row["char_spans"]]
    return rows


def command(*words: object) -> str:
    "What a command prints; it has to succeed."
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def of_the_paper(finished, tmp_path_factory, finerweb) -> tuple[Path, Path, str]:
    "(folder of runs, source, what was printed): sentences in the paper's layout, imported up to a student's score."
    folder = tmp_path_factory.mktemp("paper")
    published = finished[0] / "runs/small/20_publish/merged-english-sentences/swh/train.parquet"
    rows = as_the_paper(published)
    lost = rows[0] | {"id": "swh_99-s0", "char_spans": [{"start": 900, "end": 904, "label": "city"}], "token_spans": []}
    for name, some in {"swh": [*rows, lost], "klingon": rows}.items():
        path = folder / f"fiNERweb/data/{name}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(some), path)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    words = ("--run", "paper", "--profile", "tiny.yaml", "--stages", "20_publish,35_evaluate,50_figures,51_tables")
    done = finerweb(folder, "import", "fiNERweb", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs", folder / "fiNERweb", done.stdout


def test_rows_of_the_paper_become_a_run_up_to_a_students_score(of_the_paper, finished):
    home, source, printed = of_the_paper
    run = home / "paper"
    assert "data/klingon-00000-of-00001.parquet is left out: data/klingon" in printed
    assert not {path.name for path in run.iterdir()} & set(ANNOTATING)
    meta = read_meta(run / "16_merge/swh")
    assert list(meta["inputs"]) == ["imported"] and meta["dropped"] == {"wrong_spans": 1}
    rows, sentences = (read_rows(run / stage / "swh/rows.parquet") for stage in ("16_merge", "18_sentences"))
    assert meta["notes"] == [f"1 of {len(rows) + 1} released rows are kept aside"]
    assert [row["id"] for row in sentences] == [row["id"] for row in rows] and rows[0]["id"].endswith("-s0")
    theirs = as_the_paper(next(source.glob("data/swh*")))[:-1]
    for variant in ("merged-english-passages", "merged-english-sentences"):
        assert as_the_paper(run / "20_publish" / variant / "swh/train.parquet") == theirs
        assert dataset_faults(run / "20_publish" / variant, schemas=[RELEASED]) == ([], len(theirs))
    scores = json.loads((run / "35_evaluate/tiny/sample-swh/scores.json").read_text())
    assert scores["passages"] == 6 and scores["trained_on"] == ["swh"]


def test_what_is_made_of_imported_rows_says_so_and_where_they_are_from(of_the_paper):
    run = of_the_paper[0] / "paper"
    card = (run / "20_publish/merged-english-passages/README.md").read_text()
    assert "The rows were imported from fiNERweb; who annotated them, that dataset says." in card
    assert "\nlicense: unknown\n" in card and "Annotated by" not in card and "lacks" not in card
    assert str(run.parent) not in card, "a card names no folder of this machine"
    assert {s["imported"] for s in json.loads((run / "20_publish/statistics.json").read_text())} == {"fiNERweb"}
    (first, *_) = read_rows(run / "20_publish/merged-english-sentences/swh/train.parquet")
    for span in first["char_spans"]:
        assert (span["score"], span["probability"], span["teachers"]) == (None, None, [])
    assert "imported from fiNERweb" in (run / "51_tables/table3_datasets.md").read_text()
    assert "labels of fiNERweb: swh" in (run / "51_tables/table4_students.md").read_text()
    assert "merging.md" not in {path.name for path in (run / "51_tables").iterdir()}
    for stage in ("20_publish", "50_figures", "51_tables"):
        assert "missing" not in read_meta(run / stage), "nothing is missing that such a run does not have"


def test_the_commands_of_a_run_work_on_it_and_the_same_command_has_nothing_left(of_the_paper, tmp_path):
    home, source, _ = of_the_paper
    made = len(list((home / "paper").rglob("meta.json")))
    assert f"paper: {made} of" in " ".join(command("status", "--home", home).split())
    command("export", "paper", "--to", tmp_path / "out", "--format", "conll", "--home", home)
    assert list((tmp_path / "out").rglob("*.conll*"))
    command("review", "paper", "--language", "swh", "--to", tmp_path / "page.html", "--home", home)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("meta.json")}
    words = ("--run", "paper", "--profile", source.parent / "tiny.yaml", "--stages", "35_evaluate", "--home", home)
    assert "All" in command("import", source, *words)
    command("run", home / "paper/profile.yaml", "--run", "paper", "--stages", "35_evaluate", "--home", home)
    assert before == {path: path.stat().st_mtime_ns for path in home.rglob("meta.json")}


def test_what_was_published_comes_back_the_same(finished, tmp_path, finerweb):
    published = finished[0] / "runs/small/20_publish"
    words = ("--run", "again", "--languages", "sw", "--stages", "20_publish", "--license", "CC0-1.0")
    done = finerweb(tmp_path, "import", published / "merged-english-passages", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    again = tmp_path / "runs/again/20_publish"
    for variant in ("merged-english-passages", "merged-english-sentences", "merged-target-passages"):
        file = f"{variant}/swh/train.parquet"
        assert pq.read_table(again / file).equals(pq.read_table(published / file)), variant
    card = (again / "merged-english-passages/README.md").read_text()
    assert "\nlicense: cc0-1.0\n" in card and "imported from finerweb small, merged" in card
    known = [json.loads((folder / "quality.json").read_text())["swh"]["likely"] for folder in (published, again)]
    assert known[0] == known[1]


def test_from_a_hub_to_kernels_that_are_offline(of_the_paper, tmp_path, finerweb):
    released = tmp_path / "hub/whoisjones/fiNERweb"
    rows = as_the_paper(next(of_the_paper[1].glob("data/swh*")))
    for code in ("swh", "tha"):
        (released / code).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), released / code / "train.parquet")
    (released / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    with Hub(tmp_path / "hub") as hub:
        online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf")}
        online["HF_HUB_DISABLE_XET"] = "1"
        words = ("import", "whoisjones/fiNERweb", "--run", "hub", "--languages", "swh", "--stages", "16_merge")
        done = finerweb(tmp_path, *words, **online)
        assert done.returncode == 0, done.stdout + done.stderr
        assert {path for path, *_ in hub.asked} == {"README.md", "swh/train.parquet"}
    meta = read_meta(tmp_path / "runs/hub/16_merge/swh")
    assert meta["inputs"] == {"imported": "hub:whoisjones/fiNERweb"} and meta["rows"] == len(rows) - 1
    about = json.loads((tmp_path / "runs/hub/16_merge/swh/imported.json").read_text())
    assert about == {"name": "whoisjones/fiNERweb", "license": "cc-by-4.0", "scores": {}}


UNCHANGED = dict(languages="", source="", workers=0, settings=[])


@pytest.mark.parametrize("name", ["demo", "offline", "paper", "real"])
def test_any_profile_can_take_imported_rows_and_then_annotates_nothing(name, tmp_path):
    words = UNCHANGED | dict(imported=str(tmp_path), languages="swh,tha")
    chosen = change_profile(load_profile(name), **words)
    assert (chosen.teachers, chosen.judge, chosen.filter, chosen.rounds, chosen.source) == ([], {}, {}, 1, "sample")
    tasks = plan(chosen)
    names = {task.name for task in tasks}
    assert not {task.stage for task in tasks} & set(ANNOTATING)
    assert not any("round1" in task.key for task in tasks)
    for task in tasks:
        assert task.stage == "16_merge" or {*task.needs, *task.wants} <= names | {("test set", ())}
        assert (task.needs == (("imported", ()),)) == (task.stage == "16_merge")


def test_the_licence_of_another_dataset_goes_and_one_of_the_command_stays(tmp_path):
    mine = UNCHANGED | dict(imported=str(tmp_path))
    profile = lambda: check_profile(change_profile(load_profile("imported"), **UNCHANGED, license="mit"))  # noqa: E731
    assert profile().license == "mit"
    assert change_profile(profile(), **mine).license == ""
    assert change_profile(profile(), **mine, license="cc0-1.0").license == "cc0-1.0"
    assert change_profile(profile(), **UNCHANGED | dict(imported="whoisjones/fiNERweb")).license == "mit"


def test_a_folder_in_a_profile_is_looked_for_beside_it_and_kept_whole(tmp_path):
    (tmp_path / "mine").mkdir()
    more = {"imported": "mine", "languages": ["swh"], "license": "mit"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY | more))
    profile = load_profile(str(tmp_path / "tiny.yaml"))
    assert profile.imported == str(tmp_path / "mine")
    same = change_profile(profile, **UNCHANGED | dict(imported=os.path.relpath(tmp_path / "mine")))
    assert (same.imported, same.license) == (str(tmp_path / "mine"), "mit"), "the same dataset by another path"


WRONG = {
    "teachers": [{"name": "lexicon", "kind": "weak"}],
    "judge": {"name": "large", "kind": "endpoint"},
    "filter": {"seed": [1, 2]},
    "source": "hub",
    "stages": {"15_align": {}},
    "imported": ["me/names"],
}


@pytest.mark.parametrize("field", WRONG)
def test_a_profile_that_annotates_and_imports_is_refused(field, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(TINY | {"languages": ["swh"], field: WRONG[field]}))
    message = "imported must be str" if field == "imported" else f"take out {field}.*rows are imported from nobody"
    with pytest.raises(ValueError, match=message):
        load_profile(str(tmp_path / "mine.yaml"))


def test_the_price_of_translating_labels_is_known_before_the_rows_are(tmp_path):
    translator = {"name": "large", "kind": "endpoint", "model": "m", "price_in": 1.0, "price_out": 2.0}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(TINY | {"languages": ["swh"], "translator": translator}))
    (row,) = estimate_tasks(plan(load_profile(str(tmp_path / "mine.yaml"))), home=str(tmp_path), run="mine")
    assert row["stage"] == "17_translate" and row["requests"] > 0 and "texts" in row["assumed"]


REFUSED = {
    "is no folder here, and no dataset on the hub": ["import", "no-such-folder"],
    "has no rows of fra, tha; it has swh": ["import", "SOURCE", "--languages", "fra,tha,swh"],
    "take out stages: 13_select": ["import", "SOURCE", "--set", "13_select.passages=3"],
    "rows are imported, so there is nothing to do for 13_select": ["import", "SOURCE", "--stages", "13_select"],
    "16_merge.imported is the runner's to set": ["import", "SOURCE", "--set", "16_merge.imported=x"],
    "license is 'my own'": ["import", "SOURCE", "--license", "my own"],
    "profile 'dmeo' is not known": ["import", "SOURCE", "--profile", "dmeo"],
    "was made from the profile tiny": ["import", "SOURCE"],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_imported_ends_in_one_line(message, of_the_paper, tmp_path):
    home, source, _ = of_the_paper
    words = [str(source) if word == "SOURCE" else word for word in REFUSED[message]]
    home = home if "was made" in message else tmp_path
    done = CliRunner().invoke(app, [*words, "--run", "paper", "--home", str(home)])
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1
