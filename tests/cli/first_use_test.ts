import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { createPublicKey } from "node:crypto";
import { join } from "node:path";
import { writeCertificates } from "../../lib/tls/certificate_files.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { pinOf } from "../../lib/tls/pin.ts";
import { withFolder } from "../tls/openssl.ts";
import { beside, type Finished, type RunningServer, startServer, verbsealIn } from "./run.ts";

const [first, second] = await Promise.all(
  [1, 2].map(() => createCertificates({ hosts: ["127.0.0.1"], days: 1 })),
);
const [firstPin, secondPin] = [first!, second!].map(({ server: { certificate } }) =>
  pinOf(createPublicKey(certificate).export({ type: "spki", format: "der" }))
) as [string, string];
const device = ["--device", "roce:127.0.0.1"];

/** A server that no authority of the system vouches for, and a client with a file of known hosts. */
class Scene {
  #server: RunningServer | undefined;

  constructor(readonly folder: string) {}

  /** The default, by the environment that clients have here. */
  get knownHosts(): string {
    return join(this.folder, "config", "verbseal", "known_hosts");
  }

  get host(): string {
    return `127.0.0.1:${this.#server!.port}`;
  }

  /** Starts the server with the key of one of the two, on the same port if there was one before. */
  async serve(certificates: typeof first): Promise<void> {
    const port = this.#server ? ["--port", String(this.#server.port)] : [];
    await this.#server?.stop();
    await writeCertificates(join(this.folder, "certs"), certificates!, { overwrite: true });
    this.#server = await startServer(this.folder, [...device, ...port]);
  }

  get environment() {
    return { XDG_CONFIG_HOME: join(this.folder, "config") };
  }

  /** Has the server send a text back. */
  echo(...options: string[]): Promise<Finished> {
    const command = ["client", "echo", this.host, "hello", ...device];
    return verbsealIn(this.environment, ...command, ...options);
  }

  /** The same on a terminal where somebody types these lines; what the terminal shows. */
  async echoOnTerminal(typed: string, ...options: string[]): Promise<Finished> {
    const command = ["client", "echo", this.host, "hello", ...device, ...options].join(" ");
    const main = `${Deno.execPath()} run -A --no-check ${beside("../../main.ts")}`;
    const child = new Deno.Command("script", {
      args: ["-qec", `${main} ${command}`, "/dev/null"],
      env: { NO_COLOR: "1", ...this.environment },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const writer = child.stdin.getWriter();
    await writer.write(new TextEncoder().encode(typed));
    const { code, stdout } = await child.output();
    await writer.close().catch(() => {});
    return { code, stdout: new TextDecoder().decode(stdout), stderr: "" };
  }

  async known(): Promise<string | undefined> {
    return await Deno.readTextFile(this.knownHosts).catch(() => undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server?.stop();
  }
}

function test(name: string, body: (scene: Scene) => Promise<void>): void {
  Deno.test(name, () =>
    withFolder(async (folder) => {
      await using scene = new Scene(folder);
      await scene.serve(first);
      await body(scene);
    }));
}

test("a new server is refused where nobody can be asked, with its key and three remedies", async (scene) => {
  for (const options of [[], ["--json"]]) {
    const { code, stdout, stderr } = await scene.echo(...options);
    assertEquals(code, 3, stderr);
    for (const part of [`key ${firstPin} `, `--pin ${firstPin}`, "--trust-new", "--ca"]) {
      assertStringIncludes(stderr, part);
    }
    if (stdout) assertEquals(JSON.parse(stdout).error.code, "host_key_unknown");
  }
  assertEquals(await scene.known(), undefined);
});

test("a new server is added without asking where that is wished, and known then", async (scene) => {
  const added = await scene.echo("--trust-new");
  assertEquals([added.code, added.stdout], [0, "hello\n"], added.stderr);
  assertMatch(added.stderr, /^\S+ warning verbseal\.client a new server is known from now on /);
  assertStringIncludes(added.stderr, firstPin);
  assertEquals(await scene.known(), `${scene.host} ${firstPin}\n`);
  const again = await scene.echo();
  assertEquals([again.code, again.stdout], [0, "hello\n"], again.stderr);
});

test("a changed key is refused loudly, also where new servers are welcome", async (scene) => {
  const other = `sha256:${"A".repeat(43)}=`;
  const lines = `# mine\n${scene.host} ${firstPin}\n${scene.host} ${other}\n`;
  await Deno.mkdir(join(scene.folder, "config", "verbseal"), { recursive: true });
  await Deno.writeTextFile(scene.knownHosts, lines);
  assertEquals((await scene.echo()).code, 0);
  await scene.serve(second);
  for (const options of [[], ["--trust-new"], ["--json"]]) {
    const { code, stdout, stderr } = await scene.echo(...options);
    assertEquals(code, 3, stderr);
    assertStringIncludes(stderr, `WARNING: THE KEY OF ${scene.host} HAS CHANGED\n`);
    assertStringIncludes(stderr, `remove lines 2 and 3 of ${scene.knownHosts}.\n`);
    assertStringIncludes(stderr, secondPin);
    if (stdout) assertEquals(JSON.parse(stdout).error.code, "host_key_changed");
  }
  assertEquals(await scene.known(), lines);
});

test("somebody at a terminal is shown the key, and may say yes, or the key itself", async (scene) => {
  const yes = await scene.echoOnTerminal("what?\nyes\n");
  assertEquals(yes.code, 0, yes.stdout);
  for (const part of [firstPin, "subject  CN=", "valid    20", "Please type yes, no, or the key"]) {
    assertStringIncludes(yes.stdout, part);
  }
  assertMatch(yes.stdout, /hello\r\n$/);
  assertEquals(await scene.known(), `${scene.host} ${firstPin}\n`);
  await Deno.remove(scene.knownHosts);
  const key = await scene.echoOnTerminal(`${secondPin}\n${firstPin}\n`);
  assertEquals(key.code, 0, key.stdout);
  assertStringIncludes(key.stdout, "Please type");
  assertEquals(await scene.known(), `${scene.host} ${firstPin}\n`);
});

test("a server that somebody says no to is not spoken to", async (scene) => {
  for (const typed of ["no\n", "\x04"]) {
    const { code, stdout } = await scene.echoOnTerminal(typed);
    assertEquals(code, 3, stdout);
    assertStringIncludes(stdout, "was not accepted");
  }
  assertEquals(await scene.known(), undefined);
});

test("with --json nobody is asked, at a terminal neither", async (scene) => {
  const { code, stdout } = await scene.echoOnTerminal("yes\n", "--json");
  assertEquals(code, 3, stdout);
  assertEquals(stdout.includes("Is it the right key?"), false, stdout);
  assertStringIncludes(stdout, "host_key_unknown");
});

test("known hosts are kept in a file of the user's choice, and a mistake in it has a line", async (scene) => {
  const file = join(scene.folder, "mine");
  const options = ["--known-hosts", file];
  assertEquals((await scene.echo(...options, "--trust-new")).code, 0);
  assertEquals(await Deno.readTextFile(file), `${scene.host} ${firstPin}\n`);
  await Deno.writeTextFile(file, "storage1 ssh-ed25519\n", { append: true });
  const { code, stderr } = await scene.echo(...options);
  assertEquals(code, 3);
  assertStringIncludes(stderr, `Line 2 of ${file} is not understood`);
});

test("a pin decides alone, and with an authority both must hold", async (scene) => {
  const ca = join(scene.folder, "certs", "ca.pem");
  const wrong = ["--pin", secondPin];
  assertEquals((await scene.echo("--pin", firstPin)).stdout, "hello\n");
  assertEquals((await scene.echo(...wrong, "--pin", firstPin)).stdout, "hello\n");
  assertEquals((await scene.echo("--ca", ca, "--pin", firstPin)).stdout, "hello\n");
  for (const options of [wrong, ["--ca", ca, ...wrong]]) {
    const { code, stderr } = await scene.echo(...options);
    assertEquals(code, 3);
    assertStringIncludes(stderr, `it is ${firstPin}`);
  }
  const stranger = join(scene.folder, "stranger.pem");
  await Deno.writeTextFile(stranger, second!.ca.certificate);
  const { code, stderr } = await scene.echo("--ca", stranger, "--pin", firstPin);
  assertEquals(code, 3);
  assertStringIncludes(stderr, "signed by an authority not trusted here");
  assertEquals(await scene.known(), undefined);
});
