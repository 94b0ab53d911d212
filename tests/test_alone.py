"""A notebook on a machine where nobody has been: an empty folder, an environment without finerweb, Colab's and Kaggle's
variables. `FINERWEB_ALONE=all` takes every stage notebook, which takes an hour; or it names some, with commas."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
STAGES = [path.stem for path in sorted((ROOT / "nbs").glob("[1-5]*.ipynb"))]
NAMED = os.environ.get("FINERWEB_ALONE", "11_rate,16_merge,50_figures")
CHOSEN = STAGES if NAMED == "all" else NAMED.split(",")
READS_NOTHING = {"10_corpus", "30_benchmarks"}
PLATFORMS = {
    "COLAB_RELEASE_TAG": "release-colab",
    "COLAB_GPU": "",
    "COLAB_BACKEND_VERSION": "next",
    "KAGGLE_KERNEL_RUN_TYPE": "Interactive",
    "KAGGLE_URL_BASE": "https://www.kaggle.com",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "CLICOLOR": "1",
    "PAGER": "cat",
}
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
options = dict(timeout=3600, startup_timeout=600, kernel_name="python3", resources={"metadata": {"path": "."}})
NotebookClient(notebook, **options).execute()
nbformat.write(notebook, sys.argv[1])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    "finerweb as pip builds it from this checkout."
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("finerweb", "nbs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "runs", ".*"))
    options = ["--no-deps", "--no-build-isolation", "-q", "-w", str(built)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    return next(built.glob("*.whl"))


@pytest.fixture
def fresh(tmp_path) -> Path:
    "The Python of an environment that has all packages of this one but finerweb."
    packages, environment = tmp_path / "packages", tmp_path / "environment"
    packages.mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "finerweb" not in path.name and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    own = sysconfig.get_path("purelib", "venv", vars={"base": str(environment)})
    Path(own, "packages.pth").write_text(f"{packages}\n")
    return environment / "bin" / "python"


@pytest.mark.long
@pytest.mark.parametrize("stage", CHOSEN)
def test_a_stage_notebook_runs_alone_in_an_empty_folder(stage, wheel, fresh, tmp_path):
    if stage == "34_gliner":
        pytest.importorskip("gliner", reason="needs the extra gliner")
    folder, user = tmp_path / "content", tmp_path / "user"
    folder.mkdir()
    user.mkdir()
    shutil.copy(wheel, folder)
    notebook = Path(shutil.copy(ROOT / "nbs" / f"{stage}.ipynb", folder))
    environment = PLATFORMS | {"PATH": f"{fresh.parent}:/usr/bin:/bin", "HOME": str(user), "LANG": "C.UTF-8"}
    ended = subprocess.run(
        [fresh, "-c", EXECUTE, notebook.name], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    where = subprocess.run(
        [fresh, "-c", "import finerweb; print(finerweb.__file__)"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(fresh.parent.parent), "the install cell has installed it"
    outputs = [o for cell in nbformat.read(notebook, as_version=4).cells for o in cell.get("outputs", ())]
    printed = "".join(o["text"] for o in outputs if o.get("name") == "stdout")
    made = {path.parent.relative_to(folder / "runs" / "demo").parts[0] for path in folder.rglob("meta.json")}
    if stage in READS_NOTHING:
        assert not made
    else:
        assert "is not there yet; it and what it needs are made now, once" in printed and "tasks done, " in printed
        assert "10_corpus" in made and stage not in made, "what it reads is kept, its own output is only shown"
        assert max(made - {"30_benchmarks"}) < stage, "that one may stand before any"
