"""Rules of operators that give each element by itself, or by elements at the same place."""

from services.inference.independence.nodes import MICROSOFT, ML, Node, rule
from services.inference.independence.values import Mixed, Value, broadcast

_UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid "
    "HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh "
    "Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu RegexFullMatch"
)
_NARY = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Clip Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean "
    "Min Mod Mul Or PRelu Pow StringConcat Sub Sum Where Xor"
)


@rule(*_UNARY.split())
@rule("FastGelu", "BiasGelu", "Gelu", "QuickGelu", "BiasAdd", domain=MICROSOFT)
@rule(*_NARY.split())
def elementwise(node: Node) -> list[Value]:
    """Give each element by itself."""
    return [broadcast(node.given())]


@rule("Binarizer", "LabelEncoder", "CategoryMapper", domain=ML)
def mapped(node: Node) -> list[Value]:
    """Give each element by itself, with parameters that are attributes."""
    return [broadcast([node.input(0)])]


@rule("CastLike")
def cast_like(node: Node) -> list[Value]:
    """Give each element by itself; of the second input only its type counts."""
    return [broadcast([node.input(0)])]


@rule("Dropout")
def dropout(node: Node) -> list[Value]:
    """Give the input unchanged, and a mask."""
    training = node.optional(2)
    if training is not None and (training.array is None or training.array.any()):
        raise Mixed("it may draw at random")
    return [broadcast([node.input(0)])] * 2


@rule("QuantizeLinear", "DequantizeLinear")
@rule("QuantizeLinear", "DequantizeLinear", domain=MICROSOFT)
def quantize(node: Node) -> list[Value]:
    """Scale each element by a fixed scale, of the tensor or of an axis that is not the batch."""
    node.need_constant(1, 2)
    data, scale = node.input(0), node.input(1)
    if data.batch is not None:
        is_whole = scale.rank == 0 or (scale.rank == 1 and scale.dims is not None and scale.dims[0].is_one)
        axis = data.axis(int(node.attributes.get("axis", 1))) if not is_whole else -1
        if axis == data.batch or (scale.rank > 1):
            raise Mixed("it has a scale a row")
    return [broadcast([data])]


@rule("DynamicQuantizeLinear")
@rule("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic(node: Node) -> list[Value]:
    """Refuse a scale that is found on the whole run."""
    raise Mixed("one scale is found for all rows of a run")


@rule("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def quantized_binary(node: Node) -> list[Value]:
    """Combine two quantised tensors, each with a fixed scale and zero point."""
    node.need_constant(1, 2, 4, 5, 6, 7)
    return [broadcast([node.input(0), node.input(3)])]


@rule("QLinearSigmoid", "QLinearLeakyRelu", domain=MICROSOFT)
def quantized_unary(node: Node) -> list[Value]:
    """Give each quantised element by itself."""
    node.need_constant(1, 2, 3, 4)
    return [broadcast([node.input(0)])]
