import { assertEquals } from "@std/assert";
import { message } from "../../lib/services/plain_messages.ts";
import { RunningServer, Workspace } from "../program.ts";
import { verbsTest } from "../rdma/resources.ts";

const hostname = "127.0.0.1";
const CLIENTS = 5000;
/** Handshakes under way at a time: as many processes would have no more at once. */
const AT_ONCE = 32;

/** All come from one address, which is allowed a quarter of them unless told, and are silent for long. */
const listening = [
  ...["--idle-timeout", "600s", "--handshake-timeout", "60s"],
  ...["--messages-listen", `${hostname}:0`, "--connection-rate", "100000"],
  ...["--max-message-clients-per-address", String(CLIENTS), "--max-handshakes", "1024"],
];

const question = message("REVERSE", new TextEncoder().encode("hello"));
const expected = message("REVERSE", new TextEncoder().encode("olleh"));

for (const [backend, options] of [["deno", []], ["openssl", ["--tls-min", "1.2"]]] as const) {
  verbsTest(
    `${backend}: ${CLIENTS} plain clients are there at once, and each is answered`,
    async () => {
      await using workspace = await Workspace.create();
      await using server = await RunningServer.start(workspace, [...listening, ...options]);
      const { messagesAddress } = await server.logged(({ message }) => message === "listening");
      const port = Number(String(messagesAddress).split(":").at(-1));
      const caCerts = [await Deno.readTextFile(workspace.file("certs/ca.pem"))];
      const clients: Deno.TlsConn[] = [];
      const connect = async () => {
        while (clients.length < CLIENTS) {
          const place = clients.push(undefined!) - 1;
          clients[place] = await Deno.connectTls({ hostname, port, caCerts });
          await clients[place].handshake();
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE }, connect));
      await Promise.all(clients.map(ask));
      for (const client of clients) client.close();
      await server.stop();
      const said = server.log.filter(({ category }) => category === "verbseal.messages");
      assertEquals(said.filter(({ requests }) => requests === 1).length, CLIENTS);
      assertEquals(said.filter(({ level }) => level !== "info"), []);
    },
  );
}

async function ask(client: Deno.TlsConn): Promise<void> {
  await client.write(question);
  const answer = new Uint8Array(expected.length);
  for (let count = 0; count < answer.length;) {
    const read = await client.read(answer.subarray(count));
    if (read === null) throw new Error(`a client was hung up on after ${count} bytes`);
    count += read;
  }
  assertEquals(answer, expected);
}
