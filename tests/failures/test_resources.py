"""Memory, disk and loading processes that run out: real limits of the system, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from hf_mtl.failures import BatchMemoryError, LoadingError
from hf_mtl.failures.resources import NoBatchError


class Hungry(torch.nn.Module):
    """A head that asks the system for more memory than there can be, where it has more rows than so many.

    The first `spared` batches are let through.
    """

    spared = 0

    def __init__(self, head: torch.nn.Module, most: int, seen: list[int]) -> None:
        super().__init__()
        self.head, self.most, self.seen = head, most, seen

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(len(hidden))
        if len(hidden) > self.most and len(self.seen) > self.spared:
            torch.empty(2**58, dtype=torch.uint8)
        return self.head(hidden, *args, **kwargs)


def hungry(trainer: Any, most: int) -> list[int]:
    """Makes the task `long` hungry; gives the rows of its batches, as they come."""
    seen: list[int] = []
    trainer.model.heads["long"] = Hungry(trainer.model.heads["long"], most, seen)
    return seen


def test_a_batch_that_is_too_large_is_named_with_what_to_lower(make: Any) -> None:
    trainer = make(per_device_train_batch_size=8)
    hungry(trainer, 4)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        trainer.train()
    said = str(caught.value)
    assert isinstance(caught.value, BatchMemoryError) and "Step 1 ran out of memory. The batch: 8 rows of up to" in said
    assert "tokens, of task 'long'. To do: lower per_device_train_batch_size (now 8)" in said
    for way in ("gradient_accumulation_steps", "max_tokens_per_batch", "max_length", "activation_checkpointing=True"):
        assert way in said
    assert "DefaultCPUAllocator: can't allocate memory" in said


def test_the_tasks_own_batch_size_is_what_to_lower_where_it_has_one(make: Any) -> None:
    trainer = make(batch_sizes={"long": 6}, max_tokens_per_batch=500, activation_checkpointing=True)
    hungry(trainer, 1)
    with pytest.raises(BatchMemoryError, match=r"lower batch_sizes\['long'\].*lower max_tokens_per_batch \(now 500\)"):
        trainer.train()


@pytest.mark.parametrize("settings", [{}, {"batch_sizes": {"long": 16}}, {"max_tokens_per_batch": 400},
                                      {"balancing": "pcgrad"}])  # fmt: skip
def test_auto_find_batch_size_comes_down_until_the_batch_fits(make: Any, settings: dict[str, Any]) -> None:
    most = 10 if "batch_sizes" in settings else 5
    trainer = make(per_device_train_batch_size=8, auto_find_batch_size=True, max_steps=4, **settings)
    seen = hungry(trainer, most)
    trainer.train()
    assert trainer.state.global_step == 4
    assert trainer._train_batch_size <= 6 and trainer.state.train_batch_size == trainer._train_batch_size
    own = trainer._sampler.rows_per_batch()["long"]
    assert own <= most < max(seen) and seen[-1] <= most
    if not settings:
        assert own == trainer._train_batch_size == 5


class Interrupts(TrainerCallback):
    """Ends a try after its third step, as a kill would."""

    def __init__(self, of_try: int) -> None:
        self.of_try, self.tries = of_try, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tries += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.tries == self.of_try and state.global_step == 3:
            raise KeyboardInterrupt


def test_a_run_is_not_resumed_from_a_try_that_the_memory_did_not_hold(make: Any) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2, "auto_find_batch_size": True, "mixing": "round_robin"}
    trainer = make(per_device_train_batch_size=8, callbacks=[Interrupts(2)], **settings)
    # The first try gets to its fifth step, and has saved after the second and the fourth one.
    trainer.model.heads["long"] = Hungry(trainer.model.heads["long"], 7, seen := [])
    trainer.model.heads["long"].spared = 4
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert seen[4] == 8 and max(seen[5:]) == 7
    assert [path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = make(per_device_train_batch_size=8, **settings)
    hungry(resumed, 7)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 12 and resumed._train_batch_size == 7


def test_a_resumed_run_outlives_a_failed_try_that_has_deleted_its_start(make: Any) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2, "auto_find_batch_size": True, "mixing": "round_robin"}
    settings |= {"save_total_limit": 1, "per_device_train_batch_size": 8}
    killed = make(callbacks=[Interrupts(1)], **settings)
    hungry(killed, 8)  # so that its head's weights have the same names
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = make(**settings)
    resumed.model.heads["long"] = Hungry(resumed.model.heads["long"], 7, seen := [])
    resumed.model.heads["long"].spared = 4  # it gets to its seventh step
    resumed.train(resume_from_checkpoint=True)
    assert seen[4] == 8 and resumed._train_batch_size == 7
    assert [entry["step"] for entry in resumed.state.log_history if "loss" in entry] == list(range(1, 13))


def test_auto_find_batch_size_that_finds_none_says_which_row_is_too_large(make: Any) -> None:
    trainer = make(per_device_train_batch_size=2, auto_find_batch_size=True)
    hungry(trainer, 0)
    with pytest.raises(NoBatchError, match=r"come down to one row a batch\. Step 1 .*1 rows of up to \d+ tokens"):
        trainer.train()


def test_auto_find_batch_size_leaves_a_token_budget_that_holds_the_longest_row(make: Any) -> None:
    longest = max(int(part.lengths().max()) for part in make().train_dataset.parts.values())
    trainer = make(per_device_train_batch_size=8, auto_find_batch_size=True, max_tokens_per_batch=longest, max_steps=4)
    seen = hungry(trainer, 1)
    trainer.train()
    assert trainer.state.global_step == 4
    assert max(seen) > 1 and seen[-1] == 1


class Evaluates(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_evaluate = True


def test_auto_find_batch_size_leaves_it_to_the_user_to_lower_the_rows_of_an_evaluation(make: Any) -> None:
    trainer = make(auto_find_batch_size=True, callbacks=[Evaluates()])
    trainer.eval_dataset = {"long": trainer.train_dataset.parts["long"]}
    seen = hungry(trainer, 4)
    with pytest.raises(NoBatchError, match=r"Evaluating 'long' .* Lower per_device_eval_batch_size \(now 8\)"):
        trainer.train()
    assert set(seen) == {4, 8}  # the training's own batches are as they were


def test_evaluation_that_is_too_large_names_its_own_batch_size(make: Any) -> None:
    trainer = make()
    hungry(trainer, 2)
    data = {"long": trainer.train_dataset.parts["long"].rows}
    with pytest.raises(BatchMemoryError, match=r"Evaluating 'long' .* Lower per_device_eval_batch_size \(now 8\)"):
        trainer.evaluate(data)


class Dies(torch.nn.Module):
    """A head that, in its third batch, ends the process's first child as the system does for want of memory."""

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.head, self.batches = head, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        import multiprocessing
        import signal

        self.batches += 1
        if self.batches == 3:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        return self.head(*args, **kwargs)


def test_a_loading_process_that_dies_is_named(make: Any) -> None:
    trainer = make(dataloader_num_workers=1, max_steps=50)
    trainer.model.heads["long"] = Dies(trainer.model.heads["long"])
    with pytest.raises(LoadingError, match=r"one of the 1 processes that load batches has died.*set dataloader_num_wo"):
        trainer.train()


# Run in a process of its own: a limit on the size of files, which is what a full disk is to those who write.
FULL = """
import os, resource, sys
from transformers import TrainerCallback
from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TextClassification
class Full(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
backbone, folder = sys.argv[1:]
rows = [{"text": text, "label": text[0]} for text in ("a cat", "a dog", "the cat", "the dog")]
model = MultiTaskModel.from_backbone(backbone, [TextClassification(name="first", labels=("a", "t"))])
args = MultiTaskTrainingArguments(folder, max_steps=6, save_strategy="steps", save_steps=2, use_cpu=True,
                                  per_device_train_batch_size=2, report_to="none", disable_tqdm=True)
trainer = MultiTaskTrainer(model, args, train_dataset={"first": rows}, callbacks=[Full()])
try:
    trainer.train()
except OSError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(error)
again = MultiTaskTrainer(model, args, train_dataset={"first": rows})
again.train(resume_from_checkpoint=os.path.join(folder, "checkpoint-2"))
print("went on to", again.state.global_step)
"""


def test_a_full_disk_names_the_checkpoint_and_the_one_before_goes_on(tiny_backbone: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", FULL, tiny_backbone(), str(folder)], capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert "The checkpoint of step 4 could not be written to" in done.stdout, done.stderr[-2000:]
    assert "MiB are free there). Make room, or keep less: save_total_limit" in done.stdout
    assert f"resume_from_checkpoint='{folder / 'checkpoint-2'}' goes on from there." in done.stdout
    assert "went on to 6" in done.stdout


def test_a_folder_that_is_a_file_is_refused_before_the_rows_are_encoded(make: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"output_dir='.*taken/out': .*taken is a file\. Name another folder\."):
        make(output_dir=str(tmp_path / "taken" / "out"))
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_a_model_is_not_saved_below_a_file(make: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"output_dir='.*taken/out': .*taken is a file\. Name another folder\."):
        make().save_model(str(tmp_path / "taken" / "out"))


def test_a_folder_that_cannot_be_written_is_refused(make: Any) -> None:
    # Not even root can write into /proc.
    with pytest.raises(OSError, match=r"output_dir='/proc/out': nothing can be written into /proc"):
        make(output_dir="/proc/out")
