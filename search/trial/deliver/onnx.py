"""ONNX files of a student: written, quantised, run and held against PyTorch.

Of torch's two exporters this takes the one that traces: under a second a student, where the one over `torch.export` took ten on
the same machine. What it writes is then put in order by onnx_ir's own passes, so that each weight is
stored once and lies as a constant where the quantiser looks for it: ALBERT's shared layers too.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from search.trial.batches import evaluation_rows, padded
from search.trial.data import Tokens
from search.trial.evaluate import TOKENS_AT_ONCE
from search.trial.forward import classifier, logits_of, named_inputs, tells_pieces
from spaces.errors import TrialError

OPSET = 18
MOST_BYTES = 2**31 - 2**20  # protobuf takes no file of 2 GB
QUANTISED = ["MatMul", "Gemm", "Gather"]  # products with a weight, and the embedding tables
LOGITS, SPAN_LOGITS = ["logits"], ["start_logits", "end_logits"]  # Hugging Face's names for the outputs
PIECES_AT_ONCE = 512  # with logits over the whole vocabulary each: 62 MB of BERT's
TOLERANCE = 1e-3  # of the logits, by their own size: what rounding may do, and no more


class _Named(nn.Module):
    """The classifier with the inputs and outputs that its file has, in their order: the third input is there if the model knows
    token types."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self.classify, self._names = classifier(model), names

    def forward(
        self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, types_BT: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        if tells_pieces(model := self.classify.model):  # of every piece, as in the stock model
            return logits_of(model(**named_inputs(model.config, ids_BT, mask_BT, types_BT)))
        if self._names != SPAN_LOGITS:
            return self.classify(ids_BT, mask_BT, types_BT)
        found = self.classify.outputs(ids_BT, mask_BT, types_BT)
        return tuple(found[name] for name in self._names)


def export_onnx(model: Any, path: Path) -> int:
    """Writes one .onnx file, whole or not at all, and returns its bytes: inputs input_ids, attention_mask and, where the model
    takes them, token_type_ids, int64 (batch, length); output logits, float32 (batch, labels), of tokens (batch, length, labels), of
    masked pieces (batch, length, vocabulary); of spans start_logits and end_logits (batch, length); or sentence_embedding, float32
    (batch, numbers of a vector). Both axes are free.

    `model` is a classifier on the CPU in fp32, trained or not. The file is run once and held against it, in
    two other sizes than it was traced in. Raises TrialError naming the family if that fails.
    """
    import onnx_ir.passes.common

    family = f"{getattr(model.config, 'model_type', 'this family')} ({type(model).__name__})"
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if num_bytes > MOST_BYTES:
        raise TrialError(f"ONNX: {family} has {num_bytes:,} bytes of weights, and one .onnx file holds 2 GB; export hf")
    was_training = model.training
    try:
        file = io.BytesIO()
        with _quiet(), torch.no_grad():
            inputs = _example(model, batch=3, length=_longest(model, 9))
            names = list(inputs)
            found = model.eval()(**inputs)
            said = SPAN_LOGITS if SPAN_LOGITS[0] in found else [getattr(model, "output_name", LOGITS[0])]
            free = {0: "batch", 1: "length"} if logits_of(found).ndim == 3 else {0: "batch"}
            axes = {name: {0: "batch", 1: "length"} for name in names} | dict.fromkeys(said, free)
            torch.onnx.export(
                _Named(model, said).eval(), tuple(inputs.values()), file,  # type: ignore[arg-type]  # a file is well with this exporter
                dynamo=False, do_constant_folding=False, opset_version=OPSET,
                input_names=names, output_names=said, dynamic_axes=axes,
            )  # fmt: skip
            written = onnx_ir.from_proto(_parsed(file.getvalue()))
            passes = onnx_ir.passes.common
            passes.DeduplicateHashedInitializersPass()(written)
            # A shared weight is transposed once and not in each layer; then the product of that is a constant like any other.
            passes.CommonSubexpressionEliminationPass()(written)
            _fold(written, lambda node: False if _turns_a_table(node) else None)
            data = onnx_ir.to_proto(written).SerializeToString()
            _check_sizes(model, data, family)
    except TrialError:
        raise
    except Exception as error:  # whatever torch's exporter or ONNX Runtime has to say of an operation they do not know
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrialError(f"ONNX: {family} cannot be exported: {what}; export hf instead") from error
    finally:
        model.train(was_training)
    _write_whole(path, data)
    return len(data)


def quantise(path: Path, out: Path) -> int:
    """The same model with int8 weights and activations quantised as they come (ONNX Runtime's dynamic quantisation): every
    product with a weight, and the embedding tables. Whole or not at all; returns its bytes.

    A scale for each column: 98.8 % of the predictions of four students stayed what they were, 96.1 % with one scale a table. Seven
    bits of the eight: as many stayed (98.9 %), and no product overflows on processors without VNNI.
    """
    import onnx_ir
    from onnxruntime.quantization import QuantType, quantize_dynamic

    temporary = out.with_name(f".{out.name}.{os.getpid()}.writing")
    try:
        with _quiet():
            plain = onnx_ir.from_proto(_parsed(path.read_bytes()))
            _fold(plain)  # what a table is turned into is a weight of its own in eight bits
            quantize_dynamic(
                onnx_ir.to_proto(plain), temporary,
                per_channel=True, reduce_range=True, weight_type=QuantType.QInt8, op_types_to_quantize=QUANTISED,
            )  # fmt: skip
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return out.stat().st_size


def load_session(model: Path | bytes, threads: int = 1) -> Any:
    """An ONNX Runtime session on the processor, with so many threads and no more."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, ids_BT: Any, mask_BT: Any, types_BT: Any) -> np.ndarray:
    """(B, C), (B, T, C) or of spans (B, T, 2) float32 logits of one batch of int64 arrays or tensors; what the file does not take
    is left out."""
    named = {"input_ids": ids_BT, "attention_mask": mask_BT, "token_type_ids": types_BT}
    feed = {entry.name: np.asarray(named[entry.name]) for entry in session.get_inputs()}
    found = session.run([entry.name for entry in session.get_outputs()], feed)
    return found[0] if len(found) == 1 else np.stack(found, -1)


def predict_onnx(
    session: Any,
    tokens: Tokens,
    pad_id: int,
    heartbeat: Callable[[int, int], None] = lambda done, of: None,
    pieces: bool = False,
) -> np.ndarray:
    """(N, C) or (W, C) float32 logits, of `pieces` (W, 1) the likeliest one's id, as `evaluate.predict` gives them, in batches by
    length."""
    out = np.zeros((len(tokens), 0), np.float32)
    done = 0
    for rows in evaluation_rows(tokens.lengths, PIECES_AT_ONCE if pieces else TOKENS_AT_ONCE["cpu"]):
        batch = padded(tokens, rows, pad_id)
        outputs = batch.read(torch.from_numpy(run_session(session, batch.ids_BT, batch.mask_BT, batch.types_BT)))
        if pieces:
            outputs = outputs.argmax(-1, keepdim=True)
        if not done:
            out = np.zeros((tokens.num_outputs, outputs.shape[-1]), np.float32)
        out[batch.numbers] = outputs.numpy()
        done += len(rows)
        heartbeat(done, len(tokens))
    return out


def _fold(model: Any, should_fold: Callable[[Any], bool | None] = lambda node: None) -> None:
    from onnx_ir.passes.common import RemoveUnusedNodesPass
    from onnxscript.optimizer import fold_constants

    fold_constants(model, input_size_limit=MOST_BYTES, output_size_limit=MOST_BYTES, should_fold=should_fold)
    RemoveUnusedNodesPass()(model)


def _turns_a_table(node: Any) -> bool:
    """Whether it transposes what is looked up in too: a masked-LM head's last product is with the word embeddings, which are
    stored once."""
    return node.op_type == "Transpose" and any(use.node.op_type == "Gather" for use in node.inputs[0].uses())


def _example(model: Any, batch: int, length: int) -> dict[str, torch.Tensor]:
    """A batch with padding in it: a mask of ones alone would be taken for no mask."""
    ids_BT = torch.arange(batch * length).reshape(batch, length) % model.config.vocab_size
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1:, math.ceil(length / 2) :] = 0
    return named_inputs(model.config, ids_BT, mask_BT, torch.zeros_like(ids_BT))


def _longest(model: Any, length: int) -> int:
    """At most so long, and no longer than the model's positions (some families begin to count behind the padding's id)."""
    positions = getattr(model.config, "max_position_embeddings", length) or length
    return max(1, min(length, positions - 2))


def _check_sizes(model: Any, data: bytes, family: str) -> None:
    session = load_session(data)
    for batch, length in ((1, _longest(model, 2)), (2, _longest(model, 17))):
        inputs = _example(model, batch, length)
        expected = logits_of(model.eval()(**inputs)).numpy()
        given = run_session(session, inputs["input_ids"], inputs["attention_mask"], inputs.get("token_type_ids"))
        if given.shape != expected.shape or not np.allclose(given, expected, TOLERANCE, TOLERANCE, equal_nan=True):
            raise TrialError(
                f"ONNX: {family} gives other logits there for {batch} texts of {length} pieces than in PyTorch: its forward pass "
                "may depend on the length in a way that tracing does not see; export hf instead"
            )


def _parsed(data: bytes) -> Any:
    import onnx

    return onnx.load_from_string(data)


def _write_whole(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters and the quantiser have to say: of tracing, of deprecation, of what else one could run first."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
