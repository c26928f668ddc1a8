"""Bodies: what clients send as JSON, of which nothing is lost in silence."""

from typing import Any, ClassVar

from pydantic import model_validator
from sqlmodel import SQLModel


class Body(SQLModel):
    """What a client sends: unknown fields are refused, so that no value is lost in silence.

    What a client received, it may send back: fields that it can only see are ignored.
    """

    model_config = {"extra": "forbid"}

    public: ClassVar[type[SQLModel]] = SQLModel  # what clients receive

    @model_validator(mode="before")
    @classmethod
    def ignore_what_is_only_seen(cls, body: Any) -> Any:  # noqa: ANN401  # a client may send anything
        """Return the body without the fields that clients can only see."""
        if not isinstance(body, dict):
            return body
        only_seen = cls.public.model_fields.keys() - cls.model_fields.keys()
        return {name: value for name, value in body.items() if name not in only_seen}


def example(**fields: object) -> Any:  # noqa: ANN401  # SQLModel has no public type for it
    """Return the configuration of a model that the documentation shows with these values."""
    return {"json_schema_extra": {"examples": [fields]}}
