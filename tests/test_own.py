"""Languages and teachers of one's own: described in a profile, used by every stage, and refused with a word on what to
write."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from finerweb.data import Passage, read_rows
from finerweb.languages import in_script, language, languages, own_languages, packaged_languages, scripts, use_languages
from finerweb.runner.cli import app
from finerweb.runner.profiles import Profile, check_profile, load_profile
from finerweb.store import code_fingerprint, fingerprint, read_meta
from finerweb.text.language_id import check_language, is_recognised
from finerweb.text.own_languages import own_language
from finerweb.text.segment import sentences
from finerweb.text.word_lists import calendar_words
from finerweb.weak.teacher import METHODS, weak_teacher

LTZ = {"code": "ltz", "name": "Luxembourgish", "script": "Latn"}
DIV = {"code": "div", "name": "Divehi", "script": "Thaa"}
LEXICON = {"name": "lexicon", "kind": "weak"}
LUXEMBOURGISH = """De Jean Asselborn ass 1949 zu Steefort gebuer an huet zu Nanzeg Droit studéiert.
Hie war vun 2004 bis 2023 Ausseminister vum Grand-Duché Lëtzebuerg.
D'Stad Lëtzebuerg läit un der Uelzecht an ass d'Haaptstuet vum Land.
D'Universitéit Lëtzebuerg gouf am Joer 2003 gegrënnt an huet hire Sëtz zu Esch-Uelzecht.
De Xavier Bettel huet am Dezember 2013 de Jean-Claude Juncker als Premierminister ofgeléist.
Zu Bréissel huet d'Europäesch Kommissioun den 1. Mäerz 2017 e wäisst Buch virgestallt.
Am Juli 1985 ass de Grand-Duc Jean op Paräis gefuer an huet do de François Mitterrand getraff.
D'Firma ArcelorMittal huet hiren Haaptsëtz an der Avenue de la Liberté zu Lëtzebuerg.
De Robert Schuman ass zu Clausen op d'Welt komm an huet spéider a Frankräich geschafft.""".splitlines()
DIVEHI = "ރައްޔިތުންގެ މަޖިލިހުގެ ރައީސް މުޙައްމަދު ނަޝީދު މާލޭގައި ވާހަކަފުޅު ދެއްކެވިއެވެ. ދިވެހިރާއްޖޭގެ ވެރިރަށަކީ މާލެއެވެ."
TEACHER = """
import re

from finerweb.data import Mention
from finerweb.weak.rubric import rating
from my_words import LABEL


class Years:
    def __init__(self, pattern, language):
        assert language == "ltz" or not language, language
        self.pattern = re.compile(pattern)

    def annotate(self, passages):
        return [[Mention(m[0], LABEL, 0.9, m.start()) for m in self.pattern.finditer(p.text)] for p in passages]

    def rate(self, passages):
        return [rating(p.text, mentions) for p, mentions in zip(passages, self.annotate(passages))]

    def judge(self, passages):
        return [{"faithfulness": 4, "completeness": 1 + bool(p.entities)} for p in passages]

    def translate(self, labels):
        return {label: "Joer" for label in labels if label == "date"}
"""
YEARS = {"name": "years", "kind": "python", "object": "my_years:Years", "pattern": "[12][0-9]{3}"}


@pytest.fixture(autouse=True)
def no_own_languages():
    "Each test begins and ends with the packaged languages."
    use_languages([])
    yield
    use_languages([])


@pytest.fixture(scope="module")
def run(tmp_path_factory, finerweb, profile_file) -> tuple[Path, subprocess.CompletedProcess]:
    """(folder of the run, what the command printed): Luxembourgish from text to dataset, one of two teachers our own,
    begun in another folder than the profile's."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "my_years.py").write_text(TEACHER)
    (folder / "my_words.py").write_text("LABEL = 'date'\n")
    texts = folder / "texts"
    texts.mkdir()
    rotations = [LUXEMBOURGISH[n:] + LUXEMBOURGISH[:n] for n in range(9)]
    rows = [json.dumps({"id": f"l{n}", "text": " ".join(lines[:7])}) for n, lines in enumerate(rotations)]
    (texts / "ltz.jsonl").write_text("\n".join(rows))
    stages = {
        "10_corpus": {"min_words": 8},
        "12_filter": {"trained": "head", "encoder": "char"},
        "13_select": {"min_words": 8, "processes": 2, "threshold": -9.0, "similarity": 1.0},
    }
    roles = dict(teachers=[LEXICON, YEARS], judge="years", translator="years", students=[], benchmarks=[])
    profile = profile_file(folder, "study", languages=[LTZ], source=str(texts), stages=stages, **roles)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    ended = finerweb(elsewhere, "run", profile, "--home", folder / "runs")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder, ended


# --- a language of one's own


def test_a_language_of_the_profile_goes_through_all_stages(run):
    folder, ended = run
    assert "ltz (Luxembourgish, Latn): country names: 2" in ended.stdout and "no word list of its own" in ended.stdout
    merged = read_rows(folder / "runs/study/16_merge/ltz/rows.parquet")
    names = {row["text"][e["start"] : e["end"]]: e["label"] for row in merged for e in row["entities"]}
    assert names["Lëtzebuerg"] == "country" and names["Jean Asselborn"] == "person" and names["2003"] == "date"
    cut = read_rows(folder / "runs/study/18_sentences/ltz/rows.parquet")
    assert {row["text"] for row in cut} >= set(LUXEMBOURGISH)
    assert "ltz" in (folder / "runs/study/20_publish/merged-english-passages/README.md").read_text()
    rows = (folder / "runs/study/50_figures/scripts.csv").read_text().splitlines()
    assert rows[1].startswith("Latn,Latin,") and len(rows) == 26
    assert sum(int(row.split(",")[2]) for row in rows[1:]) == 91


def test_status_and_the_list_of_languages_know_the_runs_own(run, finerweb_here, tmp_path):
    folder, _ = run
    ended = finerweb_here(tmp_path, "status", "--home", folder / "runs", "--each")
    assert re.search(r"study: (\d+) of \1 tasks up to date", ended.stdout) and " ltz " in ended.stdout
    ended = finerweb_here(tmp_path, "languages", "--profile", folder / "study.yaml")
    assert "│ ltz  │ Luxembourgish " in ended.stdout


def test_a_notebook_that_is_opened_alone_knows_the_runs_own(run, environment, tmp_path):
    folder, _ = run
    code = f"""
from finerweb.languages import own_languages
from finerweb.store import Task
Task({str(folder / "runs")!r}, "study", "17_translate", ("ltz",), parameters={{}})
print(*own_languages())
"""
    options = dict(cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")
    assert subprocess.run([sys.executable, "-c", code], **options).stdout == "ltz\n"


def test_another_description_makes_tasks_out_of_date():
    before = fingerprint("10_corpus", ("ltz",), {}, {})
    use_languages([own_row(LTZ)])
    one, eng = fingerprint("10_corpus", ("ltz",), {}, {}), fingerprint("10_corpus", ("eng",), {}, {})
    use_languages([own_row(LTZ | {"cldr": "de"})])
    assert len({before, one, fingerprint("10_corpus", ("ltz",), {}, {})}) == 3
    assert eng == fingerprint("10_corpus", ("eng",), {}, {})
    assert one != fingerprint("20_publish", (), {"languages": ["ltz"]}, {})
    assert code_fingerprint("10_corpus")


def own_row(entry: dict) -> dict:
    "The row of a language of one's own."
    from dataclasses import asdict

    return asdict(own_language(entry, "languages[0]"))


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (DIV, DIVEHI),
        ({"code": "nqo", "name": "N'Ko", "script": "Nkoo"}, "ߒߞߏ ߦߋ߫ ߛߓߍߛߎ߲ ߘߏ߫ ߟߋ߬ ߘߌ߫. ߞߣߊߞߙߌ߫"),
        ({"code": "bod", "name": "Tibetan", "script": "Tibt"}, "ལྷ་ས་ནི་བོད་ཀྱི་གྲོང་ཁྱེར་ཡིན། 2004"),
        ({"code": "chr", "name": "Cherokee", "script": "Cher"}, "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ. ᎣᎦᎳᎰᎹ 2004"),
        (
            {"code": "sah", "name": "Yakut", "script": "Cyrl"},
            "Дьокуускай куорат 1632 сыллаахха Петр Бекетов олохтообут.",
        ),
        ({"code": "qaa", "name": "Mine", "script": "Hans"}, "毛泽东在北京。"),
        ({"code": "aii", "name": "Assyrian", "script": "Syrc"}, "ܠܫܢܐ ܣܘܪܝܝܐ. ܢܝܢܘܐ 2004"),
    ],
    ids=lambda value: value["code"] if isinstance(value, dict) else "",
)
def test_a_language_in_any_script_is_read_by_both_weak_teachers(entry, text):
    use_languages([own_row(entry)])
    code = entry["code"]
    assert language(code).direction == ("rtl" if entry["script"] in ("Thaa", "Nkoo", "Syrc") else "ltr")
    assert check_language(text * 5, code)[0] == "" and sentences(text, code)
    for method in METHODS:
        teacher = weak_teacher(method, language=code, raw_text=[text])
        (mentions,) = teacher.annotate([Passage("x", text, code)])
        assert all(text[m.start :].startswith(m.text) for m in mentions)
        assert len(teacher.rate([Passage("x", text, code)])) == 1


def test_a_script_is_known_by_the_letters_that_unicode_gives_it():
    fonttools = pytest.importorskip("fontTools.unicodedata")
    mixed = {"Jpan", "Kore", "Hans", "Hant", "Hira"}
    points = [chr(point) for point in range(0x20000) if chr(point).isalpha()]
    letters: dict[str, list[str]] = {}
    for letter in points:
        letters.setdefault(fonttools.script(letter), []).append(letter)
    shares = {script: in_script("".join(letters[script]), script) for script in scripts() if script not in mixed}
    assert min(shares.values()) > 0.85, {script: share for script, share in shares.items() if share <= 0.85}


def test_the_identifier_drops_no_page_of_a_language_that_it_does_not_know():
    use_languages([own_row(LTZ), own_row({"code": "gsw", "name": "Alemannic", "script": "Latn"})])
    assert is_recognised("ltz") and is_recognised("ckb") and not is_recognised("gsw")
    german = "Die Stadt liegt am Rhein und wurde im Jahr 1200 gegründet, als der Herzog dort ein Kloster baute. " * 4
    assert check_language(german, "gsw")[0] == "" and check_language(german, "ltz")[0] == "other_language"


def test_a_locale_without_names_of_days_spoils_no_other():
    use_languages([own_row(LTZ), own_row(DIV)])
    assert calendar_words("div") == ((), ()) and "mon" not in calendar_words("ltz")[1]


def test_the_packaged_languages_stay_and_a_profile_without_own_ones_forgets_them():
    teachers = [LEXICON, {"name": "patterns", "kind": "weak"}]
    own = check_profile(Profile("own", languages=["all", LTZ], teachers=teachers))
    assert len(own.languages) == 92 and language("lb") == language("Luxembourgish") == own_languages()["ltz"]
    assert check_profile(own).languages == own.languages and len(own.own_languages) == 1
    assert check_profile(Profile("eng", languages=["eng"], teachers=teachers)).own_languages == []
    assert languages() == packaged_languages()
    same = check_profile(
        Profile("own", languages=[{"code": "deu", "name": "German", "script": "Latn"}], teachers=teachers)
    )
    assert same.languages == ["deu"] and same.own_languages == []


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["ltz"], "a language of your own stands in the profile as {code: ltz, name: Luxembourgish, script: Latn}"),
        (["eng", {"code": "ltz"}], "languages[1] (ltz): name is missing; write what the language is called in English"),
        (["eng", LTZ | {"script": ""}], "languages[1] (ltz): script is missing; write one of: Latn, Cyrl, Grek,"),
        ([LTZ | {"script": "Latin"}], "script is 'Latin'; write one of: Latn,"),
        ([LTZ | {"direction": "left"}], "languages[0] (ltz): direction is 'left'; write ltr or rtl"),
        ([LTZ | {"cldr": "xx"}], "cldr is 'xx'; write a locale of CLDR, or root"),
        ([LTZ | {"faker": "lb_LU"}], "Faker has no lb_LU; write some of: ar_AA"),
        ([LTZ | {"bcp47": 5}], "bcp47 is 5; an entry has texts called code, name, script"),
        ([LTZ | {"colour": "red"}], "colour is 'red'; an entry has texts called code, name, script"),
        ([LTZ | {"code": "lb"}], "languages[0]: code is 'lb'; write the three small letters of ISO 639-3"),
        ([LTZ | {"code": False}], "in quotes where YAML reads them otherwise"),
        ([{"name": "Luxembourgish"}], "languages[0]: code is None"),
        ([LTZ, "eng", LTZ], "languages[2] (ltz): this code is described twice; keep one"),
        ([{"code": "srp", "name": "Serbian", "script": "Cyrl"}], "with script 'Latn' and not 'Cyrl'; write srp alone"),
        ([["ltz"]], "languages are codes such as swh"),
    ],
)
def test_a_wrong_language_is_refused(entries, expected, tmp_path, profile_file):
    path = profile_file(tmp_path, "wrong", languages=entries)
    with pytest.raises(ValueError) as error:
        load_profile(str(path))
    assert expected in str(error.value)


# --- a teacher of one's own


def test_a_teacher_of_ones_own_annotates_rates_judges_and_translates(run):
    folder, _ = run
    rows = read_rows(folder / "runs/study/14_annotate/ltz/years/rows.parquet")
    assert {m["text"] for row in rows for m in row["mentions"]} >= {"1949", "2003", "1985"}
    assert read_meta(folder / "runs/study/11_rate/ltz/years")["rows"] == 9
    judged = read_rows(folder / "runs/study/19_judge/ltz/rows.parquet")
    assert {(row["faithfulness"], row["completeness"]) for row in judged} == {(4.0, 2.0)}
    labels = {r["label"]: r for r in read_rows(folder / "runs/study/17_translate/ltz/rows.parquet")}
    assert (labels["date"]["translation"], labels["date"]["method"]) == ("Joer", "own")
    assert (labels["person"]["translation"], labels["person"]["method"]) == ("person", "english")
    assert read_meta(folder / "runs/study/17_translate/ltz")["dropped"]["untranslated"] == len(labels) - 1
    assert not list(folder.glob("__pycache__"))


def test_a_change_of_its_code_makes_what_it_said_out_of_date(run, finerweb, tmp_path):
    folder, _ = run
    helper = folder / "my_words.py"
    before = helper.read_text()
    helper.write_text("LABEL = 'year'\n")
    try:
        ended = finerweb(tmp_path, "run", folder / "study.yaml", "--home", folder / "runs", "--dry-run")
    finally:
        helper.write_text(before)
    done = {stage: count for stage, count in re.findall(r"│ (\d\d_\w+) +│ \d+ +│ (\d+)", ended.stdout)}
    expected = {"10_corpus": "1", "11_rate": "1", "13_select": "1", "14_annotate": "1", "19_judge": "0"}
    assert done.items() >= expected.items(), ended.stdout


def test_its_place_is_no_part_of_what_it_is_and_its_arguments_are(tmp_path):
    spec = YEARS | {"module_folder": "here", "module_code": "0", "most": 1}

    def mark(**changes: object) -> str:
        return fingerprint("14_annotate", ("ltz", "years"), {"teacher": spec | changes}, {})

    assert mark(module_folder="there") == mark()
    assert len({mark(), mark(module_code="1"), mark(most=2), mark(pattern="a")}) == 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"object": "my_yaers:Years"}, "teacher 'years': there is no module 'my_yaers' in"),
        ({"object": "my_years:Year"}, "my_years.py has no class 'Year'; it has Years: mend object"),
        ({"object": "my_years"}, "object is 'my_years'; write module:Class"),
        ({"object": None}, "object is None; write module:Class"),
        ({"object": "broken:Years"}, "broken.py cannot be imported (ZeroDivisionError: division by zero); mend it"),
        ({"object": "select:Years"}, "or give"),
        ({"object": "lacking:Silent"}, "lacking:Silent has no method rate; write def rate(self, passages)"),
        ({"object": "lacking:Odd"}, "lacking:Odd.annotate: missing a required argument: 'more'; write def annotate"),
        ({"patern": "a"}, "got an unexpected keyword argument 'patern'; it takes pattern, language"),
        ({"kind": "pyhton"}, "is of kind 'pyhton'; this version makes weak, python, endpoint"),
        ({"kind": "weak", "name": "years"}, "there is no weak teacher 'years'; write method: lexicon or patterns"),
    ],
)
def test_a_wrong_teacher_is_refused_by_a_dry_run(change, expected, tmp_path, monkeypatch, profile_file):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for module in ("my_years", "my_words", "broken", "lacking"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    (tmp_path / "my_years.py").write_text(TEACHER)
    (tmp_path / "my_words.py").write_text("LABEL = 'date'\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "select.py").write_text(TEACHER)
    methods = "    def annotate(self, passages, more): ...\n    def rate(self, passages): ...\n"
    silent = "    def __init__(self, pattern): ...\n    def annotate(self, passages): ...\n"
    (tmp_path / "lacking.py").write_text(f"class Silent:\n{silent}class Odd(Silent):\n{methods}")
    spec = {name: value for name, value in (YEARS | change).items() if name in ("name", "kind") or "kind" not in change}
    path = profile_file(tmp_path, "wrong", teachers=[LEXICON, spec], students=[], benchmarks=[])
    ended = CliRunner().invoke(app, ["run", str(path), "--home", str(tmp_path / "runs"), "--dry-run"])
    assert ended.exit_code == 2 and expected in ended.stderr, ended.output
    assert not (tmp_path / "runs").exists() and not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize("role", ["judge", "translator"])
def test_a_judge_or_translator_without_the_method_is_refused(role, tmp_path, monkeypatch, profile_file):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "bare_judge", raising=False)
    (tmp_path / "bare_judge.py").write_text("class Bare: ...\n")
    spec = {"name": "bare", "kind": "python", "object": "bare_judge:Bare"}
    path = profile_file(tmp_path, "wrong", students=[], benchmarks=[], **{role: spec})
    ended = CliRunner().invoke(app, ["run", str(path), "--home", str(tmp_path / "runs"), "--dry-run"])
    method = {"judge": "judge(self, passages)", "translator": "translate(self, labels)"}[role]
    assert ended.exit_code == 2 and f"write def {method}" in ended.stderr, ended.output
