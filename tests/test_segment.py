"""Segmentation on real web text of all 91 languages, on hostile text, and its speed."""

import os
import random
import time
import unicodedata
from pathlib import Path

import pytest

from finerweb.languages import languages
from finerweb.text.segment import chunks, graphemes, sentences, tokens, words

DATA = Path(os.environ.get("FINERWEB_TEST_DATA", Path(__file__).resolve().parents[1] / "../shared/data")) / "web"
CHARACTERS = 40_000  # per language, which takes 91 languages through in half a minute
NO_WEB = f"no web text in {DATA}; set FINERWEB_TEST_DATA to a folder with web/<language>.parquet"
needs_web = pytest.mark.skipif(not DATA.is_dir(), reason=NO_WEB)


def web_text(code: str) -> str:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(DATA / f"{code}.parquet").read(columns=["text"])
    return "\n".join(table.column("text").to_pylist())[:CHARACTERS]


def check_order(text: str, spans: list[tuple[int, int]]) -> None:
    at = 0
    for start, end in spans:
        assert at <= start < end <= len(text), (text[:40], start, end)
        at = end


def check_spans(text: str, code: str) -> None:
    """Ascending, without overlap, inside the text; tokens never cut a grapheme; sentences hold everything visible."""
    edges = {0, *(end for _, end in graphemes(text))}
    token_spans = tokens(text, code)
    check_order(text, token_spans)
    assert all(a in edges and b in edges for a, b in token_spans), code
    assert set(words(text, code)) <= set(token_spans)
    assert sum(any(map(str.isalnum, text[a:b])) for a, b in token_spans) == len(words(text, code))
    for longest in (0, 100):
        spans = sentences(text, code, longest=longest)
        check_order(text, spans)
        outside = list(text)
        for start, end in spans:
            sentence = text[start:end]
            assert not sentence[0].isspace() and not sentence[-1].isspace() and "\n" not in sentence
            outside[start:end] = [""] * (end - start)
        assert not "".join(outside).strip(), (code, longest)


@needs_web
@pytest.mark.parametrize("code", languages())
def test_spans_of_web_text(code: str) -> None:
    text = web_text(code)
    check_spans(text, code)
    spans = chunks(text, code, words_per_chunk=256, min_words=32)
    word_spans = words(text, code)
    total = len(word_spans)
    inside = [sum(a <= s and e <= b for s, e in word_spans) for a, b in spans]
    assert inside[:-1] == [256] * (len(inside) - 1) and 32 <= inside[-1] <= 256
    assert total - sum(inside) < 32 and len(inside) == total // 256 + (total % 256 >= 32)
    edges = {0, *(end for _, end in graphemes(text))}
    assert all(a in edges and b in edges and not text[b - 1].isspace() for a, b in spans)
    # a space that carries a mark (Burmese in a legacy encoding) is a letter of its word
    assert all(not text[a].isspace() or unicodedata.category(text[a + 1])[0] == "M" for a, b in spans)
    # a chunk is what a later stage reads alone, and there it has (nearly: dictionaries look ahead) the same words
    assert all(abs(len(words(text[a:b], code)) - n) <= 3 for (a, b), n in zip(spans, inside, strict=True))


def test_hostile_text() -> None:
    letters = (
        "a. Z.\n\r\x00\ud83d\udc00 \u0301\u200d\u200b👩🇳🇴ก้ำကမ္ဘာ្រ្តស្រ។한글ᄒ中文「」ー゙नमस्ते।א״ل.؟"
        "\u0600\u0d4e1,2 \ufeff\u2028\xa0😀"
    )
    for seed in range(150):
        chance = random.Random(seed)
        text = "".join(chance.choices(letters, k=chance.randint(0, 80)))
        for code in ("eng", "tha", "mya", "khm", "jpn", "hin", "arb"):
            check_spans_hostile(text, code)


def check_spans_hostile(text: str, code: str) -> None:
    edges = {0, *(end for _, end in graphemes(text))}
    pieces = chunks(text, code, words_per_chunk=3, min_words=1)
    for spans in (tokens(text, code), sentences(text, code, longest=20), pieces):
        assert all(0 <= a < b <= len(text) for a, b in spans)
        assert all(b <= c for (_, b), (c, _) in zip(spans, spans[1:], strict=False))
    assert all(a in edges and b in edges for a, b in tokens(text, code)), (text, code)


HUGE = {
    "one word": "a" * 5_000_000,
    "abbreviations": "Dr. A. " * 350_000,
    "spaced Thai": "ภาษาไทย " * 200_000,
    "Thai": "ภาษาไทย" * 250_000,
    "Chinese": "中" * 1_600_000,
    "Burmese": "ကမ္ဘာ" * 300_000,
    "NUL": "\x00" * 1_000_000,
    "marks": "e\u0301" * 1_000_000,
    "blank": " " * 5_000_000,
    "lines": ".\n" * 500_000,
}


@pytest.mark.parametrize("name", HUGE)
def test_megabytes(name: str) -> None:
    text = HUGE[name]
    began = time.process_time()
    words(text, "tha")
    sentences(text, "tha", longest=200)
    sentences(text, "eng")
    chunks(text, "tha", words_per_chunk=256, min_words=32)
    assert time.process_time() - began < 60  # some seconds; whatever is quadratic takes hours


def test_megabytes_in_linear_time() -> None:
    swahili, thai, chinese = "neno moja " * 50_000, "ภาษาไทยไม่มีช่องว่าง" * 20_000, "没有句号的一行文字" * 40_000
    for text, code in ((swahili, "swh"), (thai, "tha"), (chinese, "cmn")):
        times = []
        for part in (text[: len(text) // 4], text):
            began = time.process_time()
            chunks(part, code, words_per_chunk=256, min_words=32, policy="sentence")
            times.append(time.process_time() - began)
        assert times[1] < 12 * times[0] + 0.5  # four times the text; what is quadratic takes sixteen times as long


def test_marks_of_encodings_are_no_words() -> None:
    text = "\ufeffUne phrase, un caf\u00e9.\r\n\r\nDeux\x85trois\u2028fin"
    french = [text[a:b] for a, b in words(text, "fra")]
    assert french == ["Une", "phrase", "un", "café", "Deux", "trois", "fin"]
    misread = "caf\u00c3\u00a9 na\u00c3\u00afve \ufffd\ufffd ok"  # UTF-8 read as Latin-1, and bytes that were none
    check_spans(misread, "fra")
    assert [misread[a:b] for a, b in words(misread, "fra")][-1] == "ok"


@needs_web
@pytest.mark.parametrize("code", ["eng", "tha", "cmn", "hin", "arb", "mya"])
def test_chunks_to_a_sentence_end(code: str) -> None:
    text = web_text(code)
    paper, word_spans = chunks(text, code, words_per_chunk=256, min_words=32), words(text, code)
    spans = chunks(text, code, words_per_chunk=256, min_words=32, policy="sentence")
    inside = [sum(a <= s and e <= b for s, e in word_spans) for a, b in spans]
    assert all(192 < n <= 256 for n in inside[:-1])
    assert len(word_spans) - sum(inside) < 32 and len(spans) >= len(paper)
    ends = {end for _, end in sentences(text, code)}
    closed = [b in ends for _, b in spans[:-1]]
    assert sum(closed) > sum(b in ends for _, b in paper[:-1]) and sum(closed) >= 0.5 * len(closed)
    assert all(n == 256 for n, at_end in zip(inside, closed, strict=False) if not at_end)


def test_unknown_chunk_policy() -> None:
    with pytest.raises(ValueError, match="policy is 'none'; expected paper"):
        chunks("a b", "eng", words_per_chunk=256, min_words=32, policy="none")


def test_segment_any_text_says_what_is_missing(monkeypatch) -> None:
    import sys

    from finerweb.text.sat import sat_sentences

    monkeypatch.setitem(sys.modules, "wtpsplit", None)  # as where it is not installed
    with pytest.raises(ImportError, match=r"pip install 'finerweb\[sat\]'"):
        sat_sentences(["One. Two."], model="sat-3l-sm")


def test_segment_any_text_with_a_tiny_model(tmp_path) -> None:
    pytest.importorskip("wtpsplit", reason="needs the extra: pip install 'finerweb[sat]'")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast
    from wtpsplit.models import SubwordXLMConfig, SubwordXLMForTokenClassification

    from finerweb.text.sat import sat_sentences

    text = "Hello there. This is a test!\n\nMakumbusho yalifunguliwa. ที่กรุงเทพ 🎉 ok"
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="<unk>")
    unigram.train_from_iterator([text] * 3, trainer)
    ends = [("<s>", 0), ("</s>", 2)]
    unigram.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    names = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), special, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram, bos_token="<s>", eos_token="</s>", **names)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = SubwordXLMConfig(
        vocab_size=len(unigram.get_vocab()),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=514,
        num_labels=1,
    )
    SubwordXLMForTokenClassification(config).save_pretrained(tmp_path)
    texts = [text, "", "x", "a\ud83d b\x00"]
    for text, spans in zip(texts, sat_sentences(texts, model=str(tmp_path)), strict=True):
        pieces = [text[a:b] for a, b in spans]
        # the weights are random: the text is cut somewhere, but nothing is lost and the order is kept
        assert "".join("".join(pieces).split()) == "".join(text.split())
        assert all(s == s.strip() and "\n" not in s for s in pieces)
