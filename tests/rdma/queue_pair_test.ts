import { assertEquals, assertThrows } from "@std/assert";
import { checkTransition, TransitionError } from "../../lib/rdma/queue_pair.ts";

const ready = { state: "RTS", timeout: 14, retryCount: 7, rnrRetry: 6, maxRdAtomic: 1 } as const;

Deno.test("a transition with all its attributes is accepted", () => {
  checkTransition("RTR", { ...ready, sqPsn: 0xff_ffff });
  checkTransition("RTS", { state: "ERR" });
  checkTransition("ERR", { state: "RESET" });
});

Deno.test("a transition names every attribute that is missing and every one that is not allowed", () => {
  const error = assertThrows(
    () => checkTransition("INIT", { state: "RTR", rqPsn: 1, sqPsn: 2, timeout: 3 }),
    TransitionError,
  );
  assertEquals(error.missing, [
    "addressVector",
    "pathMtu",
    "destQpn",
    "maxDestRdAtomic",
    "minRnrTimer",
  ]);
  assertEquals(error.notAllowed, ["sqPsn", "timeout"]);
});

Deno.test("a transition that verbs does not know is refused", () => {
  assertThrows(
    () => checkTransition("RESET", { state: "RTS" }),
    TransitionError,
    "RESET → RTS refused: there is no such transition",
  );
});

Deno.test("a PSN of more than 24 bits is refused by name", () => {
  assertThrows(
    () => checkTransition("RTR", { ...ready, sqPsn: 0x100_0000 }),
    TransitionError,
    "sqPsn is 16777216",
  );
});
