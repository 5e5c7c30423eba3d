import { assert, assertEquals } from "@std/assert";
import { libc } from "../../ffi/libc.ts";
import { libcryptoSha256 } from "../../ffi/libcrypto_sha256.ts";
import { FileHash } from "../../lib/services/file_hash.ts";
import { Directory } from "../../lib/services/file_system.ts";
import { type UnfinishedFile, UnfinishedFiles } from "../../lib/services/unfinished_files.ts";
import { defaultLimits } from "../../lib/session/limits.ts";
import { eventually } from "../program.ts";

// Loaded once for the process: Deno's sanitizers would count it for the test that is first.
libc();
libcryptoSha256();

const never = () => {
  throw new Error("nobody else wants it");
};

/** A directory, and what is kept of its files. */
class Scene implements Disposable {
  readonly path = Deno.makeTempDirSync({ prefix: "verbseal-" });
  readonly directory = new Directory(this.path, { confined: true });
  readonly files: UnfinishedFiles;

  constructor(seconds = defaultLimits.unfinishedSeconds) {
    this.files = new UnfinishedFiles({ ...defaultLimits, unfinishedSeconds: seconds });
  }

  create(name: string): UnfinishedFile {
    return { file: this.directory.createFile(name), hash: new FileHash(), size: 100 };
  }

  name(token: string, identity = "alice", place = "file") {
    return { identity, owner: identity, token, place };
  }

  /** A put that ends in the middle. */
  async leave(token: string, identity?: string): Promise<UnfinishedFile> {
    const claim = await this.files.claim(this.name(token, identity), never);
    const unfinished = this.create(`${identity}-${token}`);
    claim.release(unfinished);
    return unfinished;
  }

  /** Files on the disk, all of which have temporary names. */
  get left(): number {
    return [...Deno.readDirSync(this.path)].length;
  }

  [Symbol.dispose](): void {
    this.files[Symbol.dispose]();
    assertEquals(this.left, 0);
    this.directory[Symbol.dispose]();
    Deno.removeSync(this.path);
  }
}

Deno.test("an unfinished file is the next put's of the same client, token and place, and no other's", async () => {
  using scene = new Scene();
  const left = await scene.leave("one");
  const others = [
    scene.name("two"),
    scene.name("one", "bob"),
    scene.name("one", "alice", "another"),
  ];
  for (const other of others) {
    assertEquals((await scene.files.claim(other, never)).unfinished, undefined);
  }
  const claim = await scene.files.claim(scene.name("one"), never);
  assert(claim.unfinished === left);
  claim.release();
  left.file[Symbol.dispose]();
  assertEquals((await scene.files.claim(scene.name("one"), never)).unfinished, undefined);
});

Deno.test("an unfinished file is gone when nobody came for it in time", async () => {
  using scene = new Scene(0.2);
  await scene.leave("one");
  assertEquals(scene.left, 1);
  await eventually("the file is gone", () => scene.left === 0, 1000);
  assertEquals((await scene.files.claim(scene.name("one"), never)).unfinished, undefined);
});

Deno.test("a put that is still under way gives up when its client comes again", async () => {
  using scene = new Scene();
  const unfinished = scene.create("half");
  const asked = Promise.withResolvers<void>();
  const first = await scene.files.claim(scene.name("one"), asked.resolve);
  const second = scene.files.claim(scene.name("one"), never);
  await asked.promise;
  first.release(unfinished);
  const claim = await second;
  assert(claim.unfinished === unfinished);
  claim.release(unfinished);
});

Deno.test("an identity has so many, and the longest unfinished one makes room for the next", async () => {
  using scene = new Scene();
  await scene.leave("other", "bob");
  for (let count = 0; count < 2 * defaultLimits.unfinishedFilesPerIdentity; count++) {
    await scene.leave(`${count}`, "alice");
  }
  assertEquals(scene.left, 1 + defaultLimits.unfinishedFilesPerIdentity);
  assert((await scene.files.claim(scene.name("0"), never)).unfinished === undefined);
  const kept = await scene.files.claim(scene.name("other", "bob"), never);
  assert(kept.unfinished !== undefined, "another identity's stays");
  kept.release(kept.unfinished);
});

Deno.test("clients without an identity have their addresses' quotas, and one address drives out no other's", async () => {
  using scene = new Scene();
  const leave = async (token: string, owner: string) => {
    const name = { ...scene.name(token, "anonymous"), owner };
    (await scene.files.claim(name, never)).release(scene.create(token));
  };
  await leave("other", "192.0.2.1");
  for (let count = 0; count < 2 * defaultLimits.unfinishedFilesPerIdentity; count++) {
    await leave(`${count}`, "192.0.2.2");
  }
  const moved = { ...scene.name("other", "anonymous"), owner: "192.0.2.3" };
  const { unfinished, release } = await scene.files.claim(moved, never);
  assert(unfinished !== undefined, "it is there, also for a client that has another address now");
  release(unfinished);
});

Deno.test("no more wait than there may be in all", async () => {
  using scene = new Scene();
  for (let count = 0; count < defaultLimits.unfinishedFiles + 10; count++) {
    await scene.leave("one", `client-${count}`);
  }
  assertEquals(scene.left, defaultLimits.unfinishedFiles);
});
