"""Distances of distributions against slow computations in float64, and how each task type reads its logits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit, softmax

from hf_mtl.tasks import (
    IntentSlots,
    Lemmatization,
    MultiLabelClassification,
    MultipleChoice,
    QuestionAnswering,
    Regression,
    RelationExtraction,
    SentenceEmbedding,
    TextClassification,
    TokenClassification,
    Translation,
)
from hf_mtl.tasks.soft_outputs import Numbers, OneLabel, YesNo


def drawn(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randn(*shape, generator=generator)).requires_grad_(), torch.randn(*shape, generator=generator)


def float64(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [tensor.detach().numpy().astype(np.float64) for tensor in tensors]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_a_teachers_distribution_is_the_target_of_a_cross_entropy(temperature):
    one, two = drawn(6, 5)
    a, b = (softmax(values / temperature, axis=-1) for values in float64(one, two))
    wanted = temperature**2 * np.mean(-(b * np.log(a)).sum(-1))
    assert OneLabel(one).loss_to(OneLabel(two), temperature).item() == pytest.approx(wanted, rel=1e-5)
    gradient = torch.autograd.grad(OneLabel(one).loss_to(OneLabel(two), temperature), one)[0]
    np.testing.assert_allclose(gradient.numpy(), temperature * (a - b) / 6, atol=1e-6)


def test_the_loss_to_a_sure_teacher_is_the_loss_with_gold_labels():
    one, _ = drawn(6, 5)
    gold = torch.tensor([0, 1, 2, 3, 4, 0])
    sure = F.one_hot(gold, 5) * 1e4
    torch.testing.assert_close(OneLabel(one).loss_to(OneLabel(sure), 1.0), F.cross_entropy(one, gold))
    sure = 2e4 * (torch.arange(30).reshape(6, 5) % 3 == 0) - 1e4
    wanted = F.binary_cross_entropy_with_logits(one, (sure > 0).float())
    torch.testing.assert_close(YesNo(one).loss_to(YesNo(sure), 1.0), wanted)


def test_two_passes_are_apart_by_the_mean_of_both_kl_divergences():
    one, two = drawn(6, 5)
    logs = [values.log_softmax(-1) for values in (one, two)]
    both = [F.kl_div(logs[i], logs[1 - i], reduction="batchmean", log_target=True) for i in (0, 1)]
    torch.testing.assert_close(OneLabel(one).apart_from(OneLabel(two)), sum(both) / 2)
    a, b = (expit(values) for values in float64(one, two))
    kl = [(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean() for p, q in ((a, b), (b, a))]
    assert YesNo(one).apart_from(YesNo(two)).item() == pytest.approx(sum(kl) / 2, rel=1e-5)
    torch.testing.assert_close(Numbers(one).apart_from(Numbers(two)), ((one - two) ** 2).mean())


@pytest.mark.parametrize("kind", [OneLabel, YesNo, Numbers])
def test_what_says_the_same_is_not_apart(kind):
    one, _ = drawn(6, 5)
    assert kind(one).apart_from(kind(one.detach())).item() == 0


def test_a_sigmoids_temperature_divides_both_sides():
    one, two = drawn(6, 5)
    a, b = (expit(values / 2) for values in float64(one, two))
    wanted = 4 * -(b * np.log(a) + (1 - b) * np.log(1 - a)).mean()
    assert YesNo(one).loss_to(YesNo(two), 2.0).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_choices_that_a_row_does_not_have_say_nothing(temperature, dtype):
    real = torch.tensor([[True] * 4, [True, True, False, False]])
    one, two = ((v.to(dtype).masked_fill(~real, torch.finfo(dtype).min)) for v in drawn(2, 4))
    one = one.detach().requires_grad_()
    loss = OneLabel(one).loss_to(OneLabel(two), temperature) + OneLabel(one).apart_from(OneLabel(two))
    rows = [(one[:1], two[:1]), (one[1:, :2], two[1:, :2])]
    parts = [OneLabel(a).loss_to(OneLabel(b), temperature) + OneLabel(a).apart_from(OneLabel(b)) for a, b in rows]
    torch.testing.assert_close(loss, torch.stack(parts).mean())
    assert torch.autograd.grad(loss, one)[0].isfinite().all()


def test_no_items_are_no_loss():
    none = OneLabel(torch.zeros(0, 3))
    assert none.loss_to(none, 1.0).item() == none.apart_from(none).item() == 0


def test_each_type_says_which_of_its_logits_are_compared():
    values, _ = drawn(2, 5, 4)
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    words = torch.where(mask > 0, 1, -100)

    def said(task, logits, labels=None):
        return task.soft_outputs()(logits, labels, mask)

    names = ["O", "b", "c", "d"]
    for task in (TextClassification(name="t", labels=names), MultipleChoice(name="t")):
        assert torch.equal(said(task, values[:, 0])[0].values, values[:, 0])
    for task in (TokenClassification(name="t", labels=names), Lemmatization(name="t")):
        assert torch.equal(said(task, values, words)[0].values, values[mask > 0])
    pair = RelationExtraction(name="t", labels=names)
    assert torch.equal(said(pair, values[:, :1])[0].values, values[:, 0])
    (found,) = said(MultiLabelClassification(name="t", labels=names), values[:, 0])
    assert isinstance(found, YesNo)
    assert isinstance(said(Regression(name="t"), values[:, 0, :1])[0], Numbers)
    (ends,) = said(QuestionAnswering(name="t"), values[..., :2])
    torch.testing.assert_close(ends.values[1, :4].softmax(-1), values[0, :4, 1].softmax(-1))
    assert ends.values.shape == (4, 5) and not ends.values[2:].softmax(-1)[:, 2:].any()
    slots = IntentSlots(name="t", labels=["O", "x"], intents=["go", "stay"])
    parts = values * mask[..., None]
    tags, intents = said(slots, parts, torch.cat([torch.zeros(2, 1, dtype=torch.long), words], dim=1))
    assert torch.equal(tags.values, values[..., :2][mask > 0])
    torch.testing.assert_close(intents.values[1], values[1, :2, 2:].mean(0))


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (SentenceEmbedding(name="t"), "not over labels, positions or numbers"),
        (Translation(name="t"), "not over labels, positions or numbers"),
        (TokenClassification(name="t", labels=["O"], crf=True), r"over whole rows of tags \(crf=True\)"),
    ],
)
def test_other_types_are_refused_with_the_reason(task, reason):
    with pytest.raises(ValueError, match=rf"Task 't' .* can have neither a teacher nor r_drop: .*{reason}.*Leave it"):
        task.soft_outputs()
