/** A client in this process some of whose parts a test makes, as the program has no options for them. */
import type { Seal } from "../../lib/control/messages.ts";
import type { Device } from "../../lib/rdma/device.ts";
import { openDevice, selectPort } from "../../lib/rdma/provider.ts";
import { FileClient } from "../../lib/services/file_client.ts";
import { MemoryClient } from "../../lib/services/memory.ts";
import { MessageClient } from "../../lib/services/messages.ts";
import { portChoice } from "../../lib/services/port_choice.ts";
import { ClientSession } from "../../lib/session/client_session.ts";
import type { QueuePairPath, QueuePairPathOptions } from "../../lib/session/data_path.ts";
import { LocalDataPath } from "../../lib/session/local_data_path.ts";
import { offeredSeals } from "../../lib/session/sealing.ts";
import type { ServiceDefinition } from "../../lib/session/service.ts";
import { connectByTls } from "../../lib/session/session_queue_pair.ts";
import { dial } from "../../lib/tls/backend.ts";
import type { Endpoint } from "../../lib/tls/connection.ts";
import type { ServiceClients } from "../interop/session_end.ts";
import { provider } from "../provider.ts";

const SECONDS = 10;

/** What a test exchanges; all else is as the program's client has it. */
export interface OwnParts {
  /** What it offers to seal with, most wanted first. */
  readonly seals?: readonly Seal[];
  readonly openDataPath?: (
    device: Device,
    path: QueuePairPathOptions,
    services: readonly ServiceDefinition[],
  ) => QueuePairPath;
}

export class OwnClient implements ServiceClients, AsyncDisposable {
  private constructor(
    readonly session: ClientSession,
    readonly messages: MessageClient,
    readonly memory: MemoryClient,
    readonly files: FileClient,
    private readonly resources: AsyncDisposableStack,
  ) {}

  /** @param authority that it trusts, PEM */
  static async open(
    server: Endpoint,
    authority: string,
    parts: OwnParts = {},
  ): Promise<OwnClient> {
    const { seals = offeredSeals("required"), openDataPath = shippedDataPath } = parts;
    const { signal } = new AbortController();
    await using building = new AsyncDisposableStack();
    const trust = { authorities: [authority] };
    const tls = await dial({ ...server, trust, handshakeSeconds: SECONDS, signal });
    building.defer(() => tls.abort());
    const device = building.use(openDevice(provider.device, { standardPort: false }));
    const messages = new MessageClient();
    const memory = new MemoryClient();
    const files = new FileClient();
    const services = [messages, memory, files];
    const session = building.use(
      await ClientSession.open({
        tls,
        agent: "test",
        transports: ["rdma"],
        queuePairs: {
          port: portChoice(selectPort(provider.device, provider.address)),
          connect: "tls",
          seals,
          connectQueuePair: connectByTls,
          openDataPath: (path) => openDataPath(device, path, services),
        },
        services: services.map(({ name }) => name),
        handshakeSeconds: SECONDS,
        signal,
      }),
    );
    return new OwnClient(session, messages, memory, files, building.move());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.resources.disposeAsync();
  }
}

const shippedDataPath: Required<OwnParts>["openDataPath"] = (...made) => new LocalDataPath(...made);
