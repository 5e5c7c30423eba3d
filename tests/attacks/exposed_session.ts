/** A session that an attacker on the wire can forge packets into, from either side. */
import type { Device } from "../../lib/rdma/device.ts";
import { openDevice, selectPort } from "../../lib/rdma/provider.ts";
import { portChoice } from "../../lib/services/port_choice.ts";
import type { PortChoice } from "../../lib/session/data_path.ts";
import { provider } from "../provider.ts";
import type { HostileClient } from "../session/hostile_client.ts";
import { NetworkNamespace } from "../vm/namespace.ts";
import { atOtherEnd } from "../vm/other_end.ts";
import { PacketAttacker } from "./packet_attacker.ts";
import type { System } from "./system.ts";
import { type Look, WireTap } from "./wire_tap.ts";

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
      const tap = look && building.use(new WireTap({ to, from: to.gid, within: atOtherEnd }, look));
      const place = { device: system.clientDevice, detour: tap?.port };
      const client = building.use(await system.hostile(place));
      return ExposedSession.#attacked(client, address, building);
    }
    const far = NetworkNamespace.addresses.ipv4;
    const place = { to, from: `::ffff:${far}`, within: atOtherEnd };
    const tap = look && building.use(new WireTap(place, look));
    const { device, port } = atOtherEnd(() => openFar(far));
    building.use(device);
    const client = building.use(await system.hostile({ device, port, detour: tap?.port }));
    return ExposedSession.#attacked(client, far, building);
  }

  /** @param address of the client's host */
  static #attacked(
    client: HostileClient,
    address: string,
    building: AsyncDisposableStack,
  ): ExposedSession {
    const { local, remote } = client.numbers;
    const toServer = building.use(atOtherEnd(() => new PacketAttacker(remote, address)));
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
