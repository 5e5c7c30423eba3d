import { dirname, join } from "node:path";
import { assertEquals, assertStringIncludes } from "@std/assert";
import { findImportFaults } from "../.ci/check_imports.ts";

/** Faults of a tree in which each file imports the files that are listed for it. */
async function faultsOf(tree: Record<string, string[]>): Promise<string[]> {
  const root = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(join(root, "deno.json"), "{}");
    for (const [file, targets] of Object.entries(tree)) {
      const path = join(root, file);
      await Deno.mkdir(dirname(path), { recursive: true });
      const lines = targets.map((target) => `import type {} from "${join(root, target)}";\n`);
      await Deno.writeTextFile(path, `${lines.join("")}export {};\n`);
    }
    return await findImportFaults(root);
  } finally {
    await Deno.remove(root, { recursive: true });
  }
}

async function assertRefused(tree: Record<string, string[]>, ...expected: string[]): Promise<void> {
  const faults = await faultsOf(tree);
  for (const text of expected) assertStringIncludes(faults.join("\n"), text);
}

Deno.test("check_imports finds no fault in this repository", async () => {
  assertEquals(await findImportFaults(join(import.meta.dirname ?? ".", "..")), []);
});

Deno.test("check_imports lets arrows skip heights, and all of lib use telemetry and errors", async () => {
  assertEquals(
    await faultsOf({
      "main.ts": ["lib/cli/a.ts"],
      "lib/cli/a.ts": ["lib/rdma/provider.ts", "lib/telemetry/log.ts"],
      "lib/rdma/provider.ts": ["lib/rdma/verbs/a.ts", "lib/rdma/roce/a.ts"],
      "lib/rdma/verbs/a.ts": ["ffi/a.ts", "lib/errors.ts"],
      "lib/rdma/roce/a.ts": ["ffi/a.ts"],
      "lib/telemetry/log.ts": ["lib/errors.ts"],
      "lib/errors.ts": [],
      "ffi/a.ts": [],
    }),
    [],
  );
});

Deno.test("check_imports refuses an arrow that points up, with both files and the rule", async () => {
  assertEquals(
    await faultsOf({ "lib/session/a.ts": ["lib/services/b.ts"], "lib/services/b.ts": [] }),
    [
      "lib/session/a.ts imports lib/services/b.ts: " +
      "arrows point one way, cli → services → session → {control, rdma, security, tls} → ffi",
    ],
  );
});

Deno.test("check_imports refuses ffi that imports errors", async () => {
  await assertRefused(
    { "ffi/a.ts": ["lib/errors.ts"], "lib/errors.ts": [] },
    "ffi/a.ts imports lib/errors.ts: ffi imports nothing of lib",
  );
});

Deno.test("check_imports refuses control that imports rdma", async () => {
  await assertRefused(
    { "lib/control/a.ts": ["lib/rdma/b.ts"], "lib/rdma/b.ts": [] },
    "lib/control/a.ts imports lib/rdma/b.ts: control never imports rdma",
  );
});

Deno.test("check_imports refuses providers that know each other, and others that know both", async () => {
  await assertRefused(
    {
      "lib/rdma/verbs/a.ts": ["lib/rdma/roce/a.ts"],
      "lib/rdma/roce/a.ts": [],
      "lib/session/a.ts": ["lib/rdma/verbs/a.ts", "lib/rdma/roce/a.ts"],
    },
    "lib/rdma/verbs/a.ts imports lib/rdma/roce/a.ts: rdma/verbs and rdma/roce know nothing",
    "lib/session/a.ts imports lib/rdma/roce/a.ts: only rdma/provider.ts knows both",
  );
});

Deno.test("check_imports refuses a circle of files and a circle of directories", async () => {
  await assertRefused(
    {
      "lib/tls/a.ts": ["lib/tls/b.ts"],
      "lib/tls/b.ts": ["lib/tls/a.ts"],
      "lib/control/a.ts": ["lib/security/a.ts"],
      "lib/security/a.ts": [],
      "lib/security/b.ts": ["lib/control/b.ts"],
      "lib/control/b.ts": [],
    },
    "lib/tls/a.ts imports lib/tls/b.ts: lib/tls/b.ts leads back to lib/tls/a.ts",
    "lib/security/b.ts imports lib/control/b.ts: lib/control leads back to lib/security",
  );
});

Deno.test("check_imports refuses a program that imports its tests", async () => {
  await assertRefused(
    { "lib/cli/a.ts": ["tests/b.ts"], "tests/b.ts": [] },
    "lib/cli/a.ts imports tests/b.ts: one of the two is in no place of the design",
  );
});
