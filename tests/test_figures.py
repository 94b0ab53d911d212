"""Figures of the studies from small tables, and the note that each figure carries."""

import warnings

import pyarrow as pa
import pytest

from finerweb.data import refused
from finerweb.figures import draw_judgements, draw_students, judgement_rows, student_rows
from finerweb.languages import packaged_languages
from finerweb.paper.confidence import (
    confidence_curve,
    confidence_rows,
    draw_confidence,
    draw_confidence_languages,
    draw_subsets,
    example_columns,
    subset_rows,
)
from finerweb.paper.label_language import draw_similarity, similarity_rows
from finerweb.paper.lines import Series, add_note, draw_lines
from finerweb.text.stage_picture import svg_table

NOTE = "Run small: 20 passages in 2 languages; teachers lexicon, จังหวัด, مدينة (word lists and rules). " * 4


def pairs(languages: list[str]) -> list[dict]:
    values = [(0.1, 0.3), (0.5, 0.4), (0.2, 0.9)]
    return [dict(language=c, label="a", other="b", english=e, translated=t) for c in languages for e, t in values]


def probabilities(languages: list[str], seeds: int = 2) -> pa.Table:
    levels = (0.98, 0.99, 0.6, 0.2)
    return pa.Table.from_pylist([
        dict(language=c, seed=seed, probability=p - 0.01 * seed)
        for c in languages for seed in range(seeds) for p in levels
    ])  # fmt: skip


def one_probability(probability: float, language: str = "eng") -> pa.Table:
    return pa.Table.from_pylist([dict(language=language, seed=0, probability=probability)])


def subsets(languages: list[str], levels: tuple[str, ...] = ("low", "middle", "high", "top")) -> list[dict]:
    return [
        dict(subset=level, language=c, seed=seed, f1=0.2 * n + 0.1 * seed)
        for n, level in enumerate(levels) for c in languages for seed in (0, 1)
    ]  # fmt: skip


def verdicts(languages: list[str]) -> dict[str, list[dict]]:
    return {c: [dict(faithfulness=f, completeness=4.0) for f in (3.0, 5.0)] for c in languages}


def scores(benchmark: str) -> dict:
    sets = {name: [dict(match="strict", label="micro", f1=0.5, low=0.4, high=0.6)] for name in ("all", "core")}
    return dict(student="binder", benchmark=benchmark, language="eng", **sets)


def drawn(languages: list[str]) -> dict:
    spans = probabilities(languages)
    return {
        "similarity": draw_similarity(similarity_rows(pairs(languages))),
        "confidence": draw_confidence(
            confidence_curve(spans, least=0.5, step=0.01), spans=99, predicted=9, student="binder on e5" * 9, seeds=2
        ),
        "languages": draw_confidence_languages(confidence_rows(spans)),
        "subsets": draw_subsets(subset_rows(subsets(languages)), ["low", "middle", "high", "top"]),
        "judged": draw_judgements(judgement_rows(verdicts(languages)), "a judge"),
        "students": draw_students(student_rows([scores(f"sample-{c}") for c in languages])),
    }


def texts(figure) -> list:
    return [t for t in figure.findobj(lambda a: hasattr(a, "get_text")) if t.get_text() and t.get_visible()]


@pytest.mark.parametrize("count", [1, 4, 91])
def test_a_figure_with_its_note_holds_all_its_text_and_no_text_lies_on_the_note(count):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, figure in drawn(list(packaged_languages())[:count]).items():
            before = len(figure.texts)
            add_note(figure, NOTE)
            figure.draw_without_rendering()
            assert len(figure.texts) == before + 1
            note, box = figure.texts[-1].get_window_extent(), figure.bbox.padded(1)
            ticks = {t for ax in figure.axes for t in ax.get_xticklabels(which="both")}
            for text in texts(figure):
                extent = text.get_window_extent()
                if text not in ticks:
                    assert all(box.contains(*corner) for corner in extent.get_points()), (name, text.get_text())
                if text is not figure.texts[-1]:
                    assert not extent.overlaps(note), (name, text.get_text())


@pytest.mark.parametrize("count", [2, 40])
def test_a_legend_lies_below_the_axis_and_above_the_note(count):
    for name, figure in drawn(list(packaged_languages())[:count]).items():
        add_note(figure, NOTE)
        figure.draw_without_rendering()
        for legend in figure.legends:
            box = legend.get_window_extent()
            assert not box.overlaps(figure.texts[-1].get_window_extent()), name
            for ax in figure.axes:
                assert not box.overlaps(ax.xaxis.label.get_window_extent()), name


def test_a_note_leaves_what_is_drawn_as_large_as_it_was():
    figure = draw_similarity(similarity_rows(pairs(["eng", "tha"])))
    figure.draw_without_rendering()
    before = figure.axes[0].get_window_extent().height
    add_note(figure, NOTE)
    figure.draw_without_rendering()
    assert figure.axes[0].get_window_extent().height == pytest.approx(before, rel=0.1)


def test_series_differ_by_more_than_colour():
    for name in ("subsets", "judged", "students", "similarity"):
        (ax, *_) = drawn(["eng", "tha"])[name].axes
        points = [c for c in ax.collections if type(c).__name__ == "PathCollection"]
        shapes = [c.get_paths()[0].vertices.tobytes() for c in points]
        assert len(set(shapes)) == len(points) > 1, name


def test_an_interval_is_drawn_where_there_is_one():
    rows = [{"name": "a", "x": 0.5, "x_low": 0.4, "x_high": 0.7}, {"name": "b", "x": 0.2}, {"name": "c", "x": None}]
    figure = draw_lines(rows, [Series("x", "x")], title="T", about="", axis="", limits=(0, 1))
    lines, points = figure.axes[0].collections
    assert [segment[:, 0].tolist() for segment in lines.get_segments()] == [[0.4, 0.7]]
    assert points.get_offsets()[:, 0].tolist() == [0.5, 0.2]
    assert not figure.legends, "one series needs no legend"


def test_reported_means_stand_only_beside_a_judges():
    rows = judgement_rows(verdicts(["eng"]))
    labels = [text.get_text() for text in draw_judgements(rows, "m").legends[0].get_texts()]
    assert {"reported mean faithfulness, 3.99", "reported mean completeness, 4.05"} <= set(labels)
    assert not any("reported" in t.get_text() for t in draw_judgements(rows).legends[0].get_texts())


def test_the_interval_of_a_judgement():
    (row,) = judgement_rows(verdicts(["eng"]))
    assert row["faithfulness"] == 4 and row["completeness_low"] == row["completeness_high"] == 4
    assert row["faithfulness_high"] == 5.0, "it ends where the scale does"
    assert row["faithfulness_low"] == pytest.approx(4 - 1.96 * 2**0.5 / 2**0.5)
    (one,) = judgement_rows({"eng": [dict(faithfulness=3.0, completeness=4.0)]})
    assert "faithfulness_low" not in one


def test_similarity_is_told_for_each_language_and_all():
    rows = similarity_rows(pairs(["tha", "eng"]))
    assert [r["language"] for r in rows] == ["all", "eng", "tha"]
    assert rows[0]["pairs"] == 6 and rows[0]["more_alike"] == pytest.approx(2 / 3)
    assert rows[1]["english"] == 0.2 and rows[1]["difference"] == pytest.approx(0.8 / 3)
    assert rows[1]["english_low"] < 0.2 < rows[1]["english_high"]
    assert [r["language"] for r in similarity_rows(pairs(["tha"])[:1])] == ["tha"]


def test_the_curve_is_the_mean_of_the_seeds_and_falls():
    points = confidence_curve(probabilities(["eng"]), least=0.5, step=0.01)
    at = {p["probability"]: p for p in points}
    assert points[0]["probability"] == 0.5 and points[0]["share"] == 1.0, "of those predicted: three of four"
    assert at[0.98]["share"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert (at[0.98]["low"], at[0.98]["high"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3)) and at[1.0]["share"] == 0
    assert all(a["share"] >= b["share"] for a, b in zip(points, points[1:], strict=False))
    certain = confidence_curve(one_probability(1.0), least=0.5, step=0.25)
    assert [(p["probability"], p["share"]) for p in certain] == [(0.5, 1.0), (0.75, 1.0), (1.0, 1.0)]
    assert confidence_curve(one_probability(0.0), least=0.5, step=0.25) == []


def test_languages_are_in_the_order_of_confidence():
    spans = pa.concat_tables([probabilities(["eng"]), one_probability(0.1, "tha")])
    rows = confidence_rows(spans)
    assert [(r["language"], r["spans"]) for r in rows] == [("eng", 8), ("tha", 1)]
    assert rows[1]["median_low"] == rows[1]["median_high"] == 0.1


def test_subsets_have_the_mean_and_the_ends_of_their_seeds():
    (row,) = subset_rows(subsets(["eng"], ("low", "high")))
    assert row["high"] == pytest.approx(0.25) and (row["high_low"], row["high_high"]) == (0.2, pytest.approx(0.3))
    gap = subset_rows(subsets(["eng"], ("low",)) + subsets(["tha"], ("high",)))
    assert gap[0]["high"] is None and gap[1]["low"] is None
    draw_subsets(gap, ["low", "high"])


def example(text: str, mention: str, probability: float, language: str = "eng") -> dict:
    start = text.index(mention)
    entity = dict(start=start, end=start + len(mention), label="city", probability=probability)
    return dict(language=language, text=text, entities=[entity])


def test_examples_are_the_least_and_the_most_sure_and_say_so_in_numbers():
    examples = [example("He lives in\nOslo.", "Oslo", 0.3), example("Nairobi is large.", "Nairobi", 0.97)]
    examples[0]["text"] += " <b>"
    examples += [example("A day in Rome.", "Rome", 0.6), dict(language="eng", text="Nothing.", entities=[])]
    examples.append(example("ที่กรุงออสโล", "กรุงออสโล", 0.5, "tha"))
    heads, rows = example_columns(examples, longest=100)
    assert heads == ["least sure", "surest"] and [row.title for row in rows] == ["English", "Thai"]
    words = ["".join(piece.text for line in column for piece in line) for column in rows[0].columns]
    assert "Oslo city 0.30" in words[0] and "Nairobi city 0.97" in words[1]
    svg = svg_table(heads, rows)
    assert "<b>" not in svg and "&lt;b&gt;" in svg
    thai = "".join(piece.text for line in rows[1].columns[0] for piece in line)
    assert "กรุงออสโล city 0.50" in thai and rows[1].columns[0] == rows[1].columns[1]
    assert example_columns(examples[3:4], longest=100) == ([], [])


def test_a_long_example_ends_at_a_blank_and_keeps_only_whole_entities():
    long = example("word " * 30 + "Oslo", "Oslo", 0.4)
    long["entities"] += example("word " * 30, "word", 0.9)["entities"]
    _, (row,) = example_columns([long], longest=60)
    words = "".join(piece.text for line in row.columns[0] for piece in line)
    assert words.endswith("…") and "Oslo" not in words and "word city 0.90" in words and len(words) < 80


@pytest.mark.parametrize(
    "draw",
    [
        lambda: draw_similarity([]),
        lambda: draw_confidence([], spans=3, predicted=0, student="s", seeds=1),
        lambda: draw_confidence_languages([]),
        lambda: draw_subsets([], ["low"]),
        lambda: draw_lines([], [], title="T", about="", axis="", limits=(0, 1)),
    ],
)
def test_nothing_to_show_is_said(draw):
    with refused(ValueError, "nothing to show"):
        draw()
