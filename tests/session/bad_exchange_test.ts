import { assert, assertEquals } from "@std/assert";
import { type FrameName, FrameType } from "../../lib/control/frame.ts";
import { MessageKind } from "../../lib/session/service.ts";
import { attackTest, frame, HANDSHAKE, logTest, Scene } from "./attack_scene.ts";
import { HostileClient, tcpConnection } from "./hostile_client.ts";
import { provider } from "../provider.ts";
import { verbsTest } from "../rdma/resources.ts";

// Before the session.

verbsTest("garbage instead of TLS: not_tls", async () => {
  const scene = Scene.current;
  const { tcp, peer } = await tcpConnection(scene.server.port);
  await tcp.write(new TextEncoder().encode("GET / HTTP/1.1\r\nHost: verbseal\r\n\r\n"));
  assertEquals((await scene.ended(peer)).reason, "not_tls");
  tcp.close();
  await scene.unharmed();
});

verbsTest("a client that hangs up in the TLS handshake: connection_lost", async () => {
  const scene = Scene.current;
  const { tcp, peer } = await tcpConnection(scene.server.port);
  tcp.close();
  assertEquals((await scene.ended(peer)).reason, "connection_lost");
  await scene.unharmed();
});

verbsTest("a client of another application protocol, or of none: other_protocol", async () => {
  const scene = Scene.current;
  using client = await scene.connect([]);
  assertEquals((await scene.ended(client.peer)).reason, "other_protocol");
  await scene.unharmed();
});

verbsTest("clients that stop at any step of the exchange: exchange_timeout", async () => {
  const scene = Scene.current;
  const { tcp, peer } = await tcpConnection(scene.server.port);
  const steps: ((client: HostileClient) => Promise<void>)[] = [
    () => Promise.resolve(),
    (client) => client.writeBytes(frame(FrameType.HELLO, 100, [1, 2, 3])),
    (client) => client.enter(),
    async (client) => {
      await client.enter();
      await client.offerQueuePair();
    },
    (client) => client.reachFirstMessage(),
  ];
  const clients = await Promise.all(steps.map(() => scene.connect()));
  await Promise.all(steps.map((reach, index) => reach(clients[index]!)));
  for (const stopped of [peer, ...clients.map((client) => client.peer)]) {
    const line = await scene.ended(stopped, (HANDSHAKE + 2) * 1000);
    assertEquals(line.reason, "exchange_timeout");
    assert(Number(line.seconds) < HANDSHAKE + 1, `${line.seconds} s`);
  }
  tcp.close();
  for (const client of clients) client.dropQueuePair();
  await scene.unharmed();
  for (const client of clients) client[Symbol.dispose]();
});

attackTest(
  "bytes that are no frame",
  "frame_type",
  (client) => client.writeBytes(crypto.getRandomValues(new Uint8Array(4096))),
);

attackTest(
  "a frame of 4 GiB",
  "frame_length",
  (client) => client.writeBytes(frame(FrameType.HELLO, 0xffff_ffff)),
);

attackTest("a frame of unknown type", "frame_type", (client) => client.writeBytes(frame(99, 0)));

attackTest(
  "a frame out of turn",
  "out_of_turn",
  (client) => client.send({ name: "PING", body: { id: 1 } }),
);

attackTest(
  "a HELLO that is no JSON",
  "schema",
  (client) => client.writeBytes(frame(FrameType.HELLO, 3, [123, 125, 125])),
);

attackTest(
  "a HELLO of another version",
  "schema",
  (client) => client.sendBody("HELLO", { version: 2 }),
);

attackTest(
  "a SECRET before HELLO",
  "out_of_turn",
  (client) => client.send({ name: "SECRET", body: new Uint8Array(32) }),
);

for (const name of Object.keys(FrameType) as FrameName[]) {
  if (name === "QP" || name === "ERROR") continue;
  attackTest(`${name} with a body of nonsense after WELCOME`, "schema", async (client) => {
    await client.enter();
    await client.sendBody(name, { nonsense: name });
  });
}

attackTest("an ERROR of the client's own", "client_error", async (client) => {
  await client.enter();
  await client.send({ name: "ERROR", body: { code: "gave_up", text: "enough" } });
});

const numbers: [what: string, lies: Record<string, unknown>, reason: string][] = [
  ["a QPN above 24 bits", { qpn: 2 ** 24 }, "schema"],
  ["a QPN of the port's own queue pairs", { qpn: 1 }, "schema"],
  ["a PSN above 24 bits", { psn: 2 ** 24 }, "schema"],
  ["a negative PSN", { psn: -1 }, "schema"],
  ["a GID in IPv4 notation", { gid: "10.9.0.1" }, "schema"],
  ["a GID with a zone", { gid: "fe80::1%v0" }, "schema"],
  ["an MTU between those that there are", { mtu: 1500 }, "schema"],
  ["no receives", { receives: 0 }, "schema"],
  ["a GID of another network", { gidType: "InfiniBand" }, "gid_type"],
  ["a GID of another family", { gid: "2001:db8::1" }, "gid_family"],
  [
    "a GID of loopback to one that is not, or the other way about",
    { gid: provider.name === "roce" ? "::ffff:192.0.2.77" : "::ffff:127.0.0.1" },
    "gid_scope",
  ],
  ["another epoch", { epoch: 1 }, "epoch"],
];

for (const [what, lies, reason] of numbers) {
  attackTest(`a QP message with ${what}`, reason, async (client) => {
    await client.enter();
    await client.offerQueuePair(lies);
  });
}

attackTest("a READY of another epoch", "epoch", async (client) => {
  await client.enter();
  await client.offerQueuePair();
  await client.bringUp(7);
});

// The first message.

attackTest("a proof that is wrong", "proof", async (client) => {
  await client.reachFirstMessage();
  client.sendFragment({ kind: MessageKind.PROOF, payload: new Uint8Array(32) });
});

attackTest("a proof that is too short", "proof", async (client) => {
  await client.reachFirstMessage();
  client.sendFragment({ kind: MessageKind.PROOF });
});

attackTest("a question before the proof", "message_kind", async (client) => {
  await client.reachFirstMessage();
  client.sendFragment({ kind: MessageKind.ECHO, payload: new Uint8Array(32) });
});

logTest();
