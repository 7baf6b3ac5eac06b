"""Model, trainer and pipeline to a Hub on loopback and back, by the real client, each side a process of its own."""

from pathlib import Path
from typing import Any

import pytest
from hub_scripts import BUILD

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # the server's sockets, closed by the client late

PUSH_MODEL = """
    model.config.card_data = {{"results": {{"topic": {{"accuracy": 0.5}}}}, "split": "test", "license": "apache-2.0"}}
    first = model.push_to_hub("user/multi", commit_message="first")
    with torch.no_grad():
        torch.save(model(**inputs).logits, {folder!r} + "/logits.pt")
        torch.nn.init.zeros_(model.heads["topic"].classifier.weight)
    model.push_to_hub("user/multi", revision="experiment")
    model.push_to_hub("user/secret", private=True)
    open({folder!r} + "/first", "w").write(first.oid)
"""

PULL = """
    import torch, hf_mtl
    from huggingface_hub import HfApi, ModelCard
    from transformers import AutoModel, AutoTokenizer, pipeline
    kept = torch.load({folder!r} + "/logits.pt")
    first = open({folder!r} + "/first").read()
    tokenizer = AutoTokenizer.from_pretrained("user/multi")
    inputs = dict(tokenizer(["I lost my card", "Hello"], padding=True, return_tensors="pt"))

    def gap(name, **kwargs):
        with torch.no_grad():
            found = AutoModel.from_pretrained(name, **kwargs).eval()(**inputs).logits
        return max((kept[k] - found[k]).abs().max().item() for k in kept)

    assert gap("user/multi") <= 1e-6 and gap("user/multi", revision=first) <= 1e-6
    assert gap("user/multi", revision="experiment") > 1e-3
    assert gap("user/secret") > 1e-3
    card = ModelCard.load("user/multi")
    assert card.data.license == "apache-2.0" and card.data.eval_results[0].metric_value == 0.5, card.content
    assert 'model="user/multi"' in card.content
    files = {{"config.json", "model.safetensors", "tokenizer.json", "README.md", "hf_mtl_remote.py"}}
    assert files <= set(HfApi().list_repo_files("user/multi"))
    answers = pipeline("multitask-nlp", model="user/multi")("I lost my card")
    assert set(answers) == {{"topic", "tags"}}, answers
"""

REMOTE = """
    import sys
    from transformers import pipeline
    assert "hf_mtl" not in sys.modules
    answers = pipeline("multitask-nlp", model="user/multi", trust_remote_code=True)("I lost my card")
    assert set(answers) == {"topic", "tags"}, answers
"""

LOCKED = """
    from hf_mtl import MultiTaskModel
    try:
        MultiTaskModel.from_pretrained("user/secret")
    except OSError as error:
        assert "user/secret" in str(error)
    else:
        raise AssertionError("a private repository was read without a token")
"""

REFUSED = """
    try:
        model.push_to_hub("user/other")
    except PermissionError as error:
        assert "'user/other'" in str(error) and "hf auth login" in str(error), error
    else:
        raise AssertionError("a model was pushed without a token")
    os.environ["HF_ENDPOINT"] = constants.ENDPOINT = "http://127.0.0.1:9"
    try:
        model.push_to_hub("user/other", token="hf_some")
    except ConnectionError as error:
        assert "'user/other'" in str(error) and "127.0.0.1:9" in str(error), error
    else:
        raise AssertionError("a model was pushed without a network")
"""

PUSH_TRAINER = """
    from hf_mtl import MultiTaskTrainer, MultiTaskTrainingArguments
    from transformers import pipeline
    args = MultiTaskTrainingArguments(output_dir={folder!r} + "/trained", use_cpu=True, max_steps=1, report_to="none",
                                      save_strategy="no", hub_model_id="user/trained", disable_tqdm=True)
    rows = [{{"text": "a card", "label": "x"}}, {{"text": "a phone", "label": "y"}}] * 4
    trainer = MultiTaskTrainer(model, args, train_dataset={{"topic": rows}}, eval_dataset={{"topic": rows}})
    trainer.train()
    trainer.evaluate()
    trainer.push_to_hub(language="en")
    pipeline("multitask-nlp", model=model, tokenizer=model.tokenizer).push_to_hub("user/piped")
"""

PULL_TRAINED = """
    import hf_mtl
    from huggingface_hub import HfApi, ModelCard
    from transformers import pipeline
    card = ModelCard.load("user/trained")
    assert card.data.language == "en" and {"accuracy", "f1"} <= {r.metric_type for r in card.data.eval_results}
    for name in ("user/trained", "user/piped"):
        assert "label" in pipeline("multitask-nlp", model=name)("a card", tasks=["topic"])["topic"]
        assert {"README.md", "tokenizer.json", "hf_mtl_remote.py"} <= set(HfApi().list_repo_files(name))
"""


def test_a_pushed_model_is_pulled_into_an_empty_cache(loopback_hub: Any, tiny_backbone: Any, tmp_path: Path) -> None:
    names = {"backbone": tiny_backbone(), "folder": str(tmp_path)}
    loopback_hub.run((BUILD + PUSH_MODEL).format(**names), cache=tmp_path / "pusher")
    loopback_hub.run(PULL.format(**names), cache=tmp_path / "puller")
    loopback_hub.run(REMOTE, cache=tmp_path / "stranger")
    loopback_hub.run(LOCKED, cache=tmp_path / "locked", token=False)


def test_a_push_that_is_refused_says_what_to_do(loopback_hub: Any, tiny_backbone: Any, tmp_path: Path) -> None:
    script = "    import os\n    from huggingface_hub import constants\n" + BUILD.lstrip("\n")
    names = {"backbone": tiny_backbone(), "folder": str(tmp_path)}
    loopback_hub.run(script.format(**names) + REFUSED, cache=tmp_path / "stranger", token=False)


def test_trainer_and_pipeline_push_with_card_and_tokenizer(
    loopback_hub: Any, tiny_backbone: Any, tmp_path: Path
) -> None:
    names = {"backbone": tiny_backbone(), "folder": str(tmp_path)}
    loopback_hub.run((BUILD + PUSH_TRAINER).format(**names), cache=tmp_path / "pusher")
    loopback_hub.run(PULL_TRAINED, cache=tmp_path / "puller")
