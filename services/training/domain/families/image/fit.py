"""Fits a classifier of images, by the loop of all networks."""

from typing import TYPE_CHECKING

import numpy as np

from services.training.domain.families.frame import Array, Column
from services.training.domain.families.image.model import ImageModel
from services.training.domain.families.image.pixels import ImageFormat, read_pixels
from services.training.domain.families.model import Run
from services.training.domain.families.neural.rows import class_weights, set_aside
from services.training.domain.families.target import Target

if TYPE_CHECKING:
    from services.training.domain.families.image.network import ResNet

_MODES = {"color": "RGB", "grey": "L"}
# A channel that never changes tells nothing; its spread would be 0.
_LEAST_SPREAD = 1 / 255


def fit_cnn(
    columns: tuple[Column, ...],
    images: list[str],
    truth: Array,
    target: Target,
    run: Run,
    base: ImageModel | None,
    body: ImageModel | None = None,
) -> ImageModel:
    """Fit a ResNet; from a base, reading images as that does and starting from its weights; from a body, so but a head.

    Raises:
        InvalidArgument: a row holds no image, or a loss is no longer a number.
        Stopped: it was cancelled.
    """
    # Here, for a job of another family needs none of it: two seconds and 200 MB.
    from torch import from_numpy, nn, tensor

    from services.training.domain.families.image.network import (
        Learner,
        load_network,
        network_files,
        new_network,
        with_new_head,
    )
    from services.training.domain.families.neural.batches import Rows
    from services.training.domain.families.neural.loop import train_network

    begun = base or body
    size, mode = (
        (begun.format.size, begun.format.mode)
        if begun
        else (int(run.number("image_size")), _MODES[str(run.settings["channels"])])
    )
    pixels = read_pixels(images, size, mode)
    aside = set_aside(truth, len(target.classes), run)
    kept = np.flatnonzero(~aside)
    image_format = begun.format if begun else describe_format(pixels[kept], mode)
    if begun is None:
        network = new_network(run.settings, pixels.shape[3], len(target.classes), run.seed)
    else:
        # The base stays what it is: it is scored beside its child.
        network = load_network(network_files(begun.network))
    if body is not None:
        network = with_new_head(network, len(target.classes), run.number("dropout"), run.seed)
    if begun is not None and run.settings["trainable"] == "last":
        network.features.requires_grad_(False)
    weights = tensor(class_weights(truth[kept], len(target.classes), run)).float()
    loss = nn.CrossEntropyLoss(weight=weights, label_smoothing=run.number("label_smoothing"))
    rows = Rows(from_numpy(pixels), from_numpy(truth))
    learner = Learner(network, tensor(image_format.mean), tensor(image_format.std), str(run.settings["augmentation"]))
    watched = rows[from_numpy(np.flatnonzero(aside))] if aside.any() else None
    train_network(learner, loss, rows[from_numpy(kept)], run, watched)
    settings = dict(run.settings) | (network_settings(network, image_format) if begun else {})
    return ImageModel("cnn", settings, columns, target, "ignore", image_format, network)


def network_settings(network: "ResNet", image_format: ImageFormat) -> dict[str, int | float | str | bool]:
    """Return the hyperparameters that a base brings along, so that a model tells what it is."""
    shape = {name: int(network.shape[name]) for name in ("width", "stages", "blocks")}
    channels = next(name for name, mode in _MODES.items() if mode == image_format.mode)
    return {**shape, "image_size": image_format.size, "channels": channels}


def describe_format(pixels: Array, mode: str) -> ImageFormat:
    """Return how images of (rows, size, size, channels) pixels are read, by the mean and spread of each channel."""
    # By image: all pixels as doubles at once would take eight times the memory.
    means = np.array([image.reshape(-1, image.shape[2]).mean(axis=0) for image in pixels]) / 255
    squares = np.array([(image.astype(np.float32) ** 2).reshape(-1, image.shape[2]).mean(axis=0) for image in pixels])
    mean = means.mean(axis=0)
    spread = np.sqrt(np.maximum(squares.mean(axis=0) / 255**2 - mean**2, _LEAST_SPREAD**2))
    # Rounded: as image.json spells them.
    rounded = (tuple(round(float(value), 6) for value in values) for values in (mean, spread))
    return ImageFormat(pixels.shape[1], mode, *rounded)
