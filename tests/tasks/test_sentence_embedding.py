"""Sentence embedding: the loss of a batch, vectors of texts, and retrieval."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import pipeline

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments
from hf_mtl.data import MultiTaskCollator, encode_dataset
from hf_mtl.scoring.retrieval import retrieval_scores
from hf_mtl.tasks.sentence_embedding import ContrastiveEmbedder, SentenceEmbedding

PAIRS = [
    {"text": "a dog barks", "positive": "the hound makes a noise", "negative": "a dog sleeps"},
    {"text": "rain falls", "positive": "it is wet outside", "negative": "the sun shines"},
    {"text": "she reads", "positive": "a book in her hands", "negative": "he writes"},
    {"text": "they cook", "positive": "dinner is on the stove", "negative": "they eat out"},
]


def by_hand(vectors: np.ndarray, texts: list[list[str]], scale: float) -> float:
    """The loss row by row: each first vector against every other distinct text of the batch."""
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    losses = []
    for i, row in enumerate(texts):
        own = scale * unit[i, 0] @ unit[i, 1]
        others = [
            scale * unit[i, 0] @ unit[j, k]
            for j, other in enumerate(texts)
            for k in range(1, len(other))
            if (j, k) != (i, 1) and other[k] != row[1]
        ]
        losses.append(math.log(sum(math.exp(x) for x in [own, *others])) - own)
    return float(np.mean(losses))


@pytest.mark.parametrize("size", [2, 3])
def test_the_loss_is_that_of_finding_the_positive_among_all_other_texts(size: int) -> None:
    torch.manual_seed(0)
    texts = [["q1", "a", "x"], ["q2", "b", "y"], ["q3", "a", "z"]]
    numbers = {"a": 1, "b": 2, "x": 3, "y": 4, "z": 5}
    hidden = torch.randn(3, size, 4, 6)
    mask = torch.ones(3, size, 4, dtype=torch.long)
    labels = torch.tensor([[numbers[t] for t in row[1:size]] for row in texts])
    output = ContrastiveEmbedder("mean", 5.0, (6,))(hidden, mask, labels)
    assert output.loss is not None
    wanted = by_hand(hidden.mean(2).numpy(), [row[:size] for row in texts], 5.0)
    assert output.loss.item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_vectors_and_loss_are_those_of_32_bits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(1, 1, 1, 64) + 0.2 * torch.randn(16, 2, 4, 64)  # near each other, as texts of a domain are
    mask, labels = torch.ones(16, 2, 4, dtype=torch.long), torch.arange(16)[:, None]
    head = ContrastiveEmbedder("mean", 20.0, (64,))
    wanted = head(hidden, mask, labels)
    with torch.autocast("cpu", dtype=dtype):
        found = head(hidden, mask, labels)
    assert found.logits.dtype == torch.float32 and torch.equal(found.logits, wanted.logits)
    assert found.loss is not None and wanted.loss is not None and torch.equal(found.loss, wanted.loss)


def test_leading_dimensions_are_trained_as_the_whole_is() -> None:
    torch.manual_seed(0)
    hidden, mask, labels = torch.randn(3, 2, 4, 6), torch.ones(3, 2, 4, dtype=torch.long), torch.tensor([[1], [2], [3]])
    losses = [ContrastiveEmbedder("mean", 5.0, sizes)(hidden, mask, labels).loss for sizes in ((2,), (6,), (2, 6))]
    assert losses[2].item() == pytest.approx((losses[0].item() + losses[1].item()) / 2)
    short = ContrastiveEmbedder("mean", 5.0, (2,))(hidden[..., :2], mask, labels).loss
    assert short.item() == pytest.approx(losses[0].item())


@pytest.mark.parametrize("negative", [None, "negative"])
def test_it_learns_to_find_the_positive(negative: str | None, tiny_backbone: Any, tmp_path: Any) -> None:
    torch.manual_seed(0)
    task = SentenceEmbedding.from_dataset("near", PAIRS, negative=negative)
    model = MultiTaskModel.from_backbone(tiny_backbone(), [task])
    args = MultiTaskTrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=30, learning_rate=3e-3, per_device_train_batch_size=4,
        report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True, per_device_eval_batch_size=3,
    )  # fmt: skip
    trainer = MultiTaskTrainer(model, args, train_dataset={"near": PAIRS}, eval_dataset={"near": PAIRS})
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_near_recall_at_1"] == 1.0 and metrics["eval_near_mrr"] == 1.0


def test_an_answer_is_the_pooled_vector_of_length_one_cut_to_the_first_dimensions(tiny_backbone: Any) -> None:
    model = MultiTaskModel.from_backbone(tiny_backbone(), [SentenceEmbedding(name="near", dimensions=(8, 32))])
    (answer,) = pipeline("multitask-nlp", model=model)(["a dog barks"])
    inputs = model.tokenizer("a dog barks", return_tensors="pt")
    with torch.no_grad():
        hidden = model.backbone(**inputs).last_hidden_state[0].mean(0)[:8]
    np.testing.assert_allclose(answer["near"]["embedding"], F.normalize(hidden, dim=0).numpy(), atol=1e-5)


def test_equal_positives_are_no_negatives_of_each_other(tiny_backbone: Any) -> None:
    rows = [{"text": "a", "positive": "same"}, {"text": "b", "positive": "same"}]
    model = MultiTaskModel.from_backbone(tiny_backbone(), [SentenceEmbedding(name="near")])
    encoded = encode_dataset(model.tasks["near"], 0, rows, model.tokenizer, "train")
    loss = model(**MultiTaskCollator(model.tokenizer, list(model.tasks.values()))([encoded[0], encoded[1]])).loss
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_retrieval_counts_ranks_and_equal_texts_once() -> None:
    vectors = np.eye(3)
    assert retrieval_scores(vectors, vectors, ["a", "b", "c"])["recall_at_1"] == 1
    turned = retrieval_scores(vectors, np.array([[0.9, 0.1, 0], [1, 0, 0], [0, 0, 1]]), ["a", "b", "c"])
    assert turned["recall_at_1"] == pytest.approx(1 / 3) and turned["mrr"] == pytest.approx((1 / 2 + 1 / 2.5 + 1) / 3)
    same = retrieval_scores(np.eye(2), np.array([[1.0, 0], [1.0, 0]]), ["a", "a"])
    assert same["recall_at_1"] == 1
    with pytest.raises(ValueError, match="got 2, 2 and 1"):
        retrieval_scores(np.eye(2), np.eye(2), ["a"])


def test_cosines_are_compared_with_given_similarities() -> None:
    task = SentenceEmbedding(name="near", similarity="alike")
    angles = np.array([0.1, 1.2, 0.4, 2.0])
    predictions = [{"embedding": [1.0, 0.0], "positive": [math.cos(a), math.sin(a)]} for a in angles]
    rows = [{"text": "t", "positive": f"p{i}", "alike": number} for i, number in enumerate([5.0, 3, 1.5, 0])]
    scores = task.score(predictions, task.references(rows))
    ranks = np.argsort(np.argsort(np.cos(angles))) - np.argsort(np.argsort([5.0, 3, 1.5, 0]))
    assert scores["spearman"] == pytest.approx(1 - 6 * (ranks**2).sum() / (4 * 15))
    bare = task.references([{"text": "t", "positive": f"p{i}"} for i in range(4)])
    assert task.score(predictions, bare) == {k: v for k, v in scores.items() if k != "spearman"}
    with pytest.raises(ValueError, match="'near': column 'alike' must hold a finite number, got None"):
        task.references([rows[0], rows[1] | {"alike": None}])


@pytest.mark.parametrize(("field", "value"), [("scale", 0), ("dimensions", [0]), ("dimensions", [])])
def test_a_field_that_cannot_be_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"'near': {field}"):
        SentenceEmbedding(name="near", **{field: value})


def test_more_dimensions_than_the_backbone_has_are_refused(tiny_backbone: Any) -> None:
    with pytest.raises(ValueError, match="dimensions must be at most the backbone's width"):
        MultiTaskModel.from_backbone(tiny_backbone(), [SentenceEmbedding(name="near", dimensions=(100_000,))])


def test_what_was_trained_on_triplets_is_evaluated_on_pairs(tiny_backbone: Any) -> None:
    task = SentenceEmbedding(name="near", negative="negative")
    tokenizer = MultiTaskModel.from_backbone(tiny_backbone(), [task]).tokenizer
    features = task.encode([{k: row[k] for k in ("text", "positive")} for row in PAIRS], tokenizer)
    assert all(len(feature["input_ids"]) == 2 and len(feature["labels"]) == 1 for feature in features)
