/** Sessions between two guests, and all that can be known of them afterwards. */
import { assertEquals } from "@std/assert";
import { decodeHex } from "@std/encoding/hex";
import { EXECUTABLE } from "../../../.ci/compile.ts";
import type { Workspace } from "../../program.ts";
import { runOnWire } from "../wire.ts";
import { type Agreement, type End, readAgreement } from "./agreement.ts";
import {
  type Connection,
  connections,
  type ManagementMessage,
  managementMessages,
  type RocePacket,
  rocePackets,
  udpPorts,
} from "./capture.ts";

const PORT = 4433;

/** Where the client tells the server's guest that it is done: it connects, and says nothing. */
const DONE_PORT = 4434;

/** A file of one byte's value, so that what is found in a transfer is not there by chance. */
export const FILE_BYTES = 3_000_000;
export const FILE_VALUE = 0xa5;

const SERVER = `
SSLKEYLOGFILE=/results/keys "$VERBSEAL" server --root root --connect cm --log-format json \\
  2>/results/log &
server=$!
busybox nc -l -p ${DONE_PORT}
kill $server
wait $server || { cat /results/log; exit 1; }
`;

const CLIENT = `
reach() { timeout 60 bash -c "until (: >/dev/tcp/10.9.0.1/$1) 2>/dev/null; do sleep 0.1; done"; }
trap 'reach ${DONE_PORT}' EXIT
client() { "$VERBSEAL" client "$1" 10.9.0.1 "\${@:2}" --ca certs/ca.pem --json >>/results/sessions; }
set -e
reach ${PORT}
client echo "hello"
client put file
client get file copy
client write "some bytes" --offset 5000
client echo "hello" --connect cm
cmp file copy
# From here on UDP port 4791 is free, which belongs to the kernel as long as the module is there.
modprobe -r rdma_rxe
client echo "hello" --device roce
client put file again --device roce
client get again copy-of-again --device roce
cmp file copy-of-again
`;

/** Files that the client's commands move, each whole. */
export const FILES_MOVED = 4;

const RXE = { provider: "verbs", device: "rxe0", connect: "tls" };
const EMBEDDED = { provider: "roce", device: "roce:10.9.0.2", connect: "tls" };

/** What the client's commands come to, session by session; the server is always on rxe0. */
export const SESSIONS = [
  ...[RXE, RXE, RXE, RXE, { ...RXE, connect: "cm" }],
  ...[EMBEDDED, EMBEDDED, EMBEDDED],
];

type Numbers = Pick<End["numbers"], "qpn" | "psn" | "gid"> & { provider: string };

/** What `--json` and the server's log tell about a session. */
export interface Reported {
  readonly clients: {
    session: { id: string; local: Numbers & { device: string }; remote: Numbers };
  }[];
  readonly log: Record<string, unknown>[];
}

/** All that is known after the sessions. */
export interface Evidence {
  /** The capture file's bytes: those of all packets, one after the other. */
  readonly wire: Uint8Array;
  readonly connections: Connection[];
  readonly agreements: Agreement[];
  readonly packets: RocePacket[];
  /** Destination ports of all that UDP carries. */
  readonly udpPorts: Set<number>;
  readonly management: ManagementMessage[];
  readonly reported: Reported;
  /** Secrets of the TLS sessions, from the server's key log. */
  readonly tlsSecrets: Uint8Array[];
  /** Keys of the certificates, PEM. */
  readonly certificateKeys: string[];
}

/** Runs a server in one guest and a client in the other, and reads what they did. */
export async function gather(workspace: Workspace): Promise<Evidence> {
  await Deno.writeFile(workspace.file("file"), new Uint8Array(FILE_BYTES).fill(FILE_VALUE));
  const environment = { VERBSEAL: Deno.env.get("VERBSEAL") ?? EXECUTABLE };
  const guest = { environment, directory: workspace.path, timeout: 150 };
  const { first, second, capture } = await runOnWire({
    resultDirectory: workspace.path,
    first: { script: SERVER, ...guest },
    second: { script: CLIENT, ...guest },
  });
  assertEquals([first.status, second.status], [0, 0], first.output + second.output);
  const keyLog = workspace.file("first/keys");
  const streams = await connections(capture, keyLog, PORT);
  return {
    wire: await Deno.readFile(capture),
    connections: streams,
    agreements: streams.filter(({ plain }) => plain.length > 0)
      .map(({ plain }) => readAgreement(plain)),
    packets: await rocePackets(capture),
    udpPorts: await udpPorts(capture),
    management: await managementMessages(capture),
    reported: {
      clients: await jsonLines(workspace.file("second/sessions")),
      log: await jsonLines(workspace.file("first/log")),
    },
    // Label, client random (which TLS sends in the clear), secret.
    tlsSecrets: (await lines(keyLog)).map((line) => decodeHex(line.split(" ")[2]!)),
    certificateKeys: await Promise.all(
      ["ca", "server", "client"].map((name) =>
        Deno.readTextFile(workspace.file(`certs/${name}.key`))
      ),
    ),
  };
}

async function lines(path: string): Promise<string[]> {
  return (await Deno.readTextFile(path)).split("\n").filter((line) => line !== "");
}

async function jsonLines<T>(path: string): Promise<T[]> {
  return (await lines(path)).map((line) => JSON.parse(line));
}
