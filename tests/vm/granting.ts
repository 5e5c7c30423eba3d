/** A session of which every window is bound: says so, and waits to be killed. */
import { Memory } from "../../ffi/memory.ts";
import { DataPathPair } from "../session/data_path_pair.ts";

const WINDOWS = 16;
const BYTES = 65536;

// Of rdma_rxe's windows any peer can end, so sessions grant by none there; a NIC's end with a process alike.
const { near } = await DataPathPair.create((device) =>
  Object.assign(device, { guardsMemoryWindows: true })
);
const memory = new Memory(WINDOWS * BYTES);
for (let window = 0; window < WINDOWS; window++) {
  await near.access.lend(memory, window * BYTES, BYTES).grant("write");
}
console.log("granted");
setInterval(() => {}, 1000);
