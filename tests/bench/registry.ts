import { PACKAGES } from "../../.ci/packages.ts";
import type { Figure } from "./figure.ts";
import { kernelTransfers, localTransfers } from "./file_transfers.ts";
import { granted } from "./grants.ts";
import { besideNeighbours } from "./neighbours.ts";
import { queuePairBandwidth, queuePairLatency, queuePairMemory } from "./roce_queue_pairs.ts";
import { roceBesideRxe } from "./roce_rxe.ts";
import { roceWriteBandwidth, roceWriteLatency } from "./roce_write.ts";
import { sealing } from "./seal.ts";
import { sealedThroughput } from "./seal_throughput.ts";
import { sealedPut } from "./sealed_put.ts";
import { handshakesOfOneClient, newHandshakes, resumedHandshakes } from "./tls_handshakes.ts";
import { tlsSessions } from "./tls_sessions.ts";
import { writeBandwidth, writeLatency } from "./verbs_write.ts";

/** One bench of `deno task bench`. */
export interface Bench {
  /** Layer, operation, quantity: `verbs.write.bw`. */
  readonly name: string;
  /** On this machine, or in the guest beside the kernel's RDMA device. */
  readonly place: "host" | "guest";
  /** Of the guest; 2 unless told. */
  readonly processors?: number;
  /** System packages it takes. */
  readonly needs: readonly string[];
  /** Measures; says on standard error how far it is. */
  run(): AsyncIterable<Figure>;
}

const onHost = { place: "host", needs: [] } as const;
const inGuest = { place: "guest", needs: PACKAGES.guest } as const;

/** All of them, in the order in which they run. */
export const benches: readonly Bench[] = [
  { ...onHost, name: "roce.write.bw", needs: PACKAGES.bench, run: roceWriteBandwidth },
  { ...onHost, name: "roce.write.lat", needs: PACKAGES.bench, run: roceWriteLatency },
  { ...onHost, name: "roce.qps.bw", run: queuePairBandwidth },
  { ...onHost, name: "roce.qps.lat", run: queuePairLatency },
  { ...onHost, name: "roce.qp.memory", run: queuePairMemory },
  { ...onHost, name: "seal.gcm", needs: PACKAGES.libraries, run: sealing },
  { ...onHost, name: "seal.throughput", needs: PACKAGES.libraries, run: sealedThroughput },
  { ...onHost, name: "files.put.sealed", needs: PACKAGES.ssh, run: () => sealedPut() },
  { ...onHost, name: "tls.handshake.new", needs: PACKAGES.libraries, run: newHandshakes },
  { ...onHost, name: "tls.handshake.resumed", needs: PACKAGES.libraries, run: resumedHandshakes },
  { ...onHost, name: "tls.handshake.one", needs: PACKAGES.libraries, run: handshakesOfOneClient },
  { ...onHost, name: "tls.sessions", run: tlsSessions },
  { ...onHost, name: "tls.put", needs: PACKAGES.libraries, run: () => localTransfers("put") },
  { ...onHost, name: "tls.get", needs: PACKAGES.libraries, run: () => localTransfers("get") },
  { ...onHost, name: "neighbour", run: () => besideNeighbours("neighbour") },
  { ...inGuest, name: "ktls.put", run: () => kernelTransfers("put") },
  { ...inGuest, name: "ktls.get", run: () => kernelTransfers("get") },
  { ...inGuest, name: "grants.put", run: () => granted("put") },
  { ...inGuest, name: "grants.get", run: () => granted("get") },
  {
    ...{ ...inGuest, name: "neighbour.rxe", processors: 3 },
    run: () => besideNeighbours("neighbour.rxe"),
  },
  { ...inGuest, name: "roce.rxe.bw", run: roceBesideRxe },
  { ...inGuest, name: "verbs.write.bw", run: writeBandwidth },
  { ...inGuest, name: "verbs.write.lat", run: writeLatency },
];
