"""Losses over labels: PyTorch's own, a slow computation in NumPy, and scikit-learn's weights."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from hf_mtl.tasks.label_losses import (
    BinaryLoss,
    LabelLoss,
    balanced_weights,
    choice_loss,
    positive_weights,
    total_weight,
)

WEIGHTS = (0.5, 2.0, 1.0, 3.5)
SETTINGS = [(None, 0.0), (None, 0.1), (WEIGHTS, 0.0), (WEIGHTS, 0.3)]


def drawn(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*shape, 4, generator=generator)
    labels = torch.randint(0, 4, shape, generator=generator)
    return logits.requires_grad_(), labels


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize(("weights", "smoothing"), SETTINGS)
def test_value_and_gradient_are_those_of_pytorchs_cross_entropy(weights, smoothing):
    logits, labels = drawn(5, 7)
    labels[1, 3:] = -100
    tensor = None if weights is None else torch.tensor(weights)
    wanted = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight=tensor, label_smoothing=smoothing)
    found = LabelLoss(weights=weights, smoothing=smoothing)(logits, labels)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("weights", "smoothing"), SETTINGS)
def test_the_value_is_that_of_a_loop_over_rows(weights, smoothing):
    logits, labels = drawn(9)
    counts = np.ones(4) if weights is None else np.array(weights)
    told = log_softmax(logits.detach().numpy().astype(np.float64))
    total = 0.0
    for row, label in zip(told, labels.tolist(), strict=True):
        target = np.full(4, smoothing / 4)
        target[label] += 1 - smoothing
        total -= (target * counts * row).sum()
    found = LabelLoss(weights=weights, smoothing=smoothing)(logits, labels)
    assert found.item() == pytest.approx(total / counts[labels.numpy()].sum(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_where_no_label_counts_the_loss_is_0_and_so_is_its_gradient(smoothing):
    logits, labels = drawn(3)
    for loss, gold in ((LabelLoss(weights=(0.0, 1, 1, 1), smoothing=smoothing), torch.zeros_like(labels)),
                       (LabelLoss(smoothing=smoothing), torch.full_like(labels, -100))):  # fmt: skip
        found = loss(logits, gold)
        assert found.item() == 0 and not torch.autograd.grad(found, logits)[0].any()


def test_what_labels_count_together_leaves_out_those_that_are_not_learned():
    labels = torch.tensor([[0, 1, -100], [3, -100, -100]])
    assert total_weight(labels, None).item() == 3
    assert total_weight(labels, WEIGHTS).item() == pytest.approx(6.0)


def test_balanced_weights_are_scikit_learns():
    labels = ["b"] * 7 + ["a"] * 2 + ["c"]
    wanted = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=labels)
    assert list(balanced_weights(Counter(labels), ["a", "b", "c"]).values()) == pytest.approx(wanted.tolist())


def test_a_label_without_rows_counts_1_which_is_the_mean_of_all_rows():
    counts = Counter(["b"] * 7 + ["a"] * 2)
    weights = balanced_weights(counts, ["a", "b", "z"])
    assert weights["z"] == 1.0
    assert sum(weights[name] * count for name, count in counts.items()) / 9 == pytest.approx(1.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_binary_loss_is_that_of_a_loop_over_rows_and_labels(smoothing):
    logits, _ = drawn(6)
    gold = (torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    values, total = logits.detach().numpy().astype(np.float64), 0.0
    for i in range(6):
        for k in range(4):
            share = 1 / (1 + np.exp(-values[i, k]))
            target = gold[i, k].item() * (1 - smoothing) + smoothing / 2
            total -= WEIGHTS[k] * target * np.log(share) + (1 - target) * np.log(1 - share)
    assert BinaryLoss(weights=WEIGHTS, smoothing=smoothing)(logits, gold).item() == pytest.approx(total / 24, rel=1e-5)


def test_positive_weights_let_both_sides_of_a_label_count_the_same():
    found = positive_weights({"a": 100, "all": 400}, ["a", "all", "none"], 400)
    assert found == {"a": 3.0, "all": 1.0, "none": 1.0}
    wanted = compute_class_weight("balanced", classes=np.array([0, 1]), y=[1] * 100 + [0] * 300)
    assert found["a"] == pytest.approx(wanted[1] / wanted[0])


def test_choices_are_smoothed_over_those_that_a_row_has():
    logits, _ = drawn(2)
    real = torch.tensor([[True, True, True, True], [True, True, False, False]])
    least = torch.finfo(torch.float32).min
    found = choice_loss(logits.masked_fill(~real, least), torch.tensor([2, 1]), real, 0.2)
    apart = [F.cross_entropy(logits[:1], torch.tensor([2]), label_smoothing=0.2),
             F.cross_entropy(logits[1:, :2], torch.tensor([1]), label_smoothing=0.2)]  # fmt: skip
    torch.testing.assert_close(found, torch.stack(apart).mean())
    assert torch.autograd.grad(found, logits)[0].isfinite().all()
