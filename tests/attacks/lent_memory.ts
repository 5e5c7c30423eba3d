/** A client that uses what the memory service lends it, and more. */
import type { LentBuffer, RemoteBuffer, ServiceDefinition } from "../../lib/session/service.ts";
import { Opcode } from "../../lib/rdma/work_request.ts";
import { WorkCompletionError } from "../../lib/rdma/completion_queue.ts";
import type { HostileClient } from "../session/hostile_client.ts";
import { changed } from "./careless_path.ts";

/** Asks for a grant; undefined when it is refused. */
export async function askForGrant(
  client: HostileClient,
  direction: "read" | "write",
  offset: number,
  length: number,
): Promise<RemoteBuffer | undefined> {
  const range = { offset: String(offset), length: String(length) };
  await client.request("memory", { operation: "grant", direction, ...range });
  const { body: { body } } = await client.reply();
  if (body === undefined) return undefined;
  const { address, rkey } = body as { address: string; rkey: number };
  return { address: Number(address), rkey };
}

/** Asks for a grant that must be given. */
export async function grant(
  ...request: Parameters<typeof askForGrant>
): Promise<RemoteBuffer> {
  const granted = await askForGrant(...request);
  if (granted) return granted;
  throw new Error("the grant was refused");
}

export async function withdraw(client: HostileClient): Promise<void> {
  await client.request("memory", { operation: "withdraw" });
  await client.reply();
}

/** READs, or gives undefined where the server's device refuses. */
export function read(
  client: HostileClient,
  remote: RemoteBuffer,
  length: number,
): Promise<Uint8Array | undefined> {
  return accessed(client, Opcode.READ, remote, new Uint8Array(length));
}

/** WRITEs; whether the server's device did it. */
export async function write(
  client: HostileClient,
  remote: RemoteBuffer,
  bytes: Uint8Array,
): Promise<boolean> {
  return await accessed(client, Opcode.WRITE, remote, bytes.slice()) !== undefined;
}

async function accessed(
  client: HostileClient,
  opcode: typeof Opcode.READ | typeof Opcode.WRITE,
  remote: RemoteBuffer,
  bytes: Uint8Array,
): Promise<Uint8Array | undefined> {
  return await allowed(client.access(opcode, remote, bytes), [BY_REGION]) ? bytes : undefined;
}

/** Codes of refusals: by a region, and by a queue pair, which takes no such requests at all. */
const BY_REGION = "ibv_wc_rem_access_err";
const BY_QUEUE_PAIR = "ibv_wc_rem_inv_req_err";

async function allowed(operation: Promise<void>, refusals: readonly string[]): Promise<boolean> {
  try {
    await operation;
    return true;
  } catch (error) {
    if (error instanceof WorkCompletionError && refusals.includes(error.code)) return false;
    throw error;
  }
}

/**
 * Services as they are.
 *
 * @param onEnd told what stands in memory that was lent, when it is lent no more
 */
export function watched(
  onEnd: (bytes: Uint8Array) => void,
): (definitions: readonly ServiceDefinition[]) => readonly ServiceDefinition[] {
  const watch = (definition: ServiceDefinition): ServiceDefinition => ({
    ...definition,
    start: (access) =>
      definition.start(changed(access, {
        lend(memory, offset = 0, length = memory.length - offset) {
          const lent = access.lend(memory, offset, length);
          return changed<LentBuffer>(lent, {
            [Symbol.dispose]() {
              onEnd(memory.bytes.slice(offset, offset + length));
              lent[Symbol.dispose]();
            },
          });
        },
      })),
  });
  return (definitions) => definitions.map((each) => each.name === "memory" ? watch(each) : each);
}

/** Changes eight bytes in place; whether the server's device did it. */
export function changeAtomically(
  client: HostileClient,
  opcode: typeof Opcode.FETCH_AND_ADD | typeof Opcode.COMPARE_AND_SWAP,
  remote: RemoteBuffer,
): Promise<boolean> {
  // What is lent begins as zeros.
  const changing = opcode === Opcode.FETCH_AND_ADD
    ? client.changeAtomically(opcode, remote, 1n)
    : client.changeAtomically(opcode, remote, 0n, 1n);
  return allowed(changing, [BY_REGION, BY_QUEUE_PAIR]);
}
