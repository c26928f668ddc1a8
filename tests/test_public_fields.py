"""What a developer may rely on: the fields of a public variant are those that a client sees."""

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum

from pydantic import SecretStr
from pydantic_core import to_json
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel

from api.clock import now
from api.database_urls import check_database_url
from api.engines import open_engine
from api.public import select_public, to_public


class Kind(StrEnum):
    novel = "novel"
    notes = "notes"


class Apart(SQLModel, registry=registry()):
    """Keeps the table below apart from those of the API."""


class Book(Apart, table=True):
    id: int | None = Field(default=None, primary_key=True)
    shelf: int
    title: str
    kind: Kind = Kind.notes
    bought_at: datetime = Field(default_factory=now)


class BookPublic(SQLModel):
    bought_at: datetime
    kind: Kind
    title: str
    id: int


class BookWithLoans(BookPublic):
    loans: int


def test_an_object_and_a_row_are_shown_alike(new_database: Callable[[], str]) -> None:
    engine = open_engine(check_database_url(SecretStr(new_database())))
    Book.metadata.create_all(engine)
    book = Book(title="On the Engine", shelf=4)
    with Session(engine, expire_on_commit=False) as session:
        session.add(book)
        session.commit()
        row = session.connection().execute(select_public(Book, BookPublic)).one()

    by_object, by_row = (to_public(BookPublic, source) for source in (book, row))
    engine.dispose()
    assert [*by_object] == [*by_row] == [*BookPublic.model_fields]
    assert to_json(by_object) == to_json(by_row)


def test_a_field_that_is_no_column_is_left_out_of_the_select() -> None:
    assert select_public(Book, BookWithLoans).selected_columns.keys() == [*BookPublic.model_fields]
