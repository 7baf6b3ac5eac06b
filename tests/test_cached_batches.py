"""Batches embedded part by part: the loss and the gradients of the whole batch, without its activations."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # this file is also what the processes of the last test run

import pytest
import torch
from peft import LoraConfig

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TextClassification
from hf_mtl.data import MultiTaskCollator, encode_dataset
from hf_mtl.tasks.sentence_embedding import SentenceEmbedding

WORDS = ["red", "old", "big", "new", "odd", "dry", "cold"]
ROWS = [{"text": f"{w} things", "positive": f"a very {w} one", "negative": f"one that is not {w}"} for w in WORDS]
LORA = LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.1, init_lora_weights=False)


def make(folder: str, size: int | None, adapters: Any = None, **fields: Any) -> MultiTaskModel:
    torch.manual_seed(0)
    task = SentenceEmbedding(name="near", mini_batch_size=size, **fields)
    return MultiTaskModel.from_backbone(folder, [task], adapters=adapters)


def batch_of(model: MultiTaskModel, rows: list[dict[str, Any]] = ROWS) -> dict[str, Any]:
    encoded = encode_dataset(model.tasks["near"], 0, rows, model.tokenizer, "train")
    return MultiTaskCollator(model.tokenizer, list(model.tasks.values()))([encoded[i] for i in range(len(encoded))])


def gradients(model: MultiTaskModel) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def learned(model: MultiTaskModel, batch: Mapping[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and its gradients, each time with the same random numbers."""
    model.zero_grad()
    torch.manual_seed(1)
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), gradients(model)


def furthest(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> float:
    """The largest difference, as a part of the largest value."""
    assert one and one.keys() == two.keys()
    largest = max(tensor.abs().max().item() for tensor in two.values())
    return max((one[name] - two[name]).abs().max().item() for name in one) / largest


@pytest.mark.parametrize("adapters", [None, LORA])
@pytest.mark.parametrize(
    ("size", "fields"),
    [(1, {}), (3, {"negative": "negative"}), (3, {"dimensions": (8, 32)}), (2, {"layer": 1}), (7, {}), (100, {})],
)
def test_loss_and_gradients_are_those_of_the_whole_batch(
    size: int, fields: dict[str, Any], adapters: Any, tiny_backbone: Any
) -> None:
    (plain, wanted), (cached, found) = (
        learned(model, batch_of(model))
        for model in (make(tiny_backbone(), s, adapters, **fields) for s in (None, size))
    )
    assert cached == pytest.approx(plain, abs=1e-6)
    assert max(gradient.abs().max() for gradient in wanted.values()) > 1e-3
    assert furthest(found, wanted) < 1e-5


def by_hand(model: MultiTaskModel, batch: Mapping[str, Any], size: int) -> torch.Tensor:
    """The loss of the same parts in the same order, with their whole graph in memory."""
    model.zero_grad()
    torch.manual_seed(1)
    vectors = []
    for groups in batch["row_groups"].split(size):
        rows = groups.flatten()
        part = {key: batch[key][rows] for key in ("input_ids", "attention_mask", "token_type_ids")}
        own = torch.arange(len(rows)).view_as(groups)
        vectors.append(model(**part, tasks=["near"], row_groups=own).logits["near"])
    return model.heads["near"].loss(torch.cat(vectors), batch["labels"])


@pytest.mark.parametrize("adapters", [None, LORA])
def test_dropout_is_the_same_in_both_runs_of_a_part(adapters: Any, tiny_backbone: Any) -> None:
    model = make(tiny_backbone(), 3, adapters).train()
    batch = batch_of(model)
    _, found = learned(model, batch)
    by_hand(model, batch, 3).backward()
    assert furthest(found, gradients(model)) < 1e-5
    assert furthest(found, learned(model.eval(), batch)[1]) > 1e-4, "there was no dropout"


@pytest.mark.parametrize("adapters", [None, LORA])
def test_bfloat16_autocast_is_the_same_in_both_runs_of_a_part(adapters: Any, tiny_backbone: Any) -> None:
    model = make(tiny_backbone(), 3, adapters).train()
    batch = batch_of(model)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        loss = model(**batch).loss
    loss.backward()  # outside, as transformers' Trainer does it
    found = gradients(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = by_hand(model, batch, 3)
    loss.backward()
    assert furthest(found, gradients(model)) < 1e-5


def test_a_scaled_loss_scales_the_gradients(tiny_backbone: Any) -> None:
    model = make(tiny_backbone(), 3)
    batch = batch_of(model)
    _, wanted = learned(model, batch)
    model.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(model(**batch).loss).backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler.unscale_(optimizer)
    assert furthest(gradients(model), wanted) < 1e-5


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("adapters", [None, LORA])
def test_layers_may_be_activation_checkpoints_too(adapters: Any, reentrant: bool, tiny_backbone: Any) -> None:
    model = make(tiny_backbone(), 3, adapters).train()
    batch = batch_of(model)
    _, wanted = learned(model, batch)
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:  # these need an input that has a gradient
        model.backbone.enable_input_require_grads()
    _, found = learned(model, batch)
    assert furthest(found, wanted) < 1e-5


def kept_bytes(model: MultiTaskModel, batch: Mapping[str, Any]) -> int:
    """What lies in memory between forward and backward for the backward's sake, less the parameters."""
    own = {p.data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            found[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(**batch)
    assert output.loss is not None
    return sum(found.values())


def test_no_activations_are_kept_whatever_the_length_of_the_texts(tiny_backbone: Any) -> None:
    longer = [{name: f"{text} " * 5 for name, text in row.items()} for row in ROWS]
    plain, cached = (make(tiny_backbone(), size).train() for size in (None, 2))
    assert kept_bytes(cached, batch_of(cached)) < kept_bytes(plain, batch_of(plain)) / 10
    assert kept_bytes(cached, batch_of(cached, longer)) < kept_bytes(plain, batch_of(plain, longer)) / 50


def test_rows_of_another_task_in_the_batch_learn_as_without(tiny_backbone: Any) -> None:
    def run(size: int | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        tasks = [
            TextClassification(name="kind", labels=("a", "b")),
            SentenceEmbedding(name="near", mini_batch_size=size),
        ]
        model = MultiTaskModel.from_backbone(tiny_backbone(), tasks, adapters=LORA)
        rows = [{"text": word, "label": "a"} for word in WORDS[:3]]
        parts = [
            encode_dataset(task, k, rows if k == 0 else ROWS, model.tokenizer, "train") for k, task in enumerate(tasks)
        ]
        batch = MultiTaskCollator(model.tokenizer, tasks)([*(parts[0][i] for i in range(3)), parts[1][0], parts[1][1]])
        return learned(model, batch)[1]

    assert furthest(run(1), run(None)) < 1e-5


def test_without_labels_or_gradients_the_batch_is_run_as_a_whole(tiny_backbone: Any) -> None:
    plain, cached = (make(tiny_backbone(), size) for size in (None, 2))
    batch = batch_of(plain)
    with torch.no_grad():
        assert torch.equal(cached(**batch).loss, plain(**batch).loss)
    del batch["labels"]
    assert torch.equal(cached(**batch).logits["near"], plain(**batch).logits["near"])


@pytest.mark.parametrize("size", [0, 1.5, True])
def test_a_size_that_cannot_be_is_named(size: Any) -> None:
    with pytest.raises(ValueError, match=r"'near': mini_batch_size must be a whole number of 1 or more"):
        SentenceEmbedding(name="near", mini_batch_size=size)


# ---------------------------------------------------------------------- trainer


def trained(folder: str, out: Path, size: int | None, accumulation: int, adapters: Any) -> dict[str, torch.Tensor]:
    """The weights after three steps, without dropout, which parts of other sizes would draw otherwise."""
    model = make(folder, size, adapters)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    args = MultiTaskTrainingArguments(
        output_dir=str(out), max_steps=3, per_device_train_batch_size=4, gradient_accumulation_steps=accumulation,
        optim="sgd", learning_rate=0.5, report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = MultiTaskTrainer(model, args, train_dataset={"near": ROWS * 4})
    trainer.train()
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.mark.parametrize("adapters", [None, LORA])
def test_with_accumulation_the_trainer_learns_what_it_learns_without_parts(
    adapters: Any, tiny_backbone: Any, tmp_path: Path
) -> None:
    plain, cached = (trained(tiny_backbone(), tmp_path, size, 2, adapters) for size in (None, 3))
    assert furthest(plain, cached) < 1e-5
    assert furthest(plain, make(tiny_backbone(), None, adapters).state_dict()) > 1e-4, "nothing was learned"


def test_two_processes_learn_what_they_learn_without_parts(tiny_backbone: Any, tmp_path: Path) -> None:
    found = []
    for size in (0, 3):
        out = tmp_path / f"{size}.pt"
        launcher = ["torch.distributed.run", "--nproc-per-node", "2"]
        rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
        command = [sys.executable, "-m", *launcher, *rendezvous, __file__, tiny_backbone(), str(out), str(size)]
        done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert out.exists(), done.stderr[-3000:]
        found.append(torch.load(out))
    assert furthest(*found) < 1e-5


if __name__ == "__main__":
    result = Path(sys.argv[2])
    weights = trained(sys.argv[1], result.with_suffix(""), int(sys.argv[3]) or None, 2, None)
    if torch.distributed.get_rank() == 0:
        torch.save(weights, result)
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort an orderly exit
