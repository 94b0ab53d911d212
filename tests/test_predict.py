"""Prediction: it does not depend on batches, windows or pruning; offsets are whole graphemes of any text; wrong input
is refused with a reason."""

import json
import shutil

import pytest

torch = pytest.importorskip("torch")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from finerweb.data import Entity  # noqa: E402
from finerweb.models import scoring  # noqa: E402
from finerweb.models.char_encoder import CharEncoder, CharEncoderConfig, CharTokenizer  # noqa: E402
from finerweb.models.encoders import load_encoder  # noqa: E402
from finerweb.student import decoding  # noqa: E402
from finerweb.student import model as student  # noqa: E402
from finerweb.student import windows as reading  # noqa: E402
from finerweb.student.calibration import best_threshold, calibrate_scripts  # noqa: E402
from finerweb.student.decoding import flat, script_of, threshold_of, uncrossed  # noqa: E402
from finerweb.student.labels import read_labels  # noqa: E402
from finerweb.student.model import SpanBinder, score_batch  # noqa: E402
from finerweb.student.windows import Window, group_windows, read_texts  # noqa: E402
from finerweb.text.segment import graphemes  # noqa: E402

TEXTS = [
    "Wangari Maathai alizaliwa Nyeri, Kenya.",
    "",
    "วังการี มาไท เกิดที่ประเทศเคนยา",
    " \n",
    "Oslo",
    "שלום עולם abc سلام דנה",
    "The 👨‍👩‍👧‍👦 of Ärzte e\u0301té",
]
LABELS = ["person", "city", "organization", "ประเทศ"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    CharEncoder(CharEncoderConfig(rows=500, row_size=8, hidden_size=32, dilations=[1, 2])).save_pretrained(folder)
    CharTokenizer().save_pretrained(folder)
    return str(folder)


def make(tiny: str, encoder: str = "tiny", **changes) -> SpanBinder:
    "An untrained student whose scores spread over the whole range."
    torch.manual_seed(1)
    sizes = dict(label_encoder=tiny, size=16, max_width=12, window=300, dropout=0.3, freeze_labels=True)
    model = SpanBinder.from_encoder(tiny if encoder == "tiny" else encoder, **(sizes | changes))
    with torch.no_grad():
        model.bias.zero_()
        model.edges.weight.mul_(5)
    return model.eval()


@pytest.fixture(scope="module", params=["tiny", "minilm"])
def model(request, tiny) -> SpanBinder:
    return make(tiny, request.param)


def scored_spans(model: SpanBinder, texts=TEXTS, labels=LABELS, threshold=0.5, **options) -> list[dict]:
    "(start, end) -> (label, score) of every text, before overlaps are decided."
    options = dict(batch_size=64, exact=False, progress=False) | options
    entities_of = decoding.predict_spans(model, texts, labels, threshold, **options)
    for entities in entities_of:
        assert len({(e.start, e.end) for e in entities}) == len(entities)
    return [{(e.start, e.end): (e.label, e.score) for e in entities} for entities in entities_of]


def same(one: list[dict], other: list[dict]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        assert {k: v[0] for k, v in a.items()} == {k: v[0] for k, v in b.items()}
        assert [a[k][1] for k in sorted(a)] == pytest.approx([b[k][1] for k in sorted(b)], abs=1e-5)


# What does not matter


def test_pruned_finds_what_the_floor_lets_through_and_no_more(model):
    every = scored_spans(model, threshold=0.0, exact=True)
    model.config.edge_floor = 0.0
    same(scored_spans(model, threshold=0.0), every)
    model.config.edge_floor = 0.05
    pruned = scored_spans(model, threshold=0.0)
    same(pruned, [{k: v for k, v in a.items() if k in b} for a, b in zip(every, pruned, strict=True)])
    assert 0 < sum(map(len, pruned)) < sum(map(len, every))
    assert all(score >= 0.5 for spans in scored_spans(model) for _, score in spans.values())
    for text, spans in zip(TEXTS, pruned, strict=True):  # a span is gone only if one of its edges is
        starts, ends = {a for a, _ in spans}, {b for _, b in spans}
        assert all(k in spans for k in every[TEXTS.index(text)] if k[0] in starts and k[1] in ends)


def test_batches_and_order_do_not_matter(model, monkeypatch):
    model.config.edge_floor = 0.02
    whole = scored_spans(model)
    same(scored_spans(model, batch_size=1), whole)
    same(scored_spans(model, texts=TEXTS[::-1]), whole[::-1])
    monkeypatch.setattr(reading, "BLOCK", 30)
    monkeypatch.setattr(student, "units_of_batch", lambda device: 40)
    monkeypatch.setattr(student, "MOST_SCORES", 50)
    same(scored_spans(model), whole)


def test_a_span_of_two_windows_is_found_once_with_its_better_score(model):
    text, before = "Wangari Maathai, Oslo; Nairobi na Kenya. " * 8, model.config.window
    model.config.window = 60
    try:
        predicted = scored_spans(model, [text], threshold=0.0, exact=True)[0]
        best, twice = {}, 0
        vectors = read_labels(model, LABELS)
        with torch.no_grad():
            for window in model.windows(0, text):
                for _, first, last, label, score in score_batch(model, [window], vectors, [0.0], True):
                    place = window.offsets[first][0], window.offsets[last][1]
                    twice += place in best and abs(best[place][1] - score) > 1e-4
                    best[place] = max(best.get(place, ("", -1.0)), (LABELS[label], score), key=lambda x: x[1])
    finally:
        model.config.window = before
    same([predicted], [best])
    # attention sees the whole window, so scores differ; characters see no further than the context that is left alone
    assert twice > 10 if model.text_tokenizer.is_fast else twice == 0
    units = next(read_texts([text], model.text_tokenizer))
    count, places = len(units.ids), set()
    for first in range(count):
        for last in range(first, min(first + 12, count)):
            if units.can_start[first] and units.can_end[last]:
                places.add((units.offsets[first][0], units.offsets[last][1]))
    assert set(best) == places


def test_an_encoder_that_learns_is_left_as_it_was(model):
    model.train()
    model.predict(["Oslo"], ["city"], progress=False)
    assert model.training and model.text_encoder.training
    model.eval()


# Overlaps


def an_entity(start: int, length: int, label: str, eighths: int) -> Entity:
    return Entity(start, start + length, label, eighths / 8)


entities_drawn = st.builds(an_entity, st.integers(0, 15), st.integers(1, 8), st.sampled_from("ab"), st.integers(0, 8))


def crossing(a: Entity, b: Entity) -> bool:
    return a.start < b.start < a.end < b.end or b.start < a.start < b.end < a.end


@given(st.lists(entities_drawn, max_size=25))
def test_flat_and_nested_keep_the_best(entities):
    overlap = lambda a, b: a.start < b.end and b.start < a.end
    clash = lambda a, b: crossing(a, b) or (a.start, a.end) == (b.start, b.end)
    for decode, forbidden in ((flat, overlap), (uncrossed, clash)):
        chosen = decode(entities)
        assert chosen == sorted(chosen, key=lambda e: (e.start, -e.end))
        assert not any(forbidden(a, b) for n, a in enumerate(chosen) for b in chosen[n + 1 :])
        for e in entities:  # what was left out lost to something as good or better
            assert e in chosen or any(forbidden(e, c) and c.score >= e.score for c in chosen)


def test_nested_entities_on_request(model):
    outer = model.predict(TEXTS, LABELS, 0.3, exact=True, nested=True, progress=False)
    plain = model.predict(TEXTS, LABELS, 0.3, exact=True, progress=False)
    assert sum(map(len, outer)) > sum(map(len, plain)) > 0
    for some in outer:
        assert not any(crossing(a, b) for n, a in enumerate(some) for b in some[n + 1 :])
    assert any(
        a.start <= b.start and b.end <= a.end for some in outer for n, a in enumerate(some) for b in some[n + 1 :]
    )


# Thresholds


def test_a_script_has_its_threshold_and_the_folder_keeps_it(tiny, tmp_path):
    model = make(tiny)
    model.config.threshold, model.config.thresholds = 0.5, {"Thai": 1.0, "Latn": 0.0}
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["thresholds"] == {"Latn": 0.0, "Thai": 1.0}
    again = SpanBinder.from_pretrained(tmp_path)
    predicted = again.predict(TEXTS, LABELS, exact=True, progress=False)
    thresholds = [0, 0.5, 1, 0.5, 0, 0.5, 0]
    own = [
        again.predict([text], LABELS, threshold, exact=True, progress=False)[0]
        for text, threshold in zip(TEXTS, thresholds, strict=True)
    ]
    spans_of = lambda some: [[(e.start, e.end, e.label) for e in es] for es in some]
    assert spans_of(predicted) == spans_of(own) and predicted[2] == [] and predicted[0]
    assert again.predict(TEXTS[2:3], LABELS, 0.1, exact=True, progress=False)[0]  # an explicit threshold holds for all


@given(st.lists(st.tuples(st.integers(0, 20).map(lambda n: n / 20), st.booleans()), max_size=30), st.integers(0, 5))
def test_the_best_threshold_is_the_best(predictions, missed):
    gold = sum(right for _, right in predictions) + missed
    f1 = lambda t: 2 * sum(r for s, r in predictions if s >= t) / max(1, gold + sum(s >= t for s, _ in predictions))
    threshold, best = best_threshold(predictions, gold, default=0.5)
    if best:
        assert f1(threshold) == pytest.approx(best)
        assert best >= max(f1(n / 40) for n in range(1, 41)) - 1e-9
    else:
        assert threshold == 0.5 and not any(right for s, right in predictions if s)


def test_calibration_by_script_needs_enough_entities(tiny):
    model = make(tiny)
    texts = ["Oslo na Nairobi", "กรุงออสโล", "2004"]
    sure = [[Entity(0, 4, "location", 0.9), Entity(8, 15, "location", 0.6)], [Entity(0, 9, "location", 0.3)], []]
    model.predict = lambda some, *_, **__: [sure[texts.index(t)] for t in some]
    entity = lambda a, b: {"start": a, "end": b, "label": "location"}
    rows = [
        {"text": texts[0], "script": "Latn", "entities": [entity(0, 4)], "undecided": []},
        {"text": texts[1], "script": "Thai", "entities": [entity(0, 9)], "undecided": []},
        {"text": texts[2], "script": "Latn", "entities": []},
    ]
    assert set(calibrate_scripts(model, rows, least=2, batch_size=4)) == {""} and model.config.thresholds == {}
    best = calibrate_scripts(model, rows, least=1, batch_size=4)
    assert model.config.thresholds == {"Latn": pytest.approx(0.75), "Thai": pytest.approx(0.175)}
    assert best["Latn"][1] == best["Thai"][1] == 1.0
    rows[0]["undecided"] = [entity(8, 15)]
    assert calibrate_scripts(model, rows, least=1, batch_size=4)["Latn"] == (pytest.approx(0.475), 1.0)
    thresholds = [pytest.approx(0.475), pytest.approx(0.175), model.config.threshold]
    assert [threshold_of(model.config, t) for t in texts] == thresholds
    assert script_of("ナイロビ 2004", ["Latn", "Hani", "Jpan"]) == "Jpan"
    assert script_of("内罗毕", ["Hani", "Jpan"]) == "Hani" and script_of("x", []) == ""
    assert decoding.in_script("x", "Latn") == 1


# Labels


def test_no_threshold_lies_below_the_scores_that_were_looked_at(tiny):
    model = make(tiny)
    low = Entity(0, 4, "location", 0.08)
    model.predict = lambda texts, labels, threshold, **_: [[e for e in [low] if e.score >= threshold] for _ in texts]
    row = {"text": "Oslo", "script": "Latn", "entities": [{"start": 0, "end": 4, "label": "location"}]}
    best = calibrate_scripts(model, [row], least=1, batch_size=1)
    assert best["Latn"] == (pytest.approx(0.065), 1.0) and model.config.threshold == pytest.approx(0.065)


def test_texts_and_labels_may_come_from_generators(model):
    listed = model.predict(TEXTS[:2], LABELS, 0.3, progress=False)
    assert any(listed)
    assert model.predict((t for t in TEXTS[:2]), (x for x in LABELS), 0.3, progress=False) == listed


def test_a_label_is_read_once_for_the_same_weights(tiny):
    model, calls = make(tiny, label_encoder="minilm"), []
    model.label_encoder.register_forward_pre_hook(lambda *args, **kwargs: calls.append("words"))
    model.label_bag.register_forward_pre_hook(lambda *args, **kwargs: calls.append("bag"))
    first = model.predict(TEXTS, LABELS, 0.3, progress=False)
    assert calls == ["words", "bag"]
    assert model.predict(TEXTS, LABELS + LABELS[:2], 0.3, progress=False) == first and calls == ["words", "bag"]
    model.train()
    vectors = read_labels(model, LABELS)
    assert vectors.requires_grad and calls == ["words", "bag", "bag"]  # a frozen encoder is read once
    torch.optim.SGD(model.parameters(), lr=100.0).zero_grad()
    vectors.square().sum().backward()
    torch.optim.SGD([p for p in model.parameters() if p.grad is not None], lr=1.0).step()
    model.eval()
    assert model.predict(TEXTS, LABELS, 0.3, progress=False) != first
    model.load_state_dict(make(tiny, label_encoder="minilm").state_dict())
    assert model.predict(TEXTS, LABELS, 0.3, progress=False) == first


def test_labels_in_any_number_and_length(tiny):
    model = make(tiny)
    many = [f"label {n}" for n in range(5000)]
    predicted = model.predict(TEXTS, many, 0.5, progress=False)
    labels = {e.label for entities in predicted for e in entities}
    assert labels <= set(many) and any(predicted)
    again = model.predict(TEXTS, sorted(labels), 0.5, progress=False)
    spans_of = lambda some: [[(e.start, e.end, e.label) for e in entities] for entities in some]
    assert spans_of(again) == spans_of(predicted)
    long, longer = "a long description " * 105, "a long description " * 105 + "of ships"
    vectors = read_labels(make(tiny, label_encoder=tiny).eval(), [long, longer, "ตัวอย่าง" * 250])
    assert vectors.shape == (3, 16) and not torch.allclose(vectors[0], vectors[1])  # read to the end
    words = make(tiny, label_encoder="minilm").eval()
    assert read_labels(words, ["x" * 2000, "ก" * 2000, "word " * 400]).shape == (3, 16)
    with pytest.raises(ValueError, match="has 602 pieces, and the label encoder reads at most 512"):
        read_labels(words, ["word " * 600])


def test_odd_labels_are_answered_under_their_own_name(tiny):
    model = make(tiny)
    odd = ["city", "city", "a\ud800b", "x\x00", "ไทย", "\u202eytic", "👨‍👩‍👧"]
    predicted = model.predict(["Oslo na Nairobi"] * 2, odd, 0.0, exact=True, nested=True, progress=False)
    assert predicted[0] and {e.label for e in predicted[0]} <= set(odd)
    once = model.predict(["Oslo"], ["city"], 0.3, progress=False)
    assert model.predict(["Oslo"], ["city", "city"], 0.3, progress=False) == once
    assert model.predict(["Oslo", ""], [], progress=False) == [[], []]
    assert model.predict([], ["city"], progress=False) == []


# Texts


ODD = (
    "aZé \n\t\r\x00\x07\u0301\u200d\u200f\u202e\ufe0f\u0e33วั่\u1039က္ခ🇰🇪👍🏽👨👩👧"
    "क्षि한각ᄀ가سلا\u0644\u0627שׁ\ud800\udfff\ufffd東ﷺ"
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.text(ODD, max_size=40), st.text(max_size=40), st.text(st.characters(), max_size=20)))
def test_offsets_are_whole_graphemes_of_any_text(model, text):
    edges = {0} | {end for _, end in graphemes(text)}
    for nested in (False, True):
        for e in model.predict([text], ["person"], 0.0, exact=True, nested=nested, progress=False)[0]:
            mention = text[e.start : e.end]
            assert 0 <= e.start < e.end <= len(text) and {e.start, e.end} <= edges
            assert mention == mention.strip() and 0 <= e.score <= 1


def test_a_text_of_a_megabyte(tiny):
    model, part = make(tiny, window=4000), "Wangari Maathai alizaliwa Nyeri, Kenya. "
    text = part * 25_700
    whole, other = model.predict([text, "Oslo"], ["person"], 0.9, progress=False)
    five_parts = model.predict([part * 5], ["person"], 0.9, progress=False)[0]

    def inside(entities: list[Entity], end: int) -> set[tuple[str, int]]:
        "(mention, place in its part) of the entities away from both ends."
        return {(text[e.start : e.end], e.start % len(part)) for e in entities if len(part) <= e.start < end}

    short = inside(five_parts, 4 * len(part))
    assert len(text) > 1_000_000 and short
    assert inside(whole, len(text) - len(part)) == short and len(whole) > 25_000


def test_wrong_input_is_refused_with_a_reason(tiny):
    model = make(tiny)
    one, city = ["Oslo"], ["city"]
    wrong = [("Oslo", city, {}), (one, "city", {}), (one, [" "], {})]
    wrong += [(one, city, {"threshold": 1.5}), (one, city, {"batch_size": 0})]
    for texts, labels, options in wrong:
        with pytest.raises(ValueError, match="expected"):
            model.predict(texts, labels, progress=False, **options)
    with pytest.raises(TypeError, match="expected text, found NoneType"):
        model.predict(["Oslo", None], ["city"], progress=False)
    with torch.no_grad():
        model.edges.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="weights are damaged"):
        model.predict(["Oslo"], ["city"], progress=False)
    model.text_tokenizer = lambda texts, **_: {"input_ids": [[1] for _ in texts]}
    with pytest.raises(ValueError, match="needs a fast tokenizer"):
        model.predict(["Oslo"], ["city"], progress=False)


def test_batches_hold_similar_windows_and_no_more_than_they_may():
    windows = [
        Window(n, [0] * size, [], [], [], [], (0, size)) for n, size in enumerate([5, 900, 30, 31, 29, 5, 1, 0, 64])
    ]
    batches = list(group_windows(windows, most=3, budget=100))
    assert sorted(w.text for b in batches for w in b) == list(range(9))
    assert all(len(b) <= 3 and (len(b) == 1 or len(b) * max(len(w.ids) for w in b) <= 100) for b in batches)
    assert [[len(w.ids) for w in b] for b in batches] == [[900], [64], [31, 30, 29], [5, 5, 1], [0]]


def test_the_bar_counts_texts(tiny, capsys):
    make(tiny).predict(TEXTS, LABELS)
    assert f"{len(TEXTS)}/{len(TEXTS)}" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_finds_the_same(tiny):
    model = make(tiny, "minilm")
    on_cpu = scored_spans(model, exact=True)
    on_gpu = scored_spans(model.to("cuda"), exact=True)
    shared = [set(a) & set(b) for a, b in zip(on_cpu, on_gpu, strict=True)]
    assert sum(map(len, shared)) >= 0.99 * sum(map(len, on_cpu)) > 0


# What is wrong is said


def test_a_name_is_whole_though_its_tokenizer_drops_what_it_ends_in():
    minilm, _ = load_encoder("minilm")
    for text, name in (("Jose\u0301 alisoma", "Jose\u0301"), ("Maathai\u200c alisoma", "Maathai\u200c")):
        (units,) = read_texts([text], minilm)
        ends = [end for (_, end), can_end in zip(units.offsets, units.can_end, strict=True) if can_end]
        assert len(name) in ends and len(name) - 1 not in ends
    (units,) = read_texts(["Jose\u0301"], CharTokenizer())
    assert [end for (_, end), can_end in zip(units.offsets, units.can_end, strict=True) if can_end] == [1, 2, 3, 5]


@pytest.mark.parametrize("lacking", ["text_tokenizer", "label_tokenizer"])
def test_a_folder_without_a_tokenizer_is_refused(tiny, tmp_path, lacking):
    make(tiny).save_pretrained(tmp_path / "student")
    shutil.rmtree(tmp_path / "student" / lacking)
    with pytest.raises(ValueError, match=f"lacks {lacking}/tokenizer_config.json"):
        SpanBinder.from_pretrained(tmp_path / "student")


def test_a_folder_of_another_model_is_refused(tiny):
    with pytest.raises(ValueError, match="holds a model of the type 'finerweb-chars', which is no student"):
        SpanBinder.from_pretrained(tiny)


def test_damaged_weights_are_noticed(tiny):
    whole = make(tiny)
    assert whole.predict(TEXTS, LABELS, 0.0, exact=True, progress=False)
    for name in ("edges.weight", "start.weight", "span.weight", "label.weight"):
        model = make(tiny)
        with torch.no_grad():
            model.get_parameter(name).fill_(float("nan"))
        with pytest.raises(ValueError, match="are no numbers"):
            model.predict(TEXTS, LABELS, 0.0, exact=True, progress=False)


def test_half_precision_is_saved_and_read_again(tiny, tmp_path):
    model = make(tiny)
    model.save_pretrained(tmp_path / "whole")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    halves = (
        SpanBinder.from_pretrained(tmp_path / "half", dtype="auto"),
        SpanBinder.from_pretrained(tmp_path / "whole", dtype=torch.bfloat16),
    )
    for dtype, again in [(torch.bfloat16, half) for half in halves] + [
        (torch.float32, SpanBinder.from_pretrained(tmp_path / "half"))  # many processors are slow in 16 bits
    ]:
        assert {p.dtype for p in again.parameters()} == {dtype}
        again.predict(TEXTS, LABELS, 0.0, exact=True, progress=False)


def test_prediction_in_16_bits_is_close_and_leaves_the_label_vectors(tiny, monkeypatch):
    monkeypatch.setattr(scoring, "half_type", lambda device: torch.bfloat16)
    model = make(tiny)
    options = dict(threshold=0.0, exact=True, nested=True, progress=False)
    before = model.predict(["Oslo"], ["person"], **options)
    model.label_cache.clear()
    model.precision = "half"
    after = model.predict(["Oslo"], ["person"], **options)
    assert before != after
    scores = {(e.start, e.end): e.score for e in before[0]}
    assert all(abs(e.score - scores[e.start, e.end]) < 0.02 for e in after[0] if (e.start, e.end) in scores)
    model.precision = "float32"
    assert model.predict(["Oslo"], ["person"], **options) == before  # with the label vectors of the run in 16 bits
    model.precision = "int8"
    with pytest.raises(ValueError, match="expected 'float32' or 'half'.*export_onnx"):
        model.predict(["Oslo"], ["person"])
