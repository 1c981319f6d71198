// Drives the original's Node package: one JSON command a line in, one JSON answer a line out.
// usage: node driver.js FOLDER, where FOLDER/node_modules holds the package
"use strict";

const readline = require("node:readline");

const { RvfDatabase } = require(
  require.resolve("@ruvector/rvf-node", { paths: [process.argv[2]] }),
);

// True for every row, and a query with a filter looks at every row: without one, a store of 1,024
// rows or more is searched approximately.
const ANY_ROW = JSON.stringify({ op: "ne", fieldId: 65535, valueType: "u64", value: "0" });

const stores = [];

const keep = (store) => stores.push(store) - 1;
const bytes = (text) => Buffer.from(text, "base64");
const floats = (text) => new Float32Array(new Uint8Array(bytes(text)).buffer);
const pairs = (hits) => hits.map(({ id, distance }) => [id, distance]);
const image = (found) =>
  found && Object.fromEntries(Object.entries(found).map(([k, v]) => [k, v.toString("base64")]));

const commands = {
  create: ({ path, options }) => keep(RvfDatabase.create(path, options)),
  open: ({ path }) => keep(RvfDatabase.open(path)),
  openReadonly: ({ path }) => keep(RvfDatabase.openReadonly(path)),
  close: ({ store }) => store.close(),
  ingest: ({ store, ids, vectors }) => store.ingestBatch(floats(vectors), ids),
  delete: ({ store, ids }) => store.delete(ids),
  query: ({ store, vector, k }) => pairs(store.query(floats(vector), k)),
  distances: ({ store, vector, k }) => pairs(store.query(floats(vector), k, { filter: ANY_ROW })),
  compact: ({ store }) => store.compact(),
  branch: ({ store, path }) => keep(store.branch(path)),
  derive: ({ store, path }) => keep(store.derive(path)),
  freeze: ({ store }) => store.freeze(),
  status: ({ store }) => store.status(),
  segments: ({ store }) => store.segments(),
  index: ({ store }) => store.indexStats(),
  witness: ({ store }) => store.verifyWitness(),
  identity: ({ store }) => ({
    fileId: store.fileId(),
    parentId: store.parentId(),
    depth: store.lineageDepth(),
    dimension: store.dimension(),
    metric: store.metric(),
  }),
  embedKernel: ({ store, arch, type, flags, image, port, cmdline }) =>
    store.embedKernel(arch, type, flags, bytes(image), port, cmdline),
  extractKernel: ({ store }) => image(store.extractKernel()),
  embedEbpf: ({ store, type, attach, dimension, program, btf }) =>
    store.embedEbpf(type, attach, dimension, bytes(program), bytes(btf)),
  extractEbpf: ({ store }) => image(store.extractEbpf()),
};

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { command, store, ...rest } = JSON.parse(line);
  let answer;
  try {
    answer = { ok: commands[command]({ store: stores[store], ...rest }) ?? null };
  } catch (error) {
    answer = { error: error.message };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
});
