"""What makes a Hugging Face folder one of sentence-transformers' too: how it pools is read from a teacher's and written into a
student's. Imports nothing heavy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spaces.heads import DENSE

MODULES = "modules.json"
SETTINGS = ("config_sentence_transformers.json", "sentence_bert_config.json")  # beside it
POOLING = "1_Pooling"
POOLINGS = ("mean", "cls")  # over the pieces that are there, or the first one's
SWITCHES = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max"}  # others are called what they are
FOLLOWED = (
    "Transformer",
    "Pooling",
    "Normalize",
)  # vectors are compared by their angle, so that they may be of length 1


def pooling_of(folder: Path, may_map: bool = False) -> str:
    """How the folder makes a vector of a text's last states: one of POOLINGS; the mean where it says nothing. `may_map`: a linear
    layer may follow. Raises ValueError with what is not followed here."""
    try:
        if not (folder / MODULES).is_file():
            return "mean"
        followed = (*FOLLOWED, "Dense") if may_map else FOLLOWED
        pooling = ""
        for module in _read(folder / MODULES):
            kind = str(module["type"]).rpartition(".")[2]
            if kind not in followed:
                raise ValueError(f"its {MODULES} names {kind}, and only {', '.join(followed)} are followed here")
            if kind == "Pooling":
                pooling = _mode(_read(folder / Path(module["path"]).name / "config.json"))
        settings = folder / SETTINGS[0]
        if settings.is_file() and _read(settings).get("default_prompt_name"):
            raise ValueError(f"its {SETTINGS[0]} puts a prompt before every text, which students would not be given")
    except (OSError, TypeError, AttributeError, LookupError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"its {MODULES}, or a file that it names, cannot be read: {error}") from None
    if not pooling:
        raise ValueError(f"its {MODULES} names no Pooling")
    return pooling


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _mode(config: dict[str, Any]) -> str:
    """As written since sentence-transformers 5 (`pooling_mode`), or before (a switch for each)."""
    prefix = "pooling_mode_"
    said = config.get("pooling_mode") or [
        name.removeprefix(prefix) for name, on in config.items() if name.startswith(prefix) and on
    ]
    modes = [SWITCHES.get(str(mode), str(mode)) for mode in ([said] if isinstance(said, str) else said)]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ValueError(
            f"it pools by {' and '.join(modes) or 'nothing'}, and only {' or '.join(POOLINGS)} is followed here"
        )
    if config.get("include_prompt", True) is not True:
        raise ValueError("its pooling leaves a prompt out, and students are given none")
    return modes[0]


def write_modules(
    folder: Path, pooling: str, width: int, outputs: int, max_length: int | None = None, arguments: dict[str, Any] | None = None
) -> None:  # fmt: skip
    """Beside a bare encoder of this `width`: what sentence-transformers makes vectors of `outputs` numbers and of length 1 by. A
    width that is another needs the linear layer in DENSE, whose weights are not written here. `arguments` are what the
    encoder is loaded with."""
    modules = [("", "Transformer"), (POOLING, "Pooling")]
    _write(
        folder / POOLING / "config.json",
        {
            "word_embedding_dimension": width,
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    if width != outputs:
        modules.append((DENSE, "Dense"))
        identity = "torch.nn.modules.linear.Identity"
        linear = {"in_features": width, "out_features": outputs, "bias": True, "activation_function": identity}
        _write(folder / DENSE / "config.json", linear)
    modules.append((f"{len(modules)}_Normalize", "Normalize"))
    _write(
        folder / MODULES,
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(modules)
        ],
    )
    _write(folder / SETTINGS[0], {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"})
    settings: dict[str, Any] = {"do_lower_case": False}
    settings |= {} if max_length is None else {"max_seq_length": max_length}
    settings |= {"model_args": arguments} if arguments else {}
    _write(folder / SETTINGS[1], settings)


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
