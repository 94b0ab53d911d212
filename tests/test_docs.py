"The site of the notebooks: links between its pages, their order, and that a link to nowhere stops it."

import importlib
import re
from pathlib import Path, PurePosixPath

import nbformat
import pytest

PAGES = {"00_data", "16_merge", "20_publish", "04_llm/00_chat", "20_dataset/00_rows"}


@pytest.fixture
def docs(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / ".ci"))
    return importlib.import_module("docs")


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("index.md", "[d](00_data.ipynb), [x](04_llm/00_chat.ipynb#a)", "[d](00_data.md), [x](04_llm/00_chat.md#a)"),
        ("16_merge.md", "see `20_dataset/00_rows`", "see [`20_dataset/00_rows`](20_dataset/00_rows.md)"),
        ("04_llm/00_chat.md", "`nbs/00_data.ipynb`", "[`nbs/00_data.ipynb`](../00_data.md)"),
        ("16_merge.md", "`16_merge`, `99_no`, [`00_data`](x.ipynb)", "`16_merge`, `99_no`, [`00_data`](x.md)"),
        ("index.md", "[c](../CONTRIBUTING.md) ![p](../nbs/images/a.svg)", "[c](CONTRIBUTING.md) ![p](images/a.svg)"),
        ("index.md", "```\n`00_data` [a](00_data.ipynb)\n```\n", "```\n`00_data` [a](00_data.ipynb)\n```\n"),
    ],
)  # fmt: skip
def test_links_of_notebooks_lead_to_pages(docs, page, text, expected):
    assert docs.linked_outside_code(text, PurePosixPath(page), PAGES) == expected


def test_pages_stand_floor_by_floor_and_a_folder_before_the_notebook_of_its_number(docs):
    nav = docs.navigation([PurePosixPath(f"{name}.md") for name in sorted(PAGES, reverse=True)])
    assert nav == [
        {"finerweb": "index.md"},
        {"Common ground": [{"00_data": "00_data.md"}, {"04_llm": [{"00_chat": "04_llm/00_chat.md"}]}]},
        {"Annotation": [{"16_merge": "16_merge.md"}]},
        {"Dataset": [{"20_dataset": [{"00_rows": "20_dataset/00_rows.md"}]}, {"20_publish": "20_publish.md"}]},
        {"Contributing": "CONTRIBUTING.md"},
    ]


def test_every_notebook_has_a_floor(docs):
    pages = [PurePosixPath(docs.name_of(path)).with_suffix(".md") for path in docs.notebooks()]
    placed = str(docs.navigation([page for page in pages if page.name != "index.md"]))
    assert all(f"'{page}'" in placed for page in pages)


def notebook(path: Path, text: str) -> Path:
    cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("1 + 1")]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def two_pages(docs, monkeypatch, tmp_path):
    "`two_pages(text)`: the exit code of the site of two notebooks, `text` in the first."
    pytest.importorskip("material", reason="needs mkdocs-material")
    monkeypatch.setattr(docs, "name_of", lambda path: path.name)
    monkeypatch.setattr(docs, "SOURCES", tmp_path / "sources")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    (tmp_path / "CONTRIBUTING.md").write_text("# Contributing")

    def build(text: str) -> int:
        front = notebook(tmp_path / "nbs" / "index.ipynb", f"# front\n\n{text}")
        merge = notebook(tmp_path / "nbs" / "16_merge.ipynb", "# merge\n\nAfter `index`.\n\n## Trust")
        monkeypatch.setattr(docs, "notebooks", lambda: [merge, front])
        return docs.build(tmp_path / "site")

    return build


def test_a_site_has_a_page_for_each_notebook(two_pages, tmp_path):
    assert two_pages("[merge](16_merge.ipynb), [its heading](16_merge.ipynb#trust)") == 0
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="16_merge.html#trust"' in page and (tmp_path / "site" / "CONTRIBUTING.html").is_file()
    sources = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="([^"]+)"', page)
    assert sources and not [s for s in sources if "://" in s], "a page loads nothing from elsewhere"


def test_a_link_to_nowhere_stops_the_site(two_pages, capfd):
    assert two_pages("[a](16_nowhere.ipynb), [b](16_merge.ipynb#no-heading), ![c](../pictures/none.svg)") == 1
    said = capfd.readouterr()
    assert all(link in said.out + said.err for link in ("16_nowhere.md", "#no-heading", "none.svg"))
