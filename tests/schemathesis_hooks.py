"""What Schemathesis must know of the API and no schema can say."""

import os
import re
from typing import Any
from uuid import uuid4

import schemathesis
from hypothesis import strategies as st

from api.field_types import MAX_INTEGER
from api.sorts import CURSORS, read_cursor

# The domain of an address must be one that may exist.
schemathesis.openapi.format(
    "email", st.from_regex(r"[a-z0-9]{1,9}@[a-z]{3,9}\.com", fullmatch=True)
)


def drop_cursor_of_another_sort(query: Any) -> None:  # noqa: ANN401
    after, sort = query.get("after"), str(query.get("sort", "id"))
    is_documented = isinstance(after, str) and re.fullmatch(r"([^\x00]*,)?[0-9]{1,16}", after)
    if is_documented and sort.removeprefix("-") in CURSORS:
        try:
            read_cursor(sort, after)
        except ValueError:
            del query["after"]


@schemathesis.hook
def before_call(
    _context: schemathesis.HookContext, case: schemathesis.Case[Any], _arguments: dict[str, object]
) -> None:
    """Name no owner who is not there, use no key twice, and leave the own account as it is."""
    body: Any = case.body
    for item in body if isinstance(body, list) else [body]:
        for field in ("owner_id", "to_user_id"):
            value: Any = item.get(field) if isinstance(item, dict) else None
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and 1 <= value <= MAX_INTEGER and value % 1 == 0:
                item[field] = value = None
            if field == "owner_id" and value is None and case.method in ("PATCH", "PUT"):
                item.pop(field, None) if isinstance(item, dict) else None
    for header, value in case.headers.items():
        if header.lower() == "idempotency-key" and 1 <= len(value) <= 200:
            case.headers[header] = str(uuid4())
        elif header.lower() == "if-match" and len(value) % 2:
            case.headers[header] = "*"  # else none would match
        elif header.lower() in ("if-match", "if-none-match") and value in ("0", ""):
            case.headers[header] = '"0"'  # which is made as if it matched the pattern
    if str(case.path_parameters.get("user_id")) == os.environ.get("OWN_USER_ID"):
        case.path_parameters["user_id"] = 0
    if case.method == "PATCH" and isinstance(body, list):
        ids = [item.get("id") if isinstance(item, dict) else None for item in body]
        case.body = [item for n, item in enumerate(body) if ids[n] not in ids[:n]]
    if "sort" in case.operation.query:
        drop_cursor_of_another_sort(case.query or {})
