"""What tests of typed prediction stand on."""

from collections.abc import AsyncIterator

import pytest

from tests.inference.house import House
from tests.inference.predict.bureau import Bureau, running_bureau


@pytest.fixture
async def bureau(house: House) -> AsyncIterator[Bureau]:
    """A worker that serves two models of columns, beside a data service."""
    async with running_bureau(house) as running:
        yield running
