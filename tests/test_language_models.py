"""Tasks that the backbone answers as a language model, beside transformers' own classes on the same weights."""

import copy
from typing import Any

import datasets
import pytest
import torch
from peft import LoraConfig
from tiny import ARCHITECTURES
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, pipeline

from hf_mtl import (
    FillMask,
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    QuestionAnswering,
    Summarization,
    Task,
    Text2TextGeneration,
    TextClassification,
    TextGeneration,
    TokenClassification,
    Translation,
)
from hf_mtl.adapters import adapter_layers
from hf_mtl.data import MultiTaskCollator, encode_dataset
from hf_mtl.language_model import kind_needed, predictor, text_part

SEQ2SEQ = ["t5", "bart", "marian"]
CAUSAL = ["gpt2", "llama", "qwen2", "qwen3"]
MASKED = [kind for kind in ARCHITECTURES if kind not in (*SEQ2SEQ, *CAUSAL)]
CLASSES = {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}
TASKS: dict[str, Task] = {
    "masked": FillMask(name="it"),
    "causal": TextGeneration(name="it"),
    "seq2seq": Translation(name="it", prefix="say: "),
}
KINDS = {kind: "seq2seq" if kind in SEQ2SEQ else "causal" if kind in CAUSAL else "masked" for kind in ARCHITECTURES}
TEXTS = ["I lost my card", "a card was lost in Paris yesterday", "What is the exchange rate?", "lost"]
PAIRS = [{"text": text, "target": TEXTS[(i + 1) % 4]} for i, text in enumerate(TEXTS)]
LORA = LoraConfig(r=2, target_modules="all-linear", lora_alpha=4)


def made(folder: str, tasks: Any, adapters: Any = None) -> MultiTaskModel:
    """A model whose adapters do something: a fresh one is the identity."""
    torch.manual_seed(0)
    model = MultiTaskModel.from_backbone(folder, tasks, adapters=adapters)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return model


def batch_of(model: MultiTaskModel, rows: dict[str, list[dict]]) -> dict[str, Any]:
    """The rows of the tasks as one batch."""
    tasks = list(model.tasks.values())
    features = []
    for number, task in enumerate(tasks):
        if task.name in rows:
            encoded = encode_dataset(task, number, datasets.Dataset.from_list(rows[task.name]), model.tokenizer, "t")
            features += encoded.__getitems__(range(len(encoded)))
    return MultiTaskCollator(model.tokenizer, tasks)(features)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_those_of_transformers_own_class(kind: str, tiny_backbone: Any) -> None:
    model = made(tiny_backbone(kind), [TASKS[KINDS[kind]]])
    ids = model.tokenizer(TEXTS[:1], return_tensors="pt")["input_ids"]
    mask = torch.ones_like(ids)
    hidden = model.encode(["it"], mask, input_ids=ids)[-1]
    predict = predictor(model.backbone, KINDS[kind], hidden, mask)
    if KINDS[kind] == "seq2seq":
        own = model.backbone(input_ids=ids, attention_mask=mask, labels=ids).logits
        torch.testing.assert_close(predict(ids), own)
    else:
        own = model.backbone(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(predict(hidden[0]), own[0])


@pytest.mark.parametrize("kind", SEQ2SEQ + CAUSAL)
def test_the_loss_is_that_of_transformers_own_class(kind: str, tiny_backbone: Any) -> None:
    rows = PAIRS if kind in SEQ2SEQ else [{"text": text} for text in TEXTS]
    model = made(tiny_backbone(kind), [TASKS[KINDS[kind]]])
    batch = batch_of(model, {"it": rows})
    given = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "labels")}
    own = model.backbone(**given).loss
    output = model(**batch)
    torch.testing.assert_close(output.loss, own)
    tokens = int((batch["labels"][:, kind in CAUSAL :] != -100).sum())
    assert output.logits["it"][:, 2].sum() == tokens
    torch.testing.assert_close(-output.logits["it"][:, 0].sum() / tokens, own)


@pytest.mark.parametrize("kind", ["t5", "bart", "marian", "gpt2", "llama"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}])
def test_what_is_written_is_what_generate_writes_of_each_row_alone(
    kind: str, options: dict[str, Any], tiny_backbone: Any
) -> None:
    model = made(tiny_backbone(kind), [TASKS[KINDS[kind]]])
    encoded = model.tokenizer(TEXTS, padding=True, return_tensors="pt")
    written = model.generate(encoded["input_ids"], encoded["attention_mask"], max_new_tokens=6, **options)
    assert written.shape[:2] == (4, options.get("num_return_sequences", 1))
    for row, text in zip(written, TEXTS, strict=True):
        ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
        own = model.backbone.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, pad_token_id=0, **options
        )
        start = 1 if kind in SEQ2SEQ else ids.shape[1]
        for sequence, alone in zip(row, own[:, start:].tolist(), strict=True):
            kept = [k for k in sequence.tolist() if k >= 0]
            assert kept == alone[: len(kept)] and (len(kept) == len(alone) or kept[-1] == 2)


def t5_tasks() -> list[Task]:
    return [
        Translation(name="de", prefix="translate English to German: ", max_target_length=8),
        TextClassification(name="topic", labels=("x", "y"), dropout=0.0),
        TokenClassification(name="tags", labels=("O", "B-a", "I-a"), dropout=0.0),
        QuestionAnswering(name="answer", dropout=0.0),
    ]


ROWS: dict[str, list[dict]] = {
    "de": PAIRS,
    "topic": [{"text": text, "label": "xy"[i % 2]} for i, text in enumerate(TEXTS)],
    "tags": [{"tokens": text.split(), "tags": ["O"] * len(text.split())} for text in TEXTS],
    "answer": [
        {"question": "What?", "context": text, "answers": {"text": [text.split()[0]], "answer_start": [0]}}
        for text in TEXTS
    ],
}


@pytest.mark.parametrize("adapters", [None, LORA], ids=["shared", "adapters"])
@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_one_encoder_decoder_translates_classifies_tags_and_answers(
    kind: str, adapters: Any, tiny_backbone: Any, tmp_path: Any
) -> None:
    model = made(tiny_backbone(kind), t5_tasks(), adapters)
    mixed = model(**batch_of(model, ROWS))
    for name, rows in ROWS.items():  # a batch of all tasks gives what batches of one give
        alone = model(**batch_of(model, {name: rows}))
        torch.testing.assert_close(mixed.task_losses[name], alone.loss, atol=1e-5, rtol=1e-5)
    mixed.loss.backward()
    pipe = pipeline("multitask-nlp", model=model)
    answers = pipe([{"text": "I lost my card", "question": "What?", "context": "a card"}, "lost"])
    assert list(answers[0]) == ["de", "topic", "tags", "answer"] and list(answers[0]["de"]) == ["translation_text"]
    model.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path)
    assert again.backbone.get_output_embeddings().weight is again.backbone.get_input_embeddings().weight
    assert pipeline("multitask-nlp", model=again)("I lost my card") == pipe("I lost my card")


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_only_tasks_that_write_have_adapters_in_the_decoder(kind: str, tiny_backbone: Any) -> None:
    model = made(tiny_backbone(kind), t5_tasks(), LORA)
    encoder = {id(layer) for layer in adapter_layers(model.backbone.get_encoder())}
    decoder = [layer for layer in adapter_layers(model.backbone) if id(layer) not in encoder]
    assert decoder and all(set(layer.lora_A) == {"de"} for layer in decoder)
    cross = [name for name, _ in model.named_parameters() if "lora_A.de" in name]
    assert any("EncDecAttention" in name or "encoder_attn" in name for name in cross)
    assert not any("lm_head" in name for name in cross)
    model(**batch_of(model, {"de": PAIRS})).loss.backward()
    of_task = [p for name, p in model.named_parameters() if ".de." in name]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in of_task)
    assert all(p.grad is None for name, p in model.named_parameters() if ".topic." in name)
    model.remove_task("de")
    assert not any("lora_A.de" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_checkpointing_gives_the_same_gradients_of_adapters(kind: str, tiny_backbone: Any) -> None:
    task = copy.deepcopy(TASKS[KINDS[kind]])
    other = TextClassification(name="topic", labels=("x", "y"), dropout=0.0)
    rows = {"it": PAIRS, "topic": ROWS["topic"]}
    gradients = []
    for checkpointing in (False, True):
        model = made(tiny_backbone(kind), [task, other], LORA).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.activation_checkpointing_enable()
        model(**batch_of(model, rows)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_a_fresh_head_of_a_masked_model_learns_under_adapters_and_its_embeddings_do_not(tiny_backbone: Any) -> None:
    model = made(tiny_backbone("bert"), [TASKS["masked"], TextClassification(name="t", labels=("x", "y"))], LORA)
    learned = {name for name, p in model.backbone.named_parameters() if p.requires_grad and "lora" not in name}
    assert learned == {
        f"cls.predictions.{name}"
        for name in ("bias", "transform.dense.weight", "transform.dense.bias", "transform.LayerNorm.weight",
                     "transform.LayerNorm.bias")
    }  # fmt: skip


def test_hidden_rows_stand_beside_other_tasks_rows(tiny_backbone: Any) -> None:
    model = made(tiny_backbone("bert"), [TASKS["masked"], TextClassification(name="topic", labels=("x", "y"))])
    rows = {"it": [{"text": text} for text in TEXTS], "topic": ROWS["topic"]}
    mixed = model(**batch_of(model, rows))
    for name in rows:
        alone = model(**batch_of(model, {name: rows[name]}))
        torch.testing.assert_close(mixed.task_losses[name], alone.loss)
    model.train()
    first, second = (model(**batch_of(model, rows)).task_losses["it"].item() for _ in range(2))
    assert first != second  # other words are hidden


def test_masks_are_filled_as_transformers_pipeline_fills_them(tiny_backbone: Any) -> None:
    model = made(tiny_backbone("roberta"), [TASKS["masked"]])
    text = "I lost my <mask> in Paris"
    own = pipeline("fill-mask", model=model.backbone, tokenizer=model.tokenizer)(text)
    found = pipeline("multitask-nlp", model=model)(text.replace("<mask>", "[MASK]"))["it"]
    assert [answer["token"] for answer in found] == [answer["token"] for answer in own]
    assert [answer["score"] for answer in found] == pytest.approx([answer["score"] for answer in own], abs=1e-5)
    assert found[0].keys() == own[0].keys()
    several = pipeline("multitask-nlp", model=model)("[MASK] lost my [MASK]")["it"]
    assert [len(tokens) for tokens in several] == [5, 5]
    assert pipeline("multitask-nlp", model=model)("no mask")["it"] == []


@pytest.mark.parametrize(
    ("kind", "task", "wanted"),
    [
        ("bert", Translation(name="de"), "needs an encoder-decoder"),
        ("bert", TextGeneration(name="lm"), "needs a decoder"),
        ("gpt2", FillMask(name="mlm"), "needs a masked language model"),
        ("t5", TextGeneration(name="lm"), "is an encoder-decoder"),
    ],
)
def test_a_backbone_of_the_wrong_kind_is_named(kind: str, task: Task, wanted: str, tiny_backbone: Any) -> None:
    with pytest.raises(ValueError, match=rf"'{task.name}'.*{wanted}"):
        MultiTaskModel.from_backbone(tiny_backbone(kind), [task])


def test_targets_longer_than_the_decoder_are_refused(tiny_backbone: Any) -> None:
    message = r"'de': max_target_length must be 128 or less: the decoder takes no more, got 129"
    with pytest.raises(ValueError, match=message):
        MultiTaskModel.from_backbone(tiny_backbone("bart"), [Translation(name="de", max_target_length=129)])
    MultiTaskModel.from_backbone(tiny_backbone("t5"), [Translation(name="de", max_target_length=129)])


def test_writing_stops_at_given_texts(tiny_backbone: Any) -> None:
    model = made(tiny_backbone("gpt2"), [TextGeneration(name="lm", generation={"max_new_tokens": 12})])
    pipe = pipeline("multitask-nlp", model=model)
    (whole,) = pipe("I lost my card").values()
    stop = whole["generated_text"][2:4]
    (short,) = pipe("I lost my card", generate_kwargs={"stop_strings": [stop]}).values()
    assert whole["generated_text"].startswith(short["generated_text"]) and stop in short["generated_text"]
    assert len(short["generated_text"]) < len(whole["generated_text"])


def test_a_model_without_a_language_model_takes_no_such_task_and_stays_as_it_is(tiny_backbone: Any) -> None:
    model = made(tiny_backbone("t5"), [TextClassification(name="t", labels=("x", "y"))])
    with pytest.raises(ValueError, match=r"'de'.*without.*from_backbone"):
        model.add_task(Translation(name="de"))
    assert list(model.tasks) == ["t"] == list(model.heads)
    assert kind_needed(model.tasks.values(), model.config.text_config) is None
    assert text_part(model.backbone, None) is model.backbone


def test_a_second_writer_joins_and_the_first_writes_the_same(tiny_backbone: Any) -> None:
    model = made(tiny_backbone("t5"), [Translation(name="de")], LORA)
    ids = model.tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    before = model.generate(ids, max_new_tokens=5)
    model.add_task(Summarization(name="short", prefix="summarize: "))
    assert torch.equal(model.generate(ids, task="de", max_new_tokens=5), before)
    with pytest.raises(ValueError, match=r"2 tasks that write.*\['de', 'short'\]"):
        model.generate(ids)


@pytest.mark.parametrize(
    ("kind", "tasks", "rows"),
    [
        ("t5", [Text2TextGeneration(name="it", max_target_length=16), t5_tasks()[1]], PAIRS),
        ("gpt2", [TextGeneration(name="it"), t5_tasks()[1], t5_tasks()[2]], [{"text": text} for text in TEXTS]),
        ("bert", [FillMask(name="it"), t5_tasks()[1]], [{"text": text} for text in TEXTS]),
    ],
    ids=["t5", "gpt2", "bert"],
)
def test_the_trainer_trains_scores_and_predicts(
    kind: str, tasks: list[Task], rows: list[dict], tiny_backbone: Any, tmp_path: Any
) -> None:
    model = made(tiny_backbone(kind), tasks)
    data = {task.name: rows if task.name == "it" else ROWS[task.name] for task in tasks}
    args = MultiTaskTrainingArguments(
        output_dir=str(tmp_path), max_steps=400 if kind == "bert" else 240,
        per_device_train_batch_size=4, learning_rate=5e-3, use_cpu=True,
        report_to="none", save_strategy="no", disable_tqdm=True, mixing="uniform", seed=1, lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = MultiTaskTrainer(model, args, train_dataset=data, eval_dataset=data)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_it_loss"] < before["eval_it_loss"] / 2
    metric = f"eval_it_{tasks[0].main_metric}"
    assert after[metric] > before[metric] + 0.3
    predicted = trainer.predict({"it": rows}).predictions["it"]
    assert len(predicted) == len(rows)
    if kind == "t5":
        assert predicted[0]["generated_text"] == PAIRS[0]["target"]
    if kind == "gpt2":  # rows with a prompt alone are answered
        written = trainer.predict({"it": [{"prompt": "I lost"}]}).predictions["it"]
        assert written[0]["generated_text"] == "my card"


def test_options_of_generation_come_from_the_task_or_the_call(tiny_backbone: Any) -> None:
    task = Translation(name="de", generation={"max_new_tokens": 3, "num_beams": 2, "num_return_sequences": 2})
    model = made(tiny_backbone("bart"), [task])
    pipe = pipeline("multitask-nlp", model=model)
    assert len(pipe("I lost my card")["de"]) == 2
    longer = pipe("I lost my card", generate_kwargs={"num_return_sequences": 1, "min_new_tokens": 8, "max_length": 12})
    assert list(longer["de"]) == ["translation_text"]
    with pytest.raises(ValueError, match=r"'num_beams'.*generate_kwargs"):
        pipe("I lost my card", num_beams=2)
