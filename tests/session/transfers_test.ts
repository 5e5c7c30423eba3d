/** READs and WRITEs of a session that ends. */
import { assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { VerbsealError } from "../../lib/errors.ts";
import { Opcode } from "../../lib/rdma/work_request.ts";
import { TRANSFERS, Transfers } from "../../lib/session/transfers.ts";
import { ReliablePair, verbsTest } from "../rdma/resources.ts";

verbsTest(
  "a transfer that the session's end overtakes is rejected, and so are all that wait",
  async () => {
    using pair = new ReliablePair();
    const { client: { queuePair, region: local }, server: { region } } = pair;
    const transfers = new Transfers(queuePair);
    const remote = { address: region.address, rkey: region.rkey };
    const started = Array.from(
      { length: 2 * TRANSFERS },
      () => transfers.start(Opcode.READ, local, 0, 64, remote),
    );
    transfers.abort(new VerbsealError("ended", "the session has ended"));
    const late = transfers.start(Opcode.READ, local, 0, 64, remote);
    for (const transfer of [...started, late]) {
      await assertRejects(() => deadline(transfer, 5000), VerbsealError, "the session has ended");
    }
  },
);
