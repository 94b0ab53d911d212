"""The site of the notebooks: a page for each, floor by floor, with links between them that mkdocs has checked.

docs.py [--to FOLDER]   markdown pages in _proc/, and of them the site in FOLDER (_site)
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import yaml
from nbconvert import MarkdownExporter
from notebooks import BADGES, NBS, ROOT, for_readers, name_of, notebooks, settings

SOURCES = ROOT / "_proc"
LOOKS = ROOT / ".ci" / "mkdocs.yml"
FLOORS = {  # first digit of a notebook's or folder's number -> its tab
    "0": "Common ground",
    "1": "Annotation",
    "2": "Dataset",
    "3": "Students",
    "4": "Studies",
    "5": "Paper",
    "6": "Runner",
    "7": "Measurements",
    "8": "Your own language",
}
MENTION = re.compile(r"`(?:nbs/)?((?:\d\d_\w+/)?\d\d_\w+)(?:\.ipynb)?`(?!\])")  # `16_merge`, but not [`16_merge`](...)


def place(path: PurePosixPath) -> tuple:
    "Where a page stands among the others: by number; a folder before the notebook of its number."
    return tuple((part[:2], n == len(path.parts) - 1, part) for n, part in enumerate(path.parts))


def linked(text: str, page: PurePosixPath, pages: set[str]) -> str:
    """The markdown `text` of `page` with its links to notebooks and files turned to pages, and with a link at each
    notebook that it mentions. `pages` are named without ending."""

    def mention(match: re.Match) -> str:
        if match[1] not in pages or match[1] == page.with_suffix("").as_posix():
            return match[0]
        return f"[{match[0]}]({os.path.relpath(match[1], page.parent)}.md)"

    s = settings()
    text = re.sub(r"\]\(([\w./-]+)\.ipynb(?=[)#])", r"](\1.md", text)
    text = re.sub(rf"\]\((?:\.\./)+{s['nbs_path']}/", "](" + "../" * (len(page.parts) - 1), text)
    text = re.sub(r"\]\((?:\.\./)+(?=CONTRIBUTING\.md)", "](" + "../" * (len(page.parts) - 1), text)
    top = f"{s['git_url']}/blob/{s['branch']}/"  # what has no page: the folder of notebooks, the licence
    text = re.sub(rf"\]\(\.\./({s['nbs_path']}|LICENSE)\)", rf"]({top}\1)", text)
    return MENTION.sub(mention, text)


def linked_outside_code(text: str, page: PurePosixPath, pages: set[str]) -> str:
    "As `linked`; what stands between fences stays as it is."
    parts = re.split(r"(^```.*?^```)", text, flags=re.M | re.S)
    return "".join(part if n % 2 else linked(part, page, pages) for n, part in enumerate(parts))


def markdown(path: Path, page: PurePosixPath, pages: set[str], exporter: MarkdownExporter) -> tuple[str, dict]:
    "The page of a notebook, and the pictures that it shows: place -> bytes."
    nb = for_readers(path)
    nb.metadata["language_info"] = {"name": "python"}  # nbdev_clean takes it out; the fences want it
    nb.cells = [cell for cell in nb.cells if BADGES not in cell.source]  # pictures from elsewhere
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = linked_outside_code(cell.source, page, pages)
    names = {"output_files_dir": f"{page.stem}_files", "unique_key": page.stem}
    text, resources = exporter.from_notebook_node(nb, names)
    text = re.sub(r"\n{4,}(?=    \S)", "\n\n<!-- -->\n\n", text)  # or two outputs of one cell would be one block
    return text, {(page.parent / name).as_posix(): content for name, content in resources["outputs"].items()}


def navigation(pages: list[PurePosixPath]) -> list:
    "mkdocs' `nav`: the front page, then the floors, with the folders of the tree in them."
    floors = {title: [] for title in FLOORS.values()}
    folders = {}
    for page in sorted(pages, key=place):
        entries = floors[FLOORS[page.parts[0][0]]]
        if len(page.parts) > 1:
            folder = page.parts[0]
            if folder not in folders:
                folders[folder] = []
                entries.append({folder: folders[folder]})
            entries = folders[folder]
        entries.append({page.stem: page.as_posix()})
    full = [{title: entries} for title, entries in floors.items() if entries]
    return [{"finerweb": "index.md"}, *full, {"Contributing": "CONTRIBUTING.md"}]


def build(site: Path) -> int:
    "Writes the pages and builds the site of them; 1 if a link leads nowhere."
    shutil.rmtree(SOURCES, ignore_errors=True)
    folder = SOURCES / "docs"
    names = [PurePosixPath(name_of(path)).with_suffix("") for path in notebooks()]
    pages, exporter = {name.as_posix() for name in names}, MarkdownExporter()
    files = {"styles.css": (NBS / "styles.css").read_bytes()}
    files |= {p.relative_to(NBS).as_posix(): p.read_bytes() for p in (NBS / "images").rglob("*") if p.is_file()}
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files["CONTRIBUTING.md"] = linked_outside_code(contributing, PurePosixPath("CONTRIBUTING.md"), pages).encode()
    for path, name in zip(notebooks(), names, strict=True):
        text, pictures = markdown(path, name.with_suffix(".md"), pages, exporter)
        files |= {f"{name}.md": text.encode()} | pictures
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    nav = navigation([name.with_suffix(".md") for name in names if name.name != "index"])
    config = {"INHERIT": str(LOOKS), "docs_dir": "docs", "site_dir": str(site), "nav": nav}
    (SOURCES / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(SOURCES / "mkdocs.yml")]
    code = subprocess.run(command, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}).returncode
    if not code:
        print(f"{len(names) + 1} pages, every link between them leads somewhere: {site / 'index.html'}")
    return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=ROOT / "_site", help="the folder of the site")
    sys.exit(build(parser.parse_args().to.resolve()))
