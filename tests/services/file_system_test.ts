import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "node:path";
import { Memory } from "../../ffi/memory.ts";
import { libc } from "../../ffi/libc.ts";
import { Directory, FileError, NewFile } from "../../lib/services/file_system.ts";
import { eventually } from "../program.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libc();

/** A directory that is served, `root`, beside things that are not. */
class Tree implements Disposable {
  readonly top = Deno.makeTempDirSync({ prefix: "verbseal-" });
  readonly root = join(this.top, "root");
  readonly directory: Directory;

  constructor() {
    Deno.mkdirSync(join(this.root, "inner"), { recursive: true });
    Deno.mkdirSync(join(this.top, "outside"));
    Deno.writeTextFileSync(join(this.top, "outside", "secret"), "secret");
    Deno.writeTextFileSync(join(this.root, "file"), "inside");
    Deno.writeTextFileSync(join(this.root, "inner", "file"), "deeper");
    this.directory = new Directory(this.root, { confined: true });
  }

  path(...parts: string[]): string {
    return join(this.top, ...parts);
  }

  /** Everything below the top, sorted. */
  names(directory = this.top): string[] {
    return [...Deno.readDirSync(directory)].flatMap(({ name, isDirectory }) => {
      const path = join(directory, name);
      return isDirectory ? [path, ...this.names(path)] : [path];
    }).sort();
  }

  [Symbol.dispose](): void {
    this.directory[Symbol.dispose]();
    Deno.removeSync(this.top, { recursive: true });
  }
}

/** Descriptors of this process. */
function openDescriptors(): number {
  return [...Deno.readDirSync("/proc/self/fd")].length;
}

async function contents(directory: Directory, path: string): Promise<string> {
  using file = directory.openFile(path);
  using memory = new Memory(file.size);
  await file.read(memory, 0, file.size, 0);
  return new TextDecoder().decode(memory.bytes.slice());
}

async function write(target: NewFile, text: string): Promise<void> {
  using memory = new Memory(text.length);
  memory.bytes.set(new TextEncoder().encode(text));
  await target.file.write(memory, 0, text.length, 0);
}

/** Permissions of a file. */
function mode(path: string): number {
  return Deno.statSync(path).mode! & 0o7777;
}

function code(attempt: () => unknown): string {
  return assertThrows(attempt, FileError).code;
}

Deno.test("files below the root are read and written, through directories and dots", async () => {
  using tree = new Tree();
  assertEquals(await contents(tree.directory, "file"), "inside");
  assertEquals(await contents(tree.directory, "inner/../inner/./file"), "deeper");
  using target = tree.directory.createFile("inner/new");
  await write(target, "fresh");
  await target.commit();
  assertEquals(Deno.readTextFileSync(tree.path("root", "inner", "new")), "fresh");
});

const outside: [what: string, path: (tree: Tree) => string, code: string][] = [
  ["dots", () => "../outside/secret", "EXDEV"],
  ["dots behind a directory", () => "inner/../../outside/secret", "EXDEV"],
  ["an absolute path", (tree) => tree.path("outside", "secret"), "EXDEV"],
  ["an absolute path to a file below the root", (tree) => tree.path("root", "file"), "EXDEV"],
  ["a link to a file", () => "link", "ELOOP"],
  ["a link to a file below the root", () => "inside-link", "ELOOP"],
  ["a link to a directory", () => "away/secret", "ELOOP"],
  ["a link that starts at the top", () => "absolute-away/secret", "ELOOP"],
];

for (const [what, pathIn, expected] of outside) {
  Deno.test(`${what} leads nowhere, for reading and for writing`, () => {
    using tree = new Tree();
    Deno.symlinkSync("../outside/secret", tree.path("root", "link"));
    Deno.symlinkSync("file", tree.path("root", "inside-link"));
    Deno.symlinkSync("../outside", tree.path("root", "away"));
    Deno.symlinkSync(tree.path("outside"), tree.path("root", "absolute-away"));
    const before = tree.names();
    const path = pathIn(tree);
    assertEquals(code(() => tree.directory.openFile(path)), expected);
    if (path.includes("/")) {
      assertEquals(code(() => tree.directory.createFile(path)), expected);
    }
    assertEquals(tree.names(), before);
  });
}

Deno.test("a file that is written in place of a link replaces the link, not what it leads to", async () => {
  using tree = new Tree();
  Deno.symlinkSync("../outside/secret", tree.path("root", "link"));
  using target = tree.directory.createFile("link");
  await write(target, "mine");
  await target.commit();
  assertEquals(Deno.lstatSync(tree.path("root", "link")).isFile, true);
  assertEquals(Deno.readTextFileSync(tree.path("outside", "secret")), "secret");
});

Deno.test("a directory that is swapped for a link while a file is written does not move the file", async () => {
  using tree = new Tree();
  using target = tree.directory.createFile("inner/new");
  await write(target, "stays");
  Deno.renameSync(tree.path("root", "inner"), tree.path("root", "moved"));
  Deno.symlinkSync("../outside", tree.path("root", "inner"));
  await target.commit();
  assertEquals(Deno.readTextFileSync(tree.path("root", "moved", "new")), "stays");
  assertEquals([...Deno.readDirSync(tree.path("outside"))].length, 1);
});

Deno.test("paths that name no file are refused", () => {
  using tree = new Tree();
  for (const path of ["", "a\0b"]) {
    assertEquals(code(() => tree.directory.openFile(path)), "path");
    assertEquals(code(() => tree.directory.createFile(path)), "path");
  }
  for (const path of [".", "..", "inner/", "inner/.", "inner/..", "/"]) {
    assertEquals(code(() => tree.directory.createFile(path)), "path", path);
  }
  assertEquals(code(() => tree.directory.openFile("inner")), "not_a_file");
  assertEquals(code(() => tree.directory.openFile("missing")), "ENOENT");
  assertEquals(code(() => tree.directory.createFile("missing/new")), "ENOENT");
  assertEquals(code(() => tree.directory.createFile("file/new")), "ENOTDIR");
});

Deno.test("only regular files are read: a FIFO neither blocks nor passes", async () => {
  using tree = new Tree();
  await new Deno.Command("mkfifo", { args: [tree.path("root", "fifo")] }).output();
  const before = openDescriptors();
  assertEquals(code(() => tree.directory.openFile("fifo")), "not_a_file");
  assertEquals(openDescriptors(), before);
});

Deno.test("a file appears under its name when it is committed, and not before", async () => {
  using tree = new Tree();
  using target = tree.directory.createFile("file");
  await write(target, "replacement");
  assertEquals(Deno.readTextFileSync(tree.path("root", "file")), "inside");
  await target.commit();
  assertEquals(Deno.readTextFileSync(tree.path("root", "file")), "replacement");
  assertEquals(tree.names(tree.root).length, 3);
});

Deno.test("a file is its user's alone until it is committed, and then as the umask lets it be", async () => {
  using tree = new Tree();
  using target = tree.directory.createFile("inner/new");
  await write(target, "half");
  const part = tree.names().find((name) => name.endsWith(".part"))!;
  assertEquals(mode(part), 0o600);
  await target.commit();
  assertEquals(mode(tree.path("root", "inner", "new")), 0o666 & ~Deno.umask());
});

Deno.test("a file that is replaced passes its mode on, and never the right to be another user", async () => {
  using tree = new Tree();
  for (const before of [0o600, 0o640, 0o4777]) {
    Deno.chmodSync(tree.path("root", "file"), before);
    using target = tree.directory.createFile("file");
    await write(target, "replacement");
    await target.commit();
    assertEquals(mode(tree.path("root", "file")), before & 0o777);
  }
});

// Nobody but root can give a file away.
if (Deno.uid() === 0) {
  Deno.test("a file that another user has put in the place says nothing of the mode", async () => {
    using tree = new Tree();
    Deno.chmodSync(tree.path("root", "file"), 0o666);
    Deno.chownSync(tree.path("root", "file"), 1234, 5678);
    using target = tree.directory.createFile("file");
    await write(target, "replacement");
    await target.commit();
    assertEquals(mode(tree.path("root", "file")), 0o666 & ~Deno.umask());
  });
}

for (const [what, size] of [["small", 6], ["large", 2 ** 27]] as const) {
  Deno.test(`of a ${what} file that is replaced nothing stays open, and who has it open keeps it`, async () => {
    using tree = new Tree();
    Deno.truncateSync(tree.path("root", "file"), size);
    const before = openDescriptors();
    {
      using old = tree.directory.openFile("file");
      using memory = new Memory(6);
      using target = tree.directory.createFile("file");
      await write(target, "replacement");
      await target.commit();
      assertEquals(await old.read(memory, 0, 6, 0), 6);
      assertEquals(new TextDecoder().decode(memory.bytes), "inside");
    }
    await eventually("none is left open", () => openDescriptors() === before, 5000);
  });
}

Deno.test("the umask is what the process was started with", async () => {
  const module = new URL("../../lib/services/umask.ts", import.meta.url).href;
  const script = `console.log((await import("${module}")).umask())`;
  const { stdout } = await new Deno.Command("sh", {
    args: ["-c", 'umask 027 && exec "$0" eval --no-check "$1"', Deno.execPath(), script],
  }).output();
  assertEquals(new TextDecoder().decode(stdout), `${0o027}\n`);
});

for (const [what, size] of [["small", 6], ["large", 2 ** 27]] as const) {
  Deno.test(`a ${what} file that is not committed leaves nothing, and no descriptor stays open`, async () => {
    using tree = new Tree();
    const before = [tree.names(), openDescriptors()];
    {
      using target = tree.directory.createFile("inner/half");
      await write(target, "half");
      const part = tree.names().find((name) => name.endsWith(".part"))!;
      Deno.truncateSync(part, size);
    }
    await eventually("none is left open", () => openDescriptors() === before[1], 5000);
    assertEquals([tree.names(), openDescriptors()], before);
  });
}

Deno.test("a file that cannot have its name is gone after the attempt", async () => {
  using tree = new Tree();
  const before = [tree.names(), openDescriptors()];
  {
    using target = tree.directory.createFile("inner");
    let reason = "";
    await target.commit().catch((error) => reason = error.code);
    assertEquals(reason, "EISDIR");
  }
  assertEquals([tree.names(), openDescriptors()], before);
});

Deno.test("errors of the system come as sentences about the file", async () => {
  using tree = new Tree();
  using target = tree.directory.createFile("large");
  using memory = new Memory(4096);
  // No file system of Linux holds a file of 2^63 bytes.
  const error = await assertRejects(
    () => target.file.write(memory, 0, 4096, 2 ** 63 - 8192),
    FileError,
    "large: the file would be too large for its file system",
  );
  assertEquals(error.code, "EFBIG");
});

Deno.test("a new file that is given up twice closes no descriptor that is another's by then", () => {
  using tree = new Tree();
  const target = tree.directory.createFile("given-up");
  target[Symbol.dispose]();
  using others = new DisposableStack();
  for (let count = 0; count < 4; count++) {
    others.adopt(Deno.openSync(tree.path("root", "file")), (file) => file.close());
  }
  const before = openDescriptors();
  target[Symbol.dispose]();
  assertEquals(openDescriptors(), before);
});
