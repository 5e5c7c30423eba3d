import { Memory } from "../../ffi/memory.ts";
import { RdmaError } from "../errors.ts";
import type { Device } from "./device.ts";
import { type Predictability, predictability } from "./predictability.ts";

/** Enough to tell a rule from chance. */
const COUNT = 64;
const REGION_BYTES = 64;

/** How predictable the numbers are that packets are checked by, or why the device gave none. */
export interface DrawnNumbers {
  readonly rkeys: Predictability | RdmaError;
  readonly qpns: Predictability | RdmaError;
}

/** Has a device give some rkeys and QPNs, and looks at them. All that it made for that is gone afterwards. */
export function drawNumbers(device: Device): DrawnNumbers {
  return {
    rkeys: attempt(() => predictability(drawRkeys(device), 32)),
    qpns: attempt(() => predictability(drawQpns(device), 24)),
  };
}

/** Of regions that peers may read, as others need have no rkey: rdma_rxe gives them 0. */
function drawRkeys(device: Device): number[] {
  using resources = new DisposableStack();
  const memory = resources.use(new Memory(COUNT * REGION_BYTES));
  const domain = resources.use(device.allocateProtectionDomain());
  return Array.from({ length: COUNT }, (_, index) => {
    const offset = index * REGION_BYTES;
    const region = domain.registerMemory(memory, ["REMOTE_READ"], offset, REGION_BYTES);
    return resources.use(region).rkey;
  });
}

function drawQpns(device: Device): number[] {
  using resources = new DisposableStack();
  const queue = resources.use(device.createCompletionQueue(1));
  const domain = resources.use(device.allocateProtectionDomain());
  const options = { sendQueue: queue, receiveQueue: queue, maxSend: 1, maxReceive: 1 };
  return Array.from(
    { length: COUNT },
    () => resources.use(domain.createQueuePair(options)).qpn,
  );
}

function attempt(measure: () => Predictability): Predictability | RdmaError {
  try {
    return measure();
  } catch (error) {
    if (error instanceof RdmaError) return error;
    throw error;
  }
}
