"""Three calls of the API as textbooks write them, on the same table, for the benchmark."""

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlmodel import JSON, Field, Session, SQLModel, create_engine, select

# As many connections as the API has.
engine = create_engine(os.environ["DATABASE_URL"], pool_pre_ping=True, pool_size=20, max_overflow=0)


class TaskBase(SQLModel):
    title: str = Field(min_length=1, max_length=200)
    description: str | None = Field(default=None, max_length=10_000)
    status: str = "pending"
    priority: int = Field(default=0, ge=0, le=5)
    due_at: datetime | None = None


class Task(TaskBase, table=True):
    id: int | None = Field(default=None, primary_key=True)
    owner_id: int | None = None
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    completed_at: datetime | None = None
    deleted_at: datetime | None = None
    version: int = 1
    tags: list[str] = Field(default=[], sa_type=JSON)


class TaskCreate(TaskBase):
    tags: list[str] = []


class TaskPublic(TaskBase):
    tags: list[str]
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


@app.post("/tasks", status_code=201, response_model=TaskPublic)
def create_task(task_create: TaskCreate, session: SessionDep) -> Task:
    task = Task.model_validate(task_create)
    session.add(task)
    session.commit()
    session.refresh(task)
    return task


@app.get("/tasks", response_model=list[TaskPublic])
def read_tasks(session: SessionDep, limit: int = 100) -> Sequence[Task]:
    return session.exec(select(Task).limit(limit)).all()


@app.get("/tasks/{task_id}", response_model=TaskPublic)
def read_task(task_id: int, session: SessionDep) -> Task:
    task = session.get(Task, task_id)
    if not task:
        raise HTTPException(404, "Task not found")
    return task
