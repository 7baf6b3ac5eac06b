"""MultiTaskTrainer: what is trained, logged, evaluated, kept and resumed."""

import math
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from hf_mtl import (
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    QuestionAnswering,
    SentenceEmbedding,
    TextClassification,
    TokenClassification,
)

LORA = LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.1)
KINDS = {"intent": TextClassification, "pos": TokenClassification, "answer": QuestionAnswering}
SIZES = {"intent": 40, "pos": 24, "answer": 12}


def about_a_card(row: dict[str, Any]) -> dict[str, Any]:
    """Two labels in place of 77, for few rows."""
    return row | {"label": "card" if "card" in row["label"] else "other"}


@pytest.fixture
def data(rows: Any) -> dict[str, datasets.Dataset]:
    found = {name: datasets.Dataset.from_list(rows(name, "train", n)) for name, n in SIZES.items()}
    return found | {"intent": found["intent"].map(about_a_card)}


@pytest.fixture
def make(tiny_backbone: Any, data: Any, tmp_path: Path) -> Any:
    """A trainer over three tiny tasks."""

    def trainer(
        adapters: Any = LORA, kind: str = "bert", evaluate: Any = None, callbacks: Any = None, **kwargs: Any
    ) -> Any:
        tasks = [
            KINDS[name].from_dataset(name, data[name], **({"max_length": 96, "stride": 16} if name == "answer" else {}))
            for name in data
        ]
        folder = tiny_backbone(kind)  # making it draws random numbers
        torch.manual_seed(0)
        model = MultiTaskModel.from_backbone(folder, tasks, adapters=adapters)
        settings = {
            "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 4, "max_steps": 6, "report_to": "none",
            "logging_steps": 3, "learning_rate": 1e-2, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
        }  # fmt: skip
        args = MultiTaskTrainingArguments(**(settings | kwargs))
        return MultiTaskTrainer(model, args, train_dataset=data, eval_dataset=evaluate or data, callbacks=callbacks)

    return trainer


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_with_adapters_each_task_learns_and_the_backbone_does_not(make: Any) -> None:
    trainer = make(mixing="uniform", max_steps=12)
    before = weights(trainer.model)
    trainer.train()
    moved = changed(before, weights(trainer.model))
    assert all("lora_" in name or name.startswith("heads.") for name in moved)
    for task in SIZES:
        assert any(f".lora_B.{task}." in name for name in moved)
        assert any(name.startswith(f"heads.{task}.") for name in moved)


def test_without_adapters_the_whole_backbone_learns(make: Any) -> None:
    trainer = make(adapters=None)
    before = weights(trainer.model)
    trainer.train()
    learned = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert learned <= changed(before, weights(trainer.model)) | {n for n in learned if n.startswith("heads.")}


def test_a_task_without_rows_in_a_step_is_not_moved(make: Any) -> None:
    trainer = make(max_steps=1, weight_decay=0.1)
    before = weights(trainer.model)
    trainer.train()
    moved = changed(before, weights(trainer.model))
    assert len({task for task in SIZES for name in moved if name.startswith(f"heads.{task}.")}) == 1


def test_training_lowers_every_loss(make: Any) -> None:
    trainer = make(adapters=None, max_steps=90, learning_rate=3e-3, mixing="uniform")
    before, _ = trainer.evaluate(), trainer.train()
    after = trainer.evaluate()
    assert all(after[f"eval_{task}_loss"] < 0.9 * before[f"eval_{task}_loss"] for task in SIZES)


@pytest.mark.parametrize("task", ["intent", "pos"])
def test_batch_1_with_accumulation_8_equals_batch_8(task: str, make: Any) -> None:
    # Each row of a classification counts the same, each word of a tagging.
    def run(batch: int, accumulation: int) -> dict[str, torch.Tensor]:
        trainer = make(
            adapters=None, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, max_steps=3,
            tasks_per_step=1, optim="sgd", learning_rate=0.1, length_group=1,
        )  # fmt: skip
        trainer.train_dataset = type(trainer.train_dataset)({task: trainer.train_dataset.parts[task]})
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer.train()
        return weights(trainer.model)

    whole, parts = run(8, 1), run(1, 8)
    assert all(torch.allclose(whole[name], parts[name], atol=1e-5) for name in whole)


@pytest.mark.parametrize(
    ("setting", "known"),
    [
        ({"length_group": 1}, False),
        ({}, True),
        ({"length_group": 1, "max_tokens_per_batch": 160}, True),
        ({"length_group": 1, "gradient_accumulation_steps": 2, "tasks_per_step": 1}, True),  # sorted in each draw
        ({"length_group": 1, "gradient_accumulation_steps": 2}, False),
    ],
)
def test_lengths_are_looked_up_only_where_rows_are_sorted_by_them(
    setting: dict[str, Any], known: bool, make: Any
) -> None:
    streams: Any = make(adapters=None, **setting).get_train_dataloader().batch_sampler.streams
    assert {stream.lengths is not None for stream in streams} == {known}


@pytest.mark.parametrize("setting", [{"length_group": 4}, {"max_tokens_per_batch": 160, "length_group": 4}])
def test_every_word_counts_the_same_in_batches_of_any_length_and_number(setting: dict[str, Any], make: Any) -> None:
    trainer = make(adapters=None, mixing="proportional", per_device_train_batch_size=8, **setting)
    trainer.train_dataset = type(trainer.train_dataset)({"pos": trainer.train_dataset.parts["pos"]})
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer.model.train()
    factors, words, rows = [], [], set()
    for batch in trainer.get_train_dataloader():
        factors.append((trainer.compute_loss(trainer.model, batch) / trainer.model(**batch).loss).item())
        words.append((batch["labels"] != -100).sum().item())
        rows.add(len(batch["labels"]))
    assert len(set(words)) > 1 and (len(rows) > 1) == ("max_tokens_per_batch" in setting)
    assert [f / n for f, n in zip(factors, words, strict=True)] == pytest.approx([factors[0] / words[0]] * len(words))
    assert sum(factors) / len(factors) == pytest.approx(1.0, rel=0.25)


def test_several_tasks_share_an_optimizer_step_by_accumulation(make: Any) -> None:
    trainer = make(gradient_accumulation_steps=3, mixing="uniform", max_steps=1)
    before = weights(trainer.model)
    trainer.train()
    moved = changed(before, weights(trainer.model))
    assert all(any(name.startswith(f"heads.{task}.") for name in moved) for task in SIZES)


def test_the_logs_hold_each_tasks_loss(make: Any) -> None:
    trainer = make(mixing="uniform", logging_steps=6)
    trainer.train()
    log = next(entry for entry in trainer.state.log_history if "loss" in entry)
    parts = [log[f"loss_{task}"] for task in SIZES]
    assert all(math.isfinite(p) and p > 0 for p in parts)
    assert min(parts) <= log["loss"] <= max(parts)


def test_a_second_training_logs_none_of_the_losses_of_the_first(make: Any) -> None:
    settings = {"max_steps": 4, "learning_rate": 0.0}  # logged is step 3, and the losses of step 4 are in no log
    twice, once = make(**settings), make(**settings)
    twice.train()
    found = []
    for trainer in (twice, once):
        torch.manual_seed(1)
        trainer.train()
        log = next(entry for entry in trainer.state.log_history if "loss" in entry)
        found.append({key: value for key, value in log.items() if key.startswith("loss_")})
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_tensorboard_gets_each_tasks_loss(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tb"))
    make(report_to="tensorboard", mixing="uniform").train()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert {f"train/loss_{task}" for task in SIZES} <= set(events.Tags()["scalars"])


def test_evaluate_names_every_metric_and_their_mean(make: Any) -> None:
    metrics = make().evaluate()
    wanted = {
        "eval_intent_accuracy",
        "eval_intent_loss",
        "eval_pos_accuracy",
        "eval_answer_f1",
        "eval_answer_exact_match",
    }
    assert wanted <= set(metrics)
    mains = [metrics["eval_intent_accuracy"], metrics["eval_pos_accuracy"], metrics["eval_answer_f1"]]
    assert metrics["eval_mean_score"] == pytest.approx(sum(mains) / 3)


def test_scores_do_not_depend_on_the_batch_size(make: Any) -> None:
    one, many = (make(per_device_eval_batch_size=n).evaluate() for n in (1, 16))
    assert all(one[k] == pytest.approx(many[k], abs=1e-6) for k in one if "accuracy" in k or "f1" in k or "match" in k)


def test_the_best_checkpoint_by_mean_score_is_loaded_at_the_end(make: Any) -> None:
    trainer = make(
        max_steps=6,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
    )
    trainer.train()
    scores = [entry["eval_mean_score"] for entry in trainer.state.log_history if "eval_mean_score" in entry]
    assert trainer.state.best_metric == max(scores) and len(scores) == 3
    assert trainer.evaluate()["eval_mean_score"] == pytest.approx(max(scores))


def test_predict_takes_rows_without_labels(make: Any, rows: Any) -> None:
    trainer = make()
    bare = [{"text": row["text"]} for row in rows("intent", "test", 5)]
    output = trainer.predict({"intent": bare, "pos": rows("pos", "test", 5)})
    assert len(output.predictions["intent"]) == len(output.predictions["pos"]) == 5
    assert "test_pos_accuracy" in output.metrics and not any("intent" in key for key in output.metrics)
    assert set(output.label_ids) == {"pos"}


def test_a_resumed_run_equals_an_unbroken_one_to_the_bit(make: Any, tmp_path: Path) -> None:
    settings = {"max_steps": 14, "save_strategy": "steps", "save_steps": 5, "gradient_accumulation_steps": 2}
    unbroken = make(**settings)
    unbroken.train()
    resumed = make(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-5"))
    assert not changed(weights(unbroken.model), weights(resumed.model))


def test_the_order_of_evaluation_hangs_on_no_argument(make: Any) -> None:
    plain, dropping = (make(dataloader_drop_last=drop).evaluate() for drop in (False, True))
    assert all(plain[k] == dropping[k] for k in plain if "accuracy" in k or "f1" in k)


def test_the_card_has_the_scores_of_the_last_evaluation(make: Any, tmp_path: Path) -> None:
    trainer = make(max_steps=1)
    trainer.model.config.card_data = {"split": "test", "results": {"intent": {"accuracy": 0.123}}}
    score = trainer.evaluate()["eval_intent_accuracy"]
    trainer.create_model_card()
    text = (tmp_path / "out" / "README.md").read_text()
    assert "0.123" not in text and f"{score:.4f}" in text
    assert trainer.model.config.card_data["results"]["intent"]["accuracy"] == score


def test_a_changed_model_wants_a_new_trainer(make: Any) -> None:
    trainer = make()
    trainer.model.remove_task("intent")
    with pytest.raises(ValueError, match="Make a new trainer"):
        trainer.evaluate()


def test_data_in_torch_format_has_the_same_labels(make: Any, data: Any) -> None:
    trainer = make()
    plain = trainer.eval_dataset["intent"].features["labels"]
    labels = datasets.ClassLabel(names=list(trainer.model.tasks["intent"].labels))
    formatted = data["intent"].cast_column("label", labels).with_format("torch")
    found = trainer._encode({"intent": formatted}, trainer.processing_class, "eval")["intent"]
    assert found.features["labels"] == plain


def test_a_saved_run_loads_with_its_tokenizer(make: Any, tmp_path: Path) -> None:
    trainer = make(max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    again = MultiTaskModel.from_pretrained(tmp_path / "saved")
    assert not changed(weights(trainer.model), weights(again))
    assert again.tokenizer("I lost my card")["input_ids"] == trainer.processing_class("I lost my card")["input_ids"]


def test_bfloat16_autocast_trains_on_the_cpu(make: Any) -> None:
    trainer = make(bf16=True, max_steps=4)
    trainer.train()
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert all(math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)


def test_activation_checkpointing_trains_the_same_weights(make: Any) -> None:
    def run(on: bool) -> dict[str, torch.Tensor]:
        trainer = make(activation_checkpointing=on, max_steps=3, optim="sgd", learning_rate=0.5)
        trainer.train()
        return weights(trainer.model)

    kept, other = run(False), run(True)
    assert all(torch.allclose(kept[name], other[name], atol=1e-6) for name in kept)


def test_a_second_trainer_finds_the_encoded_rows_again(make: Any, tmp_path: Path, rows: Any) -> None:
    datasets.Dataset.from_list(rows("intent", "train", 20)).map(about_a_card).save_to_disk(str(tmp_path / "rows"))
    stored = datasets.load_from_disk(str(tmp_path / "rows"))
    first, second = (make(evaluate={"intent": stored}).eval_dataset["intent"].features for _ in range(2))
    assert first._fingerprint == second._fingerprint
    assert first.cache_files and first.cache_files == second.cache_files


def test_the_baseline_is_the_commonest_training_answer(make: Any, data: Any) -> None:
    baseline = make().baseline_scores()
    labels = data["intent"]["label"]
    assert baseline["intent"]["accuracy"] == max(labels.count(label) for label in labels) / len(labels)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"compute_metrics": print}, "compute_metrics has no effect"),
        ({"train_dataset": {"intents": []}}, "'intents'.*none of the model's tasks.*Did you mean 'intent'"),
        ({"eval_dataset": {"intents": []}}, "'intents'.*none of the model's tasks.*Did you mean 'intent'"),
        (
            {"train_dataset": {"intent": datasets.DatasetDict({"train": datasets.Dataset.from_list([{"text": "x"}])})}},
            r"got DatasetDict with the splits \['train'\]\. Give one of them, as data\['train'\]\.$",
        ),
        (
            {"eval_dataset": {"intent": {"train": [], "validation": []}}},
            r"got dict with the splits .*as data\['validation'\]\.$",
        ),
        ({"train_dataset": {"intent": "rows"}}, r"got str\. Make one: datasets\.Dataset\.from_dict"),
        ({"train_dataset": {}}, "train data is an empty dict"),
        ({"train_dataset": []}, "must be a dict task -> data set"),
        (
            {"train_dataset": {"intent": datasets.Dataset.from_list([{"text": "x"}]).to_iterable_dataset()}},
            r"'intent', split 'train'.*got IterableDataset\. Of a stream take rows",
        ),
        ({"train_dataset": {"intent": [{"text": "x"}]}}, "no column 'label'"),
        ({"train_dataset": {"intent": datasets.Dataset.from_list([])}}, "the data set has no rows"),
        (
            {"eval_dataset": {"intent": [{"text": "x", "label": "new"}]}},
            "'eval', row 0.*label 'new' is none of its",
        ),
        ({"eval_dataset": {"pos": [{"tokens": ["a", "b"], "tags": ["X"]}]}}, "row 0.*has 2 entries.*has 1"),
        (
            {
                "eval_dataset": {
                    "answer": [
                        {
                            "question": "Who?",
                            "context": "Ann.",
                            "answers": {"text": ["Bob"], "answer_start": [0]},
                        }
                    ]
                }
            },
            "row 0.*Bob",
        ),
    ],
)
def test_data_that_cannot_be_used_is_refused_before_anything_is_written(
    given: Any, message: str, make: Any, tmp_path: Path
) -> None:
    model = make().model
    args = MultiTaskTrainingArguments(output_dir=str(tmp_path / "new"), use_cpu=True)
    with pytest.raises(ValueError, match=message):
        MultiTaskTrainer(model, args, **given)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 has no effect"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy"),
        ({"mixing": {"strategy": "temperature"}}, "mixing=.*must be the name.*temperature=2.0; .*mixing_weights="),
        ({"balancing": {"method": "cagrad"}}, "balancing=.*must be the name of a method.*balancing_options="),
        ({"mixing": "temperatur"}, "Unknown mixing 'temperatur'.*Did you mean 'temperature'"),
        ({"temperature": 0.5}, "temperature"),
        ({"cap": 0}, "cap"),
        ({"tasks_per_step": 2, "gradient_accumulation_steps": 3}, "tasks_per_step=2 must divide"),
        ({"mixing": "adaptive"}, "mixing='adaptive' learns from evaluations: set eval_strategy"),
        ({"mixing": "weights"}, "mixing_weights=None and mixing='weights' do not fit together"),
        ({"mixing": "unimax", "max_repeats": 0}, "max_repeats=0 must be above 0"),
        (
            {"mixing": "weights", "mixing_weights": {"intent": "1 - x"}},
            r"mixing_weights\['intent'\]='1 - x' has the name 'x'",
        ),
        ({"mixing": "weights", "mixing_weights": {"intent": 1}}, r"mixing_weights has nothing for \['pos', 'answer'\]"),
        ({"batch_sizes": {"intent": 0}}, r"batch_sizes\['intent'\]=0 must be a whole number of rows"),
        ({"batch_sizes": {"intnt": 4}}, "'intnt', which is not a task.*Did you mean 'intent'"),
        ({"max_tokens_per_batch": 0}, "max_tokens_per_batch=0 must be 1 or more"),
        ({"max_tokens_per_batch": 5}, "max_tokens_per_batch=5, but row .* has .* tokens: allow"),
        ({"length_group": 0}, r"length_group=0 must be 1 \(shuffled\) or more"),
    ],
)
def test_wrong_mixtures_are_refused(setting: Any, message: str, make: Any) -> None:
    with pytest.raises(ValueError, match=message):
        make(**setting).train()


def test_columns_that_could_be_read_and_are_not_are_said_before_training(
    tiny_backbone: Any, tmp_path: Any, caplog: Any
) -> None:
    rows = [{"text": "a", "text_pair": "b", "positive": "c", "negative": "d", "label": x} for x in "xy"]
    tasks = [
        TextClassification(name="single", labels=("x", "y")),
        TextClassification(name="pair", labels=("x", "y"), text_pair="text_pair"),
        SentenceEmbedding(name="near"),
        SentenceEmbedding(name="far", negative="negative"),
    ]
    model = MultiTaskModel.from_backbone(tiny_backbone("bert"), tasks)
    args = MultiTaskTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    MultiTaskTrainer(model, args, train_dataset={task.name: rows for task in tasks})
    said = [record.message for record in caplog.records if "does not read" in record.message]
    assert [message.split(" of its data")[0] for message in said] == [
        "Task 'single' does not read the column 'text_pair'",
        "Task 'near' does not read the column 'negative'",
    ]


class Removes(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        model.remove_task("pos")


def test_a_callback_that_takes_a_task_out_of_a_training_is_refused(make: Any) -> None:
    trainer = make(callbacks=[Removes()])
    with pytest.raises(ValueError, match=r"tasks have changed .* were \['intent', 'pos', 'answer'\].*by task_patience"):
        trainer.train()
    assert trainer.state.global_step == 1  # whichever task the next batch was of
