/** Builds the container image from the Dockerfile, on a Debian that stands for its base image. */
import { join } from "node:path";
import { cacheDirectory } from "../../../.ci/cache.ts";
import { VerbsealError } from "../../../lib/errors.ts";
import { exists } from "../../../lib/exists.ts";

const project = join(import.meta.dirname!, "..", "..", "..");

/** The image's name, and that of the image the Dockerfile begins with. */
const name = "localhost/verbseal";
const baseName = "docker.io/library/debian:bookworm-slim";

/** Directories that Debian's own slim image leaves empty. */
const manuals = ["doc", "info", "locale", "man"].map((part) => `/usr/share/${part}`);

/** Files by which Debian's own image stays slim, and is quick to install into. */
const slimSettings = {
  "etc/dpkg/dpkg.cfg.d/docker": [
    ...manuals.map((directory) => `path-exclude ${directory}/*`),
    "path-include /usr/share/doc/*/copyright",
    "force-unsafe-io",
  ],
  "etc/apt/apt.conf.d/docker-clean": [
    'Dir::Cache::pkgcache "";',
    'Dir::Cache::srcpkgcache "";',
    'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };',
  ],
};

/** What the image says of itself, in the names of the OCI image specification. */
export interface ImageConfig {
  User: string;
  Env: string[];
  Entrypoint: string[];
  Cmd: string[];
  ExposedPorts: Record<string, unknown>;
  Volumes: Record<string, unknown>;
  Labels: Record<string, string>;
  StopSignal: string;
}

/** The built image, and the tree of a container made of it. Disposing it removes all of it. */
export class ContainerImage implements AsyncDisposable {
  readonly #resources: AsyncDisposableStack;

  private constructor(
    /** Path of the tree. */
    readonly root: string,
    readonly config: ImageConfig,
    resources: AsyncDisposableStack,
  ) {
    this.#resources = resources;
  }

  /**
   * Builds the image, and a container of it.
   *
   * @throws VerbsealError `container` with what the command that failed has said
   */
  static async build(): Promise<ContainerImage> {
    refuseOthersThanRoot();
    await using resources = new AsyncDisposableStack();
    const cache = await cacheDirectory("container");
    // One build at a time, and each begins by clearing what an interrupted one has left.
    const lock = resources.use(await Deno.open(join(cache, "lock"), { create: true, write: true }));
    await lock.lock(true);
    const work = join(cache, "work");
    const removeWork = async () => void await run("rm", ["--recursive", "--force", work]);
    await removeWork();
    resources.defer(removeWork);
    await Deno.mkdir(join(work, "tmp"), { recursive: true });

    const buildah = new Buildah(work);
    await makeBaseImage(buildah, await debian(cache, work));
    const options = [
      "--pull=never",
      "--network=host",
      "--tag",
      name,
      ...await machineVolumes(work),
    ];
    await buildah.run("build", ...options, project);
    const container = await buildah.run("from", "--pull=never", name);
    const root = await buildah.run("mount", container);
    const { OCIv1 } = JSON.parse(await buildah.run("inspect", "--type=image", name));
    return new ContainerImage(root, OCIv1.config, resources.move());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#resources.disposeAsync();
  }
}

function refuseOthersThanRoot(): void {
  if (Deno.uid() === 0) return;
  throw new VerbsealError(
    "container",
    "building the container image takes root: debootstrap makes a Debian that root owns",
    "run the test as root",
  );
}

/** Buildah with storage of its own, which are plain directories: no mount outlives a command. */
class Buildah {
  readonly #storage: string[];
  readonly #environment: Record<string, string>;

  constructor(directory: string) {
    const [root, runRoot, tmp] = ["root", "run", "tmp"].map((part) => join(directory, part));
    this.#storage = [`--root=${root}`, `--runroot=${runRoot}`, "--storage-driver=vfs"];
    this.#environment = { BUILDAH_ISOLATION: "chroot", TMPDIR: tmp! };
  }

  run(...args: string[]): Promise<string> {
    return run("buildah", [...this.#storage, ...args], this.#environment);
  }
}

async function makeBaseImage(buildah: Buildah, archive: string): Promise<void> {
  const empty = await buildah.run("from", "scratch");
  await buildah.run("add", "--quiet", empty, archive);
  await buildah.run("commit", "--quiet", "--rm", empty, baseName);
}

/** Path of a tar of a small Debian, which is made where it is not in the cache. */
async function debian(cache: string, work: string): Promise<string> {
  const archive = join(cache, "debian-bookworm-slim.tar");
  if (await exists(archive)) return archive;
  const tree = join(work, "debian");
  const mirror = await debianMirror();
  const options = ["--variant=minbase", "--force-check-gpg"];
  await run("debootstrap", [...options, "bookworm", tree, ...mirror ? [mirror] : []]);
  for (const [path, lines] of Object.entries(slimSettings)) {
    await Deno.writeTextFile(join(tree, path), `${lines.join("\n")}\n`);
  }
  const excluded = [...manuals, "/dev", "/var/cache/apt", "/var/lib/apt/lists"]
    .map((directory) => `--exclude=.${directory}/*`);
  const part = join(work, "debian.tar");
  await run("tar", ["--directory", tree, ...excluded, "--create", "--file", part, "."]);
  await Deno.rename(part, archive);
  return archive;
}

/** Where this machine's apt gets Debian from; undefined if it gets none. */
async function debianMirror(): Promise<string | undefined> {
  const targets = ["Identifier: Packages", "Origin: Debian", "Label: Debian", "Component: main"];
  const mirrors = await run("apt-get", ["indextargets", "--format", "$(REPO_URI)", ...targets]);
  return mirrors.split("\n")[0] || undefined;
}

/**
 * Options that give the build this machine's way to packages, as far as it has one of its own: apt's
 * settings and mirror, authorities beyond Debian's, and npm's settings. Volumes get into no layer,
 * yet the image believes those authorities in the end, so it is for this test only.
 */
async function machineVolumes(work: string): Promise<string[]> {
  const settings = join(work, "apt.conf");
  await Deno.writeTextFile(settings, await run("apt-config", ["dump", "Acquire"]));
  const volumes = [`${settings}:/etc/apt/apt.conf.d/99machine:ro`];
  const mirror = await debianMirror();
  if (mirror !== undefined) {
    const sources = join(work, "sources.list");
    await Deno.writeTextFile(sources, `deb ${mirror} bookworm main\n`);
    volumes.push(`${sources}:/etc/apt/sources.list:ro`);
  }
  const authorities = "/usr/local/share/ca-certificates";
  if (await exists(authorities)) volumes.push(`${authorities}:${authorities}:ro`);
  const npm = join(Deno.env.get("HOME") ?? "/root", ".npmrc");
  if (await exists(npm)) volumes.push(`${npm}:/root/.npmrc:ro`);
  return volumes.map((volume) => `--volume=${volume}`);
}

/**
 * Runs a command and gives what it printed. It has process numbers and mounts of its own, so that
 * all it has started and mounted goes when it ends, or when this process does.
 */
async function run(
  command: string,
  args: string[],
  env: Record<string, string> = {},
): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command("setpriv", {
    args: [
      ...["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"],
      ...["--mount-proc", command, ...args],
    ],
    env,
    stdin: "null",
  }).output();
  const text = new TextDecoder().decode(stdout);
  if (success) return text.trim();
  const last = (text + new TextDecoder().decode(stderr)).trim().split("\n").slice(-30).join("\n");
  throw new VerbsealError("container", `${command} failed; its last words:\n${last}`);
}
