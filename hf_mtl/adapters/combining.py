"""One task's adapter made out of others': peft's weighted merges, into an adapter that is there already."""

import logging
from collections.abc import Callable, Mapping
from functools import partial

import torch
from peft.utils.merge_utils import dare_linear, dare_ties, magnitude_prune, task_arithmetic, ties
from torch import nn

from .embedding import RoutedEmbedding
from .inject import adapter_layers
from .layers import RoutedLinear
from .routed import RoutedLayer
from .scaling import RoutedScaling

__all__ = ["COMBINATIONS", "combine_adapters"]

logger = logging.getLogger(__name__)

Merge = Callable[[list[torch.Tensor], torch.Tensor], torch.Tensor]

_PRUNING = {"ties": ties, "dare_linear": dare_linear, "dare_ties": dare_ties, "magnitude_prune": magnitude_prune}
# peft's `combination_type`s but for `cat`, whose rank is the sum of all.
COMBINATIONS = ("svd", "linear", *_PRUNING, *(f"{name}_svd" for name in _PRUNING))


@torch.no_grad()
def combine_adapters(
    part: nn.Module, name: str, weights: Mapping[str, float], method: str, density: float, seed: int
) -> None:
    """Gives the adapter of a task the weighted merge of other tasks' adapters, in every layer where it has one.

    With `svd` the products of the low-rank weights are added up and cut to the adapter's rank; without, the two
    matrices are each added up, which mixes one task's down with another's up (peft's own `linear`, and cheap). A layer
    that a source has no weights for takes what the others have; one that none has any for begins anew. What sources
    have in layers where the task has no adapter is left out, with a warning.

    Args:
        part: the part of the backbone that has the adapters.
        name: the task's whose adapter is filled.
        weights: source -> weight.
        method: one of `COMBINATIONS`.
        density: which share of the values is kept, of methods that prune.
        seed: of the values that `dare` keeps.

    Raises:
        ValueError: adapters that cannot be combined: DoRA's, those with a bias, of different ranks by a method without
            `svd`, or IA3's vectors by a method that does not simply add them up.
    """
    found = [layer for layer in adapter_layers(part) if layer.has(name)]
    layers = [layer for layer in found if isinstance(layer, RoutedLinear | RoutedEmbedding)]
    for layer in layers:  # before anything is changed
        _check(layer, name, weights, method)
    for scaling in [layer for layer in found if isinstance(layer, RoutedScaling)]:
        if method not in ("svd", "linear"):
            raise ValueError(f"IA3's vectors can only be added up, not combined by {method!r}. Use method='linear'.")
        if own := {source: weight for source, weight in weights.items() if scaling.has(source)}:
            scaling.combine(name, own)
        else:
            scaling.redraw(name)
    _warn_of_left_out(part, name, weights)
    merge = _merge(method.removesuffix("_svd"), density)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in layers:
            present = {source: weight for source, weight in weights.items() if layer.has(source)}
            if not present:
                layer.redraw(name)
            else:
                down, up = _combined(layer, present, method, merge, layer.r[name])
                own_down, own_up = (kind[0] for kind in layer.weights([name]))
                # What the sources do not fill of the rank adds nothing, as in a fresh adapter: one side is zero there,
                # and the other is not, for neither would ever learn.
                (own_down[len(down) :] if isinstance(layer, RoutedEmbedding) else own_up[:, len(down) :]).zero_()
                own_down[: len(down)] = down.to(own_down)
                own_up[:, : len(down)] = (up / layer.scaling[name]).to(own_up)


def _check(layer: RoutedLinear | RoutedEmbedding, name: str, weights: Mapping[str, float], method: str) -> None:
    names = [name, *(source for source in weights if layer.has(source))]
    if any(other in layer.lora_variant for other in names):
        raise ValueError(
            "DoRA adapters cannot be combined: their magnitudes do not add up. Use LoRA without use_dora=True."
        )
    if any(layer.lora_bias.get(other) for other in names):
        raise ValueError(
            "Adapters with lora_bias=True cannot be combined: peft merges their matrices alone. Use LoRA without it."
        )
    ranks = {other: len(_weights(layer, [other])[0][0]) for other in names}
    if not method.endswith("svd") and len(set(ranks.values())) > 1:
        raise ValueError(
            f"Adapters of different ranks ({ranks}) cannot be combined by {method!r}. Use method="
            f"{'svd' if method == 'linear' else method + '_svd'!r}."
        )


def _warn_of_left_out(part: nn.Module, name: str, weights: Mapping[str, float]) -> None:
    layers = [(path, layer) for path, layer in part.named_modules() if isinstance(layer, RoutedLayer)]
    left = [path for path, layer in layers if not layer.has(name) and any(map(layer.has, weights))]
    if left:
        logger.warning(
            "Task %r has no adapter in %d layers where %s have (%s, ...): what they add there is left out. To take it "
            "over, add the task with an adapter in these layers too: add_task(task, adapter=...).",
            name, len(left), ", ".join(map(repr, weights)), left[0],
        )  # fmt: skip


def _merge(kind: str, density: float) -> Merge:
    return partial(_PRUNING[kind], density=density) if kind in _PRUNING else task_arithmetic


def _combined(
    layer: RoutedLinear | RoutedEmbedding, weights: Mapping[str, float], method: str, merge: Merge, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`down [r, in]` and `up [out, r]`, whose product is what is added to the base weight. On the CPU, where `dare`
    draws by the seed."""
    downs, ups = ([value.float().cpu() for value in kind] for kind in _weights(layer, list(weights)))
    factors = torch.tensor([weight * layer.scale_of(source) for source, weight in weights.items()])
    if method == "svd":
        return _cut(
            torch.cat([up * factor for up, factor in zip(ups, factors, strict=True)], 1), torch.cat(downs), rank
        )
    if method.endswith("svd"):
        # peft scales first and weighs while it merges.
        whole = [up @ down * layer.scale_of(s) for s, up, down in zip(weights, ups, downs, strict=True)]
        left, values, right = torch.linalg.svd(merge(whole, torch.tensor(list(weights.values()))), full_matrices=False)
        return right[:rank], left[:, :rank] * values[:rank]
    roots = factors.abs().sqrt()
    return merge(downs, roots * factors.sign()), merge(ups, roots)  # a sign on both would be none


def _weights(layer: RoutedLinear | RoutedEmbedding, names: list[str]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """As they act in evaluation: in training a task of `poly` draws which skills count."""
    training, layer.training = layer.training, False
    found = layer.weights(names)
    layer.training = training
    return found


def _cut(up: torch.Tensor, down: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best approximation of `up @ down` of this rank, without making that large product."""
    q_up, r_up = torch.linalg.qr(up)
    q_down, r_down = torch.linalg.qr(down.T)
    left, values, right = torch.linalg.svd(r_up @ r_down.T)
    rank = min(rank, len(values))
    return (q_down @ right.T).T[:rank], (q_up @ left)[:, :rank] * values[:rank]
