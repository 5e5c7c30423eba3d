import { assertThrows } from "@std/assert";
import { library, LibraryError } from "../../ffi/library.ts";

Deno.test("a library that is not installed is named together with the package to install", () => {
  const missing = library(
    { sonames: ["libnothing.so.1", "libnothing.so.0"], package: "nothing1" },
    {},
  );
  const error = assertThrows(missing, LibraryError, "libnothing.so.1 or libnothing.so.0");
  if (!error.remedy.includes("apt-get install nothing1")) throw new Error(error.remedy);
});

Deno.test("a library in the current folder is not taken for one of the system's", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/planted.c`, "void planted(void) {}\n");
    const { success } = await new Deno.Command("cc", {
      args: ["-shared", "-fPIC", "-o", "libplanted.so.1", "planted.c"],
      cwd: folder,
    }).output();
    if (!success) throw new Error("the C compiler failed");
    const script = `
      import { library } from ${JSON.stringify(import.meta.resolve("../../ffi/library.ts"))};
      library({ sonames: ["libplanted.so.1"], package: "none" }, {})();`;
    await Deno.writeTextFile(`${folder}/load.ts`, script);
    const { stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--allow-ffi", `${folder}/load.ts`],
      cwd: folder,
    }).output();
    const text = new TextDecoder().decode(stderr);
    if (!text.includes("libplanted.so.1 cannot be loaded")) throw new Error(text);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
