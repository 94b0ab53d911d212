"""Training a student: the paper's loss, label concepts, checkpoints, early stopping, and what is refused."""

import json
import os
import random
import signal

import pytest

torch = pytest.importorskip("torch")

from conftest import labelled_row, untrained  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from finerweb.binder import model_card, read_descriptions  # noqa: E402
from finerweb.binder import more_names  # noqa: E402
from finerweb.data import schema  # noqa: E402
from finerweb.models.char_encoder import CharEncoder, CharEncoderConfig  # noqa: E402
from finerweb.store import Task  # noqa: E402
from finerweb.student import model as student  # noqa: E402
from finerweb.student import (
    objective,  # noqa: E402
    training,  # noqa: E402
)
from finerweb.student.labels import read_labels  # noqa: E402
from finerweb.student.losses import bce_loss, contrastive_loss  # noqa: E402
from finerweb.student.model import SpanBinder  # noqa: E402
from finerweb.student.objective import TrainingSettings, ask, known_labels  # noqa: E402
from finerweb.student.targets import (  # noqa: E402
    choose_labels,
    make_edge_targets,
    make_examples,
    make_targets,
    read_concepts,
)  # fmt: skip
from finerweb.student.training import pick_device, train_binder  # noqa: E402
from finerweb.student.windows import collate  # noqa: E402

SENTENCES = [  # two mentions meet in the first and the third: only a blank, or nothing, between them
    ("swh", "Latn", "Wangari Nairobi Oslo", {"Wangari": "person", "Nairobi": "city", "Oslo": "city"}),
    ("swh", "Latn", "Amina alifika Mombasa jana", {"Amina": "person", "Mombasa": "city"}),
    ("tha", "Thai", "วังการีเคนยา", {"วังการี": "human", "เคนยา": "country"}),
    ("swh", "Latn", "Juma Otieno anaishi Kisumu", {"Juma Otieno": "person", "Kisumu": "town"}),
    ("swh", "Latn", "hakuna jina hapa", {}),
]
TRAINING = dict(steps=90, batch=5, encoder_rate=5e-3, head_rate=5e-3, candidates=0.5, negatives=2)
TRAINING |= dict(loss="bce", encoder_dropout=0.0, seed=1, progress=False)
TABLE = [
    {"label": label, "language": language, "translation": translation, "concept": concept}
    for language, label, translation, concept in (
        ("swh", "person", "mtu", "person"),
        ("swh", "city", "mji", "city"),
        ("swh", "town", "mji", "city"),
        ("tha", "human", "มนุษย์", "person"),
        ("tha", "country", "ประเทศ", "country"),
        ("tha", "person", "คน", "person"),
    )
]
WORDS = {
    language: {row["label"]: row["translation"] for row in TABLE if row["language"] == language}
    for language in ("swh", "tha")
}


pytestmark = pytest.mark.usefixtures("one_thread")


def rows() -> list[dict]:
    return [labelled_row(text, labels, language, script=script) for language, script, text, labels in SENTENCES]


def weights_of(model: SpanBinder) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, some, others))


# --- the paper's loss


@pytest.fixture(scope="module")
def contrast(tiny_encoder) -> SpanBinder:
    model = untrained(tiny_encoder, contrastive=True)
    train_binder(model, rows(), **(TRAINING | dict(loss="binder", candidates=1.0)))
    return model


def test_the_paper_s_student_learns_what_it_is_shown(contrast, tmp_path):
    labels = ["person", "city", "country", "human", "town"]
    texts = [row["text"] for row in rows()]
    predicted = contrast.predict(texts, labels, progress=False)
    assert contrast.config.threshold == 0.5  # the score of [CLS]: nothing was calibrated
    gold = [{(e["start"], e["end"], e["label"]) for e in row["entities"]} for row in rows()]
    assert [{(e.start, e.end, e.label) for e in entities} for entities in predicted] == gold
    contrast.save_pretrained(tmp_path)
    assert SpanBinder.from_pretrained(tmp_path).predict(texts, labels, progress=False) == predicted


@pytest.mark.parametrize("loss", ["bce", "binder"])
def test_start_of_one_and_end_of_the_next_are_no_span(tiny_encoder, contrast, loss):
    model = contrast if loss == "binder" else untrained(tiny_encoder)
    if loss == "bce":
        train_binder(model, rows(), **TRAINING)

    def scores(text: str, places: list[tuple[int, int]]) -> torch.Tensor:
        "The best score of each place (first, last)."
        inputs, _, _ = collate(model, model.windows(0, text))
        with torch.no_grad():
            starts, ends, _ = model.parts(**inputs)
            labels = read_labels(model, ["person", "human", "city", "country"])
            spans = torch.tensor([(0, first, last) for first, last in places])
            return torch.sigmoid(model.score(starts, ends, spans, labels)).max(1)[0]

    swahili, thai = "Wangari Nairobi Oslo", "วังการีเคนยา"
    assert scores(swahili, [(0, 6), (8, 14)]).min() > 0.5 > scores(swahili, [(0, 14), (8, 19)]).max()
    assert scores(thai, [(0, 6), (7, 11)]).min() > 0.5 > scores(thai, [(0, 11)]).max()


def test_the_logit_of_the_threshold_itself_is_zero(contrast):
    inputs, _, _ = collate(contrast, contrast.windows(0, "Wangari Nairobi"))
    with torch.no_grad():
        starts, ends, edges = contrast.parts(**inputs)
        last = starts.shape[1] - 1
        assert edges.shape[1] == last  # [CLS] stands behind the units, where no candidate can be
        labels = read_labels(contrast, ["person", "anything"])
        itself = contrast.score(starts, ends, torch.tensor([[0, last, last]]), labels)
    assert itself.abs().max() < 1e-5
    assert contrast.contrast.scales.exp().min() > 5  # they began at 1 / 0.07


def test_contrastive_loss_by_hand():
    logits = torch.tensor([[2.0], [1.0], [-1.0]])
    targets, valid = torch.tensor([[1.0], [1.0], [0.0]]), torch.ones(3, 1, dtype=torch.bool)
    rivals = 1 + torch.tensor(-1.0).exp()  # the threshold and the last span; one gold span is no rival of the other
    first, second = (1 + rivals / torch.tensor(2.0).exp()).log(), (1 + rivals / torch.tensor(1.0).exp()).log()
    sentence = dict(rows=torch.zeros(3, dtype=torch.long), count=1)
    believed = contrastive_loss(logits, targets, valid, **sentence)
    assert believed.item() == pytest.approx((((first + second) / 2 + rivals.log()) / 2).item(), abs=1e-5)
    doubted = contrastive_loss(logits, targets, valid, torch.tensor([[1.0], [0.0], [1.0]]), **sentence)
    assert doubted.item() == pytest.approx((first + rivals.log()).item() / 2, abs=1e-5)


def test_no_step_multiplies_matrices_of_whole_numbers(tiny_encoder):
    "A GPU cannot: torch has no such product for CUDA, and every training on one would stop."
    from torch.utils._python_dispatch import TorchDispatchMode

    class NoWholeProducts(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.overloadpacket._qualified_op_name
            is_product = name in ("aten::mm", "aten::mv", "aten::addmv", "aten::addmm", "aten::bmm", "aten::dot")
            if is_product and not any(a.is_floating_point() for a in args if isinstance(a, torch.Tensor)):
                raise NotImplementedError(f"{name} of whole numbers")
            return func(*args, **(kwargs or {}))

    with pytest.raises(NotImplementedError), NoWholeProducts():
        torch.ones(2, 2, dtype=torch.long) @ torch.ones(2, dtype=torch.long)
    model = untrained(tiny_encoder)
    with NoWholeProducts():
        train_binder(model, rows(), **(TRAINING | dict(steps=2)))
        model.predict([row["text"] for row in rows()], ["person"], 0.0, progress=False)


def test_a_contrast_asks_every_batch_for_all_labels_or_collapses(tiny_encoder, monkeypatch):
    options = TRAINING | dict(loss="binder", candidates=1.0, batch=1, steps=80)
    labels, calls = ["person", "country", "town"], []
    one_each = [
        row | {"entities": [e for e in row["entities"] if e["label"] == label]}
        for row, label in zip(rows()[1:4], labels, strict=True)
    ]
    gold = [{(e["start"], e["end"], e["label"]) for e in row["entities"]} for row in one_each]

    def wrong_share() -> float:
        model = untrained(tiny_encoder, contrastive=True)
        train_binder(model, one_each, **options)
        right = []
        for label in labels:  # one by one: a flat answer would hide that each is found everywhere
            predicted = model.predict([row["text"] for row in one_each], [label], progress=False)
            for spans, entities in zip(gold, predicted, strict=True):
                right += [(e.start, e.end, e.label) in spans for e in entities]
        return 1 - sum(right) / max(1, len(right))

    losses, usual = training.batch_losses, objective.choose_labels

    def recorded_losses(model, examples, labels, *rest):
        calls.append(frozenset(labels))
        return losses(model, examples, labels, *rest)

    def without_negatives(present, pool, negatives, chance, drop):
        return usual(present, pool, 0, chance)

    monkeypatch.setattr(training, "batch_losses", recorded_losses)
    share_with_all_labels = wrong_share()
    assert len(calls) == 80 and len(set(calls)) == 1 and calls[0] >= set(labels)
    monkeypatch.setattr(objective, "choose_labels", without_negatives)
    assert share_with_all_labels == 0 and wrong_share() > 0.4
    with pytest.raises(ValueError, match="all labels in every batch"):
        train_binder(untrained(tiny_encoder, contrastive=True), rows(), **(options | dict(drop=0.3)))


def test_a_contrast_may_ask_a_batch_for_its_own_labels_only(tiny_encoder, monkeypatch):
    asked, losses = {"run": [], "batch": []}, training.batch_losses

    def recorded_losses(model, examples, labels, names, settings):
        own = sorted({part for x in examples for gold in x.gold for part in gold.label.split(" / ")})
        asked[settings.asked_labels].append((labels, own))
        return losses(model, examples, labels, names, settings)

    monkeypatch.setattr(training, "batch_losses", recorded_losses)
    options = TRAINING | dict(loss="binder", candidates=1.0, batch=2, steps=6)
    weights = []
    for choice in asked:
        model = untrained(tiny_encoder, contrastive=True)
        train_binder(model, rows()[:4], **options, asked_labels=choice)
        weights.append(model.contrast.state_dict())
    assert all(labels == own for labels, own in asked["batch"] if own)
    distinct = {choice: {frozenset(labels) for labels, _ in batches} for choice, batches in asked.items()}
    assert len(distinct["run"]) == 1 < len(distinct["batch"])
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(ValueError, match="asked_labels is run or batch; found 'all'"):
        TrainingSettings(**{k: v for k, v in options.items() if k != "progress"}, asked_labels="all")


# --- concepts


def false_negatives(tiny_encoder: str, changes: dict, batches: int = 30) -> int:
    "The number of targets that say no to a name of the very thing a gold span is."
    examples, _ = make_examples(untrained(tiny_encoder), rows())
    settings = TrainingSettings(**(TRAINING | changes | dict(steps=1)))
    concepts, chance, count = read_concepts(TABLE, near=0.0), random.Random(0), 0
    gold_labels = [gold.label for x in examples for gold in x.gold]
    for _ in range(batches):
        batch, labels, names = ask(examples, known_labels(examples, settings), ["swh", "tha"], settings, chance)
        places = torch.tensor([(row, gold.first, gold.last) for row, x in enumerate(batch) for gold in x.gold])
        spans, targets, valid, _ = make_targets(batch, places, 400, labels, settings.concepts)
        for place, label in zip(places, gold_labels, strict=True):
            at, right_names = (spans == place).all(1), concepts.names(concepts.meant(label))
            is_no = (valid[at] & (targets[at] == 0)).any(0).tolist()
            count += sum(no and name.lower() in right_names for no, name in zip(is_no, names, strict=True))
    return count


@pytest.fixture
def no_progress(monkeypatch):
    monkeypatch.delitem(TRAINING, "progress")


@pytest.mark.parametrize("label_language", ["english", "target", "both"])
def test_no_synonym_or_translation_is_a_negative(tiny_encoder, no_progress, label_language):
    changes = dict(translations=WORDS, label_language=label_language, negatives=9)
    assert false_negatives(tiny_encoder, changes | dict(concepts=read_concepts(TABLE, near=0.0))) == 0
    assert false_negatives(tiny_encoder, changes | dict(concepts=read_concepts(TABLE, near=0.75))) == 0
    assert false_negatives(tiny_encoder, changes) > 0  # without concepts there are such targets


def test_labels_are_asked_by_their_names_in_languages_of_no_row(tiny_encoder, monkeypatch):
    read = {row["language"] for row in rows()}
    table = TABLE + [row | {"concept": "individual"} for row in TABLE if row["label"] == "person"] * 2
    added = more_names(table, ["arb", "kat", "tha"])
    assert {row["language"] for row in added} == {"arb", "kat"} and not {"arb", "kat"} & read
    assert {row["concept"] for row in added if row["label"] == "person"} == {"individual"}  # four votes to two
    languages = {row["language"] for row in more_names(table, ["all"])}
    assert len(languages) == 91 - len(read) and not languages & read
    asked, batch_losses = set(), training.batch_losses

    def recorded(model, examples, labels, names, settings):
        asked.update(names)
        return batch_losses(model, examples, labels, names, settings)

    monkeypatch.setattr(training, "batch_losses", recorded)
    names = {"arb": {row["label"]: row["translation"] for row in added if row["language"] == "arb"}}
    settings = TRAINING | dict(steps=20, label_language="both", concepts=read_concepts(table + added, near=0.0))
    train_binder(untrained(tiny_encoder), rows(), **settings, translations=WORDS | names)
    assert {names["arb"]["person"], names["arb"]["city"], "mtu", "คน", "person"} <= asked


def test_concepts_follow_rings_majorities_and_near_labels():
    pairs = [("man", "human"), ("human", "man"), ("film", "film"), ("movie", "movie")]
    ring = [{"label": a, "language": "swh", "translation": a, "concept": b} for a, b in pairs]
    concepts = read_concepts(ring, near=0.0)
    assert concepts.of["man"] == concepts.of["human"] and concepts.of["film"] != concepts.of["movie"]
    assert read_concepts(ring, near=0.75).of["movie"] == read_concepts(ring, near=0.75).of["film"]
    votes = [
        {"label": "town", "language": f"x{n}", "translation": "t", "concept": concept}
        for n, concept in enumerate(("city", "village", "city"))
    ]
    assert read_concepts(votes, near=0.0).of["town"] == "city"
    assert read_concepts([], near=0.75).of == {}


def test_negatives_come_from_every_script_alike():
    pool = {"Latn": [f"l{n}" for n in range(300)], "Thai": [f"t{n}" for n in range(20)]}
    draws = [choose_labels(["x"], pool, 8, random.Random(n)) for n in range(20)]
    assert all(sum(label.startswith("t") for label in labels) == 4 and len(labels) == 9 for labels in draws)
    half_dropped = [choose_labels(["a", "b"], pool, 2, random.Random(n), 0.5) for n in range(200)]
    assert 0.4 < sum("a" in labels for labels in half_dropped) / 200 < 0.6


# --- doubt


def test_an_entity_of_no_weight_teaches_nothing(tiny_encoder):
    doubted = rows()[:1]
    doubted[0]["entities"][0]["weight"] = 0.0
    examples, _ = make_examples(untrained(tiny_encoder), doubted)
    spans, targets, valid, weights = make_targets(examples, torch.tensor([[0, 3, 5]]), 400, ["city", "person"])
    logits = torch.zeros(len(spans), 2, requires_grad=True)
    bce_loss(logits, targets, valid, weights).backward()
    at = (spans == torch.tensor([0, 0, 6])).all(1)
    assert at.sum() == 1 and not logits.grad[at].any() and logits.grad[~at].all()
    allowed = torch.ones(1, 20, 2, dtype=torch.bool)
    assert make_edge_targets(examples, allowed)[2].eq(0).nonzero().tolist() == [[0, 0, 0], [0, 6, 1]]


# --- a training that is stopped, goes on, or fails


TRIALS = dict(every=4, patience=0, checkpoint_every=3, accumulate=2, batch=2, steps=14, encoder_dropout=0.2)
TRIALS |= dict(label_language="both", translations=WORDS)


@pytest.mark.parametrize("loss", ["bce", "binder"])
def test_killed_and_resumed_it_is_the_same_bit_for_bit(tiny_encoder, tmp_path, loss):
    settings = TRAINING | TRIALS | dict(loss=loss, concepts=read_concepts(TABLE, near=0.0))
    make = lambda: untrained(tiny_encoder, contrastive=loss == "binder", freeze_labels=loss == "bce", dropout=0.2)
    whole = make()
    whole_curve, _ = train_binder(whole, rows(), held_out=rows()[:2], **settings)
    path, step = tmp_path / "deep" / "checkpoint.safetensors", training._Training.step
    for last in (5, 11):

        def dies(run, last=last):
            if run.state.step == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(run)

        if not (child := os.fork()):
            training._Training.step = dies
            torch.manual_seed(last)
            try:
                train_binder(make(), rows(), held_out=rows()[:2], **settings, checkpoint=str(path))
            finally:
                os._exit(1)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.safetensors"]
    model = make()
    curve, _ = train_binder(model, rows(), held_out=rows()[:2], **settings, checkpoint=str(path))
    assert curve == whole_curve and same(weights_of(model), weights_of(whole))
    assert [c["step"] for c in curve if "f1" in c] == [3, 7, 11, 13]


def test_a_checkpoint_of_another_training_or_no_checkpoint(tiny_encoder, tmp_path):
    path, short = tmp_path / "c.safetensors", TRAINING | dict(steps=4, checkpoint_every=2)
    first, second = untrained(tiny_encoder), untrained(tiny_encoder)
    train_binder(first, rows(), **short, checkpoint=str(path))
    train_binder(second, rows(), **(short | {"seed": 2}), checkpoint=str(path))
    alone = untrained(tiny_encoder)
    train_binder(alone, rows(), **(short | {"seed": 2}))
    assert same(weights_of(second), weights_of(alone)) and not same(weights_of(second), weights_of(first))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is no checkpoint .* delete it"):
        train_binder(untrained(tiny_encoder), rows(), **short, checkpoint=str(path))


def test_it_stops_early_and_keeps_the_best(tiny_encoder, monkeypatch):
    scores, weights = iter([0.2, 0.7, 0.5, 0.6, 0.9]), []

    def trial(model, held_out, **_):
        weights.append(weights_of(model))
        return 0.5, next(scores)

    monkeypatch.setattr(training, "model_threshold", trial)
    model = untrained(tiny_encoder)
    curve, _ = train_binder(model, rows(), held_out=rows(), **(TRAINING | dict(every=3, patience=2)))
    assert len(weights) == 4 and len(curve) == 12
    assert same(weights_of(model), weights[1]) and not same(weights_of(model), weights[3])


def test_accumulated_batches_are_one_update(tiny_encoder, monkeypatch):
    sizes, losses = [], training.batch_losses

    def recorded_losses(model, examples, *rest):
        sizes.append(len(examples))
        return losses(model, examples, *rest)

    monkeypatch.setattr(training, "batch_losses", recorded_losses)
    curve, _ = train_binder(untrained(tiny_encoder), rows(), **(TRAINING | dict(steps=5, accumulate=3, batch=1)))
    assert len(curve) == 5 and sizes == [1] * 15


def test_a_loss_that_is_no_number_stops_it_with_a_good_checkpoint(tiny_encoder, tmp_path, monkeypatch):
    losses, calls, path = training.batch_losses, [], tmp_path / "c.safetensors"

    def broken(*args):
        calls.append(1)
        span, edge = losses(*args)
        return (span * float("nan") if len(calls) == 6 else span), edge

    monkeypatch.setattr(training, "batch_losses", broken)
    model = untrained(tiny_encoder)
    with pytest.raises(FloatingPointError, match=r"step 5: .*checkpoint of step 4 is in .*c\.safetensors"):
        train_binder(model, rows(), **(TRAINING | dict(steps=8, checkpoint_every=2)), checkpoint=str(path))
    assert all(p.isfinite().all() for p in model.parameters())
    assert all(t.isfinite().all() for t in load_file(path).values() if t.is_floating_point())
    curve, _ = train_binder(
        untrained(tiny_encoder), rows(), **(TRAINING | dict(steps=8, checkpoint_every=2)), checkpoint=str(path)
    )
    assert len(curve) == 8


# --- what is refused


def test_unknown_words_and_devices_are_refused(tiny_encoder):
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match="cannot be used"):
            pick_device(name)
    wrong = {
        "bce, focal or binder": {"loss": "crf"},
        "english, target or both": {"label_language": "all"},
        "needs contrastive=True": {"loss": "binder"},
    }
    for message, changes in wrong.items():
        with pytest.raises(ValueError, match=message):
            train_binder(untrained(tiny_encoder), rows(), **(TRAINING | changes))
    with pytest.raises(ValueError, match="none of the 1 training rows has an entity"):
        train_binder(untrained(tiny_encoder), rows()[4:], **TRAINING)


def test_an_entity_that_short_overlaps_cut_is_counted(tiny_encoder):
    text = "a " * 30 + "Wangari Muta Maathai" + " b" * 30
    row = {"text": text, "language": "swh", "entities": [{"start": 60, "end": 80, "label": "person"}], "undecided": []}
    for overlap, expected in ((0, 0), (4, 1)):
        _, missed = make_examples(untrained(tiny_encoder, window=66, overlap=overlap), [row])
        assert missed == expected


def test_a_folder_that_is_not_whole(tiny_encoder, tmp_path):
    model = untrained(tiny_encoder)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    save_file({k: v for k, v in whole.items() if k != "span.weight"}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 tensors: span\.weight"):
        SpanBinder.from_pretrained(tmp_path)
    save_file(whole | {"span.weight": whole["span.weight"][:2].clone()}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="do not fit its config.json"):
        SpanBinder.from_pretrained(tmp_path)
    save_file(whole | {"crf.weight": torch.ones(2)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"has besides 1 tensors: crf\.weight"):
        SpanBinder.from_pretrained(tmp_path)
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="do not fit"):
        SpanBinder.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(OSError, match="model.safetensors"):
        SpanBinder.from_pretrained(tmp_path)


def test_a_folder_from_before_the_contrast_still_loads(tiny_encoder, tmp_path):
    model = untrained(tiny_encoder)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("contrastive", "overlap", "descriptions"):
        del config[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert same(weights_of(SpanBinder.from_pretrained(tmp_path)), weights_of(model))


def test_an_encoder_without_offsets(tiny_encoder, monkeypatch):
    from transformers.models.canine.tokenization_canine import CanineTokenizer

    encoder = CharEncoder(CharEncoderConfig(rows=10, row_size=2, hidden_size=4, dilations=[]))
    monkeypatch.setattr(student, "load_encoder", lambda name, **kwargs: (CanineTokenizer(), encoder))
    with pytest.raises(ValueError, match="CanineTokenizer gives no offsets; choose an encoder with a fast tokenizer"):
        untrained(tiny_encoder)


# --- what goes with a model


def test_labels_are_read_with_their_descriptions(tiny_encoder, tmp_path):
    plain = untrained(tiny_encoder).eval()
    described = untrained(tiny_encoder, descriptions={"city": "a large town"}).eval()
    a, b = read_labels(plain, ["city", "person"]), read_labels(described, ["city", "person"])
    assert not torch.allclose(a[0], b[0]) and torch.allclose(a[1], b[1], atol=1e-5)
    described.save_pretrained(tmp_path)
    assert torch.allclose(read_labels(SpanBinder.from_pretrained(tmp_path).eval(), ["city", "person"]), b, atol=1e-5)
    (tmp_path / "d.json").write_text('{"city": "a large town"}')
    assert read_descriptions(str(tmp_path / "d.json")) == {"city": "a large town"}
    assert "city" in read_descriptions("types")
    (tmp_path / "d.json").write_text("[1]")
    with pytest.raises(ValueError, match="no mapping"):
        read_descriptions(str(tmp_path / "d.json"))


def test_the_card_lies_in_the_folder_and_goes_to_the_hub(tiny_encoder, tmp_path, monkeypatch):
    import yaml
    from transformers.utils.hub import PushToHubMixin

    model = untrained(tiny_encoder)
    parameters = dict(
        languages=["swh", "tha"], encoder="char", label_encoder="minilm", label_language="both", loss="bce"
    )
    counts = dict(sentences=5, entities=9, missed=1, held_out=2, held_out_f1=0.5)
    model.card = model_card(model, name="tiny", parameters=parameters, counts=counts, labels=["city", "person"])
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---")[1])
    assert header["language"] == ["swh", "tha"]
    assert "F1 0.5" in card and "ODC-By" in card and "1 entities were too long" in card
    pushes = []
    monkeypatch.setattr(PushToHubMixin, "push_to_hub", lambda self, repo_id, **_: "url")
    monkeypatch.setattr(
        "huggingface_hub.ModelCard.push_to_hub", lambda self, repo_id, **_: pushes.append((repo_id, str(self)))
    )
    assert SpanBinder.from_pretrained(tmp_path).push_to_hub("me/tiny") == "url"
    ((repo_id, pushed_card),) = pushes
    assert repo_id == "me/tiny" and "F1 0.5" in pushed_card


# --- languages that the encoder cannot read, and languages without a sentence


def train_on(folder, root, texts: dict[str, str], **parameters) -> tuple[str, dict, str]:
    "(what 33_binder printed, its counts, its card) for sentences of one text in each language, by papermill."
    import nbformat
    import papermill

    folder.mkdir(exist_ok=True)
    blank = dict.fromkeys(schema("18_sentences").names)
    home = {"home": str(folder), "run": "small"}
    for code, text in texts.items():
        row = labelled_row(text, {text.split()[0]: "person"}, code, script="Latn") if text else None
        rows = [blank | row | {"id": f"{code}_{n}"} for n in range(4)] if row else []
        Task(*home.values(), "18_sentences", (code,), parameters={}).write(rows)
        label = {"label": "person", "language": code, "translation": "person", "concept": "person", "method": "table"}
        Task(*home.values(), "17_translate", (code,), parameters={}).write([label] if row else [])
    settings = dict(student="one", languages=list(texts), steps=1, batch=2, size=8)
    settings |= dict(encoder="minilm", other_encoder="char", label_encoder="minilm")
    parameters = home | settings | parameters
    # The lessons, which `make lessons` runs, train students of their own; here only the stage is of interest.
    notebook = nbformat.read(root / "nbs" / "33_binder.ipynb", 4)
    stage = ("#| export", "#| eval: false")
    wanted = lambda c: c.source.startswith(stage) or "parameters" in c.metadata.get("tags", ())
    notebook.cells = [cell for cell in notebook.cells if wanted(cell)]
    nbformat.write(notebook, folder / "stage.ipynb")
    ran = papermill.execute_notebook(
        str(folder / "stage.ipynb"), str(folder / "out.ipynb"), parameters=parameters, progress_bar=False
    )
    printed = "".join(o.get("text", "") for c in ran.cells for o in c.get("outputs", ()) if o.get("name") == "stdout")
    done = folder / "small" / "33_binder" / "one"
    meta = json.loads((done / "meta.json").read_text(encoding="utf-8"))
    assert all(note in printed for note in meta["notes"]), "the summary of the run says it too"
    return printed, meta["counts"], (done / "model" / "README.md").read_text(encoding="utf-8")


SWAHILI, AMHARIC = "Wangari alizaliwa Nyeri nchini Kenya.", "ዋንጋሪ ማታይ በኬንያ ተወለደች"


def test_an_encoder_that_reads_every_language_takes_the_place_and_the_stage_says_so(tmp_path, root):
    texts = {"swh": SWAHILI, "amh": AMHARIC, "tha": ""}
    printed, counts, card = train_on(tmp_path, root, texts)
    assert "minilm lacks too many letters of Amharic (100%); char takes its place" in printed
    assert "learns nothing of tha: none of their sentences is usable" in printed
    assert counts["encoder"] == "char" and counts["sentences"] + counts["held_out"] == 8
    assert "in Swahili, Amharic." in card and "Text encoder char" in card and "- tha" not in card
    student = SpanBinder.from_pretrained(tmp_path / "small" / "33_binder" / "one" / "model")
    assert student.config.max_width == 80, "characters need wider spans than word pieces"


def test_without_another_encoder_a_language_is_left_out_or_nothing_is_left(tmp_path, root):
    printed, counts, card = train_on(tmp_path / "a", root, {"swh": SWAHILI, "amh": AMHARIC}, other_encoder="")
    assert "minilm lacks too many letters of Amharic (100%); left out" in printed and counts["encoder"] == "minilm"
    assert "in Swahili." in card and "amh" not in card
    with pytest.raises(Exception, match="no sentence of tha can be learned from.* the 0 rows of 18_sentences"):
        train_on(tmp_path / "c", root, {"tha": ""})
