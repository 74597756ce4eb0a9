"""Where each Hugging Face architecture keeps the parts of an encoder: one table, read from teachers and written to
students. Each part names a weight and a bias."""

from __future__ import annotations

from dataclasses import dataclass

from spaces.families.roberta import FIRST_POSITION

PARTS = ("query", "key", "value", "attention_output", "attention_norm", "intermediate", "output", "output_norm")


@dataclass(frozen=True)
class Layout:
    layer: str  # with {index}
    parts: dict[str, str]
    embeddings: str
    pooler: str
    classifier: str
    token_types: bool = True
    first_position: int = 0  # RoBERTa's positions begin after the padding index
    mapping: str = ""  # from the embeddings' rank to the width, where the architecture can have one
    teaches: bool = True  # students are copied from it too


_BERT_PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}


def _bert_like(
    prefix: str, pooler: str, classifier: str, first_position: int = 0, mapping: str = "", teaches: bool = True
) -> Layout:
    return Layout(
        layer=f"{prefix}.encoder.layer.{{index}}",
        parts=_BERT_PARTS,
        embeddings=f"{prefix}.embeddings",
        pooler=pooler,
        classifier=classifier,
        first_position=first_position,
        mapping=mapping,
        teaches=teaches,
    )


LAYOUTS: dict[str, Layout] = {
    "bert": _bert_like("bert", "bert.pooler.dense", "classifier"),
    "electra": _bert_like("electra", "classifier.dense", "classifier.out_proj", mapping="electra.embeddings_project"),
    "roberta": _bert_like("roberta", "classifier.dense", "classifier.out_proj", first_position=FIRST_POSITION),
    "xlm-roberta": _bert_like("roberta", "classifier.dense", "classifier.out_proj", first_position=FIRST_POSITION),
    "ernie": _bert_like("ernie", "ernie.pooler.dense", "classifier", teaches=False),  # some have a table of tasks, too
    "distilbert": Layout(
        layer="distilbert.transformer.layer.{index}",
        parts={
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "attention_output": "attention.out_lin",
            "attention_norm": "sa_layer_norm",
            "intermediate": "ffn.lin1",
            "output": "ffn.lin2",
            "output_norm": "output_layer_norm",
        },
        embeddings="distilbert.embeddings",
        pooler="pre_classifier",
        classifier="classifier",
        token_types=False,
    ),
    "albert": Layout(
        layer="albert.encoder.albert_layer_groups.{index}.albert_layers.0",
        parts={
            "query": "attention.query",
            "key": "attention.key",
            "value": "attention.value",
            "attention_output": "attention.dense",
            "attention_norm": "attention.LayerNorm",
            "intermediate": "ffn",
            "output": "ffn_output",
            "output_norm": "full_layer_layer_norm",
        },
        embeddings="albert.embeddings",
        pooler="albert.pooler",
        classifier="classifier",
        mapping="albert.encoder.embedding_hidden_mapping_in",
    ),
    "squeezebert": Layout(
        layer="transformer.encoder.layers.{index}",
        parts={
            "query": "attention.query",
            "key": "attention.key",
            "value": "attention.value",
            "attention_output": "post_attention.conv1d",
            "attention_norm": "post_attention.layernorm",
            "intermediate": "intermediate.conv1d",
            "output": "output.conv1d",
            "output_norm": "output.layernorm",
        },
        embeddings="transformer.embeddings",
        pooler="transformer.pooler.dense",
        classifier="classifier",
        teaches=False,
    ),
    "mobilebert": Layout(
        layer="mobilebert.encoder.layer.{index}",
        parts=_BERT_PARTS,  # those of its last feed-forward block
        embeddings="mobilebert.embeddings",
        pooler="mobilebert.pooler.dense",
        classifier="classifier",
        mapping="mobilebert.embeddings.embedding_transformation",
        teaches=False,
    ),
}
