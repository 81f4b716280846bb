"""What the measuring child answers.

The worker sends one line of JSON, the graph, then the rows: the target column of all where training's held-out rows are
to be drawn, and the columns of the graph; each table as frames of an Arrow stream. The child answers with the length of
a lepton.v1.Plan in four bytes, the plan, and the graph that it runs; nothing where that is the registered one.
"""

import hashlib
import logging
import resource
import time
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from lepton.v1 import inference_pb2 as pb
from servicekit.errors import LeptonError
from services.inference.plans import rows
from services.inference.plans.build import NotBuilt, build
from services.inference.plans.candidates import PLAIN, Hardware, find_candidate
from services.inference.plans.search import Evidence, Found, Question, calibration_of, search, tensors_of
from services.inference.plans.wire import LENGTH, Header, Source, read_header
from services.inference.serving.session import open_session


def answer(source: BinaryIO, out: BinaryIO, *, may_build: bool) -> None:
    """Read a question, and answer it.

    Args:
        source: where it comes from; closed once nothing more is needed of it.
        out: where the answer goes.
        may_build: whether temporary files lie in memory: graphs belong on no disk.
    """
    logging.disable(logging.WARNING)
    header = read_header(source.readline())
    resource.setrlimit(resource.RLIMIT_DATA, (header.memory_bytes, header.memory_bytes))
    content = source.read(header.graph_bytes)
    try:
        evidence = _evidence(header, content, source)
        source.close()
        plan, graph = (
            _rebuilt(header, content, evidence)
            if header.candidate
            else _searched(header, content, evidence, may_build=may_build)
        )
    except MemoryError:
        plan, graph = _failed("measuring took more memory than is allowed"), b""
    except LeptonError as error:
        plan, graph = _failed(error.message), b""
    except NotBuilt as error:
        plan, graph = _failed(str(error)), b""
    except Exception as error:
        # Its text may hold values of rows: those go nowhere.
        plan, graph = _failed(f"measuring failed: {type(error).__name__}"), b""
    told = plan.SerializeToString()
    out.write(LENGTH.pack(len(told)) + told + graph)


def _evidence(header: Header, content: bytes, stream: BinaryIO) -> Evidence:
    if header.source is None:
        return Evidence(message=header.message)
    try:
        inputs = tensors_of(open_session(content, 1))
        return _rows(header.source, inputs, stream)
    except (rows.Unusable, pa.ArrowInvalid, OSError) as error:
        return Evidence(message=f"{header.source.dataset} cannot be used to judge quality: {error}")


def _rows(source: Source, inputs: list[rows.Tensor], stream: BinaryIO) -> Evidence:
    if source.seed is None:
        places = rows.even_places(source.first or source.rows)
    else:
        labels = rows.texts_of(rows.read_table(stream).column(source.target)) if source.needs_labels else None
        held_out = rows.held_out_places(source.rows, source.seed, labels, source.classes)
        places = rows.thinned(held_out[held_out < (source.first or source.rows)])
    if not len(places):
        return Evidence(message=f"{source.dataset} has no row")
    table = rows.read_places(stream, places)
    truth = rows.texts_of(table.column(source.target)) if source.target in table.column_names else None
    if truth is not None:
        complete = np.array([bool(text) for text in truth])
        table, truth = table.filter(pa.array(complete)), [text for text in truth if text]
    groups = rows.to_groups(table, inputs)
    told = f"judged on rows of {source.dataset}" + ("" if truth is not None else ", which names no labels")
    return Evidence(groups, truth, source.dataset, told)


def _searched(header: Header, content: bytes, evidence: Evidence, *, may_build: bool) -> tuple[pb.Plan, bytes]:
    started = time.monotonic()
    question = Question(content, header.hardware, header.wish, header.task, header.classes, header.seconds, may_build)
    found = search(question, evidence)
    plan = plan_of(found, header.hardware, evidence)
    plan.measure_seconds = time.monotonic() - started
    return plan, found.content if found.chosen.changes_graph else b""


def _rebuilt(header: Header, content: bytes, evidence: Evidence) -> tuple[pb.Plan, bytes]:
    """Build the graph of a plan that was chosen before; what was measured then is trusted."""
    candidate = find_candidate(header.candidate) or PLAIN
    graph = build(candidate, content, calibration_of(evidence))
    return pb.Plan(name=candidate.name, graph_sha256=hashlib.sha256(graph).hexdigest()), graph


def _failed(message: str) -> pb.Plan:
    return pb.Plan(name=PLAIN.name, message=f"the plain plan serves: {message}")


def plan_of(found: Found, hardware: Hardware, evidence: Evidence) -> pb.Plan:
    """Return what a search found, as the contract has it."""
    chosen = found.chosen
    fixed, added = found.cost
    return pb.Plan(
        hardware=hardware.key,
        name=chosen.name,
        precision=chosen.precision,
        optimization=chosen.optimization,
        threads=found.threads,
        batch_rows=found.batch_rows,
        provider=chosen.provider or hardware.provider,
        speeds=[
            pb.PlanSpeed(rows=size, plain_rows_per_second=size / taken, rows_per_second=size / found.seconds[size])
            for size, taken in sorted(found.plain_seconds.items())
        ],
        quality=_quality(found, evidence),
        candidates=[
            pb.PlanCandidate(
                name=name, speedup=found.speedups.get(name, 0.0), loss_points=found.losses.get(name), outcome=outcome
            )
            for name, outcome in sorted(found.outcomes.items(), key=lambda item: item[0] != PLAIN.name)
        ],
        message=found.message,
        graph_sha256=found.graph_sha256,
        fixed_seconds=fixed,
        row_seconds=added,
    )


def _quality(found: Found, evidence: Evidence) -> pb.PlanQuality | None:
    if found.quality is None:
        return None
    return pb.PlanQuality(
        metric=found.quality.metric,
        plain_points=found.quality.plain_points,
        points=found.quality.points,
        loss_points=found.quality.loss_points,
        agreement_points=found.quality.agreement_points,
        rows=found.quality.rows,
        dataset=evidence.dataset,
    )
