"""What a lane does with each kind of WorkItem. Nothing here remembers an earlier item: every trial is rebuilt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from search.trial import augment, checkpoint, floor, teacher
from search.trial.context import WorkerContext
from search.trial.data import TransferSet
from search.trial.deliver.costs import measure_costs, processor
from search.trial.deliver.huggingface import deliver
from search.trial.device import told_of_memory
from search.trial.evaluate import order_accuracy, score
from search.trial.loop import Schedule, fit
from search.trial.matching import Matcher
from search.trial.mirror import mirrored
from search.trial.start.begun import begin, is_of, load_begun
from search.trial.start.groups import starting_layers
from search.trial.start.importance import load_importance, rank
from search.trial.start.initialise import can_copy, initialise, unshared
from search.trial.start.narrow import is_narrower, narrowed
from search.trial.states import LaneStates, states_of, write_states
from search.trial.students import build_student
from spaces.deployment import DeploymentSpec
from spaces.errors import TrialError
from spaces.families import register
from spaces.heads import register_heads
from spaces.student import StudentShape
from spaces.study import AugmentationSpec, FineTune
from spaces.trial import Measurement, TrialConfig, WorkItem, WorkKind, derived_seed
from spaces.yaml_io import write_whole

Outcome = tuple[Measurement | None, dict[str, Any]]


def perform(item: WorkItem, context: WorkerContext) -> Outcome:
    """Does the work of `item` on this rank; rank 0's return value counts, and only training is shared among ranks."""
    if context.rank and item.kind not in (WorkKind.TRAIN, WorkKind.FINE_TUNE):
        return None, {}
    if "transfer" in context.data:
        register(_transfer(context).own_families)
        register_heads(_transfer(context).own_heads)
    torch.set_num_threads(int(item.payload.get("threads", context.threads)))
    try:
        with mirrored(item, context) as here:
            return WORK[here.kind](here, context)
    finally:
        torch.set_num_threads(context.threads)


def train(item: WorkItem, context: WorkerContext) -> Outcome:
    """A trial, from one rung to the next."""
    config, transfer = item.config, _transfer(context)
    assert config is not None
    vocabulary = transfer.vocabularies[config.vocabulary]
    tokens, labels, outputs, num_labelled = transfer.training(config.vocabulary, taught=config.is_taught)
    source = teacher.load_teacher(item.payload["teacher"])
    torch.manual_seed(derived_seed(config.seed, "initialise"))
    earlier = Path(item.payload.get("continues", ""))
    start_share = item.start_share if (earlier / "progress.pt").is_file() else 0.0  # a lost checkpoint is trained again
    begun = _begun(config, item.payload.get("start"))
    copies = config.initialise == "teacher" and can_copy(source.config.model_type, source.state_dict(), config.shape)
    student = build_student(
        config.shape,
        label_names=transfer.label_names,
        problem_type=transfer.problem_type,
        pad_id=vocabulary.pad_id,
        dropout=config.dropout,
        teacher_config=source.config,
        empty=copies or start_share > 0 or begun is not None,
    )
    progress = None
    if start_share > 0:
        checkpoint.load_weights(student, earlier)
        progress = checkpoint.load_progress(earlier)
    elif begun is not None:
        begin(student, config.shape, begun, vocabulary)
    elif copies:
        state = _state_for(config.shape, source, item.payload["teacher"])
        starts = starting_layers(config, student, source, state, tokens, vocabulary, context)
        initialise(student, config.shape, state, source.config.model_type, starts, vocabulary, tokens.lengths)
    matcher, states = None, None
    if config.hidden_share > 0:
        pairs = config.matched_states(source.config.num_hidden_layers)
        matcher = Matcher(config.hidden_loss, pairs, student, source)
        states = states_of(transfer, config.vocabulary, tokens, source, matcher.teacher_states)
    pieces = None
    if transfer.target == "piece" and config.soft_share > 0:  # of masks that no one could have read before
        pieces = (states if isinstance(states, LaneStates) else LaneStates(source, vocabulary, [])).pieces
    with told_of_memory(config.batch_size, item.accumulation_steps):
        fitted = fit(
            student,
            tokens,
            labels,
            outputs,
            Schedule(
                learning_rate=config.learning_rate,
                batch_size=config.batch_size,
                warmup_share=config.warmup_share,
                epochs=config.epochs,
                steps=config.steps,
                weight_decay=config.weight_decay,
                temperature=config.temperature,
                soft_share=config.soft_share,
                hidden_share=config.hidden_share,
                order_share=transfer.order_share,
            ),
            pad_id=vocabulary.pad_id,
            seed=config.seed,
            context=context,
            target=transfer.target,
            num_labelled=num_labelled,
            class_weights=transfer.class_weights,
            start_share=start_share,
            end_share=item.end_share,
            progress=progress,
            matcher=matcher,
            teacher_states=states,
            teacher_pieces=pieces,
            mask_id=vocabulary.mask_id,
            accumulation_steps=item.accumulation_steps,
        )
    if context.rank:
        return None, {}
    metrics = score(student, transfer, config.vocabulary, item.evaluate, context, exact=bool(item.payload.get("exact")))
    if fitted.order is not None and vocabulary.mask_id is not None:
        split, pad_id = transfer.splits["validation"], vocabulary.pad_id
        told = order_accuracy(
            student, fitted.order, split.tokens[config.vocabulary], split.labels, vocabulary.mask_id, pad_id, context
        )
        metrics["validation/order_accuracy"] = told
    if item.folder:
        checkpoint.save_weights(student, item.leaves, fitted.progress if item.end_share < 1 else None)
    cost = {
        "train_seconds": fitted.seconds,
        "tokens": float(fitted.num_tokens),
        "optimizer_steps": float(fitted.step - round(start_share * fitted.total_steps)),
        "mean_loss": fitted.mean_loss,
        **({"accumulation_steps": float(item.accumulation_steps)} if item.accumulation_steps > 1 else {}),
    }
    assert item.trial is not None
    return (
        Measurement(
            trial=item.trial, attempt=item.attempt, step=fitted.step, share=item.end_share, metrics=metrics, cost=cost
        ),
        {},
    )


def _begun(config: TrialConfig, folder: str | None) -> Any:
    """The student in the folder, where there is one and this one starts from it."""
    if folder is None or config.initialise != "teacher":
        return None
    begun = load_begun(folder)
    return begun if is_of(config.shape, begun.config.to_dict()) else None


def _state_for(shape: StudentShape, source: Any, teacher_folder: str) -> Mapping[str, torch.Tensor]:
    """The teacher's weights, narrowed where the student is narrower."""
    state: Mapping[str, torch.Tensor] = unshared(source)
    if not is_narrower(shape, source.config):
        return state
    importance = load_importance(teacher_folder)
    if importance is None:
        raise TrialError(
            f"the teacher in {teacher_folder} was not ranked, so nothing says what a narrower student keeps"
        )
    return narrowed(state, source.config.model_type, source.config.num_attention_heads, shape, importance)


def fine_tune(item: WorkItem, context: WorkerContext) -> Outcome:
    settings = FineTune.model_validate(item.payload["settings"])
    continues = item.payload.get("continues")
    metrics = teacher.fine_tune(
        item.payload["base"],
        Path(item.folder),
        settings,
        _transfer(context),
        item.payload["seed"],
        context,
        start_share=item.start_share,
        end_share=item.end_share,
        continues=Path(continues) if continues else None,
        accumulation_steps=item.accumulation_steps,
    )
    return None, {"metrics": metrics}


def make_up(item: WorkItem, context: WorkerContext) -> Outcome:
    """Texts made up from some of the training rows, left in a file."""
    payload, (texts, pairs) = item.payload, context.data["texts"]
    spec = AugmentationSpec.model_validate(payload["spec"])
    everything = (*texts, *(pairs or ()))
    replacing = augment.replacing(payload["base"], spec.words, spec.neighbours, payload["max_length"], everything)
    made = augment.make_up(texts, pairs, payload["rows"], spec, payload["seed"], replacing, context)
    write_whole(Path(item.folder), json.dumps(made, ensure_ascii=False))
    return None, {}


def teach(item: WorkItem, context: WorkerContext) -> Outcome:
    """Teacher logits of some rows of one split."""
    transfer = _transfer(context)
    split = transfer.splits[item.payload["split"]]
    pad_id = transfer.vocabularies["full"].pad_id
    logits = teacher.teach(item.payload["teacher"], split, item.payload["rows"], pad_id, context)
    return None, {"logits": logits, "forward_rows": len(item.payload["rows"])}


def teach_states(item: WorkItem, context: WorkerContext) -> Outcome:
    """The teacher's hidden states of some of the training rows, left in a file."""
    transfer, name = _transfer(context), item.payload["vocabulary"]
    tokens = transfer.training(name, taught=True)[0]
    source, vocabulary = teacher.load_teacher(item.payload["teacher"]), transfer.vocabularies[name]
    write_states(Path(item.folder), source, tokens, vocabulary, item.payload["rows"], item.payload["states"], context)
    return None, {"forward_rows": len(item.payload["rows"])}


def rank_teacher(item: WorkItem, context: WorkerContext) -> Outcome:
    """What narrower students keep, left in the teacher's folder."""
    transfer, model = _transfer(context), teacher.load_teacher(item.payload["teacher"])
    train, pad_id = transfer.splits["train"], transfer.vocabularies["full"].pad_id
    if can_copy(model.config.model_type, model.state_dict()):
        found = rank(model, train.tokens["full"], train.labels, transfer.target, pad_id, context)
        found.save(Path(item.payload["teacher"]))
    return None, {}


def find_floor(item: WorkItem, context: WorkerContext) -> Outcome:
    transfer = _transfer(context)
    if item.payload["floor"] == "n_grams":
        metrics, size = floor.n_grams(transfer, context)
        return None, {"metrics": metrics, "num_parameters": size}
    shape = StudentShape.model_validate(item.payload["shape"])
    cut = floor.cut_teacher(item.payload["teacher"], shape, transfer, item.payload["vocabulary"], context)
    return None, {"metrics": cut}


def measure_shape(item: WorkItem, context: WorkerContext) -> Outcome:
    payload = item.payload
    shape = None if payload["shape"] is None else StudentShape.model_validate(payload["shape"])
    deployment = DeploymentSpec.model_validate(payload["deployment"])
    longest = payload["max_positions"]
    costs = measure_costs(deployment, shape, payload["teacher"], longest, _transfer(context), context)
    return None, {"costs": costs, "processor": processor()}


def deliver_student(item: WorkItem, context: WorkerContext) -> Outcome:
    assert item.config is not None
    weights = Path(item.payload["weights"])
    if not (weights / "weights.safetensors").is_file():
        raise TrialError(f"the weights of trial {item.trial} are no longer in {weights}")
    return None, deliver(item.config, item.payload["teacher"], weights, Path(item.folder), _transfer(context), context)


def _transfer(context: WorkerContext) -> TransferSet:
    return context.data["transfer"]


WORK: dict[WorkKind, Callable[[WorkItem, WorkerContext], Outcome]] = {
    WorkKind.FINE_TUNE: fine_tune,
    WorkKind.MAKE_UP: make_up,
    WorkKind.TEACH: teach,
    WorkKind.TEACH_STATES: teach_states,
    WorkKind.RANK: rank_teacher,
    WorkKind.FLOOR: find_floor,
    WorkKind.MEASURE: measure_shape,
    WorkKind.TRAIN: train,
    WorkKind.DELIVER: deliver_student,
}
