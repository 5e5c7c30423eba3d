import { Buffer } from "node:buffer";
import { createPrivateKey } from "node:crypto";
import { assert, assertEquals } from "@std/assert";
import { decodeBase64 } from "@std/encoding/base64";
import { decodeBase64Url } from "@std/encoding/base64url";
import { ROCE_UDP_PORT } from "../../../lib/control/path.ts";
import { Workspace } from "../../program.ts";
import { rxe } from "../../provider.ts";
import type { Agreement, End } from "./agreement.ts";
import type { Chunk, RocePacket } from "./capture.ts";
import {
  binaryPsn,
  find,
  type Place,
  printed,
  printedPsn,
  readable,
  secret,
  type Sensitive,
  text,
} from "./clear_text.ts";
import { CLEAR, type Evidence, FILE_BYTES, gather, SEALED, SESSIONS } from "./evidence.ts";
import { bothWays, checkPsns, isManagement, isOnWay, isRequest } from "./psn_sequence.ts";
import { APPLICATION_DATA, tlsRecords } from "./tls_records.ts";

const SIDES = ["client", "server"] as const;

/** Bytes of a file in a row that are not there by chance. */
const RUN_BYTES = 8;

Deno.test({
  name:
    "what two guests agree in TLS is what crosses the wire between them in RoCE headers, and nowhere else; what they move is not to be read there",
  // The library that opens records stays loaded.
  sanitizeResources: false,
  async fn(t) {
    await using workspace = await Workspace.create(rxe.address);
    const evidence = await gather(workspace);
    for (const [name, check] of Object.entries(checks)) {
      await t.step(name, () => check(evidence));
    }
  },
});

const checks: Record<string, (evidence: Evidence) => void> = {
  "all that TCP carries is records of TLS, and in each connection an exchange"(
    { connections, agreements },
  ) {
    for (const { wire } of connections) {
      for (const side of SIDES) tlsRecords(sent(wire, side));
    }
    assertEquals(agreements.length, connections.length);
    assertEquals(
      agreements.map(({ connect, seal }) => ({ connect, seal })),
      SESSIONS.map(({ connect, seal }) => ({ connect, seal })),
    );
  },

  "the client and the server report their providers and the numbers that they agreed in TLS"(
    { agreements, reported: { clients, log } },
  ) {
    const brief = ({ numbers: { qpn, psn, gid } }: End) => ({ qpn, psn, gid });
    assertEquals(
      clients.map(({ session: { id, local, remote } }) => ({ id, local, remote })),
      agreements.map(({ session, client, server }, index) => {
        const { provider, device } = SESSIONS[index]!;
        return {
          id: session,
          local: { provider, device, ...brief(client) },
          remote: { provider: rxe.name, ...brief(server) },
        };
      }),
    );
    const established = log.filter(({ message }) => message === "session established");
    const hexadecimal = (psn: number) => `0x${psn.toString(16).padStart(6, "0")}`;
    assertEquals(
      established.map((
        line,
      ) => [line.session, line.qpn, line.psn, line.peerQpn, line.peerPsn, line.seal]),
      agreements.map((
        { session, seal, client: { numbers: client }, server: { numbers: server } },
      ) => [
        ...[session, server.qpn, hexadecimal(server.psn)],
        ...[client.qpn, hexadecimal(client.psn), seal],
      ]),
    );
  },

  "each side's first packet is its PROOF with the PSN agreed, and the next ones follow one by one"(
    { agreements, packets },
  ) {
    for (const agreement of agreements) checkPsns(agreement, packets);
  },

  "of what is not sealed all can be read: messages, what is written to memory, and files"(
    { wire, packets },
  ) {
    const words = [
      text("a message", CLEAR.message),
      text("what is written to memory", CLEAR.written),
    ];
    const found = new Set(find(wire, words));
    assertEquals(words.filter((each) => !found.has(each)), []);
    const ofFile = packets.filter(({ payload }) =>
      payload.every((byte) => byte === CLEAR.fileValue)
    );
    const moved = payloadBytes(ofFile);
    assert(moved >= CLEAR.filesMoved * FILE_BYTES, `${moved} bytes of files are recorded`);
  },

  "of what is sealed nothing can be read anywhere on the wire, though all of it crosses it"(
    evidence,
  ) {
    const { agreements, packets } = evidence;
    const sealed = agreements.filter(isSealed);
    const ways = sealed.flatMap(bothWays).map(([from, to]) => isOnWay(from, to));
    const moved = payloadBytes(packets.filter((packet) => ways.some((isOn) => isOn(packet))));
    assert(moved >= SEALED.filesMoved * FILE_BYTES, `${moved} sealed bytes are recorded`);
    const run = new Uint8Array(RUN_BYTES).fill(SEALED.fileValue);
    const sensitive = [
      text("a message", SEALED.message),
      text("what is written to memory", SEALED.written),
      { what: `${RUN_BYTES} bytes of a file`, bytes: run },
      ...sealed.flatMap(({ client, server }) =>
        [client, server].flatMap(({ proof }) => secret("a PROOF", proof))
      ),
    ];
    assertEquals(readable(places(evidence), sensitive), []);
  },

  "all that UDP carries goes to the port of RoCE, from and to the embedded provider too"(
    { udpPorts },
  ) {
    assertEquals(udpPorts, new Set([ROCE_UDP_PORT]));
  },

  "no packet goes to another queue pair than those agreed, but for the connection manager's"(
    { agreements, packets },
  ) {
    const ways = agreements.flatMap(bothWays).map(([from, to]) => isOnWay(from, to));
    const others = packets.filter((packet) =>
      !isManagement(packet) && !ways.some((isOn) => isOn(packet))
    ).map(({ destination, destinationQpn }) => `queue pair ${destinationQpn} of ${destination}`);
    assertEquals([...new Set(others)], []);
  },

  "the connection manager hears an HMAC, and starting PSNs that are not those agreed"(
    { agreements, packets, management },
  ) {
    assertEquals(management.length, packets.filter(isManagement).length);
    const kinds = new Set(management.map(({ kind }) => kind));
    assert(kinds.has("REQ") && kinds.has("REP"), `only ${[...kinds]} are recorded`);
    const managed = agreements.find(({ connect }) => connect === "cm")!;
    const client = managed.client.numbers;
    const server = managed.server.numbers;
    for (const { kind, localQpn, startingPsn, privateData, datagram } of management) {
      if (kind === "REQ") assertEquals(localQpn, client.qpn);
      if (kind === "REP") assertEquals(localQpn, server.qpn);
      assert(startingPsn !== client.psn && startingPsn !== server.psn, `${kind}: ${startingPsn}`);
      const data = kind === "REQ" ? managed.cmToken : new Uint8Array(0);
      assertEquals(privateData.slice(0, data.length), data, kind);
      assert(privateData.subarray(data.length).every((byte) => byte === 0), `${kind} says more`);
      assertEquals(readable([{ name: kind, bytes: datagram }], binaryPsns(managed, 3)), []);
    }
  },

  "no PSN, key, secret, nonce or session can be read on the wire outside RoCE headers"(
    evidence,
  ) {
    const { agreements, tlsSecrets, certificateKeys } = evidence;
    const sensitive = [
      ...["psn", "qpn", "rkey", "nonce", "session", "secret"].map((name) =>
        text("a field of a frame", `"${name}":`)
      ),
      ...agreements.flatMap(sensitiveOf),
      ...tlsSecrets.flatMap((bytes) => secret("a secret of TLS", bytes)),
      ...certificateKeys.flatMap(sensitiveOfKey),
    ];
    assertEquals(readable(places(evidence), sensitive), []);
  },

  "no PSN is in what TCP and RDMA carry in the clear, as three or four bytes"(
    { connections, agreements, packets },
  ) {
    // Handshakes are full of random bytes, in which three would be found too often by chance. What
    // TLS has encrypted is nothing but those; that it has is shown by its having been decrypted.
    const handshakes = connections.flatMap(({ wire }) =>
      SIDES.map((side) => ({
        name: `the ${side}'s handshake`,
        bytes: Buffer.concat(
          tlsRecords(sent(wire, side)).filter(({ type }) => type !== APPLICATION_DATA)
            .map(({ bytes }) => bytes),
        ),
      }))
    );
    assertEquals(readable(handshakes, agreements.flatMap((each) => binaryPsns(each, 4))), []);
    // Other files would hold any three bytes somewhere; the one moved here has one byte's value. The
    // PROOFs are random, and known to be nothing else. So are records, in which any three bytes are
    // found by chance: what is in them is what is in the clear where sessions are not sealed.
    for (const agreement of agreements.filter((each) => !isSealed(each))) {
      const payloads = bothWays(agreement).flatMap(([from, to]) =>
        packets.filter(isOnWay(from, to)).map(({ payload }) => ({
          name: "a payload of RoCE",
          bytes: without(payload, from.proof),
        }))
      );
      assertEquals(readable(payloads, binaryPsns(agreement, 3)), []);
    }
  },

  "PROOFs that are not sealed and the connection manager's token cross the wire where they belong, and nowhere else"(
    { wire, agreements, packets, management },
  ) {
    const expected = agreements.flatMap((agreement) => {
      const { connect, cmToken } = agreement;
      const requests = management.filter(({ kind }) => connect === "cm" && kind === "REQ");
      const proofs = bothWays(agreement).map(([from, to]) => {
        const first = packets.filter(isOnWay(from, to)).filter((packet) =>
          isRequest(packet) && packet.psn === from.numbers.psn
        );
        return { bytes: from.proof, times: isSealed(agreement) ? 0 : first.length };
      });
      return [...proofs, { bytes: cmToken, times: requests.length }];
    });
    const found = find(wire, expected);
    assertEquals(
      expected.map((each) => found.filter((one) => one === each).length),
      expected.map(({ times }) => times),
    );
  },
};

function isSealed({ seal }: Agreement): boolean {
  return seal !== "off";
}

function payloadBytes(packets: readonly RocePacket[]): number {
  return packets.reduce((sum, { payload }) => sum + payload.length, 0);
}

/** Each packet as it was, and what goes on from one packet to the next. */
function places({ wire, connections, agreements, packets }: Evidence): Place[] {
  return [
    { name: "a packet", bytes: wire },
    ...connections.flatMap((connection) =>
      SIDES.map((side) => ({
        name: `what the ${side} sent over TCP`,
        bytes: sent(connection.wire, side),
      }))
    ),
    ...agreements.flatMap(bothWays).map(([from, to]) => ({
      name: `what queue pair ${to.numbers.qpn} of ${to.address} got`,
      bytes: Buffer.concat(packets.filter(isOnWay(from, to)).map(({ payload }) => payload)),
    })),
  ];
}

/** All that one side of a TCP connection sent. */
function sent(chunks: readonly Chunk[], side: Chunk["from"]): Uint8Array {
  return Buffer.concat(chunks.filter(({ from }) => from === side).map(({ bytes }) => bytes));
}

/** Both PSNs of a session as so many bytes. */
function binaryPsns({ client, server }: Agreement, length: 3 | 4): Sensitive[] {
  return [
    ...binaryPsn("the client's PSN", client.numbers.psn, length),
    ...binaryPsn("the server's PSN", server.numbers.psn, length),
  ];
}

/** All of a session that only its two ends may know. Verbseal has no passwords. */
function sensitiveOf(agreement: Agreement): Sensitive[] {
  const ends = SIDES.flatMap((side) => {
    const { numbers, nonce, secret: own, proofKey, proof, sealKey } = agreement[side];
    return [
      ...printedPsn(`the ${side}'s PSN`, numbers.psn),
      ...secret(`the ${side}'s SECRET`, own),
      ...secret(`the ${side}'s nonce`, decodeBase64(nonce)),
      ...secret(`the key of the ${side}'s PROOF`, proofKey),
      ...printed(`the ${side}'s PROOF`, proof),
      ...secret(`the key of the ${side}'s records`, sealKey),
    ];
  });
  return [
    ...ends,
    ...secret("the session's name", decodeBase64Url(agreement.session)),
    ...secret("the key of the connection manager's token", agreement.cmKey),
    ...printed("the connection manager's token", agreement.cmToken),
  ];
}

/** A certificate's key: its number, and the lines of its file. */
function sensitiveOfKey(pem: string): Sensitive[] {
  const { d } = createPrivateKey(pem).export({ format: "jwk" });
  const body = pem.split("\n").filter((line) => line !== "" && !line.startsWith("-----END"));
  return [
    ...secret("a certificate's key", decodeBase64Url(d!)),
    ...body.map((line) => text("a line of a key's file", line)),
  ];
}

/** The bytes before and after others, if those are among them. */
function without(bytes: Uint8Array, others: Uint8Array): Uint8Array {
  const at = Buffer.from(bytes).indexOf(others);
  if (at < 0) return bytes;
  return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + others.length)]);
}
