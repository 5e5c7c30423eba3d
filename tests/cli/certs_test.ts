import { assertEquals, assertStringIncludes } from "@std/assert";
import { dial, listen } from "../../lib/tls/backend.ts";
import { loadServerIdentity, loadTrust } from "../../lib/tls/trust.ts";
import { libc } from "../../ffi/libc.ts";
import { run, verbseal } from "./run.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libc();

Deno.test("certs init makes what a server and a client of another host can talk with", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const made = await verbseal(
      ...["certs", "init", "--json", "--directory", directory, "--host", "storage.example"],
    );
    const { files, hosts } = JSON.parse(made.stdout);
    assertEquals(files.length, 7);
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

Deno.test("certs issue makes a certificate of the authority, which replaces none by accident", async () => {
  const directory = await Deno.makeTempDir();
  const certs = (...args: string[]) => verbseal("certs", ...args, "--directory", directory);
  try {
    const early = await certs("issue", "storage2", "--for", "server");
    assertEquals(early.code, 3);
    assertStringIncludes(early.stderr, "verbseal certs init");
    await certs("init", "--key-type", "ed25519");
    const made = await certs("issue", "storage2", "--for", "server", "--json");
    assertEquals(JSON.parse(made.stdout), {
      files: [`${directory}/storage2.pem`, `${directory}/storage2.key`],
      hosts: ["storage2"],
    });
    const again = await certs("issue", "storage2", "--for", "client");
    assertEquals(again.code, 1);
    assertStringIncludes(again.stderr, "exists already");
    const replaced = await certs("issue", "storage2", "--for", "client", "--force");
    assertEquals(replaced.code, 0);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

for (
  const [wrong, said, ...args] of [
    ["the authority's own name", "That is the authority's name", "ca", "--for", "client"],
    ["a path as a name", "1 to 64 letters", "../x", "--for", "client"],
    ["no use", "required option '--for <use>'", "x"],
    ["a server that is no host", "is no host", "a@b", "--for", "server"],
    ["a URI with spaces", "It must be a URI", "x", "--for", "client", "--uri", "a: b"],
    ["a URL that nobody fetches", "be a URL", "x", "--for", "client", "--ocsp-url", "file:///x"],
    ["too long a time", "from 1 to 825", "x", "--for", "client", "--days", "826"],
    ["a unit of 65 letters", "64 char", "x", "--organizational-unit", "u".repeat(65)],
  ] as const
) {
  Deno.test(`certs issue refuses ${wrong}`, async () => {
    const { code, stderr } = await verbseal("certs", "issue", ...args);
    assertEquals(code, 2);
    assertStringIncludes(stderr, said);
  });
}

Deno.test("certs pin prints what openssl makes of the public key", async () => {
  const directory = await Deno.makeTempDir();
  try {
    await verbseal("certs", "init", "--directory", directory);
    const file = `${directory}/server.pem`;
    const { stdout } = await verbseal("certs", "pin", file);
    const pipe = "openssl x509 -noout -pubkey | openssl pkey -pubin -outform DER | " +
      "openssl dgst -sha256 -binary | base64";
    const byOpenssl = await run("sh", "-c", `< "$0" ${pipe}`, file);
    assertEquals(stdout, `sha256:${byOpenssl.stdout}`);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("certs revoke puts certificates and serial numbers on the list, and renews it", async () => {
  const directory = await Deno.makeTempDir();
  const revoke = async (...args: string[]) =>
    JSON.parse(
      (await verbseal("certs", "revoke", ...args, "--directory", directory, "--json")).stdout,
    );
  try {
    await verbseal("certs", "init", "--directory", directory);
    const file = `${directory}/client.pem`;
    const { stdout } = await run("openssl", "x509", "-in", file, "-noout", "-serial");
    const serial = stdout.trim().split("=")[1]!;
    const first = await revoke(file, "0:0A", "--reason", "keyCompromise");
    assertEquals([first.revoked, first.total], [[serial.toLowerCase(), "0a"], 2]);
    const second = await revoke(serial, "000a", "FF");
    assertEquals([second.revoked, second.total], [["ff"], 3]);
    const third = await revoke("--crl-days", "1");
    assertEquals([third.revoked, third.total], [[], 3]);
    const hours = (Date.parse(third.nextUpdate) - Date.now()) / 3_600_000;
    assertEquals(Math.round(hours), 24);
    const wrong = await revoke("client.pen");
    assertEquals(wrong.error.code, "no_certificate");
    const own = await revoke(`${directory}/ca.pem`);
    assertEquals(own.error.code, "authority_as_leaf");
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("certs renew changes the pin, unless the key is to be kept", async () => {
  const directory = await Deno.makeTempDir();
  const file = `${directory}/server.pem`;
  const certs = (...args: string[]) => verbseal("certs", ...args, "--directory", directory);
  const pin = async () => (await verbseal("certs", "pin", file)).stdout;
  try {
    await certs("init");
    const first = await pin();
    const kept = await certs("renew", file, "--keep-key", "--days", "90", "--json");
    assertEquals(JSON.parse(kept.stdout).keyKept, true);
    assertEquals(await pin(), first);
    const renewed = await certs("renew", file, `${directory}/client.pem`);
    assertEquals(renewed.stdout.match(/with a new key/g)?.length, 2);
    assertEquals(await pin() === first, false);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
