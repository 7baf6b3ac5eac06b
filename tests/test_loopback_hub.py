"""The loopback Hub against the real client, which runs in a few processes of its own for the whole file."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import torch
from loopback_hub import LoopbackHub
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

FILES = [".gitattributes", "config.json", "model.safetensors", "sub/empty.txt", "sub/note.txt"]
VERSIONS = ("first", "second", "third")

REFUSALS = """
    import json, os
    from pathlib import Path
    from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
    from huggingface_hub import errors, hf_hub_download, snapshot_download

    api = HfApi()

    def upload(repo_id="user/model", **more):
        return api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id=repo_id, **more)

    def name_refusals(**acts):
        refused = {}
        for key, act in acts.items():
            try:
                act()
            except errors.HfHubHTTPError as error:
                refused[key] = [type(error).__name__, error.response.status_code]
        return refused
"""

PUSH = f"""{REFUSALS}
    model = Path(os.environ["MODEL"])
    said = {{"user": api.whoami()["name"], "url": api.create_repo("user/model")}}
    said["bare_url"] = api.create_repo("model", exist_ok=True)  # the same, in the account's own namespace
    api.create_repo("user/secret", private=True)
    api.upload_folder(repo_id="user/secret", folder_path=model / "first")
    said["first"] = api.upload_folder(repo_id="user/model", folder_path=model / "first").oid
    said["again"] = api.upload_folder(repo_id="user/model", folder_path=model / "first").oid
    branch = "experiments/b"  # a name that has to be quoted
    api.create_branch("user/model", branch=branch)
    said["second"] = api.upload_folder(repo_id="user/model", folder_path=model / "second").oid
    third = api.upload_folder(repo_id="user/model", folder_path=model / "third", revision=branch)
    said["third"] = third.oid

    info = api.model_info("user/model", files_metadata=True)
    said["sha"] = [info.sha, api.model_info("user/model", revision=branch).sha]
    said["private"] = [info.private, api.model_info("user/secret").private]
    said["siblings"] = {{s.rfilename: [s.size, s.blob_id, s.lfs and s.lfs.sha256] for s in info.siblings}}
    said["files"] = api.list_repo_files("user/model", revision=said["first"])
    said["root"] = [entry.path for entry in api.list_repo_tree("user/model")]
    said["sub"] = [entry.path for entry in api.list_repo_tree("user/model", "sub")]
    said["paths"] = [entry.path for entry in api.get_paths_info("user/model", ["sub", "config.json", "no"])]
    said["branches"] = {{ref.name: ref.target_commit for ref in api.list_repo_refs("user/model").branches}}

    results = [EvalResult("text-classification", "intents", "Intents", "accuracy", 0.5)]
    data = ModelCardData(model_name="m", eval_results=results, pipeline_tag="text-ranking", tags=["hf_mtl"])
    said["card"] = ModelCard(f"---\\n{{data.to_yaml()}}\\n---\\n# Hello\\n").push_to_hub("user/model").oid
    info = api.model_info("user/model")
    said["card_info"] = [info.sha, info.pipeline_tag, info.tags, info.card_data.eval_results[0].metric_value]
    said["card_text"] = ModelCard.load("user/model").text
    said["bad_cards"] = []
    for bad in ("tags: text", "model-index: [{{name: m, results: [{{task: {{type: t}}}}]}}]", "a: [", "- a"):
        card = f"---\\n{{bad}}\\n---\\n".encode()
        try:
            api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="user/model")
        except ValueError as error:
            said["bad_cards"].append(str(error))

    api.create_repo("user/pruned")
    api.upload_folder(repo_id="user/pruned", folder_path=model / "first")
    api.delete_file("config.json", "user/pruned")
    api.delete_folder("sub", "user/pruned")
    said["pruned"] = api.list_repo_files("user/pruned")
    said["refused"] = name_refusals(
        exists=lambda: api.create_repo("user/model"),
        owner=lambda: api.create_repo("somebody/model"),
        delete=lambda: api.delete_file("absent", "user/model"),
        branch=lambda: upload(revision="absent"),
        branch_exists=lambda: api.create_branch("user/model", branch="main"),
        stale=lambda: upload(parent_commit=said["first"]),
        repo=lambda: api.model_info("user/absent"),
        bare_repo=lambda: hf_hub_download("absent", "config.json"),
        data_set=lambda: api.dataset_info("user/absent"),
        entry=lambda: hf_hub_download("user/model", "absent"),
        folder=lambda: list(api.list_repo_tree("user/model", "absent")),
        revision=lambda: hf_hub_download("user/model", "config.json", revision="absent"),
    )
    print(json.dumps(said))
"""

STRANGER = f"""{REFUSALS}
    refused = name_refusals(
        info=lambda: api.model_info("user/secret"),
        download=lambda: hf_hub_download("user/secret", "model.safetensors"),
        snapshot=lambda: snapshot_download("user/secret"),
        wrong_token=lambda: api.model_info("user/secret", token="hf_wrong"),
        absent=lambda: api.model_info("user/absent"),
        push=upload,
        create=lambda: api.create_repo("user/other"),
    )
    public = sorted(p.name for p in Path(snapshot_download("user/model", allow_patterns="*.json")).iterdir())
    print(json.dumps({{"refused": refused, "public": public}}))
"""

PULL = """
    import os
    from pathlib import Path
    from safetensors.torch import save_file
    from transformers import AutoModel, BertTokenizer

    def pull(name, repo, **revision):
        model = AutoModel.from_pretrained(repo, **revision)
        save_file(model.state_dict(), Path(os.environ["OUT"], name))
        return model

    model = pull("main", "user/model")
    pull("commit", "user/model", revision=os.environ["FIRST"])
    pull("branch", "user/model", revision="experiments/b")
    pull("private", "user/secret")
    model.push_to_hub("user/own", private=True, revision="dev")  # transformers' own way up, to a new branch
    BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "hello": 4}).push_to_hub("user/own")
    pull("own", "user/own", revision="dev")
    print(BertTokenizer.from_pretrained("user/own")("hello")["input_ids"])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions of a tiny BERT."""
    folder = tmp_path_factory.mktemp("hub")
    sizes: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=32, max_position_embeddings=16, intermediate_size=16, **sizes)
    with torch.random.fork_rng():
        for seed, version in enumerate(VERSIONS):
            torch.manual_seed(seed)
            model = BertModel(config)
            model.save_pretrained(folder / version)
    (folder / "first" / "sub").mkdir()
    (folder / "first" / "sub" / "note.txt").write_text("a note, é", encoding="utf-8")
    (folder / "first" / "sub" / "empty.txt").touch()
    return folder


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def pushed(hub: LoopbackHub, folder: Path) -> dict[str, Any]:
    """What the pushing process saw."""
    return json.loads(hub.run(PUSH, cache=folder / "push", MODEL=folder).stdout)


def read_weights(path: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


def test_a_second_process_pulls_every_revision_with_the_same_bits(
    hub: LoopbackHub, folder: Path, pushed: dict[str, Any], tmp_path: Path
) -> None:
    done = hub.run(PULL, cache=tmp_path / "cache", OUT=tmp_path, FIRST=pushed["first"])
    first, second, third = [read_weights(folder / version / "model.safetensors") for version in VERSIONS]
    expected = {"main": second, "commit": first, "branch": third, "private": first, "own": second}
    assert {name: read_weights(tmp_path / name) for name in expected} == expected
    assert first != second != third != first
    assert done.stdout.splitlines()[-1] == "[2, 4, 3]"
    assert hub.repos["user/own"].private
    for commit in (pushed["card"], pushed["first"], pushed["third"]):
        assert f"GET /user/model/resolve/{commit}/model.safetensors" in hub.requests


def test_a_repository_is_created_once(hub: LoopbackHub, pushed: dict[str, Any]) -> None:
    assert pushed["user"] == "user"
    assert pushed["url"] == pushed["bare_url"] == f"{hub.url}/user/model"
    assert pushed["private"] == [False, True]


def test_each_branch_has_its_own_commit_and_an_unchanged_folder_makes_none(pushed: dict[str, Any]) -> None:
    assert pushed["again"] == pushed["first"]
    assert len({pushed[version] for version in VERSIONS}) == 3
    assert pushed["sha"] == [pushed["second"], pushed["third"]]
    assert pushed["branches"] == {"main": pushed["second"], "experiments/b": pushed["third"]}


def test_listings_name_what_was_uploaded(pushed: dict[str, Any], folder: Path) -> None:
    assert sorted(pushed["files"]) == FILES
    assert pushed["root"] == [".gitattributes", "config.json", "model.safetensors", "sub"]
    assert pushed["sub"] == ["sub/empty.txt", "sub/note.txt"]
    assert pushed["paths"] == ["config.json", "sub"]
    assert pushed["pruned"] == [".gitattributes", "model.safetensors"]
    assert sorted(pushed["siblings"]) == FILES
    stored = (folder / "second" / "model.safetensors").read_bytes()
    size, _, sha256 = pushed["siblings"]["model.safetensors"]
    assert (size, sha256) == (len(stored), hashlib.sha256(stored).hexdigest())
    # What `git hash-object` gives for these contents.
    assert pushed["siblings"]["sub/empty.txt"] == [0, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", None]


def test_a_card_is_pushed_and_read_back(pushed: dict[str, Any]) -> None:
    assert pushed["card_info"] == [pushed["card"], "text-ranking", ["hf_mtl"], 0.5]
    assert pushed["card_text"].strip() == "# Hello"


def test_a_card_with_bad_metadata_is_refused(pushed: dict[str, Any]) -> None:
    array, index, syntax, mapping = pushed["bad_cards"]
    assert '"tags" must be an array' in array
    for key in ("dataset.type", "dataset.name", "metrics[0].type", "metrics[0].value"):
        assert f'"model-index[0].results[0].{key}" is required' in index
    assert "Invalid YAML" in syntax
    assert "must be a mapping" in mapping


def test_what_is_not_there_gets_the_error_of_its_kind(pushed: dict[str, Any]) -> None:
    assert pushed["refused"] == {
        "exists": ["HfHubHTTPError", 409],
        "owner": ["HfHubHTTPError", 403],
        "delete": ["RemoteEntryNotFoundError", 404],
        "branch": ["RevisionNotFoundError", 404],
        "branch_exists": ["HfHubHTTPError", 409],
        "stale": ["HfHubHTTPError", 412],
        "repo": ["RepositoryNotFoundError", 404],
        "bare_repo": ["RepositoryNotFoundError", 404],
        "data_set": ["RepositoryNotFoundError", 404],
        "entry": ["RemoteEntryNotFoundError", 404],
        "folder": ["RemoteEntryNotFoundError", 404],
        "revision": ["RevisionNotFoundError", 404],
    }


def test_without_the_token_nothing_private_is_read_and_nothing_written(
    hub: LoopbackHub, pushed: dict[str, Any], tmp_path: Path
) -> None:
    before = sum(len(repo.commits) for repo in hub.repos.values())
    said = json.loads(hub.run(STRANGER, cache=tmp_path, token=False).stdout)
    create = said["refused"].pop("create")
    assert create == ["HfHubHTTPError", 401]
    assert set(said["refused"]) == {"info", "download", "snapshot", "wrong_token", "absent", "push"}
    assert set(map(tuple, said["refused"].values())) == {("RepositoryNotFoundError", 401)}
    assert said["public"] == ["config.json"]
    assert sum(len(repo.commits) for repo in hub.repos.values()) == before


@pytest.mark.usefixtures("pushed")
@pytest.mark.parametrize(
    ("asked", "start", "stop"), [("bytes=0-3", 0, 4), ("bytes=10-", 10, None), ("bytes=-5", -5, None)]
)
def test_a_range_gives_just_those_bytes(
    hub: LoopbackHub, folder: Path, asked: str, start: int, stop: int | None
) -> None:
    content = (folder / "second" / "model.safetensors").read_bytes()
    address = f"{hub.url}/user/model/resolve/main/model.safetensors"
    with urlopen(Request(address, headers={"Range": asked})) as answer:
        assert answer.status == 206
        assert answer.read() == content[start:stop]
        assert answer.headers["Content-Range"].endswith(f"/{len(content)}")
        assert answer.headers["X-Linked-Size"] == str(len(content))


@pytest.mark.usefixtures("pushed")
def test_a_range_beyond_the_end_is_refused(hub: LoopbackHub) -> None:
    address = f"{hub.url}/user/model/resolve/main/model.safetensors"
    with pytest.raises(HTTPError, match="416") as refused:
        urlopen(Request(address, headers={"Range": "bytes=99999999-"}))
    refused.value.close()


def test_a_failed_process_raises_with_its_output(tmp_path: Path) -> None:
    with LoopbackHub() as hub:
        with pytest.raises(AssertionError, match=r"exit code 3\nsaid\n"):
            hub.run("    print('said'); raise SystemExit(3)", cache=tmp_path)
        assert hub.run("raise SystemExit(3)", cache=tmp_path, check=False).returncode == 3


def test_a_fault_of_the_hub_itself_raises_with_its_traceback(tmp_path: Path) -> None:
    script = """
        import os
        from http.client import HTTPConnection, RemoteDisconnected
        connection = HTTPConnection(os.environ["HF_ENDPOINT"].removeprefix("http://"))
        try:
            connection.request("POST", "/api/validate-yaml", "not JSON")
            connection.getresponse()
        except RemoteDisconnected:
            print("dropped")
    """
    with LoopbackHub() as hub, pytest.raises(AssertionError, match=r"(?s)dropped.*JSONDecodeError"):
        hub.run(script, cache=tmp_path)
