"""A program on SQLAlchemy's asyncio with asyncpg: many tasks, few connections."""

from __future__ import annotations

import asyncio
import os

import pytest
from sqlalchemy import MetaData, Table, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.schema import Column
from sqlalchemy.types import Integer, String

metadata = MetaData()
account = Table(
    "account",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner", String, unique=True),
    Column("balance", Integer),
)
engine = create_async_engine(
    os.environ["URL"],
    pool_size=4,
    max_overflow=0,
    pool_pre_ping=True,
    pool_recycle=1,
    connect_args={"server_settings": {"search_path": os.environ["SCHEMA"]}},
)


async def transfer(number: int) -> None:
    async with AsyncSession(engine) as session, session.begin():
        for which, amount in sorted(((number % 10, -1), ((number + 1) % 10, 1))):
            changed = update(account).where(account.c.id == which)
            await session.execute(changed.values(balance=account.c.balance + amount))


async def main() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        rows = [{"id": i, "owner": f"owner {i}", "balance": 100} for i in range(10)]
        await connection.execute(insert(account), rows)
    await asyncio.gather(*(transfer(number) for number in range(200)))
    await asyncio.sleep(1.1)  # longer than a connection may live
    async with AsyncSession(engine) as session:
        assert await session.scalar(select(func.sum(account.c.balance))) == 1000
        with pytest.raises(IntegrityError):
            await session.execute(insert(account).values(id=1, owner="x"))
        await session.rollback()
        stream = await session.stream(text("select i from generate_series(1, 50000) i"))
        assert len([row async for row in stream]) == 50_000
    await engine.dispose()


asyncio.run(main())
print("all done")  # noqa: T201
