"""Windows of made series, as the data service makes them."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

SEASON, HORIZON = 12, 4


def waves(count: int = 400, *, longest: int = 24, shortest: int = 24, noise: float = 0.5) -> pa.Table:
    """Return windows of a noisy wave and a channel beside it, with the wave's next steps."""
    draw = np.random.default_rng(0)
    times = np.arange(count + longest + HORIZON)
    wave = 10.0 + 5.0 * np.sin(2 * np.pi * times / SEASON) + draw.normal(0.0, noise, len(times))
    beside = draw.normal(100.0, 30.0, len(times))
    ends = range(shortest - 1, len(times) - HORIZON)
    parts = [slice(max(0, end - longest + 1), end + 1) for end in ends]
    return pa.table(
        {
            "time": pa.array(times[shortest - 1 : len(times) - HORIZON]),
            "wave": [wave[part].tolist() for part in parts],
            "beside": [beside[part].tolist() for part in parts],
            "wave_next": [wave[end + 1 : end + 1 + HORIZON].tolist() for end in ends],
        }
    )


def shops(noises: Mapping[str, float], count: int = 200) -> pa.Table:
    """Return windows of a noisy wave a shop, one shop after another, as the data service makes them."""
    parts = [
        waves(count, noise=noise).select(["time", "wave", "wave_next"]).add_column(0, "shop", [[shop] * (count + 1)])
        for shop, noise in noises.items()
    ]
    return pa.concat_tables(parts)


def rising_or_falling(count: int = 300) -> pa.Table:
    """Return series of different lengths that drift up or down, with which of them each does."""
    draw = np.random.default_rng(1)
    drifts = draw.choice([-1.0, 1.0], count)
    sizes = draw.integers(5, 30, count)
    series = [
        np.cumsum(draw.normal(0.4 * drift, 1.0, size)).tolist() for drift, size in zip(drifts, sizes, strict=True)
    ]
    return pa.table({"walk": series, "drift": ["up" if drift > 0 else "down" for drift in drifts]})
