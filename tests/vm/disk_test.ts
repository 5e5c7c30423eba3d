import { assertEquals } from "@std/assert";
import { randomFile } from "../program.ts";
import {
  assertFailed,
  command,
  failureTest,
  names,
  type Scene,
  Shared,
} from "../session/failure_scene.ts";

/** A file system with room for so many bytes. */
async function smallDisk(scene: Scene, path: string, bytes: number): Promise<void> {
  await Deno.mkdir(path);
  await command("mount", "-t", "tmpfs", "-o", `size=${bytes}`, "tmpfs", path);
  scene.defer(() => command("umount", path));
}

failureTest("a full disk is told on either side, and nothing half-written stays", async (scene) => {
  const { workspace } = scene;
  const { server } = Shared.current;
  await smallDisk(scene, `${workspace.root}/small`, 1_000_000);
  await smallDisk(scene, workspace.file("little"), 1_000_000);
  await randomFile(workspace.file("large"), 3_000_000);
  await randomFile(`${workspace.root}/large`, 3_000_000);
  assertFailed(await scene.run(server, "put", "large", "small/x"), 5, "the disk is full");
  assertFailed(await scene.run(server, "get", "large", "little/x"), 1, "the disk is full");
  assertEquals([names(`${workspace.root}/small`), names(workspace.file("little"))], [[], []]);
});
