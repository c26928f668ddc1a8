"""What many tests ask of the API."""

from typing import Any

import httpx2

Task = dict[str, Any]


def create(client: httpx2.Client, **fields: object) -> Task:
    answer = client.post("/tasks", json={"title": "Write the report"} | fields)
    assert answer.status_code == 201, answer.text
    task: Task = answer.json()
    return task
