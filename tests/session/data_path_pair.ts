/** Two data paths over queue pairs, in this process: what is lent by one can be reached by the other. */
import type { SealKeys } from "../../lib/control/keys.ts";
import { agreePath } from "../../lib/control/path.ts";
import type { Device } from "../../lib/rdma/device.ts";
import { openDevice, selectPort } from "../../lib/rdma/provider.ts";
import { portChoice } from "../../lib/services/port_choice.ts";
import { LocalDataPath } from "../../lib/session/local_data_path.ts";
import type { ServiceAccess, ServiceDefinition } from "../../lib/session/service.ts";
import { provider } from "../provider.ts";

/** One end, and what its services have. */
export class PathEnd {
  readonly path: LocalDataPath;
  readonly psn = crypto.getRandomValues(new Uint32Array(1))[0]! & 0xff_ffff;
  access!: ServiceAccess;

  constructor(device: Device, side: "client" | "server") {
    const definition: ServiceDefinition = {
      name: "memory",
      kinds: [],
      start: (access) => {
        this.access = access;
        return { [Symbol.asyncDispose]: () => Promise.resolve() };
      },
    };
    const port = portChoice(selectPort(provider.device, provider.address));
    this.path = new LocalDataPath(
      device,
      { side, messageBytes: 2 ** 16, services: ["memory"], port, peerProvider: provider.name },
      [definition],
    );
  }

  async numbers() {
    return { ...await this.path.allocate(), epoch: 0, psn: this.psn };
  }
}

export class DataPathPair implements AsyncDisposable {
  readonly #device: Device;
  readonly near: PathEnd;
  readonly far: PathEnd;

  private constructor(adapt: (device: Device) => void) {
    this.#device = openDevice(provider.device);
    adapt(this.#device);
    this.near = new PathEnd(this.#device, "server");
    this.far = new PathEnd(this.#device, "client");
  }

  /**
   * Both have proven themselves, and services run.
   *
   * @param adapt changes the device, which is theirs alone
   * @param seal of each, as the near end is the server
   */
  static async create(
    adapt: (device: Device) => void = () => {},
    seal?: { readonly near: SealKeys; readonly far: SealKeys },
  ): Promise<DataPathPair> {
    await using building = new AsyncDisposableStack();
    const pair = building.use(new DataPathPair(adapt));
    const { near, far } = pair;
    const numbers = new Map([[near, await near.numbers()], [far, await far.numbers()]]);
    const proof = new Uint8Array(32);
    const connect = async (end: PathEnd, peer: PathEnd) => {
      const [local, remote] = [numbers.get(end)!, numbers.get(peer)!];
      const ends = [local, remote].map((numbers) => ({ provider: provider.name, numbers }));
      const keys = end === near ? seal?.near : seal?.far;
      const path = agreePath(ends[0]!, ends[1]!);
      await end.path.connect({ local, remote, path, ...(keys ? { seal: keys } : {}) });
    };
    await Promise.all([connect(near, far), connect(far, near)]);
    await Promise.all([near.path.prove(proof, proof), far.path.prove(proof, proof)]);
    building.move();
    return pair;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.near.path.close(), this.far.path.close()]);
    this.#device[Symbol.dispose]();
  }
}
