import { assertEquals, assertStringIncludes } from "@std/assert";
import { dial, listen } from "../../lib/tls/backend.ts";
import { loadServerIdentity, loadTrust } from "../../lib/tls/trust.ts";
import { libc } from "../../ffi/libc.ts";
import { verbseal } from "./run.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libc();

Deno.test("certs init makes what a server and a client of another host can talk with", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const made = await verbseal(
      ...["certs", "init", "--json", "--directory", directory, "--host", "storage.example"],
    );
    const { files, hosts } = JSON.parse(made.stdout);
    assertEquals(files.length, 6);
    assertEquals(hosts.includes("storage.example"), true);

    const again = await verbseal("certs", "init", "--directory", directory);
    assertEquals(again.code, 1);
    assertStringIncludes(again.stderr, "--force");

    const cert = `${directory}/server.pem`;
    const identity = await loadServerIdentity({ cert, key: `${directory}/server.key` });
    const listener = listen({ hostname: "127.0.0.1", port: 0, identity });
    const dialling = dial({
      ...listener.address,
      trust: await loadTrust(`${directory}/ca.pem`),
      serverName: "storage.example",
      handshakeSeconds: 5,
    });
    for await (const incoming of listener) {
      const [server, client] = await Promise.all([incoming.handshake(), dialling]);
      await Promise.all([server.close(), client.close()]);
      listener.close();
    }
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
