"""A model that reads images: how it reads them and its network, predicting, exported, stored and loaded again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa

from services.training.domain.families.frame import Array, Column
from services.training.domain.families.image.pixels import ImageFormat, read_pixels
from services.training.domain.families.model import STATE_FILE, Description, Input, Predictions
from services.training.domain.families.single_column import row_texts
from services.training.domain.families.target import Target

if TYPE_CHECKING:
    from services.training.domain.families.image.network import ResNet

IMAGE_FILE = "image.json"
_BATCH_ROWS = 64


@dataclass(frozen=True)
class ImageModel:
    """A classifier of images that was trained here.

    Args:
        family: its family.
        hyperparameters: as resolved.
        columns: the one with the images, as base64 texts.
        target: what it predicts.
        handle_unknown: ignore.
        format: how images are read.
        network: tensors to log odds, in torch.
    """

    family: str
    hyperparameters: dict[str, int | float | str | bool]
    columns: tuple[Column, ...]
    target: Target
    handle_unknown: str
    format: ImageFormat
    network: "ResNet"

    def inputs(self) -> tuple[Input, ...]:
        """Return what the export takes: (rows, channels, size, size) values."""
        size = self.format.size
        return (Input("image", "FP32", (-1, len(self.format.mean), size, size)),)

    def predict(self, table: pa.Table) -> Predictions:
        """Return predictions for a table's rows.

        Raises:
            InvalidArgument: the column of images lacks, or a row holds none.
        """
        import torch

        found = np.zeros((table.num_rows, len(self.target.classes)))
        with torch.inference_mode():
            for places, feed in self.feeds(table):
                found[places] = self.network(torch.from_numpy(feed["image"])).double().softmax(dim=1).numpy()
        return Predictions(found.argmax(axis=1), found)

    def feeds(self, table: pa.Table) -> Iterator[tuple[Array, dict[str, Array]]]:
        """Yield places of a table's rows, and these rows as the export takes them."""
        images = row_texts(table, self.columns)
        for start in range(0, len(images), _BATCH_ROWS):
            pixels = read_pixels(images[start : start + _BATCH_ROWS], self.format.size, self.format.mode)
            yield np.arange(start, start + len(pixels)), {"image": self.format.tensor(pixels)}

    def export(self) -> bytes:
        """Return the ONNX model: values of images in; `prediction` and `probabilities` out."""
        import torch

        from services.training.domain.families.neural.export import export_network

        sample = torch.zeros((2, *self.inputs()[0].shape[1:]))
        return export_network(self.network, (sample,), ("image",), ({0: torch.export.Dim("rows")},), self.target)

    def files(self) -> dict[str, bytes]:
        """Return the trainable state, from which `load` makes the model again, and how images are read."""
        from services.training.domain.families.image.network import network_files

        return {
            STATE_FILE: Description.of(self).to_json(),
            IMAGE_FILE: self.format.to_json(),
            **network_files(self.network),
        }

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> Self:
        """Return the model that gave some files."""
        from services.training.domain.families.image.network import load_network

        image_format = ImageFormat.read(files[IMAGE_FILE])
        return cls(**vars(Description.read(files)), format=image_format, network=load_network(files))
