"""Builds a StudentShape as the stock Hugging Face model that it names."""

from __future__ import annotations

from typing import Any

import torch

from spaces.errors import TrialError
from spaces.families import FAMILIES
from spaces.families.roberta import FIRST_POSITION
from spaces.heads import HEADS, STOCK
from spaces.student import StudentShape
from spaces.task import TASK_HEADS


def build_student(
    shape: StudentShape, *, label_names: list[str], problem_type: str | None = None, pad_id: int = 0, dropout: float = 0.1,
    teacher_config: Any = None, empty: bool = False,
) -> Any:  # fmt: skip
    """The stock `...For...` of the shape's family and task with random weights, or its encoder with the shape's own
    head, or with one that pools as the teacher does; `empty`: with NaN for the encoder's weights, for whoever overwrites them all
    (drawing 10 million random numbers takes longer than copying them).

    Activation and LayerNorm's epsilon follow the teacher's, so that copied layers compute what they did.
    """
    import transformers
    from transformers import AlbertConfig, BertConfig, ElectraConfig, MobileBertConfig, RobertaConfig, SqueezeBertConfig

    common: dict[str, Any] = {
        "vocab_size": shape.vocabulary_size,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.max_positions,
        "type_vocab_size": shape.type_vocabulary_size,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "hidden_act": getattr(teacher_config, "hidden_act", None) or getattr(teacher_config, "activation", "gelu"),
        "layer_norm_eps": getattr(teacher_config, "layer_norm_eps", 1e-12),
        "pad_token_id": pad_id,
        "problem_type": problem_type,
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
    }
    family, embeds = FAMILIES[shape.family], shape.task_head == "embedding"
    if embeds:  # of the stock model its config is wanted, and that is the same in all
        shape = shape.model_copy(update={"task_head": "text"})
    task = f"For{TASK_HEADS[shape.task_head]}"

    def stock() -> Any:
        if family.build is not None:
            built = family.build(shape, common)
            if not type(built).__name__.endswith(task):
                raise TrialError(f"family {shape.family} builds {type(built).__name__}, and the task needs one {task}")
            return built
        model_type = family.model_type(shape)
        if model_type == "distilbert":
            return getattr(transformers, f"DistilBert{task}")(_distilbert_config(common))
        if model_type == "bert":
            return getattr(transformers, f"Bert{task}")(BertConfig(**common))
        if model_type == "electra":
            return getattr(transformers, f"Electra{task}")(ElectraConfig(**common, embedding_size=shape.embedding_size))
        if model_type == "roberta":
            if pad_id >= FIRST_POSITION:
                raise TrialError(
                    f"family roberta counts positions from the padding's id: it must be 0 or 1, not {pad_id}"
                )
            rows = {"max_position_embeddings": shape.max_positions + FIRST_POSITION}
            return getattr(transformers, f"Roberta{task}")(RobertaConfig(**common | rows))
        if model_type == "squeezebert":
            groups = {f"{part}_groups": shape.num_conv_groups for part in ("q", "k", "v", "intermediate", "output")}
            squeezed = SqueezeBertConfig(**common, **groups, embedding_size=shape.embedding_size)
            return getattr(transformers, f"SqueezeBert{task}")(squeezed)
        if model_type == "mobilebert":
            mobile = MobileBertConfig(
                **common,
                embedding_size=shape.embedding_size,
                intra_bottleneck_size=shape.bottleneck_size,
                num_feedforward_networks=shape.num_feedforwards,
            )
            return getattr(transformers, f"MobileBert{task}")(mobile)
        config = AlbertConfig(
            **common,
            embedding_size=shape.embedding_size,
            num_hidden_groups=shape.num_hidden_groups,
            classifier_dropout_prob=dropout,
            bos_token_id=None,
            eos_token_id=None,
        )
        return getattr(transformers, f"Albert{task}")(config)

    def build() -> Any:
        if shape.head == STOCK and not embeds:
            return stock()
        with torch.device("meta"):
            config = stock().config
        if not embeds:
            return class_with_head(shape.head, shape.task_head)(config)
        from search.trial.embedding import EncoderForSentenceEmbedding

        config.pooling = getattr(teacher_config, "pooling", "mean")
        return EncoderForSentenceEmbedding(config)

    if empty:
        with torch.device("meta"):
            model = build()
        model.to_empty(device="cpu")
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, float("nan"))
        if shape.task_head == "masked":
            model.tie_weights()
        _fill_what_is_not_overwritten(model)
    else:
        model = build()
    if family.always_pools and shape.task_head != "text" and shape.head == STOCK:
        for parameter in model.base_model.pooler.parameters():  # nobody reads it, and no teacher has it
            torch.nn.init.zeros_(parameter)
    return model


def _fill_what_is_not_overwritten(model: Any) -> None:
    if hasattr(model, "head_class"):
        model.head = model.head_class(model.config)  # no teacher overwrites it, or not all of it
    for name, buffer in model.named_buffers():  # to_empty leaves them undefined
        if name.startswith("head."):
            continue
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand(buffer.shape))
        elif name.endswith("token_type_ids"):
            buffer.zero_()
        else:
            raise AssertionError(f"a buffer of unknown content: {name}")


def class_with_head(name: str, task_head: str = "text") -> Any:
    """The class of a model with one of the study's own heads."""
    from search.trial.deliver import student_with_head as known

    base = known.AnswererWithHead if task_head == "span" else known.StudentWithHead
    return type("Student", (base,), {"head_class": HEADS[name]})


def _distilbert_config(common: dict[str, Any]) -> Any:
    """DistilBERT's own words for BERT's dimensions. It has one epsilon for all, its own."""
    from transformers import DistilBertConfig

    words = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "hidden_act": "activation",
    }
    plain = {words.get(name, name): value for name, value in common.items()}
    del plain["type_vocab_size"], plain["layer_norm_eps"]
    return DistilBertConfig(
        **plain, seq_classif_dropout=common["hidden_dropout_prob"], qa_dropout=common["hidden_dropout_prob"]
    )
