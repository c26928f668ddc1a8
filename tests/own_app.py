"""An app of a developer's own on top of the API, whose routes break the rules of the API."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlalchemy import ColumnElement
from sqlmodel import col, delete, insert, update

from api import tags
from api.clock import days_ago, now
from api.pages import Page, TaskQuery, read_page
from api.retries import OnceDep
from api.versions import CreatedTask
from database import SessionDep
from main import app
from models import Task, TaskCreate, TaskPublic

# Routes that are added late, in each way.


@app.get("/late")
@tags.router.get("/late")
async def read_late() -> str:
    return "for members"


router = APIRouter(prefix="/own")
router.add_api_route("/late", read_late)
outer_router = APIRouter()
outer_router.include_router(router)
app.include_router(outer_router)
router.add_api_route("/later", read_late)


# Reads that write.


@app.get("/writes/object")
def write_object(session: SessionDep) -> None:
    session.add(Task(title="must not be kept"))
    session.commit()


@app.get("/writes/insert")
def write_by_insert(session: SessionDep) -> None:
    session.exec(insert(Task).values(title="must not be kept"))
    session.commit()


@app.get("/writes/update")
def write_by_update(session: SessionDep) -> None:
    session.exec(update(Task).values(title="must not be kept"))
    session.commit()


@app.get("/writes/delete")
def write_by_delete(session: SessionDep) -> None:
    session.exec(delete(Task))
    session.commit()


# Filters by the current datetime, a wrong and a right one.


class FrozenQuery(TaskQuery):
    def conditions(self) -> Iterator[ColumnElement[bool]]:
        yield from super().conditions()
        yield col(Task.created_at) < now() - timedelta(days=0)


class AgeQuery(TaskQuery):
    def conditions(self) -> Iterator[ColumnElement[bool]]:
        yield from super().conditions()
        yield col(Task.created_at) < days_ago(0)


@app.get("/filters/frozen")
def read_frozen(
    query: Annotated[FrozenQuery, Query()], request: Request, session: SessionDep
) -> Page:
    return read_page(session, request, query)


@app.get("/filters/age")
def read_by_age(query: Annotated[AgeQuery, Query()], request: Request, session: SessionDep) -> Page:
    return read_page(session, request, query)


# A path with any text in it, of which headers are made. This breaks no rule.


@app.get("/projects/{name}/tasks")
def read_project(
    name: str, query: Annotated[TaskQuery, Query()], request: Request, session: SessionDep
) -> Page:
    return read_page(session, request, query.model_copy(update={"q": name}))


@app.post("/projects/{name}/tasks", status_code=201, response_model=TaskPublic)
def create_in_project(
    name: str, task_create: TaskCreate, once: OnceDep, request: Request
) -> CreatedTask:
    task_create.title = name
    task = once.insert_one(task_create)
    once.session.commit()
    return CreatedTask(request, task)
