/** System packages that tests, guests and the container need, on Debian and its relatives. */
import { VerbsealError } from "../lib/errors.ts";
import { exists } from "../lib/exists.ts";

const LIBRARIES = [
  "libibverbs1",
  "ibverbs-providers",
  "librdmacm1",
  "libffi8",
  "libssl3",
  "openssl",
];

/** Packages by what they are for. */
export const PACKAGES = {
  /** The executable itself, and certificates to compare with. */
  libraries: LIBRARIES,
  /** C programs that check struct layouts. */
  headers: [
    ...["gcc", "libc6-dev", "libibverbs-dev", "librdmacm-dev", "libffi-dev", "libssl-dev"],
    "libp11-kit-dev",
  ],
  /** Shells whose completion is tried. */
  shells: ["zsh", "fish"],
  /** A token in software, and how OpenSSL uses the keys in it. */
  tokens: ["softhsm2", "libengine-pkcs11-openssl"],
  /** Other programs that speak TLS, besides openssl and Node, which comes with npx. */
  tls: ["curl"],
  /** What the kernel says of network interfaces, to compare with. */
  interfaces: ["ethtool"],
  /** Guests, and the tools that run inside. */
  guest: [
    ...["qemu-system-x86", "busybox-static", "cpio", "kmod", "iproute2"],
    ...LIBRARIES,
    ...["ibverbs-utils", "rdmacm-utils", "perftest"],
  ],
  /** Programs that benches on the host are compared with. */
  bench: ["iperf3", "sockperf"],
  /** What copies files beside Verbseal. */
  ssh: [...LIBRARIES, "openssh-server", "openssh-client"],
  /** Reading what crossed a wire. */
  wire: ["tshark"],
  /** Building the container image. */
  container: ["buildah", "debootstrap", "debian-archive-keyring"],
} as const;

/** A program by which a package is known where there is no apt. */
const PROGRAMS: Record<string, string> = {
  "openssl": "openssl",
  "curl": "curl",
  "gcc": "gcc",
  "ethtool": "ethtool",
  "softhsm2": "softhsm2-util",
  "zsh": "zsh",
  "fish": "fish",
  "qemu-system-x86": "qemu-system-x86_64",
  "busybox-static": "busybox",
  "cpio": "cpio",
  "kmod": "modprobe",
  "iproute2": "rdma",
  "ibverbs-utils": "ibv_devinfo",
  "rdmacm-utils": "rping",
  "perftest": "ib_write_bw",
  "iperf3": "iperf3",
  "sockperf": "sockperf",
  "openssh-server": "sshd",
  "openssh-client": "scp",
  "tshark": "tshark",
  "buildah": "buildah",
  "debootstrap": "debootstrap",
};

/**
 * Sees to it that packages are installed: silent when they are, installs what is missing when run
 * as root, and otherwise says what to do.
 *
 * @param why what they are for, to go after "needed": "to boot guests"
 * @throws VerbsealError `packages` if something is missing and could not be installed
 */
export async function ensurePackages(
  packages: readonly string[],
  { why }: { why: string },
): Promise<void> {
  if (!(await exists("/usr/bin/apt-get"))) return await requirePrograms(packages, why);
  const missing = await missingPackages(packages);
  if (missing.length === 0) return;
  const install = ["install", "-y", "-q", "--no-install-recommends", ...missing];
  if (Deno.uid() !== 0) {
    throw new VerbsealError(
      "packages",
      `these packages are needed ${why} and are not installed: ${missing.join(" ")}`,
      `run: sudo apt-get update && sudo apt-get ${install.join(" ")}`,
    );
  }
  console.error(`Installing packages needed ${why}: ${missing.join(" ")}`);
  await aptGet(["update", "-q"]);
  await aptGet(install);
}

async function missingPackages(packages: readonly string[]): Promise<string[]> {
  // Exits with 1 if it does not know one of them, and still lists the others.
  const { stdout } = await new Deno.Command("dpkg-query", {
    args: ["-W", "-f", "${db:Status-Status} ${Package}\n", ...packages.flatMap(spellings)],
    stdin: "null",
  }).output();
  const lines = new Set(new TextDecoder().decode(stdout).split("\n"));
  return packages.filter((name) => !spellings(name).some((n) => lines.has(`installed ${n}`)));
}

/**
 * Debian 13 and Ubuntu 24.04 renamed libraries at the change to 64-bit time, and have a provider
 * where OpenSSL had an engine.
 */
function spellings(name: string): string[] {
  return [name, `${name}t64`, ...name === "libengine-pkcs11-openssl" ? ["pkcs11-provider"] : []];
}

async function aptGet(args: string[]): Promise<void> {
  const { success, stdout, stderr } = await new Deno.Command("apt-get", {
    args: ["-o", "DPkg::Lock::Timeout=600", ...args],
    stdin: "null",
    env: { DEBIAN_FRONTEND: "noninteractive" },
  }).output();
  if (success) return;
  const output = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  throw new VerbsealError(
    "packages",
    `apt-get ${args[0]} failed:\n${output.trim().split("\n").slice(-15).join("\n")}`,
    "check that this machine reaches its package mirror",
  );
}

async function requirePrograms(packages: readonly string[], why: string): Promise<void> {
  const programs = packages.flatMap((name) => PROGRAMS[name] ?? []);
  const found = await Promise.all(programs.map(isOnPath));
  const missing = programs.filter((_, index) => !found[index]);
  if (missing.length === 0) return;
  throw new VerbsealError(
    "packages",
    `these programs are needed ${why} and are missing: ${missing.join(" ")}`,
    "install them (this system has no apt, so it is up to you)",
  );
}

async function isOnPath(program: string): Promise<boolean> {
  const directories = [...(Deno.env.get("PATH") ?? "").split(":"), "/usr/sbin", "/sbin"];
  const found = await Promise.all(directories.map((each) => exists(`${each}/${program}`)));
  return found.includes(true);
}
