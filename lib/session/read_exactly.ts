import { TlsError } from "../errors.ts";
import type { TlsConnection } from "../tls/connection.ts";

/**
 * Reads so many bytes and none more.
 *
 * @throws TlsError when the connection ends before
 */
export async function readExactly(
  connection: Pick<TlsConnection, "read">,
  length: number,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length;) {
    const count = await connection.read(bytes.subarray(at));
    if (count === null) {
      throw new TlsError("hung_up", `the other side closed the connection after ${at} bytes`);
    }
    at += count;
  }
  return bytes;
}
