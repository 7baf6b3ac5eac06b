"""Adapters made of parts that tasks share: what they compute, what learns, and what becomes of a task."""

import copy
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from peft import EvaConfig, LoraConfig, PolyConfig, get_peft_model
from peft.tuners.poly.layer import Linear as PolyLinear
from test_adapters import INDICES, NAMES, model_of, route_of, tasks, texts
from torch import nn

from hf_mtl import MultiTaskModel, TextClassification
from hf_mtl.adapters import Route, RoutedLinear, inject_adapters, use_route
from hf_mtl.adapters.composing import Poly

COMPOSED = {"shared+private": {}, "mtl-lora": {"ups": 2}, "poly": {"skills": 3}}
KINDS = ["bert", "gpt2", "t5"]


def composed(folder: str, sharing: str, **kwargs: Any) -> MultiTaskModel:
    kwargs.setdefault("adapters", LoraConfig(r=2, lora_alpha=3, target_modules="all-linear"))
    model = MultiTaskModel.from_backbone(
        folder, tasks(), sharing=sharing, sharing_options=COMPOSED[sharing] or None, **kwargs
    )
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def by_paper(module: RoutedLinear, sharing: str, task: str, x: torch.Tensor) -> torch.Tensor:
    """What a task's row gets beside the base layer, written as the papers do: part by part."""
    a, b = module.lora_A, module.lora_B
    if sharing == "shared+private":
        low = sum(x @ a[key].weight.T @ b[key].weight.T for key in ("+all", task))
        return low * module.scaling["+all"]
    gate = module.lora_gate[task]
    if sharing == "mtl-lora":
        low = x @ a["+all"].weight.T @ module.lora_core[task].T
        shares = torch.exp(gate / 0.5) / torch.exp(gate / 0.5).sum()
        ups = [b["+all"].weight, *module.lora_up["+all"]]
        return sum(s * (low @ up.T) for s, up in zip(shares, ups, strict=True)) * module.scaling["+all"]
    z = torch.sigmoid(gate) / torch.sigmoid(gate).sum()
    down = sum(z[k] * a[f"+{k}"].weight for k in range(3))
    up = sum(z[k] * b[f"+{k}"].weight for k in range(3))
    return x @ down.T @ up.T * module.scaling["+0"]


DRAWN = """
import sys, torch
from peft import LoraConfig
from hf_mtl import MultiTaskModel, TextClassification

tasks = [TextClassification(name=name, labels=["no", "yes"]) for name in ("one", "two", "three")]
for sharing in ("mtl-lora", "poly"):
    torch.manual_seed(0)
    model = MultiTaskModel.from_backbone(sys.argv[1], tasks, adapters=LoraConfig(r=2), sharing=sharing)
    print([float(parameter.double().sum()) for name, parameter in model.named_parameters() if "lora_" in name])
"""


def test_a_seed_draws_the_same_in_every_process(tiny_backbone: Any) -> None:
    command = [sys.executable, "-c", DRAWN, tiny_backbone()]
    # Python hashes strings by another number in each process, and so orders sets of them.
    found = {
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": seed}, text=True, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


@pytest.mark.parametrize("grad", [True, False], ids=["learning", "answering"])
@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
@pytest.mark.parametrize("sharing", COMPOSED)
def test_a_composed_adapter_is_what_its_paper_says(
    sharing: str, index: list[int], grad: bool, tiny_backbone: Any
) -> None:
    model = composed(tiny_backbone(), sharing)
    module = next(m for m in model.modules() if isinstance(m, RoutedLinear))
    x = torch.randn(8, 5, module.in_features)
    base: Any = module.base_layer
    expected = torch.stack([base(r) + by_paper(module, sharing, NAMES[i], r) for r, i in zip(x, index, strict=True)])
    with torch.set_grad_enabled(grad):
        with use_route(route_of(index)):
            mixed = module(x)
        torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-5)
        with use_route(Route([NAMES[index[0]]])):
            torch.testing.assert_close(module(x)[0], expected[0], atol=1e-5, rtol=1e-5)


def test_skills_are_mixed_as_peft_mixes_them() -> None:
    config = PolyConfig(target_modules=["0"], r=3, n_tasks=2, n_skills=3, n_splits=1)
    theirs = get_peft_model(nn.Sequential(nn.Linear(12, 20)), config).eval()
    poly: Any = next(m for m in theirs.modules() if isinstance(m, PolyLinear))
    module = nn.Sequential(copy.deepcopy(poly.base_layer))
    lora = LoraConfig(r=3, lora_alpha=1, target_modules=["0"])
    inject_adapters(module, lora, ["+0", "+1", "+2", "a", "b"], Poly(skills=3))
    ours: Any = module.eval()[0]
    for p in poly.poly_lora_B.values():
        nn.init.normal_(p)
    nn.init.normal_(poly.poly_router["default"].module_logits)
    for k in range(3):
        ours.lora_A[f"+{k}"].weight.data = poly.poly_lora_A["default"][0, k].T.clone()
        ours.lora_B[f"+{k}"].weight.data = poly.poly_lora_B["default"][0, k].T.clone()
    for i, name in enumerate("ab"):
        ours.lora_gate[name].data = poly.poly_router["default"].module_logits[i].clone()
    x, ids = torch.randn(4, 5, 12), torch.tensor([0, 1, 1, 0])
    with use_route(Route(["a", "b"], ids)):
        torch.testing.assert_close(ours(x), poly(x, task_ids=ids))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sharing", COMPOSED)
def test_rows_of_several_tasks_share_what_is_shared_and_nothing_else(
    sharing: str, kind: str, tiny_backbone: Any
) -> None:
    model, inputs = composed(tiny_backbone(kind), sharing), texts()
    model(**inputs, tasks=["b"], labels=torch.zeros(8, dtype=torch.long)).loss.backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    of_layers = {name for name in moved if "lora_" in name}
    assert of_layers and all(".b" in name or ".+" in name for name in of_layers)
    assert any(".+" in name for name in of_layers) and any(".b" in name for name in of_layers)
    assert {name for name in moved if name.startswith("heads.")} == {n for n in moved if n.startswith("heads.b.")}
    learning = {name for name, p in model.named_parameters() if p.requires_grad and not name.startswith("heads.")}
    assert learning == {name for name, _ in model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sharing", COMPOSED)
def test_a_composed_model_comes_back(sharing: str, kind: str, tiny_backbone: Any, tmp_path: Any) -> None:
    model, inputs = composed(tiny_backbone(kind), sharing), texts()
    ids = torch.tensor(INDICES["in any order"])
    expected = model(**inputs, task_ids=ids).logits
    for folder, options in (("all", {}), ("light", {"save_backbone": False})):
        model.save_pretrained(tmp_path / folder, **options)
        again = MultiTaskModel.from_pretrained(tmp_path / folder)
        assert (again.config.sharing, again.config.sharing_options) == (sharing, COMPOSED[sharing] or None)
        torch.testing.assert_close(again(**inputs, task_ids=ids).logits, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sharing", [*COMPOSED, "shared"])
def test_tasks_of_shared_adapters_come_go_and_are_written_out(
    sharing: str, kind: str, tiny_backbone: Any, tmp_path: Any
) -> None:
    folder = tiny_backbone(kind)
    model = model_of(folder, sharing="shared") if sharing == "shared" else composed(folder, sharing)
    model.eval()
    inputs = texts()
    before = model(**inputs, tasks=["b"]).logits["b"]
    model.add_task(TextClassification(name="e", labels=["no", "yes"]))
    model.rename_task("b", "new")
    model.remove_task("a")
    assert torch.equal(model(**inputs, tasks=["new"]).logits["new"], before)
    assert model(**inputs, tasks=["e"]).logits["e"].isfinite().all()
    # A pack holds what the task's adapter amounts to, so that it goes into a model of private ones.
    model.save_task("new", tmp_path / "pack")
    alone = MultiTaskModel.from_tasks([tmp_path / "pack"], backbone=folder)
    torch.testing.assert_close(alone.eval()(**inputs).logits["new"], before, atol=1e-5, rtol=1e-4)
    merged = model.merge_task("new")
    hidden = merged(**inputs).last_hidden_state
    with torch.no_grad():
        routed = model.encode(["new"], inputs["attention_mask"], input_ids=inputs["input_ids"])[-1]
    seen = inputs["attention_mask"].bool()
    torch.testing.assert_close(hidden[seen], routed[seen], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sharing", COMPOSED)
def test_a_task_that_the_checkpoint_has_not_gets_fresh_parts(sharing: str, tiny_backbone: Any, tmp_path: Any) -> None:
    model = composed(tiny_backbone(), sharing)
    before = model(**texts_of(0), tasks=["b"]).logits["b"]
    model.save_pretrained(tmp_path)
    config = copy.deepcopy(model.config)
    config.tasks = [*config.tasks, TextClassification(name="e", labels=["no", "yes"]).to_dict()]
    again = MultiTaskModel.from_pretrained(tmp_path, config=config)
    torch.testing.assert_close(again(**texts_of(0), tasks=["b"]).logits["b"], before)
    for name, parameter in again.named_parameters():
        assert parameter.isfinite().all(), name
    cores = [p for name, p in again.named_parameters() if name.endswith("lora_core.e")]
    assert all(torch.equal(core, torch.eye(2)) for core in cores)
    gates = [p for name, p in again.named_parameters() if name.endswith("lora_gate.e")]
    assert all(0 < gate.abs().max() < 5 for gate in gates)


def texts_of(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return texts()


@pytest.mark.parametrize("sharing", COMPOSED)
def test_fresh_composed_adapters_change_nothing_and_learn(sharing: str, tiny_backbone: Any) -> None:
    folder = tiny_backbone()  # making it draws random numbers
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules="all-linear")
    model = MultiTaskModel.from_backbone(folder, tasks(), adapters=lora, sharing=sharing)
    bare = MultiTaskModel.from_backbone(folder, tasks())
    inputs = texts_of(0)
    mask, ids = inputs["attention_mask"], inputs["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode(["a"], mask, input_ids=ids)[-1], bare.encode(["a"], mask, input_ids=ids)[-1]
        )
    labels = {name: torch.tensor([0, 1] * 4) for name in NAMES}
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(60):
        loss = model(**inputs, labels=labels).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    ups = [p for name, p in model.named_parameters() if "lora_up" in name or "lora_B.+" in name]
    assert all(p.abs().max() > 0 for p in ups)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sharing": "poly", "sharing_options": {"skill": 4}}, "no option 'skill'.*'skills'"),
        ({"sharing": "poly", "sharing_options": {"skills": 1}}, "skills must be .* at least 2, got 1"),
        ({"sharing": "mtl-lora", "sharing_options": {"temperature": 0}}, "temperature must be a number above 0"),
        ({"sharing": "mtl-lora", "sharing_options": {"temperature": "cold"}}, "a number above 0, got 'cold'"),
        ({"sharing": "private", "sharing_options": {"skills": 4}}, "'private' has no options"),
        ({"sharing": "poly", "adapters": None}, "there are none"),
        ({"sharing": "poly", "adapters": {"a": LoraConfig()}}, "one LoraConfig for all tasks"),
        ({"sharing": "mtl-lora", "adapters": LoraConfig(use_dora=True)}, "use_dora=True goes with"),
    ],
)
def test_a_composition_that_cannot_be_is_refused(given: dict[str, Any], message: str, tiny_backbone: Any) -> None:
    with pytest.raises(ValueError, match=message):
        model_of(tiny_backbone(), **given)


# ---------------------------------------------------------------------- adapters that start from the base weights


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_adapters_start_from_the_base_weights_and_leave_them_alone(
    init: str, tiny_backbone: Any, tmp_path: Any
) -> None:
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", init_lora_weights=init)
    model = MultiTaskModel.from_backbone(tiny_backbone(), tasks(), adapters=lora)
    bare = MultiTaskModel.from_backbone(tiny_backbone(), tasks())
    assert model.backbone_fingerprint("a") == bare.backbone_fingerprint("a")
    layers = {path: m for path, m in model.named_modules() if isinstance(m, RoutedLinear)}
    for path, module in layers.items():
        base: Any = module.base_layer
        assert torch.equal(base.weight, bare.get_submodule(path).weight)
        if init == "pissa":  # the strongest directions of the base weight, by NumPy
            left, values, right = np.linalg.svd(base.weight.detach().numpy())
            strongest = left[:, :4] * values[:4] @ right[:4]
            down, up = (w[0][:4] if i == 0 else w[0][:, :4] for i, w in enumerate(module.weights(["a"])))
            np.testing.assert_allclose((up @ down).detach().numpy() * module.scaling["a"], strongest, atol=1e-5)
    inputs = texts_of(0)
    mask, ids = inputs["attention_mask"], inputs["input_ids"]
    with torch.no_grad():
        expected = bare.encode(["a"], mask, input_ids=ids)[-1]
        torch.testing.assert_close(model.encode(["a"], mask, input_ids=ids)[-1], expected, atol=1e-4, rtol=1e-4)
    learning = {name for name, p in model.named_parameters() if p.requires_grad and "lora_" in name}
    assert learning and not any("+start" in name for name in learning)
    for name, parameter in model.named_parameters():
        if name in learning and ".b." in name:
            nn.init.normal_(parameter, std=0.1)
    before = model(**inputs, tasks=["b"]).logits["b"]
    model.add_task(TextClassification(name="e", labels=["no", "yes"]))
    model.save_pretrained(tmp_path / "all")
    again = MultiTaskModel.from_pretrained(tmp_path / "all")
    torch.testing.assert_close(again(**inputs, tasks=["b"]).logits["b"], before)
    with torch.no_grad():
        found = again.encode(["e"], mask, input_ids=ids)[-1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    config = copy.deepcopy(again.config)
    config.tasks = [*config.tasks, TextClassification(name="f", labels=["no", "yes"]).to_dict()]
    more = MultiTaskModel.from_pretrained(tmp_path / "all", config=config)
    with torch.no_grad():
        found = more.encode(["f"], mask, input_ids=ids)[-1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    again.save_task("b", tmp_path / "pack")
    alone = MultiTaskModel.from_tasks([tmp_path / "pack"], backbone=tiny_backbone())
    torch.testing.assert_close(alone.eval()(**inputs).logits["b"], before, atol=1e-5, rtol=1e-4)
    hidden = again.merge_task("b")(**inputs).last_hidden_state
    with torch.no_grad():
        routed = again.encode(["b"], mask, input_ids=ids)[-1]
    torch.testing.assert_close(hidden[mask.bool()], routed[mask.bool()], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"adapters": LoraConfig(init_lora_weights="pissa"), "sharing": "shared"}, "goes with sharing='private'"),
        ({"adapters": {name: LoraConfig(init_lora_weights="olora") for name in NAMES}}, "one LoraConfig for all tasks"),
        ({"adapters": LoraConfig(init_lora_weights="eva", eva_config=EvaConfig())}, "'eva'.*pissa_niter_16"),
    ],
)
def test_a_start_that_cannot_be_is_refused(given: dict[str, Any], message: str, tiny_backbone: Any) -> None:
    with pytest.raises(ValueError, match=message):
        model_of(tiny_backbone(), **given)
