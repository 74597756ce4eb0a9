"""How a delivered student is used, in code to copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.results.students import StudentRow
from search.trial.answers import MOST_WORDS
from spaces.study import StudySpec

PIPELINES = {  # Hugging Face's words
    "text": "text-classification",
    "token": "token-classification",
    "span": "question-answering",
    "embedding": "sentence-similarity",
    "masked": "fill-mask",
}

USE = {
    "pytorch": """```python
from transformers import pipeline

classify = pipeline("text-classification", model="path/to/this/folder"{more})
print(classify("a text of yours"))
```""",
    "tokens": """```python
from transformers import pipeline

tag = pipeline("token-classification", model="path/to/this/folder", aggregation_strategy="first"{more})
print(tag("a text of yours"))
```

It was trained on texts cut into words beforehand, and says its tag at a word's first piece. `is_split_into_words=True` takes such a
list of words.""",
    "spans": """```python
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

folder, question, context = "path/to/this/folder", "a question of yours?", "the text in which its answer stands"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForQuestionAnswering.from_pretrained(folder{more})
batch = tokenizer(
    question, context, truncation="only_second", max_length={length}, return_offsets_mapping=True, return_tensors="pt"
)
characters = batch.pop("offset_mapping")[0]
words = [word if side == 1 else None for word, side in zip(batch.word_ids(0), batch.sequence_ids(0))]
starts = torch.tensor([word is not None and word != before for before, word in zip([None, *words], words)])
ends = torch.tensor([word is not None and word != after for word, after in zip(words, [*words[1:], None])])
with torch.no_grad():
    out = model(**batch)
scores = out.start_logits[0, :, None] + out.end_logits[0]  # of a span from one piece to another
allowed = (starts[:, None] & ends).triu()  # whole words of the context, and no end before its start
start, end = divmod(int(scores.masked_fill(~allowed, -torch.inf).argmax()), len(characters))
print(context[characters[start][0] : characters[end][1]])
```

It learned where answers start from the first piece of each word, and where they end from the last: elsewhere outputs mean nothing.
Scored were answers of at most {words} words. A longer context is cut into windows by `return_overflowing_tokens=True, stride=128`;
the answer is the best span of all.""",
    "onnx spans": """`model.onnx` takes what `AutoTokenizer.from_pretrained("path/to/this/folder")` makes of a question and its
context, and returns `start_logits` and `end_logits` (batch, length): the answer is the span of the context whose start, at a word's
first piece, and end, at a word's last, are highest together.""",
    "vectors": """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
vectors = model.encode(["a text of yours", "another one"])  # of length 1: their products are their cosines
```""",
    "pieces": """```python
from transformers import pipeline

fill = pipeline("fill-mask", model="path/to/this/folder")
print(fill(f"a text with one {{fill.tokenizer.mask_token}} of yours"))
```

It is for other studies to start from, more than for itself: `training: {{start: path/to/this/folder}}`.""",
    "onnx": """```python
import onnxruntime
from transformers import AutoTokenizer

folder = "path/to/this/folder"
session = onnxruntime.InferenceSession(f"{{folder}}/model.onnx")
batch = AutoTokenizer.from_pretrained(folder)(["a text of yours"], padding=True, truncation=True, return_tensors="np")
inputs = {{entry.name: batch[entry.name].astype("int64") for entry in session.get_inputs()}}
({name},) = session.run(None, inputs)
```""",
}


def how_to_use(spec: StudySpec, row: StudentRow, formats: Mapping[str, Any]) -> str:
    """For people who have the folder alone; `formats` are the files in it."""
    onnx = any(name.startswith("onnx") for name in formats)
    own_head = row.config.shape.head != "stock"
    kinds = {"text": "pytorch", "token": "tokens", "span": "spans", "embedding": "vectors", "masked": "pieces"}
    kind = kinds[spec.about.task_head]
    output = "vectors" if kind == "vectors" else "logits"
    if onnx:
        kind = "onnx spans" if kind == "spans" else "onnx"
    more, length = (
        ", trust_remote_code=True" if own_head else "",
        min(spec.data.max_length, row.config.shape.max_positions),
    )
    text = USE[kind].format(more=more, length=length, words=MOST_WORDS, name=output)
    if own_head and not onnx:
        text += "\n\nIts head is code of the study's own, which is in this folder: read it before you run it."
    return text
