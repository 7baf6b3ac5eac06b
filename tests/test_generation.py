"""What is written, by which options, and where it ends."""

from typing import Any

import pytest
import torch
from test_language_models import PAIRS, TEXTS, made
from tiny import make_tokenizer
from transformers import AutoModel, AutoTokenizer, GenerationConfig, pipeline

from hf_mtl import MultiTaskModel, Text2TextGeneration, TextGeneration, Translation

LONG = "a card was lost in Paris yesterday and I do not know what to do"


@pytest.mark.parametrize(("kind", "task"), [("t5", Translation(name="it")), ("gpt2", TextGeneration(name="it"))])
def test_a_generation_config_is_worth_its_options(kind: str, task: Any, tiny_backbone: Any) -> None:
    model = made(tiny_backbone(kind), [task])
    encoded = model.tokenizer(TEXTS, padding=True, return_tensors="pt")
    given = (encoded["input_ids"], encoded["attention_mask"])
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5}
    written = model.generate(*given, **options)
    assert written.shape[:2] == (4, 2) and written.shape[2] <= 5
    assert torch.equal(model.generate(*given, generation_config=GenerationConfig(**options)), written)
    beside = model.generate(*given, generation_config=GenerationConfig(**options), max_new_tokens=2)
    assert beside.shape == (4, 2, 2)  # what stands beside it goes first
    pipe = pipeline("multitask-nlp", model=model)
    whole = pipe(TEXTS, generate_kwargs={"generation_config": GenerationConfig(**options)})
    assert whole == pipe(TEXTS, generate_kwargs=options) and all(len(answer["it"]) == 2 for answer in whole)
    with pytest.raises(ValueError, match=r"return_dict_in_generate=True.*backbone\.generate"):
        model.generate(*given, return_dict_in_generate=True)


def test_the_end_that_training_teaches_ends_what_is_written(tiny_backbone: Any, tmp_path: Any) -> None:
    folder = tmp_path / "backbone"
    AutoModel.from_pretrained(tiny_backbone("gpt2")).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone("gpt2"))
    tokenizer.eos_token = "<mask>"  # 4, as a chat's end; the backbone's is 2
    tokenizer.save_pretrained(folder)
    model = made(str(folder), [TextGeneration(name="it")])
    with torch.no_grad():  # one that always writes its end
        model.backbone.transformer.ln_f.weight.zero_()
        model.backbone.transformer.ln_f.bias.copy_(model.backbone.get_output_embeddings().weight[4] * 1e4)
    model.save_pretrained(tmp_path / "model")
    for found in (model, MultiTaskModel.from_pretrained(tmp_path / "model")):
        ids = found.tokenizer("I lost", return_tensors="pt")["input_ids"]
        assert found.backbone.generation_config.eos_token_id == 2
        assert found.generate(ids)[0].tolist() == [[4]]
        assert found.tasks["it"].encode([{"text": "I"}], found.tokenizer)[0]["labels"][-1] == 4


def test_max_length_counts_the_prompt_and_not_the_padding(tiny_backbone: Any) -> None:
    model = made(tiny_backbone("gpt2"), [TextGeneration(name="it")])
    texts = ["I lost", LONG, "my card"]
    rows = [model.tokenizer(text)["input_ids"] for text in texts]
    encoded = model.tokenizer(texts, padding=True, return_tensors="pt")
    for options in ({"max_length": 24}, {"max_length": 30, "min_length": 28}, {"max_length": len(rows[1])}):
        written = model.generate(encoded["input_ids"], encoded["attention_mask"], **options)
        for ids, row in zip(rows, written, strict=True):
            alone = model.generate(torch.tensor([ids]), **options)[0, 0].tolist()
            kept = [k for k in row[0].tolist() if k >= 0]
            assert kept == [k for k in alone if k >= 0]
            assert len(kept) <= max(1, options["max_length"] - len(ids))
            if "min_length" in options:
                assert len(kept) >= 28 - len(ids)


@pytest.mark.parametrize(
    "options",
    [{"max_new_tokens": 100}, {"max_length": 50}, {"max_length": 500}, {"max_new_tokens": 500}, {}],
    ids=str,
)
def test_long_prompts_are_cut_by_the_options_of_the_call(options: dict[str, Any], tiny_backbone: Any) -> None:
    model = made(tiny_backbone("gpt2"), [TextGeneration(name="it")])  # of 128 positions
    assert model.config.text_config.max_position_embeddings == 128
    answers = pipeline("multitask-nlp", model=model)([LONG * 20, "I lost"], generate_kwargs=options)
    assert [list(answer["it"]) for answer in answers] == [["generated_text"]] * 2


@pytest.mark.parametrize("options", [{"max_new_tokens": 500}, {"max_length": 500, "num_beams": 2}], ids=str)
@pytest.mark.parametrize("kind", ["bart", "marian", "t5"])
def test_an_encoder_decoder_writes_no_further_than_its_positions(
    kind: str, options: dict[str, Any], tiny_backbone: Any
) -> None:
    model = made(tiny_backbone(kind), [Translation(name="it")])
    model.backbone.generation_config.eos_token_id = None  # it would write on and on
    ids = model.tokenizer("I lost", return_tensors="pt")["input_ids"]
    written = model.generate(ids, **options, min_new_tokens=120)
    if kind == "t5":  # of relative positions there is no last one
        assert written.shape[-1] > 127
    else:
        assert written.shape[-1] == 127
        assert torch.equal(written, model.generate(ids, **options | {"max_length": 128, "max_new_tokens": None}))


def test_a_longest_input_cuts_prompts_and_leaves_what_is_written_its_room(tiny_backbone: Any) -> None:
    model = made(tiny_backbone("gpt2"), [TextGeneration(name="it", max_length=32)])
    own = model.tokenizer(LONG * 20)["input_ids"]
    assert model.tasks["it"].encode([{"prompt": LONG * 20}], model.tokenizer)[0]["input_ids"] == own[-32:]
    asked = model.tasks["it"].asked({"max_new_tokens": 100})
    assert asked.encode([{"prompt": LONG * 20}], model.tokenizer)[0]["input_ids"] == own[-28:]


@pytest.mark.parametrize(("kind", "task"), [("bart", Translation(name="it")), ("gpt2", TextGeneration(name="it"))])
def test_a_text_given_several_times_is_drawn_for_several_times(kind: str, task: Any, tiny_backbone: Any) -> None:
    pipe = pipeline("multitask-nlp", model=made(tiny_backbone(kind), [task]))
    options = {"do_sample": True, "max_new_tokens": 6, "min_new_tokens": 6, "temperature": 5.0}
    torch.manual_seed(0)
    drawn = {tuple(answer["it"].values()) for answer in pipe(["I lost"] * 6, generate_kwargs=options)}
    assert len(drawn) > 1
    sure = {tuple(answer["it"].values()) for answer in pipe(["I lost"] * 6, generate_kwargs={"max_new_tokens": 6})}
    assert len(sure) == 1


def test_options_that_look_at_the_input_see_it(tiny_backbone: Any) -> None:
    model = made(tiny_backbone("bart"), [Translation(name="it")])
    ids = torch.tensor([[1, 260, 261, 300, 2]])
    first = model.generate(ids, max_new_tokens=3)[0, 0, 0].item()
    ids = torch.tensor([[1, first, 261, 300, 2]])
    options = {"max_new_tokens": 6, "encoder_no_repeat_ngram_size": 1}
    own = model.backbone.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, 1:].tolist()
    assert model.generate(ids, **options)[0, 0].tolist() == own and not {first, 261, 300} & set(own)
    text = model.tokenizer.decode([first, 300])
    plain = model.backbone.generate(**model.tokenizer(text, return_tensors="pt"), **options)[0]
    answer = pipeline("multitask-nlp", model=model)(text, generate_kwargs=options)["it"]["translation_text"]
    assert answer == model.tokenizer.decode(plain, skip_special_tokens=True).strip()
    embedded = model.backbone.get_input_embeddings()(ids)
    states = model.encode(["it"], torch.ones_like(ids), inputs_embeds=embedded)
    with pytest.raises(ValueError, match=r"encoder_no_repeat_ngram_size.*input_ids"):
        model.head("it", states, torch.ones_like(ids), options=options)


def test_generation_settings_of_the_user_are_saved(tiny_backbone: Any, tmp_path: Any) -> None:
    model = made(tiny_backbone("t5"), [Translation(name="it")])
    model.backbone.generation_config.num_beams = 4
    model.save_pretrained(tmp_path)
    assert MultiTaskModel.from_pretrained(tmp_path).backbone.generation_config.num_beams == 4


def test_a_tokenizer_without_an_end_gives_targets_one(tmp_path: Any) -> None:
    tokenizer, whole = make_tokenizer("bytes-bare"), make_tokenizer("bytes")
    tokenizer.model_max_length = whole.model_max_length = 512
    task = Text2TextGeneration(name="it", max_target_length=4)
    features = task.encode([*PAIRS, {"text": "a", "target": ""}], tokenizer)
    assert all(f["labels"][-1] == 2 and f["labels"].count(2) == 1 and len(f["labels"]) <= 4 for f in features)
    assert features[-1]["labels"] == [2]
    features = task.encode(PAIRS, whole)
    assert all(f["labels"][-1] == 2 and f["labels"].count(2) == 1 for f in features)
    assert task.stack_labels([[], [5]], 0).tolist() == [[-100], [5]]


def test_a_decoder_whose_beginning_is_its_end_keeps_it() -> None:
    from tokenizers import processors

    tokenizer = make_tokenizer("bytes-bare")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A $B", special_tokens=[("</s>", 2)]
    )
    task = TextGeneration(name="it")
    plain = tokenizer("I lost", add_special_tokens=False)["input_ids"]
    assert task.encode([{"text": "I lost"}], tokenizer)[0]["input_ids"] == [2, *plain, 2]
    assert task.encode([{"prompt": "I lost"}], tokenizer)[0]["input_ids"] == [2, *plain]
    # an end that somebody wrote is not what the tokenizer adds
    assert task.encode([{"prompt": "I lost</s>"}], tokenizer)[0]["input_ids"] == [2, *plain, 2]
