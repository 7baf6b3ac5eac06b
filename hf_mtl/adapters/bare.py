"""The backbone as if no adapter were in it: its parameters, and a fingerprint of them."""

import hashlib
from collections.abc import Container, Iterator

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

__all__ = ["bare_parameters", "fingerprint"]

# Values of each parameter that are looked at. Training moves them all, and reading all of a large model takes minutes.
_SAMPLE = 1 << 16


def bare_parameters(part: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and value of every parameter that is no adapter's, by the name that it has without adapters."""
    layers = {path: "base_layer" for path, module in part.named_modules() if isinstance(module, BaseTunerLayer)}
    for name, parameter in part.named_parameters():
        kept: list[str] = []
        path = ""
        for piece in name.split("."):
            wanted = layers.get(path)
            if wanted is None:
                kept.append(piece)
            elif piece != wanted:
                break
            path = f"{path}.{piece}" if path else piece
        else:
            yield ".".join(kept), parameter


def fingerprint(part: nn.Module, without: Container[str] = ()) -> str:
    """A hash of a backbone's weights, 32 hex digits: by it two backbones are known to be the same.

    Adapters do not count. Values are rounded to bfloat16 first, so that it is the same for a backbone loaded in
    float32 and in bfloat16 (float16 may round another way). Of a large parameter evenly spaced values are looked at:
    it tells a trained backbone from the pretrained one, and is no proof against a forgery.

    Args:
        part: the backbone, with or without adapters.
        without: parameters that do not count either, by the names that they have without adapters.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(bare_parameters(part), key=lambda item: item[0]):
        if name in without:
            continue
        values = parameter.detach().reshape(-1)
        values = values[:: max(1, len(values) // _SAMPLE)].to(torch.bfloat16).cpu()
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:32]
