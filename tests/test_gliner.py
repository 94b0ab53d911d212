"""The gliner library as a student: words in every script, windows, what a sentence teaches; with the library, offsets,
files and bad input.

The library is an extra. Its tests skip without it; with it, in an environment of its own:
    pip install 'finerweb[dev,gliner]' && python -m pytest tests/test_gliner.py
"""

import importlib.util
import json
import random

import pytest
from conftest import labelled_row
from hypothesis import given, settings
from hypothesis import strategies as st

from finerweb.benchmarks import read_benchmark
from finerweb.confidence import ask_student, train_student
from finerweb.data import lesson_passages, schema
from finerweb.evaluate import load_student
from finerweb.gliner import (
    GlinerStudent,
    WordExample,
    check_steps,
    checkpoint_folder,
    draw_line,
    draw_lines,
    make_word_examples,
    train_gliner,
)  # fmt: skip
from finerweb.models.e5 import piece_tables
from finerweb.runner.pipeline import run_profile
from finerweb.runner.plan import plan
from finerweb.runner.profiles import load_profile
from finerweb.store import Task
from finerweb.student.word_windows import (
    cut_words,
    group_labels,
    place_entities,
    spell_labels,
    spell_words,
    split_words,
    word_windows,
)  # fmt: skip
from finerweb.models.student_folder import student_fingerprint
from finerweb.teachers import make_teacher
from finerweb.text.segment import graphemes, tokens

TEXTS = [p.text for p in lesson_passages()] + [
    "東京タワーへ行く。2004年", "北京大学的学生", "ភ្នំពេញជារាជធានី", "ວຽງຈັນເປັນນະຄອນຫຼວງ", "ကမ္ဘာ့မြန်မာEU",
    "EU:n jäsen 👨‍👩‍👧 ok", "नबतीये\u200b प्रान", "في \u200fغزة اثر",
    "Lara's l'Europe U.S. $3.50", "ปี2547ไปEU", "서울에서EU가", "a\x00b\ud83d\ufe0f",
]  # fmt: skip
SCRIPTS = "aé'- .\n0๕ทียำกမ္ဘာကျ東タ가ض\u200f\u200b\u0301\ufe0f👨\u200d👩\x00\ud83d<>"


def spans(text: str, entities: list[dict]) -> list[str]:
    words = split_words(text, entities)
    placed, lost = place_entities(words, entities)
    assert not lost
    return [(words[i][0], words[j][1]) for i, j, _ in placed]


# Words


@pytest.mark.parametrize("text", TEXTS)
def test_an_entity_between_any_two_graphemes_is_whole_words(text):
    edges, visible = graphemes(text), [n for span in tokens(text, "eng") for n in range(*span)]
    for n, (start, _) in enumerate(edges):
        for _, end in edges[n : n + 12]:
            if set(visible) & set(range(start, end)):
                assert spans(text, [{"start": start, "end": end}]) == [(start, end)]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=SCRIPTS, max_size=40))
def test_words_cut_no_grapheme_and_leave_out_nothing_to_be_seen(text):
    words, edges = split_words(text), {0} | {end for _, end in graphemes(text)}
    assert all(a < b for a, b in words) and all(p[1] <= q[0] for p, q in zip(words, words[1:], strict=False))
    assert {edge for word in words for edge in word} <= edges
    assert [n for w in words for n in range(*w)] == [n for t in tokens(text, "eng") for n in range(*t)]


BENCHMARKS = ["conll2003", "masakhaner2-swh", "thainer", "myner", "stockmark", "uner-gsdsimp", "hiner", "anercorp"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_no_human_entity_is_lost(real_data, monkeypatch, name):
    monkeypatch.setenv("FINERWEB_TEST_DATA", str(real_data))
    passages = read_benchmark({"name": name}).passages[:400]
    total = findable = 0
    for passage in passages:
        entities = [{"start": e.start, "end": e.end} for e in passage.entities]
        assert spans(passage.text, entities) == [(e["start"], e["end"]) for e in entities]
        total += len(entities)
        findable += len(place_entities(split_words(passage.text), entities)[0])
    assert total > 100 and findable / total > 0.97, "too few can be found by who does not know where they are"


# Windows and labels


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=80), st.integers(12, 40), st.integers(1, 30), st.integers(1, 12))
def test_windows_own_every_word_once_and_have_room(costs, room, most, reach):
    windows = cut_words(costs, room=room, most=most, reach=reach)
    assert [n for *_, a, b in windows for n in range(a, b)] == list(range(len(costs)))
    for begin, end, own, until in windows:
        assert begin <= own and until <= end and end - begin <= most and sum(costs[begin:end]) <= room


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    from finerweb.models.encoders import encoder_path

    return AutoTokenizer.from_pretrained(encoder_path("minilm"))


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.text(alphabet=SCRIPTS, min_size=1, max_size=8), max_size=12))
def test_every_word_gets_a_piece(tokenizer, words):
    spelled, costs = spell_words(words, tokenizer, 5)
    ids = tokenizer([spelled], is_split_into_words=True, add_special_tokens=False).word_ids(0) if words else []
    assert sorted(set(ids)) == list(range(len(words)))
    assert [ids.count(n) for n in range(len(words))] == costs and max([*costs, 1]) <= 5


def test_a_tokenizer_without_words_is_refused():
    from finerweb.models.char_encoder import CharTokenizer

    with pytest.raises(ValueError, match="fast tokenizer"):
        spell_words(["a"], CharTokenizer(), 8)


LONG = ["x" * 200_000, "ก" * 50_000, "e\u0301" + "\u0301" * 100_000, "Oslo, " * 50_000, "\ufe0f" * 5000, ""]


@pytest.mark.parametrize("text", LONG)
def test_long_texts_are_read_whole(tokenizer, text):
    words = split_words(text)
    windows = word_windows(0, text, words, tokenizer, room=200, most=384, reach=12)
    assert [w.first + n for w in windows for n in range(*w.own)] == list(range(len(words)))


def test_labels_are_cut_kept_apart_and_grouped(tokenizer):
    labels = ["person", "person", "<<ENT>>", "mji " * 500, "\u200b", *(f"label {n}" for n in range(5000))]
    spelled = spell_labels(labels, tokenizer)
    assert [label for label, _ in spelled.values()] == list(dict.fromkeys(labels))
    assert all("<<" not in text for text in spelled)
    groups = group_labels(spelled, room=120, most=50)
    assert [text for group in groups for text in group] == list(spelled)
    assert all(len(group) <= 50 and sum(spelled[text][1] for text in group) <= 120 for group in groups)
    assert group_labels({}, room=9, most=9) == []
    for wrong in ("", " ", None, 3):
        with pytest.raises(ValueError, match="no label"):
            spell_labels([wrong], tokenizer)


# What a sentence teaches


def test_a_mark_of_the_tokenizer_in_a_label_is_read_as_text(tokenizer):
    mark = tokenizer.sep_token or tokenizer.all_special_tokens[0]
    ((text, (label, _)),) = spell_labels([f"city {mark}"], tokenizer).items()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert label == f"city {mark}" and tokenizer.convert_tokens_to_ids(mark) not in ids and len(ids) > 2


def test_a_label_that_nobody_can_tell_is_not_asked():
    pool = ["city", "country", "date", "location", "person"]
    prompts = {"eng": {label: [(f"<{label}>", 2)] for label in pool}}

    def draw(gold: list, room: int = 99) -> dict:
        example = WordExample(["a", "b"], "eng", gold)
        return draw_line(example, pool, prompts, negatives=9, room=room, chance=random.Random(0))

    assert set(draw([(0, 0, "location")])["ner_labels"]) == {"<location>", "<date>", "<person>"}
    assert draw([(0, 1, "city")])["ner"] == [[0, 1, "<city>"], [0, 1, "<location>"]]
    assert set(draw([(0, 0, "city"), (1, 1, "location")])["ner_labels"]) == {"<location>", "<date>", "<person>"}
    assert len(draw([(0, 1, "city")], room=4)["ner_labels"]) == 2 and draw([])["ner"] == []


# The runner


def test_a_run_that_lacks_the_library_says_so_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    with pytest.raises(RuntimeError, match=r"pip install 'finerweb\[gliner\]'"):
        run_profile(load_profile("offline"), home=str(tmp_path), run="x", stages=[], report=print, started=print)
    assert not list(tmp_path.iterdir())


def test_only_offline_trains_a_gliner():
    stages = {name: {t.stage for t in plan(load_profile(name))} for name in ("demo", "offline")}
    assert "34_gliner" in stages["offline"] and "34_gliner" not in stages["demo"] and "33_binder" in stages["demo"]


def test_the_papers_baselines_are_scored_and_not_trained():
    tasks = plan(load_profile("paper"))
    baselines = {t.key[0]: t.parameters for t in tasks if t.stage == "34_gliner"}
    checkpoints = {name: (p["checkpoint"], p["steps"], p["held_out"]) for name, p in baselines.items()}
    names = {"gliner-multi": "urchade/gliner_multi-v2.1", "gliner-x-base": "knowledgator/gliner-x-base"}
    assert checkpoints == {name: (checkpoint, 0, 0) for name, checkpoint in names.items()}
    assert all(not t.needs and not t.wants for t in tasks if t.stage == "34_gliner"), "nothing of the run is waited for"
    met = {t.key for t in tasks if t.stage == "35_evaluate" and t.key[0] in names}
    assert met == {(name, b["name"]) for name in names for b in load_profile("paper").benchmarks}


@pytest.mark.parametrize(("steps", "checkpoint"), [(0, ""), (-1, "some/model")])
def test_a_student_that_learned_nothing_is_not_scored(steps, checkpoint):
    with pytest.raises(ValueError, match="0 and a checkpoint"):
        check_steps(steps, checkpoint)


def test_a_folder_without_a_student_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gliner_config.json"):
        load_student(tmp_path)
    (tmp_path / "gliner_config.json").write_text('{"encoder_config": {"auto_map": {}}}')
    with pytest.raises(ValueError, match="model.safetensors.*pickle"):
        checkpoint_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="auto_map"):
        checkpoint_folder(tmp_path)
    with pytest.raises(ValueError, match="no GLiNER model"):
        checkpoint_folder(tmp_path / "nothing")


# With the library

SENTENCES = [
    ("Wangari Nairobi Oslo", {"Wangari": "person", "Nairobi": "city", "Oslo": "city"}),
    ("Amina alifika Mombasa jana", {"Amina": "person", "Mombasa": "city"}),
    ("Juma Otieno anaishi Kisumu", {"Juma Otieno": "person", "Kisumu": "city"}),
    ("Oslo'ya Lara's", {"Oslo": "city", "Lara": "person"}),
    ("hakuna jina hapa", {}),
]
TRAINING = dict(steps=120, batch=5, encoder_rate=5e-3, head_rate=5e-3, negatives=2, seed=1, progress=False)


def rows() -> list[dict]:
    return [labelled_row(text, labels) for text, labels in SENTENCES]


@pytest.fixture(scope="module")
def library():
    pytest.importorskip("gliner", reason="needs the gliner library: pip install 'finerweb[gliner]'")
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def encoder(library, tokenizer, tmp_path_factory) -> str:
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    library.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def untrained(library, encoder: str, label_encoder: str = "") -> GlinerStudent:
    library.manual_seed(0)
    return GlinerStudent.from_encoder(encoder, label_encoder=label_encoder, size=32, max_width=6, dropout=0.0)


@pytest.fixture(scope="module", params=["uni-encoder", "bi-encoder"])
def trained(library, encoder, request) -> tuple[GlinerStudent, list]:
    student = untrained(library, encoder, encoder if request.param == "bi-encoder" else "")
    return student, train_gliner(student, rows(), **TRAINING)[0]


def mentions(student, texts, labels, threshold=0.3) -> list[set]:
    predicted = student.predict(texts, labels, threshold, progress=False)
    return [{(text[e.start : e.end], e.label) for e in some} for text, some in zip(texts, predicted, strict=True)]


def test_it_is_a_teacher_too(trained, tmp_path):
    student, _ = trained
    student.save_pretrained(tmp_path)
    spec = {"name": "other", "kind": "student", "model": str(tmp_path), "labels": ["person", "city"], "least": 0.3}
    passages = lesson_passages()
    said = make_teacher(spec, language="eng", raw_text=[]).annotate(passages)
    assert any(said) and student_fingerprint(str(tmp_path))
    for passage, some in zip(passages, said, strict=True):
        assert all(passage.text[m.start :].startswith(m.text) and 0.3 <= m.score <= 1 for m in some)


def test_it_learns_the_sentences(trained):
    student, curve = trained
    assert curve[-1]["loss"] < curve[0]["loss"] / 3
    texts = [text for text, _ in SENTENCES]
    if student.label_tokenizer:  # from random weights, a uni-encoder takes far longer to tell labels apart
        assert mentions(student, texts, ["person", "city"]) == [set(labels.items()) for _, labels in SENTENCES]


def test_its_confidence_in_what_it_has_learned(library, encoder):
    sizes = dict(encoder=encoder, label_encoder=encoder, size=32, max_width=6, dropout=0.0)
    numbers = {name: value for name, value in TRAINING.items() if name != "progress"}
    how = dict(translations={}, label_language="english", bfloat16=False, binder={"loss": "bce"})
    student = train_student("gliner", rows(), **sizes, **numbers, **how, gliner={"checkpoint": ""})
    support = ask_student(student, rows(), asked=2, lowest=0.01)
    assert [len(pairs) for pairs in support] == [len(row["entities"]) for row in rows()]
    assert all(probability > 0.3 for pairs in support for probability, _ in pairs)
    with pytest.raises(ValueError, match="needs an encoder_rate and a max_width"):
        train_student("gliner", rows(), **sizes | {"max_width": 0}, **numbers, **how, gliner={"checkpoint": ""})


def test_word_pieces_stay_as_they_are_unless_asked(library, encoder):
    for is_frozen in (True, False):
        student = untrained(library, encoder)
        [table] = piece_tables(student.model.model)
        before = table.weight.detach().clone()
        train_gliner(student, rows(), **TRAINING | {"steps": 2}, freeze_pieces=is_frozen)
        assert library.equal(before, table.weight) == is_frozen
    bi_encoder = untrained(library, encoder, encoder)
    assert len(piece_tables(bi_encoder.model.model)) == 2


def test_the_marks_of_labels_and_text_differ(library, encoder):
    student = untrained(library, encoder)
    marks = student.tokenizer.convert_tokens_to_ids(["<<ENT>>", "<<SEP>>"])
    table = piece_tables(student.model.model)[0].weight
    first, second = table[marks]
    assert library.cosine_similarity(first, second, dim=0) < 0.9
    assert 0.5 < table[marks].std() / table.std() < 2


def test_the_library_is_given_the_lines_that_were_drawn(library, encoder):
    student = untrained(library, encoder)
    examples, _ = make_word_examples(student, rows())
    lines = draw_lines(student, examples, 10, negatives=2, seed=1, translations={}, label_language="english")
    batch = student.model._create_data_collator()(lines)
    for line, ids, targets in zip(lines, batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        pieces = student.tokenizer.convert_ids_to_tokens(ids)
        assert [pieces[n + 1] for n, piece in enumerate(pieces) if piece == "<<ENT>>"] == line["ner_labels"]
        spans = set()
        for n, row in enumerate(targets):
            first, last = n // 6, n // 6 + n % 6
            spans |= {(first, last, label) for label, value in zip(line["ner_labels"], row, strict=False) if value}
        assert spans == set(map(tuple, line["ner"]))


def test_it_comes_back_from_its_folder(trained, tmp_path):
    student, texts = trained[0], [text for text, _ in SENTENCES]
    student.config.threshold = 0.25
    student.save_pretrained(tmp_path / "model")
    names = {p.name for p in (tmp_path / "model").rglob("*")}
    assert "model.safetensors" in names and not any(n.endswith((".bin", ".pt")) for n in names)
    again = load_student(tmp_path)
    assert again.config.threshold == 0.25
    assert again.predict(texts, ["person", "city"], progress=False) == student.predict(
        texts, ["person", "city"], progress=False
    )


def test_offsets_hold_for_any_text(trained):
    student = trained[0]
    texts = [*TEXTS, "Wangari Nairobi Oslo. " * 60, "", " \n", "\ufe0f Wangari \u200b Nairobi", "x" * 20_000]
    answers = student.predict(texts, ["person", "city"], 0.0, progress=False, batch_size=4)
    for text, entities in zip(texts, answers, strict=True):
        edges = {0} | {end for _, end in graphemes(text)}
        assert all({e.start, e.end} <= edges and e.start < e.end for e in entities)
        characters = [n for e in entities for n in range(e.start, e.end)]
        assert len(characters) == len(set(characters))
    assert answers[len(TEXTS) + 1 : len(TEXTS) + 3] == [[], []]


def test_nothing_is_lost_in_a_long_text(trained):
    student = trained[0]
    text = "Wangari Nairobi Oslo\n" + "hakuna jina hapa\n" * 150 + "Amina alifika Mombasa jana"
    answers = student.predict([text], ["person", "city"], 0.0, progress=False)[0]
    assert any(e.start < 20 for e in answers), "the beginning is 150 lines away from the end"
    assert any(e.start > len(text) - 30 for e in answers)


def test_many_long_and_no_labels(trained):
    student, text = trained[0], "Amina alifika Mombasa jana"
    assert student.predict([text], [], progress=False) == [[]]
    labels = ["person", "person", "a" * 2000, "mji mkuu " * 250, "<<SEP>>", *(f"kind {n}" for n in range(150))]
    assert all(e.label in labels for e in student.predict([text], labels, 0.0, progress=False)[0])
    with pytest.raises(ValueError, match="no label"):
        student.predict([text], [" "], progress=False)


def test_the_same_seed_gives_the_same_model(library, encoder):
    losses = []
    for seed in (1, 1, 2):
        student = untrained(library, encoder)
        curve, _ = train_gliner(student, rows(), **(TRAINING | {"steps": 6, "seed": seed}))
        losses.append([point["loss"] for point in curve])
    assert losses[0] == losses[1] != losses[2]


def test_the_library_cannot_move_the_words(library, encoder):
    "What `spell_words` is for: with a word of no piece the library gives every later word its neighbour's number."
    student = untrained(library, encoder)
    batch = student.model.collate_batch([{"tokenized_text": ["Oslo", "\ufe0f", "Nairobi"], "ner": None}], ["city"])
    assert batch["words_mask"].max() == 2, "the library has mended it: spell_words need not look for such words"
    words = student.windows(0, "Oslo \ufe0f Nairobi", [(0, 4), (5, 6), (7, 14)], 50)[0].words
    assert student.model.collate_batch([{"tokenized_text": words, "ner": None}], ["city"])["words_mask"].max() == 3


def test_counts_and_wrong_rows(library, encoder):
    student = untrained(library, encoder)
    wide = {"text": "a b c d e f g h", "language": "swh", "entities": [{"start": 0, "end": 15, "label": "work"}]}
    wide |= {"undecided": [{"start": 0, "end": 1, "label": "x"}]}
    assert make_word_examples(student, [*rows(), wide])[1] == {"entities": 10, "lost": 1, "inside": 0, "undecided": 1}
    with pytest.raises(ValueError, match="none of the 1 training windows"):
        train_gliner(student, [wide], **TRAINING)


def test_labels_are_taught_in_the_language_asked_for(library, encoder):
    student = untrained(library, encoder)
    examples, _ = make_word_examples(student, rows())
    translations = {"swh": {"person": "mtu", "city": "mji", "location": "mahali"}}

    def labels(language: str) -> set[str]:
        options = dict(negatives=2, seed=1, translations=translations, label_language=language)
        return {label for line in draw_lines(student, examples, 30, **options) for label in line["ner_labels"]}

    assert labels("english") == {"person", "city", "location"} and labels("target") == {"mtu", "mji", "mahali"}
    assert labels("both") == labels("english") | labels("target")


@pytest.mark.parametrize("fault", ["a tensor missing", "a tensor of another size", "cut off", "no JSON"])
def test_a_broken_model_is_refused(library, encoder, tmp_path, fault):
    from safetensors.torch import load_file, save_file

    untrained(library, encoder).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = sorted(n for n in tensors if "span_rep" in n)[0]
    if fault == "a tensor missing":
        tensors.pop(name)
    elif fault == "a tensor of another size":
        tensors[name] = library.zeros(3)
    if fault == "cut off":
        path.write_bytes(path.read_bytes()[:1000])
    elif fault == "no JSON":
        (tmp_path / "gliner_config.json").write_text("{")
    else:
        save_file(tensors, path)
    with pytest.raises(ValueError, match=name if "tensor" in fault else "cannot be read|gliner"):
        GlinerStudent.from_pretrained(tmp_path)


def test_an_encoder_of_characters_is_refused(library):
    with pytest.raises(ValueError, match="fast tokenizer"):
        untrained(library, "char")


def test_a_run_trains_and_scores_it(library, encoder, finerweb, tmp_path):
    import yaml
    from conftest import SMALL

    student = {"name": "gliner", "kind": "gliner", "encoder": encoder, "languages": ["swh"]}
    student |= {"steps": 3, "batch": 2, "size": 16, "confident_only": False}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL | {"students": [student]}))
    process = finerweb(tmp_path, "run", "small.yaml")
    assert process.returncode == 0, process.stderr + process.stdout
    scores = json.loads((tmp_path / "runs/small/35_evaluate/gliner/sample-swh/scores.json").read_text())
    assert scores["trained_on"] == ["swh"] and "34_gliner" in process.stdout
    folder = tmp_path / "runs/small/34_gliner/gliner"
    process = finerweb(tmp_path, "predict", folder, "--labels", "person", "--threshold", "0", "Juma anaishi Kisumu")
    assert process.returncode == 0 and process.stdout, process.stderr


def run_stage(root, home, stage: str, **parameters) -> str:
    "Executes a stage's notebook and returns what its cells printed."
    import papermill

    path, copy = root / "nbs" / f"{stage}.ipynb", str(home / f"{stage}.ipynb")
    notebook = papermill.execute_notebook(path, copy, parameters=parameters | {"home": str(home)}, progress_bar=False)
    return "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ()))


def write_sentences(home, texts: dict[str, str]) -> None:
    for language, text in texts.items():
        row = dict.fromkeys(schema("18_sentences").names) | labelled_row(text, {text.split()[0]: "person"})
        row |= {"id": f"{language}_0", "language": language, "script": "Latn", "undecided": []}
        row["entities"] = [{"score": 1.0, "teachers": []} | e for e in row["entities"]]
        Task(str(home), "small", "18_sentences", (language,), parameters={}).write([row])
        Task(str(home), "small", "17_translate", (language,), parameters={}).write([])


def test_a_baseline_needs_no_sentences_and_keeps_its_threshold(library, encoder, root, tmp_path):
    untrained(library, encoder).save_pretrained(tmp_path / "theirs")
    named = dict(run="small", student="theirs", languages=["swh"], checkpoint=str(tmp_path / "theirs"))
    printed = run_stage(root, tmp_path, "34_gliner", **named, steps=0, held_out=0.0)
    meta = json.loads((tmp_path / "small/34_gliner/theirs/meta.json").read_text(encoding="utf-8"))
    assert meta["counts"] == {"sentences": 0, "held_out": 0} and "without training here" in meta["notes"][0]
    assert load_student(tmp_path / "small/34_gliner/theirs").config.threshold == 0.5
    assert "without training here" in printed

    write_sentences(tmp_path, {"swh": "Wangari anaishi Nairobi"})
    test = {"id": "mine-0", "text": "Juma anaishi Kisumu.", "language": "swh", "script": "Latn", "document_id": ""}
    test |= {"entities": [dict(start=0, end=4, label="person", score=1.0, teachers=[])]}
    Task(str(tmp_path), "small", "30_benchmarks", ("mine",), parameters={}).write([test])
    run_stage(root, tmp_path, "35_evaluate", run="small", student="theirs", kind="gliner", benchmark="mine")
    scores = json.loads((tmp_path / "small/35_evaluate/theirs/mine/scores.json").read_text(encoding="utf-8"))
    assert scores["trained_on"] == [] and scores["passages"] == 1


def test_languages_that_the_encoder_cannot_read_are_left_out_aloud(library, encoder, root, tmp_path):
    write_sentences(tmp_path, {"swh": "Wangari anaishi Nairobi", "amh": "ዋንጋሪ በኬንያ ተወለደች"})
    numbers = dict(steps=2, batch=1, size=16, max_width=4, held_out=0.0)
    printed = run_stage(root, tmp_path, "34_gliner", run="small", languages=["swh", "amh"], encoder=encoder, **numbers)
    meta = json.loads((tmp_path / "small/34_gliner/gliner/meta.json").read_text(encoding="utf-8"))
    assert meta["counts"]["sentences"] == 1 and "Amharic (100%); left out" in meta["notes"][0]
    assert "Amharic (100%); left out" in printed
