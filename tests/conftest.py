"""Where the tests find things. They reach no model hub, and skip, with a reason, what needs data that is not there."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from finerweb.data import lesson_entity

os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    "Names the marks."
    config.addinivalue_line("markers", "vllm: needs vLLM, in an environment of its own")
    config.addinivalue_line("markers", "long: takes minutes; `make test-long` runs it, `make test` does not")


@pytest.fixture(scope="session")
def root() -> Path:
    "The top folder of the repository."
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    "The folder of real texts and benchmarks: `$FINERWEB_TEST_DATA`, or shared/data beside the repository."
    named = os.environ.get("FINERWEB_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if named and not folder.is_dir():
        pytest.fail(f"FINERWEB_TEST_DATA names {named}, which is no folder")
    if not folder.is_dir():
        pytest.skip("needs real data: set FINERWEB_TEST_DATA to a folder with ner/ and web/")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    "torch on one thread: small things wait for each other on two."
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory) -> str:
    "The folder of a small untrained encoder of characters."
    import torch

    from finerweb.models.char_encoder import CharEncoder, CharEncoderConfig, CharTokenizer

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    CharEncoder(CharEncoderConfig(rows=1000, row_size=16, hidden_size=48, dilations=[1, 2, 4])).save_pretrained(folder)
    CharTokenizer().save_pretrained(folder)
    return str(folder)


def untrained(encoder: str, **changes) -> "SpanBinder":  # noqa: F821
    "A small student on an encoder, always with the same weights."
    import torch

    from finerweb.student.model import SpanBinder

    torch.manual_seed(0)
    sizes = dict(label_encoder=encoder, size=32, max_width=20, window=400, dropout=0.0, freeze_labels=True)
    return SpanBinder.from_encoder(encoder, **(sizes | changes))


def labelled_row(text: str, labels: dict[str, str], language: str = "swh", **more: str) -> dict:
    "A training row from mention -> label; `more` are further columns."
    entities = [lesson_entity(text, mention, label) | {"score": 1.0} for mention, label in labels.items()]
    return {"text": text, "language": language, **more, "entities": entities, "undecided": []}


SMALL = {
    "languages": ["eng", "swh"],
    "workers": 2,
    "teachers": [{"name": "lexicon", "kind": "weak"}, {"name": "patterns", "kind": "weak"}],
    "students": [
        {
            "name": "tiny", "encoder": "char", "label_encoder": "minilm", "languages": ["swh"], "steps": 4, "batch": 4,
            "size": 16, "window": 128,
        }  # fmt: skip
    ],
    "benchmarks": [{"name": "sample-swh"}],
    "stages": {
        "10_corpus": {"documents": 6},
        "12_filter": {"epochs": 1, "batch": 8, "max_length": 200},
        "13_select": {"passages": 4, "threshold": -9.0, "max_length": 200},
        "35_evaluate": {"resamples": 20},
    },
}


CHEAP = {"40_confidence": {"folds": 0}, "41_label_language": {"encoder": "minilm"}}


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    "The environment of a command: a home folder of its own, this checkout's code, wide lines."
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FINERWEB_", "HF_", "XDG_", "PYTEST_"))}
    mine = {
        "HOME": str(tmp_path_factory.mktemp("user")),
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "500",
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
    }
    return kept | mine


@pytest.fixture(scope="session")
def finerweb(environment) -> Callable[..., subprocess.CompletedProcess]:
    "`finerweb(cwd, *words)`: the command line in a process of its own, in the folder `cwd`; `more`: its environment."

    def call(cwd: Path, *words: object, text: str | None = None, **more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "finerweb", *map(str, words)]
        options = dict(capture_output=True, encoding="utf-8", timeout=1200)
        return subprocess.run(command, cwd=cwd, env=environment | more, input=text, **options)

    return call


def write_profile(folder: Path, name: str = "small", **changes: object) -> Path:
    "SMALL with `changes`, as a file; the stages that study a run do little."
    path, fields = folder / f"{name}.yaml", SMALL | changes
    if isinstance(fields["stages"], dict):
        fields["stages"] = CHEAP | fields["stages"]
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def profile_file() -> Callable[..., Path]:
    "`profile_file(folder, name, **changes)`: the small profile with changes, as a file."
    return write_profile


@pytest.fixture(scope="session")
def finished(tmp_path_factory, finerweb) -> tuple[Path, subprocess.CompletedProcess]:
    """(a folder, what the command printed): the small run, two workers, from the sample to the student's score, in
    `runs/small` of the folder. Nobody writes into it. Processes that share the tests make it once."""
    top = tmp_path_factory.getbasetemp()
    folder = (top.parent if "PYTEST_XDIST_WORKER" in os.environ else top) / "finished"
    with FileLock(f"{folder}.lock"):
        record = folder / "command.json"
        if not record.is_file():
            folder.mkdir(exist_ok=True)
            made = finerweb(folder, "run", write_profile(folder), "--stages", "19_judge,20_publish,35_evaluate")
            record.write_text(json.dumps([made.returncode, made.stdout, made.stderr]), encoding="utf-8")
    done = subprocess.CompletedProcess("run", *json.loads(record.read_text(encoding="utf-8")))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done
