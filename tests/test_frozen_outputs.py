"""What frozen layers give is computed once a text, and training goes as it goes without."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TextClassification, TokenClassification

TASKS = [
    TextClassification(name="intent", labels=["a", "b", "c"], dropout=0.0),
    TokenClassification(name="pos", labels=["x", "y"], tags="tags", dropout=0.0),
]


def rows() -> dict[str, Any]:
    texts = [" ".join(["show me my card"] * (1 + i % 4)) + f" {i}" for i in range(24)]
    words = [text.split() for text in texts]
    return {
        "intent": [{"text": text, "label": "abc"[i % 3]} for i, text in enumerate(texts)],
        "pos": [{"tokens": w, "tags": ["x" if len(x) > 2 else "y" for x in w]} for w in words],
    }


def trained(folder: str, out: Path, cache: float | None, **options: Any) -> tuple[MultiTaskModel, int]:
    """A model after three epochs, and how many rows went through its first layer."""
    torch.manual_seed(0)
    model = MultiTaskModel.from_backbone(folder, TASKS)
    args = MultiTaskTrainingArguments(
        output_dir=out, num_train_epochs=3, per_device_train_batch_size=4, learning_rate=1e-2, optim="sgd",
        cache_frozen_layers=cache, save_strategy="no", report_to="none", use_cpu=True, **{"freeze_layers": 1} | options,
    )  # fmt: skip
    trainer = MultiTaskTrainer(model, args, train_dataset=rows())
    read: list[int] = []
    first = model._stack()[0].forward
    names = [n for n, m in model._stack()[0].named_modules() if isinstance(m, torch.nn.Linear | Conv1D)]
    linear = model._stack()[0].get_submodule(names[0])
    linear.register_forward_pre_hook(lambda module, args: read.append(len(args[0])))
    trainer.train()
    assert model._stack()[0].forward == first and model._frozen_outputs is None
    return model, sum(read)


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "modernbert", "llama", "gpt2", "mpnet", "roberta"])
def test_training_with_kept_outputs_is_training_without(kind: str, tiny_backbone: Any, tmp_path: Path) -> None:
    expected, all_rows = trained(tiny_backbone(kind), tmp_path, None)
    found, rows_read = trained(tiny_backbone(kind), tmp_path, 0.1)
    # A batch is computed where one of its texts is new; a text's first epoch is its only one.
    assert all_rows == 3 * 48 and rows_read < all_rows / 2
    for (name, a), b in zip(expected.named_parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_layers_that_are_never_unfrozen_are_kept_too(tiny_backbone: Any, tmp_path: Path) -> None:
    schedule = {"freeze_layers": None, "unfreezing": {"1": 1}}  # heads alone in the first epoch, then the upper layer
    expected, all_rows = trained(tiny_backbone(), tmp_path, None, **schedule)
    found, rows_read = trained(tiny_backbone(), tmp_path, 0.1, **schedule)
    assert rows_read < all_rows / 2
    for a, b in zip(expected.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="unfreeze fewer layers"):
        trained(tiny_backbone(), tmp_path, 0.1, freeze_layers=None, unfreezing={"1": 2})


def test_tasks_that_read_the_same_texts_share_what_is_known(tiny_backbone: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MultiTaskModel.from_backbone(tiny_backbone(), TASKS)
    model.freeze_layers(2)
    mask = torch.ones(2, 5, dtype=torch.long)
    mask[1, 3:] = 0
    ids = torch.randint(5, 300, (2, 5))
    model.train()
    with model.keeping_frozen_outputs(0.1):
        first = model.encode(["intent"], mask, input_ids=ids)[-1]
        assert model._frozen_outputs is not None
        with torch.no_grad():
            for parameter in model._stack().parameters():
                parameter.zero_()  # so that only what was kept can give the same
        again = model.encode(["pos"], mask.flip(0)[:, :5], input_ids=ids.flip(0))[-1]
    torch.testing.assert_close(again.flip(0)[mask.bool()], first[mask.bool()])
    changed = model.encode(["intent"], mask, input_ids=ids)[-1]
    assert not torch.allclose(changed[mask.bool()], first[mask.bool()])


def test_full_memory_is_said_once_and_the_rest_is_computed(
    tiny_backbone: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected, all_rows = trained(tiny_backbone(), tmp_path, None)
    with caplog.at_level("WARNING"):
        found, rows_read = trained(tiny_backbone(), tmp_path, 20 * 32 * 4 / 1024**3)  # twenty tokens' worth
    assert rows_read == all_rows and caplog.text.count("memory for frozen layers is full") == 1
    for a, b in zip(expected.parameters(), found.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"freeze_layers": None, "cache_frozen_layers": 1.0}, "none is frozen all the time: set freeze_layers"),
        ({"freeze_layers": 1, "cache_frozen_layers": 0.0}, "cache_frozen_layers=0.0 must be more than 0"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    given: dict[str, Any], message: str, tiny_backbone: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        args = MultiTaskTrainingArguments(output_dir=tmp_path, report_to="none", use_cpu=True, max_steps=1, **given)
        MultiTaskTrainer(MultiTaskModel.from_backbone(tiny_backbone(), TASKS), args, train_dataset=rows()).train()


def test_layers_that_pass_on_more_are_refused(tiny_backbone: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pass on more than the hidden states"):
        trained(tiny_backbone("t5"), tmp_path, 0.1)


def test_a_forward_that_someone_put_on_a_layer_stays_there(tiny_backbone: Any) -> None:
    model = MultiTaskModel.from_backbone(tiny_backbone(), TASKS)
    model.freeze_layers(1)
    layer = model._stack()[0]
    own = layer.forward
    layer.forward = put = lambda *args, **kwargs: own(*args, **kwargs)  # as accelerate's hooks do
    ids = torch.randint(5, 300, (2, 5))
    model.train()
    with model.keeping_frozen_outputs(0.1):
        for _ in range(2):  # computed, and known
            model.encode(["intent"], torch.ones_like(ids), input_ids=ids)
            assert layer.forward is put
