import { PACKAGES } from "../../.ci/packages.ts";
import type { Figure } from "./figure.ts";
import { writeBandwidth, writeLatency } from "./verbs_write.ts";

/** One bench of `deno task bench`. It runs in the guest, beside the kernel's RDMA device. */
export interface Bench {
  /** Layer, operation, quantity: `verbs.write.bw`. */
  name: string;
  /** System packages it takes. */
  needs: readonly string[];
  /** Measures; says on standard error how far it is. */
  run(): AsyncIterable<Figure>;
}

/** All of them, in the order in which they run. */
export const benches: readonly Bench[] = [
  { name: "verbs.write.bw", needs: PACKAGES.guest, run: writeBandwidth },
  { name: "verbs.write.lat", needs: PACKAGES.guest, run: writeLatency },
];
