import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { join } from "node:path";
import { TlsError } from "../../lib/errors.ts";
import {
  formatKnownHost,
  HostKeyChangedError,
  hostText,
  KnownHosts,
  parseKnownHosts,
} from "../../lib/tls/known_hosts.ts";
import { withFolder } from "./openssl.ts";

const pin = `sha256:${"A".repeat(43)}=`;
const other = `sha256:${"B".repeat(42)}A=`;

const pins = fc.uint8Array({ minLength: 32, maxLength: 32 })
  .map((bytes) => `sha256:${bytes.toBase64()}`);
const endpoints = fc.record({
  hostname: fc.oneof(fc.domain(), fc.ipV4(), fc.ipV6()),
  port: fc.integer({ min: 1, max: 65535 }),
});

Deno.test("what is written as a line is read as the same host and key", () => {
  fc.assert(fc.property(endpoints, pins, (server, pin) => {
    const line = formatKnownHost(server, pin);
    const text = `# servers\n\n  ${line}\t# since yesterday\r\n`;
    assertEquals(parseKnownHosts(text, "f"), [{ host: hostText(server), pin, line: 3 }]);
  }));
});

Deno.test("any text is read, or refused with a line that it has", () => {
  fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => {
    try {
      parseKnownHosts(text, "f");
    } catch (error) {
      const [, line] = /^Line (\d+) of f /.exec((error as TlsError).message) ?? [];
      assertEquals(Number(line) <= text.split("\n").length, true, String(error));
    }
  }));
});

Deno.test("a host has one spelling", () => {
  const spelling = (hostname: string) => hostText({ hostname, port: 4433 });
  assertEquals(spelling("Storage1.Example."), "storage1.example:4433");
  assertEquals(spelling("FD00:0:0::1"), "[fd00::1]:4433");
  assertEquals(spelling("10.0.0.5"), "10.0.0.5:4433");
  const hex = "00".repeat(32);
  const [known] = parseKnownHosts(`[FD00:0::1]:4433 sha256:${hex}`, "f");
  assertEquals(known, { host: "[fd00::1]:4433", pin, line: 1 });
});

Deno.test("a malformed line is refused with its number", () => {
  const lines = [
    "storage1 sha256:",
    `storage1 ${pin}`,
    `storage1:0 ${pin}`,
    `storage1:65536 ${pin}`,
    `fd00::1:4433 ${pin}`,
    `[storage1]:4433 ${pin}`,
    `storage1:4433 ${pin} ${pin}`,
    "storage1:4433",
    `storage1:4433 ${pin.slice(0, -1)}`,
  ];
  for (const line of lines) {
    const error = assertThrows(
      () => parseKnownHosts(`a:1 ${pin}\n${line}\n`, "known_hosts"),
      TlsError,
      "Line 2 of known_hosts",
    );
    assertEquals(error.code, "known_hosts_malformed");
  }
});

Deno.test("a server is found by what was added, in a file of its user's own", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "verbseal", "known_hosts");
    const hosts = new KnownHosts(path);
    const server = { hostname: "Storage1", port: 4433 };
    assertEquals(await hosts.find(server), []);
    await hosts.add(server, pin);
    await hosts.add(server, pin);
    await hosts.add({ ...server, port: 4434 }, other);
    assertEquals(await hosts.find(server), [{ host: "storage1:4433", pin, line: 1 }]);
    assertEquals((await Deno.stat(path)).mode! & 0o777, 0o600);
    assertEquals((await Deno.stat(join(folder, "verbseal"))).mode! & 0o777, 0o700);
  });
});

Deno.test("whoever reads the file keeps nobody else from it", () =>
  withFolder(async (folder) => {
    const hosts = new KnownHosts(join(folder, "known_hosts"));
    const server = { hostname: "storage1", port: 4433 };
    await hosts.add(server, pin);
    using reader = await Deno.open(hosts.path);
    await reader.lock(true);
    assertEquals((await hosts.find(server)).map((known) => known.pin), [pin]);
  }));

Deno.test("a server that has become known by another key meanwhile is not added", async () => {
  await withFolder(async (folder) => {
    const hosts = new KnownHosts(join(folder, "known_hosts"));
    const server = { hostname: "storage1", port: 4433 };
    await hosts.add(server, pin);
    const error = await assertRejects(() => hosts.add(server, other), HostKeyChangedError);
    assertEquals([error.pin, error.known.length], [other, 1]);
    assertEquals(error.remedy.endsWith(`remove line 1 of ${hosts.path}`), true);
    assertEquals((await hosts.find(server)).length, 1);
  });
});

Deno.test("a line without an end stays a line of its own when one is added", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "known_hosts");
    await Deno.writeTextFile(path, `storage1:1 ${pin}`);
    const hosts = new KnownHosts(path);
    await hosts.add({ hostname: "storage2", port: 2 }, other);
    assertEquals(await Deno.readTextFile(path), `storage1:1 ${pin}\nstorage2:2 ${other}\n`);
  });
});

Deno.test("clients that add servers at once lose none, and add none twice", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "known_hosts");
    // Each waits in a thread, of which Deno has 32.
    const ports = Array.from({ length: 10 }, (_, index) => index + 1);
    await Promise.all(
      [...ports, ...ports].map((port) =>
        new KnownHosts(path).add({ hostname: "storage1", port }, pin)
      ),
    );
    const hosts = parseKnownHosts(await Deno.readTextFile(path), path).map(({ host }) => host);
    assertEquals(hosts.sort(), ports.map((port) => `storage1:${port}`).sort());
  });
});

Deno.test("a file that cannot be read or written is named", async () => {
  await withFolder(async (folder) => {
    const server = { hostname: "storage1", port: 4433 };
    const reading = await assertRejects(() => new KnownHosts(folder).find(server), TlsError);
    assertEquals([reading.code, reading.message.includes(folder)], ["known_hosts_failed", true]);
    const path = join(folder, "file", "known_hosts");
    await Deno.writeTextFile(join(folder, "file"), "");
    await assertRejects(() => new KnownHosts(path).add(server, pin), TlsError, path);
  });
});
