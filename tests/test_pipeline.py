"""The whole pipeline by its command line, on a small run: what it makes, what it leaves alone, what it does again, and
what survives a kill."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import papermill
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import processes, wait_for

from finerweb.languages import packaged_languages
from finerweb.dataset.card import described
from finerweb.dataset.rows import RELEASED
from finerweb.store import Task

END = "19_judge,20_publish,35_evaluate"
VARIANTS = {
    f"{annotator}-{labels}-{rows}"
    for annotator in ("lexicon", "patterns", "merged")
    for labels in ("english", "target")
    for rows in ("passages", "sentences")
}


def tasks_done(ended: subprocess.CompletedProcess) -> set[str]:
    "The tasks that a command has done, without those that were done before."
    return set(re.findall(r"^done (.+?) *$", ended.stdout, re.M))


@pytest.fixture
def small_run(finished) -> Path:
    "The folder of the small run. Nobody writes into it."
    folder, _ = finished
    return folder / "runs" / "small"


def state(run: Path) -> dict[str, bytes]:
    "Every meta.json of a run with its bytes."
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in sorted(run.rglob("meta.json"))}


def outputs(run: Path) -> dict[str, bytes]:
    "Every table and model of a run with its bytes."
    files = [p for p in sorted(run.rglob("*")) if p.suffix in (".parquet", ".safetensors") and p.is_file()]
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in files}


def read_rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def assert_same_outputs(run: Path, expected: Path) -> None:
    mine, theirs = outputs(run), outputs(expected)
    assert sorted(mine) == sorted(theirs)
    assert [name for name in theirs if mine[name] != theirs[name]] == []


@pytest.fixture
def copied_run(small_run, tmp_path) -> Path:
    "A copy of the small run to spoil, with its profile in the folder of the test."
    shutil.copytree(small_run.parent, tmp_path / "runs")
    shutil.copy(small_run.parent.parent / "small.yaml", tmp_path)
    return tmp_path / "runs" / "small"


# --- what a run makes


def test_a_run_makes_every_task_and_says_so(finished):
    folder, ended = finished
    run = folder / "runs" / "small"
    outputs_made = {f"{p.parent.relative_to(run)}" for p in run.rglob("meta.json")}
    labels = tasks_done(ended)
    assert len(outputs_made) == len(labels) == 29 and "35_evaluate/tiny/sample-swh" in outputs_made
    assert {path.split("/")[0] for path in outputs_made} == {label.split()[0] for label in labels}
    assert f"All 29 tasks are done. The run lies in {run}" in ended.stdout
    assert not list(run.rglob(".incoming")) and not list(run.rglob("*.part")) and not list(run.rglob("kernel.log"))
    assert all((run / path / "notebook.ipynb").exists() for path in outputs_made)


@pytest.mark.parametrize("language", ["eng", "swh"])
def test_rows_keep_their_way_down_the_pipeline(small_run, language):
    stages = ("13_select", "16_merge", "18_sentences", "19_judge")
    selected, merged, sentences, judged = (read_rows(small_run / s / language / "rows.parquet") for s in stages)
    for rows in (selected, merged, judged):
        assert [row["id"] for row in rows] == [f"{language}_{n}" for n in range(4)]
    parents = {row["id"]: row for row in merged}
    for row in sentences:
        parent, offset = parents[row["parent_id"]], row["offset"]
        assert parent["text"][offset:].startswith(row["text"])
        for e in row["entities"]:
            assert {**e, "start": e["start"] + offset, "end": e["end"] + offset} in parent["entities"]
    assert sum(len(row["entities"]) for row in sentences) == sum(len(row["entities"]) for row in merged) > 0


def test_the_run_keeps_its_profile_and_the_notebooks_it_executed(small_run):
    profile = yaml.safe_load((small_run / "profile.yaml").read_text())
    assert profile["languages"] == ["eng", "swh"] and profile["stages"]["10_corpus"] == {"documents": 6}
    cells = read_json(small_run / "13_select" / "swh" / "notebook.ipynb")["cells"]
    injected = ["".join(c["source"]) for c in cells if "injected-parameters" in c["metadata"].get("tags", [])]
    assert len(injected) == 1 and 'language = "swh"' in injected[0] and "passages = 4" in injected[0]


def test_a_student_was_trained_and_scored(finished):
    folder, ended = finished
    run = folder / "runs" / "small"
    assert (run / "33_binder" / "tiny" / "model" / "model.safetensors").stat().st_size > 1000
    counts = read_json(run / "35_evaluate" / "tiny" / "sample-swh" / "meta.json")["counts"]
    assert counts["passages"] == 6 and 0 <= counts["f1"] <= 1
    assert re.search(r"tiny +│ sample-swh +│ 6 ", ended.stdout)


# --- what is published


def test_twelve_variants_are_published_and_load_dataset_reads_them(small_run, tmp_path, monkeypatch):
    published, cache = small_run / "20_publish", str(tmp_path / "cache")
    others = {"preferences-lexicon", "preferences-patterns", "filter"}
    assert {p.name for p in published.iterdir() if p.is_dir()} == VARIANTS | others
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for variant in ("merged-target-passages", "lexicon-english-sentences"):
        assert datasets.get_dataset_config_names(str(published / variant)) == ["eng", "swh"]
        loaded = datasets.load_dataset(str(published / variant), "swh", split="train", cache_dir=cache)
        assert loaded.column_names[:5] == ["id", "text", "char_spans", "tokens", "token_spans"]  # the paper's
        assert loaded.column_names == RELEASED.names
        assert loaded.to_list() == read_rows(published / variant / "swh" / "train.parquet")
        pattern = r"swh_\d+-s\d+" if "sentences" in variant else r"swh_\d+"
        assert all(re.fullmatch(pattern, name) for name in loaded["id"])


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_spans_of_characters_and_tokens_agree_with_the_text(small_run, variant):
    files = [small_run / "20_publish" / variant / language / "train.parquet" for language in ("eng", "swh")]
    rows = [row for file in files for row in read_rows(file)]
    assert sum(len(row["char_spans"]) for row in rows) > 0
    for row in rows:
        assert len(row["token_spans"]) == len(row["char_spans"]), "a span without tokens"
        starts, end = [], 0
        for token in row["tokens"]:
            starts.append(row["text"].index(token, end))
            end = starts[-1] + len(token)
            assert token.strip() == token != ""
        for chars, tokens in zip(row["char_spans"], row["token_spans"], strict=True):
            assert 0 <= chars["start"] < chars["end"] <= len(row["text"]) and chars["label"] == tokens["label"]
            first, last = tokens["start"], tokens["end"] - 1
            assert starts[first] <= chars["start"] < starts[first] + len(row["tokens"][first])
            assert starts[last] < chars["end"] <= starts[last] + len(row["tokens"][last])


def test_a_released_row_says_who_said_it_how_sure_and_where_it_stood(small_run):
    merged = {row["id"]: row for row in read_rows(small_run / "16_merge/swh/rows.parquet")}
    rows = read_rows(small_run / "20_publish/merged-english-passages/swh/train.parquet")
    assert {row["id"] for row in rows} == set(merged) and any(row["char_spans"] for row in rows)
    for row in rows:
        source = merged[row["id"]]
        assert all(row[column] == source[column] for column in ("language", "script", "document_id"))
        entities = sorted(source["entities"], key=lambda e: (e["start"], e["end"]))
        for span, e in zip(row["char_spans"], entities, strict=True):
            assert span["probability"] == e["score"] and span["teachers"] == e["teachers"] != []
            assert 0 < span["score"] <= 1
    for teacher in ("lexicon", "patterns"):
        said = {r["id"]: r["entities"] for r in read_rows(small_run / f"15_align/swh/{teacher}/rows.parquet")}
        for row in read_rows(small_run / f"20_publish/{teacher}-english-passages/swh/train.parquet"):
            confidences = {(e["start"], e["end"], e["label"]): e["score"] for e in said[row["id"]]}
            for span in row["char_spans"]:
                assert span["teachers"] == [teacher] and span["probability"] is None
                assert span["score"] == confidences[span["start"], span["end"], span["label"]] >= 0.5


def test_ratings_and_the_filter_are_published_too(small_run, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    from finerweb.models.filter_model import load_filter

    folder = str(small_run / "20_publish" / "preferences-lexicon")
    ratings = datasets.load_dataset(folder, "swh", split="train", cache_dir=str(tmp_path / "cache")).to_list()
    rated = read_rows(small_run / "11_rate/swh/lexicon/rows.parquet")
    assert [(r["id"], r["score"]) for r in ratings] == [(r["id"], r["score"]) for r in rated] and len(ratings) == 6
    _, model = load_filter(str(small_run / "20_publish" / "filter"))
    _, trained = load_filter(str(small_run / "12_filter" / "model"))
    assert all((a == b).all() for a, b in zip(model.parameters(), trained.parameters(), strict=True))
    card = (small_run / "20_publish" / "filter" / "README.md").read_text(encoding="utf-8")
    counts = read_json(small_run / "12_filter" / "meta.json")["counts"]
    assert f"{counts['train']:,} passages" in card and str(counts["f1"]) in card


def test_the_quality_of_a_language_is_that_of_its_rows(small_run):
    known = read_json(small_run / "20_publish" / "quality.json")
    for language in ("eng", "swh"):
        merged = read_rows(small_run / f"16_merge/{language}/rows.parquet")
        scores = [e["score"] for row in merged for e in row["entities"]]
        assert known[language]["likely"] == pytest.approx(sum(scores) / len(scores), abs=6e-4)
        counts = read_json(small_run / f"16_merge/{language}/meta.json")["counts"]
        assert known[language]["agreed"] == pytest.approx(2 * counts["exact"] / counts["annotations"], abs=6e-4)
        assert "judged" not in known[language], "nobody judged"
    card = (small_run / "20_publish" / "merged-english-passages" / "README.md").read_text(encoding="utf-8")
    assert f"about {100 * known['swh']['likely']:.0f} of 100 entities are reckoned right" in card


@pytest.mark.parametrize("language", ["eng", "swh"])
def test_labels_are_translated_in_the_target_variants_only(small_run, language):
    labels = read_rows(small_run / "17_translate" / language / "rows.parquet")
    table = {row["label"]: row["translation"] for row in labels}
    variants = ("merged-english-passages", "merged-target-passages")
    english, target = (read_rows(small_run / "20_publish" / v / language / "train.parquet") for v in variants)
    for ours, theirs in zip(english, target, strict=True):
        translated = [table[span["label"]] for span in ours["char_spans"]]
        assert translated == [span["label"] for span in theirs["char_spans"]]
        assert all(ours[column] == theirs[column] for column in ("id", "text", "tokens"))
    assert table["person"] == {"eng": "person", "swh": "mtu"}[language]


def card_of(small_run: Path, variant: str) -> tuple[dict, str, dict[str, list[float]]]:
    "The head of a variant's card, its text, and its table: language -> numbers."
    card = (small_run / "20_publish" / variant / "README.md").read_text(encoding="utf-8")
    _, head, body = card.split("---\n", 2)
    cells = [line.strip("| ").split(" | ") for line in body.splitlines() if re.match(r"\| (eng|swh) ", line)]
    return yaml.safe_load(head), body, {c: [float(n.replace(",", "")) for n in numbers] for c, *numbers in cells}


@pytest.mark.parametrize("annotator", ["lexicon", "patterns", "merged"])
def test_the_card_has_the_numbers_of_the_rows(small_run, annotator):
    published = small_run / "20_publish"
    head, body, numbers = card_of(small_run, f"{annotator}-english-passages")
    assert [c["config_name"] for c in head["configs"]] == head["language"] == ["eng", "swh"]
    assert "no language model" in body and "None" not in body
    other = {"lexicon": "patterns", "patterns": "lexicon"}.get(annotator)
    assert other is None or f"{other} (weak)" not in body, "only the teachers of this variant annotated it"
    for language in ("eng", "swh"):
        rows = read_rows(published / f"{annotator}-english-passages" / language / "train.parquet")
        labels = [[span["label"] for span in row["char_spans"]] for row in rows]
        expected = [
            len(rows),
            sum(len(row["text"]) for row in rows) / len(rows),
            sum(map(len, labels)) / len(rows),
            sum(len(set(of_row)) for of_row in labels) / len(rows),
            len({label for of_row in labels for label in of_row}),
        ]
        assert numbers[language] == pytest.approx(expected, abs=0.06)
    types = Counter(label for of_row in labels for label in of_row)
    statistics = json.loads((published / "statistics.json").read_text())
    swahili = next(s for s in statistics if s["language"] == "swh" and s["annotator"] == annotator)
    assert swahili["types"] == dict(sorted(types.items())) and swahili["annotations"] == types.total()


@pytest.mark.parametrize("labels", ["english", "target"])
def test_the_card_of_sentences_has_the_numbers_of_sentences(small_run, labels):
    _, body, numbers = card_of(small_run, f"merged-{labels}-sentences")
    assert "A row is a sentence" in body and "a passage |" not in body
    for language in ("eng", "swh"):
        rows = read_rows(small_run / f"20_publish/merged-{labels}-sentences" / language / "train.parquet")
        entities = [len(row["char_spans"]) for row in rows]
        expected = [len(rows), sum(len(row["text"]) for row in rows) / len(rows), sum(entities) / len(rows)]
        assert numbers[language][:4] == pytest.approx([*expected, entities.count(0)], abs=0.06)
        assert len(numbers[language]) == (5 if labels == "target" else 4)


def test_the_example_of_a_card_runs(small_run, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(small_run / "20_publish")
    _, body, _ = card_of(small_run, "patterns-target-sentences")
    names = {}
    exec(re.search(r"```python\n(.*?)```", body, re.DOTALL)[1], names)
    expected = read_rows(small_run / "20_publish" / "patterns-target-sentences" / "eng" / "train.parquet")
    assert names["rows"].to_list() == expected


def test_a_published_card_says_who_a_teacher_is():
    spec = {"name": "big", "kind": "endpoint", "model": "org/model-27b"}
    assert described(spec) == "big (org/model-27b)"
    assert described({"name": "lexicon", "kind": "weak"}) == "lexicon (weak)"


def test_a_variant_that_no_language_has_is_left_out_aloud(copied_run, tmp_path):
    for stage in ("17_translate", "20_publish"):
        shutil.rmtree(copied_run / stage)
    notebook = Path(__file__).resolve().parent.parent / "nbs" / "20_publish.ipynb"
    parameters = {"home": str(copied_run.parent), "run": copied_run.name, "languages": ["eng", "swh"]}
    ran = papermill.execute_notebook(notebook, tmp_path / "out.ipynb", parameters=parameters, progress_bar=False)
    printed = "".join(o.get("text", "") for cell in ran.cells for o in cell.get("outputs", ()))
    assert "no variant merged-target-passages: no language has translated labels" in printed
    made = {p.name for p in (copied_run / "20_publish").iterdir() if p.is_dir()}
    assert made & VARIANTS == {variant for variant in VARIANTS if "-english-" in variant}


def test_a_published_run_goes_into_other_formats_and_comes_back_the_same(finished, finerweb, finerweb_here, tmp_path):
    folder, _ = finished
    ended = finerweb(folder, "export", "small", "--format", "conll,spans", "--to", str(tmp_path / "out"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"swh +│ conll +│ 4 ", ended.stdout)
    for form in ("conll", "spans"):
        words = ("export", str(tmp_path / "out" / form), "--from", form, "--to", str(tmp_path / f"back-{form}"))
        ended = finerweb(folder, *words)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        for language in ("eng", "swh"):
            rows = read_rows(folder / "runs/small/20_publish/merged-english-passages" / language / "train.parquet")
            back = {row["id"]: row for row in read_rows(tmp_path / f"back-{form}" / language / "train.parquet")}
            assert {row["id"]: row for row in rows} == back
    ended = finerweb_here(folder, "export", "small/merged", "--to", str(tmp_path / "none"))
    assert ended.returncode == 2 and "it has filter, lexicon-english-passages" in ended.stderr


# --- what is not done again, and what is


def test_a_second_run_does_nothing(finished, finerweb):
    folder, _ = finished
    before, began = state(folder / "runs" / "small"), time.time()
    ended = finerweb(folder, "run", "small.yaml", "--stages", END)
    assert ended.returncode == 0 and tasks_done(ended) == set() and "All 29 tasks are done" in ended.stdout
    assert state(folder / "runs" / "small") == before
    assert time.time() - began < 60


def test_only_what_was_spoilt_is_done_again_and_comes_out_the_same(small_run, copied_run, finerweb, tmp_path):
    run = copied_run
    (run / "15_align/eng/lexicon/meta.json").unlink()
    (run / "17_translate/swh/meta.json").write_bytes(b'{"stage": "17_tra\xff')
    rows = run / "15_align/swh/patterns/rows.parquet"
    rows.write_bytes(rows.read_bytes()[:-9])
    (run / "18_sentences/swh/rows.parquet").unlink()
    ended = finerweb(tmp_path, "run", "small.yaml", "--stages", END)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    spoilt = {"15_align eng/lexicon", "15_align swh/patterns", "17_translate swh", "18_sentences swh"}
    assert tasks_done(ended) == spoilt
    assert_same_outputs(run, small_run)


def test_a_changed_parameter_redoes_its_stage_and_what_depends_on_it(small_run, copied_run, finerweb, tmp_path):
    words = ("--stages", "19_judge,20_publish", "--set", "18_sentences.longest=40")
    ended = finerweb(tmp_path, "run", "small.yaml", *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    sentences = {"18_sentences eng", "18_sentences swh"}
    assert tasks_done(ended) in (sentences, sentences | {"20_publish"})
    assert read_json(copied_run / "18_sentences/swh/meta.json")["parameters"]["longest"] == 40
    old = outputs(small_run)
    changed = {name for name, content in outputs(copied_run).items() if content != old[name]}
    assert all(name.startswith(("18_sentences", "20_publish")) for name in changed)
    assert ("20_publish" in tasks_done(ended)) == any(name.startswith("18_sentences") for name in changed)


def test_the_same_bytes_again_make_nothing_else_out_of_date(small_run, copied_run, finerweb, tmp_path):
    ended = finerweb(tmp_path, "run", "small.yaml", "--stages", END, "--set", "10_corpus.pool=1999")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert tasks_done(ended) == {"10_corpus eng", "10_corpus swh"}
    assert_same_outputs(copied_run, small_run)


# --- killed


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_killed_three_times_and_with_one_worker_it_makes_the_same_bytes(
    small_run, copied_run, finerweb, environment, tmp_path
):
    run, mark = copied_run, f"FINERWEB_MARK={tmp_path}"
    # all Swahili is to be done, and what Swahili is needed for
    for path in [*run.glob("1[0-9]_*/swh"), run / "12_filter", run / "20_publish"]:
        shutil.rmtree(path)
    words = ("run", "small.yaml", "--stages", "19_judge,20_publish", "--workers", "1")

    def start(at: str) -> subprocess.Popen:
        "A run, as soon as it has begun with the task `at`."
        command = [sys.executable, "-m", "finerweb", *words]
        how = dict(cwd=tmp_path, env=environment | {"FINERWEB_MARK": str(tmp_path)}, start_new_session=True)
        runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **how)
        wait_for(lambda: (run / at).is_dir() or runner.poll() is not None, 600, f"the beginning of {at}")
        assert runner.poll() is None, "the run ended before it could be killed"
        return runner

    runner = start("11_rate/swh/patterns")
    os.killpg(runner.pid, signal.SIGKILL)  # at once, and the next run at once after it
    runner.wait()

    runner = start("12_filter")
    os.kill(runner.pid, signal.SIGSTOP)  # it is at work whatever the machine's speed; the task it began may still end
    refused = finerweb(tmp_path, *words)
    other = finerweb(tmp_path, "run", "small.yaml", "--run", "other", "--stages", "10_corpus", "--languages", "swh")
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    assert refused.returncode == 2 and "at work in another process" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert other.returncode == 0, other.stdout + other.stderr
    wait_for(lambda: not processes(mark), 60, "the end of the killed run's processes")
    before = state(run)

    runner = start("16_merge/swh")
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    assert before.items() <= state(run).items(), "finished work was lost or done again"
    assert "20_publish/meta.json" not in state(run)

    ended = finerweb(tmp_path, *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    last = {"16_merge swh", "17_translate swh", "18_sentences swh", "19_judge swh", "20_publish"}
    assert {label.split("/")[0] for label in tasks_done(ended)} == last
    assert_same_outputs(run, small_run)
    for name, record in state(run).items():
        mine, theirs = json.loads(record), read_json(small_run / name)
        assert mine | {"seconds": 0} == theirs | {"seconds": 0}, name


# --- other sources


def test_real_text_in_two_scripts_goes_all_the_way(real_data, finerweb, profile_file, tmp_path):
    if not (real_data / "web" / "tha.parquet").exists():
        pytest.skip(f"needs {real_data / 'web'}/*.parquet")
    profile_file(tmp_path, students=[], benchmarks=[])
    words = ("--source", f"{real_data}/web/*.parquet", "--languages", "eng,tha", "--stages", "20_publish")
    ended = finerweb(tmp_path, "run", "small.yaml", *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    published = tmp_path / "runs/small/20_publish/merged-english-passages"
    for language in ("eng", "tha"):
        rows = read_rows(published / language / "train.parquet")
        mentions = [row["text"][span["start"] : span["end"]] for row in rows for span in row["char_spans"]]
        assert len(rows) == 4 and mentions and all(mention.strip() for mention in mentions)
    assert any("\u0e00" < c < "\u0e7f" for c in rows[0]["text"])


def test_a_notebook_opened_alone_makes_only_what_it_reads_and_shows_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FINERWEB_HOME", str(tmp_path))
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a kernel sets it
    rows = Task("", "demo", "11_rate", ("swh", "lexicon"), parameters={}).read("10_corpus", "swh")
    assert len(rows) == 18 and {row["language"] for row in rows} == {"swh"}
    made = {p.parent.relative_to(tmp_path / "demo").as_posix() for p in tmp_path.rglob("meta.json")}
    assert made == {"10_corpus/swh"}
    printed = capsys.readouterr().out
    assert "10_corpus/swh of the run 'demo' is not there yet" in printed
    assert "1 of 1 tasks done, last 10_corpus" in printed
    assert f"made now, once, in {tmp_path / 'demo'}" in printed.splitlines()[0]


# --- the other words of the command line


def test_a_dry_run_shows_the_plan_and_writes_nothing(small_run, finerweb_here, tmp_path):
    ended = finerweb_here(tmp_path, "run", "demo", "--dry-run", "--stages", "13_select", "--languages", "swh,tha")
    ratings = r"11_rate +│ 4 +│ 0 +│ swh/lexicon, swh/patterns, tha/lexicon, tha/patterns"
    assert ended.returncode == 0 and re.search(ratings, ended.stdout)
    assert "14_annotate" not in ended.stdout and list(tmp_path.iterdir()) == []
    before = state(small_run)
    words = ("--set", "15_align.policy=default", "--set", "18_sentences.longest=50")
    ended = finerweb_here(small_run.parent.parent, "run", "small.yaml", "--dry-run", *words)
    assert re.search(r"18_sentences +│ 2 +│ 0 ", ended.stdout) and re.search(r"15_align +│ 4 +│ 4 ", ended.stdout)
    assert state(small_run) == before


def test_status_tells_what_a_run_holds(finished, finerweb_here):
    folder, _ = finished
    ended = finerweb_here(folder, "status", "--run", "small")
    assert ended.returncode == 0 and re.search(r"small: 29 of 3\d tasks up to date", ended.stdout)
    assert re.search(r"13_select +│ +│ 2 ", ended.stdout) and "tiny" in ended.stdout
    expected, documents, rows = [], 0, 0
    for language in ("eng", "swh"):
        meta = read_json(folder / f"runs/small/13_select/{language}/meta.json")
        expected.append((language, str(meta["counts"]["documents_read"]), str(meta["rows"])))
        documents, rows = documents + meta["counts"]["documents_read"], rows + meta["rows"]
    expected.append(("all", str(documents), str(rows)))
    each = finerweb_here(folder, "status", "--run", "small", "--each").stdout
    assert re.findall(r"^ (eng|swh|all) +(\d+) +[\d,]+ +(\d+) +-?\d.*", each, re.MULTILINE) == expected
    ended = finerweb_here(folder, "status", "--run", "smal")
    assert ended.returncode == 2 and "there is small" in ended.stderr


def test_languages_lists_all(finerweb, tmp_path):
    ended = finerweb(tmp_path, "languages")
    codes = re.findall(r"^│ ([a-z]{3}) ", ended.stdout, re.MULTILINE)
    assert ended.returncode == 0 and codes == list(packaged_languages())
    assert re.search(r"swh +│ Swahili.* swh_Latn", ended.stdout) and "…" not in ended.stdout


def test_predict_tells_where_entities_are(small_run, finerweb, tmp_path):
    student, texts = small_run / "33_binder/tiny", ["Nairobi ni mji mkuu wa Kenya.", "", "กรุงเทพ"]
    words = ("predict", student, "--labels", "person, location", "--threshold", "0", "-")
    ended = finerweb(tmp_path, *words, text="\n".join(texts) + "\n")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines
    for line in lines:
        n, start, end, label, score, mention = line.split("\t")
        assert texts[int(n)][int(start) : int(end)] == mention != ""
        assert label in ("person", "location") and 0 <= float(score) <= 1


def test_predict_keeps_an_entity_on_a_line(small_run, finerweb, finerweb_here, tmp_path):
    student, text = small_run / "33_binder/tiny", "Nairobi\tni mji\nmkuu wa Kenya\\."
    words = ("predict", student, "--labels", "person, location", "--threshold", "0")
    ended = finerweb(tmp_path, *words, text)
    rows = [line.split("\t") for line in ended.stdout.splitlines()]
    assert rows and all(len(row) == 6 for row in rows)
    for _, start, end, *_, mention in rows:
        written = text[int(start) : int(end)].replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
        assert mention == written
    assert any("\\t" in row[-1] or "\\n" in row[-1] for row in rows)
    shown = finerweb_here(tmp_path, *words, "--format", "jsonl", text).stdout
    objects = [json.loads(line) for line in shown.splitlines()]
    assert [(o["start"], o["end"], o["mention"]) for o in objects] == [
        (int(row[1]), int(row[2]), text[int(row[1]) : int(row[2])]) for row in rows
    ]
    for wrong in (("--threshold", "2"), ("--format", "xml")):
        ended = finerweb_here(tmp_path, *words[:4], *wrong, "Kenya")
        assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and wrong[0] in ended.stderr
