"""Whether a graph answers each row by itself, so that rows of several requests may share a run.

`analyse` follows the batch axis from node to node, and stops at the first node that could mix rows. What is not in the
tables of rules is not shown to be independent.
"""

from services.inference.independence.analysis import Verdict, analyse
from services.inference.independence.graph_reading import read_model

__all__ = ["Verdict", "analyse", "read_model"]
