/** Connections that stop at some step of the exchange, many at a time. */
import type { Device } from "../../lib/rdma/device.ts";
import { closeQuietly } from "../../lib/tls/tcp.ts";
import { provider } from "../provider.ts";
import { HostileClient } from "../session/hostile_client.ts";

/** One that has come to its last step. */
interface Stopped {
  /** Resolves when the server has ended it. */
  ended(): Promise<unknown>;
  /** With a goodbye or without. */
  close(politely: boolean): void;
}

/** Whose connections stop, and where. */
export interface Victim {
  readonly port: number;
  /** PEM. */
  readonly authority: string;
  /** The attacker's own. */
  readonly device: Device;
}

type Step = (victim: Victim) => Promise<Stopped>;

/** The beginning of a TLS record with a ClientHello, of which the rest never comes. */
const PARTIAL_HELLO = Uint8Array.of(0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 3, 3);

/** What comes before a queue pair is more often the last step: it costs the attacker less. */
const steps: readonly Step[] = [
  tcp(),
  tcp(),
  tcp(PARTIAL_HELLO),
  tcp(PARTIAL_HELLO),
  exchange(() => Promise.resolve()),
  exchange((client) => client.enter()),
  exchange(async (client) => {
    await client.enter();
    await client.offerQueuePair();
  }),
  exchange((client) => client.reachFirstMessage()),
];

/** A crowd of them. Disposing it closes those that are left. */
export class StoppedConnections implements Disposable {
  readonly #silent = new Set<Stopped>();

  constructor(private readonly victim: Victim) {}

  /** Opens so many connections, some at once; a quarter of them falls silent and stays. */
  async run(count: number, atOnce: number): Promise<void> {
    let left = count;
    const open = async () => {
      while (left-- > 0) await this.#open();
    };
    await Promise.all(Array.from({ length: atOnce }, open));
  }

  [Symbol.dispose](): void {
    for (const stopped of this.#silent) stopped.close(false);
    this.#silent.clear();
  }

  async #open(): Promise<void> {
    const step = steps[Math.floor(Math.random() * steps.length)]!;
    // One that is refused or cut off on its way has stopped too.
    const stopped = await step(this.victim).catch(() => undefined);
    if (!stopped) return;
    const ending = Math.floor(Math.random() * 4);
    if (ending > 0) return stopped.close(ending === 1);
    this.#silent.add(stopped);
    stopped.ended().then(() => {
      if (this.#silent.delete(stopped)) stopped.close(false);
    });
  }
}

function tcp(first?: Uint8Array): Step {
  return async ({ port }) => {
    const connection = await Deno.connect({ hostname: provider.address, port });
    if (first) await connection.write(first);
    return {
      ended: () => connection.read(new Uint8Array(16)).catch(() => {}),
      close: () => closeQuietly(connection),
    };
  };
}

function exchange(reach: (client: HostileClient) => Promise<void>): Step {
  return async (victim) => {
    const client = await HostileClient.connect(victim, victim.authority, victim.device);
    try {
      await reach(client);
    } catch (error) {
      client[Symbol.dispose]();
      throw error;
    }
    return {
      ended: () => client.farewell(),
      close(politely) {
        if (politely) client.hangUp();
        client[Symbol.dispose]();
      },
    };
  };
}
