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

/** Of the server that seals, as it does unless told, and of the one that does not. */
const SEALED_PORT = 4433;
const CLEAR_PORT = 4434;

/** Where the client tells the server's guest that it is done: it connects, and says nothing. */
const DONE_PORT = 4435;

/** What sessions carry: words in a message, words for the server's memory, and a file. */
export interface Content {
  readonly message: string;
  readonly written: string;
  /** Of all bytes of the file, so that what is found of it is not there by chance. */
  readonly fileValue: number;
  /** Files that the client's commands move, each whole. */
  readonly filesMoved: number;
}

export const FILE_BYTES = 1_000_000;

export const SEALED: Content = {
  message: "a message that is sealed",
  written: "bytes that are sealed",
  fileValue: 0x5a,
  filesMoved: 4,
};

export const CLEAR: Content = {
  message: "a message in the clear",
  written: "bytes in the clear",
  fileValue: 0xa5,
  filesMoved: 2,
};

const SERVER = `
servers=()
serve() {
  SSLKEYLOGFILE=/results/keys "$VERBSEAL" server --root root --handshake-timeout 60s \\
    --log-format json "$@" 2>>/results/log &
  servers+=($!)
}
serve --port ${SEALED_PORT} --connect cm
serve --port ${CLEAR_PORT} --seal off
busybox nc -l -p ${DONE_PORT}
kill "\${servers[@]}"
for server in "\${servers[@]}"; do wait $server || exit 1; done
`;

const CLIENT = `
reach() { timeout 120 bash -c "until (: >/dev/tcp/10.9.0.1/$1) 2>/dev/null; do sleep 0.1; done"; }
trap 'reach ${DONE_PORT}' EXIT
client() {
  "$VERBSEAL" client "$2" "10.9.0.1:$1" "\${@:3}" --ca certs/ca.pem --timeout 60s --json \\
    >>/results/sessions
}
sealed() { client ${SEALED_PORT} "$@"; }
clear() { client ${CLEAR_PORT} "$@" --seal off; }
set -e
reach ${SEALED_PORT}
reach ${CLEAR_PORT}
clear echo "${CLEAR.message}"
clear get clear copy-of-clear
clear write "${CLEAR.written}" --offset 5000
sealed echo "${SEALED.message}" --connect cm
sealed put sealed
sealed get sealed copy-of-sealed
sealed write "${SEALED.written}" --offset 5000
# From here on UDP port 4791 is free, which belongs to the kernel as long as the module is there.
modprobe -r rdma_rxe
clear put copy-of-clear another-of-clear --device roce
sealed put sealed again --device roce
sealed get again copy-of-again --device roce
cmp root/clear copy-of-clear
for copy in copy-of-sealed copy-of-again; do cmp sealed $copy; done
`;

const RXE = { provider: "verbs", device: "rxe0", connect: "tls", seal: "aes-256-gcm" };
const EMBEDDED = { ...RXE, provider: "roce", device: "roce:10.9.0.2" };
const OFF = { seal: "off" };

/** What the client's commands come to, session by session; the server is always on rxe0. */
export const SESSIONS = [
  ...Array.from({ length: 3 }, () => ({ ...RXE, ...OFF })),
  ...[{ ...RXE, connect: "cm" }, RXE, RXE, RXE],
  ...[{ ...EMBEDDED, ...OFF }, EMBEDDED, EMBEDDED],
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
  return await readEvidence(workspace, await runSessions(workspace));
}

/** @returns path of the capture */
async function runSessions(workspace: Workspace): Promise<string> {
  const files = { "sealed": SEALED, "root/clear": CLEAR };
  for (const [name, { fileValue }] of Object.entries(files)) {
    await Deno.writeFile(workspace.file(name), new Uint8Array(FILE_BYTES).fill(fileValue));
  }
  const environment = { VERBSEAL: Deno.env.get("VERBSEAL") ?? EXECUTABLE };
  const guest = { environment, directory: workspace.path, timeout: 300 };
  const { first, second, capture } = await runOnWire({
    resultDirectory: workspace.path,
    first: { script: SERVER, ...guest },
    second: { script: CLIENT, ...guest },
  });
  const said = first.output + second.output + await Deno.readTextFile(workspace.file("first/log"));
  assertEquals([first.status, second.status], [0, 0], said);
  return capture;
}

async function readEvidence(workspace: Workspace, capture: string): Promise<Evidence> {
  const keyLog = workspace.file("first/keys");
  const streams = await connections(capture, keyLog, [SEALED_PORT, CLEAR_PORT]);
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
