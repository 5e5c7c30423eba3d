/** Attacks by clients that are let in and want more than they may have, and by others on the host. */
import { Buffer } from "node:buffer";
import { basename, join } from "node:path";
import { assert } from "@std/assert";
import { delay } from "@std/async/delay";
import { findDenort } from "../../.ci/denort.ts";
import { IntegrityError, RefusedError } from "../../lib/errors.ts";
import { exists } from "../../lib/exists.ts";
import { PacketOpcode } from "../../lib/rdma/roce/opcode.ts";
import { psnAfter } from "../../lib/rdma/roce/psn.ts";
import { AuditChain, MAC_BYTES } from "../../lib/security/audit_chain.ts";
import { readAuditHead, writeAuditHead } from "../../lib/security/audit_key_and_head.ts";
import { AuditLog } from "../../lib/security/audit_log.ts";
import { fileService } from "../../lib/services/file_service.ts";
import { Directory } from "../../lib/services/file_system.ts";
import { MessageKind } from "../../lib/session/service.ts";
import { type CertificateSet, createCertificates } from "../../lib/tls/certificates.ts";
import { writeCertificates } from "../../lib/tls/certificate_files.ts";
import { eventually, executable, RunningServer, Workspace } from "../program.ts";
import { provider } from "../provider.ts";
import { AuditScene } from "../security/audit_scene.ts";
import { giveToNobody, ofThreads } from "../server_user.ts";
import { attackTest } from "./attack.ts";
import { fragment, PacketAttacker } from "./packet_attacker.ts";
import { System, type SystemOptions } from "./system.ts";

const messagesOnly = "rules: [{ match: { anonymous: true }, allow: { services: messages } }]";

/** Whether a client that shows no certificate gets this file of the server's. */
async function gets(system: System, path: string): Promise<boolean> {
  await using client = await system.client();
  const { session, files } = client;
  const stolen = join(system.root, "stolen");
  try {
    const { size } = await session.during(files.get(session, path, stolen));
    return size > 0;
  } catch (error) {
    if (error instanceof RefusedError) return false;
    throw error;
  }
}

attackTest<SystemOptions>({
  rows: ["6.5", "A6"],
  attack: "calls a service that it has no right to",
  countermeasure: "every call is authorised by the policy for the client's identity",
  against: { policy: messagesOnly },
  without: { instead: "a server without a policy", against: {} },
  async mount(options) {
    await using system = await System.start(options);
    await Deno.writeTextFile(join(system.root, "file"), "secret");
    return await gets(system, "file");
  },
});

attackTest<SystemOptions>({
  rows: ["6.5", "A6"],
  attack: "gets a file outside of the file service's root",
  countermeasure: "paths are confined to the root by the kernel",
  against: {},
  without: {
    instead: "a root that paths may leave",
    against: {
      services: (definitions, root) =>
        definitions.map((each) =>
          each.name === "files" ? fileService(new Directory(root, { confined: false })) : each
        ),
    },
  },
  async mount(options) {
    await using system = await System.start(options);
    const outside = `${system.root}-outside`;
    await Deno.writeTextFile(outside, "secret");
    try {
      return await gets(system, `../${outside.split("/").at(-1)}`);
    } finally {
      await Deno.remove(outside);
    }
  },
});

attackTest<readonly string[]>({
  rows: ["6.5"],
  attack: "has taken the server over, and does what root may",
  countermeasure: "a server that root starts becomes another user once it listens (`--user`)",
  against: ["--user", "nobody"],
  without: { instead: "a server without `--user`", against: [] },
  asRoot: true,
  async mount(options) {
    await using workspace = await Workspace.create();
    await giveToNobody(workspace);
    await using server = await RunningServer.start(workspace, options);
    // So that the threads that move data are there.
    const { status, stderr } = await workspace.client(server, "echo", ["hello"]);
    if (status !== 0) throw new Error(stderr);
    return [...ofThreads(server, "CapPrm")].some((capabilities) =>
      BigInt(`0x${capabilities}`) > 0n
    );
  },
});

/** A key that everybody knows. */
const KNOWN_KEY = new Uint8Array(MAC_BYTES);

/** Whether an audit log is whole by the server's key and the head that it keeps. */
async function isWhole(scene: AuditScene): Promise<boolean> {
  try {
    await scene.verify();
    return true;
  } catch (error) {
    if (error instanceof IntegrityError) return false;
    throw error;
  }
}

/** Writes lines as a log and a head with them, each chained anew by a key that needs no secret. */
async function chainAnew(
  { paths }: AuditScene,
  lines: readonly string[],
): Promise<void> {
  const { chain: name } = await readAuditHead(paths.head);
  const chain = AuditChain.after(KNOWN_KEY, { chain: name, sequence: -1, mac: "00".repeat(32) });
  const members = lines.map((line) => line.replace(/^\{"sequence":\d+,|,"mac":"[^"]*"\}$/g, ""));
  await Deno.writeFile(paths.file, Buffer.concat(members.map((each) => chain.line(each))));
  await writeAuditHead(paths.head, chain.head);
}

attackTest<(scene: AuditScene) => Promise<void>>({
  rows: ["A6"],
  attack: "gets a file, and removes the line that tells of it",
  countermeasure: "each put, get and grant is audited, in a chain that only the server's key makes",
  against: () => Promise.resolve(),
  without: {
    instead: "a chain whose key everybody knows",
    against: ({ paths }) => Deno.writeFile(paths.key, KNOWN_KEY, { mode: 0o600 }),
  },
  async mount(prepare) {
    await using scene = await AuditScene.create();
    await prepare(scene);
    {
      await using audit = await AuditLog.open(scene.paths);
      await using system = await System.start({ audit });
      await Deno.writeTextFile(join(system.root, "file"), "secret");
      if (!await gets(system, "file")) throw new Error("the file cannot be had");
    }
    if (!await isWhole(scene)) throw new Error("the log is not whole before anybody changed it");
    const lines = await scene.read();
    const others = lines.filter((line) => !line.includes('"get"'));
    if (others.length === lines.length) return true;
    await scene.write(others);
    if (await isWhole(scene)) return true;
    await chainAnew(scene, others);
    return await isWhole(scene);
  },
});

attackTest<(certificates: CertificateSet, directory: string) => Promise<unknown>>({
  rows: ["7"],
  attack: "is another user of the host, and reads the server's key",
  countermeasure: "keys are files of their owner alone",
  against: (certificates, directory) =>
    writeCertificates(directory, certificates, { overwrite: false }),
  without: {
    instead: "a key that is written as other files are",
    against: async ({ server }, directory) => {
      await Deno.mkdir(directory);
      await Deno.writeTextFile(join(directory, "server.key"), server.key);
    },
  },
  async mount(write) {
    const directory = await Deno.makeTempDir({ prefix: "verbseal-" });
    try {
      const certificates = await createCertificates({ hosts: ["localhost"], days: 1 });
      await write(certificates, join(directory, "certs"));
      const { mode } = await Deno.stat(join(directory, "certs", "server.key"));
      return (mode! & 0o077) !== 0;
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
});

attackTest<(directory: string) => Disposable>({
  rows: ["7"],
  attack: "is another user of the host, and reads what has come of a file so far",
  countermeasure: "unfinished files are their owner's alone",
  against: (directory) => new Directory(directory, { confined: true }).createFile("file"),
  without: {
    instead: "an unfinished file that is created as other files are",
    against: (directory) => Deno.createSync(join(directory, "part")),
  },
  async mount(create) {
    const directory = await Deno.makeTempDir({ prefix: "verbseal-" });
    try {
      using _unfinished = create(directory);
      const [{ name }] = [...Deno.readDirSync(directory)] as [Deno.DirEntry];
      return (Deno.statSync(join(directory, name)).mode! & 0o077) !== 0;
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
});

/** Milliseconds within which a program that was waited for has ended, too. */
const ENDING = 1000;

/** An executable as deno makes it unless it is told otherwise. */
async function usualExecutable(directory: string): Promise<string> {
  const [script, output] = [join(directory, "script.js"), join(directory, "usual")];
  await Deno.writeTextFile(script, "console.log(1);");
  const { path } = await findDenort();
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["compile", "--quiet", "--no-config", "--no-check", "--output", output, script],
    ...(path === undefined ? {} : { env: { DENORT_BIN: path } }),
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  return output;
}

attackTest<(directory: string) => Promise<string>>({
  rows: ["7"],
  attack: "is another user of the host, and leaves code in /tmp that the program runs",
  countermeasure: "the executable runs its own code alone",
  provider: "roce",
  against: () => Promise.resolve(executable),
  without: {
    instead: "an executable with deno's cache of compiled code",
    against: usualExecutable,
  },
  async mount(make) {
    const directory = await Deno.makeTempDir({ prefix: "verbseal-" });
    try {
      const program = await make(directory);
      const planted = join(directory, `deno-compile-${basename(program)}.cache`);
      // Nobody writes to a pipe before somebody reads from it.
      const planting = new Deno.Command("sh", {
        args: ["-c", 'mkfifo "$0" && exec echo >"$0"', planted],
      }).spawn();
      const planter = planting.status.then(() => true);
      await eventually("the pipe is there", () => exists(planted), 5000);
      const { success } = await new Deno.Command(program, {
        args: ["--version"],
        env: { TMPDIR: directory },
        stdout: "null",
      }).output();
      assert(success);
      const taken = await Promise.race([planter, delay(ENDING).then(() => false)]);
      if (!taken) planting.kill();
      await planter;
      return taken;
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
});

// Of a device, its driver and the kernel see to it.
if (provider.name === "roce") {
  attackTest<string>({
    rows: ["7"],
    attack: "is another process on the host, and forges with the right QPN and PSN",
    countermeasure: "packets count only if they come from the peer's address",
    against: "127.0.0.2",
    without: { instead: "the peer's own address", against: provider.address },
    async mount(from) {
      await using system = await System.start();
      using victim = await system.hostile();
      const { local, remote } = victim.numbers;
      using attacker = new PacketAttacker(local, from);
      const body = fragment(MessageKind.ANSWER, 77, new Uint8Array(8));
      // The server has sent its proof, and nothing since.
      attacker.send({
        opcode: PacketOpcode.SEND_ONLY,
        qpn: local.qpn,
        psn: psnAfter(remote.psn, 1),
        body,
      });
      victim.sendFragment({ kind: MessageKind.ECHO, id: 78 });
      return (await victim.message(MessageKind.ANSWER)).id === 77;
    },
  });
}
