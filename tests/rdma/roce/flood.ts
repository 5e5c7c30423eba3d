/**
 * Floods a queue pair with forged packets, and prints how many bytes more its process holds after many
 * than after a few: `deno run --v8-flags=--expose-gc flood.ts`. Run by flood_test.ts.
 */
import fc from "fast-check";
import { AttackedEnd } from "./attacked_end.ts";
import { Forger, forgeries } from "./forged_packet.ts";

declare const gc: () => void;

const FEW = 5_000;
const MANY = 50_000;

function flood(packets: number, seed: number): void {
  // Fewer at a time: the packets that are drawn would be what is held.
  for (let done = 0; done < packets; done += 1000) {
    for (const forgery of fc.sample(forgeries, { numRuns: 1000, seed: seed + done })) {
      attacked.hit(forger.make(forgery, attacked.knowledge));
      // What the test notes down is not what the port keeps.
      for (const notes of [attacked.sent, end.sent, end.received, end.host.events]) {
        notes.length = 0;
      }
      if (end.queuePair.query().state === "ERR") attacked.begin();
    }
  }
}

function heldBytes(): number {
  gc();
  const { heapUsed, external } = Deno.memoryUsage();
  return heapUsed + external;
}

using attacked = new AttackedEnd("IPv4");
const { end } = attacked;
using forger = new Forger(attacked.peer, end.host.port.local);
flood(FEW, 1);
const before = heldBytes();
flood(MANY, 2);
console.log(heldBytes() - before);
