"""Rules of ONNX's operators of tables: trees, linear models, scalers."""

from services.inference.independence.nodes import ML, Node, rule
from services.inference.independence.reductions import data_only
from services.inference.independence.values import Dim, Mixed, Value, fresh, product


def _rows(node: Node) -> Dim:
    """Return the dimension of the rows of a matrix of columns.

    Raises:
        Mixed: it is none: what has one axis is one row of columns.
    """
    size = node.need_rows_first(0)
    if node.input(0).rank != 2:
        raise Mixed("it takes its input for a single row")
    return size


@rule("TreeEnsembleRegressor", "LinearRegressor", "SVMRegressor", "TreeEnsemble", domain=ML)
def regressor(node: Node) -> list[Value]:
    """Give values for each row."""
    return [Value((_rows(node), fresh()), 0)]


@rule("TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier", domain=ML)
def classifier(node: Node) -> list[Value]:
    """Give a label and scores for each row."""
    size = _rows(node)
    return [Value((size,), 0), Value((size, fresh()), 0)]


@rule("Normalizer", "Scaler", "Imputer", domain=ML)
def scaled(node: Node) -> list[Value]:
    """Give each row's columns scaled, or filled up."""
    _rows(node)
    return [data_only(node.input(0))]


@rule("ArrayFeatureExtractor", domain=ML)
def columns(node: Node) -> list[Value]:
    """Pick columns."""
    node.need_constant(1)
    size = _rows(node)
    places = node.input(1)
    return [Value((size, product(places.dims) if places.dims is not None else fresh()), 0)]


@rule("FeatureVectorizer", domain=ML)
def joined(node: Node) -> list[Value]:
    """Join columns."""
    size = node.need_rows_first(*range(len(node.inputs)))
    if any(value.rank != 2 for value in node.given()):
        raise Mixed("it takes its input for a single row")
    return [Value((size, fresh()), 0)]


@rule("OneHotEncoder", domain=ML)
def encoded(node: Node) -> list[Value]:
    """Append an axis that is one at the place of each element's category."""
    data = node.input(0)
    assert data.dims is not None
    count = len(node.attributes.get("cats_int64s") or node.attributes.get("cats_strings") or ())
    return [Value((*data.dims, Dim(count) if count else fresh()), data.batch)]


@rule("ZipMap", domain=ML)
def zipped(node: Node) -> list[Value]:
    """Make a map of each row's scores."""
    return [Value((_rows(node),), 0)]


@rule("TfIdfVectorizer")
def counted(node: Node) -> list[Value]:
    """Count each row's patterns."""
    return [Value((_rows(node), fresh()), 0)]
