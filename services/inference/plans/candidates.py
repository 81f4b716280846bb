"""Which plans are worth trying for a graph on some hardware."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.inference.domain.tuning import TuningMode

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"

_TOO_FEW_ROWS = "not tried: there are too few rows of evaluation data to judge its quality on"
_LOSSLESS_ONLY = "not tried: only lossless plans are wished"
_TREES = frozenset(("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"))

# Rows that quality is judged on, at least: on fewer, half a point is less than one row.
LEAST_ROWS = 100


@dataclass(frozen=True)
class GraphFacts:
    """What a graph is made of.

    Args:
        operators: how often each occurs, subgraphs included.
        constant_products: matrix products and convolutions whose weights are constants.
    """

    operators: Mapping[str, int]
    constant_products: int

    @property
    def has_convolutions(self) -> bool:
        """Whether it convolves."""
        return bool(self.operators.get("Conv"))

    @property
    def is_transformer(self) -> bool:
        """Whether attention is in it: a softmax between two products, and layer normalisation around."""
        has_norm = self.operators.get("LayerNormalization") or self.operators.get("SkipLayerNormalization")
        if self.operators.get("Attention") or self.operators.get("MultiHeadAttention"):
            return True
        # Older exports spell the normalisation out: mean, power, square root.
        spelled = self.operators.get("ReduceMean") and self.operators.get("Sqrt")
        products = self.operators.get("MatMul", 0) + self.operators.get("Einsum", 0)
        return bool(self.operators.get("Softmax") and products > 1 and (has_norm or spelled))

    @property
    def is_quantized(self) -> bool:
        """Whether it computes in whole numbers already."""
        return any(name in self.operators for name in ("QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"))

    @property
    def is_trees(self) -> bool:
        """Whether it is an ensemble of trees."""
        return bool(_TREES & set(self.operators))


@dataclass(frozen=True)
class Hardware:
    """What plans are measured on.

    Args:
        processor: its model's name.
        cores: logical ones.
        has_vnni: whether it multiplies bytes into 32-bit sums in one instruction, without saturation on the way.
        runtime: ONNX Runtime's version.
        provider: the execution provider that the plain plan took.
        threads: of the worker's setting.
    """

    processor: str
    cores: int
    has_vnni: bool
    runtime: str
    provider: str
    threads: int

    @property
    def key(self) -> str:
        """Names it: a plan chosen under one name holds under no other."""
        parts = (self.processor, f"{self.cores} cores", f"{self.threads} a run", f"ONNX Runtime {self.runtime}")
        return ", ".join((*parts, self.provider))[:255]


@dataclass(frozen=True)
class Candidate:
    """A way to execute a graph; the plain one executes it as it was registered.

    Args:
        name: stable; stored.
        precision: as registered, int8 or fp16.
        is_fused: whether ONNX Runtime's optimiser for transformers rewrites it first.
        quantization: empty, dynamic or static.
        reduces_range: whether weights take 7 bits, so that sums of 16 bits do not saturate.
        optimization: ONNX Runtime's level: all or extended.
        provider: the execution provider to ask for; empty for the plain plan's.
        captures: whether runs of a shape that came before are replayed as one CUDA graph.
    """

    name: str
    precision: str = "as registered"
    is_fused: bool = False
    quantization: str = ""
    reduces_range: bool = False
    optimization: str = "all"
    provider: str = ""
    captures: bool = False

    @property
    def is_lossless(self) -> bool:
        """Whether the outputs stay as they are, but for rounding."""
        return self.precision == "as registered"

    @property
    def changes_graph(self) -> bool:
        """Whether it runs another graph than the registered one."""
        return self.is_fused or not self.is_lossless


PLAIN = Candidate("plain")
# From simple to complex: where two are as fast, the former is taken.
_ALL = (
    PLAIN,
    Candidate("extended", optimization="extended"),
    Candidate("fused", is_fused=True),
    Candidate("cuda_graph", captures=True),
    Candidate("tensorrt", provider=_TENSORRT),
    Candidate("fp16", "fp16"),
    Candidate("fp16_cuda_graph", "fp16", captures=True),
    Candidate("fused_fp16", "fp16", is_fused=True),
    Candidate("tensorrt_fp16", "fp16", provider=_TENSORRT),
    Candidate("int8_dynamic", "int8", quantization="dynamic"),
    Candidate("int8_dynamic_reduced", "int8", quantization="dynamic", reduces_range=True),
    Candidate("fused_int8_dynamic", "int8", is_fused=True, quantization="dynamic"),
    Candidate("int8_static", "int8", quantization="static"),
    Candidate("int8_static_reduced", "int8", quantization="static", reduces_range=True),
)
_BY_NAME = {candidate.name: candidate for candidate in _ALL}


def find_candidate(name: str) -> Candidate | None:
    """Return the candidate of a name; None for one that this version of Lepton does not know."""
    return _BY_NAME.get(name)


def simplicity(candidate: Candidate) -> int:
    """Return where a candidate stands between simple and complex; 0 for the plain one."""
    return _ALL.index(candidate)


def why_not(candidate: Candidate, facts: GraphFacts, hardware: Hardware, mode: TuningMode, rows: int) -> str | None:
    """Return why a candidate is not worth trying; None where it is, an empty text where it has nothing to do with it.

    Args:
        candidate: which one.
        facts: of the graph.
        hardware: that it would run on.
        mode: what is wished.
        rows: of evaluation data.
    """
    if not _suits_hardware(candidate, hardware) or not _suits_graph(candidate, facts):
        return ""
    if candidate.quantization and facts.is_quantized:
        return "not tried: the graph is quantised already"
    if candidate.is_lossless:
        return None
    if mode is not TuningMode.WITHIN_LOSS:
        return _LOSSLESS_ONLY
    return _TOO_FEW_ROWS if rows < LEAST_ROWS else None


def worth_trying(
    facts: GraphFacts, hardware: Hardware, mode: TuningMode, rows: int
) -> tuple[list[Candidate], dict[str, str]]:
    """Return the candidates to try, the plain one first; and by name, why others that would suit are not."""
    verdicts = {candidate: why_not(candidate, facts, hardware, mode, rows) for candidate in _ALL}
    tried = [candidate for candidate, why in verdicts.items() if why is None]
    return tried, {candidate.name: why for candidate, why in verdicts.items() if why}


def _suits_hardware(candidate: Candidate, hardware: Hardware) -> bool:
    on_gpu = hardware.provider != _CPU
    if candidate.provider == _TENSORRT or candidate.precision == "fp16" or candidate.captures:
        return hardware.provider == _CUDA
    if candidate.reduces_range:
        # With such instructions nothing saturates, and the eighth bit is free.
        return not on_gpu and not hardware.has_vnni
    # On CUDA these kernels copy to the processor and back.
    return not (on_gpu and candidate.quantization)


def _suits_graph(candidate: Candidate, facts: GraphFacts) -> bool:
    if candidate.is_fused and not facts.is_transformer:
        return False
    if candidate.name == "extended":
        # The level above changes the layout of convolutions, and nothing else of weight.
        return facts.has_convolutions
    if candidate.quantization == "dynamic":
        # A convolution that finds its range anew at every run loses more by that than it gains.
        return facts.constant_products > 0 and not facts.has_convolutions
    if candidate.quantization or candidate.precision == "fp16":
        return facts.constant_products > 0
    return True
