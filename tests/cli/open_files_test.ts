import { assertEquals } from "@std/assert";
import { message } from "../../lib/services/plain_messages.ts";
import { RunningServer, Workspace } from "../program.ts";
import { verbsTest } from "../rdma/resources.ts";

const hostname = "127.0.0.1";
const clients = 150;
const listening = [
  ...["--messages-listen", `${hostname}:0`, "--max-clients", "16", "--max-handshakes", "1024"],
  ...["--max-message-clients", "500", "--connection-rate", "1000"],
];

/** A server that begins with fewer open files than there are clients, and may have at most `hard`. */
function serve(workspace: Workspace, hard: number): Promise<RunningServer> {
  return RunningServer.start(workspace, listening, {}, ["prlimit", `--nofile=100:${hard}`]);
}

verbsTest("more clients are held at once than a process may open files at first", async () => {
  await using workspace = await Workspace.create();
  await using server = await serve(workspace, 2000);
  const { messagesAddress } = await server.logged(({ message }) => message === "listening");
  const port = Number(String(messagesAddress).split(":").at(-1));
  const caCerts = [await Deno.readTextFile(workspace.file("certs/ca.pem"))];
  const connecting = Array.from(
    { length: clients },
    () => Deno.connectTls({ hostname, port, caCerts }),
  );
  const refused = server.logged(({ message }) => message.includes("could not be accepted"));
  const held = await Promise.race([Promise.all(connecting), refused]);
  if (!Array.isArray(held)) throw new Error(JSON.stringify(held));
  const question = message("ECHO", new TextEncoder().encode("hello"));
  for (const connection of held) {
    await connection.write(question);
    const answer = new Uint8Array(question.length);
    assertEquals(await connection.read(answer), question.length);
    assertEquals(answer, question);
  }
  for (const connection of held) connection.close();
  assertEquals(server.log.filter(({ level }) => level === "error"), []);
});

verbsTest("a server that may not open files enough for its clients says what to do", async () => {
  await using workspace = await Workspace.create();
  await using server = await serve(workspace, 200);
  const line = await server.logged(({ message }) => message.includes("fewer files"));
  assertEquals([line["openFiles"], line["needed"]], [200, 128 + 1024 + 4 * 16 + 500]);
});
