import { assertEquals } from "@std/assert";
import { libc } from "../../ffi/libc.ts";
import { openOnFirstUse } from "../../lib/cli/first_use.ts";
import { dial } from "../../lib/tls/backend.ts";
import { protocol } from "../../lib/tls/connection.ts";
import { hostText, KnownHosts } from "../../lib/tls/known_hosts.ts";
import type { TlsSettings } from "../../lib/tls/options.ts";
import { CapturedLog } from "../telemetry/captured_log.ts";
import { openssl, withFolder } from "../tls/openssl.ts";
import { hostname, serving } from "../tls/s_server.ts";
import "../tls/loaded_libssl.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libc();

/** What openssl makes of a new key, self-signed. */
const kinds: Record<string, (files: readonly string[]) => string[][]> = {
  "as openssl req makes it, an authority's": (files) => [
    ["req", "-x509", "-newkey", "rsa:2048", "-noenc", "-subj", "/CN=own", ...files],
  ],
  "for another name": (files) => [
    ["req", "-x509", "-newkey", "rsa:2048", "-noenc", "-subj", "/CN=own", ...files]
      .concat("-addext", "basicConstraints=CA:FALSE", "-addext", "subjectAltName=DNS:other"),
  ],
  "of version 1": ([out, path, keyout, key]) => [
    [
      "req",
      "-newkey",
      "rsa:2048",
      "-noenc",
      "-subj",
      "/CN=own",
      keyout!,
      key!,
      out!,
      `${path}.csr`,
    ],
    ["x509", "-req", "-in", `${path}.csr`, "-signkey", key!, out!, path!],
  ],
};

/** The settings ask for one backend or the other. */
const backends: Record<string, TlsSettings> = { deno: {}, openssl: { minVersion: "1.3" } };

for (const [kind, commands] of Object.entries(kinds)) {
  for (const [backend, settings] of Object.entries(backends)) {
    Deno.test(`${backend}: a self-signed certificate ${kind}, can be trusted on first use`, async () => {
      await withFolder(async (folder) => {
        const files = ["-out", `${folder}/server.pem`, "-keyout", `${folder}/server.key`];
        for (const command of commands(files)) {
          const { success, text } = await openssl(...command);
          assertEquals(success, true, text);
        }
        using log = new CapturedLog();
        await serving(folder, ["-alpn", protocol], async (port) => {
          const dialling = { hostname, port, handshakeSeconds: 5, settings };
          const knownHosts = new KnownHosts(`${folder}/known_hosts`);
          const use = { dialling, knownHosts, trustNew: true, interactive: false };
          for (let time = 1; time <= 2; time++) {
            const connection = await openOnFirstUse((trust) => dial({ ...dialling, trust }), use);
            await connection.close();
          }
          const server = hostText(dialling);
          assertEquals(log.lines("server"), [
            `warning a new server is known from now on ${server}`,
          ]);
        });
      });
    });
  }
}
