"""What Schemathesis must know of the API and no schema can say."""

import os
import re
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import schemathesis
from hypothesis import strategies as st

from api.field_types import CONTROL, MAX_INTEGER
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


def name_no_user(method: str, item: Any) -> None:  # noqa: ANN401
    """Name no owner who is not there; in a change none, since it would have to be the one."""
    for field in {"owner_id", "to_user_id"} & item.keys() if isinstance(item, dict) else ():
        value = item[field]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and 1 <= value <= MAX_INTEGER and value % 1 == 0:
            item[field] = None
        if item[field] is None and method in ("PATCH", "PUT"):
            del item[field]


def replace_header(header: str, value: str) -> str:
    """Return a key that is not used, and versions of which some match."""
    if header == "idempotency-key" and 1 <= len(value) <= 200:
        return str(uuid4())
    if header == "if-match" and len(value) % 2:
        return "*"
    if header in ("if-match", "if-none-match") and value in ("0", ""):
        return '"0"'  # the others are sent as if they matched the pattern
    return value


@schemathesis.hook
def before_call(
    _context: schemathesis.HookContext, case: schemathesis.Case[Any], _arguments: dict[str, object]
) -> None:
    """Replace what would be refused: unknown users, used keys, and changes of the own account."""
    body: Any = case.body
    for item in body if isinstance(body, list) else [body]:
        name_no_user(case.method, item)
    for header, value in case.headers.items():
        case.headers[header] = replace_header(header.lower(), value)
    if re.search(f"[{CONTROL}]", unquote(str(case.path_parameters.get("status")))):
        case.path_parameters["status"] = "unknown"  # with these characters, no path is there
    if str(case.path_parameters.get("user_id")) == os.environ.get("OWN_USER_ID"):
        case.path_parameters["user_id"] = 0
    if case.method == "PATCH" and isinstance(body, list):
        ids = [item.get("id") if isinstance(item, dict) else None for item in body]
        case.body = [item for n, item in enumerate(body) if ids[n] not in ids[:n]]
    if "sort" in case.operation.query:
        drop_cursor_of_another_sort(case.query or {})
