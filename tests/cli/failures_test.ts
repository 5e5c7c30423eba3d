import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { libc } from "../../ffi/libc.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { writeCertificates } from "../../lib/tls/certificate_files.ts";
import { protocol } from "../../lib/tls/connection.ts";
import type { Identity } from "../../lib/tls/trust.ts";
import { daysFromNow, oddCertificate } from "../tls/odd_certificates.ts";
import { hostname, serving } from "../tls/s_server.ts";
import { verbseal } from "./run.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libc();

const certificates = await createCertificates({ hosts: [hostname], days: 1 });

/** Files that a test names on the command line. */
class Files implements AsyncDisposable {
  private constructor(readonly directory: string) {}

  static async create(): Promise<Files> {
    const directory = await Deno.makeTempDir({ prefix: "verbseal-" });
    await writeCertificates(directory, certificates, { overwrite: false });
    return new Files(directory);
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  async write(name: string, text: string): Promise<string> {
    await Deno.writeTextFile(this.path(name), text, { mode: 0o600 });
    return this.path(name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.directory, { recursive: true });
  }
}

/** Runs the program: it must fail with this exit code, and say why in one line without a stack. */
async function fails(exitCode: number, says: string, ...args: string[]): Promise<void> {
  const { code, stdout, stderr } = await verbseal(...args);
  assertMatch(stderr, /^verbseal: [^\n]+[.?]\n$/);
  assertStringIncludes(stderr, says);
  assertEquals([code, stdout], [exitCode, ""], stderr);
}

/** A server that takes one connection after the other and leaves each to `talk`. */
function serve<T extends Deno.Conn>(
  listener: Deno.Listener<T>,
  talk: (connection: T) => Promise<unknown>,
): AsyncDisposable & { readonly port: number } {
  const serving = (async () => {
    for await (const connection of listener) {
      await talk(connection).catch(() => {});
      connection.close();
    }
  })();
  return {
    port: (listener.addr as Deno.NetAddr).port,
    async [Symbol.asyncDispose]() {
      listener.close();
      await serving;
    },
  };
}

/** A TLS server whose handshake is all that matters. */
function tlsServer({ certificate, key }: Identity) {
  const options = { hostname, port: 0, cert: certificate, key, alpnProtocols: [protocol] };
  return serve(Deno.listenTls(options), async (connection) => {
    await connection.handshake();
    // Closing first could reset the connection under what the client has yet to read.
    while (await connection.read(new Uint8Array(4096)) !== null);
  });
}

Deno.test("a server without a certificate says where to get one", async () => {
  await using files = await Files.create();
  const cert = files.path("none.pem");
  await fails(
    3,
    "verbseal certs init",
    "server",
    "--cert",
    cert,
    "--key",
    files.path("server.key"),
  );
});

Deno.test("a server with a certificate that has expired says when it did", async () => {
  await using files = await Files.create();
  const odd = await oddCertificate({ notBefore: daysFromNow(-9), notAfter: daysFromNow(-1) });
  const cert = await files.write("odd.pem", odd.certificate);
  const key = await files.write("odd.key", odd.key);
  await fails(3, "expired on", "server", "--cert", cert, "--key", key);
});

Deno.test("a server with the key of another certificate says so", async () => {
  await using files = await Files.create();
  const cert = files.path("server.pem");
  await fails(3, "does not belong", "server", "--cert", cert, "--key", files.path("client.key"));
});

Deno.test("a server with a root that is not there says so", async () => {
  await using files = await Files.create();
  const identity = ["--cert", files.path("server.pem"), "--key", files.path("server.key")];
  const root = files.path("nowhere");
  await fails(1, "no such file or directory", "server", ...identity, "--root", root);
});

Deno.test("a client whose authority's file is missing says which", async () => {
  await using files = await Files.create();
  const ca = files.path("none.pem");
  await fails(3, ca, "client", "echo", `${hostname}:1`, "hello", "--ca", ca);
});

Deno.test("a client does not talk to a server of an authority that it was not told of", async () => {
  await using files = await Files.create();
  const others = await createCertificates({ hosts: [hostname], days: 1 });
  await using server = tlsServer(others.server);
  const target = `${hostname}:${server.port}`;
  await fails(3, "--ca", "client", "echo", target, "hello", "--ca", files.path("ca.pem"));
});

Deno.test("a client does not talk to a server whose certificate is for another host", async () => {
  await using files = await Files.create();
  await using server = tlsServer(certificates.server);
  await fails(
    3,
    "is not for storage.example but for",
    ...["client", "echo", `${hostname}:${server.port}`, "hello"],
    ...["--ca", files.path("ca.pem"), "--server-name", "storage.example"],
  );
});

Deno.test("a client does not talk to a server whose certificate has expired", async () => {
  await using files = await Files.create();
  const odd = await oddCertificate({ notBefore: daysFromNow(-9), notAfter: daysFromNow(-1) });
  await using server = tlsServer(odd);
  const ca = await files.write("both.pem", certificates.ca.certificate + odd.certificate);
  const target = ["client", "echo", `${hostname}:${server.port}`, "hello"];
  await fails(3, "has expired", ...target, "--ca", ca, "--server-name", "localhost");
});

Deno.test("a client says that no server runs where it was sent", async () => {
  await using files = await Files.create();
  const free = Deno.listen({ hostname, port: 0 });
  const target = `${hostname}:${free.addr.port}`;
  free.close();
  const ca = files.path("ca.pem");
  await fails(1, "refuses the connection", "client", "echo", target, "hello", "--ca", ca);
});

Deno.test("a client says that a host is not known", async () => {
  await using files = await Files.create();
  const ca = files.path("ca.pem");
  await fails(1, "is not known", "client", "echo", "nowhere.invalid", "hello", "--ca", ca);
});

Deno.test("a client tells a TLS server that is not Verbseal", async () => {
  await using files = await Files.create();
  for (const options of [[], ["-alpn", "h2"]]) {
    await serving(files.directory, options, async (port) => {
      const target = ["client", "echo", `${hostname}:${port}`, "hello"];
      await fails(3, `does not speak ${protocol}`, ...target, "--ca", files.path("ca.pem"));
    });
  }
});

Deno.test("a client tells a server that speaks no TLS", async () => {
  await using files = await Files.create();
  const banner = new TextEncoder().encode("220 mail.example ESMTP\r\n");
  const listener = Deno.listen({ hostname, port: 0 });
  await using server = serve(listener, async (connection) => {
    await connection.write(banner);
    await connection.read(new Uint8Array(4096));
  });
  const target = ["client", "echo", `${hostname}:${server.port}`, "hello"];
  await fails(3, "does not speak TLS", ...target, "--ca", files.path("ca.pem"));
});

Deno.test("a client gives up a server that says nothing", async () => {
  await using files = await Files.create();
  const listener = Deno.listen({ hostname, port: 0 });
  await using server = serve(listener, async (connection) => {
    while (await connection.read(new Uint8Array(4096)) !== null);
  });
  const target = ["client", "echo", `${hostname}:${server.port}`, "hello"];
  const options = ["--ca", files.path("ca.pem"), "--timeout", "500ms"];
  await fails(3, "within 0.5 seconds", ...target, ...options);
});
