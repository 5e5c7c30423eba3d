/**
 * Which provider this run of the tests is about: without a word the embedded one, on any host; with
 * VERBSEAL_TEST_PROVIDER=verbs, as in the guest, that over libibverbs with rdma_rxe.
 */
export interface TestProvider {
  readonly name: "verbs" | "roce";
  /** As `--device` and openDevice() take it. */
  readonly device: string;
  /** IP address of its port. */
  readonly address: string;
}

/** The guest's Soft-RoCE device. */
export const rxe: TestProvider = { name: "verbs", device: "rxe0", address: "10.9.0.1" };

const embedded: TestProvider = { name: "roce", device: "roce:127.0.0.1", address: "127.0.0.1" };

export const provider = Deno.env.get("VERBSEAL_TEST_PROVIDER") === "verbs" ? rxe : embedded;
