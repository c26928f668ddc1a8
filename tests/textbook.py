"""Three calls of the API as textbooks write them, on the same tables, for the benchmark."""

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BeforeValidator
from sqlalchemy import JSON, Column
from sqlalchemy.orm import selectinload
from sqlmodel import Field, Relationship, Session, SQLModel, create_engine, select

# As many connections as the API has.
engine = create_engine(os.environ["DATABASE_URL"], pool_pre_ping=True, pool_size=20, max_overflow=0)


class TaskTag(SQLModel, table=True):
    __tablename__ = "task_tag"

    task_id: int | None = Field(default=None, foreign_key="task.id", primary_key=True)
    tag_id: int | None = Field(default=None, foreign_key="tag.id", primary_key=True)


class Tag(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str
    key: str


class TaskBase(SQLModel):
    title: str = Field(min_length=1, max_length=200)
    description: str | None = Field(default=None, max_length=10_000)
    status: str = "pending"
    priority: int = Field(default=0, ge=0, le=5)
    due_at: datetime | None = None


class Task(TaskBase, table=True):
    # The API's copy of the names: a row needs some value of it, and a textbook does not read it.
    __table_args__ = (Column("tags", JSON, nullable=False, default=[]),)
    __mapper_args__ = {"exclude_properties": ["tags"]}

    id: int | None = Field(default=None, primary_key=True)
    owner_id: int | None = None
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    completed_at: datetime | None = None
    deleted_at: datetime | None = None
    version: int = 1
    tags: list[Tag] = Relationship(link_model=TaskTag)


class TaskCreate(TaskBase):
    tags: list[str] = []


def tag_names(tags: list[Tag]) -> list[str]:
    return sorted((tag.name for tag in tags), key=str.lower)


class TaskPublic(TaskBase):
    tags: Annotated[list[str], BeforeValidator(tag_names)]
    id: int
    owner_id: int | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    deleted_at: datetime | None
    version: int


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session)]

app = FastAPI()


def find_or_create_tag(session: Session, name: str) -> Tag:
    tag = session.exec(select(Tag).where(Tag.key == name.lower())).first()
    return tag or Tag(name=name, key=name.lower())


@app.post("/tasks", status_code=201, response_model=TaskPublic)
def create_task(task_create: TaskCreate, session: SessionDep) -> Task:
    tags = [find_or_create_tag(session, name) for name in task_create.tags]
    task = Task.model_validate(task_create, update={"tags": tags})
    session.add(task)
    session.commit()
    session.refresh(task)
    return task


@app.get("/tasks", response_model=list[TaskPublic])
def read_tasks(session: SessionDep, limit: int = 100) -> Sequence[Task]:
    with_tags = selectinload(Task.tags)  # type: ignore[arg-type]  # else a statement for each task
    return session.exec(select(Task).options(with_tags).limit(limit)).all()


@app.get("/tasks/{task_id}", response_model=TaskPublic)
def read_task(task_id: int, session: SessionDep) -> Task:
    task = session.get(Task, task_id)
    if not task:
        raise HTTPException(404, "Task not found")
    return task
