/** What a client refuses of a server's handshake, its certificate aside. */
import { assertEquals, assertRejects } from "@std/assert";
import { idle } from "../../ffi/epoll.ts";
import { TlsError } from "../../lib/errors.ts";
import { type Backend, dial } from "../../lib/tls/backend.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { writeCertificates } from "../../lib/tls/certificate_files.ts";
import { protocol, type TlsConnection } from "../../lib/tls/connection.ts";
import type { FailureCode } from "../../lib/tls/failure.ts";
import { backends, leavingNothing, MeetingPlace } from "./meeting.ts";
import { withFolder } from "./openssl.ts";
import { hostname, serving } from "./s_server.ts";

const certificates = await createCertificates({ hosts: [hostname], days: 1 });
const trust = { authorities: [certificates.ca.certificate] };

function connect(port: number, backend: Backend): Promise<TlsConnection> {
  return dial({ hostname, port, trust, handshakeSeconds: 5 }, { backend });
}

/** Connects, and reads until the connection ends; `meanwhile` is done in between. */
async function listen(
  port: number,
  backend: Backend,
  meanwhile = () => Promise.resolve(),
): Promise<void> {
  const connection = await connect(port, backend);
  try {
    await meanwhile();
    while (await connection.read(new Uint8Array(4096)) !== null);
  } finally {
    connection.abort();
  }
}

// Whatever a process opens once is open before the first test.
for (const backend of backends) {
  await using place = new MeetingPlace({ identity: certificates.server }, backend);
  const dialling = connect(place.port, backend);
  for (const end of await Promise.all([(await place.accept()).handshake(), dialling])) end.abort();
}
await idle();

/** Something that a client has to refuse. */
interface Fault {
  readonly name: string;
  /** Has a client of this backend meet it, and gives what comes of that. */
  readonly meet: (backend: Backend) => Promise<unknown>;
  readonly code: Readonly<Record<Backend, FailureCode>>;
}

function both(code: FailureCode) {
  return { deno: code, openssl: code };
}

/** Something done to bytes on their way; where some are left out nothing comes after them. */
type Change = (bytes: Uint8Array<ArrayBuffer>) => Uint8Array<ArrayBuffer>;

const untouched: Change = (bytes) => bytes;

/** A good server behind somebody who changes what it says and hears. */
async function relayed(backend: Backend, heard: Change, said: Change): Promise<void> {
  await using place = new MeetingPlace({ identity: certificates.server }, "openssl");
  using relay = Deno.listen({ hostname, port: 0 });
  const listening = listen(relay.addr.port, backend);
  listening.catch(() => {}); // awaited below
  const near = await relay.accept();
  const far = await Deno.connect({ hostname, port: place.port });
  const ends = [pass(near, far, heard), pass(far, near, said)];
  const server = (await place.accept()).handshake().then((end) => end.abort(), () => {});
  try {
    await listening;
  } finally {
    near.close();
    far.close();
    await Promise.all([...ends, server]);
  }
}

/** Until one side hangs up, or what comes is not to go further. */
async function pass(from: Deno.TcpConn, to: Deno.TcpConn, change: Change): Promise<void> {
  const buffer = new Uint8Array(65_536);
  try {
    for (let count; (count = await from.read(buffer)) !== null;) {
      const bytes = change(buffer.slice(0, count));
      await to.write(bytes);
      if (bytes.length < count) break;
    }
    await to.closeWrite();
  } catch {
    // One of them is gone.
  }
}

/** Changes what comes first. */
function once(change: Change): Change {
  let changed = false;
  return (bytes) => {
    if (changed) return bytes;
    changed = true;
    return change(bytes);
  };
}

/** Hides from a server that TLS 1.3 is spoken: the extension supported_versions (43) is another, unknown one. */
function hideVersions(hello: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const extension = [0, 43, 0];
  const at = hello.findIndex((_, index) =>
    // Its content is a list of 16-bit versions, the first of which begins with 3.
    extension.every((byte, offset) => hello[index + offset] === byte) && hello[index + 5] === 3
  );
  if (at < 0) throw new Error("no ClientHello of TLS 1.3");
  hello.set([0xfa, 0xfa], at);
  return hello;
}

/** Turns a bit near the end, which is sealed already. */
function turnBit(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  bytes[bytes.length - 3]! ^= 1;
  return bytes;
}

/** Ends the connection in the middle of a record. */
const cut: Change = (bytes) => bytes.subarray(0, 20);

/** openssl s_server with options of its own, and what is typed there. */
async function served(backend: Backend, options: readonly string[], typed = ""): Promise<void> {
  await withFolder(async (folder) => {
    await writeCertificates(folder, certificates, { overwrite: false });
    await serving(folder, options, (port, type) => listen(port, backend, () => type(typed)));
  });
}

const faults: readonly Fault[] = [
  {
    name: "a server that hears of less than this side can do",
    meet: (backend) => relayed(backend, once(hideVersions), untouched),
    code: both("downgrade"),
  },
  {
    name: "a record that was changed",
    meet: (backend) => relayed(backend, untouched, once(turnBit)),
    code: both("tampered"),
  },
  {
    name: "a record that is cut off",
    meet: (backend) => relayed(backend, untouched, cut),
    code: both("connection_lost"),
  },
  {
    name: "a server of TLS 1.1",
    meet: (backend) => served(backend, ["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]),
    code: both("version_refused"),
  },
  {
    name: "a server with a weak cipher suite",
    meet: (backend) => served(backend, ["-tls1_2", "-cipher", "AES128-SHA"]),
    code: { deno: "handshake_refused", openssl: "no_common_cipher" },
  },
  {
    name: "a server that wants to renegotiate",
    meet: (backend) => served(backend, ["-tls1_2", "-alpn", protocol], "r\n"),
    code: { deno: "handshake_refused", openssl: "renegotiation" },
  },
];

for (const { name, meet, code } of faults) {
  for (const backend of backends) {
    Deno.test(`${name} is refused (${backend})`, async () => {
      await leavingNothing(async () => {
        const error = await assertRejects(() => meet(backend), TlsError);
        assertEquals(error.code, code[backend]);
      });
      await idle();
    });
  }
}
