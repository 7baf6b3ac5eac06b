"""Per-task adapters whose rows may stand in one batch. The only package that imports peft."""

from .bare import bare_parameters, fingerprint
from .base_products import common_input
from .combining import COMBINATIONS, combine_adapters
from .counts import parameter_counts, parameter_table
from .embedding import RoutedEmbedding
from .files import ADAPTER_FILES, fill_adapter, read_adapter, read_values, save_adapter, written_settings
from .inject import (
    KEPT_IN_32_BITS,
    adapter_layers,
    adapter_parameters,
    adapter_tensors,
    check_adapters,
    delete_adapter,
    inject_adapters,
    order_adapters,
    parameters_by_adapter,
    recompose,
    reset_missing,
    task_of_key,
)
from .layers import RoutedLinear
from .merging import merge_adapter
from .neighbours import lie_close
from .renaming import rename_adapter, rename_key
from .routed import RoutedLayer, of_adapter
from .routing import Route, current_route, replaying, use_route
from .scaling import RoutedScaling
from .settings import (
    ADAPTERS,
    adapter_fields,
    adapter_from_dict,
    adapter_to_dict,
    check_one_kind,
    starts_from_base,
)
from .sharing import (
    SHARINGS,
    adapter_name,
    adapter_names,
    check_has_own,
    check_may_have_own,
    composition_of,
    from_layer,
    known_sharing,
    learning_names,
    reads_alike,
    route_of,
)
from .trunk import computed_once, layer_above, stack_of, trunk_layers

__all__ = [
    "ADAPTERS",
    "ADAPTER_FILES",
    "COMBINATIONS",
    "KEPT_IN_32_BITS",
    "SHARINGS",
    "Route",
    "RoutedEmbedding",
    "RoutedLayer",
    "RoutedLinear",
    "RoutedScaling",
    "adapter_fields",
    "adapter_from_dict",
    "adapter_layers",
    "adapter_name",
    "adapter_names",
    "adapter_parameters",
    "adapter_tensors",
    "adapter_to_dict",
    "bare_parameters",
    "check_adapters",
    "check_has_own",
    "check_may_have_own",
    "check_one_kind",
    "combine_adapters",
    "common_input",
    "composition_of",
    "computed_once",
    "current_route",
    "delete_adapter",
    "fill_adapter",
    "fingerprint",
    "from_layer",
    "inject_adapters",
    "known_sharing",
    "layer_above",
    "learning_names",
    "lie_close",
    "merge_adapter",
    "of_adapter",
    "order_adapters",
    "parameter_counts",
    "parameter_table",
    "parameters_by_adapter",
    "read_adapter",
    "read_values",
    "reads_alike",
    "recompose",
    "rename_adapter",
    "rename_key",
    "replaying",
    "reset_missing",
    "route_of",
    "save_adapter",
    "stack_of",
    "starts_from_base",
    "task_of_key",
    "trunk_layers",
    "use_route",
    "written_settings",
]
