/** Records of TLS (RFC 8446, section 5.1), as they stand on the wire. */

/** Content types: change_cipher_spec, alert, handshake, application_data. */
const FIRST_TYPE = 20;
export const APPLICATION_DATA = 23;

const HEADER_BYTES = 5;
/** A protected record's fragment at most (RFC 8446, section 5.2). */
const MAX_FRAGMENT_BYTES = 2 ** 14 + 256;

export interface TlsRecord {
  readonly type: number;
  readonly bytes: Uint8Array;
}

/** @throws Error when the bytes are anything but whole records */
export function tlsRecords(stream: Uint8Array): TlsRecord[] {
  const records: TlsRecord[] = [];
  for (let at = 0; at < stream.length;) {
    const [type = 0, major, , high = 0, low = 0] = stream.subarray(at, at + HEADER_BYTES);
    const length = high * 256 + low;
    const end = at + HEADER_BYTES + length;
    const isRecord = type >= FIRST_TYPE && type <= APPLICATION_DATA && major === 3 &&
      length <= MAX_FRAGMENT_BYTES && end <= stream.length;
    if (!isRecord) throw new Error(`byte ${at} of ${stream.length} does not begin a TLS record`);
    records.push({ type, bytes: stream.subarray(at, end) });
    at = end;
  }
  return records;
}
