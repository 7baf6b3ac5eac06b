"""How many parameters the backbone, each task's adapter and each task's head have, and how many of them learn."""

from collections.abc import Iterable

from torch import nn

from .inject import adapter_parameters

__all__ = ["parameter_counts", "parameter_table"]


def parameter_counts(backbone: nn.Module, heads: nn.ModuleDict) -> dict[str, dict[str, int]]:
    """`backbone` -> {`all`, `trainable`}, without its adapters; each task -> {`head`, `adapter`, `trainable`}."""
    adapters = {name: adapter_parameters(backbone, name) for name in heads}
    own = {id(p) for parameters in adapters.values() for p in parameters}
    shared = [p for p in backbone.parameters() if id(p) not in own]
    counts = {"backbone": {"all": _count(shared), "trainable": _count(p for p in shared if p.requires_grad)}}
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
    shared = counts["backbone"]
    tasks = {name: values for name, values in counts.items() if name != "backbone"}
    learn = shared["trainable"] + sum(c["trainable"] for c in tasks.values())
    total = shared["all"] + sum(c["head"] + c["adapter"] for c in tasks.values())
    width = max(map(len, counts))
    lines = [f"{'':{width}}  {'shared':>12} {'adapter':>12} {'head':>12} {'trainable':>12}"]
    lines += [f"{'backbone':{width}}  {shared['all']:>12,} {'':>12} {'':>12} {shared['trainable']:>12,}"]
    for name, c in tasks.items():
        lines += [f"{name:{width}}  {'':>12} {c['adapter']:>12,} {c['head']:>12,} {c['trainable']:>12,}"]
    return "\n".join([*lines, f"trainable: {learn:,} of {total:,} parameters ({learn / total:.2%})"])


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)
