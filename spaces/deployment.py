"""What a student costs where it runs: which costs there are, and what each of them is measured of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from spaces.student import Frozen

if TYPE_CHECKING:
    from spaces.student import StudentShape

COUNTED = ("parameters", "flops", "bytes")  # known by arithmetic; bytes not of an int8 file
MEASURED = ("latency_ms", "peak_memory_bytes")
COSTS = (*COUNTED, *MEASURED)  # all to be minimised, and all a matter of the shape alone: weights change none of them
COST_WORDS = {
    "parameters": "parameters",
    "flops": "FLOPs",
    "bytes": "bytes",
    "latency_ms": "latency (ms)",
    "peak_memory_bytes": "peak memory (bytes)",
}
RUNTIME_WORDS = {"pytorch": "PyTorch", "onnx": "ONNX Runtime", "onnx-int8": "ONNX Runtime in int8"}
PREFIX = "deployed/"  # of measured costs among a Measurement's metrics: deployed/latency_ms


class DeploymentSpec(Frozen):
    """Where students will run. `latency_ms` is the median of one batch of `batch_size` texts of `length` pieces each on `threads`
    threads of a processor, by `runtime` (onnx: ONNX Runtime in fp32; onnx-int8: the same after dynamic quantisation);
    `peak_memory_bytes` is what a process of its own that does this takes at most; `flops` are of the same batch; `bytes` are of
    the delivered `file`: model.safetensors in fp32 or fp16, or the int8 ONNX file."""

    runtime: Literal["pytorch", "onnx", "onnx-int8"] = "onnx"
    batch_size: Annotated[int, Field(ge=1, le=10_000)] = 1
    length: Annotated[int, Field(ge=2, le=100_000)] = 32
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    file: Literal["fp32", "fp16", "int8"] = "fp32"

    @property
    def in_words(self) -> str:
        """What a latency is of."""
        texts = f"{self.batch_size} text{'s' * (self.batch_size > 1)} of {self.length} pieces at a time"
        return f"{texts}, on {self.threads} thread{'s' * (self.threads > 1)} by {RUNTIME_WORDS[self.runtime]}"

    def counted(self, shape: StudentShape) -> dict[str, float]:
        """The costs that arithmetic knows, by their study names."""
        known = {"parameters": float(shape.num_parameters)}
        known["flops"] = float(self.batch_size * shape.flops(min(self.length, shape.max_positions)))
        if self.file != "int8":
            known["bytes"] = float(shape.num_bytes_in(self.file))
        return known

    def is_measured(self, name: str) -> bool:
        """Whether arithmetic does not know this cost."""
        return name in MEASURED or (name == "bytes" and self.file == "int8")
