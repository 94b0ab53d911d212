"A student as ONNX files predicts what the student predicts, without torch."

import json
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} comes with the extra: pip install 'finerweb[onnx]'")

from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

from finerweb.models.char_encoder import CharEncoder, CharEncoderConfig, CharTokenizer  # noqa: E402
from finerweb.models.e5 import E5Config, E5Model  # noqa: E402
from finerweb.runner.cli import app  # noqa: E402
from finerweb.student import onnx as exported  # noqa: E402
from finerweb.student.model import SpanBinder  # noqa: E402
from finerweb.student.onnx import OnnxStudent, export_onnx, scale_units  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = [
    "Wangari Maathai alizaliwa Nyeri, Kenya.",
    "",
    " \n",
    "the </s> mark <pad> of Oslo\r\nNairobi",
    "The 👩‍🔬 of Ärzte e\u0301té",
    "Nyeri is in Kenya, and Oslo is not. " * 12,
]
LABELS = ["person", "city", "ประเทศ"]  # the last one has no pieces in the small tokenizer
SIZES = dict(size=16, max_width=6, window=48, dropout=0.1, freeze_labels=True)


def char_encoder(folder):
    CharEncoder(CharEncoderConfig(rows=500, row_size=8, hidden_size=32, dilations=[1, 2])).save_pretrained(folder)
    CharTokenizer().save_pretrained(folder)


def packed_encoder(folder):
    "An encoder as e5, with one layer and the pieces of a few characters."
    letters = sorted({c for c in "".join(TEXTS) if ord(c) < 0x250 and not c.isspace()})
    pieces = [("<s>", 0.0), ("</s>", 0.0), ("<pad>", 0.0), ("<unk>", -20.0)]
    pieces += [(p, -2.0) for p in ("▁", *letters, "▁Ken", "ya", "▁Nairobi", "son")]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    frame = dict(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    backend.post_processor = processors.TemplateProcessing(**frame)
    marks = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **marks).save_pretrained(folder)
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    model = E5Model(E5Config(vocab_size=len(pieces), pad_token_id=2, max_position_embeddings=64, **sizes))
    table = model.embeddings.word_embeddings
    table.scales.uniform_(0.01, 0.3)
    table.nibbles.copy_(torch.randint(0, 256, table.nibbles.shape))
    model.save_pretrained(folder)


@pytest.fixture(scope="module", params=[char_encoder, packed_encoder])
def model(request, tmp_path_factory) -> SpanBinder:
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    request.param(folder)
    model = SpanBinder.from_encoder(str(folder), label_encoder=str(folder), **SIZES).eval()
    with torch.no_grad():
        model.bias.zero_()
        model.edges.weight.mul_(5)
    model.config.thresholds = {"Latn": 0.45, "Thai": 0.4}
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    export_onnx(model, folder)
    return folder


@pytest.fixture(scope="module")
def fixed(model, tmp_path_factory):
    """(folder, sizes) of the student exported with fixed labels, in 8 bits, as one that reads only Thai script; the
    model is left as it was."""
    folder, before = tmp_path_factory.mktemp("fixed"), model.predict(TEXTS, LABELS, 0.0, progress=False)
    model.config.scripts = ["Thai"]
    try:
        sizes = export_onnx(model, folder, labels=LABELS, precision="int8")
    finally:
        model.config.scripts = []
    assert_same(model.predict(TEXTS, LABELS, 0.0, progress=False), before, within=0)
    return folder, sizes


def assert_same(entities, others, within=1e-4):
    for ours, theirs in zip(entities, others, strict=True):
        assert [(e.start, e.end, e.label) for e in ours] == [(e.start, e.end, e.label) for e in theirs]
        assert np.allclose([e.score for e in ours], [e.score for e in theirs], atol=within)


@pytest.mark.filterwarnings("ignore:.*letters that the student")
def test_entities_and_scores_are_those_of_torch_for_any_labels(model, folder):
    student = OnnxStudent(folder, threads=1)
    assert model.config.share_pieces == (folder / "text_tokenizer.json").exists()
    for labels, threshold in ((LABELS, None), (LABELS, 0.0), (["town", "ประเทศ", "person"], 0.3)):
        for options in ({}, {"exact": True, "nested": True, "batch_size": 2}):
            ours, theirs = (m.predict(TEXTS, labels, threshold, progress=False, **options) for m in (student, model))
            assert_same(ours, theirs)
            assert any(theirs) and theirs[1:3] == [[], []]


@pytest.mark.filterwarnings("ignore:.*letters that the student")
def test_it_says_in_which_scripts_its_student_cannot_read(fixed):
    with pytest.warns(UserWarning, match="1 of 1 texts, such as 'Nairobi', .* those of Thai"):
        OnnxStudent(fixed[0], threads=1).predict(["Nairobi"], LABELS, progress=False)


@pytest.mark.filterwarnings("ignore:.*letters that the student")
def test_it_predicts_without_torch(model, folder):
    code = (
        "import sys, json, warnings; warnings.simplefilter('ignore')\n"
        "from finerweb.student.onnx import OnnxStudent\n"
        f"rows = OnnxStudent({str(folder)!r}, threads=1).predict({TEXTS!r}, {LABELS!r}, 0.0, progress=False)\n"
        "assert not {'torch', 'transformers', 'onnx'} & set(sys.modules), 'torch is there'\n"
        "print(json.dumps([[(e.start, e.end, e.label, e.score) for e in row] for row in rows]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for row, entities in zip(json.loads(done.stdout), model.predict(TEXTS, LABELS, 0.0, progress=False), strict=True):
        assert [tuple(e[:3]) for e in row] == [(e.start, e.end, e.label) for e in entities]
        assert np.allclose([e[3] for e in row], [e.score for e in entities], atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*(letters that the student|whose word pieces the student)")
def test_fixed_labels_need_no_label_encoder_and_8_bits_are_close(model, fixed):
    folder, sizes = fixed
    student = OnnxStudent(folder, threads=1)
    assert "labels.onnx" not in sizes and not (folder / "label_tokenizer.json").exists()
    assert b"/finerweb/" not in (folder / "text.onnx").read_bytes()  # no path of this machine
    one = student.predict(TEXTS[:1], LABELS[:1], 0.0, exact=True, nested=True, progress=False)[0]
    other = model.predict(TEXTS[:1], LABELS[:1], 0.0, exact=True, nested=True, progress=False)[0]
    scores = {(e.start, e.end): e.score for e in other}
    both = [(e.score, scores[e.start, e.end]) for e in one if (e.start, e.end) in scores]
    assert len(both) > 5 and max(abs(a - b) for a, b in both) < 0.05
    with pytest.raises(ValueError, match=r"'river' is not among the labels.*labels=None"):
        student.predict(TEXTS, ["person", "river"], progress=False)


def test_the_command_line_predicts_with_it(folder, capsys):
    with pytest.raises(SystemExit) as ended:
        app(["predict", str(folder), TEXTS[0], "--labels", "person,city", "--threshold", "0"])
    assert ended.value.code == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows and all(TEXTS[0][int(row[1]) : int(row[2])] == row[5] for row in rows)
    with pytest.raises(SystemExit) as ended:
        app(["predict", str(folder), TEXTS[0], "--labels", "person " * 1000])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "say it in fewer words" in error and "Traceback" not in error


def test_scaled_units_give_the_same_product():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 4, bias=False))
    rows = torch.randn(3, 5, 8) * torch.tensor([1.0, 300.0, 0.0])[:, None, None]
    with torch.no_grad():
        expected = layers(rows)
        scale_units(layers)
        assert torch.allclose(layers(rows), expected, rtol=1e-4, atol=1e-5)


def test_wrong_folders_packages_and_weights_are_refused(model, folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="holds no student.json"):
        OnnxStudent(tmp_path)
    for text, reason in (("{", "student.json cannot be read"), ('{"window": 8}', "cannot be read .*overlap")):
        (tmp_path / "student.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=reason):
            OnnxStudent(tmp_path)
    settings = json.loads((folder / "student.json").read_text(encoding="utf-8"))
    (tmp_path / "student.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ValueError, match=r"lacks text.onnx, spans.onnx"):
        OnnxStudent(tmp_path)
    with pytest.raises(ValueError, match="expected 'float32' or 'int8'"):
        export_onnx(model, tmp_path, precision="half")
    with pytest.raises(ValueError, match="expected a list of them"):
        export_onnx(model, tmp_path, labels="person")
    damaged = SpanBinder(model.config)
    damaged.text_tokenizer, damaged.label_tokenizer = model.text_tokenizer, model.label_tokenizer
    with torch.no_grad():
        damaged.start.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="its weights are damaged"):
        export_onnx(damaged, tmp_path, labels=["person"])
    monkeypatch.setattr(exported, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"onnxruntime.* not installed: pip install 'finerweb\[onnx\]'"):
        OnnxStudent(folder)
    with pytest.raises(RuntimeError, match=r"onnx, onnxscript, onnxruntime is not installed"):
        export_onnx(model, tmp_path)
