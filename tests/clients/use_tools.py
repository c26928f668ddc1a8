"""Use the tools as an agent does, by `task_tools.py`, which it starts."""

import asyncio
import json
from pathlib import Path
from typing import Any

from fastmcp import Client

TOOLS = {"read_tasks", "create_task", "create_tasks", "update_task", "delete_task", "export_tasks"}


async def call(agent: Client[Any], tool: str, **arguments: object) -> Any:  # noqa: ANN401
    """Return what a tool returns as JSON; a list is in an object, since MCP wants one."""
    content = (await agent.call_tool(tool, arguments)).structured_content
    assert content is not None
    return content.get("result", content)


async def export(agent: Client[Any], **filters: object) -> list[str]:
    """Return the lines of an export."""
    [text] = (await agent.call_tool("export_tasks", filters)).content
    return text.text.splitlines()


async def read_all(agent: Client[Any], limit: int, **query: object) -> list[str]:
    """Return the titles of all tasks, read a page at a time, as the descriptions say."""
    titles = []
    page = await call(agent, "read_tasks", limit=limit, **query)
    while page:
        titles += [task["title"] for task in page]
        after = str(page[-1]["id"])
        page = await call(agent, "read_tasks", limit=limit, after=after, **query)
    return titles


async def main() -> None:
    """Create tasks, find them, change one, and export them."""
    async with Client(Path("task_tools.py")) as agent:
        tools = {tool.name: tool.description for tool in await agent.list_tools()}
        assert tools.keys() >= TOOLS
        assert all(tools.values())
        assert not {"create_token", "create_user", "health"} & tools.keys()

        fields = {"title": "Write the report", "due_at": "2027-01-29T18:00:00+01:00"}
        first = await call(agent, "create_task", **fields, **{"idempotency-key": "first"})
        assert await call(agent, "create_task", **fields, **{"idempotency-key": "first"}) == first
        assert json.loads("\n".join(await export(agent))) == first
        others = [{"title": f"Task {priority}", "priority": priority} for priority in (5, 4, 3)]
        await call(agent, "create_tasks", task_creates=others)

        titles = ["Write the report", "Task 5", "Task 4", "Task 3"]
        assert await read_all(agent, 2) == titles
        assert await read_all(agent, 3, status=["pending"], q="task") == titles[1:]
        page = await call(agent, "read_tasks", sort="-priority", limit=2)
        after = f"{page[-1]['priority']},{page[-1]['id']}"
        page = await call(agent, "read_tasks", sort="-priority", after=after)
        assert [task["title"] for task in page] == ["Task 3", "Write the report"]

        change = {"task_id": first["id"], "status": "completed", "due_at": None, "if-match": '"1"'}
        changed = await call(agent, "update_task", **change)
        assert (changed["version"], changed["status"], changed["due_at"]) == (2, "completed", None)
        refused = await agent.call_tool("update_task", change, raise_on_error=False)
        assert refused.is_error
        assert "412" in refused.content[0].text

        misspelt = {"title": "Task 2", "due_date": "2027-01-29T18:00:00+01:00"}
        refused = await agent.call_tool("create_task", misspelt, raise_on_error=False)
        assert refused.is_error
        assert "due_date" in refused.content[0].text

        assert [json.loads(line)["title"] for line in await export(agent)] == titles
        assert (await export(agent, format="csv"))[0].startswith("\ufefftitle,")
        assert await export(agent, q="nothing has this") == []


asyncio.run(main())
