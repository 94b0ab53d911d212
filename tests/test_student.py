"""The student: what it promises about offsets, files, windows, doubtful spans and repeatability, on models that train
in a second."""

import random
import warnings

import pytest

torch = pytest.importorskip("torch")

from conftest import labelled_row, untrained  # noqa: E402

from finerweb.binder import choose_rows, swap_names  # noqa: E402
from finerweb.data import Entity  # noqa: E402
from finerweb.models.char_encoder import hash_ngrams, shapes  # noqa: E402
from finerweb.models.encoders import load_encoder, load_sequence_regressor  # noqa: E402
from finerweb.models.scoring import score_passages, token_ids  # noqa: E402
from finerweb.student.calibration import calibrate  # noqa: E402
from finerweb.student.decoding import flat  # noqa: E402
from finerweb.student.labels import read_labels  # noqa: E402
from finerweb.student.losses import bce_loss, focal_loss  # noqa: E402
from finerweb.student.model import SpanBinder, candidate_spans, strongest  # noqa: E402
from finerweb.student.objective import label_names  # noqa: E402
from finerweb.student.targets import choose_labels, make_examples, make_targets, relation  # noqa: E402
from finerweb.student.training import train_binder  # noqa: E402
from finerweb.student.windows import collate, read_texts, unread_share  # noqa: E402
from finerweb.text.segment import graphemes  # noqa: E402

SENTENCES = [  # two mentions meet in the first: only a blank, or nothing, between them
    ("Wangari Nairobi Oslo", {"Wangari": "person", "Nairobi": "city", "Oslo": "city"}),
    ("Amina alifika Mombasa jana", {"Amina": "person", "Mombasa": "city"}),
    ("วังการีเคนยา", {"วังการี": "person", "เคนยา": "country"}),
    ("Juma Otieno anaishi Kisumu", {"Juma Otieno": "person", "Kisumu": "city"}),
    ("hakuna jina hapa", {}),
]
TRAINING = dict(steps=90, batch=5, encoder_rate=5e-3, head_rate=5e-3, candidates=0.5, negatives=2)
TRAINING |= dict(loss="bce", encoder_dropout=0.0, seed=1, progress=False)


pytestmark = pytest.mark.usefixtures("one_thread")


def rows() -> list[dict]:
    return [labelled_row(text, labels) for text, labels in SENTENCES]


@pytest.fixture(scope="module")
def trained(tiny_encoder) -> SpanBinder:
    model = untrained(tiny_encoder)
    _, missed = train_binder(model, rows(), **TRAINING)
    assert missed == 0
    return model


def predicted(model: SpanBinder, labels: list[str], **options) -> list[set]:
    entities_of = model.predict([row["text"] for row in rows()], labels, progress=False, **options)
    return [{(e.start, e.end, e.label) for e in entities} for entities in entities_of]


def gold() -> list[set]:
    return [{(e["start"], e["end"], e["label"]) for e in r["entities"]} for r in rows()]


def test_it_learns_what_it_is_shown(trained):
    assert predicted(trained, ["person", "city", "country"], threshold=0.5) == gold()


def test_broad_labels_are_answered_too(trained):
    places = [{(s, e, "location") for s, e, label in some if label != "person"} for some in gold()]
    assert predicted(trained, ["location"], threshold=0.5) == places


def test_start_of_one_and_end_of_the_next_are_no_span(trained):
    text = SENTENCES[0][0]
    inputs, _, _ = collate(trained, trained.windows(0, text))
    with torch.no_grad():
        starts, ends, _ = trained.parts(**inputs)
        across = torch.tensor([[0, 8, len(text) - 1], [0, 0, 14]])  # "Nairobi Oslo", "Wangari Nairobi"
        scores = trained.score(starts, ends, across, read_labels(trained, ["city", "person"]))
    assert torch.sigmoid(scores).max() < 0.2


def test_looking_at_every_span_finds_the_same(trained):
    assert predicted(trained, ["person", "city", "country"], threshold=0.5, exact=True) == gold()


def test_saved_and_loaded_it_predicts_the_same(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    assert not [p.name for p in tmp_path.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]
    again = SpanBinder.from_pretrained(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(trained.state_dict().values(), again.state_dict().values(), strict=True)
    )
    texts = [r["text"] for r in rows()]
    assert again.predict(texts, ["city"], 0.01, progress=False) == trained.predict(
        texts, ["city"], 0.01, progress=False
    )


def test_trained_again_it_is_the_same_bit_for_bit(tiny_encoder):
    def train(seed: int) -> tuple[list, list]:
        model = untrained(tiny_encoder, dropout=0.3)
        curve, _ = train_binder(
            model, rows(), **(TRAINING | {"steps": 12, "batch": 3, "encoder_dropout": 0.2, "seed": seed})
        )
        return curve, [p.clone() for p in model.parameters()]

    torch.manual_seed(5)  # whatever was drawn before must not matter
    first = train(3)
    torch.manual_seed(6)
    second, other = train(3), train(4)
    assert first[0] == second[0] and all(map(torch.equal, first[1], second[1]))
    assert first[0] != other[0]


@pytest.mark.parametrize("encoder", ["tiny", "minilm"])
def test_windows_find_what_the_whole_finds(trained, tiny_encoder, encoder):
    text = ". ".join(r["text"] for r in rows()) * 6
    labels = ["person", "city", "country"]
    if encoder == "tiny":
        model = trained
        whole = model.predict([text], labels, 0.5, progress=False)[0]
        assert len(whole) > 20
        model.config.window = 80
        try:
            cut = model.predict([text], labels, 0.5, progress=False)[0]
        finally:
            model.config.window = 400
        assert [(e.start, e.end, e.label) for e in cut] == [(e.start, e.end, e.label) for e in whole]
    else:  # attention sees the whole window, so only the cover is compared: each span that may be found is whole in one
        model = untrained("minilm", label_encoder=tiny_encoder, window=40, max_width=8)
        windows = model.windows(0, text)
        units = model.text_tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        insides = [{w.offsets[i] for i in range(*w.inner)} for w in windows]
        assert len(windows) > 3 and all(
            any(set(units[i : i + 8]) <= inside for inside in insides) for i in range(len(units) - 7)
        )


HOSTILE = [
    "",
    " ",
    "\x00\x00",
    "a\ud800b",
    "👨‍👩‍👧‍👦 na 🇰🇪🇰🇪",
    "e\u0301" * 30,
    "กำ" * 20,
    "שלום עולם abc سلام",
    "\r\n\r\n",
    "x" * 3000,
    "क्षत्रिय",
]


@pytest.mark.parametrize("encoder", ["tiny", "minilm"])
def test_spans_are_whole_graphemes_of_any_text(tiny_encoder, encoder):
    model = untrained(tiny_encoder if encoder == "tiny" else "minilm", label_encoder=tiny_encoder)
    chance = random.Random(0)
    texts = HOSTILE + ["".join(chance.choice("aé̂ก็👍🏽 \nक्‍🇰\u200d") for _ in range(40)) for _ in range(5)]
    for text, entities in zip(texts, model.predict(texts, ["person"], 0.0, exact=True, progress=False), strict=True):
        edges = {0} | {end for _, end in graphemes(text)}
        for e in entities:
            assert e.start in edges and e.end in edges and text[e.start : e.end].strip()
        assert all(a.end <= b.start for a, b in zip(entities, entities[1:], strict=False))
    assert any(model.predict(["Oslo"], ["person"], 0.0, exact=True, progress=False))


def test_an_undecided_span_is_neither_taught_nor_forbidden(tiny_encoder):
    doubtful = rows()
    doubtful[1]["entities"] = doubtful[1]["entities"][:1]
    start = doubtful[1]["text"].index("Mombasa")
    doubtful[1]["undecided"] = [{"start": start, "end": start + 7, "label": "city", "score": 0.3}]
    model = untrained(tiny_encoder)
    examples, _ = make_examples(model, doubtful)
    everything = torch.tensor([[1, i, j] for i in range(26) for j in range(i, 26)])
    spans, targets, valid, _ = make_targets(examples, everything, 30, ["city", "person"])
    touching = (spans[:, 0] == 1) & (spans[:, 1] < start + 7) & (spans[:, 2] >= start)
    assert touching.any() and not valid[touching].any() and valid[~touching].all()
    scores = torch.zeros(len(spans), 2, requires_grad=True)
    bce_loss(scores, targets, valid).backward()
    assert not scores.grad[touching].any() and scores.grad[~touching].all()


def test_what_no_window_can_hold_is_counted_and_left_out(tiny_encoder):
    long = [
        {
            "text": "Wangari " * 6,
            "language": "swh",
            "entities": [{"start": 0, "end": 47, "label": "person", "score": 1.0}],
            "undecided": [],
        }
    ]
    examples, missed = make_examples(untrained(tiny_encoder), long + rows())
    assert missed == 1 and examples[0].gold == [] and examples[0].veiled
    with pytest.raises(ValueError, match="none of the 1 training rows"):
        train_binder(untrained(tiny_encoder), long, **TRAINING)


def test_sentences_are_chosen_and_names_exchanged_without_harm():
    many = [r | {"text": r["text"], "id": f"{n}"} for n in range(20) for r in rows()]
    many[0]["undecided"] = [{"start": 0, "end": 4, "label": "city", "score": 0.2}]
    many[1]["entities"][0]["score"] = 0.4
    options = dict(confident_only=True, min_score=0.5, longest=26, empty=0.1, seed=1)
    chosen = choose_rows(many, **options)
    assert chosen == choose_rows(many, **options)
    assert all(
        len(r["text"]) <= 26 and not r["undecided"] and all(e["score"] >= 0.5 for e in r["entities"]) for r in chosen
    )
    assert sum(not r["entities"] for r in chosen) == round(sum(bool(r["entities"]) for r in chosen) / 9)
    label_of = {r["text"][e["start"] : e["end"]]: e["label"] for r in many for e in r["entities"]}
    swapped = swap_names(many, 1.0, seed=2)
    assert swapped[0] == many[0] and any(a["text"] != b["text"] for a, b in zip(swapped, many, strict=True))
    assert all(label_of[r["text"][e["start"] : e["end"]]] == e["label"] for r in swapped for e in r["entities"])
    assert swap_names(many, 0.0, seed=2) == many


def test_relations_and_labels_of_a_batch():
    assert relation("organization", "company") == 1 and relation("company", "organization") == -1
    assert relation("company", "sports team") == 0 and relation("location", "city / region") == 1
    labels = choose_labels(["city"], ["city", "company", "date", "location", "person"], 2, random.Random(1))
    assert labels[:2] == ["city", "location"] and len(set(labels)) == 4
    words = {"swh": {"city": "mji"}}
    names = [label_names(words, "city", ["swh"], how) for how in ("english", "target", "both")]
    assert names == [["city"], ["mji"], ["city", "mji"]]
    assert label_names(words, "person", ["swh"], "target") == ["person"]


def test_a_label_in_a_script_the_label_encoder_lacks(tiny_encoder):
    model = untrained(tiny_encoder, label_encoder="minilm").eval()
    thai, other, english = read_labels(model, ["เมือง", "ประเทศ", "city"])
    assert not torch.allclose(thai, other) and not torch.allclose(thai, english)
    for wrong in ("", "  ", None):
        with pytest.raises(ValueError, match="is no label"):
            model.predict(["Oslo"], [wrong], progress=False)
    assert model.predict(["Oslo"], [], progress=False) == [[]]


def test_candidates_and_flat_decoding():
    allowed = torch.ones(2, 6, dtype=torch.bool)
    assert len(candidate_spans(allowed, allowed, 3)) == 2 * (6 + 5 + 4)
    scores = torch.arange(40.0).reshape(1, 40)
    strong = strongest(scores, torch.ones(1, 40, dtype=torch.bool), 0.25)
    assert strong.nonzero()[:, 1].tolist() == list(range(30, 40))
    entities = [Entity(0, 5, "a", 0.6), Entity(3, 9, "b", 0.9), Entity(9, 12, "a", 0.5)]
    assert flat(entities) == [Entity(3, 9, "b", 0.9), Entity(9, 12, "a", 0.5)]


def test_calibration_ignores_undecided_and_never_lowers_f1(trained):
    before = trained.config.threshold
    threshold, f1 = calibrate(trained, rows(), batch_size=4, progress=False)
    trained.config.threshold = before
    assert 0 < threshold < 1 and f1 == 1.0


def test_losses_by_hand():
    logits, targets, valid = torch.tensor([0.0, 5.0]), torch.tensor([1.0, 0.0]), torch.tensor([True, False])
    assert bce_loss(logits, targets, valid).item() == pytest.approx(0.6931, abs=1e-4)
    assert focal_loss(logits, targets, valid, gamma=2.0, alpha=0.75).item() == pytest.approx(
        0.6931 * 0.25 * 0.75, abs=1e-4
    )


def test_encoder_is_independent_of_padding_and_reloads(tiny_encoder):
    tokenizer, encoder = load_encoder(tiny_encoder)
    encoder.eval()
    texts = ["Oslo", "วังการี มาไท เกิดที่ประเทศเคนยา", "a\x00\ud800"]
    with torch.no_grad():
        many = encoder(**tokenizer(texts, padding=True, return_tensors="pt")).last_hidden_state
        for n, text in enumerate(texts):
            one = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            assert torch.allclose(many[n, : len(text)], one, atol=1e-5) and not many[n, len(text) :].any()
    with pytest.raises(ValueError, match="expected .*'minilm'"):
        load_encoder("no/such/encoder")


def test_the_hash_is_the_same_on_every_machine():
    hashes = hash_ngrams(torch.tensor([[79, 115, 108, 111]]), 20000)
    assert hashes[0, 1].tolist() == [10596, 13197, 1546, 15377, 5816, 17410, 10610, 2721]


def test_regressor_scores_any_text(tiny_encoder):
    torch.manual_seed(0)
    tokenizer, model = load_sequence_regressor(tiny_encoder)
    scores = score_passages(HOSTILE, tokenizer, model, batch=4, max_length=64)
    assert len(scores) == len(HOSTILE) and all(s == s for s in scores)
    assert scores[4] == pytest.approx(
        score_passages([HOSTILE[4]], tokenizer, model, batch=1, max_length=64)[0], abs=1e-4
    )


def test_shapes_are_the_same_in_all_scripts(tmp_path):
    read = lambda text: shapes(torch.tensor([[ord(c) for c in text]]))
    assert torch.equal(read("Anna, 1999?"), read("Ольг، 2547؟")) and not torch.equal(read("anna"), read("Anna"))
    torch.manual_seed(0)
    tokenizer, model = load_sequence_regressor("shapes")
    score = lambda model, *texts: model(**tokenizer(list(texts), padding=True, return_tensors="pt")).logits.squeeze(-1)
    same, other, cyrillic = score(model.eval(), "Anna, 1999?", "Anna und Otto", "Ольг، 2547؟").tolist()
    assert abs(same - cyrillic) < 1e-6 < abs(same - other)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = load_sequence_regressor(tmp_path)[1].eval()
    assert again.config.reads == ["shapes"] and torch.allclose(
        score(again, "Anna, 1999?"), torch.tensor([same]), atol=1e-6
    )


def test_an_encoder_of_characters_and_shapes_reads_both_and_training_hides_characters(tmp_path):
    torch.manual_seed(0)
    tokenizer, model = load_sequence_regressor("ngrams+shapes")
    score = lambda model, *texts: model(**tokenizer(list(texts), padding=True, return_tensors="pt")).logits.squeeze(-1)
    same_shape, other_words = score(model.eval(), "Anna, 1999?", "Otto, 1234?").tolist()
    assert same_shape != other_words, "it reads characters"
    model.encoder.config.hidden_characters, model.encoder.dropout.p = 1.0, 0.0
    one, two = score(model.train(), "Anna, 1999?", "Otto, 1234?").tolist()
    assert one == pytest.approx(two, abs=1e-6), "all hidden: only the shapes are left"
    assert score(model.eval(), "Anna, 1999?", "Otto, 1234?").tolist() == [same_shape, other_words], (
        "nothing is hidden but in training"
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert torch.equal(score(load_sequence_regressor(tmp_path)[1].eval(), "Anna, 1999?"), score(model, "Anna, 1999?"))


# --- texts that contain a tokenizer's own marks


def roberta_tokenizer():
    "A tokenizer of pieces with the marks of XLM-R."
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [(mark, 0.0) for mark in marks] + [(c, -5.0) for c in "▁abcdefghijklmnopqrstuvwxyzACDEKLNOPSU[]<>/01.,"]
    made = Tokenizer(models.Unigram(pieces, unk_id=3))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), marks, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


MARKS = ["[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]", "[unused1]", "<s>", "</s>", "<pad>", "<unk>", "<mask>", "\x00"]


@pytest.mark.parametrize("kind", ["minilm", "roberta", "char"])
@pytest.mark.parametrize("mark", MARKS)
def test_a_tokenizers_mark_in_a_text_is_read_as_its_characters(kind, mark):
    tokenizer = roberta_tokenizer() if kind == "roberta" else load_encoder(kind)[0]
    text = f"{mark} amina of {mark}{mark} oslo, {mark}"
    (units,) = read_texts([text], tokenizer)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert not special & set(units.ids), "no unit is a mark"
    pieces = [text[start:end] for start, end in units.offsets]
    assert kind != "minilm" or "".join(pieces) == "".join(text.replace("\x00", "").split())
    for name in ("amina", "oslo"):
        at = text.index(name)
        assert any(s == at and can for (s, _), can in zip(units.offsets, units.can_start, strict=True))
        assert any(e == at + len(name) and can for (_, e), can in zip(units.offsets, units.can_end, strict=True))


def test_a_label_and_a_passage_with_a_tokenizers_mark_differ_from_the_mark(tiny_encoder):
    model = untrained("minilm").eval()
    with torch.no_grad():
        plain, marked, spelled = read_labels(model, ["city", "city [SEP] [PAD]", "city [ SEP ] [ PAD ]"])
    assert torch.allclose(marked, spelled, atol=1e-4) and not torch.allclose(plain, marked, atol=1e-2)
    tokenizer, _ = load_encoder("minilm")
    ids = token_ids(["a [SEP] [PAD] b"], tokenizer, max_length=64)[0]
    assert ids.count(tokenizer.sep_token_id) == 1 and ids[-1] == tokenizer.sep_token_id
    assert tokenizer.pad_token_id not in ids


# --- texts in letters that a tokenizer lacks


def test_the_share_of_letters_that_a_tokenizer_cannot_read():
    minilm, characters = load_encoder("minilm")[0], load_encoder("char")[0]
    georgian, amharic = "ჯუნგლი და ჭრელი ღამე", "ዋንጋሪ ማታይ በኬንያ ተወለደች"
    assert unread_share([georgian, amharic], characters) == 0
    assert unread_share(["Wangari Maathai alisoma Nairobi, 1940 😀😀😀"], minilm) == 0, "no letter, no loss"
    assert unread_share([georgian], minilm) > 0.5 and unread_share([amharic], minilm) == 1
    assert 0.3 < unread_share(["ዋንጋሪ ማታይ", "abc def gh"], minilm) < 0.7 and unread_share(["", "123"], minilm) == 0


def test_a_student_warns_once_of_texts_that_it_cannot_read():
    model, english = untrained("minilm").eval(), "Wangari Maathai was born in Nyeri."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict([english, "", "😀"], ["person"], progress=False)
    with pytest.warns(UserWarning, match="2 of 3 texts are written in letters .* BertTokenizer.* 'ዋንጋሪ") as caught:
        model.predict([english, "ዋንጋሪ ማታይ በኬንያ ተወለደች", f"{english} ჯუნგლი ღამე"], ["person"], progress=False)
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize("encoder", ["char", "e5"])
def test_no_span_begins_or_ends_with_what_nobody_sees(encoder):
    tokenizer, _ = load_encoder(encoder)
    text = "\ufeffOslo\u200f and \u200bBergen\u2069, พ.ต.ท.ทักษิณ\ufeff"
    (units,) = read_texts([text], tokenizer)
    starts = {text[a] for (a, _), allowed in zip(units.offsets, units.can_start, strict=True) if allowed}
    ends = {text[b - 1] for (_, b), allowed in zip(units.offsets, units.can_end, strict=True) if allowed}
    assert {"O", "B", "พ"} <= starts and {"o", "n", "ณ"} <= ends
    assert not (starts | ends) & set("\ufeff\u200f\u200b\u2069 ")
