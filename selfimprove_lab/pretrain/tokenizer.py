"""Train a real CLIPTokenizer: byte-level BPE whose merges cover the grammar and common English words.

All 256 bytes are in the vocabulary, so no text is unknown. A user's own caption does not collapse, and need not follow the grammar.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from selfimprove.shapes.captions import TEMPLATES, phrasings

LENGTH = 32  # positions, including begin and end of text
MERGES = 1500
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer() -> CLIPTokenizer:
    """Learn the merges and build the tokenizer. The vocabulary has CLIP's order: bytes, bytes at word ends, merges, special tokens."""
    english = (Path(__file__).parent / "english.txt").read_text().split()
    corpus = [text for kind in TEMPLATES for text in phrasings(kind)][::7] + english * 20
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + MERGES, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(corpus, trainer)
    with TemporaryDirectory() as folder:
        bpe.model.save(folder)
        lines = (Path(folder) / "merges.txt").read_text().splitlines()
    merges = [(left, right) for left, right in (line.split() for line in lines if not line.startswith("#"))][:MERGES]
    tokens = alphabet + [c + "</w>" for c in alphabet] + ["".join(m) for m in merges] + [BEGIN, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=END,
        unk_token=END,
        model_max_length=LENGTH,
    )
