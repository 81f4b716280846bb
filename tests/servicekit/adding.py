"""What the tests run in processes of their own: rows with counted numbers, each in its transaction."""

from sqlalchemy import insert

from servicekit.database import next_number, open_database
from tests.support.example.adapters.tables import counters, things
from tests.support.example_service import MIGRATIONS


async def main(url: str, prefix: str, count: str) -> None:
    """Add rows named prefix-0 ... to the example service's database."""
    async with open_database(url, MIGRATIONS) as database:
        for index in range(int(count)):
            async with database.transaction() as transaction:
                number = await next_number(transaction, counters, "things")
                await transaction.execute(insert(things).values(name=f"{prefix}-{index}", state="new", number=number))
