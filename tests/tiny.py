"""Tiny random backbones of every architecture, each with a real tokenizer of its family, trained on the spot."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

RECIPE_DATA = Path(__file__).parent.parent / "recipes" / "data"

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_POSITIONS = {"max_position_embeddings": 128}
_AFTER_PADDING = {"max_position_embeddings": 130, "pad_token_id": 1}
_DECODER = _SMALL | {"num_key_value_heads": 1, "head_dim": 16} | _POSITIONS

_ENCODER_DECODER = _POSITIONS | {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
}  # fmt: skip

# kind -> (family of tokenizer, config)
ARCHITECTURES: dict[str, tuple[str, dict]] = {
    "bert": ("wordpiece", _SMALL | _POSITIONS),
    "electra": ("wordpiece", _SMALL | _POSITIONS | {"embedding_size": 16}),
    "distilbert": ("wordpiece", _POSITIONS | {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}),
    "mpnet": ("wordpiece", _SMALL | _AFTER_PADDING),
    "roberta": ("bytes", _SMALL | _AFTER_PADDING),
    "xlm-roberta": ("unigram", _SMALL | _AFTER_PADDING),
    "deberta-v2": (
        "unigram",
        _SMALL | _POSITIONS | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    "modernbert": (
        "bytes",
        _SMALL
        | _POSITIONS
        | {"global_attn_every_n_layers": 2, "local_attention": 16, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "gpt2": ("bytes-bare", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}),
    "llama": ("unigram-bare", _DECODER),
    "qwen2": ("bytes-bare", _DECODER),
    "qwen3": ("bytes-bare", _DECODER),
    "t5": ("unigram", {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}),
    "bart": ("bytes", _ENCODER_DECODER),
    "marian": ("unigram", _ENCODER_DECODER),
}  # fmt: skip

SPECIALS = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]


def read_jsonl(path: Path, rows: int | None = None) -> list[dict]:
    """Rows of a JSONL file, all or some from all over it (the files may be sorted by label)."""
    lines = path.read_text(encoding="utf-8").splitlines()
    step = max(1, len(lines) // rows) if rows else 1
    return [json.loads(line) for line in lines[::step][:rows]]


def corpus() -> list[str]:
    """Real sentences to train a tokenizer on."""
    texts = [row["text"] for row in read_jsonl(RECIPE_DATA / "intent" / "train.jsonl", 300)]
    return texts + [" ".join(row["tokens"]) for row in read_jsonl(RECIPE_DATA / "pos" / "train.jsonl", 300)]


def make_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A tokenizer as BERT's (`wordpiece`), RoBERTa's (`bytes`), XLM-R's (`unigram`); `-bare`: as a decoder's.

    A bare one adds nothing around a text, puts nothing between a pair, and has no padding token.
    """
    kind, _, bare = family.partition("-")
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=1000, special_tokens=SPECIALS)
    elif kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=SPECIALS, initial_alphabet=alphabet)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=1000, special_tokens=SPECIALS, unk_token="<unk>")
    tokenizer.train_from_iterator(corpus(), trainer)
    names = {"eos_token": "</s>", "unk_token": "<unk>"}
    if not bare:
        ids = [("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=ids
        )
        names |= {
            "bos_token": "<s>",
            "cls_token": "<s>",
            "sep_token": "</s>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        }
    inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if family == "wordpiece" else [])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names)


def make_backbone(folder: Path, kind: str) -> str:
    """Writes a random backbone and its tokenizer into the folder, as a user would have them from the Hub."""
    family, fields = ARCHITECTURES[kind]
    tokenizer = make_tokenizer(family)
    # Room to spare: transformers' own class for an architecture may add special tokens of its own on loading.
    vocabulary = len(tokenizer) + 24
    fields = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0} | fields
    if kind not in ("t5", "bart", "marian"):
        fields.pop("decoder_start_token_id")
    config = AutoConfig.for_model(kind, vocab_size=vocabulary, **fields)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    if kind in ("distilbert", "mpnet"):
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_slow_backbone(folder: Path) -> str:
    """A random Marian with Marian's own tokenizer, which is slow: two sentencepiece models and a list of words."""
    import sentencepiece
    from transformers import MarianTokenizer

    for side, texts in (("source", corpus()), ("target", [text.upper() for text in corpus()])):
        with open(folder / f"{side}.spm", "wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts), model_writer=file, vocab_size=300, minloglevel=2
            )
    models = [sentencepiece.SentencePieceProcessor(str(folder / f"{side}.spm")) for side in ("source", "target")]
    pieces = [model.id_to_piece(i) for model in models for i in range(3, model.get_piece_size())]
    words = ["</s>", "<unk>", *dict.fromkeys(pieces), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    MarianTokenizer(*files, model_max_length=128).save_pretrained(folder)
    padding = len(words) - 1
    config = AutoConfig.for_model(
        "marian", vocab_size=len(words), pad_token_id=padding, decoder_start_token_id=padding, eos_token_id=0,
        forced_eos_token_id=0, **_ENCODER_DECODER,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)
