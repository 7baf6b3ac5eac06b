"""Teachers and R-Drop in a training: what the losses are, when, and what they do to a model."""

import copy
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from tiny import read_jsonl

from hf_mtl import (
    MultiLabelClassification,
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    TextClassification,
    TokenClassification,
)
from hf_mtl.two_passes import twice

LORA = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
KINDS = {"intent": TextClassification, "pos": TokenClassification}


@pytest.fixture(scope="module")
def data(rows: Any) -> dict[str, datasets.Dataset]:
    intents = [row | {"label": "card" if "card" in row["label"] else "other"} for row in rows("intent", "train", 40)]
    return {"intent": datasets.Dataset.from_list(intents), "pos": datasets.Dataset.from_list(rows("pos", "train", 24))}


@pytest.fixture
def make(tiny_backbone: Any, data: Any, tmp_path: Path) -> Any:
    """A trainer over two tiny tasks; `fields` of both of them."""

    def trainer(
        adapters: Any = None, teachers: Any = None, names: Any = ("intent", "pos"), callbacks: Any = None,
        fields: Any = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        tasks = [KINDS[name].from_dataset(name, data[name], **(fields or {})) for name in names]
        folder = tiny_backbone()
        torch.manual_seed(0)
        model = MultiTaskModel.from_backbone(folder, tasks, adapters=adapters)
        settings = {
            "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 4, "max_steps": 4, "report_to": "none",
            "logging_steps": 50, "learning_rate": 1e-3, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
        }  # fmt: skip
        args = MultiTaskTrainingArguments(**(settings | kwargs))
        return MultiTaskTrainer(
            model, args, train_dataset={n: data[n] for n in names}, teachers=teachers, callbacks=callbacks
        )

    return trainer


@pytest.fixture
def teacher(tiny_backbone: Any, data: Any) -> Any:
    """A model of both tasks that says other things than those of `make`."""
    tasks = [KINDS[name].from_dataset(name, rows) for name, rows in data.items()]
    folder = tiny_backbone()
    torch.manual_seed(5)
    model = MultiTaskModel.from_backbone(folder, tasks)
    for head in model.heads.values():
        head.classifier.weight.data.normal_(std=0.5)
    return model


def without_dropout(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def batches(trainer: Any) -> dict[str, Any]:
    """A training batch of each task."""
    found = {}
    for batch in trainer.get_train_dataloader():
        found.setdefault(list(trainer.model.tasks)[int(batch["task_ids"][0])], batch)
    return found


def said(model: Any, batch: dict[str, Any], name: str) -> torch.Tensor:
    left_out = ("labels", "task_ids")
    with torch.no_grad():
        return model(tasks=[name], **{k: v for k, v in batch.items() if k not in left_out}).logits[name]


def part_of_words(trainer: Any, batch: dict[str, Any], name: str) -> float:
    """By how much a batch of words counts."""
    if name != "pos":
        return 1.0
    return (batch["labels"] != -100).sum().item() / trainer._labels_per_batch["pos"]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_loss_is_the_gold_labels_and_the_teachers_by_their_shares(
    weight: float, temperature: float, make: Any, teacher: Any
) -> None:
    trainer = make(
        teachers=dict.fromkeys(KINDS, teacher),
        teacher_weight=weight,
        teacher_temperature=temperature,
        num_train_epochs=4,
    )
    without_dropout(trainer.model)
    for name, batch in batches(trainer).items():
        wanted = said(trainer.model, batch, name)[batch["labels"] != -100]
        theirs, gold = said(teacher, batch, name)[batch["labels"] != -100], batch["labels"][batch["labels"] != -100]
        soft = F.cross_entropy(wanted / temperature, (theirs / temperature).softmax(-1)) * temperature**2
        wanted = (1 - weight) * F.cross_entropy(wanted, gold) + weight * soft
        found = trainer.compute_loss(trainer.model.train(), batch)
        assert found.item() == pytest.approx(wanted.item() * part_of_words(trainer, batch, name), rel=1e-4)


def test_a_mixed_target_is_one_cross_entropy(make: Any, teacher: Any) -> None:
    """BAM's target: the gold label's share and the teacher's in one distribution."""
    trainer = make(teachers={"intent": teacher}, teacher_weight=0.4, names=["intent"])
    without_dropout(trainer.model)
    batch = batches(trainer)["intent"]
    target = 0.6 * F.one_hot(batch["labels"], 2) + 0.4 * said(teacher, batch, "intent").softmax(-1)
    wanted = F.cross_entropy(said(trainer.model, batch, "intent"), target)
    assert trainer.compute_loss(trainer.model.train(), batch).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_teachers_share_falls_from_1_to_0_with_the_steps_and_resumes(make: Any, teacher: Any) -> None:
    from transformers import TrainerCallback

    class Shares(TrainerCallback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.seen.append(trainer._share_of_teachers())

    whole, rest = Shares(), Shares()
    trainer = make(teachers={"pos": teacher}, callbacks=[whole], save_strategy="steps", save_steps=2)
    trainer.train()
    assert whole.seen == [1.0, 0.75, 0.5, 0.25]
    folder = Path(trainer.args.output_dir, "checkpoint-2")
    trainer = make(teachers={"pos": teacher}, callbacks=[rest])
    trainer.train(resume_from_checkpoint=str(folder))
    assert rest.seen == [0.5, 0.25]


def test_a_resumed_training_ends_as_one_that_was_not_cut(make: Any, teacher: Any) -> None:
    settings: dict[str, Any] = {
        "teachers": {"pos": teacher}, "r_drop": {"intent": 1.0}, "save_strategy": "steps", "save_steps": 2
    }  # fmt: skip
    whole = make(**settings)
    whole.train()
    rest = make(**settings)
    rest.train(resume_from_checkpoint=str(Path(whole.args.output_dir, "checkpoint-2")))
    for one, two in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("adapters", [None, LORA])
def test_a_teacher_stays_as_it_is_and_is_no_part_of_the_model(
    adapters: Any, make: Any, teacher: Any, tmp_path: Path
) -> None:
    before = copy.deepcopy(teacher.state_dict())
    trainer = make(adapters=adapters, teachers=dict.fromkeys(KINDS, teacher))
    names = set(trainer.model.state_dict())
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert set(MultiTaskModel.from_pretrained(tmp_path / "saved").state_dict()) == names


def test_evaluation_losses_are_those_of_gold_labels(make: Any, teacher: Any, data: Any) -> None:
    plain = make().evaluate(data)
    aided = make(teachers=dict.fromkeys(KINDS, teacher), r_drop=1.0).evaluate(data)
    assert {k: aided[k] for k in plain if k.endswith("_loss")} == {k: plain[k] for k in plain if k.endswith("_loss")}


def test_a_student_comes_to_agree_with_its_teacher_where_labels_say_otherwise(make: Any, data: Any) -> None:
    # The teacher knows the tags; the student's own labels are all one tag.
    teacher = make(names=["pos"], max_steps=60, learning_rate=5e-3)
    teacher.train()
    wrong = data["pos"].map(lambda row: {"tags": ["NOUN"] * len(row["tags"])})

    def agreement(trainer: Any) -> float:
        found, wanted = (
            t.predict({"pos": data["pos"].remove_columns("tags")}).predictions["pos"] for t in (trainer, teacher)
        )
        pairs = [
            (a, b)
            for one, two in zip(found, wanted, strict=True)
            for a, b in zip(one["tags"], two["tags"], strict=True)
        ]
        return sum(a == b for a, b in pairs) / len(pairs)

    def student(**kwargs: Any) -> float:
        trainer = make(names=["pos"], max_steps=60, learning_rate=5e-3, **kwargs)
        trainer.train_dataset = type(trainer.train_dataset)(
            trainer._encode({"pos": wrong}, trainer.processing_class, "train")
        )
        trainer.train()
        return agreement(trainer)

    alone, taught = student(), student(teachers={"pos": teacher.model}, teacher_weight=0.9)
    assert alone < 0.5 < 0.7 < taught


@pytest.mark.parametrize("adapters", [None, LORA])
def test_r_drop_adds_the_divergence_of_two_passes_to_their_mean_loss(adapters: Any, make: Any) -> None:
    trainer = make(adapters=adapters, r_drop={"intent": 0.7, "pos": 2.0}, num_train_epochs=4)
    for name, batch in batches(trainer).items():
        model, learned = trainer.model.train(), batch["labels"] != -100
        torch.manual_seed(1)
        found = trainer.compute_loss(model, batch)
        torch.manual_seed(1)
        one, two = model(**twice(batch)).logits[name].chunk(2)
        one, two, gold = one[learned], two[learned], batch["labels"][learned]
        assert not torch.equal(one, two)
        p, q = one.log_softmax(-1), two.log_softmax(-1)
        both = F.kl_div(p, q, reduction="batchmean", log_target=True) + F.kl_div(
            q, p, reduction="batchmean", log_target=True
        )
        wanted = (F.cross_entropy(one, gold) + F.cross_entropy(two, gold)) / 2 + trainer._r_drop[name] * both / 2
        assert found.item() == pytest.approx(wanted.item() * part_of_words(trainer, batch, name), rel=1e-4)


def test_r_drop_of_one_task_leaves_the_batches_of_others_alone(make: Any) -> None:
    plain, aided = make(num_train_epochs=4), make(r_drop={"intent": 5.0}, num_train_epochs=4)
    batch = batches(aided)["pos"]
    batches(plain)
    losses = []
    for trainer in (plain, aided):
        torch.manual_seed(1)
        losses.append(trainer.compute_loss(trainer.model.train(), batch).item())
    assert losses[0] == losses[1]


def test_r_drop_makes_answers_hang_less_on_dropout(make: Any) -> None:
    def apart(**kwargs: Any) -> float:
        trainer = make(
            names=["pos"], max_steps=40, learning_rate=5e-3, per_device_train_batch_size=8, logging_steps=40,
            fields={"dropout": 0.4}, **kwargs,
        )  # fmt: skip
        trainer.train()
        part = trainer.train_dataset.parts["pos"]
        batch = trainer.data_collator(part.__getitems__(range(len(part))))
        torch.manual_seed(2)
        with torch.no_grad():
            one, two = trainer.model.train()(**twice(batch)).logits["pos"].softmax(-1).chunk(2)
        return (one - two)[batch["labels"] != -100].abs().sum(-1).mean().item()

    assert apart(r_drop=10.0) < 0.75 * apart()  # measured: 0.21 and 0.40


def test_a_teacher_and_r_drop_go_together_and_under_a_balancing_method(make: Any, teacher: Any) -> None:
    for settings in (
        {"balancing": "static"},
        {"balancing": "pcgrad", "gradient_accumulation_steps": 2, "mixing": "round_robin"},
        {"balancing": "uncertainty", "gradient_accumulation_steps": 2},
    ):
        trainer = make(teachers={"pos": teacher}, r_drop=1.0, **settings)
        assert trainer.train().training_loss > 0


def test_several_labels_learn_from_a_teacher(tiny_backbone: Any, tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(read_jsonl(Path(__file__).parent / "data" / "intents.jsonl", 12))
    task = MultiLabelClassification.from_dataset("t", rows, class_weights="balanced", label_smoothing=0.1)
    model, teacher = (MultiTaskModel.from_backbone(tiny_backbone(), [task]) for _ in range(2))
    args = MultiTaskTrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to="none", use_cpu=True,
        teacher_weight=1.0, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = MultiTaskTrainer(model, args, train_dataset={"t": rows}, teachers={"t": teacher})
    without_dropout(model)
    (batch, *_) = trainer.get_train_dataloader()
    wanted = F.binary_cross_entropy_with_logits(said(model, batch, "t"), said(teacher, batch, "t").sigmoid())
    assert trainer.compute_loss(model.train(), batch).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_with_class_weights_batches_of_one_add_up_to_a_whole_batch(make: Any) -> None:
    # A mean by weights over a batch of one row would undo them.
    def run(batch: int, accumulation: int) -> dict[str, torch.Tensor]:
        trainer = make(
            names=["intent"], per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, max_steps=5,
            tasks_per_step=1, optim="sgd", learning_rate=0.1, length_group=1,
            fields={"class_weights": {"card": 4.0}, "label_smoothing": 0.1},
        )  # fmt: skip
        without_dropout(trainer.model)
        trainer.train()
        return trainer.model.state_dict()

    whole, parts = run(8, 1), run(1, 8)
    assert all(torch.allclose(whole[name], parts[name], atol=1e-5) for name in whole)


def test_weighted_rows_count_by_their_weights_whatever_their_batch(make: Any) -> None:
    trainer = make(names=["intent"], num_train_epochs=4, fields={"class_weights": {"card": 4.0}})
    without_dropout(trainer.model)
    weights = torch.tensor(trainer.model.tasks["intent"].label_weights)
    factors = []
    for batch in trainer.get_train_dataloader():
        each = F.cross_entropy(said(trainer.model, batch, "intent"), batch["labels"], reduction="none")
        loss = trainer.compute_loss(trainer.model.train(), batch).item()
        factors.append(loss / (weights[batch["labels"]] * each).sum().item())
    assert factors == pytest.approx([factors[0]] * len(factors), rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r_drop": -1.0}, "r_drop=-1.0 must be a number of 0 or more, or a dict"),
        ({"r_drop": "much"}, "r_drop='much' must be a number"),
        ({"r_drop": {"pos": "1"}}, r"r_drop\['pos'\]='1' must be a number"),
        ({"r_drop": {"poss": 1.0}}, "r_drop has 'poss', which is no task of the model.*Did you mean 'pos'"),
        ({"teacher_weight": 1.5}, "teacher_weight=1.5 must be from 0 to 1, or None"),
        ({"teacher_temperature": 0.0}, "teacher_temperature=0.0 must be a number above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: Any, message: str, make: Any) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_r_drop_of_a_task_that_cannot_have_it_is_refused_with_the_reason(make: Any) -> None:
    with pytest.raises(ValueError, match=r"Task 'pos' .* neither a teacher nor r_drop: .*\(crf=True\)"):
        make(names=["pos"], r_drop=1.0, fields={"crf": True})


def test_a_command_line_says_them_as_json(tmp_path: Path) -> None:
    args = MultiTaskTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, r_drop='{"pos": 0.5, "ner": 0}', teachers='{"pos": "a/folder"}'
    )
    assert args.r_drop_of(["pos", "intent"]) == {"pos": 0.5}
    assert args.paths_of_teachers() == {"pos": "a/folder"}
    args = MultiTaskTrainingArguments(output_dir=str(tmp_path), use_cpu=True, r_drop="0.5")  # type: ignore[arg-type]
    assert args.r_drop_of(["pos", "intent"]) == {"pos": 0.5, "intent": 0.5}
    with pytest.raises(ValueError, match="teachers='folder' must be a dict, or JSON"):
        MultiTaskTrainingArguments(output_dir=str(tmp_path), use_cpu=True, teachers="folder")


def test_tasks_that_share_rows_have_their_own_teachers_and_passes(tiny_backbone: Any, tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(read_jsonl(Path(__file__).parent / "data" / "trees.jsonl", 8))
    tasks = [TokenClassification.from_dataset(name, rows, tags=name) for name in ("upos", "deprels")]
    model, teacher = (MultiTaskModel.from_backbone(tiny_backbone(), tasks) for _ in range(2))
    args = MultiTaskTrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to="none", use_cpu=True,
        teacher_weight=1.0, r_drop={"deprels": 3.0}, share_rows=True, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    data = dict.fromkeys(("upos", "deprels"), rows)
    trainer = MultiTaskTrainer(model, args, train_dataset=data, teachers={"upos": teacher})
    without_dropout(model)
    (batch, *_) = trainer.get_train_dataloader()
    own = {k: batch[k] for k in ("input_ids", "attention_mask", "token_type_ids", "tasks", "word_positions")}
    with torch.no_grad():
        found, wanted = model(**own).logits, teacher(**own).logits
    learned = {name: labels != -100 for name, labels in batch["labels"].items()}
    losses = {
        "upos": F.cross_entropy(found["upos"][learned["upos"]], wanted["upos"][learned["upos"]].softmax(-1)),
        "deprels": F.cross_entropy(
            found["deprels"][learned["deprels"]], batch["labels"]["deprels"][learned["deprels"]]
        ),
    }
    _, outputs = trainer.compute_loss(model.train(), batch, return_outputs=True)
    for name, loss in losses.items():
        share = learned[name].sum().item() / trainer._labels_per_batch[name]
        assert outputs.task_losses[name].item() == pytest.approx(loss.item(), rel=1e-4)
        assert float(trainer._shares[name]) == pytest.approx(share)
