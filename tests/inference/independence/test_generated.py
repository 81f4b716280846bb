"""Generated graphs: whenever the analysis shows rows to be independent, running them together agrees.

A graph is a chain of random operators on a tensor of rows, many of them careless of the batch axis. The same holds for
every operator of ONNX's own backend tests.
"""

import warnings
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from services.inference.independence import analyse, read_model
from tests.inference.graph_texts import graph_of
from tests.inference.independence.zoo import compare_with_lone_rows, rows_of, same, session_of

# Each takes t{i} and gives t{i+1}. On the left how the rank changes.
_STEPS: tuple[tuple[int, str], ...] = (
    (0, "{o} = Relu({i})"),
    (0, "{o} = Tanh({i})"),
    (0, "{o} = Softmax<axis={axis}>({i})"),
    (0, "{o} = LpNormalization<axis={axis}>({i})"),
    (0, "{o}s = ReduceMean<axes=[{axis}], keepdims=1>({i}) {o} = Sub({i}, {o}s)"),
    (0, "{o}s = ReduceMax<axes=[{axis}], keepdims=1>({i}) {o} = Add({i}, {o}s)"),
    (0, "{o}c = Constant<value_int={axis}>() {o} = CumSum({i}, {o}c)"),
    (0, "{o} = Concat<axis={axis}>({i}, {i})"),
    (0, "{o}t = Transpose<perm={swapped}>({i}) {o}r = Neg({o}t) {o} = Transpose<perm={swapped}>({o}r)"),
    (0, "{o} = Transpose<perm={swapped}>({i})"),
    (0, "{o}t = Transpose<perm={last}>({i}) {o}m = MatMul({i}, {o}t) {o} = MatMul({o}m, {i})"),
    (0, "{o}c = Constant<value_ints={shape}>() {o} = Reshape({i}, {o}c)"),
    (0, "{o}a = Constant<value_ints=[{axis}]>() {o}v, {o}p = TopK<axis={axis}>({i}, {o}a) {o} = Identity({o}v)"),
    (0, "{o}b = Constant<value_int=0>() {o}g = Gather<axis={axis}>({i}, {o}b) "
        "{o}u = Constant<value_ints=[{axis}]>() {o}h = Unsqueeze({o}g, {o}u) {o} = Mul({i}, {o}h)"),
    (0, "{o}s = Shape({i}) {o}f = Cast<to=1>({o}s) {o}d = ReduceSum<keepdims=0>({o}f) {o} = Div({i}, {o}d)"),
    (0, "{o}s = Shape({i}) {o}z = ConstantOfShape({o}s) {o} = Add({i}, {o}z)"),
    (0, "{o}q, {o}s, {o}p = DynamicQuantizeLinear({i}) {o} = DequantizeLinear({o}q, {o}s, {o}p)"),
    (0, "{o}s = Shape({i}) {o}c = Constant<value_ints={flat}>() {o}r = Reshape({i}, {o}c) "
        "{o}w = Softmax<axis=-1>({o}r) {o} = Reshape({o}w, {o}s)"),
)  # fmt: skip


def generated(random: np.random.Generator) -> str:
    """Return a graph in ONNX's text form."""
    rank = int(random.integers(2, 4))
    shape = ["N", "T", "4"] if rank == 3 else ["N", "4"]
    lines = ["t0 = Identity(x)"]
    for place in range(int(random.integers(1, 5))):
        _, step = _STEPS[random.integers(len(_STEPS))]
        order = list(range(rank))
        one, other = random.choice(rank, 2, replace=False)
        order[one], order[other] = order[other], order[one]
        last = [*range(rank - 2), rank - 1, rank - 2]
        targets = [[0, -1], [-1, 4], [0, 0], [2, -1]] if rank == 2 else [[0, -1, 4], [-1, 0, 4], [0, 0, -1], [4, -1, 2]]
        line = step.format(
            i=f"t{place}",
            o=f"t{place + 1}",
            axis=int(random.integers(rank)),
            swapped=order,
            last=last,
            shape=targets[random.integers(len(targets))],
            flat=[[-1, 4], [0, -1], [-1, 8], [4, -1]][random.integers(4)],
        )
        lines.append(line)
    lines.append(f"y = Identity(t{len(lines) - 1})")
    return f"g (float[{','.join(shape)}] x) => (float[{','.join('ABC'[: len(shape)])}] y) {{ {' '.join(lines)} }}"


def test_no_generated_graph_that_is_shown_to_be_independent_mixes_rows() -> None:
    random, seen = np.random.default_rng(7), Counter[bool]()
    for _ in range(400):
        text = generated(random)
        content = graph_of(text, 13)
        if not analyse(read_model(content)).is_independent:
            seen[False] += 1
            continue
        session = session_of(content)
        for counts in ((1, 1), (3, 1, 2)):
            try:
                parts = [rows_of(session, random, count, steps=3) for count in counts]
                found = compare_with_lone_rows(session, parts)
            except ort.capi.onnxruntime_pybind11_state.RuntimeException:
                # A shape that does not fit its rows is an error, alone or together.
                continue
            assert found == "", text
            seen[True] += 1
    assert seen[True] > 50 and seen[False] > 50


@pytest.mark.slow
def test_every_operator_of_onnx_that_is_shown_to_be_independent_is() -> None:
    import onnx.backend.test.case.node as cases

    random, seen = np.random.default_rng(0), Counter[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = cases.collect_testcases(None)
    for case in found:
        data = [np.asarray(item) for item in case.data_sets[0][0] if isinstance(item, np.ndarray | np.generic)]
        names = {tensor.name for tensor in case.model.graph.initializer}
        inputs = [item for item in case.model.graph.input if item.name not in names]
        if len(data) != len(inputs):
            continue
        for rows in ({*range(len(inputs))}, *({place} for place in range(len(inputs)))):
            model = _with_rows(case.model, inputs, data, rows)
            if model is not None and analyse(model).is_independent:
                seen[_differs(model, {inputs[place].name: data[place] for place in rows}, random)] += 1
    assert set(seen) == {"", "not run"}
    assert seen[""] > 1000


def _with_rows(model: onnx.ModelProto, inputs: list[Any], data: list[Any], rows: set[int]) -> onnx.ModelProto | None:
    """Return a model whose chosen inputs have a batch, and whose other inputs are constants."""
    if not rows or any(not data[place].shape or not data[place].shape[0] for place in rows):
        return None
    found = onnx.ModelProto()
    found.CopyFrom(model)
    del found.graph.input[:]
    for place, item in enumerate(inputs):
        if place in rows:
            if not item.type.tensor_type.shape.dim:
                return None
            found.graph.input.append(item)
            found.graph.input[-1].type.tensor_type.shape.dim[0].dim_param = "N"
        else:
            found.graph.initializer.append(numpy_helper.from_array(data[place], item.name))
    for output in found.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    return found


def _differs(model: onnx.ModelProto, data: dict[str, Any], random: np.random.Generator) -> str:
    try:
        session = session_of(model.SerializeToString())
    except Exception:
        return "not run"
    state = "not run"
    for counts in ((1, 1), (2, 1), (1, 3, 2)):
        parts = [{name: _some(array, count, random) for name, array in data.items()} for count in counts]
        try:
            alone = [session.run(None, part) for part in parts]
            together = session.run(None, {name: np.concatenate([part[name] for part in parts]) for name in data})
        except Exception:
            continue
        state, start = "", 0
        for count, own in zip(counts, alone, strict=True):
            for whole, one in zip(together, own, strict=True):
                if isinstance(whole, np.ndarray) and not same(whole[start : start + count], one):
                    return f"{model.graph.node[0].op_type} mixes rows"
            start += count
    return state


def _some(array: Any, count: int, random: np.random.Generator) -> Any:
    """Return random rows of an array, their values moved about."""
    found = array[random.integers(0, len(array), count)].copy()
    flat = found.reshape(count, -1)
    for row in flat:
        if array.dtype.kind not in "OUS":
            row[:] = random.permutation(row)
    if array.dtype.kind == "f":
        flat *= random.uniform(0.1, 3.0, (count, 1)).astype(array.dtype)
    return found
