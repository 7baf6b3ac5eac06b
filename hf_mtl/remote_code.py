"""The few lines that lie beside a saved model, so that it loads without `import hf_mtl` by `trust_remote_code=True`."""

import os
from pathlib import Path

__all__ = ["REMOTE_MODULE", "write_remote_code"]

REMOTE_MODULE = "hf_mtl_remote"

# Never a copy of the package: transformers says "pip install hf_mtl" to those who lack it.
_CODE = '''"""Loads this model with the installed hf_mtl package (pip install hf_mtl)."""

from hf_mtl import MultiTaskConfig, MultiTaskModel, MultiTaskPipeline

__all__ = ["MultiTaskConfig", "MultiTaskModel", "MultiTaskPipeline"]
'''


def write_remote_code(folder: str | os.PathLike) -> None:
    """Writes the module into a model's folder."""
    Path(folder, f"{REMOTE_MODULE}.py").write_text(_CODE, encoding="utf-8")
