"""Graphs whose rows are independent, and graphs whose rows are not, in ONNX's text form."""

import numpy as np
import onnxruntime as ort

from services.inference.serving.model import Array
from tests.inference.graph_texts import graph_of

Feeds = dict[str, Array]

INDEPENDENT = {
    "relu and a tiny number": "g (float[N,2] x) => (float[N,2] y) <float e = {1e-7}> { r = Relu(x) y = Add(r, e) }",
    "linear": """g (float[N,3] x) => (float[N,2] y) <float[3,2] w = {1,2,3,4,5,6}, float[2] b = {1,2}> {
        p = MatMul(x, w) y = Add(p, b) }""",
    "gemm with a transposed weight": """g (float[N,3] x) => (float[N,2] y) <float[2,3] w = {1,2,3,4,5,6}> {
        y = Gemm<transB=1>(x, w) }""",
    "softmax over columns": "g (float[N,4] x) => (float[N,4] y) { y = Softmax<axis=-1>(x) }",
    "logits and labels": """g (float[N,3] x) => (float[N,3] y, int64[N] c) {
        y = LogSoftmax<axis=1>(x) c = ArgMax<axis=1, keepdims=0>(y) }""",
    "masked softmax": "g (float[N,3] x, float[N,3] m) => (float[N,3] y) { z = Add(x, m) y = Softmax<axis=-1>(z) }",
    "norm of each row": """g (float[N,T,3] x) => (float[N,T,3] y) {
        n = ReduceL2<keepdims=1, axes=[2]>(x) y = Div(x, n) }""",
    "flattened and back": """g (float[N,T,4] x) => (float[N,T,3] y)
        <int64[2] f = {-1,4}, float[4,3] w = {1,2,3,4,5,6,7,8,9,1,2,3},
         int64[1] i = {0}, int64[1] j = {1}, int64[1] k = {3}> {
        flat = Reshape(x, f) p = MatMul(flat, w) s = Shape(x) n = Gather(s, i) t = Gather(s, j)
        to = Concat<axis=0>(n, t, k) y = Reshape(p, to) }""",
    "attention": """g (float[N,T,4] x, int64[N,T] m) => (float[N,T,4] y)
        <int64[4] h = {0,0,2,2}, int64[3] o = {0,0,4}, float q = {0.7}, int64[2] a = {1,2},
         float far = {-10000}, float one = {1}> {
        r = Reshape(x, h) t = Transpose<perm=[0,2,1,3]>(r) u = Transpose<perm=[0,2,3,1]>(r) s = MatMul(t, u)
        f = Cast<to=1>(m) g0 = Unsqueeze(f, a) v = Sub(one, g0) w = Mul(v, far) z = Mul(s, q) b = Add(z, w)
        p = Softmax<axis=-1>(b) c = MatMul(p, t) d = Transpose<perm=[0,2,1,3]>(c) y = Reshape(d, o) }""",
    "batch in another place and back": """g (float[N,T,2] x) => (float[N,T,2] y) {
        t = Transpose<perm=[1,0,2]>(x) e = Exp(t) y = Transpose<perm=[1,0,2]>(e) }""",
    "convolution": """g (float[N,1,6,6] x) => (float[N,M] y)
        <float[2,1,3,3] w = {1,2,3,4,5,6,7,8,9,9,8,7,6,5,4,3,2,1}> {
        c = Conv<kernel_shape=[3,3]>(x, w) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c) y = Flatten(p) }""",
    "mask looked up by the place of a row": """g (int64[N,T] m) => (bool[N,T] y)
        <int64 z = {0}, int64 o = {1}, int64[1] e1 = {1}, int64[1] e2 = {2}, int64[1] e0 = {0}> {
        b = Cast<to=9>(m) s = Shape(m) n = Gather(s, z) t = Gather(s, o) r = Range(z, n, o) k = Range(z, t, o)
        f = Flatten<axis=2>(b) q = Unsqueeze(r, e1) w = Mul(q, t) v = Unsqueeze(k, e0) a = Add(v, w)
        y = Gather<axis=0>(f, a) }""",
    "texts": """g (string[N,1] x) => (float[N,1] y) {
        y = ai.onnx.ml.LabelEncoder<keys_strings=["a","b"], values_floats=[1.0,2.0], default_float=0.0>(x) }""",
    "scaled table": """g (float[N,2] x) => (float[N,2] y) {
        y = ai.onnx.ml.Scaler<offset=[1.0,2.0], scale=[2.0,3.0]>(x) }""",
    "class token": """g (float[N,T,2] x) => (float[N,2] y)
        <float[1,1,2] c = {5,6}, int64[1] z = {0}, int64[1] o = {1}, int64[1] w = {2}, int64 first = {0}> {
        s = Shape(x) n = Gather(s, z) e = Concat<axis=0>(n, o, w) k = Expand(c, e) j = Concat<axis=1>(k, x)
        u = Constant<value_int=1>() m = CumSum(j, u) y = Gather<axis=1>(m, first) }""",
    "fixed quantisation": """g (float[N,3] x) => (float[N,3] y) <float s = {0.1}, uint8 z = {128}> {
        q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }""",
    "long short-term memory": """g (float[N,T,1] x) => (float[N,1] y)
        <float[1,4,1] w = {1,2,3,4}, float[1,4,1] r = {1,1,1,1}, int64[1] a = {0}> {
        t = Transpose<perm=[1,0,2]>(x) s, h = LSTM<hidden_size=1>(t, w, r) y = Squeeze(h, a) }""",
}

# With words of the reason.
MIXED = {
    "list-wise": ("g (float[candidates,1] x) => (float[candidates,1] y) { y = Softmax<axis=0>(x) }", "batch axis"),
    "softmax of an old opset": ("g (float[N,2] x) => (float[N,2] y) { y = Softmax<axis=0>(x) }", "batch axis"),
    "small mean": (
        """g (float[rows,1] x) => (float[rows,1] y) <float k = {0.001}> {
            m = ReduceMean<axes=[0]>(x) d = Sub(x, m) e = Mul(d, k) y = Add(x, e) }""",
        "reduces the batch",
    ),
    "first row": (
        """g (float[N,2] x) => (float[N,2] y) <int64 z = {0}> { f = Gather<axis=0>(x, z) y = Mul(x, f) }""",
        "picks rows",
    ),
    "norm over rows": ("g (float[N,2] x) => (float[N,2] y) { y = LpNormalization<axis=0>(x) }", "batch axis"),
    "flattened tokens": (
        "g (float[N,T,4] x) => (float[M,4] y) <int64[2] s = {-1,4}> { y = Reshape(x, s) }",
        "does not have one row",
    ),
    "rows put together": (
        "g (float[N,2] x) => (float[N,2] y) <int64[2] s = {-1,4}, int64[2] b = {-1,2}> "
        "{ r = Reshape(x, s) f = Softmax<axis=-1>(r) y = Reshape(f, b) }",
        "several rows together",
    ),
    "attention over rows": (
        """g (float[N,2] x) => (float[N,2] y) {
            t = Transpose(x) s = MatMul(x, t) p = Softmax<axis=-1>(s) y = MatMul(p, x) }""",
        "each row meets every other",
    ),
    "attention with rows and steps exchanged": (
        """g (float[N,T,2] x) => (float[N,T,2] y) {
            t = Transpose<perm=[1,0,2]>(x) u = Transpose<perm=[1,2,0]>(x) s = MatMul(t, u) p = Softmax<axis=-1>(s)
            o = MatMul(p, t) y = Transpose<perm=[1,0,2]>(o) }""",
        "each row meets every other",
    ),
    "one scale for all": (
        """g (float[N,2] x) => (float[N,2] y) {
            q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z) }""",
        "one scale",
    ),
    "divided by the number of rows": (
        """g (float[N,2] x) => (float[N,2] y) <int64 z = {0}> {
            s = Shape(x) n = Gather(s, z) f = Cast<to=1>(n) y = Div(x, f) }""",
        "number of rows",
    ),
    "place of the row": (
        """g (float[N,1] x) => (float[N,1] y) <int64 z = {0}, int64 o = {1}, int64[1] a = {1}> {
            s = Shape(x) n = Gather(s, z) r = Range(z, n, o) f = Cast<to=1>(r) u = Unsqueeze(f, a) y = Add(x, u) }""",
        "places of rows",
    ),
    "places of rows in columns": (
        """g (int64[N,1] x) => (float[N,2] y) <int64 z = {0}, int64 o = {1}, int64[1] a = {1}> {
            s = Shape(x) n = Gather(s, z) r = Range(z, n, o) u = Unsqueeze(r, a) j = Concat<axis=1>(u, x)
            y = Cast<to=1>(j) }""",
        "places of rows",
    ),
    "places of rows in a branch": (
        """g (int64[N] x) => (int64[N] y) <int64 z = {0}, int64 o = {1}, bool c = {1}> {
            s = Shape(x) n = Gather(s, z) r = Range(z, n, o)
            y = If (c) <then_branch = a () => (int64[N] p) { p = Identity(x) },
                        else_branch = b () => (int64[N] q) { q = Identity(r) }> }""",
        "places of rows",
    ),
    "another row looked up": (
        """g (int64[N,T] m) => (int64[N,T] y)
        <int64 z = {0}, int64 o = {1}, int64[1] e1 = {1}, int64[1] e0 = {0}, int64 two = {2}> {
        s = Shape(m) n = Gather(s, z) t = Gather(s, o) r = Range(z, n, o) k = Range(z, t, o)
        f = Flatten<axis=2>(m) q = Unsqueeze(r, e1) w = Mul(q, two) v = Unsqueeze(k, e0) a = Add(v, w)
        y = Gather<axis=0>(f, a) }""",
        "places of rows",
    ),
    "sorted rows": (
        "g (float[N,1] x) => (float[N,1] y) <int64[1] z = {0}, int64[1] o = {1}> "
        "{ s = Shape<start=0, end=1>(x) y, i = TopK<axis=0>(x, s) }",
        "",
    ),
    "running sum": (
        "g (float[N,1] x) => (float[N,1] y) <int64 z = {0}> { y = CumSum(x, z) }",
        "adds up along the batch axis",
    ),
    "turned round": (
        """g (float[N,1] x) => (float[N,1] y)
            <int64[1] e = {-9223372036854775807}, int64[1] s = {-1}, int64[1] z = {0}> { y = Slice(x, s, e, z, s) }""",
        "part of the batch axis",
    ),
    "crossed inputs": (
        "g (float[N,2] a, float[N,2] b) => (float[N,N] y) { t = Transpose(b) y = MatMul(a, t) }",
        "every other",
    ),
    "broadcast against its own columns": (
        "g (float[N,3] x) => (float[N,3] y) <float[3,1] w = {1,2,3}> { y = Add(x, w) }",
        "not the batch",
    ),
    "one row of columns": (
        "g (float[N] x) => (float[N] y) { y = ai.onnx.ml.Normalizer<norm=\"L2\">(x) }",
        "single row",
    ),
    "an operator that is not in the table": (
        "g (float[N,2,2] x) => (float[N] y) { y = Det(x) }",
        "not in the table",
    ),
    "condition of the rows": (
        """g (float[N,1] x) => (float[N,1] y) <float z = {0}> {
            s = ReduceMax<keepdims=0>(x) c = Greater(s, z)
            y = If (c) <then_branch = a () => (float[N,1] p) { p = Neg(x) },
                        else_branch = b () => (float[N,1] q) { q = Identity(x) }> }""",
        "reduces the batch",
    ),
    "squeezed": ("g (float[N,1,2] x) => (float[N,2] y) { y = Squeeze(x) }", "number of rows"),
    "normalised as in training": (
        """g (float[N,2] x) => (float[N,2] y)
            <float[2] s = {1,1}, float[2] b = {0,0}, float[2] m = {0,0}, float[2] v = {1,1}> {
            y, n, w = BatchNormalization<training_mode=1>(x, s, b, m, v) }""",
        "mean over the batch",
    ),
    "random": ("g (float[N,2] x) => (float[N,2] y) { r = RandomNormalLike(x) y = Add(x, r) }", "not in the table"),
    "shape told": (
        "g (float[N,2] x) => (float[N,2] y, int64[2] n) { y = Neg(x) n = Shape(x) }",
        "does not have one row",
    ),
    "constant beside": (
        "g (float[N,2] x) => (float[N,2] y, float[2] k) <float[2] w = {1,2}> { y = Neg(x) k = Identity(w) }",
        "does not have one row",
    ),
    "unique": ("g (float[N] x) => (float[M] y) { y = Unique(x) }", "not in the table"),
    "pooled places": (
        """g (float[N,1,4,4] x) => (float[N,1,2,2] y, int64[N,1,2,2] i) {
            y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }""",
        "places counted over all rows",
    ),
    "steps for rows": (
        """g (float[N,T,1] x) => (float[N,T,1] y)
            <float[1,4,1] w = {1,2,3,4}, float[1,4,1] r = {1,1,1,1}, int64[1] a = {1}> {
            s, h = LSTM<hidden_size=1>(x, w, r) y = Squeeze(s, a) }""",
        "other axes",
    ),
}  # fmt: skip
OPSETS = {"softmax of an old opset": 11, "small mean": 13, "norm of each row": 13}


def session_of(content: bytes) -> ort.InferenceSession:
    """Return a session of a model that logs nothing: some rows do not fit their graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def compare_with_lone_rows(session: ort.InferenceSession, parts: list[Feeds], tolerance: float = 1e-4) -> str:
    """Return how answers in a crowd differ from lone answers; empty where they do not.

    Args:
        session: of a model.
        parts: requests that share a run.
        tolerance: of floats, relative to the largest of an answer.
    """
    alone = [session.run(None, part) for part in parts]
    together = session.run(None, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    for place, whole in enumerate(together):
        start = 0
        for part, own in zip(parts, alone, strict=True):
            end = start + len(next(iter(part.values())))
            if not same(whole[start:end], own[place], tolerance):
                return f"output {place}: {whole[start:end]} in a crowd, {own[place]} alone"
            start = end
    return ""


def same(found: Array, expected: Array, tolerance: float = 1e-4) -> bool:
    """Return whether two answers are equal, but for rounding."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if found.dtype.kind != "f":
        return bool(np.array_equal(found, expected))
    scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    return bool(np.allclose(found, expected, rtol=0.0, atol=tolerance * scale, equal_nan=True))


def rows_of(session: ort.InferenceSession, random: np.random.Generator, rows: int, steps: int = 5) -> Feeds:
    """Return random rows for a model's inputs; dimensions that vary have so many steps."""
    found: Feeds = {}
    for item in session.get_inputs():
        shape = (rows, *(size if isinstance(size, int) else steps for size in item.shape[1:]))
        if item.type == "tensor(string)":
            found[item.name] = random.choice(np.array(["a", "b", "", "c"], dtype=object), shape)
        elif item.type == "tensor(int64)":
            found[item.name] = random.integers(0, 2, shape)
        else:
            found[item.name] = (random.normal(size=shape) * 10.0 ** random.integers(-2, 3)).astype(np.float32)
    return found


def graph(name: str) -> bytes:
    """Return a graph of the zoo."""
    text = INDEPENDENT[name] if name in INDEPENDENT else MIXED[name][0]
    return graph_of(text, OPSETS.get(name, 17))
