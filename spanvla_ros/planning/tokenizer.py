"""The text side of the model: special tokens and, for models trained from nothing, a small byte-level BPE."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from spanvla_ros.contracts import ConfigError, EngineError

START, END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, VIDEO_PAD = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
PAD = "<|pad|>"
THINK, THINK_END, ACTION_START = "<think>", "</think>", "<action_start>"
SPECIAL_TOKENS = (PAD, START, END, VISION_START, VISION_END, VIDEO_PAD, THINK, THINK_END, ACTION_START)


def train(texts: Iterable[str], vocabulary: int):
    """Byte-level BPE over `texts`. Pre-tokens are words with their leading space, so that a frequent number is one token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r" ?[^ \n]+|\n"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def action_token(index: int) -> str:
    """Name of an entry of the action codebook in the vocabulary (method section 2.4)."""
    return f"<action_{index}>"


def extend(tokenizer, action_tokens: int = 0) -> None:
    """Append what is missing of the special tokens and <action_0> ... to the vocabulary of a tokenizer, e.g. a pretrained one."""
    from tokenizers import AddedToken

    wanted = [*SPECIAL_TOKENS, *(action_token(i) for i in range(action_tokens))]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in wanted if tokenizer.token_to_id(t) is None])


def first_action(tokenizer, action_tokens: int) -> int:
    """Id of <action_0>; the others follow it. Raises ConfigError where the vocabulary was made for a codebook of another size."""
    first = tokenizer.token_to_id(action_token(0))
    found = 0
    while first is not None and tokenizer.token_to_id(action_token(found)) == first + found:
        found += 1
    if found != action_tokens:
        raise ConfigError(f"the tokenizer has {found} action tokens in a row, the codebook has {action_tokens}; use the one it was made for")
    return -1 if first is None else first


def load(path: Path):
    """Tokenizer from a Hugging Face tokenizer.json that knows all tokens the prompt needs."""
    from tokenizers import Tokenizer

    if not path.is_file():
        raise EngineError(f"{path} is missing; the folder is no complete checkpoint or engine")
    tokenizer = Tokenizer.from_file(str(path))
    missing = [t for t in (VIDEO_PAD, THINK, THINK_END, ACTION_START) if tokenizer.token_to_id(t) is None]
    if missing:
        raise EngineError(f"{path} lacks the tokens {missing}")
    return tokenizer
