"""Full training runs under every mixture: what is trained on, logged, learned from evaluations, and resumed."""

import logging
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TextClassification, TokenClassification
from hf_mtl.mixing import MixingState

SIZES = {"intent": 40, "pos": 24}
EXPRESSIONS = {"intent": "1 - progress", "pos": "0.2 + sqrt(size) * progress"}
REFERENCES = {"intent": 0.9, "pos": 0.9}
RUNS: dict[str, dict[str, Any]] = {
    "proportional": {},
    "uniform": {},
    "temperature": {"temperature": 5.0, "cap": 30},
    "annealed": {},
    "unimax": {"max_repeats": 3},
    "round_robin": {},
    "weights": {"mixing_weights": EXPRESSIONS},
    "adaptive": {"mixing_references": REFERENCES, "eval_strategy": "steps", "eval_steps": 4},
}


@pytest.fixture
def make(tiny_backbone: Any, rows: Any, tmp_path: Path) -> Any:
    """A trainer over two tiny tasks."""

    def trainer(mixing_rule: Any = None, **kwargs: Any) -> Any:
        data = {name: datasets.Dataset.from_list(rows(name, "train", n)) for name, n in SIZES.items()}
        data["intent"] = data["intent"].map(lambda row: {"label": "card" if "card" in row["label"] else "other"})
        tasks = [
            TextClassification.from_dataset("intent", data["intent"]),
            TokenClassification.from_dataset("pos", data["pos"]),
        ]
        folder = tiny_backbone("bert")
        torch.manual_seed(0)
        settings = {
            "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 4, "num_train_epochs": 2,
            "report_to": "none", "learning_rate": 1e-2, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
            "logging_strategy": "epoch", "gradient_accumulation_steps": 2,
        }  # fmt: skip
        model = MultiTaskModel.from_backbone(folder, tasks)
        args = MultiTaskTrainingArguments(**(settings | kwargs))
        trained = MultiTaskTrainer(model, args, train_dataset=data, eval_dataset=data, mixing_rule=mixing_rule)
        record_batches(trained)
        return trained

    return trainer


def record_batches(trainer: Any) -> None:
    """Keeps the task, the number of rows and the padded tokens of every batch that is trained on."""
    step, seen = trainer.training_step, []

    def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((int(inputs["task_ids"][0]), *inputs["input_ids"].shape))
        return step(model, inputs, *args, **kwargs)

    trainer.training_step, trainer.seen = training_step, seen


def rows_trained_on(trainer: Any) -> dict[str, int]:
    return {name: sum(rows for task, rows, _ in trainer.seen if task == k) for k, name in enumerate(SIZES)}


@pytest.mark.parametrize("mixing", RUNS)
def test_every_rule_trains_and_logs_the_rows_that_were_seen(make: Any, mixing: str) -> None:
    trainer = make(mixing=mixing, **RUNS[mixing])
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "rows_intent" in entry]
    assert [entry["epoch"] for entry in logged] == [1.0, 2.0]
    seen = rows_trained_on(trainer)
    assert {name: logged[-1][f"rows_{name}"] for name in SIZES} == seen
    assert logged[-1]["passes_pos"] == pytest.approx(seen["pos"] / SIZES["pos"], abs=1e-3)
    assert all("loss_pos" in entry for entry in trainer.state.log_history if "loss" in entry)
    assert len([entry for entry in trainer.state.log_history if "loss" in entry]) == 2


def test_what_an_epoch_is_is_logged_when_the_training_begins(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hf_mtl"):
        make(mixing="uniform", max_steps=1).train()
    (text,) = [record.getMessage() for record in caplog.records if "Mixture" in record.getMessage()]
    assert "Mixture uniform: an epoch has 8 steps and 64 rows." in text
    assert "pos: 32 rows an epoch of 24 there are, 1.33 passes" in text


def test_tasks_have_batches_of_their_own_size(make: Any) -> None:
    trainer = make(batch_sizes={"pos": 2})
    trainer.train()
    assert {(task, rows) for task, rows, _ in trainer.seen} == {(0, 4), (1, 2)}


def test_no_batch_has_more_tokens_than_the_budget(make: Any) -> None:
    trainer = make(max_tokens_per_batch=160, per_device_train_batch_size=32, gradient_accumulation_steps=1)
    trainer.train()
    assert all(rows * tokens <= 160 for _, rows, tokens in trainer.seen)
    assert len({rows for _, rows, _ in trainer.seen}) > 2


def test_adaptive_gives_more_to_the_task_that_is_behind(make: Any) -> None:
    # The one reference is below any score, the other above all: all but a quarter of its share goes to `pos`.
    settings = RUNS["adaptive"] | {"mixing_references": {"intent": 1e-9, "pos": 1e9}, "num_train_epochs": 6}
    trainer = make(mixing="adaptive", learning_rate=1e-3, **settings)
    trainer.train()
    before, after = trainer.seen[:8], trainer.seen[-40:]
    assert sum(task for task, *_ in after) / 40 > sum(task for task, *_ in before) / 8 + 0.2
    history = trainer.state.stateful_callbacks["MixingHistory"]
    assert [entry["step"] for entry in history[:2]] == [5, 9]  # a batch of the step after had been fetched


def test_a_users_own_rule_sees_sizes_progress_and_scores(make: Any) -> None:
    states: list[MixingState] = []

    def rule(sizes: Any, state: MixingState) -> dict[str, float]:
        assert dict(sizes) == SIZES
        states.append(state)
        return {"intent": 1.0, "pos": 1.0 if state.history else 0.0}

    trainer = make(mixing_rule=rule, eval_strategy="epoch")
    trainer.train()
    half = len(trainer.seen) // 2
    assert {task for task, *_ in trainer.seen[:half]} == {0}
    assert {task for task, *_ in trainer.seen[half:]} == {0, 1}
    last = next(state for state in reversed(states) if state.history)
    assert set(last.history[0].scores) == set(SIZES) and 0 < last.progress <= 1


RESUMED = {
    "annealed": {"mixing": "annealed"},
    "weights": {"mixing": "weights", "mixing_weights": EXPRESSIONS},
    "unimax": {"mixing": "unimax", "max_repeats": 2},
    "round_robin": {"mixing": "round_robin"},
    "adaptive": {"mixing": "adaptive", **RUNS["adaptive"], "eval_steps": 3},
    "adaptive by progress": {"mixing": "adaptive", "eval_strategy": "steps", "eval_steps": 3},
    "token budget": {"max_tokens_per_batch": 120, "per_device_train_batch_size": 16},
    "adaptive, token budget": {
        "mixing": "adaptive", "eval_strategy": "steps", "eval_steps": 3, "max_tokens_per_batch": 120,
        "batch_sizes": {"pos": 3},
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", RESUMED)
def test_a_run_that_is_resumed_in_the_middle_of_an_epoch_equals_an_unbroken_one(
    make: Any, kind: str, tmp_path: Path
) -> None:
    settings = RESUMED[kind] | {"save_strategy": "steps", "save_steps": 6, "max_steps": 20, "logging_steps": 5}
    unbroken, resumed = make(**settings), None
    unbroken.train()
    resumed = make(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-6"))
    assert resumed.seen == unbroken.seen[-len(resumed.seen) :] and len(resumed.seen) == 2 * 14
    one, two = (trainer.model.state_dict() for trainer in (unbroken, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    key = "MixingHistory"
    assert resumed.state.stateful_callbacks.get(key) == unbroken.state.stateful_callbacks.get(key)
