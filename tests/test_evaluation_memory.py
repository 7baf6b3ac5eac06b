"""What an evaluation keeps of its logits grows with the rows, not with the rows times the longest of them."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TokenClassification

LABELS = tuple(f"l{i}" for i in range(50))


class Watched(MultiTaskTrainer):
    """Adds up the memory that the logits lie in."""

    kept = 0

    def _logits(self, name: str, part: Any, prefix: str) -> Any:
        found = super()._logits(name, part, prefix)
        whole = {id(base): base for base in (values if values.base is None else values.base for values in found[0])}
        self.kept = sum(base.nbytes for base in whole.values())
        return found


def test_rows_are_padded_within_their_batch_alone(tiny_backbone: Any, tmp_path: Path) -> None:
    counts = [2] * 200 + [100]
    data = Dataset.from_list([{"tokens": ["a"] * n, "tags": [LABELS[n % 50]] * n} for n in counts])
    model = MultiTaskModel.from_backbone(tiny_backbone(), [TokenClassification(name="pos", labels=LABELS)])
    args = MultiTaskTrainingArguments(
        str(tmp_path), per_device_eval_batch_size=8, use_cpu=True, report_to="none", disable_tqdm=True
    )
    trainer = Watched(model, args, train_dataset={"pos": data}, eval_dataset={"pos": data})
    scores = trainer.evaluate()
    assert np.isfinite(scores["eval_pos_loss"]) and trainer.args.eval_do_concat_batches
    longest_batch = 8 * 100 * len(LABELS) * 4
    assert sum(counts) * len(LABELS) * 4 <= trainer.kept <= sum(counts) * len(LABELS) * 4 + longest_batch
