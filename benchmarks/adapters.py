"""What per-task adapters cost: mixed batches beside the bare backbone, peft's own way, and one batch a task.

    taskset -c 1 python benchmarks/adapters.py [PART ...] [--turns N] [--tasks N] [--rank R]

Parts: `forward`, `backward`, `trunk`, `number`, `trainer` (all where none is named). all-MiniLM-L6-v2, adapters in all
linear layers, one thread, processor time. In each turn every way runs once, in a new order; printed is the median over
turns of a way's time over that of the turn's yardstick, which is named first with its median time.

Memory that is freed is kept by the process (glibc). Else a way pays for some or all of its pages anew, by what was
freed before it: full fine-tuning up to 20,000 pages a step, a tenth of its time.
"""

import argparse
import contextlib
import ctypes
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import datasets
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModel, TrainerCallback

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TextClassification
from hf_mtl.adapters import native
from hf_mtl.bundled import locate_backbone

BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
LAYERS = 6
SIZES = [(64, 32), (16, 16)]
Ways = Mapping[str, Callable[[], Any]]


def keep_freed_memory() -> None:
    trim_threshold, mmap_threshold, most = -1, -3, 32 * 1024 * 1024
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError):  # not glibc
        return
    if not (set_option(mmap_threshold, most) and set_option(trim_threshold, 2**31 - 1)):
        print("freed memory is given back")


def lora(rank: int) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear")


def bare() -> Any:
    return AutoModel.from_pretrained(locate_backbone(BACKBONE), add_pooling_layer=False).eval()


def routed(number: int, config: LoraConfig, **kwargs: Any) -> MultiTaskModel:
    tasks = [TextClassification(name=f"task{i}", labels=["no", "yes"], dropout=0.0) for i in range(number)]
    return filled(MultiTaskModel.from_backbone(BACKBONE, tasks, adapters=config, **kwargs))


def in_peft(number: int, config: LoraConfig) -> PeftModel:
    model = get_peft_model(bare(), config, adapter_name="task0")
    for i in range(1, number):
        model.add_adapter(f"task{i}", config)
    return filled(model).eval()


def filled(model: Any) -> Any:
    """Adapters that do something: fresh ones add zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return model


def batch(rows: int, tokens: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(1000, 20000, (rows, tokens), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def of_tasks(rows: int, tasks: int) -> torch.Tensor:
    """Which task each row is of: as many of each, sorted, as `forward` sorts the rows that it is given."""
    return torch.arange(rows) * tasks // rows


def measure(title: str, ways: Ways, turns: int, goals: Mapping[str, float], scale: Mapping[str, float] = {}) -> None:
    """Times every way in each turn; the first is the yardstick. `scale`: how many yardsticks a way may take."""
    order = list(ways)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    shuffle = random.Random(0)
    for turn in range(turns + 2):
        shuffle.shuffle(order)
        for name in order:
            start = time.process_time()
            ways[name]()
            if turn >= 2:  # the first ones fill caches
                taken[name].append(time.process_time() - start)
    yard = next(iter(ways))
    print(f"{title}: {yard} {statistics.median(taken[yard]) * 1000:.1f} ms")
    for name in list(ways)[1:]:
        part = scale.get(name, 1.0)
        ratios = [a / b / part for a, b in zip(taken[name], taken[yard], strict=True)]
        unit = f" of {part:.2f} {yard}s" if name in scale else ""
        print_ratios(name, ratios, goals.get(name), unit)


def print_ratios(name: str, ratios: Sequence[float], goal: float | None, unit: str = "") -> None:
    low, middle, high = statistics.quantiles(ratios, n=4)
    wanted = "" if goal is None else f"; goal: at most {goal:.2f}"
    print(f"    {name:34} {middle:.3f}{unit} (quartiles {low:.3f} to {high:.3f}{wanted})", flush=True)


def by_parts(model: MultiTaskModel, names: list[str], inputs: dict[str, torch.Tensor], index: torch.Tensor) -> None:
    """The rows of one task at a time."""
    for i, name in enumerate(names):
        model.encode([name], **{k: v[index == i] for k, v in inputs.items()})


def forward(tasks: int, rank: int, turns: int) -> None:
    backbone, model, peft_model = bare(), routed(tasks, lora(rank)), in_peft(tasks, lora(rank))
    names = list(model.tasks)
    for rows, tokens in SIZES:
        inputs, index = batch(rows, tokens), of_tasks(rows, tasks)
        adapters = [names[i] for i in index]
        ways = {
            "bare backbone": lambda inputs=inputs: backbone(**inputs),
            "one adapter for all rows": lambda inputs=inputs: model.encode(names[:1], **inputs),
            "each row its own": lambda inputs=inputs, index=index: model.encode(names, index=index, **inputs),
            "peft's adapter_names": lambda inputs=inputs, a=adapters: peft_model(**inputs, adapter_names=a),
            "a batch a task": lambda inputs=inputs, index=index: by_parts(model, names, inputs, index),
        }
        with torch.no_grad():
            title = f"forward, {rows} x {tokens} tokens, {tasks} tasks"
            measure(title, ways, turns, {"each row its own": 1.07})


def backward(tasks: int, rank: int, turns: int) -> None:
    full, model, peft_model = bare().train(), routed(tasks, lora(rank)), in_peft(tasks, lora(rank))
    names = list(model.tasks)
    model.train()
    for name, parameter in peft_model.named_parameters():
        parameter.requires_grad = "lora_" in name
    every = (full, model, peft_model)
    optimizers = {m: torch.optim.SGD([p for p in m.parameters() if p.requires_grad]) for m in every}
    for rows, tokens in SIZES:
        inputs, index = batch(rows, tokens), of_tasks(rows, tasks)
        adapters, few = [names[i] for i in index], (torch.arange(rows) > rows // 2).long()

        def step(module: nn.Module, run: Callable[[], torch.Tensor]) -> None:
            run().pow(2).mean().backward()
            optimizers[module].zero_grad()

        ways = {
            "full fine-tuning": lambda i=inputs: step(full, lambda: full(**i).last_hidden_state),
            "one adapter for all rows": lambda i=inputs: step(model, lambda: model.encode(names[:1], **i)[-1]),
            "two tasks, one has more rows": lambda i=inputs, x=few: step(
                model, lambda: model.encode(names[:2], index=x, **i)[-1]
            ),
            "each row its own": lambda i=inputs, x=index: step(model, lambda: model.encode(names, index=x, **i)[-1]),
            "peft's adapter_names": lambda i=inputs, a=adapters: step(
                peft_model, lambda: peft_model(**i, adapter_names=a).last_hidden_state
            ),
        }
        title = f"forward + backward, {rows} x {tokens} tokens, {tasks} tasks"
        measure(title, ways, turns, {"each row its own": 0.79})


def trunk(tasks: int, rank: int, turns: int) -> None:
    backbone, inputs, ways, goals, scale = bare(), batch(16, 32), {}, {}, {}
    ways["forward"] = lambda: backbone(**inputs)
    for first in (0, 3, 5):
        model = routed(tasks, lora(rank), first_layer=first)
        name = f"trunk of {first} layers"
        ways[name] = lambda model=model: model(**inputs)
        goals[name] = 1.1 if first else 1.02
        scale[name] = (first + tasks * (LAYERS - first)) / LAYERS
    with torch.no_grad():
        measure(f"all of {tasks} tasks on each text, 16 x 32 tokens", ways, turns, goals, scale)


def number(rank: int, turns: int) -> None:
    """The same batch of two tasks, the more tasks the model has."""
    inputs = batch(16, 16)
    forwards, steps = {}, {}
    for tasks in (2, 16, 128):
        model = routed(tasks, lora(rank))
        ids = torch.arange(16) % 2
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        labels = {f"task{i}": torch.zeros(8, dtype=torch.long) for i in range(2)}

        def step(model: Any = model, optimizer: Any = optimizer, ids: Any = ids, labels: Any = labels) -> None:
            model(**inputs, task_ids=ids, labels=labels).loss.backward()
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
            optimizer.step()
            optimizer.zero_grad()

        def answer(model: Any = model, ids: Any = ids) -> None:
            with torch.no_grad():
                model(**inputs, task_ids=ids)

        forwards[f"{tasks} tasks"], steps[f"{tasks} tasks"] = answer, step
        counts = model.parameter_counts()
        own = sum(p.numel() for p in model.parameters()) - counts["backbone"]["all"]
        print(f"{tasks} tasks: {own:,} parameters of their own")
    measure("forward of two tasks' rows, 16 x 16 tokens", forwards, turns, {"128 tasks": 1.02})
    measure("training step of two tasks' rows, 16 x 16 tokens", steps, turns, {"128 tasks": 1.05})


class Clock(TrainerCallback):
    """How long each optimizer step but the first few took."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.process_time())

    def seconds(self) -> list[float]:
        return [after - before for before, after in pairwise(self.ends[2:])]


def trainer(rank: int, turns: int) -> None:
    """The same in MultiTaskTrainer, from one step's end to the next one's: batches, losses, norm and log as always."""
    texts = {f"task{i}": [{"text": "one two three four five six seven " * 2, "label": "no"}] * 64 for i in range(2)}
    taken: dict[int, list[float]] = {2: [], 16: [], 128: []}
    with tempfile.TemporaryDirectory() as folder:
        args = MultiTaskTrainingArguments(
            output_dir=folder, max_steps=12, per_device_train_batch_size=16, batching="mixed", report_to="none",
            save_strategy="no", disable_tqdm=True, use_cpu=True, logging_steps=5,
        )  # fmt: skip
        trainers = {tasks: MultiTaskTrainer(routed(tasks, lora(rank)), args, train_dataset=texts) for tasks in taken}
        shuffle = random.Random(0)
        for _ in range(turns):
            for tasks, one in shuffle.sample(list(trainers.items()), len(trainers)):
                one.add_callback(clock := Clock())
                with contextlib.redirect_stdout(None):
                    one.train()
                one.remove_callback(clock)
                taken[tasks].append(statistics.median(clock.seconds()))
    yard = statistics.median(taken[2]) * 1000
    print(f"step of MultiTaskTrainer, two tasks' rows, 16 x 16 tokens: 2 tasks {yard:.1f} ms")
    for tasks in (16, 128):
        ratios = [a / b for a, b in zip(taken[tasks], taken[2], strict=True)]
        print_ratios(f"{tasks} tasks", ratios, 1.05 if tasks == 128 else None)


def main() -> None:
    parts = ["forward", "backward", "trunk", "number", "trainer"]
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=parts)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--rank", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    wide = ", with the base layers'" if native.wide_products() else ""
    print(f"torch {torch.__version__}, adapters' products by {native.instructions() or 'torch'}{wide}")
    for part in given.parts or parts:
        if part == "forward":
            forward(given.tasks, given.rank, given.turns)
        elif part == "backward":
            backward(given.tasks, given.rank, given.turns)
        elif part == "trunk":
            trunk(8, given.rank, given.turns)
        elif part == "number":
            number(given.rank, given.turns)
        else:
            trainer(given.rank, max(given.turns // 3, 2))


if __name__ == "__main__":
    main()
