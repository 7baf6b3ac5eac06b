"""How many parameters the backbone, each task's adapter and each task's head have, and how many of them learn."""

from collections.abc import Iterable

from torch import nn

from .inject import adapter_layers, parameters_by_adapter

__all__ = ["parameter_counts", "parameter_table"]

SHARED = "shared adapters"  # no task can be called so


def parameter_counts(backbone: nn.Module, heads: nn.ModuleDict) -> dict[str, dict[str, int]]:
    """`backbone` -> {`all`, `trainable`}, without its adapters; each task -> {`head`, `adapter`, `trainable`}.

    What tasks share of adapters is under `shared adapters`, where they share any.
    """
    known = {name for layer in adapter_layers(backbone) for name in layer.held()}
    adapters = parameters_by_adapter(backbone, [*heads, *sorted(known - set(heads))])
    own = {id(p) for parameters in adapters.values() for p in parameters}
    common = [p for name, parameters in adapters.items() if name not in heads for p in parameters]
    bare = [p for p in backbone.parameters() if id(p) not in own]
    counts = {"backbone": _all_and_trainable(bare)}
    if common:
        counts[SHARED] = _all_and_trainable(common)
    for name, module in heads.items():
        head = list(module.parameters())
        counts[name] = {
            "head": _count(head),
            "adapter": _count(adapters[name]),
            "trainable": _count(p for p in head + adapters[name] if p.requires_grad),
        }
    return counts


def parameter_table(counts: dict[str, dict[str, int]]) -> str:
    """The counts as lines for a terminal."""
    shared = {name: counts[name] for name in ("backbone", SHARED) if name in counts}
    tasks = {name: values for name, values in counts.items() if name not in shared}
    learn = sum(c["trainable"] for c in counts.values())
    total = sum(c["all"] for c in shared.values()) + sum(c["head"] + c["adapter"] for c in tasks.values())
    width = max(map(len, counts))
    lines = [f"{'':{width}}  {'shared':>12} {'adapter':>12} {'head':>12} {'trainable':>12}"]
    lines += [f"{n:{width}}  {c['all']:>12,} {'':>12} {'':>12} {c['trainable']:>12,}" for n, c in shared.items()]
    for name, c in tasks.items():
        lines += [f"{name:{width}}  {'':>12} {c['adapter']:>12,} {c['head']:>12,} {c['trainable']:>12,}"]
    return "\n".join([*lines, f"trainable: {learn:,} of {total:,} parameters ({learn / total:.2%})"])


def _all_and_trainable(parameters: list[nn.Parameter]) -> dict[str, int]:
    return {"all": _count(parameters), "trainable": _count(p for p in parameters if p.requires_grad)}


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)
