"""A task becomes a plain model of transformers, which gives the same logits; or it is said why it cannot."""

from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig
from test_modeling import batch, build, logits
from transformers import AutoModel, AutoModelForQuestionAnswering, pipeline

from hf_mtl import (
    DependencyParsing,
    FillMask,
    MultiLabelClassification,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    SentenceEmbedding,
    SentenceSimilarity,
    SoftLabelClassification,
    Summarization,
    Task,
    TextClassification,
    TextGeneration,
    TokenClassification,
)

LORA = LoraConfig(r=2, target_modules="all-linear", lora_alpha=4)
DORA = LoraConfig(r=2, target_modules="all-linear", use_dora=True)
ENCODERS = ["bert", "roberta", "distilbert", "electra", "mpnet", "xlm-roberta", "deberta-v2"]
DECODERS = ["llama", "qwen2", "qwen3", "gpt2"]
LABELS = ("x", "y", "z")


def pooled(**fields: Any) -> list[Task]:
    return [
        TextClassification(name="topic", labels=LABELS, **fields),
        MultiLabelClassification(name="marks", labels=LABELS, **fields),
        SoftLabelClassification(name="votes", labels=LABELS, **fields),
        Regression(name="stars", low=0.0 if "bias" in fields else 1.0, high=5.0, **fields),
        SentenceSimilarity(name="alike", low=0.0, high=5.0, **fields),
    ]


def spans() -> list[Task]:
    return [
        TokenClassification(name="tags", labels=("O", "B-a", "I-a")),
        QuestionAnswering(name="answer", separate_null=False),
    ]


def with_biases(model: Any) -> Any:
    """Fresh biases are 0, and would hide that one is forgotten."""
    torch.manual_seed(2)
    for parameter in model.heads.parameters():
        torch.nn.init.normal_(parameter)
    return model


def exported(model: Any, name: str, folder: Any, auto: str) -> Any:
    """What a user gets who knows nothing of this package."""
    model.export_task(name, folder)
    found, info = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    return found.eval()


def in_units(task: Task, values: torch.Tensor) -> torch.Tensor:
    """A regression's logits are shares of its range, and its plain model's are numbers of the data."""
    if isinstance(task, Regression):
        low, high = task.known_range()
        return low + (high - low) * values
    return values


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.allclose(ours, theirs, atol=1e-4 * (1 + float(ours.abs().max())), rtol=0)


@pytest.mark.parametrize("kind", [*ENCODERS, *DECODERS])
def test_tasks_on_texts_and_tokens_give_the_same_logits(kind: str, tiny_backbone: Any, tmp_path: Any) -> None:
    on_texts = pooled(pooling="first") if kind in ENCODERS else pooled(bias=False)
    model = with_biases(build(tiny_backbone(kind), LORA, tasks=on_texts + spans()))
    inputs = batch(model)
    kept = logits(model, inputs)
    for name, task in model.tasks.items():
        if name == "answer":
            plain = exported(model, name, tmp_path / name, "AutoModelForQuestionAnswering")
            with torch.no_grad():
                output = plain(**inputs)
            found = torch.stack([output.start_logits, output.end_logits], dim=-1)
        else:
            auto = "AutoModelForTokenClassification" if name == "tags" else "AutoModelForSequenceClassification"
            plain = exported(model, name, tmp_path / name, auto)
            with torch.no_grad():
                found = plain(**inputs).logits
        real = inputs["attention_mask"].bool() if name in ("tags", "answer") else slice(None)
        assert close(in_units(task, kept[name][real]), found[real]), name
        labels = task.labels_of_head().get("labels")
        assert labels is None or tuple(plain.config.id2label[k] for k in range(len(labels))) == labels
    assert all(torch.equal(kept[name], after) for name, after in logits(model, inputs).items())  # it is a copy


@pytest.mark.parametrize("more", [[], [Summarization(name="write")]], ids=["encoder alone", "beside one that writes"])
def test_tags_of_an_encoder_decoders_encoder_give_the_same_logits(
    more: list[Task], tiny_backbone: Any, tmp_path: Any
) -> None:
    tags = TokenClassification(name="tags", labels=("O", "B-a", "I-a"))
    model = with_biases(build(tiny_backbone("t5"), LORA, tasks=[tags, *more]))
    inputs = batch(model)
    with torch.no_grad():
        ours = model(**inputs, tasks=["tags"]).logits["tags"]
        found = exported(model, "tags", tmp_path, "AutoModelForTokenClassification")(**inputs).logits
    real = inputs["attention_mask"].bool()
    assert close(ours[real], found[real])


@pytest.mark.parametrize("kind", ENCODERS)
def test_multiple_choice_gives_the_same_logits(kind: str, tiny_backbone: Any, tmp_path: Any) -> None:
    model = with_biases(build(tiny_backbone(kind), LORA, tasks=[MultipleChoice(name="pick", pooling="first")]))
    inputs = batch(model, ("I lost my card", "Hello", "I found it in Paris yesterday", "No"))
    kept = logits(model, inputs, row_groups=torch.arange(4).view(2, 2))["pick"]
    plain = exported(model, "pick", tmp_path, "AutoModelForMultipleChoice")
    with torch.no_grad():
        found = plain(**{key: value.view(2, 2, -1) for key, value in inputs.items()}).logits
    assert close(kept - kept[:, :1], found - found[:, :1])


@pytest.mark.parametrize("adapters", [None, DORA], ids=["shared", "dora"])
def test_it_works_for_shared_backbones_and_dora(adapters: Any, tiny_backbone: Any, tmp_path: Any) -> None:
    model = build(tiny_backbone(), adapters, tasks=spans())
    inputs = batch(model)
    plain = exported(model, "tags", tmp_path, "AutoModelForTokenClassification")
    with torch.no_grad():
        assert close(logits(model, inputs, tasks=["tags"])["tags"], plain(**inputs).logits)


def test_in_16_bits_the_logits_agree_as_far_as_these_go(tiny_backbone: Any, tmp_path: Any) -> None:
    tasks = [TextClassification(name="topic", labels=LABELS, pooling="first")]
    model = build(tiny_backbone(), LORA, tasks=tasks, dtype=torch.bfloat16)
    inputs = batch(model)
    plain = exported(model, "topic", tmp_path, "AutoModelForSequenceClassification")
    assert plain.dtype == torch.bfloat16
    with torch.no_grad():
        found = plain(**inputs).logits.float()
    assert torch.allclose(logits(model, inputs)["topic"].float(), found, atol=0.05)
    shifted = with_biases(build(tiny_backbone("distilbert"), LORA, tasks=tasks, dtype=torch.bfloat16))
    torch.nn.init.constant_(shifted.backbone.embeddings.LayerNorm.bias, 1000.0)  # ReLU must be shifted further up
    with pytest.raises(ValueError, match=r"cannot compute what the task's does in torch\.bfloat16.*float32"):
        shifted.export_task("topic", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_transformers_pipeline_answers_from_it(tiny_backbone: Any, tmp_path: Any) -> None:
    model = build(tiny_backbone(), LORA, tasks=pooled(pooling="first"))
    model.export_task("topic", tmp_path)
    found = pipeline("text-classification", model=str(tmp_path))("I lost my card", top_k=None)
    shares = logits(model, batch(model, ("I lost my card",)))["topic"].softmax(-1)[0]
    assert {one["label"]: pytest.approx(one["score"], abs=1e-4) for one in found} == dict(
        zip(LABELS, shares.tolist(), strict=True)
    )


@pytest.mark.parametrize(
    ("kind", "task", "auto"),
    [
        ("gpt2", TextGeneration(name="write"), "AutoModelForCausalLM"),
        ("t5", Summarization(name="write"), "AutoModelForSeq2SeqLM"),
        ("bert", FillMask(name="write"), "AutoModelForMaskedLM"),
    ],
)
def test_a_language_models_task_is_that_language_model(
    kind: str, task: Task, auto: str, tiny_backbone: Any, tmp_path: Any
) -> None:
    topic = TextClassification(name="topic", labels=LABELS)
    model = build(tiny_backbone(kind), LORA, tasks=[topic, task])
    inputs = batch(model)
    plain = exported(model, "write", tmp_path, auto)
    if task.writes:
        ours = model.eval().generate(**inputs, task="write", max_new_tokens=4)[:, 0]
        theirs = plain.generate(**_padded_left(model, inputs), max_new_tokens=4)[:, -ours.shape[1] :]
        assert torch.equal(ours[ours >= 0], theirs[ours >= 0])
    else:
        with torch.no_grad():
            assert close(logits(model, inputs, tasks=["write"])["write"], plain(**inputs).logits)
    merged = model.merge_task("topic")
    with torch.no_grad():
        assert torch.allclose(merged(**inputs).last_hidden_state, model.encode(["topic"], **inputs)[-1], atol=1e-5)


def _padded_left(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    if model.config.language_model == "seq2seq":
        return inputs
    order = torch.argsort(inputs["attention_mask"], dim=1, stable=True)
    return {key: inputs[key].gather(1, order) for key in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("adapters", [None, LORA, DORA], ids=["shared", "lora", "dora"])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_merged_backbone_is_a_plain_one(kind: str, adapters: Any, tiny_backbone: Any, tmp_path: Any) -> None:
    model = build(tiny_backbone(kind), adapters, tasks=spans())
    inputs = batch(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.merge_task("tags").save_pretrained(tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    plain = AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(
            plain(**inputs).last_hidden_state, model.encode(["tags"], **inputs)[-1], atol=1e-5, rtol=1e-5
        )
    assert not any("lora" in name or "base_layer" in name for name in plain.state_dict())


@pytest.mark.parametrize(
    ("kind", "task", "reason"),
    [
        ("bert", TextClassification(name="it", labels=LABELS), "reads the mean.*pooling='first'"),
        ("bert", TextClassification(name="it", labels=LABELS, pooling="last"), "head of BertForSequence.* cannot"),
        ("modernbert", TextClassification(name="it", labels=LABELS, pooling="first"), "has a LayerNorm|has a Modern"),
        ("llama", TextClassification(name="it", labels=LABELS), "head of LlamaForSequence.* cannot"),
        ("llama", Regression(name="it", low=1.0, high=5.0, bias=False), r"no bias \(bias=False\).*low=1.0"),
        ("bert", TokenClassification(name="it", labels=("O", "B-a", "I-a"), crf=True), "by a CRF"),
        ("bert", TokenClassification(name="it", labels=("O", "B-a"), layer=1), "hidden state 1"),
        ("bert", QuestionAnswering(name="it"), "separate_null=False can be exported"),
        ("bert", QuestionAnswering(name="it", allow_no_answer=False), "separate_null=False can be exported"),
        ("bert", MultipleChoice(name="it"), "mean vector.*pooling='first'"),
        ("llama", MultipleChoice(name="it", pooling="first"), "no AutoModelForMultipleChoice of a llama"),
        ("t5", TextClassification(name="it", labels=LABELS, pooling="first"), "T5"),
        ("t5", QuestionAnswering(name="it", separate_null=False), "is on a T5"),
        ("bart", TokenClassification(name="it", labels=("O", "B-a")), "no AutoModelForTokenClassification of a bart"),
        ("bert", SentenceEmbedding(name="it"), "no class for tasks of this type.*save_task.*merge_task"),
        ("bert", DependencyParsing(name="it", labels=("root", "obj")), "no class for tasks of this type"),
    ],
)
def test_what_no_class_can_answer_is_refused_with_its_reason(
    kind: str, task: Task, reason: str, tiny_backbone: Any, tmp_path: Any
) -> None:
    model = with_biases(build(tiny_backbone(kind), LORA, tasks=[task]))
    with pytest.raises(ValueError, match=f"'it'.* cannot be exported: .*({reason})"):
        model.export_task("it", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_where_there_always_is_an_answer_the_first_tokens_logits_agree_too(tiny_backbone: Any, tmp_path: Any) -> None:
    task = QuestionAnswering(name="answer", allow_no_answer=False, separate_null=False)
    model = with_biases(build(tiny_backbone(), LORA, tasks=[task]))
    inputs = batch(model)
    model.export_task("answer", tmp_path)
    with torch.no_grad():
        found = AutoModelForQuestionAnswering.from_pretrained(tmp_path).eval()(**inputs)
    ours = logits(model, inputs)["answer"]
    assert close(ours, torch.stack([found.start_logits, found.end_logits], dim=-1))


def test_a_folder_below_a_file_is_refused(tiny_backbone: Any, tmp_path: Any) -> None:
    (tmp_path / "taken").write_text("")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "out"):
        with pytest.raises(OSError, match=r"folder='.*': .*taken is a file\. Name another folder\."):
            build(tiny_backbone(), LORA).export_task("topic", folder)
