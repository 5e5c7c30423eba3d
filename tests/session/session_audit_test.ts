import { assertEquals, assertRejects } from "@std/assert";
import { RefusedError } from "../../lib/errors.ts";
import type { AuditEntry } from "../../lib/security/audit.ts";
import { SessionAudit } from "../../lib/session/session_audit.ts";
import { SessionClient } from "../../lib/session/session_client.ts";

/** An audit of one session, and what it has recorded. */
function scene() {
  const entries: AuditEntry[] = [];
  const audit = new SessionAudit(
    {
      record: (entry) => {
        entries.push(entry);
        return Promise.resolve();
      },
      failing: false,
    },
    "10.0.0.1:4433",
    new SessionClient(),
  );
  return { audit, entries };
}

Deno.test("the end of a session tells what services have done, or that nobody knows", () => {
  const { audit, entries } = scene();
  audit.session = "name";
  const usage = { messages: { calls: 2, received: 7, sent: 9 } };
  for (const each of [usage, {}, undefined]) audit.over(true, { reason: "bye" }, each);
  assertEquals(entries.map(({ event, session, usage }) => [event, session, usage]), [
    ["ended", "name", usage],
    ["ended", "name", undefined],
    ["ended", "name", "unknown"],
  ]);
});

Deno.test("of a request only what tells nobody a secret is recorded, and no more than a path's length", async () => {
  const { audit, entries } = scene();
  const request = {
    ...{ operation: "put", path: "x".repeat(10_000), size: "5", offset: 3, length: {} },
    ...{ token: "secret", window: { rkey: 7 } },
  };
  await audit.call("files", request, () => Promise.resolve({ size: "5", sha256: "ab", more: 1 }));
  const [{ event, session: _session, peer: _peer, identity: _identity, ...line }] = entries as [
    AuditEntry,
  ];
  assertEquals(event, "service");
  assertEquals(line, {
    ...{ service: "files", operation: "put", path: "x".repeat(4096) },
    ...{ offset: 3, size: "5", sha256: "ab", result: "done" },
  });
});

Deno.test("a request that is refused is recorded with the reason before it is answered", async () => {
  const { audit, entries } = scene();
  const refuse = () => {
    throw new RefusedError("policy", "no");
  };
  await assertRejects(() => audit.call("files", { operation: "get", path: "a" }, refuse));
  assertEquals(entries.map(({ path, result, detail }) => [path, result, detail]), [
    ["a", "policy", "no"],
  ]);
});

Deno.test("a service's answer is kept back when it cannot be recorded", async () => {
  const full = {
    record: () => Promise.reject(new RefusedError("audit", "disk full")),
    failing: false,
  };
  const audit = new SessionAudit(full, "10.0.0.1:4433", new SessionClient());
  const call = () => audit.call("files", {}, () => Promise.resolve({ size: "5" }));
  assertEquals((await assertRejects(call, RefusedError)).code, "audit");
  audit.note("ended", {}); // nobody waits, and nothing is thrown
});
