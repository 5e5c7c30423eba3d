import { delay } from "@std/async/delay";
import { join } from "node:path";
import { LOOPBACK } from "./loopback.ts";
import { unusedPort } from "./server_and_client.ts";

/** Milliseconds in which sshd must begin to listen. */
const PATIENCE = 10_000;

/** Where sshd, as root, has its unprivileged part. Debian's service makes it, which need not run. */
const SEPARATION = "/run/sshd";

/** OpenSSH's server on loopback with keys of its own, and the client's scp. Disposing it ends it. */
export class SshServer implements AsyncDisposable {
  private constructor(
    private readonly process: Deno.ChildProcess,
    private readonly folder: string,
    private readonly port: number,
  ) {}

  /** @throws Error with what sshd says, when it does not listen */
  static async start(): Promise<SshServer> {
    const folder = await Deno.makeTempDir({ prefix: "verbseal-sshd-" });
    for (const name of ["host", "user"]) {
      await finish("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", join(folder, name)]);
    }
    const port = unusedPort();
    await Deno.copyFile(join(folder, "user.pub"), join(folder, "authorized"));
    const [kind, key] = (await Deno.readTextFile(join(folder, "host.pub"))).split(" ");
    await Deno.writeTextFile(join(folder, "known"), `[${LOOPBACK}]:${port} ${kind} ${key}\n`);
    await Deno.writeTextFile(join(folder, "config"), configuration(folder, port));
    if (Deno.uid() === 0) await Deno.mkdir(SEPARATION, { recursive: true, mode: 0o755 });
    const process = new Deno.Command("/usr/sbin/sshd", {
      args: ["-D", "-e", "-f", join(folder, "config")],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    const server = new SshServer(process, folder, port);
    await server.#listening();
    return server;
  }

  /**
   * Copies a file with AES-256-GCM.
   *
   * @throws Error with what scp says
   */
  async copy(source: string, target: string): Promise<void> {
    const { folder, port } = this;
    const options = [
      "BatchMode=yes",
      "Compression=no",
      "StrictHostKeyChecking=yes",
      `UserKnownHostsFile=${join(folder, "known")}`,
    ];
    await finish("scp", [
      ...["-q", "-F", "none", "-c", "aes256-gcm@openssh.com", "-P", String(port)],
      ...["-i", join(folder, "user"), ...options.flatMap((option) => ["-o", option])],
      source,
      `${LOOPBACK}:${target}`,
    ]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.process.kill("SIGTERM");
    await this.process.status;
    await Deno.remove(this.folder, { recursive: true });
  }

  async #listening(): Promise<void> {
    const deadline = performance.now() + PATIENCE;
    for (;;) {
      try {
        (await Deno.connect({ hostname: LOOPBACK, port: this.port })).close();
        return;
      } catch (error) {
        if (performance.now() > deadline) throw error;
        await delay(20);
      }
    }
  }
}

/** Nobody gets in but by the key, and nobody hears of it but on loopback. */
function configuration(folder: string, port: number): string {
  return [
    `Port ${port}`,
    `ListenAddress ${LOOPBACK}`,
    `HostKey ${join(folder, "host")}`,
    `AuthorizedKeysFile ${join(folder, "authorized")}`,
    "PidFile none",
    "StrictModes no",
    "UsePAM no",
    "PasswordAuthentication no",
    "KbdInteractiveAuthentication no",
    "Subsystem sftp internal-sftp",
    "",
  ].join("\n");
}

/** @throws Error with what the program says, when it fails */
export async function finish(program: string, args: readonly string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program, {
    args: [...args],
    stdin: "null",
  }).output();
  const [output, errors] = [stdout, stderr].map((each) => new TextDecoder().decode(each));
  if (success) return output!;
  throw new Error(`${program} failed: ${errors!.trim()}`);
}
