"""The form that every notebook and module keeps, and what a person installs."""

import ast
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import symtable
import sys
import tarfile
import tokenize
import zipfile
from configparser import ConfigParser
from functools import cache
from importlib.metadata import version
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
NBS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "sentence_transformers",
    "accelerate",
    "sklearn",
    "scipy",
    "matplotlib",
    "pandas",
    "vllm",
    "gliner",
    "spacy",
    "onnxruntime",
    "ray",
}
# They define torch modules, and only run cells and functions import them.
MODELS = {
    "binder",
    "models.char_encoder",
    "models.e5",
    "models.encoders",
    "models.vocabulary",
    *(f"student.{m}" for m in ("light", "losses", "model", "objective", "targets", "training")),
}

SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = SETTINGS["DEFAULT"]


def requirements() -> dict[str, Requirement]:
    "Everything settings.ini asks for, extras included."
    keys = [k for k in SETTINGS if k == "requirements" or k.endswith("_requirements")]
    listed = [Requirement(r) for k in keys for r in SETTINGS[k].split()]
    return {canonicalize_name(r.name): r for r in listed}


@cache
def read(path: Path):
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[str]:
    return [c.source for c in read(path).cells if c.cell_type == "code"]


@cache
def tree(source: str) -> ast.Module:
    "A cell as Python: magics are taken out, as nbdev does on export."
    return ast.parse(re.sub(r"^\s*[%!].*$", "", source, flags=re.M))


def directive(source: str, name: str) -> bool:
    return re.search(rf"^#\|\s*{name}\b", source, re.M) is not None


def export_cells(path: Path) -> list[str]:
    return [c for c in code(path) if directive(c, "exporti?")]


def title(path: Path) -> str:
    "A notebook's place in nbs/ as text: 05_weak/00_lexicon."
    return path.relative_to(ROOT / "nbs").with_suffix("").as_posix()


def place(path: Path) -> tuple[int, ...]:
    "(floor, place in the folder) of a notebook; one at the top comes after the folder of its number, the index last."
    numbers = [int(number[0]) if (number := re.match(r"\d+", part)) else 99 for part in title(path).split("/")]
    return numbers[0], numbers[1] if len(numbers) > 1 else 99


def is_stage(path: Path) -> bool:
    return place(path)[1] == 99 and 10 <= place(path)[0] < 60


STAGES = [p for p in NBS if is_stage(p)]
each_notebook = pytest.mark.parametrize("path", NBS, ids=title)
each_stage = pytest.mark.parametrize("path", STAGES, ids=title)


@cache
def module_places() -> dict[str, tuple[int, ...]]:
    "Module, without `finerweb.` -> the place of its notebook; the package `student` is where its SpanBinder is."
    places = {}
    for path in NBS:
        for source in code(path):
            if name := re.search(r"^#\|\s*default_exp\s+(\S+)", source, re.M):
                assert name[1] not in places, f"two notebooks export to {name[1]}"
                places[name[1]] = place(path)
    return places | {"student": places["student.model"]}


def module_file(module: str) -> Path:
    path = (ROOT / "finerweb").joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def package_of(module: str) -> str:
    "The package that a module's relative imports start from."
    return (
        f"finerweb.{module}" if module_file(module).name == "__init__.py" else f"finerweb.{module}".rpartition(".")[0]
    )


def imports(module: ast.AST, inside: bool, package: str = "finerweb") -> set[str]:
    "Full names of the modules, and of what is taken from them, that code imports; `inside`: in functions too."
    names, waiting = set(), [module]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names |= {base, *(f"{base}.{a.name}" for a in node.names)}
        if inside or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return names


def own(names: set[str]) -> set[str]:
    "The modules of finerweb among some full names."
    return {n.removeprefix("finerweb.") for n in names if n.startswith("finerweb.")} & set(module_places())


@cache
def module_imports() -> dict[str, set[str]]:
    "Module -> the modules of finerweb that it imports, in functions too."
    sources = {m: ast.parse(module_file(m).read_text(encoding="utf-8")) for m in module_places()}
    return {m: own(imports(source, inside=True, package=package_of(m))) - {m} for m, source in sources.items()}


# What is installed


def test_environment_yml_agrees_with_settings():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    pip = next(d["pip"] for d in listed if isinstance(d, dict))
    assert "-e .[dev,onnx]" in pip
    conda = {
        r.name: r
        for r in map(
            Requirement, [d for d in listed if isinstance(d, str)] + [p for p in pip if not p.startswith("-e")]
        )
    }
    assert set(conda) >= {"jupyterlab", "papermill", "nbdev", "transformers", "vllm", "torch", "datasets", "matplotlib"}
    assert "vllm" in {Requirement(p).name for p in pip if not p.startswith("-e")}
    wanted = requirements()
    for name in set(conda) & set(wanted):
        assert conda[name].specifier == wanted[name].specifier, (
            f"{name}: environment.yml has {conda[name].specifier}, settings.ini {wanted[name].specifier}"
        )
    assert set(conda) - set(wanted) <= {"python", "pip", "vllm"}
    assert conda["python"].specifier.contains(SETTINGS["min_python"]) and not conda["python"].specifier.contains("3.10")


def test_locked_versions_are_in_the_ranges():
    lines = [
        x for x in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines() if x and not x.startswith("#")
    ]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][A-Za-z0-9.]*", x) for x in lines), (
        "one name==version a line, nothing else"
    )
    locked = dict(x.split("==") for x in lines)
    assert list(locked) == sorted(locked)
    assert locked["torch"] == "2.13.0"
    needed = {Requirement(r).name for key in ("requirements", "dev_requirements") for r in SETTINGS[key].split()}
    for name, requirement in requirements().items():
        if name in locked or name in {canonicalize_name(n) for n in needed}:
            assert name in locked, f"{name} is not in requirements.lock: make setup, then make lock"
            assert requirement.specifier.contains(locked[name]), (
                f"{name}: {locked[name]} is locked, settings.ini asks for {requirement.specifier}"
            )


def test_every_locked_version_has_the_hash_of_its_file():
    lines = lambda path: [x for x in path.read_text(encoding="utf-8").splitlines() if x and not x.startswith("#")]
    locked, files = lines(ROOT / "requirements.lock"), sorted((ROOT / ".ci").glob("requirements-*.txt"))
    assert files
    for path in files:
        hashed = lines(path)
        assert [x.split()[0] for x in hashed] == locked, f"{path.name} is not of requirements.lock: make lock"
        assert all(re.fullmatch(r"\S+ --hash=sha256:[0-9a-f]{64}", x) for x in hashed)


TOP = "settings.ini setup.py pyproject.toml MANIFEST.in README.md LICENSE CITATION.cff CONTRIBUTING.md Makefile".split()
TOP += "environment.yml requirements.lock .ruff.toml".split()
NESTED = [
    "finerweb/nested/__init__.py",
    "finerweb/nested/module.py",
    "nbs/03_nested/00_module.ipynb",
    "nbs/03_nested/images/a.svg",
]
LEFTOVERS = [
    "nbs/runs/demo/00_data.ipynb",
    "nbs/03_nested/runs/a.json",
    "nbs/.ipynb_checkpoints/00_data.ipynb",
    "nbs/__pycache__/a.pyc",
    "runs/a.json",
]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist of this tree, with nested folders and with what runs leave in it, and the wheel that is
    built from the unpacked sdist."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    source.mkdir()
    for name in TOP:
        shutil.copy(ROOT / name, source)
    for name in ("finerweb", "nbs", "tests", ".ci"):
        shutil.copytree(
            ROOT / name,
            source / name,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".*.new", "runs"),
        )
    for name in [*NESTED, *LEFTOVERS]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "-o", str(folder), str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    return next(built.glob("*.whl"))


def test_sdist_has_all_that_a_checkout_needs(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        inside = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    folders = [p for name in ("finerweb", "nbs", "tests", ".ci") for p in (ROOT / name).rglob("*")]
    files = [p.relative_to(ROOT) for p in folders if p.is_file()]
    tree = {
        p.as_posix()
        for p in files
        if not {"__pycache__", ".ipynb_checkpoints", "runs"} & set(p.parts) and not p.name.startswith(".")
    }
    assert not sorted({*TOP, *NESTED, *tree} - inside)
    assert not inside & set(LEFTOVERS)


def test_wheel_has_modules_notebooks_and_assets(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f"finerweb/nbs/{p.relative_to(ROOT / 'nbs').as_posix()}" for p in NBS} <= inside
    files = [
        p
        for p in (ROOT / "finerweb").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and not p.name.startswith(".")
    ]
    lacking = sorted({p.relative_to(ROOT).as_posix() for p in files} - inside)
    assert not lacking
    assert {re.sub("^nbs/", "finerweb/nbs/", name) for name in NESTED} <= inside
    assert not inside & {f"finerweb/{name}" for name in LEFTOVERS}
    assert any(n.endswith("licenses/LICENSE") for n in inside)
    assert not [n for n in inside if n.startswith(("tests/", "nbs/", ".ci/"))]


def test_wheel_works_away_from_the_checkout(wheel, tmp_path):
    target, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(target)
    here = {
        "cwd": empty,
        "env": {"PYTHONPATH": str(target), "FINERWEB_HOME": str(empty / "runs")},
        "capture_output": True,
        "text": True,
    }
    paths = "d.__file__, str(d.asset('types.tsv')), str(s.notebooks_folder())"
    show = f"import finerweb.data as d, finerweb.store as s, json; print(json.dumps([{paths}, len(d.entity_types())]))"
    done = subprocess.run([sys.executable, "-c", show], **here)
    assert done.returncode == 0, done.stderr
    *paths, types = json.loads(done.stdout)
    assert (
        all(Path(p).is_relative_to(target) for p in paths)
        and Path(paths[-1]) == target / "finerweb" / "nbs"
        and types > 20
    )
    done = subprocess.run([sys.executable, "-m", "finerweb", "run", "demo", "--dry-run"], **here)
    assert done.returncode == 0, done.stderr
    assert "12_filter" in done.stdout and not list(empty.iterdir()), "the plan is shown, and nothing is written"


# Notebooks


@pytest.fixture(scope="module")
def frame():
    "The module .ci/notebooks.py, which writes headers and exports."
    spec = importlib.util.spec_from_file_location("frame", ROOT / ".ci" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_notebooks_have_their_header(frame, capsys):
    assert frame.header(NBS, check=True) == 0, capsys.readouterr().out


def test_header_goes_in_once_and_changes_nothing_else(frame, tmp_path):
    path = tmp_path / "11_rate.ipynb"
    cells = [
        nbformat.v4.new_markdown_cell("# rate\n\n> One to four."),
        nbformat.v4.new_code_cell("#| default_exp rate"),
    ]
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells)) + "\n", encoding="utf-8")
    assert frame.header([path], check=True) == 1
    frame.header([path], check=False)
    once = path.read_bytes()
    frame.header([path], check=False)
    assert path.read_bytes() == once and frame.header([path], check=True) == 0
    now = nbformat.reads(once.decode(), as_version=4).cells
    assert [now[0], now[3]] == cells and len(now) == 4
    assert f"{SETTINGS['user']}/{SETTINGS['repo']}/blob/{SETTINGS['branch']}/nbs/11_rate.ipynb" in now[1].source


def test_a_page_wraps_its_lines_escapes_text_and_loads_nothing_from_elsewhere(frame, tmp_path):
    code = nbformat.v4.new_code_cell("#| hide_line\nx = '" + "long " * 60 + "<script>alert(1)</script>'")
    code.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="<script>alert(2)</script>"),
        nbformat.v4.new_output("execute_result", data={"text/plain": "<script>alert(3)</script>"}),
    ]
    cells = [
        nbformat.v4.new_markdown_cell("# page\n\n> A page. [another](00_data.ipynb#mentions)"),
        *frame.header_cells("page.ipynb"),
        code,
    ]
    path = tmp_path / "page.ipynb"
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells)) + "\n", encoding="utf-8")
    assert frame.html([path], tmp_path / "pages") == 0
    (page,) = (tmp_path / "pages").rglob("page.html")
    text = page.read_text(encoding="utf-8")
    assert "white-space: pre-wrap !important" in text and "<script>alert" not in text and "alert" in text
    assert 'href="00_data.html#mentions"' in text and "importlib" not in text and "hide_line" not in text
    assert not re.findall(r"""<(?:script|img|link)[^>]*(?:src|href)=["'](?:https?:)?//[^"']*""", text)


class Pip:
    """Runs the install cell where finerweb is missing, in a current folder and with an input folder of its own, and
    keeps what pip is told."""

    def __init__(self, frame, folder: Path, monkeypatch):
        self.frame, self.calls, self.patch = frame, [], monkeypatch
        self.here, self.inputs = folder / "here" / "nbs", folder / "inputs"
        self.here.mkdir(parents=True)
        monkeypatch.chdir(self.here)
        monkeypatch.delenv("FINERWEB_PACKAGE", raising=False)
        monkeypatch.setattr(
            subprocess, "run", lambda command, **_: self.calls.append((command, Path(command[6]).read_text()))
        )

    def source(self) -> str:
        return self.frame.header_cells("11_rate.ipynb")[1].source

    def package(self, named: str = "") -> str:
        "What the cell has pip install; `named` is the variable."
        if named:
            self.patch.setenv("FINERWEB_PACKAGE", named)
        changed = (
            self.source()
            .replace('find_spec("finerweb")', 'find_spec("finerweb_is_not_here")')
            .replace("/kaggle/input", str(self.inputs))
        )
        exec(compile(changed, "install", "exec"), {})
        ((command, kept),) = self.calls
        self.calls.clear()
        assert command[:4] == [sys.executable, "-m", "pip", "install"]
        assert f"torch=={version('torch')}\n" in kept, "pip must leave the machine's torch alone"
        return command[-1]


@pytest.fixture
def pip(frame, tmp_path, monkeypatch) -> Pip:
    return Pip(frame, tmp_path, monkeypatch)


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_install_cell_is_short_and_acts_only_where_the_package_is_missing(pip):
    exec(compile(pip.source(), "install", "exec"), {})
    assert pip.calls == []
    lines = pip.source().splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) <= 120


def test_install_cell_takes_what_the_variable_names(pip, tmp_path):
    put(pip.here / "finerweb-9.0-py3-none-any.whl")  # would be next
    wheel = put(tmp_path / "elsewhere" / "finerweb-0.1.0-py3-none-any.whl")
    assert pip.package(str(wheel)) == str(wheel)
    assert pip.package(str(wheel.parent)) == str(wheel.parent)
    (pip.here / "checkout").mkdir()
    assert pip.package("checkout") == str(pip.here / "checkout"), "a bare name is a path, never a name for pip's index"
    assert pip.package("git+https://example.org/finerweb.git@main") == "git+https://example.org/finerweb.git@main"
    for name in ("finerweb", "no/such/folder", "finerweb-9.9-py3-none-any.whl"):
        with pytest.raises(ModuleNotFoundError, match=re.escape(f"FINERWEB_PACKAGE={name!r} is no wheel")):
            pip.package(name)
    assert pip.calls == []


def test_install_cell_finds_a_wheel_and_takes_the_newest_version(pip):
    put(pip.here.parent / "settings.ini", "[DEFAULT]\nlib_name = finerweb\n")  # would be next
    wheel = put(pip.inputs / "a-dataset" / "files" / "finerweb-0.9.0-py3-none-any.whl")
    assert pip.package() == str(wheel)
    wheel = put(pip.here / "finerweb-0.10.0-py3-none-any.whl")
    assert pip.package() == str(wheel)
    put(pip.inputs / "finerweb-0.10.0rc1-py3-none-any.whl")
    assert pip.package() == str(wheel)


def test_install_cell_finds_the_checkout_around_it(pip):
    put(pip.here / "settings.ini", "[DEFAULT]\nlib_name = finerweb_of_another\n")
    put(pip.here.parent / "settings.ini", "[DEFAULT]\nlib_name = finerweb\n")
    assert pip.package() == str(pip.here.parent)


def test_install_cell_says_what_to_do_where_there_is_nothing_to_install(pip):
    with pytest.raises(
        ModuleNotFoundError,
        match="finerweb is not installed.*build a wheel in a checkout.*or name it in FINERWEB_PACKAGE$",
    ):
        pip.package()
    assert pip.calls == []


def test_install_cell_knows_an_address_only_from_the_settings(pip):
    assert "://" not in pip.source().replace('"://" not in package', ""), (
        "no address may stand in the cell before it is the project's own"
    )
    settings = pip.frame.settings()
    assert settings["package_address"] == ""
    pip.patch.setattr(pip.frame, "settings", lambda: settings | {"package_address": "git+https://example.org/ours"})
    assert pip.package() == "git+https://example.org/ours"
    wheel = put(pip.here / "finerweb-0.1.0-py3-none-any.whl")
    assert pip.package() == str(wheel)


@each_notebook
def test_notebook_is_clean(path):
    nb = read(path)
    assert nb.cells[0].cell_type == "markdown" and re.match(r"# \S.*\n\n> \S", nb.cells[0].source), (
        "starts with '# name', an empty line, '> one line'"
    )
    for n, cell in enumerate(nb.cells):
        where = f"{title(path)}, cell {n}"
        assert not [o for o in cell.get("outputs", ()) if o.output_type == "error"], (
            f"{where} holds an error; make notebooks refreshes the outputs"
        )
        assert "injected-parameters" not in cell.metadata.get("tags", ()), f"{where} was injected by papermill"
        assert cell.get("execution_count") is None and set(cell.metadata) <= {"tags"}, f"{where}: run nbdev_clean"
        assert "TODO" not in cell.source, f"{where} is not finished"
    assert path.stat().st_size <= 700_000


def test_nothing_names_a_folder_of_one_machine():
    pattern = re.compile(r"(?<![\w.])/(?:work|tmp|root|home|farm|opt|Users)/[\w.-]+")
    files = [
        *NBS,
        *ROOT.glob("*"),
        *(ROOT / "tests").glob("*"),
        *(ROOT / ".ci").glob("*"),
        *(ROOT / ".github").rglob("*"),
    ]
    files += [p for p in (ROOT / "finerweb").rglob("*") if p.suffix in (".py", ".yaml")]
    paths = []
    for path in files:
        if path.is_file():
            paths += [f"{path.relative_to(ROOT)}: {m[0]}" for m in pattern.finditer(path.read_text(encoding="utf-8"))]
    assert not paths


def test_no_run_and_no_large_file_is_tracked():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")[:-1]
    assert "README.md" in tracked
    wrong = [
        name
        for name in tracked
        if "runs" in Path(name).parts or (ROOT / name).is_file() and (ROOT / name).stat().st_size > 1_000_000
    ]
    assert not wrong, f"take out of git: {wrong[:9]}"


@each_notebook
def test_lines_end_at_120_columns(path):
    for n, cell in enumerate(read(path).cells):
        if cell.cell_type == "code":
            wide = [line for line in cell.source.splitlines() if len(line) > 120]
            assert not wide, f"{title(path)}, cell {n}: {wide[0]}"


def exported_lines(cell: str) -> int:
    "The lines of an export cell without its directive and its imports, which may stand one name a line."
    imported = [n for n in tree(cell).body if isinstance(n, ast.Import | ast.ImportFrom)]
    return cell.count("\n") - sum(n.end_lineno - n.lineno + 1 for n in imported)


@each_notebook
def test_export_cells_are_short(path):
    sizes = [exported_lines(cell) for cell in export_cells(path)]
    assert all(s <= 60 for s in sizes), f"lines of the export cells: {sizes}; up to 40 is the aim, 60 the limit"
    assert sum(sizes) <= 300, f"{sum(sizes)} exported lines: split the notebook"


@pytest.mark.parametrize("path", [p for p in NBS if place(p)[0] == 70], ids=title)
def test_measurement_has_one_parameters_cell(path):
    assert sum("parameters" in c.metadata.get("tags", ()) for c in read(path).cells) == 1, (
        "tag the cell of parameters, so that papermill finds it"
    )


@each_stage
def test_stage_has_one_parameters_cell_that_is_its_manual(path):
    tagged = [c for c in read(path).cells if "parameters" in c.metadata.get("tags", ())]
    assert len(tagged) == 1
    assert any(directive(c, "eval: *false") for c in code(path)), "a stage has run cells: #| eval: false"
    source = tagged[0].source
    comments = {
        t.start[0]: t.string
        for t in tokenize.generate_tokens(io.StringIO(source).readline)
        if t.type == tokenize.COMMENT
    }
    names = []
    for line in ast.parse(source).body:
        typed = isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value
        assert typed, f"line {line.lineno}: expected `name: type = value  # comment`"
        ast.literal_eval(line.value)  # papermill replaces values; what is derived from them belongs in a later cell
        assert {line.lineno, line.end_lineno} & set(comments), f"{line.target.id} has no comment"
        names.append(line.target.id)
    assert names[:2] == ["home", "run"]
    manual = papermill.inspect_notebook(str(path))
    assert list(manual) == names
    for name, parameter in manual.items():
        assert parameter["inferred_type_name"] not in ("", "None") and parameter["help"], (
            f"papermill --help-notebook shows no type or comment for {name}"
        )


def entries(written: ast.expr, cell: ast.Module) -> dict[str, str]:
    "Key -> value, as source, of a dict in a cell: dict(...), {...}, a union of such, or a name for one."
    match written:
        case ast.Dict():
            return {ast.literal_eval(k): ast.unparse(v) for k, v in zip(written.keys, written.values, strict=True)}
        case ast.Call(func=ast.Name("dict"), args=[]):
            return {k.arg: ast.unparse(k.value) for k in written.keywords}
        case ast.BinOp(op=ast.BitOr()):
            return entries(written.left, cell) | entries(written.right, cell)
        case ast.Name():
            values = [
                n.value for n in ast.walk(cell) if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == written.id
            ]
            assert len(values) == 1, f"{written.id} is given {len(values)} values in the cell of Task(...)"
            return entries(values[0], cell)
    raise AssertionError(f"parameters={ast.unparse(written)}: expected dict(name=name, ...)")


@each_stage
def test_task_is_told_every_parameter(path):
    cells = [tree(c) for c in code(path) if directive(c, "eval: *false")]
    calls = [
        (n, cell) for cell in cells for n in ast.walk(cell) if isinstance(n, ast.Call) and ast.unparse(n.func) == "Task"
    ]
    assert calls, "no run cell makes its Task(home, run, ...)"
    names = set(papermill.inspect_notebook(str(path))) - {"home", "run"}
    for call, cell in calls:
        assert [ast.unparse(a) for a in call.args[:2]] == ["home", "run"]
        assert ast.literal_eval(call.args[2]) == path.stem
        written = next((k.value for k in call.keywords if k.arg == "parameters"), None)
        assert written is not None, "Task(...) without parameters="
        pairs = entries(written, cell)
        assert set(pairs) == names, (
            f"lacks {sorted(names - set(pairs))}, has besides {sorted(set(pairs) - names)}: the fingerprint is wrong"
        )
        assert all(k == v for k, v in pairs.items())


@each_stage
def test_lists_and_mappings_may_be_given_as_text(path):
    source = next(c.source for c in read(path).cells if "parameters" in c.metadata.get("tags", ()))
    kinds = {line.target.id: ast.unparse(line.annotation) for line in ast.parse(source).body}
    wanted = {f"{n} = from_text('{n}', {n}, {kind})" for n, kind in kinds.items() if kind in ("list", "dict")}
    lines = [ast.unparse(n) for c in code(path) if directive(c, "eval: *false") for n in tree(c).body]
    calls = set(lines[: next(n for n, line in enumerate(lines) if "Task(home" in line)])
    assert wanted <= calls, f"papermill -p gives text: add {sorted(wanted - calls)} in a run cell before Task(...)"


def test_papermill_gives_a_mapping_as_text(tmp_path):
    def executed(benchmark: str) -> Path:
        words = {"home": str(tmp_path), "benchmark": benchmark}
        papermill.execute_notebook(
            str(ROOT / "nbs/30_benchmarks.ipynb"), str(tmp_path / "out.ipynb"), parameters=words, progress_bar=False
        )
        return tmp_path / "demo/30_benchmarks/sample-swh/rows.parquet"

    assert executed('{"name": "sample-swh"}').is_file()
    with pytest.raises(papermill.PapermillExecutionError, match="benchmark is 'sample-swh', expected a mapping"):
        executed("sample-swh")


# Modules


@each_notebook
def test_nothing_imports_upward_and_no_stage_a_stage(path):
    here = place(path)
    for source in code(path):
        for name in own(imports(tree(source), inside=True)):
            there = module_places()[name]
            assert there <= here, (
                f"{title(path)} imports finerweb.{name}, which is {there}: a notebook imports what is listed before it"
            )
            assert there == here or not (10 <= here[0] < 30 and there[1] == 99 and 10 <= there[0] < 30), (
                f"{title(path)} imports the stage {name}: stages meet on disk"
            )


def test_places_are_unique_and_modules_are_called_as_their_notebooks():
    places = [place(p) for p in NBS]
    assert len(set(places)) == len(places), "two notebooks have one number"
    for path in NBS:
        exported = {m for m, there in module_places().items() if there == place(path) and m != "student"}
        assert exported <= {re.sub(r"(^|/)\d+_", r"\1", title(path)).replace("/", ".")}, (
            f"{title(path)} exports {exported}"
        )


def test_the_top_of_nbs_holds_stages_and_common_ground_and_the_rest_lies_in_rooms():
    top = {p.name for p in (ROOT / "nbs").iterdir() if not p.name.startswith(".")} - {"images", "runs", "styles.css"}
    rooms = {"03_text", "04_llm", "05_weak", "06_models", "08_source", "20_dataset", "21_exchange", "32_student"}
    rooms |= {"02_home", "22_page", "52_overview", "50_paper", "60_runner", "70_studies"}
    ground = {"index", "00_data", "01_languages", "02_store", "03_shards", "07_metrics", "09_teachers"}
    ground |= {"80_own_language"}
    assert top == rooms | {f"{name}.ipynb" for name in ground} | {p.name for p in STAGES}
    from finerweb.runner.stages import STAGES as graph

    assert sorted(graph) == sorted(p.stem for p in STAGES), "every stage notebook is in the graph"


def test_module_imports_follow_the_floors():
    places, used = module_places(), module_imports()
    assert used["data"] == set()
    upward = {m: sorted(u for u in names if places[u] > places[m]) for m, names in used.items()}
    assert not {m: u for m, u in upward.items() if u}
    assert {m for m, names in used.items() if "runner.pipeline" in names} == {"runner.cli", "runner.reproduce"}


FINGERPRINTS = """
import json, sys
from finerweb.store import code_fingerprint
print(json.dumps({stage: code_fingerprint(stage)["code"] for stage in sys.argv[1:]}))
"""


def test_a_changed_module_makes_the_stages_that_use_it_stale_and_no_others(tmp_path):
    for folder in ("finerweb", "nbs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "runs", ".*"))
    stages = [p.stem for p in STAGES]

    def fingerprints() -> dict[str, str]:
        command, places = [sys.executable, "-c", FINGERPRINTS, *stages], os.environ | {"PYTHONPATH": str(tmp_path)}
        return json.loads(
            subprocess.run(command, cwd=tmp_path, env=places, check=True, capture_output=True, text=True).stdout
        )

    reached = {}
    for path in STAGES:
        cells = [c for c in code(path) if directive(c, "exporti?") or directive(c, "eval: *false")]
        todo, seen = set().union(*(own(imports(tree(c), inside=True)) for c in cells)), {"store"}
        while new := todo - seen:
            seen |= new
            todo = set().union(*(module_imports()[m] for m in new))
        reached[path.stem] = seen
    before = fingerprints()
    for module in ("text.segment", "llm.ledger", "weak.shapes", "source.chunking", "student.losses", "runner.cli"):
        file = tmp_path / module_file(module).relative_to(ROOT)
        file.write_text(file.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
        after = fingerprints()
        stale = {stage for stage in stages if before[stage] != after[stage]}
        assert stale == {stage for stage in stages if module in reached[stage]}, module
        assert bool(stale) == (module != "runner.cli") and len(stale) < len(stages)
        before = after


@each_notebook
def test_export_cells_import_no_heavy_library_at_the_top(path):
    modules = {m for m, there in module_places().items() if there == place(path)}
    allowed = {"torch", "transformers"} if modules & MODELS else set()
    names = set().union(*(imports(tree(c), inside=False) for c in export_cells(path)))
    assert not {n.split(".")[0] for n in names} & (HEAVY - allowed), "import it in the function that uses it"
    assert modules & MODELS or not own(names) & MODELS, "it would import torch: import it in the function that uses it"


def test_importing_the_package_stays_light():
    light = sorted(f"finerweb.{m}" for m in set(module_places()) - MODELS)
    show = f"import sys, importlib, json\nfor m in {light}: importlib.import_module(m)\n"
    show += "print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", show], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert "finerweb.data" in loaded
    assert not loaded & HEAVY


UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unsafe(module: ast.AST) -> list[str]:
    "Calls and imports that can run code which came with data."
    reasons = sorted({n.split(".")[0] for n in imports(module, inside=True, package="finerweb.any.any")} & UNSAFE)
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {k.arg: getattr(k.value, "value", ...) for k in node.keywords}
        if called == "torch.load" and keywords.get("weights_only") is not True:
            reasons.append("torch.load without weights_only=True")
        if called == "yaml.load" and not any(
            k.arg == "Loader" and "SafeLoader" in ast.unparse(k.value) for k in node.keywords
        ):
            reasons.append("yaml.load without a SafeLoader")
        if called in ("yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "pandas.read_pickle", "eval", "exec"):
            reasons.append(called)
        dangers = ("trust_remote_code", "allow_pickle")
        reasons += [f"{k} in {called}" for k in dangers if keywords.get(k, False) is not False]
    return reasons


UNSAFE_LINES = [
    "import pickle",
    "torch.load(f)",
    "from joblib import load",
    "yaml.load(f, Loader=x)",
    "f(trust_remote_code=True)",
    "g(allow_pickle=flag)",
]


@pytest.mark.parametrize("source", UNSAFE_LINES)
def test_unsafe_loading_is_recognised(source):
    assert unsafe(ast.parse(source))


def test_nothing_fetched_is_run():
    assert not unsafe(
        ast.parse("torch.load(f, weights_only=True); yaml.safe_load(f); yaml.load(f, Loader=yaml.SafeLoader)")
    )
    reasons = {
        p.name: unsafe(ast.parse(p.read_text(encoding="utf-8"))) for p in sorted((ROOT / "finerweb").rglob("*.py"))
    }
    for path in NBS:
        reasons[title(path)] = [u for c in code(path) for u in unsafe(tree(c))]
    assert not {name: u for name, u in reasons.items() if u}


# Names: in a running notebook the variables of its cells are the globals of its functions


def scopes(table: symtable.SymbolTable) -> list[symtable.SymbolTable]:
    "A scope, then all in it."
    return [table, *(scope for child in table.get_children() for scope in scopes(child))]


def imported(module: ast.AST) -> list[tuple[str, str]]:
    "(name, what it stands for) of each import that binds a name of the notebook."
    pairs, waiting = [], [module]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            pairs += [(a.asname, a.name) if a.asname else (a.name.split(".")[0],) * 2 for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            pairs += [(a.asname or a.name, f"{'.' * node.level}{node.module or ''}.{a.name}") for a in node.names]
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)
    return pairs


def bindings(source: str) -> dict[str, set[str]]:
    'Name -> what a cell makes of it for the whole notebook: "module.name" for an import, "" for anything else.'
    top, *inner = scopes(symtable.symtable(ast.unparse(tree(source)), "cell", "exec"))
    names = {}
    for name, origin in imported(tree(source)):
        names.setdefault(name, set()).add(origin)
    assigned = [s for s in top.get_symbols() if s.is_assigned()]
    outward = [s for scope in inner for s in scope.get_symbols() if s.is_declared_global()]
    assigned += [s for s in outward if s.is_assigned() or s.is_imported()]
    for symbol in assigned:
        names.setdefault(symbol.get_name(), set()).add("")
    return names


def lookups(source: str) -> dict[str, str]:
    "Name that a function in exported code looks up outside itself -> the function, or the class that it is in."
    outer = symtable.symtable(ast.unparse(tree(source)), "cells", "exec").get_children()
    inner = [(s, child.get_name()) for child in outer for s in scopes(child) if s.get_type() == "function"]
    symbols = [(symbol, name) for scope, name in inner for symbol in scope.get_symbols()]
    return {s.get_name(): name for s, name in symbols if s.is_global() and s.is_referenced()}


def shadows(sources: list[str]) -> list[str]:
    "Names of the export cells that another cell binds to something else; their own import is no fault."
    exported = "\n".join(s for s in sources if directive(s, "exporti?"))
    own_names, users, faults = bindings(exported), lookups(exported), []
    for n, source in enumerate(sources):
        if not directive(source, "exporti?"):
            for name, origins in bindings(source).items():
                if "# install: written by" in source and name in own_names:
                    continue  # the first code cell: an export cell binds the name anew
                same_import = "" not in origins and origins == own_names.get(name)
                if name in own_names.keys() | users.keys() and not same_import:
                    user = f"{users[name]}() looks up" if name in users else "an export cell binds"
                    faults.append(f"code cell {n} binds {name!r}, which {user}: rename the variable")
    return faults


@each_notebook
def test_no_cell_shadows_a_name_of_the_exported_functions(path):
    assert not shadows(code(path))


EXPORTS = """#| export
import math
from finerweb.data import Entity

LIMIT = 3


def f(x, key=1):
    return [id(e) for e in x if Entity and key < LIMIT and math]
"""
SHADOWING = {  # a cell -> what is said of it
    "for id, row in {}.items():\n    pass": "'id', which f() looks up",
    "with open('x') as id, open('y') as other:\n    pass": "'id', which f() looks up",
    "try:\n    1\nexcept ValueError as id:\n    pass": "'id', which f() looks up",
    "[id := x for x in range(3)]": "'id', which f() looks up",
    "def id(x):\n    return x": "'id', which f() looks up",
    "def g():\n    global id\n    id = 3": "'id', which f() looks up",
    "from builtins import hash as id": "'id', which f() looks up",
    "id: str = 'x'  # a parameter": "'id', which f() looks up",
    "a, (LIMIT, *b) = 1, (2, 3)": "'LIMIT', which f() looks up",
    "import cmath as math": "'math', which f() looks up",
    "from finerweb.store import Entity": "'Entity', which f() looks up",
    "import math\nmath = 3": "'math', which f() looks up",
    "f = 3": "'f', which an export cell binds",
}


@pytest.mark.parametrize("source", SHADOWING)
def test_a_shadowed_name_is_recognised(source):
    (fault,) = shadows(["n = 0", EXPORTS, source])
    assert fault == f"code cell 2 binds {SHADOWING[source]}: rename the variable"
    assert shadows([source, EXPORTS]), "the parameters stand before the export cells"


def test_what_shadows_nothing_passes():
    harmless = ["import math\nfrom finerweb.data import Entity", "key, x, e, row = 1, 2, 3, 4"]
    harmless += ["[id for id in range(3)]", "g = lambda id: id", "def g(id):\n    LIMIT = id\n    return LIMIT"]
    assert not shadows([*harmless, EXPORTS, *harmless])
