/** A session that an attacker on the wire can forge packets into, from either side. */
import type { Device } from "../../lib/rdma/device.ts";
import { openDevice, selectPort } from "../../lib/rdma/provider.ts";
import { portChoice } from "../../lib/services/port_choice.ts";
import type { PortChoice } from "../../lib/session/data_path.ts";
import { provider } from "../provider.ts";
import type { HostileClient } from "../session/hostile_client.ts";
import { NetworkNamespace } from "../vm/namespace.ts";
import { PacketAttacker } from "./packet_attacker.ts";
import type { System } from "./system.ts";
import { type Look, WireTap } from "./wire_tap.ts";

/** Where the wire of the guest's device ends. It is there before any device is opened: its port goes down meanwhile. */
let otherEnd: NetworkNamespace | undefined;

if (provider.name === "verbs") {
  Deno.test.beforeAll(async () => {
    otherEnd = await NetworkNamespace.create();
  });
  Deno.test.afterAll(async () => await otherEnd?.[Symbol.asyncDispose]());
}

export class ExposedSession implements AsyncDisposable {
  private constructor(
    readonly client: HostileClient,
    /** Packets to the server's queue pair and to the client's, each as if from the other. */
    readonly toServer: PacketAttacker,
    readonly toClient: PacketAttacker,
    private readonly stack: AsyncDisposableStack,
  ) {}

  /**
   * On a device a session with itself uses no wire: there the client is the embedded provider in a
   * namespace at the other end of it.
   *
   * @param look of somebody who stands in the way of the client's packets; nobody does unless told
   */
  static async open(system: System, look?: Look): Promise<ExposedSession> {
    await using building = new AsyncDisposableStack();
    const { address } = provider;
    const to = { gid: `::ffff:${address}`, udpPort: system.device.udpPort };
    if (provider.name === "roce") {
      const within = <T>(work: () => T) => work();
      const tap = look && building.use(new WireTap({ to, from: to.gid, within }, look));
      const place = { device: system.clientDevice, detour: tap?.port };
      const client = building.use(await system.hostile(place));
      return ExposedSession.#attacked(client, address, within, building);
    }
    const far = NetworkNamespace.addresses.ipv4;
    const within = <T>(work: () => T) => otherEnd!.within(work);
    const tap = look && building.use(new WireTap({ to, from: `::ffff:${far}`, within }, look));
    const { device, port } = within(() => openFar(far));
    building.use(device);
    const client = building.use(await system.hostile({ device, port, detour: tap?.port }));
    return ExposedSession.#attacked(client, far, within, building);
  }

  /** @param within runs where the client's host is, which has the address */
  static #attacked(
    client: HostileClient,
    address: string,
    within: <T>(work: () => T) => T,
    building: AsyncDisposableStack,
  ): ExposedSession {
    const { local, remote } = client.numbers;
    const toServer = building.use(within(() => new PacketAttacker(remote, address)));
    const toClient = building.use(new PacketAttacker(local, provider.address));
    return new ExposedSession(client, toServer, toClient, building.move());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stack.disposeAsync();
  }
}

function openFar(address: string): { device: Device; port: PortChoice } {
  const name = `roce:${address}`;
  return { port: portChoice(selectPort(name, address)), device: openDevice(name) };
}
