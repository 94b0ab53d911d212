"""The offline teachers: all languages, hostile text, the same answer in every process, rich text rated above noise, and
floors on human labels."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from babel import Locale

from finerweb.data import Mention, Passage, asset, broader, storable
from finerweb.languages import languages
from finerweb.languages import language as find_language
from finerweb.text.word_lists import word_list
from finerweb.weak.candidates import LOCATION, PERSON, Tables, candidates
from finerweb.weak.capitals import Statistics, runs
from finerweb.weak.lexicon import lexicon
from finerweb.weak.rubric import quality, rating
from finerweb.weak.teacher import weak_teacher
from finerweb.weak.types import CONTEXT_WEIGHT, context_evidence, type_prior

METHODS = ("lexicon", "patterns")
SAMPLES = sorted(path.stem for path in asset("sample").glob("*.jsonl"))
HOSTILE = {
    "empty": "",
    "blank": " \n\t\u00a0" * 50,
    "NUL": "Nairobi\x00Kenya \x00\x01\x02 Dr. \x00",
    "surrogates": "Dr. Mary \ud800 Smith \udfff of Kenya \ud83d",
    "marks": "\u200f\u202eNairobi\u202c \u2066Kenya\u2069 \u200b\u0301\u0301\u0301 \ufeff",
    "capitals": "A" * 100_000 + "Aa" * 25_000 + " " + "A.B." * 12_000,
    "separators": "de la & of the - ' . : " * 3_000,
    "digits": "12.345.678,9/" * 5_000,
    "open quotes": "ТОВ «" * 6_000,
    "small change": "".join(chr(33 + n * n % 9_000) for n in range(60_000)),
}


def check(text: str, mentions: list[Mention]) -> None:
    "Inside the text, in order, without overlap, with a score in (0, 1]."
    at = 0
    for mention in mentions:
        assert mention.text and text[mention.start :].startswith(mention.text) and mention.start >= at, mention
        assert 0 < mention.score <= 1 and mention.label, mention
        at = mention.start + len(mention.text)


def annotate(text: str, language: str, raw_text: Iterable[str] = ()) -> list[list[Mention]]:
    "The mentions of each of the two teachers."
    teachers = [weak_teacher(method, language=language, raw_text=raw_text) for method in METHODS]
    return [teacher.annotate([Passage("x", text, language)])[0] for teacher in teachers]


@pytest.mark.parametrize("language", languages())
def test_every_language_knows_its_countries(language):
    countries = Locale.parse(find_language(language).cldr).territories
    names = [countries[code] for code in ("FR", "JP", "KE", "BR", "IN", "CN", "DE", "US") if code in countries][:4]
    # Irish names carry an article, and Sanskrit ones a colon for a visarga
    names = [name.removeprefix("an ").rstrip(":") for name in names]
    text = "; ".join(names) + "."
    both = annotate(text, language)
    for mentions in both:
        check(text, mentions)
    sure = [mention for mentions in both for mention in mentions if mention.score >= 0.5]
    places = {mention.text for mention in sure if broader(mention.label) == "location"}
    lexicon.cache_clear()  # 91 lexicons at once are a lot of memory
    assert len(places & set(names)) >= 3, f"{language}: of {names} only {sorted(places)}"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text(name):
    text = HOSTILE[name]
    for language in ("eng", "ukr", "tha", "arb") if len(text) < 1_000 else ("ukr", "tha"):
        for method in METHODS:
            teacher = weak_teacher(method, language=language, raw_text=[text[:2_000]])
            (mentions,) = teacher.annotate([Passage("x", text, language)])
            ((score, why),) = teacher.rate([Passage("x", text[:3_000], language)])
            check(storable(text), mentions)
            assert score in (1, 2) and why


def test_unknown_names_of_languages_and_teachers():
    with pytest.raises(ValueError, match="there is lexicon, patterns"):
        weak_teacher("oracle", language="eng", raw_text=[])
    with pytest.raises(ValueError, match="unknown language 'tlh'"):
        weak_teacher("lexicon", language="tlh", raw_text=[])


def both_sure(text: str, language: str, raw_text: Iterable[str] = ()) -> dict[str, str]:
    "Text -> broad label of what one of the two teachers is sure of."
    mentions = [mention for one in annotate(text, language, raw_text) for mention in one if mention.score >= 0.5]
    return {mention.text: broader(mention.label) for mention in mentions}


# language -> (ending that a country's name loses, ending that it takes)
FORMS = {
    "hun": ("", "ban"), "hrv": ("a", "e"), "ces": ("o", "u"), "hye": ("", "ից"), "kat": ("ი", "ისთვის"),
    "mar": ("", "मध्ये"),
}  # fmt: skip


@pytest.mark.parametrize("language", FORMS)
def test_endings_are_learned_from_raw_text(language):
    old, new = FORMS[language]
    names = [name for name, label in lexicon(language).names.items() if label == ("country", 0.93) and " " not in name]
    names = sorted(name.title() for name in names if len(name) > 5 and name.endswith(old))[:40]
    forms = [name.removesuffix(old) + new for name in names]
    raw = [f"x {name} x {form} x." for name, form in zip(names[1:], forms[1:], strict=True)] * 2
    text = f"x {forms[0]} x."  # a form that raw text does not have
    before, (after, _) = annotate(text, language), annotate(text, language, [*raw, text])
    lexicon.cache_clear()
    assert not any(mention.score >= 0.5 for one in before for mention in one), "the form is listed: nothing is tested"
    assert [(m.text, broader(m.label)) for m in after if m.score >= 0.5] == [(forms[0], "location")]


def test_inhabitants_are_no_places():
    cities = "Berlin Hamburg Frankfurt Dresden Leipzig Stuttgart Düsseldorf Hannover Nürnberg Bremen".split()
    raw = [f"Sie fuhr nach {city}, wo er {city}s alte Kirche und einen {city}er fand." for city in cities]
    names = both_sure("Dort sah er Berlins alte Kirche und Berliner.", "deu", raw)
    assert names.get("Berlins") == "location" and "Berliner" not in names


def test_german_common_nouns_are_no_names():
    raw = ["Der Vertrag liegt auf dem Tisch. Sie prüft den Vertrag mit einem neuen Partner, so die Zeitung."] * 9
    raw += ["Gestern traf Angela Merkel in Berlin auf Fritz Hahn, den Sprecher der Bank."] * 3
    text = "So sagte zum Mietvertrag Partner Fritz Hahn in Berlin, Vertrag und Zeitung lägen auf Tisch und Bank."
    for mentions in annotate(text, "deu", raw):
        assert {mention.text for mention in mentions} <= {"Fritz Hahn", "Berlin"}, mentions
    assert both_sure(text, "deu", raw) == {"Fritz Hahn": "person", "Berlin": "location"}


def test_an_unknown_lone_name_is_rather_a_person_than_a_place():
    english = lexicon("eng")
    tables = Tables(english, Statistics())
    unknown, listed = candidates("They say Gzrtholm would agree with Nairobi.", tables)
    prior, listed_prior = type_prior(unknown), type_prior(listed)
    assert prior[PERSON] > prior[LOCATION] and listed_prior[PERSON] == listed_prior[LOCATION]
    shares = context_evidence([], {}, prior, weight=CONTEXT_WEIGHT)
    assert shares[PERSON] > 0.35 > shares[LOCATION]


SPOKEN = {  # persons, and what is written to them
    "heb": ("אתמול אמר ברק אובמה בנאום", "ברק אובמה"),
    "arb": ("قال محمد وأحمد", "محمد"),  # "Muhammad and Ahmad"
    "tel": ("నిన్న రాహుల్ గాంధీ అన్నారు", "రాహుల్ గాంధీ"),
    "mal": ("ഇന്നലെ രാഹുല് ഗാംധീ പറഞ്ഞു", "രാഹുല് ഗാംധീ"),
    "hin": ("कल राहुल गांधी संबोधित हुए", "राहुल गांधी"),  # the rare word behind the name is none
    "kor": ("어제 버락 오바마는 말했다", "버락 오바마"),
    "kat": ("გუშინ ბარაკ ობამა საუბრობდა", "ბარაკ ობამა"),
    "cmn": ("他在外婆罗莎·克拉克的家中", "罗莎·克拉克"),
}


@pytest.mark.parametrize("language", SPOKEN)
def test_persons_in_scripts_without_capitals(language):
    text, person = SPOKEN[language]
    mentions = [mention for one in annotate(text, language) for mention in one if mention.label == "person"]
    assert person in {mention.text for mention in mentions if mention.score >= (0.15 if language == "arb" else 0.5)}
    assert not any(person in mention.text and person != mention.text for mention in mentions), mentions


def test_a_country_behind_a_clitic_is_no_person():
    # without its first letter, which is also the clitic "to", Lebanon is a family name
    assert both_sure("زار لبنان أمس", "arb") == {"لبنان": "location"}


def test_a_person_behind_an_organisation_is_no_part_of_it():
    sure = both_sure("Alisema Baraza la Wawakilishi Nancy Pelosi jana.", "swh")
    assert sure.get("Nancy Pelosi") == "person" and "Baraza la Wawakilishi Nancy Pelosi" not in sure


def test_a_capital_behind_an_armenian_full_stop_says_nothing():
    first, second = runs("Նա եկավ։ Հետո նա գնաց։", lexicon("hye"))
    assert first[0].weak and second[0].weak


def sample(language: str) -> list[dict]:
    "The rows of the packaged sample of `language`."
    lines = (asset("sample") / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


PROGRAM = """
import json, sys
from finerweb.data import Passage, asset
from finerweb.weak.teacher import weak_teacher
for language in ("swh", "hin"):
    lines = (asset("sample") / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()[:12]
    texts = [json.loads(line)["text"][:1500] for line in lines]
    for method in ("lexicon", "patterns"):
        teacher = weak_teacher(method, language=language, raw_text=texts)
        for text, mentions in zip(texts, teacher.annotate([Passage("x", t, language) for t in texts])):
            print(json.dumps([[m.text, m.label, m.score, m.start] for m in mentions]))
"""


def test_same_answer_in_every_process():
    environments = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "20")]
    command = [sys.executable, "-c", PROGRAM]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for environment in environments]
    one, two = (run.communicate(timeout=120)[0] for run in runs)
    assert all(run.returncode == 0 for run in runs)
    assert one == two and one.count(b"\n") == 48 and b"person" in one


def test_a_page_that_speaks_to_its_reader_is_rated_below_one_that_tells():
    tells = "Anna Lind of Volvo met Omar Haddad in Oslo on 3 May 2019, and both of them went on to Kenya by train. " * 4
    mentions = [
        Mention(name, label, 0.9, tells.index(name))
        for name, label in (
            ("Anna Lind", "person"),
            ("Omar Haddad", "person"),
            ("Volvo", "company"),
            ("Oslo", "city"),
            ("Kenya", "country"),
            ("3 May 2019", "date"),
        )
    ]
    speaks = tells.replace(".", "!").replace(",", "!")
    lists = tells.replace("met", "20:15: met")
    assert rating(tells, mentions)[0] > max(rating(speaks, mentions)[0], rating(lists, mentions)[0])


@pytest.mark.parametrize("text", ["ሰላም: ለዓለም: ሁሉ:", "नमः शिवाय: ॐ", "Բարեւ: Ողջույն:", "Vi är i EU:s råd.", "甲说：今"])
def test_a_colon_that_belongs_to_a_word_or_ends_a_sentence_is_no_noise(text):
    without = text.replace(":", "").replace("：", "")
    assert quality(text).noise == quality(without).noise < quality("Price: 3").noise


@pytest.mark.parametrize("language", SAMPLES)
def test_rich_pages_are_rated_above_noise(language):
    rows = sample(language)
    for method in METHODS:
        teacher = weak_teacher(method, language=language, raw_text=[row["text"] for row in rows])
        means = {}
        for kind in ("rich", "noise"):
            pages = [Passage(row["id"], row["text"][:1_500], language) for row in rows if row["kind"] == kind]
            means[kind] = sum(score for score, _ in teacher.rate(pages)) / len(pages)
        rich, noise = means["rich"], means["noise"]
        assert rich > noise + 0.5, f"{method}, {language}: rich {rich:.2f}, noise {noise:.2f}"


TYPES = {"PER": "person", "PERS": "person", "LOC": "location", "ORG": "organization"}
CLOSING = {",", ".", ":", ";", ")", "'s", "!", "?"}  # tokens without a space before them
Spans = set[tuple[int, int, str]]


def gold_sentence(row: dict) -> tuple[str, Spans]:
    "The text of a row of tokens and tags, joined by spaces, and the spans of persons, places and organisations."
    text, spans = "", []
    for token, tag in zip(row["tokens"], row["ner_tags"], strict=True):
        space = text and token not in CLOSING and not text.endswith("(")
        text += (" " if space else "") + token
        if tag[0] == "I" and spans and spans[-1][2] == tag[2:]:
            spans[-1][1] = len(text)
        elif tag != "O":
            spans.append([len(text) - len(token), len(text), tag[2:]])
    return text, {(start, end, TYPES[kind]) for start, end, kind in spans if kind in TYPES}


def gold(path: Path, step: int) -> list[tuple[str, Spans]]:
    "(text, spans) of every `step`-th sentence of a file of tokens and tags."
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [gold_sentence(json.loads(line)) for line in list(file)[::step]]


def merged(one: list[Mention], two: list[Mention]) -> Spans:
    "What both teachers together are sure of: equal spans strengthen each other, of overlapping ones the surer stays."
    pool: dict[tuple[int, int], tuple[float, str]] = {}
    for mention in [*one, *two]:
        span, score, kind = (mention.start, mention.start + len(mention.text)), mention.score, broader(mention.label)
        other_score, other_kind = pool.get(span, (0.0, kind))
        if kind == other_kind:
            pool[span] = 1 - (1 - score) * (1 - other_score), kind
        else:
            pool[span] = max((score, kind), (other_score, other_kind))
    apart: list[tuple[int, int, str]] = []
    surest_first = sorted((-score, start, end, kind) for (start, end), (score, kind) in pool.items())
    for negative_score, start, end, kind in surest_first:
        if -negative_score >= 0.5 and all(end <= a or b <= start for a, b, _ in apart):
            apart.append((start, end, kind))
    return {span for span in apart if span[2] in TYPES.values()}


@pytest.mark.parametrize(
    ("corpus", "language", "step", "floor"),
    [
        ("conll2003", "eng", 6, 0.69),
        ("masakhaner2", "swh", 4, 0.77),
        ("turku-ner", "fin", 2, 0.60),
        ("ner-uk-2.0", "ukr", 8, 0.52),
    ],
)
def test_f1_on_human_labels(real_data, corpus, language, step, floor):
    import pyarrow.parquet as pq

    folder = real_data / "ner" / corpus / language
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    raw = pq.read_table(real_data / "web" / f"{language}.parquet", columns=["text"]).column("text").to_pylist()[:150]
    lines = [text for text, _ in gold(folder / "train.jsonl.gz", 4)]
    raw += ["\n".join(lines[n : n + 20]) for n in range(0, len(lines), 20)]
    rows = gold(folder / "test.jsonl.gz", step)
    passages = [Passage("x", text, language) for text, _ in rows]
    both = [weak_teacher(method, language=language, raw_text=raw).annotate(passages) for method in METHODS]
    right = predicted = labelled = 0
    for (text, spans), one, two in zip(rows, *both, strict=True):
        check(text, one)
        check(text, two)
        sure = merged(one, two)
        right, predicted, labelled = right + len(sure & spans), predicted + len(sure), labelled + len(spans)
    f1 = 2 * right / (predicted + labelled)
    assert f1 >= floor, f"{corpus} {language}: F1 {f1:.3f} on {len(rows)} sentences, expected at least {floor}"


def test_word_lists_hold_no_word_twice_and_no_empty_kind():
    for language in languages():
        for kind, words in word_list(language).items():
            assert words and all(words), f"{language}: {kind} is empty"
