// Calls the API by the client for TypeScript: `round_trip.js URL`, and a name and a password if any.

import assert from "node:assert/strict";
import createClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./task-api.d.ts";

async function signIn(client: Client<paths>, username: string, password: string): Promise<string> {
  const headers = { "Content-Type": "application/x-www-form-urlencoded" };
  const refused = await client.POST("/token", { body: { username, password: "wrong" }, headers });
  assert.equal(refused.response.status, 401);

  const { data: token } = await client.POST("/token", { body: { username, password }, headers });
  assert(token);
  const authorization = `Bearer ${token.access_token}`;
  const { data: member } = await client.GET("/users/me", { headers: { authorization } });
  assert.equal(member?.username, username);
  return authorization;
}

async function createAndUpdate(client: Client<paths>): Promise<void> {
  const body: components["schemas"]["TaskCreate"] = {
    title: "Write the report",
    description: "Ten pages",
    due_at: "2027-01-29T18:00:00+01:00",
    tags: ["report", "Home"],
  };
  const params = { header: { "idempotency-key": "first" } };
  const { data: task } = await client.POST("/tasks", { params, body });
  assert(task);
  assert.deepEqual([task.status, task.priority], ["pending", 0]);
  assert.equal(task.due_at, "2027-01-29T17:00:00Z");
  assert.deepEqual(task.tags, ["Home", "report"]);
  assert.deepEqual((await client.POST("/tasks", { params, body })).data, task);

  const change = {
    params: { path: { task_id: task.id }, header: { "if-match": '"1"' } },
    body: { due_at: null, description: undefined, status: "in_progress" as const },
  };
  const { data: updated } = await client.PATCH("/tasks/{task_id}", change);
  assert(updated);
  assert.equal(updated.due_at, null);
  assert.deepEqual([updated.description, updated.status], ["Ten pages", "in_progress"]);

  const conflict = await client.PATCH("/tasks/{task_id}", change);
  assert.equal(conflict.response.status, 412);
  assert(conflict.error?.detail);

  const refused = await client.POST("/tasks", { body: { title: "" } });
  assert(typeof refused.error?.detail === "object");
  assert.deepEqual(refused.error.detail[0]?.loc, ["body", "title"]);
}

async function createAndUpdateMany(client: Client<paths>): Promise<void> {
  const tags = ["home"];
  const body = [5, 4, 3].map((priority) => ({ title: `Task ${priority}`, priority, tags }));
  const { data: tasks } = await client.POST("/tasks/bulk", { body });
  assert.deepEqual(tasks?.map((task) => task.priority), [5, 4, 3]);
  const first = tasks?.[0];
  assert(first);

  const { data: updated } = await client.PATCH("/tasks/bulk", {
    body: [{ id: first.id, status: "completed" }],
  });
  assert(updated?.[0]?.completed_at);
  assert.equal(updated[0].priority, 5);
}

async function listPages(client: Client<paths>): Promise<void> {
  const query: paths["/tasks"]["get"]["parameters"]["query"] = {
    status: ["pending", "in_progress"],
    sort: "-priority",
    limit: 2,
  };
  const first = await client.GET("/tasks", { params: { query: { ...query, count: true } } });
  assert.deepEqual(first.data?.map((task) => task.title), ["Task 4", "Task 3"]);
  assert.equal(first.response.headers.get("X-Total-Count"), "3");

  const url = first.response.headers.get("Link")?.match(/<(.*)>/)?.[1];
  assert(url);
  const after = new URL(url).searchParams.get("after");
  const last = await client.GET("/tasks", { params: { query: { ...query, after } } });
  assert.deepEqual(last.data?.map((task) => task.title), ["Write the report"]);
  assert.equal(last.response.headers.get("Link"), null);
}

async function findTagged(client: Client<paths>): Promise<void> {
  const query = { tag: ["home", "report"] };
  const { data: tasks } = await client.GET("/tasks", { params: { query } });
  assert.deepEqual(tasks?.map((task) => task.title), ["Write the report"]);

  const { data: tags } = await client.GET("/tags");
  assert.deepEqual(tags?.map((tag) => [tag.name, tag.task_count]), [["Home", 4], ["report", 1]]);
}

async function exportAll(client: Client<paths>): Promise<void> {
  const { data } = await client.GET("/tasks/export", { parseAs: "text" });
  assert(data);
  const titles = data.trimEnd().split("\n").map((line) => JSON.parse(line).title);
  assert.deepEqual(titles, ["Write the report", "Task 5", "Task 4", "Task 3"]);
}

const [baseUrl = "", username, password] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl });
if (username && password) {
  const authorization = await signIn(client, username, password);
  client.use({ onRequest: ({ request }) => request.headers.set("Authorization", authorization) });
}
await createAndUpdate(client);
await createAndUpdateMany(client);
await listPages(client);
await findTagged(client);
await exportAll(client);
