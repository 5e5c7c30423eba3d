/**
 * Tests that container_test.ts runs in a guest. A container here is the image's tree with what an
 * engine mounts into it, and its programs run there as the image says: user, variables, command.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { TextLineStream } from "@std/streams/text-line-stream";
import { join } from "node:path";
import { randomFile, run, sha256 } from "../../program.ts";
import { provider } from "../../provider.ts";
import type { ImageConfig } from "./container_image.ts";

const root = Deno.env.get("IMAGE_ROOT")!;
const config: ImageConfig = JSON.parse(Deno.env.get("IMAGE_CONFIG")!);

// What every container gets.
await mount("-t", "proc", "proc", "/proc");
await mount("-t", "sysfs", "-o", "ro", "sys", "/sys");
await mount("-t", "tmpfs", "tmpfs", "/dev");
for (const device of ["null", "zero", "full", "random", "urandom"]) {
  await Deno.writeFile(join(root, "dev", device), new Uint8Array());
  await mount("--bind", `/dev/${device}`, `/dev/${device}`);
}

/** Gives the container the RDMA devices, as `--device /dev/infiniband` does. */
async function addDevices(): Promise<void> {
  await Deno.mkdir(join(root, "dev/infiniband"), { recursive: true });
  await mount("--bind", "/dev/infiniband", "/dev/infiniband");
}

async function mount(...args: string[]): Promise<void> {
  const target = join(root, args.pop()!);
  const { success, stderr } = await new Deno.Command("mount", { args: [...args, target] }).output();
  assert(success, new TextDecoder().decode(stderr));
}

/** The image's entry point in the container, with arguments in place of the image's command. */
function inContainer(args: string[]): Deno.Command {
  const program = ["env", "--ignore-environment", ...config.Env, ...config.Entrypoint, ...args];
  return new Deno.Command("chroot", {
    args: [`--userspec=${config.User}`, root, ...program],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  });
}

async function runInContainer(...args: string[]) {
  const { code, stdout, stderr } = await inContainer(args).output();
  const decoder = new TextDecoder();
  return { status: code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

Deno.test("the program in the image says its version", async () => {
  const { version } = JSON.parse(await Deno.readTextFile("deno.json"));
  const { status, stdout, stderr } = await runInContainer("--version");
  assertEquals([status, stderr], [0, ""]);
  assertStringIncludes(stdout, version);
});

Deno.test("a container that was given no device has the embedded provider, and says so", async () => {
  const { status, stdout, stderr } = await runInContainer("devices");
  assertEquals([status, stderr], [0, ""]);
  assertStringIncludes(stdout, "embedded provider");
  assertStringIncludes(stdout, "there is no RDMA device");
});

Deno.test("a server in a container serves a transfer over RDMA", async () => {
  await addDevices();
  const certificates = ["--directory", "/etc/verbseal", "--host", provider.address];
  const certs = await runInContainer("certs", "init", ...certificates);
  assertEquals(certs.status, 0, certs.stderr);

  await using server = inContainer(config.Cmd).spawn();
  await server.stdout.cancel();
  const log = server.stderr.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream());
  const lines = log.getReader();
  assertStringIncludes((await lines.read()).value ?? "it has ended", "listening");

  const bytes = 2_000_000;
  const directory = await Deno.makeTempDir();
  await randomFile(join(directory, "file"), bytes);
  const hash = await sha256(join(directory, "file"));
  const before = await packetsReceived();
  const authority = join(root, "etc/verbseal/ca.pem");
  const client = (command: string, ...args: string[]) =>
    run(["client", command, provider.address, ...args, "--ca", authority], { cwd: directory });
  const put = await client("put", "file");
  assertEquals([put.status, put.stderr], [0, ""]);
  assertEquals(await sha256(join(root, "srv/verbseal/file")), hash);
  const get = await client("get", "file", "copy");
  assertEquals([get.status, get.stderr], [0, ""]);
  assertEquals(await sha256(join(directory, "copy")), hash);
  const packets = await packetsReceived() - before;
  assert(packets > 2 * bytes / 4096, `only ${packets} packets came over RDMA`);

  server.kill(config.StopSignal as Deno.Signal);
  assertEquals((await server.status).code, 0);
  await lines.cancel();
});

/** Packets that the guest's RDMA port has received: both ends of a session there use it. */
async function packetsReceived(): Promise<number> {
  const counter = "/sys/class/infiniband/rxe0/ports/1/hw_counters/rcvd_pkts";
  return Number(await Deno.readTextFile(counter));
}
