import { assertEquals, assertMatch } from "@std/assert";
import { jsonLine, textLine } from "../../lib/telemetry/log.ts";
import { AuditScene } from "../security/audit_scene.ts";
import { CapturedLog } from "../telemetry/captured_log.ts";
import { verbseal } from "./run.ts";

Deno.test("audit verify says how many lines of which time are as the server wrote them", async () => {
  await using scene = await AuditScene.create();
  await scene.lines(5);
  const { file } = scene.paths;
  const { code, stdout } = await verbseal("audit", "verify", file);
  assertEquals(code, 0);
  assertMatch(stdout, /^OK: 5 lines, \S+Z to \S+Z, number 0 to 4 of chain \S+\nthe end is as the/);
  const { stdout: json } = await verbseal("audit", "verify", file, "--json");
  const { lines, last, linesAfterHead, files } = JSON.parse(json);
  assertEquals([lines, last.sequence, linesAfterHead, files], [5, 4, 0, [file]]);
});

Deno.test("audit verify passes no log whose end nobody vouches for, and says what would", async () => {
  await using scene = await AuditScene.create();
  const lines = await scene.lines(5);
  const { file, head } = scene.paths;
  await scene.write(lines.slice(0, 4));
  await Deno.remove(head);
  const { code, stdout, stderr } = await verbseal("audit", "verify", file, "--json");
  assertEquals([code, JSON.parse(stdout).error.code], [6, "audit_head_missing"]);
  assertMatch(stderr, /no head \S+audit\.jsonl\.head: 4 lines up to number 3 .* Give --head the/);
  await scene.write(lines.with(1, lines[1]!.replace("policy", "closed")));
  const changed = await verbseal("audit", "verify", file);
  assertEquals(changed.code, 6);
  assertMatch(changed.stderr, /line 2: it is not as the server wrote it/);
});

Deno.test("audit verify names the first line that is not, and ends with exit code 6", async () => {
  await using scene = await AuditScene.create();
  const lines = await scene.lines(5);
  await scene.write(lines.with(3, lines[3]!.replace("policy", "closed")));
  const { code, stderr } = await verbseal("audit", "verify", scene.paths.file);
  assertEquals(code, 6);
  assertMatch(stderr, /audit\.jsonl, line 4: it is not as the server wrote it\. Trust only/);
});

Deno.test("audit verify takes a head from the server's log, in either format", async () => {
  await using scene = await AuditScene.create();
  using log = new CapturedLog();
  const lines = await scene.lines(5);
  const { file, head } = scene.paths;
  const record = await log.logged(({ rawMessage }) => rawMessage === "audit head");
  await Deno.remove(head);
  const whole = await verbseal("audit", "verify", file, "--head", textLine(record));
  assertEquals(whole.code, 0, whole.stderr);
  await scene.write(lines.slice(0, 4));
  const kept = `${scene.folder}/kept`;
  await Deno.writeTextFile(kept, textLine(record) + "\n");
  for (const given of [textLine(record), jsonLine(record), kept]) {
    const { code, stderr } = await verbseal("audit", "verify", file, "--head", given);
    assertEquals(code, 6);
    assertMatch(stderr, /was cut off: it ends with number 3 .* up to number 4/);
  }
  const missing = await verbseal("audit", "verify", file, "--head", "missing");
  assertEquals(missing.code, 1);
});
