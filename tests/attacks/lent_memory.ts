/** A client that uses what the memory service lends it, and more. */
import type { RemoteBuffer } from "../../lib/session/service.ts";
import { Opcode } from "../../lib/rdma/work_request.ts";
import { WorkCompletionError } from "../../lib/rdma/completion_queue.ts";
import type { HostileClient } from "../session/hostile_client.ts";

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
  try {
    await client.access(opcode, remote, bytes);
    return bytes;
  } catch (error) {
    const refused = error instanceof WorkCompletionError &&
      error.code === "ibv_wc_rem_access_err";
    if (refused) return undefined;
    throw error;
  }
}
