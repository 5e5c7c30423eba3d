import { assertEquals, assertMatch } from "@std/assert";
import { AuditScene } from "../security/audit_scene.ts";
import { verbseal } from "./run.ts";

Deno.test("audit verify says how many lines of which time are as the server wrote them", async () => {
  await using scene = await AuditScene.create();
  await scene.lines(5);
  const { file, head } = scene.paths;
  const { code, stdout } = await verbseal("audit", "verify", file);
  assertEquals(code, 0);
  assertMatch(stdout, /^OK: 5 lines, \S+Z to \S+Z, number 0 to 4 of chain \S+\nthe end is as the/);
  const { stdout: json } = await verbseal("audit", "verify", file, "--json");
  const { lines, last, linesAfterHead, files } = JSON.parse(json);
  assertEquals([lines, last.sequence, linesAfterHead, files], [5, 4, 0, [file]]);
  await Deno.remove(head);
  const without = await verbseal("audit", "verify", file);
  assertEquals(without.code, 0);
  assertMatch(without.stdout, /there is no head/);
});

Deno.test("audit verify names the first line that is not, and ends with exit code 6", async () => {
  await using scene = await AuditScene.create();
  const lines = await scene.lines(5);
  await scene.write(lines.with(3, lines[3]!.replace("policy", "closed")));
  const { code, stderr } = await verbseal("audit", "verify", scene.paths.file);
  assertEquals(code, 6);
  assertMatch(stderr, /audit\.jsonl, line 4: it is not as the server wrote it\. Trust only/);
});

Deno.test("audit verify takes a head from the server's log", async () => {
  await using scene = await AuditScene.create();
  const lines = await scene.lines(5);
  const head = { time: "", level: "info", message: "audit head" };
  const kept = `${scene.folder}/kept.json`;
  const known = JSON.parse(await Deno.readTextFile(scene.paths.head));
  await Deno.writeTextFile(kept, JSON.stringify({ ...head, ...known }));
  await scene.write(lines.slice(0, 4));
  await Deno.remove(scene.paths.head);
  const { code, stderr } = await verbseal("audit", "verify", scene.paths.file, "--head", kept);
  assertEquals(code, 6);
  assertMatch(stderr, /was cut off: it ends with number 3 .* up to number 4/);
  const missing = await verbseal("audit", "verify", scene.paths.file, "--head", "missing");
  assertEquals(missing.code, 1);
});
