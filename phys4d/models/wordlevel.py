"""A word-level tokenizer for the tiny models, whose captions come from templates."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"


def build_tokenizer(captions: Sequence[str], max_length: int = 24) -> PreTrainedTokenizerFast:
    """One token per whitespace-separated word of `captions`, in sorted order, ending with `</s>`."""
    if not captions:
        raise ValueError("a vocabulary needs captions, got none; render the dataset first with `make data`")
    words = sorted({word for caption in captions for word in caption.split()})
    vocabulary = {word: index for index, word in enumerate([PAD, EOS, UNK, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, vocabulary[EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNK, model_max_length=max_length
    )
