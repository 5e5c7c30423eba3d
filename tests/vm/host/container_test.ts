import { assert, assertEquals } from "@std/assert";
import { format } from "@std/fmt/bytes";
import { join } from "node:path";
import { runInGuest } from "../guest.ts";
import { ContainerImage, type ImageConfig } from "./container_image.ts";

Deno.test("the Dockerfile builds an image", async (test) => {
  await using image = await ContainerImage.build();
  await test.step("it holds the executable, and nothing of what built it", () => {
    return checkFiles(image.root);
  });
  await test.step("it says what it is, and runs as a user of its own", () => {
    return checkConfig(image.config);
  });
  await test.step("its containers pass the tests of container_guest.ts in a guest", () => {
    return testInGuest(image);
  });
});

async function checkFiles(root: string): Promise<void> {
  let bytes = 0;
  const names = new Set<string>();
  for await (const { name, size } of filesBelow(root)) {
    names.add(name);
    bytes += size;
  }
  for (const name of ["verbseal", "libibverbs.so.1", "librdmacm.so.1", "libmlx5-rdmav34.so"]) {
    assert(names.has(name), `${name} is missing`);
  }
  for (const name of ["node", "nodejs", "npm", "npx", "deno", "deno.json", "main.ts", ".npm"]) {
    assert(!names.has(name), `there is a file ${name}`);
  }
  assert(bytes < 220e6, `its files have ${format(bytes)}`);
}

/** All files below a directory, at any depth, by their own names. */
async function* filesBelow(directory: string): AsyncGenerator<{ name: string; size: number }> {
  for await (const { name, isDirectory } of Deno.readDir(directory)) {
    const path = join(directory, name);
    yield { name, size: (await Deno.lstat(path)).size };
    if (isDirectory) yield* filesBelow(path);
  }
}

async function checkConfig(config: ImageConfig): Promise<void> {
  const { version, license } = JSON.parse(await Deno.readTextFile("deno.json"));
  const label = (name: string) => config.Labels[`org.opencontainers.image.${name}`];
  assertEquals(
    [label("title"), label("version"), label("licenses")],
    ["Verbseal", version, license],
  );
  assertEquals(config.User, "65532:65532");
  assertEquals(Object.keys(config.ExposedPorts), ["4433/tcp"]);
  assertEquals(Object.keys(config.Volumes).sort(), ["/etc/verbseal", "/srv/verbseal"]);
  assertEquals(config.StopSignal, "SIGTERM");
}

async function testInGuest({ root, config }: ContainerImage): Promise<void> {
  const tests = "tests/vm/host/container_guest.ts";
  // The guest has no network to fetch modules from.
  const cached = await new Deno.Command(Deno.execPath(), { args: ["cache", tests] }).output();
  assert(cached.success, new TextDecoder().decode(cached.stderr));
  const { status, output } = await runInGuest({
    script: `exec deno test -A --no-check --cached-only ${tests}`,
    environment: {
      VERBSEAL: Deno.env.get("VERBSEAL") ?? "build/verbseal",
      IMAGE_ROOT: root,
      IMAGE_CONFIG: JSON.stringify(config),
    },
    timeout: 300,
  });
  assertEquals(status, 0, output);
}
