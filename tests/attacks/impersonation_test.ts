/** Attacks by who poses as somebody else: as the server, as the peer of the queue pair, as both ends. */
import { TlsError } from "../../lib/errors.ts";
import { MessageKind } from "../../lib/session/service.ts";
import { protocol } from "../../lib/tls/connection.ts";
import type { Trust } from "../../lib/tls/trust.ts";
import { provider } from "../provider.ts";
import { attackTest } from "./attack.ts";
import { KNOWN_TO_ALL, unproven } from "./careless_path.ts";
import {
  authority,
  clientAuthority,
  serverIdentity,
  System,
  type SystemOptions,
} from "./system.ts";

const impostor = await serverIdentity();

/** What the victim believes. */
const own: Trust = { authorities: [authority] };
const anybody = {
  instead: "a client that believes the attacker's authority too",
  against: { authorities: [authority, impostor.authority] },
};

attackTest<Trust>({
  rows: ["5.1.1"],
  attack: "answers in the server's place, with a certificate of its own making",
  countermeasure: "TLS with a verified server",
  against: own,
  without: anybody,
  async mount(trust) {
    await using system = await System.start({ identity: impostor.identity });
    return await isServed(system, trust);
  },
});

attackTest<Trust>({
  rows: ["5.1.3"],
  attack: "stands between client and server, and reads QPNs and PSNs",
  countermeasure: "TLS with a verified server; numbers, keys and GIDs travel in it only",
  against: own,
  without: anybody,
  async mount(trust) {
    await using system = await System.start();
    await using middle = new Middle(system.port);
    return await isServed(system, trust, middle.port) && middle.seen.includes('"psn":');
  },
});

attackTest<SystemOptions>({
  rows: ["5.1.1"],
  attack: "comes without a certificate where one is asked for",
  countermeasure: "client certificates, verified in the handshake",
  against: {
    clientAuthentication: { trust: { authorities: [clientAuthority] }, required: true },
  },
  without: { instead: "a server that asks for none", against: {} },
  async mount(options) {
    await using system = await System.start(options);
    return await isServed(system, own);
  },
});

attackTest<SystemOptions>({
  rows: ["5.1.1"],
  attack: "has the queue pair of a session, and not the keys of its TLS connection",
  countermeasure: "the first message proves knowledge of the TLS session's keys",
  against: {},
  without: {
    instead: "a data path to which any proof is good",
    against: { dataPath: unproven },
  },
  async mount(options) {
    await using system = await System.start(options);
    using attacker = await system.connect();
    await attacker.reachFirstMessage();
    // The server's own shows that it awaits one.
    await attacker.message(MessageKind.PROOF);
    attacker.sendFragment({ kind: MessageKind.PROOF, payload: KNOWN_TO_ALL });
    attacker.sendFragment({ kind: MessageKind.ECHO });
    const answered = attacker.message(MessageKind.ANSWER).then(() => true);
    return await Promise.race([answered, system.ended(attacker).then(() => false)]);
  },
});

/** Whether a client that trusts so gets an answer. */
async function isServed(system: System, trust: Trust, port = system.port): Promise<boolean> {
  try {
    const server = { hostname: provider.address, port };
    await using client = await system.client({ trust, server });
    await client.session.during(client.messages.ask("ECHO", KNOWN_TO_ALL));
    return true;
  } catch (error) {
    // A client learns of its certificate's fate after its own part of the handshake.
    if (error instanceof TlsError) return false;
    throw error;
  }
}

/** Who stands in the middle: speaks TLS with both, and passes on all that it reads. */
class Middle implements AsyncDisposable {
  /** All that passed, as text. */
  seen = "";
  readonly #listener: Deno.TlsListener;
  readonly #serving: Promise<void>;

  constructor(private readonly serverPort: number) {
    const { certificate: cert, key } = impostor.identity;
    const alpnProtocols = [protocol];
    this.#listener = Deno.listenTls({
      ...{ hostname: provider.address, port: 0, cert, key, alpnProtocols },
    });
    this.#serving = this.#serve(alpnProtocols);
  }

  get port(): number {
    return (this.#listener.addr as Deno.NetAddr).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await this.#serving;
  }

  async #serve(alpnProtocols: string[]): Promise<void> {
    const client = await this.#listener.accept();
    // A client that does not believe it ends the handshake.
    const met = await client.handshake().then(() => true, () => false);
    if (!met) return client.close();
    const { hostname, port } = { hostname: provider.address, port: this.serverPort };
    const server = await Deno.connectTls({ hostname, port, caCerts: [authority], alpnProtocols });
    await Promise.all([this.#pass(client, server), this.#pass(server, client)]);
  }

  async #pass(from: Deno.TlsConn, to: Deno.TlsConn): Promise<void> {
    const decoder = new TextDecoder();
    const look = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
      transform: (chunk, controller) => {
        this.seen += decoder.decode(chunk, { stream: true });
        controller.enqueue(chunk);
      },
    });
    await from.readable.pipeThrough(look).pipeTo(to.writable).catch(() => {});
  }
}
