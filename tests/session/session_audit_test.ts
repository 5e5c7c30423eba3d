import { assertEquals, assertRejects } from "@std/assert";
import { IntegrityError, RefusedError } from "../../lib/errors.ts";
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
    },
    "10.0.0.1:4433",
    new SessionClient(),
  );
  return { audit, entries };
}

Deno.test("bytes that are not what they were end a session, and are an event of their own", () => {
  const { audit, entries } = scene();
  audit.session = "name";
  const outcome = { reason: "record_forged" };
  audit.over(true, outcome, new IntegrityError("record_forged", "a record was forged"));
  assertEquals(entries.map(({ event, session, reason }) => [event, session, reason]), [
    ["integrity", "name", "record_forged"],
    ["ended", "name", "record_forged"],
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
  const failing = { record: () => Promise.reject(new RefusedError("audit", "disk full")) };
  const audit = new SessionAudit(failing, "10.0.0.1:4433", new SessionClient());
  const call = () => audit.call("files", {}, () => Promise.resolve({ size: "5" }));
  assertEquals((await assertRejects(call, RefusedError)).code, "audit");
  audit.note("ended", {}); // nobody waits, and nothing is thrown
});
