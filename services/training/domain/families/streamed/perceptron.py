"""A perceptron over rows that stream, by the loop of all networks."""

import numpy as np
import pyarrow as pa

from services.training.domain.families.frame import Array
from services.training.domain.families.model import Run
from services.training.domain.families.neural.mlp import MlpCore, core_of, goals_of, loss_of, starting_network
from services.training.domain.families.streamed.budget import Budget
from services.training.domain.families.streamed.draws import Division
from services.training.domain.families.streamed.parted import Designs, Measured, Part, Parted
from services.training.domain.families.streamed.rows import TableRows
from services.training.domain.families.streamed.shuffled import Shuffled


def fit_mlp(
    parted: Parted,
    measured: Measured,
    shuffled: Shuffled,
    aside: pa.Table | None,
    run: Run,
    budget: Budget,
    base: MlpCore | None,
) -> MlpCore:
    """Fit a perceptron; from a base, on its scale and starting from its layers.

    Args:
        parted: the rows to learn from.
        measured: what is known of them.
        shuffled: the same, in an order that is drawn.
        aside: rows that only decide when to stop.
        run: settings, seed, progress, checkpoints.
        budget: of memory.
        base: where to start.
    """
    # Here, for a job of another family needs none of it: two seconds and 200 MB.
    from torch import from_numpy

    from services.training.domain.families.neural.batches import Rows
    from services.training.domain.families.neural.loop import train_network
    from services.training.domain.families.neural.streams import StreamedRows

    target = parted.schema.target
    scaling = base.first.scaling if base else measured.numbers.scaling()
    designs = Designs(parted.encoding, scaling, measured.common(base.first if base else None))
    scale = (0.0, 1.0)
    if not target.classes:
        scale = float(measured.truth.mean[0]), float(measured.truth.spread[0]) or 1.0

    def arrays(part: Part) -> tuple[Array, Array]:
        return designs.of(part).astype(np.float32), goals_of(part.truth, target, scale)

    watched = None
    if aside is not None:
        whole = Parted(TableRows(aside), parted.schema, Division(()))
        inputs, goals = zip(*(arrays(part) for part in whole.parts()), strict=True)
        watched = Rows(from_numpy(np.concatenate(inputs)), from_numpy(np.concatenate(goals)))
    network = starting_network(designs.features, target, scale, run, base)
    rows = StreamedRows(shuffled, arrays, budget.part_bytes // (8 * max(designs.features, 1)))
    train_network(network, loss_of(target, measured.class_rows, run), rows, run, watched)
    # What a base learned of values that these rows do not have, it keeps.
    seen = None if base else measured.seen(scaling)
    return core_of(network, parted.encoding, scaling, seen, scale, is_classifier=bool(target.classes))
