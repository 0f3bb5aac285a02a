// Reads a file with a line of JSON for each response and parses its fields with two independent parsers of
// structured fields. Prints for each parser how many of them it read as they were meant.

import { readFileSync } from "node:fs";
import { parseList } from "structured-headers";
import { decodeList } from "structured-field-values";

// Each gives [name, {key: number}] for each member, or throws.
const parsers = {
  "structured-headers": (field) =>
    parseList(field).map(([name, parameters]) => [name, Object.fromEntries(parameters)]),
  "structured-field-values": (field) =>
    decodeList(field).map(({ value, params }) => [value, { ...params }]),
};

function expect(parsed, meant, keys) {
  if (parsed.length !== meant.length) throw new Error("another number of members");
  parsed.forEach(([name, parameters], n) => {
    // A string, not a token: those are objects or symbols in both libraries.
    if (typeof name !== "string" || name !== meant[n].name) throw new Error(`the name ${String(name)}`);
    if (Object.keys(parameters).join() !== keys) throw new Error(`the keys ${Object.keys(parameters)}`);
    for (const [key, value] of Object.entries(parameters)) {
      if (!Number.isInteger(value) || value < 0) throw new Error(`${key} is no count`);
      if (key !== "t" && value !== meant[n][key]) throw new Error(`${key} is ${value}`);
    }
  });
}

const read = Object.fromEntries(Object.keys(parsers).map((name) => [name, 0]));
for (const line of readFileSync(process.argv[2], "utf8").trimEnd().split("\n")) {
  const { policy, ratelimit, meant } = JSON.parse(line);
  for (const [name, parse] of Object.entries(parsers)) {
    try {
      expect(parse(policy), meant, "q,w");
      expect(parse(ratelimit), meant, "r,t");
      read[name] += 1;
    } catch (error) {
      console.error(`${name}: ${error.message}: ${policy} / ${ratelimit}`);
    }
  }
}
for (const [name, count] of Object.entries(read)) console.log(`${name} ${count}`);
