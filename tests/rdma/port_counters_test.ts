import { assert, assertEquals } from "@std/assert";
import { libc } from "../../ffi/libc.ts";
import { openDevice } from "../../lib/rdma/provider.ts";
import { portErrorCounters } from "../../lib/rdma/verbs/port_counters.ts";
import { provider } from "../provider.ts";
import { verbsTest } from "./resources.ts";

/** Names of rdma_rxe, of mlx5 and of the InfiniBand specification. */
const files = {
  "hw_counters/out_of_seq_request": "3\n",
  "hw_counters/duplicate_request": "1\n",
  "hw_counters/sent_pkts": "100\n",
  "hw_counters/resp_remote_access_errors": "2\n",
  "hw_counters/resp_cqe_flush_error": "9\n",
  "hw_counters/lifespan": "10\n",
  "hw_counters/rx_icrc_encapsulated": "4\n",
  "counters/port_rcv_errors": "5\n",
  "counters/port_rcv_data": "1000\n",
  "counters/VL15_dropped": "N/A (no PMA)\n",
};

// Deno's check for leaks wants libraries loaded before the first test.
libc();

Deno.test("of a port's counters those of errors are read, by any driver's names", async () => {
  const root = await Deno.makeTempDir();
  try {
    for (const folder of ["hw_counters", "counters"]) {
      await Deno.mkdir(`${root}/mlx5_0/ports/1/${folder}`, { recursive: true });
    }
    for (const [name, text] of Object.entries(files)) {
      await Deno.writeTextFile(`${root}/mlx5_0/ports/1/${name}`, text);
    }
    assertEquals(portErrorCounters("mlx5_0", 1, root), {
      out_of_seq_request: 3,
      duplicate_request: 1,
      resp_remote_access_errors: 2,
      rx_icrc_encapsulated: 4,
      port_rcv_errors: 5,
    });
    assertEquals(portErrorCounters("mlx5_0", 2, root), {}, "a driver that counts nothing");
  } finally {
    await Deno.remove(root, { recursive: true });
  }
});

verbsTest("a device's ports say what they have counted of errors", () => {
  using device = openDevice(provider.device);
  const ports = device.errorCounters();
  assertEquals(ports.length, device.ports().length);
  for (const { counters } of ports) {
    assert(Object.keys(counters).length > 0);
    for (const value of Object.values(counters)) assert(Number.isSafeInteger(value) && value >= 0);
  }
});
