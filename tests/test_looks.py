"""What a reader sees: tables, figures in three forms, the picture of the stages."""

import io
import os
import re
import subprocess
import sys
import warnings
from collections import Counter
from xml.etree import ElementTree

import pytest

from finerweb.data import Entity, Table, column_texts
from finerweb.figures import (
    confusion_rows,
    draw_confusion,
    draw_drops,
    draw_judgements,
    draw_reliability,
    draw_scripts,
    draw_students,
    draw_types,
    judgement_rows,
    script_rows,
    student_rows,
    type_rows,
)
from finerweb.languages import packaged_languages
from finerweb.text import drawing
from finerweb.text.stage_picture import COLUMN_WIDTH, SvgRow, broken_lines, sentence_column, svg_table, text_groups

# --- tables


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([226000, 7, None], ["226,000", "7", "–"]),
        ([147.8, 1063.7], ["147.8", "1,063.7"]),
        ([13.7, 9.0, float("nan")], ["13.7", "9.0", "–"]),
        ([1089.0, 3.0], ["1,089.0", "3.0"]),
        ([0.8123, 1.0, 0.0], ["0.812", "1.000", "0.000"]),
        ([2.456, 3.0], ["2.46", "3.00"]),
        ([0.00003, 0.00012], ["3e-05", "0.00012"]),
        ([True, False], ["yes", "no"]),
        ([["eng", "swh"], [], {"a": 1}], ["eng, swh", "–", "a: 1"]),
        (["None", "", None], ["None", "", "–"]),
        ([float("inf"), 0.5], ["inf", "0.500"]),
    ],
)
def test_numbers_are_shown_as_they_are_read(values, texts):
    assert column_texts(values) == texts


def test_a_table_takes_rows_of_unlike_columns_and_hostile_or_arabic_text():
    rows = Table([{"label_of_row": "<script>|\n`", "n": 1200}, {"label_of_row": "مدينة", "share": 0.5}])
    page, text = rows._repr_html_(), rows.markdown()
    ElementTree.fromstring(page)
    assert "<script>" not in page + text and "None" not in page + text
    assert re.findall(r"<td[^>]*>([^<]*)</td>", page)[1:] == ["1,200", "–", "مدينة", "–", "0.500"]
    assert text.splitlines()[0] == "| label of row | n | share |" and len(text.splitlines()) == 4
    assert 'dir="auto"' in page and "overflow-x" in page
    assert Table()._repr_html_() == "<p>No rows.</p>" and Table().markdown() == "No rows."


# --- figures


def scores(student: str, benchmark: str, f1: float) -> dict:
    sets = {name: [dict(match="strict", label="micro", f1=f1, low=f1, high=f1 + 0.05)] for name in ("all", "core")}
    return dict(student=student, benchmark=benchmark, language="eng", **sets)


def figures_of(languages: list[str]) -> dict:
    "Every figure, of as many languages, filters and students."
    passages = {code: 3 + 800 * n for n, code in enumerate(languages)}
    verdicts = {code: [dict(faithfulness=4.5 - n / 40, completeness=3.0)] for n, code in enumerate(languages)}
    mistakes = confusion_rows({"0": {"0": 5, "1": 2}, "1": {"0": 1, "1": 4}})
    names = [f"{code}-encoder-with-a-long-name, a-teacher, another-teacher: F1 0.50" for code in languages]
    judge = "org/a-judge-with-a-name-that-does-not-end-" + 9 * "before-"
    tested = [scores("a-student-with-quite-a-long-name", f"a-test-set-of-ones-own-{code}", 0.9) for code in languages]
    labels = Counter({f"a label of several words that is too long {code}": 1234567 for code in languages})
    return {
        "scripts": draw_scripts(script_rows(passages)),
        "judged": draw_judgements(judgement_rows(verdicts), judge),
        "agreement": draw_judgements(judgement_rows(verdicts)),
        "confusion": draw_confusion([(name, mistakes) for name in names], task="binary"),
        "students": draw_students(student_rows(tested)),
        "types": draw_types(type_rows({"eng": labels}), types=20),
    }


@pytest.mark.parametrize("count", [1, 2, 91])
def test_no_text_runs_out_of_a_figure(count):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = figures_of(list(packaged_languages())[:count])
        for name, figure in figures.items():
            drawing.rendered(figure)
            box = figure.bbox.padded(1)
            texts = [t for t in figure.findobj(lambda a: hasattr(a, "get_text")) if t.get_text() and t.get_visible()]
            inside = [box.contains(*corner) for t in texts for corner in t.get_window_extent().get_points()]
            ticks = {t for ax in figure.axes for t in ax.get_xticklabels(which="both")}
            outside = [t.get_text() for t, *pair in zip(texts, inside[::2], inside[1::2], strict=True) if not all(pair)]
            assert not set(outside) - {t.get_text() for t in ticks}, name


def test_many_filters_stand_in_lines():
    matrices = [(f"filter {n}", confusion_rows({"0": {"0": 1}})) for n in range(24)]
    assert draw_confusion(matrices, task="binary").get_size_inches()[0] < 17


def test_a_run_larger_than_the_reported_one_fits():
    figure = draw_scripts(script_rows({"eng": 10_000_000}))
    assert figure.axes[0].get_xlim()[1] > 10_000_000


CODE = """
import hashlib, sys
from collections import Counter
from finerweb.figures import draw_types, type_rows
from finerweb.text.drawing import rendered
figure = draw_types(type_rows({"eng": Counter({"person": 3, "จังหวัด": 2, "city": 1})}), types=4)
print(*(hashlib.sha256(rendered(figure, form)).hexdigest() for form in ("png", "svg", "pdf")))
"""


def test_the_same_numbers_give_the_same_bytes_in_every_process():
    def hashes(seed: str) -> str:
        more = {"PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", CODE], env=os.environ | more, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert hashes("1") == hashes("2") != ""


def test_files_hold_no_date_and_their_letters_stay_text(tmp_path):
    rows = type_rows({"eng": Counter(person=3), "tha": Counter({"จังหวัด": 2})})
    drawing.save_figure(draw_types(rows, types=2), rows, tmp_path / "types")
    assert {p.suffix for p in tmp_path.iterdir()} == {".png", ".svg", ".pdf", ".csv"}
    svg, pdf = (tmp_path / "types.svg").read_text(encoding="utf-8"), (tmp_path / "types.pdf").read_bytes()
    words = ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"person", "The most frequent entity types"} <= set(words) and "<dc:date>" not in svg
    assert all("sans-serif" in style for style in re.findall(r"<text[^>]*font:([^;\"]*)", svg))
    assert b"CreationDate" not in pdf and b"/FontFile2" in pdf and b"/Type3" not in pdf
    if drawing._family("ท"):
        assert "จังหวัด" in words


def test_a_picture_has_few_colours_and_no_hole():
    from PIL import Image

    picture = Image.open(io.BytesIO(drawing.rendered(draw_drops([dict(stage="10", reason="short", dropped=3)]))))
    assert picture.mode == "P" and "transparency" not in picture.info
    assert picture.convert("RGB").getpixel((1, 1)) == (255, 255, 255), "white on any page"


@pytest.fixture
def without_fonts(monkeypatch):
    "A machine that has only matplotlib's own fonts."
    monkeypatch.setattr(drawing, "_machine_fonts", lambda: ())
    drawing._family.cache_clear()
    yield
    drawing._family.cache_clear()


def test_characters_that_no_font_has_are_told(without_fonts):
    figure = draw_types(type_rows({"tha": Counter({"จังหวัด": 2, "город": 1})}), types=4)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["·······", "город"]
    assert any("no font here has" in t.get_text() for t in figure.texts)
    plain = draw_types(type_rows({"eng": Counter(person=2)}), types=4)
    assert not any("no font" in t.get_text() for t in plain.texts)


def test_a_label_takes_its_letters_from_the_fonts_of_the_machine():
    if not drawing._family("ท"):
        pytest.skip("no font with Thai letters is installed")
    figure = draw_types(type_rows({"tha": Counter({"จังหวัด": 2})}), types=4)
    (label,) = figure.axes[0].get_yticklabels()
    assert label.get_text() == "จังหวัด" and len(label.get_fontfamily()) == 3


@pytest.mark.parametrize(
    "draw",
    [
        lambda: draw_types([], types=3),
        lambda: draw_drops([]),
        lambda: draw_students([]),
        lambda: draw_judgements([]),
        lambda: draw_confusion([], task="binary"),
        lambda: draw_reliability([], error=0.0),
    ],
)
def test_nothing_to_show_is_said(draw):
    with pytest.raises(ValueError, match="has nothing to show"):
        draw()


# --- the picture of the stages

ARABIC = "ولد في مكة عام 570"


def arabic_rows() -> list[SvgRow]:
    numbers = dict(ratings={"a": 2.0}, selected="kept", mentions={"a": [Entity(7, 10, "city")]}, judged="not judged")
    column = sentence_column(
        ARABIC, "arb", merged=[Entity(7, 10, "city")], translations={"city": "مدينة"}, predicted=None, **numbers
    )
    return [SvgRow("stage", "", [lines]) for lines in column]


def test_arabic_is_read_from_its_right_end():
    lines = [e.attrib for e in ElementTree.fromstring(svg_table(["Arabic"], arabic_rows())).iter() if "x" in e.attrib]
    right = [a for a in lines if a.get("direction") == "rtl"]
    assert len(right) == 2 and {int(a["x"]) for a in right} == {170 + COLUMN_WIDTH}, "the text, and the text merged"
    thai = broken_lines(text_groups("เกิดที่ประเทศเคนยา", [], "tha"), width=COLUMN_WIDTH)
    assert "rtl" not in svg_table(["Thai"], [SvgRow("text", "", [thai])])


def test_the_picture_of_the_stages_is_drawn_inside_its_edges():
    figure = drawing.draw_stages(["Arabic"], arabic_rows())
    drawing.rendered(figure, "pdf")
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert boxes and all(figure.bbox.padded(1).contains(*p) for box in boxes for p in box.get_points())
