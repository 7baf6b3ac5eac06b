"""Tagging under a CRF: what it answers is the best legal sequence, and it learns what words alone do not say."""

from itertools import product
from typing import Any

import numpy as np
import torch
from transformers import pipeline

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TokenClassification
from hf_mtl.data import MultiTaskCollator
from hf_mtl.tasks.bio import legal_moves

LABELS = ("O", "B-x", "I-x", "B-y", "I-y")


def test_the_answer_is_the_best_of_all_legal_sequences(tiny_backbone: Any) -> None:
    torch.manual_seed(1)
    task = TokenClassification(name="t", labels=LABELS, split="words", crf=True)
    model = MultiTaskModel.from_backbone(tiny_backbone(), [task])
    head = model.heads["t"]
    head.crf.transitions.weight.data.normal_()
    head.classifier.weight.data.normal_()
    rows = [{"tokens": ["you", "see", "four", "words"]}, {"tokens": ["two", "here"]}]
    features = task.encode(rows, model.tokenizer)
    batch = MultiTaskCollator(model.tokenizer, [task])([f | {"task_ids": 0} for f in features])
    with torch.no_grad():
        logits = model(**batch).logits["t"].numpy()
        hidden = model.backbone(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        emissions = [head.classifier(hidden[i, feature["positions"]]).numpy() for i, feature in enumerate(features)]
    found = task.decode([task.cut(v, f) for v, f in zip(logits, features, strict=True)], features, rows)
    moves, weights = legal_moves(LABELS), head.crf.transitions.weight.detach().numpy()
    for values, prediction in zip(emissions, found, strict=True):

        def total(path: tuple[int, ...], values: np.ndarray = values) -> float:
            steps = list(zip((len(LABELS), *path), path, strict=False))
            legal = all(moves[a, b] for a, b in steps)
            return sum(weights[a, b] + values[t, b] for t, (a, b) in enumerate(steps)) if legal else -np.inf

        best = max(product(range(len(LABELS)), repeat=len(values)), key=total)
        assert prediction["tags"] == [LABELS[k] for k in best]


def test_it_learns_a_tag_that_only_the_tag_before_tells(tiny_backbone: Any, tmp_path: Any) -> None:
    torch.manual_seed(0)
    rows = [{"tokens": ["la"] * n, "tags": [("A", "B", "C")[i % 3] for i in range(n)]} for n in range(3, 12)]
    task = TokenClassification.from_dataset("t", rows, crf=True, dropout=0.0, layer=0)
    model = MultiTaskModel.from_backbone(tiny_backbone(), [task])
    model.backbone.embeddings.position_embeddings.weight.data.zero_()
    model.backbone.requires_grad_(False)
    args = MultiTaskTrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=60, learning_rate=0.1, report_to="none", save_strategy="no",
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = MultiTaskTrainer(model, args, train_dataset={"t": rows}, eval_dataset={"t": rows})
    trainer.train()
    assert trainer.evaluate()["eval_t_accuracy"] == 1.0
    answers = pipeline("multitask-nlp", model=model)("la la la la")
    assert [a["entity"] for a in answers["t"]] == ["A", "B", "C", "A"]


def test_a_span_that_goes_on_into_the_next_window_is_one(tiny_backbone: Any) -> None:
    row = {"tokens": ["a"] * 40, "tags": ["B-x", *["I-x"] * 39]}
    task = TokenClassification(name="t", labels=LABELS, split="words", crf=True, max_length=16, dropout=0.0)
    model = MultiTaskModel.from_backbone(tiny_backbone(), [task])
    crf = model.heads["t"].crf
    crf.transitions.weight.data.zero_()
    features = task.encode([row], model.tokenizer)
    assert len(features) > 1
    logits = []
    for feature in features:
        gold = torch.nn.functional.one_hot(torch.tensor([feature["labels"]]), len(LABELS)).float() * 10
        logits.append(crf.max_marginals(gold, torch.ones(gold.shape[:2]))[0].numpy())
    assert task.decode(logits, features, [row])[0]["tags"] == row["tags"]
