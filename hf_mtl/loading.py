"""Loading: whole checkpoints, those without their backbone, and configs with more tasks than a checkpoint has."""

import copy
import os
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import cached_file

from .adapters import adapter_layers, lie_close, of_adapter, task_of_key
from .backbone import prepare_tokenizer
from .bundled import find_backbone
from .config import MultiTaskConfig
from .freezing import FreezingMixin
from .language_model import auto_class, text_part
from .saving import SavingMixin

__all__ = ["LoadingMixin", "for_tasks"]


class LoadingMixin(FreezingMixin, SavingMixin):
    """How a `MultiTaskModel` comes back."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        name: Any,
        *args: Any,
        backbone: str | os.PathLike[str] | None = None,
        backbone_revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Loads a model and, where it lies beside it, its tokenizer. See `PreTrainedModel.from_pretrained`.

        A `config` with more tasks than the checkpoint gives them fresh heads and adapters.

        Args:
            name: Hub id or folder.
            *args: as for `PreTrainedModel.from_pretrained`.
            backbone: of a checkpoint saved without its backbone: where that is, if not where it was.
            backbone_revision: likewise its branch, tag or commit on the Hub, if not the commit that it was.
            **kwargs: as for `PreTrainedModel.from_pretrained`.

        Raises:
            OSError: there is no such model, or its weights are cut short or damaged.
            ValueError: the backbone is another one than the checkpoint was saved over; or this is no multi-task model,
                but a plain one, a task pack or an adapter of peft: says how that is used.
        """
        try:
            config = None if name is None else _config_of(name, kwargs)
            saved = None if config is None else _saved_config(name, config, kwargs)
            if config is not None and saved is not None and saved.backbone_fingerprint is not None:
                loaded: Any = cls._over_backbone(name, config, saved, (backbone, backbone_revision), kwargs)
            else:
                loaded = super().from_pretrained(name, *args, **kwargs)
        except SafetensorError as error:
            raise OSError(
                f"The weights of {str(name)!r} cannot be read: a file is cut short or damaged ({error}). "
                "Copy or download it again."
            ) from error
        model: LoadingMixin = loaded[0] if kwargs.get("output_loading_info") else loaded
        model._freeze()
        for layer in adapter_layers(model.backbone):
            # Out of the file's memory too, where values lie at odd places: products would be rounded by their places.
            layer.lay_apart()
        lie_close(adapter_layers(model.backbone))
        if name is not None:
            hub = _hub_options(kwargs)
            if cached_file(name, "tokenizer_config.json", _raise_exceptions_for_missing_entries=False, **hub):
                model.tokenizer = prepare_tokenizer(
                    AutoTokenizer.from_pretrained(name, **hub), model.config.text_config, model.tasks.values()
                )
        return loaded

    @classmethod
    def _over_backbone(
        cls,
        name: Any,
        config: MultiTaskConfig,
        saved: MultiTaskConfig,
        asked: tuple[Any, str | None],
        kwargs: dict[str, Any],
    ) -> Any:
        """A model whose checkpoint has only what learns, over the backbone that it was made on.

        `saved` is the checkpoint's own config, and `config` may have more tasks; `asked` are name and revision of
        another backbone.
        """
        backbone, revision = os.fspath(asked[0] or config.backbone_name or ""), asked[1]
        moved = backbone != config.backbone_name
        if revision is None and not moved:
            revision = config.backbone_revision
        hub = {k: kwargs[k] for k in ("token", "cache_dir", "local_files_only") if k in kwargs}
        place = find_backbone(backbone, revision=revision, checked=True, **hub)
        where = place.where
        options = {"dtype": "auto"} | {
            k: kwargs[k] for k in ("dtype", "attn_implementation", "device_map") if k in kwargs
        }
        found = auto_class(config.language_model).from_pretrained(
            where, config=config.text_config, revision=revision, **hub, **options
        )
        config = copy.deepcopy(config)
        if not moved:
            config.backbone_revision = place.commit or config.backbone_revision
        config.text_config = copy.deepcopy(found.config)
        config.dtype = found.dtype
        wanted, config.backbone_fingerprint = saved.backbone_fingerprint, None
        model = cls(config, backbone=for_tasks(found, config.language_model))
        model.heads.to(found.device)
        file: Any = cached_file(name, "model.safetensors", **_hub_options(kwargs))
        values = load_file(file)
        bare = {f"backbone.{key}" for key, _ in model.backbone.named_parameters(remove_duplicate=False)}
        missing, unexpected = model.load_state_dict(values, strict=False)
        fresh = config.get_tasks().keys() - saved.get_tasks().keys()
        lacking = [key for key in missing if (key not in bare or of_adapter(key)) and task_of_key(key) not in fresh]
        if odd := [*unexpected, *lacking]:
            raise OSError(f"The weights of {str(name)!r} do not fit its config: {odd[:5]}. Copy or download it again.")
        for layer in adapter_layers(model.backbone):
            layer.compose_again(fresh)
        own = model.fingerprint_without(values)
        if own != wanted:
            raise ValueError(
                f"{str(name)!r} was saved without its backbone, {config.backbone_name!r} with fingerprint {wanted}, "
                f"and the backbone at {where!r} has {own}. Say where the right one is: "
                "from_pretrained(..., backbone=...), or backbone_revision=... of the same."
            )
        return (model.eval(), {}) if kwargs.get("output_loading_info") else model.eval()


def _hub_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    names = ("revision", "token", "cache_dir", "local_files_only", "subfolder")
    return {k: kwargs[k] for k in names if k in kwargs}


def _file(name: Any, file: str, options: dict[str, Any]) -> str | None:
    """Where a file of a folder or a repository is; None: it has none of that name."""
    return cached_file(name, file, _raise_exceptions_for_missing_entries=False, **options)


def _config_of(name: Any, kwargs: dict[str, Any]) -> MultiTaskConfig:
    config = kwargs.get("config")
    if isinstance(config, MultiTaskConfig):
        return config
    options = _hub_options(kwargs)
    if config is None:
        _check_multi_task(name, options)
    return MultiTaskConfig.from_pretrained(name if config is None else config, **options)


def _check_multi_task(name: Any, options: dict[str, Any]) -> None:
    """Raises ValueError for what loads in another way: a plain model, a task pack, an adapter of peft."""
    here, config = os.fspath(name), _file(name, "config.json", options)
    if config is not None:
        kind = MultiTaskConfig.get_config_dict(config)[0].get("model_type")
        if kind != MultiTaskConfig.model_type:
            raise ValueError(
                f"{here!r} is no multi-task model: its config.json is of a {kind!r} model. To make one over it: "
                f"MultiTaskModel.from_backbone({here!r}, tasks=[...])."
            )
    elif _file(name, "task.json", options) is not None:
        raise ValueError(
            f"{here!r} is a task pack, one task without its backbone. Make a model of one or several: "
            f"MultiTaskModel.from_tasks([{here!r}]), or load it into a model that you have: model.load_task({here!r})."
        )
    elif _file(name, "adapter_config.json", options) is not None:
        raise ValueError(
            f"{here!r} is an adapter of peft, without a backbone and a task's head. Make a model with adapters by "
            f"MultiTaskModel.from_backbone(...), and give it to a task: model.attach_adapter(task, {here!r})."
        )


def _saved_config(name: Any, config: MultiTaskConfig, kwargs: dict[str, Any]) -> MultiTaskConfig:
    """The config beside the weights; the given one where there is none."""
    options = _hub_options(kwargs)
    if kwargs.get("config") is None or _file(name, "config.json", options) is None:
        return config
    return MultiTaskConfig.from_pretrained(name, **options)


def for_tasks(model: PreTrainedModel, kind: str | None) -> PreTrainedModel:
    """What the tasks read: of an encoder-decoder that writes nothing the encoder; no pooler, which no head reads."""
    backbone = model.get_encoder() if kind is None and model.config.is_encoder_decoder else model
    part: Any = text_part(backbone, kind)
    if "pooler" in dict(part.named_children()):
        part.pooler = None
    return backbone
