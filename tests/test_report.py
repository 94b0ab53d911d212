"""The report of a run: whole, half done, damaged, of 91 languages, of hostile texts; looked at in a browser."""

import csv
import json
import re
import time
from functools import cache
from pathlib import Path

import pytest
from test_review import HOSTILE, browser  # noqa: F401
from typer.testing import CliRunner

from finerweb.data import schema, write_rows
from finerweb.languages import languages
from finerweb.overview.made_of import made_of, statement
from finerweb.overview.markup import needed_arcs, table_html
from finerweb.overview.numbers import funnel, language_rows, teacher_rows
from finerweb.overview.record import faults, read_run
from finerweb.overview.results import results_in
from finerweb.report import write_report
from finerweb.runner.cli import app
from finerweb.runner.resources import Room, this_machine
from finerweb.runner.workers import Workers
from finerweb.runner.plan import PlannedTask, plan
from finerweb.runner.profiles import Profile, check_profile, load_profile

META = dict(fingerprint="f" * 32, output="0" * 64, files={}, seconds=2.5, python="3.11.7", code="c" * 64)
COUNTS = {
    "10_corpus": (18, {"documents_read": 20}, {"other_script": 2}),
    "11_rate": (18, {"scores": {"1": 12, "3": 6}}, {}),
    "13_select": (10, {"documents_read": 18, "passages_scored": 24, "threshold": 0.5}, {"low_score": 8}),
    "14_annotate": (10, {"mentions": 120}, {}),
    "15_align": (10, {"mentions": 120, "entities": 110}, {"absent": 10}),
    "16_merge": (10, {"annotations": 220, "exact": 60, "entities": 150}, {}),
    "18_sentences": (90, {"sentences": 90}, {}),
    "19_judge": (10, {"faithfulness": 3.9, "completeness": 4.2}, {}),
    "20_publish": (None, {"passages": 910, "annotations": 13650}, {}),
    "35_evaluate": (6, {"passages": 6, "f1": 0.61, "core_f1": 0.6, "relaxed_f1": 0.7, "leaked": 0}, {}),
}


@cache
def tasks_of(codes: str) -> list[PlannedTask]:
    "The tasks of the demo with other languages."
    demo = load_profile("demo")
    named = list(languages()) if codes == "all" else codes.split(",")
    members = dict(teachers=demo.teachers, students=demo.students, benchmarks=demo.benchmarks[:1])
    return plan(check_profile(Profile("wide", languages=named, **members)))


def planned_of(tasks: list[PlannedTask]) -> dict:
    return next(task for task in tasks if task.stage == "52_report").parameters["planned"]


def merged_row(code: str, text: str, *entities: tuple[str, str], **more) -> dict:
    spans = []
    for mention, label in entities:
        start = text.index(mention)
        spans.append(dict(start=start, end=start + len(mention), label=label, score=0.9, teachers=["lexicon"]))
    row = dict.fromkeys(schema("16_merge").names) | {"id": f"{code}_1", "text": text, "language": code}
    return row | {"script": languages()[code].script, "entities": spans, "undecided": []} | more


TEXTS = {
    "arb": ("زار عنان أوسلو.", ("عنان", "person")),
    "tha": ("วังการี มาไท เกิดที่ประเทศเคนยา", ("ประเทศเคนยา", "country")),
    "hin": ("गंगा भारत की सबसे लंबी नदी है।", ("भारत", "country")),
    "cmn": ("该小说发生在中国。", ("中国", "country")),
}


def simulated(
    folder: Path, tasks: list[PlannedTask], *, errors: dict[str, str], missing: frozenset[str] | set[str] = frozenset()
) -> Path:
    "A run as if it had been made: a record for each task, but for `errors` (name -> error) and what is `missing`."
    for task in tasks:
        name = "/".join((task.stage, *task.key))
        if task.stage == "52_report" or name in missing:
            continue
        (folder / name).mkdir(parents=True, exist_ok=True)
        if name in errors:
            (folder / name / "error.txt").write_text(errors[name], encoding="utf-8")
            continue
        rows, counts, dropped = COUNTS.get(task.stage, (None, {}, {}))
        for teacher in ("lexicon", "patterns") if task.stage == "16_merge" else ():
            counts = counts | {f"{teacher}_annotations": 110, f"{teacher}_kept": 90}
        inputs = {"/".join((stage, *key)): "0" * 64 for stage, key in task.needs + task.wants}
        meta = META | dict(stage=task.stage, key=list(task.key), rows=rows, counts=counts, dropped=dropped)
        meta |= dict(parameters=task.parameters, inputs=inputs)
        (folder / name / "meta.json").write_text(json.dumps(meta, ensure_ascii=False), encoding="utf-8")
        if task.stage == "16_merge":
            text, entity = TEXTS.get(task.key[-1], ("Oslo.", ("Oslo", "city")))
            write_rows(folder / name / "rows.parquet", [merged_row(task.key[-1], text, entity)], schema("16_merge"))
    return folder


def page_of(run: Path, **how) -> str:
    path = run.parent / f"{run.name}.html"
    write_report(run, path, **dict(planned={}, among=8, longest=400) | how)
    return path.read_text(encoding="utf-8")


# What is told


def test_the_report_knows_every_output_of_both_rounds():
    tasks = tasks_of("swh,tha")
    planned = planned_of(tasks)
    names = {(stage, *key.split("/")) if key else (stage,) for stage, of in planned.items() for key in of["keys"]}
    assert names == {(task.stage, *task.key) for task in tasks if task.stage != "52_report"}
    assert planned["15_align"]["reads"] == ["14_annotate"] and "source" not in planned["10_corpus"]["reads"]
    demo = load_profile("demo")
    first = {"encoder": "char", "steps": 5, "labels": ["person"]}
    two = check_profile(Profile("two", languages=["swh"], teachers=demo.teachers, rounds=2, first=first))
    assert {"swh", "round1/swh"} == set(planned_of(plan(two))["16_merge"]["keys"])


def test_the_stage_reads_what_the_plan_says_it_reads(tmp_path):
    tasks = tasks_of("swh")
    errors = {"19_judge/swh": "ValueError: no judge"}
    run = simulated(tmp_path / "wide", tasks, errors=errors, missing={"18_sentences/swh"})
    task = next(task for task in tasks if task.stage == "52_report")
    workers = Workers({}, Room(this_machine(), workers=1))
    assert workers.outcome(workers.begin(task, str(tmp_path), "wide")) == ""
    workers.close()
    meta = json.loads((run / "52_report" / "meta.json").read_text())
    assert meta["missing"] == {"19_judge/swh": "ValueError: no judge", "18_sentences/swh": "not made"}
    assert meta["seconds"] < 10 and "no judge" in (run / "52_report" / "report.html").read_text(encoding="utf-8")


def test_a_half_done_run_says_what_is_missing_and_why(tmp_path):
    tasks = tasks_of("swh,tha")
    errors = {"15_align/swh/lexicon": "ValueError: a bad row", "16_merge/swh": "not begun: needs 15_align swh/lexicon"}
    run = simulated(tmp_path / "half", tasks, errors=errors, missing={"51_tables", "33_binder/binder"})
    record = read_run(run, planned_of(tasks), old=frozenset({"10_corpus/tha"}))
    rows = [(row["state"], row["stage"]) for row in faults(record)]
    assert rows[:2] == [("failed", "15_align"), ("waits", "16_merge")]
    assert set(rows[2:]) == {("missing", "33_binder"), ("missing", "51_tables")}
    assert next(o.state for o in record.outputs if o.name == "10_corpus/tha") == "old"
    swahili, thai = language_rows(record)
    assert swahili["passages"] is None and thai["passages"] == 10 and "1 failed" in swahili["state"]
    merged = next(row for row in funnel(record) if (row["step"], row["unit"]) == ("merged", "entities"))
    assert merged["count"] == 150 and merged["languages"] == 1
    page = page_of(run, planned=planned_of(tasks))
    assert "The run is not whole" in page and "a bad row" in page and "Not there: 51_tables: not made yet" in page
    assert "No language model took part" in page and "1 entity" in page


def test_counts_add_up_over_teachers_and_languages(tmp_path):
    record = read_run(simulated(tmp_path / "sum", tasks_of("swh,tha"), errors={}), {})
    counts = {(row["unit"], row["step"]): row["count"] for row in funnel(record)}
    assert counts["passages", "annotated"] == 20 and counts["entities", "named by teachers"] == 480
    assert counts["entities", "placed in the text"] == 440 and counts["entities", "merged"] == 300
    assert [(r["teacher"], r["placed"], r["kept by the merge"]) for r in teacher_rows(record)] == [
        ("lexicon", 0.917, 0.818), ("patterns", 0.917, 0.818),
    ]  # fmt: skip


def test_only_the_papers_models_and_sizes_count_as_the_papers(tmp_path):
    run = simulated(tmp_path / "paper", tasks_of("all"), errors={})
    assert not statement(read_run(run, {}))[0]
    chat = {"lexicon": ("endpoint", "gpt-4o-mini"), "patterns": ("vllm", "google/gemma-3-27b-it")}
    for path in run.glob("1[34]_*/**/meta.json"):
        meta = json.loads(path.read_text())
        meta["rows"] = 2500
        if path.parts[-4] == "14_annotate":
            kind, model = chat[path.parent.name]
            meta["parameters"]["teacher"] = {"name": path.parent.name, "kind": kind, "model": model}
        path.write_text(json.dumps(meta))
    record = read_run(run, {})
    assert statement(record)[0] and made_of(record)[0]["this run"].startswith("lexicon: gpt-4o-mini")


def test_a_run_of_imported_rows_says_whose_they_are(tmp_path):
    tasks = [task for task in tasks_of("tha") if task.stage in ("16_merge", "17_translate", "18_sentences")]
    run = simulated(tmp_path / "own", tasks, errors={})
    (run / "profile.yaml").write_text("imported: /data/<b>names\nlanguages: [tha]\n")
    record = read_run(run, {})
    is_papers, words = statement(record)
    assert not is_papers and "imported from <b>names, not annotated here" in words and "No language" not in words
    rows = {row["part"]: row["this run"] for row in made_of(record)}
    assert rows["teachers"] == "those of <b>names, which was imported"
    assert rows["source of the texts"] == "the released dataset <b>names" and rows["judge"] == "none"


def test_arcs_that_follow_from_others_are_left_out():
    reads = {"b": ["a"], "c": ["a", "b"], "d": ["a", "z"]}
    assert needed_arcs(reads, ["a", "b", "c", "d"]) == [("a", "b"), ("b", "c"), ("a", "d")]


def test_an_index_gives_titles_and_order_and_a_bad_one_costs_nothing(tmp_path):
    for name in ("alpha", "beta"):
        (tmp_path / f"{name}.csv").write_text("language,F1\ntha,0.5\nall,-1\n")
    (tmp_path / "index.json").write_text(json.dumps({"beta": {"title": "Second", "about": "b"}, "gone": "x"}))
    assert [(r.title, r.about) for r in results_in(tmp_path)] == [("Second", "b"), ("x", ""), ("Alpha", "")]
    for index in ("{", "[1]", '{"beta": 3}'):
        (tmp_path / "index.json").write_text(index)
        assert len(results_in(tmp_path)) == 2


# What a damaged or hostile run does to the page


def test_damage_costs_one_part_and_the_page_says_so(tmp_path):
    run = simulated(tmp_path / "broken", tasks_of("swh,tha"), errors={})
    (run / "16_merge/tha/rows.parquet").write_bytes(b"PAR1 no parquet")
    (run / "35_evaluate/binder/sample-arb").mkdir(parents=True, exist_ok=True)
    (run / "50_figures" / "types.csv").write_bytes(b"label\n\xff\xfe\n")
    (run / "13_select/swh/meta.json").write_text('{"fingerprint"')
    odd = META | dict(rows="ten", dropped=[], counts=[], parameters={}, inputs={})
    (run / "10_corpus/swh/meta.json").write_text(json.dumps(odd))
    (run / "profile.yaml").write_text("a: [b")
    page = page_of(run)
    assert "cannot be read: 16_merge/tha" in page and page.count("This part cannot be shown") >= 2
    assert page.count("<section") == 10 and page.endswith("</html>\n")


def hostile_run(folder: Path) -> Path:
    tasks = tasks_of("swh,arb")
    run = simulated(folder, tasks, errors={"19_judge/swh": " ".join(HOSTILE)})
    rows = [merged_row("swh", f"{h} name", (h, f"l {h}"), id=f"id {h}") for h in HOSTILE]
    write_rows(run / "16_merge/swh/rows.parquet", rows, schema("16_merge"))
    figures = run / "50_figures"
    for n, h in enumerate(HOSTILE):
        (figures / f"f{n}.md").write_text(f"# {h}\n\n{h}\n", encoding="utf-8")
        with open(figures / f"f{n}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["language", h], [h, 2]])
    script = "<script>window.hit=1</script><image href='http://127.0.0.1:9/x'/><rect onload='window.hit=1'/>"
    (figures / "f0.svg").write_text(f"<svg xmlns='http://www.w3.org/2000/svg' onload='window.hit=1'>{script}</svg>")
    meta = json.loads((run / "16_merge/swh/meta.json").read_text())
    changed = meta | {"notes": HOSTILE, "dropped": dict.fromkeys(HOSTILE, 3), "missing": {HOSTILE[0]: HOSTILE[1]}}
    (run / "16_merge/swh/meta.json").write_text(json.dumps(changed))
    for path in run.glob("14_annotate/*/lexicon/meta.json"):
        meta = json.loads(path.read_text())
        meta["parameters"]["teacher"] = {"name": HOSTILE[1], "kind": "vllm", "model": HOSTILE[0]}
        path.write_text(json.dumps(meta))
    (run / "profile.yaml").write_text(json.dumps({"name": HOSTILE[1], "description": HOSTILE[0], "languages": HOSTILE}))
    return run


def test_whatever_a_run_holds_is_text_on_the_page(tmp_path):
    page = page_of(hostile_run(tmp_path / "hostile"))
    assert page.count("<script") == 1 and "<img src=x" not in page and "window.hit=1&lt;/script&gt;" in page
    assert not re.findall(r"""\s(?:src|href)=["'](?!#|data:image/)""", page)
    assert not re.findall(r"<[a-z]+[^>]*\son\w+=", re.sub(r'(alt|title|aria-label|data-language)="[^"]*"', "", page))
    assert "default-src 'none'" in page and "'unsafe-inline'" not in page.split("style-src-attr")[0]
    assert "@PAYLOAD@ @SCRIPT@" in page, "text that looks like a mark of the template stays text"


def test_a_page_is_written_for_the_command_and_for_a_profile_that_cannot_be_read(tmp_path):
    run = simulated(tmp_path / "wide", tasks_of("swh"), errors={"12_filter": "ValueError: few ratings"})
    page = tmp_path / "page.html"
    ended = CliRunner().invoke(app, ["report", "wide", "--home", str(tmp_path), "--to", str(page)])
    assert ended.exit_code == 0 and "1 failed" in ended.output and "profile cannot be read" in ended.output
    assert "What the run should hold is not known here" in page.read_text(encoding="utf-8")
    teachers = [{"name": name, "kind": "weak"} for name in ("lexicon", "patterns")]
    (run / "profile.yaml").write_text(json.dumps({"name": "wide", "languages": ["swh"], "teachers": teachers}))
    ended = CliRunner().invoke(app, ["report", "wide", "--home", str(tmp_path), "--to", str(page)])
    assert ended.exit_code == 0 and "old" in ended.output and "profile cannot be read" not in ended.output
    ended = CliRunner().invoke(app, ["report", "other", "--home", str(tmp_path)])
    assert ended.exit_code == 2 and "there is wide" in ended.output


# What is seen


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    "The page of a run of 91 languages, of which one failed."
    errors = {"14_annotate/amh/lexicon": "RuntimeError: " + "x" * 400}
    run = simulated(tmp_path_factory.mktemp("runs") / "wide", tasks_of("all"), errors=errors, missing={"51_tables"})
    (run / "50_figures" / "types.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' width='1200' height='90'/>")
    (run / "50_figures" / "types.csv").write_text("label,entities\nperson,9\n")
    began = time.monotonic()
    page = page_of(run, planned=planned_of(tasks_of("all")))
    assert time.monotonic() - began < 20 and len(page) < 3_000_000
    return run.parent / "wide.html"


class Seen:
    "A page in a browser, with what it asked for and complained of."

    def __init__(self, context, path: Path):
        self.page, self.requests, self.faults = context.new_page(), [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.goto(path.as_uri())


@pytest.fixture
def see(browser):  # noqa: F811
    contexts = []

    def opened(path: Path, **how) -> Seen:
        contexts.append(browser.new_context(**how))
        return Seen(contexts[-1], path)

    yield opened
    for context in contexts:
        context.close()


CONTRAST = """() => {
  const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parts = (css) => css.match(/[\\d.]+/g).map(Number);
  const weights = [0.2126, 0.7152, 0.0722];
  const light = (css) => parts(css).slice(0, 3).map(channel).reduce((sum, v, n) => sum + v * weights[n], 0);
  const paper = (part) => { const css = getComputedStyle(part).backgroundColor;
    return (parts(css)[3] ?? 1) > 0 || !part.parentElement ? css : paper(part.parentElement); };
  const faint = [];
  for (const part of document.querySelectorAll("body *:not(svg *, script, style)")) {
    if (![...part.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !part.checkVisibility()) continue;
    const [ink, back] = [getComputedStyle(part).color, paper(part)].map(light);
    const ratio = (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
    if (ratio < 4.5) faint.push([part.outerHTML.slice(0, 80), ratio]);
  }
  for (const part of document.querySelectorAll("svg text, svg tspan")) {
    const [ink, back] = [getComputedStyle(part).fill, paper(document.body)].map(light);
    if ((Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05) < 4.5) faint.push(part.outerHTML);
  }
  return faint.slice(0, 5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_it_fits_every_screen_and_can_be_read_in_both_themes(see, wide, scheme, width):
    seen = see(wide, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    seen.page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert seen.page.evaluate(CONTRAST) == []
    assert not seen.faults and all(url.startswith(("file:", "data:")) for url in seen.requests)


def test_languages_are_filtered_by_code_or_name_from_the_keyboard(see, wide):
    page = see(wide).page
    page.focus("#language")
    page.keyboard.type("Àmhar")
    assert "amh Amharic" in page.text_content("#told")
    rows = "[...document.querySelectorAll('#languages tr[data-language]')]"
    assert page.evaluate(f"{rows}.filter((row) => !row.hidden).length") == 1
    assert page.is_visible("#languages tr[data-language^=amh]"), "what is folded around it opens"
    page.fill("#language", "zzz")
    assert page.text_content("#told") == "no language fits"
    page.fill("#language", "")
    assert page.evaluate("document.querySelectorAll('[data-language][hidden]').length") == 0


def test_a_screen_reader_finds_its_way(see, wide):
    page = see(wide).page
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    wrong = page.evaluate(
        """() => [
          ["img", (part) => part.alt],
          ["table", (part) => part.caption && part.querySelector("thead th[scope=col]")],
          ["tbody tr", (part) => part.querySelector("th[scope=row]")],
          ["section", (part) => document.getElementById(part.getAttribute("aria-labelledby"))],
          ["[tabindex]", (part) => part.ariaLabel],
          ["nav a, .skip", (part) => document.querySelector(part.getAttribute("href"))],
        ].flatMap(([css, isNamed]) => [...document.querySelectorAll(css)].filter((part) => !isNamed(part)))
          .map((part) => part.outerHTML.slice(0, 99))"""
    )
    assert wrong == [] and page.locator("main, nav, header, footer").count() == 4
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert "failed" in page.text_content("svg.graph desc")


def test_a_print_shows_what_is_folded_and_drops_what_is_for_the_hand(see, wide):
    page = see(wide).page
    page.emulate_media(media="print")
    assert not page.is_visible("nav") and page.is_visible("#funnel details table")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('details')].every((fold) => fold.open)")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("[...document.querySelectorAll('details')].some((fold) => !fold.open)")


def test_a_hostile_run_runs_nothing_and_asks_for_nothing(see, tmp_path):
    page_of(hostile_run(tmp_path / "hostile"))
    seen = see(tmp_path / "hostile.html")
    assert seen.page.evaluate("window.hit") is None and not seen.faults
    assert all(url.startswith(("file:", "data:")) for url in seen.requests)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_marks_and_letters_of_every_script_stand_on_the_page(see, wide):
    page = see(wide).page
    for code, (text, (mention, _)) in TEXTS.items():
        passage = page.locator(f"#examples [data-language^={code}] p")
        assert text.split(mention)[0].strip() in passage.text_content()
        assert mention in passage.locator("mark").text_content()
    assert page.get_attribute("#examples [data-language^=arb] p", "dir") == "rtl"


def test_a_table_leaves_out_empty_columns_and_says_when_there_is_nothing():
    assert "seed" not in table_html([{"a": 1, "seed": None}], "T") and "nothing yet" in table_html([], "T")
