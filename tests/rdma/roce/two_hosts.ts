/** Two hosts on a network, and queue pairs from one to the other. */
import type { PathMtu } from "../../../lib/rdma/address.ts";
import type { QueuePairAttributes } from "../../../lib/rdma/queue_pair.ts";
import { connectEnds, SimulatedEnd, SimulatedHost } from "./simulated_end.ts";
import { type Faults, NO_FAULTS, SimulatedNetwork } from "./simulated_network.ts";

export class TwoHosts implements Disposable {
  readonly network: SimulatedNetwork;
  readonly hosts: readonly [SimulatedHost, SimulatedHost];
  readonly #ends: SimulatedEnd[] = [];
  readonly #resources = new DisposableStack();

  constructor(faults: Faults = NO_FAULTS) {
    this.network = new SimulatedNetwork(faults, 1);
    const host = (number: number) =>
      this.#resources.use(new SimulatedHost(this.network, number, "IPv4"));
    this.hosts = [host(1), host(2)];
  }

  /** Connects two ends, one on each host. */
  connect(
    memoryBytes: number,
    pathMtu: PathMtu,
    more: Partial<QueuePairAttributes> = {},
  ): [SimulatedEnd, SimulatedEnd] {
    const [one, other] = this.hosts;
    const ends: [SimulatedEnd, SimulatedEnd] = [
      this.#resources.use(new SimulatedEnd(one, memoryBytes, 1000)),
      this.#resources.use(new SimulatedEnd(other, memoryBytes, 2000)),
    ];
    connectEnds(...ends, pathMtu, more);
    this.#ends.push(...ends);
    return ends;
  }

  /** Lets the hosts work until nothing more happens, or until a time has come. */
  run(until = Infinity, step = () => {}): void {
    const collect = () => {
      this.#ends.forEach((end) => end.collect());
      step();
    };
    this.network.run(this.hosts.map(({ port }) => port), collect, until);
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}
