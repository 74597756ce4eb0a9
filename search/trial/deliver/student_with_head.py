"""An encoder of Hugging Face's with a head that is not. Written into the folder of a delivered student as it stands here, so
it may import nothing of distilsearch: `AutoModelForSequenceClassification` (`...ForTokenClassification`, `...ForQuestionAnswering`)
loads it anywhere, by `from_pretrained(folder, trust_remote_code=True)`."""

from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput


class StudentWithHead(PreTrainedModel):
    """`head_class(config)` is called with the last hidden states (B, T, H) and the mask (B, T); it returns logits (B, C), or
    (B, T, C) of tokens."""

    head_class: Any = None
    _supports_sdpa = True  # what the encoder does not support it refuses itself

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        can_leave_it_out = config.model_type in ("bert", "albert", "roberta", "mobilebert")
        encoder = AutoModel.from_config(config, **({"add_pooling_layer": False} if can_leave_it_out else {}))
        if config.model_type == "squeezebert":
            encoder.pooler = torch.nn.Identity()
        self.base_model_prefix = encoder.base_model_prefix  # the encoder's tensors are named as in the stock model
        setattr(self, self.base_model_prefix, encoder)
        self.head = self.head_class(config)
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **more: Any
    ) -> SequenceClassifierOutput:
        mask_BT = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        out = self.base_model(input_ids=input_ids, attention_mask=mask_BT, **more)
        return SequenceClassifierOutput(
            logits=self.head(out.last_hidden_state, mask_BT), hidden_states=out.hidden_states
        )


class AnswererWithHead(StudentWithHead):
    """Its head returns logits (B, T, 2): of the answer's start and end at each token."""

    def forward(self, *inputs: Any, **more: Any) -> QuestionAnsweringModelOutput:
        out = super().forward(*inputs, **more)
        start, end = out.logits.unbind(-1)
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end, hidden_states=out.hidden_states)
