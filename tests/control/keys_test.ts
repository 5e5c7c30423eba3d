import { assert } from "@std/assert";
import { KeySchedule } from "../../lib/control/keys.ts";

Deno.test("the keys of tokens are wiped as soon as these are made", () => {
  const secret = () => new Uint8Array(32).fill(1);
  using keys = new KeySchedule(secret(), secret(), new Uint8Array(32));
  const derived: Uint8Array[] = [];
  const key = keys.key.bind(keys);
  keys.key = (...purpose) => {
    const made = key(...purpose);
    derived.push(made);
    return made;
  };
  const token = keys.token("proof", "client", { epoch: 0, qpns: { client: 2, server: 3 } });
  assert(token.some((byte) => byte !== 0));
  assert(derived.length === 1 && derived[0]!.every((byte) => byte === 0));
});
