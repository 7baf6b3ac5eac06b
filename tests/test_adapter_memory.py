"""Weights that lie together in memory: nobody else who holds, writes or reads them may notice."""

import io
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig
from safetensors.torch import load_file
from test_adapters import INDICES, NAMES, by_row, layer, model_of, route_of, texts

from hf_mtl import MultiTaskModel
from hf_mtl.adapters import RoutedLinear, adapter_parameters, use_route
from hf_mtl.adapters.layers import _MOST_KNOWN
from hf_mtl.adapters.stacking import lie_together, places_of

INDEX = INDICES["in any order"]


def laid_together(folder: str) -> MultiTaskModel:
    model = model_of(folder).eval()
    with torch.no_grad():
        model(**texts(), task_ids=torch.tensor(INDEX))
    first = next(m for m in model.modules() if isinstance(m, RoutedLinear))
    assert places_of(first.weights(NAMES)[1]) == [0, 1, 2, 3]
    return model


def test_accelerate_saves_every_adapter(torchs_products: None, tiny_backbone: Any, tmp_path: Path) -> None:
    model = laid_together(tiny_backbone())
    Accelerator(cpu=True).save_model(model, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(saved[name], parameter)


def test_a_removed_task_leaves_no_memory_and_a_file_of_one_task_holds_one(
    torchs_products: None, tiny_backbone: Any
) -> None:
    model = laid_together(tiny_backbone())
    file = io.BytesIO()
    torch.save({k: v for k, v in model.state_dict().items() if "lora_A.a." in k}, file)
    own = sum(p.nbytes for n, p in model.named_parameters() if "lora_A.a." in n)
    assert len(file.getvalue()) < own + 1000 * len(list(model.modules()))
    with torch.no_grad():
        model(**texts(), task_ids=torch.tensor(INDEX))
    model.remove_task("a")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            assert parameter.untyped_storage().nbytes() == parameter.nbytes, name


def test_answers_in_inference_mode_do_not_keep_a_model_from_learning() -> None:
    module, x = layer().eval(), torch.randn(8, 5, 12)
    with torch.inference_mode(), use_route(route_of(INDEX)):
        module(x)
    with use_route(route_of(INDEX)):
        module(x).sum().backward()
    assert all(p.grad is not None for p in adapter_parameters(module, "a"))


@pytest.mark.parametrize("compiled", [True, False])
def test_many_threads_may_ask_while_weights_are_laid_elsewhere(compiled: bool, request: Any) -> None:
    if not compiled:
        request.getfixturevalue("torchs_products")
    module, x = layer().eval(), torch.randn(8, 5, 12)
    expected = by_row(module, x, INDEX).detach()
    wrong: list[str] = []

    def ask() -> None:
        for _ in range(150):
            try:
                with torch.no_grad(), use_route(route_of(INDEX)):
                    found = module(x)
            except (RuntimeError, IndexError) as error:
                wrong.append(str(error))
            else:
                if not torch.allclose(found, expected, atol=1e-5):
                    wrong.append("other values")

    threads = [threading.Thread(target=ask) for _ in range(2)]
    every = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for names in ("dcba", "ab", "abcd"):
            for parameters in module.weights(names):
                lie_together(parameters)  # type: ignore[arg-type]
    sys.setswitchinterval(every)
    assert not wrong


@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_answers_under_autocast_are_those_without(index: list[int]) -> None:
    module, x = layer().eval(), torch.randn(8, 5, 12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), use_route(route_of(index)):
        found = module(x)
    torch.testing.assert_close(found.float(), by_row(module, x, index), atol=0.1, rtol=0.05)


@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_second_derivatives_are_those_of_the_definition(index: list[int]) -> None:
    module = layer().double()
    x = torch.randn(8, 5, 12, dtype=torch.double, requires_grad=True)
    learning = [x, *(p for i in set(index) for p in adapter_parameters(module, NAMES[i]))]

    def second(y: torch.Tensor) -> Any:
        gradient = torch.autograd.grad((y**2).sum(), x, create_graph=True)[0]
        return torch.autograd.grad((gradient**2).sum(), learning)

    with use_route(route_of(index)):
        found = second(module(x))
    for a, b in zip(found, second(by_row(module, x, index)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_name_that_goes_to_another_adapter_takes_nothing_of_the_old_one_along(tiny_backbone: Any) -> None:
    ranks = {"a": 2, "b": 4, "c": 2, "d": 2}
    adapters = {name: LoraConfig(r=rank, target_modules="all-linear") for name, rank in ranks.items()}
    model, inputs, ids = model_of(tiny_backbone(), adapters=adapters).eval(), texts(), torch.tensor([1, 2] * 4)
    with torch.no_grad():
        model(**inputs, task_ids=torch.tensor([0, 2] * 4))  # a and c can be stacked
        model.rename_task("a", "e")
        model.rename_task("b", "a")
        mixed, alone = model(**inputs, task_ids=ids).logits["a"], model(**inputs, tasks=["a"]).logits["a"]
    torch.testing.assert_close(mixed, alone[ids == 1])


def test_layers_do_not_remember_every_set_of_tasks() -> None:
    names = [f"t{i}" for i in range(_MOST_KNOWN + 10)]
    module = layer(["a", "b"])
    for name in names:
        assert not module._alike(("a", name))
    assert len(module._caches["alike"]) <= _MOST_KNOWN
