import { assertEquals, assertMatch } from "@std/assert";
import { join } from "node:path";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { writeCertificates } from "../../lib/tls/certificate_files.ts";
import { message } from "../../lib/services/plain_messages.ts";
import { withFolder } from "../tls/openssl.ts";
import { type RunningServer, startServer } from "./run.ts";

const certificates = await createCertificates({ hosts: ["localhost", "127.0.0.1"], days: 1 });
const encoder = new TextEncoder();
const [hello, olleh] = [encoder.encode("hello"), encoder.encode("olleh")];

/** A server with a port for messages, which must end with exit status 0. */
async function serving(
  test: (server: RunningServer, authority: string) => Promise<void>,
): Promise<void> {
  await withFolder(async (folder) => {
    await writeCertificates(join(folder, "certs"), certificates, { overwrite: false });
    const options = ["--messages-listen", "127.0.0.1:0", "--device", "roce:127.0.0.1"];
    await using server = await startServer(folder, options);
    await test(server, join(folder, "certs", "ca.pem"));
    const { status, log } = await server.stop();
    assertEquals(status, 0);
    assertMatch(log, new RegExp(`listening .*messagesAddress=127.0.0.1:${server.messagesPort}`));
    assertMatch(log, /verbseal\.messages message client gone .*requests=2 .*reason=closed/);
  });
}

Deno.test("openssl s_client is answered", async () => {
  await serving(async ({ messagesPort }, authority) => {
    const options = ["-verify_return_error", "-quiet", "-no_ign_eof", "-CAfile", authority];
    const child = new Deno.Command("openssl", {
      args: ["s_client", "-connect", `127.0.0.1:${messagesPort}`, ...options],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const [stdin, stdout] = [child.stdin.getWriter(), child.stdout.getReader()];
    await stdin.write(new Uint8Array([...message("ECHO", hello), ...message("REVERSE", hello)]));
    const expected = [...message("ECHO", hello), ...message("REVERSE", olleh)];
    const answers: number[] = [];
    while (answers.length < expected.length) {
      const { value, done } = await stdout.read();
      if (done) break;
      answers.push(...value);
    }
    await stdin.close();
    await stdout.cancel();
    await Promise.all([child.status, child.stderr.cancel()]);
    assertEquals(answers, expected);
  });
});

/** Asks twice, and prints types, lengths and bodies of the answers. */
const nodeClient = `
const { connect } = require("node:tls");
const { readFileSync } = require("node:fs");
const [port, authority] = process.argv.slice(1);
const request = (type, text) => {
  const header = Buffer.alloc(8);
  header.writeUInt32BE(type, 0);
  header.writeUInt32BE(Buffer.byteLength(text), 4);
  return Buffer.concat([header, Buffer.from(text)]);
};
const socket = connect({ host: "localhost", port, ca: readFileSync(authority) });
const received = [];
socket.on("data", (bytes) => received.push(bytes));
socket.on("end", () => {
  let bytes = Buffer.concat(received);
  while (bytes.length > 0) {
    const end = 8 + bytes.readUInt32BE(4);
    console.log(bytes.readUInt32BE(0), bytes.subarray(8, end).toString());
    bytes = bytes.subarray(end);
  }
});
socket.write(request(2, "hello"));
socket.end(request(3, ""));
`;

Deno.test("a program on Node's tls that ends its half at once is answered", async () => {
  await serving(async ({ messagesPort }, authority) => {
    const { stdout, stderr, success } = await new Deno.Command("node", {
      args: ["-e", nodeClient, String(messagesPort), authority],
    }).output();
    assertEquals(success, true, new TextDecoder().decode(stderr));
    assertMatch(new TextDecoder().decode(stdout), /^2 olleh\n3 \d{4}-\d\d-\d\dT[\d:.]+Z\n$/);
  });
});
