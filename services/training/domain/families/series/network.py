"""A recurrent network over the steps of series, on torch; scaling and padding are parts of it: it takes raw numbers."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

SHAPE_FILE = "network.json"
WEIGHTS_FILE = "weights.safetensors"
# Added to a window's own spread, in shares of the whole table's: a window that hardly moves is not blown up.
LEAST_SPREAD = 0.01


@dataclass(frozen=True)
class Shape:
    """What a network is made of, beside its weights.

    Args:
        cell: gru or lstm.
        channels: of a step.
        hidden_size, layers, bidirectional, dropout: of the recurrent layers; dropout between and behind them.
        linear_steps: last steps that also go to the answer by weights of their own; 0 for none.
        scaling: window or global.
        outputs: classes, or steps of a forecast.
        is_forecast: whether the outputs are steps to come.
        season: steps back to the value that a forecast starts from; 0 for the series' mean.
        own: the channel that is the target's own past; None where none is.
    """

    cell: str
    channels: int
    hidden_size: int
    layers: int
    bidirectional: bool
    dropout: float
    linear_steps: int
    scaling: str
    outputs: int
    is_forecast: bool
    season: int
    own: int | None

    @property
    def directions(self) -> int:
        """In which the steps are read."""
        return 2 if self.bidirectional else 1


class SeriesNetwork(nn.Module):
    """Recurrent layers, their last state, and a linear layer; with a linear way from the last steps around them.

    A forecast starts from its series' mean or the value a season before, and has a median and two distances to the ends
    of its interval, which are never negative. The linear way is the autoregressive part of LSTNet.

    Source: Cho et al., EMNLP 2014 (GRU); Hochreiter and Schmidhuber, Neural Computation 1997 (LSTM); Lai et al., SIGIR
    2018 (LSTNet).

    Args:
        shape: what it is made of.
    """

    # What scales steps and goals, and widens intervals: (channels,), (1,) and (outputs,).
    mean: Tensor
    std: Tensor
    goal_mean: Tensor
    goal_std: Tensor
    widening: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("mean", torch.zeros(shape.channels, dtype=torch.float64))
        self.register_buffer("std", torch.ones(shape.channels, dtype=torch.float64))
        self.register_buffer("goal_mean", torch.zeros(1))
        self.register_buffer("goal_std", torch.ones(1))
        self.register_buffer("widening", torch.ones(shape.outputs))
        kind = nn.GRU if shape.cell == "gru" else nn.LSTM
        self.recurrent = kind(
            shape.channels,
            shape.hidden_size,
            shape.layers,
            batch_first=True,
            dropout=shape.dropout if shape.layers > 1 else 0.0,
            bidirectional=shape.bidirectional,
        )
        self.dropout = nn.Dropout(shape.dropout)
        state = shape.hidden_size * shape.directions + 2 * shape.channels
        self.head = nn.Linear(state, shape.outputs * (3 if shape.is_forecast else 1))
        if shape.linear_steps:
            self.linear = nn.Linear(shape.linear_steps * shape.channels, shape.outputs, bias=False)
            nn.init.zeros_(self.linear.weight)

    def forward(self, steps: Tensor) -> Tensor:
        """Return what (rows, steps, channels) say, NaN for none.

        Log odds (rows, classes); or forecasts (rows, 3, outputs): prediction, lower, upper.
        """
        known = ~steps.isnan()
        places = torch.arange(1, steps.shape[1] + 1, device=steps.device)
        lengths = (known.any(dim=2) * places).amax(dim=1).clamp(min=1)
        nothing = torch.zeros((), device=steps.device)
        # In doubles: what hardly changes over a window would else be scaled up from rounding alone.
        values = torch.where(known, (steps.double() - self.mean) / self.std, nothing)
        counts = known.sum(dim=1).clamp(min=1)
        center = values.sum(dim=1) / counts
        apart = torch.where(known, values - center.unsqueeze(1), nothing)
        spread = ((apart**2).sum(dim=1) / counts + LEAST_SPREAD**2).sqrt()
        scaled = (apart / spread.unsqueeze(1) if self.shape.scaling == "window" else values).float()
        apart, center, spread = apart.float(), center.float(), spread.float()
        state = torch.cat((self._last_state(scaled, lengths), center, spread), dim=1)
        found: Tensor = self.head(self.dropout(state))
        if not self.shape.is_forecast:
            return found + self._around(scaled, lengths)
        middle, below, above = found.unflatten(1, (3, self.shape.outputs)).unbind(dim=1)
        middle = middle + self._around(scaled, lengths)
        below, above = nn.functional.softplus(below), nn.functional.softplus(above)
        own = self.shape.own
        if own is not None:
            scale = spread[:, own : own + 1] if self.shape.scaling == "window" else 1.0
            middle, below, above = middle * scale, below * scale, above * scale
            middle = middle + center[:, own : own + 1]
            if self.shape.season:
                middle = middle + self._season_before(apart[:, :, own], lengths)
        parts = (middle, middle - below * self.widening, middle + above * self.widening)
        return torch.stack(parts, dim=1) * self.goal_std + self.goal_mean

    def _last_state(self, scaled: Tensor, lengths: Tensor) -> Tensor:
        """Return (rows, directions * hidden_size): the last layer's states behind its last steps."""
        # In full precision whatever the rest has: errors add up over the steps, and not every processor has an LSTM of
        # half precision.
        with torch.autocast(scaled.device.type, enabled=False):
            if bool((lengths < scaled.shape[1]).any()):
                packed = nn.utils.rnn.pack_padded_sequence(
                    scaled, lengths.cpu(), batch_first=True, enforce_sorted=False
                )
                _, state = self.recurrent(packed)
            else:
                _, state = self.recurrent(scaled)
        state = state if self.shape.cell == "gru" else state[0]
        return torch.cat(tuple(state[-self.shape.directions :]), dim=1)

    def _around(self, scaled: Tensor, lengths: Tensor) -> Tensor:
        if not self.shape.linear_steps:
            return torch.zeros((), device=scaled.device)
        count = self.shape.linear_steps
        places = lengths.unsqueeze(1) - count + torch.arange(count, device=scaled.device)
        rows = torch.arange(len(scaled), device=scaled.device).unsqueeze(1)
        # Steps before the first are as the mean.
        last = scaled[rows, places.clamp(min=0)] * (places >= 0).unsqueeze(2)
        found: Tensor = self.linear(last.flatten(1))
        return found

    def _season_before(self, apart: Tensor, lengths: Tensor) -> Tensor:
        """Return (rows, outputs): for each the value a season before; where the series is too short, its last one."""
        ahead = torch.arange(self.shape.outputs, device=apart.device) % self.shape.season
        places = lengths.unsqueeze(1) - self.shape.season + ahead
        places = torch.where(places >= 0, places, lengths.unsqueeze(1) - 1)
        return apart.gather(1, places)


def new_network(shape: Shape, seed: int) -> SeriesNetwork:
    """Return a network of random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        return SeriesNetwork(shape)


def network_files(network: SeriesNetwork) -> dict[str, bytes]:
    """Return the network's shape as JSON, and its weights as safetensors."""
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    return {SHAPE_FILE: json.dumps(asdict(network.shape), sort_keys=True).encode(), WEIGHTS_FILE: save(weights)}


def load_network(files: Mapping[str, bytes]) -> SeriesNetwork:
    """Return the network that gave the files."""
    network = new_network(Shape(**json.loads(files[SHAPE_FILE])), 0)
    network.load_state_dict(load(files[WEIGHTS_FILE]))
    network.eval()
    return network
