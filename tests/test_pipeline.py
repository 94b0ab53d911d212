"""The whole pipeline by its command line, on a small run: what it makes, what it leaves alone, what it does again, and what survives a kill."""

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

import pyarrow.parquet as pq
import pytest
import yaml

END = "19_judge,20_publish,35_evaluate"
VARIANTS = {f"{a}-{b}-{c}" for a in ("lexicon", "patterns", "merged") for b in ("english", "target") for c in ("passages", "sentences")}


def done(said: subprocess.CompletedProcess) -> set[str]:
    "The tasks that a command has done, not those it found done."
    return set(re.findall(r"^done (.+?) *$", said.stdout, re.M))


def state(run: Path) -> dict[str, bytes]:
    "Every meta.json of a run with its bytes."
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in sorted(run.rglob("meta.json"))}


def outputs(run: Path) -> dict[str, bytes]:
    "Every table and model of a run with its bytes."
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in sorted(run.rglob("*")) if p.suffix in (".parquet", ".safetensors") and p.is_file()}


def assert_same_outputs(run: Path, expected: Path) -> None:
    mine, theirs = outputs(run), outputs(expected)
    assert sorted(mine) == sorted(theirs)
    assert [name for name in theirs if mine[name] != theirs[name]] == []


def copy_of(finished: tuple, folder: Path) -> Path:
    "A copy of the small run to spoil."
    shutil.copytree(finished[0] / "runs", folder / "runs")
    return folder / "runs" / "small"


# --- what a run makes


def test_a_run_makes_every_task_and_says_so(finished):
    folder, said = finished
    run = folder / "runs" / "small"
    tasks = {f"{p.parent.relative_to(run)}" for p in run.rglob("meta.json")}
    assert len(tasks) == len(done(said)) == 29
    assert {t.split("/")[0] for t in tasks} == {t.split()[0] for t in done(said)} and "35_evaluate/tiny/sample-swh" in tasks
    assert f"All 29 tasks are done. The run lies in {run}" in said.stdout
    assert not list(run.rglob(".incoming")) and not list(run.rglob("*.part")) and not list(run.rglob("kernel.log"))
    assert all((run / t / "notebook.ipynb").exists() for t in tasks)


def test_rows_keep_their_way_down_the_pipeline(finished):
    run = finished[0] / "runs" / "small"
    for language in ("eng", "swh"):
        rows = {stage: pq.read_table(run / stage / language / "rows.parquet").to_pylist() for stage in ("13_select", "16_merge", "18_sentences", "19_judge")}
        assert [r["id"] for r in rows["13_select"]] == [f"{language}_{n}" for n in range(4)]
        assert [r["id"] for r in rows["16_merge"]] == [r["id"] for r in rows["19_judge"]] == [r["id"] for r in rows["13_select"]]
        parents = {r["id"]: r for r in rows["16_merge"]}
        for row in rows["18_sentences"]:
            parent = parents[row["parent_id"]]
            assert parent["text"][row["offset"] :].startswith(row["text"])
            for e in row["entities"]:
                assert {**e, "start": e["start"] + row["offset"], "end": e["end"] + row["offset"]} in parent["entities"]
        assert sum(len(r["entities"]) for r in rows["18_sentences"]) == sum(len(r["entities"]) for r in rows["16_merge"]) > 0


def test_the_run_keeps_its_profile_and_the_notebooks_it_executed(finished):
    run = finished[0] / "runs" / "small"
    kept = yaml.safe_load((run / "profile.yaml").read_text())
    assert kept["languages"] == ["eng", "swh"] and kept["stages"]["10_corpus"] == {"documents": 6}
    cells = json.loads((run / "13_select" / "swh" / "notebook.ipynb").read_text())["cells"]
    injected = ["".join(c["source"]) for c in cells if "injected-parameters" in c["metadata"].get("tags", [])]
    assert len(injected) == 1 and 'language = "swh"' in injected[0] and "passages = 4" in injected[0]


def test_a_student_was_trained_and_scored(finished):
    run = finished[0] / "runs" / "small"
    assert (run / "33_binder" / "tiny" / "model" / "model.safetensors").stat().st_size > 1000
    counts = json.loads((run / "35_evaluate" / "tiny" / "sample-swh" / "meta.json").read_text())["counts"]
    assert counts["passages"] == 6 and 0 <= counts["f1"] <= 1
    assert re.search(r"tiny +│ sample-swh +│ 6 ", finished[1].stdout)


# --- what is published


def test_twelve_variants_are_published_and_load_dataset_reads_them(finished, tmp_path, monkeypatch):
    published = finished[0] / "runs" / "small" / "20_publish"
    assert {p.name for p in published.iterdir() if p.is_dir()} == VARIANTS
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for variant in ("merged-target-passages", "lexicon-english-sentences"):
        assert datasets.get_dataset_config_names(str(published / variant)) == ["eng", "swh"]
        loaded = datasets.load_dataset(str(published / variant), "swh", split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded.column_names == ["id", "text", "char_spans", "tokens", "token_spans"]
        assert loaded.to_list() == pq.read_table(published / variant / "swh" / "train.parquet").to_pylist()
        assert all(re.fullmatch(r"swh_\d+" + (r"-s\d+" if "sentences" in variant else ""), i) for i in loaded["id"])


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_spans_of_characters_and_tokens_agree_with_the_text(finished, variant):
    seen = 0
    for language in ("eng", "swh"):
        for row in pq.read_table(finished[0] / "runs/small/20_publish" / variant / language / "train.parquet").to_pylist():
            assert len(row["token_spans"]) == len(row["char_spans"]), "a span without tokens"
            starts, reached = [], 0
            for token in row["tokens"]:
                starts.append(row["text"].index(token, reached))
                reached = starts[-1] + len(token)
                assert token.strip() == token != ""
            for chars, tokens in zip(row["char_spans"], row["token_spans"], strict=True):
                assert 0 <= chars["start"] < chars["end"] <= len(row["text"]) and chars["label"] == tokens["label"]
                first, last = tokens["start"], tokens["end"] - 1
                assert starts[first] <= chars["start"] < starts[first] + len(row["tokens"][first])
                assert starts[last] < chars["end"] <= starts[last] + len(row["tokens"][last])
                seen += 1
    assert seen > 0


def test_labels_are_translated_in_the_target_variants_only(finished):
    published = finished[0] / "runs" / "small" / "20_publish"
    for language in ("eng", "swh"):
        table = {r["label"]: r["translation"] for r in pq.read_table(finished[0] / f"runs/small/17_translate/{language}/rows.parquet").to_pylist()}
        english, target = (pq.read_table(published / f"merged-{x}-passages" / language / "train.parquet").to_pylist() for x in ("english", "target"))
        for a, b in zip(english, target, strict=True):
            assert [table[s["label"]] for s in a["char_spans"]] == [s["label"] for s in b["char_spans"]]
            assert (a["id"], a["text"], a["tokens"]) == (b["id"], b["text"], b["tokens"])
    assert table["person"] == "mtu"


@pytest.mark.parametrize("annotator", ["lexicon", "patterns", "merged"])
def test_the_card_has_the_numbers_of_the_rows(finished, annotator):
    published = finished[0] / "runs" / "small" / "20_publish"
    card = (published / f"{annotator}-english-passages" / "README.md").read_text(encoding="utf-8")
    head, body = yaml.safe_load(card.split("---\n")[1]), card.split("---\n", 2)[2]
    assert [c["config_name"] for c in head["configs"]] == head["language"] == ["eng", "swh"]
    assert "no language model" in body
    for language in ("eng", "swh"):
        rows = pq.read_table(published / f"{annotator}-english-passages" / language / "train.parquet").to_pylist()
        spans = [[s["label"] for s in r["char_spans"]] for r in rows]
        expected = [
            language, len(rows), round(sum(len(r["text"]) for r in rows) / len(rows), 1), round(sum(map(len, spans)) / len(rows), 2),
            round(sum(len(set(s)) for s in spans) / len(rows), 2), len({x for s in spans for x in s}),
        ]  # fmt: skip
        assert f"| {' | '.join(map(str, expected))} |" in body
    statistics = json.loads((published / "statistics.json").read_text())
    mine = next(s for s in statistics if s["language"] == "swh" and s["annotator"] == annotator)
    assert mine["types"] == dict(sorted(Counter(x for s in spans for x in s).items())) and mine["annotations"] == sum(map(len, spans))


# --- what is not done again, and what is


def test_a_second_run_does_nothing(finished, finerweb):
    folder, _ = finished
    before, began = state(folder / "runs" / "small"), time.time()
    said = finerweb(folder, "run", "small.yaml", "--stages", END)
    assert said.returncode == 0 and done(said) == set() and "All 29 tasks are done" in said.stdout
    assert state(folder / "runs" / "small") == before
    assert time.time() - began < 60


def test_only_what_was_spoilt_is_done_again_and_comes_out_the_same(finished, finerweb, tmp_path):
    run = copy_of(finished, tmp_path)
    (run / "15_align/eng/lexicon/meta.json").unlink()
    (run / "17_translate/swh/meta.json").write_bytes(b'{"stage": "17_tra\xff')
    rows = run / "15_align/swh/patterns/rows.parquet"
    rows.write_bytes(rows.read_bytes()[:-9])
    (run / "18_sentences/swh/rows.parquet").unlink()
    said = finerweb(tmp_path, "run", finished[0] / "small.yaml", "--stages", END)
    assert said.returncode == 0, said.stdout + said.stderr
    assert done(said) == {"15_align eng/lexicon", "15_align swh/patterns", "17_translate swh", "18_sentences swh"}
    assert_same_outputs(run, finished[0] / "runs" / "small")


def test_a_changed_parameter_redoes_its_stage_and_what_depends_on_it(finished, finerweb, tmp_path):
    run = copy_of(finished, tmp_path)
    said = finerweb(tmp_path, "run", finished[0] / "small.yaml", "--stages", "19_judge,20_publish", "--set", "18_sentences.longest=40")
    assert said.returncode == 0, said.stdout + said.stderr
    assert done(said) == {"18_sentences eng", "18_sentences swh", "20_publish"} or done(said) == {"18_sentences eng", "18_sentences swh"}
    assert json.loads((run / "18_sentences/swh/meta.json").read_text())["parameters"]["longest"] == 40
    changed = {n for n, b in outputs(run).items() if b != outputs(finished[0] / "runs/small")[n]}
    assert all(n.startswith(("18_sentences", "20_publish")) for n in changed)
    assert ("20_publish" in done(said)) == any(n.startswith("18_sentences") for n in changed)


def test_the_same_bytes_again_make_nothing_else_out_of_date(finished, finerweb, tmp_path):
    run = copy_of(finished, tmp_path)
    said = finerweb(tmp_path, "run", finished[0] / "small.yaml", "--stages", END, "--set", "10_corpus.pool=1999")
    assert said.returncode == 0, said.stdout + said.stderr
    assert done(said) == {"10_corpus eng", "10_corpus swh"}
    assert_same_outputs(run, finished[0] / "runs" / "small")


# --- killed


def processes(mark: str) -> list[int]:
    "The living processes whose environment holds `mark`."
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes() and b") Z " not in (path.parent / "stat").read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


def wait_for(condition, seconds: float, what: str) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, f"{what} did not happen in {seconds} seconds"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_killed_three_times_and_with_one_worker_it_makes_the_same_bytes(finished, finerweb, environment, tmp_path):
    run, mark = copy_of(finished, tmp_path), f"FINERWEB_MARK={tmp_path}"
    for path in [*run.glob("1[0-9]_*/swh"), run / "12_filter", run / "20_publish"]:  # all Swahili is to be done, and what Swahili is needed for
        shutil.rmtree(path)
    shutil.copy(finished[0] / "small.yaml", tmp_path)
    words = ("run", "small.yaml", "--stages", "19_judge,20_publish", "--workers", "1")

    def start(at: str) -> subprocess.Popen:
        "A run, as soon as it has begun with the task `at`."
        command = [sys.executable, "-m", "finerweb", *words]
        marked = environment | dict([mark.split("=")])
        runner = subprocess.Popen(command, cwd=tmp_path, env=marked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        wait_for(lambda: (run / at).is_dir() or runner.poll() is not None, 600, f"the beginning of {at}")
        assert runner.poll() is None, "the run ended before it could be killed"
        return runner

    runner = start("11_rate/swh/patterns")
    os.killpg(runner.pid, signal.SIGKILL)  # at once, and the next run at once after it
    runner.wait()

    runner = start("12_filter")
    os.kill(runner.pid, signal.SIGSTOP)  # so that it is at work whatever the machine's speed; the task it began may still end
    refused = finerweb(tmp_path, *words)
    other = finerweb(tmp_path, "run", "small.yaml", "--run", "other", "--stages", "10_corpus", "--languages", "swh")
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    assert refused.returncode == 2 and "at work in another process" in refused.stderr and refused.stderr.count("\n") == 1
    assert other.returncode == 0, other.stdout + other.stderr
    wait_for(lambda: not processes(mark), 60, "the end of the killed run's processes")
    before = state(run)

    runner = start("16_merge/swh")
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    assert before.items() <= state(run).items(), "finished work was lost or done again"
    assert "20_publish/meta.json" not in state(run)

    said = finerweb(tmp_path, *words)
    assert said.returncode == 0, said.stdout + said.stderr
    assert {t.split("/")[0] for t in done(said)} == {"16_merge swh", "17_translate swh", "18_sentences swh", "19_judge swh", "20_publish"}
    assert_same_outputs(run, finished[0] / "runs" / "small")
    for name, record in state(run).items():
        mine, theirs = json.loads(record), json.loads((finished[0] / "runs/small" / name).read_bytes())
        assert mine | {"seconds": 0} == theirs | {"seconds": 0}, name


# --- other sources


def test_real_text_in_two_scripts_goes_all_the_way(real_data, finerweb, profile_file, tmp_path):
    if not (real_data / "web" / "tha.parquet").exists():
        pytest.skip(f"needs {real_data / 'web'}/*.parquet")
    profile_file(tmp_path, students=[], benchmarks=[])
    said = finerweb(tmp_path, "run", "small.yaml", "--source", f"{real_data}/web/*.parquet", "--languages", "eng,tha", "--stages", "20_publish")
    assert said.returncode == 0, said.stdout + said.stderr
    for language in ("eng", "tha"):
        rows = pq.read_table(tmp_path / "runs/small/20_publish/merged-english-passages" / language / "train.parquet").to_pylist()
        assert len(rows) == 4 and all(r["text"][s["start"] : s["end"]].strip() for r in rows for s in r["char_spans"])
        assert sum(len(r["char_spans"]) for r in rows) > 0
    assert any("\u0e00" < c < "\u0e7f" for c in rows[0]["text"])


# --- the other words of the command line


def test_a_dry_run_shows_the_plan_and_writes_nothing(finished, finerweb, tmp_path):
    said = finerweb(tmp_path, "run", "demo", "--dry-run", "--stages", "13_select", "--languages", "swh,tha")
    assert said.returncode == 0 and re.search(r"11_rate +│ 4 +│ 0 +│ swh/lexicon, swh/patterns, tha/lexicon, tha/patterns", said.stdout)
    assert "14_annotate" not in said.stdout and list(tmp_path.iterdir()) == []
    before = state(finished[0] / "runs" / "small")
    said = finerweb(finished[0], "run", "small.yaml", "--dry-run", "--set", "15_align.policy=default", "--set", "18_sentences.longest=50")
    assert re.search(r"18_sentences +│ 2 +│ 0 ", said.stdout) and re.search(r"15_align +│ 4 +│ 4 ", said.stdout)
    assert state(finished[0] / "runs" / "small") == before


def test_status_tells_what_a_run_holds(finished, finerweb):
    said = finerweb(finished[0], "status", "--run", "small")
    assert said.returncode == 0 and re.search(r"small: 29 of 3\d tasks up to date", said.stdout)
    assert re.search(r"13_select +│ +│ 2 ", said.stdout) and "tiny" in said.stdout
    metas = [json.loads((finished[0] / f"runs/small/13_select/{c}/meta.json").read_text()) for c in ("eng", "swh")]
    rows = re.findall(r"^ (eng|swh|all) +([\d,]+) +([\d,]+) +([\d,]+) +(-?\d.*)", finerweb(finished[0], "status", "--run", "small", "--each").stdout, re.MULTILINE)
    read, kept = ([m["counts"]["documents_read"] for m in metas], [m["rows"] for m in metas])
    assert [(r[0], int(r[1]), int(r[3])) for r in rows] == [("eng", read[0], kept[0]), ("swh", read[1], kept[1]), ("all", sum(read), sum(kept))]
    said = finerweb(finished[0], "status", "--run", "smal")
    assert said.returncode == 2 and "there is small" in said.stderr


def test_languages_lists_all(finerweb, tmp_path):
    said = finerweb(tmp_path, "languages")
    assert said.returncode == 0 and len(re.findall(r"^│ [a-z]{3} ", said.stdout, re.MULTILINE)) == 91
    assert re.search(r"swh +│ Swahili.* swh_Latn", said.stdout) and "…" not in said.stdout


def test_predict_tells_where_entities_are(finished, finerweb, tmp_path):
    student, texts = finished[0] / "runs/small/33_binder/tiny", ["Nairobi ni mji mkuu wa Kenya.", "", "กรุงเทพ"]
    said = finerweb(tmp_path, "predict", student, "--labels", "person, location", "--threshold", "0", "-", text="\n".join(texts) + "\n")
    assert said.returncode == 0, said.stderr
    found = [line.split("\t") for line in said.stdout.splitlines()]
    assert found
    for n, start, end, label, score, mention in found:
        assert texts[int(n)][int(start) : int(end)] == mention != "" and label in ("person", "location") and 0 <= float(score) <= 1
