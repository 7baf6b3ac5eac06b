"""The compiled products of adapters: torch's numbers, on every set of instructions, and where they stay out."""

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_adapters import INDICES, NAMES, by_row, layer, model_of, route_of, texts
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from hf_mtl.adapters import Route, native, use_route
from hf_mtl.adapters.low_rank import LinearWithLowRank, add_low_rank

pytestmark = pytest.mark.skipif(native.instructions() is None, reason="hf_mtl was installed without compiled products")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before, wide, threads = native.instructions(), native.wide_products(), torch.get_num_threads()
    yield
    native.use_instructions(before, wide)
    torch.set_num_threads(threads)


def use_or_skip(name: str, wide: bool | None = None) -> None:
    try:
        native.use_instructions(name, wide)
    except ValueError as error:
        pytest.skip(str(error))


def products(index: list[int], sizes: tuple[int, int, int], each: int, scales: bool, bias: bool) -> list[torch.Tensor]:
    """Output, its gradients of everything, and the output where nothing learns."""
    torch.manual_seed(0)
    tasks, (width, rank, out) = len(set(index)), sizes
    route = Route([str(i) for i in range(tasks)], torch.tensor(index) if tasks > 1 else None)
    scale: Any = torch.rand(tasks, 1, 1) + 0.5 if scales else 0.7
    x, above = torch.randn(len(index) * each, width), torch.randn(len(index) * each, out)
    base = [torch.randn(out, width), *([torch.randn(out)] if bias else [])]
    down = [torch.randn(rank, width) for _ in range(tasks)]
    up = [torch.randn(out, rank) for _ in range(tasks)]
    leaves = [x, *base, *down, *up]
    for leaf in leaves:
        leaf.requires_grad_()
    y = LinearWithLowRank.apply(x, base[0], base[1] if bias else None, route, scale, *down, *up)[0]
    found = [y, *torch.autograd.grad(y, leaves, above)]
    with torch.no_grad():
        found.append(add_low_rank(torch.zeros(len(x), out), x, route, down, up, scale))
    return [tensor.detach() for tensor in found]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("wide", [False, True], ids=["adapters", "all"])
@pytest.mark.parametrize("instructions", ["avx512", "avx2"])
@pytest.mark.parametrize(
    "sizes", [(384, 8, 50), (37, 4, 384), (45, 3, 71), (16, 13, 21), (5, 1, 3), (96, 32, 128)], ids=str
)
def test_products_and_gradients_are_torchs(
    sizes: tuple[int, int, int], instructions: str, wide: bool, threads: int
) -> None:
    torch.set_num_threads(threads)
    for index in ([0], [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2], [2, 0, 1, 0, 2, 1, 1]):
        for each, scales, bias in ((1, False, True), (7, True, False), (16, False, True), (29, True, True)):
            use_or_skip(instructions, wide)
            found = products(index, sizes, each, scales, bias)
            native.use_instructions(None)
            expected = products(index, sizes, each, scales, bias)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, atol=2e-5 * float(b.abs().max()) + 1e-5, rtol=1e-4)


@pytest.mark.parametrize("instructions", ["avx512", "avx2"])
@pytest.mark.parametrize(
    "sizes", [(32, 384, 384), (61, 500, 96), (150, 33, 63), (40, 192, 33), (333, 400, 40)], ids=str
)
def test_wide_products_are_torchs(sizes: tuple[int, int, int], instructions: str) -> None:
    rows, width, out = sizes
    torch.manual_seed(0)
    x, bias = torch.randn(rows, width), torch.randn(out)
    memory = torch.randn(out * width + 3)
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        for weight in (memory[:-3].view(out, width), memory[3:].view(out, width)):  # in a file they begin anywhere
            for b in (None, bias):
                use_or_skip(instructions, True)
                found = native.linear(x.view(1, rows, width), weight, b)
                exact = x.double() @ weight.double().t() + (0 if b is None else b.double())
                torch.testing.assert_close(found, exact.float()[None], atol=2e-4, rtol=1e-4)


def test_few_numbers_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    native.use_instructions(wide=True)
    called, tokens, columns = count_calls(monkeypatch), native.FROM_TOKENS, native.FROM_COLUMNS
    native.linear(torch.randn(tokens - 1, 16), torch.randn(columns, 16), None)
    native.linear(torch.randn(tokens, 16), torch.randn(columns - 1, 16), None)
    assert called == []
    native.linear(torch.randn(tokens, 16), torch.randn(columns, 16), None)
    assert called == ["product"]


@pytest.mark.parametrize(
    ("setting", "calls"),
    [
        ("pass", 1),
        ("torch.set_float32_matmul_precision('highest')", 1),
        ("torch.set_float32_matmul_precision('medium')", 0),
        ("torch.backends.fp32_precision = 'tf32'", 0),  # after which torch's older question is an error
        ("torch.backends.mkldnn.matmul.fp32_precision = 'bf16'", 0),
        ("torch.backends.cuda.matmul.allow_tf32 = True", 1),
    ],
)
def test_lower_precision_is_torchs(setting: str, calls: int) -> None:
    """In processes of their own: not all of it can be set back."""
    code = f"""
import torch
from hf_mtl.adapters import native

native.use_instructions(wide=True)
{setting}
compiled, called = native._low_rank, []

class Counting:
    def product(self, *args):
        called.append("product")
        return compiled.product(*args)

native._low_rank = Counting()
x, weight = torch.randn(64, 16), torch.randn(40, 16)
found = native.linear(x, weight, None)
torch.testing.assert_close(found, torch.nn.functional.linear(x, weight), atol=1e-5, rtol=1e-5)
print(len(called))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(calls)


def test_what_is_no_linear_layer_is_torchs() -> None:
    native.use_instructions(wide=True)
    x, weight = torch.randn(64, 40), torch.randn(48, 40)
    assert torch.equal(native.linear(x, torch._neg_view(weight), None), torch.nn.functional.linear(x, -weight))
    assert native.linear(torch.randn(3, 0), torch.randn(4, 0), None).shape == (3, 4)
    for wrong in ((x, weight.view(48, 40, 1), None), (x, weight, torch.randn(48, 1)), (x[0, 0], weight, None)):
        with pytest.raises(RuntimeError):
            native.linear(*wrong)


@pytest.mark.parametrize("wide", [False, True], ids=["adapters", "all"])
def test_an_adapter_that_is_not_finite_ruins_its_own_rows_alone(wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    native.use_instructions(wide=wide)
    monkeypatch.setattr(native, "FROM_COLUMNS", 1)
    module, index = layer(), torch.arange(60) % 4
    x = torch.randn(60, 12, requires_grad=True)
    with torch.no_grad():
        module.lora_A["b"].weight.fill_(torch.nan)
        module.lora_B["c"].weight.fill_(torch.inf)
    with use_route(Route(NAMES, index)):
        y = module(x)
    y.sum().backward()
    fine = (index == NAMES.index("a")) | (index == NAMES.index("d"))
    assert x.grad is not None
    for found in (y, x.grad):
        assert torch.equal(found.isfinite().all(1), fine)


@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_a_layer_takes_them(index: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = layer(), torch.randn(8, 5, 12)
    called = count_calls(monkeypatch)
    for learns in (False, True):
        with use_route(route_of(index)), torch.set_grad_enabled(learns):
            torch.testing.assert_close(module(x), by_row(module, x, index), atol=1e-5, rtol=1e-5)
    assert called == ["forward"] * 2


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    called: list[str] = []

    class Counting:
        use, of_amd = staticmethod(native._low_rank.use), staticmethod(native._low_rank.of_amd)

        @staticmethod
        def product(*args: Any) -> Any:
            called.append("product")
            return compiled.product(*args)

        @staticmethod
        def forward(*args: Any) -> Any:
            called.append("forward")
            return compiled.forward(*args)

        @staticmethod
        def backward(*args: Any) -> Any:
            called.append("backward")
            return compiled.backward(*args)

    compiled = native._low_rank
    monkeypatch.setattr(native, "_low_rank", Counting)
    return called


def test_a_row_has_the_same_bits_whatever_is_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(native, "FROM_COLUMNS", 1)
    module, x = layer(), torch.randn(8, 11, 12)  # more tokens than from which on torch's wide products are not taken
    with torch.no_grad():
        with use_route(route_of([0, 0, 0, 1, 1, 1, 1, 2])):
            together = module(x)
        with use_route(route_of([0, 1, 1, 2])):
            some = module(x[[1, 4, 6, 7]])
    base = module.base_layer(x)
    assert torch.equal(together[[1, 4, 6, 7]] - base[[1, 4, 6, 7]], some - module.base_layer(x[[1, 4, 6, 7]]))


def test_training_takes_the_steps_of_torchs_products(tiny_backbone: Any) -> None:
    model, inputs = model_of(tiny_backbone()), texts(8)
    ids, labels = torch.tensor([0, 3, 1, 1, 2, 0, 3, 2]), {f"task{i}": torch.tensor([0, 1]) for i in range(4)}
    labels = {name: labels[f"task{i}"] for i, name in enumerate(model.tasks)}
    other = copy.deepcopy(model)
    for instructions, trained in ((native.instructions(), model), (None, other)):
        native.use_instructions(instructions)
        optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=0.1)
        for _ in range(3):
            trained(**inputs, task_ids=ids, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4, msg=name)


def test_second_derivatives_and_batches_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = layer(), torch.randn(8, 5, 12, requires_grad=True)
    called, found = count_calls(monkeypatch), []
    for instructions in (native.instructions(), None):
        native.use_instructions(instructions)
        with use_route(route_of(INDICES["sorted, more of some"])):
            y = module(x).square().sum()
        weights = list(module.lora_A.parameters())
        (first,) = torch.autograd.grad(y, x, create_graph=True)
        second = torch.autograd.grad(first.square().sum(), [x, *weights])
        with use_route(route_of(INDICES["sorted, more of some"])):
            y = module(x).flatten()[:3]
        many = torch.autograd.grad(y, [x, *weights], torch.eye(3), is_grads_batched=True)
        found.append([first, *second, *many])
    assert "forward" in called
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of vmap
def test_they_stay_out_where_something_follows_torchs_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = layer(), torch.randn(8, 12)
    called, route = count_calls(monkeypatch), route_of(INDICES["in any order"])
    exact = by_row(module, x, INDICES["in any order"])
    with torch.no_grad(), use_route(route):
        with FlopCounterMode(display=False) as counter:
            module(x)
        assert counter.get_total_flops() > 2 * 8 * 12 * 20  # of the base layer alone
        with forward_ad.dual_level():
            module(forward_ad.make_dual(x, x))
        traced = torch.jit.trace(module, x, check_trace=False)
        torch.testing.assert_close(torch.vmap(module)(x.expand(2, 8, 12)), exact.expand(2, 8, 20), atol=1e-5, rtol=1e-5)
        module.double()(x.double())
    assert called == []
    torch.testing.assert_close(traced(x.double()).float(), exact, atol=1e-5, rtol=1e-5)


def test_weights_that_move_between_batches_are_found() -> None:
    module, x = layer(), torch.randn(8, 5, 12)
    index = INDICES["in any order"]
    with torch.no_grad(), use_route(route_of(index)):
        module(x)
        for name in ("a", "c"):
            module.lora_A[name].weight.data = torch.randn(3, 12)
            module.lora_B[name].weight = nn.Parameter(torch.randn(3, 20).t())  # with gaps
        module.lora_A["b"] = nn.Linear(12, 3, bias=False)
        copied = copy.deepcopy(module)
        copied.lora_A["d"].weight.mul_(2)
        for each in (module, copied):
            torch.testing.assert_close(each(x), by_row(each, x, index), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("what", ["every B", "one A", "one A, turned", "base layer", "input"])
def test_other_shapes_are_torchs_errors(what: str) -> None:
    module, x, index = layer(), torch.randn(8, 5, 12), [0, 0, 1, 1, 2, 2, 3, 3]
    if what == "every B":
        for held in module.lora_B.values():
            held.weight = nn.Parameter(held.weight[:, :1].clone())
    elif what == "one A":
        module.lora_A["b"].weight = nn.Parameter(torch.randn(2, 12))
    elif what == "one A, turned":
        module.lora_A["b"].weight = nn.Parameter(torch.randn(12, 3))
    elif what == "base layer":
        module.base_layer = nn.Linear(12, 4000)
    else:
        x = torch.randn(8, 5, 4800)
    for learns in (False, True):
        with (
            use_route(route_of(index)),
            torch.set_grad_enabled(learns),
            pytest.raises(RuntimeError, match=r"size|shape"),
        ):
            module(x)


def test_a_bias_of_one_number_is_every_outputs() -> None:
    module, x, index = layer(), torch.randn(8, 5, 12), INDICES["in any order"]
    module.base_layer.bias = nn.Parameter(torch.ones(1))
    with use_route(route_of(index)), torch.no_grad():
        torch.testing.assert_close(module(x), by_row(module, x, index), atol=1e-5, rtol=1e-5)


def test_tensors_that_differ_from_their_memory() -> None:
    module, x, index = layer(), torch.randn(8, 5, 12), INDICES["in any order"]
    with use_route(route_of(index)):
        torch.testing.assert_close(module(torch._neg_view(x)), by_row(module, -x, index), atol=1e-5, rtol=1e-5)
        y = module(x)
    y.backward(torch._efficientzerotensor(y.shape))
    assert all(p.grad is not None and not p.grad.any() for p in module.lora_A.parameters())


def test_a_batch_without_rows_has_no_answers() -> None:
    module = layer()
    for route in (Route(NAMES[:2], torch.zeros(0, dtype=torch.long)), Route(NAMES[:1])):
        for learns in (False, True):
            with use_route(route), torch.set_grad_enabled(learns):
                assert module(torch.randn(0, 5, 12)).shape == (0, 5, 20)


def test_a_layer_that_has_answered_can_be_pickled() -> None:
    module, x = layer(), torch.randn(8, 5, 12)
    with torch.no_grad():
        for index in ([0] * 8, INDICES["in any order"]):
            with use_route(route_of(index)):
                expected, found = module(x), pickle.loads(pickle.dumps(module))(x)
            assert torch.equal(found, expected)


def test_what_is_changed_after_an_answer_is_seen() -> None:
    module, x, index = layer().train(), torch.randn(8, 5, 12), INDICES["in any order"]
    with use_route(route_of(index)):
        module(x)
        parametrize.register_parametrization(module.lora_A["a"], "weight", nn.Softplus())
        torch.testing.assert_close(module(x), by_row(module, x, index), atol=1e-5, rtol=1e-5)
        for name in NAMES:
            module.lora_dropout[name] = nn.Dropout(0.9)
        assert not torch.equal(module(x), module(x))
        module.eval().scaling = dict.fromkeys(NAMES, 2)
        torch.testing.assert_close(module(x), by_row(module, x, index), atol=1e-5, rtol=1e-5)


def test_other_instructions_are_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="'avx512' or 'avx2', not 'sse'"):
        native.use_instructions("sse")


def test_the_environment_turns_them_off() -> None:
    code = "from hf_mtl.adapters import native; print(native.instructions())"
    code += "; print(native.wide_products())"
    best, wide = str(native.instructions()), str(native.wide_products())
    for setting, expected in (
        ("0", ["None", "False"]),
        ("1", [best, wide]),
        ("adapters", [best, "False"]),
        ("all", [best, "True"]),
    ):
        env = {**os.environ, "HF_MTL_NATIVE": setting}
        found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert found.stdout.split() == expected
    env = {**os.environ, "HF_MTL_NATIVE": "adapter"}
    failed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert "HF_MTL_NATIVE='adapter' is not known" in failed.stderr


def test_what_is_passed_is_checked_before_memory_is_touched() -> None:
    x, a = torch.randn(4, 8), torch.randn(2, 8)
    tensors = (x, torch.zeros(4, 8), torch.zeros(4, 2), a, a.t().contiguous())

    def run(ends: Any, tasks: Any, tensors: Any = tensors, sizes: Any = (4, 8, 8, 2)) -> bool:
        return native._low_rank.forward(1, False, (tensors, (torch.Tensor,), torch.float32, sizes, (1.0,), ends, tasks))

    assert run((4,), (0,))
    for wrong in (
        ((3,), (0,)),
        ((4,), (1,)),
        ((4, 2), (0, 0)),
        ((), ()),
        ((4,), (0,), tensors[:4]),
        ((4,), (0,), tensors, (4,)),
    ):
        with pytest.raises(ValueError, match="do not fit together"):
            run(*wrong)
    assert not run((4,), (0,), (*tensors[:3], a.view(8, 2), tensors[4]))
    others = (a.double(), a.t().contiguous().t(), a.to("meta"), a[:1].contiguous(), nn.Parameter(a))
    assert not any(run((4,), (0,), (*tensors[:3], other, tensors[4])) for other in others)
