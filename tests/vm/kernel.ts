/** Debian's kernel and a small initramfs for the guests, unpacked once into the user's cache. */
import { join } from "node:path";
import { encodeHex } from "@std/encoding/hex";
import { cacheDirectory } from "../../.ci/cache.ts";
import { VerbsealError } from "../../lib/errors.ts";
import { exists } from "../../lib/exists.ts";

/** What QEMU needs to boot, and what the guest needs to load modules: absolute paths. */
export interface GuestKernel {
  image: string;
  initramfs: string;
  /** Directory that stands for /lib/modules/VERSION in the guest. */
  modules: string;
}

/** What must be loaded before the host's files are reachable, with all that these depend on. */
const BOOT_MODULES = ["virtio_pci", "9p", "9pnet_virtio", "overlay"];
const BUSYBOX = "/bin/busybox";

/**
 * Fetches and unpacks Debian's kernel package and builds the initramfs, where they are not in the
 * cache yet. Several processes may do this at once: each works in a directory of its own and
 * renames it into place.
 *
 * @throws VerbsealError `guest_kernel` if the package cannot be fetched or unpacked
 */
export async function prepareKernel(): Promise<GuestKernel> {
  if (Deno.build.arch !== "x86_64") {
    throw new VerbsealError(
      "guest_kernel",
      `guests exist for x86_64 only, and this machine is ${Deno.build.arch}`,
      "run the host tests alone: deno task test host",
    );
  }
  const cache = await cacheDirectory("vm");
  const kernel = join(cache, "kernel");
  if (!(await exists(kernel))) await unpackKernel(cache, kernel);
  const version = await moduleVersion(kernel);
  return {
    image: join(kernel, "boot", `vmlinuz-${version}`),
    initramfs: await buildInitramfs(cache, kernel, version),
    modules: join(kernel, "lib", "modules", version),
  };
}

async function unpackKernel(cache: string, kernel: string): Promise<void> {
  const work = await Deno.makeTempDir({ dir: cache, prefix: "unpacking-" });
  try {
    const archive = await downloadKernelPackage(work);
    const tree = join(work, "kernel");
    await run("dpkg-deb", ["-x", archive, tree]);
    await run("depmod", ["-b", tree, await moduleVersion(tree)]);
    await renameUnlessThere(tree, kernel);
  } finally {
    await Deno.remove(work, { recursive: true });
  }
}

async function downloadKernelPackage(directory: string): Promise<string> {
  try {
    return await downloadOnce(directory);
  } catch (error) {
    // Package lists that are missing or old name no version that the mirror still has.
    if (Deno.uid() !== 0) throw error;
    await run("apt-get", ["update", "-qq"]);
    return await downloadOnce(directory);
  }
}

async function downloadOnce(directory: string): Promise<string> {
  // linux-image-amd64 is a name that depends on the package of the current version.
  const depends = await run("apt-cache", ["depends", "linux-image-amd64"]);
  const name = /Depends: (linux-image-\S+)/.exec(depends)?.[1];
  if (name === undefined) {
    throw new VerbsealError(
      "guest_kernel",
      "the package lists of this machine have no linux-image-amd64 (guests boot Debian's kernel)",
      "run apt-get update on Debian",
    );
  }
  await run("apt-get", ["download", "-qq", name], directory);
  for await (const entry of Deno.readDir(directory)) {
    if (entry.name.endsWith(".deb")) return join(directory, entry.name);
  }
  throw new VerbsealError("guest_kernel", `apt-get download ${name} left no package behind`);
}

async function moduleVersion(kernel: string): Promise<string> {
  for await (const entry of Deno.readDir(join(kernel, "lib", "modules"))) return entry.name;
  throw new VerbsealError("guest_kernel", `${kernel} has no modules`, `remove ${kernel}`);
}

async function buildInitramfs(cache: string, kernel: string, version: string): Promise<string> {
  const init = new URL("./init", import.meta.url);
  const target = join(cache, `initramfs-${version}-${await digest(init, BUSYBOX)}.gz`);
  if (await exists(target)) return target;
  const work = await Deno.makeTempDir({ dir: cache, prefix: "initramfs-" });
  try {
    const root = join(work, "root");
    for (const directory of ["bin", "proc", "sys", "dev", "lower", "changes", "root", "modules"]) {
      await Deno.mkdir(join(root, directory), { recursive: true });
    }
    await Deno.copyFile(BUSYBOX, join(root, "bin", "busybox"));
    await Deno.copyFile(init, join(root, "init"));
    await Deno.chmod(join(root, "init"), 0o755);
    const modules = await bootModules(kernel, version);
    for (const [index, file] of modules.entries()) {
      const order = String(index).padStart(3, "0");
      await Deno.copyFile(file, join(root, "modules", `${order}.ko`));
    }
    await run("bash", [
      "-c",
      "set -o pipefail; find . | cpio --quiet -o -H newc | gzip -1 > ../initramfs.gz",
    ], root);
    await Deno.rename(join(work, "initramfs.gz"), target);
  } finally {
    await Deno.remove(work, { recursive: true });
  }
  return target;
}

/** Module files in the order in which they have to be loaded. */
async function bootModules(kernel: string, version: string): Promise<string[]> {
  const files = new Set<string>();
  for (const name of BOOT_MODULES) {
    const plan = await run("modprobe", ["-d", kernel, "-S", version, "--show-depends", name]);
    for (const match of plan.matchAll(/^insmod (\S+)/gm)) {
      if (match[1] !== undefined) files.add(match[1]);
    }
  }
  return [...files];
}

async function digest(...files: (URL | string)[]): Promise<string> {
  const contents = await Promise.all(files.map((file) => Deno.readFile(file)));
  const hash = await crypto.subtle.digest("SHA-256", await new Blob(contents).arrayBuffer());
  return encodeHex(hash).slice(0, 16);
}

async function renameUnlessThere(from: string, to: string): Promise<void> {
  try {
    await Deno.rename(from, to);
  } catch (error) {
    // Another process was faster: its tree is as good as ours.
    if (!(await exists(to))) throw error;
  }
}

async function run(program: string, args: string[], cwd?: string): Promise<string> {
  // depmod and modprobe are in directories that only root has in its PATH.
  const env = { PATH: `${Deno.env.get("PATH")}:/usr/sbin:/sbin` };
  const command = new Deno.Command(program, { args, env, stdin: "null", ...(cwd && { cwd }) });
  const { success, stdout, stderr } = await command.output();
  if (!success) {
    throw new VerbsealError(
      "guest_kernel",
      `${program} ${args.join(" ")} failed: ${new TextDecoder().decode(stderr).trim()}`,
      "check that this machine reaches its Debian mirror",
    );
  }
  return new TextDecoder().decode(stdout);
}
