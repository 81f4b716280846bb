"""Requests made up from what a graph says: sizes bound by names, and small values."""

import numpy as np

from servicekit.sample_tensors import SampleInput, batch_dimension, has_rows, samples, with_rows


def _first(*inputs: SampleInput, rows: int = 1) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in next(samples(inputs, rows)).items()}


def test_dimensions_of_one_name_have_one_size_and_the_batch_may_be_in_any_place() -> None:
    inputs = (
        SampleInput("input", "FP32", ("batch", "samples")),
        SampleInput("state", "FP32", (2, "batch", 128)),
        SampleInput("sr", "INT64", ()),
    )
    assert batch_dimension(inputs) == "batch"
    for sample in samples(inputs):
        assert sample["state"].shape == (2, sample["input"].shape[0], 128)
        assert sample["sr"].shape == ()
    assert _first(*inputs, rows=3)["state"] == (2, 3, 128)
    more = with_rows(next(samples(inputs)), inputs, 3)
    assert {name: array.shape for name, array in more.items()} == {"input": (3, 8), "state": (2, 3, 128), "sr": ()}


def test_batch_is_the_first_dimension_of_most_inputs_unless_another_is_called_so() -> None:
    assert batch_dimension([SampleInput("a", "FP32", ("T", "N", 4)), SampleInput("b", "FP32", ("T", "N"))]) == "N"
    inputs = [SampleInput("a", "FP32", ("k", 2)), SampleInput("b", "FP32", ("k", 2)), SampleInput("c", "FP32", ("j",))]
    assert batch_dimension(inputs) == "k"
    assert batch_dimension([SampleInput("a", "FP32", (None, 2))]) == ""
    assert has_rows([SampleInput("a", "FP32", (None, 2))])
    assert not has_rows([SampleInput("a", "FP32", (1, 2)), SampleInput("b", "INT64", ())])


def test_sequences_and_images_get_usual_sizes() -> None:
    assert _first(SampleInput("ids", "INT64", ("batch", "sequence"))) == {"ids": (1, 8)}
    assert _first(SampleInput("image", "FP32", (None, 3, None, None))) == {"image": (1, 3, 64, 64)}
    assert _first(SampleInput("image", "FP32", ("N", 3, "height", "width"))) == {"image": (1, 3, 64, 64)}
    assert _first(SampleInput("x", "FP32", ("N", 10))) == {"x": (1, 10)}


def test_integers_are_small_and_texts_known() -> None:
    tried = list(samples([SampleInput("i", "INT32", ("N",)), SampleInput("t", "BYTES", ("N", 1), "car")]))
    assert [sample["i"].tolist() for sample in tried] == [[1], [0]]
    assert tried[0]["t"].tolist() == [["car"]]
    (mask,) = next(samples([SampleInput("m", "BOOL", ("N",))])).values()
    assert mask.dtype == np.bool_
    assert mask.tolist() == [True]


def test_tries_are_few_and_differ() -> None:
    inputs = [SampleInput("ids", "INT64", ("batch", "sequence")), SampleInput("mask", "INT64", ("batch", "sequence"))]
    tried = [{name: (array.shape, array.tolist()) for name, array in sample.items()} for sample in samples(inputs)]
    assert 1 < len(tried) <= 10
    assert all(left != right for place, left in enumerate(tried) for right in tried[:place])


def test_unknown_rank_and_zero_sizes_are_sampled() -> None:
    assert _first(SampleInput("x", "FP32", None)) == {"x": (1, 1)}
    assert _first(SampleInput("x", "FP32", (0, 3))) == {"x": (0, 3)}
    # A size that no machine holds is not tried.
    assert list(samples([SampleInput("x", "FP32", (1 << 20, 1 << 20))])) == []
