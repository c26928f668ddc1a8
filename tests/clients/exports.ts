// Exports the tasks "a" and "b" by the clients of Hey API and of orval: `exports.js URL`.

import assert from "node:assert/strict";
import { client } from "./hey/client.gen.js";
import { exportTasks as exportByHey } from "./hey/index.js";
import { exportTasks as exportByOrval } from "./orval.js";

client.setConfig({ baseUrl: process.argv[2] ?? "" });
const { data } = await exportByHey();
assert(data instanceof Blob);
const lines = await data.text();
assert.deepEqual(lines.trimEnd().split("\n").map((line) => JSON.parse(line).title), ["a", "b"]);

const answer = await exportByOrval();
assert("stream" in answer);
assert.equal(await answer.stream.text(), lines);
