import { getPriority, setPriority } from "node:os";

/** Nice levels below the workers: where they want all there is of a processor, a quarter is left for this thread. */
const LEVELS = 5;

/**
 * Lets the workers that have been started go before this thread where there is no processor for each:
 * what a client costs at handshakes and control frames is not what others move by RDMA. In Linux each
 * thread has its own nice value, and those that it starts from now on have it too (setpriority(2),
 * sched(7)); so has a worker in the place of one that died.
 */
export function giveWayToWorkers(): void {
  setPriority(Math.min(19, getPriority() + LEVELS));
}
