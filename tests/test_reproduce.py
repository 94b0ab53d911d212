"""A run's record, the same run again from it, and what differs between two runs."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from finerweb.runner.cli import app
from finerweb.runner.reproduce import differences, made_with, read_record, run_record


def command(*words: object) -> tuple[int, str]:
    "(exit code, what a command prints)"
    ended = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "300"})
    return ended.exit_code, " ".join(ended.output.split())


@pytest.fixture(scope="module")
def record(finished) -> dict:
    return json.loads((finished[0] / "runs/small/run.json").read_text(encoding="utf-8"))


def test_a_run_leaves_a_record_of_all_that_decided_it(record, finished):
    small = finished[0] / "runs/small"
    assert len(record["outputs"]) == len(list(small.rglob("meta.json"))) > 20
    meta = json.loads((small / "16_merge/swh/meta.json").read_text())
    kept = record["outputs"]["16_merge swh"]
    assert {name: kept[name] for name in ("output", "parameters", "inputs")} == {
        name: meta[name] for name in ("output", "parameters", "inputs")
    }  # fmt: skip
    assert record["profile"]["languages"] == ["eng", "swh"] and record["packages"]["torch"]
    assert record["machine"]["cpus"] and record["machine"]["memory"] > 2**30
    now = run_record(small)
    assert all(record[part] == now[part] for part in ("run", "profile", "outputs", "python", "packages", "machine"))


def test_no_key_of_the_environment_is_in_it(monkeypatch, finished):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    assert "canary" not in json.dumps(run_record(finished[0] / "runs/small"))
    assert "canary" not in json.dumps(made_with())


@pytest.fixture(scope="module")
def again(finished, tmp_path_factory, finerweb) -> tuple[Path, str]:
    "(folder of the runs, what was printed): the first stages of the small run, from its record, by one worker."
    home = tmp_path_factory.mktemp("again")
    shutil.copy(finished[0] / "runs/small/run.json", home / "run.json")
    words = ("--stages", "11_rate/swh", "--workers", "1", "--home", home / "runs")
    done = finerweb(home, "reproduce", home / "run.json", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "runs", done.stdout


def test_the_same_run_again_on_another_number_of_workers_is_the_same_to_the_byte(again, finished):
    home, printed = again
    made = read_record("small-again", str(home))["outputs"]
    assert f"{len(made)} outputs, and all are the same to the last byte." in printed and "11_rate swh/patterns" in made
    assert yaml.safe_load((home / "small-again/profile.yaml").read_text())["workers"] == 1
    code, told = command("diff", finished[0] / "runs/small", "small-again", "--home", home)
    assert code == 1 and "only in the first" in told and "11_rate swh" not in told


def test_a_difference_is_told_with_its_cause(again, tmp_path):
    home, _ = again
    shutil.copytree(home / "small-again", tmp_path / "other")
    changes = {"10_corpus/swh": {"code": "x"}, "11_rate/swh/lexicon": {"inputs": {"nothing": "1"}}}
    for stage, change in changes.items():
        file = tmp_path / "other" / stage / "meta.json"
        meta = json.loads(file.read_text())
        file.write_text(json.dumps(meta | change | {"output": "other"}))
    code, told = command("diff", home / "small-again", tmp_path / "other")
    assert code == 1 and "other code of its stage" in told and "reads nothing, which differs" in told
    assert "2 of " in told and "outputs are not the same." in told
    assert command("diff", home / "small-again", home / "small-again")[0] == 0
    (tmp_path / "run.json").write_text('{"profile": {}, "outputs": {}}')
    code, told = command("diff", tmp_path / "run.json", tmp_path / "run.json")
    assert code == 2 and "nothing to compare" in told


def test_more_than_fifty_differences_are_counted(capsys):
    from finerweb.runner.reproduce import _show_differences

    rows = differences({f"10_corpus {n}": {"output": "1"} for n in range(80)}, {})
    _show_differences(rows, 80)
    assert "80 of 80 outputs are not the same; 30 more are not shown." in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no run.json"),
        ("[]", "expected an object with profile and outputs"),
        ('{"profile": {"nothing": 1}, "outputs": {}}', "of another version of finerweb"),
        ('{"profile": {"languages": ["xyz"]}, "outputs": {}}', "xyz"),
        (None, "no run"),
    ],
)
def test_a_record_that_cannot_be_used_ends_in_one_line(text, message, tmp_path):
    file = tmp_path / "run.json"
    if text is not None:
        file.write_text(text)
    ended = CliRunner().invoke(app, ["reproduce", str(file), "--home", str(tmp_path / "runs")])
    assert ended.exit_code == 2 and message in ended.stderr and ended.stderr.count("\n") == 1
