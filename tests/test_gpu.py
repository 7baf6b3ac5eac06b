"""Training and answering on a GPU, where there is one, against the same on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_adapters import model_of, texts
from two_tasks import lora, two_tasks

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def losses(trainer: Any) -> list[float]:
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # a GPU draws other numbers
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("settings", [{}, {"balancing": "pcgrad"}, {"batching": "mixed"}], ids=str)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_training_in_half_precision_takes_the_steps_of_float32(
    precision: str, settings: dict[str, Any], tiny_backbone: Any, rows: Any, tmp_path: Path
) -> None:
    own = {"optim": "sgd", "learning_rate": 0.1, **settings}
    exact = losses(two_tasks(tiny_backbone(), rows, tmp_path / "cpu", lora(), **own))
    trainer = two_tasks(tiny_backbone(), rows, tmp_path / "gpu", lora(), use_cpu=False, **{precision: True}, **own)
    found = losses(trainer)
    assert trainer.args.device.type == "cuda" and found == pytest.approx(exact, rel=0.05)
    assert max(exact) - min(exact) > 0.1
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in trainer.model.parameters())


def test_rows_of_several_tasks_are_answered_as_on_the_cpu(tiny_backbone: Any) -> None:
    model, inputs = model_of(tiny_backbone()), texts(8)
    ids = torch.tensor([0, 3, 1, 1, 2, 0, 3, 2])
    with torch.no_grad():
        exact = model(**inputs, task_ids=ids).logits
        there = {key: value.cuda() for key, value in inputs.items()}
        found = model.cuda()(**there, task_ids=ids.cuda()).logits
    for name, logits in exact.items():
        torch.testing.assert_close(found[name].cpu(), logits, atol=1e-4, rtol=1e-4)
