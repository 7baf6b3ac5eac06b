"""Per-task adapters whose rows may stand in one batch. The only package that imports peft."""

from .counts import parameter_counts, parameter_table
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
from .routing import Route, current_route, replaying, use_route

__all__ = [
    "Route",
    "RoutedLinear",
    "adapter_fields",
    "adapter_from_dict",
    "adapter_layers",
    "adapter_parameters",
    "adapter_to_dict",
    "current_route",
    "delete_adapter",
    "inject_adapters",
    "parameter_counts",
    "parameter_table",
    "replaying",
    "reset_missing",
    "use_route",
]
