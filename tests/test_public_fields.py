"""What a developer may rely on: a public field is a column, or a property with an expression."""

from collections.abc import Callable
from typing import Any

from servers import connect
from sqlalchemy import ColumnElement
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import registry
from sqlmodel import Field, Relationship, Session, SQLModel, col, func, select

from api.public import select_public, to_public


class Example(SQLModel, registry=registry()):
    """Keeps the tables below apart from those of the API."""


class Link(Example, table=True):
    book_id: int = Field(foreign_key="book.id", primary_key=True)
    author_id: int = Field(foreign_key="author.id", primary_key=True)


class Author(Example, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str


class Book(Example, table=True):
    model_config = {"ignored_types": (hybrid_property,)}

    id: int | None = Field(default=None, primary_key=True)
    title: str
    written_by: list[Author] = Relationship(link_model=Link)

    @hybrid_property
    def authors(self) -> str:
        return ", ".join(sorted(author.name for author in self.written_by))

    @authors.inplace.expression
    @classmethod
    def _select_authors(cls) -> ColumnElement[str]:
        linked = select(Author.name).join(Link, col(Link.author_id) == Author.id)
        written_by = linked.where(Link.book_id == cls.id).order_by(col(Author.name))
        names = written_by.correlate(cls).subquery().c.name
        return func.coalesce(select(func.aggregate_strings(names, ", ")).scalar_subquery(), "")


class BookPublic(SQLModel):
    id: int
    authors: str
    title: str


def test_a_public_field_need_not_be_a_column(new_database: Callable[[], str]) -> None:
    engine = connect(new_database())
    Example.metadata.create_all(engine)
    book = Book(title="Notes", written_by=[Author(name="Luigi"), Author(name="Ada")])
    with Session(engine) as session:
        session.add_all([book, Book(title="Nothing")])
        session.commit()
        by_object: dict[str, Any] = to_public(BookPublic, book)
        rows = session.connection().execute(select_public(Book, BookPublic).order_by(col(Book.id)))
        by_row = [to_public(BookPublic, row) for row in rows]

    assert by_object == {"id": 1, "authors": "Ada, Luigi", "title": "Notes"}
    assert by_row == [by_object, {"id": 2, "authors": "", "title": "Nothing"}]
