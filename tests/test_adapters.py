"""Routed low-rank layers: every row through its own task's weights, whatever way is taken to compute it."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import nn

from hf_mtl import MultiTaskModel, TextClassification
from hf_mtl.adapters import Route, RoutedLinear, adapter_parameters, common_input, folding, inject_adapters, use_route
from hf_mtl.adapters.stacking import places_of

NAMES = ["a", "b", "c", "d"]
INDICES = {
    "sorted, as many of each": [0, 0, 1, 1, 2, 2, 3, 3],
    "in any order": [3, 0, 0, 2, 1, 3, 3, 1],
    "two of the tasks": [1, 3, 3, 1, 3, 3, 3, 1],
    "sorted, more of some": [0, 1, 1, 1, 2, 3, 3, 3],
    "of one task": [2] * 8,
}


def layer(names: list[str] = NAMES, bias: bool = True, **kwargs: Any) -> RoutedLinear:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 20, bias=bias))
    inject_adapters(module, LoraConfig(r=3, lora_alpha=5, target_modules=["0"], **kwargs), names)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    found = module[0]
    assert isinstance(found, RoutedLinear)
    return found


def by_row(module: RoutedLinear, x: torch.Tensor, index: list[int]) -> torch.Tensor:
    """The definition, row by row: y = W x + s B(t) A(t) x."""
    base: Any = module.base_layer
    rows = []
    for row, i in zip(x, index, strict=True):
        a, b = module.lora_A[NAMES[i]].weight, module.lora_B[NAMES[i]].weight
        y = row @ base.weight.T + module.scaling[NAMES[i]] * (row @ a.T @ b.T)
        rows.append(y if base.bias is None else y + base.bias)
    return torch.stack(rows)


def route_of(index: list[int]) -> Route:
    present = sorted(set(index))
    return Route([NAMES[i] for i in present], torch.tensor([present.index(i) for i in index]))


@pytest.mark.parametrize("flat", [False, True], ids=["rows", "tokens in one row"])
@pytest.mark.parametrize("scales", [False, True], ids=["one scale", "a scale a task"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_each_row_goes_through_its_own_weights(index: list[int], bias: bool, scales: bool, flat: bool) -> None:
    module = layer(bias=bias)
    if scales:
        module.scaling = {name: 0.5 + i for i, name in enumerate(NAMES)}
    x = torch.randn(8, 5, 12)
    expected = by_row(module, x, index)
    given = x.flatten(0, 1) if flat else x
    for mode in (True, False):
        module.train(mode)
        with use_route(route_of(index)):
            learning = module(given)
            with torch.no_grad():
                answering = module(given)
        torch.testing.assert_close(learning.view(8, 5, 20), expected, atol=1e-5, rtol=1e-6)
        torch.testing.assert_close(answering.view(8, 5, 20), expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("full", [False, True], ids=["frozen base", "base learns"])
@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_gradients_are_those_of_the_definition(index: list[int], full: bool) -> None:
    module = layer().double()
    module.base_layer.requires_grad_(full)
    x = torch.randn(8, 5, 12, dtype=torch.double, requires_grad=True)
    names = sorted({NAMES[i] for i in index})
    learning = [x, *(p for n in names for p in adapter_parameters(module, n))]
    learning += list(module.base_layer.parameters()) if full else []
    up = torch.randn(8, 5, 20, dtype=torch.double)
    expected = torch.autograd.grad((by_row(module, x, index) * up).sum(), learning)
    with use_route(route_of(index)):
        found = torch.autograd.grad((module(x) * up).sum(), learning)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_many_gradients_can_be_taken_at_once(index: list[int]) -> None:
    module, x = layer(), torch.randn(8, 5, 12, requires_grad=True)
    ups = torch.randn(3, 8, 5, 20)
    with use_route(route_of(index)):
        y = module(x)
    expected = torch.stack([torch.autograd.grad(y, x, up, retain_graph=True)[0] for up in ups])
    together = torch.autograd.grad(y, x, ups, is_grads_batched=True, retain_graph=True)[0]
    torch.testing.assert_close(together, expected)
    mapped: Any = torch.vmap(lambda up: torch.autograd.grad(y, x, up, retain_graph=True)[0])
    torch.testing.assert_close(mapped(ups), expected)


@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_gradients_have_gradients(index: list[int]) -> None:
    module = layer().double()
    x = torch.randn(8, 2, 12, dtype=torch.double, requires_grad=True)
    names = sorted({NAMES[i] for i in index})
    learning = [x, *(p for n in names for p in adapter_parameters(module, n))]
    seconds = []
    for answer in (lambda: by_row(module, x, index), lambda: module(x)):
        with use_route(route_of(index)):
            first = torch.autograd.grad(answer().pow(3).sum(), learning, create_graph=True)
        seconds.append(torch.autograd.grad(sum(g.pow(2).sum() for g in first), learning))
    for expected, found in zip(*seconds, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_gradients_of_each_row_by_torch_func_are_those_of_the_definition(index: list[int]) -> None:
    module, x = layer().double(), torch.randn(8, 2, 12, dtype=torch.double)
    own = {n: p for n, p in module.named_parameters() if "lora_" in n}

    def of_rows(values: dict[str, torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
        with use_route(route_of(index)):
            rows = torch.func.functional_call(module, values, (x,)).pow(3).sum((1, 2))
        return (rows * weights).sum()

    found = torch.func.vmap(torch.func.grad(of_rows), in_dims=(None, 0))(own, torch.eye(8, dtype=torch.double))
    for row in range(8):
        expected = torch.autograd.grad(by_row(module, x, index)[row].pow(3).sum(), [*own.values()], allow_unused=True)
        for name, gradient in zip(own, expected, strict=True):
            wanted = torch.zeros_like(own[name]) if gradient is None else gradient
            torch.testing.assert_close(found[name][row], wanted, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_many_second_gradients_can_be_taken_where_the_output_has_none(index: list[int]) -> None:
    module, x = layer().double(), torch.randn(8, 2, 12, dtype=torch.double, requires_grad=True)
    ups, seconds = torch.randn(3, 20, 3, dtype=torch.double), []
    own = [kind[NAMES[index[0]]].weight for kind in (module.lora_A, module.lora_B)]
    for answer in (lambda: by_row(module, x, index), lambda: module(x)):
        with use_route(route_of(index)):
            first = torch.autograd.grad(answer().sum(), own[1], create_graph=True)[0]
        seconds.append(torch.autograd.grad(first, [x, own[0]], ups, is_grads_batched=True))
    for expected, found in zip(*seconds, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


class Forgets(torch.autograd.Function):
    """What comes after it has no gradient for it, and autograd comes by all the same, as through DDP's outputs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> None:
        return None


@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_a_layer_that_the_loss_does_not_hang_on_gets_no_gradient(index: list[int]) -> None:
    module, x = layer(), torch.randn(8, 5, 12, requires_grad=True)
    with use_route(route_of(index)):
        Forgets.apply(module(x)).sum().backward()
    assert x.grad is None and all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_outputs_may_be_changed_in_their_memory(index: list[int]) -> None:
    module, x = layer(), torch.randn(8, 5, 12, requires_grad=True)  # as Longformer's `query /= ...`
    expected = torch.autograd.grad(by_row(module, x, index).div(4).relu().pow(2).sum(), x)[0]
    with use_route(route_of(index)):
        y = module(x)
    y /= 4
    found = torch.autograd.grad(y.relu_().pow(2).sum(), x)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_a_backward_under_autocast_is_as_exact_as_its_forward(index: list[int]) -> None:
    module, x = layer(), torch.randn(8, 5, 12, requires_grad=True)
    with use_route(route_of(index)):
        loss = module(x).pow(2).sum()
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(loss, x)[0]
    expected = torch.autograd.grad(by_row(module, x, index).pow(2).sum(), x)[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_base_layers_that_leave_autocast_are_answered_for(index: list[int]) -> None:
    class Exact(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", enabled=False):
                return super().forward(x)

    module, x = layer().eval(), torch.randn(8, 5, 12)
    module.base_layer.__class__ = Exact
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), use_route(route_of(index)):
        found = module(x)
    torch.testing.assert_close(found, by_row(module, x, index), atol=0.1, rtol=0.05)


@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_backward_hooks_of_base_layers_are_called(index: list[int]) -> None:
    module, seen = layer(), []
    module.base_layer.register_full_backward_hook(lambda *given: seen.append(1))
    with use_route(route_of(index)):
        module(torch.randn(8, 5, 12, requires_grad=True)).sum().backward()
    assert seen


@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_base_weights_that_know_linear_alone_are_answered_for(index: list[int]) -> None:
    """As quantised ones may."""

    class Opaque(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function in (torch.Tensor.matmul, torch.Tensor.__matmul__, torch.matmul):
                raise NotImplementedError(function)
            return super().__torch_function__(function, types, args, kwargs)

    module, x = layer(), torch.randn(8, 5, 12, requires_grad=True)
    expected = torch.autograd.grad(by_row(module, x, index).sum(), x)[0]
    weight = module.base_layer.weight.detach()
    module.base_layer.weight = nn.Parameter(weight.as_subclass(Opaque), requires_grad=False)
    with use_route(route_of(index)):
        found = torch.autograd.grad(module(x).sum(), x)[0]
    torch.testing.assert_close(found.as_subclass(torch.Tensor), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sharing", ["private", "shared+private", "mtl-lora"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_many_tokens_of_one_task_are_answered_as_few(sharing: str, dtype: torch.dtype, tiny_backbone: Any) -> None:
    model, inputs = model_of(tiny_backbone(), sharing=sharing).to(dtype), texts(256)
    few = {key: value[:2] for key, value in inputs.items()}
    with torch.no_grad():
        many, alone = (model(**given, tasks=["b"]).logits["b"] for given in (inputs, few))
    assert inputs["input_ids"].numel() > folding.FROM_TOKENS > few["input_ids"].numel()
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(many[:2], alone, atol=tolerance, rtol=tolerance)


def test_many_tokens_of_one_task_take_the_adapter_in_the_weight() -> None:
    module, x = layer(), torch.randn(64, 20, 12)
    weight = module.base_layer.weight + module.scaling["a"] * module.lora_B["a"].weight @ module.lora_A["a"].weight
    expected = nn.functional.linear(x, weight, module.base_layer.bias)
    with torch.no_grad(), use_route(Route(["a"])):
        torch.testing.assert_close(module(x), expected, atol=1e-6, rtol=1e-6)


def test_an_index_may_be_a_column() -> None:
    index = torch.tensor([[task, 0] for task in INDICES["sorted, more of some"]])[:, 0]
    assert [rows.stop for rows in Route(NAMES, index).blocks or ()] == [1, 4, 5, 8]


@pytest.mark.parametrize("frozen", [NAMES, NAMES[:1], NAMES[1:]], ids=["all", "the first", "all but the first"])
@pytest.mark.parametrize("kind", ["lora_A", "lora_B"])
def test_frozen_adapters_get_no_gradient_and_the_others_theirs(kind: str, frozen: list[str]) -> None:
    module, index = layer(), INDICES["sorted, more of some"]
    for name in frozen:
        getattr(module, kind)[name].requires_grad_(False)
    learning = [p for name in NAMES for p in adapter_parameters(module, name) if p.requires_grad]
    x = torch.randn(8, 5, 12, requires_grad=True)
    expected = torch.autograd.grad(by_row(module, x, index).sum(), learning)
    with use_route(route_of(index)):
        module(x).sum().backward()
    for parameter, gradient in zip(learning, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-5)
    assert all(getattr(module, kind)[name].weight.grad is None for name in frozen)


def test_one_task_is_peft() -> None:
    module = layer(["a"])
    config = LoraConfig(r=3, lora_alpha=5)
    theirs = Linear(copy.deepcopy(module.base_layer), "a", config=config, r=3, lora_alpha=5)
    theirs.load_state_dict(module.state_dict())
    x = torch.randn(8, 5, 12)
    for mode in (torch.enable_grad, torch.no_grad):
        with mode(), use_route(Route(["a"])):
            torch.testing.assert_close(module(x), theirs(x), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "config",
    [{"use_rslora": True}, {"use_dora": True}, {"lora_bias": True}, {"init_lora_weights": "gaussian"}],
    ids=lambda config: next(iter(config)),
)
def test_a_mixed_batch_is_each_task_by_itself(config: dict[str, Any]) -> None:
    module, index = layer(**config), INDICES["in any order"]
    x = torch.randn(8, 5, 12)
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            with use_route(route_of(index)):
                mixed = module(x)
            for row, i in enumerate(index):
                with use_route(Route([NAMES[i]])):
                    torch.testing.assert_close(mixed[row], module(x[row : row + 1])[0], atol=1e-5, rtol=1e-5)


def test_weights_that_lie_together_are_read_as_they_are(torchs_products: None) -> None:
    module, index = layer().eval(), INDICES["in any order"]
    x = torch.randn(8, 5, 12)
    downs, ups = module.weights(tuple(NAMES))
    assert places_of(downs) is None
    with torch.no_grad(), use_route(route_of(index)):
        module(x)
        assert places_of(downs) == places_of(ups) == [0, 1, 2, 3]
        downs[1].data.add_(1.0)  # past the version counter
        ups[2].data = torch.randn(20, 3)  # elsewhere in memory
        torch.testing.assert_close(module(x), by_row(module, x, index), atol=1e-5, rtol=1e-6)
    assert len({p.data_ptr() for p in [*downs, *ups]}) == 8


def test_compiled_layers_answer_and_learn_alike() -> None:
    module, index = layer(), INDICES["in any order"]
    x, route = torch.randn(8, 5, 12), route_of(index)

    def run(x: torch.Tensor) -> torch.Tensor:
        with use_route(route):
            return module(x)

    compiled = torch.compile(run, backend="aot_eager")
    learning = [p for name in NAMES for p in adapter_parameters(module, name)]
    found, expected = compiled(x), by_row(module, x, index)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-6)
    of_both = [torch.autograd.grad(y.pow(2).sum(), learning) for y in (found, expected)]
    for ours, theirs in zip(*of_both, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def tasks() -> list[TextClassification]:
    return [TextClassification(name=name, labels=["no", "yes"], dropout=0.0) for name in NAMES]


def model_of(folder: str, **kwargs: Any) -> MultiTaskModel:
    kwargs.setdefault("adapters", LoraConfig(r=2, target_modules="all-linear"))
    model = MultiTaskModel.from_backbone(folder, tasks(), **kwargs)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def texts(rows: int = 8) -> dict[str, torch.Tensor]:
    mask = torch.ones(rows, 9, dtype=torch.long)
    mask[::2, 6:] = 0
    return {"input_ids": torch.randint(5, 300, (rows, 9)), "attention_mask": mask}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["bert", "modernbert", "llama", "t5"])
def test_a_mixed_batch_has_the_gradients_of_a_batch_a_task(kind: str, checkpointing: bool, tiny_backbone: Any) -> None:
    model, ids, inputs = model_of(tiny_backbone(kind)), torch.tensor(INDICES["in any order"]), texts()
    labels = {name: torch.zeros(int((ids == i).sum()), dtype=torch.long) for i, name in enumerate(NAMES)}
    for i, name in enumerate(NAMES):
        own = {key: value[ids == i] for key, value in inputs.items()}
        model(**own, tasks=[name], labels=labels[name]).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    if checkpointing:
        model.train()
        model.activation_checkpointing_enable()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif isinstance(vars(module).get("dropout"), float):  # T5's attention
                module.dropout = 0.0
    model(**inputs, task_ids=ids, labels=labels).loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4)


def test_adapters_of_all_tasks_are_one(tiny_backbone: Any, tmp_path: Any) -> None:
    model = model_of(tiny_backbone(), sharing="shared")
    model.eval()
    inputs = texts()
    alone, ids = model(**inputs, tasks=["b"]).logits["b"], torch.tensor(INDICES["in any order"])
    torch.testing.assert_close(model(**inputs, task_ids=ids).logits["b"], alone[ids == 1], atol=1e-6, rtol=1e-5)
    read: list[int] = []
    hook = model.backbone.register_forward_hook(lambda module, args, output: read.append(1))
    together = model(**inputs).logits
    hook.remove()
    assert len(read) == 1 and torch.equal(together["b"], alone)
    learning = {name for name, p in model.named_parameters() if p.requires_grad and "lora_" in name}
    assert learning and all(".+all." in name for name in learning)
    model.add_task(TextClassification(name="e", labels=["no", "yes"], dropout=0.0))
    model.remove_task("a")
    torch.testing.assert_close(model(**inputs, tasks=["b"]).logits["b"], alone)
    model.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path)
    assert again.config.sharing == "shared"
    torch.testing.assert_close(again(**inputs, tasks=["b"]).logits["b"], alone)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "llama", "t5", "mpnet", "deberta-v2"])
def test_the_trunk_is_computed_once_and_gives_the_same(kind: str, tiny_backbone: Any, tmp_path: Any) -> None:
    model, inputs = model_of(tiny_backbone(kind), first_layer=1), texts()
    model.eval()
    trunk = model._trunk()
    assert len(trunk) == 1
    read: list[int] = []
    trunk[0].forward = counting(trunk[0].forward, read)
    labels = {name: torch.zeros(8, dtype=torch.long) for name in NAMES}
    together = model(**inputs, labels=labels)
    together.loss.backward()
    assert len(read) == 1
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for name in NAMES:
        alone = model(**inputs, tasks=[name], labels=labels[name])
        alone.loss.backward()
        torch.testing.assert_close(together.logits[name], alone.logits[name])
    assert len(read) == 5
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(gradients[name], parameter.grad)
    model.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path)
    assert len(again._trunk()) == 1
    torch.testing.assert_close(again(**inputs).logits, together.logits)


@pytest.mark.parametrize("first_layer", [0, 1])
@pytest.mark.parametrize("kind", ["bert", "modernbert", "llama", "t5", "mpnet", "deberta-v2", "gpt2"])
def test_what_all_tasks_begin_with_is_multiplied_once(kind: str, first_layer: int, tiny_backbone: Any) -> None:
    model, inputs, read = model_of(tiny_backbone(kind), first_layer=first_layer).eval(), texts(), []
    layers = [m for m in model.backbone.modules() if isinstance(m, RoutedLinear)]
    for layer in layers:
        layer.base_layer.__class__ = type("Counted", (type(layer.base_layer),), {"forward": counting_own(read)})
    with torch.inference_mode() if first_layer else torch.no_grad():
        alone = {name: model(**inputs, tasks=[name]).logits[name] for name in NAMES}
        read.clear()
        together = model(**inputs).logits
    torch.testing.assert_close(together, alone)
    of_queries_keys_values = {"bert": 3, "mpnet": 3, "deberta-v2": 3, "modernbert": 1 - first_layer}  # others normalize
    saved = of_queries_keys_values.get(kind, 0) * (len(NAMES) - 1)
    assert len(read) == len(NAMES) * len(layers) - saved


def counting_own(read: list[int]) -> Any:
    def forward(self: Any, *args: Any) -> Any:
        read.append(1)
        return super(type(self), self).forward(*args)

    return forward


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_input_that_is_written_to_is_no_longer_the_first(mode: Any, compiled: bool, request: Any) -> None:
    if not compiled:
        request.getfixturevalue("torchs_products")
    module, x = layer(["a"]).eval(), torch.randn(8, 5, 12)
    module.base_layer = nn.Linear(12, 12)
    module.lora_B["a"] = nn.Linear(3, 12, bias=False)

    def run() -> torch.Tensor:
        own = x.clone()
        for _ in range(3):
            own += module(own)
        return own

    with mode(), use_route(Route(["a"])):
        expected = run()
        with common_input(module):
            found = [run(), run()]
        if compiled:  # what is kept is added to in another order
            torch.testing.assert_close(found, [expected] * 2, atol=1e-5, rtol=1e-5)
        else:
            assert all(torch.equal(each, expected) for each in found)


def test_hooks_of_base_layers_are_called_for_each_task(tiny_backbone: Any) -> None:
    model, seen = model_of(tiny_backbone()).eval(), []
    query = next(m for n, m in model.backbone.named_modules() if n.endswith("query"))
    query.base_layer.register_forward_hook(lambda module, args, output: seen.append(1))
    with torch.no_grad():
        model(**texts())
    assert len(seen) == len(NAMES)


@pytest.mark.parametrize("first_layer", [0, 1])
def test_a_compiled_backbone_answers_all_tasks(first_layer: int, tiny_backbone: Any) -> None:
    model, inputs = model_of(tiny_backbone(), first_layer=first_layer).eval(), texts()
    with torch.no_grad():
        expected = model(**inputs).logits
        model.backbone.compile(backend="eager")
        torch.testing.assert_close(model(**inputs).logits, expected)


def test_layers_of_many_tokens_can_be_exported() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer(["a"]).eval()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with use_route(Route(["a"])):
                return self.layer(x)

    module, x = Routed(), torch.randn(300, 5, 12)
    batch = torch.export.Dim("batch", min=2, max=4096)
    with torch.no_grad():
        exported = torch.export.export(module, (x[:8],), strict=False, dynamic_shapes=({0: batch},))
        torch.testing.assert_close(exported.module()(x), module(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", [40, 2000])
def test_dropout_that_stays_on_drops(tokens: int) -> None:
    module, x = layer(["a"], lora_dropout=0.5).eval(), torch.randn(tokens // 5, 5, 12)
    module.lora_dropout.train()
    with torch.no_grad(), use_route(Route(["a"])):
        assert not torch.equal(module(x), module(x))


def test_adapters_that_are_elsewhere_are_refused() -> None:
    module = layer().eval()
    for name in NAMES:
        module.lora_A[name].to("meta"), module.lora_B[name].to("meta")
    for mode in (torch.no_grad, torch.enable_grad):
        for index in INDICES.values():
            with mode(), use_route(route_of(index)), pytest.raises(RuntimeError, match="adapters are on meta"):
                module(torch.randn(8, 5, 12))


def test_another_input_than_the_first_is_answered_for() -> None:
    """As layers have that run several times in a forward."""
    module, inputs = layer(["a", "b"]).eval(), [torch.randn(8, 5, 12), torch.randn(8, 5, 12), torch.randn(3, 5, 12)]
    with torch.no_grad(), common_input(module):
        for name in ("a", "b"):
            with use_route(Route([name])):
                for x in inputs:
                    torch.testing.assert_close(module(x.clone()), by_row(module, x, [NAMES.index(name)] * len(x)))


def counting(forward: Any, read: list[int]) -> Any:
    def counted(*args: Any, **kwargs: Any) -> Any:
        read.append(1)
        return forward(*args, **kwargs)

    return counted


def test_without_a_trunk_nothing_is_computed_once(tiny_backbone: Any) -> None:
    assert model_of(tiny_backbone())._trunk() == []


def test_the_backbone_learns_beside_the_adapters_where_wanted(tiny_backbone: Any, tmp_path: Any) -> None:
    model, ids = model_of(tiny_backbone(), train_backbone=True), torch.tensor(INDICES["in any order"])
    labels = {name: torch.zeros(int((ids == i).sum()), dtype=torch.long) for i, name in enumerate(NAMES)}
    assert all(p.requires_grad for p in model.parameters())
    model(**texts(), task_ids=ids, labels=labels).loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert all("position" in name for name in without), without
    model.save_pretrained(tmp_path)
    assert all(p.requires_grad for p in MultiTaskModel.from_pretrained(tmp_path).parameters())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sharing": "shard"}, "Did you mean 'shared'"),
        ({"first_layer": 2}, "layers 0 to 1"),
        ({"first_layer": 1, "adapters": None}, "there are none"),
        ({"first_layer": 1, "adapters": LoraConfig(target_modules=["query"], layers_to_transform=[1])}, "not both"),
    ],
)
def test_a_sharing_that_cannot_be_is_refused(given: dict[str, Any], message: str, tiny_backbone: Any) -> None:
    with pytest.raises(ValueError, match=message):
        model_of(tiny_backbone(), **given)
