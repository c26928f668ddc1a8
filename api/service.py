"""The service: what happens when it starts and stops, and whether it works."""

import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

from api.errors import Unavailable
from api.outages import first_line, is_outage
from api.postgresql import watch_connections
from api.route_classes import OpenRoute
from api.schema import schema_is_current, upgrade_schema
from config import settings
from database import engine, read_apart, reading_engine, replica_engine

logger = logging.getLogger("uvicorn.error")


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Upgrade the schema before the first request; close the connections after the last."""
    if settings.secret_key is None:
        logger.warning("SECRET_KEY is not set: the API is open to everyone who can reach it")
    if settings.migrate_at_start:
        try:
            upgrade_schema(engine)
        except DBAPIError as error:
            if not is_outage(error):
                raise
            raise ConnectionError(f"The database cannot be used: {first_line(error)}") from None
    # What is loaded by now stays, so the garbage collector need not look at it: the p99 of a read
    # is 14, not 68 ms.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)  # run it less often: a create takes 5 % less CPU
    async with watch_connections():
        yield
    for each in (engine, replica_engine):
        each.dispose()


class State(SQLModel):
    """The state of the process."""

    status: str


router = APIRouter(tags=["service"], route_class=OpenRoute)


@router.get("/health")
async def health() -> State:
    """Return that the process serves. The database is not asked."""
    return State(status="ok")


@router.get("/ready")
async def ready() -> State:
    """Return that the database answers and its schema is current. If not, `detail` says why."""
    if not await read_apart(reading_engine, schema_is_current):
        raise Unavailable(
            "The schema of the database is not the newest: run `python manage.py migrate`"
        )
    return State(status="ready")
