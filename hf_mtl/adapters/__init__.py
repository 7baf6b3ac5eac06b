"""Per-task adapters whose rows may stand in one batch. The only package that imports peft."""

from .bare import bare_parameters, fingerprint
from .combining import COMBINATIONS, combine_adapters
from .counts import parameter_counts, parameter_table
from .files import ADAPTER_FILES, fill_adapter, read_adapter, save_adapter
from .inject import (
    adapter_fields,
    adapter_from_dict,
    adapter_layers,
    adapter_parameters,
    adapter_to_dict,
    delete_adapter,
    inject_adapters,
    reset_missing,
)
from .layers import RoutedLinear
from .merging import merge_adapter
from .renaming import rename_adapter, rename_key
from .routing import Route, current_route, replaying, use_route

__all__ = [
    "ADAPTER_FILES",
    "COMBINATIONS",
    "Route",
    "RoutedLinear",
    "adapter_fields",
    "adapter_from_dict",
    "adapter_layers",
    "adapter_parameters",
    "adapter_to_dict",
    "bare_parameters",
    "combine_adapters",
    "current_route",
    "delete_adapter",
    "fill_adapter",
    "fingerprint",
    "inject_adapters",
    "merge_adapter",
    "parameter_counts",
    "parameter_table",
    "read_adapter",
    "rename_adapter",
    "rename_key",
    "replaying",
    "reset_missing",
    "save_adapter",
    "use_route",
]
