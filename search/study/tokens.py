"""The tokens that trials are trained on, without padding: known from the data before a trial begins."""

from __future__ import annotations

from search.study.inputs import Inputs
from search.trial.batches import num_batches
from search.trial.data import TransferSet
from search.trial.loop import Schedule
from spaces.errors import InputError
from spaces.parameters import Choice
from spaces.trial import TrialConfig


def trial_tokens(transfer: TransferSet, config: TrialConfig) -> float:
    """Of one full trial: exact where it reads its rows a whole number of times, else what a part of them holds on average.

    `transfer` is the joined one, as the lanes have it.
    """
    tokens, _, _, num_labelled = transfer.training(config.vocabulary, config.is_taught)
    passes = _passes(config.epochs, config.steps, config.batch_size, num_labelled, len(tokens))
    return passes * len(tokens.ids)


def fewest_tokens(inputs: Inputs) -> float:
    """About what the study's shortest trial takes."""
    train, training = inputs.transfer.splits["train"], inputs.spec.training
    batch = inputs.spec.space.parameter("batch_size")
    batch_size = int(min(batch.values, key=float) if isinstance(batch, Choice) else batch.low)
    passes = _passes(training.epochs, training.steps, batch_size, len(train), len(train))
    return passes * min(len(tokens.ids) for tokens in train.tokens.values())


def _passes(epochs: float, steps: int | None, batch_size: int, num_labelled: int, num_rows: int) -> float:
    """How often a trial reads its rows; those with labels say how long an epoch is."""
    schedule = Schedule(learning_rate=0.0, batch_size=batch_size, warmup_share=0.0, epochs=epochs, steps=steps)
    return schedule.total_steps(num_labelled) / num_batches(num_rows, batch_size)


def refuse_too_few_tokens(inputs: Inputs) -> None:
    """Raises InputError where budget.training_tokens do not pay for one trial."""
    most, fewest = inputs.spec.budget.training_tokens, fewest_tokens(inputs)
    if most is not None and most < fewest:
        raise InputError.of(
            "budget", f"{most:,.0f} do not pay for one trial, which takes {fewest:,.0f} or more; raise them, or lower training",
            "training_tokens",
        )  # fmt: skip
