"""Registration with transformers: `AutoConfig`, `AutoModel` and `pipeline("multitask-nlp")`.

transformers has no entry points for extensions, and its Auto classes want the classes themselves, whose import takes
seconds. So `import hf_mtl` leaves a note: when transformers' own table of configs is imported, our config, which is
light, goes into it. The model and the pipeline follow when the first config is made: every way to them leads through
one, and by then no import is half done.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["register", "register_on_import"]

_CONFIGS = "transformers.models.auto.configuration_auto"
_OURS = "hf_mtl.config"


def register() -> None:
    """Registers config, model and pipeline now. Calling it again does no harm."""
    from transformers import AutoConfig, AutoModel
    from transformers.pipelines import PIPELINE_REGISTRY

    from .config import PIPELINE, MultiTaskConfig
    from .modeling import MultiTaskModel
    from .pipeline import MultiTaskPipeline

    AutoConfig.register(MultiTaskConfig.model_type, MultiTaskConfig, exist_ok=True)
    AutoModel.register(MultiTaskConfig, MultiTaskModel, exist_ok=True)
    if PIPELINE not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(PIPELINE, pipeline_class=MultiTaskPipeline, pt_model=AutoModel, type="text")


def register_config() -> None:
    """Registers the config, and sees to it that the first one made registers the rest."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from .config import MultiTaskConfig

    AutoConfig.register(MultiTaskConfig.model_type, MultiTaskConfig, exist_ok=True)
    MultiTaskConfig.when_made = staticmethod(register)


def register_on_import() -> None:
    """Registers the config as soon as transformers has a table for it: now, or when that module is imported."""
    if _CONFIGS in sys.modules:
        register_config()
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


class _AfterImport(MetaPathFinder):
    """Finds the two modules as always, and has the config registered when both have been executed.

    Either may be the first, and may import the other on its way.
    """

    def __init__(self) -> None:
        self.executed: set[str] = set()

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if name not in (_CONFIGS, _OURS):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Told(spec.loader, self)
        return spec

    def tell(self, name: str) -> None:
        """A module has been executed."""
        self.executed.add(name)
        if self.executed == {_CONFIGS, _OURS}:
            sys.meta_path.remove(self)
            register_config()
        elif name == _CONFIGS and _OURS not in sys.modules:
            import_module(_OURS)


class _Told(Loader):
    """Another loader, which tells when it has done its work."""

    def __init__(self, loader: Any, listener: _AfterImport):
        self._loader = loader
        self._listener = listener

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module keeps its own loader, for whatever asks it for its source or its files.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._listener.tell(module.__name__)
