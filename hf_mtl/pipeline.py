"""MultiTaskPipeline: texts -> {task: answer}, behind `transformers.pipeline("multitask-nlp")`."""

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, Pipeline

from .adapters import reads_alike
from .backbone import prepare_tokenizer, rows_come_first
from .config import require_multi_task
from .nearest import nearest
from .pipeline_batches import Batch, Request, WindowTokenizer, make_batches, requests_of
from .pipeline_inputs import examples_in, naming_example, nobody_answers, whole_number
from .tasks import Task

__all__ = ["MultiTaskPipeline"]

# The rows of a batch are few enough for a laptop and enough to keep its cores busy.
BATCH_SIZE = 32
# What running one more batch costs, in tokens of padding. On two cores MiniLM takes 0.15 ms for a token and some
# 10 ms for a batch; a device takes thousands of tokens in the time that it takes to start a batch.
BATCH_PRICE = 64
BATCH_PRICE_ON_A_DEVICE = 4096
# How many batches are read ahead, to be sorted by length. Of more the padding hardly gets less.
WINDOW = 32


@dataclass
class Window:
    """A number of examples on their way through the pipeline, with the tasks' parts of them."""

    examples: int
    tasks: list[str]
    requests: list[Request]


class MultiTaskPipeline(Pipeline):
    """Answers texts by the tasks of a `MultiTaskModel`.

    Made by `transformers.pipeline("multitask-nlp", model=...)` with a folder, a Hub id or a model. An example
    is a text, or a dict of the inputs that a task needs (`{"text", "text_pair"}`, `{"question", "context"}`,
    or the columns of the training data). Every task that finds its inputs in it answers: `{task: answer}`.

    Inputs of like length run together. Without adapters an input runs once for all tasks.

    Args:
        model: the `MultiTaskModel`.
        tokenizer: a tokenizer, its Hub id or folder; None: the one the model was made or saved with.
        batch_size: inputs in a batch; 32 where nothing is said.
        tasks: names of the tasks that answer; None: every task that finds its inputs.
        generate_kwargs: options of transformers' `generate` for tasks that write; they go before the tasks' own.
        **kwargs: as for any pipeline: `device`, `dtype`, ...

    Raises:
        ValueError: a model without tasks, without a tokenizer or without the task asked for; an unknown parameter.
    """

    model: Any
    # The model comes with its tokenizer: nothing is to be looked for where it came from.
    _load_tokenizer = False  # type: ignore[assignment]
    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_video_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]

    def __init__(self, model: Any, tokenizer: Any = None, **kwargs: Any):
        self.model = require_multi_task(model)
        if isinstance(tokenizer, str):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        tokenizer = model.tokenizer if tokenizer is None else tokenizer
        if tokenizer is None:
            raise ValueError(
                "The model has no tokenizer: none was saved beside it. Give the pipeline one: tokenizer=... "
                "(the backbone's, by its Hub id or folder)."
            )
        tokenizer = prepare_tokenizer(tokenizer, model.config.text_config, model.tasks.values())
        if model.tokenizer is None:
            model.tokenizer = tokenizer
        whole_number("batch_size", kwargs.get("batch_size"))
        super().__init__(model, tokenizer=tokenizer, **kwargs)

    def __call__(  # type: ignore[override]
        self, inputs: Any, *, batch_size: int | None = None, num_workers: int | None = None, **kwargs: Any
    ) -> Any:
        """Answers one example, or many.

        Args:
            inputs: one example -> its answers. A list, a tuple, an array, a column of a `datasets.Dataset` -> a
                list. A generator, a `Dataset` of rows, a `KeyDataset`, any other iterable -> an iterator that reads
                `32 * batch_size` examples ahead.
            batch_size: inputs in a batch.
            num_workers: taken because other pipelines take it; there are none.
            **kwargs: `tasks=[...]` and `generate_kwargs={...}`, as at construction.

        Returns:
            `{task: answer}` for an example. Answers have the fields of transformers' pipelines for that kind
            of task.

        Raises:
            ValueError: an unknown task, or an example that cannot be answered: says which, and what it lacks.
        """
        preprocess, forward, postprocess = self._sanitize_parameters(**kwargs)
        size = whole_number("batch_size", batch_size) or self._batch_size or BATCH_SIZE
        stages = (
            self._preprocess_params | preprocess,
            self._forward_params | {"batch_size": size} | forward,
            self._postprocess_params | postprocess,
        )
        many = examples_in(inputs)
        if many is None:
            return self._answers([inputs], *stages)[0]
        answers = self._windows(many, size, stages)
        return list(answers) if isinstance(inputs, Sequence | np.ndarray) else answers

    def _windows(self, examples: Iterable[Any], size: int, stages: tuple[dict[str, Any], ...]) -> Iterator[Any]:
        preprocess, *others = stages
        examples = iter(examples)
        first = 0
        while window := list(islice(examples, WINDOW * size)):
            yield from self._answers(window, preprocess | {"first": first}, *others)
            first += len(window)

    def _answers(self, examples: Sequence[Any], *stages: dict[str, Any]) -> list[dict[str, Any]]:
        preprocess, forward, postprocess = stages
        with _uncollected():
            window = self.preprocess(examples, **preprocess)
        window = self.forward(window, **forward)
        with _uncollected():
            return self.postprocess(window, **postprocess)

    # ------------------------------------------------------------------ the stages, for a window of examples

    def _sanitize_parameters(
        self,
        tasks: str | Iterable[str] | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        for name in unknown:
            known = ["tasks", "batch_size", "generate_kwargs"]
            raise ValueError(
                f"The pipeline has no parameter {name!r}. {nearest(name, known)} Options of generation go into "
                "generate_kwargs={...}."
            )
        forward = {} if generate_kwargs is None else {"generate_kwargs": dict(generate_kwargs)}
        if tasks is None:
            return dict(forward), forward, {}
        names = [tasks] if isinstance(tasks, str) else list(tasks)
        if not names:
            raise ValueError(f"tasks=[] asks nothing. Leave it out, or name some of {list(self.model.tasks)}.")
        return {"tasks": [self.model.task(name).name for name in names]} | forward, forward, {}

    def preprocess(  # type: ignore[override]
        self,
        input_: Sequence[Any],
        tasks: Sequence[str] | None = None,
        first: int | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
    ) -> Window:
        """Examples -> what each task makes of them.

        Args:
            input_: the examples.
            tasks: names; None: those that find their inputs in the example.
            first: the number of the first example among all, for error messages; None where it is the only
                one.
            generate_kwargs: how much is to be written says how much of a prompt is read.
        """
        names = list(tasks or self.model.tasks)
        everyone = requests_of(self.model.task(name) for name in names)
        of_text = everyone if tasks else [request for request in everyone if request.tasks[0].accepts("")]
        for i, example in enumerate(input_):
            with naming_example(i, first):
                chosen = of_text
                if not tasks and not isinstance(example, str):
                    chosen = [request for request in everyone if request.tasks[0].accepts(example)]
                for request in chosen:
                    request.rows.append(request.tasks[0].read(example))
                    request.examples.append(i)
                if not chosen:
                    raise nobody_answers(self.model.tasks.values(), example)
        tokenizer = WindowTokenizer(self.tokenizer)
        asked = [request for request in everyone if request.rows]
        for request in asked:
            with naming_example(request.examples, first):
                request.encode(tokenizer, generate_kwargs or {})
            request.repeated = any(self.model._samples(task.name, generate_kwargs) for task in request.tasks)
        return Window(len(input_), names, asked)

    def _forward(  # type: ignore[override]
        self,
        input_tensors: Window,
        batch_size: int = BATCH_SIZE,
        generate_kwargs: Mapping[str, Any] | None = None,
    ) -> Window:
        """Fills in the logits."""
        config = self.model.config
        batches = make_batches(
            input_tensors.requests,
            batch_size,
            adapters=not reads_alike(config),
            mixed=rows_come_first(config.text_config),
            tokenizer=self.tokenizer,
            price=BATCH_PRICE if self.device.type == "cpu" else BATCH_PRICE_ON_A_DEVICE,
        )
        with _answering(self.model):
            for batch in batches:
                self._run(batch, generate_kwargs or {})
        return input_tensors

    def _run(self, batch: Batch, options: Mapping[str, Any]) -> None:
        given = {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids}
        mask, index, given = self._ensure_tensor_on_device([batch.attention_mask, batch.index, given], self.device)
        states: tuple[torch.Tensor, ...] = ()
        if not all(_goes_on(task) for reading in batch.readings for task in reading.tasks):
            states = self.model.encode(batch.names, mask, index, **given)
            mask = mask.to(states[-1].device)
        for reading in batch.readings:
            seen, real, ids, positions, groups = states, mask, given["input_ids"], reading.positions(), reading.groups()
            if reading.rows != list(range(len(mask))):
                chosen = torch.tensor(reading.rows, device=mask.device)
                seen, real, ids = tuple(state[chosen] for state in states), mask[chosen], ids[chosen]
            for task in reading.tasks:
                if _goes_on(task):
                    output = self.model.generate(ids, real, task=task.name, **options)
                else:
                    output = self.model.head(
                        task.name, seen, real, positions=positions, groups=groups, options=options, input_ids=ids
                    ).logits
                values = output.float() if output.is_floating_point() else output  # of written tokens the ids
                reading.request.keep(task, values.cpu().numpy(), reading.places)

    def postprocess(  # type: ignore[override]
        self, model_outputs: Window
    ) -> list[dict[str, Any]]:
        """Logits -> the answers of each example, by task."""
        answers: list[dict[str, Any]] = [{} for _ in range(model_outputs.examples)]
        found = {}
        for request in model_outputs.requests:
            for task in request.tasks:
                outputs = task.detokenize(request.logits[task.name], self.tokenizer)
                predictions = task.decode(outputs, request.features, request.rows)
                found[task.name] = task, request, predictions
        for name in model_outputs.tasks:  # in the order asked, whatever was encoded together
            if name in found:
                task, request, predictions = found[name]
                for i, prediction, row in zip(request.examples, predictions, request.rows, strict=True):
                    answers[i][name] = task.answer(prediction, row)
        return answers

    def get_inference_context(self) -> Callable[[], Any]:
        """What the forward runs in."""
        return torch.inference_mode

    # ------------------------------------------------------------------ saving

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves the model with its tokenizer; see `MultiTaskModel.save_pretrained`."""
        self.model.save_pretrained(save_directory, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Puts the model with its tokenizer and card on the Hub; see `MultiTaskModel.push_to_hub`."""
        return self.model.push_to_hub(repo_id, **kwargs)


def _goes_on(task: Task) -> bool:
    """Whether the task writes on after the input itself, and needs no hidden states of it."""
    return task.writes and task.language_model == "causal"


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for reference cycles: there are none among the very many small values that are made here."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


@contextmanager
def _answering(model: torch.nn.Module) -> Iterator[None]:
    """No dropout; a model that is being trained goes on as it was."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
