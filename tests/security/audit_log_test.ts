import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { join } from "node:path";
import { RefusedError, VerbsealError } from "../../lib/errors.ts";
import type { AuditEntry } from "../../lib/security/audit.ts";
import { AuditFile } from "../../lib/security/audit_file.ts";
import { readAuditHead } from "../../lib/security/audit_key_and_head.ts";
import { AuditLog } from "../../lib/security/audit_log.ts";
import { eventually } from "../program.ts";
import { CapturedLog } from "../telemetry/captured_log.ts";
import { AuditScene, FailingDisk } from "./audit_scene.ts";

const entry: AuditEntry = { event: "ended", peer: "10.0.0.1:4433", reason: "bye" };

async function failureOf(scene: AuditScene): Promise<string> {
  const { code } = await assertRejects(() => AuditLog.open(scene.paths), VerbsealError);
  return code;
}

Deno.test("an event is a line that says when, what, of which session and of whom", async () => {
  await using scene = await AuditScene.create();
  const before = Date.now();
  await scene.record({
    event: "service",
    session: "abc",
    peer: "10.0.0.1:1",
    identity: { subject: "CN=a\u001b[2J" },
    path: "file",
    token: "hidden",
  });
  const text = (await scene.read())[1]!;
  const { time, mac, ...line } = JSON.parse(text);
  assert(Date.parse(time) >= before && Date.parse(time) <= Date.now());
  assertEquals(mac.length, 64);
  assertEquals(line, {
    sequence: 1,
    event: "service",
    session: "abc",
    peer: "10.0.0.1:1",
    identity: { subject: "CN=a\u001b[2J" },
    path: "file",
    token: "[redacted]",
  });
  assert(!text.includes("\u001b"), "a terminal that shows it could be moved about");
});

Deno.test("what a recorded event's promise says is on disk, and the head follows", async () => {
  await using scene = await AuditScene.create();
  await using log = await AuditLog.open(scene.paths);
  await Promise.all(Array.from({ length: 50 }, () => log.record(entry)));
  assertEquals((await scene.read()).length, 51);
  await log.record(entry);
  const { sequence } = await readAuditHead(scene.paths.head);
  assert(sequence >= 50, `head ${sequence}`);
  assertEquals((await scene.verify()).lines, 52);
});

Deno.test("nobody but the server's user can read the file, its key and its head", async () => {
  await using scene = await AuditScene.create();
  await scene.lines(2);
  const { file, key, head } = scene.paths;
  for (const path of [file, key, head]) {
    assertEquals((await Deno.stat(path)).mode! & 0o777, 0o600, path);
  }
  assertEquals((await Deno.readFile(key)).length, 32);
  const names = [...Deno.readDirSync(scene.folder)].map(({ name }) => name).sort();
  assertEquals(names, ["audit.jsonl", "audit.jsonl.head", "audit.jsonl.key"]);
  for (
    const [mode, taken] of [[0o644, false], [0o660, false], [0o640, true], [0o400, true]] as const
  ) {
    await Deno.chmod(key, mode);
    if (taken) await scene.record(entry);
    else assertEquals(await failureOf(scene), "audit_key");
  }
  await Deno.chmod(key, 0o600);
  await Deno.writeFile(key, new Uint8Array(31));
  assertEquals(await failureOf(scene), "audit_key");
});

Deno.test("what others have planted where the head is put together is neither followed nor used", async () => {
  await using scene = await AuditScene.create();
  const { head } = scene.paths;
  const victim = join(scene.folder, "victim");
  await Deno.writeTextFile(victim, "as it was");
  await Deno.symlink(victim, `${head}.new`);
  await scene.record({ event: "stopped" });
  assertEquals(await Deno.readTextFile(victim), "as it was");
  assert((await Deno.lstat(head)).isFile);
  await scene.verify();
  const files = [...Deno.readDirSync(scene.folder)].map(({ name }) => name).sort();
  const own = ["audit.jsonl", "audit.jsonl.head", "audit.jsonl.head.new", "audit.jsonl.key"];
  assertEquals(files, [...own, "victim"]);
});

// Nobody but root can give a file away.
if (Deno.uid() === 0) {
  Deno.test("a server takes no key that another user has put there, and verifying does", async () => {
    await using scene = await AuditScene.create();
    await scene.record({ event: "stopped" });
    await Deno.chown(scene.paths.key, 1234, 5678);
    await scene.verify();
    const error = await assertRejects(() => AuditLog.open(scene.paths), VerbsealError);
    assertEquals(error.code, "audit_key");
    assertStringIncludes(error.message, "another user's");
  });
}

Deno.test("a key that cannot be made is named, and so is the way out", async () => {
  await using scene = await AuditScene.create();
  const paths = { ...scene.paths, key: `${scene.folder}/nowhere/key` };
  const error = await assertRejects(() => AuditLog.open(paths), VerbsealError, "cannot be made");
  assertEquals([error.code, error.message.includes(paths.key)], ["audit_key", true]);
  assertStringIncludes(error.remedy, "--audit-key");
});

Deno.test("a server that starts again goes on with the chain", async () => {
  await using scene = await AuditScene.create();
  await scene.lines(3);
  await scene.record(entry);
  await scene.record();
  await scene.record(entry);
  const { lines, first, last, continued } = await scene.verify();
  assertEquals([lines, first.sequence, last.sequence, continued], [5, 0, 4, false]);
});

/** Its last digit is another. */
function withOtherMac(line: string): string {
  return line.slice(0, -3) + (line.endsWith('0"}') ? '1"}' : '0"}');
}

Deno.test("a log whose end is not as its head says is not gone on with", async () => {
  await using scene = await AuditScene.create();
  const lines = await scene.lines(6);
  const forged = lines[5]!.replace("policy", "closed");
  for (
    const tampered of [
      lines.slice(0, 5),
      lines.slice(0, 1),
      lines.with(5, forged),
      lines.with(5, withOtherMac(lines[5]!)),
    ]
  ) {
    await scene.write(tampered);
    assertEquals(await failureOf(scene), "audit_head");
  }
  await scene.write([...lines, forged.replace('"sequence":5', '"sequence":6')]);
  assertEquals(await failureOf(scene), "audit_head", "nobody but the server adds lines");
  await scene.write(lines);
  await Deno.remove(scene.paths.head);
  assertEquals(await failureOf(scene), "audit_head_missing");
  await Deno.rename(scene.paths.file, `${scene.paths.file}.1`);
  assertEquals((await scene.lines(2)).length, 2, "the way out that the message names");
});

Deno.test("a server that was killed before it could replace the head, or within a line, goes on", async () => {
  await using scene = await AuditScene.create();
  await scene.lines(3);
  const head = await Deno.readTextFile(scene.paths.head);
  await scene.record(entry, entry);
  await Deno.writeTextFile(scene.paths.head, head);
  await scene.record(entry);
  assertEquals((await scene.verify()).lines, 6);

  await Deno.writeTextFile(scene.paths.file, '{"sequence":6,"time', { append: true });
  using captured = new CapturedLog();
  await scene.record(entry);
  assertStringIncludes(captured.lines()[0]!, "warning the audit log ended within a line");
  assertEquals((await scene.verify()).lines, 8);
  assertEquals(JSON.parse((await scene.read())[6]!).tornBytes, 19);
});

Deno.test("a log that is moved away goes on in a new file, while the server runs or not", async () => {
  await using scene = await AuditScene.create();
  const { file } = scene.paths;
  {
    await using log = await AuditLog.open(scene.paths);
    await log.record(entry);
    await Deno.rename(file, `${file}.3`);
    await log.record(entry);
    await Deno.rename(file, `${file}.2`);
    log.rotate();
    await log.record(entry);
  }
  await Deno.rename(file, `${file}.1`);
  await scene.record(entry);
  const files = [`${file}.3`, `${file}.2`, `${file}.1`, file];
  const { lines, last, continued } = await scene.verify({ files });
  assertEquals([lines, last.sequence, continued], [8, 7, false]);
  const later = await scene.verify({ files: files.slice(2) });
  assertEquals([later.continued, later.first.sequence], [true, 4]);
  for (const some of [files.toSpliced(1, 1), files.slice(0, 3), files.toReversed()]) {
    await assertRejects(() => scene.verify({ files: some }), VerbsealError);
  }
});

Deno.test("a server whose former file is gone when it starts says up to which line that was", async () => {
  await using scene = await AuditScene.create();
  using captured = new CapturedLog();
  const found = () =>
    captured.records.flatMap(({ properties }) => properties["lastSequence"] ?? []);
  await scene.record(entry);
  assertEquals(found(), []);
  await Deno.remove(scene.paths.file);
  await scene.record(entry);
  assertEquals(found(), [1]);
});

Deno.test("a server that was killed as it began the next file goes on in that", async () => {
  await using scene = await AuditScene.create();
  const { file, head } = scene.paths;
  await scene.record(entry);
  const before = await Deno.readTextFile(head);
  await Deno.rename(file, `${file}.1`);
  await scene.record();
  await Deno.writeTextFile(head, before);
  await scene.record(entry);
  assertEquals((await scene.verify({ files: [`${file}.1`, file] })).lines, 4);
  await Deno.writeTextFile(head, before);
  const [first = "", ...others] = await scene.read();
  await scene.write([first.replace("continue", "continua"), ...others]);
  assertEquals(await failureOf(scene), "audit_head");
});

Deno.test("two servers do not write to one log, nor one that has ended it", async () => {
  await using scene = await AuditScene.create();
  const log = await AuditLog.open(scene.paths);
  assertEquals(await failureOf(scene), "audit_in_use");
  await log[Symbol.asyncDispose]();
  await scene.record();
  await assertRejects(() => log.record(entry), RefusedError);
  assertEquals((await scene.verify()).lines, 1);
});

Deno.test("while lines cannot be written nobody is let in, and then all of them are", async () => {
  await using scene = await AuditScene.create();
  using captured = new CapturedLog();
  const disk = new FailingDisk();
  {
    await using log = await AuditLog.open(scene.paths, disk.open);
    disk.failing = "write";
    await assertRejects(() => log.record(entry), RefusedError, "audit log");
    await assertRejects(() => log.record(entry), RefusedError);
    disk.room = 100; // a line in parts
    disk.failing = undefined;
    const written = () => captured.lines().some((line) => line.includes("can be written again"));
    await eventually("writing is tried again", written, 5000);
    await log.record(entry);
  }
  assertEquals(captured.lines().map((line) => line.split(" ")[0]), ["error", "info", "info"]);
  assertEquals((await scene.verify()).lines, 4);
});

Deno.test("after a sync that failed only a new start helps", async () => {
  await using scene = await AuditScene.create();
  using captured = new CapturedLog();
  const disk = new FailingDisk();
  {
    await using log = await AuditLog.open(scene.paths, disk.open);
    disk.failing = "sync";
    await assertRejects(() => log.record(entry), RefusedError);
    disk.failing = undefined;
    await assertRejects(() => log.record(entry), RefusedError);
  }
  assertStringIncludes(captured.lines("remedy")[0]!, "Start the server again");
  await scene.record(entry);
  assertEquals((await scene.verify()).lines, 3);
});

Deno.test("a log that cannot be written from the start on is an error", async () => {
  await using scene = await AuditScene.create();
  const disk = new FailingDisk();
  disk.failing = "write";
  const { code } = await assertRejects(() => AuditLog.open(scene.paths, disk.open), VerbsealError);
  assertEquals(code, "audit_unwritable");
  const elsewhere = { ...scene.paths, file: `${scene.folder}/missing/audit` };
  const other = await assertRejects(() => AuditLog.open(elsewhere), VerbsealError);
  assertEquals(other.code, "audit_unwritable");
});

Deno.test("a session that calls a service in vain cannot fill the disk either", async () => {
  await using scene = await AuditScene.create();
  const call = { event: "service", service: "files", session: "one", path: "x" } as const;
  const calls = (result: string, session = "one") =>
    Array.from({ length: 60 }, (): AuditEntry => ({ ...call, session, result }));
  await scene.record(...calls("ENOENT"), ...calls("done"), ...calls("ENOENT", "two"));
  const lines = (await scene.read()).map((line) => JSON.parse(line));
  const count = (wanted: Record<string, string>) =>
    lines.filter(({ result, session }) =>
      result === wanted["result"] && session === wanted["session"]
    )
      .length;
  assertEquals(count({ result: "ENOENT", session: "one" }), 51);
  assertEquals(count({ result: "ENOENT", session: "two" }), 51);
  assertEquals(count({ result: "done", session: "one" }), 60);
});

Deno.test("who shows no certificate cannot fill the disk: too many refusals are one line", async () => {
  await using scene = await AuditScene.create();
  const identity = { subject: "CN=known" };
  const alike = (count: number, entry: AuditEntry) => Array.from({ length: count }, () => entry);
  await scene.record(
    ...alike(200, { event: "refused", reason: "not_tls" }),
    ...alike(60, { event: "limit", reason: "connection_rate", identity: "anonymous" }),
    ...alike(60, { event: "refused", reason: "policy", identity }),
  );
  const lines = (await scene.read()).map((line) => JSON.parse(line));
  const count = (wanted: string) => lines.filter(({ reason }) => reason === wanted).length;
  assertEquals(["not_tls", "connection_rate", "policy"].map(count), [51, 51, 60]);
  assertEquals(lines.slice(-2).map(({ event, reason, repeated }) => [event, reason, repeated]), [
    ["refused", "not_tls", 150],
    ["limit", "connection_rate", 10],
  ]);
});

Deno.test("a log that others change while the server runs is noticed with the next line", async () => {
  await using scene = await AuditScene.create();
  using captured = new CapturedLog();
  {
    await using log = await AuditLog.open(scene.paths);
    await log.record(entry);
    await Deno.truncate(scene.paths.file, 100);
    await log.record(entry);
    await log.record(entry);
  }
  const changed = captured.lines().filter((line) => line.includes("was changed by others"));
  assertEquals(changed, ["error the audit log was changed by others"]);
  await assertRejects(() => scene.verify(), VerbsealError);
});

Deno.test("an event that comes as the last of those before is written waits for no later one", async () => {
  await using scene = await AuditScene.create();
  let file!: AuditFile;
  const open = async (path: string) => file = await AuditFile.open(path);
  await using log = await AuditLog.open(scene.paths, open);
  for (let turns = 1; turns < 20; turns++) {
    const { promise: recorded, resolve } = Promise.withResolvers<void>();
    const recordLater = async () => {
      for (let turn = 0; turn < turns; turn++) await null;
      resolve(log.record(entry));
    };
    file.look = () => {
      file.look = () => Promise.resolve("same");
      recordLater();
      return file.look();
    };
    log.rotate(); // looks at the file, and has nothing to write
    await deadline(recorded, 10_000);
    await eventually("all is written", () => headIsAt(scene, turns), 10_000);
  }
});

async function headIsAt({ paths }: AuditScene, sequence: number): Promise<boolean> {
  return (await readAuditHead(paths.head)).sequence === sequence;
}

Deno.test("lines that are too many for a slow disk are refused, and the log tells how many", async () => {
  await using scene = await AuditScene.create();
  using captured = new CapturedLog();
  const disk = new FailingDisk();
  {
    await using log = await AuditLog.open(scene.paths, disk.open);
    const { promise: stalled, resolve: goOn } = Promise.withResolvers<void>();
    disk.stalled = stalled;
    const recorded = [log.record(entry)];
    await eventually("the first one is being written", () => disk.writes === 2, 10_000);
    for (let count = 0; count < 10_005; count++) recorded.push(log.record(entry));
    goOn();
    const results = await Promise.allSettled(recorded);
    assertEquals(results.filter(({ status }) => status === "rejected").length, 5);
  }
  const { lostLines } = JSON.parse((await scene.read()).at(-1)!);
  assertEquals(lostLines, 5);
  assertStringIncludes(captured.lines("lostLines")[0]!, "error lines of the audit log are lost");
});
