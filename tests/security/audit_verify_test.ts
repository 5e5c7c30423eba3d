import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import fc from "fast-check";
import { IntegrityError, VerbsealError } from "../../lib/errors.ts";
import { readAuditKey } from "../../lib/security/audit_key_and_head.ts";
import { verifyAudit } from "../../lib/security/audit_verify.ts";
import { AuditScene } from "./audit_scene.ts";

const COUNT = 9;
const position = fc.nat({ max: COUNT - 1 });

/** What may happen to lines: gives them as they are afterwards. */
const tampering: fc.Arbitrary<(lines: readonly string[]) => string[]> = fc.oneof(
  fc.tuple(position, fc.nat(), fc.integer({ min: 1, max: 255 })).map(([at, place, difference]) =>
  (
    lines: readonly string[],
  ) => lines.with(at, changed(lines[at]!, place, difference))),
  fc.tuple(position, fc.integer({ min: 1, max: COUNT })).map(([at, count]) =>
  (
    lines: readonly string[],
  ) => lines.toSpliced(at, count)),
  fc.tuple(position, position).filter(([one, other]) => one !== other).map(([one, other]) =>
  (
    lines: readonly string[],
  ) => lines.with(one, lines[other]!).with(other, lines[one]!)),
  fc.tuple(position, position).map(([at, of]) => (lines: readonly string[]) =>
    lines.toSpliced(at, 0, lines[of]!)
  ),
);

/** With one byte of it another, which neither ends the line nor is more than one byte. */
function changed(line: string, place: number, difference: number): string {
  const at = place % line.length;
  const other = String.fromCharCode((line.charCodeAt(at) ^ (difference & 0x7f)) & 0x7f);
  const replaced = other === "\n" || other === line[at] ? "~" : other;
  return line.slice(0, at) + (replaced === line[at] ? "!" : replaced) + line.slice(at + 1);
}

Deno.test("no line is changed, removed, cut off, swapped or repeated without being found", async () => {
  await using scene = await AuditScene.create();
  const lines = await scene.lines(COUNT);
  assertEquals((await scene.verify()).lines, COUNT);
  await fc.assert(
    fc.asyncProperty(tampering, async (tamper) => {
      await scene.write(tamper(lines));
      await assertRejects(() => scene.verify(), IntegrityError);
    }),
    { numRuns: 500 },
  );
});

Deno.test("the first line that is not as it was is named, and what happened to it", async () => {
  await using scene = await AuditScene.create();
  const lines = await scene.lines(COUNT);
  const forged = lines[4]!.replace("10.0.0.3", "10.0.0.9");
  const cases: [code: string, place: string, lines: string[]][] = [
    ["audit_changed", "line 5:", lines.with(4, forged)],
    ["audit_changed", "line 5:", lines.with(4, "nonsense")],
    ["audit_changed", "line 9:", lines.with(8, lines[8]!.replace("policy", "closed"))],
    ["audit_removed", "line 4:", lines.toSpliced(3, 2)],
    ["audit_removed", "line 1:", lines.slice(1)],
    ["audit_inserted", "line 5:", lines.toSpliced(4, 0, forged)],
    ["audit_inserted", "line 5:", lines.toSpliced(4, 0, lines[2]!)],
    ["audit_inserted", "line 5:", lines.toSpliced(4, 0, "nonsense")],
    ["audit_swapped", "line 4:", lines.with(3, lines[4]!).with(4, lines[3]!)],
    ["audit_cut_off", "ends with number 6", lines.slice(0, 7)],
    ["audit_cut_off", "has no line", []],
  ];
  for (const [code, place, tampered] of cases) {
    await scene.write(tampered);
    const error = await assertRejects(() => scene.verify(), IntegrityError);
    assertEquals(error.code, code);
    assertStringIncludes(error.message, place);
  }
});

Deno.test("without the head, only lines that are cut off at the end are not missed", async () => {
  await using scene = await AuditScene.create();
  const lines = await scene.lines(COUNT);
  await scene.write(lines.slice(0, 5));
  const report = await scene.verify({ head: false });
  assertEquals([report.lines, report.linesAfterHead], [5, undefined]);
});

Deno.test("a line that was not finished is torn, not forged, and a cut that reaches behind the head is one", async () => {
  await using scene = await AuditScene.create();
  const lines = await scene.lines(COUNT);
  await Deno.writeTextFile(scene.paths.file, '{"sequence":9,"ti', { append: true });
  const { tornBytes, linesAfterHead } = await scene.verify();
  assertEquals([tornBytes, linesAfterHead], [17, 0]);
  await Deno.writeTextFile(scene.paths.file, lines.join("\n").slice(0, -10));
  const error = await assertRejects(() => scene.verify(), IntegrityError);
  assertEquals(error.code, "audit_cut_off");
});

Deno.test("lines of another chain, or under another key, do not pass", async () => {
  await using scene = await AuditScene.create();
  await using other = await AuditScene.create();
  await scene.lines(COUNT);
  const theirs = await other.lines(COUNT);
  const key = await readAuditKey(other.paths.key);
  const wrongKey = await assertRejects(() => verifyAudit([scene.paths.file], key), IntegrityError);
  assertEquals(wrongKey.code, "audit_key");
  await scene.write(theirs);
  const error = await assertRejects(() => scene.verify(), IntegrityError);
  assertEquals(error.code, "audit_other_chain");
});

Deno.test("a long log is checked line by line, whatever stands where chunks meet", async () => {
  await using scene = await AuditScene.create();
  const long = "é".repeat(3000);
  await scene.record(
    ...Array.from({ length: 300 }, () => ({ event: "service" as const, path: long })),
  );
  assertEquals((await scene.verify()).lines, 301);
  await Deno.writeTextFile(scene.paths.file, "x".repeat(3 * 2 ** 20), { append: true });
  const error = await assertRejects(() => scene.verify(), IntegrityError);
  assertEquals(error.code, "audit_changed");
});

Deno.test("an audit log that is not there, or a head that is none, is no forgery", async () => {
  await using scene = await AuditScene.create();
  await scene.lines(2);
  const missing = await assertRejects(
    () => scene.verify({ files: [`${scene.folder}/other`] }),
    VerbsealError,
  );
  assertEquals(missing.code, "audit_unreadable");
  assert(!(missing instanceof IntegrityError));
  await Deno.writeTextFile(scene.paths.head, "{}");
  const head = await assertRejects(() => scene.verify(), VerbsealError);
  assertEquals(head.code, "audit_head");
});

Deno.test("a line of another log with the same key and number does not pass", async () => {
  await using scene = await AuditScene.create();
  await using other = await AuditScene.create();
  const lines = await scene.lines(COUNT);
  await Deno.copyFile(scene.paths.key, other.paths.key);
  const theirs = await other.lines(COUNT);
  await scene.write(lines.with(4, theirs[4]!));
  const error = await assertRejects(() => scene.verify(), IntegrityError);
  assertEquals(error.code, "audit_changed");
});
