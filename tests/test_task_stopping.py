"""Tasks that stop improving leave, keep their best weights, and move no more; the run resumes to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback
from two_tasks import differing, lora, two_tasks, weights

EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1}
# `intent` gives one answer to all rows and leaves at step 3; `pos` learns for some steps more.
STOPPING = EVERY_STEP | {"task_patience": 2}


@pytest.fixture
def make(tiny_backbone: Any, rows: Any, tmp_path: Path) -> Any:
    def trainer(adapters: Any = None, **kwargs: Any) -> Any:
        return two_tasks(tiny_backbone("bert"), rows, tmp_path / "out", adapters, **kwargs)

    return trainer


class Watch(TrainerCallback):
    """What tasks each step has batches of, and the weights after it."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.steps, self.weights = trainer, [], []
        step, self.present = trainer.training_step, set()

        def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self.present.add(["intent", "pos"][int(inputs["task_ids"][0])])
            return step(model, inputs, *args, **kwargs)

        trainer.training_step = training_step
        trainer.add_callback(self)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.steps.append(self.present.copy())
        self.present.clear()
        self.weights.append(weights(self.trainer))


def scores(trainer: Any, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def own(found: Any, task: str) -> dict[str, torch.Tensor]:
    return {name: t for name, t in found.items() if f".{task}." in name}


def test_the_assembled_model_has_each_tasks_best_score_exactly(make: Any, tmp_path: Path) -> None:
    trainer = make(
        lora(), load_best_tasks_at_end=True, learning_rate=0.1, lr_scheduler_type="constant", **EVERY_STEP
    )  # steps so large that scores go up and down
    trainer.train()
    best = {name: max(scores(trainer, name)) for name in ("eval_intent_accuracy", "eval_pos_accuracy")}
    assert any(scores(trainer, name)[-1] < value for name, value in best.items())  # the last is not the best of all
    found = trainer.evaluate()
    assert {name: found[name] for name in best} == best
    trainer.save_model(str(tmp_path / "saved"))
    loaded = type(trainer.model).from_pretrained(tmp_path / "saved")
    assert differing(weights(trainer), dict(loaded.state_dict())) == []


@pytest.mark.parametrize(
    ("adapters", "settings"),
    [
        (lora(), {"weight_decay": 0.1}),
        (lora(), {"load_best_tasks_at_end": True, "ema_decay": 0.5}),
        (None, {"balancing": "pcgrad", "max_steps": 7}),
        (None, {"balancing": "uncertainty", "max_steps": 7}),
    ],
)
def test_a_task_that_left_moves_no_more_and_its_rows_come_no_more(make: Any, adapters: Any, settings: Any) -> None:
    trainer = make(adapters, **(STOPPING | settings))
    watch = Watch(trainer)
    trainer.train()
    (entry,) = [e for e in trainer.state.stateful_callbacks["MixingHistory"] if "left" in e]
    assert (entry["left"], entry["step"]) == (["intent"], 4)  # a batch of the fourth step had been fetched
    assert 5 <= len(watch.steps) < 16  # `pos` went on, and its end was the training's
    assert all(present == {"pos"} for present in watch.steps[4:])
    assert differing(own(watch.weights[0], "intent"), own(watch.weights[2], "intent"))
    assert not differing(own(watch.weights[3], "intent"), own(watch.weights[-1], "intent"))
    if not trainer.args.load_best_tasks_at_end:
        assert not differing(own(watch.weights[2], "intent"), own(watch.weights[-1], "intent"))
    assert differing(own(watch.weights[3], "pos"), own(watch.weights[-1], "pos"))


def test_a_resumed_run_ends_as_the_unbroken_one_and_an_ended_one_takes_no_step(make: Any, tmp_path: Path) -> None:
    settings = STOPPING | {"save_strategy": "steps", "save_steps": 1, "load_best_tasks_at_end": True, "ema_decay": 0.9}
    unbroken = make(lora(), **settings)
    unbroken.train()
    end = unbroken.state.global_step
    assert 5 <= end < 16
    for step in (2, 4, end):  # before a task left, after, and when all had
        resumed = make(lora(), **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
        assert differing(weights(unbroken), weights(resumed)) == []
        assert resumed.state.global_step == end


def test_the_average_of_a_task_that_left_stays_where_it_was_scored(make: Any) -> None:
    # Turn by turn, so that no batch of `intent` has been fetched when it leaves.
    settings = {"mixing": "round_robin", "gradient_accumulation_steps": 1, "ema_decay": 0.9}
    trainer = make(lora(), **(STOPPING | settings))
    names = {p: name for name, p in trainer.model.named_parameters()}
    averages: list[dict[str, torch.Tensor]] = []

    class Look(TrainerCallback):
        def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
            averages.append({names[p]: average.clone() for p, average in trainer._averages.items()})

    trainer.add_callback(Look())
    trainer.train()
    course = trainer._courses["intent"]
    left = course.step + course.since
    assert left < len(averages)
    assert differing(own(averages[0], "intent"), own(averages[left - 1], "intent"))
    for later in averages[left:]:
        assert not differing(own(averages[left - 1], "intent"), own(later, "intent"))


def test_an_evaluation_on_start_of_a_resumed_run_is_not_counted_again(make: Any, tmp_path: Path) -> None:
    settings = STOPPING | {"save_strategy": "steps", "save_steps": 1, "eval_on_start": True}
    unbroken = make(lora(), **settings)
    unbroken.train()
    resumed = make(lora(), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    assert resumed._courses == unbroken._courses
    assert differing(weights(unbroken), weights(resumed)) == []


def test_evaluations_after_an_interrupt_are_no_part_of_the_training(make: Any) -> None:
    class Interrupt(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                raise KeyboardInterrupt

    trainer = make(lora(), **STOPPING)
    trainer.add_callback(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    before = {name: vars(course).copy() for name, course in trainer._courses.items()}
    found = trainer.evaluate()
    assert {name: vars(course) for name, course in trainer._courses.items()} == before
    assert trainer.model.config.card_data["results"]["intent"]["accuracy"] == found["eval_intent_accuracy"]


def test_tasks_that_train_the_backbone_together_are_not_assembled(make: Any) -> None:
    with pytest.raises(ValueError, match=r"learn with all tasks .*adapters=LoraConfig"):
        make(load_best_tasks_at_end=True, **EVERY_STEP)
    make(load_best_tasks_at_end=True, freeze_layers=2, **EVERY_STEP)


def test_tasks_that_share_rows_leave_together(tiny_backbone: Any, rows: Any, tmp_path: Path) -> None:
    import datasets

    from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TextClassification

    texts = [row["text"] for row in rows("intent", "train", 16)]
    data = {
        name: datasets.Dataset.from_list([{"text": t, "label": str(word in t)} for t in texts])
        for name, word in (("card", "card"), ("asks", "?"))
    }
    tasks = [TextClassification(name=name, labels=("False", "True")) for name in data]
    model = MultiTaskModel.from_backbone(tiny_backbone("bert"), tasks)
    args = MultiTaskTrainingArguments(
        output_dir=str(tmp_path), share_rows=True, use_cpu=True, report_to="none", disable_tqdm=True,
        per_device_train_batch_size=8, num_train_epochs=30, learning_rate=0.3, task_patience=2, save_strategy="no",
        **EVERY_STEP,
    )  # fmt: skip
    trainer = MultiTaskTrainer(model, args, train_dataset=data, eval_dataset=data)
    trainer.train()
    ends = {name: course.step + course.since for name, course in trainer._courses.items()}
    assert set(ends.values()) == {trainer.state.global_step}
    assert trainer.state.global_step < 60
    assert min(course.since for course in trainer._courses.values()) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task_patience": 0, **EVERY_STEP}, "must be 1 evaluation or more"),
        ({"task_patience": 2}, "set eval_strategy"),
        ({"load_best_tasks_at_end": True}, "set eval_strategy"),
        (
            {"load_best_tasks_at_end": True, "load_best_model_at_end": True, "save_strategy": "steps", **EVERY_STEP},
            "set one of them to False",
        ),
        ({"task_patience": 1, "optim": "lomo", **EVERY_STEP}, "take another optimizer"),
        ({"task_patience": 1, "optim": "schedule_free_adamw", **EVERY_STEP}, "trains others than it scores"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(make: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(lora(), **settings)
