"""Light checkpoints and packs are loaded over the commit of the backbone that they were made on, by the real client."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # the server's sockets, closed by the client late

MAKE = """
    import torch, hf_mtl
    from huggingface_hub import HfApi
    from hf_mtl import MultiTaskModel, TextClassification
    from peft import LoraConfig
    api, folder = HfApi(), {folder!r}
    api.create_repo("user/backbone", private=True)
    first = api.upload_folder(repo_id="user/backbone", folder_path={backbone!r}).oid
    task = TextClassification(name="topic", labels=("x", "y"))
    lora = LoraConfig(r=2, target_modules="all-linear")
    model = MultiTaskModel.from_backbone("user/backbone", [task], adapters=lora)
    assert model.config.backbone_revision == first, model.config.backbone_revision
    model.save_pretrained(folder + "/light", save_backbone=False)
    model.save_task("topic", folder + "/pack")
    inputs = dict(model.tokenizer(["I lost my card"], return_tensors="pt"))
    with torch.no_grad():
        torch.save((inputs, model(**inputs).logits["topic"], first), folder + "/kept.pt")
        model.backbone.embeddings.word_embeddings.weight += 1
    model.merge_task("topic").save_pretrained(folder + "/newer")
    api.upload_folder(repo_id="user/backbone", folder_path=folder + "/newer")
"""

LOAD = """
    import torch, hf_mtl
    from hf_mtl import MultiTaskModel
    from transformers import AutoModel
    folder = {folder!r}
    inputs, kept, first = torch.load(folder + "/kept.pt")

    def answers(model):
        with torch.no_grad():
            return model.eval()(**inputs).logits["topic"]

    def refused(load):
        try:
            load()
        except ValueError as error:
            return "fingerprint" in str(error)
        return False

    for load in (
        lambda: MultiTaskModel.from_pretrained(folder + "/light"),
        lambda: AutoModel.from_pretrained(folder + "/light"),
        lambda: MultiTaskModel.from_tasks([folder + "/pack"]),
        lambda: MultiTaskModel.from_pretrained(folder + "/light", backbone="user/backbone"),
    ):
        model = load()
        assert torch.equal(answers(model), kept) and model.config.backbone_revision == first
"""

OVERRIDDEN = """
    assert refused(lambda: MultiTaskModel.from_pretrained(folder + "/light", backbone_revision="main"))
    assert refused(lambda: AutoModel.from_pretrained(folder + "/light", backbone_revision="main"))
    assert refused(lambda: MultiTaskModel.from_tasks([folder + "/pack"], revision="main"))
    MultiTaskModel.from_pretrained(folder + "/light", backbone_revision=first[:40])
"""

# Offline, and such a commit is not in the cache: that of the main branch is, and the fingerprint decides.
STANDS_IN = """
    import json, pathlib
    for file in ("light/config.json", "pack/task.json"):
        path = pathlib.Path(folder, file)
        path.write_text(path.read_text().replace(first, "0" * 40))
    for load in (
        lambda: MultiTaskModel.from_pretrained(folder + "/light"),
        lambda: MultiTaskModel.from_tasks([folder + "/pack"]),
    ):
        model = load()
        assert torch.equal(answers(model), kept) and model.config.backbone_revision == first
"""


def test_what_was_made_on_a_commit_is_loaded_over_it_though_the_repository_has_moved_on(
    loopback_hub: Any, tiny_backbone: Any, tmp_path: Path
) -> None:
    names = {"backbone": tiny_backbone(), "folder": str(tmp_path)}
    loopback_hub.run(MAKE.format(**names), cache=tmp_path / "maker")
    loopback_hub.run(LOAD.format(**names) + OVERRIDDEN, cache=tmp_path / "reader")
    # The reader's cache has that commit, the maker's has it under `main`.
    loopback_hub.run(LOAD.format(**names), cache=tmp_path / "reader", HF_HUB_OFFLINE="1")
    stands_in = LOAD.format(**names).partition("    for load in")[0] + STANDS_IN
    loopback_hub.run(stands_in, cache=tmp_path / "maker", HF_HUB_OFFLINE="1")
