"""The review page, driven in a browser as a person does, and what comes of the answers."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from finerweb.benchmarks import read_benchmark
from finerweb.data import check_rows, read_rows, write_rows
from finerweb.dataset.rows import RELEASED
from finerweb.page.answers import Answer, agreement, count_changes, decisions, kappa, read_answers, settled
from finerweb.page.order import WEIGHTS, passage_signs, reasons, review_order
from finerweb.page.page import content_key, page_content, review_page
from finerweb.page.rows import lesson_variants, read_review_set
from finerweb.review import apply_answers, write_page
from finerweb.text.segment import graphemes

pa = pytest.importorskip("pyarrow")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update"
HOSTILE = [
    "</script><script>window.hit=1</script>",
    "<img src=x onerror='window.hit=1'>",
    "--><!--<script>@PAYLOAD@ @SCRIPT@",
    "\u202eright to left override\u202c \u2066isolate",
    "javascript:window.hit=1",
    "${window.hit=1} `${window.hit=1}`",
    "__proto__ constructor toString",
]
ASTRAL = "😀 Team 👩‍👩‍👧 won in 𝕆slo, cafe\u0301 Süd."
ARABIC = "زار عنان أوسلو وجامعة نيروبي."


def released(
    name: str, text: str, *entities: tuple[str, str], sure: float = 0.9, language: str = "eng", **more
) -> dict:
    "A released row; `entities` are (mention, label)."
    spans = []
    for mention, label in entities:
        start = text.index(mention)
        span = {"start": start, "end": start + len(mention), "label": label, "score": sure, "probability": None}
        spans.append(span | {"teachers": ["lexicon", "patterns"]})
    row = {"id": name, "text": text, "char_spans": spans, "tokens": text.split(), "token_spans": []}
    return row | {"language": language, "script": "", "url": "", "document_id": ""} | more


def write_variant(folder: Path, rows: list[dict], *, language: str = "eng", annotator: str = "merged") -> Path:
    file = folder / f"{annotator}-english-passages" / language / "train.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_rows(file, rows, RELEASED)
    return file.parent.parent


def read(folder: Path, language: str = "eng"):
    return read_review_set(str(folder), language=language, home="", variant="")


# What is read


def test_a_paper_row_without_confidences_is_read(tmp_path):
    place = pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64()), ("label", pa.string())]))
    columns = [("id", pa.string()), ("text", pa.string()), ("char_spans", place)]
    columns += [("tokens", pa.list_(pa.string())), ("token_spans", place)]
    row = {
        "id": "eng_0",
        "text": "Oslo won",
        "char_spans": [{"start": 0, "end": 4, "label": "city"}],
        "tokens": ["Oslo"],
    }
    file = tmp_path / "rows.parquet"
    write_rows(file, [row | {"token_spans": []}], pa.schema(columns))
    review_set = read(file)
    assert review_set.passages[0]["entities"][0]["score"] is None and review_set.name == "rows"
    answer = {
        "id": "eng_0",
        "text": "Oslo won",
        "reviewed": True,
        "entities": [{"start": 0, "end": 4, "label": "town"}],
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(answer))
    apply_answers(
        str(file), [tmp_path / "a.jsonl"], tmp_path / "out", language="eng", home="", variant="", prefer="", gold=0.0,
        longest=300,
    )  # fmt: skip
    (back,) = read_rows(tmp_path / "out" / "reviewed" / "eng" / "train.parquet")
    assert back["char_spans"] == [
        {"start": 0, "end": 4, "label": "town", "score": 1.0, "probability": 1.0, "teachers": ["reviewer"]}
    ]


def test_wrong_rows_are_kept_aside_and_the_rest_is_shown(tmp_path):
    rows = [released("eng_0", "Oslo won", ("Oslo", "city")), released("eng_0", "again"), released("eng_1", "Rome")]
    rows[2]["char_spans"] = [{"start": 2, "end": 9, "label": "city"}]
    rows += [released("eng_2", "Rome") | {"char_spans": [{"start": 0, "end": 4, "label": " "}]}]
    report = write_page(
        str(write_variant(tmp_path, rows)), tmp_path / "p.html", language="eng", home="", variant="", passages=0
    )
    assert report["shown"] == 1 and [row["id"] for row in report["aside"]] == ["eng_0", "eng_1", "eng_2"]
    assert all(re.match(r"train.parquet row \d", row["reason"]) for row in report["aside"])


def test_a_dataset_that_is_not_there_is_refused_with_what_to_do(tmp_path):
    folder = write_variant(tmp_path, [released("eng_0", "Oslo")])
    for dataset, language, words in [
        (str(folder), "deu", "has no language 'deu'; it has eng"),
        (str(folder), "../eng", "unknown language"),
        ("../../etc", "eng", "cannot be a run's name"),
        ("demo", "eng", "finerweb run PROFILE --run demo"),
    ]:
        with pytest.raises((FileNotFoundError, ValueError), match=re.escape(words)):
            read_review_set(dataset, language=language, home=str(tmp_path), variant="merged-english-passages")


def test_a_run_has_teachers_and_judge_beside_its_set(tmp_path):
    lesson_variants(tmp_path / "runs" / "demo" / "20_publish")
    judge = tmp_path / "runs" / "demo" / "19_judge" / "eng"
    judge.mkdir(parents=True)
    (passage,) = read(tmp_path / "runs" / "demo" / "20_publish" / "merged-english-passages").passages
    fault = [{"text": "Oslo", "label": "city", "reason": "it is a capital"}]
    row = {"id": "eng_0", "text": passage["text"], "faithfulness": 4.0, "completeness": 3.0, "missing": [], "extra": []}
    from finerweb.data import schema

    columns = dict.fromkeys(schema("19_judge").names)
    write_rows(judge / "rows.parquet", [columns | row | {"wrong": fault, "explanation": "x"}], schema("19_judge"))
    review_set = read_review_set("demo", language="eng", home=str(tmp_path / "runs"), variant="merged-english-passages")
    (passage,) = review_set.passages
    assert passage["verdict"]["wrong"] == fault and list(passage["claims"]) == ["lexicon", "patterns"]
    assert review_set.name == "demo merged-english-passages"
    assert "a fault, says the judge: Oslo" in reasons(
        passage_signs([passage], "eng")[0], weights=WEIGHTS | {"judge": 9}
    )


# Order


def test_doubt_comes_first_and_length_costs(tmp_path):
    rows = [released("sure", "Oslo won. Oslo lost.", ("Oslo won", "city"), sure=0.99)]
    rows += [released("doubt", "Rome won.", ("Rome", "city"), sure=0.3)]
    rows += [released("long", "Rome won." + " nothing" * 400, ("Rome", "city"), sure=0.3)]
    passages = read(write_variant(tmp_path, rows)).passages
    signs = passage_signs(passages, "eng")
    assert [passages[n]["id"] for n in review_order(passages, signs, weights=WEIGHTS)][0] == "doubt"
    only_doubt = dict.fromkeys(WEIGHTS, 0.0) | {"doubt": 1.0}
    order = [passages[n]["id"] for n in review_order(passages, signs, weights=only_doubt)]
    assert order == ["doubt", "long", "sure"]


def test_a_name_marked_elsewhere_counts_only_as_a_whole_word(tmp_path):
    rows = [
        released("a", "Rome won.", ("Rome", "city")),
        released("b", "Romeo met Rome."),
        released("c", "Romeo alone."),
    ]
    signs = passage_signs(read(write_variant(tmp_path, rows)).passages, "eng")
    assert [s["unmarked"].amount for s in signs] == [0, 1, 0]


def test_a_dataset_without_entities_is_ordered(tmp_path):
    passages = read(write_variant(tmp_path, [released("a", "x y"), released("b", "")])).passages
    signs = passage_signs(passages, "eng")
    assert review_order(passages, signs, weights=WEIGHTS) == [0, 1]


# Answers


def test_decisions_and_counts():
    before = [(0, 4, "city"), (5, 9, "person"), (5, 9, "human"), (12, 20, "event")]
    after = {(0, 4, "town"), (5, 9, "person"), (13, 20, "event"), (30, 33, "city")}
    assert decisions(before, after) == (
        [("relabelled", "town"), ("kept",), ("rejected",), ("moved", 13, 20)],
        [(30, 33, "city")],
    )
    assert count_changes(before, before) == Counter(kept=4)


def test_kappa_of_a_known_table():
    # Cohen's own form: 20 yes-yes, 15 no-no, 5 and 10 differ: observed .7, chance .5
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert kappa(pairs) == pytest.approx(0.4)
    assert kappa([]) is None and kappa([("yes", "yes")]) is None


def test_two_reviewers_are_compared_on_what_both_finished():
    passages = {"a": {"text": "Oslo won", "entities": []}, "b": {"text": "Rome", "entities": []}}
    answers = [Answer("a", "Amina", ((0, 4, "city"),)), Answer("a", "Juma", ((0, 4, "city"),)), Answer("b", "Juma", ())]
    (row,) = agreement(answers, passages, "eng")
    assert (row["reviewers"], row["passages"], row["span_f1"], row["kappa_tokens"]) == ("Amina, Juma", 1, 1.0, 1.0)
    words, aside = settled(answers, prefer="")
    assert words["a"] == (answers[0], ["Amina", "Juma"]) and not aside


BROKEN = {
    '{"id": "a", ': "no JSON",
    "[]": "expected {id",
    '{"id": "zz", "entities": []}': "has no passage 'zz'",
    '{"id": ["a"], "entities": []}': "has no passage",
    '{"id": "a", "text": "other", "entities": []}': "another text",
    '{"id": "a", "text": "Oslo won", "entities": []}': "not finished",
    '{"id": "a", "text": "Oslo won", "reviewed": true, "entities": [{"start": true, "end": 4}]}': "expected {start",
    '{"id": "a", "text": "Oslo won", "reviewed": true, "entities": [{"start": 0, "end": 40, "label": "x"}]}': "[0:40]",
    '{"id": "a", "text": "Oslo won", "reviewed": true, "entities": [{"start": 0, "end": 4, "label": ""}]}': "label ''",
    '{"id": "a", "text": "Oslo won", "reviewed": true, "entities": [{"start": 0, "end": 4}]}': "label None",
    "[" * 100_000: "no JSON",
}


@pytest.mark.parametrize("line", BROKEN, ids=range(len(BROKEN)))
def test_a_line_that_does_not_fit_is_kept_aside_with_its_reason(line, tmp_path):
    good = json.dumps({"id": "a", "text": "Oslo won", "reviewed": True, "reviewer": "A", "entities": []})
    (tmp_path / "a.jsonl").write_text(f"{line}\n{good}\n")
    answers, aside = read_answers([tmp_path / "a.jsonl"], {"a": "Oslo won"})
    assert len(answers) == 1 and len(aside) == 1 and BROKEN[line] in aside[0]["reason"] and aside[0]["line"] == 1


def test_reviewed_passages_are_a_gold_set_and_rows_to_learn_from(tmp_path):
    text = "Oslo won. 😀 Rome lost."
    folder = write_variant(tmp_path, [released("eng_0", text, ("Oslo", "city")), released("eng_1", "Nyeri")])
    entities = [{"start": text.index("Rome"), "end": text.index("Rome") + 4, "label": "city"}]
    answer = {"id": "eng_0", "text": text, "reviewer": "Amina", "reviewed": True, "entities": entities, "note": "hm"}
    (tmp_path / "a.jsonl").write_text(json.dumps(answer) + "\n" + json.dumps(answer | {"entities": []}) + "\n{")
    with pytest.raises(ValueError, match="is the dataset itself"):
        write_variant(tmp_path, [released("eng_0", text)], annotator="reviewed")
        apply_answers(
            str(tmp_path / "reviewed-english-passages"), [tmp_path / "a.jsonl"], tmp_path, language="eng", home="",
            variant="", prefer="", gold=0.0, longest=300,
        )  # fmt: skip
    out = tmp_path / "out"
    how = dict(language="eng", home="", variant="", prefer="", gold=0.0, longest=300)
    report = apply_answers(str(folder), [tmp_path / "a.jsonl"], out, **how)
    assert report["rejected"] == 1 and report["aside"]["the same reviewer answers again further down"] == 1
    (tmp_path / "a.jsonl").write_text(json.dumps(answer))
    report = apply_answers(str(folder), [tmp_path / "a.jsonl"], out, **how)
    assert (report["rejected"], report["added"], report["notes"][0]["note"]) == (1, 1, "hm")
    learned = check_rows(read_rows(out / "training" / "eng.parquet"), "18_sentences")
    assert [row["text"] for row in learned] == ["Oslo won.", "😀 Rome lost."]
    assert [row["text"][e["start"] : e["end"]] for row in learned for e in row["entities"]] == ["Rome"]
    apply_answers(str(folder), [tmp_path / "a.jsonl"], out, **how | {"gold": 1.0})
    assert read_rows(out / "training" / "eng.parquet") == []
    benchmark = read_benchmark({"name": "mine", "path": str(out / "gold"), "language": "eng"})
    assert [p.text for p in benchmark.passages] == ["Oslo won.", "😀 Rome lost."]
    assert benchmark.documents == ["eng_0", "eng_0"]
    assert [p.mention(e) for p in benchmark.passages for e in p.entities] == ["Rome"]
    both = read_rows(out / "reviewed-english-passages" / "eng" / "train.parquet")
    assert [row["id"] for row in both] == ["eng_0", "eng_1"] and both[0]["token_spans"][0]["label"] == "city"


# The page


def test_the_page_is_one_file_that_names_no_other(tmp_path):
    rows = [released(f"eng_{n}", hostile, (hostile[:3], hostile)) for n, hostile in enumerate(HOSTILE)]
    page = review_page(page_content(read(write_variant(tmp_path, rows)), most=0, weights=WEIGHTS))
    assert page.count("<script") == 2 and page.count("</script>") == 2 and "window.hit" not in page
    assert not re.findall(r"""(?:src|href)=["']?(?!#)[^"'>]""", page.split("<script id=")[0])
    assert "default-src 'none'" in page and "unsafe" not in page and not re.search(r"@[A-Z]+@", page)


def test_the_key_changes_with_texts_and_entities_and_with_nothing_else(tmp_path):
    rows = [released("a", "Oslo won", ("Oslo", "city")), released("b", "Rome")]
    key = content_key(read(write_variant(tmp_path, rows)).passages)
    assert content_key(read(write_variant(tmp_path, rows[::-1])).passages) == key
    assert content_key(read(write_variant(tmp_path, [released("a", "Oslo won"), rows[1]])).passages) != key


@pytest.fixture(scope="module")
def browser():
    "A headless Chromium."
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, to drive a browser")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[f"--{word}" for word in QUIET.split()])
        yield browser
        browser.close()


class Driver:
    "A page that was opened from a file, as a reviewer has it."

    def __init__(self, browser, path: Path, **context):
        self.context, self.path, self.faults, self.requests = browser.new_context(**context), path, [], []
        self.page = self.open()

    def open(self):
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(self.path.as_uri())
        page.wait_for_selector("html[data-opened]", timeout=20_000)
        return page

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def told(self) -> str:
        return self.page.text_content("#told")

    def answers(self) -> dict[str, dict]:
        with self.page.expect_download() as waiting:
            self.page.click("#download")
        lines = Path(waiting.value.path()).read_text(encoding="utf-8").split("\n")
        return {answer["id"]: answer for answer in map(json.loads, filter(None, lines))}

    def close(self) -> None:
        assert not self.faults, self.faults
        assert self.requests and all(url.startswith(("file:", "blob:")) for url in self.requests)
        self.context.close()


@pytest.fixture
def drive(browser, tmp_path):
    "Opens the page of some rows."
    drivers = []

    def opened(rows: list[dict], *, language: str = "eng", teachers: dict | None = None, **context) -> Driver:
        folder = write_variant(tmp_path, rows, language=language)
        for teacher, own in (teachers or {}).items():
            write_variant(tmp_path, own, language=language, annotator=teacher)
        path = tmp_path / "page.html"
        write_page(str(folder), path, language=language, home="", variant="", passages=0)
        drivers.append(Driver(browser, path, **context))
        return drivers[-1]

    yield opened
    for driver in drivers:
        driver.close()


TEXT = "Wangari Maathai won in Oslo, near the University of Oslo."
ROW = ("Wangari", "person"), ("Oslo", "city"), ("the University of Oslo", "university")


def test_a_review_by_keyboard_from_page_to_dataset(drive, tmp_path):
    driver = drive([released("eng_0", TEXT, *ROW, sure=0.5), released("eng_1", "Rome and Paris.", ("Rome", "city"))])
    page = driver.page
    page.fill("#reviewer", "Amina")
    page.keyboard.press("Tab")
    page.focus("#passage")
    driver.keys("G")  # Wangari Maathai, by words: the blank, then the name
    driver.keys("G", "j", "x", "r")  # Oslo is rejected, the university follows
    page.keyboard.type("school")
    driver.keys("Enter", "d", "d", "d", "d")
    assert page.text_content("#entities [aria-selected=true] .words") == "University of Oslo"
    driver.keys("e")
    page.fill("#words", "won")
    page.fill("#label", "event")
    driver.keys("Enter", "m")
    page.keyboard.type("a note")
    driver.keys("Escape", "Enter")
    assert page.text_content("#name") == "eng_1" and page.text_content("#progress") == "1 of 2 reviewed"
    answers = driver.answers()
    assert list(answers) == ["eng_0"] and answers["eng_0"]["note"] == "a note" and answers["eng_0"]["reviewed"] is True
    words = {(TEXT[e["start"] : e["end"]], e["label"]) for e in answers["eng_0"]["entities"]}
    assert words == {("Wangari Maathai", "person"), ("University of Oslo", "school"), ("won", "event")}
    (tmp_path / "a.jsonl").write_text(json.dumps(answers["eng_0"]))
    report = apply_answers(
        str(tmp_path / "merged-english-passages"), [tmp_path / "a.jsonl"], tmp_path / "out", language="eng", home="",
        variant="", prefer="", gold=0.0, longest=300,
    )  # fmt: skip
    assert (report["moved"], report["rejected"], report["added"]) == (1, 2, 2)


def test_undo_redo_and_progress_that_a_reload_keeps(drive):
    driver = drive([released("eng_0", TEXT, *ROW), released("eng_1", "Rome.", ("Rome", "city"))])
    page = driver.page
    first = page.text_content("#name")
    driver.keys("x", "x", "z")
    assert page.locator("#entities .entity.gone").count() == 1
    driver.keys("Z", "Enter")
    assert page.text_content("#name") != first
    page.reload()
    page.wait_for_selector("html[data-opened]")
    assert page.text_content("#progress") == "1 of 2 reviewed" and page.text_content("#name") != first
    driver.keys("p", "u")
    assert page.text_content("#progress") == "0 of 2 reviewed" and page.locator("#entities .entity.gone").count() == 2


def test_a_browser_that_keeps_nothing_says_so_and_the_answers_can_be_loaded_again(drive, tmp_path):
    driver = drive([released("eng_0", TEXT, *ROW)])
    driver.context.add_init_script(
        "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }"
    )
    page = driver.page = driver.open()
    assert "cannot keep your progress" in page.text_content("#warning") and page.is_visible("#warning")
    driver.keys("x", "Enter")
    answers = driver.answers()
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(answers["eng_0"]) + '\n{"id": "eng_9"}\n')
    page = driver.page = driver.open()
    assert page.text_content("#progress") == "0 of 1 reviewed"
    page.set_input_files("#load", file)
    page.wait_for_function("document.querySelector('#progress').textContent.startsWith('1 of 1')")
    assert driver.told() == "1 answers taken over; 1 fit no passage of this page"
    assert page.locator("#entities .entity.gone").count() == 1


def test_filters_and_search(drive):
    rows = [released("eng_0", TEXT, *ROW, sure=0.95), released("eng_1", "Rome <b>.", ("Rome", "city"), sure=0.2)]
    rows += [released("eng_2", "Nothing here, İstanbul.")]
    driver = drive(rows, teachers={"lexicon": rows, "patterns": [rows[0], rows[1] | {"char_spans": []}, rows[2]]})
    page = driver.page

    def shown() -> int:
        return int(page.text_content("#shown").split()[0])

    for box, value, count in [
        ("#search", "<b>", 1), ("#search", "wangari MAATHAI", 1), ("#by-label", "univ", 1), ("#by-label", "city", 2),
        ("#by-confidence", "0.5", 1), ("#by-confidence", "0.1", 0),
    ]:  # fmt: skip
        page.fill(box, value)
        assert shown() == count, (box, value)
        page.click("#clear")
    assert shown() == 3
    page.check("#by-difference")
    assert shown() == 1 and page.text_content("#name") == "eng_1"
    page.click("#clear")
    page.select_option("#by-verdict", "none")
    assert shown() == 3
    page.select_option("#by-teacher", "1")
    assert shown() == 0 and driver.told() == "No passage fits these filters."
    page.click("#clear")
    page.focus("#passage")
    driver.keys("Enter")
    page.select_option("#by-status", "open")
    assert shown() == 2


def test_two_teachers_side_by_side_and_one_is_taken(drive):
    other = released("eng_0", TEXT, ("Wangari Maathai", "person"), ("Oslo", "city"))
    driver = drive(
        [released("eng_0", TEXT, *ROW)], teachers={"lexicon": [released("eng_0", TEXT, *ROW)], "patterns": [other]}
    )
    page = driver.page
    assert page.locator("#differences tbody tr").count() == 2
    page.click("#differences button:has-text('Wangari Maathai')")
    (answer,) = driver.answers().values()
    words = {(TEXT[e["start"] : e["end"]], e["label"]) for e in answer["entities"]}
    assert ("Wangari Maathai", "person") in words and ("Wangari", "person") not in words and ("Oslo", "city") in words
    page.focus("#passage")
    driver.keys("t")
    assert page.locator("#sides .text").count() == 2 and "≠ " in page.text_content("#sides")


def test_boundaries_go_by_graphemes_and_offsets_are_code_points(drive):
    family = "👩‍👩‍👧"
    driver = drive([released("eng_0", ASTRAL, (family, "team"), ("𝕆slo", "city"), ("cafe", "bar"))])
    page = driver.page
    driver.keys("s", "s", "d", "g", "f")  # the blank before, "m", and back; beyond the family the blank, and back
    driver.keys("j", "j")
    assert "cafe" in page.text_content("#entities [aria-selected=true]")
    driver.keys("g")
    answer = driver.answers()["eng_0"]
    assert answer["text"] == ASTRAL
    words = [ASTRAL[e["start"] : e["end"]] for e in answer["entities"]]
    assert words == [f" {family}", "𝕆slo", "cafe\u0301"]
    edges = {0, *(end for _, end in graphemes(ASTRAL))}
    assert all(e["start"] in edges and e["end"] in edges for e in answer["entities"])


def test_an_entity_is_added_with_the_mouse(drive):
    driver = drive([released("eng_0", ASTRAL + " " + TEXT, ("𝕆slo", "city"))])
    page = driver.page
    page.evaluate(
        """() => { // marks from the middle of a pair of surrogates to the middle of a word, across an entity's label
          const [before, entity, after] = ["span.plain", "span.seg", "span.seg ~ span.plain"].map((css) =>
            document.querySelector(`#text ${css}`).firstChild);
          document.getSelection().setBaseAndExtent(before, 1, after, 6);
        }"""
    )
    page.click("[data-do=add]")
    assert page.input_value("#words") == "😀 Team 👩‍👩‍👧 won in 𝕆slo, cafe\u0301"
    page.fill("#label", "everything")
    page.click("#label-dialog .main")
    page.click("#text .tag:has-text('city')")
    assert page.text_content("#entities [aria-selected=true] .words") == "𝕆slo"
    page.click("#text .seg.chosen")  # again: the entity around it
    assert "everything" in page.text_content("#entities [aria-selected=true]")
    whole = ASTRAL + " " + TEXT
    assert [whole[e["start"] : e["end"]] for e in driver.answers()["eng_0"]["entities"]][0].endswith("cafe\u0301")


def test_arabic_runs_from_the_right_and_letters_stay_joined(drive):
    row = released("arb_0", ARABIC, ("عنان", "person"), ("جامعة نيروبي", "university"), language="arb", script="Arab")
    driver = drive([row], language="arb")
    page = driver.page
    assert page.get_attribute("#text", "dir") == "rtl"
    places = page.evaluate(
        "[...document.querySelectorAll('#text .seg')].map((part) => part.getBoundingClientRect().left)"
    )
    assert places[0] > places[1]
    driver.keys("f")  # the end goes into the word
    assert (
        page.evaluate(
            "[...document.querySelectorAll('#text .joiner')].filter((j) => j.textContent === '\\u200d').length"
        )
        == 2
    )
    ends = [ARABIC[e["start"] : e["end"]] for e in driver.answers()["arb_0"]["entities"]]
    assert ends == ["عنا", "جامعة نيروبي"]


def test_hostile_texts_labels_and_ids_are_shown_as_they_are(drive):
    rows = [
        released(f"id {n} {hostile}", f"{hostile} name", (hostile, hostile), ("name", f"l {hostile}"), url=hostile)
        for n, hostile in enumerate(HOSTILE)
    ]
    driver = drive(rows, teachers={"<b>x": rows, "patterns": []})
    page = driver.page
    for _ in rows:
        page.focus("#passage")
        driver.keys("t", "r")
        page.keyboard.type("<i>new</i>")
        driver.keys("Enter", "Enter")
    assert page.evaluate("window.hit") is None
    assert page.locator("#passage b, #passage img, #passage i, #rows img").count() == 0
    assert page.locator("#source[href]").count() == 0
    answers = driver.answers()
    assert [answers[row["id"]]["text"] for row in rows] == [row["text"] for row in rows]
    assert all("<i>new</i>" in {e["label"] for e in answer["entities"]} for answer in answers.values())
    page.reload()
    page.wait_for_selector("html[data-opened]")
    assert page.text_content("#progress") == f"{len(rows)} of {len(rows)} reviewed"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_a_small_screen_and_text_has_contrast(drive, scheme):
    rows = [released("eng_0", "x" * 300 + " " + TEXT, ("Oslo", "y" * 180), *ROW)]
    driver = drive(
        rows, teachers={"lexicon": rows, "patterns": []}, viewport={"width": 400, "height": 800}, color_scheme=scheme
    )
    page = driver.page
    driver.keys("t")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    contrast = page.evaluate(
        """() => {
          const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
          const weights = [0.2126, 0.7152, 0.0722];
          const light = (css) => css.match(/[\\d.]+/g).slice(0, 3).map(Number).map(channel)
            .reduce((sum, value, n) => sum + value * weights[n], 0);
          const paper = light(getComputedStyle(document.body).backgroundColor);
          const tags = [0, 1, 2, 3, 4, 5, 6, 7].map((n) => {
            const tag = document.body.appendChild(document.createElement("span"));
            tag.className = "tag";
            tag.style.setProperty("--hue", `var(--hue${n})`);
            return tag;
          });
          return [...tags, ...document.querySelectorAll(".about, #progress, #told, .kind")].map((part) => {
            const ink = light(getComputedStyle(part).color);
            return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
          });
        }"""
    )
    assert len(contrast) > 12 and min(contrast) >= 4.5


def test_everything_has_a_name_and_keys_do_what_they_say(drive):
    driver = drive([released("eng_0", TEXT, *ROW), released("eng_1", "Rome.", ("Rome", "city"))])
    page = driver.page
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, [role=listbox]")].filter((part) =>
          !(part.textContent.trim() || part.ariaLabel || part.getAttribute("aria-labelledby") || part.labels?.length))
          .map((part) => part.id)"""
    )
    assert nameless == []
    page.focus("#list")
    driver.keys("ArrowDown")
    active = page.get_attribute("#list", "aria-activedescendant")
    assert page.get_attribute(f"#{active}", "aria-selected") == "true" and "passage 2 of 2" in driver.told()
    driver.keys("Enter")  # in the list it opens the passage, and does not finish it
    assert page.evaluate("document.activeElement.id") == "passage"
    assert page.text_content("#progress") == "0 of 2 reviewed"
    driver.keys("?")
    assert page.is_visible("#help") and page.evaluate("document.activeElement.closest('dialog').id") == "help"
    page.uncheck("#single-keys")
    driver.keys("Escape")
    page.focus("#passage")
    driver.keys("x")
    assert page.locator("#entities .gone").count() == 0
    page.click("[data-do=reject]")
    assert page.locator("#entities .gone").count() == 1


def test_only_rows_in_sight_are_drawn(drive):
    rows = [released(f"eng_{n}", f"{n} {TEXT}", *ROW) for n in range(2500)]
    driver = drive(rows)
    page = driver.page
    assert page.locator("#rows .row").count() < 40
    page.evaluate("document.querySelector('#list').scrollTop = 1e6")
    page.wait_for_selector("#row-2499")
    assert page.locator("#rows .row").count() < 40
    took = page.evaluate(
        """() => { document.querySelector("#search").value = "2499 wangari";
          const began = performance.now();
          document.querySelector("#filters").dispatchEvent(new Event("input"));
          return [performance.now() - began, document.querySelector("#shown").textContent]; }"""
    )
    assert took[1] == "1 of 2,500 passages" and took[0] < 2000
