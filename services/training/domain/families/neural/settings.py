"""The hyperparameters that every network is trained by. Imports no library that trains."""

from dataclasses import replace

from services.training.domain.families.hyperparameters import Hyperparameter

TRAINING = (
    Hyperparameter("optimizer", "How steps follow from gradients.", "adamw", choices=("adamw", "adam", "sgd")),
    Hyperparameter("learning_rate", "Largest step size.", 1e-3, 1e-6, 10.0),
    Hyperparameter(
        "schedule",
        "How the step size falls from the end of the warm-up on: not at all, in a straight line or a half cosine to 0.",
        "cosine",
        choices=("constant", "linear", "cosine"),
    ),
    Hyperparameter("warmup", "Share of the steps in which the step size grows from 0.", 0.05, 0.0, 1.0),
    Hyperparameter("momentum", "Of sgd.", 0.9, 0.0, 0.999),
    Hyperparameter("weight_decay", "By which weights shrink, a unit of step size.", 0.01, 0.0, 10.0),
    Hyperparameter("epochs", "Passes over the rows.", 30, 1, 100_000),
    Hyperparameter("batch_size", "Rows a step.", 64, 1, 1_000_000),
    Hyperparameter("gradient_clip", "Largest norm of a step's gradients; 0 for any.", 1.0, 0.0, 1e6),
    Hyperparameter(
        "early_stopping",
        "Epochs without gain on a tenth of the rows, set aside, after which training stops; 0 for never.",
        0,
        0,
        10_000,
    ),
    Hyperparameter(
        "precision",
        "Of the arithmetic: bfloat16 computes products in half precision and keeps the weights in full.",
        "float32",
        choices=("float32", "bfloat16"),
    ),
)


def training(**defaults: int | float | str) -> tuple[Hyperparameter, ...]:
    """Return the same settings with some other defaults, by name."""
    return tuple(replace(one, default=defaults.get(one.name, one.default)) for one in TRAINING)
