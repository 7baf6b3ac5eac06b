"""Gradient methods against torchjd's aggregation of explicit Jacobians, and NumPy."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchjd import aggregation

from hf_mtl.balancing import GRADIENT_METHODS, GradientBalancing, GradientRows, GramianBalancing, make_balancing
from hf_mtl.balancing.nash_mtl import bargain

TASKS = ["a", "b", "c"]

ORACLES: dict[str, Any] = {
    "aligned-mtl": aggregation.AlignedMTL,
    "cagrad": lambda: aggregation.CAGrad(c=0.5),
    "config": aggregation.ConFIG,
    "cr-mogm": lambda: aggregation.GramianWeightedAggregator(aggregation.CRMOGMWeighting(aggregation.MGDAWeighting())),
    "dualproj": aggregation.DualProj,
    "fairgrad": lambda: aggregation.FairGrad(alpha=2.0),
    "gradvac": aggregation.GradVac,
    "imtl-g": aggregation.IMTLG,
    "mgda": aggregation.MGDA,
    "pcgrad": aggregation.PCGrad,
    "upgrad": aggregation.UPGrad,
}


class Net(nn.Module):
    """A trunk that tasks share, of which `c` does not reach the last layer, and a head for each."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
        self.deep = nn.Linear(5, 5)
        self.heads = nn.ModuleDict({name: nn.Linear(5, 2) for name in TASKS})
        self.shared = [*self.trunk.parameters(), *self.deep.parameters()]

    def loss(self, task: str, x: Tensor) -> Tensor:
        hidden = self.trunk(x)
        hidden = hidden if task == "c" else self.deep(hidden)
        scale = {"a": 1.0, "b": 3.0, "c": -2.0}[task]
        return scale * self.heads[task](hidden).sum(-1).tanh().mean() + 4


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def batches(step: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(100 + step)
    return {name: torch.randn(4, 6) for name in TASKS}


def jacobian(net: Net, data: dict[str, Tensor], of: list[nn.Parameter] | None = None) -> Tensor:
    rows, shared = [], of or net.shared
    for name, x in data.items():
        grads = torch.autograd.grad(net.loss(name, x), shared, allow_unused=True)
        zipped = zip(grads, shared, strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zipped]))
    return torch.stack(rows)


def collected(net: Net, data: dict[str, Tensor], order: list[str] = TASKS) -> GradientRows:
    net.zero_grad()
    rows = GradientRows(TASKS, list(net.parameters()))
    for name in order:
        net.loss(name, data[name]).backward()
        rows.collect(name)
    return rows


def left(net: Net) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in net.shared])


def make(method: str, tasks: list[str] = TASKS, seed: int = 0, **options: Any) -> GradientBalancing:
    made = make_balancing(method, tasks, options, seed=seed)
    assert isinstance(made, GradientBalancing)
    return made


def test_every_method_has_an_oracle() -> None:
    assert {*ORACLES, "nash-mtl", "gradnorm", "graddrop"} == set(GRADIENT_METHODS)


@pytest.mark.parametrize("name", ORACLES)
def test_the_gradient_is_torchjds_aggregation_of_the_explicit_jacobian(name: str, net: Net) -> None:
    ours, theirs = make(name, normalize=False), ORACLES[name]()
    for step in range(4):
        data = batches(step)
        matrix = jacobian(net, data)
        # Two of them are not indifferent to the scale of the rows, which ours sets; the others get the plain rows.
        scale = matrix.pow(2).sum(1).mean().sqrt() if name == "fairgrad" else 1.0
        with ours.torch_random(torch.device("cpu")):
            wanted = theirs(matrix / scale) * scale
        ours.end_step(collected(net, data), {})
        assert left(net) == pytest.approx(wanted.numpy(), abs=1e-5 * float(wanted.abs().max()) + 1e-6)


@pytest.mark.parametrize("name", sorted({*GRADIENT_METHODS} - {"graddrop"}))
def test_weights_add_up_to_the_number_of_tasks_whatever_the_loss_scale(name: str, net: Net) -> None:
    data = batches()
    gramian = collected(net, data).gramian()
    losses = {"a": 1.0, "b": 2.0, "c": 0.5}
    found = []
    for scale in (1.0, 2.0**16, 2.0**-20):
        method = make(name)
        assert isinstance(method, GramianBalancing)
        found.append(method.weigh(gramian * scale**2, TASKS, losses))
    assert found[0].sum().item() == pytest.approx(3, abs=1e-5)
    assert found[1].numpy() == pytest.approx(found[0].numpy(), abs=1e-4)
    assert found[2].numpy() == pytest.approx(found[0].numpy(), abs=1e-4)


@pytest.mark.parametrize("name", sorted({*GRADIENT_METHODS} - {"graddrop"}))
def test_a_tasks_weight_is_a_factor_beside_the_methods(name: str, net: Net) -> None:
    data, losses, parts = batches(), {"a": 1.0, "b": 2.0, "c": 0.5}, {}
    for weight in (1.0, 10.0):
        rows, method = GradientRows(TASKS, list(net.parameters()), weights={"a": weight}), make(name)
        for task, x in data.items():
            net.zero_grad()
            ((weight if task == "a" else 1.0) * net.loss(task, x)).backward()
            rows.collect(task)
        method.end_step(rows, losses)
        parts[weight] = dict(method.weights)
    undone = {"aligned-mtl", "config", "cr-mogm", "fairgrad", "gradnorm", "imtl-g", "mgda", "nash-mtl"}
    if name in undone:  # of rows without the weight
        assert parts[10.0] == pytest.approx(parts[1.0], rel=1e-3)
    share = {w: w * part["a"] / (w * part["a"] + part["b"] + part["c"]) for w, part in parts.items()}
    assert share[10.0] > share[1.0]


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_tasks_that_agree_get_the_plain_sum(name: str, net: Net) -> None:
    # Rows of equal length that are orthogonal: each method must leave the sum.
    parameters = [nn.Parameter(torch.zeros(3)) for _ in TASKS]
    rows = GradientRows(TASKS, parameters)
    for task, own in zip(TASKS, parameters, strict=True):
        for parameter in parameters:  # of all tasks, but for the others of nothing
            parameter.grad = torch.tensor([1.0, 2.0, -1.0]) * (parameter is own)
        rows.collect(task)
    make(name).end_step(rows, dict.fromkeys(TASKS, 1.0))
    for parameter in parameters:
        assert parameter.grad is not None
        assert parameter.grad.tolist() == pytest.approx([1.0, 2.0, -1.0], abs=1e-3)


def test_the_order_of_micro_batches_changes_nothing(net: Net) -> None:
    data = batches()
    found = []
    for order in (["a", "b", "c"], ["c", "a", "b"]):
        make("upgrad").end_step(collected(net, data, order), {})
        found.append(left(net))
    assert torch.equal(*found)


def test_several_micro_batches_of_a_task_are_one_row(net: Net) -> None:
    data = batches()
    rows = collected(net, data)
    net.loss("b", data["b"]).backward()
    rows.collect("b")
    matrix = jacobian(net, data)
    matrix[1] *= 2
    assert rows.gramian().numpy() == pytest.approx((matrix @ matrix.T).numpy(), rel=1e-5)


def test_the_gramian_is_exact_over_many_blocks_and_small_types() -> None:
    random = torch.Generator().manual_seed(0)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-5)):
        parameters = [nn.Parameter(torch.zeros(n, dtype=dtype)) for n in (3, 200_000, 70_000)]
        rows, kept = GradientRows(TASKS, parameters), []
        for task in TASKS:
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=random).to(dtype)
            kept.append(np.concatenate([p.grad.double().numpy() for p in parameters]))
            rows.collect(task)
        wanted = np.stack(kept) @ np.stack(kept).T
        found = rows.gramian()
        assert found.dtype == torch.float32
        assert np.abs(found.numpy() - wanted).max() < tolerance * wanted.max()


def test_a_parameter_that_no_task_reaches_keeps_no_gradient(net: Net) -> None:
    rows = GradientRows(TASKS, net.shared)
    for task in ("b", "c"):
        for parameter in net.trunk.parameters():
            parameter.grad = torch.ones_like(parameter)
        rows.collect(task)
    make("pcgrad").end_step(rows, {})
    assert all(p.grad is None for p in net.deep.parameters())
    assert all(p.grad is not None for p in net.trunk.parameters())


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_what_one_task_alone_reaches_keeps_its_own_gradient_and_counts_for_no_weight(name: str, net: Net) -> None:
    data = batches()
    own = {task: torch.autograd.grad(net.loss(task, data[task]), list(net.heads[task].parameters())) for task in TASKS}
    # Of b and c the layer `deep` is b's alone.
    deep = torch.autograd.grad(net.loss("b", data["b"]), list(net.deep.parameters()))
    for order in (TASKS, ["b", "c"]):
        rows = collected(net, data, order)
        method = make(name)
        if isinstance(method, GramianBalancing):
            parts = list(net.shared if order == TASKS else net.trunk.parameters())
            matrix = jacobian(net, {task: data[task] for task in order}, parts)
            assert rows.gramian().numpy() == pytest.approx((matrix @ matrix.T).numpy(), rel=1e-5)
        method.end_step(rows, dict.fromkeys(TASKS, 1.0))
        for task in order:
            pairs = zip(net.heads[task].parameters(), own[task], strict=True)
            assert all(torch.equal(p.grad, g) for p, g in pairs)  # type: ignore[arg-type]
    assert all(torch.equal(p.grad, g) for p, g in zip(net.deep.parameters(), deep, strict=True))  # type: ignore[arg-type]
    assert all(p.grad is None for p in net.heads["a"].parameters())


def test_tasks_that_share_nothing_are_left_as_they_are() -> None:
    parameters = [nn.Parameter(torch.zeros(2)) for _ in TASKS]
    rows = GradientRows(TASKS, parameters)
    for task, parameter in zip(TASKS, parameters, strict=True):
        parameter.grad = torch.tensor([1.0, -3.0])
        rows.collect(task)
    assert not rows.share
    method = make("upgrad")
    method.end_step(rows, {})
    assert all(p.grad.tolist() == [1.0, -3.0] for p in parameters)  # type: ignore[union-attr]
    assert method.weights == dict.fromkeys(TASKS, 1.0)


@pytest.mark.parametrize("name", GRADIENT_METHODS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_summed_so_that_the_scaler_sees_them(name: str, bad: float, net: Net) -> None:
    rows = collected(net, batches())
    rows.rows[1][0].fill_(bad)  # type: ignore[union-attr]
    method = make(name)
    before = method.state_dict() | {"step": 0}
    method.end_step(rows, dict.fromkeys(TASKS, 1.0))
    assert not net.trunk[0].weight.grad.isfinite().any()  # type: ignore[union-attr]
    assert method.state_dict() | {"step": 0} == before


@pytest.mark.parametrize("name", sorted({*GRADIENT_METHODS} - {"graddrop"}))
def test_a_row_of_zeros_has_no_part_in_it(name: str, net: Net) -> None:
    gramian = collected(net, batches()).gramian()
    without, method = make(name), make(name)
    assert isinstance(method, GramianBalancing) and isinstance(without, GramianBalancing)
    gramian[1, :] = gramian[:, 1] = 0.0
    losses = dict.fromkeys(TASKS, 1.0)
    found = method.weigh(gramian, TASKS, losses)
    kept = without.weigh(gramian[[0, 2]][:, [0, 2]], ["a", "c"], losses)
    assert found[[0, 2]].tolist() == kept.tolist()
    assert found[1] == 1


def test_nash_weights_solve_the_bargain() -> None:
    for seed in range(20):
        rows = torch.randn(4, 30, generator=torch.Generator().manual_seed(seed)) * torch.tensor([[0.1], [1], [3], [1]])
        gramian = (rows @ rows.T).double()
        gramian /= gramian.diagonal().mean()
        weights = bargain(gramian)
        assert (weights > 0).all()
        assert (gramian @ weights * weights).numpy() == pytest.approx(1, abs=1e-3)


def test_nash_weights_stay_finite_where_tasks_cancel() -> None:
    row = torch.tensor([1.0, 2.0])
    rows = torch.stack([row, -row])
    weights = bargain((rows @ rows.T) / 5)
    assert weights.isfinite().all() and weights[0].item() == pytest.approx(weights[1].item())


def test_gradnorm_is_the_papers_in_numpy() -> None:
    method: Any = make("gradnorm", alpha=0.7, learning_rate=0.1)
    weights, first = np.ones(3), None
    parameter = [torch.ones(3, dtype=torch.double, requires_grad=True)]
    adam = torch.optim.Adam(parameter, lr=0.1)
    for step in range(15):
        random = np.random.default_rng(step)
        rows = random.normal(size=(3, 20)) * np.array([[1], [4], [0.2]])
        losses = random.uniform(0.5, 2.0, 3)
        gramian = rows @ rows.T
        gramian /= np.diag(gramian).mean()
        found = method.weigh(torch.tensor(gramian), TASKS, dict(zip(TASKS, losses, strict=True)))
        assert found.numpy() == pytest.approx(weights * 3 / weights.sum(), abs=1e-4)
        method.step += 1
        first = losses if first is None else first
        lengths = torch.tensor(np.sqrt(np.diag(gramian)))
        paces = torch.tensor(losses / first)
        target = ((parameter[0] * lengths).mean() * (paces / paces.mean()) ** 0.7).detach()
        adam.zero_grad()
        (parameter[0] * lengths - target).abs().sum().backward()
        adam.step()
        with torch.no_grad():
            parameter[0].clamp_(min=1e-3)
            parameter[0] *= 3 / parameter[0].sum()
        weights = parameter[0].detach().numpy().copy()


def test_graddrop_is_torchjds_on_each_parameter(net: Net) -> None:
    data = batches()
    matrix = jacobian(net, data)
    method = make("graddrop", leak=0.25)
    wanted = []
    with method.torch_random(torch.device("cpu")):
        for part in matrix.split([p.numel() for p in net.shared], dim=1):
            wanted.append(aggregation.GradDrop(leak=torch.full((3,), 0.25))(part))
    method.end_step(collected(net, data), {})
    assert left(net) == pytest.approx(torch.cat(wanted).numpy(), abs=1e-6)


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_a_resumed_method_goes_on_to_the_bit_and_leaves_the_global_generator_alone(name: str, net: Net) -> None:
    def run(method: GradientBalancing, steps: range) -> list[Tensor]:
        found = []
        for step in steps:
            order = TASKS if step % 2 else ["a", "c"]
            rows = collected(net, batches(step), order)
            before = torch.get_rng_state()
            method.end_step(rows, {"a": 1.0 + step, "b": 2.0, "c": 1.0})
            assert torch.equal(before, torch.get_rng_state())
            found.append(left(net))
        return found

    unbroken, first, resumed = make(name), make(name), make(name)
    run(unbroken, range(5))
    run(first, range(5))
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    pairs = zip(run(resumed, range(5, 8)), run(unbroken, range(5, 8)), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_cr_mogm_averages_weights_by_task(net: Net) -> None:
    smooth, plain = make("cr-mogm", alpha=0.25, of="upgrad"), make("upgrad")
    for method in (smooth, plain):
        assert isinstance(method, GramianBalancing)
    first, second = (collected(net, batches(step)).gramian() for step in range(2))
    two = [plain.solve(g / g.diagonal().mean(), [], {}).numpy() for g in (first[[0, 2]][:, [0, 2]], second)]
    smooth.weigh(first[[0, 2]][:, [0, 2]], ["a", "c"])
    wanted = 0.75 * two[1] + 0.25 * np.array([two[0][0], two[1][1], two[0][1]])
    assert smooth.weigh(second, TASKS).numpy() == pytest.approx(wanted * 3 / wanted.sum(), abs=1e-5)


def test_gradvac_remembers_cosines_by_task(net: Net) -> None:
    method: Any = make("gradvac")
    method.end_step(collected(net, batches(), ["a", "c"]), {})
    cosines = np.array(method.state_dict()["cosines"])
    assert (cosines[1] == 0).all() and (cosines[:, 1] == 0).all()
    assert cosines[0, 2] != 0 and cosines[2, 0] != 0
