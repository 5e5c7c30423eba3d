import { delay } from "@std/async/delay";
import { WatchedFiles } from "../../lib/tls/watched_files.ts";
import { withFolder } from "./openssl.ts";

/** Waits until a change of `path` that `change` makes is told. */
async function told(path: string, change: () => Promise<void>): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  using _watched = new WatchedFiles([path], resolve);
  await change();
  await promise;
  // Deno's watcher ends its iteration in its own time.
  await delay(0);
}

/** Has a link point to something else at once. */
async function relink(target: string, link: string): Promise<void> {
  await Deno.symlink(target, `${link}.new`);
  await Deno.rename(`${link}.new`, link);
}

/** A folder with the files of two releases. */
function withReleases(test: (folder: string) => Promise<void>): Promise<void> {
  return withFolder(async (folder) => {
    for (const release of ["1", "2"]) {
      await Deno.mkdir(`${folder}/${release}`);
      await Deno.writeTextFile(`${folder}/${release}/server.pem`, release);
    }
    await test(folder);
  });
}

Deno.test("a file is seen to change that an orchestrator mounts", () =>
  withReleases(async (folder) => {
    await Deno.symlink("1", `${folder}/..data`);
    await Deno.symlink("..data/server.pem", `${folder}/server.pem`);
    await told(`${folder}/server.pem`, () => relink("2", `${folder}/..data`));
  }));

Deno.test("a file is seen to change through a link in another folder", () =>
  withReleases(async (folder) => {
    await Deno.symlink("1", `${folder}/live`);
    await Deno.mkdir(`${folder}/etc`);
    await Deno.symlink("../live/server.pem", `${folder}/etc/server.pem`);
    await told(`${folder}/etc/server.pem`, () => relink("2", `${folder}/live`));
  }));

Deno.test("a file is seen to change in a folder that never rests", () =>
  withReleases(async (folder) => {
    const busy = setInterval(() => Deno.writeTextFileSync(`${folder}/1/log`, "."), 50);
    try {
      const file = `${folder}/1/server.pem`;
      await told(file, () => Deno.writeTextFile(file, "renewed"));
    } finally {
      clearInterval(busy);
    }
  }));
