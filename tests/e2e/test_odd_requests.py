"""Requests that unchanged tritonclients send and that say little, to a server alone on either lane."""

import asyncio
from pathlib import Path

import pytest

from services.inference.serving.table import Entry, ServingTable
from tests.e2e.test_third_party_clients import CLIENTS, _environment
from tests.inference.fronts import LANES, serving
from tests.inference.models import failing, identity
from tests.inference.test_limits import counting
from tests.inference.test_odd_graphs import any_rank, no_input, optional_input
from tests.support.credentials import MakeToken, bearer


@pytest.mark.parametrize("fast_lane", LANES)
async def test_tritonclients_odd_requests_are_answered(
    platform_files: Path, make_token: MakeToken, fast_lane: bool
) -> None:
    table, token = ServingTable(), make_token("viewer")
    named = {"echo": identity("FP32"), "halves": identity("FP16"), "texts": identity("BYTES")}
    for model in (any_rank(), no_input(), optional_input(), counting(), failing()):
        named[model.deployment] = model
    for name, model in named.items():
        table.set("default", name, Entry({1: model}))
    python = await asyncio.to_thread(_environment, ".venv-clients", "requirements.txt")
    async with serving(table, platform_files, bearer(token), fast_lane=fast_lane) as served:
        addresses = f"127.0.0.1:{served.server.port}", f"127.0.0.1:{served.rest_port}"
        command = [str(python), str(CLIENTS / "triton_odd_requests.py"), *addresses]
        client = await asyncio.create_subprocess_exec(
            *command,
            str(platform_files / "ca.pem"),
            token,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        told, went_wrong = await asyncio.wait_for(client.communicate(), 300)
    assert told.endswith(b"conformant\n"), went_wrong.decode()[-3000:]
