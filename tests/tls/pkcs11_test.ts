import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { idle } from "../../ffi/epoll.ts";
import { TlsError } from "../../lib/errors.ts";
import { dial, dialerBackend, listen, listenerBackend } from "../../lib/tls/backend.ts";
import { type CertificateSet, createCertificates } from "../../lib/tls/certificates.ts";
import { type Identity, loadServerIdentity } from "../../lib/tls/trust.ts";
import { verbsTest } from "../rdma/resources.ts";
import { CapturedLog } from "../telemetry/captured_log.ts";
import { ServerTls } from "../../lib/cli/server_tls.ts";
import { startServer, verbsealIn } from "../cli/run.ts";
import { openssl } from "./openssl.ts";
import { SoftwareToken } from "./software_token.ts";
import "./loaded_libssl.ts";

const hostname = "127.0.0.1";
const folder = await Deno.makeTempDir();
addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
const token = await SoftwareToken.create(folder);
// The token is one for a process; those of other tests use none.
for (const [name, value] of Object.entries(token.environment)) Deno.env.set(name, value);

const elliptic = await createCertificates({ hosts: [hostname], days: 1, keyType: "ecdsa-p256" });
const rsa = await createCertificates({ hosts: [hostname], days: 1, keyType: "rsa-4096" });
const files = {
  "ecdsa-server": await token.take("ecdsa-server", "01", elliptic.server),
  "ecdsa-client": await token.take("ecdsa-client", "02", elliptic.client),
  "rsa-server": await token.take("rsa-server", "03", rsa.server),
  "rsa-client": await token.take("rsa-client", "04", rsa.client),
};
const wrong = token.uri("ecdsa-server", { query: token.pinSource("wrong_pin") });

function load(label: keyof typeof files): Promise<Identity> {
  return loadServerIdentity({ cert: files[label], key: token.uri(label) });
}

// Deno's check for leaks wants libraries loaded before the first test.
listen({ hostname, port: 0, identity: await load("rsa-server") }).close();

/** What the program says of a key that it cannot serve with. */
async function refusal(key: string, cert = files["ecdsa-server"]): Promise<string> {
  const arguments_ = ["--port", "0", "--cert", cert, "--key", key, "--log-level", "debug"];
  const { code, stdout, stderr } = await verbsealIn(token.environment, "server", ...arguments_);
  assertEquals([code, stdout], [3, ""], stderr);
  for (const unwanted of [SoftwareToken.pin, "31415926", "Enter PIN"]) {
    assert(!stderr.includes(unwanted), "a PIN is shown, or asked for");
  }
  return stderr;
}

for (const [kind, set] of Object.entries({ ecdsa: elliptic, rsa } as const)) {
  const name = kind as "ecdsa" | "rsa";

  Deno.test(`a server and a client meet with ${name} keys that stay in a token`, async () => {
    const trust = { authorities: [set.ca.certificate] };
    const [identity, clientIdentity] = [await load(`${name}-server`), await load(`${name}-client`)];
    const serving = { hostname, port: 0, identity };
    assertStringIncludes(listenerBackend(serving).reason, "a key in a token");
    const clientAuthentication = { trust, required: true };
    const listener = listen({ ...serving, clientAuthentication });
    const dialing = {
      ...{ hostname, port: listener.address.port, trust, handshakeSeconds: 10 },
      identity: clientIdentity,
    };
    assertStringIncludes(dialerBackend(dialing).reason, "a key in a token");
    const dialed = dial(dialing);
    const { value: incoming } = await listener[Symbol.asyncIterator]().next();
    const [client, server] = await Promise.all([dialed, incoming.handshake()]);
    await client.write(new TextEncoder().encode("signed"));
    const bytes = new Uint8Array(6);
    assertEquals(await server.read(bytes), 6);
    assertEquals(new TextDecoder().decode(bytes), "signed");
    await Promise.all([client.close(), server.close()]);
    listener.close();
    await idle();
  });

  for (const version of ["-tls1_2", "-tls1_3"]) {
    Deno.test(`openssl s_client ${version} believes a server whose ${name} key is in a token`, async () => {
      const listener = listen({
        ...{ hostname, port: 0, protocols: [] },
        identity: await load(`${name}-server`),
      });
      const [outcome] = await Promise.all([
        clientSays(set, listener.address.port, version),
        (async () => {
          const { value: incoming } = await listener[Symbol.asyncIterator]().next();
          const connection = await incoming.handshake();
          assertEquals(await connection.read(new Uint8Array(1)), null);
          await connection.close();
        })(),
      ]);
      assertStringIncludes(outcome, "Verification: OK");
      listener.close();
      await idle();
    });
  }
}

async function clientSays(set: CertificateSet, port: number, version: string): Promise<string> {
  const authority = await Deno.makeTempFile({ dir: folder });
  await Deno.writeTextFile(authority, set.ca.certificate);
  const connection = ["-connect", `${hostname}:${port}`, "-brief", version];
  const verification = ["-CAfile", authority, "-verify_ip", hostname, "-verify_return_error"];
  return (await openssl("s_client", ...connection, ...verification)).text;
}

Deno.test("the program serves with a key in a token, and shows no PIN", async () => {
  const options = ["--cert", files["rsa-server"], "--key", token.uri("rsa-server")];
  const level = ["--log-level", "debug"];
  await using server = await startServer(folder, [...options, ...level], token.environment);
  const { status, log } = await server.stop();
  assertEquals(status, 0, log);
  assert(!log.includes(SoftwareToken.pin) && !log.includes("pin-"), log);
  assert(!log.includes("are not watched"), log);
});

Deno.test("a PIN may stand in the URI, and a key be named by its id", async () => {
  const key = token.uri("ecdsa-server", { query: `pin-value=${SoftwareToken.pin}` })
    .replace("object=ecdsa-server", "id=%01");
  const identity = await loadServerIdentity({ cert: files["ecdsa-server"], key });
  assertEquals(identity.certificate, elliptic.server.certificate);
});

Deno.test("a key in a token that is not the certificate's is refused", async () => {
  const pair = { cert: files["ecdsa-client"], key: token.uri("ecdsa-server") };
  for (const cert of [files["ecdsa-client"], files["rsa-server"]]) {
    const error = await assertRejects(() => loadServerIdentity({ ...pair, cert }), TlsError);
    assertEquals(error.code, "key_mismatch");
    assertStringIncludes(error.message, "object=ecdsa-server;type=private does not belong");
  }
});

Deno.test("a wrong PIN ends the program, and is not shown", async () => {
  const text = await refusal(wrong);
  assertMatch(text, /object=ecdsa-server;type=private does not take the PIN/);
  assertStringIncludes(text, "Correct pin-source");
});

Deno.test("a key that is not in its token, and a token that is not there, are told apart", async () => {
  assertMatch(
    await refusal(token.uri("nobody")),
    /no private key pkcs11:token=verbseal%20test;object=nobody;type=private in its token/,
  );
  assertMatch(
    await refusal(token.uri("ecdsa-server", { token: "elsewhere" })),
    /no token with the key pkcs11:token=elsewhere;object=ecdsa-server;type=private/,
  );
});

Deno.test("a file with a PIN is refused while every user can read it, and so is none", async () => {
  const path = `${folder}/open_pin`;
  await Deno.writeTextFile(path, SoftwareToken.pin);
  await Deno.chmod(path, 0o644);
  const codes = { [token.pinSource("open_pin")]: "pin_exposed", "": "pin_missing" };
  for (const [query, code] of Object.entries(codes)) {
    const pair = { cert: files["ecdsa-server"], key: token.uri("ecdsa-server", { query }) };
    const error = await assertRejects(() => loadServerIdentity(pair), TlsError);
    assertEquals(error.code, code);
    assert(!error.message.includes(SoftwareToken.pin));
  }
});

Deno.test("a PKCS #11 module that is not there is named", async () => {
  const key = token.uri("ecdsa-server").replace("libsofthsm2.so", "nothing.so");
  assertStringIncludes(await refusal(key), "The PKCS #11 module /usr/lib/softhsm/nothing.so");
});

verbsTest("a PIN that changes in its file is read again", async () => {
  using log = new CapturedLog();
  const key = token.uri("ecdsa-server", { query: token.pinSource("changing_pin") });
  const pin = `${folder}/changing_pin`;
  await Deno.writeTextFile(pin, SoftwareToken.pin, { mode: 0o600 });
  const options = { cert: files["ecdsa-server"], key, ocsp: "off" } as const;
  using _server = await ServerTls.load(options, () => {});
  await Deno.writeTextFile(pin, `${SoftwareToken.pin}\n`);
  const { properties } = await log.logged(({ message }) =>
    message[0] === "certificates read again"
  );
  assertEquals(properties["changed"], false);
});
