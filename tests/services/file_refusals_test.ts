import { assertEquals, assertRejects } from "@std/assert";
import { RefusedError } from "../../lib/errors.ts";
import { assertFailed, failureTest, names, Shared } from "../session/failure_scene.ts";

failureTest("no path leaves the root, and each refusal says why", async (scene) => {
  const { workspace } = scene;
  const { server } = Shared.current;
  await Deno.writeTextFile(workspace.file("secret"), "secret");
  await Deno.writeTextFile(workspace.file("local"), "local");
  await Deno.symlink(workspace.file("secret"), `${workspace.root}/link`);
  await Deno.symlink("..", `${workspace.root}/up`);
  const { files, session } = await scene.client(server);
  const outside = [
    ...["../secret", workspace.file("secret"), "up/secret", "x/../../secret", "missing/x"],
    ...["up", "."],
  ];
  for (const path of [...outside, "link", "missing"]) {
    await assertRejects(() => files.get(session, path, workspace.file("got")), RefusedError, path);
  }
  for (const path of [...outside.filter((path) => path !== "up"), "new/", ".."]) {
    await assertRejects(
      () => files.put(session, workspace.file("local"), path),
      RefusedError,
      path,
    );
  }
  // A link is replaced: what it leads to stays.
  await files.put(session, workspace.file("local"), "link");
  assertEquals(names(workspace.path), ["certs", "local", "root", "secret"]);
  assertEquals(names(workspace.root), ["link", "up"]);
  assertEquals(await Deno.readTextFile(workspace.file("secret")), "secret");

  assertFailed(await scene.run(server, "get", "../secret"), 5, "the path leaves the root");
  assertFailed(await scene.run(server, "put", "nothing-here"), 1, "no such file");
});
