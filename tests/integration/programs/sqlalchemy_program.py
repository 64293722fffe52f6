"""A program on SQLAlchemy with psycopg: a pool that checks and renews its connections."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import ForeignKey, create_engine, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

RECYCLE_S = 1
SCHEMA = os.environ["SCHEMA"]


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    books: Mapped[list[Book]] = relationship(back_populates="author")


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


engine = create_engine(
    os.environ["URL"],
    pool_size=4,
    max_overflow=2,
    pool_pre_ping=True,
    pool_recycle=RECYCLE_S,
    connect_args={"options": f"-c search_path={SCHEMA}"},
)
Base.metadata.create_all(engine)


def write() -> None:
    with Session(engine) as session, session.begin():
        for number in range(20):
            books = [Book(title=f"book {number}.{i}") for i in range(50)]
            session.add(Author(name=f"author {number}", books=books))
    with Session(engine) as session:
        session.add(Author(name="author 1"))
        with pytest.raises(IntegrityError) as caught:
            session.commit()
        assert caught.value.orig.sqlstate == "23505"
        session.rollback()
        with session.begin_nested() as inner:
            session.add(Author(name="not kept"))
            session.flush()
            inner.rollback()
        session.add(Author(name="kept"))
        session.commit()


def read(number: int) -> int:
    with Session(engine) as session:
        author = session.scalars(select(Author).filter_by(name=f"author {number}")).one()
        return len(author.books)


def count_up(_: int) -> None:
    with Session(engine) as session, session.begin():
        book = session.scalars(select(Book).filter_by(id=1).with_for_update()).one()
        book.title = str(int(book.title) + 1)


write()
with ThreadPoolExecutor(8) as threads:
    assert list(threads.map(read, [n % 20 for n in range(200)])) == [50] * 200
    with Session(engine) as session, session.begin():
        session.get_one(Book, 1).title = "0"
    list(threads.map(count_up, range(60)))
with Session(engine) as session:
    assert session.get_one(Book, 1).title == "60"
    assert session.scalar(select(func.count()).select_from(Author)) == 21
    large = session.execute(
        text("select i from generate_series(1, 100000) i"),
        execution_options={"stream_results": True},
    )
    assert sum(part[-1][0] for part in large.partitions(1000)) == 5_050_000
time.sleep(RECYCLE_S + 0.1)
assert read(1) == 50
with engine.connect() as connection:
    with pytest.raises(DBAPIError) as caught:
        connection.execute(text("select 1/0"))
    assert not caught.value.connection_invalidated
    connection.rollback()
    assert connection.scalar(text("select 1")) == 1
engine.dispose()
print("all done")  # noqa: T201
