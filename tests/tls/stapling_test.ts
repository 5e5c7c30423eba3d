import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { idle } from "../../ffi/epoll.ts";
import { libcryptoOcsp } from "../../ffi/libcrypto_ocsp.ts";
import { TlsError } from "../../lib/errors.ts";
import { dial, listen } from "../../lib/tls/backend.ts";
import { ocspRequest } from "../../lib/tls/ocsp.ts";
import { OcspStapler } from "../../lib/tls/ocsp_stapler.ts";
import { TlsContext } from "../../lib/tls/openssl_context.ts";
import type { DialOptions, ListenOptions } from "../../lib/tls/options.ts";
import { CapturedLog } from "../telemetry/captured_log.ts";
import { OcspAuthority, serials } from "./ocsp_authority.ts";

const hostname = "127.0.0.1";

// Deno's check for leaks wants libraries, and what they call back, loaded before the first test.
libcryptoOcsp();
{
  await using authority = await OcspAuthority.create();
  const identity = await authority.issue(serials.good);
  const server = { hostname, port: 0, identity, staple: () => undefined };
  listen(server, { backend: "openssl" }).close();
  TlsContext.client({ trust: { authorities: [authority.identity.certificate] } })[Symbol.dispose]();
}

type Leaf = Awaited<ReturnType<OcspAuthority["issue"]>>;

/** A listener, and both sides of handshakes with it. */
function serve(authority: OcspAuthority, identity: Leaf, options: Partial<ListenOptions>) {
  const listener = listen({ hostname, port: 0, identity, ...options }, { backend: "openssl" });
  const { port } = listener.address;
  const incoming = listener[Symbol.asyncIterator]();
  const accept = async () => {
    const { value } = await incoming.next();
    return await value.handshake();
  };
  const dialOptions: DialOptions = {
    hostname,
    port,
    serverName: "localhost",
    trust: { authorities: [authority.identity.certificate] },
    handshakeSeconds: 5,
  };
  return {
    port,
    accept,
    /** Both ends meet and part. */
    async meet(options: Partial<DialOptions>): Promise<void> {
      const [client, server] = await Promise.all([dial({ ...dialOptions, ...options }), accept()]);
      await Promise.all([client.close(), server.close()]);
    },
    /** Why the client refuses, and why the server fails for that. */
    async refusal(options: Partial<DialOptions>): Promise<[TlsError, TlsError]> {
      const refused = assertRejects(() => dial({ ...dialOptions, ...options }), TlsError);
      const failed = assertRejects(accept, TlsError);
      return [await refused, await failed];
    },
    async [Symbol.asyncDispose]() {
      listener.close();
      await incoming.return?.();
      await idle();
    },
  };
}

const versions = ["1.2", "1.3"] as const;

/** Options that end in TLS of this version. */
function settings(version: "1.2" | "1.3"): Pick<DialOptions, "settings"> {
  return version === "1.3"
    ? { settings: { minVersion: version } }
    : { settings: { ciphers: ["ECDHE-ECDSA-AES256-GCM-SHA384"] } };
}

for (const version of versions) {
  Deno.test(`TLS ${version}: a client that requires a server's OCSP response gets it`, async () => {
    await using authority = await OcspAuthority.create();
    await using responder = await authority.serve();
    const leaf = await authority.issue(serials.good, { url: responder.url });
    using stapler = new OcspStapler(leaf.der, [authority.der]);
    await stapler.ready;
    await using server = serve(authority, leaf, { staple: () => stapler.response });
    using log = new CapturedLog();
    for (const ocsp of ["require", "prefer", "off"] as const) {
      await server.meet({ ocsp, ...settings(version) });
    }
    assertEquals(log.lines(), []);
    assertEquals(await responder.stop(), 1);
  });

  Deno.test(`TLS ${version}: a revoked server is refused, and hears of it`, async () => {
    await using authority = await OcspAuthority.create();
    const leaf = await authority.issue(serials.revoked);
    const request = ocspRequest(leaf.der, authority.der);
    const staple = new Uint8Array(await authority.answer(request));
    await using server = serve(authority, leaf, { staple: () => staple });
    for (const ocsp of ["require", "prefer"] as const) {
      const [client, other] = await server.refusal({ ocsp, ...settings(version) });
      assertEquals(client.code, "certificate_revoked");
      assertStringIncludes(client.message, "keyCompromise");
      assertEquals(other.code, "certificate_rejected");
      assertStringIncludes(other.message, "OCSP");
    }
    await server.meet({ ocsp: "off", ...settings(version) });
  });

  Deno.test(`TLS ${version}: a server without a response is refused only where one is required`, async () => {
    await using authority = await OcspAuthority.create();
    const leaf = await authority.issue(serials.good);
    for (const options of [{}, { staple: () => undefined }]) {
      await using server = serve(authority, leaf, options);
      using log = new CapturedLog();
      await server.meet({ ocsp: "prefer", ...settings(version) });
      assertEquals(log.lines("code"), [
        "warning whether a certificate is revoked is not known ocsp_no_staple",
      ]);
      const [client, other] = await server.refusal({ ocsp: "require", ...settings(version) });
      assertEquals(client.code, "revocation_unknown");
      assertEquals(other.code, "certificate_rejected");
    }
  });

  Deno.test(`TLS ${version}: what should be a response and is none is tolerated where none is required`, async () => {
    await using authority = await OcspAuthority.create();
    const leaf = await authority.issue(serials.good);
    const staple = new TextEncoder().encode("no response");
    await using server = serve(authority, leaf, { staple: () => staple });
    using log = new CapturedLog();
    await server.meet({ ocsp: "prefer", ...settings(version) });
    assertEquals(log.lines("code"), [
      "warning whether a certificate is revoked is not known ocsp_malformed",
    ]);
  });
}

Deno.test("openssl s_client is sent the response", async () => {
  await using authority = await OcspAuthority.create();
  const leaf = await authority.issue(serials.good);
  const staple = new Uint8Array(await authority.answer(ocspRequest(leaf.der, authority.der)));
  await using server = serve(authority, leaf, { staple: () => staple });
  const file = `${authority.folder}/ca.pem`;
  await Deno.writeTextFile(file, authority.identity.certificate);
  const client = new Deno.Command("openssl", {
    args: [
      ...["s_client", "-connect", `${hostname}:${server.port}`, "-alpn", "verbseal/1"],
      ...["-status", "-CAfile", file],
    ],
    stdin: "null",
  }).output();
  const connection = await server.accept();
  const { stdout } = await client;
  const text = new TextDecoder().decode(stdout);
  assertStringIncludes(text, "OCSP Response Status: successful (0x0)");
  assertStringIncludes(text, "Cert Status: good");
  await connection.close();
});

Deno.test("the response that openssl s_server sends is understood", async () => {
  await using authority = await OcspAuthority.create();
  const leaf = await authority.issue(serials.revoked);
  const response = await authority.answer(ocspRequest(leaf.der, authority.der));
  const files = { certificate: leaf.certificate, key: leaf.key };
  for (const [name, text] of Object.entries(files)) {
    await Deno.writeTextFile(`${authority.folder}/${name}`, text);
  }
  await Deno.writeFile(`${authority.folder}/response`, response);
  const process = new Deno.Command("openssl", {
    args: [
      ...["s_server", "-accept", `${hostname}:0`, "-naccept", "1", "-alpn", "verbseal/1"],
      ...["-cert", `${authority.folder}/certificate`, "-key", `${authority.folder}/key`],
      ...["-status_file", `${authority.folder}/response`],
    ],
    // It ends with its input.
    stdin: "piped",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const port = await acceptingPort(process.stdout);
  const options: DialOptions = {
    hostname,
    port,
    serverName: "localhost",
    trust: { authorities: [authority.identity.certificate] },
    handshakeSeconds: 5,
    ocsp: "prefer",
  };
  const error = await assertRejects(() => dial(options), TlsError);
  assertEquals(error.code, "certificate_revoked");
  await process.stdin.close();
  await process.status;
  await idle();
});

/** The port that s_server says it listens on; the rest of what it says is passed by. */
async function acceptingPort(stdout: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<number> {
  const found = Promise.withResolvers<number>();
  let text = "";
  stdout.pipeThrough(new TextDecoderStream()).pipeTo(
    new WritableStream({
      write(chunk) {
        text += chunk;
        const match = /ACCEPT .*:(\d+)\n/.exec(text);
        if (match) found.resolve(Number(match[1]));
      },
      close: () => found.reject(new Error(text)),
    }),
  );
  const port = await found.promise;
  assert(port > 0);
  return port;
}
