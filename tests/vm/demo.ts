/**
 * `deno task demo`: the main job in a guest with a kernel RDMA device. A server and two clients at
 * once, each with its own numbers; files put and got with equal hashes, messages echoed.
 */
import { compile, EXECUTABLE } from "../../.ci/compile.ts";
import { ensurePackages, PACKAGES } from "../../.ci/packages.ts";
import { errorText, VerbsealError } from "../../lib/errors.ts";
import { runInGuest } from "./guest.ts";
import { fetchModules } from "./modules.ts";

/** Prints the guest's lines that are the demonstration's; the kernel writes to the same console. */
function printer(): (text: string) => void {
  let rest = "";
  return (text) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      const shown = line.match(/^\| (.*)$/)?.[1];
      if (shown !== undefined) console.log(shown.trimEnd());
    }
  };
}

async function demo(): Promise<void> {
  await ensurePackages(PACKAGES.guest, { why: "to boot a guest with a kernel RDMA device" });
  console.log(await compile());
  await fetchModules("tests/vm/demo_in_guest.ts");
  console.log("Booting a guest with a Soft-RoCE device …");
  const { status, output } = await runInGuest({
    script: `deno run -A --no-check --cached-only ${import.meta.dirname}/demo_in_guest.ts`,
    directory: import.meta.dirname!,
    environment: { VERBSEAL: EXECUTABLE },
    onConsole: printer(),
  });
  if (status !== 0) {
    throw new VerbsealError("demo", `the demonstration failed with status ${status}:\n${output}`);
  }
}

if (import.meta.main) {
  try {
    await demo();
  } catch (error) {
    const remedy = error instanceof VerbsealError && error.remedy ? `; ${error.remedy}` : "";
    console.error(`demo: ${errorText(error)}${remedy}`);
    Deno.exit(1);
  }
}
