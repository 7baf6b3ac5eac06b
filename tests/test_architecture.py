"""The package's own rules: who may import whom, and what its code does not do, read off the sources."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "hf_mtl"
ROOT = Path(__file__).parent.parent / PACKAGE

# A module imports only from smaller numbers or from its own package.
LAYERS = {
    0: [
        "nearest",
        "backbone",
        "scoring",
        "remote_code",
        "hub",
        "frozen_outputs",
        "input_rows",
        "disk",
        "checkpoint_files",
        "whole_files",
        "many_modules",
    ],
    1: ["tasks", "mixing", "balancing", "bundled"],
    2: [
        "config",
        "data",
        "metrics",
        "pipeline_batches",
        "pipeline_inputs",
        "cached_batches",
        "language_model",
        "two_passes",
    ],
    3: ["adapters", "generation", "model_card"],
    4: ["freezing", "saving", "writing"],
    5: ["export", "forwarding", "loading", "packs", "task_life", "task_start"],
    6: ["modeling"],
    7: ["pipeline", "analysis", "teachers", "parameter_arguments", "aid_arguments"],
    8: ["training_args", "many_parameters"],
    9: [
        "evaluation",
        "balanced_training",
        "training_aids",
        "failures",
        "checkpoints",
        "mixed_training",
        "mixture_training",
        "learning_rates",
        "task_stopping",
        "unfreezing",
        "weight_average",
    ],
    10: ["trainer"],
    11: ["auto", "recipe"],
    12: ["cli"],
}
LAYER = {part: number for number, parts in LAYERS.items() for part in parts}

SLOW = {"evaluate", "matplotlib", "scipy", "seqeval", "sklearn", "tensorboard"}  # to import, and seldom needed
READ_BY_TRANSFORMERS = {
    "config",
    "export",
    "forwarding",
    "loading",
    "modeling",
    "packs",
    "saving",
    "task_life",
    "task_start",
    "writing",
}  # their annotations must be types, not strings


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, whether it is an `__init__`, and its syntax tree."""

    name: str
    is_package: bool
    tree: ast.Module

    @property
    def part(self) -> str:
        """The module or package directly under the root that it belongs to; the root itself is ''."""
        return f"{self.name}.".split(".")[1]

    @classmethod
    def of(cls, name: str, source: str, *, is_package: bool = False) -> Module:
        return cls(name, is_package, ast.parse(source))


def read_modules() -> list[Module]:
    modules = []
    for path in sorted(ROOT.rglob("*.py")):
        names = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
        is_package = names[-1] == "__init__"
        name = ".".join(names[:-1] if is_package else names)
        modules.append(Module.of(name, path.read_text(encoding="utf-8"), is_package=is_package))
    return modules


MODULES = read_modules()


def for_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node: ast.AST, *, functions: bool = True, types: bool = True) -> Iterator[ast.AST]:
    """Every node below; without `functions` what runs on import, without `types` what runs at all."""
    for child in ast.iter_child_nodes(node):
        if not types and for_type_checking(child):
            continue
        if not functions and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        yield child
        yield from walk(child, functions=functions, types=types)


def imports(module: Module, *, functions: bool = True, types: bool = True) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of everything imported: `from .a import b` in hf_mtl.x gives hf_mtl.a.b."""
    for node in walk(module.tree, functions=functions, types=types):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parents = module.name.split(".")
                parents = parents[: len(parents) + module.is_package - node.level]
                source = ".".join([*parents, source] if source else parents)
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def layer_faults(module: Module) -> Iterator[str]:
    if module.name == PACKAGE:  # it gathers the public names of all layers
        return
    if module.part not in LAYER:
        yield f"{module.name} has no layer: give '{module.part}' a number in LAYERS of this test"
        return
    own = LAYER[module.part]
    for line, name in imports(module):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if top != PACKAGE or target == module.part:
            continue
        if target not in LAYER:
            yield f"{module.name}:{line} imports {name}: name the module that defines it, not the package"
        elif LAYER[target] >= own:
            yield f"{module.name}:{line} (layer {own}) imports {name} (layer {LAYER[target]})"


def peft_faults(module: Module) -> Iterator[str]:
    if module.part != "adapters":
        for line, name in imports(module, types=False):
            if name.partition(".")[0] == "peft":
                yield f"{module.name}:{line} imports {name}: only {PACKAGE}/adapters may"


def slow_import_faults(module: Module) -> Iterator[str]:
    if module.part != "scoring":
        for line, name in imports(module, functions=False, types=False):
            if name.partition(".")[0] in SLOW:
                yield f"{module.name}:{line} imports {name} at once: do it in the function that needs it"


TASK_CLASSES = {
    node.name
    for module in MODULES
    if module.part == "tasks"
    for node in walk(module.tree)
    if isinstance(node, ast.ClassDef) and any("register_task" in ast.unparse(d) for d in node.decorator_list)
}


def task_type_faults(module: Module) -> Iterator[str]:
    if module.part == "tasks":
        return
    for node in walk(module.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            asked, classes = (ast.unparse(argument) for argument in node.args)
            is_task = asked.split(".")[-1] in ("task", "type(task)") or "tasks[" in asked
            names = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
            # Whether something is a task at all may be asked; which type it has may not.
            if (is_task and classes != "Task") or names & TASK_CLASSES:
                yield f"{module.name}:{node.lineno} asks isinstance({asked}, {classes}): give Task a method"


def statement_faults(module: Module) -> Iterator[str]:
    for node in walk(module.tree):
        if isinstance(node, ast.Assert):
            yield f"{module.name}:{node.lineno} has an assert: raise an error that names the way out"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and module.part != "cli":
            yield f"{module.name}:{node.lineno} prints: log it, or return it to the command line"


def name_faults(module: Module) -> Iterator[str]:
    if module.name.split(".")[-1] in ("util", "utils", "helpers"):
        yield f"{module.name}: name the file after the one idea in it"


def annotation_faults(module: Module) -> Iterator[str]:
    if module.part in READ_BY_TRANSFORMERS:
        for line, name in imports(module):
            if name == "__future__.annotations":
                yield f"{module.name}:{line} makes annotations strings, which breaks transformers' configs"


Rule = Callable[[Module], Iterator[str]]
RULES: list[Rule] = [
    layer_faults,
    peft_faults,
    slow_import_faults,
    task_type_faults,
    statement_faults,
    name_faults,
    annotation_faults,
]

# Sources that break a rule, so that no rule can pass by seeing nothing.
BROKEN: list[tuple[Rule, str, str]] = [
    (layer_faults, "hf_mtl.tasks.base", "from ..modeling import MultiTaskModel"),
    (layer_faults, "hf_mtl.tasks.base", "def f():\n    from hf_mtl.config import MultiTaskConfig"),
    (layer_faults, "hf_mtl.tasks.base", "import hf_mtl.trainer"),
    (layer_faults, "hf_mtl.tasks.base", "from .. import modeling"),
    (layer_faults, "hf_mtl.config", "from .metrics import mean_score"),
    (layer_faults, "hf_mtl.trainer", "from hf_mtl import MultiTaskModel"),
    (layer_faults, "hf_mtl.tasks", "if TYPE_CHECKING:\n    from ..config import MultiTaskConfig"),
    (layer_faults, "hf_mtl.brand_new", ""),
    (peft_faults, "hf_mtl.recipe", "def f():\n    from peft import LoraConfig"),
    (peft_faults, "hf_mtl.modeling", "import peft.tuners"),
    (slow_import_faults, "hf_mtl.metrics", "import evaluate"),
    (slow_import_faults, "hf_mtl.analysis", "class A:\n    from sklearn.metrics import f1_score"),
    (task_type_faults, "hf_mtl.pipeline", "isinstance(task, Anything)"),
    (task_type_faults, "hf_mtl.pipeline", "isinstance(self.task, Anything)"),
    (task_type_faults, "hf_mtl.pipeline", "isinstance(model.tasks[name], Anything)"),
    (task_type_faults, "hf_mtl.pipeline", "isinstance(x, (str, TextClassification))"),
    (task_type_faults, "hf_mtl.pipeline", "issubclass(type(task), Anything)"),
    (statement_faults, "hf_mtl.pipeline", "def f(x):\n    assert x"),
    (statement_faults, "hf_mtl.pipeline", "print(1)"),
    (name_faults, "hf_mtl.tasks.utils", ""),
    (annotation_faults, "hf_mtl.config", "from __future__ import annotations"),
]
ALLOWED: list[tuple[Rule, str, str]] = [
    (
        layer_faults,
        "hf_mtl.tasks.base",
        "import torch\nfrom .bio import spans\nfrom .. import backbone",
    ),
    (layer_faults, "hf_mtl.cli", "from hf_mtl.recipe import read_recipe"),
    (layer_faults, "hf_mtl", "from .cli import main"),
    (peft_faults, "hf_mtl.adapters.layers", "from peft import LoraConfig"),
    (peft_faults, "hf_mtl.modeling", "if TYPE_CHECKING:\n    from peft import LoraConfig"),
    (slow_import_faults, "hf_mtl.metrics", "def f():\n    import evaluate"),
    (slow_import_faults, "hf_mtl.scoring.base", "import evaluate"),
    (task_type_faults, "hf_mtl.pipeline", "isinstance(text, str)"),
    (task_type_faults, "hf_mtl.config", "isinstance(task, Task)"),
    (task_type_faults, "hf_mtl.config", "isinstance(tasks, str)"),
    (task_type_faults, "hf_mtl.tasks.base", "isinstance(task, Anything)"),
    (statement_faults, "hf_mtl.cli", "print(1)"),
]


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    assert [fault for module in MODULES for fault in rule(module)] == []


@pytest.mark.parametrize(("rule", "name", "source"), BROKEN)
def test_the_rule_sees_a_fault(rule: Rule, name: str, source: str) -> None:
    is_package = name.count(".") == 1 and name.endswith("tasks")
    assert len(list(rule(Module.of(name, source, is_package=is_package)))) == 1


@pytest.mark.parametrize(("rule", "name", "source"), ALLOWED)
def test_the_rule_leaves_good_code_alone(rule: Rule, name: str, source: str) -> None:
    assert list(rule(Module.of(name, source, is_package=name == PACKAGE))) == []


def test_every_broken_example_has_a_rule_and_every_rule_an_example() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(RULES)


def test_the_sources_and_the_task_classes_were_found() -> None:
    assert {module.part for module in MODULES} >= {"", "bundled", "tasks"}
    assert "TextClassification" in TASK_CLASSES


def test_the_contributors_guide_shows_the_same_layers() -> None:
    guide = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", guide, flags=re.MULTILINE)
    assert {int(number): re.findall(r"`(\w+)`", modules) for number, modules in rows} == LAYERS


def test_importing_the_package_loads_neither_torch_nor_peft() -> None:
    heavy = "{'torch', 'peft', 'datasets', 'evaluate', 'sklearn'}"
    program = f"import sys, {PACKAGE}; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT.parent)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")
